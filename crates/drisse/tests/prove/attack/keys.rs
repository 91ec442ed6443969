//! Keys: what gives access to a service and what does not, and where keys must never appear.

use super::{argument, deployed, every, host, over_tcp, over_unix, replica, request, statuses, text, zeros};
use crate::proof::{among_others, whole};
use crate::workspace::{Workspace, ran};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

/// A request that needs a key, to a server whose paths begin with `prefix`.
fn score(prefix: &str, authorization: &str) -> Vec<u8> {
    request("POST", &format!("{prefix}/score"), authorization, &zeros())
}

pub(super) fn bearer(key: &str) -> String {
    format!("Authorization: Bearer {key}\r\n")
}

#[test]
fn nothing_but_a_key_opens_a_service() {
    let _others = among_others();
    let (workspace, service) = deployed();
    let (host, key) = (host(text(&service, "scoring_uri")), text(&service, "primary_key"));
    let socket = argument(&replica(&workspace).1, "--unix");
    let digest: String = Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect();
    let prefix = "/api/v1/service/digits";
    let no = [
        String::new(),
        bearer(""),
        bearer("wrong"),
        bearer(&key[1..]),
        bearer(&key[..63]),
        bearer(&format!("{key}0")),
        bearer(&key.to_uppercase()),
        bearer(&format!("{key} {key}")),
        // Servers store digests of keys: these are not accepted as keys.
        bearer(&digest),
        bearer(&format!("sha256:{digest}")),
        format!("Authorization: Basic {key}\r\n"),
        format!("Authorization: {key}\r\n"),
        format!("Bearer: {key}\r\n"),
        format!("Cookie: authorization=Bearer {key}\r\n"),
        format!("X-Forwarded-Authorization: Bearer {key}\r\n"),
        format!("{}{}", bearer("wrong"), bearer(key)),
        format!("Connection: authorization\r\n{}", bearer("wrong")),
    ];
    let mut wrong = Vec::new();
    for headers in &no {
        let at_gateway = statuses(&over_tcp(&host, &score(prefix, headers)));
        let at_replica = statuses(&over_unix(Path::new(&socket), &score("", headers)));
        if at_gateway != [401] || at_replica != [401] {
            wrong.push(format!("{headers}: {at_gateway:?} at the gateway, {at_replica:?} at the replica"));
        }
    }
    let paths = [
        "/score?key=KEY",
        "/swagger.json",
        "/sample",
        "/invocations",
        "/v1/models",
        "/v1/models/digits",
        "/v1/models/digits:predict",
        "/v2",
        "/v2/models/digits",
        "/v2/models/digits/infer",
        "/v2/models/stats",
        "/v2/repository/index",
        "/v2/repository/models/digits/unload",
    ];
    for path in paths {
        let path = path.replace("KEY", key);
        for method in ["GET", "POST", "PUT", "HEAD"] {
            let at_gateway = over_tcp(&host, &request(method, &format!("{prefix}{path}"), "", ""));
            let at_replica = over_unix(Path::new(&socket), &request(method, &path, "", ""));
            for (at, answer) in [("gateway", at_gateway), ("replica", at_replica)] {
                // A wrong method may be refused before the key is checked.
                if !matches!(*statuses(&answer), [401 | 405]) {
                    wrong.push(format!("{method} {path}: {answer} at the {at}"));
                }
            }
        }
    }
    assert_eq!(statuses(&over_tcp(&host, &score(prefix, &bearer(key)))), [200]);
    let tried = 2 * no.len() + 8 * paths.len();
    every("Only a key gives access to a service, at the gateway and at its replica", tried, &wrong);
}

#[test]
fn a_key_that_was_replaced_opens_nothing_once_the_command_returns() {
    let _others = among_others();
    let workspace = Workspace::new();
    let service = workspace.json(&["deploy", super::DIGITS, "--replicas", "2"]);
    let host = host(text(&service, "scoring_uri"));
    let mut old = text(&service, "primary_key").to_owned();
    let sockets = workspace.processes().into_iter().filter(|(_, line)| line.contains("--replica"));
    let sockets: Vec<_> = sockets.map(|(_, line)| argument(&line, "--unix")).collect();
    assert_eq!(sockets.len(), 2);
    let mut wrong = Vec::new();
    let rounds = if whole() { 50 } else { 5 };
    for round in 0..rounds {
        let new = workspace.json(&["keys", "digits", "--regenerate", "primary"]);
        let new = text(&new, "primary_key").to_owned();
        for (key, wanted) in [(&old, 401), (&new, 200)] {
            let mut answers = statuses(&over_tcp(&host, &score("/api/v1/service/digits", &bearer(key))));
            for socket in &sockets {
                answers.extend(statuses(&over_unix(Path::new(socket), &score("", &bearer(key)))));
            }
            if answers != [wanted; 3] {
                wrong.push(format!("round {round}: {answers:?}, not {wanted}"));
            }
        }
        old = new;
    }
    let claim = "Once `keys --regenerate` returns, the gateway and all replicas refuse the old key and accept the new one";
    every(claim, rounds, &wrong);
}

/// Returns what /proc shows of the workspace's processes, and all files of the workspace except the database.
fn shown(workspace: &Workspace) -> Vec<(String, Vec<u8>)> {
    let control = u32::try_from(workspace.pid("control").unwrap()).unwrap();
    let pids = workspace.processes().into_iter().map(|(pid, _)| pid).chain([control]);
    let proc = pids.flat_map(|pid| ["cmdline", "environ", "comm"].map(|name| format!("/proc/{pid}/{name}")));
    // Files of /proc that this user may not read count as empty.
    let mut shown: Vec<_> =
        proc.map(|path| (path.clone(), std::fs::read(path).unwrap_or_default())).collect();
    let mut folders = vec![workspace.root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if !entry.file_name().to_string_lossy().starts_with("drisse.db") {
                shown.push((path.display().to_string(), std::fs::read(&path).unwrap()));
            }
        }
    }
    shown
}

#[test]
fn keys_stand_in_no_argument_environment_log_or_file_but_the_database() {
    let _others = among_others();
    let workspace = Workspace::new();
    let mut command = workspace.command(&["--output", "json", "deploy", super::DIGITS]);
    command.env("DRISSE_LOG", "debug").env("DRISSE_TOKEN", "token-of-the-user");
    let service = ran(command).json();
    let mine = "a-key-of-the-users-own";
    let mut command = workspace.command(&["keys", "digits", "--set", "primary"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(mine.as_bytes()).unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
    let host = host(text(&service, "scoring_uri"));
    let guess = "a-guess-of-a-stranger";
    for key in [mine, guess] {
        let answer = over_tcp(&host, &score("/api/v1/service/digits", &bearer(key)));
        assert_eq!(statuses(&answer).len(), 1);
    }
    // A request with a malformed header.
    over_tcp(
        &host,
        format!("GET / HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {mine}\r\nX: \x01\r\n\r\n").as_bytes(),
    );
    let other = workspace.json(&["keys", "digits", "--regenerate", "secondary"]);
    let secrets = [
        mine,
        guess,
        "token-of-the-user",
        text(&service, "primary_key"),
        text(&service, "secondary_key"),
        text(&other, "secondary_key"),
    ];
    let places = shown(&workspace);
    assert!(places.iter().any(|(path, bytes)| path.ends_with("gateway.log") && !bytes.is_empty()));
    let holds = |bytes: &[u8], secret: &str| {
        bytes.windows(secret.len()).any(|window| window.eq_ignore_ascii_case(secret.as_bytes()))
    };
    let found: Vec<_> = places
        .iter()
        .filter(|(_, bytes)| secrets.iter().any(|secret| holds(bytes, secret)))
        .map(|(path, _)| path)
        .collect();
    let claim = "No key appears in an argument, an environment variable, a log (even at debug level) or a file other than the \
         database";
    every(claim, places.len(), &found);
}
