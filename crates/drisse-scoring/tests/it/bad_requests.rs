//! A table of requests that are wrong: each is a 4xx whose message names what, and the server lives.

use crate::support::{Running, start};

const V2: &str = "/v2/models/echo/infer";

fn v2(input: &str) -> String {
    format!("{{\"inputs\":[{{{input}}}]}}")
}

/// Path, headers, body, status, and what the message must name.
type Row = (&'static str, &'static str, String, u16, &'static str);

fn table() -> Vec<Row> {
    let json = "content-type: application/json\r\n";
    let good = "{\"data\":[[1,2]]}".to_owned();
    let mut rows: Vec<Row> = Vec::new();
    let mut score = |body: &str, why| rows.push(("/score", json, body.to_owned(), 400, why));
    score("", "expected an object");
    score("{", "line 1, column 2");
    score("{\"data\":[[1,2]]", "expected `,`, found the end of the body");
    score("{\"data\":[[1,2]]}}", "unexpected characters after the end");
    score("{\"data\":[[1,2],[3]]}", "lists of lengths 2 and 1 are at the same depth");
    score("{\"data\":[[1,\"a\"]]}", "input \"X\"");
    score("{\"data\":[[1,2,3]]}", "input \"X\": shape [1, 3] does not match [batch, 2]");
    score("{\"data\":[1,2]}", "the batch dimension is missing: send shape [1, 2]");
    score("{\"data\":[[1,1e39]]}", "1e39 is out of range for FP32");
    score("{\"data\":[[1,--2]]}", "`--2` is not a number");
    score("{\"data\":{\"Y\":[[1,2]]}}", "no input \"Y\"; its inputs are `X`, `s`");
    score("{\"data\":{\"s\":[\"a\"]}}", "input `X` is missing: the model requires FP32 [batch, 2]");
    score("{\"data\":{\"X\":[[1,2]],\"X\":[[1,2]]}}", "input `X` is given twice");
    score("{\"data\":{\"X\":[[1,2]],\"s\":[1]}}", "expected a string (the datatype is BYTES)");
    score("{\"data\":{\"X\":[[1,2]],\"s\":[\"\\ud83d\"]}}", "half a surrogate pair");
    score(&format!("{{\"data\":{}", "[".repeat(100_000)), "nested deeper than 64");
    score(&format!("{{\"x\":{}", "{\"a\":".repeat(100_000)), "nested deeper than 64");
    score("\u{feff}[1]", "found a list");
    let mut infer = |body: String, why| rows.push((V2, json, body, 400, why));
    infer("{}".to_owned(), "the request has no `inputs`");
    infer(v2("\"name\":7"), "expected a string for `name`, found a number");
    infer(v2("\"name\":\"X\",\"shape\":[1,2],\"datatype\":\"FP32\""), "`data` is missing");
    infer(
        v2("\"name\":\"X\",\"shape\":[1,2],\"datatype\":\"INT8\",\"data\":[1,2]"),
        "INT8 does not match FP32",
    );
    infer(
        v2("\"name\":\"X\",\"shape\":[1,2],\"datatype\":\"fp32\",\"data\":[1,2]"),
        "unknown datatype \"fp32\"",
    );
    infer(
        v2("\"name\":\"X\",\"shape\":[2],\"datatype\":\"FP32\",\"data\":[1,2]"),
        "shape [2] does not match",
    );
    infer(v2("\"name\":\"X\",\"shape\":[1,2],\"datatype\":\"FP32\",\"data\":[1]"), "2 elements, data has 1");
    infer(
        v2("\"name\":\"X\",\"shape\":[-1,-2],\"datatype\":\"FP32\",\"data\":[1,2]"),
        "negative or too large",
    );
    let huge = "\"name\":\"X\",\"shape\":[4611686018427387904,4],\"datatype\":\"FP32\",\"data\":[1]";
    infer(v2(huge), "negative or too large");
    infer(
        v2("\"name\":\"X\",\"shape\":[9223372036854775808],\"datatype\":\"FP32\",\"data\":[]"),
        "for INT64",
    );
    infer(format!("{{\"inputs\":[],\"outputs\":[{}]}}", "{\"name\":\"Q\"}"), "no output \"Q\"");
    let mut predict =
        |body: &str, why| rows.push(("/v1/models/echo:predict", json, body.to_owned(), 400, why));
    predict("[]", "expected an object");
    predict("{}", "the body has no `instances`");
    predict("{\"instances\":[[1,2]],\"inputs\":[[1,2]]}", "`instances` or `inputs` twice");
    predict("{\"instances\":[{\"X\":[1,2]},{\"s\":\"a\"}]}", "input \"s\" is missing in the first row");
    predict("{\"signature_name\":\"x\",\"instances\":[[1,2]]}", "unknown signature `x`");
    let csv = "content-type: text/csv\r\n";
    let split = "content-type: application/json; format=pandas-split\r\n";
    let other = "content-type: application/json; format=tf\r\n";
    for (headers, body, status, why) in [
        (json, "{\"rows\":[]}", 400, "the body has no `data`"),
        (csv, "", 400, "the CSV has no rows"),
        (csv, "1,2\n3\n", 400, "the CSV cannot be read"),
        (split, "{\"columns\":[\"X\"]}", 400, "has no `data`"),
        (other, "{}", 415, "the format `tf` is not supported"),
    ] {
        rows.push(("/invocations", headers, body.to_owned(), status, why));
    }
    for (headers, why) in [
        ("inference-header-content-length: 17\r\n", "not a length within the body's 16 bytes"),
        ("inference-header-content-length: x\r\n", "not a length within"),
        ("inference-header-content-length: 4\r\n", "invalid JSON"),
        ("content-encoding: gzip\r\n", "cannot be unpacked"),
    ] {
        rows.push((V2, headers, good.clone(), 400, why));
    }
    for (headers, status, why) in [
        ("content-type: text/csv\r\n", 415, "content type `text/csv` is not read here"),
        ("content-type: image/png; a=b\r\n", 415, "image/png"),
        ("content-encoding: br\r\n", 415, "content encoding `br`"),
        ("x-request-timeout-ms: soon\r\n", 400, "x-request-timeout-ms is a whole number"),
        ("x-request-timeout-ms: 0\r\n", 400, "x-request-timeout-ms"),
        ("x-request-timeout-ms: -5\r\n", 400, "x-request-timeout-ms"),
    ] {
        rows.push(("/score", headers, good.clone(), status, why));
    }
    rows.push(("/nowhere", json, good.clone(), 404, "there is no path `/nowhere`"));
    rows.push(("/score/other", json, good.clone(), 404, "there is no model `other`; this server has `echo`"));
    rows.push(("/v2/models/other/infer", json, good.clone(), 404, "there is no model `other`"));
    rows.push(("/v2/models/echo/versions/9/infer", json, good.clone(), 404, "no version `9`; served: `1`"));
    for path in ["//score", "/score//", "/./score", "/v2/%2e%2e/score", "/v2/models/a%2Fb/infer", "/score%00"]
    {
        rows.push((path, json, good.clone(), 400, "the path has"));
    }
    rows.push(("/swagger.json", json, good, 405, "this path takes GET, not POST"));
    rows
}

fn lives(server: &Running) {
    let answer = server.post("/score", "{\"data\":[[1,2]]}");
    assert_eq!((answer.status, &*answer.body), (200, "{\"X\":[[1.0,2.0]]}"));
}

#[test]
fn a_path_means_the_same_in_each_of_its_spellings() {
    let server = start();
    for path in ["/score/", "/%73core", "/score/?x=1", "/v1/models/echo%3Apredict"] {
        let body = if path.starts_with("/v1") { "{\"instances\":[[1,2]]}" } else { "{\"data\":[[1,2]]}" };
        let answer = server.post(path, body);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    }
}

#[test]
fn each_is_a_4xx_that_names_what_is_wrong() {
    let server = start();
    for (path, headers, body, status, why) in table() {
        let answer = server.connect().post_with(path, headers, &body);
        let shown = &body[..body.len().min(80)];
        assert_eq!(answer.status, status, "{path} {headers} {shown}: {}", answer.body);
        let document: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert!(status != 400 || !why.starts_with("the path") || document["message"].is_string());
        let key = if path.starts_with("/v") { "error" } else { "message" };
        let message = document[key].as_str().unwrap_or_else(|| panic!("{path}: no `{key}` in {document}"));
        assert!(message.contains(why), "{path} {headers} {shown}: `{message}` does not name `{why}`");
        assert!(message.len() < 400, "{shown}: the message repeats the request");
    }
    lives(&server);
}

#[test]
fn a_405_lists_the_methods_there_are() {
    let server = start();
    assert!(server.get("/score").headers.contains("allow: post, options\r\n"));
    assert!(server.post("/swagger.json", "").headers.contains("allow: get, head\r\n"));
    assert!(server.admin("GET", "/drain", "").headers.contains("allow: post\r\n"));
}

#[test]
fn what_names_no_format_passes() {
    let server = start();
    for headers in [
        "",
        "content-type: application/x-www-form-urlencoded\r\n",
        "content-type: application/octet-stream\r\n",
    ] {
        assert_eq!(
            server.connect().post_with("/score", headers, "{\"data\":[[1,2]]}").status,
            200,
            "{headers}"
        );
    }
}

#[test]
fn broken_http_is_refused_and_the_server_lives() {
    let server = start();
    for bytes in [
        &b"NOT HTTP AT ALL\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /score HTTP/1.1\r\nhost: h\r\ncontent-length: nine\r\n\r\n",
        b"POST /score HTTP/1.1\r\nhost: h\r\ncontent-length: -1\r\n\r\n",
        b"POST /score HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\nZZZ\r\n",
        b"POST /score HTTP/1.1\r\nhost: h\r\na b: c\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense that is not a frame",
    ] {
        let mut client = server.connect();
        client.push(bytes);
        let mut ends = Vec::new();
        client.shut();
        client.read_rest(&mut ends);
        let text = String::from_utf8_lossy(&ends);
        assert!(!text.starts_with("HTTP/1.1 2") && !text.starts_with("HTTP/1.1 5"), "{bytes:?}: {text}");
    }
    lives(&server);
}

#[test]
fn a_body_cut_short_is_dropped_and_the_server_lives() {
    let server = start();
    let mut client = server.connect();
    client.push("POST /score HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\n\r\n{\"data\":");
    client.shut();
    client.read_rest(&mut Vec::new());
    lives(&server);
}
