//! Access keys, held as digests and compared in constant time.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The SHA-256 digests of a set of access keys.
///
/// ```
/// let mut keys = drisse_net::KeyDigests::default();
/// keys.add("secret").expect("a key");
/// assert!(keys.accept(Some(b"Bearer secret")));
/// assert!(!keys.accept(Some(b"Bearer other")) && !keys.accept(None));
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyDigests(Vec<[u8; 32]>);

impl KeyDigests {
    /// Adds a key as a file or a document spells it: the key itself, or `sha256:HEX`. Returns `None` and adds
    /// nothing if the text after `sha256:` is not a digest.
    pub fn add(&mut self, spelled: &str) -> Option<()> {
        let digest = match spelled.strip_prefix("sha256:") {
            Some(hex) => from_hex(hex)?,
            None => Sha256::digest(spelled).into(),
        };
        self.0.push(digest);
        Some(())
    }

    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether an `authorization` header (RFC 6750: `Bearer KEY`) carries one of the keys.
    pub fn accept(&self, authorization: Option<&[u8]>) -> bool {
        let Some(header) = authorization else { return false };
        let Some((scheme, key)) = header.split_at_checked(7) else { return false };
        if !scheme.eq_ignore_ascii_case(b"Bearer ") {
            return false;
        }
        let given: [u8; 32] = Sha256::digest(key.trim_ascii()).into();
        // Every key is compared, so that the time does not depend on which one matches.
        let found = self.0.iter().fold(subtle::Choice::from(0), |found, key| found | key.ct_eq(&given));
        found.into()
    }
}

/// Returns bytes as lowercase hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(hex: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_and_its_digest_are_the_same_key() {
        let mut keys = KeyDigests::default();
        keys.add("first").unwrap();
        keys.add(&format!("sha256:{}", hex(&Sha256::digest("second")))).unwrap();
        assert_eq!(keys.add("sha256:secret"), None);
        for (header, ok) in [
            (Some("Bearer first"), true),
            (Some("bearer second"), true),
            (Some("Bearer third"), false),
            (Some("Bearer "), false),
            (Some("Basic first"), false),
            (Some("first"), false),
            (None, false),
        ] {
            assert_eq!(keys.accept(header.map(str::as_bytes)), ok, "{header:?}");
        }
    }
}
