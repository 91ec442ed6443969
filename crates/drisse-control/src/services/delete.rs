//! Deleting a service.

use super::Services;
use crate::error::Result;
use crate::running::{OperationError, Running};
use drisse_wire::control::ServiceState;
use serde_json::Value;

impl Services {
    /// Deletes a service. With `force`, deletes it even if its target does not answer.
    pub(crate) async fn delete(&self, op: &Running, force: bool) -> Result<Value, OperationError> {
        let name = op.subject();
        if force {
            self.claims.force(name);
        }
        if let Some(mut row) = self.db.service(name).await? {
            if !row.deleting {
                let expected = row.generation;
                (row.deleting, row.state, row.generation) = (true, ServiceState::Deleting, expected + 1);
                self.db.want(&row, None, expected, None).await?;
            }
            self.gone(op, row.generation).await?;
        }
        op.progress.add(format!("service {name} is deleted"));
        Ok(Value::Null)
    }
}
