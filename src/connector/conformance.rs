//! What every connector must do, said once and run over each engine of [`ENGINES`] against a real server.
//!
//! The suite knows the traits and nothing of any engine: it makes its tables by [`Target::prepare`], fills them by a
//! [`Writer`] and looks at them through [`Source`]. What only one engine has is tested in its own folder.

mod changes;

use super::*;
use crate::data::{Column, DataType, ErrorKind, Row, Value};
use crate::sandbox;

/// Every source and target there is, with a database of its own on a server that the whole process shares.
async fn engines() -> Vec<(&'static Engine, Connection)> {
    let mut found = Vec::new();
    for engine in ENGINES {
        let kind = match engine.family {
            Family::PostgreSql => sandbox::Kind::Postgres,
            Family::MySql => sandbox::Kind::MariaDb,
        };
        let server = sandbox::shared(kind).await.unwrap();
        let connection = Connection {
            server: server.host.clone(),
            port: server.port,
            user: server.user.clone(),
            password: Secret::new(&server.password),
            database: server.database.clone(),
            ..Connection::default()
        };
        found.push((engine, connection));
    }
    assert!(found.iter().any(|(engine, _)| engine.source) && found.iter().any(|(engine, _)| engine.target));
    found
}

/// A schema that no other test uses.
fn schema_name() -> String {
    format!("conformance_{}", uuid::Uuid::new_v4().simple())
}

fn column(name: &str, data_type: DataType) -> Column {
    Column { name: name.into(), data_type, native: String::new(), nullable: true, generated: false }
}

/// A table in DMS's own types, as one that comes from an engine of another family.
fn table(schema: &str, name: &str, own: Family) -> TableSchema {
    let family = match own {
        Family::PostgreSql => Family::MySql,
        Family::MySql => Family::PostgreSql,
    };
    let columns = vec![
        Column { nullable: false, ..column("id", DataType::Int8) },
        column("name", DataType::WString { length: 100 }),
        column("amount", DataType::Numeric { precision: 20, scale: 4 }),
        column("ratio", DataType::Real8),
        column("day", DataType::Date),
        column("moment", DataType::DateTime { scale: 6 }),
        column("raw", DataType::Blob),
    ];
    TableSchema {
        name: TableName::new(schema, name),
        kind: TableKind::Table,
        family,
        columns,
        primary_key: vec![0],
        unique_key: Vec::new(),
        rows_estimate: 0,
    }
}

/// 2024-02-29 13:14:15.161718.
const MOMENT: i64 = 1_709_212_455_161_718;

fn push_row(batch: &mut Batch, id: i64) {
    batch.push(Value::Int(id));
    if id % 3 == 0 {
        (0..6).for_each(|_| batch.push(Value::Null));
    } else {
        batch.push(Value::String(format!("nåme \\ \"{id}\"\t'\n🦀").as_bytes()));
        batch.push(Value::Numeric(format!("-{id}.0500").as_bytes()));
        batch.push(Value::Real(id as f64 / 7.0));
        batch.push(Value::Date(19_782));
        batch.push(Value::DateTime(MOMENT));
        batch.push(Value::Bytes(&(0..=255).collect::<Vec<u8>>()));
    }
    batch.end_row();
}

fn rows(ids: impl IntoIterator<Item = i64>) -> Batch {
    let mut batch = Batch::new();
    batch.clear(Format::Values);
    ids.into_iter().for_each(|id| push_row(&mut batch, id));
    batch
}

async fn write(target: &dyn Target, table: &TableSchema, batches: &[Batch]) -> Written {
    let mut writer = target.writer(table, Format::Values, 10_000).await.unwrap();
    let mut all = Written::default();
    for batch in batches {
        let written = writer.write(batch).await.unwrap();
        all.rows += written.rows;
        all.rejected.extend(written.rejected);
    }
    let written = writer.finish().await.unwrap();
    all.rows += written.rows;
    all.rejected.extend(written.rejected);
    all
}

/// A table with the rows of these numbers, and how the source describes it.
async fn loaded(engine: &Engine, connection: &Connection, ids: impl IntoIterator<Item = i64>) -> TableSchema {
    let target = (engine.open_target)(connection.clone());
    let wanted = table(&schema_name(), "t", engine.family);
    target.prepare(&wanted, PrepareMode::DropAndCreate, CreateKey::WithTable).await.unwrap();
    let written = write(target.as_ref(), &wanted, &[rows(ids)]).await;
    assert!(written.rejected.is_empty(), "{}: {:?}", engine.name, written.rejected);
    target.finish(&wanted, CreateKey::WithTable).await.unwrap();
    described(engine, connection, &wanted.name).await.unwrap()
}

async fn described(engine: &Engine, connection: &Connection, name: &TableName) -> Option<TableSchema> {
    let source = (engine.open_source)(connection.clone());
    let entry = TableEntry { name: name.clone(), kind: TableKind::Table };
    source.describe(&[entry]).await.unwrap().pop()
}

fn plan(table: &TableSchema, format: Format) -> ReadPlan {
    ReadPlan {
        table: table.clone(),
        columns: (0..table.columns.len()).collect(),
        format,
        lob_bytes_max: None,
        batch_rows: 1000,
        batch_bytes: 1 << 20,
    }
}

/// All rows, each as the debug text of its values; and the largest batch in bytes and rows.
async fn read(snapshot: &dyn Snapshot, plan: ReadPlan) -> (Vec<Vec<String>>, usize, usize) {
    let mut reader = snapshot.read(plan).await.unwrap();
    let (mut rows, mut open, mut bytes, mut count): (Vec<Vec<String>>, _, _, _) = (Vec::new(), None, 0, 0);
    let mut batch = Batch::new();
    while reader.next(&mut batch).await.unwrap() {
        assert!(!batch.is_empty(), "a reader that says there is more gives more");
        bytes = bytes.max(batch.bytes());
        count = count.max(batch.rows());
        let show = |row: Row<'_>| row.map(|value| format!("{value:?}")).collect::<Vec<_>>();
        for index in 0..batch.rows() {
            let row = show(batch.row(index));
            match (index, open.take()) {
                (0, Some(begun)) => rows.push(joined(begun, row)),
                _ => rows.push(row),
            }
        }
        if batch.is_open() {
            open = Some(match (batch.rows(), open.take()) {
                (0, Some(begun)) => joined(begun, show(batch.open_row())),
                _ => show(batch.open_row()),
            });
        }
    }
    assert!(open.is_none(), "a row was left open");
    (rows, bytes, count)
}

/// Puts a row together that was spread over batches: only the number of bytes of a spread value is kept.
fn joined(mut begun: Vec<String>, rest: Vec<String>) -> Vec<String> {
    let length = |text: &String| text.matches(", ").count() + 1;
    let (last, first) = (begun.pop().unwrap(), &rest[0]);
    let so_far = last.strip_prefix("spread ").map_or_else(|| length(&last), |count| count.parse().unwrap());
    begun.push(format!("spread {}", so_far + length(first)));
    begun.extend_from_slice(&rest[1..]);
    begun
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_there_passes_the_check_and_a_wrong_password_does_not() {
    for (engine, connection) in engines().await {
        (engine.open_source)(connection.clone()).check().await.unwrap();
        (engine.open_target)(connection.clone()).check().await.unwrap();
        let wrong = Connection { password: Secret::new("not-the-password"), ..connection };
        for error in [
            (engine.open_source)(wrong.clone()).check().await.unwrap_err(),
            (engine.open_target)(wrong).check().await.unwrap_err(),
        ] {
            assert_eq!(error.kind, ErrorKind::Fatal, "{}: {error}", engine.name);
            assert!(error.sqlstate.is_some() && !error.to_string().contains("not-the-password"), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_a_recoverable_error_that_says_so() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (engine, connection) in engines().await {
        for (wrong, word) in [
            (Connection { port: nobody, ..connection.clone() }, "refused"),
            (Connection { server: "no-such-host.invalid".into(), ..connection.clone() }, "no-such-host.invalid"),
        ] {
            let error = (engine.open_source)(wrong).check().await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Recoverable, "{}: {error}", engine.name);
            assert!(error.message.contains(word), "{}: {error}", engine.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_back_as_they_were_written() {
    for (engine, connection) in engines().await {
        let table = loaded(engine, &connection, 1..=2500).await;
        assert_eq!(table.primary_key, [0], "{}", engine.name);
        assert!(!table.columns[0].nullable && table.columns[1].nullable, "{}", engine.name);
        let source = (engine.open_source)(connection);
        let snapshot = source.snapshot(1).await.unwrap();
        let (mut found, _, most) = read(snapshot.as_ref(), plan(&table, Format::Values)).await;
        assert!(most <= 1000, "{}: a batch of {most} rows", engine.name);
        let number = |row: &Vec<String>| row[0].trim_matches(|c: char| !c.is_ascii_digit()).parse::<i64>().unwrap();
        found.sort_by_key(number);
        let expected = rows(1..=2500);
        for (index, found) in found.iter().enumerate() {
            let expected: Vec<String> = expected.row(index).map(|value| format!("{value:?}")).collect();
            assert_eq!(*found, expected, "{}", engine.name);
        }
        assert_eq!(found.len(), 2500, "{}", engine.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_engine_reads_in_any_format_it_writes_unchanged() {
    for (engine, connection) in engines().await {
        let table = loaded(engine, &connection, 1..=50).await;
        let source = (engine.open_source)(connection.clone());
        let target = (engine.open_target)(connection.clone());
        let snapshot = source.snapshot(1).await.unwrap();
        let columns: Vec<usize> = (0..table.columns.len()).collect();
        let offered = snapshot.formats(&table, &columns, None);
        assert_eq!(offered.last(), Some(&Format::Values), "{}", engine.name);
        let (mut before, ..) = read(snapshot.as_ref(), plan(&table, Format::Values)).await;
        before.sort();
        for format in offered {
            let copy = TableSchema { name: TableName::new(schema_name(), "copy"), ..table.clone() };
            target.prepare(&copy, PrepareMode::DropAndCreate, CreateKey::AfterLoad).await.unwrap();
            assert!(target.formats(&copy).await.unwrap().contains(&format), "{} {format:?}", engine.name);
            let mut writer = target.writer(&copy, format, 10_000).await.unwrap();
            let mut reader = snapshot.read(plan(&table, format)).await.unwrap();
            let mut batch = Batch::new();
            while reader.next(&mut batch).await.unwrap() {
                assert!(writer.write(&batch).await.unwrap().rejected.is_empty());
            }
            assert!(writer.finish().await.unwrap().rejected.is_empty());
            drop((reader, writer));
            target.finish(&copy, CreateKey::AfterLoad).await.unwrap();
            let copied = described(engine, &connection, &copy.name).await.unwrap();
            assert_eq!(copied.columns, table.columns, "{} {format:?}", engine.name);
            assert_eq!(copied.primary_key, table.primary_key, "{} {format:?}", engine.name);
            let fresh = source.snapshot(1).await.unwrap();
            let (mut after, ..) = read(fresh.as_ref(), plan(&copied, Format::Values)).await;
            after.sort();
            assert_eq!(after, before, "{} {format:?}", engine.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_does_not_see_what_is_written_after_it() {
    for (engine, connection) in engines().await {
        let table = loaded(engine, &connection, 1..=10).await;
        let source = (engine.open_source)(connection.clone());
        let target = (engine.open_target)(connection);
        let snapshot = source.snapshot(2).await.unwrap();
        assert!(write(target.as_ref(), &table, &[rows(11..=20)]).await.rejected.is_empty());
        let (then, ..) = read(snapshot.as_ref(), plan(&table, Format::Values)).await;
        let (now, ..) = read(source.snapshot(1).await.unwrap().as_ref(), plan(&table, Format::Values)).await;
        assert_eq!((then.len(), now.len()), (10, 20), "{}", engine.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_row_is_rejected_alone_and_can_be_recorded() {
    for (engine, connection) in engines().await {
        let table = loaded(engine, &connection, [7]).await;
        let target = (engine.open_target)(connection.clone());
        let mut batch = rows(1..=7);
        // A value for a column that must have one.
        batch.push(Value::Null);
        (0..6).for_each(|_| batch.push(Value::Null));
        batch.end_row();
        push_row(&mut batch, 9);
        let written = write(target.as_ref(), &table, &[batch]).await;
        assert_eq!(written.rows, 7, "{}", engine.name);
        assert_eq!(written.rejected.len(), 2, "{}: {:?}", engine.name, written.rejected);
        for rejected in &written.rejected {
            assert_eq!(rejected.error.kind, ErrorKind::Data, "{}: {}", engine.name, rejected.error);
            assert!(rejected.statement.starts_with("INSERT INTO"), "{}", engine.name);
            assert!(!rejected.error.to_string().contains("🦀"), "{}: {}", engine.name, rejected.error);
        }
        let exceptions: Vec<ApplyException> = written
            .rejected
            .iter()
            .map(|rejected| ApplyException {
                task: "a 'task'".into(),
                table: table.name.clone(),
                statement: rejected.statement.clone(),
                error: rejected.error.to_string(),
            })
            .collect();
        let control = schema_name();
        target.record_exceptions(&control, &exceptions).await.unwrap();
        target.record_exceptions(&control, &exceptions[..1]).await.unwrap();
        let recorded = described(engine, &connection, &TableName::new(&control, "awsdms_apply_exceptions")).await;
        let recorded = recorded.expect("the control table is there");
        let names: Vec<String> = recorded.columns.iter().map(|column| column.name.to_uppercase()).collect();
        assert_eq!(names, ["TASK_NAME", "TABLE_OWNER", "TABLE_NAME", "ERROR_TIME", "STATEMENT", "ERROR"]);
        let snapshot = (engine.open_source)(connection).snapshot(1).await.unwrap();
        let (lines, ..) = read(snapshot.as_ref(), plan(&recorded, Format::Values)).await;
        assert_eq!(lines.len(), 3, "{}", engine.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_prepare_mode_leaves_what_it_says() {
    for (engine, connection) in engines().await {
        let target = (engine.open_target)(connection.clone());
        for (mode, left) in
            [(PrepareMode::DoNothing, 5), (PrepareMode::TruncateBeforeLoad, 0), (PrepareMode::DropAndCreate, 0)]
        {
            let table = loaded(engine, &connection, 1..=5).await;
            target.prepare(&table, mode, CreateKey::WithTable).await.unwrap();
            let snapshot = (engine.open_source)(connection.clone()).snapshot(1).await.unwrap();
            let (rows, ..) = read(snapshot.as_ref(), plan(&table, Format::Values)).await;
            assert_eq!(rows.len(), left, "{} {mode:?}", engine.name);
            // A table that is missing is made in every mode.
            let missing = self::table(&schema_name(), "missing", engine.family);
            target.prepare(&missing, mode, CreateKey::WithTable).await.unwrap();
            assert!(described(engine, &connection, &missing.name).await.is_some(), "{} {mode:?}", engine.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_value_is_read_and_written_in_bounded_pieces() {
    const VALUE_BYTES: usize = 3_000_000;
    const BATCH_BYTES: usize = 100_000;
    for (engine, connection) in engines().await {
        let target = (engine.open_target)(connection.clone());
        let wanted = table(&schema_name(), "t", engine.family);
        target.prepare(&wanted, PrepareMode::DropAndCreate, CreateKey::WithTable).await.unwrap();
        // Written in three pieces, with a row before and a row after.
        let piece: Vec<u8> = (0..VALUE_BYTES / 3).map(|index| (index % 251) as u8).collect();
        let mut first = rows([1]);
        first.push(Value::Int(2));
        (0..5).for_each(|_| first.push(Value::Null));
        first.push(Value::Bytes(&piece));
        first.leave_open();
        let mut second = Batch::new();
        second.clear(Format::Values);
        second.carry_on();
        second.push(Value::Bytes(&piece));
        second.leave_open();
        let mut third = Batch::new();
        third.clear(Format::Values);
        third.carry_on();
        third.push(Value::Bytes(&piece));
        third.end_row();
        push_row(&mut third, 4);
        let written = write(target.as_ref(), &wanted, &[first, second, third]).await;
        assert_eq!((written.rows, written.rejected.len()), (3, 0), "{}", engine.name);

        let table = described(engine, &connection, &wanted.name).await.unwrap();
        let source = (engine.open_source)(connection.clone());
        let snapshot = source.snapshot(1).await.unwrap();
        let bounded = ReadPlan { batch_bytes: BATCH_BYTES, ..plan(&table, Format::Values) };
        let (found, most, _) = read(snapshot.as_ref(), bounded.clone()).await;
        assert!(most <= 4 * BATCH_BYTES, "{}: a batch of {most} bytes", engine.name);
        let large = found.iter().find(|row| row[0] == "Int(2)").unwrap();
        assert_eq!(large[6], format!("spread {VALUE_BYTES}"), "{}", engine.name);
        assert_eq!(found.len(), 3, "{}", engine.name);

        // The same table under a LOB limit: cut at the source, and told.
        let limited = ReadPlan { lob_bytes_max: Some(1000), ..bounded };
        let mut reader = snapshot.read(limited).await.unwrap();
        let (mut batch, mut truncated, mut longest) = (Batch::new(), 0, 0);
        while reader.next(&mut batch).await.unwrap() {
            truncated += batch.truncated();
            for index in 0..batch.rows() {
                if let Some(Value::Bytes(bytes)) = batch.row(index).last() {
                    longest = longest.max(bytes.len());
                }
            }
        }
        assert_eq!((truncated, longest), (1, 1000), "{}", engine.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_schemas_are_listed_without_the_engines_own() {
    for (engine, connection) in engines().await {
        let table = loaded(engine, &connection, []).await;
        let source = (engine.open_source)(connection);
        let schemas = source.schemas().await.unwrap();
        assert!(schemas.contains(&table.name.schema), "{}", engine.name);
        let listed = source.tables().await.unwrap();
        assert!(listed.iter().any(|entry| entry.name == table.name), "{}", engine.name);
        assert!(listed.is_sorted_by(|one, other| one.name <= other.name), "{}", engine.name);
        for own in ["pg_catalog", "information_schema", "mysql", "performance_schema", "sys"] {
            assert!(!schemas.iter().any(|schema| schema == own), "{}: {own}", engine.name);
            assert!(!listed.iter().any(|entry| entry.name.schema == own), "{}: {own}", engine.name);
        }
        assert!(!listed.iter().any(|entry| entry.name.table.starts_with("awsdms_")), "{}", engine.name);
        let gone = TableEntry { name: TableName::new(&table.name.schema, "gone"), kind: TableKind::Table };
        assert!(source.describe(&[gone]).await.unwrap().is_empty(), "{}", engine.name);
    }
}
