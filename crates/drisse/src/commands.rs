//! One file per command, and the dispatch from the command line to them.

mod conformance;
mod control;
mod curl;
mod deploy;
mod doctor;
mod gateway;
mod image;
mod inspect;
mod keys;
mod logs;
mod models;
mod named;
mod operations;
mod profile;
mod score;
mod serve;
mod services;
mod sign;
mod targets;
mod transfer;
mod up;

use crate::cli::{Cli, Command};
use crate::connect::WorkspaceRef;
use crate::error::Result;
use crate::printer;
use anyhow::Context;
use clap::CommandFactory;
use std::process::ExitCode;

pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    let output = cli.output;
    let named = cli.workspace.as_deref();
    let read_only = matches!(cli.command, Command::Down | Command::Status | Command::Doctor);
    let place = || if read_only { WorkspaceRef::existing(named) } else { WorkspaceRef::new(named) };
    match cli.command {
        // These commands need no workspace, or run a runtime of their own.
        Command::Serve(serve) => return serve::run(&serve, output),
        Command::Inspect(inspect) => return inspect::run(&inspect, output),
        Command::Conformance(conformance) => return conformance::run(&conformance, output),
        Command::Control(control) => return control::run(&control, place()?),
        Command::Gateway(gateway) => return gateway::run(&gateway),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "drisse", &mut script);
            printer::text(&String::from_utf8_lossy(&script));
            return Ok(ExitCode::SUCCESS);
        }
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let place = place()?;
    runtime.block_on(async {
        match cli.command {
            Command::Deploy(deploy) => deploy::deploy(&place, &deploy, output).await,
            Command::Update(update) => deploy::update(&place, &update, output).await,
            Command::Rollback(rollback) => deploy::rollback(&place, &rollback, output).await,
            Command::Delete(delete) => services::delete(&place, &delete, output).await,
            Command::Score(score) => score::run(&place, &score).await,
            Command::Services(services) => services::run(&place, &services, output).await,
            Command::Logs(logs) => logs::run(&place, &logs, output).await,
            Command::Keys(keys) => keys::run(&place, &keys, output).await,
            Command::Models(models) => models::run(&place, &models, output).await,
            Command::Image(image) => image::run(&place, &image, output).await,
            Command::Targets(targets) => targets::run(&place, &targets, output).await,
            Command::Profile(profile) => profile::run(&place, &profile, output).await,
            Command::Operations(operations) => operations::run(&place, &operations, output).await,
            Command::Up(up) => up::up(&place, &up, output).await,
            Command::Down => up::down(&place, output).await,
            Command::Status => up::status(&place, output).await,
            Command::Doctor => doctor::run(&place, output).await,
            _ => unreachable!("returned above"),
        }
    })
}
