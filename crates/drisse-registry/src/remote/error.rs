//! Errors of pulling from and pushing to registries.

use super::Reference;
use crate::StoreError;

/// An error of pulling from or pushing to a registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// A text is not a valid reference to a registry.
    #[error("`{text}` is not a reference to a registry: {why}")]
    Reference {
        /// The text.
        text: String,
        /// What is wrong with the text.
        why: String,
    },
    /// The registry does not answer: no connection, an untrusted certificate, a timeout, a server error.
    #[error("cannot reach registry {registry}: {why}")]
    Unreachable {
        /// The registry: `HOST[:PORT]`, as in all variants.
        registry: String,
        /// What happened.
        why: String,
    },
    /// The registry on another machine only speaks plain HTTP.
    #[error("registry {registry} does not use TLS")]
    Plain {
        /// The registry.
        registry: String,
    },
    /// The registry requires credentials, or does not accept the ones it got.
    #[error("cannot {what} {repository} in registry {registry}: {why}{}", after(unread))]
    Denied {
        /// The registry.
        registry: String,
        /// What was attempted: `pull from` or `push to`.
        what: &'static str,
        /// The repository.
        repository: String,
        /// Why access was denied.
        why: String,
        /// The files with logins and the credential helpers that cannot be read, each with the reason.
        unread: Vec<String>,
    },
    /// The registry does not have the manifest or blob.
    #[error("there is no {what} in {reference}")]
    Absent {
        /// The manifest or blob.
        what: String,
        /// The reference that was resolved.
        reference: Reference,
    },
    /// The registry answered with an error.
    #[error("registry {registry} refused to {what}: {why}")]
    Refused {
        /// The registry.
        registry: String,
        /// The request: `take a blob`.
        what: String,
        /// The status and the registry's message.
        why: String,
    },
    /// The registry's response violates the protocol, or does not match a digest or size.
    #[error("registry {registry} sent an invalid response: {why}")]
    Deceived {
        /// The registry.
        registry: String,
        /// What is wrong with the response.
        why: String,
    },
    /// The reference exists and is not a model.
    #[error("{reference} is not a model: {why}")]
    NoModel {
        /// The reference.
        reference: Reference,
        /// What the reference is instead.
        why: String,
    },
    /// The reference exists and is not a usable container image.
    #[error("{reference} is not a usable container image: {why}")]
    NoImage {
        /// The reference.
        reference: Reference,
        /// What is wrong with the image.
        why: String,
    },
    /// The store on this machine failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RemoteError {
    /// Returns what the user can do next, or `None` if nothing specific is known.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Reference { .. } => "write oci://HOST/REPOSITORY:TAG".to_owned(),
            Self::Plain { .. } => {
                "give the registry a certificate (--registry-ca FILE for a private authority), or use --plain-http if \
                 you trust the network"
                    .to_owned()
            }
            Self::Denied { registry, unread, .. } if !unread.is_empty() => format!(
                "correct or remove what cannot be read, or log in: `podman login {registry}` or `docker login {registry}`"
            ),
            Self::Denied { registry, .. } => format!("log in: `podman login {registry}` or `docker login {registry}`"),
            Self::Unreachable { why, .. } if why.contains("UnknownIssuer") => {
                "trust its authority with --registry-ca FILE, or put the certificate into /etc/containers/certs.d/HOST".to_owned()
            }
            Self::Unreachable { .. } => {
                "check that the registry is up; the same command continues where this one stopped".to_owned()
            }
            Self::Absent { what, reference } if reference.manifest() == "latest" && what.starts_with("manifest") => {
                "name a tag: oci://HOST/REPOSITORY:TAG; `drisse models push` uses the model's version as the tag"
                    .to_owned()
            }
            Self::NoModel { why, .. } if why.contains("an index of") => {
                "name one of them by its digest: oci://HOST/REPOSITORY@DIGEST".to_owned()
            }
            Self::NoModel { .. } => {
                "a package must hold one ONNX model: convert the model if it has another format, and register its file \
                 with `drisse models register FILE`; run container images with podman or Docker"
                    .to_owned()
            }
            Self::Store(error) => return error.hint(),
            _ => return None,
        })
    }

    /// Returns whether another attempt may succeed.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// Returns texts for the end of a message, each after a semicolon.
fn after(texts: &[String]) -> String {
    texts.iter().map(|text| format!("; {text}")).collect()
}
