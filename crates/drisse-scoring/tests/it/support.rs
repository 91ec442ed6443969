//! A server on a free port with models that echo, and a client that sends any bytes.

use drisse_core::{
    DataType, Dim, Engine, EngineOptions, Inputs, LoadedPackage, ModelName, Port, Signature, TensorType,
    ValueType,
};
use drisse_engines::fake::{FakeEngine, Script};
use drisse_net::{Listener, Tls, bind_tcp};
use drisse_scoring::{App, Config, Keys, Listeners, LoadedModel, ModelSpec, Server};
use drisse_testkit::{Answer, Connection, ServerThread, wait};
use std::net::SocketAddr;
use std::sync::Arc;

pub(crate) struct Running {
    pub(crate) app: Arc<App>,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) thread: ServerThread,
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
            let package = LoadedPackage::new(*name, signature());
            let scorer = engine.load(&package, &EngineOptions::default()).unwrap();
            let spec = ModelSpec {
                sample: Some("{\"data\":[[1,2]]}".to_owned()),
                ..ModelSpec::fake(ModelName::served(name).unwrap(), signature(), scorer)
            };
            let decode = |sample: &str| drisse_wire::score::decode(sample.as_bytes(), &signature()).unwrap();
            let warm: Option<Inputs> = self.sample.map(decode);
            app.add(LoadedModel { spec, warm_up: warm });
        }
        if !self.loading {
            app.set_ready();
        }
        let free = || bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let (tcp, admin) = (free(), free());
        let (address, admin_address) = (tcp.local_addr().unwrap(), admin.local_addr().unwrap());
        let listeners = Listeners { scoring: vec![Listener::Tcp(tcp)], admin: Some(Listener::Tcp(admin)) };
        let server = Server::new(Arc::clone(&app), listeners, self.tls);
        let thread = ServerThread::start(|stopped| server.run(stopped));
        Running { app, address, admin: admin_address, thread }
    }
}

impl Running {
    pub(crate) fn connect(&self) -> Connection {
        Connection::tcp(self.address).unwrap()
    }

    /// One request on a connection of its own.
    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        self.connect().post(path, body)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.connect().send(format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n")).unwrap()
    }

    pub(crate) fn admin(&self, method: &str, path: &str, headers: &str) -> Answer {
        let request = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{headers}\r\n");
        Connection::tcp(self.admin).unwrap().send(request).unwrap()
    }

    /// The value of a metric's series, as Prometheus would read it.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self.admin("GET", "/metrics", "").body;
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.unwrap_or_else(|| panic!("no series {series} in\n{text}")).trim().parse().unwrap()
    }

    /// Waits until a series has a value.
    pub(crate) fn wait_for(&self, series: &str, value: f64) {
        wait(format!("{series} {value}"), || self.metric(series) == value);
    }
}
