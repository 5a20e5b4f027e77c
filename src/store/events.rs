//! What has happened to resources, for a while.

use sqlx::{QueryBuilder, Row, Sqlite};

use super::{Owner, Result, Store, push_in};

/// Events that are kept of all owners together; beyond, the oldest go.
const EVENTS_MAX: i64 = 100_000;

#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// `replication-instance` or `replication-task`.
    pub source_type: String,
    /// The identifier of the resource.
    pub source: String,
    /// Empty for one that is of no category.
    pub category: String,
    pub message: String,
    /// Milliseconds since 1970.
    pub time_ms: i64,
}

/// Which events a listing holds.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    pub from_ms: i64,
    pub to_ms: i64,
    pub source_types: Option<Vec<String>>,
    pub sources: Option<Vec<String>>,
    pub categories: Option<Vec<String>>,
}

impl Store {
    pub async fn add_event(&self, owner: &Owner, event: &Event) -> Result<()> {
        let mut transaction = self.write.begin().await?;
        let added = sqlx::query(
            "INSERT INTO event (account, region, source_type, source, category, message, time)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&owner.account)
        .bind(&owner.region)
        .bind(&event.source_type)
        .bind(&event.source)
        .bind(&event.category)
        .bind(&event.message)
        .bind(event.time_ms)
        .execute(&mut *transaction)
        .await?;
        sqlx::query("DELETE FROM event WHERE sequence <= ?")
            .bind(added.last_insert_rowid() - EVENTS_MAX)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await
    }

    /// An owner's events in the order in which they happened.
    pub async fn events(&self, owner: &Owner, filter: &EventFilter) -> Result<Vec<Event>> {
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT source_type, source, category, message, time FROM event WHERE account = ",
        );
        query.push_bind(&owner.account).push(" AND region = ").push_bind(&owner.region);
        query.push(" AND time >= ").push_bind(filter.from_ms).push(" AND time <= ").push_bind(filter.to_ms);
        let columns =
            [("source_type", &filter.source_types), ("source", &filter.sources), ("category", &filter.categories)];
        for (column, values) in columns {
            if let Some(values) = values {
                query.push(" AND ").push(column);
                push_in(&mut query, values);
            }
        }
        query.push(" ORDER BY sequence");
        let rows = query.build().fetch_all(&self.read).await?;
        rows.iter()
            .map(|row| {
                Ok(Event {
                    source_type: row.try_get(0)?,
                    source: row.try_get(1)?,
                    category: row.try_get(2)?,
                    message: row.try_get(3)?,
                    time_ms: row.try_get(4)?,
                })
            })
            .collect()
    }
}
