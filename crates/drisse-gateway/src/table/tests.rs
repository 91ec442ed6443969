//! Which documents are accepted, and what is left of them after a restart.

use super::*;

fn document(generation: u64) -> RouteDocument {
    RouteDocument {
        service: "s".to_owned(),
        generation,
        max_wait_ms: 500,
        scoring_timeout_ms: 1000,
        ..RouteDocument::default()
    }
}

#[test]
fn what_is_acknowledged_is_there_after_a_restart_and_never_goes_back() {
    let folder = tempfile::tempdir().unwrap();
    let table = Table::open(folder.path(), 1).unwrap();
    assert_eq!(table.put(document(2)).unwrap().generation, 2);
    assert_eq!(table.put(document(2)).unwrap().generation, 2, "the same again is fine");
    assert!(matches!(table.put(document(1)), Err(TableError::Stale { current: 2, .. })));
    std::fs::write(folder.path().join("half"), "{").unwrap();
    std::fs::write(folder.path().join("bad.json"), "{").unwrap();
    let again = Table::open(folder.path(), 1).unwrap();
    assert_eq!(again.get("s"), Some(document(2)));
    assert!(!folder.path().join("half").exists());
    again.remove("s").unwrap();
    again.remove("s").unwrap();
    assert_eq!(Table::open(folder.path(), 1).unwrap().get("s"), None);
    std::fs::write(folder.path().join("other.json"), "").unwrap();
    let inner = Table::open(&folder.path().join("inner"), 1).unwrap();
    assert!(matches!(inner.remove("../other"), Err(TableError::Invalid { .. })));
    assert!(folder.path().join("other.json").exists());
}

#[test]
fn aliases_lead_to_their_service_unless_another_one_has_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let table = Table::open(folder.path(), 1).unwrap();
    let of =
        |table: &Table, name: &str| table.service_named(name).map(|found| found.document.service.clone());
    table.put(RouteDocument { aliases: vec!["a".to_owned(), "t".to_owned()], ..document(1) }).unwrap();
    table.put(RouteDocument { service: "t".to_owned(), ..document(1) }).unwrap();
    for table in [&table, &Table::open(folder.path(), 1).unwrap()] {
        let found = ["s", "a", "t", "b"].map(|name| of(table, name));
        assert_eq!(found.each_ref().map(Option::as_deref), [Some("s"), Some("s"), Some("t"), None]);
        assert_eq!((table.get("a"), table.generations().len()), (None, 2));
    }
    table.put(RouteDocument { aliases: vec!["b".to_owned()], ..document(2) }).unwrap();
    assert_eq!((of(&table, "a"), of(&table, "b").as_deref()), (None, Some("s")));
    // It moves to another service, whose routes come before the last ones of this.
    table
        .put(RouteDocument { aliases: vec!["b".to_owned()], service: "t".to_owned(), ..document(2) })
        .unwrap();
    table.put(document(3)).unwrap();
    assert_eq!(of(&table, "b").as_deref(), Some("t"));
    table.remove("t").unwrap();
    assert_eq!(of(&table, "b"), None);
}

#[test]
fn a_document_that_makes_no_sense_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let table = Table::open(folder.path(), 1).unwrap();
    let replica = |address: &str| {
        let revisions = serde_json::json!([{ "revision": 1, "weight": 1, "replicas": [
            { "id": "r", "address": address, "concurrency": 1 }] }]);
        RouteDocument { revisions: serde_json::from_value(revisions).unwrap(), ..document(1) }
    };
    for bad in [
        RouteDocument { service: "../s".to_owned(), ..document(1) },
        RouteDocument { keys: vec!["secret".to_owned()], ..document(1) },
        replica("unix:relative"),
        replica("ftp://x:1"),
        replica("https://x"),
    ] {
        let error = table.put(bad).unwrap_err();
        assert!(matches!(error, TableError::Invalid { .. }) && !error.to_string().contains("secret"));
    }
    assert!(table.generations().is_empty());
    table.put(replica("http://127.0.0.1:1")).unwrap();
}

#[test]
fn a_document_that_requires_an_unknown_field_is_refused_and_the_one_before_stays_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let table = Table::open(folder.path(), 1).unwrap();
    let other = serde_json::json!({ "shadow": { "share": 0.5 } }).as_object().unwrap().clone();
    let ignores = RouteDocument { requires: vec!["keys".to_owned()], other, ..document(1) };
    table.put(ignores.clone()).unwrap();
    let requires = RouteDocument { requires: vec!["shadow".to_owned()], generation: 2, ..ignores.clone() };
    let error = table.put(requires.clone()).unwrap_err();
    assert!(matches!(error, TableError::Invalid { .. }));
    assert_eq!(
        error.to_string(),
        "the routes of `s` cannot be used: they require `shadow`, which this gateway does not know: upgrade the \
         gateway (`drisse up`)"
    );
    assert_eq!(table.get("s"), Some(ignores.clone()));
    assert_eq!(Table::open(folder.path(), 1).unwrap().get("s"), Some(ignores), "unknown fields are on disk");
    std::fs::write(folder.path().join("s.json"), serde_json::to_vec(&requires).unwrap()).unwrap();
    assert_eq!(Table::open(folder.path(), 1).unwrap().get("s"), None, "a newer gateway wrote it");
}
