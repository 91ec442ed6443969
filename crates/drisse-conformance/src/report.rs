//! What a run found, for people, machines and CI systems.

use crate::case::{Case, Protocol};
use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// All that was tried at a server.
#[derive(Clone, Debug)]
pub struct Report {
    /// Where it is.
    pub url: String,
    /// What it calls itself.
    pub server: String,
    /// And its version.
    pub version: String,
    /// A verdict for each case, in order.
    pub verdicts: Vec<Verdict>,
}

/// How a case went.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The case.
    pub case: Case,
    /// How it went.
    pub outcome: Outcome,
    /// How long it took.
    pub time: Duration,
}

/// How a case can go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// As the specification says.
    Passed,
    /// Not as it recommends, or as is usual.
    Warned(String),
    /// Not as it says.
    Failed(String),
    /// It does not apply to this server.
    Skipped(String),
}

impl Outcome {
    /// `passed`, `warned`, `failed` or `skipped`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Warned(_) => "warned",
            Self::Failed(_) => "failed",
            Self::Skipped(_) => "skipped",
        }
    }

    /// Why it did not pass.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Passed => None,
            Self::Warned(why) | Self::Failed(why) | Self::Skipped(why) => Some(why),
        }
    }
}

impl Report {
    pub(crate) fn of(url: String, server: &str, version: &str) -> Self {
        Self { url, server: server.to_owned(), version: version.to_owned(), verdicts: vec![] }
    }

    /// How many went how.
    pub fn count(&self, word: &str) -> usize {
        self.verdicts.iter().filter(|verdict| verdict.outcome.word() == word).count()
    }

    /// The same for each protocol that was tried.
    pub fn by_protocol(&self) -> BTreeMap<Protocol, BTreeMap<&'static str, usize>> {
        let mut counts: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for verdict in &self.verdicts {
            *counts.entry(verdict.case.protocol).or_default().entry(verdict.outcome.word()).or_default() += 1;
        }
        counts
    }

    /// The document that `--output json` prints.
    pub fn document(&self) -> Value {
        let counts: BTreeMap<_, _> =
            self.by_protocol().into_iter().map(|(protocol, counts)| (protocol.to_string(), counts)).collect();
        let cases = self.verdicts.iter().map(|verdict| {
            json!({
                "protocol": verdict.case.protocol.to_string(),
                "name": verdict.case.name,
                "outcome": verdict.outcome.word(),
                "why": verdict.outcome.why(),
                "cites": verdict.case.cites,
                "milliseconds": verdict.time.as_secs_f64() * 1e3,
            })
        });
        json!({
            "url": self.url,
            "server": { "name": self.server, "version": self.version },
            "protocols": counts,
            "cases": cases.collect::<Vec<_>>(),
        })
    }

    /// The report as JUnit's XML, a suite for each protocol; warnings are passed there, with a word on them.
    pub fn junit(&self) -> String {
        let mut report = quick_junit::Report::new(format!("conformance of {}", self.url));
        let mut suites: BTreeMap<Protocol, TestSuite> = BTreeMap::new();
        for verdict in &self.verdicts {
            let why = verdict.outcome.why().unwrap_or_default();
            let status = match &verdict.outcome {
                Outcome::Passed | Outcome::Warned(_) => TestCaseStatus::success(),
                Outcome::Skipped(_) => TestCaseStatus::skipped(),
                Outcome::Failed(_) => TestCaseStatus::non_success(NonSuccessKind::Failure),
            };
            let mut case = TestCase::new(verdict.case.name.clone(), status);
            case.set_classname(verdict.case.protocol.to_string()).set_time(verdict.time);
            match &verdict.outcome {
                Outcome::Failed(_) => {
                    case.status.set_message(why).set_description(verdict.case.cites.join("\n"));
                }
                Outcome::Skipped(_) => {
                    case.status.set_message(why);
                }
                Outcome::Warned(_) => {
                    case.set_system_out(why);
                }
                Outcome::Passed => {}
            }
            let new = || TestSuite::new(verdict.case.protocol.to_string());
            suites.entry(verdict.case.protocol).or_insert_with(new).add_test_case(case);
        }
        report.add_test_suites(suites.into_values());
        // Writing to memory does not fail.
        report.to_string().unwrap_or_default()
    }
}
