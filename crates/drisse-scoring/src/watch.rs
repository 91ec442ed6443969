//! Reloads the files that can change while the server runs: keys and certificates.

use crate::app::App;
use drisse_net::{Tls, blocking};
use std::sync::Arc;
use std::time::Duration;

/// The time between two reads. The files are small and read completely, so renames, mounted folders and swapped links
/// are nothing special.
const INTERVAL: Duration = Duration::from_millis(500);

/// Reads the files again and again, until it is dropped. A file that cannot be used changes nothing; its error is logged
/// once per change.
pub(crate) async fn watch(app: Arc<App>, tls: Option<Arc<Tls>>) {
    let mut logged = String::new();
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
        let errors = [keys.err(), certificate.err()].into_iter().flatten().collect::<Vec<_>>().join("; ");
        if !errors.is_empty() && errors != logged {
            app.metrics.reload_failures.inc();
            tracing::error!(
                "a changed file cannot be used, the previous keys and certificate stay valid: {errors}"
            );
        }
        logged = errors;
    }
}
