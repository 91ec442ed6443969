//! Claims: only one operation at a time may change a service.

use crate::error::{ControlError, Result};
use drisse_core::lock;
use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

/// The services that operations are changing. Kept in memory: a restarted control plane claims them again for the
/// operations that it continues.
#[derive(Debug, Default)]
pub(crate) struct Claims(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    /// The claims by service.
    operations: HashMap<String, Claimant>,
    /// Services that are to be deleted even if their target does not answer.
    forced: BTreeSet<String>,
}

/// The operation that has claimed a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Claimant {
    /// An operation that is being recorded and has no id yet.
    Beginning,
    /// The operation with this id.
    Operation(i64),
}

impl Claims {
    /// Claims a service for an operation that is about to be recorded. Fails while another operation has claimed it.
    pub(crate) fn begin(&self, service: &str) -> Result<()> {
        let mut held = lock(&self.0);
        match held.operations.get(service) {
            None => drop(held.operations.insert(service.to_owned(), Claimant::Beginning)),
            Some(Claimant::Beginning) => {
                let message = format!("service `{service}` is being changed by another command");
                return Err(ControlError::conflict(message)
                    .hint("wait for it: `drisse operations` lists the running operations"));
            }
            Some(Claimant::Operation(other)) => {
                let message = format!("service `{service}` is being changed by operation {other}");
                let hint = format!("wait for it (`drisse operations show {other}`), or cancel it");
                return Err(ControlError::conflict(message).hint(hint));
            }
        }
        Ok(())
    }

    /// Sets the operation that has claimed a service.
    pub(crate) fn assign(&self, service: &str, operation: i64) {
        lock(&self.0).operations.insert(service.to_owned(), Claimant::Operation(operation));
    }

    /// Releases a service.
    pub(crate) fn release(&self, service: &str) {
        let mut held = lock(&self.0);
        held.operations.remove(service);
        held.forced.remove(service);
    }

    pub(crate) fn is_claimed(&self, service: &str) -> bool {
        lock(&self.0).operations.contains_key(service)
    }

    /// Lets a service be deleted even if its target does not answer.
    pub(crate) fn force(&self, service: &str) {
        lock(&self.0).forced.insert(service.to_owned());
    }

    pub(crate) fn is_forced(&self, service: &str) -> bool {
        lock(&self.0).forced.contains(service)
    }
}
