//! How models and services are named.
//!
//! One rule for both, `[a-z]([a-z0-9-]{0,46}[a-z0-9])?`, so that a name fits a DNS label, a folder and a
//! Kubernetes object alike.

use std::fmt;
use std::str::FromStr;

/// A name of a model in a workspace.
///
/// `drisse serve` alone takes names as files have them (`digits_mlp`); see [`ModelName::served`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ModelName(String);

/// A name of a service in a workspace.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ServiceName(String);

/// Why a name cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{name}` cannot be a name: {why}")]
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

/// The longest name of a model or a service.
const MAX_NAME: usize = 48;

fn checked(name: &str) -> Result<String, InvalidName> {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ok = match name.as_bytes() {
        [first, rest @ ..] if first.is_ascii_lowercase() && rest.len() < MAX_NAME => {
            rest.iter().all(|&c| inner(c) || c == b'-') && rest.last().is_none_or(|&c| inner(c))
        }
        _ => false,
    };
    let why = "a name has at most 48 lowercase letters, digits and hyphens, from a letter to no hyphen";
    if ok { Ok(name.to_owned()) } else { Err(InvalidName { name: name.to_owned(), why }) }
}

impl FromStr for ModelName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        checked(name).map(Self)
    }
}

impl ServiceName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name nearest to a file's stem: `Digits_MLP.v2` is `digits-mlp-v2`. `None` when nothing is left.
    pub fn slug(stem: &str) -> Option<Self> {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let mut slug = String::new();
        for c in stem.chars().map(plain).skip_while(|c| !c.is_ascii_lowercase()) {
            if slug.len() < MAX_NAME && !(c == '-' && slug.ends_with('-')) {
                slug.push(c);
            }
        }
        slug.trim_end_matches('-').parse().ok()
    }
}

impl FromStr for ServiceName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        checked(name).map(Self)
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
    fn a_files_stem_becomes_a_name() {
        let slug = |stem: &str| ServiceName::slug(stem).map(|name| name.to_string());
        assert_eq!(slug("Digits_MLP.v2").as_deref(), Some("digits-mlp-v2"));
        assert_eq!(slug("2024-fraud__model-").as_deref(), Some("fraud-model"));
        assert_eq!(slug(&"x".repeat(60)).map(|name| name.len()), Some(48));
        assert_eq!(slug("2024"), None);
    }

    #[test]
    fn served_names_may_look_like_files_but_not_like_paths() {
        assert!(ModelName::served("digits_mlp.v2").is_ok());
        for bad in ["", "..", ".hidden", "a/b", "a b", "ü", &"a".repeat(129)] {
            assert!(ModelName::served(bad).is_err(), "{bad}");
        }
    }
}
