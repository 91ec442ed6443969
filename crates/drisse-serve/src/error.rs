//! Why a server cannot be built or run, and what to do next.

use crate::engines::{EngineError, UnknownEngineError};
use drisse_core::InvalidNameError;
use drisse_net::{BindError, TlsError};
use drisse_registry::{InspectError, SignatureError};
use drisse_scoring::{KeysError, ServerError};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a server cannot be built or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A sample is given, but there is not exactly one model.
    #[error("a sample is given for one model, but there are several")]
    SampleForSeveral,
    /// An alias is given, but there is not exactly one model.
    #[error("an alias is given for one model, but there are several")]
    AliasesForSeveral,
    /// Two models have the same name.
    #[error("two models are called `{name}`")]
    SameName {
        /// The name.
        name: String,
    },
    /// A model's name is not valid.
    #[error("{why}")]
    Name {
        /// The model's path.
        path: PathBuf,
        /// Why the name is not valid.
        why: InvalidNameError,
    },
    /// A model's version is not valid.
    #[error("`{version}` is not a valid version")]
    Version {
        /// The version.
        version: String,
    },
    /// The model cannot be found or understood.
    #[error("cannot serve {}", path.display())]
    Inspect {
        /// The model's path.
        path: PathBuf,
        /// The reason.
        source: InspectError,
    },
    /// The model's signature is missing or not valid.
    #[error("cannot serve {}", path.display())]
    Signature {
        /// The model's path.
        path: PathBuf,
        /// The reason.
        source: SignatureError,
    },
    /// The model chooses an engine that is not in the table.
    #[error("cannot serve {}", path.display())]
    UnknownEngine {
        /// The model's path.
        path: PathBuf,
        /// The error, which names the engines of the table.
        source: UnknownEngineError,
    },
    /// The file with the trusted keys cannot be read.
    #[error("cannot read the trusted keys from {}", path.display())]
    TrustedKeys {
        /// The path of the file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The given sample does not fit the model.
    #[error("cannot use sample {}", path.display())]
    Sample {
        /// The path of the sample.
        path: PathBuf,
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The keys file cannot be used.
    #[error("cannot serve")]
    Keys(#[from] KeysError),
    /// The certificate or its key cannot be used.
    #[error("cannot serve HTTPS")]
    Tls(#[from] TlsError),
    /// The access log cannot be opened.
    #[error("cannot write the access log")]
    AccessLog(#[source] std::io::Error),
    /// Other machines could score without a key.
    #[error("cannot listen on {address}: other machines could score without a key")]
    Unprotected {
        /// The address.
        address: SocketAddr,
    },
    /// A listener cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A thread cannot be started.
    #[error("cannot start the server's threads")]
    Threads(#[source] std::io::Error),
    /// An engine cannot be used.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine cannot load the model.
    #[error("cannot load model `{name}` from {}", path.display())]
    Load {
        /// The model's name.
        name: String,
        /// The model's file.
        path: PathBuf,
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The model's files are not those that were registered.
    #[error("the files of model `{name}` are damaged: their digest is {digest}, not {expected}")]
    Damaged {
        /// The model's name.
        name: String,
        /// The digest of the files.
        digest: String,
        /// The digest that they must have.
        expected: String,
    },
    /// Loading the models panicked; the log says where.
    #[error("loading the models panicked")]
    Panicked,
    /// The server failed while it served.
    #[error("the server failed")]
    Server(#[from] ServerError),
}

impl ServeError {
    /// Returns what the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::SameName { .. } => {
                "give each a name or a version of its own: NAME=MODEL or NAME:VERSION=MODEL"
            }
            Self::Name { path, .. } => {
                return Some(format!("name it on the command line: 'NAME={}'", path.display()));
            }
            Self::Inspect { source, .. } => return source.hint(),
            Self::Load { source, .. } => return source.downcast_ref().and_then(InspectError::hint),
            Self::Signature { source, .. } => source.hint(),
            Self::Keys(_) => {
                "it has one key a line (`openssl rand -hex 32`), and is readable for the user who serves; in a container \
                 it is mounted there. Or start with --no-auth"
            }
            Self::Unprotected { .. } => {
                "give --keys FILE with one key a line (`openssl rand -hex 32 > keys; chmod 600 keys`), or --no-auth to \
                 let everybody in"
            }
            Self::Bind(error) => {
                let source = std::error::Error::source(error)?.downcast_ref::<std::io::Error>()?;
                if source.kind() != std::io::ErrorKind::AddrInUse {
                    return None;
                }
                "another server listens there: choose another place, or stop that one"
            }
            Self::Engine(error) => return error.hint().map(str::to_owned),
            Self::Damaged { .. } => {
                "`drisse models verify --repair` mends what it can; or deploy the model's file again"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// Returns whether the server is at fault, and not what it was given.
    pub fn is_internal(&self) -> bool {
        matches!(self, Self::Panicked | Self::Server(_))
    }
}
