//! A listener with few clients (probes, Prometheus, operators): on the caller's runtime.

use crate::connection::{Connections, Handler, Limits};
use crate::front::ACCEPT_AGAIN;
use crate::listen::{Listener, Listening};
use prometheus_client::metrics::gauge::Gauge;
use std::future::Future;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Probes and scrapers are few. One that has not sent its request by then is gone; who ends this looks after those
/// that are still answered.
const LIMITS: Limits = Limits {
    max_connections: 256,
    header_timeout: Duration::from_secs(10),
    write_timeout: Duration::from_secs(60),
    max_head: 16 << 10,
    drain_timeout: Duration::MAX,
    threads: 1,
};

/// Serves `listener`, until dropped; connections end once `end` says so and their request is answered.
pub fn serve_few<H: Handler>(
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
