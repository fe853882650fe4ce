//! The real ZooKeeper passes the suite that its twin in memory passes.

use std::time::Duration;

use redkeeper_collector::store::{suite, zk::ZooKeeper};
use redkeeper_tests::Sandbox;

#[tokio::test]
async fn zookeeper_passes_the_suite() {
    let sandbox = Sandbox::new();
    let server = sandbox.zookeeper().await;
    let store = ZooKeeper {
        servers: format!("127.0.0.1:{}", server.port.number),
        session_timeout: Duration::from_secs(4),
    };
    suite::run(&store, "/suite").await;
}
