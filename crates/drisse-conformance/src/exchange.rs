//! A request and what its answer is to be like, as a case has them.

use crate::case::Protocol;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// One request and one answer, over HTTP (`send`) or gRPC (`call`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Exchange {
    /// `METHOD PATH`.
    pub(crate) send: Option<String>,
    /// A method of the inference service.
    pub(crate) call: Option<String>,
    /// Headers, or gRPC's metadata.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// The body before its binary part, or the message in protobuf's JSON.
    pub(crate) body: Option<String>,
    /// More messages of a stream.
    #[serde(default)]
    pub(crate) more: Vec<String>,
    /// Bytes behind the JSON, in hexadecimal; `Inference-Header-Content-Length` says where they begin.
    pub(crate) binary: Option<String>,
    /// `gzip` or `deflate`: how the body is packed.
    pub(crate) coding: Option<String>,
    /// Sends the body in chunks of so many bytes, with no length before it.
    pub(crate) pieces: Option<usize>,
    /// A status, `4xx`, `handled` (anything but a failure of the server's), or `error`: any that is one. Of gRPC's: a code's name, or `error`.
    pub(crate) status: Option<String>,
    /// What the status typically is, where the specification leaves it open: another one is worth a warning.
    pub(crate) typically: Option<String>,
    /// JSON that the answer has, in the specification's own notation (see `expect.rs`).
    pub(crate) answer: Option<String>,
    /// Answers of a stream behind the first.
    #[serde(default)]
    pub(crate) answers: Vec<String>,
    /// Headers that the answer has.
    #[serde(default)]
    pub(crate) answer_headers: BTreeMap<String, String>,
    /// What the answer's text contains, where it is no JSON.
    pub(crate) contains: Option<String>,
}

impl Exchange {
    /// Refuses what cannot be meant.
    pub(crate) fn check(&self, protocol: Protocol) -> Result<(), String> {
        if self.send.is_some() == self.call.is_some() {
            return Err("an exchange has either `send` or `call`".to_owned());
        }
        if self.call.is_some() != (protocol == Protocol::Grpc) {
            return Err(format!("`send` is of HTTP and `call` of gRPC, and this is {protocol}"));
        }
        let Some(status) = &self.status else {
            return Err("`status` says how it is to be answered".to_owned());
        };
        let known = match self.call {
            Some(_) => status == "error" || crate::grpc::CODES.contains(&&**status),
            None => {
                matches!(&**status, "error" | "4xx" | "handled")
                    || status.len() == 3 && status.parse::<u16>().is_ok()
            }
        };
        if !known {
            return Err(format!("no status is `{status}`"));
        }
        for answer in self.answer.iter().chain(&self.answers) {
            serde_json::from_str::<Value>(answer).map_err(|error| format!("the answer {answer}: {error}"))?;
        }
        Ok(())
    }

    /// Whether an answer is to tell of an error.
    pub(crate) fn fails(&self) -> bool {
        self.status
            .as_deref()
            .is_some_and(|status| matches!(status, "error" | "4xx") || status.starts_with('4'))
    }

    /// Whether it names a model.
    pub(crate) fn is_about(&self, model: &str) -> bool {
        let quoted = format!("\"{model}\"");
        let path = format!("{}/", self.send.as_deref().unwrap_or_default().replace([':', '?'], "/"));
        path.contains(&format!("/{model}/"))
            || self.body.iter().chain(&self.more).any(|body| body.contains(&quoted))
    }

    /// What is sent, in a line.
    pub(crate) fn line(&self) -> &str {
        self.send.as_deref().or(self.call.as_deref()).unwrap_or_default()
    }
}
