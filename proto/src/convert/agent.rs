//! Converts the messages of an agent: its Hello, its reports of instances, and its heartbeats.

use std::time::Duration;

use redkeeper_core::{
    fleet::{AgentInfo, Message, Report},
    ids::{AgentId, BootId, Handle},
    limits::{AGENT_INSTANCES_MAX, REPORTS_PER_MESSAGE_MAX},
    status::cut,
};

use super::{
    Invalid, duration_from_wire, duration_to_wire, invalid,
    status::{identity, verdict_from_wire, verdict_to_wire},
    time_from_wire, time_to_wire,
};
use crate::v1;

fn report_from_wire(wire: &v1::InstanceReport, agent: &AgentId) -> Result<Report, Invalid> {
    let verdict = wire
        .verdict
        .as_ref()
        .ok_or_else(|| invalid("verdict", "is missing"))?;
    let limit = wire
        .freshness_limit
        .as_ref()
        .ok_or_else(|| invalid("freshness_limit", "is missing"))?;
    let freshness_limit = duration_from_wire("freshness_limit", limit)?;
    if freshness_limit.is_zero() {
        return Err(invalid("freshness_limit", "is zero"));
    }
    Ok(Report {
        handle: Handle(wire.handle),
        identity: identity(
            &wire.id,
            &wire.cluster,
            &wire.address,
            &wire.labels,
            agent.as_str(),
        )?,
        verdict: verdict_from_wire(verdict)?,
        probe_age: wire
            .probe_age
            .as_ref()
            .map(|age| duration_from_wire("probe_age", age))
            .transpose()?,
        freshness_limit,
    })
}

/// Shares equal texts of adjacent reports: most instances of an agent have the same ones, and a collector holds many.
fn share(report: &mut Report, before: &Report) {
    fn one<T: Clone + PartialEq>(own: &mut T, other: &T) {
        if own == other {
            own.clone_from(other);
        }
    }
    one(&mut report.identity.cluster, &before.identity.cluster);
    one(&mut report.identity.labels, &before.identity.labels);
    one(&mut report.verdict.server_version, &before.verdict.server_version);
    one(&mut report.verdict.master_address, &before.verdict.master_address);
    one(&mut report.verdict.evidence, &before.verdict.evidence);
}

/// A report for the wire.
pub fn report_to_wire(report: &Report) -> v1::InstanceReport {
    v1::InstanceReport {
        handle: report.handle.0,
        id: report.identity.id.to_string(),
        cluster: report
            .identity
            .cluster
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        address: report.identity.address.to_string(),
        labels: (*report.identity.labels).clone(),
        verdict: Some(verdict_to_wire(&report.verdict)),
        probe_age: report.probe_age.map(duration_to_wire),
        freshness_limit: Some(duration_to_wire(report.freshness_limit)),
    }
}

/// Checks a Hello.
///
/// # Errors
/// Says which field is wrong.
pub fn greeting_from_wire(wire: &v1::Hello) -> Result<AgentInfo, Invalid> {
    Ok(AgentInfo {
        agent: AgentId::new(&wire.agent_id).map_err(|e| invalid("hello.agent_id", e))?,
        boot: BootId::new(&wire.boot_id).map_err(|e| invalid("hello.boot_id", e))?,
        version: cut(&wire.version, 64),
        host: cut(&wire.host, 255),
        address: String::new(),
        via: String::new(),
        clock: time_from_wire(wire.agent_time.as_ref()),
    })
}

/// A Hello for the wire.
pub fn greeting_to_wire(greeting: &AgentInfo) -> v1::Hello {
    v1::Hello {
        agent_id: greeting.agent.to_string(),
        boot_id: greeting.boot.as_str().to_owned(),
        version: greeting.version.clone(),
        host: greeting.host.clone(),
        agent_time: time_to_wire(greeting.clock),
    }
}

/// Checks a message after the Hello.
///
/// # Errors
/// Says which field of which instance is wrong. Nothing of the message is then used.
pub fn message_from_wire(
    wire: v1::report_status_request::Message,
    agent: &AgentId,
) -> Result<Message, Invalid> {
    use v1::report_status_request::Message as Wire;
    let reports = |what: &str, list: &[v1::InstanceReport]| -> Result<Vec<Report>, Invalid> {
        if list.len() > REPORTS_PER_MESSAGE_MAX {
            return Err(invalid(
                what,
                format!(
                    "{} instances in one message, at most {REPORTS_PER_MESSAGE_MAX} are allowed",
                    list.len()
                ),
            ));
        }
        let one = |(n, wire)| {
            report_from_wire(wire, agent)
                .map_err(|e| invalid(&format!("{what}.instances[{n}].{}", e.field), e.problem))
        };
        let mut reports = list.iter().enumerate().map(one).collect::<Result<Vec<_>, _>>()?;
        for n in 1..reports.len() {
            if let [before, report] = &mut reports[n - 1..=n] {
                share(report, before);
            }
        }
        Ok(reports)
    };
    match wire {
        Wire::Hello(_) => Err(invalid("hello", "is only allowed as the first message")),
        Wire::Snapshot(m) => Ok(Message::Snapshot(reports("snapshot", &m.instances)?, m.last)),
        Wire::Changes(m) => Ok(Message::Changes(reports("changes", &m.instances)?)),
        Wire::Heartbeat(m) => {
            if m.handles.len() != m.probe_ages_ms.len() {
                return Err(invalid("heartbeat", "handles and probe_ages_ms differ in length"));
            }
            if m.handles.len() > AGENT_INSTANCES_MAX {
                return Err(invalid(
                    "heartbeat",
                    format!("more than {AGENT_INSTANCES_MAX} instances"),
                ));
            }
            let pair = |(h, ms): (u32, u32)| (Handle(h), Duration::from_millis(u64::from(ms)));
            Ok(Message::Heartbeat(
                m.handles.into_iter().zip(m.probe_ages_ms).map(pair).collect(),
                time_from_wire(m.agent_time.as_ref()),
            ))
        }
        Wire::Gone(m) => {
            if m.handles.len() > AGENT_INSTANCES_MAX {
                return Err(invalid(
                    "gone",
                    format!("more than {AGENT_INSTANCES_MAX} instances"),
                ));
            }
            Ok(Message::Gone(m.handles.into_iter().map(Handle).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::convert::{enums::state_from_wire, time_to_wire};
    use proptest::prelude::*;
    use prost::Message as _;
    use redkeeper_core::{
        status::{Ability, Reason, Role, Stage, State, Verdict},
        time::WallMs,
    };
    use std::collections::BTreeMap;

    fn report() -> impl Strategy<Value = Report> {
        let word = "[a-zA-Z0-9]{1,20}";
        (
            any::<u32>(),
            word,
            word,
            0..Reason::ALL.len(),
            0..Role::ALL.len(),
            ".{0,300}",
            0u64..1 << 40,
            proptest::option::of(0u64..80_000_000),
        )
            .prop_map(|(handle, id, cluster, reason, role, evidence, since, age)| {
                let mut verdict = Verdict::blank(Reason::ALL[reason], Stage::Reply, &evidence, WallMs(since));
                verdict.flapping = handle % 2 == 1;
                verdict.role = Role::ALL[role];
                verdict.run_id = id.as_str().into();
                Report {
                    handle: Handle(handle),
                    identity: identity(&id, &cluster, "10.0.0.1:6379", &BTreeMap::new(), "a").unwrap(),
                    verdict,
                    probe_age: age.map(Duration::from_millis),
                    freshness_limit: Duration::from_millis(1500),
                }
            })
    }

    proptest! {
        #[test]
        fn reports_round_trip(report in report()) {
            let wire = report_to_wire(&report);
            let bytes = wire.encode_to_vec();
            let back = v1::InstanceReport::decode(&*bytes).unwrap();
            prop_assert_eq!(report_from_wire(&back, &AgentId::new("a").unwrap()).unwrap(), report);
            prop_assert!(bytes.len() < 3_500);
        }

        /// A valid message with any changes of single bytes is a message or an error, never a panic.
        #[test]
        fn any_bytes_are_harmless(
            reports in proptest::collection::vec(report(), 1..4),
            kind in 0..5u8,
            numbers in proptest::collection::vec(any::<u32>(), 0..6),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        ) {
            use v1::report_status_request::Message as Wire;
            let instances: Vec<_> = reports.iter().map(report_to_wire).collect();
            let message = match kind {
                0 => Wire::Snapshot(v1::Snapshot { instances, last: true }),
                1 => Wire::Changes(v1::Changes { instances }),
                2 => Wire::Heartbeat(v1::Heartbeat { handles: numbers.clone(), probe_ages_ms: numbers, agent_time: time_to_wire(WallMs(1)) }),
                3 => Wire::Gone(v1::Gone { handles: numbers }),
                _ => Wire::Hello(v1::Hello { agent_id: "db01".into(), boot_id: "0".repeat(32), ..Default::default() }),
            };
            let mut bytes = v1::ReportStatusRequest { sequence: 1, message: Some(message) }.encode_to_vec();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(wire) = v1::ReportStatusRequest::decode(&*bytes) {
                let agent = AgentId::new("a").unwrap();
                if let Some(message) = wire.message {
                    let _checked = message_from_wire(message, &agent);
                }
            }
            if let Ok(hello) = v1::Hello::decode(&*bytes) {
                let _checked = greeting_from_wire(&hello);
            }
        }
    }

    /// Values of a newer agent that this version does not know are kept, and forwarded unchanged.
    #[test]
    fn unknown_values_are_carried() {
        let agent = AgentId::new("a").unwrap();
        let verdict = v1::Verdict {
            state: v1::InstanceState::Degraded.into(),
            reason: 4_711,
            stage: 99,
            reads: v1::Ability::Yes.into(),
            writes: v1::Ability::No.into(),
            role: 98,
            ..Default::default()
        };
        let report = v1::InstanceReport {
            id: "a:1".into(),
            address: "h:1".into(),
            verdict: Some(verdict.clone()),
            freshness_limit: Some(duration_to_wire(Duration::from_secs(1))),
            ..Default::default()
        };
        let report = report_from_wire(&report, &agent).unwrap();
        assert_eq!(
            report.verdict.reason,
            Reason::Unrecognized(4_711, State::Degraded)
        );
        assert_eq!(report.verdict.abilities(), (Ability::Yes, Ability::No));
        assert_eq!(verdict_to_wire(&report.verdict), verdict);
        // Numbers without a meaning do no harm.
        for (state, reason, stage, role) in [(77, 70_000, -1, 300), (0, -1, 300, -1), (3, i32::MIN, 0, 0)] {
            let wire = v1::Verdict {
                state,
                reason,
                stage,
                role,
                ..verdict.clone()
            };
            let read = verdict_from_wire(&wire).unwrap();
            assert_eq!(read.state(), state_from_wire(state).unwrap_or(State::Unknown));
        }
    }

    #[test]
    fn errors_name_the_field() {
        let agent = AgentId::new("a").unwrap();
        let bad = v1::InstanceReport {
            id: "a/b".into(),
            ..Default::default()
        };
        let wire = v1::report_status_request::Message::Changes(v1::Changes { instances: vec![bad] });
        let error = message_from_wire(wire, &agent).unwrap_err();
        assert_eq!(error.to_string(), "changes.instances[0].verdict: is missing");
    }
}
