//! The desired state of services, and their revisions.

use super::models::{Tags, has_entry};
use super::{Db, json, now, text};
use crate::error::{ControlError, Result};
use drisse_core::{Demand, MaxWait};
use drisse_wire::control::{Failure, Page, Resources, ServiceState, ServingOptions};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{Sqlite, SqliteRow};
use sqlx::{QueryBuilder, Row};
use std::collections::BTreeMap;
use std::time::Duration;

/// The number of revisions of a service that are kept for `rollback`. Their models cannot be deleted.
const KEPT_REVISIONS: u64 = 20;

/// A name or alias of the service `?` that another service has, too, or gets again if an operation fails.
const TAKEN_NAME: &str = "WITH names AS (
        SELECT name AS service, name FROM services
        UNION ALL
        SELECT wanted.service, alias.value FROM wanted
            JOIN revisions USING (service, revision) JOIN json_each(revisions.aliases) AS alias
        UNION ALL
        SELECT subject, alias.value FROM operations
            JOIN revisions ON service = subject AND revision = progress ->> '$.before.revision'
            JOIN json_each(revisions.aliases) AS alias WHERE operations.state = 'Running'
    )
    SELECT others.name, others.service FROM names AS its JOIN names AS others
        ON others.name = its.name AND others.service != its.service
    WHERE its.service = ? LIMIT 1";

/// The desired state of a service.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct ServiceRow {
    pub(crate) name: String,
    pub(crate) target: String,
    /// The revision that commands change and show, one of the wanted ones.
    pub(crate) revision: u64,
    pub(crate) active: bool,
    /// The wanted revisions; empty only if the service has no revision yet.
    pub(crate) wanted: Vec<Share>,
    pub(crate) state: ServiceState,
    pub(crate) error: Option<Failure>,
    pub(crate) primary_key: String,
    pub(crate) secondary_key: String,
    pub(crate) tags: Tags,
    pub(crate) created: i64,
    pub(crate) updated: i64,
    pub(crate) generation: u64,
    pub(crate) deleting: bool,
    pub(crate) cors_origins: Vec<String>,
    pub(crate) access_log: bool,
    /// The stem of the file, or the name of the folder, that the service's name was made of; `None` if the user gave
    /// the name.
    pub(crate) stem: Option<String>,
}

/// A wanted revision of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(crate) revision: u64,
    /// The share of the requests, relative to the service's other wanted revisions.
    pub(crate) weight: u32,
    /// The number of replicas that was requested.
    pub(crate) replicas: u32,
    /// The number of replicas that an autoscaler has set since; `None` if none has.
    #[serde(default)]
    pub(crate) scaled: Option<u32>,
}

impl Share {
    /// Returns the share of the only wanted revision of a service.
    pub(crate) fn whole(revision: u64, replicas: u32) -> Self {
        Self { revision, weight: 1, replicas, scaled: None }
    }

    /// Returns the wanted number of replicas.
    pub(crate) fn replicas(&self) -> u32 {
        self.scaled.unwrap_or(self.replicas)
    }
}

impl ServiceRow {
    /// Returns the number of requested replicas of all wanted revisions together.
    pub(crate) fn asked_replicas(&self) -> u32 {
        self.wanted.iter().map(|share| share.replicas).sum()
    }

    /// Makes a revision the only wanted one. If it already is, the number that an autoscaler has set is kept.
    pub(crate) fn want_only(&mut self, revision: u64, replicas: u32) {
        self.revision = revision;
        let share = Share::whole(revision, replicas);
        let same = |old: &Share| Share { scaled: None, ..*old } == share;
        if !matches!(&*self.wanted, [only] if same(only)) {
            self.wanted = vec![share];
        }
    }
}

/// A revision of a service.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct RevisionRow {
    pub(crate) service: String,
    pub(crate) revision: u64,
    pub(crate) model: String,
    pub(crate) version: u64,
    pub(crate) digest: String,
    pub(crate) package: String,
    pub(crate) auth: bool,
    /// 0: [`MaxWait::Auto`].
    pub(crate) max_wait_ms: u64,
    pub(crate) scoring_timeout_ms: u64,
    pub(crate) created: i64,
    pub(crate) serving: ServingOptions,
    pub(crate) resources: Resources,
    pub(crate) aliases: Vec<String>,
}

impl RevisionRow {
    pub(crate) fn max_wait(&self) -> MaxWait {
        match self.max_wait_ms {
            0 => MaxWait::Auto,
            time => MaxWait::Fixed(Duration::from_millis(time)),
        }
    }
}

/// A filter and a position for a list of services.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ServiceFilter {
    pub(crate) target: Option<String>,
    pub(crate) state: Option<String>,
    /// `NAME` or `NAME:VERSION` of the wanted revision's model.
    pub(crate) model: Option<String>,
    pub(crate) tag: Option<String>,
    /// The name of the last service of the previous page.
    pub(crate) after: Option<String>,
    pub(crate) limit: u32,
}

fn service(row: &SqliteRow) -> Result<ServiceRow> {
    let error: Option<String> = row.try_get("error")?;
    Ok(ServiceRow {
        name: row.try_get("name")?,
        target: row.try_get("target")?,
        revision: row.try_get::<i64, _>("revision")? as u64,
        active: row.try_get("active")?,
        wanted: json(row, "wanted")?,
        state: state(row)?,
        error: error.and_then(|error| serde_json::from_str(&error).ok()),
        primary_key: row.try_get("primary_key")?,
        secondary_key: row.try_get("secondary_key")?,
        tags: json(row, "tags")?,
        created: row.try_get("created")?,
        updated: row.try_get("updated")?,
        generation: row.try_get::<i64, _>("generation")? as u64,
        deleting: row.try_get("deleting")?,
        cors_origins: json(row, "cors_origins")?,
        access_log: row.try_get("access_log")?,
        stem: row.try_get("stem")?,
    })
}

fn state(row: &SqliteRow) -> Result<ServiceState> {
    let text: String = row.try_get("state")?;
    serde_json::from_value(text.into()).map_err(|error| {
        ControlError::internal("the database contains an unknown service state").because(&error)
    })
}

fn revision(row: &SqliteRow) -> Result<RevisionRow> {
    Ok(RevisionRow {
        service: row.try_get("service")?,
        revision: row.try_get::<i64, _>("revision")? as u64,
        model: row.try_get("model")?,
        version: row.try_get::<i64, _>("version")? as u64,
        digest: row.try_get("digest")?,
        package: row.try_get("package")?,
        auth: row.try_get("auth")?,
        max_wait_ms: row.try_get::<i64, _>("max_wait_ms")? as u64,
        scoring_timeout_ms: row.try_get::<i64, _>("scoring_timeout_ms")? as u64,
        created: row.try_get("created")?,
        serving: json(row, "serving")?,
        resources: json(row, "resources")?,
        aliases: json(row, "aliases")?,
    })
}

impl RevisionRow {
    /// Returns `NAME:VERSION` of the model.
    pub(crate) fn model_name(&self) -> String {
        format!("{}:{}", self.model, self.version)
    }

    /// Returns whether both serve the same model with the same options.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        let other = Self { revision: self.revision, created: self.created, ..other.clone() };
        Self { package: other.package.clone(), ..self.clone() } == other
    }
}

impl Db {
    pub(crate) async fn service(&self, name: &str) -> Result<Option<ServiceRow>> {
        // A single query, so that the service and its wanted revisions are from the same moment.
        let query = "SELECT services.*, (SELECT json_group_array(json_object('revision', revision, 'weight', \
                     weight, 'replicas', replicas, 'scaled', scaled)) FROM (SELECT * FROM wanted WHERE \
                     service = services.name ORDER BY revision)) AS wanted FROM services WHERE name = ?";
        let query = sqlx::query(query).bind(name);
        query.fetch_optional(self.pool()).await?.as_ref().map(service).transpose()
    }

    /// Returns a service.
    ///
    /// # Errors
    /// Returns an error of the kind `NotFound` if there is no such service.
    pub(crate) async fn existing_service(&self, name: &str) -> Result<ServiceRow> {
        self.service(name).await?.ok_or_else(|| {
            ControlError::not_found(format!("service `{name}` not found"))
                .hint("`drisse services` lists the services")
        })
    }

    pub(crate) async fn services(&self, filter: &ServiceFilter) -> Result<Page<(ServiceRow, RevisionRow)>> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT name FROM services WHERE TRUE");
        for (column, value) in [("target", &filter.target), ("state", &filter.state)] {
            if let Some(value) = value {
                query.push(format!(" AND {column} = ")).push_bind(value.clone());
            }
        }
        if let Some(wanted) = &filter.model {
            let (model, version) = wanted.split_once(':').map_or((&**wanted, None), |(m, v)| (m, Some(v)));
            query.push(
                " AND EXISTS (SELECT 1 FROM revisions AS r WHERE r.service = services.name AND \
                 r.revision = services.revision AND r.model = ",
            );
            query.push_bind(model.to_owned());
            if let Some(version) = version {
                query.push(" AND r.version = ").push_bind(version.parse::<i64>().unwrap_or(-1));
            }
            query.push(")");
        }
        if let Some(tag) = &filter.tag {
            has_entry(&mut query, "tags", tag);
        }
        if let Some(after) = &filter.after {
            query.push(" AND name > ").push_bind(after.clone());
        }
        query.push(" ORDER BY name LIMIT ").push_bind(i64::from(filter.limit) + 1);
        let names: Vec<String> = query.build_query_scalar().fetch_all(self.pool()).await?;
        let mut items = Vec::new();
        for name in names.iter().take(filter.limit as usize) {
            // A service that was deleted meanwhile is left out.
            if let Some(service) = self.service(name).await?
                && let Some(revision) = self.revision(name, service.revision).await?
            {
                items.push((service, revision));
            }
        }
        let more = names.len() > filter.limit as usize;
        let next = items.last().filter(|_| more).map(|(service, _)| service.name.clone());
        Ok(Page { items, next })
    }

    /// Returns the demand on a target: of all services except `service`, and of `service`. A single query, so that it
    /// is fast with a thousand services.
    pub(crate) async fn demand(&self, target: &str, service: &str) -> Result<(Demand, Demand)> {
        let query = "SELECT services.name = ? AS is_it, count(DISTINCT services.name) AS services, \
                     CAST(total(coalesce(scaled, replicas) * (resources ->> '$.cpu_millis')) AS INTEGER) AS cpu, \
                     CAST(total(coalesce(scaled, replicas) * (resources ->> '$.memory_bytes')) AS INTEGER) AS memory \
                     FROM services JOIN wanted ON wanted.service = services.name JOIN revisions \
                     ON revisions.service = services.name AND revisions.revision = wanted.revision \
                     WHERE target = ? AND active AND NOT deleting GROUP BY 1";
        let (mut others, mut its) = (Demand::default(), Demand::default());
        let query = sqlx::query(query).bind(service).bind(target);
        for row in &query.fetch_all(self.pool()).await? {
            let number = |column| row.try_get::<i64, _>(column).map(|number| number.max(0) as u64);
            let demand =
                Demand { services: number("services")?, cpu: number("cpu")?, memory: number("memory")? };
            *(if row.try_get("is_it")? { &mut its } else { &mut others }) = demand;
        }
        Ok((others, its))
    }

    pub(crate) async fn service_names(&self) -> Result<Vec<String>> {
        Ok(sqlx::query_scalar("SELECT name FROM services").fetch_all(self.pool()).await?)
    }

    pub(crate) async fn service_counts(&self, column: Counted) -> Result<BTreeMap<String, u64>> {
        let query = match column {
            Counted::State => "SELECT state AS value, count(*) AS services FROM services GROUP BY state",
            Counted::Target => "SELECT target AS value, count(*) AS services FROM services GROUP BY target",
        };
        let rows = sqlx::query(query).fetch_all(self.pool()).await?;
        let count = |row: &SqliteRow| Ok((row.try_get("value")?, row.try_get::<i64, _>("services")? as u64));
        rows.iter().map(count).collect()
    }

    pub(crate) async fn revision(&self, name: &str, number: u64) -> Result<Option<RevisionRow>> {
        let query = sqlx::query("SELECT * FROM revisions WHERE service = ? AND revision = ?");
        let row = query.bind(name).bind(number as i64).fetch_optional(self.pool()).await?;
        row.as_ref().map(revision).transpose()
    }

    /// Returns all kept revisions of a service, the newest first.
    pub(crate) async fn revisions(&self, name: &str) -> Result<Vec<RevisionRow>> {
        let query = sqlx::query("SELECT * FROM revisions WHERE service = ? ORDER BY revision DESC");
        query.bind(name).fetch_all(self.pool()).await?.iter().map(revision).collect()
    }

    /// Stores a service and, if given, a new revision and the decision of an operation, in one transaction. `expected`
    /// is the generation that the change is based on, 0 for a new service.
    ///
    /// # Errors
    /// Returns a conflict if the service has another generation, because it was changed meanwhile, or if one of its names
    /// is one of another service.
    pub(crate) async fn want(
        &self,
        row: &ServiceRow,
        new: Option<&RevisionRow>,
        expected: u64,
        decided: Option<(i64, &serde_json::Value)>,
    ) -> Result<()> {
        let mut write = self.write().await?;
        let query =
            "SELECT coalesce(max(generation), 0), coalesce(max(revision), 0) FROM services WHERE name = ?";
        let query = sqlx::query_as(query).bind(&row.name);
        let (generation, served): (i64, i64) = query.fetch_one(&mut *write.connection).await?;
        if generation as u64 != expected {
            let message = format!("service `{}` was changed by another request at the same time", row.name);
            return Err(ControlError::conflict(message).hint("try again"));
        }
        let query = "INSERT INTO services (name, target, revision, active, state, error, primary_key, \
             secondary_key, tags, created, updated, generation, deleting, cors_origins, access_log, stem) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
             ON CONFLICT (name) DO UPDATE SET target = excluded.target, revision = excluded.revision, \
             active = excluded.active, state = excluded.state, \
             error = excluded.error, primary_key = excluded.primary_key, \
             secondary_key = excluded.secondary_key, tags = excluded.tags, updated = excluded.updated, \
             generation = excluded.generation, deleting = excluded.deleting, \
             cors_origins = excluded.cors_origins, access_log = excluded.access_log, stem = excluded.stem";
        sqlx::query(query)
            .bind(&row.name)
            .bind(&row.target)
            .bind(row.revision as i64)
            .bind(row.active)
            .bind(row.state.to_string())
            .bind(row.error.as_ref().map(text))
            .bind(&row.primary_key)
            .bind(&row.secondary_key)
            .bind(text(&row.tags))
            .bind(row.created)
            .bind(row.updated)
            .bind(row.generation as i64)
            .bind(row.deleting)
            .bind(text(&row.cors_origins))
            .bind(row.access_log)
            .bind(&row.stem)
            .execute(&mut *write.connection)
            .await?;
        sqlx::query("DELETE FROM wanted WHERE service = ?")
            .bind(&row.name)
            .execute(&mut *write.connection)
            .await?;
        for share in &row.wanted {
            let query =
                "INSERT INTO wanted (service, revision, weight, replicas, scaled) VALUES (?, ?, ?, ?, ?)";
            let query = sqlx::query(query).bind(&row.name).bind(share.revision as i64).bind(share.weight);
            query.bind(share.replicas).bind(share.scaled).execute(&mut *write.connection).await?;
        }
        if let Some(new) = new {
            sqlx::query("INSERT INTO revisions (service, revision, model, version, digest, package, auth, max_wait_ms, \
                 scoring_timeout_ms, created, serving, resources, aliases) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
                .bind(&new.service)
                .bind(new.revision as i64)
                .bind(&new.model)
                .bind(new.version as i64)
                .bind(&new.digest)
                .bind(&new.package)
                .bind(new.auth)
                .bind(new.max_wait_ms as i64)
                .bind(new.scoring_timeout_ms as i64)
                .bind(now())
                .bind(text(&new.serving))
                .bind(text(&new.resources))
                .bind(text(&new.aliases))
                .execute(&mut *write.connection)
                .await?;
            let oldest = new.revision.saturating_sub(KEPT_REVISIONS) as i64;
            // The revision that serves until the new one is ready may be even older.
            let old = "DELETE FROM revisions WHERE service = ? AND revision <= ? AND revision NOT IN (?, ?) \
                       AND revision NOT IN (SELECT revision FROM wanted WHERE wanted.service = revisions.service)";
            sqlx::query(old)
                .bind(&new.service)
                .bind(oldest)
                .bind(row.revision as i64)
                .bind(served)
                .execute(&mut *write.connection)
                .await?;
        }
        let taken = sqlx::query(TAKEN_NAME).bind(&row.name).fetch_optional(&mut *write.connection).await?;
        if let Some(taken) = taken {
            let (name, by): (String, String) = (taken.try_get("name")?, taken.try_get("service")?);
            return Err(ControlError::conflict(format!("`{name}` is already a name of service `{by}`"))
                .hint(format!(
                    "choose another name; `drisse services show {by}` shows all names of that service"
                )));
        }
        if let Some((operation, progress)) = decided {
            let query = sqlx::query("UPDATE operations SET progress = ? WHERE id = ?");
            query.bind(text(progress)).bind(operation).execute(&mut *write.connection).await?;
        }
        Ok(write.commit().await?)
    }

    /// Stores the observed state of a service, unless its generation has changed.
    pub(crate) async fn set_state(
        &self,
        name: &str,
        generation: u64,
        state: ServiceState,
        error: Option<&Failure>,
    ) -> Result<()> {
        let query = "UPDATE services SET state = ?, error = ? WHERE name = ? AND generation = ?";
        let query = sqlx::query(query).bind(state.to_string()).bind(error.map(text));
        query.bind(name).bind(generation as i64).execute(self.pool()).await?;
        Ok(())
    }

    pub(crate) async fn forget_service(&self, name: &str) -> Result<()> {
        let query = sqlx::query("DELETE FROM services WHERE name = ? AND deleting").bind(name);
        query.execute(self.pool()).await?;
        Ok(())
    }
}

/// The column by which services are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Counted {
    State,
    Target,
}
