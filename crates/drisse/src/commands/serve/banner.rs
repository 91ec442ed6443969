//! What a server prints when it is ready: its endpoints, its models and a curl line to paste.

use crate::cli::{Output, Serve};
use crate::commands::curl::{Curl, shown};
use crate::printer;
use drisse_registry::signature_document;
use drisse_serve::{Endpoints, SampleOrigin, ServedModel};
use serde_json::{Value, json};
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// The largest number of models that are described.
const MAX_SHOWN: usize = 8;

pub(super) fn print(arguments: &Serve, endpoints: &Endpoints, models: &[ServedModel], output: Output) {
    match output {
        Output::Json => printer::result(output, || document(arguments, endpoints, models), String::new),
        Output::Text => printer::note(text(arguments, endpoints, models).trim_end()),
    }
}

fn document(arguments: &Serve, endpoints: &Endpoints, models: &[ServedModel]) -> Value {
    let url = url(arguments, endpoints);
    let model = |model: &ServedModel| {
        let mut document = signature_document(&model.signature);
        document["name"] = json!(model.name.as_str());
        document["version"] = json!(model.version);
        document["digest"] = json!(model.digest);
        document["notes"] = json!(model.notes);
        document["scoring_uri"] = json!(format!("{url}{}", path(model, models)));
        document
    };
    json!({
        "pid": std::process::id(),
        "url": url,
        "unix": endpoints.unix,
        "admin": endpoints.admin,
        "swagger_uri": format!("{url}/swagger.json"),
        "keys": arguments.keys.is_some(),
        "models": models.iter().map(model).collect::<Vec<_>>(),
    })
}

fn text(arguments: &Serve, endpoints: &Endpoints, models: &[ServedModel]) -> String {
    let url = url(arguments, endpoints);
    let mut out = String::new();
    // Writing to a string cannot fail.
    for model in models.iter().take(MAX_SHOWN) {
        let _ = writeln!(out, "\n{} {}", model.name, model.version);
        for port in model.signature.inputs.iter().take(MAX_SHOWN) {
            let _ = writeln!(out, "  input   {}", printer::plain(&format!("{} {}", port.name, port.kind)));
        }
        for port in model.signature.outputs.iter().take(MAX_SHOWN) {
            let _ = writeln!(out, "  output  {}", printer::plain(&format!("{} {}", port.name, port.kind)));
        }
    }
    for model in models.iter().filter(|model| !model.notes.is_empty()) {
        let _ = writeln!(out, "\nnotes on {}", model.name);
        for note in &model.notes {
            let _ = writeln!(out, "  {}", printer::plain(note));
        }
    }
    if models.len() > MAX_SHOWN {
        let _ = writeln!(out, "\nand {} more models", models.len() - MAX_SHOWN);
    }
    let _ = writeln!(out);
    if let Some(first) = models.first().map(|first| highest(first, models)) {
        let several = if has_one_name(models) { "" } else { ", and one path per model" };
        let path = path(first, models);
        match (&endpoints.tcp, &endpoints.unix) {
            (None, Some(unix)) => {
                let _ = writeln!(out, "ready at unix:{}, path {path}{several}", unix.display());
            }
            (_, unix) => {
                let _ = writeln!(out, "ready at {url}{path}{several}");
                if let Some(unix) = unix {
                    let _ = writeln!(out, "     and unix:{}", unix.display());
                }
            }
        }
        if let Some(admin) = &endpoints.admin {
            let _ = writeln!(out, "   admin {admin}");
        }
        let _ = writeln!(out, "try it:\n\n  {}\n", curl(arguments, endpoints, first, models));
    }
    out
}

fn url(arguments: &Serve, endpoints: &Endpoints) -> String {
    let scheme = if arguments.tls_cert.is_some() { "https" } else { "http" };
    match endpoints.tcp {
        // Clients cannot connect to the unspecified address: show loopback instead.
        Some(address) if address.ip().is_unspecified() => {
            let host =
                if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            format!("{scheme}://{}", SocketAddr::new(host, address.port()))
        }
        Some(address) => format!("{scheme}://{address}"),
        None => "http://localhost".to_owned(),
    }
}

/// Returns the path on which this version of a model is scored.
fn path(model: &ServedModel, models: &[ServedModel]) -> String {
    match (highest(model, models).version == model.version, has_one_name(models)) {
        (true, true) => "/score".to_owned(),
        (true, false) => format!("/score/{}", model.name),
        (false, _) => format!("/v2/models/{}/versions/{}/infer", model.name, model.version),
    }
}

/// Returns the version of a model that answers requests that name none.
fn highest<'a>(model: &'a ServedModel, models: &'a [ServedModel]) -> &'a ServedModel {
    let versions = models.iter().filter(|other| other.name == model.name);
    versions.max_by_key(|version| version.version.parse::<u64>().ok()).unwrap_or(model)
}

fn has_one_name(models: &[ServedModel]) -> bool {
    models.iter().all(|model| model.name == models[0].name)
}

/// Returns a curl line to paste into a shell.
fn curl(arguments: &Serve, endpoints: &Endpoints, model: &ServedModel, models: &[ServedModel]) -> String {
    let header = |keys: &PathBuf| {
        if starts_with_digest(keys) {
            return r#"printf 'Authorization: Bearer %s' "$KEY""#.to_owned();
        }
        format!("sed -n '/^[^#]/{{s/^/Authorization: Bearer /p;q}}' {}", shown(keys))
    };
    let url = url(arguments, endpoints);
    let uri = format!("{url}{}", path(model, models));
    let (file, sample) = match &model.sample {
        SampleOrigin::File(file) => (Some(file.as_path()), None),
        SampleOrigin::Generated(sample) => (None, Some(sample.as_bytes())),
        SampleOrigin::None => (None, None),
    };
    let curl = Curl {
        header: arguments.keys.as_ref().map(header),
        socket: endpoints.unix.as_deref().filter(|_| endpoints.tcp.is_none()),
        certificate: arguments.tls_cert.as_deref().filter(|_| endpoints.tcp.is_some()),
        sample_uri: uri.replacen("/score", "/sample", 1),
        uri,
        file,
        sample,
        description_uri: format!("{url}/v2/models/{}", model.name),
    };
    curl.line()
}

/// Whether the first key in the file is only a digest, so that the user has to supply the key.
fn starts_with_digest(keys: &Path) -> bool {
    let text = std::fs::read_to_string(keys).unwrap_or_default();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.next().is_some_and(|line| line.starts_with("sha256:"))
}
