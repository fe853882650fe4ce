//! The functions of redkeeper with the largest share of a profile.

use std::collections::{HashMap, HashSet};

use super::{Profile, function_name::is_own, symbols::Symbols};

/// Rows of each table.
const ROWS_MAX: usize = 30;

/// One function.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// Its name.
    pub function: String,
    /// Weight of the stacks that count for it.
    pub weight: f64,
}

/// The largest functions, from the largest on.
#[derive(Clone, PartialEq, Debug)]
pub struct Top {
    /// Weight of all stacks.
    pub total: f64,
    /// Number of different stacks.
    pub stacks: usize,
    /// Each stack counts for the innermost function of redkeeper in it: the one that asked a library to do it.
    pub own: Vec<Row>,
    /// Each stack counts for all functions of redkeeper in it.
    pub with_callees: Vec<Row>,
}

/// Name for stacks without any function of redkeeper.
const OTHERS: &str = "(no function of redkeeper)";

/// The largest functions of a profile.
pub fn top(profile: &Profile) -> Top {
    let symbols = Symbols::of(profile);
    let named = |stack: &super::Stack| (symbols.names(&stack.addresses), stack.weight);
    of(&profile.stacks.iter().map(named).collect::<Vec<_>>())
}

/// As [`top`], of names, the innermost first, and weights.
fn of(stacks: &[(Vec<String>, f64)]) -> Top {
    let (mut own, mut with_callees) = (HashMap::new(), HashMap::new());
    for (functions, weight) in stacks {
        let mut of_redkeeper = functions.iter().map(String::as_str).filter(|name| is_own(name));
        *own.entry(of_redkeeper.next().unwrap_or(OTHERS)).or_default() += weight;
        // A recursive function counts once.
        let all = functions.iter().map(String::as_str).filter(|name| is_own(name));
        for function in all.collect::<HashSet<_>>() {
            *with_callees.entry(function).or_default() += weight;
        }
    }
    Top {
        total: stacks.iter().map(|(_, weight)| weight).sum(),
        stacks: stacks.len(),
        own: largest(own),
        with_callees: largest(with_callees),
    }
}

fn largest(weights: HashMap<&str, f64>) -> Vec<Row> {
    let row = |(function, weight): (&str, f64)| Row {
        function: function.to_owned(),
        weight,
    };
    let mut rows: Vec<_> = weights.into_iter().map(row).collect();
    // By name where the weights are the same, so that the order does not change from one page to the next.
    rows.sort_by(|a, b| {
        b.weight
            .total_cmp(&a.weight)
            .then_with(|| a.function.cmp(&b.function))
    });
    rows.truncate(ROWS_MAX);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(functions: &[&str], weight: f64) -> (Vec<String>, f64) {
        (functions.iter().map(|name| (*name).to_owned()).collect(), weight)
    }

    #[test]
    fn a_stack_counts_for_the_function_that_asked_for_it() {
        let (run, grow) = ("redkeeper_agent::run", "<redkeeper_core::A as B>::grow");
        let top = of(&[
            stack(&["malloc", grow, run, run, "main"], 5.0),
            stack(
                &[
                    "malloc",
                    "<alloc::vec::Vec<redkeeper_core::A>>::push",
                    run,
                    "main",
                ],
                2.0,
            ),
            stack(&["malloc", "tokio::f", "main"], 1.0),
        ]);
        let rows = |rows: &[Row]| {
            rows.iter()
                .map(|row| (row.function.clone(), row.weight))
                .collect::<Vec<_>>()
        };
        let row = |name: &str, weight| (name.to_owned(), weight);
        assert_eq!(rows(&top.own), [row(grow, 5.0), row(run, 2.0), row(OTHERS, 1.0)]);
        assert_eq!(rows(&top.with_callees), [row(run, 7.0), row(grow, 5.0)]);
        assert_eq!((top.total, top.stacks), (8.0, 3));
    }
}
