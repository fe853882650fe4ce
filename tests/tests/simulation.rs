//! Seeded simulation of election, publishing and take-over. `REDKEEPER_SIM_SEED=n` replays one seed, with logs
//! as `REDKEEPER_SIM_FILTER` says;
//! `REDKEEPER_SIM_SEEDS=n` runs that many.
#![allow(clippy::unwrap_used)]

use redkeeper_tests::sim;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn seeds_hold_the_invariants() {
    match number("REDKEEPER_SIM_SEED") {
        Some(seed) => {
            let filter = std::env::var("REDKEEPER_SIM_FILTER").unwrap_or_else(|_| "warn".to_owned());
            redkeeper_runtime::telemetry::init(&filter, Default::default()).unwrap();
            sim::run_all(seed..seed + 1);
            redkeeper_runtime::telemetry::finish();
        }
        None => sim::run_all(0..number("REDKEEPER_SIM_SEEDS").unwrap_or(100)),
    }
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in 0..5 {
        let (first, second) = (sim::run(seed), sim::run(seed));
        assert!(first.history.len() > 10, "nothing happened");
        assert_eq!(first.journal, second.journal);
        let differs = first
            .history
            .iter()
            .zip(&second.history)
            .position(|(a, b)| a != b);
        assert_eq!(
            differs,
            None,
            "seed {seed}: {:?}",
            differs.map(|n| (&first.history[n], &second.history[n]))
        );
        assert_eq!(first.history.len(), second.history.len());
    }
}
