//! All that is printed: results on stdout, everything else on stderr.

use crate::cli::Output;
use crate::failure::Failure;
use serde_json::{Value, json};
use std::io::Write;
use std::process::ExitCode;

/// A result: a document for machines, text for people.
pub(crate) fn result(output: Output, document: impl FnOnce() -> Value, text: impl FnOnce() -> String) {
    let text = match output {
        Output::Json => format!("{:#}\n", document()),
        Output::Text => text(),
    };
    // A closed pipe (`| head`) is the reader's choice, not an error.
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Text on stdout, as it is.
pub(crate) fn text(text: &str) {
    result(Output::Text, || Value::Null, || text.to_owned());
}

/// Rows in aligned columns, under a heading.
pub(crate) fn table(heading: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(heading.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|cell| plain(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}

/// A line for people, on stderr.
pub(crate) fn note(text: &str) {
    error_text(&format!("{text}\n"));
}

/// Text on stderr. Where that cannot be written, as a log on a full disk, nobody is left to be told.
fn error_text(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Text of a model's author or a client, made harmless for a terminal: control characters are spelled out.
pub(crate) fn plain(text: &str) -> String {
    let spelled = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(spelled).collect()
}

/// A path or an argument as the shell needs it.
pub(crate) fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if path.chars().all(plain) { path.to_owned() } else { format!("'{}'", path.replace('\'', "'\\''")) }
}

/// What clap has to say: help on stdout, a mistake on stderr.
pub(crate) fn usage(error: &clap::Error) {
    // A closed pipe is the reader's choice.
    let _ = error.print();
}

/// A failure, once, with its causes and what to do next; the code to exit with.
pub(crate) fn failure(failure: &Failure, output: Output) -> ExitCode {
    let causes: Vec<String> = failure.error.chain().skip(1).map(ToString::to_string).collect();
    if output == Output::Json {
        let error = json!({ "message": failure.error.to_string(), "causes": causes, "hint": failure.hint });
        result(output, || json!({ "error": error }), String::new);
    } else {
        let causes = causes.iter().map(|cause| format!("  Caused by: {}\n", plain(cause)));
        let hint = failure.hint.iter().map(|hint| format!("\nhint: {hint}\n"));
        let error = format!("error: {}\n", plain(&failure.error.to_string()));
        error_text(&[error].into_iter().chain(causes).chain(hint).collect::<String>());
    }
    ExitCode::from(failure.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_names_cannot_drive_the_terminal() {
        assert_eq!(plain("x\u{1b}[2J\nready é"), "x\\u{1b}[2J\\nready é");
    }
}
