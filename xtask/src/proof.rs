//! Proofs: what was promised beside what was measured, collected from the tests and tools that prove it,
//! and written as docs/proof.md.

use anyhow::{Context, Result};
use serde_json::Value;
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

/// Where tests write their rows.
pub(crate) fn file() -> PathBuf {
    crate::cache_folder().join("proof.jsonl")
}

/// The rows that tests have written.
pub(crate) fn written() -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(file()).unwrap_or_default();
    let row = |line: &str| {
        let row: Value = serde_json::from_str(line).with_context(|| format!("no row of a proof: {line}"))?;
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let (part, claim, figure, limit) = (text("part"), text("claim"), text("figure"), text("limit"));
        Ok(Row { part, claim, figure, limit, held: row["held"] == true })
    };
    text.lines().map(row).collect()
}

/// The chapters in their order, each with its rows.
fn chapters(rows: &[Row]) -> Vec<(&str, Vec<&Row>)> {
    let mut chapters: Vec<(&str, Vec<&Row>)> = Vec::new();
    for row in rows {
        match chapters.iter_mut().find(|(part, _)| *part == row.part) {
            Some((_, rows)) => rows.push(row),
            None => chapters.push((&row.part, vec![row])),
        }
    }
    chapters.sort_by_key(|(part, _)| *part);
    for (_, rows) in &mut chapters {
        rows.sort_by_key(|row| &row.claim);
    }
    chapters
}

/// Markdown tables, one per chapter.
pub(crate) fn tables(rows: &[Row]) -> String {
    let mut text = String::new();
    for (part, rows) in chapters(rows) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "## {part}\n\n| what holds | measured | limit | |\n| --- | --- | --- | --- |");
        for Row { claim, figure, limit, held, .. } in rows {
            let held = if *held { "yes" } else { "**no**" };
            let _ = writeln!(text, "| {claim} | {figure} | {limit} | {held} |");
        }
        text.push('\n');
    }
    text
}
