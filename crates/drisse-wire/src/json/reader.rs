//! A pull parser over a whole body: the caller requests the kind of value that it expects next.

use drisse_core::{Error, Result};
use std::borrow::Cow;

/// The deepest nesting that is accepted: parsing recurses, and a client must not be able to overflow the stack.
const MAX_DEPTH: u32 = 64;

/// Reads one JSON document.
///
/// ```
/// use drisse_wire::json::Reader;
///
/// let mut reader = Reader::new(br#"{"id": "7", "rest": [1, NaN]}"#);
/// let mut id = None;
/// reader.object(|reader, key| match key {
///     "id" => reader.string().map(|text| id = Some(text.into_owned())),
///     _ => reader.skip(),
/// })?;
/// reader.end()?;
/// assert_eq!(id.as_deref(), Some("7"));
/// # Ok::<(), drisse_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: u32,
}

impl<'a> Reader<'a> {
    /// Returns a reader at the start of `bytes`; skips a UTF-8 byte order mark.
    pub fn new(bytes: &'a [u8]) -> Self {
        let at = if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        Self { bytes, at, depth: 0 }
    }

    /// Skips white space and returns the next byte without consuming it; `None` at the end.
    #[inline]
    pub fn peek(&mut self) -> Option<u8> {
        loop {
            match self.bytes.get(self.at)? {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                &byte => return Some(byte),
            }
        }
    }

    /// Consumes the next byte if it is `byte`, and returns whether it was.
    #[inline]
    pub fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Reads an object and calls `field` with each key; `field` must read the value.
    ///
    /// # Errors
    /// Returns an error if the next value is not a well-formed object, or if `field` fails.
    pub fn object(&mut self, mut field: impl FnMut(&mut Self, &str) -> Result<()>) -> Result<()> {
        self.open(b'{', "an object")?;
        if !self.take(b'}') {
            loop {
                let key = self.string()?;
                self.expect(b':')?;
                field(self, &key)?;
                if self.take(b'}') {
                    break;
                }
                self.expect(b',')?;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Reads an object as [`Self::object`] does, without the members that are `null`: `null` is as good as not given.
    pub(crate) fn members(&mut self, mut member: impl FnMut(&mut Self, &str) -> Result<()>) -> Result<()> {
        self.object(|reader, key| if reader.word_null() { Ok(()) } else { member(reader, key) })
    }

    /// Reads a list and calls `element` for each element; `element` must read it.
    ///
    /// # Errors
    /// Returns an error if the next value is not a well-formed list, or if `element` fails.
    pub fn array(&mut self, mut element: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.enter_array()?;
        if !self.take(b']') {
            loop {
                element(self)?;
                if self.take(b']') {
                    break;
                }
                self.expect(b',')?;
            }
        }
        self.leave();
        Ok(())
    }

    /// Consumes `[`. Call [`Self::leave`] after the matching `]`.
    pub(crate) fn enter_array(&mut self) -> Result<()> {
        self.open(b'[', "a list")
    }

    pub(crate) fn leave(&mut self) {
        self.depth -= 1;
    }

    fn open(&mut self, bracket: u8, what: &str) -> Result<()> {
        if !self.take(bracket) {
            return Err(self.unexpected(what));
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error(format!("nested deeper than {MAX_DEPTH} brackets")));
        }
        Ok(())
    }

    pub(crate) fn expect(&mut self, byte: u8) -> Result<()> {
        if self.take(byte) { Ok(()) } else { Err(self.unexpected(&format!("`{}`", byte as char))) }
    }

    /// Reads a string; borrows it from the body if it has no escapes.
    ///
    /// # Errors
    /// Returns an error if the next value is not a string, has an invalid escape, or is not UTF-8.
    pub fn string(&mut self) -> Result<Cow<'a, str>> {
        if !self.take(b'"') {
            return Err(self.unexpected("a string"));
        }
        let start = self.at;
        let rest = &self.bytes[start..];
        let Some(stop) = memchr::memchr2(b'"', b'\\', rest) else {
            self.at = self.bytes.len();
            return Err(self.unexpected("the end of a string"));
        };
        self.at += stop + 1;
        let plain = self.text(start, start + stop)?;
        if rest[stop] == b'"' { Ok(Cow::Borrowed(plain)) } else { self.escaped(plain.to_owned()) }
    }

    fn escaped(&mut self, mut text: String) -> Result<Cow<'a, str>> {
        loop {
            // `at` is the position after a backslash.
            text.push(self.escape()?);
            let start = self.at;
            let Some(stop) = memchr::memchr2(b'"', b'\\', &self.bytes[start..]) else {
                self.at = self.bytes.len();
                return Err(self.unexpected("the end of a string"));
            };
            self.at += stop + 1;
            text.push_str(self.text(start, start + stop)?);
            if self.bytes[start + stop] == b'"' {
                return Ok(Cow::Owned(text));
            }
        }
    }

    fn text(&self, start: usize, end: usize) -> Result<&'a str> {
        let bytes = &self.bytes[start..end];
        // A fold over all bytes has no branch per byte.
        if bytes.iter().fold(false, |found, &byte| found | (byte < 0x20)) {
            let control = bytes.iter().take_while(|&&byte| byte >= 0x20).count();
            return Err(self.error_at(start + control, "a control character in a string must be escaped"));
        }
        std::str::from_utf8(bytes)
            .map_err(|error| self.error_at(start + error.valid_up_to(), "a string is not valid UTF-8"))
    }

    fn escape(&mut self) -> Result<char> {
        let byte = self.bytes.get(self.at).copied();
        self.at += 1;
        Ok(match byte {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let unit = self.hex4()?;
                let code = if (0xd800..0xdc00).contains(&unit) && self.bytes[self.at..].starts_with(b"\\u") {
                    self.at += 2;
                    let low = self.hex4()?;
                    if !(0xdc00..0xe000).contains(&low) {
                        return Err(self.error("a `\\u` escape is half a surrogate pair"));
                    }
                    0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
                } else {
                    unit
                };
                char::from_u32(code).ok_or_else(|| self.error("a `\\u` escape is half a surrogate pair"))?
            }
            _ => return Err(self.error_at(self.at - 1, "unknown escape in a string")),
        })
    }

    fn hex4(&mut self) -> Result<u32> {
        let digits = self.bytes.get(self.at..self.at + 4);
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let text = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let unit = text.and_then(|text| u32::from_str_radix(text, 16).ok());
        self.at += 4;
        unit.ok_or_else(|| self.error_at(self.at - 4, "a `\\u` escape needs four hexadecimal digits"))
    }

    /// Consumes the `,` or `]` after an element of a list, and returns whether another element follows.
    #[inline]
    pub(crate) fn goes_on(&mut self) -> Result<bool> {
        let next = self.peek();
        match next {
            Some(b',' | b']') => {
                self.at += 1;
                Ok(next == Some(b','))
            }
            _ => Err(self.unexpected("`,`")),
        }
    }

    /// Returns the rest of the body, from the current position.
    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// Consumes `len` bytes.
    #[inline]
    pub(crate) fn advance(&mut self, len: usize) {
        self.at += len;
    }

    /// Consumes the bytes that can be part of a number. They need not form one: see [`well_formed`].
    #[inline]
    pub(crate) fn number(&mut self) -> &'a [u8] {
        let start = self.at;
        let rest = &self.bytes[start..];
        let len = rest
            .iter()
            .position(|byte| !matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
            .unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    /// Consumes `word` if it comes next, as a whole word, and returns whether it did.
    #[inline]
    pub(crate) fn word(&mut self, word: &str) -> bool {
        let rest = &self.bytes[self.at..];
        let found = rest.starts_with(word.as_bytes())
            && !rest.get(word.len()).is_some_and(|next| next.is_ascii_alphanumeric());
        self.at += if found { word.len() } else { 0 };
        found
    }

    /// Consumes `null` if it comes next, and returns whether it did.
    pub(crate) fn word_null(&mut self) -> bool {
        self.peek();
        self.word("null")
    }

    /// Reads `true` or `false`.
    pub(crate) fn boolean(&mut self) -> Result<bool> {
        self.peek();
        if self.word("true") {
            return Ok(true);
        }
        if self.word("false") { Ok(false) } else { Err(self.unexpected("true or false")) }
    }

    /// Reads a non-negative integer.
    pub(crate) fn natural(&mut self) -> Result<usize> {
        let start = self.position();
        let number = self.number();
        let value = std::str::from_utf8(number).ok().filter(|_| well_formed(number));
        value
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| self.again(start).unexpected("a non-negative integer"))
    }

    /// Skips one value of any kind.
    ///
    /// # Errors
    /// Returns an error if the value is not well formed.
    pub fn skip(&mut self) -> Result<()> {
        match self.peek() {
            Some(b'{') => self.object(|reader, _| reader.skip()),
            Some(b'[') => self.array(Self::skip),
            Some(b'"') => self.string().map(drop),
            Some(b'-' | b'0'..=b'9') => {
                let start = self.at;
                if self.word("-Infinity") || well_formed(self.number()) {
                    return Ok(());
                }
                Err(self.error_at(start, "not a number"))
            }
            _ if ["true", "false", "null", "NaN", "Infinity"].iter().any(|word| self.word(word)) => Ok(()),
            _ => Err(self.unexpected("a value")),
        }
    }

    /// Returns the position of the next value, for [`Self::again`].
    pub fn position(&mut self) -> usize {
        self.peek();
        self.at
    }

    /// Returns a reader of the same body at a position that [`Self::position`] returned.
    pub fn again(&self, position: usize) -> Self {
        Self { bytes: self.bytes, at: position, depth: self.depth }
    }

    /// Checks that only white space is left.
    ///
    /// # Errors
    /// Returns an error if anything else follows.
    pub fn end(&mut self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.error("unexpected characters after the end of the document")),
        }
    }

    /// Returns an error at the current position.
    pub(crate) fn error(&self, what: impl std::fmt::Display) -> Error {
        self.error_at(self.at, what)
    }

    pub(crate) fn error_at(&self, at: usize, what: impl std::fmt::Display) -> Error {
        let at = at.min(self.bytes.len());
        let before = &self.bytes[..at];
        let line = 1 + memchr::memchr_iter(b'\n', before).count();
        let column = at - memchr::memrchr(b'\n', before).map_or(0, |newline| newline + 1) + 1;
        Error::invalid(format!("invalid JSON at line {line}, column {column}: {what}"))
    }

    /// Returns the error `expected …, found …` at the next value.
    pub(crate) fn unexpected(&mut self, wanted: &str) -> Error {
        let found = match self.peek() {
            None => "the end of the body".to_owned(),
            Some(b'{') => "an object".to_owned(),
            Some(b'[') => "a list".to_owned(),
            Some(b'"') => "a string".to_owned(),
            Some(b'0'..=b'9' | b'-') => "a number".to_owned(),
            Some(b't' | b'f') => "a boolean".to_owned(),
            Some(b'n') => "null".to_owned(),
            Some(byte) if byte.is_ascii_graphic() => format!("`{}`", byte as char),
            Some(byte) => format!("byte 0x{byte:02x}"),
        };
        match self.member() {
            Some(member) => self.error(format_args!("expected {wanted} for `{member}`, found {found}")),
            None => self.error(format_args!("expected {wanted}, found {found}")),
        }
    }

    /// Returns the name of the member whose value is next; `None` if something else is next.
    fn member(&self) -> Option<&'a str> {
        let before = self.bytes[..self.at].trim_ascii_end().strip_suffix(b":")?;
        let name = before.trim_ascii_end().strip_suffix(b"\"")?;
        let start = name.iter().rposition(|&byte| byte == b'"')? + 1;
        let name = std::str::from_utf8(&name[start..]).ok()?;
        (name.len() <= 64 && !name.contains(['\\', '`'])).then_some(name)
    }

    /// Reads a string, or a number as it is written.
    pub(crate) fn string_or_number(&mut self) -> Result<Cow<'a, str>> {
        match self.peek() {
            Some(b'0'..=b'9' | b'-') => Ok(String::from_utf8_lossy(self.number())),
            _ => self.string(),
        }
    }
}

/// Whether the bytes are a number in JSON's grammar (RFC 8259, section 6).
pub(crate) fn well_formed(number: &[u8]) -> bool {
    let digits = |bytes: &[u8]| bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let rest = number.strip_prefix(b"-").unwrap_or(number);
    let integer = digits(rest);
    if integer == 0 || (integer > 1 && rest[0] == b'0') {
        return false;
    }
    let mut rest = &rest[integer..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let len = digits(fraction);
        if len == 0 {
            return false;
        }
        rest = &fraction[len..];
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = exponent.strip_prefix(b"+").or(exponent.strip_prefix(b"-")).unwrap_or(exponent);
        return !exponent.is_empty() && digits(exponent) == exponent.len();
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn skip(text: &[u8]) -> Result<()> {
        let mut reader = Reader::new(text);
        reader.skip()?;
        reader.end()
    }

    #[test]
    fn errors_say_where_and_what_was_found() {
        let error = skip(b"{\"a\": [1,\n 2,, 3]}").unwrap_err();
        assert_eq!(error.message(), "invalid JSON at line 2, column 4: expected a value, found `,`");
        assert!(skip(b"").unwrap_err().message().ends_with("found the end of the body"));
    }

    #[test]
    fn depth_is_bounded() {
        assert!(skip("[".repeat(1_000_000).as_bytes()).unwrap_err().message().contains("nested deeper"));
        assert!(skip(format!("{}{}", "[".repeat(64), "]".repeat(64)).as_bytes()).is_ok());
    }

    #[test]
    fn strings_are_unescaped() {
        let text = br#""a\n\u00fc\ud83d\ude00""#;
        assert_eq!(Reader::new(text).string().unwrap(), "a\nü😀");
        for bad in [&br#""\ud83d""#[..], br#""\x""#, br#""\u12""#, b"\"\xff\"", b"\"\n\"", b"\"abc", b"\"a\\"]
        {
            assert!(Reader::new(bad).string().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json_on_what_is_json(text in "[\\[\\]{}\",:0-9eE.+\\-a-f ntrulsaeNI\\\\]{0,24}") {
            let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            let ours = skip(text.as_bytes()).is_ok();
            // Only this parser accepts NaN and Infinity.
            prop_assert!(ours == theirs || text.contains('N') || text.contains('I'), "{text}: {ours} {theirs}");
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = skip(&bytes);
            let _ = Reader::new(&bytes).string();
        }

        #[test]
        fn strings_round_trip(text in any::<String>()) {
            let json = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(Reader::new(json.as_bytes()).string().unwrap(), text);
        }
    }
}
