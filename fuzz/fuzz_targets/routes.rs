//! Route documents, as the gateway takes them: no panic, whatever their bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static TABLE: LazyLock<drisse_gateway::Table> = LazyLock::new(|| {
    let folder = std::path::PathBuf::from(format!("/dev/shm/drisse-fuzz-routes-{}", std::process::id()));
    drisse_gateway::Table::open(&folder, 1).expect("memory to write to")
});

fuzz_target!(|content: &[u8]| {
    if let Ok(document) = serde_json::from_slice::<drisse_wire::routes::RouteDocument>(content) {
        let name = document.service.clone();
        if TABLE.put(document).is_ok() {
            TABLE.remove(&name).expect("what was put is removed");
        }
    }
});
