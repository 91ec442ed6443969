//! Plain words: phrases that comments, documents and messages must not contain, because readers stumble over them.

use super::{at_most, documents};
use crate::source::Source;

/// The phrases, in lower case.
const PHRASES: [&str; 12] = [
    "none where",
    "nobody",
    "somebody",
    "whoever",
    "anew",
    "told",
    "reckoned",
    "surely",
    "be meant",
    "taken back",
    "those there are",
    "what is wanted",
];

/// Folders that still contain some, and how many. The numbers may only shrink.
const LEFT: [(&str, usize); 0] = [];

/// Documents that still contain some.
const DOCUMENTS_LEFT: [(&str, usize); 0] = [];

/// Documents that programs write from other texts.
const GENERATED: [&str; 3] = ["docs/conformance.md", "docs/performance.md", "docs/proof.md"];

/// Counts the phrases in a text.
fn count(text: &str) -> usize {
    let text = text.to_lowercase();
    let is_word = |character: Option<char>| character.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let whole = |phrase: &str| {
        let found = text.match_indices(phrase).filter(|(at, phrase)| {
            !is_word(text[..*at].chars().next_back()) && !is_word(text[at + phrase.len()..].chars().next())
        });
        found.count()
    };
    let negated = text.match_indices(" is no ").filter(|(at, phrase)| {
        let next = text[at + phrase.len()..].chars().next();
        next.is_some_and(|c| c.is_ascii_lowercase() || c == '`') && !text[..*at].ends_with("there")
    });
    negated.count() + PHRASES.into_iter().map(whole).sum::<usize>()
}

#[test]
fn sources_use_plain_words() {
    // This file lists the phrases.
    at_most(&LEFT, |name| name.ends_with("tidy/words.rs"), |_, text| count(&Source::new(text).prose()));
}

#[test]
fn documents_use_plain_words() {
    let mut wrong = Vec::new();
    for (name, text) in documents().iter().filter(|(name, _)| !GENERATED.contains(&&**name)) {
        let most = DOCUMENTS_LEFT.iter().find(|(file, _)| file == name).map_or(0, |(_, most)| *most);
        let found = count(text);
        if found > most {
            wrong.push(format!("{name} has {found}, at most {most} are allowed"));
        } else if found == 0 && most > 0 {
            wrong.push(format!("{name} has none left: remove it from the list"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn phrases_are_found() {
    assert_eq!(count("there is no door; 1 is no door; X Is No `y`; it is no"), 2);
    assert_eq!(count("Nobody told it; retold, it began anew. renewed"), 3);
}
