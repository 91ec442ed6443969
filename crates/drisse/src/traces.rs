//! Where traces go: to a collector, by OTLP over HTTP, as OpenTelemetry's environment variables say.
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

/// Spans wait this long for others, as OpenTelemetry's own batches do, in milliseconds.
const DELAY: u64 = 5_000;

/// A collector's answer is waited for this long, in milliseconds.
const TIMEOUT: u64 = 10_000;

/// What is under way when the server ends may take this long.
const FAREWELL: Duration = Duration::from_secs(2);

/// A collector that is not there is tried again after this, then after twice as long.
const RETRY: Duration = Duration::from_millis(200);

/// Of requests that come without a decision of their client's, one in a hundred is traced.
const USUAL: Sampling = Sampling { parent_based: true, ratio: 0.01 };

/// What sends traces to a collector.
pub(crate) struct Exporter {
    traces: Arc<Traces>,
    collector: Address,
    path: String,
    headers: HeaderMap,
    resource: Vec<u8>,
    timeout: Duration,
    delay: Duration,
}

/// An exporter at work.
pub(crate) struct Exporting {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Exporter {
    /// As the environment says; none where it names no collector. The spans are `service`'s, unless it says otherwise.
    pub(crate) fn from_environment(service: &str) -> Result<Option<Self>, Failure> {
        Self::configured(service, |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()))
    }

    fn configured(service: &str, told: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Failure> {
        if told("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let whole = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        let endpoint = match (told(whole), told("OTEL_EXPORTER_OTLP_ENDPOINT")) {
            (Some(whole), _) => whole,
            (None, Some(base)) => format!("{}/v1/traces", base.trim_end_matches('/')),
            (None, None) => return Ok(None),
        };
        let certificate = told("OTEL_EXPORTER_OTLP_CERTIFICATE");
        let (collector, path) = address(&endpoint, certificate.as_deref())?;
        let headers = ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"];
        let mut all = HeaderMap::new();
        for (name, value) in headers.into_iter().filter_map(&told).flat_map(|text| pairs(&text)) {
            let header = HeaderName::try_from(name).ok().zip(HeaderValue::try_from(value).ok());
            let (name, value) =
                header.ok_or_else(|| wrong("OTEL_EXPORTER_OTLP_HEADERS", "it is NAME=VALUE,NAME=VALUE"))?;
            all.insert(name, value);
        }
        all.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let time = |name, usual| match told(name).map(|text| text.trim().parse()) {
            None => Ok(Duration::from_millis(usual)),
            Some(Ok(ms)) => Ok(Duration::from_millis(ms)),
            Some(Err(_)) => Err(wrong(name, "it is in milliseconds")),
        };
        Ok(Some(Self {
            traces: Arc::new(Traces::new(sampling(&told)?)),
            collector,
            path,
            headers: all,
            resource: own(service, &told),
            timeout: time("OTEL_EXPORTER_OTLP_TIMEOUT", TIMEOUT)?,
            delay: time("OTEL_BSP_SCHEDULE_DELAY", DELAY)?,
        }))
    }

    /// What is to be exported.
    pub(crate) fn traces(&self) -> Arc<Traces> {
        Arc::clone(&self.traces)
    }

    /// Exports what comes, on the runtime this is called on.
    pub(crate) fn start(self) -> Exporting {
        let (stop, mut stopped) = oneshot::channel();
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

    /// Sends spans; whether they arrived. Says so when that is not as it was before.
    async fn export(&self, spans: &[u8], worked: bool) -> bool {
        let body = request(&self.resource, VERSION, spans);
        let tried = tokio::time::timeout(self.timeout, self.send(&body)).await;
        let why = match tried {
            Ok(Ok(())) => None,
            Ok(Err(why)) => Some(why),
            Err(_) => Some(format!("it has not answered for {:?}", self.timeout)),
        };
        let collector = format!("{}{}", self.collector, self.path);
        match (&why, worked) {
            (Some(why), true) => tracing::warn!(collector, "traces are lost: {why}"),
            (None, false) => tracing::info!(collector, "traces arrive again"),
            _ => {}
        }
        let dropped = self.traces.dropped();
        if dropped > 0 {
            tracing::warn!(requests = dropped, "traces were dropped: more came than could be sent");
        }
        why.is_none()
    }

    /// Tries until it makes no sense: what the collector refuses it will refuse again.
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
    /// Sends what is left, and ends.
    pub(crate) async fn finish(self) {
        let _ = self.stop.send(());
        // What has not arrived by then is lost.
        let _ = tokio::time::timeout(FAREWELL, self.task).await;
    }
}

fn wrong(variable: &str, why: &str) -> Failure {
    Failure::new(format!("cannot use {variable}: {why}"))
}

fn address(endpoint: &str, certificate: Option<&str>) -> Result<(Address, String), Failure> {
    const VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let uri: Uri = endpoint.parse().map_err(|_| wrong(VARIABLE, "it is no URL"))?;
    let (Some(host), Some(scheme)) = (uri.host(), uri.scheme_str()) else {
        return Err(wrong(VARIABLE, "it is a URL, such as http://127.0.0.1:4318"));
    };
    let port = |usual| format!("{host}:{}", uri.port_u16().unwrap_or(usual));
    let collector = match (scheme, certificate) {
        ("http", _) => Address::Http(port(80)),
        ("https", Some(file)) => Address::Https(port(443), trusting(Path::new(file))?),
        ("https", None) => {
            let hint = "name the certificate to trust in OTEL_EXPORTER_OTLP_CERTIFICATE";
            return Err(wrong(VARIABLE, "no certificate is trusted by itself").hint(hint));
        }
        _ => return Err(wrong(VARIABLE, "traces go over http or https")),
    };
    Ok((collector, uri.path_and_query().map_or("/", |path| path.as_str()).to_owned()))
}

fn sampling(told: &impl Fn(&str) -> Option<String>) -> Result<Sampling, Failure> {
    const VARIABLE: &str = "OTEL_TRACES_SAMPLER_ARG";
    let ratio =
        told(VARIABLE).map(|text| text.trim().parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)));
    let ratio = match ratio {
        Some(None) => return Err(wrong(VARIABLE, "it is a share from 0 to 1")),
        Some(ratio) => ratio,
        None => None,
    };
    let Some(sampler) = told("OTEL_TRACES_SAMPLER") else {
        return Ok(Sampling { ratio: ratio.unwrap_or(USUAL.ratio), ..USUAL });
    };
    let (parent_based, kind) =
        sampler.strip_prefix("parentbased_").map_or((false, &*sampler), |kind| (true, kind));
    let ratio = match kind {
        "always_on" => 1.0,
        "always_off" => 0.0,
        "traceidratio" => ratio.unwrap_or(1.0),
        _ => {
            let known = "always_on, always_off and traceidratio are known, alone or behind parentbased_";
            return Err(wrong("OTEL_TRACES_SAMPLER", known));
        }
    };
    Ok(Sampling { parent_based, ratio })
}

/// Whose spans they are.
fn own(service: &str, told: &impl Fn(&str) -> Option<String>) -> Vec<u8> {
    let mut attributes = told("OTEL_RESOURCE_ATTRIBUTES").map(|text| pairs(&text)).unwrap_or_default();
    let named = told("OTEL_SERVICE_NAME");
    if named.is_some() || attributes.iter().all(|(name, _)| name != "service.name") {
        attributes.retain(|(name, _)| name != "service.name");
        attributes.push(("service.name".to_owned(), named.unwrap_or_else(|| service.to_owned())));
    }
    attributes.push(("service.version".to_owned(), VERSION.to_owned()));
    let attributes: Vec<_> = attributes.iter().map(|(name, value)| (&**name, &**value)).collect();
    resource(&attributes)
}

/// `NAME=VALUE,NAME=VALUE`, values with `%20` and the like.
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
    fn the_environment_says_where_traces_go_and_whose_they_are() {
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
            let told = move |name: &str| match name {
                "OTEL_TRACES_SAMPLER" => Some(sampler.to_owned()),
                _ => Some(argument.to_owned()),
            };
            sampling(&told).ok().map(|sampling| (sampling.parent_based, sampling.ratio))
        };
        assert_eq!(asked("parentbased_traceidratio", "0.25"), Some((true, 0.25)));
        assert_eq!(asked("always_on", "0.25"), Some((false, 1.0)));
        assert_eq!(asked("parentbased_always_off", "0.25"), Some((true, 0.0)));
        assert_eq!((asked("jaeger_remote", "1"), asked("traceidratio", "2")), (None, None));
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        assert_eq!(
            refused(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318")]),
            "cannot use OTEL_EXPORTER_OTLP_ENDPOINT: it is no URL"
        );
        assert!(
            refused(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c")]).contains("no certificate is trusted")
        );
        assert!(refused(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s")]).contains("milliseconds"));
    }
}
