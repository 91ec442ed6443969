//! Pushing packages and images to registries, and pulling them, by the OCI distribution protocol.
//!
//! Specification: <https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md>, and for tokens
//! <https://distribution.github.io/distribution/spec/auth/token/>.
//!
//! Registries are not trusted: manifests have a maximum size, every byte is counted and hashed, credentials go only to
//! the registry and the token server it names (over TLS), and a tag is resolved only once.

mod credentials;
mod error;
mod http;
mod pull;
mod push;
mod reference;
mod referrers;
mod registry;
mod token;

pub use error::RemoteError;
pub use pull::Pulled;
pub use push::Pushed;
pub use reference::Reference;
pub use registry::{Access, RemoteRepository};

/// How many attempts without progress a transfer or a request has.
const TRIES: u32 = 5;

/// Returns the pause after this many failed attempts: 0.6 s after the first, then twice as long each time.
fn pause(tries: u32) -> std::time::Duration {
    std::time::Duration::from_millis(300) * (1 << tries)
}

/// Receives the progress of a push or pull. `()` ignores it.
///
/// The methods are called from the async task that transfers, and must not block.
pub trait Transfer: Sync {
    /// Sets the total number of bytes to transfer.
    fn total(&self, bytes: u64);

    /// Adds transferred bytes, including bytes that need not be sent. Negative if bytes must be sent again.
    fn moved(&self, bytes: i64);

    /// Reports an event for the user, such as a lost connection.
    fn note(&self, text: &str);
}

/// Ignores progress.
impl Transfer for () {
    fn total(&self, _: u64) {}
    fn moved(&self, _: i64) {}
    fn note(&self, _: &str) {}
}
