//! The command line: what can be said, and nothing that does not work yet.

use crate::printer;
use crate::units::{bytes, duration};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

/// Takes a trained model to production.
#[derive(Debug, Parser)]
#[command(name = "drisse", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// How results are printed on stdout
    #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Text,
    /// One JSON document
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve models: one scoring server, complete by itself
    Serve(Box<Serve>),
    /// Show what a model file holds, without running it
    Inspect(Inspect),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Serve {
    /// Model files or folders; NAME= serves one under another name than its file's
    #[arg(required = true, value_name = "[NAME[:VERSION]=]MODEL")]
    pub(crate) models: Vec<ModelArgument>,
    /// Address to score on [default: 127.0.0.1:8000, unless --unix is given]
    #[arg(long, value_name = "ADDRESS:PORT")]
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
    /// ONNX Runtime library to load [default: beside the binary, in the cache, or downloaded there]
    #[arg(long, value_name = "FILE", env = "DRISSE_ONNXRUNTIME")]
    pub(crate) onnxruntime: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Model file or folder
    pub(crate) file: PathBuf,
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
            None => text.parse().map(Self::Tcp).map_err(|_| "not ADDRESS:PORT nor unix:PATH".to_owned()),
        }
    }
}

/// The parsed line; or, where that was all, the code to exit with.
pub(crate) fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| {
        // Help that was asked for is a result; anything else the user can mend.
        let code = if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        printer::usage(&error);
        code
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
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
