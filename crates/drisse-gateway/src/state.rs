//! The state of a gateway, which all of its cores share.

use crate::answer::AnswerBudget;
use crate::table::Table;
use crate::upload::UploadBudget;
use drisse_net::trace::Traces;
use drisse_wire::ids::RequestIds;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

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
    pub(crate) request_ids: RequestIds,
}

/// One core's request handler.
#[derive(Clone, Debug)]
pub(crate) struct Core {
    pub(crate) state: Arc<GatewayState>,
    /// Selects this core's connections in each replica's pool.
    pub(crate) index: usize,
}

impl GatewayState {
    /// Creates the state of a gateway that routes by `table`.
    pub(crate) fn new(table: &Arc<Table>, traces: Option<Arc<Traces>>) -> Arc<Self> {
        Arc::new(Self {
            traces,
            table: Arc::clone(table),
            draining: AtomicBool::new(false),
            uploads: UploadBudget::default(),
            answers: AnswerBudget::default(),
            request_ids: RequestIds::new(),
        })
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }
}
