//! A request of a case, and the response that it requires.

use crate::protocol::Protocol;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// One request and its required response, over HTTP (`send`) or gRPC (`call`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Exchange {
    /// HTTP: `METHOD PATH`.
    pub(crate) send: Option<String>,
    /// gRPC: a method of the inference service.
    pub(crate) call: Option<String>,
    /// Headers, or gRPC's metadata.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// The body without its binary part, or the message in protobuf's JSON.
    pub(crate) body: Option<String>,
    /// The further messages of a stream.
    #[serde(default)]
    pub(crate) more: Vec<String>,
    /// Bytes after the JSON, in hexadecimal; `Inference-Header-Content-Length` says where they begin.
    pub(crate) binary: Option<String>,
    /// The content coding of the body: `gzip` or `deflate`; others are announced but not applied.
    pub(crate) coding: Option<String>,
    /// Sends the body in chunks of this many bytes, without `Content-Length`.
    pub(crate) pieces: Option<usize>,
    /// The required status. HTTP: a number, `4xx`, `handled` (not 5xx) or `error` (4xx or 5xx). gRPC: the name of a
    /// code, or `error`.
    pub(crate) status: Option<String>,
    /// The usual status, if the specification requires no particular one; any other status is a warning.
    pub(crate) typically: Option<String>,
    /// The required JSON of the response, in the notation of `expect.rs`.
    pub(crate) answer: Option<String>,
    /// The required JSON of a stream's responses after the first.
    #[serde(default)]
    pub(crate) answers: Vec<String>,
    /// The required headers of the response.
    #[serde(default)]
    pub(crate) answer_headers: BTreeMap<String, String>,
    /// A text that the response must contain; with it, an error need not be JSON.
    pub(crate) contains: Option<String>,
}

impl Exchange {
    /// Checks that the exchange is well formed.
    pub(crate) fn check(&self, protocol: Protocol) -> Result<(), String> {
        if self.send.is_some() == self.call.is_some() {
            return Err("an exchange needs either `send` or `call`".to_owned());
        }
        if self.call.is_some() != (protocol == Protocol::Grpc) {
            return Err(format!("`send` is for HTTP and `call` for gRPC, but the protocol is {protocol}"));
        }
        let Some(status) = &self.status else {
            return Err("an exchange needs a `status`".to_owned());
        };
        let known = match self.call {
            Some(_) => status == "error" || crate::grpc::CODES.contains(&&**status),
            None => {
                matches!(&**status, "error" | "4xx" | "handled")
                    || status.len() == 3 && status.parse::<u16>().is_ok()
            }
        };
        if !known {
            return Err(format!("unknown status `{status}`"));
        }
        for answer in self.answer.iter().chain(&self.answers) {
            serde_json::from_str::<Value>(answer).map_err(|error| format!("the answer {answer}: {error}"))?;
        }
        Ok(())
    }

    /// Whether the required response is an error.
    pub(crate) fn fails(&self) -> bool {
        self.status
            .as_deref()
            .is_some_and(|status| matches!(status, "error" | "4xx") || status.starts_with('4'))
    }

    /// Whether the request names this model.
    pub(crate) fn is_about(&self, model: &str) -> bool {
        let quoted = format!("\"{model}\"");
        let path = format!("{}/", self.send.as_deref().unwrap_or_default().replace([':', '?'], "/"));
        path.contains(&format!("/{model}/"))
            || self.body.iter().chain(&self.more).any(|body| body.contains(&quoted))
    }

    /// Returns the request's method and path, or its gRPC method.
    pub(crate) fn line(&self) -> &str {
        self.send.as_deref().or(self.call.as_deref()).unwrap_or_default()
    }
}
