//! Reads the cases from `cases/*.toml` and expands each one for the values in its `over`.

use crate::exchange::Exchange;
use crate::expect::cut;
use crate::protocol::Protocol;
use crate::tensors::Datatype;
use serde::Deserialize;
use std::collections::BTreeMap;
use toml::{Table, Value};

/// One requirement that a server is checked against.
#[derive(Clone, Debug)]
pub struct Case {
    /// The protocol that the requirement belongs to.
    pub protocol: Protocol,
    /// The requirement as a sentence.
    pub name: String,
    /// The specifications that state the requirement: URLs with a line or section.
    pub cites: Vec<String>,
    /// Whether the requirement is only recommended.
    pub advice: bool,
    /// The extension that a server must announce for the case to apply.
    pub needs: Option<String>,
    /// Whether the case is skipped if the server answers that the method is not implemented.
    pub(crate) optional: bool,
    pub(crate) exchanges: Vec<Exchange>,
}

/// The members of a case that do not belong to its first exchange.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    name: String,
    cites: Vec<String>,
    #[serde(default)]
    advice: bool,
    needs: Option<String>,
    #[serde(default)]
    optional: bool,
    /// The exchanges after the first one.
    #[serde(default)]
    then: Vec<Exchange>,
}

const HEAD: [&str; 6] = ["name", "cites", "advice", "needs", "optional", "then"];

/// Returns all cases of a protocol.
///
/// # Panics
/// Panics if the embedded cases cannot be parsed, which the tests rule out.
pub fn cases(protocol: Protocol) -> Vec<Case> {
    read(protocol, protocol.parts().1).unwrap_or_else(|why| panic!("cases/{protocol}.toml: {why}"))
}

/// Returns the URL prefixes of the documents that `cites` names; a line or section is appended to them.
fn sources() -> BTreeMap<String, String> {
    toml::from_str(include_str!("../cases/sources.toml")).expect("the sources are a table of addresses")
}

fn read(protocol: Protocol, text: &str) -> Result<Vec<Case>, String> {
    let sources = sources();
    let mut file: Table = toml::from_str(text).map_err(|error| error.to_string())?;
    let words = file.remove("words").map_or_else(|| Ok(BTreeMap::new()), Value::try_into);
    let words: BTreeMap<String, String> = words.map_err(|error: toml::de::Error| error.to_string())?;
    let Some(Value::Array(written)) = file.remove("case") else {
        return Err("the file has no [[case]]".to_owned());
    };
    let mut cases = Vec::new();
    for case in written {
        let Value::Table(mut case) = case else { return Err("a case is a table".to_owned()) };
        let name = case.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let over = case.remove("over").map_or_else(|| Ok(BTreeMap::new()), Value::try_into);
        let over: BTreeMap<String, Vec<String>> = over.map_err(|error| format!("{name}: {error}"))?;
        for mut values in combinations(&over) {
            values.extend(words.clone());
            let expanded = expanded(&Value::Table(case.clone()), &values);
            let Value::Table(mut rest) = expanded else { continue };
            let head: Table =
                HEAD.iter().filter_map(|key| Some(((*key).to_owned(), rest.remove(*key)?))).collect();
            let wrong = |error: toml::de::Error| format!("{name}: {error}");
            let head: Head = head.try_into().map_err(wrong)?;
            let first: Exchange = rest.try_into().map_err(wrong)?;
            let exchanges: Vec<_> = std::iter::once(first).chain(head.then).collect();
            for exchange in &exchanges {
                exchange.check(protocol).map_err(|why| format!("{name}: {why}"))?;
            }
            let cite = |cite: &String| {
                let (document, line) = cite.split_once(':').unwrap_or((cite, ""));
                let address = sources.get(document).ok_or(format!("{name}: unknown source `{document}`"))?;
                Ok(format!("{address}{line}"))
            };
            cases.push(Case {
                protocol,
                name: cut(&head.name),
                cites: head.cites.iter().map(cite).collect::<Result<_, String>>()?,
                advice: head.advice,
                needs: head.needs,
                optional: head.optional,
                exchanges,
            });
        }
    }
    Ok(cases)
}

/// Returns every combination of one value of each name.
fn combinations(over: &BTreeMap<String, Vec<String>>) -> Vec<BTreeMap<String, String>> {
    let mut all = vec![BTreeMap::new()];
    for (name, values) in over {
        let with = |known: &BTreeMap<String, String>| {
            let one = |value: &String| {
                let mut known = known.clone();
                if name == "datatype" {
                    known.extend(Datatype::named(value).words());
                }
                known.insert(name.clone(), value.clone());
                known
            };
            values.iter().map(one).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(with).collect();
    }
    all
}

/// Replaces every `<word>` in the texts of a value, and repeats every `<3 x 1.5>`.
fn expanded(value: &Value, words: &BTreeMap<String, String>) -> Value {
    match value {
        Value::String(text) => Value::String(expanded_text(text, words)),
        Value::Array(values) => Value::Array(values.iter().map(|value| expanded(value, words)).collect()),
        Value::Table(table) => {
            Value::Table(table.iter().map(|(key, value)| (key.clone(), expanded(value, words))).collect())
        }
        other => other.clone(),
    }
}

/// Replaces the words of a text, innermost first, until no known word is left.
fn expanded_text(text: &str, words: &BTreeMap<String, String>) -> String {
    let (mut out, mut from) = (text.to_owned(), 0);
    while let Some(end) = out[from..].find('>').map(|end| from + end) {
        let Some(begin) = out[..end].rfind('<') else { return out };
        let word = &out[begin + 1..end];
        let repeated =
            word.split_once(" x ").and_then(|(count, what)| Some(repeat(what, count.parse().ok()?)));
        match words.get(word).cloned().or(repeated) {
            // The replacement may contain words too.
            Some(value) => {
                out.replace_range(begin..=end, &value);
                from = begin;
            }
            None => from = end + 1,
        }
    }
    out
}

/// Repeats a text `count` times: numbers with commas between them, other texts without.
fn repeat(what: &str, count: usize) -> String {
    let separator = if what.chars().all(|c| c.is_ascii_digit() || c == '.' || c == '-') { "," } else { "" };
    vec![what; count].join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_cases_that_are_shipped_can_be_read_and_have_names_of_their_own() {
        let all: Vec<_> = Protocol::ALL.into_iter().flat_map(cases).collect();
        let mut names = BTreeSet::new();
        assert!(all.len() > 300, "{}", all.len());
        for case in &all {
            assert!(!case.cites.is_empty() && !case.name.contains('<'), "{}", case.name);
            assert!(names.insert((case.protocol, &case.name)), "{} is there twice", case.name);
        }
    }

    #[test]
    fn a_case_is_said_once_for_each_choice_of_values() {
        let text = r#"
            [[case]]
            name = "<datatype> by <method>"
            cites = ["rest:246"]
            over = { datatype = ["INT8", "BYTES"], method = ["POST"] }
            send = "<method> /<model>"
            body = '{"a < b": [<3 x 1.5>], "data": <data>}'
            status = "200"
        "#;
        let cases = read(Protocol::V2, text).unwrap();
        let names: Vec<_> = cases.iter().map(|case| &*case.name).collect();
        assert_eq!(names, ["INT8 by POST", "BYTES by POST"]);
        let body = cases[0].exchanges[0].body.as_deref().unwrap();
        assert!(body.starts_with(r#"{"a < b": [1.5,1.5,1.5], "data": [-128,"#), "{body}");
        assert!(cases[0].cites[0].ends_with("inference_rest.md#L246"), "{:?}", cases[0].cites);
    }

    #[test]
    fn a_malformed_case_is_refused_with_the_reason() {
        for (line, why) in [
            ("status = '200'\nbidy = ''", "unknown field"),
            ("", "needs a `status`"),
            ("status = '2000'", "status"),
            ("status = '200'\nanswer = '{'", "answer"),
        ] {
            let text = format!("[[case]]\nname = 'a'\ncites = ['rest:1']\nsend = 'GET /'\n{line}\n");
            let error = read(Protocol::V2, &text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
