//! One container: waits for its end, and reads its exit code, its output, and whether it ran out of memory.

use super::engine::{Engine, EngineError};
use super::engines::Engines;
use crate::cgroup::killed_for_memory;
use crate::servers::{ServerExit, ServerHandle, out_of_memory};
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;

/// The pause after which an engine that does not answer is asked again.
const AGAIN: Duration = Duration::from_millis(500);

/// The number of lines of a dead container's output that are kept.
const KEPT: usize = 50;

/// The exit code of a container that was killed (signal 9).
const KILLED: i64 = 128 + 9;

/// A container that was started.
#[derive(Clone, Debug)]
pub(super) struct ContainerHandle {
    pub(super) engines: Arc<Engines>,
    pub(super) name: String,
}

#[async_trait]
impl ServerHandle for ContainerHandle {
    async fn ended(&mut self) -> ServerExit {
        let mut logged = String::new();
        loop {
            let ended = async {
                let engine = self.engines.get().await.map_err(|why| EngineError::Gone(why.reason))?;
                engine.wait(&self.name).await?;
                self.end(&engine).await
            };
            match ended.await {
                Ok(ended) => return ended,
                Err(EngineError::Refused(404, _)) => {
                    let reason = "ended: its container was removed from outside".to_owned();
                    return ServerExit { reason, mendable: false, clean: false, output: String::new() };
                }
                Err(error) => {
                    let why = error.to_string();
                    if why != logged {
                        tracing::warn!(
                            container = self.name,
                            "cannot ask the engine whether the container runs: {why}"
                        );
                        logged = why;
                    }
                    self.engines.lost().await;
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    fn terminate(&self) {
        let container = self.clone();
        self.engines.tasks.spawn(async move {
            let Ok(engine) = container.engines.get().await else { return };
            // The container may have ended already; `ended` waits for that.
            let _ = engine.post(&format!("/containers/{}/kill?signal=SIGTERM", container.name), None).await;
        });
    }

    fn kill(&self) {
        let container = self.clone();
        self.engines.tasks.spawn(async move {
            let Ok(engine) = container.engines.get().await else { return };
            let _ = engine.kill_container(&container.name).await;
        });
    }
}

impl ContainerHandle {
    /// Returns how the container ended, and removes it.
    async fn end(&self, engine: &Engine) -> Result<ServerExit, EngineError> {
        let mut details = engine.get(&format!("/containers/{}/json", self.name)).await?;
        let (state, memory) = (details["State"].take(), details["HostConfig"]["Memory"].as_u64());
        let output = engine.output(&self.name, KEPT).await?;
        engine.remove_container(&self.name).await?;
        let code = state["ExitCode"].as_i64().unwrap_or(-1);
        let id = details["Id"].as_str().unwrap_or(&self.name);
        // Not every engine reports this, but the kernel always logs it.
        let exhausted = state["OOMKilled"] == true || code == KILLED && killed_for_memory(id);
        let reason = match (exhausted, code, state["Error"].as_str()) {
            (true, ..) => out_of_memory(memory),
            (_, 129..=192, _) => format!("was ended by signal {}", code - 128),
            (_, _, Some(error)) if !error.is_empty() => format!("exited with code {code}: {error}"),
            _ => format!("exited with code {code}"),
        };
        Ok(ServerExit { reason, mendable: code == 1 || exhausted, clean: code == 0, output })
    }
}
