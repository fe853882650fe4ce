//! Any text as a server's configuration file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redkeeper_core::redis::server_conf::{Endpoint, ServerConf};

fuzz_target!(|bytes: &[u8]| {
    let mut conf = ServerConf::default();
    conf.read(&String::from_utf8_lossy(bytes));
    match conf.endpoint() {
        Some(Endpoint::Unix(path)) => assert!(path.starts_with('/')),
        Some(Endpoint::Plain(address) | Endpoint::Tls(address)) => {
            let port = address
                .rsplit_once(':')
                .and_then(|(_, port)| port.parse::<u16>().ok());
            assert!(port.is_some_and(|port| port > 0), "{address}");
        }
        None => {}
    }
});
