//! Deploying and updating a service.

use super::Services;
use super::decision::{Before, Decided};
use super::options::apply_options;
use super::revision::new_service;
use crate::db::models::ModelRow;
use crate::db::now;
use crate::db::services::ServiceRow;
use crate::error::{ControlError, Result};
use crate::models::split_version;
use crate::running::{OperationError, Running};
use drisse_wire::control::{DeployRequest, ModelChoice, RegisterRequest, ServiceState};
use serde_json::{Value, json};

impl Services {
    /// Deploys or updates a service, and waits until it has converged.
    pub(crate) async fn deploy(&self, op: &Running, request: DeployRequest) -> Result<Value, OperationError> {
        let decided = match Decided::of(op) {
            Some(decided) => decided,
            None => {
                let model = op.unless_cut_short(self.choose(op, &request)).await?;
                // This is not cut short: a stored decision is completed or reverted.
                self.decide(op, &request, model).await?
            }
        };
        self.complete(op, &decided).await?;
        Ok(json!({ "revision": decided.revision, "changed": decided.changed }))
    }

    /// Returns the model that a request names; `None` if it names none. Registers the model if its files are named.
    async fn choose(&self, op: &Running, request: &DeployRequest) -> Result<Option<ModelRow>> {
        let files = match &request.model {
            None => return Ok(None),
            Some(ModelChoice::Registered(text)) => {
                let (name, version) = split_version(text)?;
                return self.db.model(name, version).await.map(Some);
            }
            Some(ModelChoice::Path(path)) => {
                RegisterRequest { path: path.clone(), ..RegisterRequest::default() }
            }
            Some(ModelChoice::Uploaded(files)) => {
                RegisterRequest { uploaded: Some(files.clone()), ..RegisterRequest::default() }
            }
        };
        if let (Some(service), Some(stem)) = (self.db.service(op.subject()).await?, &request.stem) {
            check_same_stem(&service, stem)?;
        }
        let (sample, follow_links) = (request.sample.clone(), request.follow_links);
        // The model gets the service's name.
        let files = RegisterRequest { sample, follow_links, ..files };
        self.models.register(&op.progress, op.subject(), files).await.map(Some)
    }

    /// Compares a request with the desired state, and stores the new desired state.
    async fn decide(
        &self,
        op: &Running,
        request: &DeployRequest,
        model: Option<ModelRow>,
    ) -> Result<Decided> {
        let name = op.subject();
        // The model must not be deleted before a revision refers to it.
        let _models = self.models.lock().await;
        if let Some(model) = &model {
            self.db.model(&model.name, Some(model.version)).await?;
        }
        let existing = self.db.service(name).await?;
        let current = match &existing {
            Some(service) => self.db.revision(name, service.revision).await?,
            None => None,
        };
        // A service that never worked has no clients that a change could break.
        let worked = existing.as_ref().is_some_and(|service| service.active);
        if let (Some(current), Some(model)) = (&current, &model)
            && worked
            && !request.replace
        {
            self.check_same_signature(name, current, model).await?;
        }
        let expected = existing.as_ref().map_or(0, |service| service.generation);
        let mut row = match existing {
            Some(service) => service,
            None => ServiceRow { stem: request.stem.clone(), ..new_service(name)? },
        };
        let before = Before::of(&row);
        let (runs, package) = match (&model, &current) {
            (Some(model), _) => (model.full_name(), &model.package),
            (None, Some(current)) => (current.model_name(), &current.package),
            (None, None) => {
                let message =
                    format!("cannot deploy service `{name}`: no model is given, and it has none yet");
                return Err(ControlError::invalid(message));
            }
        };
        self.models.check_signed(&runs, package).await?;
        self.check_fits(name, (expected > 0).then_some(&row), request).await?;
        let next = self.next_revision(&row, current.as_ref(), model.as_ref(), request).await?;
        let old = row.clone();
        apply_options(&mut row, request);
        let replicas = request.replicas.unwrap_or(row.asked_replicas().max(1));
        row.want_only(next.as_ref().map_or(row.revision, |next| next.revision), replicas);
        let changed = row != old || !row.active;
        row.active = true;
        if next.is_some() {
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
            op.progress.add(format!("revision {} of service {name} is wanted", row.revision));
        } else {
            op.progress.add(format!("nothing changed: revision {} is wanted already", row.revision));
        }
        Ok(decided)
    }
}

/// Refuses a file whose name was made into that of a service which was made of another one: it is probably another
/// model, which must not take over the service's clients.
fn check_same_stem(service: &ServiceRow, stem: &str) -> Result<()> {
    let same = match &service.stem {
        Some(other) => other == stem,
        // The user named the service, as the file is named.
        None => service.name == stem,
    };
    if same {
        return Ok(());
    }
    let name = &service.name;
    let of = service.stem.as_ref().map_or_else(String::new, |other| format!(", which was made of `{other}`"));
    Err(ControlError::conflict(format!("the name of `{stem}` would be that of service `{name}`{of}")).hint(format!(
        "choose a name with --name NAME; `drisse update {name} FILE` makes the file that service's next version"
    )))
}
