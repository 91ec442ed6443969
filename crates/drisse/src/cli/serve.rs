//! The arguments of `drisse serve`, and parsers for addresses and numbers.

use crate::units::{bytes, duration, idle_time, max_wait};
use clap::Args;
use drisse_core::{MaxWait, Serving};
use drisse_serve::{Endpoint, ModelPath};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Debug, Args)]
pub(crate) struct Serve {
    /// Model files or folders; NAME= sets the name to serve a model under [default: the file's name]
    #[arg(required_unless_present = "repository", value_name = "[NAME[:VERSION]=]MODEL", value_parser = model)]
    pub(crate) models: Vec<ModelPath>,
    /// Serve all models of a Triton model repository, too
    #[arg(long, value_name = "DIR", env = "DRISSE_REPOSITORY")]
    pub(crate) repository: Option<PathBuf>,
    /// Address to serve on [default: 127.0.0.1:8000, unless --unix is given]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address, env = "DRISSE_LISTEN")]
    pub(crate) listen: Option<SocketAddr>,
    /// Unix socket to serve on
    #[arg(long, value_name = "PATH", env = "DRISSE_UNIX")]
    pub(crate) unix: Option<PathBuf>,
    /// Address for health checks, metrics and administration
    #[arg(long, value_name = "ADDRESS:PORT|unix:PATH", value_parser = endpoint, env = "DRISSE_ADMIN")]
    pub(crate) admin: Option<Endpoint>,
    /// File with the accepted keys, one per line, plain or as sha256:HEX
    #[arg(long, value_name = "FILE")]
    pub(crate) keys: Option<PathBuf>,
    /// Accept requests without a key
    #[arg(long, conflicts_with = "keys")]
    pub(crate) no_auth: bool,
    /// Certificate chain for HTTPS (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key", env = "DRISSE_TLS_CERT")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert", env = "DRISSE_TLS_KEY")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Serve only models signed by one of the public keys in this file (PEM)
    #[arg(long, value_name = "FILE", env = "DRISSE_TRUSTED_KEYS")]
    pub(crate) trusted_keys: Option<PathBuf>,
    /// Folder with the signed manifest and its signatures [default: .drisse next to the model]
    #[arg(long, value_name = "DIR", requires = "trusted_keys", env = "DRISSE_EVIDENCE")]
    pub(crate) evidence: Option<PathBuf>,
    /// Further name of the model, which clients use as they do its own; may be repeated
    #[arg(long, value_name = "NAME", value_delimiter = ',', conflicts_with_all = ["model_memory", "repository"], env = "DRISSE_ALIAS")]
    pub(crate) alias: Vec<String>,
    /// Sample request (a /score body) for warm-up and examples, instead of the model's sample.json
    #[arg(long, value_name = "FILE", env = "DRISSE_SAMPLE")]
    pub(crate) sample: Option<PathBuf>,
    /// Refuse a request at once if its estimated wait is longer than this; `auto`: than four times what a request takes, at
    /// least 500ms
    #[arg(long, value_name = "TIME", default_value = "auto", value_parser = max_wait, env = "DRISSE_MAX_WAIT")]
    pub(crate) max_wait: MaxWait,
    /// Maximum time for a request
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration, env = "DRISSE_SCORING_TIMEOUT")]
    pub(crate) scoring_timeout: Duration,
    /// Close connections that were idle for this time; longer than load balancers keep them
    #[arg(long, value_name = "TIME", default_value = "75s", value_parser = idle_time, env = "DRISSE_IDLE_TIMEOUT")]
    pub(crate) idle_timeout: Duration,
    /// Time to finish running requests after SIGTERM
    #[arg(long, value_name = "TIME", default_value = "25s", value_parser = duration, env = "DRISSE_DRAIN_TIMEOUT")]
    pub(crate) drain_timeout: Duration,
    /// Maximum size of a request body
    #[arg(long, value_name = "SIZE", default_value = "100MiB", value_parser = bytes, env = "DRISSE_MAX_BODY")]
    pub(crate) max_body: usize,
    /// Threads per run of a model [default: measured when the model is first loaded]
    #[arg(long, value_name = "N", value_parser = count, env = "DRISSE_THREADS")]
    pub(crate) threads: Option<usize>,
    /// Concurrent runs of a model [default: measured when the model is first loaded]
    #[arg(long, value_name = "N", value_parser = count, env = "DRISSE_WORKERS")]
    pub(crate) workers: Option<usize>,
    /// Maximum rows of requests combined into one run, for models that gain from it; 1 disables batching
    #[arg(long, value_name = "N", default_value = "256", value_parser = count, env = "DRISSE_MAX_BATCH")]
    pub(crate) max_batch: usize,
    /// Load models at their first request, and unload the least recently used to stay within this memory
    #[arg(long, value_name = "SIZE", value_parser = bytes, env = "DRISSE_MODEL_MEMORY")]
    pub(crate) model_memory: Option<usize>,
    /// Allow clients to load and unload models over /v2/repository; --admin always allows it
    #[arg(long, env = "DRISSE_MODEL_CONTROL")]
    pub(crate) model_control: bool,
    /// Allow local clients to pass tensors in POSIX shared memory of this name (`NAME*`: prefix); may be repeated
    #[arg(long, value_name = "NAME", env = "DRISSE_SHARED_MEMORY", value_delimiter = ',')]
    pub(crate) shared_memory: Vec<String>,
    /// Allow web pages of this origin to send requests (`*`: any origin); may be repeated
    #[arg(long, value_name = "ORIGIN", env = "DRISSE_CORS_ORIGIN", value_delimiter = ',')]
    pub(crate) cors_origin: Vec<String>,
    /// Also export metrics under Triton's names (nv_inference_…)
    #[arg(long, env = "DRISSE_TRITON_METRICS")]
    pub(crate) triton_metrics: bool,
    /// ONNX Runtime library to load [default: next to the binary, in the cache, or downloaded]
    #[arg(long, value_name = "FILE", env = "DRISSE_ONNXRUNTIME")]
    pub(crate) onnxruntime: Option<PathBuf>,
    /// Write a JSON line for each request to this file, and rotate it
    #[arg(long, value_name = "FILE", env = "DRISSE_ACCESS_LOG")]
    pub(crate) access_log: Option<PathBuf>,
    /// Write logs to this file instead of stderr, and rotate it
    #[arg(long, value_name = "FILE", env = "DRISSE_LOG_FILE")]
    pub(crate) log_file: Option<PathBuf>,
    /// Listen as an image does: on every address, at the port that the variable PORT names
    #[arg(long, hide = true)]
    pub(crate) image: bool,
    /// Folder of a control group to join; may be repeated
    #[arg(long, value_name = "DIR", hide = true)]
    pub(crate) cgroup: Vec<PathBuf>,
    /// File with environment variables, one NAME=VALUE per line
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) env_file: Option<PathBuf>,
    /// Expected digest of the model's files
    #[arg(long, value_name = "sha256:HEX", hide = true)]
    pub(crate) digest: Option<String>,
    /// Identity of this replica
    #[arg(long, value_name = "WORKSPACE/SERVICE/REVISION/ID", hide = true)]
    pub(crate) replica: Option<String>,
}

/// Parses `[NAME[:VERSION]=]MODEL`.
fn model(text: &str) -> Result<ModelPath, String> {
    let plain = ModelPath::new(text);
    // The name of an existing file may contain `=`.
    let Some((label, path)) = text.split_once('=').filter(|_| !plain.path.exists()) else {
        return Ok(plain);
    };
    if label.contains('/') {
        return Ok(plain);
    }
    let (name, version) = match label.split_once(':') {
        Some((name, version)) if !version.is_empty() => (name, Some(version.to_owned())),
        Some(_) => return Err(format!("`{label}` has a colon but no version after it")),
        None => (label, None),
    };
    Ok(ModelPath { name: Some(name.to_owned()), version, path: path.into() })
}

/// Parses an address, or `unix:` and the path of a socket.
fn endpoint(text: &str) -> Result<Endpoint, String> {
    match text.strip_prefix("unix:") {
        Some(path) => Ok(Endpoint::Unix(path.into())),
        None => address(text).map(Endpoint::Tcp).map_err(|why| format!("{why}, or unix:PATH")),
    }
}

/// Parses a whole number from 1 to [`Serving::MAX`].
fn count(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=Serving::MAX as usize).contains(number));
    number.ok_or_else(|| format!("expected a whole number from 1 to {}", Serving::MAX))
}

/// Parses an IP address and a port. `localhost` is 127.0.0.1; no other host name is resolved.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let spelled = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let expected = || "expected an address and a port, such as 127.0.0.1:8000 or localhost:8000".to_owned();
    spelled.as_deref().unwrap_or(text).parse().map_err(|_| expected())
}

/// Parses an address and a port like [`address`], and accepts only loopback addresses.
pub(super) fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address = address(text)?;
    let refusal = "other machines could read all models: listen on 127.0.0.1, and put a proxy that requires a login \
                   in front";
    if address.ip().is_loopback() { Ok(address) } else { Err(refusal.to_owned()) }
}

/// Parses the URL of a server, and returns it without a slash at the end.
pub(super) fn public_url(text: &str) -> Result<String, String> {
    let url = text.trim_end_matches('/');
    let is_server = |uri: &hyper::Uri| {
        let schemed = matches!(uri.scheme_str(), Some("http" | "https"));
        let bare = uri.path() == "/" && uri.query().is_none();
        schemed && bare && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
    };
    let parsed = url.parse::<hyper::Uri>().ok().filter(is_server);
    parsed
        .map(|_| url.to_owned())
        .ok_or_else(|| "expected https://HOST, or with a port https://HOST:PORT".to_owned())
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
        assert_eq!(endpoint("unix:/s"), Ok(Endpoint::Unix("/s".into())));
    }

    #[test]
    fn a_model_may_carry_a_name_and_a_version() {
        let parse = |text: &str| model(text).map(|model| (model.name, model.version, model.path));
        assert_eq!(parse("a/b.onnx"), Ok((None, None, "a/b.onnx".into())));
        assert_eq!(parse("m=b.onnx"), Ok((Some("m".into()), None, "b.onnx".into())));
        assert_eq!(parse("m:7=b.onnx"), Ok((Some("m".into()), Some("7".into()), "b.onnx".into())));
        assert_eq!(parse("a/x=1/b.onnx"), Ok((None, None, "a/x=1/b.onnx".into())));
        assert!(parse("m:=b.onnx").is_err());
    }
}
