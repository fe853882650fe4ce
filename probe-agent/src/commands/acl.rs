//! `redkeeper-agent acl`: prints the smallest ACL user that the agent needs. The grants were measured; the tests run
//! them on each server version and find no denied command and no command that could be left out.

use std::process::ExitCode;

use redkeeper_runtime::terminal;

/// Grants for the commands that the probe sends. AUTH needs no grant.
const GRANTS: &str = "-@all +ping +info +cluster|info";

/// Prints the ACL user.
pub fn main(user: &str) -> ExitCode {
    if user.is_empty() || user.chars().any(|c| c.is_whitespace() || c.is_control()) {
        terminal::problem(&format!(
            "error: --user: {user:?} is no name of an ACL user; it must have no spaces"
        ));
        return ExitCode::from(2);
    }
    terminal::answer(&text(user))
}

fn text(user: &str) -> String {
    format!(
        "# Redis 6.2 and newer, Valkey. Replace PASSWORD; then ACL SAVE, or put the line without \"ACL SETUSER\" after\n\
         # \"user\" into the configuration file.\n\
         ACL SETUSER {user} on >PASSWORD resetkeys resetchannels {GRANTS}\n\
         # Redis 6.0, which knows no channel permissions\n\
         ACL SETUSER {user} on >PASSWORD resetkeys {GRANTS}\n\
         # Redis 5 and older have no users: set `password_file` to a file with the value of requirepass\n"
    )
}
