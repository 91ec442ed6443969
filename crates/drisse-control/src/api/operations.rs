//! `/v1/operations`.

use super::{Answer, Begun, QueryParams};
use crate::control::Control;
use crate::error::{ControlError, Result};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use drisse_net::channel_stream;
use drisse_wire::control::{FailureBody, Operation, Page, Progress, ProgressEvent};
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// The interval of comments that keep an idle event stream open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Filter {
    /// Only operations on this service or model.
    subject: Option<String>,
    /// The `next` of the previous page.
    after: Option<i64>,
    /// The maximum number of items, at most 1000 (default 50).
    limit: Option<u32>,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct After {
    /// Skips events up to and including this number.
    #[serde(default)]
    after: i64,
}

/// Lists operations, the newest first
#[utoipa::path(get, path = "/v1/operations", params(Filter), responses((status = 200, body = Page<Operation>), (status = "default", body = FailureBody)))]
pub(super) async fn list(
    State(control): State<Control>,
    QueryParams(asked): QueryParams<Filter>,
) -> Answer<Page<Operation>> {
    let limit = super::page_limit(asked.limit);
    Ok(axum::Json(control.db.operations(asked.subject.as_deref(), asked.after, limit).await?))
}

/// Returns an operation
#[utoipa::path(get, path = "/v1/operations/{id}", params(("id" = i64, Path)), responses((status = 200, body = Operation), (status = "default", body = FailureBody)))]
pub(super) async fn show(State(control): State<Control>, Path(id): Path<String>) -> Answer<Operation> {
    Ok(axum::Json(control.db.operation(number(&id)?).await?.document))
}

/// Streams the progress of an operation as server-sent events; the stream ends with the operation
#[utoipa::path(get, path = "/v1/operations/{id}/events", params(("id" = i64, Path), After), responses((status = 200, content_type = "text/event-stream", body = ProgressEvent), (status = "default", body = FailureBody)))]
pub(super) async fn events(
    State(control): State<Control>,
    Path(id): Path<String>,
    QueryParams(asked): QueryParams<After>,
) -> Result<impl IntoResponse> {
    let id = number(&id)?;
    control.db.operation(id).await?;
    let events = channel_stream(move |sender| follow(control, id, asked.after, sender));
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// Sends events until the operation has ended or the client has disconnected.
async fn follow(control: Control, id: i64, mut after: i64, sender: mpsc::Sender<Result<Event, Infallible>>) {
    if let Some(running) = control.operations.progress(id) {
        let mut news = running.news();
        // A strong reference would keep the sender alive, so that the end of the operation would never be seen.
        let weak = Arc::downgrade(&running);
        drop(running);
        loop {
            news.borrow_and_update();
            let Some(fresh) = weak.upgrade().map(|running| running.events_after(after)) else { break };
            for progress in fresh {
                after = progress.number;
                if sender.send(Ok(event(&progress))).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                changed = news.changed() => if changed.is_err() { break },
                () = sender.closed() => return,
            }
        }
    }
    // The operation has ended, so all events are in the database.
    for progress in control.db.events(id, after).await.unwrap_or_default() {
        if sender.send(Ok(event(&progress))).await.is_err() {
            return;
        }
    }
}

fn event(progress: &Progress) -> Event {
    let event = Event::default().id(progress.number.to_string());
    event.data(serde_json::to_string(progress).unwrap_or_default())
}

/// Cancels a running operation; a service gets its previous state back
#[utoipa::path(post, path = "/v1/operations/{id}/cancel", params(("id" = i64, Path)), responses((status = 202, body = Operation), (status = "default", body = FailureBody)))]
pub(super) async fn cancel(State(control): State<Control>, Path(id): Path<String>) -> Begun {
    let id = number(&id)?;
    control.operations.cancel(id).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(control.db.operation(id).await?.document)))
}

fn number(id: &str) -> Result<i64> {
    id.parse().map_err(|_| ControlError::invalid("an operation's id is a number"))
}
