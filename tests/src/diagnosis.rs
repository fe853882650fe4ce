//! `redkeeper-agent probe`, and what it said.

use serde_json::Value;

use crate::Sandbox;

/// One diagnosis; checks that the exit code goes with the state.
///
/// # Panics
/// When it does not, or what was printed is no JSON.
pub fn probe(sandbox: &Sandbox, args: &[&str]) -> Value {
    let mut command = sandbox.command("redkeeper-agent");
    command
        .arg("probe")
        .args(args)
        .args(["--json", "--timeout", "1s"]);
    let output = command.output().expect("the agent starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let json: Value = serde_json::from_str(text.trim())
        .unwrap_or_else(|e| panic!("{e}: {text} {}", String::from_utf8_lossy(&output.stderr)));
    let code = match json["state"].as_str().unwrap_or_default() {
        "UP" => 0,
        "DEGRADED" => 1,
        "DOWN" => 2,
        _ => 3,
    };
    assert_eq!(output.status.code(), Some(code), "{json}");
    json
}

/// State, reason, stage, reads, writes.
pub fn verdict(json: &Value) -> [String; 5] {
    ["state", "reason", "stage", "reads", "writes"].map(|key| json[key].as_str().unwrap_or("?").to_owned())
}
