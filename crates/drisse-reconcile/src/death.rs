//! Explains why a replica died, with the help of its log.

use drisse_core::Death;
use drisse_wire::control::Failure;

/// The number of log lines that a failure contains.
const SHOWN_LINES: usize = 8;

/// Explains a death. If the scoring server printed an error before it ended, the failure has the causes and the hint of
/// that error. Otherwise, the last lines of the log are the causes.
///
/// ```
/// # use drisse_core::Death;
/// let log = ["error: cannot load x.onnx", "hint: convert it"].map(str::to_owned).to_vec();
/// let (at, reason) = (std::time::SystemTime::now(), "exited with code 1".to_owned());
/// let death = Death { at, reason, failed: true, before_ready: true, permanent: true, log };
/// let failure = drisse_reconcile::explain(&death);
/// assert_eq!(failure.message, "its scoring server exited with code 1");
/// assert_eq!(failure.causes, ["cannot load x.onnx"]);
/// assert_eq!(failure.hint.as_deref(), Some("convert it"));
/// ```
pub fn explain(death: &Death) -> Failure {
    let mut failure = Failure::new(format!("its scoring server {}", death.reason));
    match death.log.iter().position(|line| line.starts_with("error: ")) {
        // `drisse serve` printed the error, its causes, and a hint.
        Some(first) => {
            let printed = &death.log[first..];
            failure.causes.extend(printed[0].strip_prefix("error: ").map(str::to_owned));
            let causes = printed.iter().filter_map(|line| line.trim_start().strip_prefix("Caused by: "));
            failure.causes.extend(causes.map(str::to_owned));
            failure.hint = printed.iter().find_map(|line| line.strip_prefix("hint: ").map(str::to_owned));
        }
        None => {
            let last = &death.log[death.log.len().saturating_sub(SHOWN_LINES)..];
            failure.causes.extend(last.iter().map(|line| format!("its log: {}", readable(line))));
        }
    }
    failure
}

/// Formats a JSON line of a scoring server's log for people. Other lines are returned unchanged.
fn readable(line: &str) -> String {
    let Ok(serde_json::Value::Object(mut fields)) = serde_json::from_str(line) else {
        return line.to_owned();
    };
    let mut take = |key: &str| fields.remove(key).and_then(|value| value.as_str().map(str::to_owned));
    let (Some(level), Some(message)) = (take("level"), take("message")) else { return line.to_owned() };
    let rest = fields.iter().filter(|(key, _)| !matches!(&***key, "timestamp" | "target"));
    let rest: String = rest.map(|(key, value)| format!(" {key}={value}")).collect();
    format!("{level} {message}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn death(log: &[&str]) -> Death {
        Death {
            at: std::time::SystemTime::UNIX_EPOCH,
            reason: "exited with code 1".to_owned(),
            failed: true,
            before_ready: true,
            permanent: true,
            log: log.iter().map(|line| (*line).to_owned()).collect(),
        }
    }

    #[test]
    fn a_printed_error_gives_the_causes_and_the_hint() {
        let failure = explain(&death(&[
            "noise",
            "error: cannot load x",
            "  Caused by: no operator",
            "hint: convert it",
        ]));
        assert_eq!(failure.message, "its scoring server exited with code 1");
        assert_eq!(failure.causes, ["cannot load x", "no operator"]);
        assert_eq!(failure.hint.as_deref(), Some("convert it"));
    }

    #[test]
    fn without_a_printed_error_the_end_of_the_log_is_shown_for_people() {
        let line = r#"{"timestamp":"t","level":"WARN","message":"low","target":"a","left":3}"#;
        let failure = explain(&death(&["one", line]));
        assert_eq!(failure.causes, ["its log: one", "its log: WARN low left=3"]);
    }
}
