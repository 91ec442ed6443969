//! The conformance suite of the database: the promises of its methods, which hold for any backend. A new backend runs
//! the same tests with its own [`Scratch::open`].

use super::Db;
use super::models::{ModelFilter, ModelRow, Tags};
use super::operations::Outcome;
use super::services::{Counted, RevisionRow, ServiceFilter, ServiceRow, Share};
use drisse_core::{Demand, ErrorKind};
use drisse_wire::control::{
    Failure, ModelChange, OperationState, Resources, ServiceState, ServingOptions, TargetSpec,
};
use serde_json::json;
use std::ops::Deref;

/// An empty database.
struct Scratch {
    db: Db,
    folder: tempfile::TempDir,
}

impl Scratch {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { db: Db::open(&folder.path().join("drisse.db")).await.unwrap(), folder }
    }

    /// Closes the database and opens it again, as the next process does.
    async fn reopen(self) -> Self {
        self.db.close().await;
        Self { db: Db::open(&self.folder.path().join("drisse.db")).await.unwrap(), ..self }
    }
}

impl Deref for Scratch {
    type Target = Db;

    fn deref(&self) -> &Db {
        &self.db
    }
}

fn tags(pairs: &[(&str, &str)]) -> Tags {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn model(name: &str, version: u64) -> ModelRow {
    ModelRow {
        name: name.to_owned(),
        version,
        digest: format!("sha256:{name}{version}"),
        package: format!("sha256:package-{name}{version}"),
        size: 1 << 40,
        framework: Some("it's \"quoted\"".to_owned()),
        signature: json!({ "inputs": [] }),
        tags: tags(&[("team", "a=b"), ("%", "'")]),
        properties: tags(&[("auc", "0.9")]),
        created: 0,
        source: None,
    }
}

fn service(name: &str) -> ServiceRow {
    ServiceRow {
        name: name.to_owned(),
        target: "local".to_owned(),
        revision: 1,
        active: true,
        wanted: vec![Share::whole(1, 2)],
        state: ServiceState::Deploying,
        error: None,
        primary_key: "p".to_owned(),
        secondary_key: "s".to_owned(),
        tags: tags(&[("team", "a")]),
        created: 1,
        updated: 2,
        generation: 1,
        deleting: false,
        cors_origins: vec!["https://example.org".to_owned()],
        access_log: true,
        stem: Some("Digits 2".to_owned()),
    }
}

fn revision(service: &str, number: u64, model: &ModelRow) -> RevisionRow {
    RevisionRow {
        service: service.to_owned(),
        revision: number,
        model: model.name.clone(),
        version: model.version,
        digest: model.digest.clone(),
        package: model.package.clone(),
        auth: true,
        max_wait_ms: 500,
        scoring_timeout_ms: 60_000,
        created: 0,
        serving: ServingOptions::default(),
        resources: Resources { cpu_millis: Some(500), memory_bytes: Some(1 << 30), ..Resources::default() },
        aliases: vec![format!("{service}.old")],
    }
}

/// Stores a service with its first revision.
async fn deployed(db: &Db, name: &str, model: &ModelRow) -> ServiceRow {
    let row = service(name);
    db.want(&row, Some(&revision(name, 1, model)), 0, None).await.unwrap();
    row
}

#[tokio::test]
async fn a_model_is_found_by_version_digest_and_package_and_the_newest_by_its_name() {
    let db = Scratch::open().await;
    for version in 1..=11 {
        assert_eq!(db.next_version("m").await.unwrap(), version);
        db.insert_model(&model("m", version)).await.unwrap();
    }
    let db = db.reopen().await;
    let stored = db.model("m", Some(3)).await.unwrap();
    assert!(stored.created > 0);
    assert_eq!(ModelRow { created: 0, ..stored.clone() }, model("m", 3));
    assert_eq!(db.model("m", None).await.unwrap().version, 11);
    assert_eq!(db.model_by_digest("m", "sha256:m3").await.unwrap().as_ref(), Some(&stored));
    assert_eq!(db.model_by_package("m", "sha256:package-m3").await.unwrap(), Some(stored));
    assert_eq!(db.model_by_digest("other", "sha256:m3").await.unwrap(), None);
    for (name, version) in [("m", Some(12)), ("other", None)] {
        assert_eq!(db.model(name, version).await.unwrap_err().kind, ErrorKind::NotFound);
    }
    db.insert_model(&model("m", 3)).await.unwrap_err();
    db.set_source("m", 3, Some("/models/m.onnx")).await.unwrap();
    let all = db.all_models().await.unwrap();
    assert_eq!((all.len(), all[2].source.as_deref()), (11, Some("/models/m.onnx")));
}

#[tokio::test]
async fn properties_are_only_added_and_no_change_of_tags_is_lost() {
    let db = Scratch::open().await;
    db.insert_model(&model("m", 1)).await.unwrap();
    let tag = |key: &str| ModelChange { tags: tags(&[(key, "x")]), ..ModelChange::default() };
    let changes: Vec<_> = (0..8).map(|nth| tag(&nth.to_string())).collect();
    let changes = changes.iter().map(|change| db.change_model("m", None, change, false));
    futures_util::future::try_join_all(changes).await.unwrap();
    assert_eq!(db.model("m", None).await.unwrap().tags.len(), 10);
    let other = ModelChange { properties: tags(&[("auc", "1")]), ..ModelChange::default() };
    assert_eq!(db.change_model("m", None, &other, false).await.unwrap_err().kind, ErrorKind::Conflict);
    let added = ModelChange { properties: tags(&[("f1", "1"), ("auc", "0.9")]), ..ModelChange::default() };
    let removed = ModelChange { remove_tags: vec!["0".to_owned()], ..added };
    let changed = db.change_model("m", Some(1), &removed, false).await.unwrap();
    assert_eq!((changed.tags.len(), changed.properties.len()), (9, 2));
    let replaced = db.change_model("m", Some(1), &tag("only"), true).await.unwrap();
    assert_eq!(db.model("m", None).await.unwrap(), replaced);
    assert_eq!(replaced.tags, tags(&[("only", "x")]));
}

#[tokio::test]
async fn models_are_listed_in_pages_by_what_they_have() {
    let db = Scratch::open().await;
    for (name, version) in [("b", 1), ("a", 2), ("a", 10), ("a", 1)] {
        db.insert_model(&model(name, version)).await.unwrap();
    }
    let untagged = ModelRow { tags: Tags::new(), framework: None, ..model("c", 1) };
    db.insert_model(&untagged).await.unwrap();
    let list = async |filter: ModelFilter| {
        let page = db.models(&filter).await.unwrap();
        let names: Vec<_> = page.items.iter().map(|(model, _)| model.full_name()).collect();
        (names.join(" "), page.next)
    };
    let first = list(ModelFilter { limit: 3, ..ModelFilter::default() }).await;
    assert_eq!(first, ("a:1 a:2 a:10".to_owned(), Some("a:10".to_owned())));
    let after = Some(("a".to_owned(), 10));
    assert_eq!(
        list(ModelFilter { limit: 3, after, ..ModelFilter::default() }).await,
        ("b:1 c:1".to_owned(), None)
    );
    let tagged = |tag: &str| ModelFilter { tag: Some(tag.to_owned()), limit: 9, ..ModelFilter::default() };
    for (tag, found) in
        [("team", 4), ("team=a=b", 4), ("%='", 4), ("team=a", 0), ("te%", 0), ("' OR TRUE --", 0)]
    {
        assert_eq!(db.models(&tagged(tag)).await.unwrap().items.len(), found, "{tag}");
    }
    let framework = Some("it's \"quoted\"".to_owned());
    let filter = ModelFilter { framework, name: Some("a".to_owned()), limit: 9, ..ModelFilter::default() };
    assert_eq!(list(filter).await.0, "a:1 a:2 a:10");
}

#[tokio::test]
async fn a_model_is_deleted_only_if_no_kept_revision_uses_it() {
    let db = Scratch::open().await;
    let used = model("m", 1);
    for row in [&used, &model("m", 2)] {
        db.insert_model(row).await.unwrap();
    }
    deployed(&db, "s", &used).await;
    assert_eq!(db.users("m", 1).await.unwrap(), ["s"]);
    let refused = db.delete_model("m", 1).await.unwrap_err();
    assert!(refused.kind == ErrorKind::Conflict && refused.failure.message.contains("`s`"), "{refused:?}");
    db.delete_model("m", 2).await.unwrap();
    assert_eq!(db.all_models().await.unwrap().len(), 1);
    db.set_package("m", 1, "sha256:new").await.unwrap();
    assert_eq!(db.model("m", None).await.unwrap().package, "sha256:new");
    assert_eq!(db.revision("s", 1).await.unwrap().unwrap().package, "sha256:new");
}

#[tokio::test]
async fn a_service_is_written_whole_or_not_at_all_and_only_over_the_generation_it_is_based_on() {
    let db = Scratch::open().await;
    let model = model("m", 1);
    let operation = db.begin_operation("deploy", "s", &json!({}), None).await.unwrap().document.id;
    let row = service("s");
    let decided = json!({ "revision": 1 });
    db.want(&row, Some(&revision("s", 1, &model)), 0, Some((operation, &decided))).await.unwrap();
    let db = db.reopen().await;
    assert_eq!(db.service("s").await.unwrap().as_ref(), Some(&row));
    assert_eq!(db.operation(operation).await.unwrap().progress, decided);
    let mut next = ServiceRow { generation: 2, revision: 2, ..row.clone() };
    next.wanted =
        vec![Share { weight: 9, ..Share::whole(1, 2) }, Share { scaled: Some(3), ..Share::whole(2, 1) }];
    for expected in [0, 2] {
        let late = db.want(&next, Some(&revision("s", 2, &model)), expected, None).await.unwrap_err();
        assert_eq!(late.kind, ErrorKind::Conflict);
    }
    assert_eq!((db.service("s").await.unwrap(), db.revisions("s").await.unwrap().len()), (Some(row), 1));
    // The number of a revision is unique: the service is not changed either.
    db.want(&next, Some(&revision("s", 1, &model)), 1, None).await.unwrap_err();
    assert_eq!(db.service("s").await.unwrap().unwrap().generation, 1);
    db.want(&next, Some(&revision("s", 2, &model)), 1, None).await.unwrap();
    assert_eq!(db.service("s").await.unwrap(), Some(next));
    let stored = db.revision("s", 2).await.unwrap().unwrap();
    assert_eq!(RevisionRow { created: 0, ..stored }, revision("s", 2, &model));
    assert_eq!(db.existing_service("other").await.unwrap_err().kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn an_alias_stays_with_its_service_until_the_operation_that_removes_it_has_ended() {
    let db = Scratch::open().await;
    let model = model("m", 1);
    let row = deployed(&db, "s", &model).await;
    let other = service("other");
    let named = |name: &str| RevisionRow { aliases: vec![name.to_owned()], ..revision("other", 1, &model) };
    for taken in ["s", "s.old"] {
        let refused = db.want(&other, Some(&named(taken)), 0, None).await.unwrap_err();
        assert!(refused.failure.message.ends_with("is already a name of service `s`"), "{refused:?}");
    }
    assert_eq!(db.service("other").await.unwrap(), None);
    let refused = db.want(&service("s.old"), Some(&revision("s.old", 1, &model)), 0, None).await.unwrap_err();
    assert_eq!(refused.failure.message, "`s.old` is already a name of service `s`");
    let operation = db.begin_operation("update", "s", &json!({}), None).await.unwrap().document.id;
    let decided = json!({ "generation": 2, "before": { "revision": 1 } });
    let next = ServiceRow { generation: 2, revision: 2, wanted: vec![Share::whole(2, 1)], ..row };
    let without = RevisionRow { aliases: vec![], ..revision("s", 2, &model) };
    db.want(&next, Some(&without), 1, Some((operation, &decided))).await.unwrap();
    db.want(&other, Some(&named("s.old")), 0, None).await.unwrap_err();
    let ended = Outcome { state: OperationState::Succeeded, error: None, result: json!(null) };
    db.finish_operation(operation, &ended, &[]).await.unwrap();
    db.want(&other, Some(&named("s.old")), 0, None).await.unwrap();
}

#[tokio::test]
async fn old_revisions_are_forgotten_unless_they_serve_or_are_wanted() {
    let db = Scratch::open().await;
    let model = model("m", 1);
    let mut row = deployed(&db, "s", &model).await;
    for number in 2..=3 {
        row = ServiceRow { generation: number, revision: number, ..row };
        db.want(&row, Some(&revision("s", number, &model)), number - 1, None).await.unwrap();
    }
    for number in 4..=30 {
        row = ServiceRow { generation: number, revision: number, ..row };
        row.wanted = vec![Share::whole(3, 1), Share::whole(number, 1)];
        db.want(&row, Some(&revision("s", number, &model)), number - 1, None).await.unwrap();
    }
    let kept: Vec<_> = db.revisions("s").await.unwrap().iter().map(|row| row.revision).collect();
    assert_eq!(kept, (11..=30).rev().chain([3]).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_observed_state_is_kept_only_of_the_generation_that_is_wanted() {
    let db = Scratch::open().await;
    deployed(&db, "s", &model("m", 1)).await;
    let failure = Failure::new("it died").hint("look");
    db.set_state("s", 1, ServiceState::Failed, Some(&failure)).await.unwrap();
    db.set_state("s", 2, ServiceState::Ready, None).await.unwrap();
    let row = db.service("s").await.unwrap().unwrap();
    assert_eq!((row.state, row.error), (ServiceState::Failed, Some(failure)));
    db.set_state("s", 1, ServiceState::Ready, None).await.unwrap();
    let row = db.service("s").await.unwrap().unwrap();
    assert_eq!((row.state, row.error), (ServiceState::Ready, None));
}

#[tokio::test]
async fn services_are_listed_in_pages_and_counted_by_what_they_are() {
    let db = Scratch::open().await;
    for (name, version) in [("c", 1), ("a", 2), ("b", 1)] {
        deployed(&db, name, &model("m", version)).await;
    }
    db.set_state("b", 1, ServiceState::Ready, None).await.unwrap();
    let list = async |filter: ServiceFilter| {
        let page = db.services(&filter).await.unwrap();
        (page.items.into_iter().map(|(row, _)| row.name).collect::<String>(), page.next)
    };
    let any = || ServiceFilter { limit: 9, ..ServiceFilter::default() };
    assert_eq!(list(ServiceFilter { limit: 2, ..any() }).await, ("ab".to_owned(), Some("b".to_owned())));
    assert_eq!(list(ServiceFilter { after: Some("b".to_owned()), ..any() }).await, ("c".to_owned(), None));
    for (model, found) in [("m", "abc"), ("m:1", "bc"), ("m:x", ""), ("other", "")] {
        assert_eq!(list(ServiceFilter { model: Some(model.to_owned()), ..any() }).await.0, found, "{model}");
    }
    assert_eq!(list(ServiceFilter { state: Some("Ready".to_owned()), ..any() }).await.0, "b");
    assert_eq!(list(ServiceFilter { target: Some("container".to_owned()), ..any() }).await.0, "");
    assert_eq!(list(ServiceFilter { tag: Some("team=a".to_owned()), ..any() }).await.0, "abc");
    let states = db.service_counts(Counted::State).await.unwrap();
    assert_eq!(states, [("Deploying".to_owned(), 2), ("Ready".to_owned(), 1)].into());
    assert_eq!(db.service_counts(Counted::Target).await.unwrap(), [("local".to_owned(), 3)].into());
    assert_eq!(db.service_names().await.unwrap().len(), 3);
}

#[tokio::test]
async fn the_demand_on_a_target_counts_every_wanted_replica_of_active_services() {
    let db = Scratch::open().await;
    let model = model("m", 1);
    for name in ["one", "two"] {
        deployed(&db, name, &model).await;
    }
    db.want(
        &ServiceRow { active: false, ..service("failed") },
        Some(&revision("failed", 1, &model)),
        0,
        None,
    )
    .await
    .unwrap();
    let scaled = Share { scaled: Some(5), ..Share::whole(1, 2) };
    let row = ServiceRow { generation: 2, wanted: vec![scaled], ..service("two") };
    db.want(&row, None, 1, None).await.unwrap();
    let of = |services, replicas: u64| Demand { services, cpu: replicas * 500, memory: replicas << 30 };
    assert_eq!(db.demand("local", "two").await.unwrap(), (of(1, 2), of(1, 5)));
    assert_eq!(db.demand("local", "new").await.unwrap(), (of(2, 7), of(0, 0)));
    assert_eq!(db.demand("container", "new").await.unwrap(), (of(0, 0), of(0, 0)));
}

#[tokio::test]
async fn only_a_service_that_is_being_deleted_is_forgotten_with_all_its_rows() {
    let db = Scratch::open().await;
    let model = model("m", 1);
    db.insert_model(&model).await.unwrap();
    let row = deployed(&db, "s", &model).await;
    db.forget_service("s").await.unwrap();
    assert!(db.service("s").await.unwrap().is_some());
    db.want(&ServiceRow { deleting: true, generation: 2, ..row }, None, 1, None).await.unwrap();
    db.forget_service("s").await.unwrap();
    assert!(db.service("s").await.unwrap().is_none() && db.revisions("s").await.unwrap().is_empty());
    db.delete_model("m", 1).await.unwrap();
}

#[tokio::test]
async fn an_operation_ends_with_its_events_and_without_its_secrets() {
    let db = Scratch::open().await;
    let request = json!({ "name": "s", "resources": { "secret_env": { "TOKEN": "hunter2" } } });
    let begun = db.begin_operation("deploy", "s", &request, Some(99)).await.unwrap();
    let other = db.begin_operation("delete", "other", &json!(null), None).await.unwrap();
    assert!(other.document.id > begun.document.id);
    assert_eq!((&begun.request, begun.deadline), (&request, Some(99)));
    let db = db.reopen().await;
    assert_eq!(db.running_operations().await.unwrap(), [begun.clone(), other]);
    let outcome = Outcome {
        state: OperationState::Failed,
        error: Some(Failure::new("it died")),
        result: json!({ "revision": 1 }),
    };
    let (id, events) = (begun.document.id, [(1, "one".to_owned()), (2, "two".to_owned())]);
    db.finish_operation(id, &outcome, &events).await.unwrap();
    let ended = db.operation(id).await.unwrap();
    assert_eq!(ended.request, json!({ "name": "s", "resources": {} }));
    assert_eq!((ended.document.state, ended.document.error), (outcome.state, outcome.error));
    assert!(ended.document.finished_at.is_some() && ended.document.result == outcome.result);
    let texts = async |after| -> Vec<String> {
        db.events(id, after).await.unwrap().into_iter().map(|event| event.message).collect()
    };
    assert_eq!(
        (texts(0).await, texts(1).await),
        (vec!["one".to_owned(), "two".to_owned()], vec!["two".to_owned()])
    );
    assert_eq!(db.running_operations().await.unwrap().len(), 1);
    let page = db.operations(None, None, 1).await.unwrap();
    assert_eq!((page.items[0].kind.as_str(), page.next.as_deref()), ("delete", Some("2")));
    assert_eq!(db.operations(Some("s"), None, 9).await.unwrap().items.len(), 1);
    assert_eq!(db.operation(7).await.unwrap_err().kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn settings_targets_and_signatures_are_kept_until_they_are_unset() {
    let db = Scratch::open().await;
    assert_eq!(db.setting::<Option<u32>>("port").await.unwrap(), None);
    db.keep_setting("port", Some(&1)).await.unwrap();
    db.keep_setting("port", Some(&2)).await.unwrap();
    let spec: TargetSpec = serde_json::from_value(json!({ "kind": "container" })).unwrap();
    db.keep_target("there", Some(&spec)).await.unwrap();
    db.insert_model(&model("m", 1)).await.unwrap();
    let package = model("m", 1).package;
    for package in [&*package, &*package, "sha256:gone"] {
        db.insert_referrer(package, "sha256:signature").await.unwrap();
    }
    let db = db.reopen().await;
    assert_eq!(db.setting::<Option<u32>>("port").await.unwrap(), Some(Some(2)));
    assert_eq!(db.attached_targets().await.unwrap(), [("there".to_owned(), spec)]);
    assert_eq!(db.referrers(&package).await.unwrap(), ["sha256:signature"]);
    assert_eq!(db.every_referrer().await.unwrap(), ["sha256:signature"]);
    db.forget_referrers().await.unwrap();
    assert!(db.referrers("sha256:gone").await.unwrap().is_empty());
    db.keep_setting::<u32>("port", None).await.unwrap();
    db.keep_target("there", None).await.unwrap();
    assert_eq!(db.setting::<Option<u32>>("port").await.unwrap(), Some(None));
    assert!(db.attached_targets().await.unwrap().is_empty());
}
