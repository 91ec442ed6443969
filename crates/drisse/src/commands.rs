//! One file per command, and the dispatch from the command line to them.

mod conformance;
mod control;
mod curl;
mod deploy;
mod doctor;
mod down;
mod gateway;
mod image;
mod import;
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
mod upload;

use crate::cli::{Cli, Command, Import};
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
    let workspace = || if read_only { WorkspaceRef::existing(named) } else { WorkspaceRef::new(named) };
    match cli.command {
        // These commands need no workspace, or run a runtime of their own.
        Command::Serve(serve) => return serve::run(&serve, output),
        Command::Inspect(inspect) => return inspect::run(&inspect, output),
        Command::Conformance(conformance) => return conformance::run(&conformance, output),
        Command::Control(control) => return control::run(&control, workspace()?),
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
    let workspace = workspace()?;
    runtime.block_on(async {
        match cli.command {
            Command::Deploy(deploy) => deploy::deploy(&workspace, &deploy, output).await,
            Command::Update(update) => deploy::update(&workspace, &update, output).await,
            Command::Rollback(rollback) => deploy::rollback(&workspace, &rollback, output).await,
            Command::Delete(delete) => services::delete(&workspace, &delete, output).await,
            Command::Score(score) => score::run(&workspace, &score).await,
            Command::Services(services) => services::run(&workspace, &services, output).await,
            Command::Logs(logs) => logs::run(&workspace, &logs, output).await,
            Command::Keys(keys) => keys::run(&workspace, &keys, output).await,
            Command::Models(models) => models::run(&workspace, &models, output).await,
            Command::Import(Import::Triton(triton)) => import::triton(&workspace, &triton, output).await,
            Command::Image(image) => image::run(&workspace, &image, output).await,
            Command::Targets(targets) => targets::run(&workspace, &targets, output).await,
            Command::Profile(profile) => profile::run(&workspace, &profile, output).await,
            Command::Operations(operations) => operations::run(&workspace, &operations, output).await,
            Command::Up(up) => up::up(&workspace, &up, output).await,
            Command::Down => down::down(&workspace, output).await,
            Command::Status => up::status(&workspace, output).await,
            Command::Doctor => doctor::run(&workspace, output).await,
            _ => unreachable!("returned above"),
        }
    })
}
