//! Compressed bodies, both ways: `gzip` and `deflate` as RFC 9110, section 8.4.1, means them.

use super::body::Read as Body;
use crate::app::App;
use bytes::Bytes;
use drisse_core::{Error, ErrorKind, Result};
use flate2::Compression;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderMap, HeaderName, HeaderValue};
use std::io::{Read, Write};

/// Bodies up to this many bytes are packed and unpacked on the connection's thread: about half a millisecond.
const SMALL: usize = 32 << 10;

/// Shorter answers are not worth it.
pub(super) const WORTH_IT: usize = 1 << 10;

/// How much is unpacked at a time.
const PIECE: usize = 64 << 10;

/// gRPC's headers for the same, of messages.
pub(crate) const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
pub(crate) const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// A way to compress.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Coding {
    Gzip,
    /// With zlib's frame.
    Deflate,
}

impl Coding {
    /// A body's, if it has one.
    pub(crate) fn of_body(headers: &HeaderMap) -> Result<Option<Self>> {
        Self::named(headers.get(CONTENT_ENCODING))
    }

    /// The one of a gRPC call's messages, if they have one.
    pub(crate) fn of_grpc(headers: &HeaderMap) -> Result<Option<Self>> {
        Self::named(headers.get(GRPC_ENCODING))
    }

    /// Whether a gRPC client reads answers in it.
    pub(crate) fn is_read_by(self, headers: &HeaderMap) -> bool {
        let list = headers.get(GRPC_ACCEPT_ENCODING).and_then(|list| list.to_str().ok()).unwrap_or_default();
        list.split(',').any(|name| name.trim().as_bytes() == self.name().as_bytes())
    }

    fn named(header: Option<&HeaderValue>) -> Result<Option<Self>> {
        let Some(given) = header else { return Ok(None) };
        match given.to_str().unwrap_or("?").trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(None),
            "gzip" | "x-gzip" => Ok(Some(Self::Gzip)),
            "deflate" => Ok(Some(Self::Deflate)),
            other => {
                let message = format!("content encoding `{other}` is not read here: gzip and deflate are");
                Err(Error::new(ErrorKind::UnsupportedMediaType, message))
            }
        }
    }

    /// The one a client takes its answer in, if it takes one.
    pub(crate) fn accepted(headers: &HeaderMap) -> Option<Self> {
        let lists = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|list| list.to_str().ok());
        let mut best: Option<(f32, Self)> = None;
        for part in lists.flat_map(|list| list.split(',')) {
            let (name, weight) = part.split_once(';').unwrap_or((part, ""));
            let coding = match name.trim() {
                "gzip" | "x-gzip" | "*" => Self::Gzip,
                "deflate" => Self::Deflate,
                _ => continue,
            };
            let weight = weight.trim().strip_prefix("q=").map_or(1.0, |q| q.trim().parse().unwrap_or(0.0));
            if weight > 0.0 && best.is_none_or(|(than, _)| weight > than) {
                best = Some((weight, coding));
            }
        }
        best.map(|(_, coding)| coding)
    }

    /// Its name in headers.
    pub(crate) fn name(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        })
    }
}

/// Unpacks a body: at most as many bytes as any body may have, counted as held as they come.
pub(crate) async fn unpack(app: &App, coding: Coding, body: Body) -> Result<Body> {
    let limit = app.config.max_body;
    aside(body.bytes.len(), move || unpacked(coding, body, limit)).await?
}

fn unpacked(coding: Coding, mut body: Body, limit: usize) -> Result<Body> {
    let packed = std::mem::take(&mut body.bytes);
    let mut source: Box<dyn Read> = match coding {
        Coding::Gzip => Box::new(MultiGzDecoder::new(&*packed)),
        Coding::Deflate => Box::new(ZlibDecoder::new(&*packed)),
    };
    let mut whole = Vec::new();
    loop {
        let before = whole.len();
        let mut piece = source.by_ref().take(PIECE as u64);
        let broken = |error| Error::invalid(format!("the body cannot be unpacked: {error}"));
        let more = piece.read_to_end(&mut whole).map_err(broken)?;
        if more == 0 {
            break;
        }
        if whole.len() > limit {
            let message = format!("the body is over the limit of {limit} bytes once unpacked");
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        body.held.grow(whole.len() - before)?;
    }
    body.bytes = whole.into();
    Ok(body)
}

/// Packs an answer, where that is worth it.
pub(crate) async fn pack(coding: Coding, answer: Bytes) -> Result<Option<Bytes>> {
    if answer.len() < WORTH_IT {
        return Ok(None);
    }
    aside(answer.len(), move || packed(coding, &answer)).await.map(Some)
}

fn packed(coding: Coding, answer: &[u8]) -> Bytes {
    // Writing to a vector cannot fail.
    let packed = match coding {
        Coding::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(answer).and_then(|()| encoder.finish())
        }
        Coding::Deflate => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(answer).and_then(|()| encoder.finish())
        }
    };
    packed.unwrap_or_default().into()
}

/// Runs what takes long where no connection waits for it.
async fn aside<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    if bytes <= SMALL {
        return Ok(work());
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Error::internal("packing or unpacking a body panicked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(list: &'static str) -> Option<Coding> {
        Coding::accepted(&HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(list))]))
    }

    #[test]
    fn a_client_gets_what_it_likes_best_of_what_there_is() {
        assert_eq!(accepted("gzip, deflate, br"), Some(Coding::Gzip));
        assert_eq!(accepted("deflate"), Some(Coding::Deflate));
        assert_eq!(accepted("gzip;q=0.2, deflate;q=0.7"), Some(Coding::Deflate));
        for none in ["", "br", "gzip;q=0", "identity", "gzip;q=x"] {
            assert_eq!(accepted(none), None, "{none}");
        }
    }
}
