//! The scenarios, by the names of the score card.

use crate::report::Outcome;

mod agent_cost;
mod detect;
mod detect_large;
mod failover;
mod fan_in;
mod fault_growth;
mod hang;
mod million;
mod publish;
mod query;
mod relay;
mod soak;
mod wan_writes;
mod watch;

type Run = fn(bool) -> Result<Outcome, String>;

const SCENARIOS: &[(&str, &str, Run)] = &[
    (
        "detect",
        "SIGKILL of a small Redis until a watcher of its znode is told",
        detect::run,
    ),
    (
        "detect-large",
        "the same with a Redis of 4 GB, beside EOF on its connection",
        detect_large::run,
    ),
    ("hang", "SIGSTOP until the znode says REPLY_TIMEOUT", hang::run),
    (
        "agent-cost",
        "CPU and memory of an agent with 200 instances, beside Sentinel",
        agent_cost::run,
    ),
    (
        "fan-in",
        "what a message of an agent costs a collector, beside a bare sink",
        fan_in::run,
    ),
    (
        "publish",
        "10,000 transitions at once into ZooKeeper, beside plain sets",
        publish::run,
    ),
    (
        "query",
        "GetInstance while 10,000 instances report, beside a bare unary call",
        query::run,
    ),
    (
        "watch",
        "one transition to 1,000 watchers, beside a bare fan-out",
        watch::run,
    ),
    (
        "failover",
        "the leader is killed or stopped until the next one writes",
        failover::run,
    ),
    (
        "million",
        "a million instances: memory, many changes, and the end of the leader",
        million::run,
    ),
    (
        "relay",
        "all agents are cut off from the leader and heard by way of another collector",
        relay::run,
    ),
    (
        "wan-writes",
        "what is written for 10,000 healthy instances",
        wan_writes::run,
    ),
    ("soak", "what streams and probes leave behind", soak::run),
];

/// Names, in the order in which `all` runs them.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    SCENARIOS.iter().map(|(name, _, _)| *name)
}

/// What there is.
pub(crate) fn list() -> String {
    let mut text = String::from("usage: ./bench SCENARIO|all [--quick] [--flame]\n\n");
    for (name, what, _) in SCENARIOS {
        text.push_str(&format!("  {name:<13} {what}\n"));
    }
    text
}

/// Runs one.
pub(crate) fn run(name: &str, quick: bool) -> Result<Outcome, String> {
    let scenario = SCENARIOS.iter().find(|(other, _, _)| *other == name);
    let (_, _, run) = scenario.ok_or_else(|| format!("there is no scenario {name:?}; ./bench lists them"))?;
    run(quick)
}
