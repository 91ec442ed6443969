//! Attacks on the control API: clients without the token, web pages, and names that contain paths.

use super::{DIGITS, argument, every, host, over_tcp, over_unix, replica, request, sockets, statuses, text};
use crate::proof::among_others;
use crate::workspace::{Workspace, own_address};
use std::path::Path;

/// Requests over TCP and their statuses. `TOKEN` is a header line.
#[rustfmt::skip]
const OVER_TCP: &[(&str, &str, &str, &str, &str, u16)] = &[
    // (what, method, target, headers, body, status)
    ("the token, by address",     "GET",  "/v1/status", "Host: 127.0.0.1:1\nTOKEN", "", 200),
    ("the token, by localhost",   "GET",  "/v1/status", "Host: localhost:1\nTOKEN", "", 200),
    ("no token",                  "GET",  "/v1/status", "Host: localhost", "", 401),
    ("an empty token",            "GET",  "/v1/status", "Host: localhost\nAuthorization: Bearer ", "", 401),
    ("a wrong token",             "GET",  "/v1/services/digits/keys", "Host: localhost\nAuthorization: Bearer 0", "", 401),
    ("the token as a query",      "GET",  "/v1/status?token=SECRET", "Host: localhost", "", 401),
    ("an unknown path",           "GET",  "/nothing", "Host: localhost", "", 401),
    ("a web page's origin",       "GET",  "/v1/status", "Host: localhost\nTOKEN\nOrigin: http://evil.example", "", 403),
    ("a sandboxed page's origin", "POST", "/v1/shutdown", "Host: localhost\nTOKEN\nOrigin: null", "\"all\"", 403),
    ("a preflight",               "OPTIONS", "/v1/services", "Host: localhost\nOrigin: http://evil.example\nAccess-Control-Request-Method: POST", "", 403),
    ("a rebound name",            "GET",  "/v1/services/digits/keys", "Host: evil.example:1\nTOKEN", "", 403),
    ("a name like an address",    "GET",  "/v1/status", "Host: 127.0.0.1.evil.example\nTOKEN", "", 403),
    ("a rebound name as target",  "GET",  "http://evil.example/v1/status", "Host: localhost\nTOKEN", "", 403),
    ("a file of this machine",    "POST", "/v1/models", "Host: localhost\nTOKEN", "{\"path\":\"/etc/passwd\",\"name\":\"x\"}", 403),
    ("a model's file",            "POST", "/v1/services", "Host: localhost\nTOKEN", "{\"name\":\"x\",\"model\":{\"path\":\"/etc/passwd\"}}", 403),
    ("a sample's file",           "POST", "/v1/services", "Host: localhost\nTOKEN", "{\"name\":\"x\",\"model\":{\"registered\":\"digits\"},\"sample\":\"/etc/passwd\"}", 403),
];

#[test]
fn the_control_api_over_tcp_lets_in_who_has_its_token_and_no_web_page() {
    let _others = among_others();
    let workspace = Workspace::new();
    workspace.ok(&["models", "register", DIGITS]);
    let free = own_address();
    workspace.ok(&["up", "--control", &free]);
    let token = std::fs::read_to_string(workspace.root.join("control.token")).unwrap();
    let mut wrong = Vec::new();
    for (what, method, target, headers, body, status) in OVER_TCP {
        let fill = |text: &str| {
            let text = text.replace("TOKEN", "Authorization: Bearer SECRET").replace("SECRET", token.trim());
            text.replace('\n', "\r\n")
        };
        let (target, headers, length) = (fill(target), fill(headers), body.len());
        let head = format!("{method} {target} HTTP/1.1\r\n{headers}\r\nConnection: close\r\n");
        let answer = over_tcp(&free, format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes());
        if statuses(&answer) != [*status] || answer.to_lowercase().contains("access-control-allow") {
            wrong.push(format!("{what}: {answer}"));
        }
    }
    let claim =
        "The control API over TCP accepts clients with its token, and no web page, even with DNS rebinding";
    every(claim, OVER_TCP.len(), &wrong);
}

/// Names that, used as paths, would lead to other files, and their spelling in a URL.
const NAMES: &[(&str, &str)] = &[
    ("..", ".."),
    ("..", "%2e%2e"),
    ("../digits", "..%2fdigits"),
    ("../../../../etc/passwd", "..%2f..%2f..%2f..%2fetc%2fpasswd"),
    ("..\\digits", "..%5cdigits"),
    ("/etc/passwd", "%2fetc%2fpasswd"),
    ("digits/../digits", "digits%2f..%2fdigits"),
    ("digits\0", "digits%00"),
    ("digits\n", "digits%0a"),
    ("digits ", "digits%20"),
    ("stats", "stats"),
    ("d\u{131}gits", "d%C4%B1gits"),
    ("-rf", "-rf"),
    ("%2e%2e", "%252e%252e"),
    ("", ""),
];

#[test]
fn no_name_and_no_path_leads_out_of_where_it_belongs() {
    let _others = among_others();
    let workspace = Workspace::new();
    let service = workspace.json(&["deploy", DIGITS]);
    let (control, line) = (sockets(&workspace).join("control"), replica(&workspace).1);
    let replica = argument(&line, "--unix");
    let routes = workspace.processes().into_iter().find(|(_, line)| line.contains("--gateway")).unwrap().1;
    let routes = argument(&routes, "--admin");
    let before = super::below(workspace.root.parent().unwrap()).len();
    let key = format!("Authorization: Bearer {}\r\n", text(&service, "primary_key"));
    let host = host(text(&service, "scoring_uri"));
    let model = crate::support::root().join(DIGITS);
    let (mut tried, mut wrong) = (0, Vec::new());
    let mut refused = |what: String, answer: String| {
        tried += 1;
        if !matches!(*statuses(&answer), [400 | 404 | 405]) {
            wrong.push(format!("{what}: {answer}"));
        }
    };
    let asks = |socket: &Path, method: &str, target: &str, body: &str| {
        over_unix(socket, &request(method, target, &key, body))
    };
    for (name, url) in NAMES {
        for (method, target) in [
            ("GET", format!("/v1/services/{url}/keys")),
            ("GET", format!("/v1/services/{url}/logs")),
            ("GET", format!("/v1/services/{url}/sample")),
            ("DELETE", format!("/v1/services/{url}")),
            ("GET", format!("/v1/models/{url}/versions/1")),
            ("DELETE", format!("/v1/models/{url}/versions/latest")),
            ("GET", format!("/v1/operations/{url}")),
        ] {
            // Without a name, this is the path of another request.
            if !url.is_empty() {
                refused(format!("{method} {target}"), asks(&control, method, &target, ""));
            }
        }
        let register = serde_json::json!({ "path": model, "name": name }).to_string();
        refused(format!("register {name:?}"), asks(&control, "POST", "/v1/models", &register));
        let deploy = serde_json::json!({ "model": { "path": model }, "name": name }).to_string();
        refused(format!("deploy {name:?}"), asks(&control, "POST", "/v1/services", &deploy));
        let document = serde_json::json!({ "service": name, "generation": 9, "keys": [], "max_wait_ms": 1,
                                           "scoring_timeout_ms": 1, "revisions": [] });
        for (method, body) in [("PUT", document.to_string()), ("DELETE", String::new())] {
            for target in [format!("/routes/{url}"), format!("/routes/{name}")] {
                if target.is_ascii() && !target.contains(['\0', '\n', ' ']) {
                    let answer = asks(Path::new(&routes), method, &target, &body);
                    refused(format!("{method} {target}"), answer);
                }
            }
        }
        for target in [
            format!("/api/v1/service/{url}/score"),
            format!("/api/v1/service/digits/{url}/score"),
            format!("/api/v1/service/digits/../{url}"),
            format!("/v2/models/{url}/infer"),
            format!("/v2/models/digits/versions/{url}/infer"),
        ] {
            refused(format!("POST {target}"), over_tcp(&host, &request("POST", &target, &key, "{}")));
        }
        for target in [format!("/score/{url}"), format!("/../{url}"), format!("/v2/models/{url}/infer")] {
            refused(format!("replica {target}"), asks(Path::new(&replica), "POST", &target, "{}"));
        }
    }
    assert_eq!(super::below(workspace.root.parent().unwrap()).len(), before, "files were created or removed");
    assert_eq!(workspace.ok(&["score", "digits"]).code, 0);
    every(
        "Names and paths in requests that would lead elsewhere (such as `../x`) are refused",
        tried,
        &wrong,
    );
}
