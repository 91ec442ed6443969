//! The stages of a task: commands that run alone or beside each other, with what they print, their tests and times.

use anyhow::{Context, Result, ensure};
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A wait that is shorter than this is not reported.
const NOTICED: Duration = Duration::from_secs(1);

/// One lane of stages, which run one after the other. Lanes beside each other share their results.
#[derive(Debug)]
pub(crate) struct Stages {
    results: Arc<Mutex<Results>>,
    /// What the next stage of this lane has waited for.
    waits: Mutex<Vec<String>>,
    /// The time to which the table's begin times are relative.
    began: Instant,
    /// Whether other lanes run at the same time: then the output of a stage is printed whole, at its end.
    beside: bool,
}

/// The results of all lanes.
#[derive(Debug, Default)]
struct Results {
    passed: u64,
    failed: u64,
    /// Names of failed stages.
    broken: Vec<String>,
    times: Vec<Times>,
}

/// One row of the table of times.
#[derive(Debug)]
struct Times {
    name: String,
    began: Duration,
    took: Duration,
    waits: Vec<String>,
}

/// The result of one stage.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) succeeded: bool,
    /// Tests that the stage counted.
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

/// A lane that runs beside others.
pub(crate) type Lane<'a> = Box<dyn FnOnce(&Stages) -> Result<()> + Send + 'a>;

/// Takes the output of a stage: prints it at once, or keeps it if other lanes run.
#[derive(Debug)]
pub(crate) struct Output(Option<String>);

impl Output {
    pub(crate) const fn live() -> Self {
        Self(None)
    }
}

impl Write for Output {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        match &mut self.0 {
            Some(kept) => kept.push_str(text),
            None => print!("{text}"),
        }
        Ok(())
    }
}

impl Default for Stages {
    fn default() -> Self {
        Self { results: Arc::default(), waits: Mutex::default(), began: Instant::now(), beside: false }
    }
}

impl Stages {
    /// Runs a command in the repository's root. If it fails, the failure is recorded and later stages still run.
    pub(crate) fn run(&self, name: &str, command: &mut Command) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let counted = &mut outcome;
        let succeeded = self.stage(name, |output| {
            let (lines, writer) = std::io::pipe()?;
            command.current_dir(crate::root()).stdin(Stdio::null());
            command.stdout(writer.try_clone()?).stderr(writer);
            let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
            // Drops this process's write ends, so that the lines end when the program ends.
            command.stdout(Stdio::null()).stderr(Stdio::null());
            for line in BufReader::new(lines).split(b'\n') {
                let line = String::from_utf8_lossy(&line?).into_owned();
                writeln!(output, "{line}")?;
                if let Some((passed, failed)) = count(&line) {
                    counted.passed += passed;
                    counted.failed += failed;
                }
            }
            Ok(child.wait()?.success())
        })?;
        let mut results = self.results();
        results.passed += outcome.passed;
        results.failed += outcome.failed;
        Ok(Outcome { succeeded, ..outcome })
    }

    /// Runs a stage that is not one command. `work` returns whether the stage succeeded.
    pub(crate) fn stage(&self, name: &str, work: impl FnOnce(&mut Output) -> Result<bool>) -> Result<bool> {
        let waits = std::mem::take(&mut *lock(&self.waits));
        let began = Instant::now();
        println!("\n=== {name}{}", if self.beside { " begins" } else { "" });
        let mut output = Output(self.beside.then(String::new));
        let succeeded = work(&mut output);
        let took = began.elapsed();
        let mut results = self.results();
        if let Some(text) = &output.0
            && !text.is_empty()
        {
            print!("\n=== {name}\n{text}");
        }
        let verdict = if matches!(succeeded, Ok(true)) { "ok" } else { "FAILED" };
        println!("=== {name}: {verdict} in {:.0} s", took.as_secs_f64());
        if !matches!(succeeded, Ok(true)) {
            results.broken.push(name.to_owned());
        }
        let began = began.duration_since(self.began);
        results.times.push(Times { name: name.to_owned(), began, took, waits });
        succeeded
    }

    /// Gets what the next stage needs, and remembers how long that took.
    pub(crate) fn need<T>(&self, what: &str, get: impl FnOnce() -> Result<T>) -> Result<T> {
        let began = Instant::now();
        let got = get()?;
        let took = began.elapsed();
        if took >= NOTICED {
            lock(&self.waits).push(format!("{what} ({:.0} s)", took.as_secs_f64()));
        }
        Ok(got)
    }

    /// Runs lanes at the same time. An error ends its lane only; it is returned when all lanes have ended.
    pub(crate) fn beside(&self, lanes: Vec<Lane<'_>>) -> Result<()> {
        std::thread::scope(|scope| {
            let start = |lane: Lane<'_>| {
                let (results, waits) = (Arc::clone(&self.results), Mutex::default());
                lane(&Self { results, waits, began: self.began, beside: true })
            };
            let threads: Vec<_> = lanes.into_iter().map(|lane| scope.spawn(move || start(lane))).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("a lane does not panic"))
        })
    }

    /// Prints the table of times, the failed stages and, as the last line, how many tests passed and failed.
    pub(crate) fn finish(self) -> Result<()> {
        let results = self.results();
        println!("\n{}", table(&results.times));
        for stage in &results.broken {
            println!("FAILED stage: {stage}");
        }
        let failed = results.failed.max(results.broken.len() as u64);
        println!("{} passed, {failed} failed", results.passed);
        ensure!(failed == 0, "not everything passed");
        Ok(())
    }

    fn results(&self) -> MutexGuard<'_, Results> {
        lock(&self.results)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads `test result: ok. 3 passed; 0 failed; …` of cargo, and `NAME: 3 passed, 0 failed` of the Python tests.
fn count(line: &str) -> Option<(u64, u64)> {
    let number = |what: &str| -> Option<u64> {
        let before = line.split_once(what)?.0;
        before.rsplit([' ', ':']).next()?.parse().ok()
    };
    Some((number(" passed")?, number(" failed")?))
}

/// Formats when each stage began and how long it took, in seconds, in the order in which they began.
fn table(times: &[Times]) -> String {
    let mut times: Vec<_> = times.iter().collect();
    times.sort_by_key(|times| times.began);
    let width = times.iter().map(|times| times.name.chars().count()).max().unwrap_or(0).max("stage".len());
    let mut text = format!("{:width$}  begin s  took s  waited for\n", "stage");
    for Times { name, began, took, waits } in times {
        let (began, took) = (began.as_secs(), took.as_secs_f64());
        let row = format!("{name:width$}  {began:7}  {took:6.0}  {}", waits.join(", "));
        text += row.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_both_kinds_of_lines() {
        assert_eq!(count("test result: ok. 3 passed; 1 failed; 0 ignored"), Some((3, 1)));
        assert_eq!(count("onnx: 1550 passed, 0 failed"), Some((1550, 0)));
        assert_eq!(count("  1550 passes"), None);
    }

    #[test]
    fn lanes_share_their_results_and_a_failure_does_not_end_the_others() {
        let stages = Stages::default();
        let echo = |line: &'static str| -> Lane<'_> {
            Box::new(move |stages| {
                let outcome = stages.run(line, Command::new("echo").arg(line))?;
                assert!(outcome.succeeded);
                Ok(())
            })
        };
        let fails: Lane<'_> = Box::new(|stages| {
            stages.need("nothing", || Ok(()))?;
            stages.run("fails", &mut Command::new("false")).map(drop)
        });
        stages.beside(vec![echo("a: 2 passed, 0 failed"), fails, echo("b: 3 passed, 0 failed")]).unwrap();
        let results = stages.results();
        assert_eq!((results.passed, results.failed, &*results.broken), (5, 0, &["fails".to_owned()][..]));
        assert_eq!(results.times.len(), 3);
    }

    #[test]
    fn the_table_is_in_the_order_in_which_stages_began() {
        let times = |name: &str, began, waits: &[&str]| Times {
            name: name.to_owned(),
            began: Duration::from_secs(began),
            took: Duration::from_secs(7),
            waits: waits.iter().map(|&wait| wait.to_owned()).collect(),
        };
        let table = table(&[times("late", 100, &["podman (3 s)"]), times("early", 5, &[])]);
        assert_eq!(
            table,
            "stage  begin s  took s  waited for\n\
             early        5       7\n\
             late       100       7  podman (3 s)\n"
        );
    }
}
