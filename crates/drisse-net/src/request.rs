//! Requests that are refused before they are routed: ambiguous ones (request smuggling), and those that a web page in
//! a browser sent.

use crate::listen::Listener;
use hyper::header::{CONTENT_LENGTH, HOST, HeaderMap, ORIGIN, TRANSFER_ENCODING};
use hyper::http::uri::Authority;
use hyper::{Request, StatusCode, Version};
use std::net::IpAddr;

/// The kind of a listener. It determines how requests from web pages are recognized.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ListenerKind {
    /// A Unix socket, which a web page cannot connect to.
    Unix,
    /// TCP without TLS.
    Tcp,
    /// TCP with TLS. A browser checks the certificate against the host name of the page.
    Tls,
}

impl ListenerKind {
    /// Returns the kind of a listener that does not use TLS.
    pub fn of(listener: &Listener) -> Self {
        match listener {
            Listener::Unix(_) => Self::Unix,
            Listener::Tcp(_) => Self::Tcp,
        }
    }

    /// Returns why a request must be refused because a web page may have sent it; `None` if it is accepted.
    ///
    /// Browsers send `Origin` with the requests of pages of other origins. A page whose host name was made to resolve
    /// to this server (DNS rebinding) is of the same origin for the browser, but `Host` is then that name. So `Host`
    /// must be an IP address or `localhost`, which no foreign page can have.
    pub fn refusal<B>(self, request: &Request<B>) -> Option<&'static str> {
        if request.headers().contains_key(ORIGIN) {
            return Some("requests from web pages are not accepted");
        }
        if self == Self::Tcp && !host_of(request).is_none_or(|host| is_address_or_localhost(&host)) {
            return Some("the host of the request must be an IP address or `localhost`");
        }
        None
    }
}

/// Returns the host that a request names, without its port; `None` if an HTTP/1.0 request names none.
fn host_of<B>(request: &Request<B>) -> Option<String> {
    if let Some(host) = request.uri().host() {
        return Some(host.to_owned());
    }
    let given = request.headers().get(HOST)?;
    // A malformed host becomes empty, which is not an address.
    let host = Authority::try_from(given.as_bytes()).map(|authority| authority.host().to_owned());
    Some(host.unwrap_or_default())
}

fn is_address_or_localhost(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

/// Returns the status with which to refuse a request whose head is ambiguous, because two parsers could read different
/// messages; `None` if it is accepted. RFC 9112 requires servers to refuse such heads, but hyper accepts them. The
/// connection is closed after the refusal.
pub(crate) fn ambiguous<B>(request: &Request<B>) -> Option<StatusCode> {
    let headers = request.headers();
    if request.version() > Version::HTTP_11 {
        return None;
    }
    if !has_one_host(headers, request.version()) {
        return Some(StatusCode::BAD_REQUEST);
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next()?;
    // Section 6.1: both are "an attempt to perform request smuggling".
    if headers.contains_key(CONTENT_LENGTH) {
        return Some(StatusCode::BAD_REQUEST);
    }
    // Section 6.1: an unknown transfer coding is answered with 501.
    let plain = codings.next().is_none() && coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    (!plain).then_some(StatusCode::NOT_IMPLEMENTED)
}

/// Returns whether the `Host` header is valid (section 3.2): one in HTTP/1.1, at most one in HTTP/1.0, well-formed.
fn has_one_host(headers: &HeaderMap, version: Version) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let Some(host) = hosts.next() else { return version < Version::HTTP_11 };
    is_host(host.as_bytes()) && hosts.next().is_none()
}

/// Which bytes a host name may contain.
const OF_A_NAME: [bool; 256] = {
    let (mut table, marks) = ([false; 256], b"-._~!$&'()*+,;=%");
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut mark = 0;
    while mark < marks.len() {
        table[marks[mark] as usize] = true;
        mark += 1;
    }
    table
};

/// Returns whether text is `uri-host [ ":" port ]` (RFC 9110, section 7.2), with the characters that RFC 3986 allows.
fn is_host(text: &[u8]) -> bool {
    let bracketed = text.starts_with(b"[");
    let end = match bracketed {
        true => text.iter().position(|&byte| byte == b']').map(|at| at + 1),
        false => text.iter().position(|&byte| byte == b':').or(Some(text.len())),
    };
    let Some((name, port)) = end.map(|end| text.split_at(end)) else { return false };
    let of_a_name = |&byte: &u8| OF_A_NAME[usize::from(byte)];
    let named = match bracketed {
        true => name[1..name.len() - 1].iter().all(|byte| of_a_name(byte) || *byte == b':'),
        false => name.iter().all(of_a_name),
    };
    named && (port.is_empty() || port[0] == b':' && port[1..].iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, target: &str, headers: &[(&str, &str)]) -> Request<()> {
        let builder = Request::builder().version(version).uri(target);
        headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(()).unwrap()
    }

    #[test]
    fn a_web_page_is_recognized_by_its_origin_or_by_its_host() {
        for (host, let_in) in [
            ("127.0.0.1:4791", true),
            ("localhost:4791", true),
            ("LOCALHOST", true),
            ("192.0.2.7", true),
            ("[::1]:4791", true),
            ("evil.example:4791", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("2130706433", false),
            ("", false),
        ] {
            let asked = request(Version::HTTP_11, "/v1/status", &[("host", host)]);
            assert_eq!(ListenerKind::Tcp.refusal(&asked).is_none(), let_in, "{host}");
            assert!(
                ListenerKind::Unix.refusal(&asked).is_none() && ListenerKind::Tls.refusal(&asked).is_none()
            );
        }
        let absolute = request(Version::HTTP_11, "http://evil.example/", &[("host", "localhost")]);
        assert!(
            ListenerKind::Tcp.refusal(&absolute).is_some(),
            "the target names the host, RFC 9112, section 3.2.2"
        );
        assert!(ListenerKind::Tcp.refusal(&request(Version::HTTP_10, "/", &[])).is_none());
        let page = request(Version::HTTP_11, "/", &[("host", "localhost"), ("origin", "null")]);
        for listener in [ListenerKind::Unix, ListenerKind::Tcp, ListenerKind::Tls] {
            assert!(listener.refusal(&page).is_some());
        }
    }

    #[test]
    fn a_head_that_two_readers_could_understand_differently_is_refused() {
        let host = ("host", "h:1");
        for (version, headers, status) in [
            (Version::HTTP_11, vec![host], None),
            (Version::HTTP_11, vec![("host", "")], None),
            (Version::HTTP_10, vec![], None),
            (Version::HTTP_11, vec![], Some(400)),
            (Version::HTTP_11, vec![host, host], Some(400)),
            (Version::HTTP_11, vec![("host", "[::1]:4791")], None),
            (Version::HTTP_11, vec![("host", "a b")], Some(400)),
            (Version::HTTP_11, vec![("host", "h:1:2")], Some(400)),
            (Version::HTTP_11, vec![("host", "h:1x")], Some(400)),
            (Version::HTTP_11, vec![("host", "[::1")], Some(400)),
            (Version::HTTP_11, vec![("host", "[::1]x")], Some(400)),
            (Version::HTTP_11, vec![("host", "h/")], Some(400)),
            (Version::HTTP_11, vec![("host", "user@h")], Some(400)),
            (Version::HTTP_11, vec![host, ("transfer-encoding", "Chunked")], None),
            (Version::HTTP_11, vec![host, ("transfer-encoding", "gzip, chunked")], Some(501)),
            (
                Version::HTTP_11,
                vec![host, ("transfer-encoding", "chunked"), ("content-length", "1")],
                Some(400),
            ),
        ] {
            let refused = ambiguous(&request(version, "/", &headers)).map(|status| status.as_u16());
            assert_eq!(refused, status, "{version:?} {headers:?}");
        }
    }
}
