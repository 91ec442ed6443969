//! A real Prometheus that scrapes one address; killed when dropped.

use crate::workspace::own_address;
use drisse_testkit::{Connection, found};
use serde_json::Value;
use std::cell::RefCell;
use std::fmt::Debug;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

pub(crate) struct Prometheus {
    child: Child,
    address: String,
    folder: tempfile::TempDir,
}

impl Prometheus {
    /// Starts Prometheus. Returns `None` if it is not installed; it is required in CI.
    pub(crate) fn start(scraped: &str) -> Option<Self> {
        let program = program()?;
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "global: {{scrape_interval: 500ms}}\n\
             scrape_configs:\n- job_name: drisse\n  static_configs:\n  - targets: ['{scraped}']\n"
        );
        std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let address = own_address();
        let child = Command::new(program)
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={address}"))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let started = Self { child, address, folder };
        started.until("it scrapes", || {
            // Unlike the list of targets, this query succeeds only once samples can be queried.
            let up = started.get("/api/v1/query", &[("query", "up == 1")]);
            let is_up = up.is_some_and(|up| up["result"][0].is_object());
            is_up.then_some(()).ok_or_else(|| started.target())
        });
        Some(started)
    }

    /// Returns the state of the only target.
    pub(crate) fn target(&self) -> Option<Value> {
        let targets = self.get("/api/v1/targets", &[])?;
        targets["activeTargets"].get(0).cloned()
    }

    /// Runs a query, and returns its samples as labels and value.
    pub(crate) fn query(&self, query: &str) -> Vec<(Value, f64)> {
        let data = self.get("/api/v1/query", &[("query", query)]);
        let data = data.unwrap_or_else(|| panic!("{query}: {}", self.log()));
        let sample = |sample: &Value| {
            (sample["metric"].clone(), sample["value"][1].as_str().unwrap().parse().unwrap())
        };
        data["result"].as_array().unwrap().iter().map(sample).collect()
    }

    /// Repeats `ask` until it succeeds. The error shows in the failure message what was seen instead.
    pub(crate) fn until<T: Debug>(&self, what: &str, mut ask: impl FnMut() -> Result<(), T>) {
        let seen = RefCell::new(None);
        let failure = || format!("{what}: not yet, {:?}\n{}", seen.borrow(), self.log());
        found(failure, || {
            *seen.borrow_mut() = ask().err();
            seen.borrow().is_none().then_some(())
        });
    }

    /// Returns the data of an answer, or `None` if Prometheus does not answer yet. Panics if it refuses the request.
    pub(crate) fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Option<Value> {
        let parameters: Vec<_> =
            parameters.iter().map(|(name, value)| format!("{}={}", escape(name), escape(value))).collect();
        let body = get(&self.address, &format!("{path}?{}", parameters.join("&")))?;
        // During its start, Prometheus answers in plain text.
        let answer: Value = serde_json::from_str(&body).ok()?;
        assert_eq!(answer["status"], "success", "{path} {parameters:?}: {answer}");
        Some(answer["data"].clone())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the body of a server's answer, or `None` if it does not answer.
pub(crate) fn get(address: &str, path: &str) -> Option<String> {
    // HTTP/1.0, so that the body is not chunked.
    let request = format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n");
    let answer = Connection::tcp(address).ok()?.exchange(request).ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.to_owned())
}

/// Checks metrics in Prometheus' text format with Prometheus' own tool, and returns what it says, without Triton's names.
/// `None` if Prometheus is not installed.
pub(crate) fn promtool(metrics: &str) -> Option<String> {
    let program = program()?.with_file_name("promtool");
    let piped = || Stdio::piped();
    let mut child = Command::new(program)
        .args(["check", "metrics"])
        .stdin(piped())
        .stdout(piped())
        .stderr(piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    Some(said.lines().filter(|line| !line.starts_with("nv_")).collect())
}

/// Percent-encodes a parameter of a URL.
fn escape(text: &str) -> String {
    let escaped = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escaped).collect()
}

/// The Prometheus that `cargo xtask test` found or unpacked, or the installed one.
#[expect(clippy::print_stderr, reason = "a test that cannot run here says so")]
fn program() -> Option<PathBuf> {
    let program = std::env::var_os("DRISSE_PROMETHEUS").map_or_else(|| "prometheus".into(), PathBuf::from);
    let mut asked = Command::new(&program);
    if asked.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok() {
        return Some(program);
    }
    assert!(std::env::var_os("CI").is_none(), "CI needs Prometheus: `cargo xtask test` installs it");
    eprintln!("not tested: Prometheus is missing; `cargo xtask test` installs it");
    None
}
