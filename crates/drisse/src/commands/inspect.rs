//! `drisse inspect`: shows what a model file contains.

use crate::cli::{Inspect, Output};
use crate::error::Result;
use crate::printer;
use crate::units::shown;
use anyhow::Context;
use drisse_core::Port;
use drisse_registry::{Inspection, ModelSource, signature_document};
use serde_json::{Value, json};
use std::process::ExitCode;

pub(crate) fn run(arguments: &Inspect, output: Output) -> Result<ExitCode> {
    let path = arguments.file.display();
    let source = ModelSource::open(&arguments.file).with_context(|| format!("cannot inspect {path}"))?;
    let digest = source.digest().with_context(|| format!("cannot inspect {path}"))?;
    printer::result(output, || document(&source, &digest), || text(&source, &digest));
    Ok(ExitCode::SUCCESS)
}

fn document(source: &ModelSource, digest: &str) -> Value {
    let found = &source.inspection;
    let external = found.external_data.iter();
    let external = external.map(|file| json!({ "location": file.location, "bytes": file.size }));
    let signature = signature_document(&found.signature);
    json!({
        "name": source.name,
        "version": source.configured.version,
        "notes": source.configured.notes,
        "path": found.path,
        "format": "onnx",
        "digest": digest,
        "bytes": found.size,
        "framework": found.framework,
        "producer": found.producer,
        "producer_version": found.producer_version,
        "ir_version": found.ir_version,
        "model_version": found.model_version,
        "domain": found.domain,
        "description": found.description,
        "graph": found.graph,
        "opsets": found.opsets,
        "inputs": signature["inputs"],
        "outputs": signature["outputs"],
        "operators": found.operators,
        "parameters": found.parameters,
        "data_dependent": found.traits.data_dependent,
        "external_data": external.collect::<Value>(),
        "metadata": found.metadata,
        "sample": source.sample,
    })
}

fn text(source: &ModelSource, digest: &str) -> String {
    let found = &source.inspection;
    let mut out = String::new();
    let mut line = |name: &str, value: &str| printer::line(&mut out, 12, name, &shortened(value));
    line("model", &format!("{} ({}, {})", source.name, found.path.display(), shown(found.size)));
    line("digest", digest);
    let framework = found.framework.map(|framework| format!(", from {framework}")).unwrap_or_default();
    line("made by", &format!("{} {}{framework}", found.producer, found.producer_version));
    line("description", found.description.lines().next().unwrap_or_default());
    let opsets: Vec<_> = found.opsets.iter().map(|(domain, version)| format!("{domain} {version}")).collect();
    line("opsets", &format!("{} (IR version {})", opsets.join(", "), found.ir_version));
    line("parameters", &found.parameters.to_string());
    ports("input", &found.signature.inputs, &mut line);
    ports("output", &found.signature.outputs, &mut line);
    line("operators", &operators(found));
    for file in &found.external_data {
        line("external", &format!("{} ({})", file.location, shown(file.size)));
    }
    for (key, value) in &found.metadata {
        let first = value.lines().next().unwrap_or_default();
        line("metadata", &format!("{key} = {}", &first[..first.floor_char_boundary(120)]));
    }
    for note in &source.configured.notes {
        line("note", note);
    }
    line("sample", &source.sample.as_ref().map(|path| path.display().to_string()).unwrap_or_default());
    out
}

/// Shortens a value to one line of a table: names can be megabytes long.
fn shortened(value: &str) -> std::borrow::Cow<'_, str> {
    const LONGEST: usize = 400;
    let end = value.floor_char_boundary(LONGEST);
    if end == value.len() { value.into() } else { format!("{}…", &value[..end]).into() }
}

fn ports(what: &str, ports: &[Port], line: &mut impl FnMut(&str, &str)) {
    for port in ports {
        let optional = if port.optional { " (optional)" } else { "" };
        line(what, &format!("{} {}{optional}", port.name, port.kind));
    }
}

/// Lists the twelve most frequent operators with their counts.
fn operators(found: &Inspection) -> String {
    let mut operators: Vec<_> = found.operators.iter().collect();
    operators.sort_by_key(|&(name, count)| (std::cmp::Reverse(*count), name));
    let mut shown: Vec<_> =
        operators.iter().take(12).map(|(name, count)| format!("{name} ×{count}")).collect();
    if operators.len() > shown.len() {
        shown.push(format!("and {} more kinds", operators.len() - shown.len()));
    }
    shown.join(", ")
}
