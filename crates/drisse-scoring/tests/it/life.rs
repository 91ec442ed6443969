//! From loading to the last answer: readiness, keys, certificates, ids, several models, stopping.

use crate::support::{Setup, start};
use drisse_core::ScorerLimits;
use drisse_engines::fake::Script;
use drisse_net::Tls;
use drisse_scoring::Keys;
use drisse_testkit::{Connection, post};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

const BODY: &str = "{\"data\":[[1,2]]}";

#[test]
fn a_server_that_loads_is_live_and_not_ready() {
    let server = Setup { loading: true, ..Setup::default() }.start();
    assert_eq!(server.get("/v2/health/live").status, 200);
    assert_eq!(server.get("/v2/health/ready").status, 503);
    assert_eq!(server.admin("GET", "/live", "").status, 200);
    assert_eq!(server.admin("GET", "/ready", "").status, 503);
    let answer = server.post("/score", BODY);
    assert_eq!(answer.status, 503);
    assert!(
        answer.body.contains("still loading") && answer.headers.contains("retry-after:"),
        "{}",
        answer.body
    );
    server.app.set_ready();
    assert_eq!(server.get("/v2/health/ready").status, 200);
}

#[test]
fn v2_describes_the_server_and_the_model() {
    let server = start();
    assert_eq!(server.get("/").body, "Healthy");
    assert!(server.get("/v2").body.contains("\"name\":\"drisse\""));
    let model = server.get("/v2/models/echo").body;
    assert!(model.contains(r#"{"name":"X","datatype":"FP32","shape":[-1,2]}"#), "{model}");
    assert!(model.contains(r#""platform":"fake""#) && model.contains(r#""versions":["1"]"#), "{model}");
    assert_eq!(server.get("/v2/models/echo/versions/1").body, model);
    assert_eq!(server.get("/v2/models/echo/ready").status, 200);
    assert_eq!(server.get("/v2/models/echo/versions/2/ready").status, 404);
    assert_eq!(server.get("/sample").body, BODY);
    let document: serde_json::Value = serde_json::from_str(&server.get("/swagger.json").body).unwrap();
    assert_eq!(document["openapi"], "3.0.3");
    assert_eq!(
        document["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]["example"]["data"]
            [0][1],
        2
    );
}

#[test]
fn with_several_models_the_path_names_one() {
    let models = vec![("a", Script::default()), ("b", Script::default())];
    let server = Setup { models, ..Setup::default() }.start();
    assert_eq!(server.post("/score/b", BODY).status, 200);
    let answer = server.post("/score", BODY);
    assert_eq!(answer.status, 404);
    assert!(answer.body.contains("use /score/NAME; this server has `a`, `b`"), "{}", answer.body);
}

#[test]
fn ids_are_echoed_or_made() {
    let server = start();
    let headers = "x-request-id: mine-7\r\nx-ms-client-request-id: theirs-8\r\n";
    let answer = server.connect().post_with("/score", headers, BODY);
    assert!(answer.headers.contains("x-request-id: mine-7\r\n"), "{}", answer.headers);
    assert!(answer.headers.contains("x-ms-client-request-id: theirs-8\r\n"), "{}", answer.headers);
    let id = |answer: drisse_testkit::Answer| {
        answer
            .headers
            .lines()
            .find_map(|line| line.strip_prefix("x-request-id: ").map(str::to_owned))
            .unwrap()
    };
    assert_ne!(id(server.post("/score", BODY)), id(server.post("/score", "broken")));
}

#[test]
fn a_key_opens_scoring_and_a_changed_file_changes_the_keys() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "first\n").unwrap();
    let keys = Some(Keys::open(file.path()).unwrap());
    let server = Setup { keys, models: vec![("echo", Script::default())], ..Setup::default() }.start();
    let with = |key: &str| {
        server.connect().post_with("/score", &format!("authorization: Bearer {key}\r\n"), BODY).status
    };
    let refused = server.post("/score", BODY);
    assert_eq!(refused.status, 401);
    assert!(refused.headers.contains("www-authenticate: bearer\r\n"), "{}", refused.headers);
    assert_eq!((with("first"), with("second")), (200, 401));
    for open in ["/", "/health", "/ping", "/v2/health/live", "/v2/health/ready", "/v2/models/echo/ready"] {
        assert_eq!(server.get(open).status, 200, "{open}");
    }
    for closed in ["/v2", "/v2/models/echo", "/swagger.json", "/sample"] {
        assert_eq!(server.get(closed).status, 401, "{closed}");
    }
    // As editors and Kubernetes do it: a new file renamed over the old one.
    let new = file.path().with_extension("new");
    std::fs::write(&new, "second\n").unwrap();
    std::fs::rename(&new, file.path()).unwrap();
    let started = Instant::now();
    while !server.admin("GET", "/identity", "").body.contains("\"generation\":2") {
        assert!(started.elapsed() < Duration::from_secs(20));
    }
    assert_eq!((with("first"), with("second")), (401, 200));
}

#[test]
fn the_admin_listener_tells_and_changes_nothing_for_a_web_page() {
    let server = start();
    let identity = server.admin("GET", "/identity", "").body;
    assert!(identity.contains("\"name\":\"echo\"") && identity.contains("\"nonce\":\""), "{identity}");
    assert_eq!(server.admin("GET", "/drain", "").status, 405);
    assert_eq!(server.admin("POST", "/drain", "origin: http://evil\r\n").status, 404);
    // The page's own name leads here.
    assert_eq!(server.admin("POST", "http://evil.example/drain", "").status, 404);
    assert_eq!(server.admin("GET", "/ready", "").status, 200);
    assert_eq!(server.admin("POST", "/drain", "").status, 200);
    assert_eq!(server.admin("GET", "/ready", "").status, 503);
    let last = server.post("/score", BODY);
    assert_eq!(last.status, 200, "what still comes is answered");
    assert!(last.headers.contains("connection: close\r\n"), "{}", last.headers);
}

#[test]
fn stopping_answers_what_is_under_way_and_then_ends() {
    let limits = ScorerLimits { concurrency: 1, steady: false, rows_independent: Ok(()) };
    let script = Script { latency: Duration::from_millis(300), limits, ..Script::default() };
    let mut server = Setup { models: vec![("slow", script)], ..Setup::default() }.start();
    let mut idle = server.connect();
    assert_eq!(idle.post("/score", BODY).status, 200);
    let mut busy = server.connect();
    busy.push(post("/score", "", BODY));
    server.wait_for("drisse_waiting_requests{model=\"slow\"} ", 1.0);
    server.thread.begin_stop();
    assert!(idle.is_closed(), "a connection without a request is closed");
    assert_eq!(server.admin("GET", "/ready", "").status, 503, "the admin answers until the end");
    let answer = busy.read().unwrap();
    assert_eq!((answer.status, &*answer.body), (200, "{\"X\":[[1.0,2.0]]}"));
    server.thread.join();
}

#[test]
fn https_serves_with_the_certificate_that_is_there_now() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let issue = || {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        made.cert.der().clone()
    };
    let first = issue();
    let tls = Some(Tls::open(&certificate, &key).unwrap());
    let server = Setup { tls, models: vec![("echo", Script::default())], ..Setup::default() }.start();
    let ask = |trusted: &rustls::pki_types::CertificateDer<'static>| -> Option<u16> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(trusted.clone()).unwrap();
        let config = Arc::new(drisse_net::client_config(roots));
        let client = rustls::ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
        let mut stream =
            rustls::StreamOwned::new(client, std::net::TcpStream::connect(server.address).unwrap());
        stream.write_all(post("/score", "", BODY).as_bytes()).ok()?;
        Some(Connection::over(stream).read().ok()?.status)
    };
    assert_eq!(ask(&first), Some(200));
    let second = issue();
    let started = Instant::now();
    while ask(&second) != Some(200) {
        assert!(started.elapsed() < Duration::from_secs(20));
    }
    assert_eq!(ask(&first), None, "the old certificate is gone");
    let mut plain = server.connect();
    plain.push("GET / HTTP/1.1\r\nhost: h\r\n\r\n");
    let mut rest = Vec::new();
    plain.read_rest(&mut rest);
    assert!(!rest.starts_with(b"HTTP"), "plain HTTP is not answered");
}

#[test]
fn http2_is_spoken_on_the_same_port() {
    use http_body_util::{BodyExt, Full};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let server = start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.unwrap();
        #[expect(clippy::disallowed_methods, reason = "the test owns the task")]
        let connection = tokio::spawn(connection);
        let requests = (0..20).map(|nth| {
            let body = Full::new(bytes::Bytes::from(format!("{{\"data\":[[{nth},0]]}}")));
            sender.send_request(hyper::Request::post("http://h/score").body(body).unwrap())
        });
        for (nth, answer) in requests.collect::<Vec<_>>().into_iter().enumerate() {
            let answer = answer.await.unwrap();
            assert_eq!(answer.status(), 200);
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, format!("{{\"X\":[[{nth}.0,0.0]]}}"));
        }
        drop(sender);
        connection.await.unwrap().unwrap();
    });
}
