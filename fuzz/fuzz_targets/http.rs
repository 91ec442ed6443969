//! Bytes of a client, sent to the whole scoring server: no panic, no 5xx for a bug of ours; responses are HTTP; nothing
//! is left behind, and the next client is served.

use crate::connection::{Counts, settle, talk};
use crate::server;
use std::cell::LazyCell;
use tokio::runtime::{Builder, Runtime};

static COUNTS: Counts = Counts::new();

thread_local! {
    static SERVER: LazyCell<(Runtime, std::sync::Arc<drisse_scoring::App>)> = LazyCell::new(|| {
        (Builder::new_current_thread().enable_time().build().expect("a runtime"), server::start())
    });
}

pub fn fuzz(said: &[u8]) {
    SERVER.with(|server| {
        let (runtime, app) = &**server;
        let handler = server::handler(app, &COUNTS);
        runtime.block_on(async {
            talk(said, &handler).await;
            settle(&COUNTS).await;
            assert_eq!(app.held_bytes(), 0, "memory of bodies was not released");
            let heard = talk(b"GET /v2/health/ready HTTP/1.1\r\nhost: h\r\n\r\n", &handler).await;
            assert!(heard.starts_with(b"HTTP/1.1 200 OK\r\n"));
        });
    });
}
