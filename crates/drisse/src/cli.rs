//! The command line: commands, options and their help texts.

mod image;
mod manage;
mod serve;
mod service;

pub(crate) use image::{Destination, ImageBuild, ImageCommand, ImagePush};
pub(crate) use manage::*;
pub(crate) use serve::Serve;
pub(crate) use service::{Deploy, Import, ImportTriton, ServiceOptions, Update, WhenRestarted};

use crate::error::CliError;
use crate::printer;
use clap::{Parser, Subcommand, ValueEnum};
use std::process::ExitCode;

/// Takes a trained model to production.
#[derive(Debug, Parser)]
#[command(name = "drisse", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// Output format
    #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
    /// Workspace folder, or http(s)://HOST:PORT of a control plane [default: ~/.local/share/drisse]
    #[arg(long, global = true, value_name = "DIR|URL", env = "DRISSE_WORKSPACE")]
    pub(crate) workspace: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Output {
    /// Human-readable text
    Text,
    /// One JSON document
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Deploy a model as a service with a stable endpoint, or update that service
    Deploy(Box<Deploy>),
    /// Change the model or the options of a service
    Update(Box<Update>),
    /// Return a service to an earlier revision
    Rollback(Rollback),
    /// Delete a service
    Delete(Delete),
    /// Send a scoring request to a service
    Score(Score),
    /// List services, or show one
    Services(Services),
    /// Show the logs of a service's replicas
    Logs(Logs),
    /// Show or replace the keys of a service
    Keys(Keys),
    /// Register, list, sign, verify, push, pull and delete models
    Models(Models),
    /// Deploy the models of another server
    #[command(subcommand)]
    Import(Import),
    /// Build and push container images that serve a model
    #[command(subcommand)]
    Image(ImageCommand),
    /// List, attach, detach and check targets
    Targets(Targets),
    /// List, follow and cancel operations
    Operations(Operations),
    /// Show the inputs, outputs and metadata of a model file
    Inspect(Inspect),
    /// Measure a model's latency and throughput on this machine, and recommend settings
    Profile(Profile),
    /// Run a standalone scoring server
    #[command(args_override_self = true)]
    Serve(Box<Serve>),
    /// Test a server against the inference protocols
    Conformance(Conformance),
    /// Start the control plane and the gateway of the workspace
    Up(Up),
    /// Stop everything in the workspace; `up` starts it again
    Down,
    /// Show whether the control plane and the gateway are running
    Status,
    /// Check what this machine has and lacks, with a remedy for each problem
    Doctor,
    /// Print a completion script for a shell
    Completions {
        /// Shell to generate the script for
        shell: clap_complete::Shell,
    },
    /// Run a control plane
    #[command(hide = true)]
    Control(Up),
    /// Run a gateway
    #[command(hide = true)]
    Gateway(Gateway),
}

impl Cli {
    /// Whether the command runs models in this process.
    pub(crate) fn runs_models(&self) -> bool {
        matches!(self.command, Command::Serve(_) | Command::Profile(_))
    }

    /// Whether the command serves requests until it is stopped.
    pub(crate) fn is_server(&self) -> bool {
        matches!(self.command, Command::Serve(_) | Command::Control(_) | Command::Gateway(_))
    }
}

/// Parses the command line. Returns the exit code if there is nothing more to do (help, version, a usage error).
pub(crate) fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| {
        // Requested help is a result; anything else is an error that the user can fix.
        if !error.use_stderr() {
            printer::usage(&error);
            return printer::succeeded(ExitCode::SUCCESS);
        }
        // `--output json` also applies to usage errors, although clap could not parse the line.
        let arguments: Vec<_> = std::env::args_os().collect();
        let json = arguments.iter().any(|word| word == "--output=json")
            || arguments.windows(2).any(|words| words[0] == "--output" && words[1] == "json");
        if json {
            let text = error.to_string();
            let message = text.trim_start_matches("error: ").split("\n\nUsage:").next().unwrap_or_default();
            let words: Vec<_> = message.split_whitespace().collect();
            return printer::failure(&CliError::new(words.join(" ")).hint("try --help"), Output::Json);
        }
        printer::usage(&error);
        ExitCode::FAILURE
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
}
