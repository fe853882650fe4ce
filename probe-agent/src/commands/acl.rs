//! The smallest ACL user that the agent needs. Measured (`reference/redis.md` section 5); the tests run it on each
//! server version and find no denial and no other command.

use std::process::ExitCode;

use redkeeper_runtime::say;

/// What the probe sends beside AUTH, which needs no grant.
const GRANTS: &str = "-@all +ping +info +cluster|info";

/// Prints it.
pub fn main(user: &str) -> ExitCode {
    if user.is_empty() || user.chars().any(|c| c.is_whitespace() || c.is_control()) {
        say::problem(&format!(
            "error: --user: {user:?} is no name of an ACL user; it must have no spaces"
        ));
        return ExitCode::from(2);
    }
    say::answer(&text(user))
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
