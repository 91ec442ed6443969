//! The settings and limits of a server.

use drisse_core::MaxWait;
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
    pub max_wait: MaxWait,
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
    /// The limits of connections, and the threads that serve them.
    pub limits: Limits,
    /// The time to send a request's body.
    pub body_timeout: Duration,
    /// Whether clients that may score may also load and unload models.
    pub model_control: bool,
    /// Names of POSIX shared memory that clients may use; with a `*` at the end, beginnings of names.
    pub shared_memory: Vec<String>,
    /// Origins whose web pages may score from browsers; `*`: all.
    pub cors_origins: Vec<String>,
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

impl Default for Config {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            workers: limits.threads,
            limits,
            max_wait: MaxWait::Auto,
            scoring_timeout: Duration::from_secs(60),
            max_body: 100 << 20,
            max_held: 512 << 20,
            max_queue: 1000,
            max_batch: 256,
            body_timeout: Duration::from_secs(60),
            model_control: false,
            shared_memory: Vec::new(),
            cors_origins: Vec::new(),
            replica: None,
            triton_metrics: false,
            access_log: None,
            traces: None,
            build: String::new(),
        }
    }
}
