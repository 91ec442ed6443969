//! The bodies of requests. A body is read before its request gets a permit, so that a slow client does not hold one,
//! and so that the request can be sent again.

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

/// A body that announces at most this many bytes is read completely …
const WHOLE: u64 = 32 << 20;
/// … and of a body that announces no length, at most this many bytes are read before the request is sent.
const UNANNOUNCED: u64 = 1 << 20;

/// The maximum size of all bodies in memory together, in bytes. Further requests are refused.
const BUDGET: u64 = 256 << 20;

/// For a body that announces more bytes than this, memory is reserved when it begins, from three quarters of the
/// budget. Of a smaller body, only the bytes that have arrived count, so that bodies that never arrive reserve nothing.
const LARGE: u64 = 1 << 20;

/// The first bytes of a body, which are not counted: a connection needs as much memory anyway.
const UNCOUNTED: u64 = 8 << 10;

/// Pieces smaller than this are joined.
const SMALL_PIECE: usize = 4 << 10;

/// The longest time that a body that is read completely may take to arrive.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The body of a request: the part that was read, then the rest as it arrives.
#[derive(Debug, Default)]
pub(crate) struct Upload {
    first: Option<Bytes>,
    more: VecDeque<Bytes>,
    rest: Option<Incoming>,
    reserved: Option<Arc<UploadMemory>>,
}

/// Counts the bytes of bodies in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct UploadBudget(Arc<AtomicU64>);

/// The bytes of one body, counted until dropped.
#[derive(Debug)]
struct UploadMemory(UploadBudget, u64);

impl UploadBudget {
    /// Returns the number of bytes in memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl UploadMemory {
    /// Counts more bytes.
    ///
    /// # Errors
    /// Returns `Overloaded` if all bodies together now have more bytes than `limit`.
    fn grow(&mut self, bytes: u64, limit: u64) -> Result<()> {
        self.1 += bytes;
        if self.0.0.fetch_add(bytes, Relaxed) + bytes <= limit {
            return Ok(());
        }
        let message = "the gateway's memory for request bodies is full";
        Err(Error::new(ErrorKind::Overloaded, message).retry_after(Duration::from_secs(1)))
    }
}

impl Drop for UploadMemory {
    fn drop(&mut self) {
        self.0.0.fetch_sub(self.1, Relaxed);
    }
}

impl Upload {
    /// Creates a body that begins with these bytes.
    pub(crate) fn of(first: Bytes) -> Self {
        Self { first: Some(first).filter(|first| !first.is_empty()), ..Self::default() }
    }

    /// Adds `body`, which follows as it arrives.
    pub(crate) fn and(self, body: Incoming) -> Self {
        Self { rest: Some(body), ..self }
    }

    /// Reads a body: completely, or the beginning of a long one.
    ///
    /// # Errors
    /// Returns an error if the body is malformed, does not arrive in time, or if the memory for bodies is full.
    pub(crate) async fn read(body: Incoming, budget: &UploadBudget, deadline: Instant) -> Result<Self> {
        Self::default().read_on(body, budget, deadline).await
    }

    /// Reads `body`, which continues this body, as [`Self::read`] does.
    pub(crate) async fn read_on(
        self,
        mut body: Incoming,
        budget: &UploadBudget,
        deadline: Instant,
    ) -> Result<Self> {
        let mut upload = self;
        if body.is_end_stream() {
            return Ok(upload);
        }
        let announced = body.size_hint().exact();
        let mut reserved = UploadMemory(budget.clone(), 0);
        if announced.is_some_and(|length| length > WHOLE) {
            upload.rest = Some(body);
            return Ok(upload);
        }
        let set_aside = announced.filter(|&length| length > LARGE);
        if let Some(length) = set_aside {
            reserved.grow(length, BUDGET / 4 * 3)?;
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
                // A million chunks of one byte would be a million pieces, each much larger than its byte.
                Some(_) if data.len() < SMALL_PIECE => small.extend_from_slice(&data),
                Some(_) => {
                    upload.push(small.split());
                    upload.more.push_back(data);
                }
            }
            if set_aside.is_none() && read > UNCOUNTED {
                reserved.grow(length, BUDGET)?;
            }
            if announced.is_none() && read > UNANNOUNCED {
                upload.rest = Some(body);
                break;
            }
        }
        upload.push(small);
        upload.reserved = (reserved.1 > 0).then(|| Arc::new(reserved));
        Ok(upload)
    }

    fn push(&mut self, piece: BytesMut) {
        if !piece.is_empty() {
            self.more.push_back(piece.freeze());
        }
    }

    /// Returns a copy that shares the bytes; `None` if not all of them are in memory.
    pub(crate) fn again(&self) -> Option<Self> {
        let (first, more) = (self.first.clone(), self.more.clone());
        self.rest.is_none().then(|| Self { first, more, rest: None, reserved: self.reserved.clone() })
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
            // The length of a body that was read in part is unknown.
            Some(rest) if here == 0 => rest.size_hint(),
            Some(_) => SizeHint::default(),
        }
    }
}

/// Returns the error of a request whose body cannot be read completely.
pub(crate) fn malformed(error: &hyper::Error) -> Error {
    Error::invalid(format!("the body ended early or is malformed: {error}"))
}
