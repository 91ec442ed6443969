//! Operations: records, starts, cancels and ends them, and continues them after a restart.

mod kind;
mod models;

use crate::db::operations::Outcome;
use crate::error::{ControlError, Result};
use crate::progress::Progress;
use crate::running::{OperationError, Running};
use crate::services::Services;
use drisse_core::{crash_point, lock};
use drisse_wire::control::{Failure, Operation, OperationState};
pub(crate) use kind::OperationKind;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// The operations of a workspace. Clones share their state.
#[derive(Clone, Debug)]
pub(crate) struct Operations(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    services: Services,
    /// Owns the tasks of operations, which run on `runtime`.
    tasks: TaskTracker,
    runtime: Handle,
    /// The running operations.
    running: Mutex<HashMap<i64, Arc<Progress>>>,
}

impl Operations {
    pub(crate) fn new(services: Services, tasks: TaskTracker) -> Self {
        Self(Arc::new(Inner { services, tasks, runtime: Handle::current(), running: Mutex::default() }))
    }

    /// Returns the events of a running operation; `None` if it has ended.
    pub(crate) fn progress(&self, id: i64) -> Option<Arc<Progress>> {
        lock(&self.0.running).get(&id).cloned()
    }

    /// Records an operation and starts it. Fails if the operation changes a service that another operation is changing.
    pub(crate) async fn begin(
        &self,
        kind: OperationKind,
        subject: &str,
        timeout: Option<Duration>,
    ) -> Result<Operation> {
        let (inner, subject) = (Arc::clone(&self.0), subject.to_owned());
        // In a task, because a client may disconnect: no claim, and no operation that does not run, may be left.
        let begin = async move { inner.begin(kind, &subject, timeout).await };
        self.0
            .tasks
            .spawn_on(begin, &self.0.runtime)
            .await
            .unwrap_or_else(|error| Err(ControlError::internal("a task panicked").because(&error)))
    }

    /// Continues the operations that had not ended.
    pub(crate) async fn resume(&self) -> Result<()> {
        for row in self.0.services.db.running_operations().await? {
            let (id, name, subject) =
                (row.document.id, row.document.kind.clone(), row.document.subject.clone());
            tracing::info!(id, kind = name, subject, "continuing an operation");
            let kind = OperationKind::read(&name, &row.request);
            if kind.as_ref().is_ok_and(OperationKind::changes_service) {
                // This cannot conflict: only one operation could claim the service.
                self.0.services.claims.assign(&subject, id);
            }
            self.0.start(Running::new(row, true), kind);
        }
        Ok(())
    }

    /// Asks an operation to end early.
    pub(crate) async fn cancel(&self, id: i64) -> Result<()> {
        match self.progress(id) {
            Some(progress) => {
                progress.cancel();
                Ok(())
            }
            None => {
                let state = self.0.services.db.operation(id).await?.document.state;
                Err(ControlError::conflict(format!("operation {id} has ended already: {state:?}")))
            }
        }
    }
}

impl Inner {
    async fn begin(
        self: Arc<Self>,
        kind: OperationKind,
        subject: &str,
        timeout: Option<Duration>,
    ) -> Result<Operation> {
        let ms = |timeout: Duration| i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
        let deadline = timeout.map(|timeout| crate::db::now().saturating_add(ms(timeout)));
        // Before the claim, which an error would not release.
        let request = kind.request()?;
        let claims = &self.services.claims;
        // Claimed before the first await, so that only one of two operations starts.
        if kind.changes_service() {
            claims.begin(subject)?;
        }
        let row = self.services.db.begin_operation(kind.name(), subject, &request, deadline).await;
        match &row {
            Ok(row) if kind.changes_service() => claims.assign(subject, row.document.id),
            Err(_) if kind.changes_service() => claims.release(subject),
            _ => {}
        }
        let row = row?;
        let document = row.document.clone();
        crash_point("an operation is written down");
        self.start(Running::new(row, false), Ok(kind));
        Ok(document)
    }

    fn start(self: &Arc<Self>, op: Running, kind: Result<OperationKind>) {
        lock(&self.running).insert(op.id(), Arc::clone(&op.progress));
        let inner = Arc::clone(self);
        let run = async move {
            let result = match &kind {
                Ok(kind) => inner.execute(&op, kind.clone()).await,
                Err(error) => Err(error.clone().into()),
            };
            crash_point("an operation is done");
            inner.finish(&op, kind.as_ref().ok(), result).await;
        };
        self.tasks.spawn_on(run, &self.runtime);
    }

    async fn execute(&self, op: &Running, kind: OperationKind) -> Result<Value, OperationError> {
        let (services, models) = (&self.services, &self.services.models);
        match kind {
            OperationKind::Register(request) => {
                let registered = models.register(&op.progress, op.subject(), request);
                Ok(json!(op.unless_cut_short(registered).await?.document(vec![])))
            }
            OperationKind::Deploy(request) | OperationKind::Update(request) => {
                services.deploy(op, request).await
            }
            OperationKind::Rollback(request) => services.rollback(op, request).await,
            OperationKind::Keys(request) => services.change_key(op, request).await,
            OperationKind::Delete { force } => services.delete(op, force).await,
            OperationKind::DeleteModel { name, version } => models::delete(models, op, &name, version).await,
            OperationKind::Verify { model } => {
                op.unless_cut_short(models.verify(&op.progress, model.as_deref(), None)).await
            }
            OperationKind::Repair { model, request } => {
                op.unless_cut_short(models.verify(&op.progress, model.as_deref(), Some(request))).await
            }
            OperationKind::Collect => models::collect(models, op).await,
        }
    }

    async fn finish(
        &self,
        op: &Running,
        kind: Option<&OperationKind>,
        result: Result<Value, OperationError>,
    ) {
        let Some(outcome) = outcome(op, result) else { return };
        // An unfinished registration may have left blobs in the store.
        if (op.resumed || outcome.error.is_some())
            && kind.is_some_and(OperationKind::registers)
            && let Err(error) = self.services.models.collect_garbage().await
        {
            tracing::warn!("cannot remove unused blobs: {:?}", error.failure);
        }
        self.write_outcome(op, &outcome).await;
        crash_point("an operation has ended");
        if kind.is_some_and(OperationKind::uses_uploads) && outcome.error.is_none() {
            self.services.models.forget_registered_uploads().await;
        }
        if kind.is_some_and(OperationKind::changes_service) {
            self.services.claims.release(op.subject());
            self.services.wake(op.subject());
        }
        lock(&self.running).remove(&op.id());
    }

    /// Writes the outcome to the database, and retries until that succeeds. The operation ends only then.
    async fn write_outcome(&self, op: &Running, outcome: &Outcome) {
        let events = op.progress.events();
        let mut pause = Duration::from_millis(100);
        while let Err(error) = self.services.db.finish_operation(op.id(), outcome, &events).await {
            tracing::error!(id = op.id(), "cannot write how an operation ended: {:?}", error.failure);
            // Waiting clients see this, and why the operation failed.
            let failed = outcome.error.as_ref().map(|failure| format!("{}; ", failure.message));
            let hint = error.failure.hint.as_deref().unwrap_or("see the control plane's log");
            op.progress
                .add(format!("{}the outcome cannot be stored yet: {hint}", failed.unwrap_or_default()));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }
}

/// Returns the outcome of an operation; `None` if the next control plane continues it.
fn outcome(op: &Running, result: Result<Value, OperationError>) -> Option<Outcome> {
    let document = &op.row.document;
    let (state, error, result) = match result {
        Err(OperationError::Stopping) => return None,
        Ok(result) => (OperationState::Succeeded, None, result),
        Err(OperationError::Failed(error)) => (OperationState::Failed, Some(error.failure), Value::Null),
        Err(OperationError::Canceled) => {
            let failure = Failure::new(format!("operation {} was canceled", document.id));
            (OperationState::Canceled, Some(failure), Value::Null)
        }
        Err(OperationError::TimedOut(missing)) => {
            let what = format!("{} of `{}` did not end in time", document.kind, document.subject);
            let failure = Failure { causes: vec![missing], ..Failure::new(what) };
            let failure = failure.hint("increase --timeout, and see the logs of its service");
            (OperationState::TimedOut, Some(failure), Value::Null)
        }
    };
    Some(Outcome { state, error, result })
}
