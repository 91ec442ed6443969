//! Compares a response with the JSON that a case expects.
//!
//! Expected JSON uses the specification's notation: `"$string"`, `"$number"`, `"$boolean"`, `"$object"` and `"$array"`
//! match any value of that type, `"$text"` a string that is not empty, `"$absent"` a missing member, and `"$any"` any
//! value. An array that ends with `"..."` may have more elements, each like the one before it. Members that are not
//! listed are ignored; elements with a `name` may be in any order; tensor data may be nested or flat
//! (inference_rest.md, "Tensor Data").

use serde_json::Value;

/// Returns the first difference between the expected and the found value, with its path; `None` if they match.
pub(crate) fn difference(expected: &Value, found: Option<&Value>, path: &str) -> Option<String> {
    let at = if path.is_empty() { "the response" } else { path };
    if let Value::String(text) = expected
        && text.starts_with('$')
    {
        return unlike(text, found).then(|| format!("{at}: expected {text}, found {}", shown(found)));
    }
    let Some(found) = found else { return Some(format!("{at} is missing")) };
    match (expected, found) {
        (Value::Object(expected), Value::Object(members)) => expected.iter().find_map(|(name, value)| {
            let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            if name == "data" && value.is_array() {
                let flat = members.get(name).map(|found| flat(found).into_iter().cloned().collect());
                return difference(&Value::Array(flat_owned(value)), flat.map(Value::Array).as_ref(), &inner);
            }
            difference(value, members.get(name), &inner)
        }),
        (Value::Array(expected), Value::Array(elements)) => array(expected, elements, at, path),
        _ if same(expected, found) => None,
        _ => Some(format!("{at}: expected {}, found {}", short(expected), short(found))),
    }
}

fn array(expected: &[Value], found: &[Value], at: &str, path: &str) -> Option<String> {
    let (expected, open) = match expected {
        [before @ .., Value::String(dots)] if dots == "..." => (before, true),
        all => (all, false),
    };
    if found.len() < expected.len().saturating_sub(usize::from(open))
        || !open && found.len() != expected.len()
    {
        return Some(format!("{at}: expected {} elements, found {}", expected.len(), found.len()));
    }
    let named = |wanted: &Value| {
        found.iter().find(|one| wanted.get("name").is_some_and(|name| one.get("name") == Some(name)))
    };
    (0..found.len().max(expected.len())).find_map(|nth| {
        let wanted = expected.get(nth).or(expected.last())?;
        let one = match wanted.get("name") {
            Some(Value::String(name)) if !name.starts_with('$') => named(wanted),
            _ => found.get(nth),
        };
        // With `"..."`, the last expected element may be missing.
        if one.is_none() && open && nth + 1 >= expected.len() {
            return None;
        }
        difference(wanted, one, &format!("{path}[{nth}]"))
    })
}

fn unlike(kind: &str, found: Option<&Value>) -> bool {
    match kind {
        "$absent" => found.is_some_and(|found| !found.is_null()),
        "$any" => found.is_none(),
        "$string" => !found.is_some_and(Value::is_string),
        "$text" => found.and_then(Value::as_str).is_none_or(|text| text.trim().is_empty()),
        "$number" => !found.is_some_and(Value::is_number),
        "$boolean" => !found.is_some_and(Value::is_boolean),
        "$object" => !found.is_some_and(Value::is_object),
        "$array" => !found.is_some_and(Value::is_array),
        _ => true,
    }
}

/// Whether two values are equal; 1 and 1.0 are the same number.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (a, b) => a == b,
    }
}

fn flat(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(elements) => elements.iter().flat_map(flat).collect(),
        other => vec![other],
    }
}

fn flat_owned(value: &Value) -> Vec<Value> {
    flat(value).into_iter().cloned().collect()
}

fn shown(found: Option<&Value>) -> String {
    found.map_or_else(|| "nothing".to_owned(), short)
}

/// Returns a value as one line of limited length.
pub(crate) fn short(value: &Value) -> String {
    cut(&value.to_string())
}

/// Returns a text as one line of at most 160 characters.
pub(crate) fn cut(text: &str) -> String {
    let text: Vec<_> = text.split_whitespace().collect();
    let text = text.join(" ");
    match text.char_indices().nth(160) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_matches_in_what_the_case_lists() {
        for (expected, found) in [
            (json!({"a": 1}), json!({"a": 1.0, "b": 2})),
            (json!({"a": "$string", "b": "$absent"}), json!({"a": ""})),
            (json!({"data": [1, 2, 3, 4]}), json!({"data": [[1, 2], [3, 4]]})),
            (json!(["$string", "..."]), json!([])),
            (json!(["$string", "..."]), json!(["a", "b"])),
            (json!([{"name": "a", "v": 1}, {"name": "b"}]), json!([{"name": "b"}, {"name": "a", "v": 1}])),
            (json!([{"name": "a"}, "..."]), json!([{"name": "c"}, {"name": "a"}])),
        ] {
            assert_eq!(difference(&expected, Some(&found), ""), None, "{expected} {found}");
        }
    }

    #[test]
    fn a_difference_is_reported_with_its_path() {
        for (expected, found, why) in [
            (json!({"a": {"b": 1}}), json!({"a": {"b": 2}}), "a.b: expected 1, found 2"),
            (json!({"a": "$string"}), json!({}), "a: expected $string, found nothing"),
            (json!({"a": "$text"}), json!({"a": " "}), "a: expected $text, found \" \""),
            (json!({"a": "$absent"}), json!({"a": 1}), "a: expected $absent, found 1"),
            (json!({"a": [1, 2]}), json!({"a": [1]}), "a: expected 2 elements, found 1"),
            (json!(["$string", "..."]), json!(["a", 1]), "[1]: expected $string, found 1"),
            (json!([{"name": "a"}]), json!([{"name": "b"}]), "[0] is missing"),
            (json!({"data": [1, 2]}), json!({"data": [[1], [3]]}), "data[1]: expected 2, found 3"),
        ] {
            assert_eq!(difference(&expected, Some(&found), "").as_deref(), Some(why));
        }
    }
}
