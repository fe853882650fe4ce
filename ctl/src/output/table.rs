//! Prints the answers of a collector as human-readable tables and lines.

use std::io;

use redkeeper_proto::v1;

use super::{
    print,
    values::{
        ability, age, clock, clock_state, or_dash, reason, role, since_by_own_clock, span, state, state_age,
        word,
    },
};
use crate::text::{clean, table};

pub(super) fn answered(header: Option<&v1::ResponseHeader>) -> String {
    let Some(header) = header else {
        return String::new();
    };
    let leader = if header.leader.is_empty() {
        "none known"
    } else {
        &header.leader
    };
    let held = header.held.as_ref().map_or_else(String::new, |held| {
        format!(
            ", held for {}: {} of {} agents are silent at once",
            age(held.age.as_ref()),
            held.agents,
            held.of
        )
    });
    format!(
        "from {}, leader {leader}, epoch {}, data age {}{held}\n",
        header.served_by,
        header.epoch,
        age(header.data_age.as_ref())
    )
}

pub(super) const LIST_HEADER: [&str; 8] = [
    "STATE", "INSTANCE", "CLUSTER", "ROLE", "REASON", "SINCE", "PROBED", "AGENT",
];

pub(super) fn row(i: &v1::Instance) -> Vec<String> {
    let v = i.verdict.as_ref();
    let value = |of: fn(&v1::Verdict) -> i32| v.map_or(0, of);
    vec![
        state(value(|v| v.state)),
        i.id.clone(),
        or_dash(&i.cluster),
        role(value(|v| v.role)),
        reason(value(|v| v.reason)),
        state_age(i),
        age(i.probe_age.as_ref()),
        i.agent_id.clone(),
    ]
}

/// By which path a collector hears an agent.
fn path(via: &str) -> String {
    match via {
        "" => "direct".to_owned(),
        via => format!("via {via}"),
    }
}

/// Prints the answer of `get`.
pub(crate) fn get(instance: &v1::Instance, header: Option<&v1::ResponseHeader>) -> io::Result<()> {
    let v = instance.verdict.clone().unwrap_or_default();
    let stage = word(v.stage, "STAGE_", v1::Stage::as_str_name);
    let labels: Vec<_> = instance.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let rows = [
        ("Instance", instance.id.clone()),
        ("Address", instance.address.clone()),
        ("Cluster", or_dash(&instance.cluster)),
        ("Labels", or_dash(&labels.join(" "))),
        (
            "State",
            format!(
                "{}  since {} ({}){}",
                state(v.state).trim(),
                clock(v.since_time.as_ref()),
                state_age(instance),
                if v.flapping { "  flapping" } else { "" }
            ),
        ),
        ("Reason", format!("{}  stage {stage}", reason(v.reason))),
        (
            "Works",
            format!("reads {}  writes {}", ability(v.reads), ability(v.writes)),
        ),
        ("Evidence", or_dash(&v.evidence)),
        (
            "Server",
            format!(
                "{}  {}  run_id {}",
                or_dash(&v.server_version),
                role(v.role),
                or_dash(&v.run_id)
            ),
        ),
        ("Master", or_dash(&v.master_address)),
        ("Restarts", v.restarts.to_string()),
        (
            "Probed",
            format!(
                "{} ago by agent {}, heard {}",
                age(instance.probe_age.as_ref()),
                instance.agent_id,
                path(&instance.via)
            ),
        ),
    ];
    let published = header.and_then(|header| header.publishing.as_ref());
    let published = published.map(|published| ("Published", publishing(published)));
    let certificate = v
        .certificate_end_time
        .as_ref()
        .map(|end| ("TLS", format!("certificate ends {}", clock(Some(end)))));
    let mut text: String = rows
        .iter()
        .chain(&published)
        .chain(&certificate)
        .map(|(key, value)| format!("{key:<10}{}\n", clean(value)))
        .collect();
    text.push_str(&answered(header));
    print(&text)
}

/// How far the leader is with its publishing to ZooKeeper.
fn publishing(p: &v1::Publishing) -> String {
    let oldest = match &p.oldest_pending_age {
        Some(oldest) => format!(" (the oldest for {})", age(Some(oldest))),
        None => String::new(),
    };
    format!(
        "{}, mark {} seen {} ago, {} pending{oldest}, {} wrong",
        p.phase,
        p.mark,
        age(p.mark_age.as_ref()),
        p.pending,
        p.wrong
    )
}

/// Prints a change as one line of `watch`.
pub(crate) fn change(t: &v1::Transition) -> io::Result<()> {
    let instance = t.instance.clone().unwrap_or_default();
    let v = instance.verdict.unwrap_or_default();
    let before = match t.previous_state {
        0 => "new".to_owned(),
        state => word(state, "INSTANCE_STATE_", v1::InstanceState::as_str_name),
    };
    let now = match (t.removed, t.left_filter) {
        (true, _) => "removed".to_owned(),
        (false, false) => format!("{} {}", state(v.state).trim(), reason(v.reason)),
        (false, true) => format!(
            "{} {} (no longer asked for)",
            state(v.state).trim(),
            reason(v.reason)
        ),
    };
    print(&format!(
        "{}  {:<32} {before} -> {now}  {}\n",
        clock(t.time.as_ref()),
        clean(&instance.id),
        clean(&v.evidence)
    ))
}

/// Prints an instance as one line of the snapshot of `watch`.
pub(crate) fn present(instance: &v1::Instance) -> io::Result<()> {
    let v = instance.verdict.clone().unwrap_or_default();
    print(&format!(
        "{:<26}{:<32} {} {}\n",
        "now",
        clean(&instance.id),
        state(v.state).trim(),
        reason(v.reason)
    ))
}

/// Prints the answer of `cluster`.
pub(crate) fn cluster(status: &v1::GetClusterStatusResponse) -> io::Result<()> {
    let header = status.header.clone().unwrap_or_default();
    let store = status.store.clone().unwrap_or_default();
    let leader = if header.leader.is_empty() {
        "none known"
    } else {
        &header.leader
    };
    let mut text = format!(
        "leader {leader}  epoch {}  data age {}  revision {}\n{} sees ZooKeeper{}: {}{}, phase {}, {} pending{}\n\n",
        header.epoch,
        age(header.data_age.as_ref()),
        header.revision,
        header.served_by,
        if store.servers.is_empty() {
            String::new()
        } else {
            format!(" at {}", clean(&store.servers))
        },
        match word(store.session, "SESSION_", v1::store_status::Session::as_str_name).as_str() {
            "NONE" => "no session".to_owned(),
            session => session.to_lowercase(),
        },
        match &store.since_time {
            Some(at) => format!(
                " since {} ({})",
                clock(Some(at)),
                span(store.since_age.as_ref()).unwrap_or_default()
            ),
            None => String::new(),
        },
        store.phase,
        store.pending,
        if store.last_error.is_empty() {
            String::new()
        } else {
            format!(" ({})", clean(&store.last_error))
        },
    );
    let rows = status.members.iter().map(|m| {
        vec![
            m.id.clone(),
            m.address.clone(),
            if m.leader { "leader *" } else { "follower" }.to_owned(),
            match span(m.silent_age.as_ref()) {
                Some(age) => format!("✗ no answer for {age}"),
                None => "✓".to_owned(),
            },
            m.version.clone(),
        ]
    });
    text.push_str(&table(&["MEMBER", "ADDRESS", "ROLE", "ANSWERS", "VERSION"], rows));
    text.push_str(&format!(
        "\nagents     {} heard, {} silent\ninstances  {} up, {} degraded, {} down, {} unknown\n",
        status.agents_heard, status.agents_silent, status.up, status.degraded, status.down, status.unknown
    ));
    for warning in &status.warnings {
        text.push_str(&format!("\nwarning: {}\n", clean(&warning.text)));
    }
    print(&text)
}

/// Prints the answer of `agents`.
pub(crate) fn agents(agents: &[v1::Agent], header: Option<&v1::ResponseHeader>) -> io::Result<()> {
    let rows = agents.iter().map(|a| {
        let state = if a.silent { "? silent" } else { "✓ heard" };
        vec![
            state.to_owned(),
            a.id.clone(),
            or_dash(&a.host),
            a.instances.to_string(),
            age(a.heard_age.as_ref()),
            path(&a.via),
            span(a.connected_age.as_ref()).unwrap_or_else(|| since_by_own_clock(a.connected_time.as_ref())),
            clock_state(a.clock_ahead.as_ref()),
            or_dash(&a.version),
        ]
    });
    let mut text = table(
        &[
            "STATE",
            "AGENT",
            "HOST",
            "INSTANCES",
            "HEARD",
            "PATH",
            "CONNECTED",
            "CLOCK",
            "VERSION",
        ],
        rows,
    );
    for a in agents {
        let Some(refused) = &a.refused else { continue };
        text.push_str(&format!(
            "\nwarning: another agent with the id {}, on host {} ({}), is refused since {} is alive: {} times, the last one {} ago; give each agent its own `id`\n",
            clean(&a.id),
            or_dash(&refused.host),
            or_dash(&refused.address),
            or_dash(&a.host),
            refused.times,
            age(refused.last_age.as_ref()),
        ));
    }
    text.push_str(&answered(header));
    print(&text)
}
