//! `drisse conformance`: tests a server against the specifications of the inference protocols.

use crate::cli::{Conformance, Output};
use crate::error::{CliError, Result};
use crate::printer;
use anyhow::Context;
use drisse_conformance::{Case, MODELS, Outcome, Protocol, Report, RunError, Server, Verdict};
use drisse_net::http::Address;
use drisse_net::trusting;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Maximum number of failures and warnings in the text output. The JSON and JUnit reports contain all of them.
const LISTED: usize = 40;

pub(crate) fn run(arguments: &Conformance, output: Output) -> Result<ExitCode> {
    if let Some(folder) = &arguments.models {
        return write_models(folder, output);
    }
    let protocols = match &arguments.protocol[..] {
        [] => Protocol::ALL.to_vec(),
        named => named.to_vec(),
    };
    let wanted = |case: &Case| arguments.case.as_ref().is_none_or(|text| case.name.contains(text));
    if arguments.list {
        let cases: Vec<_> = protocols
            .iter()
            .flat_map(|protocol| drisse_conformance::cases(*protocol))
            .filter(wanted)
            .collect();
        printer::result(output, || list(&cases), || listed(&cases));
        return Ok(ExitCode::SUCCESS);
    }
    let server = server(arguments)?;
    // A path that cannot be written fails now, not after minutes of testing.
    let create =
        |path: &PathBuf| File::create(path).with_context(|| format!("cannot write {}", path.display()));
    let junit = arguments.junit.as_ref().map(create).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let bar = printer::bar(None, "  {pos}/{len} {msg}");
    let on_verdict = |all: usize, verdict: &Verdict| {
        bar.set_length(all as u64);
        bar.set_message(printer::plain(&verdict.case.name));
        bar.inc(1);
    };
    let report = runtime.block_on(drisse_conformance::run(&server, &protocols, wanted, on_verdict));
    bar.finish_and_clear();
    let report = report.map_err(unusable)?;
    if report.verdicts.is_empty() {
        return Err(CliError::new("no case has this text in its name")
            .hint("`drisse conformance --list` shows all cases"));
    }
    if let (Some(path), Some(mut file)) = (&arguments.junit, junit) {
        file.write_all(report.junit().as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    printer::result(output, || report.document(), || text(&report));
    // If the user names protocols, a server that supports none of them fails.
    let unsupported = !arguments.protocol.is_empty() && report.count("skipped") == report.verdicts.len();
    let failed = report.count("failed") > 0 || unsupported || arguments.strict && report.count("warned") > 0;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn server(arguments: &Conformance) -> Result<Server> {
    let url = arguments.url.as_deref().unwrap_or_default();
    let key = match &arguments.key_file {
        None => None,
        Some(file) => {
            let text = std::fs::read_to_string(file);
            let text = text.with_context(|| format!("cannot read the key in {}", file.display()))?;
            text.lines().next().map(|line| line.trim().to_owned())
        }
    };
    let ca = arguments.ca.as_deref();
    Ok(Server {
        http: address(url, ca, b"http/1.1")?,
        grpc: address(arguments.grpc.as_deref().unwrap_or(url), ca, b"h2")?,
        key,
        patience: arguments.timeout,
    })
}

/// Parses the URL of a server. `alpn` is the protocol to negotiate over TLS.
fn address(url: &str, ca: Option<&Path>, alpn: &[u8]) -> Result<Address> {
    let refused = || CliError::new(format!("`{url}` is not a server URL")).hint("a URL is http://HOST:PORT");
    let (scheme, host) = url.split_once("://").ok_or_else(refused)?;
    let host = host.trim_end_matches('/');
    if host.is_empty() || host.contains(['/', '?', '#', '@']) {
        return Err(refused());
    }
    let (_, port) = host.rsplit_once(':').unwrap_or((host, ""));
    let has_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let with = |default: &str| if has_port { host.to_owned() } else { format!("{host}:{default}") };
    match scheme {
        "http" | "grpc" => Ok(Address::Http(with("80"))),
        "https" => {
            let ca = ca.ok_or_else(|| {
                CliError::new(format!("cannot trust {url}: no CA certificate is given"))
                    .hint("name the CA certificate that signed the server's certificate: --ca FILE")
            })?;
            let mut config = (*trusting(ca)?).clone();
            config.alpn_protocols = vec![alpn.to_vec()];
            Ok(Address::Https(with("443"), config.into()))
        }
        _ => Err(refused()),
    }
}

fn unusable(error: RunError) -> CliError {
    let hint = match error {
        RunError::Silent { .. } => "start the server, or correct its URL: http://HOST:PORT",
        RunError::Locked(_) => "name a file with the server's key: --key-file FILE",
        RunError::NoModels(_) => {
            "`drisse conformance --models DIR` writes the models; `drisse serve DIR/*` serves them"
        }
    };
    let code = if matches!(error, RunError::Silent { .. }) { 2 } else { 1 };
    CliError::new(error).code(code).hint(hint)
}

fn write_models(folder: &Path, output: Output) -> Result<ExitCode> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create the folder {}", folder.display()))?;
    for name in MODELS.iter() {
        let file = folder.join(format!("{name}.onnx"));
        std::fs::write(&file, drisse_conformance::model(name).unwrap_or_default())
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    let path = folder.display();
    printer::result(
        output,
        || json!({ "folder": folder, "models": *MODELS }),
        || format!("wrote {} models to {path}, each as NAME.onnx: {}\n", MODELS.len(), MODELS.join(", ")),
    );
    Ok(ExitCode::SUCCESS)
}

fn list(cases: &[Case]) -> Value {
    let one = |case: &Case| json!({ "protocol": case.protocol.to_string(), "name": case.name, "cites": case.cites, "advice": case.advice });
    cases.iter().map(one).collect()
}

fn listed(cases: &[Case]) -> String {
    let mut text = String::new();
    for case in cases {
        let _ = writeln!(text, "{:<14} {}", case.protocol, printer::plain(&case.name));
    }
    let _ = writeln!(text, "\n{} cases", cases.len());
    text
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    let with = |word: &'static str| report.verdicts.iter().filter(move |one| one.outcome.word() == word);
    let bad: Vec<_> = with("failed").chain(with("warned")).collect();
    for verdict in bad.iter().take(LISTED) {
        let (case, word) = (&verdict.case, verdict.outcome.word());
        let _ = writeln!(text, "{word}  {}: {}", case.protocol, printer::plain(&case.name));
        let _ = writeln!(text, "        {}", printer::plain(verdict.outcome.why().unwrap_or_default()));
        let _ = writeln!(text, "        {}\n", case.cites.join("\n        "));
    }
    if bad.len() > LISTED {
        let more = bad.len() - LISTED;
        let _ = writeln!(text, "… and {more} more: --output json and --junit FILE contain all of them\n");
    }
    let words = ["passed", "warned", "failed", "skipped"];
    let rows = report.by_protocol().into_iter().map(|(protocol, counts)| {
        let number = |word: &&str| counts.get(*word).copied().unwrap_or_default().to_string();
        let why = skipped(report, protocol);
        std::iter::once(protocol.to_string()).chain(words.iter().map(number)).chain([why]).collect()
    });
    let (server, version) = (printer::plain(&report.server), printer::plain(&report.version));
    let _ = writeln!(text, "{server} {version} at {}\n", report.url);
    text + &printer::table(&[&["protocol"], &words[..], &[""]].concat(), rows)
}

/// Returns the reasons why cases of a protocol were skipped, without duplicates.
fn skipped(report: &Report, protocol: Protocol) -> String {
    let mut reasons: Vec<&str> = Vec::new();
    for verdict in report.verdicts.iter().filter(|verdict| verdict.case.protocol == protocol) {
        if let Outcome::Skipped(why) = &verdict.outcome
            && !reasons.contains(&&**why)
        {
            reasons.push(why);
        }
    }
    reasons.join("; ")
}
