//! Prints results on stdout and everything else on stderr.

use crate::cli::Output;
use crate::error::CliError;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::io::Write;
use std::process::ExitCode;
use std::sync::OnceLock;

/// The first error of writing to stdout, after which output is missing.
static LOST: OnceLock<std::io::Error> = OnceLock::new();

/// Prints a result, as a JSON document or as text.
pub(crate) fn result(output: Output, document: impl FnOnce() -> Value, text: impl FnOnce() -> String) {
    let text = match output {
        Output::Json => format!("{:#}\n", document()),
        Output::Text => text(),
    };
    let mut stdout = std::io::stdout().lock();
    written(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()));
}

/// Remembers the error of writing to stdout.
fn written(result: std::io::Result<()>) {
    if let Err(error) = result {
        let _ = LOST.set(error);
    }
}

/// Whether some output could not be written, so that more of it has no reader.
pub(crate) fn is_lost() -> bool {
    LOST.get().is_some()
}

/// Returns the exit code of a command that succeeded: `code`, or 1 with an error on stderr if output is missing. A
/// closed pipe (`| head`) is the reader's choice, not an error.
pub(crate) fn succeeded(code: ExitCode) -> ExitCode {
    match LOST.get() {
        Some(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let error = CliError::new(format!("cannot write the output: {error}"));
            failure(&error.hint("the command did what it does; only its output is missing"), Output::Text)
        }
        _ => code,
    }
}

/// Prints text on stdout unchanged.
pub(crate) fn text(text: &str) {
    result(Output::Text, || Value::Null, || text.to_owned());
}

/// Formats rows in aligned columns under a heading.
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

/// Shows the progress of a command on stderr, in the form of this template.
pub(crate) fn bar(length: Option<u64>, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr()).with_style(style)
}

/// Appends a line with a named value, unless the value is blank.
pub(crate) fn line(out: &mut String, width: usize, name: &str, value: &str) {
    if !value.trim().is_empty() {
        *out += &format!("{name:<width$} {}\n", plain(value));
    }
}

/// Prints a line for people on stderr.
pub(crate) fn note(text: &str) {
    error_text(&format!("{text}\n"));
}

/// Prints text on stderr. Ignores errors (a log on a full disk): there is nowhere left to report them.
fn error_text(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Escapes control characters in text from a model or a client, so that the text cannot control the terminal.
pub(crate) fn plain(text: &str) -> String {
    let spelled = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(spelled).collect()
}

/// Quotes a path or an argument for a shell: sh, bash, zsh or fish, which reads `\\` also between single quotes.
pub(crate) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    let spelled = |c: char| match c {
        '\'' => r"'\''".to_owned(),
        '\\' => r#"'"\\"'"#.to_owned(),
        c => c.to_string(),
    };
    format!("'{}'", text.chars().map(spelled).collect::<String>())
}

/// Prints clap's output: help on stdout, a usage error on stderr.
pub(crate) fn usage(error: &clap::Error) {
    written(error.print());
}

/// Prints a failure with its causes and its hint, on stderr if stdout cannot be written. Returns the exit code.
pub(crate) fn failure(failure: &CliError, output: Output) -> ExitCode {
    if output == Output::Json {
        let causes: Vec<String> = failure.error.chain().skip(1).map(ToString::to_string).collect();
        let error = json!({ "message": failure.error.to_string(), "causes": causes, "hint": failure.hint });
        result(output, || json!({ "error": error }), String::new);
    }
    if output == Output::Text || is_lost() {
        error_text(&failure_text(failure));
    }
    ExitCode::from(failure.code)
}

/// Returns the text of a failure with its causes and its hint.
pub(crate) fn failure_text(failure: &CliError) -> String {
    let causes =
        failure.error.chain().skip(1).map(|cause| format!("  Caused by: {}\n", plain(&cause.to_string())));
    let hint = failure.hint.iter().map(|hint| format!("\nhint: {hint}\n"));
    let error = format!("error: {}\n", plain(&failure.error.to_string()));
    [error].into_iter().chain(causes).chain(hint).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_names_cannot_drive_the_terminal() {
        assert_eq!(plain("x\u{1b}[2J\nready é"), "x\\u{1b}[2J\\nready é");
    }
}
