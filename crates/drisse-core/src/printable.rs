//! Bytes that may not be text, as text for people.

use std::borrow::Cow;
use std::fmt::Write;

/// Returns the bytes as text. Bytes that are not UTF-8 are written as `\xNN`, so that none is lost.
///
/// ```
/// assert_eq!(drisse_core::printable(b"caf\xe9 \xc3\xa9"), "caf\\xe9 é");
/// ```
pub fn printable(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    Cow::Owned(text)
}
