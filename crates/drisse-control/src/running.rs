//! An operation under way, as its own code sees it.

use crate::db::now;
use crate::db::operations::OperationRow;
use crate::error::{ControlError, Result};
use crate::progress::Progress;
use drisse_core::Death;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tokio::time::Instant;

/// An operation under way.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) row: OperationRow,
    pub(crate) progress: Arc<Progress>,
    /// Whether an earlier control plane began it.
    pub(crate) resumed: bool,
    /// When its time is over, whatever happens to the clock.
    until: Option<Instant>,
}

/// Why an operation ended before it was done.
#[derive(Debug)]
pub(crate) enum Ended {
    Failed(ControlError),
    Canceled,
    /// With what was still missing.
    TimedOut(String),
    /// The control plane ends: the next one continues the operation.
    Stopping,
}

impl From<ControlError> for Ended {
    fn from(error: ControlError) -> Self {
        Self::Failed(error)
    }
}

impl Running {
    pub(crate) fn new(row: OperationRow, resumed: bool) -> Self {
        let until = row.deadline.and_then(|deadline| {
            // A clock that was set back since it began does not give it more time than it had.
            let left = (deadline - now()).clamp(0, deadline.saturating_sub(row.created).max(0));
            Instant::now().checked_add(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
        });
        Self { row, progress: Arc::new(Progress::new()), resumed, until }
    }

    pub(crate) fn id(&self) -> i64 {
        self.row.document.id
    }

    /// The service or model that the operation changes.
    pub(crate) fn subject(&self) -> &str {
        &self.row.document.subject
    }

    /// Completes when the operation is to end early.
    pub(crate) async fn cut_short(&self) -> Ended {
        let late = async {
            match self.until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.progress.canceled() => Ended::Canceled,
            () = late => Ended::TimedOut("its first steps were still under way".to_owned()),
        }
    }

    /// Waits for `work`, unless the operation is to end early: then `work` is dropped.
    pub(crate) async fn unless_cut_short<T>(
        &self,
        work: impl Future<Output = Result<T>>,
    ) -> std::result::Result<T, Ended> {
        tokio::select! {
            done = work => Ok(done?),
            ended = self.cut_short() => Err(ended),
        }
    }

    /// Whether a replica died during this operation. If the clock was set back since, any death may have been.
    pub(crate) fn saw(&self, death: &Death) -> bool {
        let at = death.at.duration_since(UNIX_EPOCH).map_or(0, |at| at.as_millis());
        i64::try_from(at).is_ok_and(|at| at >= self.row.created) || now() < self.row.created
    }
}
