//! Configures the exporter by OpenTelemetry's environment variables.
//!
//! Source: <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>.

use super::export::{Exporter, VERSION};
use super::{Sampling, Traces, otlp};
use crate::http::Address;
use crate::tls;
use hyper::Uri;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long spans are collected before they are sent, in milliseconds: OpenTelemetry's default.
const DELAY: u64 = 5_000;

/// How long an export may take, in milliseconds: OpenTelemetry's default.
const TIMEOUT: u64 = 10_000;

/// The default sampling: the client decides; if it does not, 1 % of the requests is traced.
const USUAL: Sampling = Sampling { parent_based: true, ratio: 0.01 };

/// An environment variable whose value cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {variable}: {why}")]
pub struct VariableError {
    variable: &'static str,
    why: String,
    hint: Option<&'static str>,
}

impl VariableError {
    fn new(variable: &'static str, why: impl Into<String>) -> Self {
        Self { variable, why: why.into(), hint: None }
    }

    /// Returns what to do next.
    pub fn hint(&self) -> Option<&'static str> {
        self.hint
    }
}

impl Exporter {
    /// Configures an exporter from environment variables; `None` if they name no collector. `service` is the default
    /// service name of the spans. Reads the file of trusted certificates, if one is named.
    ///
    /// # Errors
    /// Returns the variable whose value cannot be used, and why.
    pub fn from_environment(service: &str) -> Result<Option<Self>, VariableError> {
        Self::configured(service, |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()))
    }

    fn configured(
        service: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, VariableError> {
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
            let (name, value) = header.ok_or_else(|| {
                VariableError::new("OTEL_EXPORTER_OTLP_HEADERS", "it must be NAME=VALUE,NAME=VALUE")
            })?;
            all.insert(name, value);
        }
        all.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let time = |name, usual| match variable(name).map(|text| text.trim().parse()) {
            None => Ok(Duration::from_millis(usual)),
            Some(Ok(ms)) => Ok(Duration::from_millis(ms)),
            Some(Err(_)) => Err(VariableError::new(name, "it must be a number of milliseconds")),
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
}

fn address(endpoint: &str, certificate: Option<&str>) -> Result<(Address, String), VariableError> {
    const VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let uri: Uri = endpoint.parse().map_err(|_| VariableError::new(VARIABLE, "it is not a URL"))?;
    let (Some(host), Some(scheme)) = (uri.host(), uri.scheme_str()) else {
        return Err(VariableError::new(VARIABLE, "it must be a URL, such as http://127.0.0.1:4318"));
    };
    let port = |usual| format!("{host}:{}", uri.port_u16().unwrap_or(usual));
    let collector = match (scheme, certificate) {
        ("http", _) => Address::Http(port(80)),
        ("https", Some(file)) => {
            let trusted = tls::trusting(Path::new(file));
            let trusted = trusted
                .map_err(|error| VariableError::new("OTEL_EXPORTER_OTLP_CERTIFICATE", error.to_string()))?;
            Address::Https(port(443), trusted)
        }
        ("https", None) => {
            let hint = Some("name the certificate to trust in OTEL_EXPORTER_OTLP_CERTIFICATE");
            let why = "https requires a certificate to trust".to_owned();
            return Err(VariableError { variable: VARIABLE, why, hint });
        }
        _ => return Err(VariableError::new(VARIABLE, "the scheme must be http or https")),
    };
    Ok((collector, uri.path_and_query().map_or("/", |path| path.as_str()).to_owned()))
}

fn sampling(variable: &impl Fn(&str) -> Option<String>) -> Result<Sampling, VariableError> {
    const VARIABLE: &str = "OTEL_TRACES_SAMPLER_ARG";
    let ratio = match variable(VARIABLE).map(|text| text.trim().parse()) {
        Some(Ok(ratio)) if (0.0..=1.0).contains(&ratio) => Some(ratio),
        Some(_) => return Err(VariableError::new(VARIABLE, "it must be a number from 0 to 1")),
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
            return Err(VariableError::new("OTEL_TRACES_SAMPLER", known));
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
    otlp::resource(&attributes)
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

    fn with(variables: &[(&str, &str)]) -> Result<Option<Exporter>, VariableError> {
        let variables: Vec<_> = variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Exporter::configured("digits", |name| {
            variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        })
    }

    fn refused(variables: &[(&str, &str)]) -> String {
        with(variables).err().map(|error| error.to_string()).unwrap_or_default()
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
