//! The routes of all services: one file per service, read at the start and replaced one by one.

use crate::error::unknown_service;
use crate::metrics::Metrics;
use crate::service::Service;
use arc_swap::ArcSwap;
use drisse_core::{Error, crash_point};
use drisse_wire::routes::{RouteAcknowledgement, RouteDocument};
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// The services by their names, and the names that their aliases stand for.
#[derive(Clone, Debug, Default)]
struct Services {
    by_name: BTreeMap<String, Arc<Service>>,
    aliases: HashMap<String, String>,
}

impl Services {
    fn get(&self, name: &str) -> Option<&Arc<Service>> {
        self.by_name.get(name).or_else(|| self.by_name.get(self.aliases.get(name)?))
    }

    /// Returns these services with that of this name replaced, or removed.
    fn with(&self, name: &str, service: Option<&Arc<Service>>) -> Self {
        let mut by_name = self.by_name.clone();
        match service {
            Some(service) => by_name.insert(name.to_owned(), Arc::clone(service)),
            None => by_name.remove(name),
        };
        // Two services can have an alias for a moment, while it moves from one to the other.
        let of = |(name, service): (&String, &Arc<Service>)| {
            let aliases = service.document.aliases.iter().cloned();
            aliases.map(|alias| (alias, name.clone())).collect::<Vec<_>>()
        };
        let aliases = by_name.iter().flat_map(of).collect();
        Self { by_name, aliases }
    }
}

/// The routes in force, and the folder in which they are stored.
///
/// ```
/// use drisse_gateway::Table;
/// use drisse_wire::routes::RouteDocument;
///
/// let folder = tempfile::tempdir()?;
/// let table = Table::open(folder.path(), 1)?;
/// let document = RouteDocument { service: "digits".to_owned(), generation: 1, ..RouteDocument::default() };
/// assert_eq!(table.put(document)?.generation, 1);
/// assert_eq!(Table::open(folder.path(), 1)?.generations(), [("digits".to_owned(), 1)]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Table {
    folder: PathBuf,
    services: ArcSwap<Services>,
    /// Counts changes, to wake the requests that wait for one.
    changes: watch::Sender<u64>,
    /// A lock per service whose document is being written, so that a slow disk delays only that service.
    writing: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    pub(crate) metrics: Metrics,
    cores: usize,
}

/// Why a route document was not put in force.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The document cannot be used.
    #[error("the routes of `{service}` cannot be used: {why}")]
    Invalid {
        /// The service's name.
        service: String,
        /// The reason.
        why: String,
    },
    /// The document is older than the one in force.
    #[error("generation {given} of the routes of `{service}` is older than {current}, which is in force")]
    Stale {
        /// The service's name.
        service: String,
        /// The generation of the document.
        given: u64,
        /// The generation in force.
        current: u64,
    },
    /// The document cannot be stored on disk.
    #[error("cannot store routes in {}", path.display())]
    Io {
        /// The folder or the file.
        path: PathBuf,
        /// The error of the file system.
        source: std::io::Error,
    },
}

impl Table {
    /// Reads the routes in `folder`, and creates the folder if it is missing. A document that cannot be used is logged
    /// and left out. `cores` is the number of cores that will send requests.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be created or read.
    pub fn open(folder: &Path, cores: usize) -> Result<Self, TableError> {
        let io = |source| TableError::Io { path: folder.to_owned(), source };
        let table = Self {
            folder: folder.to_owned(),
            services: ArcSwap::default(),
            changes: watch::Sender::new(0),
            writing: Mutex::default(),
            metrics: Metrics::default(),
            cores,
        };
        std::fs::create_dir_all(folder).map_err(io)?;
        let mut services = Services::default();
        for entry in std::fs::read_dir(folder).map_err(io)?.flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                // An earlier process may have been killed while it wrote the file.
                let _ = std::fs::remove_file(&path);
                continue;
            }
            let read = std::fs::read(&path).map_err(|error| error.to_string());
            let document = read.and_then(|text| serde_json::from_slice(&text).map_err(|e| e.to_string()));
            match document.and_then(|document| table.service(document, None)) {
                Ok(service) => {
                    services = services.with(&service.document.service.clone(), Some(&Arc::new(service)))
                }
                Err(error) => tracing::error!("the routes in {} cannot be used: {error}", path.display()),
            }
        }
        table.services.store(Arc::new(services));
        Ok(table)
    }

    /// Returns the service of this name or alias.
    pub(crate) fn service_named(&self, name: &str) -> Option<Arc<Service>> {
        self.services.load().get(name).cloned()
    }

    /// Returns the service that a request names.
    ///
    /// # Errors
    /// Returns `NotFound` if the service has no routes, and counts the request.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Service>, Error> {
        self.service_named(name).ok_or_else(|| {
            self.metrics.unknown.inc();
            unknown_service(name)
        })
    }

    /// Returns the name of the only service; `None` if there is no service or more than one.
    pub(crate) fn only_service(&self) -> Option<String> {
        let services = self.services.load();
        let mut names = services.by_name.keys();
        names.next().filter(|_| names.next().is_none()).cloned()
    }

    /// Returns the document in force; `None` if the service has no routes.
    pub fn get(&self, name: &str) -> Option<RouteDocument> {
        self.services.load().by_name.get(name).map(|service| service.document.clone())
    }

    /// Returns the names of all services, with their generations in force.
    pub fn generations(&self) -> Vec<(String, u64)> {
        let services = self.services.load();
        let entry = |(name, service): (&String, &Arc<Service>)| (name.clone(), service.document.generation);
        services.by_name.iter().map(entry).collect()
    }

    /// Returns a receiver that is notified of every later change of any route.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Stores a document on disk, then puts it in force. Putting the same document again has no effect. Blocks on the
    /// disk and on an earlier change of the same service.
    ///
    /// # Errors
    /// Returns an error if the document cannot be used, is older than the one in force, or cannot be stored.
    pub fn put(&self, document: RouteDocument) -> Result<RouteAcknowledgement, TableError> {
        self.alone(&document.service.clone(), || self.put_alone(document))
    }

    fn put_alone(&self, document: RouteDocument) -> Result<RouteAcknowledgement, TableError> {
        let (name, generation) = (document.service.clone(), document.generation);
        let before = self.services.load().by_name.get(&name).cloned();
        if let Some(before) = &before {
            let current = before.document.generation;
            if before.document == document {
                return Ok(RouteAcknowledgement { generation, draining: before.draining() });
            }
            if generation <= current {
                return Err(TableError::Stale { service: name, given: generation, current });
            }
        }
        let service = self
            .service(document, before.as_deref())
            .map_err(|why| TableError::Invalid { service: name.clone(), why })?;
        self.keep(&name, &service.document)?;
        let service = Arc::new(service);
        self.replace(&name, Some(Arc::clone(&service)));
        crash_point("routes are in force");
        Ok(RouteAcknowledgement { generation, draining: service.draining() })
    }

    /// Removes the routes of a service, if there are any. Blocks as [`Self::put`] does.
    ///
    /// # Errors
    /// Returns an error if the name is not a valid service name, or if the file cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), TableError> {
        // The name becomes part of a path.
        if let Err(error) = name.parse::<drisse_core::ServiceName>() {
            return Err(TableError::Invalid { service: name.to_owned(), why: error.to_string() });
        }
        self.alone(name, || self.remove_alone(name))
    }

    fn remove_alone(&self, name: &str) -> Result<(), TableError> {
        let path = self.path(name);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(TableError::Io { path, source });
            }
            _ => {}
        }
        crash_point("routes are removed");
        self.replace(name, None);
        self.metrics.forget(name);
        Ok(())
    }

    /// Runs `change` while no other change of the same service runs.
    fn alone<T>(&self, name: &str, change: impl FnOnce() -> T) -> T {
        let locks = || self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = Arc::clone(locks().entry(name.to_owned()).or_default());
        let result = {
            let _alone = lock.lock().unwrap_or_else(PoisonError::into_inner);
            change()
        };
        // If only the map and this function refer to the lock, no other change waits for it.
        let mut locks = locks();
        if Arc::strong_count(&lock) == 2 {
            locks.remove(name);
        }
        result
    }

    /// Waits until the access logs in force are written, for at most `timeout` each.
    pub(crate) fn flush_access_logs(&self, timeout: Duration) {
        for service in self.services.load().by_name.values() {
            service.access_log.iter().for_each(|log| log.flush(timeout));
        }
    }

    fn replace(&self, name: &str, service: Option<Arc<Service>>) {
        let before = self.services.load().by_name.get(name).cloned();
        self.services.rcu(|services| services.with(name, service.as_ref()));
        if let Some(before) = before {
            before.retire();
        }
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn service(&self, document: RouteDocument, before: Option<&Service>) -> Result<Service, String> {
        let name = document.service.parse::<drisse_core::ServiceName>().map_err(|error| error.to_string())?;
        if let Some(field) = document.unknown_requirement() {
            return Err(format!(
                "they require `{field}`, which this gateway does not know: upgrade the gateway (`drisse up`)"
            ));
        }
        Service::new(document, before, self.metrics.service(name.as_str()), self.cores)
    }

    fn path(&self, name: &str) -> PathBuf {
        let label = name.parse::<drisse_core::ServiceName>().map(|name| name.label().into_owned());
        self.folder.join(format!("{}.json", label.as_deref().unwrap_or(name)))
    }

    fn keep(&self, name: &str, document: &RouteDocument) -> Result<(), TableError> {
        let path = self.path(name);
        let write = || -> std::io::Result<()> {
            // The name is always the same, so that the next change replaces a file that a crash left incomplete.
            let fresh = self.folder.join(format!("{name}.new"));
            let mut file = std::fs::File::create(&fresh)?;
            file.write_all(&serde_json::to_vec(document)?)?;
            file.sync_all()?;
            crash_point("routes are written");
            std::fs::rename(&fresh, &path)?;
            std::fs::File::open(&self.folder)?.sync_all()?;
            crash_point("routes are in place");
            Ok(())
        };
        write().map_err(|source| TableError::Io { path: path.clone(), source })
    }
}

#[cfg(test)]
mod tests;
