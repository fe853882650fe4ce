//! The process that holds a socket, as the kernel shows it.
#![allow(clippy::unwrap_used)]

use redkeeper_agent::host::process::{Location, Process};
use redkeeper_tests::Sandbox;

#[test]
fn the_holder_of_a_listening_socket_is_found() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let location = Location::Tcp(listener.local_addr().unwrap());
    let found = Process::search(&location).unwrap();
    assert_eq!(found.pid(), std::process::id());
    drop(listener);
    assert_eq!(Process::search(&location), None);

    let sandbox = Sandbox::new();
    let path = sandbox.path("a b.sock").display().to_string();
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let location = Location::of(&path, None);
    let pid = |found: Process| found.pid();
    assert_eq!(Process::search(&location).map(pid), Some(std::process::id()));
    drop(listener);
    assert_eq!(Process::search(&location), None);
}
