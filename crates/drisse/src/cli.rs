//! The command line: what can be said, and nothing that does not work yet.

mod image;
mod manage;
mod serve;
mod service;

pub(crate) use image::{Destination, Image, ImageBuild, ImageCommand, ImagePush};
pub(crate) use manage::*;
pub(crate) use serve::{Endpoint, ModelArgument, Serve};
pub(crate) use service::{Deploy, ServiceOptions, Update, WhenRestarted};

use crate::failure::Failure;
use crate::printer;
use clap::{Parser, Subcommand, ValueEnum};
use std::process::ExitCode;

/// Takes a trained model to production.
#[derive(Debug, Parser)]
#[command(name = "drisse", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// How results are printed on stdout
    #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
    /// The workspace: a folder, or http(s)://HOST:PORT of a control plane [default: the user's data folder]
    #[arg(long, global = true, value_name = "DIR|URL", env = "DRISSE_WORKSPACE")]
    pub(crate) workspace: Option<String>,
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
    /// Deploy a model: a service with a stable endpoint, created or updated
    Deploy(Box<Deploy>),
    /// Change a service: its model, its options, or both
    Update(Box<Update>),
    /// Make an earlier revision of a service wanted again
    Rollback(Rollback),
    /// Remove a service
    Delete(Delete),
    /// Score a request with a service
    Score(Score),
    /// List services, or show one
    Services(Services),
    /// Show what a service's replicas write
    Logs(Logs),
    /// Show a service's keys, or replace one
    Keys(Keys),
    /// Register, list, tag, verify and delete models
    Models(Models),
    /// Build container images that serve a model
    Image(Image),
    /// List targets, or check one
    Targets(Targets),
    /// List operations, show, follow or cancel one
    Operations(Operations),
    /// Show what a model file holds, without running it
    Inspect(Inspect),
    /// Measure how a model runs best here: latency against throughput, and what to give it
    Profile(Profile),
    /// Serve models: one scoring server, complete by itself
    Serve(Box<Serve>),
    /// Check a server, ours or another, against the inference protocols
    Conformance(Conformance),
    /// Start the control plane and the gateway of the workspace
    Up(Up),
    /// Stop everything in the workspace; what is wanted is kept for the next `up`
    Down,
    /// Show whether the control plane and the gateway run
    Status,
    /// Show what this machine has and lacks, with a remedy for each
    Doctor,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Run a control plane
    #[command(hide = true)]
    Control(Control),
    /// Run a gateway
    #[command(hide = true)]
    Gateway(Gateway),
}

impl Cli {
    /// Whether the command serves requests until it is stopped.
    pub(crate) fn is_server(&self) -> bool {
        matches!(self.command, Command::Serve(_) | Command::Control(_) | Command::Gateway(_))
    }
}

/// The parsed line; or, where that was all, the code to exit with.
pub(crate) fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| {
        // Help that was asked for is a result; anything else the user can mend.
        if !error.use_stderr() {
            printer::usage(&error);
            return ExitCode::SUCCESS;
        }
        // What asked for a document gets one, though the line it stands on could not be read.
        let arguments: Vec<_> = std::env::args().collect();
        let json = arguments.iter().any(|word| word == "--output=json")
            || arguments.windows(2).any(|words| words[0] == "--output" && words[1] == "json");
        if json {
            let text = error.to_string();
            let said = text.trim_start_matches("error: ").split("\n\nUsage:").next().unwrap_or_default();
            let words: Vec<_> = said.split_whitespace().collect();
            return printer::failure(&Failure::new(words.join(" ")).hint("try --help"), Output::Json);
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
