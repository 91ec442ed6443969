//! Replacing one of a service's keys.

use super::Services;
use super::decision::Decided;
use crate::error::Result;
use crate::keys;
use crate::running::{OperationError, Running};
use drisse_wire::control::{KeyName, KeyRequest};
use serde_json::{Value, json};

impl Services {
    /// Replaces a key, and waits until every replica and the gateway have confirmed it.
    pub(crate) async fn change_key(
        &self,
        op: &Running,
        request: KeyRequest,
    ) -> Result<Value, OperationError> {
        let decided = match Decided::of(op) {
            Some(decided) => decided,
            None => {
                let mut row = self.db.existing_service(op.subject()).await?;
                let expected = row.generation;
                let key = match request.value {
                    Some(key) => key,
                    None => keys::make()?,
                };
                match request.key {
                    KeyName::Primary => row.primary_key = key,
                    KeyName::Secondary => row.secondary_key = key,
                }
                row.generation += 1;
                let decided = Decided {
                    generation: row.generation,
                    revision: row.revision,
                    changed: true,
                    before: None,
                };
                self.db.want(&row, None, expected, Some((op.id(), &json!(decided)))).await?;
                decided
            }
        };
        // The key stays changed if this fails. Success means that every replica and the gateway have the new key.
        self.converged(op, decided.generation).await?;
        op.progress.add("every replica and the gateway have confirmed the keys");
        Ok(Value::Null)
    }
}
