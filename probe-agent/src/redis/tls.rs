//! TLS to an instance. The files are read for each connection, so that renewed ones are used without a restart.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use redkeeper_core::{
    probe::{ConnectFailure, Input},
    time::WallMs,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, Error, RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};
use x509_cert::{Certificate, der::Decode};

pub use verify::Verify;

use crate::host::files::read_regular;

mod verify;

/// Maximum size of a PEM file: a bundle of all public authorities has some 250 KB.
const PEM_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// TLS settings: which certificates to trust, and the client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Trusted certificates, PEM: of authorities, or of servers themselves.
    pub ca_file: PathBuf,
    /// What the server must prove.
    pub verify: Verify,
    /// Client certificate chain and its key, PEM.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Name that the server's certificate must have; the host of the address by default.
    pub server_name: Option<String>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When a file cannot be used; the text says why.
    pub fn load(&self) -> Result<ClientConfig, String> {
        let verifier = verify::Verifier::new(self.verify, certificates(&self.ca_file)?)
            .map_err(|e| at(&self.ca_file, &verify::explain(&e)))?;
        let config = ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        match &self.client {
            None => Ok(config.with_no_client_auth()),
            Some((chain, key)) => {
                let pem = read_regular(key, PEM_FILE_BYTES_MAX).map_err(|e| at(key, &e))?;
                let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| at(key, &e))?;
                config
                    .with_client_auth_cert(certificates(chain)?, private)
                    .map_err(|e| at(chain, &e))
            }
        }
    }

    /// The name that the certificate must have, for an address `host:port`.
    ///
    /// # Errors
    /// When it is neither a valid name nor an address.
    pub fn name(&self, address: &str) -> Result<ServerName<'static>, String> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = self.server_name.as_deref().unwrap_or(host).to_owned();
        ServerName::try_from(name.clone()).map_err(|e| format!("{name:?}: {e}; set server_name"))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read_regular(path, PEM_FILE_BYTES_MAX).map_err(|e| at(path, &e))?;
    let all = CertificateDer::pem_slice_iter(&pem);
    let all: Vec<_> = all.collect::<Result<_, _>>().map_err(|e| at(path, &e))?;
    if all.is_empty() {
        return Err(format!("{}: has no certificate", path.display()));
    }
    Ok(all)
}

fn at(path: &Path, problem: &dyn std::fmt::Display) -> String {
    format!("{}: {problem}", path.display())
}

/// Performs the TLS handshake on an open connection.
///
/// # Errors
/// When the certificate or the peer is at fault, or something prevents the agent itself.
pub async fn handshake(
    config: ClientConfig,
    tls: &Tls,
    address: &str,
    stream: TcpStream,
    limit: Duration,
) -> Result<TlsStream<TcpStream>, ConnectFailure> {
    let name = tls.name(address).map_err(ConnectFailure::Own)?;
    let peer = stream.peer_addr().ok();
    let connector = TlsConnector::from(Arc::new(config));
    match tokio::time::timeout(limit / 2, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(e)) => Err(failure(&e)),
        // A Redis without TLS does not answer: it takes the handshake for the start of a command and waits for its end.
        Err(_) if speaks_plain(peer, limit / 4).await => Err(ConnectFailure::TlsMismatch(
            "the server speaks without TLS on this port".to_owned(),
        )),
        Err(_) => Err(ConnectFailure::TlsSilent),
    }
}

/// When the server's certificate expires; `None` if it cannot be parsed.
pub fn certificate_ends(stream: &TlsStream<TcpStream>) -> Option<WallMs> {
    let (_, connection) = stream.get_ref();
    let own = connection.peer_certificates()?.first()?;
    let certificate = Certificate::from_der(own).ok()?;
    let end = certificate
        .tbs_certificate()
        .validity()
        .not_after
        .to_unix_duration();
    Some(WallMs(u64::try_from(end.as_millis()).ok()?))
}

fn failure(error: &std::io::Error) -> ConnectFailure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidMessage(e)) => {
            ConnectFailure::TlsMismatch(format!("the server answered something that is not TLS: {e:?}"))
        }
        Some(e) => ConnectFailure::TlsCertificate(verify::explain(e)),
        None if error.kind() == std::io::ErrorKind::ConnectionReset => ConnectFailure::Reset,
        None => ConnectFailure::TlsEnded(format!("the handshake ended: {error}")),
    }
}

async fn speaks_plain(peer: Option<SocketAddr>, limit: Duration) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(peer?).await.ok()?;
        stream.write_all(b"PING\r\n").await.ok()?;
        let mut first = [0];
        stream.read_exact(&mut first).await.ok()?;
        matches!(first[0], b'+' | b'-').then_some(())
    };
    matches!(tokio::time::timeout(limit, ask).await, Ok(Some(())))
}

/// Interprets the end of a connection without TLS on which nothing was received: either the server expects TLS, or the
/// connection merely ended.
pub async fn end_of(peer: SocketAddr, ended: Input, limit: Duration) -> Input {
    if is_spoken(peer, limit).await {
        let text = "the server speaks TLS on this port; configure `tls`";
        Input::ConnectFailed(ConnectFailure::TlsMismatch(text.to_owned()))
    } else {
        ended
    }
}

/// Whether an address that closed a connection without TLS expects TLS.
async fn is_spoken(peer: SocketAddr, limit: Duration) -> bool {
    let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty());
    let connector = TlsConnector::from(Arc::new(config.with_no_client_auth()));
    let ask = async {
        let stream = TcpStream::connect(peer).await.ok()?;
        let error = connector
            .connect(ServerName::from(peer.ip()), stream)
            .await
            .err()?;
        // Nothing is trusted, so a certificate error or an alert is the best possible result; either proves TLS.
        let inner = error.get_ref()?.downcast_ref::<Error>()?;
        matches!(inner, Error::InvalidCertificate(_) | Error::AlertReceived(_)).then_some(())
    };
    matches!(tokio::time::timeout(limit, ask).await, Ok(Some(())))
}
