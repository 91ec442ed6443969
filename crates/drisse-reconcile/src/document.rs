//! Makes the routes of a service from its desired state and its ready replicas.

use crate::DesiredService;
use drisse_core::{MaxWait, Replica, ReplicaState, RevisionSpec, Routed, ServiceName};
use drisse_wire::routes::{RouteDocument, RouteReplica, RouteRevision};
use std::time::Duration;

/// Makes the document of `generation`. The revision `serving` determines the keys and the timeouts.
pub(crate) fn document(
    name: &ServiceName,
    service: &DesiredService,
    serving: &RevisionSpec,
    groups: &[Routed<'_>],
    generation: u64,
) -> RouteDocument {
    let revisions = groups.iter().map(|group| {
        let mut replicas: Vec<_> = group.replicas.iter().filter_map(|replica| route(replica)).collect();
        // Sorted, so that the same routes always make the same document.
        replicas.sort_by(|one, other| one.id.cmp(&other.id));
        RouteRevision { revision: group.revision, weight: group.weight, replicas, ..RouteRevision::default() }
    });
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    RouteDocument {
        service: name.to_string(),
        aliases: serving.aliases.clone(),
        generation,
        keys: serving.keys.clone(),
        cors_origins: service.cors_origins.clone(),
        access_log: service.access_log.as_ref().map(|path| path.display().to_string()),
        max_wait_ms: ms(serving.max_wait.of(Duration::ZERO)),
        max_wait_auto: serving.max_wait == MaxWait::Auto,
        scoring_timeout_ms: ms(serving.scoring_timeout),
        revisions: revisions.collect(),
        ..RouteDocument::default()
    }
}

fn route(replica: &Replica) -> Option<RouteReplica> {
    match &replica.state {
        ReplicaState::Ready { address, concurrency, .. } => Some(RouteReplica {
            id: replica.id.to_string(),
            address: address.clone(),
            concurrency: *concurrency,
            ..RouteReplica::default()
        }),
        _ => None,
    }
}

/// Returns the progress message about new routes; `None` if no replica receives requests.
pub(crate) fn summary(document: &RouteDocument) -> Option<String> {
    let count: usize = document.revisions.iter().map(|revision| revision.replicas.len()).sum();
    let numbers: Vec<_> = document.revisions.iter().map(|revision| revision.revision.to_string()).collect();
    let s = if count == 1 { "" } else { "s" };
    (count > 0).then(|| format!("requests go to revision {} ({count} replica{s})", numbers.join(", ")))
}
