//! A run: detects the protocols, extensions and models of a server, then tries every case in order.

use crate::case::{Case, cases};
use crate::exchange::Exchange;
use crate::expect::{cut, difference, short};
use crate::models::MODELS;
use crate::protocol::Protocol;
use crate::report::{Outcome, Report, Verdict};
use crate::server::{Answer, Server};
use crate::{grpc, http};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Instant;

/// Why a run could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No server answers.
    #[error("no server answers at {address}: {why}")]
    Silent {
        /// The server's address for HTTP.
        address: String,
        /// The error of the first request.
        why: String,
    },
    /// The server requires a key, or refuses the given one.
    #[error("the server at {0} requires a key, or refuses the given one")]
    Locked(String),
    /// The server has none of [`MODELS`].
    #[error("the server at {0} has none of the models that the cases ask for")]
    NoModels(String),
}

/// Checks a server with the cases of `protocols` for which `wanted` returns true. After each case, calls `tried` with
/// the number of all cases and the case's verdict.
///
/// Requires a Tokio runtime with time and I/O. Dropping the future ends the run.
///
/// # Errors
/// Returns [`RunError`] if no case can be tried. A case that fails is not an error: see [`Report`].
pub async fn run(
    server: &Server,
    protocols: &[Protocol],
    wanted: impl Fn(&Case) -> bool,
    mut tried: impl FnMut(usize, &Verdict),
) -> Result<Report, RunError> {
    let found = Found::at(server).await?;
    let all: Vec<Case> = protocols.iter().flat_map(|protocol| cases(*protocol)).filter(wanted).collect();
    let mut report = Report::of(server.http.to_string(), &found.name, &found.version);
    let mut gone = false;
    for case in &all {
        let began = Instant::now();
        let outcome = match found.reason_to_skip(case) {
            Some(why) => Outcome::Skipped(why),
            None if gone => Outcome::Skipped("the server is gone".to_owned()),
            None => match try_case(server, case).await {
                Outcome::Failed(why) | Outcome::Warned(why) if is_gone(server).await => {
                    gone = true;
                    Outcome::Failed(format!("{why}; and the server is gone"))
                }
                outcome => outcome,
            },
        };
        let verdict = Verdict { case: case.clone(), outcome, time: began.elapsed() };
        tried(all.len(), &verdict);
        report.verdicts.push(verdict);
    }
    Ok(report)
}

/// The protocols, extensions and models that a server has.
struct Found {
    name: String,
    version: String,
    extensions: BTreeSet<String>,
    models: BTreeSet<String>,
    speaks: BTreeSet<Protocol>,
}

impl Found {
    async fn at(server: &Server) -> Result<Self, RunError> {
        let get = |path: String| async move {
            let exchange = Exchange { send: Some(format!("GET {path}")), ..Exchange::default() };
            ask(server, &exchange).await
        };
        let call = |name: &str, body: String| {
            let exchange = Exchange { call: Some(name.to_owned()), body: Some(body), ..Exchange::default() };
            async move { ask(server, &exchange).await }
        };
        let ok = |answer: &Result<Answer, String>| {
            answer.as_ref().is_ok_and(|answer| matches!(&*answer.status, "200" | "OK"))
        };
        let about = get("/v2".to_owned()).await;
        let about_grpc = call("ServerMetadata", "{}".to_owned()).await;
        let v1 = get("/v1/models".to_owned()).await;
        if let (Err(why), Err(_), Err(_)) = (&about, &about_grpc, &v1) {
            return Err(RunError::Silent { address: server.http.to_string(), why: why.clone() });
        }
        let is_locked = |answer: &Result<Answer, String>| {
            let status = answer.as_ref().map_or("", |answer| &answer.status);
            matches!(status, "401" | "403" | "UNAUTHENTICATED" | "PERMISSION_DENIED")
        };
        if [&about, &about_grpc, &v1].into_iter().any(is_locked) {
            return Err(RunError::Locked(server.http.to_string()));
        }
        let mut speaks = BTreeSet::new();
        if ok(&about) {
            speaks.extend([Protocol::V2, Protocol::Binary, Protocol::Extensions]);
        }
        if about_grpc.as_ref().is_ok_and(|answer| answer.status != "UNIMPLEMENTED") {
            speaks.insert(Protocol::Grpc);
        }
        if ok(&v1) {
            speaks.insert(Protocol::V1);
        }
        let mut models = BTreeSet::new();
        for model in MODELS.iter() {
            if ok(&get(format!("/v2/models/{model}/ready")).await)
                || ok(&get(format!("/v1/models/{model}")).await)
                || ok(&call("ModelMetadata", json!({ "name": model }).to_string()).await)
            {
                models.insert(model.clone());
            }
        }
        if models.is_empty() {
            return Err(RunError::NoModels(server.http.to_string()));
        }
        let says = |answer: Result<Answer, String>| answer.ok()?.answers.into_iter().next()?.ok();
        let about = says(about).filter(|about| about.is_object()).or(says(about_grpc)).unwrap_or_default();
        let text = |name: &str| about[name].as_str().unwrap_or_default().to_owned();
        let extensions = about["extensions"].as_array().into_iter().flatten();
        let extensions = extensions.filter_map(|name| Some(name.as_str()?.to_owned())).collect();
        Ok(Self { name: text("name"), version: text("version"), extensions, models, speaks })
    }

    fn reason_to_skip(&self, case: &Case) -> Option<String> {
        if !self.speaks.contains(&case.protocol) {
            return Some("the server does not speak this protocol".to_owned());
        }
        if let Some(needed) = case.needs.as_ref().filter(|needed| !self.extensions.contains(*needed)) {
            return Some(format!("the server does not announce `{needed}`"));
        }
        let about = |model: &&String| case.exchanges.iter().any(|exchange| exchange.is_about(model));
        let missing = MODELS.iter().filter(about).find(|model| !self.models.contains(*model));
        missing.map(|model| format!("the server has no model `{model}`"))
    }
}

/// Whether the server answers neither over HTTP nor over gRPC.
async fn is_gone(server: &Server) -> bool {
    let http = Exchange { send: Some("GET /v2/health/live".to_owned()), ..Exchange::default() };
    let body = Some("{}".to_owned());
    let grpc = Exchange { call: Some("ServerLive".to_owned()), body, ..Exchange::default() };
    ask(server, &http).await.is_err() && ask(server, &grpc).await.is_err()
}

async fn ask(server: &Server, exchange: &Exchange) -> Result<Answer, String> {
    let asked = async {
        if exchange.call.is_some() {
            grpc::ask(server, exchange).await
        } else {
            http::ask(server, exchange).await
        }
    };
    let answer = tokio::time::timeout(server.patience, asked).await;
    answer.unwrap_or_else(|_| Err(format!("no answer within {:?}", server.patience)))
}

async fn try_case(server: &Server, case: &Case) -> Outcome {
    let mut warning = None;
    for exchange in &case.exchanges {
        let answer = ask(server, exchange).await;
        let wrong = match &answer {
            Ok(answer) if case.optional && answer.status == "UNIMPLEMENTED" => {
                return Outcome::Skipped("the server does not implement this method".to_owned());
            }
            Ok(answer) => judge(exchange, answer),
            Err(why) => Some(Wrong::Fails(why.clone())),
        };
        match wrong {
            None => {}
            Some(Wrong::Unusual(why)) => warning = warning.or(Some(format!("{}: {why}", exchange.line()))),
            Some(Wrong::Fails(why)) => {
                let body = exchange.body.as_deref().filter(|body| !body.is_empty());
                let sent = body.map(|body| format!(" {}", cut(body))).unwrap_or_default();
                let got =
                    answer.map(|answer| format!(" (answered {}: {})", answer.status, cut(&answer.text)));
                let why = format!("{}{sent}: {why}{}", exchange.line(), got.unwrap_or_default());
                return if case.advice { Outcome::Warned(why) } else { Outcome::Failed(why) };
            }
        }
    }
    warning.map_or(Outcome::Passed, Outcome::Warned)
}

/// How a response differs from the required one.
enum Wrong {
    /// It contradicts the specification.
    Fails(String),
    /// It has an unusual status that the specification allows.
    Unusual(String),
}

fn judge(exchange: &Exchange, answer: &Answer) -> Option<Wrong> {
    let wanted = exchange.status.as_deref().unwrap_or("200");
    let status = &answer.status;
    let is_error = !matches!(&**status, "OK") && !status.starts_with(['1', '2', '3']);
    let as_wanted = match wanted {
        "error" => is_error,
        "4xx" => status.starts_with('4'),
        "handled" => !status.starts_with('5'),
        exact => status == exact,
    };
    if !as_wanted {
        return Some(Wrong::Fails(format!("expected status {wanted}, got {status}")));
    }
    for (name, value) in &exchange.answer_headers {
        let found = answer.headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(why) = header_difference(name, value, found) {
            return Some(Wrong::Fails(why));
        }
    }
    if let Some(text) = exchange.contains.as_ref().filter(|text| !answer.text.contains(&***text)) {
        return Some(Wrong::Fails(format!("the response does not contain {text}")));
    }
    let http_error = json!({ "error": "$text" });
    let written = exchange.answer.iter().chain(&exchange.answers);
    let mut expected: Vec<Value> = written.filter_map(|text| serde_json::from_str(text).ok()).collect();
    if expected.is_empty() && exchange.fails() && exchange.send.is_some() && exchange.contains.is_none() {
        expected.push(http_error);
    }
    if expected.len() > answer.answers.len() {
        return Some(Wrong::Fails(format!(
            "expected {} messages, got {}",
            expected.len(),
            answer.answers.len()
        )));
    }
    for (expected, found) in expected.iter().zip(&answer.answers) {
        let why = match found {
            Ok(found) => difference(expected, Some(found), ""),
            Err(why) => Some(why.clone()),
        };
        if let Some(why) = why {
            return Some(Wrong::Fails(why));
        }
    }
    let typical = exchange.typically.as_ref().filter(|typical| *typical != status);
    typical.map(|typical| Wrong::Unusual(format!("the usual status is {typical}, got {status}")))
}

fn header_difference(name: &str, expected: &str, found: Option<&str>) -> Option<String> {
    let found = found.map(|found| Value::String(found.to_owned()));
    let begins = |found: &Value| {
        expected.strip_suffix('*').is_some_and(|head| found.as_str().unwrap_or_default().starts_with(head))
    };
    if found.as_ref().is_some_and(begins) {
        return None;
    }
    let why = difference(&Value::String(expected.to_owned()), found.as_ref(), &format!("the header {name}"))?;
    Some(why.replace(&short(&Value::String(expected.to_owned())), expected))
}
