//! Exports traces to a collector by OTLP over HTTP, configured by OpenTelemetry's environment variables.
//!
//! Sources: <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>,
//! <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>.

use crate::connect::{VERSION, trusting};
use crate::failure::Failure;
use drisse_net::http::{Address, Ask};
use drisse_net::trace::{Sampling, Traces, request, resource};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Uri};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long spans are collected before they are sent, in milliseconds: OpenTelemetry's default.
const DELAY: u64 = 5_000;

/// How long an export may take, in milliseconds: OpenTelemetry's default.
const TIMEOUT: u64 = 10_000;

/// How long the last export may take when the server ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// The pause before the first retry. It doubles with each retry.
const RETRY: Duration = Duration::from_millis(200);

/// The default sampling: the client decides; if it does not, 1 % of the requests is traced.
const USUAL: Sampling = Sampling { parent_based: true, ratio: 0.01 };

/// Sends traces to a collector.
pub(crate) struct Exporter {
    traces: Arc<Traces>,
    collector: Address,
    path: String,
    headers: HeaderMap,
    resource: Vec<u8>,
    timeout: Duration,
    delay: Duration,
}

/// A running exporter.
pub(crate) struct Exporting {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Configures an exporter from environment variables; `None` if they name no collector. `service` is the default
    /// service name of the spans.
    pub(crate) fn from_environment(service: &str) -> Result<Option<Self>, Failure> {
        Self::configured(service, |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()))
    }

    fn configured(service: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Failure> {
        if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let whole = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        let endpoint = match (variable(whole), variable("OTEL_EXPORTER_OTLP_ENDPOINT")) {
            (Some(whole), _) => whole,
            (None, Some(base)) => format!("{}/v1/traces", base.trim_end_matches('/')),
            (None, None) => return Ok(None),
        };
        let certificate = variable("OTEL_EXPORTER_OTLP_CERTIFICATE");
        let (collector, path) = address(&endpoint, certificate.as_deref())?;
        let headers = ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"];
        let mut all = HeaderMap::new();
        for (name, value) in headers.into_iter().filter_map(&variable).flat_map(|text| pairs(&text)) {
            let header = HeaderName::try_from(name).ok().zip(HeaderValue::try_from(value).ok());
            let (name, value) = header
                .ok_or_else(|| wrong("OTEL_EXPORTER_OTLP_HEADERS", "it must be NAME=VALUE,NAME=VALUE"))?;
            all.insert(name, value);
        }
        all.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let time = |name, usual| match variable(name).map(|text| text.trim().parse()) {
            None => Ok(Duration::from_millis(usual)),
            Some(Ok(ms)) => Ok(Duration::from_millis(ms)),
            Some(Err(_)) => Err(wrong(name, "it must be a number of milliseconds")),
        };
        Ok(Some(Self {
            traces: Arc::new(Traces::new(sampling(&variable)?)),
            collector,
            path,
            headers: all,
            resource: own(service, &variable),
            timeout: time("OTEL_EXPORTER_OTLP_TIMEOUT", TIMEOUT)?,
            delay: time("OTEL_BSP_SCHEDULE_DELAY", DELAY)?,
        }))
    }

    /// Returns the buffer of the spans to export.
    pub(crate) fn traces(&self) -> Arc<Traces> {
        Arc::clone(&self.traces)
    }

    /// Starts to export spans, on the current runtime.
    pub(crate) fn start(self) -> Exporting {
        let (stop, mut stopped) = oneshot::channel();
        #[expect(clippy::disallowed_methods, reason = "`Exporting` owns the task")]
        let task = tokio::spawn(async move {
            let mut works = true;
            loop {
                let (spans, last) = tokio::select! {
                    spans = self.traces.next(self.delay) => (spans, false),
                    _ = &mut stopped => (self.traces.take(), true),
                };
                if !spans.is_empty() {
                    works = self.export(&spans, works).await;
                }
                if last {
                    return;
                }
            }
        });
        Exporting { stop, task }
    }

    /// Sends spans, and returns whether that succeeded. Logs a change of this from `worked`, the previous result.
    async fn export(&self, spans: &[u8], worked: bool) -> bool {
        let body = request(&self.resource, VERSION, spans);
        let tried = tokio::time::timeout(self.timeout, self.send(&body)).await;
        let why = match tried {
            Ok(Ok(())) => None,
            Ok(Err(why)) => Some(why),
            Err(_) => Some(format!("no response within {:?}", self.timeout)),
        };
        let collector = format!("{}{}", self.collector, self.path);
        match (&why, worked) {
            (Some(why), true) => tracing::warn!(collector, "cannot export traces, they are lost: {why}"),
            (None, false) => tracing::info!(collector, "traces are exported again"),
            _ => {}
        }
        let dropped = self.traces.dropped();
        if dropped > 0 {
            tracing::warn!(requests = dropped, "traces were dropped: the buffer was full");
        }
        why.is_none()
    }

    /// Sends a body, with a few retries. A body that the collector refuses is not sent again.
    async fn send(&self, body: &[u8]) -> Result<(), String> {
        let mut pause = RETRY;
        loop {
            let ask = Ask::send(Method::POST, &self.path, body.to_vec()).with(self.headers.clone());
            let why = match self.collector.ask(ask).await {
                Ok((200..=299, _)) => return Ok(()),
                Ok((status @ (429 | 502..=504), _)) => format!("it answered {status}"),
                Ok((status, _)) => return Err(format!("it answered {status}")),
                Err(error) => error.to_string(),
            };
            if pause > 4 * RETRY {
                return Err(why);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}

impl Exporting {
    /// Sends the remaining spans and stops.
    pub(crate) async fn finish(self) {
        let _ = self.stop.send(());
        // Spans that are not exported in time are lost.
        let _ = tokio::time::timeout(FAREWELL, self.task).await;
    }
}

fn wrong(variable: &str, why: &str) -> Failure {
    Failure::new(format!("cannot use {variable}: {why}"))
}

fn address(endpoint: &str, certificate: Option<&str>) -> Result<(Address, String), Failure> {
    const VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let uri: Uri = endpoint.parse().map_err(|_| wrong(VARIABLE, "it is not a URL"))?;
    let (Some(host), Some(scheme)) = (uri.host(), uri.scheme_str()) else {
        return Err(wrong(VARIABLE, "it must be a URL, such as http://127.0.0.1:4318"));
    };
    let port = |usual| format!("{host}:{}", uri.port_u16().unwrap_or(usual));
    let collector = match (scheme, certificate) {
        ("http", _) => Address::Http(port(80)),
        ("https", Some(file)) => Address::Https(port(443), trusting(Path::new(file))?),
        ("https", None) => {
            let hint = "name the certificate to trust in OTEL_EXPORTER_OTLP_CERTIFICATE";
            return Err(wrong(VARIABLE, "https requires a certificate to trust").hint(hint));
        }
        _ => return Err(wrong(VARIABLE, "the scheme must be http or https")),
    };
    Ok((collector, uri.path_and_query().map_or("/", |path| path.as_str()).to_owned()))
}

fn sampling(variable: &impl Fn(&str) -> Option<String>) -> Result<Sampling, Failure> {
    const VARIABLE: &str = "OTEL_TRACES_SAMPLER_ARG";
    let ratio =
        variable(VARIABLE).map(|text| text.trim().parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)));
    let ratio = match ratio {
        Some(None) => return Err(wrong(VARIABLE, "it must be a number from 0 to 1")),
        Some(ratio) => ratio,
        None => None,
    };
    let Some(sampler) = variable("OTEL_TRACES_SAMPLER") else {
        return Ok(Sampling { ratio: ratio.unwrap_or(USUAL.ratio), ..USUAL });
    };
    let (parent_based, kind) =
        sampler.strip_prefix("parentbased_").map_or((false, &*sampler), |kind| (true, kind));
    let ratio = match kind {
        "always_on" => 1.0,
        "always_off" => 0.0,
        "traceidratio" => ratio.unwrap_or(1.0),
        _ => {
            let known =
                "it must be always_on, always_off or traceidratio, optionally with the prefix parentbased_";
            return Err(wrong("OTEL_TRACES_SAMPLER", known));
        }
    };
    Ok(Sampling { parent_based, ratio })
}

/// Returns the resource: the attributes of the program that the spans come from.
fn own(service: &str, variable: &impl Fn(&str) -> Option<String>) -> Vec<u8> {
    let mut attributes = variable("OTEL_RESOURCE_ATTRIBUTES").map(|text| pairs(&text)).unwrap_or_default();
    let named = variable("OTEL_SERVICE_NAME");
    if named.is_some() || attributes.iter().all(|(name, _)| name != "service.name") {
        attributes.retain(|(name, _)| name != "service.name");
        attributes.push(("service.name".to_owned(), named.unwrap_or_else(|| service.to_owned())));
    }
    attributes.push(("service.version".to_owned(), VERSION.to_owned()));
    let attributes: Vec<_> = attributes.iter().map(|(name, value)| (&**name, &**value)).collect();
    resource(&attributes)
}

/// Parses `NAME=VALUE,NAME=VALUE` with percent-encoded values.
fn pairs(text: &str) -> Vec<(String, String)> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        Some((name.trim().to_owned(), decoded(value.trim())))
    };
    text.split(',').filter_map(pair).collect()
}

fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let byte = part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            Some(byte) => bytes.extend([&[byte], &part.as_bytes()[2..]].concat()),
            None => bytes.extend([b"%", part.as_bytes()].concat()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Result<Option<Exporter>, Failure> {
        let variables: Vec<_> = variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Exporter::configured("digits", |name| {
            variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        })
    }

    fn refused(variables: &[(&str, &str)]) -> String {
        with(variables).err().map(|failure| failure.error.to_string()).unwrap_or_default()
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/base/");

    #[test]
    fn the_environment_sets_the_collector_and_the_service_name() {
        let exporter =
            with(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b , x=y")]).unwrap().unwrap();
        assert_eq!(
            (&*exporter.collector.to_string(), &*exporter.path),
            ("http://collector:4318", "/base/v1/traces")
        );
        assert_eq!([&exporter.headers["api-key"], &exporter.headers["x"]], ["a b", "y"]);
        let has =
            |exporter: &Exporter, text: &[u8]| exporter.resource.windows(text.len()).any(|part| part == text);
        assert!(has(&exporter, b"digits"));
        let named =
            [ENDPOINT, ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,team=b"), ("OTEL_SERVICE_NAME", "mine")];
        let exporter = with(&named).unwrap().unwrap();
        assert!(has(&exporter, b"mine") && has(&exporter, b"team") && !has(&exporter, b"digits"));
        assert!(with(&[]).unwrap().is_none());
        assert!(with(&[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")]).unwrap().is_none());
    }

    #[test]
    fn the_environment_says_which_requests_are_traced() {
        let asked = |sampler: &'static str, argument: &'static str| {
            let variable = move |name: &str| match name {
                "OTEL_TRACES_SAMPLER" => Some(sampler.to_owned()),
                _ => Some(argument.to_owned()),
            };
            sampling(&variable).ok().map(|sampling| (sampling.parent_based, sampling.ratio))
        };
        assert_eq!(asked("parentbased_traceidratio", "0.25"), Some((true, 0.25)));
        assert_eq!(asked("always_on", "0.25"), Some((false, 1.0)));
        assert_eq!(asked("parentbased_always_off", "0.25"), Some((true, 0.0)));
        assert_eq!((asked("jaeger_remote", "1"), asked("traceidratio", "2")), (None, None));
    }

    #[test]
    fn invalid_values_are_refused() {
        assert_eq!(
            refused(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318")]),
            "cannot use OTEL_EXPORTER_OTLP_ENDPOINT: it is not a URL"
        );
        assert!(refused(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c")]).contains("requires a certificate"));
        assert!(refused(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s")]).contains("milliseconds"));
    }
}
