//! Operations and their progress events.

use super::{Db, json, now, rfc3339, text};
use crate::error::{ControlError, Result};
use drisse_wire::control::{Failure, Operation, OperationState, Page, Progress};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

/// The number of ended operations that are kept.
const KEPT: i64 = 10_000;

/// Old operations are deleted whenever this many new ones have been recorded.
const PRUNED: i64 = 100;

/// An operation with the fields that only the control plane needs.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct OperationRow {
    pub(crate) document: Operation,
    pub(crate) request: serde_json::Value,
    pub(crate) progress: serde_json::Value,
    /// Milliseconds since 1970, like all times here.
    pub(crate) created: i64,
    pub(crate) deadline: Option<i64>,
}

/// How an operation ended.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Outcome {
    pub(crate) state: OperationState,
    pub(crate) error: Option<Failure>,
    pub(crate) result: serde_json::Value,
}

fn operation(row: &SqliteRow) -> Result<OperationRow> {
    let (error, finished): (Option<String>, Option<i64>) = (row.try_get("error")?, row.try_get("finished")?);
    let state: String = row.try_get("state")?;
    let state: OperationState = serde_json::from_value(state.into()).map_err(|error| {
        ControlError::internal("the database contains an unknown operation state").because(&error)
    })?;
    Ok(OperationRow {
        document: Operation {
            id: row.try_get("id")?,
            kind: row.try_get("kind")?,
            subject: row.try_get("subject")?,
            state,
            created_at: rfc3339(row.try_get("created")?),
            finished_at: finished.map(rfc3339),
            error: error.and_then(|error| serde_json::from_str(&error).ok()),
            result: json(row, "result")?,
        },
        request: json(row, "request")?,
        progress: json(row, "progress")?,
        created: row.try_get("created")?,
        deadline: row.try_get("deadline")?,
    })
}

impl Db {
    pub(crate) async fn begin_operation(
        &self,
        kind: &str,
        subject: &str,
        request: &serde_json::Value,
        deadline: Option<i64>,
    ) -> Result<OperationRow> {
        let mut write = self.write().await?;
        let query = "INSERT INTO operations (kind, subject, request, progress, state, created, deadline, result) \
                     VALUES (?, ?, ?, 'null', 'Running', ?, ?, 'null') RETURNING *";
        let query =
            sqlx::query(query).bind(kind).bind(subject).bind(text(request)).bind(now()).bind(deadline);
        let row = operation(&query.fetch_one(&mut *write.connection).await?)?;
        if row.document.id % PRUNED == 0 {
            let old = sqlx::query("DELETE FROM operations WHERE id <= ? AND state <> 'Running'");
            old.bind(row.document.id - KEPT).execute(&mut *write.connection).await?;
        }
        write.commit().await?;
        Ok(row)
    }

    pub(crate) async fn operation(&self, id: i64) -> Result<OperationRow> {
        let query = sqlx::query("SELECT * FROM operations WHERE id = ?").bind(id);
        let row = query.fetch_optional(self.pool()).await?;
        let row = row.ok_or_else(|| {
            ControlError::not_found(format!("operation {id} not found"))
                .hint("`drisse operations` lists the operations")
        })?;
        operation(&row)
    }

    pub(crate) async fn running_operations(&self) -> Result<Vec<OperationRow>> {
        let query = sqlx::query("SELECT * FROM operations WHERE state = 'Running' ORDER BY id");
        query.fetch_all(self.pool()).await?.iter().map(operation).collect()
    }

    /// Returns a page of operations with ids below `after`, the newest first.
    pub(crate) async fn operations(
        &self,
        subject: Option<&str>,
        after: Option<i64>,
        limit: u32,
    ) -> Result<Page<Operation>> {
        let query =
            "SELECT * FROM operations WHERE (? IS NULL OR subject = ?) AND id < ? ORDER BY id DESC LIMIT ?";
        let query = sqlx::query(query).bind(subject).bind(subject).bind(after.unwrap_or(i64::MAX));
        let rows = query.bind(i64::from(limit) + 1).fetch_all(self.pool()).await?;
        let mut items = rows.iter().map(operation).collect::<Result<Vec<_>>>()?;
        let more = items.len() > limit as usize;
        items.truncate(limit as usize);
        let next = items.last().filter(|_| more).map(|last| last.document.id.to_string());
        Ok(Page { items: items.into_iter().map(|row| row.document).collect(), next })
    }

    /// Stores the outcome and the events of an operation, and deletes the secrets of its request.
    pub(crate) async fn finish_operation(
        &self,
        id: i64,
        outcome: &Outcome,
        events: &[(i64, String)],
    ) -> Result<()> {
        let mut write = self.write().await?;
        for (number, (at, message)) in (1_i64..).zip(events) {
            let query = sqlx::query(
                "INSERT OR REPLACE INTO events (operation, number, at, message) VALUES (?, ?, ?, ?)",
            );
            query.bind(id).bind(number).bind(at).bind(message).execute(&mut *write.connection).await?;
        }
        let query = "UPDATE operations SET state = ?, error = ?, result = ?, finished = ?, \
                     request = json_remove(request, '$.resources.secret_env') WHERE id = ?";
        let query = sqlx::query(query).bind(format!("{:?}", outcome.state));
        let query =
            query.bind(outcome.error.as_ref().map(text)).bind(text(&outcome.result)).bind(now()).bind(id);
        query.execute(&mut *write.connection).await?;
        Ok(write.commit().await?)
    }

    pub(crate) async fn events(&self, id: i64, after: i64) -> Result<Vec<Progress>> {
        let query =
            "SELECT number, at, message FROM events WHERE operation = ? AND number > ? ORDER BY number";
        let rows = sqlx::query_as(query).bind(id).bind(after).fetch_all(self.pool()).await?;
        let event = |(number, at, message)| Progress { number, at: rfc3339(at), message };
        Ok(rows.into_iter().map(event).collect())
    }
}
