//! A real scoring server with TLS, and a client of gRPC.

use bytes::Bytes;
use drisse_core::{
    DataType, Dim, Engine, EngineOptions, LoadedPackage, ModelName, Port, Signature, TensorType, ValueType,
};
use drisse_engines::fake::{FakeEngine, Script};
use drisse_net::{Listener, Tls, bind_tcp};
use drisse_scoring::{App, Config, Listeners, LoadedModel, ModelSpec, Server};
use drisse_wire::grpc::{
    frame,
    inference::{ModelInferRequest, model_infer_request::InferInputTensor},
};
use drisse_wire::routes::RouteReplica;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;

/// A scoring server with TLS whose model `s` returns its input `X`, FP32 [batch, 2].
pub(crate) struct ScoringServer {
    pub(crate) address: SocketAddr,
    /// Its self-signed certificate, in PEM.
    pub(crate) certificate: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

fn signature() -> Signature {
    let shape = Some(vec![Dim::Free(Some("batch".to_owned())), Dim::Fixed(2)]);
    let kind = ValueType::Tensor(TensorType { datatype: DataType::Fp32, shape });
    let x = Port { name: "X".to_owned(), kind, optional: false };
    Signature { inputs: vec![x.clone()], outputs: vec![x] }
}

impl ScoringServer {
    pub(crate) fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let certificate = made.cert.pem();
        let folder = tempfile::tempdir().unwrap();
        let [cert, key] = ["cert", "key"].map(|name| folder.path().join(name));
        std::fs::write(&cert, &certificate).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let tls = Tls::open(&cert, &key).unwrap();
        let app = App::new(Config::default(), None).unwrap();
        let package = LoadedPackage::new("s", signature());
        let engine = FakeEngine::default().with("s", Script::default());
        let scorer = engine.load(&package, &EngineOptions::default()).unwrap();
        let spec = ModelSpec::fake(ModelName::served("s").unwrap(), signature(), scorer);
        app.add(LoadedModel { spec, warm_up: None });
        app.set_ready();
        let tcp = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = tcp.local_addr().unwrap();
        let listeners = Listeners { scoring: vec![Listener::Tcp(tcp)], admin: None };
        let server = Server::new(app, listeners, Some(tls));
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(server.run(async { drop(stopped.await) })).unwrap();
        });
        Self { address, certificate, stop: Some(stop), thread: Some(thread) }
    }

    /// Its route, with the certificate to trust.
    pub(crate) fn route(&self, certificate: &str) -> RouteReplica {
        RouteReplica {
            id: "r".to_owned(),
            address: format!("https://{}", self.address),
            certificate: Some(certificate.to_owned()),
            concurrency: 4,
            ..RouteReplica::default()
        }
    }
}

impl Drop for ScoringServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

/// A request to the model `s`, as a gRPC message in its frame.
fn message() -> Bytes {
    let tensor = InferInputTensor {
        name: "X".to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![1, 2],
        ..InferInputTensor::default()
    };
    let values = [1_f32, 2.0].into_iter().flat_map(f32::to_le_bytes).collect();
    frame(&ModelInferRequest {
        model_name: "s".to_owned(),
        inputs: vec![tensor],
        raw_input_contents: vec![values],
        ..ModelInferRequest::default()
    })
}

/// The messages of a stream, as they are sent.
struct Messages(UnboundedReceiver<Bytes>);

impl Body for Messages {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|message| message.map(|message| Ok(Frame::data(message))))
    }
}

/// Sends a call of the Open Inference Protocol to a gateway.
async fn call<B>(gateway: SocketAddr, method: &str, key: &str, body: B) -> Response<Incoming>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let stream = TokioIo::new(TcpStream::connect(gateway).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "the task ends with its connection")]
    tokio::spawn(connection);
    let request = Request::post(format!("http://gateway/inference.GRPCInferenceService/{method}"))
        .header("content-type", "application/grpc")
        .header("authorization", format!("Bearer {key}"))
        .body(body)
        .unwrap();
    sender.send_request(request).await.unwrap()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Calls `ModelInfer` of the model `s` through a gateway: the answer's head, its trailers, its body.
pub(crate) fn infer(gateway: SocketAddr, key: &str) -> (HeaderMap, HeaderMap, Bytes) {
    run(async {
        let answer = call(gateway, "ModelInfer", key, Full::new(message())).await;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.unwrap();
        (head.headers, body.trailers().cloned().unwrap_or_default(), body.to_bytes())
    })
}

/// Calls `ModelStreamInfer` through a gateway: sends a message, calls `between` after its answer, sends another one.
/// Returns the trailers.
pub(crate) fn stream_infer(gateway: SocketAddr, between: impl FnOnce() + Send + 'static) -> HeaderMap {
    run(async {
        let (messages, receiver) = unbounded_channel();
        messages.send(message()).unwrap();
        let mut answer = call(gateway, "ModelStreamInfer", "", Messages(receiver)).await.into_body();
        assert!(answer.frame().await.unwrap().unwrap().is_data());
        tokio::task::spawn_blocking(between).await.unwrap();
        messages.send(message()).unwrap();
        assert!(answer.frame().await.unwrap().unwrap().is_data());
        drop(messages);
        answer.collect().await.unwrap().trailers().unwrap().clone()
    })
}
