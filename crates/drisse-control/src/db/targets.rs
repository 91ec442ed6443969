//! The specs of the attached targets.

use super::{Db, json, text};
use crate::error::Result;
use drisse_wire::control::TargetSpec;
use sqlx::Row;

impl Db {
    pub(crate) async fn attached_targets(&self) -> Result<Vec<(String, TargetSpec)>> {
        let rows = sqlx::query("SELECT name, spec FROM targets").fetch_all(self.pool()).await?;
        rows.iter().map(|row| Ok((row.try_get("name")?, json(row, "spec")?))).collect()
    }

    /// Stores the spec of an attached target; `None` deletes it.
    pub(crate) async fn keep_target(&self, name: &str, spec: Option<&TargetSpec>) -> Result<()> {
        let query = match spec {
            Some(spec) => sqlx::query(
                "INSERT INTO targets (name, spec) VALUES (?, ?) ON CONFLICT DO UPDATE SET spec = excluded.spec",
            )
            .bind(name)
            .bind(text(spec)),
            None => sqlx::query("DELETE FROM targets WHERE name = ?").bind(name),
        };
        query.execute(self.pool()).await?;
        Ok(())
    }
}
