//! What dms-local remembers: resources, tags and table statistics, in SQLite.
//!
//! Everything is written through one connection, in transactions; a file store is read through a small pool beside it
//! (WAL lets readers and the writer pass each other). Nothing here knows what a resource means.

mod events;
mod statistics;
mod tags;

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value as Json;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{AssertSqlSafe, QueryBuilder, Row, Sqlite, SqliteConnection, SqlitePool};

pub use events::{Event, EventFilter};
pub use statistics::TableRecord;

const READERS: u32 = 4;

pub type Result<T> = std::result::Result<T, sqlx::Error>;

/// What a row of the resource table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    ReplicationInstance,
    ReplicationSubnetGroup,
    Endpoint,
    ReplicationTask,
    /// A pair of instance and endpoint that was tested.
    Connection,
    /// The outcome of the last RefreshSchemas of an endpoint.
    Schemas,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::ReplicationInstance => "replication-instance",
            Kind::ReplicationSubnetGroup => "replication-subnet-group",
            Kind::Endpoint => "endpoint",
            Kind::ReplicationTask => "replication-task",
            Kind::Connection => "connection",
            Kind::Schemas => "schemas",
        }
    }

    fn of(text: &str) -> Option<Kind> {
        [
            Kind::ReplicationInstance,
            Kind::ReplicationSubnetGroup,
            Kind::Endpoint,
            Kind::ReplicationTask,
            Kind::Connection,
            Kind::Schemas,
        ]
        .into_iter()
        .find(|kind| kind.as_str() == text)
    }
}

/// Whose resources: every account sees its own, per region.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    pub account: String,
    pub region: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    pub arn: String,
    pub owner: Owner,
    pub kind: Kind,
    /// Unique for the owner and kind.
    pub identifier: String,
    pub status: String,
    pub spec: Json,
    pub body: Json,
}

/// Which resources a listing holds.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Each: one of these members of the body (JSON paths such as `$.EngineName`) has one of these values.
    pub members: Vec<(&'static [&'static str], Vec<String>)>,
    pub arns: Option<Vec<String>>,
    pub identifiers: Option<Vec<String>>,
    /// Only what was created after the resource with this sequence number.
    pub after: i64,
    pub limit: Option<u32>,
}

/// One line of a listing; the body stays text, as a listing only passes it on.
#[derive(Clone, Debug)]
pub struct Listed {
    pub sequence: i64,
    pub arn: String,
    pub status: String,
    pub body: String,
}

#[derive(Clone, Debug)]
pub struct Store {
    write: SqlitePool,
    read: SqlitePool,
}

impl Store {
    /// Opens the store in a file, creating it where it is missing.
    pub async fn open(path: &Path) -> Result<Store> {
        // Passwords are in it; SQLite gives the files beside it the same rights.
        std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A power failure may lose the last calls, a crash of ours loses nothing; the file stays sound either way.
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(10));
        let write = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
        sqlx::migrate!("src/store/migrations").run(&write).await?;
        let read = SqlitePoolOptions::new().max_connections(READERS).connect_lazy_with(options.read_only(true));
        Ok(Store { write, read })
    }

    /// A store in memory, gone with the process. One connection, since each has a database of its own.
    pub async fn in_memory() -> Result<Store> {
        let options = SqliteConnectOptions::from_str("sqlite::memory:")?;
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await?;
        sqlx::migrate!("src/store/migrations").run(&pool).await?;
        Ok(Store { write: pool.clone(), read: pool })
    }

    /// Writes what is pending to the file and closes it.
    pub async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }

    /// Adds a resource; `false` when its identifier or ARN is taken.
    pub async fn insert(&self, resource: &Resource) -> Result<bool> {
        let inserted = sqlx::query(
            "INSERT INTO resource (arn, account, region, kind, identifier, status, spec, body)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&resource.arn)
        .bind(&resource.owner.account)
        .bind(&resource.owner.region)
        .bind(resource.kind.as_str())
        .bind(&resource.identifier)
        .bind(&resource.status)
        .bind(resource.spec.to_string())
        .bind(resource.body.to_string())
        .execute(&self.write)
        .await;
        match inserted {
            Ok(_) => Ok(true),
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub async fn get(&self, arn: &str) -> Result<Option<Resource>> {
        let row = sqlx::query("SELECT * FROM resource WHERE arn = ?").bind(arn).fetch_optional(&self.read).await?;
        row.map(resource).transpose()
    }

    /// Reads a resource, lets `change` alter it and writes it back, all in one transaction; nothing is written when
    /// `change` fails. `None` when there is no such resource.
    pub async fn update<T, E>(
        &self,
        arn: &str,
        change: impl FnOnce(&mut Resource) -> std::result::Result<T, E>,
    ) -> Result<Option<std::result::Result<T, E>>> {
        let mut transaction = self.write.begin().await?;
        let Some(mut resource) = read_resource(&mut transaction, arn).await? else {
            return Ok(None);
        };
        let outcome = change(&mut resource);
        if outcome.is_ok() {
            write_resource(&mut transaction, &resource).await?;
            transaction.commit().await?;
        }
        Ok(Some(outcome))
    }

    /// Removes a resource with its tags and statistics; `false` when there is none.
    pub async fn delete(&self, arn: &str) -> Result<bool> {
        let mut transaction = self.write.begin().await?;
        let deleted = sqlx::query("DELETE FROM resource WHERE arn = ?").bind(arn).execute(&mut *transaction).await?;
        sqlx::query("DELETE FROM tag WHERE arn = ?").bind(arn).execute(&mut *transaction).await?;
        sqlx::query("DELETE FROM table_statistics WHERE task = ?").bind(arn).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(deleted.rows_affected() > 0)
    }

    /// An owner's resources of one kind, in order of creation.
    pub async fn list(&self, owner: &Owner, kind: Kind, filter: &Filter) -> Result<Vec<Listed>> {
        let mut query =
            QueryBuilder::<Sqlite>::new("SELECT sequence, arn, status, body FROM resource WHERE account = ");
        query.push_bind(&owner.account).push(" AND region = ").push_bind(&owner.region);
        query.push(" AND kind = ").push_bind(kind.as_str());
        query.push(" AND sequence > ").push_bind(filter.after);
        for (column, values) in [("arn", &filter.arns), ("identifier", &filter.identifiers)] {
            if let Some(values) = values {
                query.push(" AND ").push(column);
                push_in(&mut query, values);
            }
        }
        for (paths, values) in &filter.members {
            for (index, path) in paths.iter().enumerate() {
                query.push(if index == 0 { " AND (" } else { " OR " });
                query.push("json_extract(body, ").push_bind(*path).push(")");
                push_in(&mut query, values);
            }
            query.push(")");
        }
        query.push(" ORDER BY sequence");
        if let Some(limit) = filter.limit {
            query.push(" LIMIT ").push_bind(limit);
        }
        let rows = query.build().fetch_all(&self.read).await?;
        rows.iter()
            .map(|row| {
                Ok(Listed {
                    sequence: row.try_get(0)?,
                    arn: row.try_get(1)?,
                    status: row.try_get(2)?,
                    body: row.try_get(3)?,
                })
            })
            .collect()
    }

    /// Whole resources instead of listing lines, for the control plane's own checks.
    pub async fn resources(&self, owner: &Owner, kind: Kind, filter: &Filter) -> Result<Vec<Resource>> {
        let mut found = Vec::new();
        for listed in self.list(owner, kind, filter).await? {
            found.extend(self.get(&listed.arn).await?);
        }
        Ok(found)
    }

    /// Every resource of a kind in one of the statuses, whoever owns it: what a restart has to take up again.
    pub async fn in_status(&self, kind: Kind, statuses: &[&str]) -> Result<Vec<Resource>> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM resource WHERE kind = ");
        query.push_bind(kind.as_str()).push(" AND status");
        push_in(&mut query, statuses);
        query.push(" ORDER BY sequence");
        query.build().fetch_all(&self.read).await?.into_iter().map(resource).collect()
    }

    /// Forgets everything.
    pub async fn reset(&self) -> Result<()> {
        let mut transaction = self.write.begin().await?;
        for table in ["resource", "tag", "table_statistics", "event"] {
            empty(&mut transaction, table).await?;
        }
        transaction.commit().await
    }
}

async fn read_resource(connection: &mut SqliteConnection, arn: &str) -> Result<Option<Resource>> {
    let row = sqlx::query("SELECT * FROM resource WHERE arn = ?").bind(arn).fetch_optional(connection).await?;
    row.map(resource).transpose()
}

async fn write_resource(connection: &mut SqliteConnection, resource: &Resource) -> Result<()> {
    sqlx::query("UPDATE resource SET identifier = ?, status = ?, spec = ?, body = ? WHERE arn = ?")
        .bind(&resource.identifier)
        .bind(&resource.status)
        .bind(resource.spec.to_string())
        .bind(resource.body.to_string())
        .bind(&resource.arn)
        .execute(connection)
        .await?;
    Ok(())
}

async fn empty(connection: &mut SqliteConnection, table: &'static str) -> Result<()> {
    sqlx::query(AssertSqlSafe(format!("DELETE FROM {table}"))).execute(connection).await?;
    Ok(())
}

fn push_in<'a, T>(query: &mut QueryBuilder<Sqlite>, values: &'a [T])
where
    &'a T: sqlx::Encode<'a, Sqlite> + sqlx::Type<Sqlite> + 'a,
    T: ToString,
{
    query.push(" IN (");
    let mut list = query.separated(", ");
    for value in values {
        list.push_bind(value.to_string());
    }
    query.push(")");
}

fn resource(row: SqliteRow) -> Result<Resource> {
    let text = |column: &str| row.try_get::<String, _>(column);
    let json = |column: &str| -> Result<Json> {
        serde_json::from_str(&row.try_get::<String, _>(column)?).map_err(|error| sqlx::Error::Decode(error.into()))
    };
    let kind = text("kind")?;
    Ok(Resource {
        arn: text("arn")?,
        owner: Owner { account: text("account")?, region: text("region")? },
        kind: Kind::of(&kind).ok_or_else(|| sqlx::Error::Decode(format!("unknown kind {kind}").into()))?,
        identifier: text("identifier")?,
        status: text("status")?,
        spec: json("spec")?,
        body: json("body")?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn owner() -> Owner {
        Owner { account: "123456789012".into(), region: "us-east-1".into() }
    }

    fn endpoint(name: &str, engine: &str) -> Resource {
        Resource {
            arn: format!("arn:{name}"),
            owner: owner(),
            kind: Kind::Endpoint,
            identifier: name.into(),
            status: "active".into(),
            spec: json!({"Password": "secret"}),
            body: json!({"EndpointIdentifier": name, "EngineName": engine}),
        }
    }

    #[tokio::test]
    async fn keeps_resources_across_reopening_and_refuses_duplicates() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let store = Store::open(&path).await.unwrap();
        assert!(store.insert(&endpoint("one", "mysql")).await.unwrap());
        assert!(!store.insert(&endpoint("one", "postgres")).await.unwrap());
        store.close().await;

        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        let store = Store::open(&path).await.unwrap();
        assert_eq!(store.get("arn:one").await.unwrap().unwrap(), endpoint("one", "mysql"));
        assert!(store.delete("arn:one").await.unwrap());
        assert!(!store.delete("arn:one").await.unwrap());
    }

    #[tokio::test]
    async fn filters_and_pages_in_order_of_creation() {
        let store = Store::in_memory().await.unwrap();
        for name in ["c", "a", "b"] {
            assert!(store.insert(&endpoint(name, if name == "a" { "mysql" } else { "postgres" })).await.unwrap());
        }
        let names = |listed: Vec<Listed>| listed.into_iter().map(|line| line.arn).collect::<Vec<_>>();

        let all = store.list(&owner(), Kind::Endpoint, &Filter::default()).await.unwrap();
        let after = all[0].sequence;
        assert_eq!(names(all), ["arn:c", "arn:a", "arn:b"]);
        let postgres =
            Filter { members: vec![(&["$.Other", "$.EngineName"], vec!["postgres".into()])], ..Filter::default() };
        assert_eq!(names(store.list(&owner(), Kind::Endpoint, &postgres).await.unwrap()), ["arn:c", "arn:b"]);
        let page = Filter { after, limit: Some(1), ..Filter::default() };
        assert_eq!(names(store.list(&owner(), Kind::Endpoint, &page).await.unwrap()), ["arn:a"]);
        let stranger = Owner { account: "000000000000".into(), ..owner() };
        assert!(store.list(&stranger, Kind::Endpoint, &Filter::default()).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_update_that_fails_changes_nothing() {
        let store = Store::in_memory().await.unwrap();
        store.insert(&endpoint("one", "mysql")).await.unwrap();
        let refused: std::result::Result<(), &str> = Err("no");
        let outcome = store.update("arn:one", |resource| {
            resource.status = "deleting".into();
            refused
        });
        assert_eq!(outcome.await.unwrap(), Some(Err("no")));
        assert_eq!(store.get("arn:one").await.unwrap().unwrap().status, "active");
        assert!(store.update("arn:two", |_| Ok::<_, ()>(())).await.unwrap().is_none());
    }
}
