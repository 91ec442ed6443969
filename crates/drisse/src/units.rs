//! Parses and formats times and sizes: `500ms`, `100MiB`.

use drisse_core::MaxWait;
use std::time::Duration;

const TIMES: [(&str, f64); 5] = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("us", 1e-6)];
const SIZES: [(&str, f64); 11] = [
    ("", 1.0),
    ("B", 1.0),
    ("kB", 1e3),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("TB", 1e12),
    ("KiB", 1024.0),
    ("MiB", 1048576.0),
    ("GiB", 1073741824.0),
    ("TiB", 1099511627776.0),
];

/// Parses a time such as `500ms`, `1.5s` or `2m`. Zero is an error.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let seconds = scaled(text, &TIMES).ok_or("expected a number and a unit, such as 500ms, 2s or 5m")?;
    Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero()).ok_or("out of range".to_owned())
}

/// Parses a time of at least a second.
pub(crate) fn idle_time(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time >= Duration::from_secs(1) { Ok(time) } else { Err("expected at least 1s".to_owned()) }
}

/// Parses a time, or `auto`.
pub(crate) fn max_wait(text: &str) -> Result<MaxWait, String> {
    match text {
        "auto" => Ok(MaxWait::Auto),
        time => duration(time).map(MaxWait::Fixed).map_err(|why| format!("{why}, or `auto`")),
    }
}

/// Parses a size such as `512MiB` into bytes. Zero is an error.
pub(crate) fn bytes(text: &str) -> Result<usize, String> {
    let size = scaled(text, &SIZES).ok_or("expected a number and a unit, such as 512MiB or 2GB")?;
    if (1.0..1e15).contains(&size) { Ok(size as usize) } else { Err("out of range".to_owned()) }
}

fn scaled(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..split].parse().ok()?;
    let (_, scale) = units.iter().find(|(unit, _)| *unit == text[split..].trim())?;
    Some(number * scale)
}

/// Formats a size in bytes for a table: `1.5 KiB`.
pub(crate) fn shown(bytes: u64) -> String {
    let mut size = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{size:.1} {unit}") };
        }
        size /= 1024.0;
    }
    format!("{size:.1} TiB")
}

/// Formats an elapsed time: `0.12 s`.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_need_a_unit_that_exists() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert!(duration("5").is_err() && duration("5 parsecs").is_err() && duration("0s").is_err());
        assert_eq!(bytes("512MiB"), Ok(512 << 20));
        assert!(bytes("0").is_err() && bytes("-1MiB").is_err() && bytes("1PiB").is_err());
        assert_eq!(shown(1536), "1.5 KiB");
    }
}
