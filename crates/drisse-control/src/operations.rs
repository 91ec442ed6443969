//! Operations: begun, followed, cancelled, ended, and gone on with after the control plane was killed.

use crate::control::Control;
use crate::db::operations::{OperationRow, Outcome};
use crate::db::{Result, now, rfc3339};
use crate::problem::Problem;
use drisse_core::step;
use drisse_wire::control::{Failure, Operation, OperationState, Progress};
use serde::Serialize;
use serde_json::Value;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// An operation under way, as those who follow it see it.
#[derive(Debug)]
pub(crate) struct Running {
    events: Mutex<Vec<(i64, String)>>,
    /// Counts events; the sender goes when the operation has ended.
    news: watch::Sender<usize>,
    cancel: watch::Sender<bool>,
}

/// What an operation's own code has of it.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) row: OperationRow,
    pub(crate) running: Arc<Running>,
    /// Whether it was begun by a control plane before this one.
    pub(crate) resumed: bool,
    /// When its time is over, whatever happens to the clock.
    until: Option<Instant>,
}

/// Why an operation ended before it was done.
#[derive(Debug)]
pub(crate) enum Ended {
    Failed(Problem),
    Canceled,
    /// With what was still missing.
    TimedOut(String),
    /// The control plane ends: the next one goes on.
    Stopping,
}

impl From<Problem> for Ended {
    fn from(problem: Problem) -> Self {
        Self::Failed(problem)
    }
}

impl Running {
    fn new() -> Self {
        Self { events: Mutex::default(), news: watch::Sender::new(0), cancel: watch::Sender::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(i64, String)>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everybody who follows.
    pub(crate) fn tell(&self, message: impl Into<String>) {
        let message = message.into();
        let mut events = self.lock();
        if events.last().is_none_or(|(_, last)| *last != message) {
            events.push((now(), message));
        }
        let count = events.len();
        drop(events);
        self.news.send_replace(count);
    }

    pub(crate) fn news(&self) -> watch::Receiver<usize> {
        self.news.subscribe()
    }

    pub(crate) fn events_after(&self, after: i64) -> Vec<Progress> {
        let event = |(number, (at, message)): (i64, &(i64, String))| Progress {
            number,
            at: rfc3339(*at),
            message: message.clone(),
        };
        (1_i64..).zip(self.lock().iter()).skip_while(|(number, _)| *number <= after).map(event).collect()
    }
}

impl Op {
    pub(crate) fn id(&self) -> i64 {
        self.row.document.id
    }

    /// The request's body.
    pub(crate) fn request<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(self.row.request.clone())
            .map_err(|error| Problem::failed("the operation's request cannot be read").because(&error))
    }

    /// Completes when the operation is to end early.
    pub(crate) async fn cut_short(&self) -> Ended {
        let mut cancel = self.running.cancel.subscribe();
        let late = async {
            match self.until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = cancel.wait_for(|cancel| *cancel) => Ended::Canceled,
            () = late => Ended::TimedOut("its first steps were still under way".to_owned()),
        }
    }
}

impl Control {
    /// Writes an operation down and starts it.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        kind: &'static str,
        subject: &str,
        request: &impl Serialize,
        timeout: Option<Duration>,
    ) -> Result<Operation> {
        let request = serde_json::to_value(request)
            .map_err(|error| Problem::failed("the operation's request cannot be written").because(&error))?;
        let deadline = timeout
            .map(|timeout| now().saturating_add(i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX)));
        let row = self.db.begin_operation(kind, subject, &request, deadline).await?;
        let document = row.document.clone();
        step("an operation is written down");
        self.go_on(row, false);
        Ok(document)
    }

    /// The same, for an operation that changes a service: one at a time.
    pub(crate) async fn begin_change(
        self: &Arc<Self>,
        kind: &'static str,
        service: &str,
        request: &impl Serialize,
        timeout: Option<Duration>,
    ) -> Result<Operation> {
        let request = serde_json::to_value(request).unwrap_or_default();
        let (control, service) = (Arc::clone(self), service.to_owned());
        // In a task of its own: a client that leaves must not leave a claim, or an operation nobody runs.
        let begun = self.runtime.spawn(async move {
            // Claimed before anything is awaited, so that of two only one comes through.
            control.claim(&service, 0)?;
            let begun = control.begin(kind, &service, &request, timeout).await;
            match &begun {
                Ok(operation) => control.name_claim(&service, operation.id),
                Err(_) => control.release(&service),
            }
            begun
        });
        begun.await.unwrap_or_else(|error| Err(Problem::failed("a task panicked").because(&error)))
    }

    /// Takes up every operation that had not ended.
    pub(crate) async fn resume(self: &Arc<Self>) -> Result<()> {
        for row in self.db.running_operations().await? {
            let (id, kind, subject) =
                (row.document.id, row.document.kind.clone(), row.document.subject.clone());
            tracing::info!(id, kind, subject, "going on with an operation");
            if changes_service(&kind) {
                // They were one at a time when they began.
                let _ = self.claim(&subject, id);
            }
            self.go_on(row, true);
        }
        Ok(())
    }

    fn go_on(self: &Arc<Self>, row: OperationRow, resumed: bool) {
        let running = Arc::new(Running::new());
        self.running().insert(row.document.id, Arc::clone(&running));
        let until = row.deadline.and_then(|deadline| {
            // A clock that was set back since it began must not give it more than it was given.
            let left = (deadline - now()).clamp(0, deadline.saturating_sub(row.created).max(0));
            Instant::now().checked_add(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
        });
        let (control, op) = (Arc::clone(self), Op { row, running, resumed, until });
        self.runtime.spawn(async move {
            let result = control.execute(&op).await;
            step("an operation is done");
            control.finish(&op, result).await;
        });
    }

    async fn execute(self: &Arc<Self>, op: &Op) -> std::result::Result<Value, Ended> {
        match &*op.row.document.kind {
            "register" => self.do_register(op).await,
            "deploy" | "update" => self.do_deploy(op).await,
            "rollback" => self.do_rollback(op).await,
            "keys" => self.do_keys(op).await,
            "delete" => self.do_delete(op).await,
            "delete-model" => self.do_delete_model(op).await,
            "verify" => self.do_verify(op).await,
            "repair" => self.do_repair(op).await,
            "collect" => self.do_collect(op).await,
            other => Err(Problem::failed(format!("there is no operation `{other}`")).into()),
        }
    }

    async fn finish(self: &Arc<Self>, op: &Op, result: std::result::Result<Value, Ended>) {
        let document = &op.row.document;
        let (state, error, result) = match result {
            // It stays as it is written down: running.
            Err(Ended::Stopping) => return,
            Ok(result) => (OperationState::Succeeded, None, result),
            Err(Ended::Failed(problem)) => (OperationState::Failed, Some(problem.failure), Value::Null),
            Err(Ended::Canceled) => {
                let failure = Failure::new(format!("operation {} was canceled", document.id));
                (OperationState::Canceled, Some(failure), Value::Null)
            }
            Err(Ended::TimedOut(missing)) => {
                let what = format!("{} of `{}` did not end in time", document.kind, document.subject);
                let failure = Failure { causes: vec![missing], ..Failure::new(what) };
                let failure = failure.hint("allow more with --timeout, and look at its logs");
                (OperationState::TimedOut, Some(failure), Value::Null)
            }
        };
        // What a registration that did not come to its end left in the store is nobody's.
        if (op.resumed || error.is_some())
            && matches!(&*document.kind, "register" | "deploy" | "update")
            && let Err(problem) = self.collect_garbage().await
        {
            tracing::warn!("cannot collect what was left: {:?}", problem.failure);
        }
        let outcome = Outcome { state, error, result };
        let events = op.running.lock().clone();
        // Ended for good only once it is written: until then a client that follows goes on following.
        let mut pause = Duration::from_millis(100);
        while let Err(problem) = self.db.finish_operation(document.id, &outcome, &events).await {
            tracing::error!(id = document.id, "cannot write how an operation ended: {:?}", problem.failure);
            // Who waits is told why, and what was wrong in the first place.
            let failed = outcome.error.as_ref().map(|failure| format!("{}; ", failure.message));
            let hint = problem.failure.hint.as_deref().unwrap_or("its log says more");
            op.running.tell(format!(
                "{}how this ended cannot be written down yet: {hint}",
                failed.unwrap_or_default()
            ));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
        step("an operation has ended");
        if changes_service(&document.kind) {
            self.release(&document.subject);
            let actor = self.actors().get(&document.subject).cloned();
            if let Some(actor) = actor {
                actor.wake.notify_one();
            }
        }
        self.running().remove(&document.id);
    }

    pub(crate) async fn cancel(&self, id: i64) -> Result<()> {
        let running = self.running().get(&id).cloned();
        match running {
            Some(running) => {
                running.cancel.send_replace(true);
                Ok(())
            }
            None => {
                let operation = self.db.operation(id).await?.document;
                let state = operation.state;
                Err(Problem::conflict(format!("operation {id} has ended already: {state:?}")))
            }
        }
    }
}

fn changes_service(kind: &str) -> bool {
    matches!(kind, "deploy" | "update" | "rollback" | "keys" | "delete")
}
