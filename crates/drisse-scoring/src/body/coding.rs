//! Compressed bodies of requests and responses: `gzip` and `deflate` as RFC 9110, section 8.4.1, defines them.

use super::HeldBody;
use bytes::Bytes;
use drisse_core::{Error, ErrorKind, Result};
use flate2::Compression;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderMap, HeaderName, HeaderValue};
use std::io::{Read, Write};

/// Bodies up to this size, in bytes, are compressed and decompressed on the connection's thread, in about half a
/// millisecond.
const SMALL: usize = 32 << 10;

/// Shorter responses are not compressed.
pub(crate) const WORTH_IT: usize = 1 << 10;

/// The size of one decompression step, in bytes.
const PIECE: usize = 64 << 10;

/// gRPC's headers for the compression of messages.
pub(crate) const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
pub(crate) const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// A compression.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Coding {
    Gzip,
    /// In zlib's format.
    Deflate,
}

impl Coding {
    /// Returns the coding of a request's body, if it is compressed.
    pub(crate) fn of_body(headers: &HeaderMap) -> Result<Option<Self>> {
        Self::named(headers.get(CONTENT_ENCODING))
    }

    /// Returns the coding of a gRPC call's messages, if they may be compressed.
    pub(crate) fn of_grpc(headers: &HeaderMap) -> Result<Option<Self>> {
        Self::named(headers.get(GRPC_ENCODING))
    }

    /// Returns whether a gRPC client accepts responses in this coding.
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
                let message = format!("content encoding `{other}` is not supported: send gzip or deflate");
                Err(Error::new(ErrorKind::UnsupportedMediaType, message))
            }
        }
    }

    /// Returns the coding that a client prefers for its response, if it accepts any.
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

    /// Returns the coding's name in headers.
    pub(crate) fn name(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        })
    }
}

/// Decompresses a body, up to `limit` bytes, and counts its memory.
///
/// # Errors
/// [`TooLarge`](ErrorKind::TooLarge) if the decompressed body is larger than `limit`,
/// [`InvalidInput`](ErrorKind::InvalidInput) if it is malformed.
pub(crate) async fn unpack(limit: usize, coding: Coding, body: HeldBody) -> Result<HeldBody> {
    aside(body.bytes.len(), move || unpacked(coding, body, limit)).await?
}

fn unpacked(coding: Coding, mut body: HeldBody, limit: usize) -> Result<HeldBody> {
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

/// Compresses a response; `None` if it is too short.
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

/// Runs long work on a thread that serves no connections.
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
