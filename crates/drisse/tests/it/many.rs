//! More models than fit in memory: loaded at the first request, unloaded to free memory for others.

use crate::support::{Serving, root};
use drisse_testkit::Request;
use serde_json::Value;
use std::path::Path;

const MODELS: usize = 6;

/// Copies the digits model into `folder`, and returns the paths as arguments.
fn copies(folder: &Path) -> Vec<String> {
    let copy = |nth| {
        let path = folder.join(format!("m{nth}.onnx"));
        std::fs::copy(root().join("examples/digits/digits.onnx"), &path).unwrap();
        path.to_str().unwrap().to_owned()
    };
    (0..MODELS).map(copy).collect()
}

/// Starts a server with memory for about two of the models.
fn start(folder: &Path) -> Serving {
    let models = copies(folder);
    let mut arguments = vec!["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--model-memory", "50KiB"];
    arguments.extend(models.iter().map(String::as_str));
    Serving::start(&arguments)
}

fn ready(server: &Serving) -> Vec<String> {
    let admin = server.document["admin"].as_str().unwrap();
    let body = "{\"ready\":true}";
    let (status, answer) = Request::new(&format!("{admin}/v2/repository/index"), None, body).send().unwrap();
    assert_eq!(status, 200, "{answer}");
    let index: Vec<Value> = serde_json::from_str(&answer).unwrap();
    index.iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
}

fn score(server: &Serving, nth: usize) -> (u16, String) {
    let sample = std::fs::read_to_string(root().join("examples/digits/sample.json")).unwrap();
    let url = server.document["url"].as_str().unwrap();
    Request::new(&format!("{url}/score/m{nth}"), None, &sample).send().unwrap()
}

#[test]
fn models_are_loaded_when_they_are_asked_for_and_those_not_used_for_longest_make_room() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    assert_eq!(ready(&server), [""; 0]);
    // A model that is loaded on demand counts as ready, so that clients send it requests.
    let url = server.document["url"].as_str().unwrap();
    let get = |path: &str| Request::get(&format!("{url}{path}")).send().unwrap();
    assert_eq!(get("/v2/models/m0/ready").0, 200);
    assert_eq!(get("/v2/models/m0/versions/2/ready").0, 404);
    assert!(get("/v2/models/other/ready").1.contains("this server has `m0`, `m1`"));
    assert!(get("/v1/models").1.contains("m5"));
    let admin = server.document["admin"].as_str().unwrap();
    // A model that the operator has unloaded is loaded again only by the operator.
    let change = |what| {
        let url = format!("{admin}/v2/repository/models/m0/{what}");
        Request::new(&url, None, "").send().unwrap().0
    };
    for _ in ["in memory", "not"] {
        assert_eq!((score(&server, 0).0, change("unload"), score(&server, 0).0), (200, 200, 404));
        assert_eq!(
            (change("unload"), change("load"), change("unload"), change("load")),
            (200, 200, 200, 200)
        );
        assert!(ready(&server).contains(&"m0".to_owned()));
    }
    for nth in 0..MODELS {
        assert_eq!(score(&server, nth).0, 200);
        let ready = ready(&server);
        assert!(ready.contains(&format!("m{nth}")) && ready.len() <= 2, "{ready:?}");
    }
    // Four clients use all models in turn: every request is answered.
    std::thread::scope(|scope| {
        for client in 0..4 {
            let server = &server;
            scope.spawn(move || {
                for nth in 0..2 * MODELS {
                    let (status, answer) = score(server, (client + nth) % MODELS);
                    assert_eq!(status, 200, "{answer}");
                }
            });
        }
    });
    assert!(ready(&server).len() <= 2);
}

#[test]
fn a_model_that_can_no_longer_be_loaded_is_reported_and_leaves_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    std::fs::write(folder.path().join("m1.onnx"), "no model").unwrap();
    let (status, answer) = score(&server, 1);
    assert_eq!((status, answer.contains("m1.onnx")), (503, true), "{answer}");
    assert_eq!((score(&server, 0).0, score(&server, 2).0), (200, 200));
    let url = server.document["url"].as_str().unwrap();
    assert_eq!(Request::get(&format!("{url}/v2/models/m1/ready")).send().unwrap().0, 503);
    let others = ready(&server);
    assert_eq!(
        (score(&server, 1), ready(&server)),
        ((503, answer), others),
        "a failed load unloads no other model"
    );
    let change =
        |what| format!("{}/v2/repository/models/m1/{what}", server.document["admin"].as_str().unwrap());
    assert_eq!(Request::new(&change("unload"), None, "").send().unwrap().0, 200, "it is not in memory");
    std::fs::copy(folder.path().join("m0.onnx"), folder.path().join("m1.onnx")).unwrap();
    assert_eq!(Request::new(&change("load"), None, "").send().unwrap().0, 200);
    assert_eq!(score(&server, 1).0, 200, "the repaired model is loaded");
}
