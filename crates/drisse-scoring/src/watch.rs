//! Files that may change while the server runs: keys and certificates.

use crate::app::App;
use drisse_net::{Tls, blocking};
use std::sync::Arc;
use std::time::Duration;

/// How soon a change is seen. The files are small and read whole: renames, mounted folders and
/// swapped links are all just other content.
const INTERVAL: Duration = Duration::from_millis(500);

/// Looks at the files for ever. What cannot be used is told once per change and leaves what was.
pub(crate) async fn watch(app: Arc<App>, tls: Option<Arc<Tls>>) {
    let mut told = String::new();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let (files, certificate) = (Arc::clone(&app), tls.clone());
        let (keys, certificate) = blocking(move || {
            let keys = files.keys.as_ref().map_or(Ok(false), |keys| keys.reload().map_err(|e| e.to_string()));
            (keys, certificate.map_or(Ok(false), |tls| tls.reload().map_err(|error| error.to_string())))
        })
        .await;
        if keys == Ok(true) {
            tracing::info!("the keys changed");
        }
        if certificate == Ok(true) {
            tracing::info!("the certificate changed");
        }
        let trouble = [keys.err(), certificate.err()].into_iter().flatten().collect::<Vec<_>>().join("; ");
        if !trouble.is_empty() && trouble != told {
            app.metrics.reload_failures.inc();
            tracing::error!("a changed file cannot be used, what was in force stays: {trouble}");
        }
        told = trouble;
    }
}
