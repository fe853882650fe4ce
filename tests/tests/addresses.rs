//! Names with several addresses, names that move, and ports that the kernel gives away.
#![allow(clippy::unwrap_used)]

use redkeeper_tests::{Sandbox, netns};
use serde_json::Value;

/// What `redkeeper-agent probe` prints in a namespace, a line for each probe.
fn probes(script: &str) -> Option<Vec<String>> {
    let sandbox = Sandbox::new();
    let output = netns::run(&sandbox, script, &[])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().map(|line| {
        let json: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {output:?}"));
        format!(
            "{}/{}",
            json["state"].as_str().unwrap(),
            json["reason"].as_str().unwrap()
        )
    });
    Some(lines.collect())
}

/// The port is one that the kernel gives to clients, so that the agent's own socket gets the number of the server's.
#[test]
fn a_connection_to_itself_is_refused() {
    let script = "ip link set lo up || exit 77
        for port in 21500 21510 21520; do
          echo $port $((port + 1)) > /proc/sys/net/ipv4/ip_local_port_range || exit 77
          $AGENT probe 127.0.0.1:$port --json --timeout 1s
        done";
    if let Some(seen) = probes(script) {
        assert_eq!(seen, ["DOWN/CONNECTION_REFUSED"; 3]);
    }
}

#[test]
fn an_address_that_this_host_cannot_use_does_not_hide_a_refusal() {
    let script = "ip link set lo up || exit 77
        echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 || exit 77
        for order in '127.0.0.1 both\\n::1 both' '::1 both\\n127.0.0.1 both'; do
          printf \"$order\\n\" > $DIR/hosts
          mount --bind $DIR/hosts /etc/hosts || exit 77
          $AGENT probe both:21500 --json --timeout 1s
          umount /etc/hosts
        done";
    if let Some(seen) = probes(script) {
        assert_eq!(seen, ["DOWN/CONNECTION_REFUSED"; 2]);
    }
}

/// The former server lives on at its old address, and serves the agent's connection for as long as it lasts.
#[test]
fn a_name_that_moved_is_judged_at_its_new_address() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "agent.toml",
        "id = 'db01'\ncollectors = ['127.0.0.1:1']\n[probe]\ninterval = '50ms'\nconnect_interval = '1s'\n\
         [[instances]]\naddress = 'moving:21500'\n",
    );
    let script = "ip link set lo up || exit 77
        echo '127.0.0.1 moving' > $DIR/hosts
        mount --bind $DIR/hosts /etc/hosts || exit 77
        redis-server --bind 127.0.0.1 --port 21500 --save '' --dir $DIR > /dev/null &
        $AGENT --config $DIR/agent.toml > $DIR/agent.log 2>&1 &
        seen() { n=0; until grep -q \"$1\" $DIR/agent.log; do n=$((n + 1)); [ $n -lt 200 ] || exit 1; sleep 0.05; done; }
        seen state=UP
        echo '127.0.0.2 moving' > $DIR/hosts
        seen CONNECTION_REFUSED
        redis-server --bind 127.0.0.2 --port 21500 --save '' --dir $DIR > /dev/null &
        n=0; until [ $(grep -c state=UP $DIR/agent.log) = 2 ]; do n=$((n + 1)); [ $n -lt 200 ] || exit 1; sleep 0.05; done
        echo done";
    let Some(output) = netns::run(&sandbox, script, &[]) else {
        return;
    };
    let log = std::fs::read_to_string(sandbox.path("agent.log")).unwrap_or_default();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "done\n",
        "{output:?}\n{log}"
    );
}

/// The first address of the collectors' name takes no connection and refuses none, as a host that is off.
#[test]
fn the_command_tries_all_addresses_of_a_name() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "collector.toml",
        "id = 'a'\nstandalone = true\ngrpc_listen = '127.0.0.9:7400'\n",
    );
    let script = "ip link set lo up || exit 77
        printf '127.0.0.1 many\\n127.0.0.9 many\\n' > $DIR/hosts
        mount --bind $DIR/hosts /etc/hosts || exit 77
        $BIN/redkeeper-collector --config $DIR/collector.toml > $DIR/collector.log 2>&1 &
        redis-server --bind 127.0.0.1 --port 7400 --tcp-backlog 1 --save '' --dir $DIR > $DIR/redis.log &
        full=$!
        for n in $(seq 100); do redis-cli -h 127.0.0.1 -p 7400 ping >/dev/null 2>&1 && break; sleep 0.1; done
        kill -STOP $full
        for n in 1 2 3 4 5 6; do redis-cli -h 127.0.0.1 -p 7400 ping > /dev/null 2>&1 & done
        for n in $(seq 100); do
          $BIN/redkeeper --endpoints 127.0.0.9:7400 agents >/dev/null 2>&1 && break; sleep 0.1
        done
        $BIN/redkeeper --endpoints 127.0.0.1:7400 --timeout 1s agents 2>&1
        $BIN/redkeeper --endpoints many:7400 --timeout 4s agents 2>&1; echo exit $?";
    let Some(output) = netns::run(&sandbox, script, &[]) else {
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("127.0.0.1:7400 does not answer: no connection"),
        "{text}"
    );
    assert!(text.ends_with("exit 0\n"), "{text}");
}
