//! Tests on the real programs of what Drisse promises beyond its features: durability, limits, isolation. Each test
//! states a fact and writes its measured figure for docs/proof.md. `cargo test` runs a quick part of each, `cargo xtask
//! prove` all of it.

#![expect(clippy::unwrap_used, reason = "in a test a panic is a failure that names its line")]

mod attack;
mod disk;
mod flood;
mod frames;
mod h2;
mod kill;
mod overload;
mod proof;
mod scenario;
mod soak;
mod surge;

#[expect(dead_code, reason = "shared with the other tests, which use the rest")]
#[path = "../it/engine.rs"]
mod engine;
#[expect(dead_code, reason = "shared with the other tests, which use the rest")]
#[path = "../it/faulty_registry.rs"]
mod faulty_registry;
#[expect(dead_code, reason = "shared with the other tests, which use the rest")]
#[path = "../it/support.rs"]
mod support;
#[expect(dead_code, reason = "shared with the other tests, which use the rest")]
#[path = "../it/workspace.rs"]
mod workspace;

/// The program under test: the release build named by `DRISSE_BIN`, or else the one built with the tests.
fn program() -> std::path::PathBuf {
    std::env::var_os("DRISSE_BIN").map_or_else(|| env!("CARGO_BIN_EXE_drisse").into(), Into::into)
}
