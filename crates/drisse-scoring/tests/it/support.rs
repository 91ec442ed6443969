//! A server on a free port with models that echo, and a client that sends any bytes.

use drisse_core::{
    DataType, Dim, Engine, EngineOptions, Inputs, LoadedPackage, ModelName, Port, Signature, TensorType,
    ValueType,
};
use drisse_engines::fake::{FakeEngine, Script};
use drisse_net::{Listener, Tls, bind_tcp};
use drisse_scoring::{App, Config, Keys, Listeners, ModelSpec, Server};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// Longer than any answer takes on a busy machine; a hang fails the test instead of stopping it.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Running {
    pub(crate) app: Arc<App>,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
pub(crate) struct Setup {
    pub(crate) config: Config,
    pub(crate) keys: Option<Keys>,
    pub(crate) tls: Option<Tls>,
    /// Served before the test's own request: name and how it behaves.
    pub(crate) models: Vec<(&'static str, Script)>,
    pub(crate) loading: bool,
    /// What models are warmed up with: a `/score` body.
    pub(crate) sample: Option<&'static str>,
}

/// A server whose one model `echo` gives its inputs back.
pub(crate) fn start() -> Running {
    Setup { models: vec![("echo", Script::default())], ..Setup::default() }.start()
}

/// Takes `X` FP32 [batch, 2] and `s` BYTES [batch] (optional); gives the same two.
pub(crate) fn signature() -> Signature {
    let batch = Dim::Free(Some("batch".to_owned()));
    let port = |name: &str, datatype, shape, optional| Port {
        name: name.to_owned(),
        kind: ValueType::Tensor(TensorType { datatype, shape: Some(shape) }),
        optional,
    };
    let x = port("X", DataType::Fp32, vec![batch.clone(), Dim::Fixed(2)], false);
    Signature { inputs: vec![x.clone(), port("s", DataType::Bytes, vec![batch], true)], outputs: vec![x] }
}

impl Setup {
    pub(crate) fn start(self) -> Running {
        let app = App::new(self.config, self.keys).unwrap();
        let mut engine = FakeEngine::default();
        for (name, script) in &self.models {
            engine = engine.with(*name, script.clone());
        }
        for (name, _) in &self.models {
            let package = LoadedPackage {
                path: name.into(),
                signature: signature(),
                data_dependent: false,
                rows_meet: None,
                wants_elements: None,
            };
            let spec = ModelSpec {
                name: ModelName::served(name).unwrap(),
                version: "1".to_owned(),
                digest: "sha256:0".to_owned(),
                signature: signature(),
                platform: "fake",
                sample: Some("{\"data\":[[1,2]]}".to_owned()),
                workers: None,
                scorer: engine.load(&package, &EngineOptions::default()).unwrap(),
            };
            let decode = |sample: &str| drisse_wire::score::decode(sample.as_bytes(), &signature()).unwrap();
            let warm: Option<Inputs> = self.sample.map(decode);
            app.add(spec, warm.as_ref());
        }
        if !self.loading {
            app.set_ready();
        }
        let free = || bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let (tcp, admin) = (free(), free());
        let (address, admin_address) = (tcp.local_addr().unwrap(), admin.local_addr().unwrap());
        let listeners = Listeners { scoring: vec![Listener::Tcp(tcp)], admin: Some(Listener::Tcp(admin)) };
        let server = Server::new(Arc::clone(&app), listeners, self.tls);
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(server.run(async { drop(stopped.await) })).unwrap();
        });
        Running { app, address, admin: admin_address, stop: Some(stop), thread: Some(thread) }
    }
}

impl Running {
    pub(crate) fn connect(&self) -> Client {
        Client::to(self.address)
    }

    /// One request on a connection of its own.
    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        self.connect().post(path, body)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.connect().send(&format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n"))
    }

    pub(crate) fn admin(&self, method: &str, path: &str, headers: &str) -> Answer {
        Client::to(self.admin).send(&format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{headers}\r\n"))
    }

    /// The value of a metric's series, as Prometheus would read it.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self.admin("GET", "/metrics", "").body;
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.unwrap_or_else(|| panic!("no series {series} in\n{text}")).trim().parse().unwrap()
    }

    /// Asks until a series has a value.
    pub(crate) fn wait_for(&self, series: &str, value: f64) {
        let started = std::time::Instant::now();
        while self.metric(series) != value {
            assert!(started.elapsed() < PATIENCE, "{series} is {} and not {value}", self.metric(series));
        }
    }

    /// Tells the server to stop, without waiting for its end.
    pub(crate) fn begin_stop(&mut self) {
        drop(self.stop.take());
    }

    pub(crate) fn join(&mut self) {
        self.thread.take().unwrap().join().expect("the server ends without a panic");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.begin_stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the server ends without a panic");
        }
    }
}

pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: String,
}

impl Client {
    pub(crate) fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    pub(crate) fn post(&mut self, path: &str, body: &str) -> Answer {
        self.post_with(path, "content-type: application/json\r\n", body)
    }

    pub(crate) fn post_with(&mut self, path: &str, headers: &str, body: &str) -> Answer {
        self.write(post(path, headers, body));
        self.read()
    }

    pub(crate) fn send(&mut self, request: &str) -> Answer {
        self.write(request);
        self.read()
    }

    /// Bytes as they are; a server that closed already is for the read to see.
    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.get_mut().write_all(bytes.as_ref());
    }

    pub(crate) fn read(&mut self) -> Answer {
        read_answer(&mut self.stream).expect("an answer")
    }

    /// Whether the server closes the connection without another word.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        self.stream
            .read_to_end(&mut rest)
            .map_or_else(|error| error.kind() == std::io::ErrorKind::ConnectionReset, |_| rest.is_empty())
    }
}

pub(crate) fn post(path: &str, headers: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: h\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

/// One answer, or `None` when the stream ends before it.
pub(crate) fn read_answer(stream: &mut impl BufRead) -> Option<Answer> {
    let mut headers = String::new();
    while !headers.ends_with("\r\n\r\n") {
        if stream.read_line(&mut headers).ok()? == 0 {
            return None;
        }
    }
    let headers = headers.to_ascii_lowercase();
    let status = headers.split(' ').nth(1)?.parse().ok()?;
    let length = headers.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).ok()?;
    Some(Answer { status, headers, body: String::from_utf8(body).unwrap() })
}

impl Client {
    /// Says that nothing more will be sent.
    pub(crate) fn shut(&mut self) {
        let _ = self.stream.get_ref().shutdown(std::net::Shutdown::Write);
    }

    /// Everything until the server closes; a reset is a close too.
    pub(crate) fn read_rest(&mut self, into: &mut Vec<u8>) {
        let _ = self.stream.read_to_end(into);
    }
}
