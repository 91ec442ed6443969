//! `drisse serve`, and the addresses it takes.

use crate::units::{bytes, duration};
use clap::Args;
use drisse_core::Serving;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

#[derive(Clone, Debug, Args)]
pub(crate) struct Serve {
    /// Model files or folders; NAME= serves one under another name than its file's
    #[arg(required = true, value_name = "[NAME[:VERSION]=]MODEL")]
    pub(crate) models: Vec<ModelArgument>,
    /// Address to score on [default: 127.0.0.1:8000, unless --unix is given]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    pub(crate) listen: Option<SocketAddr>,
    /// Unix socket to score on
    #[arg(long, value_name = "PATH")]
    pub(crate) unix: Option<PathBuf>,
    /// Where probes, Prometheus and operators ask: ADDRESS:PORT or unix:PATH
    #[arg(long, value_name = "ADDRESS:PORT|unix:PATH")]
    pub(crate) admin: Option<Endpoint>,
    /// File with the keys that open this server, one a line, plain or as sha256:HEX
    #[arg(long, value_name = "FILE")]
    pub(crate) keys: Option<PathBuf>,
    /// Let everybody score who can reach the address
    #[arg(long, conflicts_with = "keys")]
    pub(crate) no_auth: bool,
    /// Certificate chain to serve HTTPS with, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's key, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Serve only models that one of these keys has signed: public keys, in PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) trusted_keys: Option<PathBuf>,
    /// Folder with the manifest that was signed and its signatures [default: .drisse beside the model]
    #[arg(long, value_name = "DIR", requires = "trusted_keys")]
    pub(crate) evidence: Option<PathBuf>,
    /// A /score body to warm up with and to show, instead of the model's sample.json
    #[arg(long, value_name = "FILE")]
    pub(crate) sample: Option<PathBuf>,
    /// Refuse a request at once when it would wait longer than this
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = duration)]
    pub(crate) max_wait: Duration,
    /// The longest a request may take
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub(crate) scoring_timeout: Duration,
    /// How long requests under way may take after SIGTERM
    #[arg(long, value_name = "TIME", default_value = "25s", value_parser = duration)]
    pub(crate) drain_timeout: Duration,
    /// The largest body that is read
    #[arg(long, value_name = "SIZE", default_value = "100MiB", value_parser = bytes)]
    pub(crate) max_body: usize,
    /// Threads that work on one run of a model [default: what ran best when it was first loaded here]
    #[arg(long, value_name = "N", value_parser = count)]
    pub(crate) threads: Option<usize>,
    /// Runs of a model at once [default: what ran best when it was first loaded here]
    #[arg(long, value_name = "N", value_parser = count)]
    pub(crate) workers: Option<usize>,
    /// Rows of requests that may share a run, where the model gains from it; 1 runs each request by itself
    #[arg(long, value_name = "N", default_value = "256", value_parser = count)]
    pub(crate) max_batch: usize,
    /// Load each model when it is first asked for, and keep no more of them than take this much memory together:
    /// those that were not used for longest are unloaded
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub(crate) model_memory: Option<usize>,
    /// Let whoever may score load and unload models too, by /v2/repository; --admin always lets operators
    #[arg(long)]
    pub(crate) model_control: bool,
    /// Let clients on this machine pass tensors by POSIX shared memory of this name (NAME*: of names that begin so);
    /// may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) shared_memory: Vec<String>,
    /// Let web pages of this origin score from browsers (`*`: of any); may be repeated
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) cors_origin: Vec<String>,
    /// Have /metrics say the same under Triton's names too (nv_inference_…), for dashboards that know them
    #[arg(long)]
    pub(crate) triton_metrics: bool,
    /// ONNX Runtime library to load [default: beside the binary, in the cache, or downloaded there]
    #[arg(long, value_name = "FILE", env = "DRISSE_ONNXRUNTIME")]
    pub(crate) onnxruntime: Option<PathBuf>,
    /// Write a JSON line for each request to a file, which is rotated
    #[arg(long, value_name = "FILE")]
    pub(crate) access_log: Option<PathBuf>,
    /// Write logs to a file, which is rotated, instead of stderr
    #[arg(long, value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,
    /// Control group to join, by its folder; may be repeated
    #[arg(long, value_name = "DIR", hide = true)]
    pub(crate) cgroup: Vec<PathBuf>,
    /// File with variables to have in the environment, NAME=VALUE a line
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) env_file: Option<PathBuf>,
    /// What the model's files must have as their digest
    #[arg(long, value_name = "sha256:HEX", hide = true)]
    pub(crate) digest: Option<String>,
    /// Who this server is to the place that started it
    #[arg(long, value_name = "WORKSPACE/SERVICE/REVISION/ID", hide = true)]
    pub(crate) replica: Option<String>,
}

/// `[NAME[:VERSION]=]MODEL`.
#[derive(Clone, Debug)]
pub(crate) struct ModelArgument {
    pub(crate) name: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) path: PathBuf,
}

impl FromStr for ModelArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = Self { name: None, version: None, path: text.into() };
        // A file that has `=` in its own name is that file.
        let Some((label, path)) = text.split_once('=').filter(|_| !plain.path.exists()) else {
            return Ok(plain);
        };
        if label.contains('/') {
            return Ok(plain);
        }
        let (name, version) = match label.split_once(':') {
            Some((name, version)) if !version.is_empty() => (name, Some(version.to_owned())),
            Some(_) => return Err(format!("`{label}` has a colon and no version behind it")),
            None => (label, None),
        };
        Ok(Self { name: Some(name.to_owned()), version, path: path.into() })
    }
}

/// An address or a Unix socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Endpoint {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) => Ok(Self::Unix(path.into())),
            None => address(text).map(Self::Tcp).map_err(|why| format!("{why}, or unix:PATH")),
        }
    }
}

/// How many of something there are to be.
fn count(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=Serving::MAX as usize).contains(number));
    number.ok_or_else(|| format!("a whole number from 1 to {} is wanted", Serving::MAX))
}

/// An address and a port; `localhost` is this machine's IPv4 loopback, and nothing is looked up.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let spelled = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let wanted = || "an address and a port are wanted, such as 127.0.0.1:8000 or localhost:8000".to_owned();
    spelled.as_deref().unwrap_or(text).parse().map_err(|_| wanted())
}

/// The same, of this machine alone.
pub(super) fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address = address(text)?;
    match address.ip().is_loopback() {
        true => Ok(address),
        false => Err("other machines could read all models: listen on 127.0.0.1, and put a proxy in front that asks for \
                      a login"
            .to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_a_port_and_localhost_is_loopback() {
        assert_eq!(address("localhost:80"), Ok(SocketAddr::from(([127, 0, 0, 1], 80))));
        assert_eq!(address("[::1]:80").map(|address| address.port()), Ok(80));
        assert!(
            address("localhost").is_err() && address(":80").is_err() && address("example.com:80").is_err()
        );
        assert_eq!("unix:/s".parse(), Ok(Endpoint::Unix("/s".into())));
    }

    #[test]
    fn a_model_may_carry_a_name_and_a_version() {
        let parse =
            |text: &str| text.parse::<ModelArgument>().map(|model| (model.name, model.version, model.path));
        assert_eq!(parse("a/b.onnx"), Ok((None, None, "a/b.onnx".into())));
        assert_eq!(parse("m=b.onnx"), Ok((Some("m".into()), None, "b.onnx".into())));
        assert_eq!(parse("m:7=b.onnx"), Ok((Some("m".into()), Some("7".into()), "b.onnx".into())));
        assert_eq!(parse("a/x=1/b.onnx"), Ok((None, None, "a/x=1/b.onnx".into())));
        assert!(parse("m:=b.onnx").is_err());
    }
}
