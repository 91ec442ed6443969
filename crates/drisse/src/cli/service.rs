//! The arguments of `drisse deploy` and `update`: a model, a service and its options.

use super::manage::RegistryOptions;
use crate::units::{bytes, duration, max_wait};
use clap::{Args, Subcommand, ValueEnum};
use drisse_core::{Limits, MaxWait, Serving, size};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// Model file or folder (with a `/` or an extension), registered NAME[:VERSION], or oci://HOST/REPOSITORY[:TAG]
    pub(crate) model: String,
    /// Name of the service, and of the model if MODEL is a file [default: the file's name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Target that runs the service [default: local]
    #[arg(long)]
    pub(crate) target: Option<String>,
    #[command(flatten)]
    pub(crate) options: ServiceOptions,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Import {
    /// Register all versions in a Triton model repository, and deploy each model under its name
    Triton(ImportTriton),
}

#[derive(Debug, Args)]
pub(crate) struct ImportTriton {
    /// The model repository: a folder with NAME/1/model.onnx
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
    /// Target that runs the services [default: local]
    #[arg(long)]
    pub(crate) target: Option<String>,
    /// Number of replicas of each service [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) replicas: Option<u32>,
    /// Accept requests without a key
    #[arg(long)]
    pub(crate) no_auth: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Name of the service
    pub(crate) service: String,
    /// New model: file, folder, registered NAME[:VERSION] or oci://… [default: the current model]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) options: ServiceOptions,
}

/// Options of a service. In an update, an option that is not given keeps its value.
#[derive(Debug, Default, Args)]
pub(crate) struct ServiceOptions {
    /// Number of replicas [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) replicas: Option<u32>,
    /// Require a key in each request (the default)
    #[arg(long, conflicts_with = "no_auth")]
    pub(crate) auth: bool,
    /// Accept requests without a key
    #[arg(long)]
    pub(crate) no_auth: bool,
    /// Tag of the service; may be repeated; replaces the existing tags
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) tags: Vec<(String, String)>,
    /// Further name of the service, which clients use as they do its own; may be repeated; replaces the existing aliases
    #[arg(long = "alias", value_name = "NAME", conflicts_with = "no_alias")]
    pub(crate) aliases: Vec<String>,
    /// Remove the aliases
    #[arg(long)]
    pub(crate) no_alias: bool,
    /// Allow web pages of this origin to send requests (`*`: any origin); may be repeated; replaces the existing origins
    #[arg(long = "cors-origin", value_name = "ORIGIN", conflicts_with = "no_cors")]
    pub(crate) cors_origins: Vec<String>,
    /// Allow no web pages to send requests (the default)
    #[arg(long)]
    pub(crate) no_cors: bool,
    /// Log each request at the gateway to the service's access.log
    #[arg(long, conflicts_with = "no_access_log")]
    pub(crate) access_log: bool,
    /// Do not log requests (the default)
    #[arg(long)]
    pub(crate) no_access_log: bool,
    /// Sample request (a /score body) to store with the model, instead of the sample.json next to it
    #[arg(long, value_name = "FILE")]
    pub(crate) sample: Option<PathBuf>,
    /// Follow links in the model's folder to files outside of it
    #[arg(long)]
    pub(crate) follow_links: bool,
    /// Refuse a request at once if its estimated wait is longer than this; `auto`: than four times what a request takes, at
    /// least 500ms [default: auto]
    #[arg(long, value_name = "TIME", value_parser = max_wait)]
    pub(crate) max_wait: Option<MaxWait>,
    /// Maximum time for a request [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) scoring_timeout: Option<Duration>,
    /// Threads per run of the model; `auto` measures the best number [default: auto]
    #[arg(long, value_name = "N", value_parser = number_or_auto)]
    pub(crate) threads: Option<u32>,
    /// Concurrent runs of the model in a replica; `auto` measures the best number [default: auto]
    #[arg(long, value_name = "N", value_parser = number_or_auto)]
    pub(crate) workers: Option<u32>,
    /// Maximum rows of requests combined into one run; 1 disables batching [default: auto]
    #[arg(long, value_name = "N", value_parser = number_or_auto)]
    pub(crate) max_batch: Option<u32>,
    /// CPU limit of each replica in cores: 0.5, 500m or `none` [default: none]
    #[arg(long, value_name = "CORES", value_parser = cpu)]
    pub(crate) cpu: Option<u32>,
    /// Memory limit of each replica: 512MiB, 2GB or `none` [default: none]
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub(crate) memory: Option<u64>,
    /// When to replace a replica that has exited [default: always]
    #[arg(long, value_name = "WHEN", value_enum)]
    pub(crate) restart: Option<WhenRestarted>,
    /// Environment variable of the replicas; may be repeated; replaces the existing variables
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = pair, conflicts_with = "no_env")]
    pub(crate) env: Vec<(String, String)>,
    /// Set no environment variables (the default)
    #[arg(long)]
    pub(crate) no_env: bool,
    /// File with secret environment variables, one NAME=VALUE per line; `-` is standard input; replaces the existing ones
    #[arg(long, value_name = "FILE", conflicts_with = "no_secret_env")]
    pub(crate) secret_env: Option<PathBuf>,
    /// Set no secret environment variables (the default)
    #[arg(long)]
    pub(crate) no_secret_env: bool,
    /// Also export metrics under Triton's names (nv_inference_…)
    #[arg(long, conflicts_with = "no_triton_metrics")]
    pub(crate) triton_metrics: bool,
    /// Export metrics only under Drisse's names (the default)
    #[arg(long)]
    pub(crate) no_triton_metrics: bool,
    #[command(flatten)]
    pub(crate) registry: RegistryOptions,
    /// Maximum time for the change; after it, the service returns to its earlier state [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Return at once; `drisse operations` shows the progress
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Deploy even if the model's inputs or outputs have changed
    #[arg(long)]
    pub(crate) replace: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum WhenRestarted {
    /// After any exit code
    Always,
    /// After any exit code except 0
    OnFailure,
    /// Do not replace it
    Never,
}

/// Parses a number from 1 to [`Serving::MAX`], or `auto` as 0.
fn number_or_auto(text: &str) -> Result<u32, String> {
    match text.parse() {
        _ if text == "auto" => Ok(0),
        Ok(number @ 1..=Serving::MAX) => Ok(number),
        _ => Err(format!("expected a number from 1 to {}, or `auto`", Serving::MAX)),
    }
}

/// Parses a number of cores into thousandths of a core, and `none` as 0.
fn cpu(text: &str) -> Result<u32, String> {
    if text == "none" {
        return Ok(0);
    }
    let (number, scale) = match text.strip_suffix('m') {
        Some(number) => (number, 1.0),
        None => (text, 1000.0),
    };
    let number: f64 =
        number.parse().map_err(|_| "expected a number of cores, such as 0.5 or 500m".to_owned())?;
    let millis = (number * scale).round();
    if millis >= f64::from(Limits::MIN_CPU) && millis <= f64::from(u32::MAX) {
        Ok(millis as u32)
    } else {
        Err("expected at least 0.01 cores, or `none`".to_owned())
    }
}

/// Parses a size into bytes, and `none` as 0.
fn memory(text: &str) -> Result<u64, String> {
    if text == "none" {
        return Ok(0);
    }
    let least = format!("expected at least {}, or `none`", size(Limits::MIN_MEMORY));
    if text == "0" {
        return Err(least);
    }
    let memory = bytes(text)? as u64;
    if memory >= Limits::MIN_MEMORY { Ok(memory) } else { Err(least) }
}

/// Splits `KEY=VALUE`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_may_be_parts_or_thousandths_and_too_little_is_refused() {
        assert_eq!((cpu("0.5"), cpu("500m"), cpu("2"), cpu("none")), (Ok(500), Ok(500), Ok(2000), Ok(0)));
        for wrong in ["0", "-1", "0.001", "NaN", "inf", "1e300", "half", "", "m"] {
            assert!(cpu(wrong).is_err(), "{wrong}");
        }
        assert_eq!((memory("512MiB"), memory("none")), (Ok(512 << 20), Ok(0)));
        for wrong in ["0", "0MiB", "1MiB", "-1MiB", "much"] {
            assert!(memory(wrong).is_err(), "{wrong}");
        }
    }
}
