//! A listener with few clients (probes, Prometheus, operators): HTTP/1.1 on the caller's runtime.

use crate::connection::{Handler, Stream, answer};
use crate::front::ACCEPT_AGAIN;
use crate::listen::{Listener, Listening};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Probes and scrapers are few.
const MAX_CONNECTIONS: usize = 256;

/// A probe that has not sent its request by then is gone.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves `listener`, until dropped; connections end once `end` says so and their request is answered.
pub fn serve_few<H: Handler>(
    listener: Listener,
    handler: H,
    end: watch::Receiver<bool>,
) -> std::io::Result<impl Future<Output = ()>> {
    let listening = Listening::new(listener)?;
    Ok(async move {
        let mut connections = JoinSet::new();
        loop {
            let stream = listening.accept().await;
            while connections.try_join_next().is_some() {}
            match stream {
                Ok(stream) if connections.len() < MAX_CONNECTIONS => {
                    connections.spawn(connection(stream, handler.clone(), end.clone()));
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
            }
        }
    })
}

async fn connection<H: Handler>(stream: Stream, handler: H, mut end: watch::Receiver<bool>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(answer(handler, request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(16 << 10);
    macro_rules! serve {
        ($stream:expr) => {{
            let Ok(stream) = $stream else { return };
            let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
            tokio::select! {
                _ = connection.as_mut() => return,
                _ = end.wait_for(|end| *end) => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        }};
    }
    match stream {
        Stream::Tcp(stream) => serve!(tokio::net::TcpStream::from_std(stream)),
        Stream::Unix(stream) => serve!(tokio::net::UnixStream::from_std(stream)),
    }
}
