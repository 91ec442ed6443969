//! Registered models.

use super::{Db, json, now, rfc3339, text};
use crate::error::{ControlError, Result};
use drisse_wire::control::{Model, ModelChange, Page};
use sqlx::sqlite::{Sqlite, SqliteExecutor, SqliteRow};
use sqlx::{QueryBuilder, Row};
use std::collections::BTreeMap;

pub(crate) type Tags = BTreeMap<String, String>;

/// A version of a model.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct ModelRow {
    pub(crate) name: String,
    pub(crate) version: u64,
    pub(crate) digest: String,
    pub(crate) package: String,
    pub(crate) size: u64,
    pub(crate) framework: Option<String>,
    pub(crate) signature: serde_json::Value,
    pub(crate) tags: Tags,
    pub(crate) properties: Tags,
    pub(crate) created: i64,
    /// The file that the version was registered from.
    pub(crate) source: Option<String>,
}

/// A version without its signature, tags and properties, so that thousands of them use little memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ModelParts {
    pub(crate) name: String,
    pub(crate) version: u64,
    pub(crate) digest: String,
    pub(crate) package: String,
    pub(crate) source: Option<String>,
}

/// A filter and a position for a list of models.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ModelFilter {
    pub(crate) name: Option<String>,
    /// `KEY` or `KEY=VALUE`.
    pub(crate) tag: Option<String>,
    pub(crate) property: Option<String>,
    pub(crate) framework: Option<String>,
    /// The name and version of the last item of the previous page.
    pub(crate) after: Option<(String, u64)>,
    pub(crate) limit: u32,
}

fn row(row: &SqliteRow) -> Result<ModelRow> {
    Ok(ModelRow {
        name: row.try_get("name")?,
        version: row.try_get::<i64, _>("version")? as u64,
        digest: row.try_get("digest")?,
        package: row.try_get("package")?,
        size: row.try_get::<i64, _>("size")? as u64,
        framework: row.try_get("framework")?,
        signature: json(row, "signature")?,
        tags: json(row, "tags")?,
        properties: json(row, "properties")?,
        created: row.try_get("created")?,
        source: row.try_get("source")?,
    })
}

impl ModelRow {
    /// Returns `NAME:VERSION`.
    pub(crate) fn full_name(&self) -> String {
        format!("{}:{}", self.name, self.version)
    }

    pub(crate) fn document(self, used_by: Vec<String>) -> Model {
        Model {
            name: self.name,
            version: self.version,
            digest: self.digest,
            manifest_digest: self.package,
            size: self.size,
            framework: self.framework,
            created_at: rfc3339(self.created),
            tags: self.tags,
            properties: self.properties,
            signature: self.signature,
            used_by,
        }
    }
}

impl Db {
    /// Returns a version of a model; `None` is the newest.
    pub(crate) async fn model(&self, name: &str, version: Option<u64>) -> Result<ModelRow> {
        find(self.pool(), name, version).await
    }

    pub(crate) async fn model_by_digest(&self, name: &str, digest: &str) -> Result<Option<ModelRow>> {
        let query = sqlx::query("SELECT * FROM models WHERE name = ? AND digest = ?").bind(name).bind(digest);
        query.fetch_optional(self.pool()).await?.as_ref().map(row).transpose()
    }

    /// Returns the version of the next model with this name.
    pub(crate) async fn next_version(&self, name: &str) -> Result<u64> {
        let query = sqlx::query_scalar("SELECT coalesce(max(version), 0) + 1 FROM models WHERE name = ?");
        Ok(query.bind(name).fetch_one(self.pool()).await.map(i64::cast_unsigned)?)
    }

    pub(crate) async fn insert_model(&self, model: &ModelRow) -> Result<()> {
        let query = sqlx::query(
            "INSERT INTO models (name, version, digest, package, size, framework, signature, tags, properties, \
             created, source) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        );
        query
            .bind(&model.name)
            .bind(model.version as i64)
            .bind(&model.digest)
            .bind(&model.package)
            .bind(model.size as i64)
            .bind(&model.framework)
            .bind(text(&model.signature))
            .bind(text(&model.tags))
            .bind(text(&model.properties))
            .bind(now())
            .bind(&model.source)
            .execute(self.pool())
            .await?;
        Ok(())
    }

    /// Sets the file that a model can be read from.
    pub(crate) async fn set_source(&self, name: &str, version: u64, source: Option<&str>) -> Result<()> {
        let query = sqlx::query("UPDATE models SET source = ? WHERE name = ? AND version = ?");
        query.bind(source).bind(name).bind(version as i64).execute(self.pool()).await?;
        Ok(())
    }

    pub(crate) async fn model_names(&self) -> Result<Vec<String>> {
        Ok(sqlx::query_scalar("SELECT DISTINCT name FROM models").fetch_all(self.pool()).await?)
    }

    /// Returns the version of a model that has this package.
    pub(crate) async fn model_by_package(&self, name: &str, package: &str) -> Result<Option<ModelRow>> {
        let query =
            sqlx::query("SELECT * FROM models WHERE name = ? AND package = ?").bind(name).bind(package);
        query.fetch_optional(self.pool()).await?.as_ref().map(row).transpose()
    }

    /// Sets the package of a version, also in the revisions that use it. A model gets a new package with a new sample.
    pub(crate) async fn set_package(&self, name: &str, version: u64, package: &str) -> Result<()> {
        let mut write = self.write().await?;
        for query in [
            "UPDATE models SET package = ? WHERE name = ? AND version = ?",
            "UPDATE revisions SET package = ? WHERE model = ? AND version = ?",
        ] {
            let query = sqlx::query(query).bind(package).bind(name).bind(version as i64);
            query.execute(&mut *write.connection).await?;
        }
        Ok(write.commit().await?)
    }

    /// Sets tags and adds properties. Fails if a property exists with another value.
    pub(crate) async fn change_model(
        &self,
        name: &str,
        version: Option<u64>,
        change: &ModelChange,
        replace_tags: bool,
    ) -> Result<ModelRow> {
        // No other change happens between the read and the write.
        let mut write = self.write().await?;
        let mut model = find(&mut *write.connection, name, version).await?;
        if replace_tags {
            model.tags.clear();
        }
        model.tags.extend(change.tags.clone());
        model.tags.retain(|tag, _| !change.remove_tags.contains(tag));
        for (key, value) in &change.properties {
            match model.properties.get(key).filter(|there| *there != value) {
                Some(there) => {
                    let full = model.full_name();
                    let message = format!("property `{key}` of `{full}` is `{there}` and cannot be changed");
                    return Err(
                        ControlError::conflict(message).hint("properties can only be added; tags can change")
                    );
                }
                None => drop(model.properties.insert(key.clone(), value.clone())),
            }
        }
        let query = sqlx::query("UPDATE models SET tags = ?, properties = ? WHERE name = ? AND version = ?");
        let query = query.bind(text(&model.tags)).bind(text(&model.properties));
        query.bind(&model.name).bind(model.version as i64).execute(&mut *write.connection).await?;
        write.commit().await?;
        Ok(model)
    }

    /// Returns the services with a revision that uses this version.
    pub(crate) async fn users(&self, name: &str, version: u64) -> Result<Vec<String>> {
        let query = "SELECT DISTINCT service FROM revisions WHERE model = ? AND version = ? ORDER BY service";
        Ok(sqlx::query_scalar(query).bind(name).bind(version as i64).fetch_all(self.pool()).await?)
    }

    /// Returns all versions of all models.
    pub(crate) async fn all_models(&self) -> Result<Vec<ModelParts>> {
        let query = "SELECT name, version, digest, package, source FROM models ORDER BY name, version";
        let rows = sqlx::query_as(query).fetch_all(self.pool()).await?;
        let parts =
            |(name, version, digest, package, source)| ModelParts { name, version, digest, package, source };
        Ok(rows.into_iter().map(parts).collect())
    }

    /// Deletes a version if no service uses it. The check and the deletion are one statement.
    pub(crate) async fn delete_model(&self, name: &str, version: u64) -> Result<()> {
        let query = "DELETE FROM models WHERE name = ? AND version = ? AND NOT EXISTS \
                     (SELECT 1 FROM revisions WHERE model = models.name AND version = models.version)";
        let deleted = sqlx::query(query).bind(name).bind(version as i64).execute(self.pool()).await?;
        if deleted.rows_affected() > 0 {
            return Ok(());
        }
        let users = self.users(name, version).await?.join("`, `");
        let message = format!("model `{name}:{version}` is in use by service `{users}`");
        Err(ControlError::conflict(message)
            .hint("delete the service, or update it until it has no revision with this model"))
    }

    /// Returns a page of versions, each with at most 20 of the services that use it.
    pub(crate) async fn models(&self, filter: &ModelFilter) -> Result<Page<(ModelRow, Vec<String>)>> {
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT *, (SELECT json_group_array(service) FROM (SELECT DISTINCT service FROM revisions AS r \
             WHERE r.model = models.name AND r.version = models.version ORDER BY service LIMIT 20)) AS users \
             FROM models WHERE TRUE",
        );
        for (column, value) in [("name", &filter.name), ("framework", &filter.framework)] {
            if let Some(value) = value {
                query.push(format!(" AND {column} = ")).push_bind(value.clone());
            }
        }
        for (column, wanted) in [("tags", &filter.tag), ("properties", &filter.property)] {
            if let Some(wanted) = wanted {
                has_entry(&mut query, column, wanted);
            }
        }
        if let Some((name, version)) = &filter.after {
            query.push(" AND (name, version) > (").push_bind(name.clone()).push(", ");
            query.push_bind(*version as i64).push(")");
        }
        query.push(" ORDER BY name, version LIMIT ").push_bind(i64::from(filter.limit) + 1);
        let rows = query.build().fetch_all(self.pool()).await?;
        let item = |found: &SqliteRow| Ok((row(found)?, json(found, "users")?));
        let mut items = rows.iter().map(item).collect::<Result<Vec<_>>>()?;
        let more = items.len() > filter.limit as usize;
        items.truncate(filter.limit as usize);
        let next = items.last().filter(|_| more).map(|(last, _)| last.full_name());
        Ok(Page { items, next })
    }
}

/// Returns a version of a model, read by a connection of its own or within a transaction; `None` is the newest.
async fn find(executor: impl SqliteExecutor<'_>, name: &str, version: Option<u64>) -> Result<ModelRow> {
    let query =
        "SELECT * FROM models WHERE name = ? AND (? IS NULL OR version = ?) ORDER BY version DESC LIMIT 1";
    let version_sql = version.map(|version| version as i64);
    let found = sqlx::query(query).bind(name).bind(version_sql).bind(version_sql);
    let found = found.fetch_optional(executor).await?;
    let found = found.ok_or_else(|| {
        let full = version.map_or(name.to_owned(), |version| format!("{name}:{version}"));
        ControlError::not_found(format!("model `{full}` not found"))
            .hint("`drisse models` lists the registered models; a path has a `/` or an extension")
    })?;
    row(&found)
}

/// Restricts a query to rows whose JSON object has an entry: `KEY` or `KEY=VALUE`.
pub(crate) fn has_entry(query: &mut QueryBuilder<Sqlite>, column: &str, wanted: &str) {
    let (key, value) = wanted.split_once('=').map_or((wanted, None), |(key, value)| (key, Some(value)));
    query.push(format!(" AND EXISTS (SELECT 1 FROM json_each({column}) WHERE key = "));
    query.push_bind(key.to_owned());
    if let Some(value) = value {
        query.push(" AND value = ").push_bind(value.to_owned());
    }
    query.push(")");
}
