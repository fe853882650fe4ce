//! Decides which server certificates are accepted. Redis servers often have a self-signed certificate, or one that
//! names its host only in the CN; OpenSSL, and so redis-cli, accepts both.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use x509_cert::{Certificate, der::Decode};

/// What a server must prove. In every mode it proves that it has the key of its certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Its certificate is signed by an authority in `ca_file` or is itself in that file, is valid now, and names the
    /// host.
    #[default]
    Full,
    /// As `full`, whatever host it names.
    Ca,
    /// Its certificate is itself in `ca_file`, whatever it contains.
    Pinned,
}

/// Certificate verifier that implements [`Verify`].
#[derive(Debug)]
pub(super) struct Verifier {
    verify: Verify,
    /// The certificates in `ca_file`.
    trusted: Vec<CertificateDer<'static>>,
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// Creates a verifier that trusts these certificates.
    ///
    /// # Errors
    /// When one of them cannot be an authority and the mode requires authorities.
    pub(super) fn new(verify: Verify, trusted: Vec<CertificateDer<'static>>) -> Result<Arc<Self>, Error> {
        let mut roots = RootCertStore::empty();
        if verify != Verify::Pinned {
            for certificate in &trusted {
                roots.add(certificate.clone())?;
            }
        }
        Ok(Arc::new(Self {
            verify,
            trusted,
            roots,
            algorithms: ring::default_provider().signature_verification_algorithms,
        }))
    }

    fn check(
        &self,
        own: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let known = self.trusted.iter().any(|trusted| trusted == own);
        if self.verify == Verify::Pinned {
            let other = "the certificate is not one of those in ca_file, and verify is \"pinned\"";
            return known
                .then_some(())
                .ok_or_else(|| Error::General(other.to_owned()));
        }
        let parsed = ParsedCertificate::try_from(own)?;
        if known {
            // A certificate that is trusted by itself needs no authority.
            is_valid_at(own, now)?;
        } else {
            verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &self.roots,
                intermediates,
                now,
                self.algorithms.all,
            )?;
        }
        if self.verify == Verify::Full {
            verify_server_name(&parsed, name)?;
        }
        Ok(())
    }
}

fn is_valid_at(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let read = Certificate::from_der(certificate);
    let read = read.map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let validity = read.tbs_certificate().validity();
    let (begins, ends) = (
        validity.not_before.to_unix_duration(),
        validity.not_after.to_unix_duration(),
    );
    let error = match now.as_secs() {
        now if now < begins.as_secs() => CertificateError::NotValidYet,
        now if now > ends.as_secs() => CertificateError::Expired,
        _ => return Ok(()),
    };
    Err(Error::InvalidCertificate(error))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates, server_name, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Explains what is wrong with a certificate, and what to do.
pub(super) fn explain(error: &Error) -> String {
    let text = error.to_string();
    let hint = match error {
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => {
            "; it must have that name in subjectAltName, CN alone does not count: set server_name to a name that it has, \
             or verify = \"ca\" where any name will do"
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "; name the file of its authority as ca_file, or of the certificate itself where it has none"
        }
        _ if text.contains("UnsupportedCertVersion") => {
            "; it is of X.509 version 1: make one of version 3, with a subjectAltName"
        }
        _ if text.contains("CaUsedAsEndEntity") => {
            "; it is an authority itself: name its own file as ca_file to trust it"
        }
        _ => "",
    };
    format!("{text}{hint}")
}
