//! The scenarios, by the names of the score card.

use crate::report::Outcome;

mod agent_cost;

type Run = fn(bool) -> Result<Outcome, String>;

const SCENARIOS: &[(&str, &str, Run)] = &[(
    "agent-cost",
    "CPU and memory of an agent with 200 instances, beside Sentinel",
    agent_cost::run,
)];

/// Names, in the order in which `all` runs them.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    SCENARIOS.iter().map(|(name, _, _)| *name)
}

/// What there is.
pub(crate) fn list() -> String {
    let mut text = String::from("usage: ./bench SCENARIO|all [--quick]\n\n");
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
