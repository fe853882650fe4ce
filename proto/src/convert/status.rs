//! Converts the verdict and the identity of one instance.

use std::{collections::BTreeMap, sync::Arc};

use redkeeper_core::{
    ids::{ClusterName, InstanceId},
    limits::{
        ADDRESS_BYTES_MAX, EVIDENCE_BYTES_MAX, LABEL_BYTES_MAX, LABELS_MAX, NAMES_TOTAL_BYTES_MAX,
        VERSION_BYTES_MAX,
    },
    status::{Identity, Reason, Role, Stage, State, Verdict, cut_shared, run_id::RunId},
    time::KnownWallMs,
};

use super::{
    Invalid,
    enums::{
        ability_from_wire, ability_to_wire, reason_from_wire, reason_to_wire, role_from_wire, role_to_wire,
        stage_from_wire, stage_to_wire, state_from_wire, state_to_wire,
    },
    invalid, time_from_wire, time_to_wire,
};
use crate::v1;

/// A verdict for the wire.
pub fn verdict_to_wire(verdict: &Verdict) -> v1::Verdict {
    let (reads, writes) = verdict.abilities();
    v1::Verdict {
        state: state_to_wire(verdict.state()).into(),
        reason: reason_to_wire(verdict.reason),
        stage: stage_to_wire(verdict.stage),
        reads: ability_to_wire(reads).into(),
        writes: ability_to_wire(writes).into(),
        role: role_to_wire(verdict.role),
        run_id: verdict.run_id.to_string(),
        server_version: verdict.server_version.to_string(),
        master_address: verdict.master_address.to_string(),
        evidence: verdict.evidence.to_string(),
        since_time: time_to_wire(verdict.since),
        restarts: verdict.restarts.into(),
        certificate_end_time: verdict
            .certificate_ends
            .and_then(|time| time_to_wire(time.into())),
        flapping: verdict.flapping,
        since_is_bound: verdict.since_is_bound,
    }
}

pub(super) fn verdict_from_wire(wire: &v1::Verdict) -> Result<Verdict, Invalid> {
    if wire.reason == 0 {
        return Err(invalid("verdict.reason", "is missing"));
    }
    // A newer agent may send values that this version does not know: they must not be lost, nor end its stream.
    let state = state_from_wire(wire.state).unwrap_or(State::Unknown);
    let number = u16::try_from(wire.reason).unwrap_or(u16::MAX);
    let reason = reason_from_wire(wire.reason).unwrap_or(Reason::Unrecognized(number, state));
    let mut verdict = Verdict::blank(
        reason,
        stage_from_wire(wire.stage).unwrap_or_else(|| match u8::try_from(wire.stage) {
            Ok(number) if number > 0 => Stage::Unrecognized(number),
            _ => Stage::Resolve,
        }),
        &wire.evidence,
        time_from_wire(wire.since_time.as_ref()),
    );
    debug_assert!(verdict.evidence.len() <= EVIDENCE_BYTES_MAX);
    verdict.role = role_from_wire(wire.role)
        .unwrap_or_else(|| u8::try_from(wire.role).map_or(Role::Unknown, Role::Unrecognized));
    verdict.run_id = RunId::new(&wire.run_id);
    verdict.server_version = cut_shared(&wire.server_version, VERSION_BYTES_MAX);
    verdict.master_address = cut_shared(&wire.master_address, ADDRESS_BYTES_MAX);
    verdict.restarts = u32::try_from(wire.restarts).unwrap_or(u32::MAX);
    verdict.flapping = wire.flapping;
    verdict.since_is_bound = wire.since_is_bound;
    let told = ability_from_wire(wire.reads).zip(ability_from_wire(wire.writes));
    verdict.known_abilities = told.filter(|told| *told != reason.abilities(verdict.role));
    let ends = wire.certificate_end_time.as_ref();
    verdict.certificate_ends = KnownWallMs::new(time_from_wire(ends));
    Ok(verdict)
}

/// Checks an identity from the configuration, the wire or a znode. Used by agents and collectors.
///
/// # Errors
/// Says which field is wrong.
pub fn identity(
    id: &str,
    cluster: &str,
    address: &str,
    labels: &BTreeMap<String, String>,
    agent: &str,
) -> Result<Identity, Invalid> {
    let name = InstanceId::new(id).map_err(|e| invalid("id", e))?;
    let cluster_name = match cluster {
        "" => None,
        text => Some(ClusterName::new(text).map_err(|e| invalid("cluster", e))?),
    };
    if address.is_empty() || address.len() > ADDRESS_BYTES_MAX {
        return Err(invalid(
            "address",
            format!("must have 1 to {ADDRESS_BYTES_MAX} bytes"),
        ));
    }
    if let Some(c) = address
        .chars()
        .find(|c| !c.is_ascii_graphic() || matches!(c, '"' | '\\'))
    {
        return Err(invalid("address", format!("contains {c:?}")));
    }
    let total = id.len() + cluster.len() + address.len() + agent.len();
    if total > NAMES_TOTAL_BYTES_MAX {
        return Err(invalid(
            "id",
            format!(
                "id, cluster, address and agent id have {total} bytes together, at most {NAMES_TOTAL_BYTES_MAX} fit a status znode"
            ),
        ));
    }
    if labels.len() > LABELS_MAX
        || labels
            .iter()
            .any(|(k, v)| k.len() > LABEL_BYTES_MAX || v.len() > LABEL_BYTES_MAX)
    {
        return Err(invalid(
            "labels",
            format!("at most {LABELS_MAX}, each key and value at most {LABEL_BYTES_MAX} bytes"),
        ));
    }
    Ok(Identity {
        id: name,
        cluster: cluster_name,
        address: address.into(),
        labels: Arc::new(labels.clone()),
    })
}
