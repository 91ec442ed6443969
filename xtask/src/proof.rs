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
    /// Of which sources, once it is kept.
    pub(crate) commit: String,
}

impl Row {
    fn read(row: &Value) -> Self {
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let (part, claim, figure, limit) = (text("part"), text("claim"), text("figure"), text("limit"));
        Self { part, claim, figure, limit, held: row["held"] == true, commit: text("commit") }
    }

    fn document(&self) -> Value {
        let Self { part, claim, figure, limit, held, commit } = self;
        json!({ "part": part, "claim": claim, "figure": figure, "limit": limit, "held": held, "commit": commit })
    }

    /// A row of the chapter about what the program is built from.
    pub(crate) fn supply(claim: &str, figure: impl Into<String>, limit: &str, held: bool) -> Self {
        let [part, claim, limit] = ["7. Supply chain", claim, limit].map(str::to_owned);
        Self { part, claim, figure: figure.into(), limit, held, commit: String::new() }
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

/// Keeps what was proved of these sources until it is proved again: all of it takes hours.
pub(crate) fn keep(what: &str, rows: &[Row], commit: &str) -> Result<()> {
    let rows: Vec<_> = rows.iter().map(|row| Row { commit: commit.to_owned(), ..row.clone() }).collect();
    let documents: Vec<_> = rows.iter().map(Row::document).collect();
    let file = kept_in(what);
    std::fs::create_dir_all(file.parent().context("a file has a folder")?)?;
    std::fs::write(file, json!(documents).to_string())?;
    Ok(())
}

/// What was proved last, if it ever was.
pub(crate) fn kept(what: &str) -> Vec<Row> {
    let text = std::fs::read_to_string(kept_in(what)).unwrap_or_default();
    let documents: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
    documents.iter().map(Row::read).collect()
}

fn kept_in(what: &str) -> PathBuf {
    crate::cache_folder().join("proof").join(format!("{what}.json"))
}

/// Markdown tables, one per chapter.
pub(crate) fn tables(rows: &[Row]) -> String {
    let mut rows: Vec<_> = rows.iter().collect();
    rows.sort_by_key(|row| (&row.part, &row.claim));
    let mut text = String::new();
    for chapter in rows.chunk_by(|one, other| one.part == other.part) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "## {}\n", chapter[0].part);
        text += "| what holds | measured | limit | | commit |\n| --- | --- | --- | --- | --- |\n";
        for Row { claim, figure, limit, held, commit, .. } in chapter {
            let held = if *held { "yes" } else { "**no**" };
            let _ = writeln!(text, "| {claim} | {figure} | {limit} | {held} | {commit} |");
        }
        text.push('\n');
    }
    text
}
