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

/// Whether the path is certainly in its one form, as nearly every path is. Looks at eight bytes at a time, because this
/// runs for each request.
fn is_normal(path: &[u8]) -> bool {
    let (mut unusual, mut after_slash) = (0, 0);
    let (words, rest) = path.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    for word in words.iter().chain([&last]) {
        let word = u64::from_le_bytes(*word);
        let slashes = bytes_equal(word, b'/');
        let follow = (slashes << 8) | after_slash;
        unusual |= bytes_equal(word, b'%') | (follow & (slashes | bytes_equal(word, b'.')));
        after_slash = slashes >> 56;
    }
    unusual == 0 && (path.len() == 1 || path.last() != Some(&b'/'))
}

/// Returns a word that has 0x80 where `word` has this byte, and 0 elsewhere.
fn bytes_equal(word: u64, byte: u8) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let other = word ^ (u64::from(byte) * 0x0101_0101_0101_0101);
    !(((other & LOW) + LOW) | other | LOW)
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

    #[test]
    fn every_short_path_is_normal_exactly_if_none_of_its_bytes_is_unusual() {
        for (number, before) in
            (0..4_usize.pow(6)).flat_map(|number| (0..10).map(move |before| (number, before)))
        {
            let byte = |place: u32| b"/.%a"[number / 4_usize.pow(place) % 4];
            let path: Vec<u8> = std::iter::repeat_n(b'a', before).chain((0..6).map(byte)).collect();
            let two = path.windows(2).any(|two| two[0] == b'/' && matches!(two[1], b'/' | b'.'));
            let unusual = two || path.ends_with(b"/") || path.contains(&b'%');
            assert_eq!(is_normal(&path), !unusual, "{}", String::from_utf8_lossy(&path));
        }
        assert!(is_normal(b"/") && is_normal(b"") && is_normal(b"*"));
    }
}
