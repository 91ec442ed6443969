//! The settings and limits of a server.

use drisse_net::trace::Traces;
use drisse_net::{AccessLog, Limits};
use std::sync::Arc;
use std::time::Duration;

/// The settings of a server. The defaults suit a machine of any size.
///
/// ```
/// use drisse_scoring::Config;
/// use std::time::Duration;
///
/// let config = Config { scoring_timeout: Duration::from_secs(5), max_body: 1 << 20, ..Config::default() };
/// assert_eq!(config.max_queue, 1000);
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// A request whose estimated wait is longer is refused at once.
    pub max_wait: Duration,
    /// The longest time of a request, waiting and running; clients may ask for less.
    pub scoring_timeout: Duration,
    /// The longest body of a request, in bytes.
    pub max_body: usize,
    /// The largest sum of all bodies in memory, in bytes.
    pub max_held: usize,
    /// The largest number of waiting requests of one model.
    pub max_queue: usize,
    /// The largest number of rows of a shared run; 1: each request runs by itself.
    pub max_batch: usize,
    /// The largest number of open connections; further ones are closed at once.
    pub max_connections: usize,
    /// The time to send a request's head, also the longest idle time of a kept-alive connection.
    pub header_timeout: Duration,
    /// The time to send a request's body.
    pub body_timeout: Duration,
    /// A client that receives nothing of its response for this time is disconnected.
    pub write_timeout: Duration,
    /// The longest head of a request, in bytes.
    pub max_head: usize,
    /// The time for current requests after the server has begun to stop.
    pub drain_timeout: Duration,
    /// Whether clients that may score may also load and unload models.
    pub model_control: bool,
    /// Names of POSIX shared memory that clients may use; with a `*` at the end, beginnings of names.
    pub shared_memory: Vec<String>,
    /// Origins whose web pages may score from browsers; `*`: all.
    pub cors_origins: Vec<String>,
    /// Threads that serve connections.
    pub threads: usize,
    /// Threads that run models.
    pub workers: usize,
    /// The id that the place that started this server gave it, returned by `/identity`.
    pub replica: Option<String>,
    /// Whether `/metrics` also has Triton's names.
    pub triton_metrics: bool,
    /// The log of requests, if there is one.
    pub access_log: Option<Arc<AccessLog>>,
    /// What traces requests, if they are traced.
    pub traces: Option<Arc<Traces>>,
    /// The build of the binary, returned by `/identity`.
    pub build: String,
}

impl Config {
    /// Returns the limits of connections.
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
        // The machine's, or the cgroup's limit.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            max_wait: Duration::from_millis(500),
            scoring_timeout: Duration::from_secs(60),
            max_body: 100 << 20,
            max_held: 512 << 20,
            max_queue: 1000,
            max_batch: 256,
            // An idle connection takes about 8 KiB.
            max_connections: 16_384,
            header_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            max_head: 32 << 10,
            // Kubernetes kills a pod after 30 s.
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
