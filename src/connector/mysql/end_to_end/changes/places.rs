//! Where the log begins to be read, and where it goes on.

use super::*;

/// A server of its own, whose log is done things to.
fn own_server() -> MySqlServer {
    start(&["--skip-ssl", "--binlog-row-event-max-size=256"])
}

fn leaked() -> &'static MySqlServer {
    Box::leak(Box::new(own_server()))
}

async fn begin_at(pair: &Pair, capture: &Capture, start: StartPoint) -> Result<Position> {
    pair.source().begin_capture_at(capture, &start).await
}

#[tokio::test]
async fn the_log_goes_on_through_rotation_purge_and_death_of_the_server() {
    let pair = Pair::of(leaked());
    pair.sql("CREATE TABLE t (id INT PRIMARY KEY, v TEXT)");
    let mut log = Log::begin(&pair, Format::Text).await;
    let begin = pair.source().log_end().await.unwrap();
    pair.sql("INSERT INTO t VALUES (1, 'x'); FLUSH BINARY LOGS; INSERT INTO t VALUES (2, 'y'); FLUSH BINARY LOGS; FLUSH BINARY LOGS");
    assert_eq!(
        log.transactions(2).await,
        "t: id int, v text by [0]\nInsert t ->(1,x)\nCommit\nInsert t ->(2,y)\nCommit\n"
    );
    // Without any transaction the place moves into the last file.
    let end = pair.source().log_end().await.unwrap();
    while log.resume.as_ref().is_none_or(|resume| *resume < end) {
        log.piece(&mut String::new()).await.unwrap();
    }

    pair.server.kill_and_restart();
    let error = log.error().await;
    assert_eq!(error.kind, ErrorKind::Recoverable, "{error}");
    pair.sql("INSERT INTO t VALUES (3, 'z')");
    let place = log.commits[0].0.clone();
    log.reopen(&place).await;
    assert_eq!(log.transactions(2).await.lines().filter(|line| line.starts_with("Insert")).count(), 2);

    pair.purge_log().await;
    let mut lost = pair.source().changes(&log.capture, &begin, nothing_durable()).await.unwrap();
    let error = lost.next(&mut Changes::default()).await.unwrap_err();
    assert_eq!((error.kind, error.native), (ErrorKind::Fatal, Some(1236)));
    assert!(error.message.starts_with("Error 1236 reading binary log. "), "{error}");
    let error = begin_at(&pair, &log.capture, StartPoint::At(begin)).await.unwrap_err();
    assert!(error.kind == ErrorKind::Fatal && error.message.contains("Error 1236 reading binary log."), "{error}");
}

#[tokio::test]
async fn a_transaction_that_the_server_died_in_was_never_there() {
    let mut pair = Pair::of(leaked());
    pair.batch_bytes = 1 << 10;
    pair.sql("CREATE TABLE t (id INT PRIMARY KEY, v TEXT)");
    let mut log = Log::begin(&pair, Format::Text).await;
    pair.sql("INSERT INTO t VALUES (1, 'x')");
    log.transactions(1).await;
    pair.sql("INSERT INTO t SELECT seq, REPEAT('y', 1000) FROM seq_2_to_2000");
    let Position::Binlog { file, .. } = log.commits[0].0.clone() else { panic!() };
    let path = pair.server.folder.join("data").join(&file);
    // The end of the file is not on the disk when the power fails.
    let events = pair.sql(&format!("SHOW BINLOG EVENTS IN '{file}'"));
    let rows: Vec<&str> = events.lines().filter(|event| event.contains("Write_rows")).collect();
    let cut: u64 = rows[rows.len() - 3].split('\t').nth(4).unwrap().parse().unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let kill = std::thread::spawn({
        let server = pair.server;
        move || {
            stopped.recv().unwrap();
            server.kill_and_restart();
        }
    });
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(cut).unwrap();
    stop.send(()).unwrap();
    kill.join().unwrap();
    pair.sql("REPLACE INTO t VALUES (5000, 'last')");
    let place = log.commits[0].0.clone();
    log.reopen(&place).await;
    let mut told = String::new();
    let mut attempts = 0;
    while log.commits.len() < 2 {
        if let Err(error) = log.piece(&mut told).await {
            assert_eq!(error.kind, ErrorKind::Recoverable, "{error}");
            attempts += 1;
            told.clear();
            log.reopen(&place).await;
        }
        assert!(attempts < 3);
    }
    let rows: Vec<&str> = told.lines().filter(|line| line.starts_with("Insert")).collect();
    assert_eq!(rows, ["Insert t ->(5000,last)"]);
}

#[tokio::test]
async fn a_place_is_checked_before_a_task_begins_there() {
    let pair = Pair::new();
    pair.sql("CREATE TABLE t (id INT PRIMARY KEY, v TEXT)");
    let capture = pair.capture(Format::Text).await;
    let Position::Binlog { file, offset } = pair.source().log_end().await.unwrap() else { panic!() };
    pair.sql("INSERT INTO t VALUES (1, REPEAT('x', 500))");
    let at = |file: &str, offset| StartPoint::At(Position::Binlog { file: file.to_owned(), offset });
    begin_at(&pair, &capture, at(&file, offset)).await.unwrap();
    begin_at(&pair, &capture, at(&file, 4)).await.unwrap();
    for wrong in [at(&file, 1 << 40), at(&file, 3), at(&file, offset + 7), StartPoint::At(Position::Lsn(5))] {
        let error = begin_at(&pair, &capture, wrong.clone()).await.unwrap_err();
        assert!(
            error.kind == ErrorKind::Fatal && error.message.contains("is no position in the log"),
            "{wrong:?}: {error}"
        );
    }
    let error = begin_at(&pair, &capture, at("other-bin.000001", 4)).await.unwrap_err();
    assert!(error.message.contains("Error 1236 reading binary log. Could not find first log file name"), "{error}");
}

#[tokio::test]
async fn a_task_may_begin_at_a_time() {
    let pair = Pair::of(leaked());
    pair.sql("CREATE TABLE t (id INT PRIMARY KEY, v INT)");
    let capture = pair.capture(Format::Text).await;
    // The log tells whole seconds, so each transaction is given its own.
    let mut second = 1_900_000_000;
    for id in 1..=9 {
        second += 10;
        pair.sql(&format!("SET timestamp={second}; INSERT INTO t VALUES ({id}, 0)"));
        if id % 3 == 0 {
            pair.sql(&format!("SET timestamp={}; FLUSH BINARY LOGS", second + 1));
        }
    }
    for (offset, first) in [(10, 1), (11, 2), (20, 2), (25, 3), (31, 4), (60, 6), (61, 7), (90, 9), (5, 1)] {
        let start = StartPoint::Time((1_900_000_000 + offset) * 1_000_000);
        let position = begin_at(&pair, &capture, start).await.unwrap();
        let mut log = Log::from(&pair, capture.clone(), &position).await;
        let told = log.first_row().await;
        assert_eq!(told, first.to_string(), "from {offset} s on");
    }
    // There is nothing yet: with what comes.
    let position = begin_at(&pair, &capture, StartPoint::Time(4_000_000_000_000_000)).await.unwrap();
    assert_eq!(position, pair.source().log_end().await.unwrap());
    // A log that does not go back so far says so.
    pair.purge_log().await;
    let error = begin_at(&pair, &capture, StartPoint::Time(1_000_000_000)).await.unwrap_err();
    assert!(error.kind == ErrorKind::Fatal && error.message.contains("Error 1236 reading binary log."), "{error}");
}

#[tokio::test]
async fn a_task_may_begin_after_global_transactions() {
    let pair = Pair::of(leaked());
    pair.sql("CREATE TABLE t (id INT PRIMARY KEY, v INT)");
    let capture = pair.capture(Format::Text).await;
    let mut gtids = Vec::new();
    for id in 1..=6 {
        pair.sql(&format!("INSERT INTO t VALUES ({id}, 0)"));
        gtids.push(pair.server.client("SELECT @@gtid_binlog_pos").trim().to_owned());
        if id % 2 == 0 {
            pair.sql("FLUSH BINARY LOGS");
        }
    }
    pair.sql("SET gtid_domain_id=5; INSERT INTO t VALUES (7, 0)");
    for (index, gtid) in gtids.iter().enumerate() {
        let start: Position = gtid.parse().unwrap();
        let position = begin_at(&pair, &capture, StartPoint::At(start.clone())).await.unwrap();
        for position in [position, start] {
            let mut log = Log::from(&pair, capture.clone(), &position).await;
            assert_eq!(log.first_row().await, (index + 2).to_string(), "after {gtid}");
        }
    }
    let all: Position = format!("{},5-1-1", gtids[5]).parse().unwrap();
    assert_eq!(begin_at(&pair, &capture, StartPoint::At(all)).await.unwrap(), pair.source().log_end().await.unwrap());
    pair.purge_log().await;
    let error = begin_at(&pair, &capture, StartPoint::At(gtids[0].parse().unwrap())).await.unwrap_err();
    assert!(error.kind == ErrorKind::Fatal && error.message.contains("Error 1236 reading binary log."), "{error}");
}
