//! TLS: a server's certificate and key, which can be reloaded when the files change, and what a client trusts.

mod trust;

use crate::keys::hex;
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, IpAddr, PrivateKeyDer, ServerName};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
pub use trust::{client_config, pinning, trusting};

/// How much of a file is read to find out its form, in bytes (64 KiB).
const MAX_HEAD: u64 = 64 << 10;

/// A certificate chain and its private key, from PEM files.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: ArcSwap<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    chain: Vec<CertificateDer<'static>>,
}

/// Why a certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is not PEM.
    #[error("cannot read {what} {}: {why}", path.display())]
    Pem {
        /// `certificate` or `key`.
        what: &'static str,
        /// The path of the file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// A certificate to trust cannot be used.
    #[error("cannot trust certificate {}: {why}", path.display())]
    Trust {
        /// The path of the file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// The key does not belong to the certificate, or rustls does not support one of them.
    #[error("cannot use certificate {} with key {}: {why}", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// The reason.
        why: String,
    },
}

impl Tls {
    /// Reads the PEM files at `certificate` and `key`.
    ///
    /// # Errors
    /// Returns a [`TlsError`] if a file cannot be read, or if the two do not belong together.
    pub fn open(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let current = ArcSwap::from_pointee(load(certificate, key)?);
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), current })
    }

    /// Reads the files again, and returns whether the certificate changed. Open connections keep the old one.
    ///
    /// # Errors
    /// Returns a [`TlsError`] as [`Tls::open`] does; the old certificate then stays in use.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let loaded = load(&self.certificate, &self.key)?;
        let changed = loaded.chain != self.current.load().chain;
        if changed {
            self.current.store(Arc::new(loaded));
        }
        Ok(changed)
    }

    /// Returns the SHA-256 of the server's own certificate, as lower-case hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.current.load().chain[0])
    }

    /// Returns the DNS names of the server's own certificate, those with a wildcard excepted.
    pub fn dns_names(&self) -> Vec<String> {
        let loaded = self.current.load();
        let Ok(certificate) = webpki::EndEntityCert::try_from(&loaded.chain[0]) else { return Vec::new() };
        certificate.valid_dns_names().filter(|name| !name.contains('*')).map(str::to_owned).collect()
    }

    /// Whether the server's own certificate has this IP address among its names.
    pub fn is_for_ip(&self, ip: std::net::IpAddr) -> bool {
        let loaded = self.current.load();
        let name = ServerName::IpAddress(IpAddr::from(ip));
        webpki::EndEntityCert::try_from(&loaded.chain[0])
            .is_ok_and(|certificate| certificate.verify_is_valid_for_subject_name(&name).is_ok())
    }

    pub(crate) fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        Arc::clone(&self.current.load().config).into()
    }
}

fn load(certificate: &Path, key: &Path) -> Result<Loaded, TlsError> {
    let chain = read_chain(certificate)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| {
        unreadable("key", key, other_form(key, "pkey").unwrap_or_else(|| error.to_string()))
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain.clone(), private))
        .map_err(|error| TlsError::Pair {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            why: error.to_string(),
        })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Loaded { config: Arc::new(config), chain })
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    hex(&Sha256::digest(certificate))
}

fn read_chain(certificate: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable("certificate", certificate, error.to_string()))?;
    if chain.is_empty() {
        let why = other_form(certificate, "x509").unwrap_or("the file contains no certificate".to_owned());
        return Err(unreadable("certificate", certificate, why));
    }
    Ok(chain)
}

/// Says which form a file has instead of plain PEM, and which command of OpenSSL converts it; `None` if that is not known.
fn other_form(path: &Path, command: &str) -> Option<String> {
    let mut head = Vec::new();
    std::fs::File::open(path).ok()?.take(MAX_HEAD).read_to_end(&mut head).ok()?;
    let has = |text: &str| head.windows(text.len()).any(|window| window == text.as_bytes());
    let path = path.display();
    if has("BEGIN ENCRYPTED PRIVATE KEY") || has("Proc-Type: 4,ENCRYPTED") {
        return Some(format!(
            "it is encrypted, and Drisse asks for no password: `openssl {command} -in '{path}' -out plain.pem` decrypts it"
        ));
    }
    // DER's tag of a sequence, and a length of more than a byte.
    matches!(head[..], [0x30, 0x81..=0x84, ..]).then(|| {
        format!(
            "it is DER and not PEM: `openssl {command} -inform DER -in '{path}' -out converted.pem` converts it, and \
             `openssl pkcs12 -in '{path}' -out converted.pem -nodes` a PKCS #12 file"
        )
    })
}

fn unreadable(what: &'static str, path: &Path, why: String) -> TlsError {
    TlsError::Pem { what, path: path.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_certificates_in_another_form_are_named_with_the_command_that_converts_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = path("certificate.pem", made.cert.pem().as_bytes());
        let error = |certificate: &Path, key: &Path| Tls::open(certificate, key).unwrap_err().to_string();
        for (content, why) in [
            (&b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIF\n-----END ENCRYPTED PRIVATE KEY-----\n"[..], "it is encrypted"),
            (b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIF\n-----END RSA PRIVATE KEY-----\n", "it is encrypted"),
            (&made.signing_key.serialize_der(), "it is DER and not PEM: `openssl pkey -inform DER"),
            (b"", "no items found"),
        ] {
            let said = error(&certificate, &path("key", content));
            assert!(said.contains(why), "{said}");
        }
        let said = error(&path("certificate.der", made.cert.der()), &path("key", b""));
        assert!(said.contains("`openssl x509 -inform DER"), "{said}");
    }
}
