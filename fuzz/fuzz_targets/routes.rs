//! Route documents, as the gateway takes them: no panic, and what is in force is what was put.
#![no_main]

mod scratch;

use drisse_wire::routes::RouteDocument;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static TABLE: LazyLock<drisse_gateway::Table> = LazyLock::new(|| {
    drisse_gateway::Table::open(&scratch::scratch("routes"), 1).expect("memory to write to")
});

fuzz_target!(|content: &[u8]| {
    if let Ok(document) = serde_json::from_slice::<RouteDocument>(content) {
        // As the file it is kept in.
        let text = serde_json::to_vec(&document).expect("it was JSON");
        assert_eq!(serde_json::from_slice::<RouteDocument>(&text).expect("it was read"), document);
        let name = document.service.clone();
        if TABLE.put(document.clone()).is_ok() {
            assert_eq!(TABLE.get(&name), Some(document));
            TABLE.remove(&name).expect("what was put is removed");
        }
        assert!(TABLE.generations().is_empty());
    }
});
