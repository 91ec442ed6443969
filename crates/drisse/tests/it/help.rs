//! The command line is a contract: a snapshot of its help shows every change.

use crate::support::output;

#[test]
fn every_commands_help_is_as_it_was() {
    let commands = [
        "deploy",
        "update",
        "rollback",
        "delete",
        "score",
        "services",
        "logs",
        "keys",
        "models",
        "image",
        "targets",
        "operations",
        "inspect",
        "serve",
        "conformance",
        "up",
        "down",
        "status",
        "doctor",
        "completions",
    ];
    let mut all = output(&["--help"]).1;
    for command in commands {
        let (code, help, stderr) = output(&[command, "-h"]);
        assert_eq!((code, &*stderr), (0, ""));
        all += &format!("\n$ drisse {command} -h\n{help}");
    }
    // Values from the environment are not part of the contract.
    let lines = all.lines().map(|line| line.split(" [env: ").next().unwrap_or_default().trim_end());
    insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"));
}
