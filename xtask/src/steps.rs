//! Running commands one after the other, showing what they print and counting tests.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The steps so far.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Steps that failed, by name.
    broken: Vec<String>,
}

impl Steps {
    /// Runs a command in the root, and tells whether it did well. One that fails is remembered; the next ones
    /// run all the same.
    pub(crate) fn run(&mut self, name: &str, command: &mut Command) -> Result<bool> {
        println!("\n=== {name}");
        let started = Instant::now();
        let mut child = command
            .current_dir(crate::root())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            println!("{line}");
            self.count(&line);
        }
        let status = child.wait()?;
        println!(
            "=== {name}: {} in {:.0} s",
            if status.success() { "ok" } else { "FAILED" },
            started.elapsed().as_secs_f64()
        );
        if !status.success() {
            self.broken.push(name.to_owned());
        }
        Ok(status.success())
    }

    /// Notes what a step found that is no command.
    pub(crate) fn note(&mut self, name: &str, held: bool) {
        println!("\n=== {name}: {}", if held { "ok" } else { "FAILED" });
        if !held {
            self.broken.push(name.to_owned());
        }
    }

    /// `test result: ok. 3 passed; 0 failed; …` of cargo, and `NAME: 3 passed, 0 failed` of the Python tests.
    fn count(&mut self, line: &str) {
        let number = |what: &str| -> Option<u64> {
            let before = line.split_once(what)?.0;
            before.rsplit([' ', ':']).next()?.parse().ok()
        };
        if let (Some(passed), Some(failed)) = (number(" passed"), number(" failed")) {
            self.passed += passed;
            self.failed += failed;
        }
    }

    /// The last lines: what failed, and how many tests passed.
    pub(crate) fn finish(self) -> Result<()> {
        println!();
        for step in &self.broken {
            println!("FAILED step: {step}");
        }
        let failed = self.failed.max(self.broken.len() as u64);
        println!("{} passed, {failed} failed", self.passed);
        if failed > 0 {
            bail!("not everything passed");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_both_kinds_of_lines() {
        let mut steps = Steps::default();
        steps.count("test result: ok. 3 passed; 1 failed; 0 ignored");
        steps.count("onnx: 1550 passed, 0 failed");
        steps.count("  1550 passes");
        assert_eq!((steps.passed, steps.failed), (1553, 1));
    }
}
