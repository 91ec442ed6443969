//! `drisse deploy` and `update`, and what can be said of a service.

use super::manage::RegistryOptions;
use crate::units::{bytes, duration};
use clap::{Args, ValueEnum};
use drisse_core::{Limits, Serving, size};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// A model file or folder (with a `/` or an extension), a registered NAME[:VERSION], or oci://HOST/REPOSITORY[:TAG]
    pub(crate) model: String,
    /// The service's name, and that of the model a file is registered as [default: the file's]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Where it runs [default: local]
    #[arg(long)]
    pub(crate) target: Option<String>,
    #[command(flatten)]
    pub(crate) options: ServiceOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// The service
    pub(crate) service: String,
    /// A model file or folder, or a registered NAME[:VERSION] [default: the one it has]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) options: ServiceOptions,
}

/// An option that is not given keeps its value.
#[derive(Debug, Default, Args)]
pub(crate) struct ServiceOptions {
    /// How many scoring servers, whatever the revision [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) replicas: Option<u32>,
    /// Ask for a key (the default)
    #[arg(long, conflicts_with = "no_auth")]
    pub(crate) auth: bool,
    /// Let everybody score who can reach the gateway
    #[arg(long)]
    pub(crate) no_auth: bool,
    /// Tags of the service; those given replace all
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) tags: Vec<(String, String)>,
    /// Let web pages of this origin score from browsers (`*`: of any); may be repeated, those given replace all
    #[arg(long = "cors-origin", value_name = "ORIGIN", conflicts_with = "no_cors")]
    pub(crate) cors_origins: Vec<String>,
    /// Let web pages of no origin score (the default)
    #[arg(long)]
    pub(crate) no_cors: bool,
    /// Write a line for each request to the service's access.log, at the gateway
    #[arg(long, conflicts_with = "no_access_log")]
    pub(crate) access_log: bool,
    /// Write no such lines (the default)
    #[arg(long)]
    pub(crate) no_access_log: bool,
    /// A /score body that is kept with the model, instead of the sample.json beside it
    #[arg(long, value_name = "FILE")]
    pub(crate) sample: Option<PathBuf>,
    /// Refuse a request when it would wait longer than this [default: 500ms]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) max_wait: Option<Duration>,
    /// The longest a request may take [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) scoring_timeout: Option<Duration>,
    /// Threads that work on one run of the model; `auto` is what runs best [default: auto]
    #[arg(long, value_name = "N", value_parser = number_or_auto)]
    pub(crate) threads: Option<u32>,
    /// Runs of the model at once in a replica; `auto` is what runs best [default: auto]
    #[arg(long, value_name = "N", value_parser = number_or_auto)]
    pub(crate) workers: Option<u32>,
    /// Rows of requests that may share a run; 1 runs each request by itself [default: auto]
    #[arg(long, value_name = "N", value_parser = number_or_auto)]
    pub(crate) max_batch: Option<u32>,
    /// What each replica may use of the cpu, in cores: 0.5, 500m; `none` is no limit [default: none]
    #[arg(long, value_name = "CORES", value_parser = cpu)]
    pub(crate) cpu: Option<u32>,
    /// The memory each replica may use: 512MiB, 2GB; `none` is no limit [default: none]
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub(crate) memory: Option<u64>,
    /// Whether another replica takes the place of one that has ended [default: always]
    #[arg(long, value_name = "WHEN", value_enum)]
    pub(crate) restart: Option<WhenRestarted>,
    /// A variable of the replicas' environment; may be repeated, those given replace all
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = pair, conflicts_with = "no_env")]
    pub(crate) env: Vec<(String, String)>,
    /// No variables of their own (the default)
    #[arg(long)]
    pub(crate) no_env: bool,
    /// File with variables that are secret, NAME=VALUE a line; they replace all that were; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "no_secret_env")]
    pub(crate) secret_env: Option<PathBuf>,
    /// No secret variables (the default)
    #[arg(long)]
    pub(crate) no_secret_env: bool,
    /// Have /metrics say the same under Triton's names too
    #[arg(long, conflicts_with = "no_triton_metrics")]
    pub(crate) triton_metrics: bool,
    /// Have /metrics say it under Drisse's names alone (the default)
    #[arg(long)]
    pub(crate) no_triton_metrics: bool,
    #[command(flatten)]
    pub(crate) registry: RegistryOptions,
    /// How long this may take before what was before is wanted again [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Return at once; `drisse operations` shows how it goes
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Deploy although the model's inputs or outputs have changed
    #[arg(long)]
    pub(crate) replace: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum WhenRestarted {
    /// Whatever it ended with
    Always,
    /// Unless it ended with exit code 0
    OnFailure,
    /// Not
    Never,
}

/// A number from 1, or 0 for `auto`.
fn number_or_auto(text: &str) -> Result<u32, String> {
    match text.parse() {
        _ if text == "auto" => Ok(0),
        Ok(number @ 1..=Serving::MAX) => Ok(number),
        _ => Err(format!("a number from 1 to {} is wanted, or `auto`", Serving::MAX)),
    }
}

/// Thousandths of a core, or 0 for `none`.
fn cpu(text: &str) -> Result<u32, String> {
    if text == "none" {
        return Ok(0);
    }
    let (number, scale) = match text.strip_suffix('m') {
        Some(number) => (number, 1.0),
        None => (text, 1000.0),
    };
    let number: f64 =
        number.parse().map_err(|_| "a number of cores is wanted, such as 0.5 or 500m".to_owned())?;
    let millis = (number * scale).round();
    if millis >= f64::from(Limits::MIN_CPU) && millis <= f64::from(u32::MAX) {
        Ok(millis as u32)
    } else {
        Err("at least 0.01 of a core is needed, or `none`".to_owned())
    }
}

/// Bytes, or 0 for `none`.
fn memory(text: &str) -> Result<u64, String> {
    if text == "none" {
        return Ok(0);
    }
    let least = format!("at least {} is needed, or `none`", size(Limits::MIN_MEMORY));
    if text == "0" {
        return Err(least);
    }
    let memory = bytes(text)? as u64;
    if memory >= Limits::MIN_MEMORY { Ok(memory) } else { Err(least) }
}

/// `KEY=VALUE`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("KEY=VALUE is wanted".to_owned()),
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
