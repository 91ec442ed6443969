//! Changing what is wanted of a service, and seeing it through: deploy, update, rollback, keys, delete.

use crate::control::Control;
use crate::db::models::ModelRow;
use crate::db::services::{RevisionRow, ServiceRow};
use crate::db::{Result, now};
use crate::keys;
use crate::operations::{Ended, Op};
use crate::problem::Problem;
use crate::registry::{Registration, split_version};
use crate::room::{self, Asked, check_resources};
use drisse_core::{Replica, ServiceName, Serving};
use drisse_registry::signature_of;
use drisse_wire::control::{
    DeployRequest, KeyName, KeyRequest, ModelChoice, Resources, RollbackRequest, ServiceState, ServingOptions,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

const DEFAULT_MAX_WAIT_MS: u64 = 500;
const DEFAULT_SCORING_TIMEOUT_MS: u64 = 60_000;

/// More on one machine is a mistake in the number.
const MAX_REPLICAS: u32 = 100;

/// What an operation decided, kept with it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Decided {
    pub(crate) generation: u64,
    pub(crate) revision: u64,
    pub(crate) changed: bool,
    /// Where to go back to: nowhere, for a first deployment.
    pub(crate) before: Option<Before>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Before {
    pub(crate) revision: u64,
    pub(crate) replicas: u32,
}

impl Control {
    pub(crate) async fn do_deploy(self: &Arc<Self>, op: &Op) -> std::result::Result<Value, Ended> {
        let request: DeployRequest = op.request()?;
        let name = op.row.document.subject.clone();
        let decided = match decided(op) {
            Some(decided) => decided,
            None => {
                let model = tokio::select! {
                    model = self.choose(op, &request) => model?,
                    ended = op.cut_short() => return Err(ended),
                };
                // Not to be cut short: what is written down is seen through or taken back.
                self.decide(op, &name, &request, model).await?
            }
        };
        self.see_through(op, &name, &decided).await?;
        Ok(json!({ "revision": decided.revision, "changed": decided.changed }))
    }

    /// The model asked for, registered where it is a file.
    async fn choose(self: &Arc<Self>, op: &Op, request: &DeployRequest) -> Result<Option<ModelRow>> {
        match &request.model {
            None => Ok(None),
            Some(ModelChoice::Registered(text)) => {
                let (name, version) = split_version(text)?;
                self.db.model(name, version).await.map(Some)
            }
            Some(ModelChoice::Path(path)) => {
                let registration = Registration {
                    path: PathBuf::from(path),
                    // A service's name given for a file is its model's name too.
                    name: op.row.document.subject.clone(),
                    sample: request.sample.clone().map(PathBuf::from),
                    tags: None,
                    properties: Default::default(),
                };
                self.register(op, registration).await.map(Some)
            }
        }
    }

    /// Compares with what is wanted, and writes down what is wanted now.
    async fn decide(
        self: &Arc<Self>,
        op: &Op,
        name: &str,
        request: &DeployRequest,
        model: Option<ModelRow>,
    ) -> Result<Decided> {
        // Nobody deletes the model until a revision refers to it.
        let _models = self.models_lock.lock().await;
        if let Some(model) = &model {
            self.db.model(&model.name, Some(model.version)).await?;
        }
        let there = self.db.service(name).await?;
        let current = match &there {
            Some(service) => self.db.revision(name, service.revision).await?,
            None => None,
        };
        // One that never worked has no clients who could notice.
        let worked = there.as_ref().is_some_and(|service| service.active);
        if let (Some(current), Some(model)) = (&current, &model)
            && worked
            && !request.replace
        {
            self.same_signature(name, current, model).await?;
        }
        let expected = there.as_ref().map_or(0, |service| service.generation);
        let mut row = match there {
            Some(service) => service,
            None => self.new_service(name)?,
        };
        let before = Before { revision: row.revision, replicas: row.replicas };
        let (runs, package) = match (&model, &current) {
            (Some(model), _) => (model.full_name(), &model.package),
            (None, Some(current)) => (current.model_name(), &current.package),
            (None, None) => return Err(Problem::invalid("no model is named, and there is none to keep")),
        };
        self.check_signed(&runs, package).await?;
        self.check_fits(name, (expected > 0).then_some(&row), request).await?;
        let next = self.next_revision(&row, current.as_ref(), model.as_ref(), request).await?;
        let old = row.clone();
        apply_options(&mut row, request);
        let changed = next.is_some() || row != old || !row.active;
        row.active = true;
        if let Some(next) = &next {
            row.revision = next.revision;
            row.updated = now();
        }
        if changed {
            row.generation = expected + 1;
            row.state = if worked { ServiceState::Updating } else { ServiceState::Deploying };
            row.error = None;
        }
        let decided = Decided {
            generation: row.generation,
            revision: row.revision,
            changed,
            before: worked.then_some(before),
        };
        if changed {
            let progress = json!(decided);
            self.db.want(&row, next.as_ref(), expected, Some((op.id(), &progress))).await?;
            op.running.tell(format!("revision {} of service {name} is wanted", row.revision));
        } else {
            op.running.tell(format!("nothing changed: revision {} is wanted already", row.revision));
        }
        Ok(decided)
    }

    /// Whether a replica of a revision has ended, and nothing takes its place.
    fn has_ended(&self, revision: &RevisionRow) -> bool {
        let restart = room::restart(&revision.resources);
        let actor = self.actors().get(&revision.service).cloned();
        let ended = |replica: &Replica| {
            replica.revision == revision.revision
                && replica.death().is_some_and(|death| restart.leaves(death))
        };
        actor.is_some_and(|actor| actor.seen.borrow().replicas.iter().any(ended))
    }

    fn new_service(&self, name: &str) -> Result<ServiceRow> {
        Ok(ServiceRow {
            name: name.to_owned(),
            target: room::LOCAL.to_owned(),
            revision: 0,
            active: false,
            replicas: 1,
            state: ServiceState::Deploying,
            error: None,
            primary_key: keys::make()?,
            secondary_key: keys::make()?,
            tags: Default::default(),
            created: now(),
            updated: now(),
            generation: 0,
            deleting: false,
            cors_origins: vec![],
            access_log: false,
        })
    }

    /// The revision that is wanted now, where it is not the one that was.
    async fn next_revision(
        &self,
        service: &ServiceRow,
        current: Option<&RevisionRow>,
        model: Option<&ModelRow>,
        request: &DeployRequest,
    ) -> Result<Option<RevisionRow>> {
        let newest = self.db.revisions(&service.name).await?.first().map_or(0, |newest| newest.revision);
        let mut next = match (current, model) {
            (Some(current), _) => current.clone(),
            (None, Some(model)) => RevisionRow {
                service: service.name.clone(),
                revision: 0,
                model: model.name.clone(),
                version: model.version,
                digest: model.digest.clone(),
                package: model.package.clone(),
                auth: true,
                max_wait_ms: DEFAULT_MAX_WAIT_MS,
                scoring_timeout_ms: DEFAULT_SCORING_TIMEOUT_MS,
                created: now(),
                serving: ServingOptions::default(),
                resources: Resources::default(),
            },
            (None, None) => return Err(Problem::invalid("no model is named, and there is none to keep")),
        };
        if let Some(model) = model {
            next.model.clone_from(&model.name);
            next.version = model.version;
            next.digest.clone_from(&model.digest);
            next.package.clone_from(&model.package);
        }
        next.auth = request.auth.unwrap_or(next.auth);
        next.max_wait_ms = request.max_wait_ms.unwrap_or(next.max_wait_ms);
        next.scoring_timeout_ms = request.scoring_timeout_ms.unwrap_or(next.scoring_timeout_ms);
        next.serving = request.serving.over(next.serving);
        next.resources = request.resources.clone().over(next.resources);
        // One that failed or has ended is tried again under a new number: what died under the old one is history.
        let goes_on = |current: &RevisionRow| current.same_as(&next) && !self.has_ended(current);
        let same = current.is_some_and(goes_on) && service.active;
        next.revision = newest + 1;
        Ok((!same).then_some(next))
    }

    async fn same_signature(&self, name: &str, current: &RevisionRow, model: &ModelRow) -> Result<()> {
        let Ok(old) = self.db.model(&current.model, Some(current.version)).await else { return Ok(()) };
        let (Some(old), Some(new)) = (signature_of(&old.signature), signature_of(&model.signature)) else {
            return Ok(());
        };
        match old.difference(&new) {
            None => Ok(()),
            Some(difference) => {
                let message =
                    format!("cannot update service `{name}` to model `{}`: {difference}", model.full_name());
                Err(Problem::conflict(message)
                    .hint("clients would notice; deploy with --replace if that is meant"))
            }
        }
    }

    pub(crate) async fn do_rollback(self: &Arc<Self>, op: &Op) -> std::result::Result<Value, Ended> {
        let request: RollbackRequest = op.request()?;
        let name = op.row.document.subject.clone();
        let decided = match decided(op) {
            Some(decided) => decided,
            None => {
                let mut row = self.db.existing_service(&name).await?;
                let to = self.earlier(&row, request.revision).await?;
                let expected = row.generation;
                let before = row.active.then_some(Before { revision: row.revision, replicas: row.replicas });
                let changed = row.revision != to || !row.active;
                if let Some(earlier) = self.db.revision(&name, to).await? {
                    let (service, target, replicas) = (&*name, &*row.target, row.replicas);
                    let asked = Asked { service, target, resources: &earlier.resources, replicas };
                    self.check_room(&asked).await?;
                    self.check_signed(&earlier.model_name(), &earlier.package).await?;
                }
                if changed {
                    row.generation += 1;
                    row.state = if row.active { ServiceState::Updating } else { ServiceState::Deploying };
                    (row.revision, row.active, row.error, row.updated) = (to, true, None, now());
                }
                let decided = Decided { generation: row.generation, revision: to, changed, before };
                self.db.want(&row, None, expected, Some((op.id(), &json!(decided)))).await?;
                op.running.tell(format!("revision {to} of service {name} is wanted again"));
                decided
            }
        };
        self.see_through(op, &name, &decided).await?;
        Ok(json!({ "revision": decided.revision, "changed": decided.changed }))
    }

    /// The revision named, or the one before the wanted one.
    async fn earlier(&self, service: &ServiceRow, named: Option<u64>) -> Result<u64> {
        let kept: Vec<_> = self.db.revisions(&service.name).await?.iter().map(|r| r.revision).collect();
        let found = match named {
            Some(named) => kept.iter().find(|&&revision| revision == named),
            None => kept.iter().find(|&&revision| revision < service.revision),
        };
        found.copied().ok_or_else(|| {
            let kept: Vec<_> = kept.iter().map(u64::to_string).collect();
            let message = match named {
                Some(named) => format!("service `{}` has no revision {named}", service.name),
                None => format!("service `{}` has no revision before {}", service.name, service.revision),
            };
            Problem::invalid(message).hint(format!("it has {}", kept.join(", ")))
        })
    }

    pub(crate) async fn do_keys(self: &Arc<Self>, op: &Op) -> std::result::Result<Value, Ended> {
        let request: KeyRequest = op.request()?;
        let name = op.row.document.subject.clone();
        let decided = match decided(op) {
            Some(decided) => decided,
            None => {
                let mut row = self.db.existing_service(&name).await?;
                let expected = row.generation;
                let key = match request.value {
                    Some(key) => key,
                    None => keys::make()?,
                };
                match request.key {
                    KeyName::Primary => row.primary_key = key,
                    KeyName::Secondary => row.secondary_key = key,
                }
                row.generation += 1;
                let decided = Decided {
                    generation: row.generation,
                    revision: row.revision,
                    changed: true,
                    before: None,
                };
                self.db.want(&row, None, expected, Some((op.id(), &json!(decided)))).await?;
                decided
            }
        };
        // The key has changed whatever happens; success says that everybody knows.
        self.settle(op, &name, decided.generation).await?;
        op.running.tell("every replica and the gateway have confirmed the keys");
        Ok(Value::Null)
    }

    pub(crate) async fn do_delete(self: &Arc<Self>, op: &Op) -> std::result::Result<Value, Ended> {
        let name = op.row.document.subject.clone();
        if op.request::<Option<bool>>()?.unwrap_or_default() {
            self.force(&name);
        }
        if let Some(mut row) = self.db.service(&name).await? {
            if !row.deleting {
                let expected = row.generation;
                (row.deleting, row.state, row.generation) = (true, ServiceState::Deleting, expected + 1);
                self.db.want(&row, None, expected, None).await?;
            }
            self.see_gone(op, &name, row.generation).await?;
        }
        op.running.tell(format!("service {name} is gone"));
        Ok(Value::Null)
    }
}

fn decided(op: &Op) -> Option<Decided> {
    serde_json::from_value(op.row.progress.clone()).ok()
}

pub(crate) fn parsed(name: &str) -> Result<ServiceName> {
    name.parse().map_err(|error| Problem::invalid("that is no service's name").because(&error))
}

/// What of a request is the service's and not a revision's.
fn apply_options(row: &mut ServiceRow, request: &DeployRequest) {
    if let Some(target) = &request.target {
        row.target.clone_from(target);
    }
    if let Some(replicas) = request.replicas {
        row.replicas = replicas;
    }
    if let Some(tags) = &request.tags {
        row.tags.clone_from(tags);
    }
    if let Some(origins) = &request.cors_origins {
        row.cors_origins.clone_from(origins);
    }
    row.access_log = request.access_log.unwrap_or(row.access_log);
}

/// Browsers name origins without a path or a slash at the end.
fn is_origin(origin: &str) -> bool {
    let host = origin.split_once("://").map(|(_, host)| host);
    let plain =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    matches!(origin, "*" | "null") || host.is_some_and(plain)
}

/// Refuses what cannot be meant, before an operation is begun.
pub(crate) fn check_options(request: &DeployRequest) -> Result<()> {
    if request.replicas.is_some_and(|replicas| replicas == 0 || replicas > MAX_REPLICAS) {
        return Err(Problem::invalid(format!("replicas are from 1 to {MAX_REPLICAS}")));
    }
    let origins = request.cors_origins.iter().flatten();
    if let Some(wrong) = origins.into_iter().find(|origin| !is_origin(origin)) {
        let message = format!("`{wrong}` is no origin of web pages");
        return Err(
            Problem::invalid(message).hint("one is `https://HOST` or `https://HOST:PORT`; `*` is every one")
        );
    }
    let ServingOptions { threads, workers, max_batch, .. } = request.serving;
    if [threads, workers, max_batch].iter().flatten().any(|&number| number > Serving::MAX) {
        let message = format!("threads, workers and rows of a run are at most {}", Serving::MAX);
        return Err(Problem::invalid(message).hint("0 is what runs best"));
    }
    check_resources(&request.resources)?;
    if request.tags.iter().flatten().any(|(key, value)| format!("{key}{value}").contains(char::is_control)) {
        return Err(Problem::invalid("a tag has a line break or another control character in it"));
    }
    let zero = |time: Option<u64>| time == Some(0);
    if zero(request.max_wait_ms) || zero(request.scoring_timeout_ms) || zero(request.timeout_ms) {
        return Err(Problem::invalid("a time limit is more than nothing"));
    }
    Ok(())
}
