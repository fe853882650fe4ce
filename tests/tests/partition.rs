//! R4: a host that is cut off without a word, in network namespaces of its own.
#![allow(clippy::unwrap_used)]

use redkeeper_tests::{Sandbox, netns};

/// Prints how many milliseconds after the cut the instance was unknown and the collector's socket was freed, and what
/// was told after the cut healed.
const SCRIPT: &str = r#"
ip link set lo up
"$BIN/redkeeper-collector" --config "$DIR/collector.toml" >"$DIR/collector.log" 2>&1 &
unshare --net sh -c 'ip link set lo up
    redis-server --port 6379 --save "" --dir "$DIR" >"$DIR/redis.log" 2>&1 &
    echo $$ >"$DIR/pid.new"; mv "$DIR/pid.new" "$DIR/pid"
    exec "$BIN/redkeeper-agent" --config "$DIR/agent.toml" >"$DIR/agent.log" 2>&1' &
for n in $(seq 300); do [ -e "$DIR/pid" ] && break; sleep 0.1; done
inner=$(cat "$DIR/pid")
ip link add outside type veth peer name inside netns $inner || exit 77
ip addr add 192.0.2.1/24 dev outside; ip link set outside up
inside() { nsenter --net=/proc/$inner/ns/net "$@"; }
inside ip addr add 192.0.2.2/24 dev inside; inside ip link set inside up
reason() { "$BIN/redkeeper" --endpoints 127.0.0.1:7400 --output json get db01:6379 2>/dev/null; }
until_reason() {
    for n in $(seq 600); do reason | grep -q "REASON_$1\"" && return; sleep 0.05; done
    echo "never $1"; reason; exit 1
}
# Sockets of the collector that are open to the agent: its address as the kernel writes it, established.
sockets() { grep -c ' 020200C0:[0-9A-F]* 01 ' /proc/net/tcp; }
until_reason OK
[ "$(sockets)" -ge 1 ] || { echo "no socket"; exit 1; }
inside ip link set inside down
cut=$(date +%s%3N)
until_reason AGENT_SILENT
silent=$(date +%s%3N)
for n in $(seq 600); do [ "$(sockets)" = 0 ] && break; sleep 0.05; done
freed=$(date +%s%3N)
inside ip link set inside up
until_reason OK
echo "$((silent - cut)) $((freed - cut)) $(($(date +%s%3N) - freed)) $(sockets)"
"#;

#[test]
fn a_host_that_is_cut_off_is_unknown_and_its_socket_is_freed() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "collector.toml",
        "id = 'a'\nstandalone = true\nsilent_after = '3s'\nheartbeat_interval = '1s'\n",
    );
    sandbox.write(
        "agent.toml",
        "id = 'db01'\ncollectors = ['192.0.2.1:7400']\n[[instances]]\naddress = '127.0.0.1:6379'\n",
    );
    let Some(output) = netns::run(&sandbox, SCRIPT, &[]) else {
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<u64> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    let log = std::fs::read_to_string(sandbox.path("collector.log")).unwrap_or_default();
    let &[silent, freed, back, sockets] = numbers.as_slice() else {
        panic!("{text}{}\n{log}", String::from_utf8_lossy(&output.stderr));
    };
    eprintln!(
        "unknown after {silent} ms, socket freed after {freed} ms, back {back} ms after the cut healed"
    );
    // `silent_after` counts from the last message, up to a heartbeat before the cut.
    assert!((1_900..=3_700).contains(&silent), "unknown after {silent} ms");
    assert!(freed <= 4_500, "freed after {freed} ms");
    assert!(sockets >= 1, "connected again");
    // Before it was UP for the first time, the server itself had to start.
    let since = log.split_once("state=UP").unwrap().1;
    assert!(!since.contains("state=DOWN"), "{log}");
}
