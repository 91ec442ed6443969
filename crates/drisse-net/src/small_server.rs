//! A server for few clients (probes, Prometheus, operators), on the caller's runtime.

use crate::connection::{Connections, Handler, Limits};
use crate::http_server::ACCEPT_AGAIN;
use crate::listen::{Listener, Listening};
use prometheus_client::metrics::gauge::Gauge;
use std::future::Future;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A client that has not sent its request within the header timeout is disconnected. The drain timeout is unlimited,
/// because the caller bounds the time of the requests that are still answered.
const LIMITS: Limits = Limits {
    max_connections: 256,
    header_timeout: Duration::from_secs(10),
    idle_timeout: Duration::from_secs(10),
    write_timeout: Duration::from_secs(60),
    max_head: 16 << 10,
    drain_timeout: Duration::MAX,
    threads: 1,
};

/// Returns a future that serves `listener` until it is dropped. Once `end` is true, each connection closes after its
/// current request is answered. Must be called on a tokio runtime.
///
/// # Errors
/// Returns the system's error if the listener cannot be registered with the runtime.
pub fn serve_small<H: Handler>(
    listener: Listener,
    handler: H,
    end: watch::Receiver<bool>,
) -> std::io::Result<impl Future<Output = ()>> {
    let listening = Listening::new(listener)?;
    let all = Connections::new(LIMITS, None, Gauge::default(), end);
    Ok(async move {
        let mut connections = JoinSet::new();
        loop {
            let stream = listening.accept().await;
            while connections.try_join_next().is_some() {}
            match stream {
                Ok(stream) => {
                    if let Some(open) = all.admit() {
                        connections.spawn(all.clone().serve(stream, handler.clone(), open));
                    }
                }
                Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
            }
        }
    })
}
