//! Every limit of a server, in one place.

use drisse_net::trace::Traces;
use drisse_net::{AccessLog, Limits};
use std::sync::Arc;
use std::time::Duration;

/// What a server allows. The defaults suit a machine of any size.
#[derive(Clone, Debug)]
pub struct Config {
    /// A request that would wait longer than this before it runs is refused at once.
    pub max_wait: Duration,
    /// The longest a request may take, waiting and running; clients may ask for less.
    pub scoring_timeout: Duration,
    /// The longest body, in bytes, that is read.
    pub max_body: usize,
    /// Bytes of bodies held at a time, of all requests together.
    pub max_held: usize,
    /// Requests of one model that may wait, whatever their estimated time.
    pub max_queue: usize,
    /// Rows of requests that run at once, where a model gains from it; 1 for each request by itself.
    pub max_batch: usize,
    /// Open connections; further ones are closed at once.
    pub max_connections: usize,
    /// A connection that has sent no whole request head by then is closed; also how long a
    /// kept-alive connection may be idle.
    pub header_timeout: Duration,
    /// A body must have arrived by then.
    pub body_timeout: Duration,
    /// A client that takes nothing of its answer for this long is cut off.
    pub write_timeout: Duration,
    /// Bytes of a request's head.
    pub max_head: usize,
    /// How long requests under way may take after the server was told to stop.
    pub drain_timeout: Duration,
    /// Whether whoever may score may load and unload models too.
    pub model_control: bool,
    /// Names of POSIX's shared memory that clients may pass tensors by; with a `*` at the end, how names begin.
    pub shared_memory: Vec<String>,
    /// Origins whose web pages may score from browsers; `*` for every one.
    pub cors_origins: Vec<String>,
    /// Threads that serve connections.
    pub threads: usize,
    /// Threads that run models.
    pub workers: usize,
    /// Who this server is to the place that started it, told by `/identity`.
    pub replica: Option<String>,
    /// Whether `/metrics` has Triton's names beside ours.
    pub triton_metrics: bool,
    /// Where requests are written down, where they are.
    pub access_log: Option<Arc<AccessLog>>,
    /// What traces requests, where anything does.
    pub traces: Option<Arc<Traces>>,
    /// The build of the binary, told by `/identity`.
    pub build: String,
}

impl Config {
    /// What of it is a connection's.
    pub fn limits(&self) -> Limits {
        Limits {
            max_connections: self.max_connections,
            header_timeout: self.header_timeout,
            write_timeout: self.write_timeout,
            max_head: self.max_head,
            drain_timeout: self.drain_timeout,
            threads: self.threads,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        // The machine's, or what its cgroup lets it have.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            max_wait: Duration::from_millis(500),
            scoring_timeout: Duration::from_secs(60),
            max_body: 100 << 20,
            max_held: 512 << 20,
            max_queue: 1000,
            max_batch: drisse_core::BatchSize::MOST,
            // An idle one takes about 8 KiB.
            max_connections: 16_384,
            header_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            max_head: 32 << 10,
            // Kubernetes kills after 30 s.
            drain_timeout: Duration::from_secs(25),
            model_control: false,
            shared_memory: Vec::new(),
            cors_origins: Vec::new(),
            threads: cores,
            workers: cores,
            replica: None,
            triton_metrics: false,
            access_log: None,
            traces: None,
            build: String::new(),
        }
    }
}
