//! The names of columns that are ignored, as a response states them.

/// The most names that are kept.
const MAX_NAMES: usize = 64;

/// The longest text of a header, in bytes, without the mark that names are missing.
const MAX_HEADER: usize = 1 << 10;

/// The names of columns that are not inputs of the model: the first ones, if there are many.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Ignored(Vec<String>);

impl Ignored {
    /// Adds a name, if it is new.
    pub(crate) fn add(&mut self, name: &str) {
        if self.0.len() < MAX_NAMES && !self.0.iter().any(|known| known == name) {
            self.0.push(name.to_owned());
        }
    }

    /// Returns the number of names.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether no column is ignored.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the names for a header: percent-encoded, with commas between them, and `...` in place of those that are too
    /// long.
    pub fn header(&self) -> String {
        let mut text = String::new();
        for name in &self.0 {
            let start = text.len();
            text.push_str(if start > 0 { ", " } else { "" });
            // The bytes beyond the longest text are not looked at.
            for byte in name.bytes().take(MAX_HEADER + 1) {
                match byte {
                    b'%' | b',' | ..=b' ' | 0x7f.. => text.push_str(&format!("%{byte:02X}")),
                    plain => text.push(char::from(plain)),
                }
            }
            if text.len() > MAX_HEADER {
                text.truncate(start);
                text.push_str(if start > 0 { ", ..." } else { "..." });
                break;
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_short_and_has_only_characters_that_are_valid_there() {
        let of = |names: &[&str]| {
            let mut ignored = Ignored::default();
            names.iter().for_each(|name| ignored.add(name));
            ignored.header()
        };
        assert_eq!(of(&["age", "a b,c%", "é\r\n", "age"]), "age, a%20b%2Cc%25, %C3%A9%0D%0A");
        let long = "x".repeat(MAX_HEADER);
        assert_eq!(of(&[&long]), long);
        assert_eq!(of(&["a", &long, "b"]), "a, ...");
        let many: Vec<_> = (0..1000).map(|nth| nth.to_string()).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(of(&many).ends_with(", 63"));
    }
}
