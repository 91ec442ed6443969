//! A minimal hyper server: one single-threaded runtime per core, which get connections in turn and answer inline.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::net::{TcpListener, TcpStream};

pub(crate) fn serve(port: &str, answer: impl Fn(Bytes) -> Bytes + Copy + Send + 'static) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let senders: Vec<_> = (0..cores)
        .map(|_| {
            let (sender, mut streams) = tokio::sync::mpsc::unbounded_channel::<TcpStream>();
            std::thread::spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(async move {
                    while let Some(stream) = streams.recv().await {
                        let stream = tokio::net::TcpStream::from_std(stream).expect("a stream");
                        let service = service_fn(move |request: Request<Incoming>| async move {
                            let body = request.into_body().collect().await?.to_bytes();
                            let mut response = Response::new(Full::new(answer(body)));
                            let json = HeaderValue::from_static("application/json");
                            response.headers_mut().insert(CONTENT_TYPE, json);
                            Ok::<_, hyper::Error>(response)
                        });
                        #[expect(clippy::disallowed_methods, reason = "the task ends with its connection")]
                        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
                    }
                });
            });
            sender
        })
        .collect();
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).expect("a free port");
    for (nth, stream) in listener.incoming().flatten().enumerate() {
        stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true)).expect("a socket");
        senders[nth % cores].send(stream).expect("the thread runs");
    }
}
