//! The state of a gateway, which all of its cores share.

use crate::answer::AnswerBudget;
use crate::table::Table;
use crate::upload::UploadBudget;
use drisse_net::trace::Traces;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// The number of characters of the nonce at the beginning of a request id.
const NONCE: usize = 12;

/// The state that the cores share.
#[derive(Debug)]
pub(crate) struct GatewayState {
    pub(crate) table: Arc<Table>,
    pub(crate) draining: AtomicBool,
    /// Exports spans; `None` if requests are not traced.
    pub(crate) traces: Option<Arc<Traces>>,
    /// Bounds the memory of request bodies …
    pub(crate) uploads: UploadBudget,
    /// … and of answers.
    pub(crate) answers: AnswerBudget,
    nonce: String,
    requests: AtomicU64,
}

/// One core's request handler.
#[derive(Clone, Debug)]
pub(crate) struct Core {
    pub(crate) state: Arc<GatewayState>,
    /// Selects this core's connections in each replica's pool.
    pub(crate) index: usize,
}

impl GatewayState {
    /// Creates the state of a gateway that routes by `table`. `nonce` identifies this process in request ids.
    pub(crate) fn new(table: &Arc<Table>, nonce: Option<&str>, traces: Option<Arc<Traces>>) -> Arc<Self> {
        let nonce = nonce.filter(|nonce| nonce.is_ascii()).and_then(|nonce| nonce.get(..NONCE));
        Arc::new(Self {
            traces,
            table: Arc::clone(table),
            draining: AtomicBool::new(false),
            uploads: UploadBudget::default(),
            answers: AnswerBudget::default(),
            nonce: nonce.unwrap_or("000000000000").to_owned(),
            requests: AtomicU64::new(0),
        })
    }

    /// Returns a request id that no other request of this or another gateway has.
    pub(crate) fn next_request_id(&self) -> String {
        format!("{}-{:x}", self.nonce, self.requests.fetch_add(1, Relaxed))
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }
}
