//! The cases as they stand in `cases/*.toml`: read, and said once for each of the values they are `over`.

use crate::exchange::Exchange;
use crate::expect::cut;
use crate::tensors::Datatype;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use toml::{Table, Value};

/// What a case is about; each is a file of cases, in the order they are run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Protocol {
    /// The Open Inference Protocol over HTTP, in JSON.
    V2,
    /// Its binary tensor data extension.
    Binary,
    /// Its other extensions: classification, statistics, configuration, repository.
    Extensions,
    /// The Open Inference Protocol over gRPC.
    Grpc,
    /// KServe's V1 protocol.
    V1,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::V2, Self::Binary, Self::Extensions, Self::Grpc, Self::V1];

    fn parts(self) -> (&'static str, &'static str) {
        match self {
            Self::V2 => ("v2", include_str!("../cases/v2.toml")),
            Self::Binary => ("v2-binary", include_str!("../cases/v2-binary.toml")),
            Self::Extensions => ("v2-extensions", include_str!("../cases/v2-extensions.toml")),
            Self::Grpc => ("grpc", include_str!("../cases/grpc.toml")),
            Self::V1 => ("v1", include_str!("../cases/v1.toml")),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.parts().0)
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(|protocol| protocol.to_string()).join(", ");
        let found = Self::ALL.into_iter().find(|protocol| protocol.to_string() == name);
        found.ok_or_else(|| format!("the protocols are {}", known()))
    }
}

/// One thing a server is to do.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is about.
    pub protocol: Protocol,
    /// The fact, as a sentence.
    pub name: String,
    /// Where that is written: addresses with their lines.
    pub cites: Vec<String>,
    /// Whether the specification only recommends it.
    pub advice: bool,
    /// The extension that a server has to announce for it to apply.
    pub needs: Option<String>,
    /// Whether a server need not have it: what is not implemented is skipped.
    pub(crate) optional: bool,
    pub(crate) exchanges: Vec<Exchange>,
}

/// What stands in a case beside its first exchange.
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
    /// Later exchanges.
    #[serde(default)]
    then: Vec<Exchange>,
}

const HEAD: [&str; 6] = ["name", "cites", "advice", "needs", "optional", "then"];

/// All cases of a protocol.
///
/// # Panics
/// Where the data that came with this program cannot be read, which its tests rule out.
pub fn cases(protocol: Protocol) -> Vec<Case> {
    read(protocol, protocol.parts().1).unwrap_or_else(|why| panic!("cases/{protocol}.toml: {why}"))
}

/// Where the documents are that `cites` names, and the line goes behind.
fn sources() -> BTreeMap<String, String> {
    toml::from_str(include_str!("../cases/sources.toml")).expect("the sources are a table of addresses")
}

fn read(protocol: Protocol, text: &str) -> Result<Vec<Case>, String> {
    let sources = sources();
    let mut file: Table = toml::from_str(text).map_err(|error| error.to_string())?;
    let words = file.remove("words").map_or_else(|| Ok(BTreeMap::new()), Value::try_into);
    let words: BTreeMap<String, String> = words.map_err(|error: toml::de::Error| error.to_string())?;
    let Some(Value::Array(written)) = file.remove("case") else {
        return Err("there is no [[case]]".to_owned());
    };
    let mut cases = Vec::new();
    for case in written {
        let Value::Table(mut case) = case else { return Err("a case is a table".to_owned()) };
        let name = case.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let over = case.remove("over").map_or_else(|| Ok(BTreeMap::new()), Value::try_into);
        let over: BTreeMap<String, Vec<String>> = over.map_err(|error| format!("{name}: {error}"))?;
        for mut values in combinations(&over) {
            values.extend(words.clone());
            let said = said(&Value::Table(case.clone()), &values);
            let Value::Table(mut rest) = said else { continue };
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
                let address = sources.get(document).ok_or(format!("{name}: no source `{document}`"))?;
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

/// Every choice of one value each.
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

/// The same with every `<word>` replaced, and every `<3 x 1.5>` written out.
fn said(value: &Value, words: &BTreeMap<String, String>) -> Value {
    match value {
        Value::String(text) => Value::String(written_out(text, words)),
        Value::Array(values) => Value::Array(values.iter().map(|value| said(value, words)).collect()),
        Value::Table(table) => {
            Value::Table(table.iter().map(|(key, value)| (key.clone(), said(value, words))).collect())
        }
        other => other.clone(),
    }
}

/// Innermost words first, until there is none that is known.
fn written_out(text: &str, words: &BTreeMap<String, String>) -> String {
    let (mut out, mut from) = (text.to_owned(), 0);
    while let Some(end) = out[from..].find('>').map(|end| from + end) {
        let Some(begin) = out[..end].rfind('<') else { return out };
        let word = &out[begin + 1..end];
        let repeated =
            word.split_once(" x ").and_then(|(count, what)| Some(repeat(what, count.parse().ok()?)));
        match words.get(word).cloned().or(repeated) {
            // What came in may have words of its own.
            Some(value) => {
                out.replace_range(begin..=end, &value);
                from = begin;
            }
            None => from = end + 1,
        }
    }
    out
}

/// Numbers get commas between them; brackets and letters none.
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
    fn what_a_case_cannot_mean_is_told() {
        for (line, why) in [
            ("status = '200'\nbidy = ''", "unknown field"),
            ("", "says how it is to be answered"),
            ("status = '2000'", "status"),
            ("status = '200'\nanswer = '{'", "answer"),
        ] {
            let text = format!("[[case]]\nname = 'a'\ncites = ['rest:1']\nsend = 'GET /'\n{line}\n");
            let error = read(Protocol::V2, &text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
