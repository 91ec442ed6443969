//! Waiting for a service to reach its desired state, and reverting the change if it cannot.

use super::Services;
use super::decision::Decided;
use crate::error::{ControlError, Result};
use crate::running::{OperationError, Running};
use drisse_core::ErrorKind;
use drisse_reconcile::{Handle, Observed, explain};
use drisse_wire::control::{Failure, ServiceState};

impl Services {
    /// Waits until the service has converged to the decision. If it cannot, restores the previous desired state.
    ///
    /// # Errors
    /// Returns why the service did not converge, or why the operation was cut short.
    pub(super) async fn complete(&self, op: &Running, decided: &Decided) -> Result<(), OperationError> {
        let name = op.subject();
        if op.resumed {
            self.check_not_reverted(name, decided).await?;
        }
        let converged = self.converged(op, decided.generation).await;
        match &converged {
            Err(OperationError::Stopping) => {}
            Ok(()) => {
                self.db.set_state(name, decided.generation, ServiceState::Ready, None).await?;
            }
            Err(ended) if decided.changed => self.revert(name, decided, ended).await?,
            Err(_) => {}
        }
        converged
    }

    /// Checks that the previous control plane did not revert the decision before it was killed.
    ///
    /// # Errors
    /// Returns why the decision was reverted.
    async fn check_not_reverted(&self, name: &str, decided: &Decided) -> Result<()> {
        let row = self.db.existing_service(name).await?;
        if row.generation == decided.generation {
            return Ok(());
        }
        let failure = row.error.unwrap_or_else(|| {
            Failure::new(format!("revision {} of service `{name}` did not become ready", decided.revision))
        });
        Err(ControlError { kind: ErrorKind::InvalidInput, failure })
    }

    /// Restores the desired state before the decision, or marks a first deployment as failed.
    async fn revert(&self, name: &str, decided: &Decided, ended: &OperationError) -> Result<()> {
        let Some(mut row) = self.db.service(name).await? else { return Ok(()) };
        // A newer change replaced the decision, and is not reverted.
        if row.generation != decided.generation {
            return Ok(());
        }
        row.generation += 1;
        match &decided.before {
            Some(before) => {
                (row.revision, row.wanted, row.state) =
                    (before.revision, before.wanted(), ServiceState::Updating);
            }
            None => {
                let failure = match ended {
                    OperationError::Failed(error) => error.failure.clone(),
                    OperationError::Canceled => Failure::new("the deployment was canceled"),
                    OperationError::TimedOut(missing) => {
                        Failure::new(format!("the service was not ready in time: {missing}"))
                    }
                    OperationError::Stopping => return Ok(()),
                };
                (row.active, row.state, row.error) = (false, ServiceState::Failed, Some(failure));
            }
        }
        self.db.want(&row, None, decided.generation, None).await?;
        self.task(name)?.wake();
        Ok(())
    }

    /// Waits until the reconciler has observed that the service matches `generation`.
    ///
    /// # Errors
    /// Returns why the service cannot converge, or why the operation was cut short.
    pub(super) async fn converged(&self, op: &Running, generation: u64) -> Result<(), OperationError> {
        let task = self.task(op.subject())?;
        let followed = follow(op, &task, |observed| {
            if observed.generation >= generation {
                if observed.converged {
                    return Ok(true);
                }
                // Replicas that died before the operation began do not count.
                if let Some(death) = observed.hopeless.as_ref().filter(|death| op.saw(death)) {
                    let (kind, name, target) = (&op.row.document.kind, op.subject(), &observed.target);
                    let failure = explain(death)
                        .context(format!("cannot {kind} service `{name}` on target `{target}`"));
                    return Err(ControlError { kind: ErrorKind::InvalidInput, failure }.into());
                }
            }
            if let Some(error) = observed.error_since(generation) {
                let failure = error.failure.clone();
                if error.permanent {
                    return Err(ControlError { kind: ErrorKind::Internal, failure }.into());
                }
                op.progress.add(format!("{}; trying again", failure.message));
            }
            Ok(false)
        });
        followed.await.map_err(|ended| match ended {
            OperationError::TimedOut(_) => OperationError::TimedOut(task.observed().borrow().missing()),
            other => other,
        })
    }

    /// Waits until the routes and replicas of a deleted service are removed.
    pub(super) async fn gone(&self, op: &Running, generation: u64) -> Result<(), OperationError> {
        let task = self.task(op.subject())?;
        let followed = follow(op, &task, |observed| {
            if observed.removed {
                return Ok(true);
            }
            if let Some(error) = observed.error_since(generation) {
                op.progress.add(format!("{}; trying again", error.failure.message));
            }
            Ok(false)
        });
        followed.await
    }
}

/// Wakes the reconciler of a service, and waits until `done` holds for what it has observed. Its events become the
/// operation's progress.
///
/// # Errors
/// Returns the error of `done`, or why the operation was cut short.
async fn follow(
    op: &Running,
    task: &Handle,
    mut done: impl FnMut(&Observed) -> Result<bool, OperationError>,
) -> Result<(), OperationError> {
    let (mut observed, mut events) = (task.observed(), task.events());
    task.wake();
    let mut cut_short = std::pin::pin!(op.cut_short());
    loop {
        if done(&observed.borrow_and_update())? {
            // Events that are still in the channel belong to this operation.
            while let Ok(event) = events.try_recv() {
                op.progress.add(event);
            }
            return Ok(());
        }
        // `done` is called once per observation, also if events arrive in between.
        loop {
            tokio::select! {
                changed = observed.changed() => break changed.map_err(|_| OperationError::Stopping)?,
                Ok(event) = events.recv() => op.progress.add(event),
                ended = &mut cut_short => return Err(ended),
            }
        }
    }
}
