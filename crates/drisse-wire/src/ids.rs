//! The ids of requests: GUIDs, and the headers by which Azure ML's clients find a request again.
//!
//! Source: <https://github.com/microsoft/azureml-inference-server> (`routes.py`)

use drisse_core::{Error, ErrorKind, Result};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The id of a request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The id that a client has given its request.
pub const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-client-request-id");
/// The older header of both ids.
const MS_REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");
const TRACE_ID: HeaderName = HeaderName::from_static("traceid");

/// The longest id that Azure ML accepts, in characters.
const MAX_ID: usize = 100;

/// Makes the ids of requests without one: GUIDs of pseudo-random numbers (RFC 9562, version 4).
#[derive(Debug)]
pub struct RequestIds {
    seeds: [u64; 2],
    made: AtomicU64,
}

impl RequestIds {
    /// Starts a sequence of ids that no other process has.
    #[expect(clippy::new_without_default, reason = "each sequence is another one")]
    pub fn new() -> Self {
        let random = RandomState::new();
        Self { seeds: [random.hash_one(1), random.hash_one(2)], made: AtomicU64::new(0) }
    }

    /// Returns the next id.
    ///
    /// ```
    /// let ids = drisse_wire::ids::RequestIds::new();
    /// let (one, two) = (ids.next(), ids.next());
    /// assert_eq!((one.len(), one != two), (36, true));
    /// ```
    pub fn next(&self) -> HeaderValue {
        // SplitMix64's increment: each number of a sequence is another one.
        let step = self.made.fetch_add(1, Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let [high, low] = self.seeds.map(|seed| mixed(seed.wrapping_add(step)));
        let guid = guid(high & !0xf000 | 0x4000, low & !(0b11 << 62) | (0b10 << 62));
        HeaderValue::from_bytes(&guid).unwrap_or(HeaderValue::from_static("unknown"))
    }
}

/// The finalizer of SplitMix64, which maps each number to another one.
fn mixed(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Prints a GUID: groups of 8, 4, 4, 4 and 12 hexadecimal digits.
fn guid(high: u64, low: u64) -> [u8; 36] {
    let (high, low) = (digits(high), digits(low));
    let mut text = [b'-'; 36];
    text[..8].copy_from_slice(&high[..8]);
    text[9..13].copy_from_slice(&high[8..12]);
    text[14..18].copy_from_slice(&high[12..]);
    text[19..23].copy_from_slice(&low[..4]);
    text[24..].copy_from_slice(&low[4..]);
    text
}

/// Returns the hexadecimal digits of a number, all at once: each in a byte of its own.
fn digits(number: u64) -> [u8; 16] {
    const EACH: u128 = u128::MAX / 0xff;
    let mut spread = u128::from(number);
    for shift in [32, 16, 8, 4] {
        // Bits `shift` and more of each part move to a part of their own.
        let keep = u128::MAX / ((1 << shift) + 1);
        spread = (spread | spread << shift) & keep;
    }
    let letters = ((spread + 6 * EACH) >> 4) & EACH;
    (spread + 0x30 * EACH + letters * u128::from(b'a' - b'0' - 10)).to_be_bytes()
}

/// The ids of a request on a path of Azure ML's, for its response.
#[derive(Clone, Debug)]
pub struct AzureIds {
    request: HeaderValue,
    /// `None` if the request has no id, as most have none.
    given: Option<Box<GivenIds>>,
}

#[derive(Clone, Default, Debug)]
struct GivenIds {
    ms_request: Option<HeaderValue>,
    client: Option<HeaderValue>,
    trace: Option<HeaderValue>,
    too_long: Option<HeaderName>,
}

impl AzureIds {
    /// Returns whether Azure ML's server has this path.
    pub fn has_path(path: &str) -> bool {
        let score = path.strip_prefix("/score");
        score.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            || matches!(path, "/" | "/swagger.json")
    }

    /// Reads the ids of a request; `request` is the one of `x-request-id`, or a new one.
    pub fn of(headers: &HeaderMap, request: HeaderValue) -> Self {
        let is_id = |name| [REQUEST_ID, MS_REQUEST_ID, CLIENT_REQUEST_ID, TRACE_ID].contains(name);
        let given = headers.keys().any(is_id).then(|| Box::new(GivenIds::of(headers, &request)));
        Self { request, given }
    }

    /// Returns the id of the request.
    pub fn request(&self) -> &HeaderValue {
        &self.request
    }

    /// Refuses a request with an id that is too long.
    ///
    /// # Errors
    /// [`HeadersTooLarge`](ErrorKind::HeadersTooLarge), with the header's name.
    pub fn check(&self) -> Result<()> {
        let too_long = self.given.as_ref().and_then(|given| given.too_long.as_ref());
        let Some(name) = too_long else { return Ok(()) };
        let message = format!("the header {name} has more than {MAX_ID} characters: send a shorter id");
        Err(Error::new(ErrorKind::HeadersTooLarge, message))
    }

    /// Adds the ids to the headers of the response.
    pub fn put_on(self, headers: &mut HeaderMap) {
        let Some(given) = self.given else {
            headers.insert(MS_REQUEST_ID, self.request.clone());
            headers.insert(REQUEST_ID, self.request);
            return;
        };
        let request = (given.too_long != Some(REQUEST_ID)).then_some(self.request);
        let ids = [
            (REQUEST_ID, request),
            (MS_REQUEST_ID, given.ms_request),
            (CLIENT_REQUEST_ID, given.client),
            (TRACE_ID, given.trace),
        ];
        for (name, id) in ids {
            if let Some(id) = id {
                headers.insert(name, id);
            }
        }
    }
}

impl GivenIds {
    fn of(headers: &HeaderMap, request: &HeaderValue) -> Self {
        let given = |name: &HeaderName| headers.get(name).filter(|id| !id.is_empty()).cloned();
        let (older, newer) = (given(&MS_REQUEST_ID), given(&CLIENT_REQUEST_ID));
        let is_long = |id: Option<&HeaderValue>| id.is_some_and(|id| id.len() > MAX_ID);
        let mut ids = Self { trace: given(&TRACE_ID), ..Self::default() };
        // As Azure ML's server does it, an id that is too long is not returned, nor those that are read after it.
        if is_long(headers.get(&REQUEST_ID)) {
            return Self { too_long: Some(REQUEST_ID), ..ids };
        }
        let (is_older, is_newer) = (is_long(older.as_ref()), is_long(newer.as_ref()));
        ids.too_long = is_older.then_some(MS_REQUEST_ID).or(is_newer.then_some(CLIENT_REQUEST_ID));
        if ids.too_long.is_none() {
            ids.client = newer.or_else(|| older.clone());
            ids.ms_request = older.or_else(|| ids.client.clone()).or_else(|| Some(request.clone()));
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(given: &[(&'static str, &str)]) -> (bool, Vec<(String, String)>) {
        let header = |&(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        let headers: HeaderMap = given.iter().map(header).collect();
        let made = headers.get(REQUEST_ID).cloned().unwrap_or(HeaderValue::from_static("made"));
        let ids = AzureIds::of(&headers, made);
        let (is_short, mut answer) = (ids.check().is_ok(), HeaderMap::new());
        ids.put_on(&mut answer);
        let text = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.to_string(), value.to_str().unwrap().to_owned())
        };
        (is_short, answer.iter().map(text).collect())
    }

    #[test]
    fn each_id_stands_for_the_missing_ones_as_in_azure_ml() {
        let (r, m, c) = ("x-request-id", "x-ms-request-id", "x-ms-client-request-id");
        let long = "l".repeat(101);
        for (given, is_short, wanted) in [
            (vec![], true, vec![(m, "made"), (r, "made")]),
            (vec![(r, "1")], true, vec![(r, "1"), (m, "1")]),
            (vec![(m, "2")], true, vec![(r, "made"), (m, "2"), (c, "2")]),
            (vec![(c, "3")], true, vec![(r, "made"), (m, "3"), (c, "3")]),
            (vec![(m, "2"), (c, "3")], true, vec![(r, "made"), (m, "2"), (c, "3")]),
            (vec![("traceid", "4")], true, vec![(r, "made"), (m, "made"), ("traceid", "4")]),
            (vec![(r, &*long), (c, "3")], false, vec![]),
            (vec![(m, &*long), (c, "3")], false, vec![(r, "made")]),
            (vec![(c, &*long)], false, vec![(r, "made")]),
            (vec![(c, &long[1..])], true, vec![(r, "made"), (m, &long[1..]), (c, &long[1..])]),
        ] {
            let wanted = wanted.iter().map(|(name, id)| ((*name).to_owned(), (*id).to_owned())).collect();
            assert_eq!(answered(&given), (is_short, wanted), "{given:?}");
        }
    }

    #[test]
    fn a_guid_has_the_digits_of_its_numbers() {
        let guid = guid(0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210);
        assert_eq!(guid.as_slice(), b"01234567-89ab-cdef-fedc-ba9876543210");
    }

    #[test]
    fn a_guid_has_its_version_and_variant() {
        let ids = RequestIds::new();
        for _ in 0..50 {
            let id = ids.next();
            let text = id.to_str().unwrap();
            let lengths: Vec<_> = text.split('-').map(str::len).collect();
            assert_eq!(lengths, [8, 4, 4, 4, 12]);
            assert!(text[14..].starts_with('4') && "89ab".contains(&text[19..20]), "{text}");
        }
    }
}
