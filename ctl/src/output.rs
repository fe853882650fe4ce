//! Tables for people, JSON for programs.

use std::{
    io::{self, Write},
    os::fd::AsFd,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use redkeeper_proto::v1;
use serde::Serialize;

use crate::text::{Table, clean, table};

/// One JSON document, with the protobuf mapping's field names.
pub(crate) fn json(value: &impl Serialize) -> io::Result<()> {
    // In one piece: standard output is written line by line.
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    io::stdout().lock().write_all(&text)
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Says something beside the answer. Where nobody reads that, the exit code still counts.
pub(crate) fn complain(text: &str) {
    writeln!(io::stderr().lock(), "{}", clean(text)).ok();
}

/// Whether the reader of standard output, a pipe, has gone.
pub(crate) fn reader_is_gone() -> bool {
    let out = io::stdout();
    let mut ends = [PollFd::new(out.as_fd(), PollFlags::empty())];
    poll(&mut ends, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
        && ends[0]
            .revents()
            .is_some_and(|events| events.intersects(PollFlags::POLLERR | PollFlags::POLLHUP))
}

/// The word of an enum value without its prefix, such as `DOWN`; its number where this version has no word.
fn word<E: TryFrom<i32>>(value: i32, prefix: &str, name: impl Fn(&E) -> &'static str) -> String {
    match E::try_from(value) {
        Ok(known) => name(&known).trim_start_matches(prefix).to_owned(),
        Err(_) => format!("{prefix}{value}"),
    }
}

/// State with its sign: never told apart by colour alone.
fn state(value: i32) -> String {
    let sign = match v1::InstanceState::try_from(value).unwrap_or_default() {
        v1::InstanceState::Up => "✓",
        v1::InstanceState::Degraded => "!",
        v1::InstanceState::Down => "✗",
        v1::InstanceState::Unknown | v1::InstanceState::Unspecified => "?",
    };
    let word = word(value, "INSTANCE_STATE_", v1::InstanceState::as_str_name);
    format!("{sign} {word}")
}

fn reason(value: i32) -> String {
    match value {
        0 => "-".to_owned(),
        value => word(value, "REASON_", v1::Reason::as_str_name),
    }
}

fn role(value: i32) -> String {
    match value {
        0 => "-".to_owned(),
        value => word(value, "ROLE_", v1::Role::as_str_name).to_lowercase(),
    }
}

fn ability(value: i32) -> String {
    word(value, "ABILITY_", v1::Ability::as_str_name).to_lowercase()
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

/// How long state and reason have been as they are. The collector says it, because nobody knows how right the clock of this
/// host is; one of an older version does not.
fn state_age(instance: &v1::Instance) -> String {
    let since = instance.verdict.as_ref().and_then(|v| v.since_time.as_ref());
    span(instance.state_age.as_ref()).unwrap_or_else(|| since_by_own_clock(since))
}

fn since_by_own_clock(time: Option<&redkeeper_proto::Timestamp>) -> String {
    let age = wall(time).and_then(|at| SystemTime::now().duration_since(at).ok());
    age.map_or("-".to_owned(), |age| in_units(age.as_secs()))
}

/// A duration in two units at most.
fn span(duration: Option<&redkeeper_proto::Duration>) -> Option<String> {
    let seconds = u64::try_from(duration?.seconds).ok()?;
    Some(in_units(seconds))
}

fn in_units(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Whether an agent's clock is right, as its collector sees it.
fn clock_state(ahead: Option<&redkeeper_proto::Duration>) -> String {
    // The way of a message makes the last digits a matter of chance.
    let rounded = |seconds: i64| match seconds.unsigned_abs() {
        seconds @ 0..60 => in_units(seconds),
        seconds => in_units(seconds.saturating_add(30) / 60 * 60),
    };
    match ahead.map(|ahead| ahead.seconds) {
        None => "ok".to_owned(),
        Some(seconds @ 0..) => format!("{} ahead", rounded(seconds)),
        Some(seconds) => format!("{} behind", rounded(seconds)),
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

const LIST_HEADER: [&str; 8] = [
    "STATE", "INSTANCE", "CLUSTER", "ROLE", "REASON", "SINCE", "PROBED", "AGENT",
];

/// `list`, page by page: columns are as wide as the first page and the widest cell since need them.
pub(crate) struct List {
    json: bool,
    table: Table,
    printed: usize,
}

impl List {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            table: Table::new(LIST_HEADER.len()),
            printed: 0,
        }
    }

    /// How many instances were printed.
    pub(crate) fn printed(&self) -> usize {
        self.printed
    }

    /// Prints a page.
    pub(crate) fn print(&mut self, instances: &[v1::Instance]) -> io::Result<()> {
        let first = self.printed == 0;
        self.printed += instances.len();
        if !self.json {
            let head = first.then(|| LIST_HEADER.map(str::to_owned).to_vec());
            self.table.add(head.into_iter().chain(instances.iter().map(row)));
            return print(&std::mem::take(&mut self.table.text));
        }
        let mut text = Vec::new();
        for (n, instance) in instances.iter().enumerate() {
            let before: &[u8] = if first && n == 0 {
                b"{\"instances\":["
            } else {
                b","
            };
            text.extend_from_slice(before);
            serde_json::to_writer(&mut text, instance)?;
        }
        io::stdout().lock().write_all(&text)
    }

    /// Prints what stands below the instances.
    pub(crate) fn end(self, total: i32, header: Option<&v1::ResponseHeader>) -> io::Result<()> {
        if !self.json {
            let answered = clean(answered(header).trim_end());
            return print(&format!("{} of {total} instance(s), {answered}\n", self.printed));
        }
        let rest = v1::ListInstancesResponse {
            header: header.cloned(),
            total_size: total,
            ..Default::default()
        };
        let rest = serde_json::to_string(&rest)?;
        print(&match (self.printed, rest.as_str()) {
            (0, rest) => format!("{rest}\n"),
            (_, "{}") => "]}\n".to_owned(),
            (_, rest) => format!("],{}\n", &rest[1..]),
        })
    }
}

fn row(i: &v1::Instance) -> Vec<String> {
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

/// `get`.
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
        .map(|(key, value)| format!("{key:<10}{}\n", clean(value)))
        .collect();
    text.push_str(&answered(header));
    print(&text)
}

/// One line of `watch`.
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

/// One line of the snapshot of `watch`.
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

/// `cluster`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_version_does_not_know_is_shown_by_number() {
        assert_eq!(state(3), "✗ DOWN");
        assert_eq!(state(9), "? INSTANCE_STATE_9");
        assert_eq!(
            (reason(1), reason(4_711), reason(0)),
            ("OK".into(), "REASON_4711".into(), "-".into())
        );
        assert_eq!(
            (role(1), role(9), ability(9)),
            ("master".into(), "role_9".into(), "ability_9".into())
        );
    }
}
