//! Tables for people, JSON for programs.

use std::{
    io::{self, Write},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use comfy_table::{Table, presets::NOTHING};
use redkeeper_proto::v1;
use serde::Serialize;

/// One JSON document, with the protobuf mapping's field names.
pub(crate) fn json(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)
}

fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    let text = table.to_string();
    text.lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end().to_owned() + "\n")
        .collect()
}

fn print(text: &str) -> io::Result<()> {
    io::stdout().lock().write_all(text.as_bytes())
}

/// The word of an enum value without its prefix, such as `DOWN`.
fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_owned()
}

/// State with its sign: never told apart by colour alone.
fn state(value: i32) -> String {
    let state = v1::InstanceState::try_from(value).unwrap_or_default();
    let sign = match state {
        v1::InstanceState::Up => "✓",
        v1::InstanceState::Degraded => "!",
        v1::InstanceState::Down => "✗",
        v1::InstanceState::Unknown | v1::InstanceState::Unspecified => "?",
    };
    format!("{sign} {}", word(state.as_str_name(), "INSTANCE_STATE_"))
}

fn reason(value: i32) -> String {
    word(
        v1::Reason::try_from(value).unwrap_or_default().as_str_name(),
        "REASON_",
    )
}

fn role(value: i32) -> String {
    match v1::Role::try_from(value).unwrap_or_default() {
        v1::Role::Unspecified => "-".to_owned(),
        role => word(role.as_str_name(), "ROLE_").to_lowercase(),
    }
}

fn ability(value: i32) -> String {
    word(
        v1::Ability::try_from(value).unwrap_or_default().as_str_name(),
        "ABILITY_",
    )
    .to_lowercase()
}

fn or_dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text.to_owned()
    }
}

fn wall(time: Option<&redkeeper_proto::Timestamp>) -> Option<SystemTime> {
    let time = time?;
    let (seconds, nanos) = (u64::try_from(time.seconds).ok()?, u32::try_from(time.nanos).ok()?);
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

/// Time since, in two units at most.
fn since(time: Option<&redkeeper_proto::Timestamp>) -> String {
    let Some(age) = wall(time).and_then(|at| SystemTime::now().duration_since(at).ok()) else {
        return "-".to_owned();
    };
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

fn age(duration: Option<&redkeeper_proto::Duration>) -> String {
    duration.map_or("-".to_owned(), |d| {
        format!("{:.1}s", d.seconds as f64 + f64::from(d.nanos) / 1e9)
    })
}

fn clock(time: Option<&redkeeper_proto::Timestamp>) -> String {
    wall(time).map_or("-".to_owned(), |at| {
        humantime::format_rfc3339_millis(at).to_string()
    })
}

fn answered(header: Option<&v1::ResponseHeader>) -> String {
    let Some(header) = header else {
        return String::new();
    };
    let leader = if header.leader.is_empty() {
        "none known"
    } else {
        &header.leader
    };
    format!(
        "from {}, leader {leader}, epoch {}, data age {}\n",
        header.served_by,
        header.epoch,
        age(header.data_age.as_ref())
    )
}

/// `list`.
pub(crate) fn list(
    instances: &[v1::Instance],
    total: i32,
    header: Option<&v1::ResponseHeader>,
) -> io::Result<()> {
    let rows = instances.iter().map(|i| {
        let v = i.verdict.clone().unwrap_or_default();
        vec![
            state(v.state),
            i.id.clone(),
            or_dash(&i.cluster),
            role(v.role),
            reason(v.reason),
            since(v.since_time.as_ref()),
            age(i.probe_age.as_ref()),
            i.agent_id.clone(),
        ]
    });
    let mut text = table(
        &[
            "STATE", "INSTANCE", "CLUSTER", "ROLE", "REASON", "SINCE", "PROBED", "AGENT",
        ],
        rows,
    );
    text.push_str(&format!(
        "{} of {total} instance(s), {}",
        instances.len(),
        answered(header)
    ));
    print(&text)
}

/// `get`.
pub(crate) fn get(instance: &v1::Instance, header: Option<&v1::ResponseHeader>) -> io::Result<()> {
    let v = instance.verdict.clone().unwrap_or_default();
    let stage = word(
        v1::Stage::try_from(v.stage).unwrap_or_default().as_str_name(),
        "STAGE_",
    );
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
                since(v.since_time.as_ref()),
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
                "{} ago by agent {}",
                age(instance.probe_age.as_ref()),
                instance.agent_id
            ),
        ),
    ];
    let certificate = v
        .certificate_end_time
        .as_ref()
        .map(|end| ("TLS", format!("certificate ends {}", clock(Some(end)))));
    let mut text: String = rows
        .iter()
        .chain(&certificate)
        .map(|(key, value)| format!("{key:<10}{value}\n"))
        .collect();
    text.push_str(&answered(header));
    print(&text)
}

/// One line of `watch`.
pub(crate) fn change(t: &v1::Transition) -> io::Result<()> {
    let instance = t.instance.clone().unwrap_or_default();
    let v = instance.verdict.unwrap_or_default();
    let before = word(
        v1::InstanceState::try_from(t.previous_state)
            .unwrap_or_default()
            .as_str_name(),
        "INSTANCE_STATE_",
    );
    let before = if before == "UNSPECIFIED" {
        "new".to_owned()
    } else {
        before
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
        instance.id,
        v.evidence
    ))
}

/// One line of the snapshot of `watch`.
pub(crate) fn present(instance: &v1::Instance) -> io::Result<()> {
    let v = instance.verdict.clone().unwrap_or_default();
    print(&format!(
        "{:<26}{:<32} {} {}\n",
        "now",
        instance.id,
        state(v.state).trim(),
        reason(v.reason)
    ))
}

/// `cluster`.
pub(crate) fn cluster(status: &v1::GetClusterStatusResponse) -> io::Result<()> {
    let header = status.header.clone().unwrap_or_default();
    let store = status.store.clone().unwrap_or_default();
    let session = v1::store_status::Session::try_from(store.session).unwrap_or_default();
    let leader = if header.leader.is_empty() {
        "none known"
    } else {
        &header.leader
    };
    let mut text = format!(
        "leader {leader}  epoch {}  data age {}  revision {}\n{} sees ZooKeeper: {}, phase {}, {} pending{}\n\n",
        header.epoch,
        age(header.data_age.as_ref()),
        header.revision,
        header.served_by,
        word(session.as_str_name(), "SESSION_").to_lowercase(),
        store.phase,
        store.pending,
        if store.last_error.is_empty() {
            String::new()
        } else {
            format!(" ({})", store.last_error)
        },
    );
    let rows = status.members.iter().map(|m| {
        vec![
            m.id.clone(),
            m.address.clone(),
            if m.leader { "leader *" } else { "follower" }.to_owned(),
            m.version.clone(),
        ]
    });
    text.push_str(&table(&["MEMBER", "ADDRESS", "ROLE", "VERSION"], rows));
    text.push_str(&format!(
        "\nagents     {} heard, {} silent\ninstances  {} up, {} degraded, {} down, {} unknown\n",
        status.agents_heard, status.agents_silent, status.up, status.degraded, status.down, status.unknown
    ));
    print(&text)
}

/// `agents`.
pub(crate) fn agents(agents: &[v1::Agent], header: Option<&v1::ResponseHeader>) -> io::Result<()> {
    let rows = agents.iter().map(|a| {
        let state = if a.silent { "? silent" } else { "✓ heard" };
        vec![
            state.to_owned(),
            a.id.clone(),
            or_dash(&a.host),
            a.instances.to_string(),
            age(a.heard_age.as_ref()),
            since(a.connected_time.as_ref()),
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
            "CONNECTED",
            "VERSION",
        ],
        rows,
    );
    text.push_str(&answered(header));
    print(&text)
}
