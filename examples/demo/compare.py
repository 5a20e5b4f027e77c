#!/usr/bin/env python3
"""Compares a schema in MariaDB or MySQL with its copy in PostgreSQL, every value of every row.

    compare.py --source mariadb://user:password@host:port --target postgres://user:password@host:port/database \\
               --schema shop [--target-schema shop] [--self-test]

Both sides are read as text, ordered by primary key, and walked through side by side; neither is held in memory. Where
the two engines write the same value differently, the table NORMALIZERS below says how they are made alike; nothing
else is forgiven. Tables without a primary key are compared by a sum of checksums, which no order changes.

With --self-test the comparison is itself tested: in the small tables of the target one value or row at a time is
altered, in a transaction that is rolled back, and exactly that difference must be found.

Exit code 0 only if there is no difference.
"""

import argparse
import concurrent.futures
import dataclasses
import decimal
import hashlib
import json
import os
import struct
import sys
import time
import urllib.parse

import psycopg
import pymysql
import pymysql.converters
import pymysql.cursors

# Of each table at most so many differences are told.
DIFFERENCES_SHOWN = 5

# Enough digits for the longest number that either engine keeps.
decimal.getcontext().prec = 2000


# --- how the engines write the same value ----------------------------------------------------------------------------


def number(text):
    return decimal.Decimal(text).normalize()


def truth(value):
    """TINYINT(1) is 0 or 1, a PostgreSQL boolean t or f."""
    return {"t": decimal.Decimal(1), "f": decimal.Decimal(0)}.get(value) if value in ("t", "f") else number(value)


def single(text):
    """The 32-bit float a number stands for, as its bits. A target that keeps it in 64 bits may hold 3.1 or what 3.1 is
    in 32 bits: both are the value of the source."""
    return struct.pack("<f", float(text))


def double(text):
    """The 64-bit float a number stands for, as its bits."""
    return struct.pack("<d", float(text))


def moment(text):
    """Dates and times without trailing zeros of the fraction, and without the zone: both sides are asked for UTC."""
    text = text.removesuffix("+00")
    return text.rstrip("0").rstrip(".") if "." in text else text


def binary(value):
    """Bytes: MySQL sends them as they are, PostgreSQL in hexadecimal."""
    if isinstance(value, bytes):
        return value
    return bytes.fromhex(value.removeprefix("\\x"))


def bits(value):
    """BIT(n) is bytes in MySQL; in PostgreSQL a boolean, a bit string, bytes or a number, as its column says."""
    if isinstance(value, bytes):
        return int.from_bytes(value, "big")
    if value in ("t", "f"):
        return int(value == "t")
    if value.startswith("\\x"):
        return int(value[2:], 16)
    return int(value)


def bit_string(value):
    return int.from_bytes(value, "big") if isinstance(value, bytes) else int(value, 2)


def exact(text):
    return text


def padded(text):
    """CHAR(n): PostgreSQL pads with blanks, MySQL takes them off."""
    return text.rstrip(" ")


def document(text):
    """JSON: jsonb keeps neither blanks nor the order of members."""
    return json.dumps(json.loads(text), sort_keys=True)


# By the column's type in the source.
NORMALIZERS = {
    **dict.fromkeys(["tinyint", "smallint", "mediumint", "int", "bigint", "decimal", "year"], number),
    "float": single,
    "double": double,
    "bit": bits,
    **dict.fromkeys(["date", "time", "datetime", "timestamp"], moment),
    **dict.fromkeys(["char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set"], exact),
    **dict.fromkeys(["binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"], binary),
}

# By its type in the target, where that decides.
TARGET_NORMALIZERS = {
    "bool": truth,
    "bit": bit_string,
    "varbit": bit_string,
    "bpchar": padded,
    "json": document,
    "jsonb": document,
}

# Values whose texts are equal are equal, unless their type is one of these (a bytea's text may be some other blob).
ALWAYS_NORMALIZED = {binary, bits, bit_string}


@dataclasses.dataclass
class Column:
    name: str
    source_type: str
    target_type: str

    @property
    def normalizer(self):
        if self.source_type in ("bit", "binary", "varbinary") and self.target_type == "bool":
            return bits
        return TARGET_NORMALIZERS.get(self.target_type) or NORMALIZERS[self.source_type]


@dataclasses.dataclass
class Table:
    name: str
    columns: list
    key: list  # positions of the primary key's columns


@dataclasses.dataclass
class Outcome:
    table: str
    rows: int
    differences: list


# --- reading ---------------------------------------------------------------------------------------------------------


def source_connection(url, schema):
    """A connection that hands out values as the server sends them and rows as they come."""
    connection = pymysql.connect(
        host=url.hostname,
        port=url.port or 3306,
        user=urllib.parse.unquote(url.username or ""),
        password=urllib.parse.unquote(url.password or ""),
        database=schema,
        charset="utf8mb4",
        conv=pymysql.converters.encoders,
        cursorclass=pymysql.cursors.SSCursor,
        init_command="SET time_zone = '+00:00'",
    )
    return connection


def target_connection(url):
    return psycopg.connect(
        host=url.hostname,
        port=url.port or 5432,
        user=urllib.parse.unquote(url.username or ""),
        password=urllib.parse.unquote(url.password or ""),
        dbname=url.path.strip("/") or "postgres",
        options="-c timezone=UTC -c extra_float_digits=3 -c bytea_output=hex -c datestyle=ISO,YMD",
    )


def source_quote(name):
    return "`%s`" % name.replace("`", "``")


def target_quote(name):
    return '"%s"' % name.replace('"', '""')


def source_rows(connection, table, limit=None):
    """The rows as lists of text and bytes. Text keys in the order of their UTF-8 bytes, which is PostgreSQL's "C"."""

    def value(column):
        quoted = source_quote(column.name)
        # A FLOAT as text has six digits; as a double it has all.
        return f"CAST({quoted} AS DOUBLE)" if column.source_type == "float" else quoted

    def order(position):
        column = table.columns[position]
        quoted = source_quote(column.name)
        text = column.normalizer in (exact, padded)
        return f"CAST(CONVERT({quoted} USING utf8mb4) AS BINARY)" if text else quoted

    sql = f"SELECT {', '.join(map(value, table.columns))} FROM {source_quote(table.name)}"
    if table.key:
        sql += f" ORDER BY {', '.join(map(order, table.key))}"
    if limit:
        sql += f" LIMIT {limit}"
    cursor = connection.cursor()
    cursor.execute(sql)
    while rows := cursor.fetchmany(1000):
        yield from rows


def target_rows(connection, schema, table, limit=None):
    """The rows as tuples of text."""

    def value(column):
        quoted = target_quote(column.name)
        return f"{quoted}::float8" if column.target_type == "float4" else quoted

    sql = f"SELECT {', '.join(map(value, table.columns))} FROM {target_quote(schema)}.{target_quote(table.name)}"
    if table.key:
        sql += f" ORDER BY {target_order(table)}"
    if limit:
        sql += f" LIMIT {limit}"
    with connection.cursor() as cursor, cursor.copy(f"COPY ({sql}) TO STDOUT") as copy:
        yield from copy.rows()


def target_order(table):
    def order(position):
        column = table.columns[position]
        text = column.normalizer in (exact, padded)
        return f'{target_quote(column.name)} COLLATE "C"' if text else target_quote(column.name)

    return ", ".join(map(order, table.key))


def tables_of(source_url, target_url, schema, target_schema):
    """The tables of the source with their columns on both sides; differences between the catalogs are texts."""
    cursor = source_connection(source_url, schema).cursor(pymysql.cursors.Cursor)
    cursor.execute(
        "SELECT table_name, column_name, data_type FROM information_schema.columns JOIN information_schema.tables"
        " USING (table_schema, table_name) WHERE table_schema = %s AND table_type = 'BASE TABLE'"
        " ORDER BY table_name, ordinal_position",
        (schema,),
    )
    source = {}
    for table, column, kind in cursor.fetchall():
        source.setdefault(table, []).append((column, kind))
    cursor.execute(
        "SELECT table_name, column_name FROM information_schema.key_column_usage WHERE table_schema = %s"
        " AND constraint_name = 'PRIMARY' ORDER BY table_name, ordinal_position",
        (schema,),
    )
    keys = {}
    for table, column in cursor.fetchall():
        keys.setdefault(table, []).append(column)
    with target_connection(target_url) as connection:
        rows = connection.execute(
            "SELECT table_name, column_name, udt_name FROM information_schema.columns WHERE table_schema = %s"
            " ORDER BY table_name, ordinal_position",
            (target_schema,),
        ).fetchall()
    target = {}
    for table, column, kind in rows:
        target.setdefault(table, {})[column] = kind

    tables, differences = [], []
    for name, columns in source.items():
        there = target.get(name)
        names = [column for column, _ in columns]
        if there is None:
            differences.append(f"{name}: is not in the target")
        elif list(there) != names:
            differences.append(f"{name}: columns {names} in the source, {list(there)} in the target")
        else:
            key = [names.index(column) for column in keys.get(name, [])]
            tables.append(Table(name, [Column(column, kind, there[column]) for column, kind in columns], key))
    # The control tables of DMS are the target's own.
    strays = [name for name in target if name not in source and not name.startswith("awsdms_")]
    differences += [f"{name}: is only in the target" for name in strays]
    return tables, differences


# --- comparing -------------------------------------------------------------------------------------------------------


class Comparison:
    """Compares the rows of one table."""

    def __init__(self, table):
        self.table = table
        self.normalizers = [column.normalizer for column in table.columns]
        self.rows = 0
        self.count = 0
        self.differences = []

    def differ(self, text):
        self.count += 1
        if len(self.differences) < DIFFERENCES_SHOWN:
            self.differences.append(f"{self.table.name}: {text}")

    def outcome(self):
        if self.count > len(self.differences):
            self.differences.append(f"{self.table.name}: … and {self.count - len(self.differences)} more")
        return Outcome(self.table.name, self.rows, self.differences)

    def run(self, source, target):
        if self.table.key:
            self.side_by_side(source, target)
        else:
            self.by_sum(source, target)
        return self.outcome()

    def side_by_side(self, source, target):
        """Walks through both in the order of the key; a row that one side lacks does not put the rest out of step."""
        left, right = next(source, None), next(target, None)
        while left is not None or right is not None:
            left_key = self.key(left) if left is not None else None
            right_key = self.key(right) if right is not None else None
            if right is None or (left is not None and left_key < right_key):
                self.differ(f"row {self.name(left)} is not in the target")
                left = next(source, None)
            elif left is None or right_key < left_key:
                self.differ(f"row {self.name(right)} is only in the target")
                right = next(target, None)
            else:
                self.compare(left, right)
                self.rows += 1
                left, right = next(source, None), next(target, None)

    def compare(self, left, right):
        for column, normalizer, a, b in zip(self.table.columns, self.normalizers, left, right, strict=True):
            if a is None and b is None:
                continue
            if a is None or b is None or (normalizer in ALWAYS_NORMALIZED or a != b) and normalizer(a) != normalizer(b):
                self.differ(
                    f"row {self.name(left)}, {column.name}: {shorten(a)} in the source, {shorten(b)} in the target"
                )

    def key(self, row):
        """What rows are ordered by: numbers as numbers, text as bytes."""
        values = (self.normalizers[position](row[position]) for position in self.table.key)
        return tuple(value.encode() if isinstance(value, str) else value for value in values)

    def name(self, row):
        return ", ".join(
            f"{self.table.columns[position].name} = {shorten(row[position])}" for position in self.table.key
        )

    def by_sum(self, source, target):
        rows, sums = [0, 0], [0, 0]
        for side, all_rows in enumerate((source, target)):
            for row in all_rows:
                rows[side] += 1
                sums[side] = (sums[side] + self.checksum(row)) % 2**128
        self.rows = min(rows)
        if rows[0] != rows[1]:
            self.differ(f"{rows[0]} rows in the source, {rows[1]} in the target")
        elif sums[0] != sums[1]:
            self.differ("the rows are not the same (there is no primary key to tell which)")

    def checksum(self, row):
        values = [
            None if value is None else normalizer(value)
            for normalizer, value in zip(self.normalizers, row, strict=True)
        ]
        return int.from_bytes(hashlib.blake2b(repr(values).encode(), digest_size=16).digest(), "big")


def shorten(value):
    text = "NULL" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:50]}… ({len(value)} long)"


def compare_table(source_url, target_url, schema, target_schema, table):
    source = source_connection(source_url, schema)
    try:
        with target_connection(target_url) as target:
            return Comparison(table).run(source_rows(source, table), target_rows(target, target_schema, table))
    finally:
        source.close()


def compare_all(arguments, tables):
    """Compares several tables at once; yields what became of each as it is known."""
    parameters = (arguments.source, arguments.target, arguments.schema, arguments.target_schema)
    with concurrent.futures.ProcessPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(compare_table, *parameters, table) for table in tables]
        for future in concurrent.futures.as_completed(futures):
            yield future.result()


# --- testing the comparison ------------------------------------------------------------------------------------------


# The comparison is tested on tables of at most so many rows, and on their first rows where a value is altered, as it is
# done anew for every alteration.
SELF_TEST_ROWS = 1000
SELF_TEST_FIRST = 50

# A value that is as little different as the type allows, by the column's type in the target.
ALTERED = {
    "bool": "NOT {0}",
    "bytea": r"{0} || '\x00'::bytea",
    "bit": "~{0}",
    "varbit": "{0} || B'1'",
    "date": "{0} - 1",
    **dict.fromkeys(["time", "timestamp", "timestamptz"], "{0} - interval '1 second'"),
    **dict.fromkeys(["int2", "int4", "int8"], "CASE WHEN {0} > 0 THEN {0} - 1 ELSE {0} + 1 END"),
    "numeric": "{0} - sign({0} + 0.5) * power(10::numeric, -scale({0}))",
    "float8": "{0} * (1 - 2.3e-16::float8)",
    # A character in the place of the last one, so that the value still fits.
    **dict.fromkeys(
        ["text", "varchar", "bpchar"], "left({0}, -1) || CASE WHEN right({0}, 1) = '~' THEN '!' ELSE '~' END"
    ),
}


def self_test(arguments, tables):
    """Alters the target in small ways and expects each to be found; returns how many there were, and complaints."""
    alterations, complaints = 0, []
    with target_connection(arguments.target) as connection:
        for table in tables:
            size = connection.execute(f"SELECT count(*) FROM {qualified(arguments, table)}").fetchone()[0]
            if not table.key or size > SELF_TEST_ROWS:
                continue
            for statement, expected, limit in alterations_of(arguments, table):
                try:
                    altered = connection.execute(statement).rowcount
                except psycopg.errors.NotNullViolation:
                    # What the target does not allow is no alteration.
                    altered = 0
                if altered:
                    alterations += 1
                    found = compare_in(connection, arguments, table, limit)
                    if len(found) != 1 or expected not in found[0]:
                        complaints.append(f"self-test: after {statement} the comparison said {found}")
                connection.rollback()
    if alterations == 0:
        complaints.append("self-test: there was no table to alter")
    return alterations, complaints


def alterations_of(arguments, table):
    """Statements that each alter one value or row, what the comparison has to say of it, and how many rows to read."""
    name = qualified(arguments, table)
    yield f"DELETE FROM {name} WHERE ctid = (SELECT min(ctid) FROM {name})", "is not in the target", None
    keys = [table.columns[position] for position in table.key]
    for column in table.columns:
        if column in keys:
            continue
        quoted = target_quote(column.name)
        least = ALTERED.get(column.target_type)
        if column.source_type == "float":
            # The nearest number that a float of 32 bits can hold, whatever the target keeps it in.
            least = "{0}::float8 * (1 - 1.2e-7::float8)"
        for value in filter(None, (least, "NULL")):
            first = f"SELECT ctid AS place, {quoted} FROM {name} ORDER BY {target_order(table)} LIMIT {SELF_TEST_FIRST}"
            some_row = f"SELECT place FROM ({first}) AS first WHERE {quoted} IS NOT NULL LIMIT 1 OFFSET 2"
            statement = f"UPDATE {name} SET {quoted} = {value.format(quoted)} WHERE ctid = ({some_row})"
            yield statement, f", {column.name}: ", SELF_TEST_FIRST


def qualified(arguments, table):
    return f"{target_quote(arguments.target_schema)}.{target_quote(table.name)}"


def compare_in(connection, arguments, table, limit):
    """The differences from what this transaction sees of the target."""
    source = source_connection(arguments.source, arguments.schema)
    try:
        there = target_rows(connection, arguments.target_schema, table, limit)
        return Comparison(table).run(source_rows(source, table, limit), there).differences
    finally:
        source.close()


# --- the command -----------------------------------------------------------------------------------------------------


def main():
    arguments = parse_arguments()
    started = time.monotonic()
    tables, differences = tables_of(arguments.source, arguments.target, arguments.schema, arguments.target_schema)
    if not tables and not differences:
        differences.append(f"there is no table in {arguments.schema}")
    rows = 0
    for outcome in compare_all(arguments, tables):
        rows += outcome.rows
        print(
            f"  {outcome.table:<20} {outcome.rows:>10,} rows  {'same' if not outcome.differences else 'DIFFERENT'}",
            flush=True,
        )
        differences += outcome.differences
    for difference in differences:
        print(f"  {difference}")
    print(f"Compared {rows:,} rows of {len(tables)} tables, value by value, in {time.monotonic() - started:.1f} s")
    if arguments.self_test and not differences:
        alterations, complaints = self_test(arguments, tables)
        for complaint in complaints:
            print(f"  {complaint}")
        print(f"Self-test: {alterations} single alterations of the target, {alterations - len(complaints)} found")
        differences += complaints
    print("VERDICT: source and target are different" if differences else "VERDICT: source and target are the same")
    return 1 if differences else 0


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source, target = os.environ.get("MIGRATE_SOURCE"), os.environ.get("MIGRATE_TARGET")
    parser.add_argument("--source", default=source, required=not source, metavar="URL", help="or MIGRATE_SOURCE")
    parser.add_argument("--target", default=target, required=not target, metavar="URL", help="or MIGRATE_TARGET")
    parser.add_argument("--schema", default="shop")
    parser.add_argument("--target-schema", help="where it differs from the source's")
    parser.add_argument("--self-test", action="store_true", help="also test the comparison on small tables")
    arguments = parser.parse_args()
    arguments.target_schema = arguments.target_schema or arguments.schema
    arguments.source, arguments.target = map(urllib.parse.urlsplit, (arguments.source, arguments.target))
    return arguments


if __name__ == "__main__":
    sys.exit(main())
