//! `cargo xtask lines [REVISION]`: counts the lines of Rust per crate, without tests, comments and empty lines, now and
//! at a revision of git, so that growth is seen.

use crate::root;
use crate::source::Source;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::process::Command;

/// Crates that only tests use.
const TEST_CRATES: [&str; 1] = ["crates/drisse-testkit"];

/// Line counts by crate.
type Counts = BTreeMap<String, usize>;

pub(crate) fn run(revision: Option<&str>) -> Result<()> {
    let now =
        count(&files(&git(&["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"])?, |path| {
            // A file that is deleted but not yet committed has no lines.
            Ok(std::fs::read_to_string(root().join(path)).unwrap_or_default())
        })?);
    let Some(revision) = revision else {
        print!("{}", table(&now, None));
        return Ok(());
    };
    let listed = git(&["ls-tree", "-r", "--name-only", revision])?;
    let then = count(&files(&listed, |path| git(&["show", &format!("{revision}:{path}")]))?);
    print!("{}", table(&now, Some(&then)));
    Ok(())
}

/// Returns the path and text of each source that is listed, generated ones left out.
fn files(listed: &str, read: impl Fn(&str) -> Result<String>) -> Result<Vec<(String, String)>> {
    let sources = listed.lines().filter(|path| path.ends_with(".rs") && owner(path).is_some());
    let read = sources.map(|path| Ok((path.to_owned(), read(path)?)));
    let texts = read.collect::<Result<Vec<_>>>()?;
    Ok(texts.into_iter().filter(|(_, text)| !text.starts_with("// This file is @generated")).collect())
}

/// Returns the crate that a source belongs to: the folder above `src`. `None` for tests and fuzz targets.
fn owner(path: &str) -> Option<&str> {
    let (owner, _) = path.split_once("/src/")?;
    (!TEST_CRATES.contains(&owner)).then_some(owner)
}

fn count(files: &[(String, String)]) -> Counts {
    let tests: Vec<String> = files.iter().flat_map(|(path, text)| test_files(path, text)).collect();
    let mut counts = Counts::new();
    for (path, text) in files {
        let is_test = tests
            .iter()
            .any(|test| path.strip_prefix(test).is_some_and(|rest| rest == ".rs" || rest.starts_with('/')));
        if !is_test && let Some(owner) = owner(path) {
            *counts.entry(owner.to_owned()).or_default() += Source::new(text).lines();
        }
    }
    counts
}

/// Returns the paths, without `.rs`, of the modules that this file declares for tests only.
fn test_files(path: &str, text: &str) -> Vec<String> {
    let stem = path.trim_end_matches(".rs");
    let folder = match stem.rsplit_once('/') {
        Some((folder, "lib" | "main")) => folder,
        _ => stem,
    };
    Source::new(text).test_files().into_iter().map(|name| format!("{folder}/{name}")).collect()
}

fn table(now: &Counts, then: Option<&Counts>) -> String {
    let names: std::collections::BTreeSet<_> =
        now.keys().chain(then.into_iter().flat_map(Counts::keys)).collect();
    let of = |counts: &Counts, name: &str| counts.get(name).copied().unwrap_or(0);
    let row = |name: &str, now: usize, then: Option<usize>| match then {
        None => format!("{name:28} {now:7}\n"),
        Some(then) => {
            let (from, to) = (then as f64, now as f64);
            let percent =
                if then == 0 { String::new() } else { format!("{:+.1} %", (to / from - 1.0) * 100.0) };
            format!("{name:28} {now:7} {then:7} {:+7} {percent:>9}\n", to - from)
        }
    };
    let mut text: String =
        names.iter().map(|name| row(name, of(now, name), then.map(|then| of(then, name)))).collect();
    text += &row("all", now.values().sum(), then.map(|then| then.values().sum()));
    text
}

fn git(arguments: &[&str]) -> Result<String> {
    let output = Command::new("git").args(arguments).current_dir(root()).output().context("git is needed")?;
    ensure!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).context("git printed something that is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_tests_and_comments_do_not_count() {
        let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
        let counts = count(&[
            file("crates/a/src/lib.rs", "//! A.\n\n#[cfg(test)]\nmod tests;\nfn f() {}\n"),
            file("crates/a/src/tests.rs", "fn t() {}\n"),
            file("crates/a/src/tests/deep.rs", "fn t() {}\n"),
            file("crates/b/src/x.rs", "fn f() {}\n// why\nfn g() {}\n"),
        ]);
        // Of `a`: the attribute, the declaration and the function.
        assert_eq!(
            counts.into_iter().collect::<Vec<_>>(),
            [("crates/a".to_owned(), 3), ("crates/b".to_owned(), 2)]
        );
        assert_eq!(owner("crates/a/tests/it/main.rs"), None);
    }

    #[test]
    fn the_table_shows_the_difference() {
        let counts = |a, b| Counts::from([("a".to_owned(), a), ("b".to_owned(), b)]);
        let table = table(&counts(110, 40), Some(&counts(100, 40)));
        let words: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0], ["a", "110", "100", "+10", "+10.0", "%"]);
        assert_eq!(words[2], ["all", "150", "140", "+10", "+7.1", "%"]);
    }
}
