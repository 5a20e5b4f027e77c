//! Logging in, losing connections, and several sessions that see one moment.

use std::collections::BTreeSet;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::connector::testing::mysql::{PASSWORD, start};
use crate::connector::{Secret, SslMode};

#[tokio::test]
async fn all_readers_see_one_moment() {
    let pair = Pair::new();
    pair.sql(
        "CREATE TABLE a (v BIGINT); CREATE TABLE b (v BIGINT); INSERT INTO a VALUES (0); INSERT INTO b VALUES (0)",
    );
    let (from, connection) = (pair.from.clone(), pair.server.connection());
    // One account may lock the server, the other may only read.
    pair.server
        .client(&format!("CREATE USER IF NOT EXISTS reader IDENTIFIED BY 'r'; GRANT SELECT ON {from}.* TO reader"));
    let reader = Connection { user: "reader".to_owned(), password: Secret::new("r"), ..connection.clone() };
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let writing = connection.clone();
    let writer = tokio::spawn(async move {
        let settings = Settings::of(&writing);
        let mut client = connect(&writing, &settings, Side::Target).await.unwrap();
        let mut commits = 0_u64;
        while !*stopped.borrow_and_update() {
            client.run("START TRANSACTION").await.unwrap();
            client.run(&format!("UPDATE {from}.a SET v=v+1")).await.unwrap();
            client.run(&format!("UPDATE {from}.b SET v=v+1")).await.unwrap();
            client.run("COMMIT").await.unwrap();
            commits += 1;
        }
        commits
    });
    let (a, b) = (pair.describe("a").await, pair.describe("b").await);
    for connection in [&connection, &reader, &connection, &reader, &connection] {
        let snapshot = (MARIADB.open_source)(connection.clone()).snapshot(4).await.unwrap();
        let readers = snapshot.readers();
        assert!(readers == 4 || (readers == 1 && connection.user == "reader"));
        let mut seen = BTreeSet::new();
        for table in [&a, &b, &a, &b] {
            let mut batch = Batch::new();
            let mut table_reader = snapshot.read(pair.plan(table, Format::Values)).await.unwrap();
            assert!(table_reader.next(&mut batch).await.unwrap());
            seen.insert(format!("{:?}", batch.row(0).next()));
            assert!(!table_reader.next(&mut batch).await.unwrap());
        }
        assert_eq!(seen.len(), 1, "{seen:?}");
    }
    stop.send(true).unwrap();
    assert!(writer.await.unwrap() > 0);
}

#[tokio::test]
async fn a_reader_given_up_gives_its_place_back() {
    let pair = Pair::new();
    pair.sql(
        "CREATE TABLE t (id INT PRIMARY KEY, a TEXT); INSERT INTO t SELECT seq, REPEAT('x', 1000) FROM seq_1_to_50000",
    );
    let schema = pair.describe("t").await;
    let snapshot = pair.source().snapshot(1).await.unwrap();
    pair.sql("DELETE FROM t WHERE id > 10");
    for _ in 0..3 {
        let mut reader = snapshot.read(pair.plan(&schema, Format::Text)).await.unwrap();
        assert!(reader.next(&mut Batch::new()).await.unwrap());
    }
    let mut reader = snapshot.read(pair.plan(&schema, Format::Values)).await.unwrap();
    let (mut batch, mut rows) = (Batch::new(), 0);
    while reader.next(&mut batch).await.unwrap() {
        rows += batch.rows();
    }
    assert_eq!(rows, 50_000, "the snapshot is still the one from before");
}

#[tokio::test]
async fn says_why_a_connection_fails() {
    let pair = Pair::new();
    let good = pair.server.connection();
    (MARIADB.open_source)(good.clone()).check().await.unwrap();
    (MARIADB.open_target)(good.clone()).check().await.unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let cases = [
        (Connection { password: Secret::new("wrong"), ..good.clone() }, ErrorKind::Fatal, 1045, "Access denied"),
        (Connection { database: "nowhere".to_owned(), ..good.clone() }, ErrorKind::Fatal, 1049, "nowhere"),
        (Connection { port: free, ..good.clone() }, ErrorKind::Recoverable, 2003, "Connection refused"),
        (
            Connection { server: "no-such-host.invalid".to_owned(), ..good.clone() },
            ErrorKind::Recoverable,
            2005,
            "no-such-host.invalid",
        ),
    ];
    for (connection, kind, native, words) in cases {
        let error = (MYSQL.open_source)(connection).check().await.unwrap_err();
        assert_eq!((error.kind, error.native), (kind, Some(native)), "{error}");
        assert!(error.message.contains(words), "{error}");
        assert!(!error.to_string().contains("wrong"));
    }
    let settings = serde_json::json!({"AfterConnectScript": "nonsense; SET @done=1", "ServerTimezone": "Nowhere/X"});
    let connection = Connection { settings: settings.as_object().unwrap().clone(), ..good };
    (MYSQL.open_target)(connection.clone()).check().await.unwrap();
    let error = (MYSQL.open_source)(connection).check().await.unwrap_err();
    assert!(error.to_string().contains("Nowhere/X") && error.kind == ErrorKind::Fatal, "{error}");
}

#[tokio::test]
async fn logs_in_with_every_plugin_and_tls_mode() {
    let server = mysql_server();
    server.client(
        "CREATE USER ed@'%' IDENTIFIED VIA ed25519 USING PASSWORD('p'); CREATE USER safe@'%' IDENTIFIED BY 'p' REQUIRE SSL; \
         CREATE USER empty@'%'",
    );
    let ca = std::fs::read_to_string(server.folder.join("ca.pem")).unwrap();
    let login = |user: &str, password: &str, ssl_mode, ca_pem: Option<&str>, host: &str| {
        (MARIADB.open_source)(Connection {
            user: user.to_owned(),
            password: Secret::new(password),
            ssl_mode,
            ca_pem: ca_pem.map(str::to_owned),
            server: host.to_owned(),
            ..server.connection()
        })
    };
    let ip = "127.0.0.1";
    login("ed", "p", SslMode::None, None, ip).check().await.unwrap();
    login("empty", "", SslMode::None, None, ip).check().await.unwrap();
    login("ed", "p", SslMode::Require, None, ip).check().await.unwrap();
    login("safe", "p", SslMode::Require, None, ip).check().await.unwrap();
    login("root", PASSWORD, SslMode::VerifyCa, Some(&ca), ip).check().await.unwrap();
    login("root", PASSWORD, SslMode::VerifyFull, Some(&ca), "localhost").check().await.unwrap();
    for refused in [
        login("ed", "wrong", SslMode::None, None, ip),
        login("safe", "p", SslMode::None, None, ip),
        login("root", PASSWORD, SslMode::VerifyFull, Some(&ca), ip),
        login("root", PASSWORD, SslMode::VerifyCa, None, ip),
    ] {
        let error = refused.check().await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Fatal, "{error}");
    }
    // The whole way over TLS.
    let connection = Connection { ssl_mode: SslMode::Require, ..server.connection() };
    let mut client = connect(&connection, &Settings::of(&connection), Side::Target).await.unwrap();
    let cipher = client.rows("SHOW STATUS LIKE 'Ssl_cipher'").await.unwrap();
    assert!(cipher[0][1].as_ref().is_some_and(|cipher| !cipher.is_empty()));
}

#[tokio::test]
async fn a_login_without_tls_is_refused_with_the_reason_it_may_have() {
    let server = start(&["--require-secure-transport=ON"]);
    let shared = mysql_server();
    shared.client("CREATE USER strict@'%' IDENTIFIED BY 'p' REQUIRE SSL");
    let strict = Connection { user: "strict".to_owned(), password: Secret::new("p"), ..shared.connection() };
    for connection in [server.connection(), strict] {
        let user = connection.user.clone();
        let error = (MARIADB.open_source)(connection.clone()).check().await.unwrap_err();
        let expected = format!(
            "Access denied for user '{user}'@'localhost' (using password: YES): the server or the account may require \
             TLS, and SslMode is none"
        );
        assert_eq!((error.kind, error.native, error.message), (ErrorKind::Fatal, Some(1045), expected));
        let encrypted = Connection { ssl_mode: SslMode::Require, ..connection };
        (MARIADB.open_source)(encrypted).check().await.unwrap();
    }
    let refused = Connection { ssl_mode: SslMode::Require, password: Secret::new("wrong"), ..server.connection() };
    let error = (MARIADB.open_source)(refused).check().await.unwrap_err();
    assert!(error.native == Some(1045) && error.message.ends_with("(using password: YES)"), "{error}");
    // Not where the server offers no TLS.
    let plain = start(&["--skip-ssl"]);
    let wrong = Connection { password: Secret::new("wrong"), ..plain.connection() };
    let error = (MARIADB.open_source)(wrong).check().await.unwrap_err();
    assert!(error.native == Some(1045) && error.message.ends_with("(using password: YES)"), "{error}");
}

#[tokio::test]
async fn a_server_that_takes_no_local_files_is_named_as_the_reason() {
    let server = start(&["--local-infile=0", "--skip-ssl"]);
    let target = (MARIADB.open_target)(server.connection());
    let schema = TableSchema {
        name: TableName::new("d", "t"),
        kind: TableKind::Table,
        family: Family::MySql,
        columns: Vec::new(),
        primary_key: Vec::new(),
        unique_key: Vec::new(),
        rows_estimate: 0,
    };
    let error = target.prepare(&schema, PrepareMode::DropAndCreate, CreateKey::WithTable).await.unwrap_err();
    assert!(error.kind == ErrorKind::Fatal && error.message.contains("local_infile=1"), "{error}");
    let connection = Connection { ssl_mode: SslMode::Require, ..server.connection() };
    let error = (MARIADB.open_source)(connection).check().await.unwrap_err();
    assert!(error.message.contains("does not support SSL"), "{error}");
}

#[tokio::test]
async fn a_lost_connection_can_be_tried_again() {
    let pair = Pair::new();
    pair.sql("CREATE TABLE t (a TEXT); INSERT INTO t SELECT REPEAT('x', 1000) FROM seq_1_to_50000");
    pair.server.client("CREATE USER lost IDENTIFIED BY 'l'; GRANT ALL ON *.* TO lost");
    let connection = Connection { user: "lost".to_owned(), password: Secret::new("l"), ..pair.server.connection() };
    let schema = pair.describe("t").await;
    let mut renamed = schema.clone();
    renamed.name.schema = pair.to.clone();
    let target = (MARIADB.open_target)(connection.clone());
    target.prepare(&renamed, PrepareMode::DropAndCreate, CreateKey::WithTable).await.unwrap();
    let snapshot = (MARIADB.open_source)(connection).snapshot(1).await.unwrap();
    let mut reader = snapshot.read(pair.plan(&schema, Format::Text)).await.unwrap();
    let mut writer = target.writer(&renamed, Format::Text, 10_000).await.unwrap();
    let mut batch = Batch::new();
    assert!(reader.next(&mut batch).await.unwrap());
    writer.write(&batch).await.unwrap();
    pair.server.client("KILL USER lost");
    let read = loop {
        match reader.next(&mut batch).await {
            Ok(true) => {}
            Ok(false) => panic!("the table was read to its end"),
            Err(error) => break error,
        }
    };
    let written = match writer.write(&batch).await {
        Ok(_) => writer.finish().await.unwrap_err(),
        Err(error) => error,
    };
    for error in [read, written] {
        assert_eq!(error.kind, ErrorKind::Recoverable, "{error}");
    }
    // Its moment is over: the snapshot does not go on with another.
    drop(reader);
    assert!(snapshot.read(pair.plan(&schema, Format::Text)).await.is_err());
}

/// A server that sends each of `answers` (payload and sequence number) after one packet of the client, the first at
/// once, and gives back what the client sent.
async fn scripted(answers: Vec<(Vec<u8>, u8)>) -> (Connection, tokio::task::JoinHandle<Vec<Vec<u8>>>) {
    async fn receive(stream: &mut TcpStream) -> Option<Vec<u8>> {
        let mut header = [0; 4];
        stream.read_exact(&mut header).await.ok()?;
        let mut payload = vec![0; u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize];
        stream.read_exact(&mut payload).await.ok()?;
        Some(payload)
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut received = Vec::new();
        for (payload, sequence) in answers {
            let mut packet = (payload.len() as u32).to_le_bytes().to_vec();
            packet[3] = sequence;
            packet.extend_from_slice(&payload);
            stream.write_all(&packet).await.unwrap();
            match receive(&mut stream).await {
                Some(payload) => received.push(payload),
                None => break,
            }
        }
        received
    });
    let connection = Connection {
        server: "127.0.0.1".to_owned(),
        port,
        user: "u".to_owned(),
        password: Secret::new("secret"),
        ..Connection::default()
    };
    (connection, server)
}

fn greeting(plugin: &str) -> (Vec<u8>, u8) {
    let mut packet = b"\x0a8.4.3\0\x2a\0\0\0abcdefgh\0\xff\xf7\xff\x02\0\xff\xdf\x15".to_vec();
    packet.extend_from_slice(&[0; 10]);
    packet.extend_from_slice(b"ijklmnopqrst\0");
    packet.extend_from_slice(plugin.as_bytes());
    packet.push(0);
    (packet, 0)
}

const OK: &[u8] = &[0, 0, 0, 2, 0, 0, 0];

#[tokio::test]
async fn caching_sha2_password_is_encrypted_where_the_connection_is_not() {
    let key = [b"\x01", &include_bytes!("../wire/testdata/rsa-2048-public.pem")[..]].concat();
    let script = vec![greeting("caching_sha2_password"), (vec![1, 4], 2), (key, 4), (OK.to_vec(), 6)];
    let (connection, server) = scripted(script).await;
    let client = wire::Client::connect(&connection, LocalFiles::Refused, net::CONNECT_TIMEOUT).await.unwrap();
    assert!(!client.is_busy());
    client.close().await;
    let received = server.await.unwrap();
    assert_eq!((&received[1][..], received[2].len()), (&[2][..], 256));
    assert!(received.iter().all(|packet| !packet.windows(6).any(|bytes| bytes == b"secret")));
}

#[tokio::test]
async fn a_password_never_goes_out_in_clear() {
    let switch = [b"\xfemysql_clear_password\0", &[0; 20][..]].concat();
    let (connection, server) = scripted(vec![greeting("mysql_native_password"), (switch, 2)]).await;
    let refused = wire::Client::connect(&connection, LocalFiles::Refused, net::CONNECT_TIMEOUT).await;
    let error = refused.err().unwrap();
    assert!(error.kind == ErrorKind::Fatal && error.message.contains("SSL"), "{error}");
    assert_eq!(server.await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_server_cannot_ask_for_files() {
    for load in [false, true] {
        let script = vec![greeting("mysql_native_password"), (OK.to_vec(), 2), (b"\xfb/etc/passwd".to_vec(), 1)];
        let (connection, server) = scripted(script).await;
        let mut client = wire::Client::connect(&connection, LocalFiles::Answered, net::CONNECT_TIMEOUT).await.unwrap();
        let error = if load {
            client.begin_load("LOAD DATA LOCAL …").await.unwrap_err()
        } else {
            client.run("SELECT 1").await.unwrap_err()
        };
        assert!(error.kind == ErrorKind::Fatal && error.message.contains("not offered"), "{error}");
        assert!(client.is_busy() && client.run("SELECT 1").await.is_err());
        assert_eq!(server.await.unwrap()[2], b"", "an empty file and nothing else");
    }
}
