//! Logins and the protocol of registries that do it in another way than most: nothing of it keeps a model from coming and
//! going.

use crate::faulty_registry::{Answer, FaultyRegistry, Request, digest, package, plain, sent_to};
use crate::registry::User;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex};

const DIGITS: &str = "examples/digits/digits.onnx";

/// base64 of `user:secret`.
const USER: &str = "dXNlcjpzZWNyZXQ=";

/// Writes the login file of Docker.
fn login(user: &User, text: &str) {
    let folder = user.cache.path().join(".docker");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.json"), text).unwrap();
}

/// Answers requests to pull the package of a faulty registry.
fn pulled(path: &str) -> Answer {
    let (manifest, blobs) = package("digits.onnx", false);
    match path.rsplit('/').next().unwrap() {
        "" => plain(vec![]),
        _ if path.contains("/manifests/") => plain(manifest),
        name => blobs.get(name).map_or((404, vec![], vec![]), |blob| plain(blob.clone())),
    }
}

fn challenge(texts: &[&str]) -> Answer {
    (401, texts.iter().map(|text| ("www-authenticate", (*text).to_owned())).collect(), vec![])
}

#[test]
fn what_is_wrong_with_a_login_matters_only_to_a_registry_that_wants_one() {
    let open = FaultyRegistry::start(|_, path| pulled(path));
    let closed = FaultyRegistry::start(|_, _| challenge(&["Basic realm=x"]));
    for (text, why) in [
        ("", "there are no credentials for it"),
        ("{\"auths\":null,\"credHelpers\":null}", "there are no credentials for it"),
        ("{\"auths\": {\"secret", "config.json: the file has invalid JSON at line 1"),
        ("{\"credsStore\":\"that-is-nowhere\"}", "docker-credential-that-is-nowhere: No such file"),
    ] {
        let user = User::new();
        login(&user, text);
        assert_eq!(user.json(&["models", "pull", &open.reference("open:1")])["name"], "open", "{text}");
        let ran = user.run(&["models", "pull", &closed.reference("closed:1")]);
        assert!(ran.code == 1 && ran.stderr.contains(why), "{why}: {ran:?}");
        assert!(ran.stderr.contains("podman login 127.0.0.1") && !ran.stderr.contains("secret"), "{ran:?}");
        let is_read = !why.starts_with("there are");
        assert_eq!(ran.stderr.contains("correct or remove what cannot be read"), is_read, "{ran:?}");
    }
}

#[test]
fn the_first_challenge_that_can_be_met_is_met_and_credentials_stay_with_the_registry() {
    let elsewhere = Arc::new(FaultyRegistry::start(|_, path| pulled(path)));
    let other = Arc::clone(&elsewhere);
    let registry = FaultyRegistry::answering(move |Request { path, authorization, .. }| {
        if let Some(query) = path.strip_prefix("/v2/closed/token?") {
            let asked = authorization.as_deref() == Some(&format!("Basic {USER}"));
            let whole = query == "a=b&service=s%2Ct&scope=repository%3Aclosed%3Apull";
            return if asked && whole { plain(b"{\"token\":\"t\"}".to_vec()) } else { (400, vec![], vec![]) };
        }
        let challenges = [
            "Negotiate, Digest realm=\"a, Basic\",nonce=1",
            "Bearer service=\"s,t\", realm=\"../token?a=b\"",
        ];
        match authorization.as_deref() {
            // The client asks at `/v2/` without a token.
            _ if path == "/v2/" => challenge(&challenges),
            Some("Bearer t") if path.contains("/manifests/1") => sent_to("moved?x=y"),
            Some("Bearer t") if path.ends_with("/manifests/moved?x=y") => pulled("/manifests/1"),
            Some("Bearer t") => sent_to(&other.url(path)),
            _ => challenge(&challenges),
        }
    });
    let user = User::new();
    let host = registry.reference("").replace("oci://", "");
    let entry = json!({ "username": "user", "password": "secret" });
    login(&user, &json!({ "auths": { host.trim_end_matches('/'): entry }, "credsStore": null }).to_string());
    assert_eq!(user.json(&["models", "pull", &registry.reference("closed:1")])["name"], "closed");
    assert!(elsewhere.asked("/v2/closed/blobs/") > 0);
    assert_eq!(elsewhere.asked("authorization"), 0, "credentials went to another host");
}

#[test]
fn a_push_takes_any_success_and_any_place_for_the_bytes() {
    let user = User::new();
    user.json(&["models", "register", DIGITS]);
    for (location, refused) in
        [("session?_state=a%2Fb", 405), ("/up/1?digested=no", 403), ("//HOST/up/2?", 501)]
    {
        let kept = Arc::new(Mutex::new(HashMap::new()));
        let store = Arc::clone(&kept);
        let registry = FaultyRegistry::answering(move |Request { method, path, body, .. }| {
            let success = |status| (status, vec![], vec![]);
            match &**method {
                "GET" if path == "/v2/" => success(204),
                "HEAD" => success(refused),
                "POST" => (200, vec![("location", location.replace("HOST", "127.0.0.1"))], vec![]),
                "PUT" => {
                    store.lock().unwrap().insert(path.clone(), body.clone());
                    success(204)
                }
                _ => success(404),
            }
        });
        let pushed = user.json(&["models", "push", "digits", &registry.reference("a/b:1")]);
        let kept = kept.lock().unwrap();
        let manifest = &kept["/v2/a/b/manifests/1"];
        assert_eq!(pushed["digest"], digest(manifest).as_str());
        let manifest: Value = serde_json::from_slice(manifest).unwrap();
        let start = match location.strip_prefix("//HOST") {
            Some(path) => path.trim_end_matches('?').to_owned() + "?",
            None if location.starts_with('/') => format!("{location}&"),
            None => format!("/v2/a/b/blobs/uploads/{location}&"),
        };
        for part in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
            let named = part["digest"].as_str().unwrap();
            let path = format!("{start}digest={}", named.replace(':', "%3A"));
            assert_eq!(kept.get(&path).map(|bytes| digest(bytes)).as_deref(), Some(named), "{path}");
        }
    }
    let page = FaultyRegistry::start(|method, path| match method {
        "GET" => pulled(path),
        "POST" => (202, vec![("location", "/up".to_owned())], vec![]),
        _ => (200, vec![("content-type", "text/html; charset=utf-8".to_owned())], b"log in".to_vec()),
    });
    user.refused(&["models", "push", "digits", &page.reference("a")], "it did not confirm a manifest");
}

#[test]
fn referrers_are_read_from_all_pages() {
    let (one, other) = (User::new(), User::new());
    let (key, public) = crate::signing::keys(one.cache.path(), "key");
    one.json(&["models", "register", DIGITS]);
    one.json(&["models", "sign", "digits", "--key", &key]);
    let kept = Arc::new(Mutex::new(HashMap::<String, Vec<u8>>::new()));
    let store = Arc::clone(&kept);
    let registry = FaultyRegistry::answering(move |Request { method, path, body, .. }| {
        let mut store = store.lock().unwrap();
        let name = path.rsplit(['/', '=']).next().unwrap().replace("%3A", ":");
        match &**method {
            _ if path == "/v2/" => plain(vec![]),
            "HEAD" => (404, vec![], vec![]),
            "POST" => (202, vec![("location", "up".to_owned())], vec![]),
            "PUT" => {
                store.insert(name.clone(), body.clone());
                let manifest: Value = serde_json::from_slice(body).unwrap_or_default();
                if manifest["subject"].is_object() {
                    let entry = json!({ "artifactType": manifest["artifactType"], "digest": name });
                    store.insert("referrer".to_owned(), entry.to_string().into_bytes());
                }
                (201, vec![("oci-subject", "x".to_owned())], vec![])
            }
            _ if path.contains("/referrers/") => {
                let pages = ["?page=2", "?page=3"];
                let page = pages.iter().position(|page| path.ends_with(page)).map_or(0, |nth| nth + 1);
                let next =
                    pages.get(page).map(|next| ("link", format!("<{next}>; title=\"a, b\"; rel=\"next\"")));
                let entry: Value = serde_json::from_slice(&store["referrer"]).unwrap();
                let entries = if page == 2 { vec![entry] } else { vec![] };
                (200, next.into_iter().collect(), json!({ "manifests": entries }).to_string().into_bytes())
            }
            _ => store.get(&name).map_or((404, vec![], vec![]), |bytes| plain(bytes.clone())),
        }
    });
    one.json(&["models", "push", "digits", &registry.reference("signed")]);
    other.json(&["models", "trust", &public]);
    assert_eq!(other.json(&["models", "pull", &registry.reference("signed:1")])["name"], "signed");
    assert_eq!(registry.asked("/referrers/"), 3);
}
