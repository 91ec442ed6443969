//! One meaning of a request's path: it is brought into one form before anything is matched.

use hyper::Uri;
use hyper::http::uri::PathAndQuery;
use std::borrow::Cow;

/// Rewrites the path of a request's target into its one form.
///
/// Percent-encoded unreserved characters and colons are decoded, once ([RFC 3986, section 6.2.2.2]), and one slash at
/// the end is dropped. What a server behind this one could read as another path is refused instead.
///
/// # Errors
/// Returns why the path is refused: it has dot segments, empty segments, an encoded slash or NUL, or a `%` that encodes
/// nothing.
///
/// [RFC 3986, section 6.2.2.2]: https://www.rfc-editor.org/rfc/rfc3986#section-6.2.2.2
pub(crate) fn normalize(target: &mut Uri) -> Result<(), &'static str> {
    let path = match normalized(target.path())? {
        Cow::Borrowed(_) => return Ok(()),
        Cow::Owned(path) => path,
    };
    let text = target.query().map(|query| format!("{path}?{query}")).unwrap_or(path);
    let mut parts = std::mem::take(target).into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(text).map_err(|_| "the path is malformed")?);
    *target = Uri::from_parts(parts).map_err(|_| "the request's target is malformed")?;
    Ok(())
}

fn normalized(path: &str) -> Result<Cow<'_, str>, &'static str> {
    if is_normal(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let path = decoded(path)?;
    let path = path.strip_suffix('/').unwrap_or(&path);
    for segment in path.split('/').skip(1) {
        match segment {
            "" => return Err("the path has an empty segment (`//`)"),
            "." | ".." => return Err("the path has a dot segment (`.` or `..`)"),
            _ => {}
        }
    }
    Ok(Cow::Owned(path.to_owned()))
}

/// Whether the path is certainly in its one form, as nearly every path is.
fn is_normal(path: &[u8]) -> bool {
    let mut before = 0;
    for &byte in path {
        if byte == b'%' || (before == b'/' && matches!(byte, b'/' | b'.')) {
            return false;
        }
        before = byte;
    }
    before != b'/' || path.len() == 1
}

fn decoded(path: &str) -> Result<String, &'static str> {
    let mut parts = path.split('%');
    let mut decoded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let digits = digits.ok_or("a `%` in the path is not followed by two hexadecimal digits")?;
        match u8::from_str_radix(digits, 16) {
            Ok(b'/' | 0) => return Err("the path has an encoded slash or NUL (`%2F`, `%00`)"),
            Ok(byte) if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) => {
                decoded.push(char::from(byte));
            }
            _ => decoded.extend(['%'].into_iter().chain(digits.chars())),
        }
        decoded.push_str(&part[2..]);
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(target: &str) -> Result<String, &'static str> {
        let mut uri: Uri = target.parse().unwrap();
        normalize(&mut uri).map(|()| uri.to_string())
    }

    #[test]
    fn encoded_unreserved_characters_and_colons_mean_themselves() {
        for (given, meant) in [
            ("/score", "/score"),
            ("/", "/"),
            ("*", "*"),
            ("/score/", "/score"),
            ("/score/?verbose=%41", "/score?verbose=%41"),
            ("/v1/models/m%3Apredict", "/v1/models/m:predict"),
            ("/v1/models/m%3apredict?x", "/v1/models/m:predict?x"),
            ("/v2/models/%6D%2ea/infer", "/v2/models/m.a/infer"),
            ("/v2/models/a%2Db%5Fc%7e/ready", "/v2/models/a-b_c~/ready"),
            ("/v2/.well-known/x", "/v2/.well-known/x"),
            ("/a%20b%c3%A9", "/a%20b%c3%A9"),
            ("http://h:1/score/", "http://h:1/score"),
        ] {
            assert_eq!(after(given).as_deref(), Ok(meant), "{given}");
        }
        assert_eq!(after("/%2541").as_deref(), Ok("/%2541"), "decoded once");
    }

    #[test]
    fn what_another_server_could_read_as_another_path_is_refused() {
        for refused in [
            "//",
            "//score",
            "/score//",
            "/a//b",
            "/.",
            "/..",
            "/a/../b",
            "/a/./b",
            "/%2e%2E/b",
            "/a/%2e",
            "/a%2Fb",
            "/a%2fb",
            "/a%00",
            "/a%",
            "/a%4",
            "/a%zz",
            "/a%é",
        ] {
            let outcome = refused.parse::<Uri>().map_err(|_| "").and_then(|mut uri| normalize(&mut uri));
            assert!(outcome.is_err(), "{refused}");
        }
    }
}
