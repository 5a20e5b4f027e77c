//! Changes: what the log of every source tells and the applier of every target does.
//!
//! Rows of the source are changed by its own engine's applier, so that here, too, no engine is known.

use tokio::sync::watch;
use tokio::time::timeout;

use super::*;
use crate::data::{Changes, Entry, Op, Position};

/// A log that tells nothing for this long tells nothing any more.
const TOLD_WITHIN: Duration = Duration::from_secs(30);

fn capture(table: &TableSchema) -> Capture {
    let name = table.name.clone();
    Capture {
        tables: vec![table.clone()],
        selects: Arc::new(move |other| *other == name),
        ..Capture::of(format!("C{}", uuid::Uuid::new_v4().simple()))
    }
}

async fn applier(engine: &Engine, connection: &Connection, owner: &str) -> Box<dyn Applier> {
    let target = (engine.open_target)(connection.clone());
    target.applier(owner, Format::Values, 10).await.unwrap()
}

/// A session that nobody else's takes over.
async fn writing(engine: &Engine, connection: &Connection) -> Box<dyn Applier> {
    applier(engine, connection, &uuid::Uuid::new_v4().to_string()).await
}

async fn apply(
    applier: &mut dyn Applier,
    table: &TableSchema,
    op: Op,
    conflict: Conflict,
    rows: &[RowChange<'_>],
) -> Result<u64> {
    let columns: Vec<usize> = (0..table.columns.len()).collect();
    let key = Key::Unique(&table.primary_key);
    applier.apply(&ChangeSet { table, columns: &columns, key, op, rows, conflict }).await
}

/// Changes by whole images: of an INSERT or UPDATE the new ones, of a DELETE the old ones.
async fn change(applier: &mut dyn Applier, table: &TableSchema, op: Op, images: &Batch) -> Result<u64> {
    let image = |index| images.row(index);
    let rows: Vec<RowChange<'_>> = (0..images.rows())
        .map(|index| match op {
            Op::Delete => RowChange { old: Some(image(index)), new: None },
            Op::Insert | Op::Update => RowChange { old: None, new: Some(image(index)) },
        })
        .collect();
    apply(applier, table, op, Conflict::Refuse, &rows).await
}

/// An image with nothing but a key and a name.
fn named(id: i64, name: &str) -> Batch {
    let mut batch = Batch::new();
    batch.clear(Format::Values);
    batch.push(Value::Int(id));
    batch.push(Value::String(name.as_bytes()));
    (0..5).for_each(|_| batch.push(Value::Null));
    batch.end_row();
    batch
}

/// Reads on until so many transactions have ended. Each piece is handed over as it comes.
async fn follow(reader: &mut dyn ChangeReader, transactions: usize) -> Vec<Changes> {
    let (mut pieces, mut ended) = (Vec::new(), 0);
    while ended < transactions {
        let mut piece = Changes::default();
        timeout(TOLD_WITHIN, reader.next(&mut piece)).await.expect("the log tells of the transaction").unwrap();
        ended += piece.entries.iter().filter(|entry| matches!(entry, Entry::Commit { .. })).count();
        pieces.push(piece);
    }
    assert_eq!(ended, transactions);
    pieces
}

/// What was told, a word each.
fn told(pieces: &[Changes]) -> Vec<String> {
    let word = |entry: &Entry| match entry {
        Entry::Row { op, .. } => Some(format!("{op:?}")),
        Entry::Truncate { .. } => Some("Truncate".to_owned()),
        Entry::Commit { .. } => Some("Commit".to_owned()),
        Entry::Begin { .. } | Entry::Table { .. } => None,
        other => Some(format!("{other:?}")),
    };
    pieces.iter().flat_map(|piece| &piece.entries).filter_map(word).collect()
}

/// Does to a copy what was told of the original.
async fn replay(applier: &mut dyn Applier, copy: &TableSchema, pieces: &[Changes]) {
    applier.begin().await.unwrap();
    for piece in pieces {
        for entry in &piece.entries {
            match entry {
                Entry::Row { op, old, new, .. } => {
                    let image = |row: &Option<u32>| row.map(|row| piece.rows.row(row as usize));
                    let row = [RowChange { old: image(old), new: image(new) }];
                    assert_eq!(apply(applier, copy, *op, Conflict::Refuse, &row).await.unwrap(), 1);
                }
                Entry::Truncate { .. } => {
                    if applier.truncate(copy).await.unwrap() == Transaction::Ended {
                        applier.begin().await.unwrap();
                    }
                }
                Entry::Begin { .. } | Entry::Table { .. } | Entry::Commit { .. } => {}
                other => panic!("{other:?} was told of rows"),
            }
        }
    }
    applier.commit().await.unwrap();
}

async fn contents(engine: &Engine, connection: &Connection, table: &TableSchema) -> Vec<Vec<String>> {
    let snapshot = (engine.open_source)(connection.clone()).snapshot(1).await.unwrap();
    let (mut rows, ..) = read(snapshot.as_ref(), plan(table, Format::Values)).await;
    rows.sort();
    rows
}

/// The place after the last transaction of these.
fn end_of(pieces: &[Changes]) -> Position {
    let mut ends = pieces.iter().flat_map(|piece| &piece.entries).filter_map(|entry| match entry {
        Entry::Commit { position, .. } => Some(position.clone()),
        _ => None,
    });
    ends.next_back().expect("a transaction")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_and_the_log_after_it_make_the_same_table() {
    for (engine, connection) in engines().await {
        let table = loaded(engine, &connection, 1..=10).await;
        let source = (engine.open_source)(connection.clone());
        let capture = capture(&table);
        let mut work = writing(engine, &connection).await;
        let Beginning { snapshot, position } = source.begin_capture(&capture, 1).await.unwrap();
        work.begin().await.unwrap();
        assert_eq!(change(work.as_mut(), &table, Op::Insert, &rows(11..=20)).await.unwrap(), 10);
        assert_eq!(change(work.as_mut(), &table, Op::Update, &named(4, "new 'name'\\")).await.unwrap(), 1);
        assert_eq!(change(work.as_mut(), &table, Op::Delete, &rows([5])).await.unwrap(), 1);
        work.commit().await.unwrap();
        // Of what is rolled back nothing is told.
        work.begin().await.unwrap();
        assert_eq!(change(work.as_mut(), &table, Op::Delete, &rows([1, 2])).await.unwrap(), 2);
        work.rollback().await.unwrap();
        work.begin().await.unwrap();
        let (old, new) = (rows([7]), rows([70]));
        let moved = [RowChange { old: Some(old.row(0)), new: Some(new.row(0)) }];
        assert_eq!(apply(work.as_mut(), &table, Op::Update, Conflict::Refuse, &moved).await.unwrap(), 1);
        work.commit().await.unwrap();

        // The copy begins as the snapshot shows the table, which is as it was.
        let copy = TableSchema { name: TableName::new(schema_name(), "copy"), ..table.clone() };
        let target = (engine.open_target)(connection.clone());
        target.prepare(&copy, PrepareMode::DropAndCreate, CreateKey::WithTable).await.unwrap();
        let mut reader = snapshot.read(plan(&table, Format::Values)).await.unwrap();
        let (mut batch, mut loaded) = (Batch::new(), 0);
        while reader.next(&mut batch).await.unwrap() {
            loaded += write(target.as_ref(), &copy, std::slice::from_ref(&batch)).await.rows;
        }
        assert_eq!(loaded, 10, "{}", engine.name);
        drop((reader, snapshot));

        let durable = watch::Sender::new(None);
        let mut reader = source.changes(&capture, &position, durable.subscribe()).await.unwrap();
        let pieces = follow(reader.as_mut(), 2).await;
        let mut expected = vec!["Insert"; 10];
        expected.extend(["Update", "Delete", "Commit", "Update", "Commit"]);
        assert_eq!(told(&pieces), expected, "{}", engine.name);
        let mut applier = writing(engine, &connection).await;
        replay(applier.as_mut(), &copy, &pieces).await;
        let same = contents(engine, &connection, &table).await;
        assert_eq!(contents(engine, &connection, &copy).await, same, "{}", engine.name);
        assert_eq!(same.len(), 19, "{}", engine.name);

        work.begin().await.unwrap();
        if work.truncate(&table).await.unwrap() == Transaction::Open {
            work.commit().await.unwrap();
        }
        let pieces = follow(reader.as_mut(), 1).await;
        // An engine whose TRUNCATE would end the transaction deletes the rows.
        let told = told(&pieces);
        assert!(told == ["Truncate", "Commit"] || told.len() == 20 && told[0] == "Delete", "{}: {told:?}", engine.name);
        replay(applier.as_mut(), &copy, &pieces).await;
        assert!(contents(engine, &connection, &copy).await.is_empty(), "{}", engine.name);
        drop(reader);
        source.end_capture(&capture).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_goes_on_after_any_transaction() {
    for (engine, connection) in engines().await {
        let table = loaded(engine, &connection, 1..=3).await;
        let source = (engine.open_source)(connection.clone());
        let capture = capture(&table);
        let position = source.begin_capture_at(&capture, &StartPoint::Now).await.unwrap();
        let mut work = writing(engine, &connection).await;
        for (op, images) in
            [(Op::Insert, rows([4])), (Op::Update, named(1, "one")), (Op::Delete, rows([2])), (Op::Insert, rows([5]))]
        {
            work.begin().await.unwrap();
            assert_eq!(change(work.as_mut(), &table, op, &images).await.unwrap(), 1, "{}", engine.name);
            work.commit().await.unwrap();
        }
        let log_end = source.log_end().await.unwrap();
        let all = ["Insert", "Commit", "Update", "Commit", "Delete", "Commit", "Insert", "Commit"];
        // A place is a checkpoint: as text, too, it is where to go on.
        let (mut from, mut read) = (position, 0);
        while read < 4 {
            let durable = watch::Sender::new(None);
            let mut reader = source.changes(&capture, &from, durable.subscribe()).await.unwrap();
            // From every place all that follows is there.
            assert_eq!(told(&follow(reader.as_mut(), 4 - read).await), all[2 * read..], "{}", engine.name);
            drop(reader);
            let mut reader = source.changes(&capture, &from, durable.subscribe()).await.unwrap();
            let mut first = follow_some(reader.as_mut()).await;
            let end = cut_after_first(&mut first);
            assert!(end > from && end <= log_end, "{}: {from} {end} {log_end}", engine.name);
            from = end.to_string().parse().unwrap();
            assert_eq!(from, end, "{}", engine.name);
            read += 1;
        }
        source.end_capture(&capture).await.unwrap();
        // Nothing being there is no error.
        source.end_capture(&capture).await.unwrap();
    }
}

async fn follow_some(reader: &mut dyn ChangeReader) -> Vec<Changes> {
    let mut pieces: Vec<Changes> = Vec::new();
    while !pieces.iter().any(|piece| piece.entries.iter().any(|entry| matches!(entry, Entry::Commit { .. }))) {
        let mut piece = Changes::default();
        timeout(TOLD_WITHIN, reader.next(&mut piece)).await.expect("the log tells of a transaction").unwrap();
        pieces.push(piece);
    }
    pieces
}

/// Leaves the first transaction, and gives the place after it.
fn cut_after_first(pieces: &mut [Changes]) -> Position {
    let last = pieces.last_mut().expect("a piece");
    let end = last.entries.iter().position(|entry| matches!(entry, Entry::Commit { .. })).expect("a transaction");
    last.entries.truncate(end + 1);
    end_of(pieces)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_goes_in_whole_or_not_at_all() {
    for (engine, connection) in engines().await {
        let table = loaded(engine, &connection, 1..=3).await;
        let before = contents(engine, &connection, &table).await;
        let mut work = writing(engine, &connection).await;
        work.begin().await.unwrap();
        assert_eq!(change(work.as_mut(), &table, Op::Insert, &rows([4])).await.unwrap(), 1, "{}", engine.name);
        work.savepoint().await.unwrap();
        // The last is there already.
        let error = change(work.as_mut(), &table, Op::Insert, &rows([5, 6, 3])).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Data, "{}: {error}", engine.name);
        assert!(!error.to_string().contains("🦀"), "{}: {error}", engine.name);
        work.back_to_savepoint().await.unwrap();
        // Rows that are not there are not counted, and are no error of the server.
        assert_eq!(change(work.as_mut(), &table, Op::Delete, &rows([1, 99])).await.unwrap(), 1, "{}", engine.name);
        assert_eq!(change(work.as_mut(), &table, Op::Update, &named(98, "nobody")).await.unwrap(), 0);
        assert_eq!(contents(engine, &connection, &table).await, before, "{}: before the commit", engine.name);
        work.commit().await.unwrap();
        assert_eq!(contents(engine, &connection, &table).await.len(), 3, "{}", engine.name);
        // A row may take the place of the one that is there, as often as one likes.
        work.begin().await.unwrap();
        let image = named(2, "again");
        for _ in 0..2 {
            let again = [RowChange { old: None, new: Some(image.row(0)) }];
            apply(work.as_mut(), &table, Op::Insert, Conflict::Replace, &again).await.unwrap();
        }
        work.commit().await.unwrap();
        let after = contents(engine, &connection, &table).await;
        assert_eq!(after.len(), 3, "{}", engine.name);
        assert!(
            after.iter().any(|row| row[1] == format!("{:?}", Value::String(b"again"))),
            "{}: {after:?}",
            engine.name
        );
        let statement = {
            let rows = [RowChange { old: None, new: Some(image.row(0)) }];
            let columns: Vec<usize> = (0..table.columns.len()).collect();
            let key = Key::Unique(&table.primary_key);
            let conflict = Conflict::Refuse;
            work.statement(&ChangeSet { table: &table, columns: &columns, key, op: Op::Insert, rows: &rows, conflict })
        };
        assert!(statement.starts_with("INSERT INTO") && statement.contains("again"), "{}: {statement}", engine.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_has_one_session_and_nothing_of_the_one_before_lands() {
    for (engine, connection) in engines().await {
        let table = loaded(engine, &connection, 1..=3).await;
        let owner = uuid::Uuid::new_v4().to_string();
        let mut lost = applier(engine, &connection, &owner).await;
        lost.begin().await.unwrap();
        assert_eq!(change(lost.as_mut(), &table, Op::Delete, &rows([1])).await.unwrap(), 1, "{}", engine.name);
        let mut work = applier(engine, &connection, &owner).await;
        work.begin().await.unwrap();
        // It waits for no lock of the other.
        assert_eq!(change(work.as_mut(), &table, Op::Update, &named(1, "kept")).await.unwrap(), 1, "{}", engine.name);
        work.commit().await.unwrap();
        let error = lost.commit().await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Recoverable, "{}: {error}", engine.name);
        assert_eq!(contents(engine, &connection, &table).await.len(), 3, "{}", engine.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_change_as_they_are_told() {
    for (engine, connection) in engines().await {
        let mut table = loaded(engine, &connection, 1..=3).await;
        let mut work = writing(engine, &connection).await;
        let added =
            Column { native: table.columns[1].native.clone(), ..column("added", DataType::WString { length: 100 }) };
        table.columns.push(added);
        let last = table.columns.len() - 1;
        let to = TableName::new(&table.name.schema, "renamed");
        let steps = [
            TableChange::AddColumn { table: &table, column: last },
            TableChange::RenameColumn { table: &table.name, from: "ratio", to: "share" },
            TableChange::DropColumn { table: &table.name, column: "day" },
            TableChange::Rename { from: &table.name, to: &to },
        ];
        work.begin().await.unwrap();
        for step in &steps {
            if work.change_table(step).await.unwrap() == Transaction::Ended {
                work.begin().await.unwrap();
            }
        }
        work.commit().await.unwrap();
        let found = described(engine, &connection, &to).await.expect("the table is there by its new name");
        let names: Vec<&str> = found.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["id", "name", "amount", "share", "moment", "raw", "added"], "{}", engine.name);
        assert_eq!(found.columns[6].data_type, found.columns[1].data_type, "{}", engine.name);
        assert!(described(engine, &connection, &table.name).await.is_none(), "{}", engine.name);
        assert_eq!(contents(engine, &connection, &found).await.len(), 3, "{}: the rows stay", engine.name);
        work.begin().await.unwrap();
        // One that is there is left as it is; one that goes may be gone.
        for step in [TableChange::Create(&found), TableChange::Drop(&to), TableChange::Drop(&to)] {
            if work.change_table(&step).await.unwrap() == Transaction::Ended {
                work.begin().await.unwrap();
            }
        }
        work.commit().await.unwrap();
        assert!(described(engine, &connection, &to).await.is_none(), "{}", engine.name);
    }
}
