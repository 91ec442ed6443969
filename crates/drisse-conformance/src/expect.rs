//! Whether an answer is as it is to be.
//!
//! What a case expects is JSON in the specification's own notation: `"$string"`, `"$number"`, `"$boolean"`,
//! `"$object"`, `"$array"` are anything of that kind, `"$text"` a string that is not empty, `"$absent"` says that a
//! member is not there, `"$any"` that it is. An array that ends with `"..."` may have more elements, each like the
//! one before. Members that are not named are not looked at; elements with names are in any order; tensor data may be
//! nested or flat (inference_rest.md, "Tensor Data").

use serde_json::Value;

/// Why an answer is not as expected, with the place; `None` where it is.
pub(crate) fn difference(expected: &Value, found: Option<&Value>, place: &str) -> Option<String> {
    let at = if place.is_empty() { "the answer" } else { place };
    if let Value::String(text) = expected
        && text.starts_with('$')
    {
        return unlike(text, found).then(|| format!("{at} is to be {text}, and is {}", shown(found)));
    }
    let Some(found) = found else { return Some(format!("{at} is missing")) };
    match (expected, found) {
        (Value::Object(expected), Value::Object(members)) => expected.iter().find_map(|(name, value)| {
            let inner = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
            if name == "data" && value.is_array() {
                let flat = members.get(name).map(|found| flat(found).into_iter().cloned().collect());
                return difference(&Value::Array(flat_owned(value)), flat.map(Value::Array).as_ref(), &inner);
            }
            difference(value, members.get(name), &inner)
        }),
        (Value::Array(expected), Value::Array(elements)) => array(expected, elements, at, place),
        _ if same(expected, found) => None,
        _ => Some(format!("{at} is to be {}, and is {}", short(expected), short(found))),
    }
}

fn array(expected: &[Value], found: &[Value], at: &str, place: &str) -> Option<String> {
    let (expected, open) = match expected {
        [before @ .., Value::String(dots)] if dots == "..." => (before, true),
        all => (all, false),
    };
    if found.len() < expected.len().saturating_sub(usize::from(open))
        || !open && found.len() != expected.len()
    {
        return Some(format!("{at} is to have {} elements, and has {}", expected.len(), found.len()));
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
        // An open end says of each that there may be none.
        if one.is_none() && open && nth + 1 >= expected.len() {
            return None;
        }
        difference(wanted, one, &format!("{place}[{nth}]"))
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

/// The same value; 1 and 1.0 are the same number.
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
    found.map_or_else(|| "not there".to_owned(), short)
}

/// A value in a line.
pub(crate) fn short(value: &Value) -> String {
    cut(&value.to_string())
}

/// A text in a line.
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
    fn an_answer_is_as_expected_in_what_the_case_names() {
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
    fn what_is_otherwise_is_told_with_its_place() {
        for (expected, found, why) in [
            (json!({"a": {"b": 1}}), json!({"a": {"b": 2}}), "a.b is to be 1, and is 2"),
            (json!({"a": "$string"}), json!({}), "a is to be $string, and is not there"),
            (json!({"a": "$text"}), json!({"a": " "}), "a is to be $text, and is \" \""),
            (json!({"a": "$absent"}), json!({"a": 1}), "a is to be $absent, and is 1"),
            (json!({"a": [1, 2]}), json!({"a": [1]}), "a is to have 2 elements, and has 1"),
            (json!(["$string", "..."]), json!(["a", 1]), "[1] is to be $string, and is 1"),
            (json!([{"name": "a"}]), json!([{"name": "b"}]), "[0] is missing"),
            (json!({"data": [1, 2]}), json!({"data": [[1], [3]]}), "data[1] is to be 2, and is 3"),
        ] {
            assert_eq!(difference(&expected, Some(&found), "").as_deref(), Some(why));
        }
    }
}
