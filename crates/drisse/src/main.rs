//! The one binary: parse, run, print what went wrong.

mod cli;
mod commands;
mod failure;
mod logs;
mod printer;
mod units;
mod wiring;

use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(done) => return done,
    };
    logs::start();
    let result = match cli.command {
        cli::Command::Serve(serve) => commands::serve::run(&serve, cli.output),
        cli::Command::Inspect(inspect) => commands::inspect::run(&inspect, cli.output),
    };
    result.unwrap_or_else(|failure| printer::failure(&failure, cli.output))
}
