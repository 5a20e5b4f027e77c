"""Every type of one engine as a column of the other: what the column becomes, and what its values become.

https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Source.PostgreSQL.html#CHAP_Source-PostgreSQL-DataTypes
https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Source.MySQL.html#CHAP_Source.MySQL.DataTypes
https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Target.MySQL.html#CHAP_Target.MySQL.DataTypes
https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Target.PostgreSQL.html#CHAP_Target.PostgreSQL.DataTypes
"""

import datetime
from decimal import Decimal

import pytest

from pairs import WHOLE_LOBS, pair

to_mariadb = pytest.mark.parametrize("pair", ["postgres-mariadb"], indirect=True)
to_postgres = pytest.mark.parametrize("pair", ["mariadb-postgres"], indirect=True)


def name_of(number):
    return f"c{number}"


def create(side, table, types):
    columns = [f"{name_of(number)} {native}" for number, native in enumerate(types)]
    side.execute(f"CREATE TABLE {side.table(table)} (id integer PRIMARY KEY, {', '.join(columns)})")


def insert(side, table, row_id, expressions):
    side.execute(f"INSERT INTO {side.table(table)} VALUES ({row_id}, {', '.join(expressions)})")


def column_types(side, table):
    """The types of all columns but the first, as information_schema has them."""
    if not side.is_postgres:
        rows = side.execute(
            "SELECT column_type FROM information_schema.columns"
            f" WHERE table_schema = '{side.schema}' AND table_name = '{table}' ORDER BY ordinal_position"
        )
        return [native for (native,) in rows][1:]
    rows = side.execute(
        "SELECT data_type, character_maximum_length,"
        " CASE data_type WHEN 'numeric' THEN numeric_precision || ',' || numeric_scale END"
        f" FROM information_schema.columns WHERE table_schema = '{side.schema}' AND table_name = '{table}'"
        " ORDER BY ordinal_position"
    )
    return [native + (f"({length or digits})" if length or digits else "") for native, length, digits in rows][1:]


def check(pair, cases):
    """Loads a table with a column, a row of values and a row of nulls for each (source type, value as SQL, target type,
    value), and compares all of them at once."""
    natives = [native for native, *_ in cases]
    create(pair.source, "types", natives)
    insert(pair.source, "types", 1, [value for _, value, *_ in cases])
    insert(pair.source, "types", 2, ["NULL"] * len(cases))
    statistics = pair.load(settings=WHOLE_LOBS)
    assert (statistics["types"]["FullLoadRows"], statistics["types"]["FullLoadErrorRows"]) == (2, 0)
    (values, nulls) = [row[1:] for row in pair.target.rows("types")]
    found = list(zip(natives, column_types(pair.target, "types"), values))
    assert found == [(native, target, value) for native, _, target, value in cases]
    assert set(nulls) == {None}


FROM_POSTGRESQL = [
    ("smallint", "-32768", "smallint(6)", -32768),
    ("integer", "2147483647", "int(11)", 2147483647),
    ("bigint", "-9223372036854775808", "bigint(20)", -(2**63)),
    ("oid", "4294967295", "int(10) unsigned", 2**32 - 1),
    ("numeric(12, 4)", "-12345678.9012", "decimal(12,4)", Decimal("-12345678.9012")),
    ("numeric(38, 10)", "0.0000000001", "decimal(38,10)", Decimal("0.0000000001")),
    ("numeric", "12345.678", "decimal(65,30)", Decimal("12345.678")),
    ("numeric(50, 2)", "1.50", "varchar(52)", "1.50"),
    ("real", "0.1", "float", 0.1),
    ("double precision", "1e-300", "double", 1e-300),
    ("money", "'-1234.56'", "decimal(38,4)", Decimal("-1234.5600")),
    ("boolean", "true", "varchar(5)", "true"),
    ("char(10)", "'ab'", "varchar(10)", "ab"),
    ("varchar(20)", "'é 😀'", "varchar(20)", "é 😀"),
    ("varchar", "'x'", "varchar(8000)", "x"),
    ("text", "'long'", "longtext", "long"),
    ("bytea", r"'\x00ff27'", "longblob", b"\x00\xff'"),
    ("date", "'2024-02-29'", "date", datetime.date(2024, 2, 29)),
    ("time", "'23:59:59.123456'", "time(6)", datetime.timedelta(hours=23, minutes=59, seconds=59, microseconds=123456)),
    ("timetz", "'12:34:56+02'", "time(6)", datetime.timedelta(hours=12, minutes=34, seconds=56)),
    ("timestamp", "'2024-02-29 12:34:56.789'", "datetime(6)", datetime.datetime(2024, 2, 29, 12, 34, 56, 789000)),
    ("timestamp(3)", "'2024-02-29 12:34:56.789'", "datetime(3)", datetime.datetime(2024, 2, 29, 12, 34, 56, 789000)),
    ("timestamptz", "'2024-02-29 12:34:56+05:30'", "datetime(6)", datetime.datetime(2024, 2, 29, 7, 4, 56)),
    ("interval", "'1 year 2 months 3 days 04:05:06.7'", "varchar(128)", "1 year 2 mons 3 days 04:05:06.7"),
    ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "varchar(36)", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("json", """'{"b": [1,  null], "a": "\\n"}'""", "longtext", '{"b": [1,  null], "a": "\\n"}'),
    ("jsonb", """'{"b": [1,  null], "a": "\\n"}'""", "longtext", '{"a": "\\n", "b": [1, null]}'),
    ("int[]", "'{1,NULL,-3}'", "longtext", "{1,NULL,-3}"),
    ("text[]", """ARRAY['a', 'b c', NULL, 'd"\\e']""", "longtext", r'{a,"b c",NULL,"d\"\\e"}'),
    ("int[][]", "'{{1,2},{3,4}}'", "longtext", "{{1,2},{3,4}}"),
    ("int4range", "'[1,10]'", "varchar(255)", "[1,11)"),
    ("inet", "'192.168.0.1/24'", "varchar(50)", "192.168.0.1/24"),
    ("cidr", "'2001:db8::/32'", "varchar(50)", "2001:db8::/32"),
    ("macaddr", "'08-00-2B-01-02-03'", "varchar(18)", "08:00:2b:01:02:03"),
    ("bit(8)", "B'10101010'", "varchar(8)", "10101010"),
    ("bit varying(12)", "B'101'", "varchar(12)", "101"),
    ("bit varying", "B'0101'", "longtext", "0101"),
    ("xml", "'<a b=\"c\">d</a>'", "longtext", '<a b="c">d</a>'),
    ("tsvector", "to_tsvector('simple', 'fat cats')", "longtext", "'cats':2 'fat':1"),
    ("tsquery", "'fat & cat'", "longtext", "'fat' & 'cat'"),
    ("point", "'(1,2.5)'", "varchar(255)", "(1,2.5)"),
    ("polygon", "'((0,0),(1,1),(1,0))'", "longtext", "((0,0),(1,1),(1,0))"),
]  # fmt: skip


@to_mariadb
def test_types_of_postgresql_become_those_of_mariadb(pair):
    check(pair, FROM_POSTGRESQL)


@to_mariadb
def test_an_enumeration_of_postgresql_becomes_text_in_mariadb(pair):
    mood = pair.source.table("mood")
    pair.source.execute(f"CREATE TYPE {mood} AS ENUM ('fine', 'so, so')")
    check(pair, [(mood, "'so, so'", "varchar(64)", "so, so")])


FROM_MARIADB = [
    ("tinyint", "-128", "smallint", -128),
    ("tinyint unsigned", "255", "smallint", 255),
    ("smallint", "-32768", "smallint", -32768),
    ("smallint unsigned", "65535", "integer", 65535),
    ("mediumint", "-8388608", "integer", -8388608),
    ("mediumint unsigned", "16777215", "bigint", 16777215),
    ("int", "-2147483648", "integer", -2147483648),
    ("int unsigned", "4294967295", "bigint", 4294967295),
    ("bigint", "-9223372036854775808", "bigint", -(2**63)),
    ("bigint unsigned", "9223372036854775807", "bigint", 2**63 - 1),
    ("int(5) unsigned zerofill", "42", "bigint", 42),
    ("bool", "true", "smallint", 1),
    ("bit(1)", "b'1'", "boolean", True),
    ("bit(8)", "b'10101010'", "bytea", b"\xaa"),
    ("bit(12)", "b'101010101111'", "bytea", b"\x0a\xaf"),
    ("decimal(20, 6)", "-99999999999999.999999", "numeric(20,6)", Decimal("-99999999999999.999999")),
    ("decimal(65, 30)", "0.000000000000000000000000000001", "numeric(65,30)", Decimal("1e-30")),
    ("float", "1.5", "double precision", 1.5),
    ("double", "1e-300", "double precision", 1e-300),
    ("date", "'2024-02-29'", "date", datetime.date(2024, 2, 29)),
    ("time", "'-838:59:59'", "character varying(10)", "-838:59:59"),
    ("time(6)", "'23:59:59.123456'", "character varying(17)", "23:59:59.123456"),
    ("datetime", "'2024-02-29 12:34:56'", "timestamp without time zone", datetime.datetime(2024, 2, 29, 12, 34, 56)),
    ("datetime(6)", "'9999-12-31 23:59:59.999999'", "timestamp without time zone",
     datetime.datetime(9999, 12, 31, 23, 59, 59, 999999)),
    ("timestamp(3) NULL", "'2024-02-29 12:34:56.789'", "timestamp without time zone",
     datetime.datetime(2024, 2, 29, 12, 34, 56, 789000)),
    ("year", "2155", "smallint", 2155),
    ("char(10)", "'ab'", "character varying(10)", "ab"),
    ("varchar(100)", "'é 😀'", "character varying(100)", "é 😀"),
    ("varchar(20) CHARACTER SET latin1", "'café'", "character varying(20)", "café"),
    ("binary(4)", "x'00ff'", "bytea", b"\x00\xff\x00\x00"),
    ("varbinary(20)", "x'00ff27'", "bytea", b"\x00\xff'"),
    ("tinyblob", "x'00ff'", "bytea", b"\x00\xff"),
    ("blob", "x'00ff'", "bytea", b"\x00\xff"),
    ("mediumblob", "x'00ff'", "bytea", b"\x00\xff"),
    ("longblob", "x'00ff'", "bytea", b"\x00\xff"),
    ("tinytext", "'tiny'", "character varying(255)", "tiny"),
    ("text", "'some'", "character varying(65535)", "some"),
    ("mediumtext", "'medium'", "text", "medium"),
    ("longtext", "'long'", "text", "long"),
    ("enum('a', 'b,c')", "'b,c'", "character varying(3)", "b,c"),
    ("set('x', 'y', 'z')", "'z,x'", "character varying(5)", "x,z"),
    ("json", """'{"b": [1,  null], "a": 2}'""", "text", '{"b": [1,  null], "a": 2}'),
]  # fmt: skip


@to_postgres
def test_types_of_mariadb_become_those_of_postgresql(pair):
    check(pair, FROM_MARIADB)


@to_postgres
def test_a_float_of_mariadb_keeps_its_value(pair):
    create(pair.source, "types", ["float"])
    insert(pair.source, "types", 1, ["3.1415927"])
    pair.load()
    found = pair.target.value(f"SELECT c0::real::text FROM {pair.target.table('types')}")
    assert found == "3.1415927"


@to_postgres
def test_an_unsigned_number_too_large_for_postgresql_is_refused_not_bent(pair):
    create(pair.source, "types", ["bigint unsigned"])
    insert(pair.source, "types", 1, ["18446744073709551615"])
    insert(pair.source, "types", 2, ["5"])
    pair.load()
    assert pair.target.rows("types") == [(2, 5)]
    (refused,) = pair.target.exceptions()
    assert "18446744073709551615" in refused
