//! Proofs: what was promised beside what was measured, collected from the tests and tools that prove it.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;

/// One line of docs/proof.md.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// The chapter.
    pub(crate) part: String,
    /// A sentence.
    pub(crate) claim: String,
    pub(crate) figure: String,
    pub(crate) limit: String,
    pub(crate) held: bool,
}

/// What was proved in one go.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// Of which sources, and when.
    pub(crate) commit: String,
    pub(crate) date: String,
    pub(crate) rows: Vec<Row>,
}

impl Row {
    fn read(row: &Value) -> Self {
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let (part, claim, figure, limit) = (text("part"), text("claim"), text("figure"), text("limit"));
        Self { part, claim, figure, limit, held: row["held"] == true }
    }

    fn document(&self) -> Value {
        let Self { part, claim, figure, limit, held } = self;
        json!({ "part": part, "claim": claim, "figure": figure, "limit": limit, "held": held })
    }

    /// A row of the chapter about what the program is built from.
    pub(crate) fn supply(claim: &str, figure: impl Into<String>, limit: &str, held: bool) -> Self {
        let [part, claim, limit] = ["7. Supply chain", claim, limit].map(str::to_owned);
        Self { part, claim, figure: figure.into(), limit, held }
    }
}

/// Where tests write their rows.
pub(crate) fn file() -> PathBuf {
    crate::cache_folder().join("proof.jsonl")
}

/// The rows that tests have written.
pub(crate) fn written() -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(file()).unwrap_or_default();
    let row = |line: &str| -> Result<Row> {
        let row = serde_json::from_str(line).with_context(|| format!("no row of a proof: {line}"))?;
        Ok(Row::read(&row))
    };
    text.lines().map(row).collect()
}

/// Keeps what was proved until it is proved again: all of it takes hours.
pub(crate) fn keep(what: &str, run: &Run) -> Result<()> {
    let rows: Vec<_> = run.rows.iter().map(Row::document).collect();
    let document = json!({ "commit": run.commit, "date": run.date, "rows": rows });
    let file = kept_in(what);
    std::fs::create_dir_all(file.parent().context("a file has a folder")?)?;
    std::fs::write(file, document.to_string())?;
    Ok(())
}

/// What was proved last, if it ever was.
pub(crate) fn kept(what: &str) -> Option<Run> {
    let text = std::fs::read_to_string(kept_in(what)).ok()?;
    let document: Value = serde_json::from_str(&text).ok()?;
    let text = |name: &str| document[name].as_str().unwrap_or_default().to_owned();
    let rows = document["rows"].as_array()?.iter().map(Row::read).collect();
    Some(Run { commit: text("commit"), date: text("date"), rows })
}

fn kept_in(what: &str) -> PathBuf {
    crate::cache_folder().join("proof").join(format!("{what}.json"))
}

/// Markdown tables, one per chapter; `of` says below its heading what a chapter is of.
pub(crate) fn tables(rows: &[Row], of: &str) -> String {
    let mut rows: Vec<_> = rows.iter().collect();
    rows.sort_by_key(|row| (&row.part, &row.claim));
    let mut text = String::new();
    for chapter in rows.chunk_by(|one, other| one.part == other.part) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "## {}\n{of}", chapter[0].part);
        text += "\n| what holds | measured | limit | |\n| --- | --- | --- | --- |\n";
        for Row { claim, figure, limit, held, .. } in chapter {
            let held = if *held { "yes" } else { "**no**" };
            let _ = writeln!(text, "| {claim} | {figure} | {limit} | {held} |");
        }
        text.push('\n');
    }
    text
}
