//! How models and services are named.

use std::fmt;
use std::str::FromStr;

/// A name of a model or a service in a workspace: `[a-z]([a-z0-9-]{0,46}[a-z0-9])?`, so that it
/// fits a DNS label, a folder and a Kubernetes object alike.
///
/// `drisse serve` alone takes names as files have them (`digits_mlp`); see [`ModelName::served`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ModelName(String);

/// Why a name cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{name}` is no name for a model: {why}")]
pub struct InvalidName {
    name: String,
    why: &'static str,
}

impl ModelName {
    /// A name as `drisse serve` accepts it: 1 to 128 of letters, digits, `.`, `_`, `-`, not
    /// starting with `.`; it stands in URLs and in metrics.
    pub fn served(name: &str) -> Result<Self, InvalidName> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let why = if name.is_empty() || name.len() > 128 {
            "a name has 1 to 128 characters"
        } else if !name.chars().all(plain) || name.starts_with('.') {
            "a name has letters, digits, `.`, `_` and `-`, and does not start with `.`"
        } else {
            return Ok(Self(name.to_owned()));
        };
        Err(InvalidName { name: name.to_owned(), why })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModelName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let ok = match name.as_bytes() {
            [first, rest @ ..] if first.is_ascii_lowercase() && rest.len() <= 47 => {
                rest.iter().all(|&c| inner(c) || c == b'-') && rest.last().is_none_or(|&c| inner(c))
            }
            _ => false,
        };
        let why = "a name has at most 48 lowercase letters, digits and hyphens, from a letter to no hyphen";
        if ok { Ok(Self(name.to_owned())) } else { Err(InvalidName { name: name.to_owned(), why }) }
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_a_dns_label() {
        for good in ["a", "digits", "a-1", &"a".repeat(48)] {
            assert!(good.parse::<ModelName>().is_ok(), "{good}");
        }
        for bad in ["", "1a", "a-", "A", "a_b", "a.b", &"a".repeat(49)] {
            assert!(bad.parse::<ModelName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn served_names_may_look_like_files_but_not_like_paths() {
        assert!(ModelName::served("digits_mlp.v2").is_ok());
        for bad in ["", "..", ".hidden", "a/b", "a b", "ü", &"a".repeat(129)] {
            assert!(ModelName::served(bad).is_err(), "{bad}");
        }
    }
}
