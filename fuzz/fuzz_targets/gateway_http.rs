//! Bytes of a client, sent to the gateway with a scoring server behind it: no panic, no 5xx for a bug of ours;
//! responses are HTTP and belong to their requests; the replica gets no request that the gateway has not seen; nothing
//! is left behind, and the next client is served.

use crate::connection::{Counts, Watched, settle, talk};
use crate::{connection, scratch, server};
use drisse_gateway::Table;
use drisse_scoring::App;
use std::cell::LazyCell;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use tokio::runtime::{Builder, Runtime};

static GATEWAY: Counts = Counts::new();
static REPLICA: Counts = Counts::new();

/// The digest of `fuzz`, the key of the service `locked`.
const KEY: &str = "sha256:93850b707585e404e4951a3ddc1f05a34b3d4f5fc081d616f46d8a2e8f1c8e68";

struct Both {
    runtime: Runtime,
    app: Arc<App>,
    table: Arc<Table>,
}

thread_local! {
    static BOTH: LazyCell<Both> = LazyCell::new(start);
}

fn start() -> Both {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = scratch::scratch("gateway");
    let table = Table::open(&folder, 1).expect("/dev/shm is writable");
    let socket = folder.join("replica");
    for (service, keys) in [("echo", vec![]), ("queued", vec![]), ("locked", vec![KEY])] {
        let document = serde_json::json!({
            "service": service, "generation": 1, "keys": keys, "max_wait_ms": 20, "scoring_timeout_ms": 20_000,
            "revisions": [{ "revision": 1, "weight": 1, "replicas": [
                { "id": "r", "address": format!("unix:{}", socket.display()), "concurrency": 4 }] }],
        });
        table.put(serde_json::from_value(document).expect("a document")).expect("a valid document");
    }
    let app = server::start();
    let replica = server::handler(&app, &REPLICA);
    let _guard = runtime.enter();
    // libFuzzer's `main` leaves SIGPIPE fatal; a Rust program's own `main` ignores it.
    let _ = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::pipe()).expect("a handler");
    let listener = tokio::net::UnixListener::bind(&socket).expect("/dev/shm is writable");
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(drisse_net::serve_connection(stream, replica.clone(), connection::limits()));
        }
    });
    Both { runtime, app, table: Arc::new(table) }
}

pub fn fuzz(said: &[u8]) {
    BOTH.with(|both| {
        let (handler, held) = drisse_gateway::handler(&both.table);
        let gateway = Watched { handler, counts: &GATEWAY };
        let before = (GATEWAY.seen.load(SeqCst), REPLICA.seen.load(SeqCst));
        both.runtime.block_on(async {
            talk(said, &gateway).await;
            settle(&GATEWAY).await;
            if GATEWAY.seen.load(SeqCst) > before.0 {
                // Lets requests on their way to the replica arrive there.
                for _ in 0..8 {
                    tokio::task::yield_now().await;
                }
                settle(&REPLICA).await;
            }
            let seen = (GATEWAY.seen.load(SeqCst) - before.0, REPLICA.seen.load(SeqCst) - before.1);
            assert!(seen.1 <= seen.0, "the replica got {} requests, the gateway {}", seen.1, seen.0);
            assert_eq!((held(), both.app.held_bytes()), (0, 0), "memory of bodies was not released");
            if seen.1 > 0 {
                let heard = talk(b"GET /api/v1/service/echo/v2 HTTP/1.1\r\nhost: h\r\n\r\n", &gateway).await;
                assert!(heard.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&heard));
            }
        });
    });
}
