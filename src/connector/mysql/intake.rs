//! How encoded rows get into a table: as the file of a `LOAD DATA LOCAL`, or as the values of an INSERT.

use super::load_data::{self, Rule, literal};
use super::wire::LOCAL_FILE;
use super::{quote_name, quote_table};
use crate::data::TableName;

/// How the text of a field becomes the value of a target column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Assign {
    /// As it is: the column's character set is UTF-8 or it has none.
    Direct,
    /// The server converts it from UTF-8.
    Convert,
    /// A number for a BIT column, which takes text for bits otherwise.
    Number,
    /// The column makes its own value.
    Skip,
}

impl Assign {
    /// What the column is set to, from an expression that holds the field's bytes.
    fn expression(self, field: &str) -> String {
        match self {
            Assign::Direct | Assign::Skip => field.to_owned(),
            Assign::Convert => format!("CONVERT({field} USING utf8mb4)"),
            Assign::Number => format!("CAST({field} AS UNSIGNED)"),
        }
    }
}

/// A column of the target as rows are sent to it.
#[derive(Clone, Debug)]
pub(super) struct LoadColumn {
    pub(super) name: String,
    pub(super) assign: Assign,
    pub(super) rule: Rule,
}

impl LoadColumn {
    /// A field's value in a statement.
    pub(super) fn value(&self, field: Option<&[u8]>) -> String {
        field.map_or_else(|| "NULL".to_owned(), |bytes| self.assign.expression(&literal(bytes)))
    }
}

/// The columns of a table for which rows are encoded.
#[derive(Debug)]
pub(super) struct Intake {
    /// Quoted.
    table: String,
    columns: Vec<LoadColumn>,
    rules: Vec<Rule>,
}

impl Intake {
    pub(super) fn new(table: &TableName, columns: Vec<LoadColumn>) -> Intake {
        let rules = columns.iter().map(|column| column.rule).collect();
        Intake { table: quote_table(table), columns, rules }
    }

    pub(super) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Names of all columns, quoted.
    pub(super) fn names(&self) -> Vec<String> {
        self.columns.iter().map(|column| quote_name(&column.name)).collect()
    }

    /// The statement that takes rows from [`LOCAL_FILE`].
    pub(super) fn load(&self) -> String {
        let mut fields = Vec::new();
        let mut sets = Vec::new();
        for (index, column) in self.columns.iter().enumerate() {
            let name = quote_name(&column.name);
            if column.assign == Assign::Direct {
                fields.push(name);
                continue;
            }
            let variable = format!("@v{index}");
            if column.assign != Assign::Skip {
                sets.push(format!("{name}={}", column.assign.expression(&variable)));
            }
            fields.push(variable);
        }
        let set = if sets.is_empty() { String::new() } else { format!(" SET {}", sets.join(",")) };
        format!(
            "LOAD DATA LOCAL INFILE '{LOCAL_FILE}' INTO TABLE {} {} ({}){set}",
            self.table,
            load_data::CLAUSES,
            fields.join(",")
        )
    }

    /// The start of an INSERT or of one of its kind, up to the first row.
    pub(super) fn insert(&self, verb: &str) -> String {
        let taken = self.columns.iter().filter(|column| column.assign != Assign::Skip);
        let names: Vec<String> = taken.map(|column| quote_name(&column.name)).collect();
        format!("{verb} INTO {} ({}) VALUES ", self.table, names.join(","))
    }

    /// Appends an encoded row to such a statement.
    pub(super) fn push_values(&self, line: &[u8], statement: &mut String) {
        statement.push('(');
        let mut first = true;
        for (column, field) in self.columns.iter().zip(load_data::fields(line)) {
            if column.assign == Assign::Skip {
                continue;
            }
            if !std::mem::take(&mut first) {
                statement.push(',');
            }
            statement.push_str(&column.value(field.as_deref()));
        }
        statement.push(')');
    }

    /// The INSERT of one encoded row.
    pub(super) fn insert_row(&self, verb: &str, line: &[u8]) -> String {
        let mut statement = self.insert(verb);
        self.push_values(line, &mut statement);
        statement
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_each_column_in_its_own_way() {
        let column = |name: &str, assign| LoadColumn { name: name.to_owned(), assign, rule: Rule::default() };
        let columns = vec![
            column("a", Assign::Direct),
            column("b", Assign::Convert),
            column("c", Assign::Skip),
            column("d", Assign::Number),
        ];
        let intake = Intake::new(&TableName::new("s", "t"), columns);
        let load = intake.load();
        assert!(
            load.ends_with("(`a`,@v1,@v2,@v3) SET `b`=CONVERT(@v1 USING utf8mb4),`d`=CAST(@v3 AS UNSIGNED)"),
            "{load}"
        );
        let mut insert = intake.insert_row("INSERT", b"1\t\xc3\xa4\tx\t\\N\n");
        insert.push(',');
        intake.push_values(b"it's\t\t\\N\t5", &mut insert);
        assert_eq!(
            insert,
            "INSERT INTO `s`.`t` (`a`,`b`,`d`) VALUES ('1',CONVERT(x'c3a4' USING utf8mb4),NULL),\
             (x'69742773',CONVERT('' USING utf8mb4),CAST('5' AS UNSIGNED))"
        );
    }
}
