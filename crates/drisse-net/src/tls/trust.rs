//! What a client trusts: authorities, or one certificate.

use super::{TlsError, fingerprint, read_chain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{self, CryptoProvider};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::path::Path;
use std::sync::Arc;

/// Returns the TLS configuration of a client that trusts the certificates in a PEM file, as authorities and as those of
/// servers, and no others.
///
/// # Errors
/// Returns a [`TlsError`] if the file cannot be read, or holds no certificate that can be used.
pub fn trusting(certificates: &Path) -> Result<Arc<ClientConfig>, TlsError> {
    let unusable = |why: String| TlsError::Trust { path: certificates.to_owned(), why };
    let (listed, mut roots) = (read_chain(certificates)?, RootCertStore::empty());
    for certificate in &listed {
        roots.add(certificate.clone()).map_err(|error| unusable(error.to_string()))?;
    }
    let mut config = client_config(roots.clone());
    let chains =
        WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(config.crypto_provider()));
    let chains = chains.build().map_err(|error| unusable(error.to_string()))?;
    config.dangerous().set_certificate_verifier(Arc::new(Listed { listed, chains }));
    Ok(Arc::new(config))
}

/// Returns the TLS configuration of a client that trusts these certificates and no others, and shows none of its own.
pub fn client_config(roots: RootCertStore) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("the provider has the default versions of TLS");
    builder.with_root_certificates(roots).with_no_client_auth()
}

/// Returns the TLS configuration of a client that trusts the server certificate with this [fingerprint](super::Tls::fingerprint)
/// and no other, whatever names, authority and dates the certificate has.
pub fn pinning(fingerprint: &str) -> Arc<ClientConfig> {
    let mut config = client_config(RootCertStore::empty());
    let provider = Arc::clone(config.crypto_provider());
    let pinned = Pinned { fingerprint: fingerprint.to_owned(), provider };
    config.dangerous().set_certificate_verifier(Arc::new(pinned));
    Arc::new(config)
}

/// Accepts one certificate. The server still has to show that it has the certificate's key.
#[derive(Debug)]
struct Pinned {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if fingerprint(end_entity) == self.fingerprint {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts the certificates of authorities, and certificates that are themselves in the list. Those that `openssl req
/// -x509` makes for a server have the mark of an authority, and would be refused as a server's own. Of a listed certificate
/// the names count, and the dates do not.
#[derive(Debug)]
struct Listed {
    listed: Vec<CertificateDer<'static>>,
    chains: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Listed {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.listed.iter().any(|certificate| certificate == end_entity) {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.chains.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}
