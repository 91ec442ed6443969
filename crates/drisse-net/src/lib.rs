//! The parts that all servers of Drisse share: sockets that are bound before anything starts, one runtime per core,
//! connections with limits, TLS that reloads, keys held as digests, processes that outlive their parent.

mod access;
mod answers;
mod background;
mod blocking;
mod channel_stream;
mod connection;
pub mod cors;
mod exposition;
pub mod http;
mod http_server;
mod keys;
mod listen;
mod log_writer;
mod memory;
mod pass;
mod path;
mod process;
mod request;
mod resource_limits;
mod small_server;
mod tasks;
mod tls;
pub mod trace;
mod watchdog;

pub use access::{Access, AccessLog, is_at};
pub use blocking::blocking;
pub use channel_stream::channel_stream;
pub use connection::{Handler, Limits, serve_connection};
pub use exposition::{OPENMETRICS, accepted};
pub use http_server::HttpServer;
pub use keys::{KeyDigests, hex};
pub use listen::{BindError, Listener, bind_tcp, bind_tcp_beside, bind_unix, remove_sockets};
pub use log_writer::LogWriter;
pub use memory::keep_memory_private;
pub use pass::{pass_descriptors, receive_descriptors, send_descriptors, take_descriptors};
pub use process::{Build, Exit, Launch, Process, random_id, runtime_folder, runtime_path};
pub use request::ListenerKind;
pub use resource_limits::ResourceLimit;
pub use small_server::serve_small;
pub use tasks::Tasks;
pub use tls::{Tls, TlsError, client_config, pinning, trusting};
pub use watchdog::{SILENCE, excuse, hang};
