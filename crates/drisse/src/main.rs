//! The one binary: parse, run, print what went wrong.

mod cli;
mod commands;
mod connect;
mod failure;
mod follow;
mod logs;
mod printer;
mod steps;
mod traces;
mod units;
mod wiring;

use std::process::ExitCode;

fn main() -> ExitCode {
    drisse_engines::onnx::disable_telemetry();
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(done) => return done,
    };
    logs::start();
    steps::watch();
    let output = cli.output;
    commands::run(cli).unwrap_or_else(|failure| printer::failure(&failure, output))
}
