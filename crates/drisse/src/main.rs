//! The binary `drisse`: parses the command line, runs the command, and prints its error.

#[expect(rustdoc::broken_intra_doc_links, reason = "help texts, whose brackets mark what may be left out")]
mod cli;
mod commands;
mod connect;
mod crash_points;
mod error;
mod follow;
mod logs;
mod printer;
mod units;
mod wiring;

use std::process::ExitCode;

fn main() -> ExitCode {
    drisse_engines::onnx::disable_telemetry();
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(done) => return done,
    };
    if cli.runs_models() {
        drisse_engines::onnx::provide_locale(&drisse_engines::onnx::cache_folder());
    }
    let is_server = cli.is_server();
    let logs = logs::start(is_server);
    crash_points::watch();
    let output = cli.output;
    let ended = commands::run(cli);
    // The log is written first, so that the error is the last line.
    logs.finish();
    match ended {
        // A server's work is to serve; what it prints when it starts is also in its log.
        Ok(code) if is_server => code,
        Ok(code) => printer::succeeded(code),
        Err(failure) => printer::failure(&failure, output),
    }
}
