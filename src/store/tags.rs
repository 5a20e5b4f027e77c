//! Tags, kept apart from resources because no Describe shows them.

use super::{Result, Store};

impl Store {
    /// Sets tags, replacing the values of keys that are there.
    pub async fn set_tags(&self, arn: &str, tags: &[(String, String)]) -> Result<()> {
        let mut transaction = self.write.begin().await?;
        for (key, value) in tags {
            sqlx::query("INSERT OR REPLACE INTO tag (arn, key, value) VALUES (?, ?, ?)")
                .bind(arn)
                .bind(key)
                .bind(value)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await
    }

    /// Removes tags; keys that are not there are passed over, as AWS does.
    pub async fn remove_tags(&self, arn: &str, keys: &[String]) -> Result<()> {
        let mut transaction = self.write.begin().await?;
        for key in keys {
            sqlx::query("DELETE FROM tag WHERE arn = ? AND key = ?")
                .bind(arn)
                .bind(key)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await
    }

    /// A resource's tags, sorted by key.
    pub async fn tags(&self, arn: &str) -> Result<Vec<(String, String)>> {
        sqlx::query_as("SELECT key, value FROM tag WHERE arn = ? ORDER BY key").bind(arn).fetch_all(&self.read).await
    }
}
