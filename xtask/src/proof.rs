//! The rows of docs/proof.md: promises with their measured figures and limits, collected from tests and tools.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;

/// One row of docs/proof.md.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// The heading of the chapter.
    pub(crate) part: String,
    /// The promise, as a sentence.
    pub(crate) claim: String,
    pub(crate) figure: String,
    pub(crate) limit: String,
    pub(crate) held: bool,
    /// The tested commit; empty until [`keep`] sets it.
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

    /// Makes a row of this chapter.
    pub(crate) fn new(part: &str, claim: &str, figure: String, limit: &str, held: bool) -> Self {
        let [part, claim, limit] = [part, claim, limit].map(str::to_owned);
        Self { part, claim, figure, limit, held, commit: String::new() }
    }

    /// Makes a row of the chapter about the supply chain.
    pub(crate) fn supply(claim: &str, figure: impl Into<String>, limit: &str, held: bool) -> Self {
        Self::new("7. Supply chain", claim, figure.into(), limit, held)
    }
}

/// The file to which tests append their rows.
pub(crate) fn file() -> PathBuf {
    crate::cache_folder().join("proof.jsonl")
}

/// Reads the rows that tests have written.
pub(crate) fn written() -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(file()).unwrap_or_default();
    let row = |line: &str| -> Result<Row> {
        let row =
            serde_json::from_str(line).with_context(|| format!("cannot parse this proof row: {line}"))?;
        Ok(Row::read(&row))
    };
    text.lines().map(row).collect()
}

/// Stores the rows of one part until that part runs again, because a run of all parts takes hours.
pub(crate) fn keep(name: &str, rows: &[Row], commit: &str) -> Result<()> {
    let rows: Vec<_> = rows.iter().map(|row| Row { commit: commit.to_owned(), ..row.clone() }).collect();
    let documents: Vec<_> = rows.iter().map(Row::document).collect();
    let file = kept_in(name);
    std::fs::create_dir_all(file.parent().context("a file has a folder")?)?;
    std::fs::write(file, json!(documents).to_string())?;
    Ok(())
}

/// Returns the rows of the part's last run; empty if it never ran.
pub(crate) fn kept(name: &str) -> Vec<Row> {
    let text = std::fs::read_to_string(kept_in(name)).unwrap_or_default();
    let documents: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
    documents.iter().map(Row::read).collect()
}

fn kept_in(name: &str) -> PathBuf {
    crate::cache_folder().join("proof").join(format!("{name}.json"))
}

/// Formats rows as Markdown tables, one per chapter.
pub(crate) fn tables(rows: &[Row]) -> String {
    let mut rows: Vec<_> = rows.iter().collect();
    rows.sort_by_key(|row| (&row.part, &row.claim));
    let mut text = String::new();
    for chapter in rows.chunk_by(|one, other| one.part == other.part) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "## {}\n", chapter[0].part);
        text += "| claim | measured | limit | holds | commit |\n| --- | --- | --- | --- | --- |\n";
        for Row { claim, figure, limit, held, commit, .. } in chapter {
            let held = if *held { "yes" } else { "**no**" };
            let _ = writeln!(text, "| {claim} | {figure} | {limit} | {held} | {commit} |");
        }
        text.push('\n');
    }
    text
}
