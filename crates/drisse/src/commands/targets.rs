//! `drisse targets`.

use crate::cli::{Output, Targets, TargetsCommand};
use crate::connect::Place;
use crate::failure::Failure;
use crate::printer;
use drisse_wire::control::TargetInfo;
use serde_json::json;
use std::process::ExitCode;

pub(crate) async fn run(place: &Place, arguments: &Targets, output: Output) -> Result<ExitCode, Failure> {
    let client = place.connect().await?;
    let targets = client.targets().await?;
    let named = |name: &str| {
        let found = targets.iter().find(|target| target.name == name);
        found.ok_or_else(|| {
            let there: Vec<_> = targets.iter().map(|target| format!("`{}`", target.name)).collect();
            Failure::new(format!("there is no target `{name}`"))
                .hint(format!("there is {}", there.join(", ")))
        })
    };
    match &arguments.command {
        None => printer::result(output, || json!(targets), || table(targets.iter())),
        Some(TargetsCommand::Show { target }) => {
            let target = named(target)?;
            printer::result(output, || json!(target), || table([target]));
        }
        Some(TargetsCommand::Check { target }) => {
            let target = named(target)?;
            if let Some(error) = target.error.clone() {
                return Err(error.context(format!("target `{}` cannot be used", target.name)).into());
            }
            printer::result(output, || json!(target), || format!("target {} can be used\n", target.name));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table<'a>(targets: impl IntoIterator<Item = &'a TargetInfo>) -> String {
    let row = |target: &TargetInfo| {
        let state = target.error.as_ref().map_or("ready".to_owned(), |error| error.message.clone());
        vec![target.name.clone(), target.kind.clone(), target.services.to_string(), state]
    };
    printer::table(&["TARGET", "KIND", "SERVICES", "STATE"], targets.into_iter().map(row))
}
