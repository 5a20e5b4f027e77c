//! The log of a real server.

mod old_mysql;
mod places;
mod tables;
mod transactions;
mod types;

use std::fmt::Write;
use std::sync::{Arc, OnceLock};

use super::*;
use crate::connector::testing::mysql::start;
use crate::connector::testing::nothing_durable;
use crate::connector::{Beginning, Capture, ChangeReader, StartPoint};
use crate::data::{Changes, Ddl, Entry, Error, Op, Position, TableVersion};

/// A server whose log tells as much as it can, and is compressed.
fn telling_server() -> &'static MySqlServer {
    static SERVER: OnceLock<MySqlServer> = OnceLock::new();
    SERVER.get_or_init(|| {
        start(&["--binlog-row-metadata=FULL", "--log-bin-compress=ON", "--log-bin-compress-min-len=10"])
    })
}

impl Pair {
    /// A task that captures the source database, and its tables as they are now.
    async fn capture(&self, format: Format) -> Capture {
        let source = self.zoned_source();
        let tables = source.tables().await.unwrap();
        let tables: Vec<TableEntry> = tables
            .into_iter()
            .filter(|table| table.name.schema == self.from && table.kind == TableKind::Table)
            .collect();
        let schema = self.from.clone();
        Capture {
            tables: source.describe(&tables).await.unwrap(),
            selects: Arc::new(move |name| name.schema == schema && !name.table.starts_with("skip")),
            format,
            lob_bytes_max: self.lob_bytes_max,
            batch_bytes: self.batch_bytes,
            ..Capture::of(format!("TASK{}", self.from))
        }
    }

    /// With the endpoint's settings.
    fn zoned_source(&self) -> Box<dyn Source> {
        (MARIADB.open_source)(Connection { settings: self.settings.clone(), ..self.server.connection() })
    }

    /// Takes away the files of the log before the one it ends in. The server keeps, without a word, a file that somebody
    /// still reads: as a reader that is gone does until its thread finds out.
    async fn purge_log(&self) {
        let Position::Binlog { file, .. } = self.source().log_end().await.unwrap() else { panic!() };
        let started = std::time::Instant::now();
        loop {
            self.sql(&format!("PURGE BINARY LOGS TO '{file}'"));
            let files = self.sql("SHOW BINARY LOGS");
            if files.starts_with(&file) {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "{file} is not the first of:\n{files}");
        }
    }
}

/// A task that reads the log, and what it has seen.
struct Log {
    source: Box<dyn Source>,
    capture: Capture,
    reader: Box<dyn ChangeReader>,
    tables: Vec<Arc<TableVersion>>,
    /// What statements made of tables.
    versions: Vec<Arc<TableVersion>>,
    /// What the last piece that was read says.
    resume: Option<Position>,
    /// The places after the transactions read.
    commits: Vec<(Position, i64)>,
}

impl Log {
    /// From now on.
    async fn begin(pair: &Pair, format: Format) -> Log {
        let capture = pair.capture(format).await;
        let position = pair.zoned_source().begin_capture_at(&capture, &StartPoint::Now).await.unwrap();
        Log::from(pair, capture, &position).await
    }

    async fn from(pair: &Pair, capture: Capture, position: &Position) -> Log {
        let source = pair.zoned_source();
        let reader = source.changes(&capture, position, nothing_durable()).await.unwrap();
        Log { source, capture, reader, tables: Vec::new(), versions: Vec::new(), resume: None, commits: Vec::new() }
    }

    /// Goes on with another reader.
    async fn reopen(&mut self, position: &Position) {
        self.reader = self.source.changes(&self.capture, position, nothing_durable()).await.unwrap();
    }

    /// Reads so many transactions and tells them, a line an entry.
    async fn transactions(&mut self, count: usize) -> String {
        let (mut told, mut commits, started) = (String::new(), 0, std::time::Instant::now());
        while commits < count {
            assert!(started.elapsed() < Duration::from_secs(60), "{commits} transactions of {count}:\n{told}");
            match self.piece(&mut told).await {
                Ok(more) => commits += more,
                Err(error) => panic!("{error}\n{told}"),
            }
        }
        assert_eq!(commits, count, "{told}");
        told
    }

    /// Reads a piece and gives how many transactions end in it.
    async fn piece(&mut self, told: &mut String) -> Result<usize> {
        let mut changes = Changes::default();
        tokio::time::timeout(Duration::from_secs(60), self.reader.next(&mut changes))
            .await
            .expect("the log goes on")?;
        let mut commits = 0;
        for entry in &changes.entries {
            commits += usize::from(matches!(entry, Entry::Commit { .. }));
            self.tell(entry, &changes, told);
        }
        self.resume = changes.resume.take().or(self.resume.take());
        Ok(commits)
    }

    /// The first value of the first row that comes.
    async fn first_row(&mut self) -> String {
        let mut changes = Changes::default();
        while changes.rows.rows() == 0 {
            self.reader.next(&mut changes).await.unwrap();
        }
        value(changes.rows.row(0).get(0))
    }

    /// Reads until the error that is to come.
    async fn error(&mut self) -> Error {
        loop {
            if let Err(error) = self.piece(&mut String::new()).await {
                return error;
            }
        }
    }

    fn tell(&mut self, entry: &Entry, changes: &Changes, told: &mut String) {
        let name = |log: &Log, table: u32| log.tables[table as usize].schema.name.table.clone();
        let row = |index: &Option<u32>| index.map_or(String::new(), |index| values(changes.rows.row(index as usize)));
        match entry {
            Entry::Begin { .. } => {}
            Entry::Table { table, version } => {
                let index = *table as usize;
                assert!(index <= self.tables.len(), "tables are numbered as they come");
                self.tables.truncate(self.tables.len().max(index));
                match self.tables.get_mut(index) {
                    Some(slot) => *slot = version.clone(),
                    None => self.tables.push(version.clone()),
                }
                writeln!(told, "{}", look(version)).unwrap();
            }
            Entry::Row { table, op, old, new } => {
                let name = name(self, *table);
                writeln!(told, "{op:?} {name} {}->{}", row(old), row(new)).unwrap();
            }
            Entry::Ddl { table, ddl } => {
                let (what, version) = match ddl {
                    Ddl::Create(version) => ("Create".to_owned(), Some(version)),
                    Ddl::Rename(version) => ("Rename".to_owned(), Some(version)),
                    Ddl::Drop => ("Drop".to_owned(), None),
                    Ddl::Alter { version, columns } => (format!("Alter {columns:?}"), Some(version)),
                };
                let look = version.map_or(String::new(), |version| format!(" {}", look(version)));
                writeln!(told, "{}: {what}{look}", name(self, *table)).unwrap();
                self.versions.extend(version.cloned());
            }
            Entry::Unreadable { table, reason } => writeln!(told, "Unreadable {table}: {reason}").unwrap(),
            Entry::Truncate { table } => writeln!(told, "Truncate {}", name(self, *table)).unwrap(),
            Entry::Commit { time, position, .. } => {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
                let age = now.as_micros() as i64 - time;
                assert!(age.abs() < 600_000_000, "{time}");
                self.commits.push((position.clone(), *time));
                told.push_str("Commit\n");
            }
        }
    }
}

/// `t: a int, b text by [0]`, without what MariaDB adds to types.
fn look(version: &TableVersion) -> String {
    let native = |native: &str| {
        let native = native.split(" CHARACTER SET ").next().unwrap();
        native.replace("int(11)", "int").replace("int(10) unsigned", "int unsigned")
    };
    let columns = version.schema.columns.iter();
    let columns: Vec<String> = columns.map(|column| format!("{} {}", column.name, native(&column.native))).collect();
    format!("{}: {} by {:?}", version.schema.name.table, columns.join(", "), version.identity)
}

fn value(value: Value<'_>) -> String {
    match value {
        Value::Absent => "-".to_owned(),
        Value::Null => "NULL".to_owned(),
        Value::String(text) | Value::Numeric(text) => String::from_utf8_lossy(text).into_owned(),
        other => format!("{other:?}"),
    }
}

fn values(row: crate::data::Row<'_>) -> String {
    format!("({})", row.map(value).collect::<Vec<_>>().join(","))
}

#[tokio::test]
async fn the_log_goes_on_where_the_snapshot_ends() {
    let pair = Pair::new();
    pair.sql("CREATE TABLE t (id INT PRIMARY KEY, v TEXT); INSERT INTO t VALUES (1, 'before')");
    let capture = pair.capture(Format::Text).await;
    let Beginning { snapshot, position } = pair.source().begin_capture(&capture, 2).await.unwrap();
    pair.sql("INSERT INTO t VALUES (2, 'after'), (3, NULL)");
    pair.sql("UPDATE t SET v='tab\\there \\\\ ''quoted''' WHERE id=1; CREATE TABLE other (a INT)");
    let table = pair.describe("t").await;
    let mut reader = snapshot.read(pair.plan(&table, Format::Text)).await.unwrap();
    let mut batch = Batch::new();
    assert!(reader.next(&mut batch).await.unwrap());
    assert_eq!((snapshot.readers(), batch.rows()), (2, 1));
    let mut log = Log::from(&pair, capture, &position).await;
    assert_eq!(
        log.transactions(3).await,
        "t: id int, v text by [0]\nInsert t ->(2,after)\nInsert t ->(3,NULL)\nCommit\n\
         Update t ->(1,tab\there \\ 'quoted')\nCommit\nother: a int by [0]\nother: Create other: a int by [0]\nCommit\n"
    );
}

#[tokio::test]
async fn the_snapshot_and_the_log_meet_while_the_source_is_busy() {
    let pair = Pair::new();
    pair.sql("CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, v INT)");
    let (from, connection) = (pair.from.clone(), pair.server.connection());
    pair.server.client(&format!(
        "CREATE USER IF NOT EXISTS replica IDENTIFIED BY 'r'; GRANT SELECT ON {from}.* TO replica; \
         GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO replica"
    ));
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let writing = connection.clone();
    let table_name = format!("{from}.t");
    let writer = tokio::spawn(async move {
        let settings = Settings::of(&writing);
        let mut client = connect(&writing, &settings, Side::Target).await.unwrap();
        while !*stopped.borrow_and_update() {
            client.run(&format!("INSERT INTO {table_name} (v) VALUES (1)")).await.unwrap();
        }
    });
    let capture = pair.capture(Format::Text).await;
    let schema = pair.describe("t").await;
    let replica =
        Connection { user: "replica".to_owned(), password: crate::connector::Secret::new("r"), ..connection.clone() };
    for connection in [&connection, &replica, &connection, &replica] {
        let source = (MARIADB.open_source)(connection.clone());
        let Beginning { snapshot, position } = source.begin_capture(&capture, 1).await.unwrap();
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
        assert_eq!(value(piece.rows.row(0).get(0)), (last + 1).to_string(), "as {}", connection.user);
    }
    stop.send(true).unwrap();
    writer.await.unwrap();
}

#[tokio::test]
async fn rows_are_told_by_what_identifies_them() {
    let pair = Pair::new();
    pair.sql(
        "CREATE TABLE keyed (a INT, b VARCHAR(9), c INT, PRIMARY KEY (c, a)); CREATE TABLE none (a INT, b VARCHAR(9));
         CREATE TABLE uniq (a INT, b INT NOT NULL, c INT NOT NULL, UNIQUE wide (b, c), UNIQUE (c));
         INSERT INTO keyed VALUES (1, 'x', 2), (3, 'y', 4); INSERT INTO none VALUES (1, 'x'); INSERT INTO uniq VALUES (1, 2, 3)",
    );
    let mut log = Log::begin(&pair, Format::Text).await;
    pair.sql(
        "BEGIN; UPDATE keyed SET a=9 WHERE a=1; UPDATE keyed SET b='z' WHERE a=9; DELETE FROM keyed WHERE a=3; COMMIT",
    );
    pair.sql("BEGIN; UPDATE none SET b='z'; DELETE FROM none; COMMIT");
    pair.sql("BEGIN; UPDATE uniq SET a=5; UPDATE uniq SET c=6; DELETE FROM uniq; COMMIT");
    assert_eq!(
        log.transactions(3).await,
        "keyed: a int, b varchar(9), c int by [2, 0]\nUpdate keyed (1,x,2)->(9,x,2)\nUpdate keyed ->(9,z,2)\n\
         Delete keyed (3,y,4)->\nCommit\n\
         none: a int, b varchar(9) by [0, 1]\nUpdate none (1,x)->(1,z)\nDelete none (1,z)->\nCommit\n\
         uniq: a int, b int, c int by [2]\nUpdate uniq ->(5,2,3)\nUpdate uniq (5,2,3)->(5,2,6)\nDelete uniq (5,2,6)->\nCommit\n"
    );
}

#[tokio::test]
async fn images_may_have_less_than_all_columns() {
    let pair = Pair::new();
    pair.sql(
        "CREATE TABLE t (id INT PRIMARY KEY, n INT DEFAULT 5, b LONGTEXT, v INT AS (n+1) VIRTUAL);
         CREATE TABLE none (a INT, b TEXT); CREATE TABLE uniq (a INT NOT NULL, b INT NOT NULL, c INT NOT NULL, UNIQUE x (a, b), UNIQUE y (c));
         INSERT INTO t VALUES (1, 1, 'x', DEFAULT), (2, 2, 'y', DEFAULT); INSERT INTO none VALUES (1, 'x'); INSERT INTO uniq VALUES (1, 2, 3)",
    );
    let mut log = Log::begin(&pair, Format::Text).await;
    pair.sql(
        "SET binlog_row_image=MINIMAL; INSERT INTO t (id) VALUES (3); UPDATE t SET n=9 WHERE id=1; UPDATE t SET id=7, b='w' WHERE id=2;
         DELETE FROM t WHERE id=7; UPDATE none SET b='y'; UPDATE uniq SET c=4; DELETE FROM uniq",
    );
    let told = log.transactions(7).await;
    let expected = "t: id int, n int, b longtext, v int by [0]\nInsert t ->(3,-,-,-)\nCommit\nUpdate t ->(1,9,-,-)\nCommit\n\
         Update t (2,-,-,-)->(7,-,w,-)\nCommit\nDelete t (7,-,-,-)->\nCommit\n\
         none: a int, b text by [0, 1]\nUpdate none (1,x)->(1,y)\nCommit\n\
         uniq: a int, b int, c int by [0, 1]\nUpdate uniq (1,2,-)->(1,2,4)\nCommit\nDelete uniq (1,2,-)->\nCommit\n";
    assert_eq!(told, expected);
    pair.sql("SET binlog_row_image=NOBLOB; UPDATE t SET n=8 WHERE id=1; UPDATE t SET b='new' WHERE id=1; UPDATE none SET a=2");
    assert_eq!(
        log.transactions(3).await,
        "Update t ->(1,8,-,9)\nCommit\nUpdate t ->(1,8,new,9)\nCommit\nUpdate none (1,y)->(2,y)\nCommit\n"
    );
}

#[tokio::test]
async fn what_is_not_selected_is_left_out_and_moves_the_place() {
    let pair = Pair::new();
    pair.sql(
        "CREATE TABLE t (a INT PRIMARY KEY); CREATE TABLE skipped (a INT); CREATE TABLE awsdms_status (a INT);
         CREATE SEQUENCE seq; CREATE TABLE versioned (a INT) WITH SYSTEM VERSIONING",
    );
    let mut log = Log::begin(&pair, Format::Text).await;
    pair.sql("INSERT INTO skipped SELECT seq FROM seq_1_to_1000; INSERT INTO awsdms_status VALUES (1)");
    pair.sql(
        "SELECT NEXTVAL(seq); INSERT INTO versioned VALUES (1); DELETE FROM skipped; ALTER TABLE skipped ADD b INT",
    );
    let end = log.source.log_end().await.unwrap();
    let mut told = String::new();
    while log.resume.as_ref().is_none_or(|resume| *resume < end) {
        log.piece(&mut told).await.unwrap();
    }
    assert_eq!(told, "");
    pair.sql("INSERT INTO t VALUES (1)");
    assert_eq!(log.transactions(1).await, "t: a int by [0]\nInsert t ->(1)\nCommit\n");
    assert_eq!(log.resume.as_ref(), Some(&log.commits[0].0));
}

#[tokio::test]
async fn a_reader_that_nobody_asks_goes_on_where_it_was() {
    let pair = Pair::new();
    pair.sql("CREATE TABLE t (a INT PRIMARY KEY)");
    let mut log = Log::begin(&pair, Format::Text).await;
    pair.sql("INSERT INTO t VALUES (1)");
    for _ in 0..20 {
        assert!(futures_util::poll!(log.reader.keep_alive()).is_pending());
        tokio::task::yield_now().await;
    }
    let mut given_up = 0;
    // Calls that are given up lose nothing.
    let told = loop {
        let mut changes = Changes::default();
        match futures_util::poll!(log.reader.next(&mut changes)) {
            std::task::Poll::Ready(read) => {
                read.unwrap();
                let mut told = String::new();
                for entry in &changes.entries {
                    log.tell(entry, &changes, &mut told);
                }
                if !told.is_empty() {
                    break told;
                }
            }
            std::task::Poll::Pending => {
                assert!(changes.is_empty());
                given_up += 1;
                tokio::task::yield_now().await;
            }
        }
    };
    assert_eq!(told, "t: a int by [0]\nInsert t ->(1)\nCommit\n", "after {given_up} calls");
}

#[tokio::test]
async fn a_connection_that_is_killed_is_noticed_and_nothing_is_lost() {
    let pair = Pair::new();
    pair.sql("CREATE TABLE t (a INT PRIMARY KEY)");
    let mut log = Log::begin(&pair, Format::Text).await;
    pair.sql("INSERT INTO t VALUES (1)");
    log.transactions(1).await;
    let user = format!("victim{}", pair.from);
    pair.server.client(&format!("CREATE USER {user} IDENTIFIED BY 'v'; GRANT ALL ON *.* TO {user}"));
    let victim =
        Connection { user: user.clone(), password: crate::connector::Secret::new("v"), ..pair.server.connection() };
    let place = log.commits[0].0.clone();
    log.source = (MARIADB.open_source)(victim);
    log.reopen(&place).await;
    pair.sql("INSERT INTO t VALUES (2)");
    log.transactions(1).await;
    pair.server.client(&format!("KILL USER {user}"));
    let error = log.error().await;
    assert_eq!(error.kind, ErrorKind::Recoverable, "{error}");
    pair.sql("INSERT INTO t VALUES (3)");
    let place = log.commits[1].0.clone();
    log.reopen(&place).await;
    assert!(log.transactions(1).await.ends_with("Insert t ->(3)\nCommit\n"));
}

#[tokio::test]
async fn prerequisites_are_named_when_they_are_missing() {
    let pair = Pair::new();
    pair.sql("CREATE TABLE t (a INT PRIMARY KEY)");
    let capture = pair.capture(Format::Text).await;
    let user = format!("poor{}", pair.from);
    pair.server.client(&format!("CREATE USER {user} IDENTIFIED BY 'p'; GRANT SELECT ON *.* TO {user}"));
    let poor =
        Connection { user: user.clone(), password: crate::connector::Secret::new("p"), ..pair.server.connection() };
    let source = (MARIADB.open_source)(poor);
    let refused = async |words: &str| {
        for error in [
            source.begin_capture(&capture, 1).await.err().unwrap(),
            source.begin_capture_at(&capture, &StartPoint::Now).await.unwrap_err(),
        ] {
            assert!(error.kind == ErrorKind::Fatal && error.to_string().contains(words), "{error}");
        }
    };
    refused("BINLOG MONITOR").await;
    pair.server.client(&format!("GRANT BINLOG MONITOR ON *.* TO {user}"));
    refused("REPLICATION SLAVE").await;
    pair.server.client(&format!("GRANT REPLICATION SLAVE ON *.* TO {user}"));
    source.begin_capture(&capture, 1).await.unwrap();

    let mixed = Box::leak(Box::new(start(&["--binlog-format=MIXED", "--skip-ssl"])));
    let pair = Pair::of(mixed);
    pair.sql("CREATE TABLE t (a INT PRIMARY KEY)");
    let capture = pair.capture(Format::Text).await;
    let error = pair.source().begin_capture(&capture, 1).await.err().unwrap();
    let words = "Errors in MySQL server binary logging configuration: binlog_format is MIXED, and must be ROW. Follow all \
                 prerequisites for 'MySQL as a source in DMS' from https://docs.aws.amazon.com/dms/latest/userguide/";
    assert!(error.kind == ErrorKind::Fatal && error.to_string().contains(words), "{error}");
    // A session of before the setting was changed.
    mixed.client("SET GLOBAL binlog_format=ROW");
    let mut log = Log::begin(&pair, Format::Text).await;
    pair.sql("SET binlog_format=STATEMENT; INSERT INTO t VALUES (1)");
    let error = log.error().await;
    assert!(error.kind == ErrorKind::Fatal && error.to_string().contains("binlog_format"), "{error}");
}

#[tokio::test]
async fn a_capture_that_ends_leaves_no_replica() {
    let pair = Pair::of(telling_server());
    pair.sql("CREATE TABLE t (a INT PRIMARY KEY)");
    let user = format!("left{}", pair.from);
    pair.server.client(&format!("CREATE USER {user} IDENTIFIED BY 'l'; GRANT ALL ON *.* TO {user}"));
    let connection =
        Connection { user: user.clone(), password: crate::connector::Secret::new("l"), ..pair.server.connection() };
    let capture = pair.capture(Format::Text).await;
    let source = (MARIADB.open_source)(connection);
    let position = source.begin_capture_at(&capture, &StartPoint::Now).await.unwrap();
    let _reader = source.changes(&capture, &position, nothing_durable()).await.unwrap();
    let dumps =
        format!("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE COMMAND='Binlog Dump' AND USER='{user}'");
    crate::connector::testing::mysql::wait_until("the log is sent", || pair.server.client(&dumps) == "1\n");
    source.end_capture(&capture).await.unwrap();
    crate::connector::testing::mysql::wait_until("the replica is gone", || pair.server.client(&dumps) == "0\n");
    source.end_capture(&capture).await.unwrap();
}
