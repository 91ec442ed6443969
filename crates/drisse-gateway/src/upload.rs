//! Requests' bodies. They are read before their request takes a place at a replica, so that a slow client
//! holds none, and so that they can be sent again.

use bytes::{Bytes, BytesMut};
use drisse_core::{Error, ErrorKind, Result};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A body that announces at most this much is read whole; of one that announces nothing, the first of it.
const WHOLE: u64 = 32 << 20;
const UNANNOUNCED: u64 = 1 << 20;

/// Bodies that are read have at most this together; further ones are refused.
const MAX_HELD: u64 = 256 << 20;

/// A body that announces more than this has its room set aside when it begins, of three quarters of it all; of
/// smaller ones only what has come counts, so that many that never come take nothing.
const LARGE: u64 = 1 << 20;

/// What has come is counted beyond this: as much as a connection takes anyway.
const UNCOUNTED: u64 = 8 << 10;

/// Pieces smaller than this are put together.
const SMALL_PIECE: usize = 4 << 10;

/// A body that is read whole has arrived by then.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A body: what was read of it, then what is still to come.
#[derive(Debug, Default)]
pub(crate) struct Upload {
    first: Option<Bytes>,
    more: VecDeque<Bytes>,
    rest: Option<Incoming>,
    held: Option<Arc<Held>>,
}

/// Bytes of bodies that are held, together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holding(Arc<AtomicU64>);

/// Some of them, until dropped.
#[derive(Debug)]
struct Held(Holding, u64);

impl Holding {
    /// How many there are now.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Held {
    /// Counts more, of at most `room`.
    fn grow(&mut self, bytes: u64, room: u64) -> Result<()> {
        self.1 += bytes;
        if self.0.0.fetch_add(bytes, Relaxed) + bytes <= room {
            return Ok(());
        }
        let message = "the bodies of the requests under way fill the gateway's memory for them";
        Err(Error::new(ErrorKind::Overloaded, message).retry_after(Duration::from_secs(1)))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.fetch_sub(self.1, Relaxed);
    }
}

impl Upload {
    /// What has been read of a body.
    pub(crate) fn of(first: Bytes) -> Self {
        Self { first: Some(first).filter(|first| !first.is_empty()), ..Self::default() }
    }

    /// The same, and then the rest of `body` as it comes.
    pub(crate) fn and(self, body: Incoming) -> Self {
        Self { rest: Some(body), ..self }
    }

    /// Reads a body as far as it is to be read, within `deadline`.
    pub(crate) async fn read(body: Incoming, holding: &Holding, deadline: Instant) -> Result<Self> {
        Self::default().read_on(body, holding, deadline).await
    }

    /// Reads on, where some of it was read.
    pub(crate) async fn read_on(
        self,
        mut body: Incoming,
        holding: &Holding,
        deadline: Instant,
    ) -> Result<Self> {
        let mut upload = self;
        if body.is_end_stream() {
            return Ok(upload);
        }
        let announced = body.size_hint().exact();
        let mut held = Held(holding.clone(), 0);
        if announced.is_some_and(|length| length > WHOLE) {
            upload.rest = Some(body);
            return Ok(upload);
        }
        let set_aside = announced.filter(|&length| length > LARGE);
        if let Some(length) = set_aside {
            held.grow(length, MAX_HELD / 4 * 3)?;
        }
        let until = deadline.min(Instant::now() + TIMEOUT);
        let (mut read, mut small) = (0, BytesMut::new());
        loop {
            let late = |_| Error::new(ErrorKind::RequestTimeout, "the body did not arrive in time");
            let Some(frame) = tokio::time::timeout_at(until.into(), body.frame()).await.map_err(late)? else {
                break;
            };
            let Ok(data) = frame.map_err(|error| malformed(&error))?.into_data() else { continue };
            let length = data.len() as u64;
            read += length;
            match upload.first {
                None => upload.first = Some(data),
                // A million chunks of a byte would be a million pieces, each many times its byte.
                Some(_) if data.len() < SMALL_PIECE => small.extend_from_slice(&data),
                Some(_) => {
                    upload.push(small.split());
                    upload.more.push_back(data);
                }
            }
            if set_aside.is_none() && read > UNCOUNTED {
                held.grow(length, MAX_HELD)?;
            }
            if announced.is_none() && read > UNANNOUNCED {
                upload.rest = Some(body);
                break;
            }
        }
        upload.push(small);
        upload.held = (held.1 > 0).then(|| Arc::new(held));
        Ok(upload)
    }

    fn push(&mut self, piece: BytesMut) {
        if !piece.is_empty() {
            self.more.push_back(piece.freeze());
        }
    }

    /// The same once more, where all of it is here.
    pub(crate) fn again(&self) -> Option<Self> {
        let held = self.held.clone();
        self.rest.is_none().then(|| Self {
            first: self.first.clone(),
            more: self.more.clone(),
            rest: None,
            held,
        })
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if let Some(data) = this.first.take().or_else(|| this.more.pop_front()) {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match &mut this.rest {
            Some(rest) => Pin::new(rest).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        let read = self.first.is_none() && self.more.is_empty();
        read && self.rest.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let here: usize = self.first.iter().chain(&self.more).map(Bytes::len).sum();
        match &self.rest {
            None => SizeHint::with_exact(here as u64),
            // What is still to come was announced whole, or nothing was.
            Some(rest) if here == 0 => rest.size_hint(),
            Some(_) => SizeHint::default(),
        }
    }
}

/// A body that cannot be read to its end.
pub(crate) fn malformed(error: &hyper::Error) -> Error {
    Error::invalid(format!("the body ended early or is malformed: {error}"))
}
