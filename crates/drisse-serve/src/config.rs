//! The settings of one scoring server.

use drisse_scoring::Tuner;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The settings of one scoring server. The default has no models and no listeners.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The models.
    pub models: Vec<ModelPath>,
    /// Further names of the model; only for a single one.
    pub aliases: Vec<String>,
    /// The address to score on.
    pub tcp: Option<SocketAddr>,
    /// The Unix socket to score on.
    pub unix: Option<PathBuf>,
    /// Where probes, Prometheus and operators connect.
    pub admin: Option<Endpoint>,
    /// The file with the keys of clients; `None`: every client may score.
    pub keys: Option<PathBuf>,
    /// Whether clients of other machines may score without a key.
    pub no_auth: bool,
    /// The certificate to score over HTTPS with.
    pub tls: Option<TlsFiles>,
    /// Whose signatures the models must have; `None`: signatures are not verified.
    pub trust: Option<TrustFiles>,
    /// A `/score` body to use instead of the model's `sample.json`; only for a single model.
    pub sample: Option<PathBuf>,
    /// The digest that the model's files must have.
    pub digest: Option<String>,
    /// The memory for all models, in bytes: each is loaded when it is first requested. `None`: all are loaded at once.
    pub model_memory: Option<u64>,
    /// The file for a JSON line per request.
    pub access_log: Option<PathBuf>,
    /// Finds the best way to run each model.
    pub tuner: Tuner,
    /// The limits of the server. [`build`](crate::build) opens its access log.
    pub scoring: drisse_scoring::Config,
}

/// A model file or folder, and the name and version to serve it under.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModelPath {
    /// The name; `None`: the file's.
    pub name: Option<String>,
    /// The version; `None`: `1`.
    pub version: Option<String>,
    /// The file or the folder.
    pub path: PathBuf,
}

impl ModelPath {
    /// The model at `path`, under its own name.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { name: None, version: None, path: path.into() }
    }
}

/// An address or a Unix socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// An address and a port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// A certificate and its key, in PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// The certificate chain.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
}

/// The files that show whether a model is trusted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrustFiles {
    /// The trusted public keys, in PEM.
    pub keys: PathBuf,
    /// The folder with the signed manifest and its signatures; `None`: `.drisse` beside the model.
    pub evidence: Option<PathBuf>,
}
