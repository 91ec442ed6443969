//! The messages of a stream.

use crate::app::App;
use crate::body::HeldBody;
use crate::body::coding::{Coding, unpack};
use bytes::BytesMut;
use drisse_core::{Error, ErrorKind, Result};
use drisse_wire::grpc::take_frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// The longest time until a silent stream ends after the server has begun to stop.
const INTERVAL: Duration = Duration::from_millis(500);

/// The messages that a client sends on a stream.
pub(super) struct Messages {
    app: Arc<App>,
    body: Incoming,
    coding: Option<Coding>,
    /// The bytes that have arrived of the next message.
    buffer: BytesMut,
}

impl Messages {
    pub(super) fn new(app: Arc<App>, body: Incoming, coding: Option<Coding>) -> Self {
        Self { app, body, coding, buffer: BytesMut::new() }
    }

    /// Returns the next message; `None` at the end of the stream. Between messages a client may be silent, but once it
    /// has begun a message, it must complete it in time.
    pub(super) async fn next(&mut self) -> Result<Option<HeldBody>> {
        let mut held = self.app.memory.hold(0)?;
        let mut until = None;
        loop {
            if let Some(frame) = take_frame(&mut self.buffer, self.app.config.max_body)? {
                let read = HeldBody { bytes: frame.message, held };
                return match (frame.compressed, self.coding) {
                    (false, _) => Ok(Some(read)),
                    (true, Some(coding)) => unpack(self.app.config.max_body, coding, read).await.map(Some),
                    (true, None) => {
                        Err(Error::invalid("a message is compressed, and no grpc-encoding says how"))
                    }
                };
            }
            if !self.buffer.is_empty() && until.is_none() {
                until = Some(Instant::now() + self.app.config.body_timeout);
            }
            let frame = match until {
                Some(until) => timeout_at(until, self.body.frame()).await.map_err(|_| late())?,
                None => match timeout(INTERVAL, self.body.frame()).await {
                    Ok(frame) => frame,
                    Err(_) if self.app.is_draining() => return Err(stopping()),
                    Err(_) => continue,
                },
            };
            let Some(frame) = frame else {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(Error::invalid("the stream ends within a message")),
                };
            };
            let frame = frame.map_err(|error| Error::invalid(format!("the stream broke off: {error}")))?;
            if let Ok(data) = frame.into_data() {
                held.grow(data.len())?;
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}

fn stopping() -> Error {
    Error::new(ErrorKind::Unavailable, "the server is stopping: open the stream again")
}

fn late() -> Error {
    Error::new(ErrorKind::RequestTimeout, "a message of the stream did not arrive in time")
}
