//! Tests of the real binary on real models: output, served answers and exit codes.
#![expect(clippy::unwrap_used, reason = "in a test a panic is a failure that names its line")]

mod access;
mod aliases;
mod conformance;
mod container;
mod deploy;
mod down;
mod engine;
mod errors;
mod faulty_registry;
mod folders;
mod help;
mod hostile_registries;
mod image;
mod inspect;
mod limits;
mod links;
mod local;
mod logins;
mod manage;
mod many;
mod other_packages;
mod profile;
mod prometheus;
mod registry;
mod remote;
mod serve;
mod signing;
mod support;
mod survive;
mod traces;
mod workspace;

/// The program under test.
fn program() -> std::path::PathBuf {
    env!("CARGO_BIN_EXE_drisse").into()
}
