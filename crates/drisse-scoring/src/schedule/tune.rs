//! How a model runs best on this machine: many concurrent runs with one thread each, or fewer with several threads. The
//! choices are tried when a model is loaded for the first time; the result is stored for all models alike.

use super::trial::Trial;
use crate::memory::resident;
use drisse_core::{Engine, EngineOptions, Inputs, LoadedPackage, Result, Scorer};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The time to try one choice, before the model is served.
const TRIAL: Duration = Duration::from_millis(150);

/// Models with longer runs are not tried: that would take seconds, and their operators are large enough for several
/// threads.
const LONGEST: Duration = Duration::from_millis(500);

/// The longest wait for another process that tries the same model.
const PATIENCE: Duration = Duration::from_secs(5);

/// Shorter runs gain nothing from a second thread.
const TINY: Duration = Duration::from_micros(300);

/// Of all choices whose rate is this close to the best, the one with the shortest runs is chosen.
const CLOSE: f64 = 0.95;

/// The same for the processor time of a run, which is measured more exactly.
const CLOSE_CPU: f64 = 0.97;

/// Runs that take at most this fraction of the others' time are worth a lower rate ([`WORTH`]): a single request is
/// answered that much sooner.
const SHORT: f64 = 0.7;

/// The fraction of the rate, and of the processor time, at which much shorter runs are chosen.
const WORTH: f64 = 0.9;

/// Threads per run, and concurrent runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuning {
    /// Threads that one run uses.
    pub threads: usize,
    /// Concurrent runs.
    pub workers: usize,
}

/// Finds the best tuning for the threads of this machine.
#[derive(Clone, Debug)]
pub struct Tuner {
    /// The number of threads: the machine's, or the cgroup's limit.
    pub cores: usize,
    /// [`Tuning::threads`], if the operator has set it.
    pub threads: Option<usize>,
    /// [`Tuning::workers`], if the operator has set it.
    pub workers: Option<usize>,
    /// The folder where tunings are stored; `None`: nowhere.
    pub folder: Option<PathBuf>,
    /// The device and the engine's own options; the number of threads is the tuning's.
    pub options: EngineOptions,
}

impl Default for Tuner {
    /// Measures everything with all threads, and stores nothing.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { cores, threads: None, workers: None, folder: None, options: EngineOptions::default() }
    }
}

impl Tuner {
    /// Returns the choices: each power of two as the threads per run, with as many concurrent runs as use all cores.
    pub fn choices(&self) -> Vec<Tuning> {
        let powers = std::iter::successors(Some(1), |threads| Some(threads * 2));
        let mut threads: Vec<usize> = powers.take_while(|&threads| threads < self.cores).collect();
        threads.push(self.cores.max(1));
        threads.into_iter().map(|threads| self.with_threads(threads)).collect()
    }

    fn with_threads(&self, threads: usize) -> Tuning {
        Tuning { threads, workers: self.workers.unwrap_or(self.cores.div_ceil(threads)).max(1) }
    }

    /// Returns the operator's choice; `None` if there is a choice to make.
    fn fixed(&self) -> Option<Tuning> {
        match (self.threads, self.workers) {
            (None, None) => (self.cores <= 1).then(|| self.with_threads(1)),
            (Some(threads), _) => Some(self.with_threads(threads.max(1))),
            (None, Some(workers)) => Some(self.with_threads((self.cores / workers.max(1)).max(1))),
        }
    }

    /// Returns whether models of this `likeness` are loaded without a trial.
    pub fn knows(&self, likeness: &str) -> bool {
        self.fixed().is_some() || self.file(likeness).is_some_and(|file| self.stored(&file).is_some())
    }

    /// Loads the model with the best tuning for inputs like `sample`. Models that run alike have the same `likeness`.
    ///
    /// # Errors
    /// Returns the engine's error if the model cannot be loaded.
    pub fn load(
        &self,
        engine: &dyn Engine,
        model: &LoadedPackage,
        likeness: &str,
        sample: Option<&Inputs>,
    ) -> Result<(Box<dyn Scorer>, Tuning)> {
        let load = |tuning: Tuning| {
            let options = EngineOptions { threads: Some(tuning.threads), ..self.options.clone() };
            engine.load(model, &options).map(|scorer| (scorer, tuning))
        };
        if let Some(tuning) = self.fixed() {
            return load(tuning);
        }
        let Some(sample) = sample else { return load(self.with_threads(self.cores)) };
        let file = self.file(likeness);
        // Of replicas that start together, only the first tries the choices.
        let _one = file.as_deref().and_then(locked);
        if let Some(tuning) = file.as_deref().and_then(|file| self.stored(file)) {
            return load(tuning);
        }
        let outputs = model.signature.outputs.len();
        let before = resident();
        let mut loaded = load(self.with_threads(1))?;
        // A second copy of the model takes as much memory, and more while it is loaded.
        let one = resident().saturating_sub(before);
        let has_room = resident() + 3 * one <= engine.memory() as u64;
        let Ok(alone) = first_runs(&*loaded.0, sample, outputs) else { return Ok(loaded) };
        let chosen = match alone {
            tiny if tiny < TINY => loaded.1,
            long if long > LONGEST || !has_room => self.with_threads(self.cores),
            _ => {
                let tried = |(scorer, tuning): &(Box<dyn Scorer>, Tuning)| {
                    let trial = Trial::of(&**scorer, sample, outputs, tuning.workers, TRIAL);
                    Some((*tuning, trial.ok()?))
                };
                let mut all: Vec<_> = tried(&loaded).into_iter().collect();
                let first = loaded.1;
                for other in self.choices().into_iter().filter(|other| *other != first) {
                    // A choice that fails is not chosen; the model is served with another one.
                    let Ok(other) = load(other) else { continue };
                    if first_runs(&*other.0, sample, outputs).is_err() {
                        continue;
                    }
                    all.extend(tried(&other));
                    // The best choice so far stays loaded.
                    if best(&all) == Some(other.1) {
                        loaded = other;
                    }
                }
                best(&all).unwrap_or(loaded.1)
            }
        };
        if let Some(file) = file {
            self.store(&file, chosen);
        }
        if chosen == loaded.1 {
            return Ok(loaded);
        }
        drop(loaded);
        load(chosen)
    }

    /// Stores the tuning for models of this `likeness`.
    pub fn keep(&self, likeness: &str, tuning: Tuning) {
        if let Some(file) = self.file(likeness) {
            let _one = locked(&file);
            self.store(&file, tuning);
        }
    }

    fn file(&self, likeness: &str) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(format!("{likeness}.json")))
    }

    fn stored(&self, file: &Path) -> Option<Tuning> {
        let found: Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
        let fits = |number: &usize| (1..=self.cores).contains(number);
        let number = |field: &str| usize::try_from(found[field].as_u64()?).ok().filter(fits);
        let tuning = Tuning { threads: number("threads")?, workers: number("workers")? };
        (found["machine"] == self.machine()).then_some(tuning)
    }

    /// Stores a tuning. A failure is only logged: it costs another trial the next time.
    fn store(&self, file: &Path, tuning: Tuning) {
        let written = || -> std::io::Result<()> {
            let Tuning { threads, workers } = tuning;
            let found = json!({ "threads": threads, "workers": workers, "machine": self.machine() });
            let new = file.with_extension(format!("new-{}", std::process::id()));
            File::create(&new)?.write_all(found.to_string().as_bytes())?;
            std::fs::rename(new, file)
        };
        if let Err(error) = written() {
            tracing::debug!("cannot store the tuning in {}: {error}", file.display());
        }
    }

    /// Describes the processor and the number of cores that a tuning is valid for.
    fn machine(&self) -> String {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = text.lines().find_map(|line| line.strip_prefix("model name"));
        let name = name.map_or("", |rest| rest.trim_start_matches([' ', '\t', ':']));
        format!("{} × {name}", self.cores)
    }
}

/// Locks a tuning's file against other processes until the result is dropped. `None` if the lock cannot be taken within
/// [`PATIENCE`]: two processes may then try at the same time, which only costs time.
fn locked(file: &Path) -> Option<File> {
    std::fs::create_dir_all(file.parent()?).ok()?;
    let lock = File::create(file.with_extension("lock")).ok()?;
    let began = Instant::now();
    while lock.try_lock().is_err() {
        if began.elapsed() > PATIENCE {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Some(lock)
}

/// Returns the time of a run once memory is allocated.
fn first_runs(scorer: &dyn Scorer, sample: &Inputs, outputs: usize) -> Result<Duration> {
    let began = Instant::now();
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        fastest = fastest.min(Trial::of(scorer, sample, outputs, 1, Duration::ZERO)?.p50);
        if began.elapsed() > TRIAL {
            break;
        }
    }
    Ok(fastest)
}

/// Returns the choice with the shortest runs among those with about the highest rate. The processor time of a run limits
/// the rate as well, and is exact even on a busy machine.
fn best(tried: &[(Tuning, Trial)]) -> Option<Tuning> {
    let most = tried.iter().map(|(_, trial)| trial.rate).fold(0.0, f64::max);
    let least = tried.iter().map(|(_, trial)| trial.cpu.as_secs_f64()).fold(f64::INFINITY, f64::min);
    let shortest = |rate: f64, cpu: f64| {
        let good = tried
            .iter()
            .filter(|(_, trial)| trial.rate >= rate * most && trial.cpu.as_secs_f64() * cpu <= least);
        good.min_by_key(|(_, trial)| trial.p50)
    };
    let close = shortest(CLOSE, CLOSE_CPU);
    let much_shorter = shortest(WORTH, WORTH)
        .filter(|(_, short)| close.is_none_or(|(_, close)| short.p50 <= close.p50.mul_f64(SHORT)));
    much_shorter.or(close).map(|(tuning, _)| *tuning)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuner(cores: usize) -> Tuner {
        Tuner { cores, threads: None, workers: None, folder: None, options: EngineOptions::default() }
    }

    fn tuning(threads: usize, workers: usize) -> Tuning {
        Tuning { threads, workers }
    }

    fn trial(rate: f64, ms: u64) -> Trial {
        let p50 = Duration::from_millis(ms);
        Trial { rate, p50, p99: p50, cpu: Duration::from_millis(20) }
    }

    #[test]
    fn every_choice_uses_all_cores() {
        assert_eq!(tuner(2).choices(), [tuning(1, 2), tuning(2, 1)]);
        assert_eq!(tuner(6).choices(), [tuning(1, 6), tuning(2, 3), tuning(4, 2), tuning(6, 1)]);
        assert_eq!(tuner(1).choices(), [tuning(1, 1)]);
    }

    #[test]
    fn the_operator_has_the_last_word() {
        assert_eq!(Tuner { threads: Some(2), ..tuner(8) }.fixed(), Some(tuning(2, 4)));
        assert_eq!(Tuner { workers: Some(2), ..tuner(8) }.fixed(), Some(tuning(4, 2)));
        assert_eq!(Tuner { workers: Some(3), threads: Some(1), ..tuner(8) }.fixed(), Some(tuning(1, 3)));
        assert_eq!((tuner(8).fixed(), tuner(1).fixed()), (None, Some(tuning(1, 1))));
    }

    #[test]
    fn short_runs_are_preferred_where_they_cost_little_throughput() {
        let (many, few) = (tuning(1, 2), tuning(2, 1));
        assert_eq!(best(&[(many, trial(100.0, 20)), (few, trial(97.0, 11))]), Some(few));
        assert_eq!(best(&[(many, trial(100.0, 20)), (few, trial(80.0, 13))]), Some(many));
        let costly = |cpu, ms| Trial { cpu: Duration::from_millis(cpu), ..trial(97.0, ms) };
        assert_eq!(best(&[(many, trial(100.0, 20)), (few, costly(23, 11))]), Some(many));
        // Half as long is worth a little more of it.
        assert_eq!(best(&[(many, trial(100.0, 20)), (few, costly(22, 11))]), Some(few));
        assert_eq!(best(&[(many, trial(100.0, 20)), (few, costly(22, 16))]), Some(many));
        assert_eq!(best(&[(many, trial(100.0, 20)), (few, trial(91.0, 11))]), Some(few));
        assert_eq!(best(&[]), None);
    }

    #[test]
    fn a_tuning_is_stored_for_its_machine() {
        let folder = tempfile::tempdir().unwrap();
        let here = Tuner { folder: Some(folder.path().join("tuning")), ..tuner(2) };
        let file = folder.path().join("tuning/abc.json");
        here.keep("abc", tuning(2, 1));
        assert_eq!(here.stored(&file), Some(tuning(2, 1)));
        assert_eq!(Tuner { cores: 4, ..here.clone() }.stored(&file), None);
        std::fs::write(&file, "{").unwrap();
        assert_eq!(here.stored(&file), None);
    }
}
