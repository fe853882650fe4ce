//! Runs scripts in a network namespace of their own, in which they can cut links and use addresses of other hosts.

use std::process::{Command, Output};

use crate::{Sandbox, skipped};

/// Exit code of a script that needs something that this machine lacks.
const NOT_HERE: i32 = 77;

/// Runs `script` by `sh` in its own network and pid namespace, whose processes end with it. Its environment has `BIN`,
/// the folder of the daemons, `AGENT`, `DIR`, the sandbox's folder, and the variables in `set`; nothing else, because
/// variables for the tests are not settings of an agent. Returns `None`, and reports it, if such a namespace cannot be
/// created.
///
/// # Panics
/// When `unshare` cannot be started.
pub fn run(sandbox: &Sandbox, script: &str, set: &[(&str, &str)]) -> Option<Output> {
    let own = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let agent = sandbox.command("redkeeper-agent").get_program().to_owned();
    let possible = Command::new("unshare").args(own).arg("true").status();
    if !possible.is_ok_and(|status| status.success()) {
        skipped!("no network namespace can be made here; it needs root");
        return None;
    }
    let output = Command::new("unshare")
        .args(own)
        .args(["sh", "-c", script])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env(
            "BIN",
            std::path::Path::new(&agent).parent().unwrap_or("".as_ref()),
        )
        .env("AGENT", &agent)
        .env("DIR", sandbox.path(""))
        .envs(set.iter().copied())
        .output()
        .expect("unshare starts");
    if output.status.code() == Some(NOT_HERE) {
        skipped!("no virtual network can be made here");
        return None;
    }
    Some(output)
}
