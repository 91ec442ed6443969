//! One replica as the gateway knows it: where it is, how much it has under way, open connections.

use crate::pool::{Pool, Upstream};
use crate::sync::AtomicU32;
use drisse_net::http::{Address, UnixSocket};
use drisse_wire::routes::RouteReplica;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A replica. Lives as long as a route or a request names it, across changes of the routes.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) document: RouteReplica,
    pub(crate) endpoint: Endpoint,
    pub(crate) pool: Pool,
    in_flight: AtomicU32,
}

/// Where a replica listens.
#[derive(Debug)]
pub(crate) enum Endpoint {
    Unix(UnixSocket),
    /// `HOST:PORT`.
    Tcp(String),
}

/// A request under way, counted until dropped.
#[derive(Debug)]
pub(crate) struct InFlight(pub(crate) Arc<Replica>);

impl Endpoint {
    /// Parses `unix:PATH` or `http://HOST:PORT`; `None` if it is neither.
    pub(crate) fn parse(address: &str) -> Option<Self> {
        match Address::parse(address)? {
            Address::Unix(path) => Some(Self::Unix(UnixSocket::new(&path))),
            Address::Http(host) => Some(Self::Tcp(host)),
            Address::Https(..) => None,
        }
    }
}

impl Replica {
    pub(crate) fn new(document: RouteReplica, endpoint: Endpoint, cores: usize) -> Self {
        Self { document, endpoint, pool: Pool::new(cores), in_flight: AtomicU32::new(0) }
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Counts a request.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        InFlight(Arc::clone(self))
    }

    /// A connection that is free, or a new one.
    pub(crate) async fn connect(&self, core: usize) -> std::io::Result<Upstream> {
        match self.pool.take(core).await {
            Some(upstream) => Ok(upstream),
            None => Upstream::open(&self.endpoint).await,
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}
