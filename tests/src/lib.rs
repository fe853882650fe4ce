//! Harness of the end-to-end tests: real servers and real daemons on free loopback ports, in a folder of
//! their own, ended when the test ends.

pub mod certificates;
pub mod check;
pub mod daemons;
pub mod diagnosis;
pub mod fake_agent;
pub mod history;
pub mod netns;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod sandbox;
pub mod servers;
pub mod sim;
pub mod txnlog;
pub mod wait;

/// Reports visibly that something is not tested. The test harness hides the output of passing tests; writing to
/// standard error directly is not hidden.
#[macro_export]
macro_rules! skipped {
    ($($what:tt)*) => {{
        use ::std::io::Write as _;
        // If standard error is closed, the message cannot be reported.
        drop(::std::writeln!(::std::io::stderr().lock(), "SKIPPED: {}", ::std::format_args!($($what)*)));
    }};
}

/// Whether long runs are requested (`./test --long`).
pub fn long() -> bool {
    std::env::var_os("REDKEEPER_LONG").is_some()
}

pub use sandbox::Sandbox;
pub use wait::{eventually, holds_for};
