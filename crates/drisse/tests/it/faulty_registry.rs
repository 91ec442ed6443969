//! A fake registry with scripted answers, and a package for it to serve.

use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

const DIGITS: &str = "examples/digits/digits.onnx";

pub(crate) type Answer = (u16, Vec<(&'static str, String)>, Vec<u8>);

/// A request to a faulty registry.
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// A registry with scripted answers, which records its requests.
pub(crate) struct FaultyRegistry {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl FaultyRegistry {
    pub(crate) fn start(answer: impl Fn(&str, &str) -> Answer + Send + Sync + 'static) -> Self {
        Self::answering(move |request| answer(&request.method, &request.path))
    }

    /// Starts a registry whose answers depend on whole requests.
    pub(crate) fn answering(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let mut reader = BufReader::new(client);
                let mut line = String::new();
                if reader.read_line(&mut line).is_err() || !line.contains("HTTP/1.1") {
                    // Clients try TLS first.
                    continue;
                }
                let (mut length, mut authorization) = (0, None);
                loop {
                    let mut header = String::new();
                    if reader.read_line(&mut header).is_err() || header.trim().is_empty() {
                        break;
                    }
                    let (name, value) = header.split_once(':').unwrap();
                    match &*name.to_ascii_lowercase() {
                        "content-length" => length = value.trim().parse().unwrap(),
                        "authorization" => authorization = Some(value.trim().to_owned()),
                        _ => {}
                    }
                }
                let mut words = line.split(' ').map(str::to_owned);
                let (method, path) = (words.next().unwrap(), words.next().unwrap());
                let mut body = Vec::new();
                let _ = (&mut reader).take(length).read_to_end(&mut body);
                let mut lines = seen.lock().unwrap();
                lines.extend(authorization.as_ref().map(|_| "authorization".to_owned()));
                lines.push(format!("{method} {path}"));
                drop(lines);
                let is_head = method == "HEAD";
                let (status, headers, body) = answer(&Request { method, path, authorization, body });
                let mut head =
                    format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
                for (name, value) in headers {
                    head += &format!("{name}: {value}\r\n");
                }
                let mut client = reader.into_inner();
                let _ = client.write_all(format!("{head}\r\n").as_bytes());
                let _ = if is_head { Ok(()) } else { client.write_all(&body) };
            }
        });
        Self { address, asked }
    }

    pub(crate) fn reference(&self, name: &str) -> String {
        format!("oci://{}/{name}", self.address)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn asked(&self, what: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|line| line.contains(what)).count()
    }
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Returns the manifest of a package, and its blobs by digest.
pub(crate) fn package(path: &str, twice: bool) -> (Vec<u8>, HashMap<String, Vec<u8>>) {
    let model = fs::read(crate::support::root().join(DIGITS)).unwrap();
    let config =
        br#"{"descriptor":{"name":"digits","version":"1"},"config":{"format":"onnx","paramSize":"1"},
        "modelfs":{"type":"layers","diffIds":[]}}"#;
    let layer = json!({
        "mediaType": "application/vnd.cncf.model.weight.v1.raw", "digest": digest(&model), "size": model.len(),
        "annotations": { "org.cncf.model.filepath": path },
    });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.cncf.model.manifest.v1+json",
        "config": { "mediaType": "application/vnd.cncf.model.config.v1+json", "digest": digest(config), "size": config.len() },
        "layers": if twice { vec![layer.clone(), layer] } else { vec![layer] },
    });
    let blobs = HashMap::from([(digest(&model), model), (digest(config), config.to_vec())]);
    (manifest.to_string().into_bytes(), blobs)
}

pub(crate) fn plain(body: Vec<u8>) -> Answer {
    (200, vec![], body)
}

pub(crate) fn sent_to(location: &str) -> Answer {
    (307, vec![("location", location.to_owned())], vec![])
}

/// Starts a registry that serves one package, except for the requests that `fault` answers.
pub(crate) fn faulty(fault: impl Fn(&str, &str) -> Option<Answer> + Send + Sync + 'static) -> FaultyRegistry {
    let (manifest, blobs) = package("digits.onnx", false);
    FaultyRegistry::start(move |method, path| {
        if let Some(answer) = fault(method, path) {
            return answer;
        }
        match path.rsplit('/').next().unwrap() {
            "" => plain(vec![]),
            _ if path.contains("/manifests/") => plain(manifest.clone()),
            name => blobs.get(name).map_or((404, vec![], vec![]), |blob| plain(blob.clone())),
        }
    })
}
