//! The report of a run, for people, programs and CI systems.

use crate::case::Case;
use crate::protocol::Protocol;
use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// The results of all cases with one server.
#[derive(Clone, Debug)]
pub struct Report {
    /// The server's URL.
    pub url: String,
    /// The server's name, as it reports it.
    pub server: String,
    /// The server's version, as it reports it.
    pub version: String,
    /// The verdict on each case, in the order of the cases.
    pub verdicts: Vec<Verdict>,
}

/// The result of one case.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The case.
    pub case: Case,
    /// The outcome.
    pub outcome: Outcome,
    /// The time that the case took.
    pub time: Duration,
}

/// The outcome of a case; all but `Passed` have a reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The server meets the requirement.
    Passed,
    /// The server does not meet a recommendation, or answers with an unusual status.
    Warned(String),
    /// The server does not meet the requirement.
    Failed(String),
    /// The case does not apply to this server, or the server no longer runs.
    Skipped(String),
}

impl Outcome {
    /// Returns `passed`, `warned`, `failed` or `skipped`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Warned(_) => "warned",
            Self::Failed(_) => "failed",
            Self::Skipped(_) => "skipped",
        }
    }

    /// Returns the reason why the case did not pass.
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

    /// Returns the number of cases with an outcome, given its [`Outcome::word`].
    pub fn count(&self, word: &str) -> usize {
        self.verdicts.iter().filter(|verdict| verdict.outcome.word() == word).count()
    }

    /// Returns the number of cases for each protocol and [`Outcome::word`].
    pub fn by_protocol(&self) -> BTreeMap<Protocol, BTreeMap<&'static str, usize>> {
        let mut counts: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for verdict in &self.verdicts {
            *counts.entry(verdict.case.protocol).or_default().entry(verdict.outcome.word()).or_default() += 1;
        }
        counts
    }

    /// Returns the report as the JSON document of `--output json`.
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

    /// Returns the report as JUnit XML with one suite per protocol. Warnings count as passed; `system-out` has the
    /// reason.
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
        // Writing to memory cannot fail.
        report.to_string().unwrap_or_default()
    }
}
