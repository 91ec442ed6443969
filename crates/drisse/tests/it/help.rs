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
    let line = |line: &str| {
        let Some((before, rest)) = line.split_once(" [env: ") else { return line.trim_end().to_owned() };
        let (variable, rest) = rest.split_once(']').unwrap_or((rest, ""));
        let name = variable.split('=').next().unwrap_or_default();
        format!("{before} [env: {name}]{rest}").trim_end().to_owned()
    };
    let lines = all.lines().map(line);
    insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"));
}
