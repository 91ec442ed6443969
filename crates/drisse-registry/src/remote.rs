//! Registries: packages and images pushed and pulled by the distribution protocol.
//!
//! Source: <https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md>, and for tokens
//! <https://distribution.github.io/distribution/spec/auth/token/>.
//!
//! A registry is believed nothing: manifests are bounded, every byte is counted and hashed, credentials go to nobody
//! but the registry and who it names over TLS, and what a tag means is asked once.

mod credentials;
mod error;
mod partial;
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
pub use registry::{Access, Registry};

/// What fails on the way is tried so often without getting further.
const TRIES: u32 = 5;

/// How long after so many tries the next one is.
fn pause(tries: u32) -> std::time::Duration {
    std::time::Duration::from_millis(300) * (1 << tries)
}

/// What is told while bytes go by.
pub trait Transfer: Sync {
    /// So many bytes are to go in all.
    fn total(&self, bytes: u64);

    /// So many more went by, or need not; fewer where some have to go again.
    fn moved(&self, bytes: i64);

    /// Something people may want to know: a connection that was cut, what the other side waits for.
    fn note(&self, text: &str);
}

/// Nobody is told.
impl Transfer for () {
    fn total(&self, _: u64) {}
    fn moved(&self, _: i64) {}
    fn note(&self, _: &str) {}
}
