//! Seeing through what was decided: waiting until it is so, or taking it back and saying why.

use crate::control::Control;
use crate::db::{Result, now};
use crate::deploy::{Decided, parsed};
use crate::operations::{Ended, Op};
use crate::problem::Problem;
use crate::reconcile::Seen;
use drisse_core::{Death, ReplicaState};
use drisse_wire::control::{Failure, ServiceState};
use serde_json::Value;
use std::sync::Arc;

/// Lines of a dead replica's log that an error shows.
const SHOWN_LINES: usize = 8;

impl Control {
    /// Waits until what was decided is so; where it cannot be, what was before is wanted again.
    pub(crate) async fn see_through(
        self: &Arc<Self>,
        op: &Op,
        name: &str,
        decided: &Decided,
    ) -> std::result::Result<(), Ended> {
        if op.resumed {
            self.was_taken_back(name, decided).await?;
        }
        let settled = self.settle(op, name, decided.generation).await;
        match &settled {
            Err(Ended::Stopping) => {}
            Ok(()) => {
                self.db.set_state(name, decided.generation, ServiceState::Ready, None).await?;
            }
            Err(ended) if decided.changed => self.go_back(name, decided, ended).await?,
            Err(_) => {}
        }
        settled
    }

    /// Whether the control plane before took back what was decided, and was killed before it said so.
    async fn was_taken_back(&self, name: &str, decided: &Decided) -> Result<()> {
        let row = self.db.existing_service(name).await?;
        if row.generation == decided.generation {
            return Ok(());
        }
        let failure = row.error.unwrap_or_else(|| {
            Failure::new(format!("revision {} of service `{name}` did not get ready", decided.revision))
        });
        Err(Problem { status: 400, failure })
    }

    async fn go_back(self: &Arc<Self>, name: &str, decided: &Decided, ended: &Ended) -> Result<()> {
        let Some(mut row) = self.db.service(name).await? else { return Ok(()) };
        // Somebody else wants something newer: that stands.
        if row.generation != decided.generation {
            return Ok(());
        }
        row.generation += 1;
        match decided.before {
            Some(before) => {
                (row.revision, row.replicas, row.state) =
                    (before.revision, before.replicas, ServiceState::Updating);
            }
            None => {
                let failure = match ended {
                    Ended::Failed(problem) => problem.failure.clone(),
                    Ended::Canceled => Failure::new("its deployment was canceled"),
                    Ended::TimedOut(missing) => Failure::new(format!("it was not ready in time: {missing}")),
                    Ended::Stopping => return Ok(()),
                };
                (row.active, row.state, row.error) = (false, ServiceState::Failed, Some(failure));
            }
        }
        self.db.want(&row, None, decided.generation, None).await?;
        self.actor(&parsed(name)?).wake.notify_one();
        Ok(())
    }

    /// Waits until a round has seen `generation` and found everything as it is wanted.
    pub(crate) async fn settle(
        self: &Arc<Self>,
        op: &Op,
        name: &str,
        generation: u64,
    ) -> std::result::Result<(), Ended> {
        let actor = self.actor(&parsed(name)?);
        let mut events = actor.events.subscribe();
        let mut seen = actor.seen.clone();
        actor.wake.notify_one();
        let mut cut_short = std::pin::pin!(op.cut_short());
        loop {
            {
                let seen = seen.borrow_and_update();
                if seen.generation >= generation {
                    if seen.converged {
                        // What is still in the channel belongs to this operation.
                        while let Ok(event) = events.try_recv() {
                            op.running.tell(event);
                        }
                        return Ok(());
                    }
                    // What died before this began is history.
                    if let Some(death) = seen.hopeless.as_ref().filter(|death| op.saw(death)) {
                        let (kind, target) = (&op.row.document.kind, &seen.target);
                        let failure = died(death)
                            .context(format!("cannot {kind} service `{name}` on target `{target}`"));
                        return Err(Problem { status: 400, failure }.into());
                    }
                }
                if let Some(failure) = seen.error_since(generation) {
                    if seen.permanent {
                        return Err(Problem { status: 500, failure: failure.clone() }.into());
                    }
                    op.running.tell(format!("{}; trying again", failure.message));
                }
            }
            tokio::select! {
                changed = seen.changed() => {
                    if changed.is_err() {
                        return Err(Ended::Stopping);
                    }
                }
                Ok(event) = events.recv() => op.running.tell(event),
                ended = &mut cut_short => {
                    return Err(match ended {
                        Ended::TimedOut(_) => Ended::TimedOut(missing(&seen.borrow())),
                        other => other,
                    });
                }
            }
        }
    }

    /// Waits until nothing is left of a service that is not wanted any more; what keeps that is told meanwhile.
    pub(crate) async fn see_gone(
        self: &Arc<Self>,
        op: &Op,
        name: &str,
        generation: u64,
    ) -> std::result::Result<(), Ended> {
        let actor = self.actor(&parsed(name)?);
        let (mut seen, mut events) = (actor.seen.clone(), actor.events.subscribe());
        actor.wake.notify_one();
        let mut cut_short = std::pin::pin!(op.cut_short());
        loop {
            {
                let seen = seen.borrow_and_update();
                if seen.removed {
                    while let Ok(event) = events.try_recv() {
                        op.running.tell(event);
                    }
                    return Ok(());
                }
                if let Some(failure) = seen.error_since(generation) {
                    op.running.tell(format!("{}; trying again", failure.message));
                }
            }
            tokio::select! {
                changed = seen.changed() => changed.map_err(|_| Ended::Stopping)?,
                ended = &mut cut_short => return Err(ended),
            }
        }
    }
}

impl Seen {
    /// Why a round could not be finished that began when this or something newer was wanted.
    fn error_since(&self, generation: u64) -> Option<&Failure> {
        self.error.as_ref().filter(|_| self.error_of >= generation)
    }
}

impl Op {
    /// Whether a death is of this operation's time; by a clock that was set back since, all may be.
    fn saw(&self, death: &Death) -> bool {
        let at = death.at.duration_since(std::time::UNIX_EPOCH).map_or(0, |at| at.as_millis());
        i64::try_from(at).is_ok_and(|at| at >= self.row.created) || now() < self.row.created
    }
}

/// Why a replica is dead, with what its log says of it.
pub(crate) fn died(death: &Death) -> Failure {
    let told = death.log.iter().position(|line| line.starts_with("error: "));
    let mut failure = Failure::new(format!("its scoring server {}", death.reason));
    match told {
        // What `drisse serve` printed: the error, its causes, a hint.
        Some(first) => {
            let said = &death.log[first..];
            failure.causes.extend(said[0].strip_prefix("error: ").map(str::to_owned));
            let causes = said.iter().filter_map(|line| line.trim_start().strip_prefix("Caused by: "));
            failure.causes.extend(causes.map(str::to_owned));
            failure.hint = said.iter().find_map(|line| line.strip_prefix("hint: ").map(str::to_owned));
        }
        None => {
            let from = death.log.len().saturating_sub(SHOWN_LINES);
            failure
                .causes
                .extend(death.log[from..].iter().map(|line| format!("its log: {}", readable(line))));
        }
    }
    failure
}

/// A line of a scoring server's log, which is JSON, as a person reads it; what is none stays as it is.
fn readable(line: &str) -> String {
    let Ok(Value::Object(mut said)) = serde_json::from_str(line) else { return line.to_owned() };
    let mut take = |key: &str| said.remove(key).and_then(|value| value.as_str().map(str::to_owned));
    let (Some(level), Some(message)) = (take("level"), take("message")) else { return line.to_owned() };
    let rest = said.iter().filter(|(key, _)| !matches!(&***key, "timestamp" | "target"));
    let rest: String = rest.map(|(key, value)| format!(" {key}={value}")).collect();
    format!("{level} {message}{rest}")
}

/// What a service still lacks, in words.
fn missing(seen: &Seen) -> String {
    if let Some(failure) = &seen.error {
        return failure.message.clone();
    }
    let count = |wanted: fn(&ReplicaState) -> bool| seen.replicas.iter().filter(|r| wanted(&r.state)).count();
    let starting = count(|state| matches!(state, ReplicaState::Starting { .. }));
    let dead = count(|state| matches!(state, ReplicaState::Dead(_)));
    format!("{} replicas are ready, {starting} are starting, {dead} have died", seen.ready)
}
