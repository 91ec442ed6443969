//! A running operation, as the code that executes it sees it.

use crate::db::now;
use crate::db::operations::OperationRow;
use crate::error::{ControlError, Result};
use crate::progress::Progress;
use drisse_core::Death;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tokio::time::Instant;

/// A running operation.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) row: OperationRow,
    pub(crate) progress: Arc<Progress>,
    /// Whether an earlier control plane started the operation.
    pub(crate) resumed: bool,
    /// The deadline, on the monotonic clock.
    until: Option<Instant>,
}

/// Why an operation ended without success.
#[derive(Debug)]
pub(crate) enum OperationError {
    Failed(ControlError),
    Canceled,
    /// The deadline passed. The text says what was still missing.
    TimedOut(String),
    /// The control plane stops. The next one continues the operation.
    Stopping,
}

impl From<ControlError> for OperationError {
    fn from(error: ControlError) -> Self {
        Self::Failed(error)
    }
}

impl Running {
    pub(crate) fn new(row: OperationRow, resumed: bool) -> Self {
        let until = row.deadline.and_then(|deadline| {
            // If the clock was set back since the start, the operation does not get more time than its timeout.
            let left = (deadline - now()).clamp(0, deadline.saturating_sub(row.created).max(0));
            Instant::now().checked_add(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
        });
        Self { row, progress: Arc::default(), resumed, until }
    }

    pub(crate) fn id(&self) -> i64 {
        self.row.document.id
    }

    /// Returns the service or model that the operation changes.
    pub(crate) fn subject(&self) -> &str {
        &self.row.document.subject
    }

    /// Waits until the operation is canceled or its deadline passes.
    pub(crate) async fn cut_short(&self) -> OperationError {
        let late = async {
            match self.until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.progress.canceled() => OperationError::Canceled,
            () = late => OperationError::TimedOut("its preparation had not finished".to_owned()),
        }
    }

    /// Waits for `work`. If the operation is canceled or its deadline passes, drops `work`.
    pub(crate) async fn unless_cut_short<T>(
        &self,
        work: impl Future<Output = Result<T>>,
    ) -> std::result::Result<T, OperationError> {
        tokio::select! {
            done = work => Ok(done?),
            ended = self.cut_short() => Err(ended),
        }
    }

    /// Returns whether a replica died during this operation. If the clock was set back since, any death counts.
    pub(crate) fn saw(&self, death: &Death) -> bool {
        let at = death.at.duration_since(UNIX_EPOCH).map_or(0, |at| at.as_millis());
        i64::try_from(at).is_ok_and(|at| at >= self.row.created) || now() < self.row.created
    }
}
