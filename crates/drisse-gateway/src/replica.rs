//! One replica: its route, its requests in flight and its open connections.

use crate::endpoint::Endpoint;
use crate::pool::Pool;
use crate::sync::AtomicU32;
use drisse_wire::routes::RouteReplica;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A replica. It is kept as long as a route or a request refers to it, also when the routes change.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) document: RouteReplica,
    pub(crate) pool: Pool,
    in_flight: AtomicU32,
}

/// A request in flight. It is counted until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Replica>);

impl Replica {
    /// Creates a replica without connections. Blocks as [`Endpoint::new`] does.
    ///
    /// # Errors
    /// Returns the reason, with the replica's id, if its route cannot be used.
    pub(crate) fn new(document: &RouteReplica, cores: usize) -> Result<Self, String> {
        let endpoint = Endpoint::new(document).map_err(|why| format!("replica `{}`: {why}", document.id))?;
        let in_flight = AtomicU32::new(0);
        Ok(Self { document: document.clone(), pool: Pool::new(endpoint, cores), in_flight })
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Counts a request as in flight until the returned value is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        InFlight(Arc::clone(self))
    }
}

impl InFlight {
    pub(crate) fn replica(&self) -> &Arc<Replica> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}
