//! Converts the OpenAPI document to other versions of OpenAPI, for older and newer tools.

use serde_json::{Map, Value, json};

/// Converts a document to OpenAPI 3.1, whose schemas are JSON Schema.
///
/// Source: <https://spec.openapis.org/oas/v3.1.0>
pub fn as_3_1(mut document: Value) -> Value {
    document["openapi"] = json!("3.1.0");
    change(&mut document, &|object| {
        if object.remove("nullable") == Some(json!(true)) {
            let of = object.insert("type".to_owned(), Value::Null).unwrap_or_default();
            object.insert("type".to_owned(), json!([of, "null"]));
        }
    });
    document
}

/// Converts a document to Swagger 2.0. It has neither alternatives nor `null`, so of several alternatives the first is
/// kept.
///
/// Source: <https://swagger.io/specification/v2/>
pub fn as_2(document: Value) -> Value {
    let Value::Object(mut old) = document else { return document };
    let mut components = old.remove("components").unwrap_or_default();
    let mut paths = old.remove("paths").unwrap_or_default();
    for operation in paths.as_object_mut().into_iter().flat_map(Map::values_mut) {
        operation.as_object_mut().into_iter().flat_map(Map::values_mut).for_each(operation_as_2);
    }
    let mut new = json!({
        "swagger": "2.0",
        "info": old.remove("info").unwrap_or_default(),
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "paths": paths,
        "definitions": components["schemas"].take(),
    });
    if let Some(security) = old.remove("security") {
        new["security"] = security;
        new["securityDefinitions"] = json!({ "key": {
            "type": "apiKey", "name": "Authorization", "in": "header",
            "description": "`Bearer `, and one of the service's keys",
        } });
    }
    change(&mut new, &|object| {
        object.remove("nullable");
        if let Some(Value::Array(mut forms)) = object.remove("oneOf")
            && let Value::Object(first) = forms.swap_remove(0)
        {
            object.extend(first);
        }
        if let Some(Value::String(reference)) = object.get_mut("$ref") {
            *reference = reference.replace("#/components/schemas/", "#/definitions/");
        }
    });
    new
}

fn operation_as_2(operation: &mut Value) {
    if let Some(body) = operation.as_object_mut().and_then(|operation| operation.remove("requestBody")) {
        let content = &body["content"]["application/json"];
        let mut schema = content["schema"].clone();
        if let Some(example) = content.get("example") {
            schema["example"] = example.clone();
        }
        operation["parameters"] =
            json!([{ "name": "body", "in": "body", "required": true, "schema": schema }]);
    }
    let responses = operation["responses"].as_object_mut();
    for response in responses.into_iter().flat_map(Map::values_mut) {
        let content = response.as_object_mut().and_then(|response| response.remove("content"));
        let content = content.as_ref().and_then(Value::as_object).and_then(|content| content.values().next());
        if let Some(schema) = content.map(|content| content["schema"].clone()) {
            response["schema"] = schema;
        }
    }
}

/// Calls `one` with every object of a document.
fn change(value: &mut Value, one: &impl Fn(&mut Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            one(object);
            object.values_mut().for_each(|value| change(value, one));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| change(value, one)),
        _ => {}
    }
}
