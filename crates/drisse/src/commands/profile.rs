//! `drisse profile`: measures how a model runs best on this machine.

mod chart;
mod html;

use super::named::Named;
use crate::cli::{Output, Profile as Arguments};
use crate::connect::WorkspaceRef;
use crate::error::{CliError, Result};
use crate::units::shown;
use crate::wiring::EngineSettings;
use crate::{printer, wiring};
use anyhow::Context;
use drisse_scoring::{Point, Profile, Profiling, profile};
use drisse_serve::{ServeError, sample};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

/// Factor on the measured memory: a quarter more, for requests and answers.
const HEADROOM: f64 = 1.25;

/// Recommended memory is rounded up to a multiple of this, in bytes.
const STEP: u64 = 64 << 20;

/// The measurements of a model, and the goal for its latency.
struct Report<'a> {
    model: &'a str,
    cores: usize,
    time: Duration,
    goal: Option<Duration>,
    profile: Profile,
}

pub(crate) async fn run(workspace: &WorkspaceRef, arguments: &Arguments, output: Output) -> Result<ExitCode> {
    let path = &*arguments.model;
    let failed = || format!("cannot profile {path}");
    let source = Named::find(workspace, path).await?.source().with_context(failed)?;
    let inputs = sample(&source, arguments.sample.as_deref())?.inputs.ok_or_else(|| {
        let hint = "give a sample request (a /score body) with --sample FILE";
        CliError::new(format!("cannot profile {path}: cannot generate inputs for this model")).hint(hint)
    })?;
    let tuner = wiring::tuner(None, None);
    let settings = EngineSettings { threads: tuner.cores, onnxruntime: arguments.onnxruntime.clone() };
    let engine = wiring::engines(&settings).start(&source.engine).map_err(ServeError::from)?;
    let package = source.inspection.package();
    printer::note(&format!("{path}: {} cores, {:?} for each setting", tuner.cores, arguments.time));
    let mut print = |point: &Point| printer::note(&line(point));
    let what =
        Profiling { engine: &*engine, model: &package, sample: &inputs, tuner: &tuner, time: arguments.time };
    let profile = profile(what, &mut print).with_context(failed)?;
    let report =
        Report { model: path, cores: tuner.cores, time: arguments.time, goal: arguments.latency, profile };
    if let Some(file) = &arguments.html {
        let written = std::fs::write(file, html::page(&report));
        written.with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(point) = report.recommended().filter(|_| arguments.keep) {
        tuner.keep(&source.likeness(), point.tuning);
    }
    printer::result(output, || document(&report), || text(&report));
    match report.recommended() {
        Some(_) => Ok(ExitCode::SUCCESS),
        None => {
            let goal = arguments.latency.unwrap_or_default();
            let hint = "give a longer --latency, or use a faster machine";
            Err(CliError::new(format!("no setting runs {path} here within {goal:?}")).hint(hint))
        }
    }
}

impl Report<'_> {
    fn recommended(&self) -> Option<&Point> {
        self.profile.recommended(self.goal)
    }
}

/// The resources that a server needs for one setting: cores, bytes of memory, and concurrent requests.
struct Needs {
    cpu: usize,
    memory: u64,
    concurrency: usize,
}

impl Needs {
    fn of(point: &Point, report: &Report<'_>) -> Self {
        let memory = (point.memory as f64 * HEADROOM) as u64;
        Self {
            cpu: (point.tuning.threads * point.tuning.workers).min(report.cores),
            memory: memory.div_ceil(STEP) * STEP,
            concurrency: point.tuning.workers * point.batch,
        }
    }
}

fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.3}") } else { format!("{ms:.1}") }
}

fn line(point: &Point) -> String {
    let (threads, workers) = (point.tuning.threads, point.tuning.workers);
    let (rate, p99) = (point.rate(), ms(point.trial.p99));
    format!("  threads {threads}, workers {workers}, batch {}: {rate:.0} rows/s, p99 {p99} ms", point.batch)
}

const HEADING: [&str; 8] =
    ["threads", "workers", "batch", "p50 ms", "p99 ms", "rows/s", "CPU ms/row", "memory"];

fn cells(point: &Point) -> Vec<String> {
    let Point { tuning, batch, trial, memory } = point;
    vec![
        tuning.threads.to_string(),
        tuning.workers.to_string(),
        batch.to_string(),
        ms(trial.p50),
        ms(trial.p99),
        format!("{:.0}", point.rate()),
        ms(trial.cpu / u32::try_from(*batch).unwrap_or(u32::MAX)),
        shown(*memory),
    ]
}

fn text(report: &Report<'_>) -> String {
    let mut out = printer::table(&HEADING, report.profile.points.iter().map(cells));
    if let Some(why) = report.profile.no_batches {
        out += &format!("\nrequests are not batched: {why}\n");
    }
    out += &format!("\n{}", chart::draw(&report.profile.points, report.recommended()));
    if let Some(point) = report.recommended() {
        out += &format!("\n{}\n", advice(point, report));
    }
    out
}

/// Formats the recommendation: two sentences and a command.
fn advice(point: &Point, report: &Report<'_>) -> String {
    let goal = match report.goal {
        Some(goal) => format!("within {} ms", ms(goal)),
        None => "within twice the latency of the fastest, or 1 ms".to_owned(),
    };
    let Needs { cpu, memory, concurrency } = Needs::of(point, report);
    let (threads, workers, batch) = (point.tuning.threads, point.tuning.workers, point.batch);
    format!(
        "recommended {goal}: threads {threads}, workers {workers}, batch {batch}: {:.0} rows/s, p99 {} ms\n\
         resources: cpu {cpu}, memory {}, {concurrency} concurrent requests\n\n  \
         drisse deploy {} --threads {threads} --workers {workers} --max-batch {batch}",
        point.rate(),
        ms(point.trial.p99),
        shown(memory),
        printer::quoted(report.model),
    )
}

fn document(report: &Report<'_>) -> Value {
    let seconds = |time: Duration| time.as_secs_f64();
    let point = |point: &Point| {
        json!({
            "threads": point.tuning.threads,
            "workers": point.tuning.workers,
            "batch": point.batch,
            "p50_seconds": seconds(point.trial.p50),
            "p99_seconds": seconds(point.trial.p99),
            "rows_per_second": point.rate(),
            "cpu_seconds_per_row": seconds(point.trial.cpu) / point.batch as f64,
            "memory_bytes": point.memory,
        })
    };
    let recommended = report.recommended().map(|best| {
        let Needs { cpu, memory, concurrency } = Needs::of(best, report);
        let mut document = point(best);
        document["cpu"] = json!(cpu);
        document["memory"] = json!(memory);
        document["concurrency"] = json!(concurrency);
        document
    });
    json!({
        "model": report.model,
        "cores": report.cores,
        "latency_goal_seconds": report.goal.map(seconds),
        "points": report.profile.points.iter().map(point).collect::<Vec<_>>(),
        "no_batches": report.profile.no_batches,
        "recommended": recommended,
    })
}
