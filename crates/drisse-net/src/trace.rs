//! Request tracing: decides which requests are sampled, propagates W3C Trace Context, and buffers the finished spans
//! until they are exported.
//!
//! Sources: <https://www.w3.org/TR/trace-context/>, <https://opentelemetry.io/docs/specs/otel/trace/sdk/#sampling>.

mod environment;
mod export;
mod otlp;

pub use environment::VariableError;
pub use export::{Exporter, Exporting};
pub use otlp::Value;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Notify;

/// The header that carries the trace context of a request.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The header that carries the state of other tracing systems. It is kept unchanged.
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The longest `tracestate` that is kept, in bytes (W3C requires at least 512 characters).
const MAX_STATE: usize = 512;

/// The size of the span buffer in bytes: about 5,000 spans. Further spans are dropped and counted.
const MAX_WAITING: usize = 1 << 20;

/// How to decide whether a request is traced.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sampling {
    /// Whether to follow the decision of the caller if the request has a `traceparent` header.
    pub parent_based: bool,
    /// The fraction of the other requests that is traced, 0 to 1.
    pub ratio: f64,
}

/// The span of one request. Costs little if it is not sampled.
#[derive(Clone, Debug)]
pub struct Span {
    trace: u128,
    id: u64,
    parent: Option<u64>,
    sampled: bool,
    state: Option<HeaderValue>,
    started: Instant,
}

/// A stage of handling a request, such as waiting in a queue: its name, its beginning and its end. It becomes a child
/// span.
type Stage = (&'static str, Instant, Instant);

/// Collects the stages of one request. Can be shared between threads.
#[derive(Debug, Default)]
pub struct Stages(Mutex<Vec<Stage>>);

/// Samples requests, and buffers their spans until they are exported.
///
/// ```
/// use drisse_net::trace::{Sampling, Traces};
///
/// let traces = Traces::new(Sampling { parent_based: true, ratio: 1.0 });
/// let span = traces.begin(&Default::default(), std::time::Instant::now());
/// traces.end(&span, "score", &[], None, None);
/// assert!(!traces.take().is_empty());
/// ```
#[derive(Debug)]
pub struct Traces {
    parent_based: bool,
    /// The largest low half of a trace id that is sampled; 0 samples none.
    bound: u64,
    spans: Mutex<Vec<u8>>,
    half_full: Notify,
    dropped: AtomicU64,
}

impl Stages {
    /// Adds a stage.
    pub fn note(&self, name: &'static str, from: Instant, to: Instant) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((name, from, to));
    }

    fn take(&self) -> Vec<Stage> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Traces {
    /// Returns an empty buffer that samples requests as `sampling` says.
    pub fn new(sampling: Sampling) -> Self {
        let ratio = sampling.ratio.clamp(0.0, 1.0);
        Self {
            parent_based: sampling.parent_based,
            bound: if ratio >= 1.0 { u64::MAX } else { (ratio * 2f64.powi(64)) as u64 },
            spans: Mutex::default(),
            half_full: Notify::new(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Starts the span of a request with these headers, which arrived at `started`.
    pub fn begin(&self, headers: &HeaderMap, started: Instant) -> Span {
        let given = headers.get(TRACEPARENT).and_then(|value| parse(value.as_bytes()));
        let id = fastrand::u64(1..);
        let sample = |trace: u128| trace as u64 <= self.bound && self.bound > 0;
        let (trace, parent, sampled) = match given {
            Some((trace, parent, sampled)) => {
                (trace, Some(parent), if self.parent_based { sampled } else { sample(trace) })
            }
            None => {
                let trace = fastrand::u128(1..);
                (trace, None, sample(trace))
            }
        };
        let state = given.and_then(|_| headers.get(TRACESTATE)).filter(|state| state.len() <= MAX_STATE);
        Span { trace, id, parent, sampled, state: state.cloned(), started }
    }

    /// Ends the span of an answered request, and buffers it under `name` with a child span for each stage. `failed` is
    /// the error message, if the request failed.
    pub fn end(
        &self,
        span: &Span,
        name: &str,
        attributes: &[(&str, Value<'_>)],
        failed: Option<&str>,
        stages: Option<&Stages>,
    ) {
        if !span.sampled {
            return;
        }
        let (now, wall) = (Instant::now(), SystemTime::now());
        // Durations come from the monotonic clock: the wall clock may be set while a request is handled.
        let at = |instant: Instant| {
            let then = wall.checked_sub(now.saturating_duration_since(instant)).unwrap_or(wall);
            let since = then.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        };
        let state = span.state.as_ref().and_then(|state| state.to_str().ok()).unwrap_or_default();
        let whole = otlp::Span {
            trace: span.trace,
            id: span.id,
            parent: span.parent,
            remote_parent: span.parent.is_some(),
            state,
            name,
            kind: otlp::SERVER,
            start: at(span.started),
            end: at(now),
            attributes,
            failed,
        };
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        if spans.len() > MAX_WAITING {
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        let before = spans.len();
        whole.encode(&mut spans);
        for (name, from, to) in stages.map(Stages::take).unwrap_or_default() {
            let part = otlp::Span {
                id: fastrand::u64(1..),
                parent: Some(span.id),
                remote_parent: false,
                name,
                kind: otlp::INTERNAL,
                start: at(from),
                end: at(to),
                attributes: &[],
                failed: None,
                ..whole
            };
            part.encode(&mut spans);
        }
        if before < MAX_WAITING / 2 && spans.len() >= MAX_WAITING / 2 {
            self.half_full.notify_one();
        }
    }

    /// Waits for `delay`, or until the buffer is half full, and takes the spans like [`take`](Self::take).
    /// Cancel-safe.
    pub async fn next(&self, delay: Duration) -> Vec<u8> {
        // The spans are taken in both cases.
        let _ = tokio::time::timeout(delay, self.half_full.notified()).await;
        self.take()
    }

    /// Empties the buffer and returns its spans, encoded as `repeated Span` of OTLP's `ScopeSpans`.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.spans.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the number of requests whose spans were dropped, because the buffer was full, since the last call.
    pub fn dropped(&self) -> u64 {
        self.dropped.swap(0, Relaxed)
    }
}

impl Span {
    /// Returns a collector of the request's stages; `None` if the request is not sampled.
    pub fn stages(&self) -> Option<Stages> {
        self.sampled.then(Stages::default)
    }

    /// Returns the `traceparent` header for requests that are sent on behalf of this one.
    pub fn traceparent(&self) -> HeaderValue {
        let text = format!("00-{:032x}-{:016x}-{:02x}", self.trace, self.id, u8::from(self.sampled));
        HeaderValue::try_from(text).expect("hexadecimal digits")
    }
}

/// Parses a `traceparent` header into trace id, parent id and sampled flag; `None` if it is malformed, in which case
/// the header is ignored.
fn parse(value: &[u8]) -> Option<(u128, u64, bool)> {
    fn hex(digits: &[u8]) -> Option<u128> {
        let digit = |number, &digit: &u8| match digit {
            b'0'..=b'9' => Some(number << 4 | u128::from(digit - b'0')),
            b'a'..=b'f' => Some(number << 4 | u128::from(digit - b'a' + 10)),
            _ => None,
        };
        digits.iter().try_fold(0, digit)
    }
    let (known, more) = value.split_at_checked(55)?;
    let dashes = [2, 35, 52].iter().all(|&index| known[index] == b'-');
    let version = hex(&known[..2])?;
    // Later versions may append fields after another dash; version 255 is invalid.
    let ends = more.is_empty() || version > 0 && more[0] == b'-';
    let (trace, parent) = (hex(&known[3..35])?, hex(&known[36..52])? as u64);
    let sampled = hex(&known[53..])? & 1 == 1;
    (dashes && ends && version != 255 && trace != 0 && parent != 0).then_some((trace, parent, sampled))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(traceparent: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::try_from(traceparent).unwrap());
        headers.insert(TRACESTATE, HeaderValue::from_static("vendor=x"));
        headers
    }

    #[test]
    fn a_context_is_read_as_w3c_has_it() {
        let (trace, parent) = (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 0x00f0_67aa_0ba9_02b7);
        assert_eq!(parse(GIVEN.as_bytes()), Some((trace, parent, true)));
        assert_eq!(parse(GIVEN.replace("-01", "-02").as_bytes()), Some((trace, parent, false)));
        assert_eq!(parse(GIVEN.replacen("00", "cc", 1).as_bytes()), Some((trace, parent, true)));
        assert!(parse(format!("{}-more", GIVEN.replacen("00", "cc", 1)).as_bytes()).is_some());
        for wrong in [
            format!("{GIVEN}-more"),
            GIVEN.replacen("00", "ff", 1),
            GIVEN.replace("4bf92f3577b34da6a3ce929d0e0e4736", "00000000000000000000000000000000"),
            GIVEN.replace("00f067aa0ba902b7", "0000000000000000"),
            GIVEN.to_uppercase(),
            GIVEN[..54].to_owned(),
            GIVEN.replace('-', "_"),
        ] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn a_request_goes_on_in_the_trace_it_came_with() {
        let traces = Traces::new(Sampling { parent_based: true, ratio: 0.0 });
        let span = traces.begin(&headers(GIVEN), Instant::now());
        let onward = span.traceparent();
        let (trace, parent, sampled) = parse(onward.as_bytes()).unwrap();
        assert_eq!((trace, sampled), (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, true));
        assert_ne!(parent, 0x00f0_67aa_0ba9_02b7, "with an id of its own");
        traces.end(&span, "score", &[], None, None);
        assert!(traces.take().windows(8).any(|bytes| bytes == b"vendor=x"));
    }

    #[test]
    fn the_share_that_is_traced_is_the_one_asked_for() {
        let share = |ratio| {
            let traces = Traces::new(Sampling { parent_based: true, ratio });
            let sampled = (0..20_000).filter(|_| traces.begin(&HeaderMap::new(), Instant::now()).sampled);
            sampled.count() as f64 / 20_000.0
        };
        assert_eq!((share(0.0), share(1.0)), (0.0, 1.0));
        // Five standard deviations of 20,000 samples.
        assert!((share(0.1) - 0.1).abs() < 0.011);
    }

    #[test]
    fn spans_that_are_not_exported_are_bounded_and_counted() {
        let traces = Traces::new(Sampling { parent_based: false, ratio: 1.0 });
        let span = traces.begin(&HeaderMap::new(), Instant::now());
        (0..50_000).for_each(|_| traces.end(&span, "score", &[], None, None));
        assert!(traces.dropped() > 10_000);
        assert!(traces.take().len() < MAX_WAITING + 1000);
    }
}
