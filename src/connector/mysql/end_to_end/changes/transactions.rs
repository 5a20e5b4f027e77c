//! Transactions that are taken back, prepared, long, or none.

use super::*;

#[tokio::test]
async fn what_was_rolled_back_is_not_told() {
    let pair = Pair::new();
    pair.sql("CREATE TABLE t (id INT PRIMARY KEY); CREATE TABLE m (id INT) ENGINE=MyISAM");
    let mut log = Log::begin(&pair, Format::Text).await;
    pair.sql("BEGIN; INSERT INTO t VALUES (1); SAVEPOINT a; INSERT INTO t VALUES (2); ROLLBACK TO a; COMMIT");
    // Something outside of the transaction makes the server log what it takes back.
    pair.sql(
        "BEGIN; INSERT INTO t VALUES (3); SAVEPOINT a; INSERT INTO t VALUES (4); SAVEPOINT b; INSERT INTO t VALUES (5); \
         INSERT INTO m VALUES (1); ROLLBACK TO a; INSERT INTO t VALUES (6); COMMIT",
    );
    pair.sql("BEGIN; INSERT INTO t VALUES (7); CREATE TEMPORARY TABLE x (a INT); ROLLBACK");
    pair.sql("BEGIN; INSERT INTO t VALUES (8); ROLLBACK; INSERT INTO t VALUES (9)");
    assert_eq!(
        log.transactions(4).await,
        "t: id int by [0]\nInsert t ->(1)\nCommit\nm: id int by [0]\nInsert m ->(1)\nCommit\n\
         Insert t ->(3)\nInsert t ->(6)\nCommit\nInsert t ->(9)\nCommit\n"
    );
}

#[tokio::test]
async fn a_long_transaction_that_was_rolled_back_is_read_again_without_it() {
    let mut pair = Pair::new();
    pair.batch_bytes = 20 << 10;
    pair.sql("CREATE TABLE t (id INT PRIMARY KEY, v TEXT); CREATE TABLE m (id INT) ENGINE=MyISAM");
    let mut log = Log::begin(&pair, Format::Text).await;
    pair.sql(
        "BEGIN; INSERT INTO t SELECT seq, REPEAT('x', 100) FROM seq_1_to_1000; SAVEPOINT a; \
         INSERT INTO t SELECT seq, REPEAT('y', 100) FROM seq_1001_to_2000; INSERT INTO m VALUES (1); ROLLBACK TO a; COMMIT;
         BEGIN; INSERT INTO t SELECT seq, 'z' FROM seq_3001_to_5000; CREATE TEMPORARY TABLE x (a INT); ROLLBACK; \
         INSERT INTO t VALUES (5000, 'last')",
    );
    let mut told = String::new();
    let mut attempts = 0;
    while log.commits.len() < 3 {
        match log.piece(&mut told).await {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Recoverable, "{error}");
                attempts += 1;
                // What has not been committed was never told.
                let kept = told.rfind("Commit\n").map_or(0, |at| at + 7);
                told.truncate(kept);
                let place = log.commits.last().map(|(place, _)| place.clone()).or(log.resume.clone()).unwrap();
                log.reopen(&place).await;
            }
        }
    }
    assert_eq!(attempts, 2);
    let rows: Vec<&str> = told.lines().filter(|line| line.starts_with("Insert t")).collect();
    assert_eq!(rows.len(), 1001);
    assert!(rows[..1000].iter().all(|row| row.ends_with("xx)")) && rows[1000] == "Insert t ->(5000,last)");
}

#[tokio::test]
async fn a_long_transaction_comes_in_pieces_of_bounded_size() {
    let mut pair = Pair::new();
    pair.batch_bytes = 64 << 10;
    pair.sql("CREATE TABLE t (id INT PRIMARY KEY, v TEXT)");
    let mut log = Log::begin(&pair, Format::Text).await;
    pair.sql("INSERT INTO t SELECT seq, REPEAT('x', 500) FROM seq_1_to_20000");
    let (mut rows, mut pieces) = (0, 0);
    loop {
        let mut changes = Changes::default();
        log.reader.next(&mut changes).await.unwrap();
        assert!(changes.bytes() < (64 << 10) + 1000, "{}", changes.bytes());
        rows += changes.rows.rows();
        pieces += 1;
        if matches!(changes.entries.last(), Some(Entry::Commit { .. })) {
            break;
        }
    }
    assert!(rows == 20_000 && pieces >= 150, "{rows} rows in {pieces} pieces");
}

#[tokio::test]
async fn a_piece_that_ends_with_the_rows_is_followed_by_their_commit() {
    let mut pair = Pair::new();
    pair.batch_bytes = 1;
    pair.sql("CREATE TABLE t (id INT PRIMARY KEY)");
    let mut log = Log::begin(&pair, Format::Text).await;
    pair.sql("INSERT INTO t VALUES (1), (2), (3)");
    assert_eq!(log.transactions(1).await, "t: id int by [0]\nInsert t ->(1)\nInsert t ->(2)\nInsert t ->(3)\nCommit\n");
}

#[tokio::test]
async fn a_reader_that_stands_still_is_not_cut_off() {
    let pair = Pair::of(Box::leak(Box::new(start(&["--net-write-timeout=1", "--skip-ssl"]))));
    pair.sql("CREATE TABLE t (id INT PRIMARY KEY, v LONGTEXT)");
    let mut log = Log::begin(&pair, Format::Text).await;
    pair.sql("INSERT INTO t SELECT seq, REPEAT('x', 1000000) FROM seq_1_to_40");
    let (mut changes, mut rows) = (Changes::default(), 0);
    while changes.rows.rows() == 0 {
        log.reader.next(&mut changes).await.unwrap();
    }
    rows += changes.rows.rows();
    // More than the server's own timeout, which it would be cut off after.
    let stands = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE COMMAND='Binlog Dump' AND STATE LIKE '%rite%' AND TIME > 3";
    let waiting = std::time::Instant::now();
    crate::connector::testing::mysql::wait_until("the server waits for the reader", || {
        pair.server.client(stands) != "0\n" || waiting.elapsed() > Duration::from_secs(4)
    });
    while rows < 40 {
        log.reader.next(&mut changes).await.unwrap();
        rows += changes.rows.rows();
    }
}

#[tokio::test]
async fn a_server_that_falls_silent_counts_as_lost() {
    let pair = Pair::of(Box::leak(Box::new(start(&["--skip-ssl"]))));
    pair.sql("CREATE TABLE t (id INT PRIMARY KEY)");
    let mut log = Log::begin(&pair, Format::Text).await;
    pair.sql("INSERT INTO t VALUES (1)");
    log.transactions(1).await;
    pair.server.signal("STOP");
    // From here on time is only what is waited for.
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let mut changes = Changes::default();
    let error = loop {
        if let Err(error) = log.reader.next(&mut changes).await {
            break error;
        }
    };
    assert!(error.kind == ErrorKind::Recoverable && error.message.contains("has sent nothing for 30 s"), "{error}");
    assert!(begun.elapsed() >= Duration::from_secs(30) && begun.elapsed() < Duration::from_secs(90));
    let error = log.reader.keep_alive().await;
    assert_eq!(error.kind, ErrorKind::Recoverable);
    pair.server.signal("CONT");
}

#[tokio::test]
async fn one_row_may_be_longer_than_a_packet() {
    let pair = Pair::new();
    pair.sql("CREATE TABLE t (id INT PRIMARY KEY, v LONGTEXT, w LONGBLOB)");
    let mut log = Log::begin(&pair, Format::Text).await;
    // A packet goes on in the next one at 16 MiB less a byte.
    for bytes in [16_777_215 - 60, 16_777_215 - 50, 40 << 20] {
        pair.sql(&format!("REPLACE INTO t VALUES (1, REPEAT('ä', {}), NULL); DELETE FROM t", bytes / 2));
        let told = log.transactions(2).await;
        let text = told.split([',', ')']).find(|part| part.starts_with('ä')).unwrap();
        assert!(text.len() == bytes / 2 * 2 && text.chars().all(|c| c == 'ä'));
    }
}

#[tokio::test]
async fn a_two_phase_transaction_comes_when_it_is_committed() {
    let mut pair = Pair::new();
    pair.sql("CREATE TABLE t (id INT PRIMARY KEY, v INT); CREATE TABLE skipped (id INT)");
    let mut log = Log::begin(&pair, Format::Text).await;
    let name = &pair.from.clone();
    pair.sql(&format!(
        "XA START '{name}a','b',7; INSERT INTO t VALUES (1, 1); UPDATE t SET v=2; XA END '{name}a','b',7; XA PREPARE '{name}a','b',7"
    ));
    pair.sql(&format!("XA START '{name}r'; INSERT INTO t VALUES (5, 5); XA END '{name}r'; XA PREPARE '{name}r'"));
    pair.sql(&format!("XA START '{name}s'; INSERT INTO skipped VALUES (5); XA END '{name}s'; XA PREPARE '{name}s'"));
    pair.sql("INSERT INTO t VALUES (2, 2)");
    assert_eq!(log.transactions(1).await, "t: id int, v int by [0]\nInsert t ->(2,2)\nCommit\n");
    let place = log.commits[0].0.clone();
    pair.sql(&format!(
        "XA COMMIT '{name}a','b',7; XA ROLLBACK '{name}r'; XA COMMIT '{name}s'; INSERT INTO t VALUES (3, 3)"
    ));
    let expected = "Insert t ->(1,1)\nUpdate t ->(1,2)\nCommit\nInsert t ->(3,3)\nCommit\n";
    assert_eq!(log.transactions(2).await, expected);
    // A reader that has not seen it prepared finds where that was; also in pieces, and in another file of the log.
    pair.batch_bytes = 1;
    pair.server.client("FLUSH BINARY LOGS");
    log.capture.batch_bytes = 1;
    log.reopen(&place).await;
    assert_eq!(log.transactions(2).await, format!("t: id int, v int by [0]\n{expected}"));
    pair.sql(&format!(
        "XA START '{name}o'; INSERT INTO t VALUES (4, 4); XA END '{name}o'; XA COMMIT '{name}o' ONE PHASE"
    ));
    assert_eq!(log.transactions(1).await, "Insert t ->(4,4)\nCommit\n");
}
