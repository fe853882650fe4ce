//! The real ZooKeeper passes the suite that its twin in memory passes.

#![allow(clippy::unwrap_used)]

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use redkeeper_collector::store::{Connection, Session, Store, StoreError, contract, zookeeper::ZooKeeper};
use redkeeper_tests::Sandbox;
use tokio::net::{TcpSocket, TcpStream};

#[tokio::test]
async fn zookeeper_passes_the_suite() {
    let sandbox = Sandbox::new();
    let server = sandbox.zookeeper().await;
    let servers = format!("127.0.0.1:{}", server.port.number);
    let store = ZooKeeper::new(&servers, Duration::from_secs(4));
    contract::run(&store, "/suite").await;
}

/// Dead addresses of the name `many`, beside the live 127.0.0.1.
const DEAD: [Ipv4Addr; 4] = [
    Ipv4Addr::new(127, 0, 0, 2),
    Ipv4Addr::new(127, 0, 0, 3),
    Ipv4Addr::new(127, 0, 0, 4),
    Ipv4Addr::new(127, 0, 0, 5),
];

/// Takes no connection and refuses none, as a host that is off: its queue of connections is full.
async fn deaf(address: SocketAddr) -> (tokio::net::TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    let listener = socket.listen(1).unwrap();
    let mut queued = Vec::new();
    while let Ok(connected) =
        tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
    {
        queued.push(connected.unwrap());
    }
    (listener, queued)
}

#[tokio::test]
async fn all_addresses_of_a_name_are_tried() {
    let sandbox = Sandbox::new();
    let server = sandbox.zookeeper().await;
    let port = server.port.number;
    let mut kept = Vec::new();
    for ip in DEAD {
        kept.push(deaf(SocketAddr::from((ip, port))).await);
    }
    let look_up = |host: &str, port| {
        assert_eq!(host, "many");
        let all = DEAD.into_iter().chain([Ipv4Addr::LOCALHOST]);
        Ok(all.map(|ip| SocketAddr::from((ip, port))).collect())
    };
    let timeout = Duration::from_secs(4);
    let store = ZooKeeper::with_look_up(&format!("many:{port}"), timeout, look_up);
    let start = Instant::now();
    let session = store.connect().await.unwrap();
    assert_eq!(session.connection(), Connection::Connected);
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "took {:?}",
        start.elapsed()
    );
    drop(session);

    // Where none is alive, each is named with its fault.
    drop(server);
    let Err(StoreError::Unreachable(tried)) = store.connect().await else {
        panic!("a session without a server");
    };
    assert!(
        tried.contains(&format!("127.0.0.5:{port}: no connection within 1s")),
        "{tried}"
    );
    assert!(
        tried.contains(&format!("127.0.0.1:{port}: Connection refused")),
        "{tried}"
    );
}
