//! Tables and types as the catalog has them.

use std::collections::HashMap;

use super::type_map::{NativeType, TypeClass, data_type};
use super::wire::Client;
use super::{Endpoint, Settings, sql};
use crate::connector::TableEntry;
use crate::data::{Column, DataType, Error, Family, Result, TableKind, TableName, TableSchema};

/// Tables that one query describes: bounds the statement and its answer.
const DESCRIBED_AT_ONCE: usize = 100;

/// A session that looks into the catalog.
pub struct Catalog {
    client: Client,
    settings: Settings,
}

/// A table with what its schema leaves out.
#[derive(Clone, Debug)]
pub struct Described {
    pub schema: TableSchema,
    /// What the log has of rows before they changed, among the columns.
    pub identity: Vec<usize>,
    /// For each column its number, which it keeps whatever it is called, and number and modifier of its type.
    pub columns: Vec<(i32, u32, i32)>,
    /// As `pg_class.relreplident`, and the columns of an index that is meant by it.
    replica_identity: String,
    identity_index: Vec<usize>,
    /// The primary key is checked later (`DEFERRABLE`): the log does not tell rows apart by it.
    is_key_deferred: bool,
}

/// The native and DMS types of a column, without a collation.
pub type Types = (String, DataType);

/// What a table inherits from or is a partition of.
#[derive(Clone, Debug)]
pub struct Parent {
    pub name: TableName,
    pub is_partition: bool,
}

impl Catalog {
    pub async fn open(endpoint: &Endpoint) -> Result<Catalog> {
        Ok(Catalog { client: endpoint.connect_to_catalog().await?, settings: endpoint.settings.clone() })
    }

    /// Tables in the order given; one that has vanished is left out.
    pub async fn describe(&mut self, tables: &[TableEntry]) -> Result<Vec<Described>> {
        let mut described = Vec::with_capacity(tables.len());
        for some in tables.chunks(DESCRIBED_AT_ONCE) {
            described.extend(describe(&mut self.client, &self.settings, some).await?);
        }
        Ok(described)
    }

    /// Tables by their names, those of them that there are.
    pub async fn tables(&mut self, names: &[TableName]) -> Result<HashMap<TableName, Described>> {
        let entry = |name: &TableName| TableEntry { name: name.clone(), kind: TableKind::Table };
        let entries: Vec<TableEntry> = names.iter().map(entry).collect();
        let described = self.describe(&entries).await?;
        Ok(described.into_iter().map(|table| (table.schema.name.clone(), table)).collect())
    }

    /// Types that are known by their number and modifier. One that the catalog does not have is left out.
    pub async fn types(&mut self, types: &[(u32, i32)]) -> Result<HashMap<(u32, i32), Types>> {
        if types.is_empty() {
            return Ok(HashMap::new());
        }
        let rows: Vec<String> = types
            .iter()
            .enumerate()
            .map(|(place, (oid, modifier))| format!("({place}, {oid}::oid, {modifier})"))
            .collect();
        let sql = format!(
            "SELECT a.place, format_type(b.oid, b.typmod), b.typtype \
             FROM (VALUES {}) AS a (place, atttypid, atttypmod) {BASE_TYPE}",
            rows.join(", ")
        );
        let mut found = HashMap::new();
        for row in self.client.query(&sql).await? {
            let mut row = Fields::of(row);
            let place: usize = row.number("place")?;
            let (native, class) = (row.next("format_type")?, row.next("typtype")?);
            let data_type = data_type(&NativeType::parse(&native), TypeClass::parse(&class), &self.settings);
            if let Some(of) = types.get(place) {
                found.insert(*of, (native, data_type));
            }
        }
        Ok(found)
    }

    /// Types by their text as a statement has it that was run with this current schema. One that does not mean anything
    /// any more is left out.
    pub async fn types_of_texts(&mut self, schema: &str, texts: &[String]) -> Result<HashMap<String, Types>> {
        if texts.is_empty() {
            return Ok(HashMap::new());
        }
        self.client.query(&format!("SET search_path = {}, public", sql::identifier(schema))).await?;
        let mut known: Vec<(&String, (u32, i32))> = Vec::new();
        for text in texts {
            // Not run, only looked at.
            match self.client.describe(&format!("SELECT NULL::{}", without_sequence(text))).await {
                Ok(columns) => known.extend(columns.first().map(|column| (text, *column))),
                Err(error) if error.sqlstate.is_some() => {}
                Err(error) => return Err(error),
            }
        }
        self.client.query("SET search_path = pg_catalog").await?;
        let types: Vec<(u32, i32)> = known.iter().map(|(_, of)| *of).collect();
        let types = self.types(&types).await?;
        Ok(known.into_iter().filter_map(|(text, of)| Some((text.clone(), types.get(&of)?.clone()))).collect())
    }

    /// All tables of users, each as often as it has parents, or once.
    pub async fn relations(&mut self) -> Result<Vec<(TableName, Option<Parent>)>> {
        let partition = if self.client.version() >= PARTITIONS_SINCE { "c.relispartition" } else { "false" };
        let sql = format!(
            "SELECT n.nspname, c.relname, pn.nspname, p.relname, {partition} FROM pg_class c \
             JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_inherits i ON i.inhrelid = c.oid \
             LEFT JOIN pg_class p ON p.oid = i.inhparent LEFT JOIN pg_namespace pn ON pn.oid = p.relnamespace \
             WHERE c.relkind IN ('r', 'p') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'"
        );
        let relation = |row: Vec<Option<String>>| {
            let mut row = Fields::of(row);
            let name = TableName::new(row.next("nspname")?, row.next("relname")?);
            let (Some(schema), Some(table)) = (row.optional(), row.optional()) else { return Ok((name, None)) };
            let parent = TableName::new(schema, table);
            Ok((name, Some(Parent { name: parent, is_partition: row.next("relispartition")? == "t" })))
        };
        self.client.query(&sql).await?.into_iter().map(relation).collect()
    }

    /// How many digits money has behind its point.
    pub async fn money_digits(&mut self) -> Result<usize> {
        let digits = "SELECT length(split_part('1'::money::numeric::text, '.', 2))";
        let row = self.client.query(digits).await?.pop().unwrap_or_default();
        Fields::of(row).number("lc_monetary")
    }
}

const PARTITIONS_SINCE: u32 = 100_000;

/// What a column is of whose values come from a sequence.
fn without_sequence(text: &str) -> &str {
    match text {
        "smallserial" | "serial2" => "smallint",
        "serial" | "serial4" => "integer",
        "bigserial" | "serial8" => "bigint",
        text => text,
    }
}

/// The type of a column `a`; of a domain its base type, through any number of domains.
pub(super) const BASE_TYPE: &str = "JOIN LATERAL (WITH RECURSIVE d (oid, typmod, depth) AS (SELECT a.atttypid, a.atttypmod, 0 \
     UNION ALL SELECT t.typbasetype, t.typtypmod, depth + 1 FROM d JOIN pg_type t ON t.oid = d.oid \
     WHERE t.typtype = 'd') \
     SELECT d.oid, d.typmod, t.typtype, t.typcollation FROM d JOIN pg_type t ON t.oid = d.oid \
     ORDER BY depth DESC LIMIT 1) b ON true";

async fn describe(client: &mut Client, settings: &Settings, tables: &[TableEntry]) -> Result<Vec<Described>> {
    let wanted = format!(
        "WITH wanted AS (SELECT w.place, c.oid, c.relkind, c.reltuples, c.relhassubclass, c.relreplident \
         FROM (VALUES {}) AS w (place, nspname, relname) JOIN pg_namespace n ON n.nspname = w.nspname \
         JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.relname AND c.relkind IN ('r', 'p', 'v')) ",
        sql::numbered(tables.iter().map(|entry| &entry.name))
    );
    let mut found: HashMap<usize, Described> = HashMap::new();
    for row in client.query(&format!("{wanted}{ESTIMATES}")).await? {
        let mut row = Fields::of(row);
        let (place, estimate) = (row.number("place")?, row.number("reltuples")?);
        let described = Described {
            schema: empty(tables.get(place), estimate)?,
            identity: Vec::new(),
            columns: Vec::new(),
            replica_identity: row.next("relreplident")?,
            identity_index: Vec::new(),
            is_key_deferred: false,
        };
        found.insert(place, described);
    }
    for row in client.query(&format!("{wanted}{}", columns_query(client.version()))).await? {
        let mut row = Fields::of(row);
        let place: usize = row.number("place")?;
        let numbers = (row.number("attnum")?, row.number("atttypid")?, row.number("atttypmod")?);
        let column = column(&mut row, settings)?;
        if let Some(described) = found.get_mut(&place) {
            described.columns.push(numbers);
            described.schema.columns.push(column);
        }
    }
    for row in client.query(&format!("{wanted}{}", keys_query(client.version()))).await? {
        let mut row = Fields::of(row);
        let place: usize = row.number("place")?;
        let (primary, identity): (bool, bool) = (row.next("indisprimary")? == "t", row.next("indisreplident")? == "t");
        let (parts, numbers): (usize, String) = (row.number("indnkeyatts")?, row.next("indkey")?);
        let is_deferred = row.next("indimmediate")? == "f";
        if let Some(described) = found.get_mut(&place) {
            described.is_key_deferred |= primary && is_deferred;
            described.add_key(primary, identity, numbers.split(' ').take(parts));
        }
    }
    found.values_mut().for_each(Described::identify);
    Ok((0..tables.len()).filter_map(|place| found.remove(&place)).collect())
}

impl Described {
    /// Takes the primary key, and the first unique key whose columns are never null. Dropped columns leave holes in the
    /// numbers.
    fn add_key<'a>(&mut self, primary: bool, identity: bool, numbers: impl Iterator<Item = &'a str>) {
        let place = |number: i32| self.columns.iter().position(|(of, ..)| *of == number);
        let columns = numbers.map(|number| place(number.parse().ok()?));
        let Some(columns) = columns.collect::<Option<Vec<_>>>() else { return };
        if identity {
            self.identity_index.clone_from(&columns);
        }
        if primary {
            self.schema.primary_key = columns;
        } else if self.schema.unique_key.is_empty()
            && columns.iter().all(|column| !self.schema.columns[*column].nullable)
        {
            self.schema.unique_key = columns;
        }
    }

    fn identify(&mut self) {
        self.identity = match self.replica_identity.as_str() {
            "f" => (0..self.schema.columns.len()).collect(),
            "d" if !self.is_key_deferred => self.schema.primary_key.clone(),
            "i" => std::mem::take(&mut self.identity_index),
            _ => Vec::new(),
        };
        self.identity.sort_unstable();
    }

    /// The log has whole old rows.
    pub fn has_old_rows(&self) -> bool {
        self.replica_identity == "f"
    }
}

/// Rows by the last ANALYZE, or by the activity statistics where there was none, of a parent with those of its children.
/// Neither waits for a lock, as a look at the table's size would.
const ESTIMATES: &str = "SELECT place, CASE WHEN NOT relhassubclass \
     THEN CASE WHEN reltuples > 0 THEN reltuples ELSE pg_stat_get_live_tuples(oid) END ELSE (\
     WITH RECURSIVE tree (member) AS (SELECT wanted.oid \
     UNION SELECT inhrelid FROM pg_inherits JOIN tree ON inhparent = member) \
     SELECT coalesce(sum(CASE WHEN m.reltuples > 0 THEN m.reltuples ELSE pg_stat_get_live_tuples(m.oid) END), 0) \
     FROM tree JOIN pg_class m ON m.oid = member AND m.relkind = 'r') END::bigint, relreplident FROM wanted";

fn columns_query(version: u32) -> String {
    let generated = if version >= 120_000 { "a.attgenerated" } else { "''" };
    format!(
        "SELECT w.place, a.attnum, a.atttypid, a.atttypmod, a.attname, format_type(b.oid, b.typmod), b.typtype, a.attnotnull, {generated}, \
         CASE WHEN a.attcollation <> 0 AND a.attcollation <> b.typcollation \
         THEN quote_ident(cn.nspname) END, quote_ident(co.collname) \
         FROM wanted w JOIN pg_attribute a ON a.attrelid = w.oid AND a.attnum > 0 AND NOT a.attisdropped {BASE_TYPE} \
         LEFT JOIN pg_collation co ON co.oid = a.attcollation LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace \
         ORDER BY w.place, a.attnum"
    )
}

/// Keys that identify a row at any time: valid, not deferrable, not partial, not over expressions; small ones first.
fn keys_query(version: u32) -> String {
    let parts = if version >= 110_000 { "i.indnkeyatts" } else { "i.indnatts" };
    format!(
        "SELECT w.place, i.indisprimary, i.indisreplident, {parts}, i.indkey::text, i.indimmediate FROM wanted w JOIN pg_index i ON i.indrelid = w.oid \
         JOIN pg_class c ON c.oid = i.indexrelid \
         WHERE i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL \
         AND (i.indimmediate OR i.indisprimary) ORDER BY w.place, {parts}, c.relname::text COLLATE \"C\""
    )
}

fn empty(entry: Option<&TableEntry>, rows_estimate: u64) -> Result<TableSchema> {
    let entry = entry.ok_or_else(|| unexpected("place"))?;
    Ok(TableSchema {
        name: entry.name.clone(),
        kind: entry.kind,
        family: Family::PostgreSql,
        columns: Vec::new(),
        primary_key: Vec::new(),
        unique_key: Vec::new(),
        rows_estimate,
    })
}

fn column(row: &mut Fields, settings: &Settings) -> Result<Column> {
    let name = row.next("attname")?;
    let mut native = row.next("format_type")?;
    let class = TypeClass::parse(&row.next("typtype")?);
    let nullable = row.next("attnotnull")? == "f";
    let generated = !row.next("attgenerated")?.is_empty();
    let data_type = data_type(&NativeType::parse(&native), class, settings);
    if let (Some(schema), Some(collation)) = (row.optional(), row.optional()) {
        // quote_ident leaves simple names bare; the clause always has quotation marks, which sets it off.
        let quoted = |name: String| if name.starts_with('"') { name } else { format!("\"{name}\"") };
        native = format!("{native} COLLATE {}.{}", quoted(schema), quoted(collation));
    }
    Ok(Column { name, data_type, native, nullable, generated })
}

/// The fields of a catalog row, taken one after the other.
struct Fields(std::vec::IntoIter<Option<String>>);

impl Fields {
    fn of(row: Vec<Option<String>>) -> Fields {
        Fields(row.into_iter())
    }

    fn optional(&mut self) -> Option<String> {
        self.0.next().flatten()
    }

    fn next(&mut self, name: &str) -> Result<String> {
        self.optional().ok_or_else(|| unexpected(name))
    }

    fn number<T: std::str::FromStr>(&mut self, name: &str) -> Result<T> {
        self.next(name)?.parse().map_err(|_| unexpected(name))
    }
}

fn unexpected(name: &str) -> Error {
    Error::fatal(format!("the catalog's {name} is not what PostgreSQL documents"))
}
