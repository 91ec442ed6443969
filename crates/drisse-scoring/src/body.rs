//! Bodies: a request's is read completely, bounded in bytes and in time, and counted against the server's memory.

pub(crate) mod coding;
mod response;

pub(crate) use response::{Response, ResponseBody};

use crate::app::App;
use crate::memory::HeldBytes;
use bytes::{Bytes, BytesMut};
use drisse_core::{Error, ErrorKind, Result};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use std::time::Instant;
use tokio::time::timeout_at;

/// A body that announces more bytes than this has its memory reserved when it begins.
const LARGE: usize = 1 << 20;

/// A complete body, and its part of the server's memory.
pub(crate) struct HeldBody {
    pub(crate) bytes: Bytes,
    pub(crate) held: HeldBytes,
}

/// Reads `body` within `deadline` and the server's own limits.
///
/// # Errors
/// [`TooLarge`](ErrorKind::TooLarge), [`Overloaded`](ErrorKind::Overloaded) if the server's memory is in use,
/// [`DeadlineExceeded`](ErrorKind::DeadlineExceeded) or [`RequestTimeout`](ErrorKind::RequestTimeout) if the body is late.
pub(crate) async fn read(app: &App, mut body: Incoming, deadline: Instant) -> Result<HeldBody> {
    let limit = app.config.max_body;
    let announced = usize::try_from(body.size_hint().exact().unwrap_or(0)).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(too_large(limit));
    }
    // The memory of a large body is reserved at its begin, so that no later frame is refused. Of a small body only the
    // bytes that have arrived count, so that many idle requests use nothing.
    let mut held = app.memory.hold(0)?;
    let held_before = if announced > LARGE { announced } else { 0 };
    held.reserve(held_before)?;
    let until = deadline.min(Instant::now() + app.config.body_timeout);
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    loop {
        let frame = match timeout_at(until.into(), body.frame()).await {
            Ok(frame) => frame,
            Err(_) => return Err(too_slow(app, deadline, until)),
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| broken(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        let so_far = first.as_ref().map_or(0, Bytes::len) + rest.len() + data.len();
        if so_far > limit {
            return Err(too_large(limit));
        }
        if so_far > held_before {
            held.grow(data.len())?;
        }
        match &first {
            None => first = Some(data),
            Some(head) => {
                if rest.is_empty() {
                    // The buffer grows with the bytes that have arrived, not with the announced length.
                    rest.reserve(announced.min(so_far * 2).max(so_far));
                    rest.extend_from_slice(head);
                    first = Some(Bytes::new());
                }
                rest.extend_from_slice(&data);
            }
        }
        if body.is_end_stream() {
            break;
        }
    }
    let bytes = if rest.is_empty() { first.unwrap_or_default() } else { rest.freeze() };
    Ok(HeldBody { bytes, held })
}

fn too_large(limit: usize) -> Error {
    Error::new(ErrorKind::TooLarge, format!("the body is over the limit of {limit} bytes"))
}

fn too_slow(app: &App, deadline: Instant, until: Instant) -> Error {
    if until == deadline {
        return Error::new(ErrorKind::DeadlineExceeded, "the deadline passed before the body had arrived");
    }
    let seconds = app.config.body_timeout.as_secs_f64();
    Error::new(ErrorKind::RequestTimeout, format!("the body did not arrive within {seconds} s"))
}

fn broken(error: &hyper::Error) -> Error {
    Error::invalid(format!("the body ended early or is malformed: {error}"))
}
