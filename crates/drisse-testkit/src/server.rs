//! A server in a thread with a runtime of its own.

use std::fmt::Debug;
use std::pin::Pin;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Completes when the server is to stop.
pub type Stopped = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A running server. Stopped when dropped; a panic or an error of the server fails the test.
#[derive(Debug)]
pub struct ServerThread {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ServerThread {
    /// Runs a server until it is stopped.
    pub fn start<F: Future<Output = Result<(), E>>, E: Debug>(
        run: impl FnOnce(Stopped) -> F + Send + 'static,
    ) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(Box::pin(async { drop(stopped.await) }))).unwrap();
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }

    /// Asks the server to stop, and does not wait for its end.
    pub fn begin_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until the server has ended.
    pub fn join(&mut self) {
        self.thread.take().unwrap().join().expect("the server ends without a panic");
    }
}

impl Drop for ServerThread {
    fn drop(&mut self) {
        self.begin_stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the server ends without a panic");
        }
    }
}
