//! The signatures of packages: the digests of their manifests.

use super::Db;
use crate::error::Result;

impl Db {
    pub(crate) async fn referrers(&self, package: &str) -> Result<Vec<String>> {
        let query = "SELECT manifest FROM signatures WHERE package = ? ORDER BY manifest";
        Ok(sqlx::query_scalar(query).bind(package).fetch_all(self.pool()).await?)
    }

    /// Returns the manifests of all signatures of registered models.
    pub(crate) async fn every_referrer(&self) -> Result<Vec<String>> {
        let query = "SELECT manifest FROM signatures WHERE package IN (SELECT package FROM models)";
        Ok(sqlx::query_scalar(query).fetch_all(self.pool()).await?)
    }

    pub(crate) async fn insert_referrer(&self, package: &str, manifest: &str) -> Result<()> {
        let query = "INSERT INTO signatures (package, manifest) VALUES (?, ?) ON CONFLICT DO NOTHING";
        sqlx::query(query).bind(package).bind(manifest).execute(self.pool()).await?;
        Ok(())
    }

    /// Deletes the signatures of packages that no model has.
    pub(crate) async fn forget_referrers(&self) -> Result<()> {
        let query = "DELETE FROM signatures WHERE package NOT IN (SELECT package FROM models)";
        sqlx::query(query).execute(self.pool()).await?;
        Ok(())
    }
}
