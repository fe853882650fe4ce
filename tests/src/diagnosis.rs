//! Runs `redkeeper-agent probe` and parses its output.

use serde_json::Value;

use crate::Sandbox;

/// Runs one diagnosis; checks that the exit code agrees with the state.
///
/// # Panics
/// When it does not, or the output is not JSON.
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

/// Returns state, reason, stage, reads and writes.
pub fn verdict(json: &Value) -> [String; 5] {
    ["state", "reason", "stage", "reads", "writes"].map(|key| json[key].as_str().unwrap_or("?").to_owned())
}
