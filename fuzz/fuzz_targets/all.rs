//! All fuzz targets in one program, so that they are linked once. `DRISSE_FUZZ` names the target to run.
#![no_main]

mod archive;
mod connection;
mod control;
mod elf;
mod gateway_http;
mod grpc;
mod http;
mod inspect;
mod keys;
mod layout;
mod package;
mod predict;
mod routes;
mod score;
mod scratch;
mod server;
mod signature;
mod v2;

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

/// The targets by name. `xtask/src/fuzz.rs` lists the same names with their dictionaries.
const TARGETS: [(&str, fn(&[u8])); 14] = [
    ("v2", v2::fuzz),
    ("score", score::fuzz),
    ("predict", predict::fuzz),
    ("grpc", grpc::fuzz),
    ("inspect", inspect::fuzz),
    ("elf", elf::fuzz),
    ("archive", archive::fuzz),
    ("package", package::fuzz),
    ("routes", routes::fuzz),
    ("control", control::fuzz),
    ("keys", keys::fuzz),
    ("layout", layout::fuzz),
    ("http", http::fuzz),
    ("gateway_http", gateway_http::fuzz),
];

/// The target to run.
static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("DRISSE_FUZZ").unwrap_or_default();
    let found = TARGETS.iter().find(|(target, _)| *target == name);
    let names = TARGETS.map(|(target, _)| target).join(", ");
    found.unwrap_or_else(|| panic!("DRISSE_FUZZ must name one of {names}; it is `{name}`")).1
});

fuzz_target!(|input: &[u8]| TARGET(input));
