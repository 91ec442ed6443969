//! The observed state of a service.

use drisse_core::{Death, Replica, ReplicaId, ReplicaState};
use drisse_wire::control::Failure;
use std::collections::BTreeSet;

/// The state of a service that its task observed in the last round. Operations wait for it, and the API shows it.
///
/// ```
/// let observed = drisse_reconcile::Observed::default();
/// assert_eq!(observed.missing(), "0 replicas are ready, 0 are starting, 0 have died");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The desired generation in the last finished round.
    pub generation: u64,
    /// The name of the target.
    pub target: String,
    /// Whether the service is in the desired state of `generation`.
    pub converged: bool,
    /// Whether the service is deleted.
    pub removed: bool,
    /// A death that shows that the desired revision cannot start.
    pub hopeless: Option<Death>,
    /// Why the last round was not finished; `None` if it was.
    pub error: Option<RoundError>,
    /// All replicas of the service.
    pub replicas: Vec<Replica>,
    /// The replicas that receive requests.
    pub in_use: BTreeSet<ReplicaId>,
    /// The desired number of replicas.
    pub wanted: u32,
    /// The number of ready replicas of the desired revisions.
    pub ready: u32,
}

/// Why a round was not finished.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoundError {
    /// The desired generation when the round began.
    pub generation: u64,
    /// What failed, why, and what to do about it.
    pub failure: Failure,
    /// Whether further rounds cannot succeed either.
    pub permanent: bool,
}

impl Observed {
    /// Returns why the last round was not finished, if it began with `generation` or a newer one.
    pub fn error_since(&self, generation: u64) -> Option<&RoundError> {
        self.error.as_ref().filter(|error| error.generation >= generation)
    }

    /// Describes what the service still lacks, as one sentence.
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
