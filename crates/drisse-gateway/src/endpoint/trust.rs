//! The certificates by which replicas are trusted.

use drisse_net::client_config;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::sync::{Mutex, PoisonError};

/// The configuration that trusts the system's CA certificates. It has some hundred certificates, so it is read once.
static SYSTEM: Mutex<Option<ClientConfig>> = Mutex::new(None);

/// Returns a configuration that trusts only the certificates in this PEM text.
///
/// # Errors
/// Returns the reason if the text contains no certificate, or one that cannot be used.
pub(super) fn certificates(pem: &[u8]) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("its certificate is not PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("its certificate cannot be used: {error}"))?;
    }
    if roots.is_empty() {
        return Err("its certificate is not PEM: there is no `BEGIN CERTIFICATE`".to_owned());
    }
    Ok(client_config(roots))
}

/// Returns the configuration that trusts the system's CA certificates: those in `SSL_CERT_FILE` or `SSL_CERT_DIR`, or
/// in the distribution's bundle. Blocks on the disk the first time.
///
/// # Errors
/// Returns the reason if there are none.
pub(super) fn system() -> Result<ClientConfig, String> {
    let mut system = SYSTEM.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(config) = &*system {
        return Ok(config.clone());
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // rustls cannot parse some certificates of common bundles, so those are skipped.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or_else(String::new, |error| format!(": {error}"));
        return Err(format!(
            "this machine has no CA certificates to check its certificate against{why}: name one in `certificate`, or \
             in SSL_CERT_FILE"
        ));
    }
    Ok(system.insert(client_config(roots)).clone())
}
