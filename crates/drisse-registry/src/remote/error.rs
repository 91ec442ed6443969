//! Why something could not be brought from a registry or to one.

use super::Reference;
use crate::StoreError;

/// Why. Its message says what was attempted, on what.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// No name of something in a registry.
    #[error("`{text}` is no reference to a registry: {why}")]
    Reference {
        /// As it was given.
        text: String,
        /// What is wrong.
        why: String,
    },
    /// The registry cannot be asked: no connection, no trust, no answer.
    #[error("cannot ask registry {registry}: {why}")]
    Unreachable {
        /// Which.
        registry: String,
        /// What happened.
        why: String,
    },
    /// Plain HTTP beyond this machine.
    #[error("registry {registry} would be asked without TLS")]
    Plain {
        /// Which.
        registry: String,
    },
    /// It asks for credentials, or does not accept those it got.
    #[error("registry {registry} does not let us {what} {repository}: {why}")]
    Denied {
        /// Which.
        registry: String,
        /// `pull from` or `push to`.
        what: &'static str,
        /// Of which repository.
        repository: String,
        /// What it said.
        why: String,
    },
    /// Credentials cannot be read.
    #[error("cannot read credentials from {from}: {why}")]
    Credentials {
        /// The file or program.
        from: String,
        /// What is wrong.
        why: String,
    },
    /// There is no such thing.
    #[error("there is no {what} in {reference}")]
    Absent {
        /// What.
        what: String,
        /// Where.
        reference: Reference,
    },
    /// It answered with a failure.
    #[error("registry {registry} refused to {what}: {why}")]
    Refused {
        /// Which.
        registry: String,
        /// What was asked.
        what: String,
        /// Status and words.
        why: String,
    },
    /// It does not keep to the protocol, or to what it said before.
    #[error("registry {registry} cannot be believed: {why}")]
    Deceived {
        /// Which.
        registry: String,
        /// What does not fit.
        why: String,
    },
    /// It holds something, but no model.
    #[error("{reference} is no model: {why}")]
    NoModel {
        /// Which.
        reference: Reference,
        /// What it is.
        why: String,
    },
    /// It holds something, but no container image.
    #[error("{reference} is no container image: {why}")]
    NoImage {
        /// Which.
        reference: Reference,
        /// What is wrong.
        why: String,
    },
    /// This machine's files.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RemoteError {
    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Reference { .. } => "write oci://HOST/REPOSITORY:TAG".to_owned(),
            Self::Plain { .. } => {
                "give it a certificate (--registry-ca FILE for an own authority), or say --plain-http where the \
                 network is yours"
                    .to_owned()
            }
            Self::Denied { registry, .. } => format!("log in: `podman login {registry}` or `docker login {registry}`"),
            Self::Unreachable { why, .. } if why.contains("UnknownIssuer") => {
                "trust its authority with --registry-ca FILE, or put it into /etc/containers/certs.d/HOST".to_owned()
            }
            Self::Unreachable { .. } => {
                "is it up? what has come over whole is there: the same command goes on from that".to_owned()
            }
            Self::Absent { what, reference } if reference.manifest() == "latest" && what.starts_with("manifest") => {
                "name its tag: oci://HOST/REPOSITORY:TAG; `drisse models push` takes a model's version for one"
                    .to_owned()
            }
            Self::NoModel { .. } => "`drisse models push` writes models; images run with podman or Docker".to_owned(),
            Self::Store(error) => return error.hint(),
            _ => return None,
        })
    }

    /// Whether trying again may help.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}
