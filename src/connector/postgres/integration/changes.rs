//! The log of a real server.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::log::{BUILT_IN, Log, capture, count, plugins};
use super::*;
use crate::connector::Capture;
use crate::data::{Changes, Entry, ErrorKind, Position};

#[tokio::test]
async fn the_log_goes_on_where_the_snapshot_ends() {
    let pair = Pair::new("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'before')");
    let (mut log, snapshot) = Log::begin(&pair, Format::Text).await;
    pair.source_sql("INSERT INTO t VALUES (2, 'after'), (3, NULL)");
    pair.source_sql("UPDATE t SET v = E'tab\\there \\\\ ''quoted''' WHERE id = 1");
    assert_eq!(count(&pair, &*snapshot, "t").await, 1);
    let expected = "t: id integer, v text by [0]\nInsert t ->(2,after)\nInsert t ->(3,NULL)\nCommit\n\
        Update t ->(1,tab\there \\ 'quoted')\nCommit\n";
    assert_eq!(log.transactions(2).await, expected);
}

#[tokio::test]
async fn rows_are_told_by_what_identifies_them() {
    let pair = Pair::new(
        "CREATE TABLE keyed (a int, b text, c int, PRIMARY KEY (c, a)); CREATE TABLE whole (a int, b text);
         ALTER TABLE whole REPLICA IDENTITY FULL; CREATE TABLE none (a int);
         CREATE TABLE indexed (a int NOT NULL UNIQUE, b int); ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_a_key;
         INSERT INTO keyed VALUES (1, 'x', 2), (3, 'y', 4); INSERT INTO whole VALUES (1, 'x');
         INSERT INTO none VALUES (1); INSERT INTO indexed VALUES (1, 1)",
    );
    let (mut log, _) = Log::begin(&pair, Format::Text).await;
    pair.source_sql("BEGIN; UPDATE keyed SET a = 9 WHERE a = 1; DELETE FROM keyed WHERE a = 3; COMMIT");
    pair.source_sql("BEGIN; UPDATE whole SET b = 'z'; DELETE FROM whole; COMMIT");
    // The application must be able to, though nobody can tell which row it was.
    pair.source_sql("UPDATE none SET a = 2; INSERT INTO none VALUES (3); DELETE FROM none");
    pair.source_sql("BEGIN; UPDATE indexed SET b = 2; UPDATE indexed SET a = 5; DELETE FROM indexed; COMMIT");
    let expected = "keyed: a integer, b text, c integer by [0, 2]\nUpdate keyed (1,-,2)->(9,x,2)\n\
        Delete keyed (3,-,4)->\nCommit\n\
        whole: a integer, b text by [0, 1]\nUpdate whole (1,x)->(1,z)\nDelete whole (1,z)->\nCommit\n\
        none: a integer by []\nInsert none ->(3)\nCommit\n\
        indexed: a integer, b integer by [0]\nUpdate indexed ->(1,2)\nUpdate indexed (1,-)->(5,2)\n\
        Delete indexed (5,-)->\nCommit\n";
    assert_eq!(log.transactions(4).await, expected);
}

#[tokio::test]
async fn values_that_are_stored_apart_and_did_not_change_are_absent() {
    let pair = Pair::new(
        "CREATE TABLE t (id int PRIMARY KEY, n int, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
         INSERT INTO t VALUES (1, 1, repeat('x', 10000))",
    );
    let (mut log, _) = Log::begin(&pair, Format::Text).await;
    pair.source_sql("UPDATE t SET n = 2");
    assert_eq!(log.transactions(1).await, "t: id integer, n integer, big text by [0]\nUpdate t ->(1,2,-)\nCommit\n");
}

#[tokio::test]
async fn values_are_of_the_types_of_dms_between_engines() {
    let pair = Pair::new(
        "CREATE TABLE t (i bigint PRIMARY KEY, b boolean, r real, n numeric(9, 2), d date, s timestamp, y bytea,
         c char(4), e text, a int[])",
    );
    let (mut log, _) = Log::begin(&pair, Format::Values).await;
    pair.source_sql(
        "INSERT INTO t VALUES (-5, true, 0.1, 3.50, '1970-01-03', '1970-01-01 00:00:01', '\\x00ff', 'ab', E'a\\\\b\t',
         '{1}')",
    );
    let told = log.transactions(1).await;
    let row = told.lines().find(|line| line.starts_with("Insert")).unwrap();
    let expected = "Insert t ->(Int(-5),true,Real(0.1),3.50,Date(2),DateTime(1000000),Bytes([0, 255]),ab,a\\b\t,{1})";
    assert_eq!(row, expected);
}

/// Makes a place durable, of which the server is to hear at once though nothing comes.
async fn confirm(pair: &Pair, log: &mut Log, place: &Position) {
    let (since, mut changes) = (Instant::now(), Changes::default());
    log.durable.send_replace(Some(place.clone()));
    let slot = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE database = current_database()";
    while pair.source_sql(slot).parse::<Position>().unwrap() != *place {
        let read = timeout(Duration::from_millis(10), log.reader.next(&mut changes)).await;
        assert!(read.is_err() || changes.entries.is_empty());
    }
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_place_is_confirmed_while_nobody_reads() {
    for plugin in plugins() {
        let pair = Pair::with("CREATE TABLE t (a int PRIMARY KEY)", json!({ "PluginName": plugin }));
        let (mut log, _) = Log::begin(&pair, Format::Text).await;
        pair.source_sql("INSERT INTO t VALUES (1)");
        log.transactions(1).await;
        let (since, place) = (Instant::now(), log.resume.clone().unwrap());
        log.durable.send_replace(Some(place.clone()));
        let slot = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE database = current_database()";
        while pair.source_sql(slot).parse::<Position>().unwrap() != place {
            assert!(timeout(Duration::from_millis(10), log.reader.keep_alive()).await.is_err());
        }
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    }
}

/// A server that shuts down waits until all that it has sent is durable.
#[tokio::test]
async fn a_server_that_shuts_down_is_not_held_up() {
    let server: &'static PostgresServer = Box::leak(Box::new(PostgresServer::start("")));
    let pair = Pair::on(server, "CREATE TABLE t (a int PRIMARY KEY)", json!({}));
    let (mut log, snapshot) = Log::begin(&pair, Format::Text).await;
    drop(snapshot);
    pair.source_sql("INSERT INTO t VALUES (1)");
    log.transactions(1).await;
    // What was read becomes durable a little later, while what comes next is waited for.
    let (read, mut to_keep) = tokio::sync::mpsc::unbounded_channel();
    let durable = log.durable.clone();
    let keeping = tokio::spawn(async move {
        while let Some(place) = to_keep.recv().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
            durable.send_replace(Some(place));
        }
    });
    read.send(log.resume.clone().unwrap()).unwrap();
    server.shut_down();
    let mut changes = Changes::default();
    let reading = async {
        loop {
            if let Err(error) = log.reader.next(&mut changes).await {
                break error;
            }
            changes.resume.take().into_iter().for_each(|place| read.send(place).unwrap());
        }
    };
    let error = timeout(Duration::from_secs(5), reading).await.expect("the server does not end");
    keeping.abort();
    assert_eq!(error.kind, ErrorKind::Recoverable, "{error}");
    assert!(timeout(Duration::from_secs(5), server.is_down()).await.is_ok());
}

#[tokio::test]
async fn what_is_confirmed_is_not_sent_again_and_may_be_forgotten() {
    let pair = Pair::new("CREATE TABLE t (a int PRIMARY KEY)");
    let (mut log, _) = Log::begin(&pair, Format::Text).await;
    pair.source_sql("INSERT INTO t VALUES (1)");
    log.transactions(1).await;
    let (first, task) = (log.resume.clone().unwrap(), log.capture.clone());
    pair.source_sql("INSERT INTO t VALUES (2)");
    log.transactions(1).await;
    confirm(&pair, &mut log, &first).await;
    drop(log);
    while pair.source_sql("SELECT active FROM pg_replication_slots WHERE database = current_database()") == "t" {
        tokio::task::yield_now().await;
    }
    let mut log = Log::from(&pair, task, &first).await;
    assert_eq!(log.transactions(1).await, "t: a integer by [0]\nInsert t ->(2)\nCommit\n");
}

#[tokio::test]
async fn a_log_that_holds_nothing_for_us_moves_the_place() {
    let pair = Pair::new("CREATE TABLE t (a int PRIMARY KEY); CREATE SCHEMA other; CREATE TABLE other.t (a int)");
    let (mut log, _) = Log::begin(&pair, Format::Text).await;
    pair.source_sql("INSERT INTO other.t SELECT generate_series(1, 1000)");
    let Ok(Position::Lsn(end)) = pair.source_sql("SELECT pg_current_wal_flush_lsn()").parse() else { panic!() };
    let mut changes = Changes::default();
    while log.lsn() < end {
        log.reader.next(&mut changes).await.unwrap();
        assert!(changes.entries.is_empty());
        log.resume = changes.resume.take();
    }
}

#[tokio::test]
async fn a_long_transaction_comes_in_pieces_of_bounded_size() {
    let pair = Pair::new("CREATE TABLE t (a int PRIMARY KEY, b text)");
    let (mut log, _) = Log::begin(&pair, Format::Text).await;
    pair.source_sql("INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 20000) i");
    let (mut changes, mut rows, mut pieces) = (Changes::default(), 0, 0);
    loop {
        log.reader.next(&mut changes).await.unwrap();
        assert!(changes.bytes() < (1 << 20) + (64 << 10), "{}", changes.bytes());
        rows += changes.rows.rows();
        pieces += 1;
        if matches!(changes.entries.last(), Some(Entry::Commit { .. })) {
            break;
        }
    }
    assert!(rows == 20_000 && pieces >= 10, "{rows} rows in {pieces} pieces");
}

#[tokio::test]
async fn nothing_is_left_on_the_source() {
    let pair = Pair::new("CREATE TABLE t (a int PRIMARY KEY)");
    let left = "SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = current_database())
        + (SELECT count(*) FROM pg_publication)";
    let (first, _snapshot) = Log::begin(&pair, Format::Text).await;
    let made = pair.source_sql(left);
    assert_ne!(made, "0");
    // A second beginning takes the place of the first, though that is still reading.
    let (again, _) = Log::begin(&pair, Format::Text).await;
    assert_eq!(pair.source_sql(left), made);
    pair.source.end_capture(&again.capture).await.unwrap();
    assert_eq!(pair.source_sql(left), "0");
    pair.source.end_capture(&first.capture).await.unwrap();
}

#[tokio::test]
async fn a_reader_that_nobody_asks_goes_on_where_it_was() {
    let pair = Pair::new("CREATE TABLE t (a int PRIMARY KEY)");
    let (mut log, _) = Log::begin(&pair, Format::Text).await;
    pair.source_sql("INSERT INTO t VALUES (1)");
    assert!(futures_util::poll!(log.reader.keep_alive()).is_pending());
    assert!(log.transactions(1).await.contains("Insert t ->(1)"));
}

#[tokio::test]
async fn the_end_of_a_transaction_is_told_though_its_rows_came_before() {
    for plugin in plugins() {
        let pair = Pair::with("CREATE TABLE t (a int PRIMARY KEY)", json!({ "PluginName": plugin }));
        let capture = Capture { batch_bytes: 1, ..capture(&pair, Format::Text).await };
        let (mut log, _) = Log::of(&pair, capture).await;
        pair.source_sql("INSERT INTO t VALUES (1), (2)");
        let mut changes = Changes::default();
        let mut pieces = Vec::new();
        while !matches!(changes.entries.last(), Some(Entry::Commit { .. })) {
            log.reader.next(&mut changes).await.unwrap();
            pieces.push(changes.entries.len());
        }
        // The table's description, each row, and the end.
        assert!(pieces.len() >= 3 && pieces.last() == Some(&1), "{pieces:?}");
    }
}

#[tokio::test]
async fn lobs_are_cut_before_a_character_as_those_of_a_load_are() {
    let setup = "CREATE TABLE t (id int PRIMARY KEY, b text, y bytea, j jsonb, short varchar(9), a text[]);
        ALTER TABLE t REPLICA IDENTITY FULL";
    let insert = "INSERT INTO t VALUES (1, 'ab\u{e9}d', '\\x0102030405', '\"\u{1f980}x\"', 'abcdefghi', '{abcdef}'),
        (2, 'abc', '\\x0102', '1', NULL, '{}')";
    for plugin in BUILT_IN {
        for format in [Format::Text, Format::Values] {
            let pair = Pair::with(setup, json!({ "PluginName": plugin }));
            let capture = Capture { lob_bytes_max: Some(3), ..capture(&pair, format).await };
            let (mut log, _) = Log::of(&pair, capture).await;
            pair.source_sql(&format!("{insert}; UPDATE t SET short = 'x' WHERE id = 1"));
            let told = log.rest(&pair).await;
            let bytes = |text: &str, values: &str| {
                if format == Format::Text { text.to_owned() } else { format!("Bytes([{values}])") }
            };
            let id = |id: u8| if format == Format::Text { id.to_string() } else { format!("Int({id})") };
            let (three, two) = (bytes("\\x010203", "1, 2, 3"), bytes("\\x0102", "1, 2"));
            let one = format!("({},ab,{three},\",abcdefghi,{{ab)", id(1));
            let expected = format!(
                "Insert t ->{one}\nInsert t ->({},abc,{two},1,NULL,{{}})\nCommit\nUpdate t {one}->{}\nCommit\n",
                id(2),
                one.replace("abcdefghi", "x")
            );
            assert_eq!(told.split_once('\n').unwrap().1, expected, "{plugin}");
            assert_eq!(log.truncated, 8, "four of the row inserted, four of the row updated");
        }
        let pair = Pair::with(setup, json!({ "PluginName": plugin, "FailTasksOnLobTruncation": true }));
        let capture = Capture { lob_bytes_max: Some(3), ..capture(&pair, Format::Text).await };
        let (mut log, _) = Log::of(&pair, capture).await;
        pair.source_sql(insert);
        let error = loop {
            if let Err(error) = log.reader.next(&mut Changes::default()).await {
                break error;
            }
        };
        assert_eq!(error.kind, ErrorKind::Fatal);
        assert!(error.message.contains("LobMaxSize"), "{error}");
    }
}

#[tokio::test]
async fn a_value_of_100_mb_is_a_piece_with_little_else() {
    const MB: usize = 1 << 20;
    for plugin in plugins() {
        let setup = "CREATE TABLE t (id int PRIMARY KEY, v text, y bytea); ALTER TABLE t ALTER v SET STORAGE EXTERNAL";
        let pair = Pair::with(setup, json!({ "PluginName": plugin }));
        let (mut log, _) = Log::begin(&pair, Format::Values).await;
        pair.source_sql(
            "INSERT INTO t SELECT i, CASE i WHEN 2 THEN repeat('x', 100 << 20) ELSE 'small' END,
             CASE i WHEN 4 THEN decode(repeat('00', 20 << 20), 'hex') END FROM generate_series(1, 4) i",
        );
        let (mut changes, mut largest, mut rows) = (Changes::default(), 0, 0);
        while !matches!(changes.entries.last(), Some(Entry::Commit { .. })) {
            log.reader.next(&mut changes).await.unwrap();
            largest = largest.max(changes.bytes());
            rows += changes.rows.rows();
        }
        assert!(rows == 4 && largest < 102 * MB, "{plugin}: {rows} rows, {largest} bytes");
    }
}

#[tokio::test]
async fn values_are_those_of_a_load() {
    let setup = "CREATE TABLE t (m money, c char(60000), f real, d date, t timetz, n numeric(6, 2), b boolean);
        ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES ('-1234.5', 'ab', 0.1, 'infinity', '12:00:00+03', 12.5, true)";
    for plugin in BUILT_IN {
        let pair = Pair::with(setup, json!({ "PluginName": plugin }));
        let (mut log, _) = Log::begin(&pair, Format::Values).await;
        pair.source_sql("UPDATE t SET b = b");
        let row = "(-1234.50,ab,Real(0.1),Date(2147483647),Time(43200000000),12.50,true)";
        let told = log.rest(&pair).await;
        assert_eq!(told.lines().nth(1), Some(format!("Update t {row}->{row}").as_str()), "{plugin} {told}");
    }
}

#[tokio::test]
async fn a_reader_beats_the_heart_that_is_asked_for() {
    let settings = json!({ "HeartbeatEnable": true, "HeartbeatSchema": "beats", "HeartbeatFrequency": 1 });
    let pair = Pair::with("CREATE SCHEMA beats; CREATE TABLE t (a int PRIMARY KEY)", settings);
    let (mut log, _) = Log::begin(&pair, Format::Text).await;
    let table = "SELECT to_regclass('beats.awsdms_heartbeat') IS NOT NULL";
    while pair.source_sql(table) != "t" {
        tokio::task::yield_now().await;
    }
    while pair.source_sql("SELECT count(*) FROM beats.awsdms_heartbeat") != "1" {
        tokio::task::yield_now().await;
    }
    // It is no table of the task's.
    assert_eq!(log.rest(&pair).await, "");
}
