//! What the last round observed of a service.

use drisse_core::{Death, Replica, ReplicaId, ReplicaState};
use drisse_wire::control::Failure;
use std::collections::BTreeSet;

/// What a service's task observed. Operations wait on it, the API shows it.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The generation that was wanted in the last finished round.
    pub generation: u64,
    /// The name of the target.
    pub target: String,
    /// Whether everything is as `generation` wants it.
    pub converged: bool,
    /// Whether the service is gone.
    pub removed: bool,
    /// The death that shows that waiting for the wanted revision cannot succeed.
    pub hopeless: Option<Death>,
    /// Why the last round was not finished; `None` if it was.
    pub error: Option<RoundError>,
    /// All replicas of the service.
    pub replicas: Vec<Replica>,
    /// The replicas that receive requests.
    pub in_use: BTreeSet<ReplicaId>,
    /// The number of replicas that are to serve requests.
    pub wanted: u32,
    /// The number of replicas of the wanted revisions that do.
    pub ready: u32,
}

/// Why a round was not finished.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoundError {
    /// The generation that was wanted when the round began.
    pub generation: u64,
    /// What failed.
    pub failure: Failure,
    /// Whether another round cannot succeed either.
    pub permanent: bool,
}

impl Observed {
    /// Returns why the last round was not finished, if it began when `generation` or something newer was wanted.
    pub fn error_since(&self, generation: u64) -> Option<&RoundError> {
        self.error.as_ref().filter(|error| error.generation >= generation)
    }

    /// Says what the service still lacks.
    pub fn missing(&self) -> String {
        if let Some(error) = &self.error {
            return error.failure.message.clone();
        }
        let count = |is: fn(&ReplicaState) -> bool| self.replicas.iter().filter(|r| is(&r.state)).count();
        let starting = count(|state| matches!(state, ReplicaState::Starting { .. }));
        let dead = count(|state| matches!(state, ReplicaState::Dead(_)));
        format!("{} replicas are ready, {starting} are starting, {dead} have died", self.ready)
    }
}
