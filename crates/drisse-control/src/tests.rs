//! Operations on services, in process: a real database, routes in memory, and a target whose replicas follow a script.

use crate::db::Db;
use crate::db::services::Share;
use crate::operations::{OperationKind, Operations};
use crate::parts::Parts;
use crate::services::Services;
use crate::stop::Stop;
use crate::targets::{TargetTable, Targets};
use drisse_core::ReplicaSet;
use drisse_reconcile::memory::MemoryRoutes;
use drisse_registry::Store;
use drisse_targets::fake::{Fake, Script};
use drisse_wire::control::{
    DeployRequest, KeyName, KeyRequest, ModelChoice, Operation, OperationState, RollbackRequest, Shutdown,
};
use sqlx::Connection as _;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::TaskTracker;

/// A control plane without processes.
struct Plane {
    services: Services,
    operations: Operations,
    routes: MemoryRoutes,
    place: Fake,
    tasks: TaskTracker,
    stop: Stop,
}

impl Plane {
    async fn open(folder: &Path, place: &Fake, routes: &MemoryRoutes) -> Self {
        let db = Db::open(&folder.join("drisse.db")).await.unwrap();
        let target = Arc::new(ReplicaSet(place.clone()));
        let targets = Targets {
            own: BTreeMap::from([("local".to_owned(), target as _)]),
            attach: Box::new(|_, _| Err("nothing can be attached".to_owned())),
        };
        let parts = Parts {
            store: Store::open(&folder.join("store")).unwrap(),
            targets: TargetTable::open(targets, &db).await.unwrap(),
            routes: Arc::new(routes.clone()),
            files: folder.join("services"),
            db,
        };
        let (tasks, stop) = (TaskTracker::new(), Stop::default());
        let (services, operations) = parts.assemble(&tasks, &stop);
        operations.resume().await.unwrap();
        services.reconcilers.start().await.unwrap();
        Self { services, operations, routes: routes.clone(), place: place.clone(), tasks, stop }
    }

    async fn new(folder: &tempfile::TempDir) -> Self {
        Self::open(folder.path(), &Fake::new(Script::default()), &MemoryRoutes::default()).await
    }

    /// Stops the control plane and starts it again with the same workspace.
    async fn restart(self, folder: &tempfile::TempDir) -> Self {
        let (place, routes) = self.end().await;
        Self::open(folder.path(), &place, &routes).await
    }

    /// Ends the control plane. The replicas and the routes go on.
    async fn end(self) -> (Fake, MemoryRoutes) {
        self.stop.end(Shutdown::Handover);
        self.tasks.close();
        self.tasks.wait().await;
        self.services.db.close().await;
        (self.place, self.routes)
    }

    async fn begin(&self, kind: OperationKind) -> Operation {
        self.operations.begin(kind, "digits", Some(Duration::from_secs(60))).await.unwrap()
    }

    /// Waits until an operation has ended.
    async fn ended(&self, id: i64) -> Operation {
        if let Some(progress) = self.operations.progress(id) {
            let mut news = progress.news();
            drop(progress);
            while news.changed().await.is_ok() {}
        }
        self.services.db.operation(id).await.unwrap().document
    }

    async fn run(&self, kind: OperationKind) -> Operation {
        let id = self.begin(kind).await.id;
        self.ended(id).await
    }

    /// Runs an operation that must succeed.
    async fn done(&self, kind: OperationKind) {
        let operation = self.run(kind).await;
        assert_eq!(operation.state, OperationState::Succeeded, "{operation:?}");
    }

    /// Returns the wanted revision and the state.
    async fn state(&self) -> (u64, String) {
        let row = self.services.db.existing_service("digits").await.unwrap();
        (row.revision, row.state.to_string())
    }

    /// Returns the revisions that get requests, with their numbers of replicas.
    fn routed(&self) -> Vec<(u64, usize)> {
        let history = self.routes.history();
        let last = history.last().map_or(&[][..], |document| &document.revisions);
        last.iter().map(|revision| (revision.revision, revision.replicas.len())).collect()
    }
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

fn request() -> DeployRequest {
    DeployRequest { name: Some("digits".to_owned()), ..DeployRequest::default() }
}

fn deploy() -> DeployRequest {
    let path = examples().join("digits/digits.onnx").canonicalize().unwrap();
    DeployRequest { model: Some(ModelChoice::Path(path.display().to_string())), ..request() }
}

/// Returns an update that makes another revision of the same model.
fn update(max_wait_ms: u64) -> OperationKind {
    OperationKind::Update(DeployRequest { max_wait_ms: Some(max_wait_ms), ..request() })
}

#[tokio::test]
async fn a_deployment_ends_once_its_replicas_receive_requests() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::new(&folder).await;
    let replicas = DeployRequest { replicas: Some(3), ..deploy() };
    plane.done(OperationKind::Deploy(replicas)).await;
    assert_eq!(plane.state().await, (1, "Ready".to_owned()));
    assert_eq!(plane.routed(), [(1, 3)]);
    let again = plane.run(OperationKind::Deploy(DeployRequest { replicas: Some(3), ..deploy() })).await;
    assert_eq!(again.result["changed"], false, "the same again changes nothing");
}

#[tokio::test]
async fn a_first_deployment_whose_replicas_die_fails_and_stays_failed() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::new(&folder).await;
    plane.place.follow(Script { die_before_ready: 1, permanent: true, ..Script::default() });
    let failed = plane.run(OperationKind::Deploy(deploy())).await;
    assert_eq!(failed.state, OperationState::Failed);
    assert_eq!(failed.error.unwrap().message, "cannot deploy service `digits` on target `local`");
    assert_eq!(plane.state().await, (1, "Failed".to_owned()));
    assert_eq!(plane.routed(), []);
    plane.done(OperationKind::Deploy(deploy())).await;
    assert_eq!(plane.state().await, (2, "Ready".to_owned()), "deployed again, under a new number");
}

#[tokio::test]
async fn an_update_that_fails_leaves_the_revision_before_wanted_and_serving() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::new(&folder).await;
    plane.done(OperationKind::Deploy(deploy())).await;
    plane.place.follow(Script { die_before_ready: 1, permanent: true, ..Script::default() });
    let failed = plane.run(update(700)).await;
    assert_eq!(failed.state, OperationState::Failed);
    // The status follows in the next round, once the operation has ended.
    while plane.state().await.1 == "Updating" {
        tokio::task::yield_now().await;
    }
    assert_eq!(plane.state().await, (1, "Ready".to_owned()));
    assert_eq!(plane.routed(), [(1, 1)]);
}

fn key() -> KeyRequest {
    KeyRequest { key: KeyName::Primary, value: None }
}

#[tokio::test]
async fn a_rollback_makes_the_revision_before_or_the_named_one_wanted_again() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::new(&folder).await;
    plane.done(OperationKind::Deploy(deploy())).await;
    plane.done(update(700)).await;
    plane.done(update(800)).await;
    for (named, expected) in [(None, 2), (None, 1), (Some(3), 3)] {
        plane.done(OperationKind::Rollback(RollbackRequest { revision: named, timeout_ms: None })).await;
        assert_eq!(plane.state().await, (expected, "Ready".to_owned()));
        assert_eq!(plane.routed(), [(expected, 1)]);
    }
    let unknown = RollbackRequest { revision: Some(9), timeout_ms: None };
    let refused = plane.run(OperationKind::Rollback(unknown)).await;
    assert_eq!(refused.error.unwrap().message, "service `digits` has no revision 9");
}

#[tokio::test]
async fn an_operation_that_is_canceled_or_late_is_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::new(&folder).await;
    plane.done(OperationKind::Deploy(deploy())).await;
    plane.place.follow(Script { start_time: Duration::from_secs(3600), ..Script::default() });
    let begun = plane.begin(update(700)).await;
    let other = plane.operations.begin(update(750), "digits", None).await.unwrap_err();
    assert!(other.failure.message.contains("is being changed by operation"), "{other:?}");
    plane.operations.cancel(begun.id).await.unwrap();
    assert_eq!(plane.ended(begun.id).await.state, OperationState::Canceled);
    let late = plane.operations.begin(update(800), "digits", Some(Duration::from_millis(1))).await.unwrap();
    assert_eq!(plane.ended(late.id).await.state, OperationState::TimedOut);
    assert_eq!(plane.state().await.0, 1);
    assert_eq!(plane.routed(), [(1, 1)]);
    let ended = plane.operations.cancel(begun.id).await.unwrap_err();
    assert!(ended.failure.message.contains("has ended already"), "{ended:?}");
}

#[tokio::test]
async fn a_control_plane_that_starts_again_continues_what_was_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::new(&folder).await;
    plane.done(OperationKind::Deploy(deploy())).await;
    plane.place.follow(Script { start_time: Duration::from_secs(3600), ..Script::default() });
    let begun = plane.begin(update(700)).await;
    while plane.state().await.0 == 1 {
        tokio::task::yield_now().await;
    }
    let plane = plane.restart(&folder).await;
    assert_eq!(plane.services.db.operation(begun.id).await.unwrap().document.state, OperationState::Running);
    // The replica that does not get ready is given up, and another one starts at once.
    plane.place.follow(Script::default());
    let starting = drisse_core::Place::list(&plane.place, None).await.unwrap();
    for replica in starting.iter().filter(|replica| !replica.is_ready()) {
        plane.place.kill(&replica.id);
    }
    assert_eq!(plane.ended(begun.id).await.state, OperationState::Succeeded);
    assert_eq!(plane.state().await, (2, "Ready".to_owned()));
    assert_eq!(plane.routed(), [(2, 1)]);
}

#[tokio::test]
async fn a_key_is_replaced_once_the_gateway_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::new(&folder).await;
    plane.done(OperationKind::Deploy(deploy())).await;
    let before = plane.routes.history().last().unwrap().keys.clone();
    plane.routes.set_failing(Some("the gateway is away"));
    let begun = plane.begin(OperationKind::Keys(key())).await;
    let progress = plane.operations.progress(begun.id).unwrap();
    let mut news = progress.news();
    while progress.events_after(0).iter().all(|event| event.message != "the gateway is away; trying again") {
        news.changed().await.unwrap();
    }
    drop(progress);
    plane.routes.set_failing(None);
    assert_eq!(plane.ended(begun.id).await.state, OperationState::Succeeded);
    let after = plane.routes.history().last().unwrap().keys.clone();
    assert!(before[0] != after[0] && before[1] == after[1]);
}

#[tokio::test]
async fn a_deleted_service_leaves_neither_routes_nor_replicas() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::new(&folder).await;
    plane.done(OperationKind::Deploy(deploy())).await;
    plane.done(OperationKind::Delete { force: false }).await;
    assert!(plane.services.db.service("digits").await.unwrap().is_none());
    assert!(drisse_core::Place::list(&plane.place, None).await.unwrap().is_empty());
    let names = drisse_reconcile::Routes::list(&plane.routes).await.unwrap();
    assert!(names.is_empty());
    // The model stays registered.
    plane.services.db.model("digits", Some(1)).await.unwrap();
}

#[tokio::test]
async fn two_wanted_revisions_share_the_requests_and_each_has_its_replicas() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::new(&folder).await;
    plane.done(OperationKind::Deploy(deploy())).await;
    plane.done(update(700)).await;
    let db = &plane.services.db;
    let mut row = db.existing_service("digits").await.unwrap();
    let before = row.generation;
    row.wanted = vec![
        Share { weight: 9, replicas: 2, ..Share::whole(1, 2) },
        Share { scaled: Some(3), ..Share::whole(2, 1) },
    ];
    row.generation += 1;
    db.want(&row, None, before, None).await.unwrap();
    let plane = plane.restart(&folder).await;
    let task = plane.services.running_task("digits").unwrap();
    let mut observed = task.observed();
    observed.wait_for(|seen| seen.converged && seen.generation == before + 1).await.unwrap();
    assert_eq!(plane.routed(), [(1, 2), (2, 3)]);
    let last = plane.routes.history().pop().unwrap();
    assert_eq!(last.revisions.iter().map(|revision| revision.weight).collect::<Vec<_>>(), [9, 1]);
    // A command of today gives all requests to one revision again.
    plane.done(update(800)).await;
    assert_eq!(plane.routed(), [(3, 3)]);
}

#[tokio::test]
async fn a_workspace_of_the_version_before_wants_what_it_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::new(&folder).await;
    plane.done(OperationKind::Deploy(DeployRequest { replicas: Some(2), ..deploy() })).await;
    let older = "ALTER TABLE services ADD COLUMN replicas INTEGER NOT NULL DEFAULT 0; UPDATE services SET \
                 replicas = (SELECT replicas FROM wanted WHERE service = name); DROP TABLE wanted; \
                 ALTER TABLE services DROP COLUMN stem; ALTER TABLE revisions DROP COLUMN aliases; \
                 PRAGMA user_version = 7";
    // No query may run while its table changes.
    let (place, routes) = plane.end().await;
    let path = folder.path().join("drisse.db");
    let mut connection = sqlx::SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
    sqlx::raw_sql(older).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let plane = Plane::open(folder.path(), &place, &routes).await;
    let row = plane.services.db.existing_service("digits").await.unwrap();
    assert_eq!((row.revision, row.wanted), (1, vec![Share::whole(1, 2)]));
}
