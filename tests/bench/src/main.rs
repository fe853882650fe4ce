//! `./bench`: each scenario runs redkeeper and its peer or floor in the same run, interleaved, and judges the
//! ratios by `targets.toml`.

use std::process::ExitCode;

use clap::Parser;

mod agents;
mod flame;
mod fleet;
mod floors;
mod machine;
mod plot;
mod report;
mod rig;
mod scenarios;
mod stats;

/// Measures redkeeper beside its peers and floors.
#[derive(Parser)]
#[command(name = "bench")]
struct Cli {
    /// A scenario, or `all`. Without one, the scenarios are listed.
    scenario: Option<String>,
    /// Fewer rounds: a scenario takes less than 45 s.
    #[arg(long)]
    quick: bool,
    /// Draws flame graphs of the daemons too; the figures are then worse than without.
    #[arg(long)]
    flame: bool,
    /// What a process of a floor is told; never for people.
    #[arg(hide = true)]
    rest: Vec<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Thousands of connections.
    if let Err(e) = redkeeper_runtime::daemon::raise_descriptor_limit() {
        eprintln!("the limit of file descriptors cannot be raised: {e}");
    }
    let Some(name) = cli.scenario else {
        print!("{}", scenarios::list());
        return ExitCode::SUCCESS;
    };
    if let Some(floor) = name.strip_prefix("floor-") {
        return floors::main(floor, &cli.rest);
    }
    let how = report::How {
        quick: cli.quick,
        flame: cli.flame,
    };
    let outcome = match name.as_str() {
        "all" => report::all(how),
        name => report::one(name, how),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
