//! Ways in and reasons to stay out.

use super::*;
use crate::connector::testing::postgres::PASSWORD;
use crate::connector::{Secret, SslMode};
use crate::data::{Error, ErrorKind};

fn as_user(user: &str) -> Connection {
    Connection { user: user.into(), password: Secret::new(PASSWORD), ..postgres_server().connection("postgres") }
}

async fn refusal(connection: Connection) -> Error {
    let error = source_of(connection.clone()).check().await.unwrap_err();
    assert_eq!(target_of(connection).check().await.unwrap_err(), error);
    error
}

#[tokio::test]
async fn every_way_of_authentication_works() {
    for user in ["md5_user", "password_user", "scram_user"] {
        source_of(as_user(user)).check().await.unwrap_or_else(|error| panic!("{user}: {error}"));
        let wrong = Connection { password: Secret::new("wrong"), ..as_user(user) };
        let error = refusal(wrong).await;
        assert_eq!((error.kind, error.sqlstate.as_deref()), (ErrorKind::Fatal, Some("28P01")));
        assert_eq!(error.message, format!("password authentication failed for user \"{user}\""));
    }
}

#[tokio::test]
async fn says_why_it_cannot_come_in() {
    let error = refusal(Connection { database: "nowhere".into(), ..as_user("postgres") }).await;
    assert_eq!((error.kind, error.sqlstate.as_deref()), (ErrorKind::Fatal, Some("3D000")));
    assert_eq!(error.message, "database \"nowhere\" does not exist");

    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = refusal(Connection { port: closed, ..as_user("postgres") }).await;
    assert_eq!((error.kind, error.native), (ErrorKind::Recoverable, Some(111)));
    assert_eq!(error.message, format!("connection to 127.0.0.1 port {closed} failed: Connection refused"));

    let error = refusal(Connection { server: "no.such.host.invalid".into(), ..as_user("postgres") }).await;
    assert!(error.message.contains("could not translate host name \"no.such.host.invalid\""), "{error}");
}

#[tokio::test]
async fn tls_is_used_as_the_endpoint_says() {
    let error = refusal(as_user("tls_user")).await;
    assert_eq!((error.kind, error.sqlstate.as_deref()), (ErrorKind::Fatal, Some("28000")));
    let unencrypted = if postgres_server().version() < 14 { "SSL off" } else { "no encryption" };
    let refused = "no pg_hba.conf entry for host \"127.0.0.1\", user \"tls_user\", database \"postgres\"";
    assert_eq!(error.message, format!("{refused}, {unencrypted}"));
    let ca_pem = Some(postgres_server().certificate_pem.clone());
    let with = |server: &str, ssl_mode, ca_pem: &Option<String>| {
        let connection = Connection { server: server.into(), ssl_mode, ca_pem: ca_pem.clone(), ..as_user("tls_user") };
        async move { source_of(connection).check().await }
    };
    with("127.0.0.1", SslMode::Require, &None).await.unwrap();
    with("127.0.0.1", SslMode::VerifyCa, &ca_pem).await.unwrap();
    with("localhost", SslMode::VerifyFull, &ca_pem).await.unwrap();
    let error = with("127.0.0.1", SslMode::VerifyFull, &ca_pem).await.unwrap_err();
    assert!(error.kind == ErrorKind::Fatal && error.message.contains("TLS with 127.0.0.1 failed"), "{error}");
    let error = with("localhost", SslMode::VerifyFull, &None).await.unwrap_err();
    assert!(error.kind == ErrorKind::Fatal, "{error}");
}

#[tokio::test]
async fn rows_pass_encrypted() {
    let server = postgres_server();
    let database = server.create_database();
    server.sql(
        &database,
        "CREATE TABLE t AS SELECT i, md5(i::text) AS m FROM generate_series(1, 20000) i; \
        GRANT ALL ON t TO tls_user; GRANT ALL ON SCHEMA public TO tls_user",
    );
    let connection = Connection { database, ssl_mode: SslMode::Require, ..as_user("tls_user") };
    let source = source_of(connection.clone());
    let entry = TableEntry { name: TableName::new("public", "t"), kind: TableKind::Table };
    let mut table = source.describe(&[entry]).await.unwrap().pop().unwrap();
    let snapshot = open(&*source, 1).await;
    let mut reader = snapshot.read(plan(&table, how(Format::PostgresCopy))).await.unwrap();
    let target = target_of(connection);
    table.name.table = "t2".into();
    target.prepare(&table, PrepareMode::DoNothing, CreateKey::WithTable).await.unwrap();
    let mut writer = target.writer(&table, Format::PostgresCopy, 10_000).await.unwrap();
    let (mut batch, mut rows) = (Batch::new(), 0);
    while reader.next(&mut batch).await.unwrap() {
        rows += writer.write(&batch).await.unwrap().rows;
    }
    assert_eq!(rows + writer.finish().await.unwrap().rows, 20_000);
}

#[tokio::test]
async fn a_script_runs_in_every_session() {
    let server = postgres_server();
    let mut connection = server.connection("postgres");
    let script = "SET session_replication_role = replica; SELECT 1";
    connection.settings.insert("AfterConnectScript".into(), script.into());
    target_of(connection.clone()).check().await.unwrap();
    connection.settings.insert("AfterConnectScript".into(), "SET no_such_setting = 1".into());
    let error = target_of(connection.clone()).check().await.unwrap_err();
    assert!(error.to_string().starts_with("AfterConnectScript: unrecognized configuration parameter"), "{error}");
    connection.settings.insert("AfterConnectScript".into(), "SELECT pg_sleep(60)".into());
    connection.settings.insert("ExecuteTimeout".into(), 1.into());
    let error = target_of(connection).check().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Recoverable);
    assert!(error.to_string().contains("no answer within ExecuteTimeout (1 s)"), "{error}");
}

#[tokio::test]
async fn settings_of_a_database_change_nothing() {
    let pair =
        Pair::new("CREATE TABLE t (id uuid, tags text[], doc xml); INSERT INTO t VALUES (NULL, '{a,NULL}', 'x')");
    for database in [&pair.source_database, &pair.target_database] {
        for setting in ["quote_all_identifiers = on", "array_nulls = off", "xmloption = document", "lock_timeout = 1"] {
            pair.server.sql("postgres", &format!("ALTER DATABASE {database} SET {setting}"));
        }
    }
    let table = pair.describe("public", "t").await;
    let native: Vec<_> = table.columns.iter().map(|column| column.native.as_str()).collect();
    assert_eq!(native, ["uuid", "text[]", "xml"]);
    let load = pair.load("t", how(Format::Text)).await;
    assert_eq!((load.rows, load.rejected.len()), (1, 0), "{:?}", load.rejected);
    assert_eq!(pair.target_sql("SELECT tags[2] IS NULL, doc FROM t"), "t|x");
}
