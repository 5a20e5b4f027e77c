//! Writing rows into a PostgreSQL table with COPY.
//!
//! Some batches together are a COPY and a transaction of their own. They are sent as they come, and the next COPY is
//! on its way while the server finishes one; the writer keeps the rows of both, so that of a COPY with a bad row all
//! other rows can be written again.

use std::mem;
use std::ops::Range;

use async_trait::async_trait;

use super::copy::{BINARY_HEADER, BINARY_TRAILER, binary_fields, encode, encode_rest, encode_row, fields};
use super::sql;
use super::type_map::NativeType;
use super::wire::{Client, Loaded, ServerError};
use crate::connector::{Rejected, Writer, Written};
use crate::data::{Batch, Error, ErrorKind, Format, Result, Row, TableSchema, Value};

/// A COPY ends when it holds this much. Starting one costs the server about a millisecond (it prepares for a thousand
/// rows at once), so that a COPY per batch of 1 MiB would take a tenth longer; twice this is kept in memory.
const COPY_BYTES: usize = 2 << 20;

/// The longest statement that is recorded for a refused row.
const STATEMENT_BYTES_MAX: usize = 64 << 10;

/// Of a row too large for one batch this much is kept for its statement.
const LARGE_ROW_KEPT: usize = 8 << 10;

/// Commits need not reach the disk one by one: `finish` makes them durable together.
const SESSION: &str = "SET synchronous_commit = off";

/// A transaction that writes to the log and waits for the log to be on disk up to its end, and so for all before it.
/// An empty transaction would not wait.
const FLUSH: &str = "BEGIN; SET LOCAL synchronous_commit = on; \
    SELECT pg_catalog.pg_logical_emit_message(true, 'dms-local', ''); COMMIT";

/// The same for a server without the function (before 9.6), or that keeps it from us.
const FLUSH_BY_TABLE: &str = "ROLLBACK; BEGIN; SET LOCAL synchronous_commit = on; \
    CREATE TEMPORARY TABLE awsdms_flush () ON COMMIT DROP; COMMIT";

pub struct PostgresWriter {
    client: Client,
    format: Format,
    /// The most rows of a COPY.
    commit_rows: usize,
    table: TableSchema,
    /// The columns that are written; others the target generates.
    sent: Vec<bool>,
    statement: String,
    /// The rows of the COPY that is being sent; none when there is no COPY open.
    open: Rows,
    /// The rows of the COPY before, which has been sent and whose outcome is not known yet.
    flying: Option<Rows>,
    /// Kept for its buffers.
    spare: Rows,
    large: Option<LargeRow>,
    what: String,
}

/// Rows as they go to the server.
#[derive(Default)]
struct Rows {
    bytes: Vec<u8>,
    /// Where each row ends.
    ends: Vec<usize>,
}

/// A row that is spread over batches and has a COPY to itself.
struct LargeRow {
    /// The column whose value is open.
    column: usize,
    /// The beginning of the row, for its statement.
    beginning: Vec<u8>,
}

impl PostgresWriter {
    pub async fn start(
        mut client: Client,
        table: &TableSchema,
        sent: Vec<bool>,
        format: Format,
        commit_rows: usize,
    ) -> Result<PostgresWriter> {
        client.query(SESSION).await?;
        client.query(&format!("SELECT pg_catalog.pg_advisory_lock_shared({})", sql::load_lock(&table.name))).await?;
        if format == Format::Text {
            // As the source wrote it.
            client.query("SET lc_monetary = 'C'").await?;
        }
        let columns = table.columns.iter().zip(&sent).filter(|(_, sent)| **sent);
        let columns = sql::identifiers(columns.map(|(column, _)| column.name.as_str()));
        let name = sql::table(&table.name);
        let copy_format = if format == Format::PostgresCopy { "binary" } else { "text" };
        Ok(PostgresWriter {
            client,
            format,
            commit_rows,
            sent,
            statement: format!("COPY {name} ({columns}) FROM STDIN (FORMAT {copy_format})"),
            what: format!("copy into {}", table.name),
            table: table.clone(),
            open: Rows::default(),
            flying: None,
            spare: Rows::default(),
            large: None,
        })
    }

    async fn write_batch(&mut self, batch: &Batch, written: &mut Written) -> Result<()> {
        let mut first = 0;
        if batch.continues() {
            if batch.rows() == 0 {
                return self.continue_large_row(batch.open_row()).await;
            }
            self.continue_large_row(batch.row(0)).await?;
            self.end_large_row(written).await?;
            first = 1;
        }
        if first < batch.rows() {
            if self.open.ends.len() + batch.rows() - first > self.commit_rows {
                self.end_open(written).await?;
            }
            if self.open.ends.is_empty() {
                self.start_copy().await?;
            }
            let before = self.open.bytes.len();
            self.open.encode(batch, first, &self.sent);
            self.client.copy_in(&self.open.bytes[before..]).await?;
            if self.open.bytes.len() >= COPY_BYTES || self.open.ends.len() >= self.commit_rows {
                self.end_open(written).await?;
            }
        }
        if batch.is_open() {
            self.settle_all(written).await?;
            self.begin_large_row(batch.open_row()).await?;
        }
        Ok(())
    }

    /// Ends the COPY being sent, and learns what became of the one before.
    async fn end_open(&mut self, written: &mut Written) -> Result<()> {
        if self.open.ends.is_empty() {
            return Ok(());
        }
        self.end_copy().await?;
        let before = self.flying.replace(mem::take(&mut self.open));
        self.settle(before, written).await?;
        self.open = mem::take(&mut self.spare);
        self.open.clear();
        Ok(())
    }

    /// Ends the COPY being sent, and learns what became of every row.
    async fn settle_all(&mut self, written: &mut Written) -> Result<()> {
        self.end_open(written).await?;
        let flying = self.flying.take();
        self.settle(flying, written).await
    }

    /// Sends a COPY of some rows whole.
    async fn send(&mut self, rows: &Rows, range: Range<usize>) -> Result<()> {
        self.start_copy().await?;
        self.client.copy_in(rows.bytes_of(range)).await?;
        self.end_copy().await
    }

    async fn start_copy(&mut self) -> Result<()> {
        self.client.start_copy_in(&self.statement)?;
        match self.format {
            Format::PostgresCopy => self.client.copy_in(BINARY_HEADER).await,
            Format::Text | Format::Values => Ok(()),
        }
    }

    async fn end_copy(&mut self) -> Result<()> {
        if self.format == Format::PostgresCopy {
            self.client.copy_in(BINARY_TRAILER).await?;
        }
        self.client.end_copy_in().await
    }

    /// Learns what became of the rows sent before those that are flying, and writes them again where one was refused.
    async fn settle(&mut self, rows: Option<Rows>, written: &mut Written) -> Result<()> {
        let Some(rows) = rows else { return Ok(()) };
        let outcome = self.client.copy_in_outcome().await?;
        let refused = match outcome {
            Loaded::Rows(count) => {
                written.rows += count;
                self.spare = rows;
                return Ok(());
            }
            Loaded::Refused(refused) => refused,
        };
        // The COPY behind has its answer on the way, which has to be out of it first.
        let behind = match self.flying.take() {
            Some(behind) => Some((behind, self.client.copy_in_outcome().await?)),
            None => None,
        };
        self.sort_out(&rows, refused, written).await?;
        match behind {
            Some((_, Loaded::Rows(count))) => written.rows += count,
            Some((behind, Loaded::Refused(refused))) => self.sort_out(&behind, refused, written).await?,
            None => {}
        }
        self.spare = rows;
        Ok(())
    }

    /// Writes the rows of a refused COPY in ever smaller parts, until those are found that are refused by themselves.
    async fn sort_out(&mut self, rows: &Rows, refused: ServerError, written: &mut Written) -> Result<()> {
        let mut parts = Vec::new();
        self.part(rows, 0..rows.ends.len(), refused, &mut parts, written).await?;
        while let Some(range) = parts.pop() {
            self.send(rows, range.clone()).await?;
            match self.client.copy_in_outcome().await? {
                Loaded::Rows(count) => written.rows += count,
                Loaded::Refused(refused) => self.part(rows, range, refused, &mut parts, written).await?,
            }
        }
        Ok(())
    }

    /// Divides a refused range, last part first; a range of one row is rejected.
    async fn part(
        &mut self,
        rows: &Rows,
        range: Range<usize>,
        refused: ServerError,
        parts: &mut Vec<Range<usize>>,
        written: &mut Written,
    ) -> Result<()> {
        let line = refused.copy_line;
        let error = refused.into_error();
        if !matches!(error.kind, ErrorKind::Data | ErrorKind::Truncation) {
            return Err(error);
        }
        if range.len() <= 1 {
            let statement = self.statement_of(rows.bytes_of(range)).await?;
            written.rejected.push(Rejected { error: error.while_doing(self.what.clone()), statement });
            return Ok(());
        }
        // The server names a line more often than not. What follows it is halved, which keeps the work bounded when
        // every row is bad.
        let named = line.and_then(|line| usize::try_from(line).ok()).and_then(|line| line.checked_sub(1));
        match named.map(|row| range.start + row).filter(|row| range.contains(row)) {
            Some(row) => {
                let middle = row + 1 + (range.end - row - 1) / 2;
                parts.extend([middle..range.end, row + 1..middle, row..row + 1, range.start..row]);
            }
            None => {
                let middle = range.start + range.len() / 2;
                parts.extend([middle..range.end, range.start..middle]);
            }
        }
        parts.retain(|part| !part.is_empty());
        Ok(())
    }

    /// The INSERT that would have written an encoded row.
    async fn statement_of(&mut self, row: &[u8]) -> Result<String> {
        if self.format != Format::PostgresCopy {
            return Ok(self.insert(fields(row.strip_suffix(b"\n").unwrap_or(row)), ""));
        }
        let Some(values) = binary_fields(row) else { return Ok(self.insert(std::iter::empty(), "…")) };
        // The server turns its binary form into text.
        let columns = self.table.columns.iter().zip(&self.sent).filter(|(_, sent)| **sent).enumerate();
        let texts: Vec<String> = columns
            .map(|(index, (column, _))| {
                let native = NativeType::parse(&column.native);
                let array = if native.array { "[]" } else { "" };
                format!("${}::pg_catalog.{}{array}::pg_catalog.text", index + 1, catalog_name(&native.name))
            })
            .collect();
        match self.client.query_binary(&format!("SELECT {}", texts.join(", ")), &values).await {
            Ok(values) => Ok(self.insert(values.into_iter(), "")),
            // What the server cannot read has no text.
            Err(error) if error.sqlstate.is_some() && error.kind != ErrorKind::Recoverable => {
                Ok(self.insert(std::iter::empty(), "…"))
            }
            Err(error) => Err(error),
        }
    }

    fn insert(&self, values: impl Iterator<Item = Option<String>>, end: &str) -> String {
        let columns = self.table.columns.iter().zip(&self.sent).filter(|(_, sent)| **sent);
        let columns = sql::identifiers(columns.map(|(column, _)| column.name.as_str()));
        let mut statement = format!("INSERT INTO {} ({columns}) VALUES (", sql::table(&self.table.name));
        for (index, value) in values.enumerate() {
            statement.push_str(if index == 0 { "" } else { ", " });
            statement.push_str(&value.map_or("NULL".into(), |value| sql::literal(&value)));
            if statement.len() > STATEMENT_BYTES_MAX {
                let mut cut = STATEMENT_BYTES_MAX;
                while !statement.is_char_boundary(cut) {
                    cut -= 1;
                }
                statement.truncate(cut);
                statement.push('…');
                return statement;
            }
        }
        statement.push_str(end);
        statement.push(')');
        statement
    }

    async fn begin_large_row(&mut self, row: Row<'_>) -> Result<()> {
        self.start_copy().await?;
        let mut bytes = mem::take(&mut self.spare.bytes);
        bytes.clear();
        let column = row.len().saturating_sub(1);
        match self.format {
            Format::PostgresCopy => push_opaque(row, &mut bytes),
            Format::Text | Format::Values => encode_row(row, &self.sent, &mut bytes),
        }
        self.large = Some(LargeRow { column, beginning: bytes[..bytes.len().min(LARGE_ROW_KEPT)].to_vec() });
        self.client.copy_in(&bytes).await?;
        self.spare.bytes = bytes;
        Ok(())
    }

    /// Sends on what a batch holds of the row that an earlier one began.
    async fn continue_large_row(&mut self, row: Row<'_>) -> Result<()> {
        let Some(large) = &mut self.large else {
            return Err(Error::fatal("a batch carries on a row that was not begun"));
        };
        let mut bytes = mem::take(&mut self.spare.bytes);
        bytes.clear();
        if self.format == Format::PostgresCopy {
            push_opaque(row, &mut bytes);
        } else {
            for (index, value) in row.enumerate() {
                if index > 0 {
                    large.column += 1;
                }
                match (self.sent.get(large.column), index) {
                    (Some(true), 0) => encode_rest(value, &mut bytes),
                    (Some(true), _) => {
                        // A generated column is never the only one before it.
                        if self.sent[..large.column].contains(&true) {
                            bytes.push(b'\t');
                        }
                        encode(value, &mut bytes);
                    }
                    _ => {}
                }
            }
        }
        let sent = self.client.copy_in(&bytes).await;
        self.spare.bytes = bytes;
        sent
    }

    async fn end_large_row(&mut self, written: &mut Written) -> Result<()> {
        let Some(large) = self.large.take() else { return Ok(()) };
        if self.format != Format::PostgresCopy {
            self.client.copy_in(b"\n").await?;
        }
        self.end_copy().await?;
        let error = match self.client.copy_in_outcome().await? {
            Loaded::Rows(count) => {
                written.rows += count;
                return Ok(());
            }
            Loaded::Refused(refused) => refused.into_error(),
        };
        if !matches!(error.kind, ErrorKind::Data | ErrorKind::Truncation) {
            return Err(error);
        }
        let statement = match self.format {
            Format::PostgresCopy => self.insert(std::iter::empty(), "…"),
            Format::Text | Format::Values => self.insert(fields(&large.beginning), "…"),
        };
        written.rejected.push(Rejected { error: error.while_doing(self.what.clone()), statement });
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        match self.client.query(FLUSH).await {
            Err(error) if matches!(error.sqlstate.as_deref(), Some("42883" | "42501")) => {
                self.client.query(FLUSH_BY_TABLE).await.map(drop)
            }
            other => other.map(drop),
        }
    }
}

/// The bytes of a row in the binary format, or of a part of one.
fn push_opaque(row: Row<'_>, into: &mut Vec<u8>) {
    for value in row {
        if let Value::Bytes(bytes) = value {
            into.extend_from_slice(bytes);
        }
    }
}

/// The name in `pg_type` of a type that `format_type` spells as the standard does.
fn catalog_name(name: &str) -> &str {
    match name {
        "bigint" => "int8",
        "bit varying" => "varbit",
        "boolean" => "bool",
        "character" => "bpchar",
        "character varying" => "varchar",
        "double precision" => "float8",
        "integer" => "int4",
        "real" => "float4",
        "smallint" => "int2",
        "time with time zone" => "timetz",
        "time without time zone" => "time",
        "timestamp with time zone" => "timestamptz",
        "timestamp without time zone" => "timestamp",
        name => name,
    }
}

impl Rows {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Appends the rows of a batch from the given one on.
    fn encode(&mut self, batch: &Batch, first: usize, sent: &[bool]) {
        for index in first..batch.rows() {
            match batch.format() {
                Format::PostgresCopy => push_opaque(batch.row(index), &mut self.bytes),
                Format::Text | Format::Values => {
                    encode_row(batch.row(index), sent, &mut self.bytes);
                    self.bytes.push(b'\n');
                }
            }
            self.ends.push(self.bytes.len());
        }
    }

    fn bytes_of(&self, range: Range<usize>) -> &[u8] {
        let start = if range.start == 0 { 0 } else { self.ends[range.start - 1] };
        let end = if range.end == 0 { 0 } else { self.ends[range.end - 1] };
        &self.bytes[start..end]
    }
}

#[async_trait]
impl Writer for PostgresWriter {
    async fn write(&mut self, batch: &Batch) -> Result<Written> {
        let mut written = Written::default();
        match self.write_batch(batch, &mut written).await {
            Ok(()) => Ok(written),
            Err(error) => Err(error.while_doing(self.what.clone())),
        }
    }

    async fn finish(&mut self) -> Result<Written> {
        let mut written = Written::default();
        let finished = async {
            self.settle_all(&mut written).await?;
            self.flush().await
        };
        match finished.await {
            Ok(()) => Ok(written),
            Err(error) => Err(error.while_doing(self.what.clone())),
        }
    }
}
