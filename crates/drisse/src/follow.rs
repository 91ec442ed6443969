//! Following an operation: its events as they come, and what Ctrl-C means.

use crate::connect::Place;
use crate::failure::Failure;
use crate::{printer, units};
use drisse_client::Client;
use drisse_net::SILENCE;
use drisse_wire::control::{Operation, OperationState, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::convert::Infallible;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Interrupted from the keyboard: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

/// How an operation was left.
pub(crate) enum Left {
    /// It succeeded.
    Done(Box<Operation>),
    /// The user went; it goes on.
    Detached(ExitCode),
}

/// Follows an operation to its end; events and the time they came at on stderr.
pub(crate) async fn follow(place: &Place, client: &Client, begun: &Operation) -> Result<Left, Failure> {
    let began = Instant::now();
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar.set_message(format!("{} {}", begun.kind, begun.subject));
    let mut each = |progress: &Progress| {
        let line = format!("{:>8}  {}", units::seconds(began.elapsed()), printer::plain(&progress.message));
        bar.suspend(|| printer::note(&line));
    };
    drisse_core::step("an operation has begun");
    let id = begun.id;
    let waited = tokio::select! {
        waited = wait(place, client, id, &mut each) => waited,
        never = tell_of_silence(client, &bar) => match never {},
        _ = tokio::signal::ctrl_c() => {
            bar.finish_and_clear();
            let flag = place.flag();
            printer::note(&format!(
                "\ndetached: the operation goes on. `drisse{flag} operations show {id}` comes back to it, \
                 `drisse{flag} operations cancel {id}` ends it"
            ));
            return Ok(Left::Detached(ExitCode::from(INTERRUPTED)));
        }
    };
    bar.finish_and_clear();
    let operation = waited?;
    drisse_core::step("an operation was seen through");
    match (operation.state, operation.error.clone()) {
        (OperationState::Succeeded, _) => Ok(Left::Done(Box::new(operation))),
        (_, Some(failure)) => Err(failure.into()),
        (state, None) => Err(Failure::new(format!("operation {id} ended: {state:?}"))),
    }
}

/// Says so when the control plane stops answering, and when it answers again.
async fn tell_of_silence(client: &Client, bar: &ProgressBar) -> Infallible {
    let mut silent = false;
    loop {
        tokio::time::sleep(SILENCE).await;
        let answers = tokio::time::timeout(SILENCE, client.status()).await.is_ok();
        if answers == silent {
            silent = !answers;
            bar.suspend(|| {
                printer::note(match silent {
                    true => {
                        "waiting: the control plane does not answer (`pgrep -af 'drisse control'` shows it)"
                    }
                    false => "the control plane answers again",
                });
            });
        }
    }
}

/// Waits for the end, through a control plane that is killed meanwhile: another one takes the operation up.
async fn wait(
    place: &Place,
    client: &Client,
    id: i64,
    each: &mut dyn FnMut(&Progress),
) -> Result<Operation, Failure> {
    use drisse_client::ClientError;
    loop {
        match client.wait(id, each).await {
            Err(ClientError::Unreachable(_)) => {
                // One that was killed is started again; one that was told to stop is not.
                if place.folder()?.stopped_mark().exists() {
                    let stopped = format!("everything was stopped before operation {id} had ended");
                    return Err(Failure::new(stopped).hint("it goes on with the next `drisse up`"));
                }
                place.connect().await?;
            }
            other => return Ok(other?),
        }
    }
}
