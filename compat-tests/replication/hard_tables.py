"""Tables and transactions whose rows are hard to follow: keys that move and swap, rows that nothing tells apart, unique
values that change hands, values that the log leaves out.

Statements are in the words of both engines where these have the same; `{t}` is the table, and names in double quotes are
quoted as the engine does.
"""

import dataclasses
import datetime
from decimal import Decimal

POSTGRES, MARIADB = "postgres", "mariadb"


@dataclasses.dataclass(frozen=True)
class HardTable:
    """`rows` are there before the task; of what differs between the engines there is one value for each."""

    name: str
    columns: object
    rows: object
    transactions: object
    # Inserts, updates, deletes and statements that define tables; None where the engines say it in many ways.
    counts: object
    # Further statements after CREATE TABLE, on the source.
    prepared: object = ()
    # The same table with its constraints is on the target before the load.
    on_target: bool = False
    engines: tuple = (POSTGRES, MARIADB)

    def of(self, engine):
        """The table as it is on a source of this engine."""
        values = {
            field.name: value[engine] if isinstance(value := getattr(self, field.name), dict) else value
            for field in dataclasses.fields(self)
        }
        return HardTable(**values)


def said(side, table, statement):
    """A statement in the words of a side."""
    statement = statement.replace("{t}", side.table(table))
    return statement if side.is_postgres else statement.replace('"', "`")


# --- keys that move --------------------------------------------------------------------------------------------------

KEYED = "id integer PRIMARY KEY, v text"

SWAPPED = HardTable(
    "swapped",
    KEYED,
    [(1, "a"), (2, "b"), (3, "c")],
    [
        ["UPDATE {t} SET id = 0 WHERE id = 1", "UPDATE {t} SET id = 1 WHERE id = 2", "UPDATE {t} SET id = 2 WHERE id = 0"],
        ["UPDATE {t} SET id = 4 WHERE id = 3", "INSERT INTO {t} VALUES (3, 'again')", "DELETE FROM {t} WHERE id = 4"],
    ],
    (1, 4, 1, 0),
)

MOVED = HardTable(
    "moved",
    KEYED,
    [(n, f"row {n}") for n in range(1, 51)],
    [["UPDATE {t} SET id = id + 100"], ["UPDATE {t} SET id = id - 100, v = 'back' WHERE id > 120"]],
    (0, 80, 0, 0),
)

MOVED_TWICE = HardTable(
    "moved_twice",
    KEYED,
    [(1, "a"), (2, "b")],
    [
        [
            "UPDATE {t} SET v = 'before' WHERE id = 1",
            "UPDATE {t} SET id = 10, v = 'x' WHERE id = 1",
            "UPDATE {t} SET id = 20 WHERE id = 10",
            "UPDATE {t} SET v = 'after' WHERE id = 20",
        ],
        ["UPDATE {t} SET id = 9 WHERE id = 2", "UPDATE {t} SET v = 'away' WHERE id = 9", "UPDATE {t} SET id = 2 WHERE id = 9"],
    ],
    (0, 7, 0, 0),
)

PARTS = HardTable(
    "parts",
    "a integer, b varchar(10), c integer, v text, PRIMARY KEY (c, b)",
    [(1, "x", 1, "one"), (2, "y", 1, "two"), (3, "x", 2, "three"), (4, "", 2, "empty")],
    [
        ["UPDATE {t} SET b = 'z' WHERE c = 1 AND b = 'x'", "UPDATE {t} SET v = 'new' WHERE c = 1 AND b = 'z'"],
        ["UPDATE {t} SET c = 3 WHERE b = 'x'", "INSERT INTO {t} VALUES (5, 'x', 2, 'five')"],
        ["DELETE FROM {t} WHERE c = 2 AND b = ''", "UPDATE {t} SET a = 20 WHERE c = 1 AND b = 'y'"],
        ["INSERT INTO {t} VALUES (6, '', 1, 'six')", "UPDATE {t} SET b = 'w' WHERE c = 1 AND b = ''"],
    ],
    (2, 5, 1, 0),
)

ONLY_A_KEY = HardTable(
    "only_a_key",
    "id integer PRIMARY KEY",
    [(1,), (2,), (3,)],
    [["INSERT INTO {t} VALUES (4)"], ["UPDATE {t} SET id = 5 WHERE id = 1", "DELETE FROM {t} WHERE id = 2"]],
    (1, 1, 1, 0),
)

CAME_AND_WENT = HardTable(
    "came_and_went",
    KEYED,
    [(1, "a"), (2, "b"), (3, "c"), (4, "d")],
    [
        ["INSERT INTO {t} VALUES (5, 'x')", "DELETE FROM {t} WHERE id = 5"],
        ["INSERT INTO {t} VALUES (6, 'x')", "UPDATE {t} SET v = 'y' WHERE id = 6", "DELETE FROM {t} WHERE id = 6"],
        ["DELETE FROM {t} WHERE id = 1", "INSERT INTO {t} VALUES (1, 'anew')"],
        ["DELETE FROM {t} WHERE id = 2", "INSERT INTO {t} VALUES (2, 'x')", "DELETE FROM {t} WHERE id = 2"],
        ["DELETE FROM {t} WHERE id = 3", "INSERT INTO {t} VALUES (3, 'x')", "UPDATE {t} SET v = 'last' WHERE id = 3"],
        ["UPDATE {t} SET v = 'x' WHERE id = 4", "DELETE FROM {t} WHERE id = 4", "INSERT INTO {t} VALUES (4, 'y')"],
        # The same over several transactions, which may become one of the target.
        ["INSERT INTO {t} VALUES (7, 'x')"],
        ["DELETE FROM {t} WHERE id = 7"],
        ["INSERT INTO {t} VALUES (7, 'z')"],
        ["UPDATE {t} SET v = NULL WHERE id = 7"],
    ],
    (8, 4, 8, 0),
)

ROLLED_BACK = HardTable(
    "rolled_back",
    KEYED,
    [(1, "a"), (2, "b")],
    [
        [
            "INSERT INTO {t} VALUES (10, 'kept')",
            "SAVEPOINT one",
            "INSERT INTO {t} VALUES (11, 'undone')",
            "UPDATE {t} SET v = 'undone' WHERE id = 1",
            "ROLLBACK TO SAVEPOINT one",
            "INSERT INTO {t} VALUES (11, 'kept')",
            "SAVEPOINT two",
            "DELETE FROM {t} WHERE id = 2",
            "RELEASE SAVEPOINT two",
        ],
        ["INSERT INTO {t} VALUES (12, 'undone')", "DELETE FROM {t}", "ROLLBACK"],
        ["SAVEPOINT all_of_it", "DELETE FROM {t}", "ROLLBACK TO SAVEPOINT all_of_it"],
    ],
    (2, 0, 1, 0),
)

# --- keys that are nearly alike --------------------------------------------------------------------------------------

CASE_OF_LETTERS = HardTable(
    "case_of_letters",
    "k varchar(20) PRIMARY KEY, n integer",
    {
        # To PostgreSQL these are two keys.
        POSTGRES: [("abc", 1), ("ABC", 2), ("def", 3), ("ghi", 4)],
        MARIADB: [("abc", 1), ("def", 3), ("ghi", 4)],
    },
    {
        POSTGRES: [
            ["UPDATE {t} SET n = 20 WHERE k = 'ABC'"],
            ["UPDATE {t} SET k = 'Abc' WHERE k = 'abc'", "DELETE FROM {t} WHERE k = 'def'", "INSERT INTO {t} VALUES ('DEF', 5)"],
            ["DELETE FROM {t} WHERE k = 'ABC'", "INSERT INTO {t} VALUES ('GHI', 6)", "UPDATE {t} SET n = 40 WHERE k = 'ghi'"],
        ],
        MARIADB: [
            ["UPDATE {t} SET n = 20 WHERE k = 'ABC'"],
            ["UPDATE {t} SET k = 'Abc' WHERE k = 'abc'", "DELETE FROM {t} WHERE k = 'DEF'", "INSERT INTO {t} VALUES ('DEF', 5)"],
            ["UPDATE {t} SET k = 'GHI' WHERE k = 'ghi'", "UPDATE {t} SET n = 40 WHERE k = 'ghi'"],
        ],
    },
    {POSTGRES: (2, 3, 2, 0), MARIADB: (1, 4, 1, 0)},
)

TRAILING_BLANKS = HardTable(
    "trailing_blanks",
    "k varchar(20) PRIMARY KEY, n integer",
    {
        POSTGRES: [("a", 1), ("a ", 2), ("b", 3), ("c  ", 4)],
        MARIADB: [("a", 1), ("b", 3), ("c  ", 4)],
    },
    {
        POSTGRES: [
            ["UPDATE {t} SET n = 20 WHERE k = 'a '"],
            ["UPDATE {t} SET k = 'b ' WHERE k = 'b'", "DELETE FROM {t} WHERE k = 'c  '", "INSERT INTO {t} VALUES ('c', 5)"],
            ["DELETE FROM {t} WHERE k = 'a'", "INSERT INTO {t} VALUES ('a  ', 6)"],
        ],
        MARIADB: [
            ["UPDATE {t} SET k = 'b ' WHERE k = 'b'", "DELETE FROM {t} WHERE k = 'c'", "INSERT INTO {t} VALUES ('c', 5)"],
            ["UPDATE {t} SET n = 30 WHERE k = 'b'", "UPDATE {t} SET k = 'a  ', n = 7 WHERE k = 'a'"],
        ],
    },
    {POSTGRES: (2, 2, 2, 0), MARIADB: (1, 3, 1, 0)},
)

EMPTY_KEYS = HardTable(
    "empty_keys",
    "k varchar(20) PRIMARY KEY, n integer, v varchar(20)",
    [("", 1, ""), ("0", 2, None), ("NULL", 3, "NULL")],
    [
        ["UPDATE {t} SET n = 10 WHERE k = ''", "UPDATE {t} SET v = '' WHERE k = '0'", "UPDATE {t} SET v = NULL WHERE k = 'NULL'"],
        ["UPDATE {t} SET k = 'full' WHERE k = ''", "UPDATE {t} SET k = '' WHERE k = '0'"],
        ["DELETE FROM {t} WHERE k = 'NULL'"],
    ],
    (0, 5, 1, 0),
)

NUMBER_KEYS = HardTable(
    "number_keys",
    "a numeric(12, 3), b bigint, c double precision, v integer, PRIMARY KEY (a, b, c)",
    [
        (Decimal("1.5"), -(2**63), 0.1, 1),
        (Decimal("1.500") + 1, 2**63 - 1, 1e100, 2),
        (Decimal("-0.001"), 0, 1 / 3, 3),
        (Decimal("0"), 0, -2.5e-10, 4),
    ],
    [
        ["UPDATE {t} SET v = 10 WHERE b < 0", "UPDATE {t} SET v = 20 WHERE b > 0"],
        ["UPDATE {t} SET a = a + 1, v = 30 WHERE v = 3", "UPDATE {t} SET c = c / 3 WHERE v = 4"],
        ["DELETE FROM {t} WHERE v = 20"],
        ["UPDATE {t} SET v = v + 1"],
    ],
    (0, 7, 1, 0),
)

MOMENT = datetime.datetime(2024, 2, 29, 23, 59, 59, 999_999)

TIME_KEYS = HardTable(
    "time_keys",
    "a timestamp(6), b date, v integer, PRIMARY KEY (a, b)",
    [
        (MOMENT, datetime.date(2024, 2, 29), 1),
        (MOMENT.replace(microsecond=0), datetime.date(2024, 2, 29), 2),
        (datetime.datetime(1999, 12, 31, 1, 2, 3, 4), datetime.date(1000, 1, 1), 3),
    ],
    [
        ["UPDATE {t} SET v = 10 WHERE v = 1", "DELETE FROM {t} WHERE v = 2"],
        ["UPDATE {t} SET b = '9999-12-31', v = 30 WHERE v = 3", "UPDATE {t} SET v = 31 WHERE v = 30"],
    ],
    (0, 3, 1, 0),
)

BINARY_KEYS = HardTable(
    "binary_keys",
    {POSTGRES: "k bytea PRIMARY KEY, v integer", MARIADB: "k varbinary(40) PRIMARY KEY, v integer"},
    [(b"", 1), (b"\x00", 2), (b"\x00\x00", 3), (b"\xff\\'\"\n", 4), (b"a ", 5), (b"a", 6)],
    [
        ["UPDATE {t} SET v = v + 10"],
        ["DELETE FROM {t} WHERE v = 12", "UPDATE {t} SET v = 130 WHERE v = 13", "UPDATE {t} SET k = 'z' WHERE v = 14"],
        ["DELETE FROM {t} WHERE v = 16"],
    ],
    (0, 8, 2, 0),
)

# Between the engines a UUID is its text.
UUID_KEYS = HardTable(
    "uuid_keys",
    "k uuid PRIMARY KEY, v integer",
    [("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", 1), ("ffffffff-ffff-ffff-ffff-ffffffffffff", 2)],
    [
        ["UPDATE {t} SET v = 10 WHERE v = 1", "DELETE FROM {t} WHERE v = 2"],
        ["UPDATE {t} SET k = '00000000-0000-0000-0000-000000000000' WHERE v = 10", "UPDATE {t} SET v = 11 WHERE v = 10"],
    ],
    (0, 3, 1, 0),
    engines=(POSTGRES,),
)

# --- rows that nothing tells apart -----------------------------------------------------------------------------------

LOOSE_ROWS = [*[(1, "x")] * 4, *[(2, "y")] * 2, *[(None, "z")] * 3, (3, None), (None, None), (None, None)]

LOOSE = HardTable(
    "loose",
    "a integer, b text",
    LOOSE_ROWS,
    {
        POSTGRES: [
            ["DELETE FROM {t} WHERE ctid = (SELECT ctid FROM {t} WHERE a = 1 LIMIT 1)"],
            ["UPDATE {t} SET b = 'w' WHERE ctid = (SELECT ctid FROM {t} WHERE a = 1 LIMIT 1)"],
            ["DELETE FROM {t} WHERE ctid = (SELECT ctid FROM {t} WHERE a IS NULL AND b = 'z' LIMIT 1)"],
            ["DELETE FROM {t} WHERE ctid = (SELECT ctid FROM {t} WHERE a IS NULL AND b IS NULL LIMIT 1)"],
            ["UPDATE {t} SET a = 4 WHERE b IS NULL AND a = 3", "INSERT INTO {t} VALUES (1, 'x'), (1, 'x'), (NULL, NULL)"],
            ["UPDATE {t} SET a = 2, b = 'x' WHERE a = 2", "DELETE FROM {t} WHERE a = 2 AND b = 'x'"],
        ],
        MARIADB: [
            ["DELETE FROM {t} WHERE a = 1 LIMIT 1"],
            ["UPDATE {t} SET b = 'w' WHERE a = 1 LIMIT 1"],
            ["DELETE FROM {t} WHERE a IS NULL AND b = 'z' LIMIT 1"],
            ["DELETE FROM {t} WHERE a IS NULL AND b IS NULL LIMIT 1"],
            ["UPDATE {t} SET a = 4 WHERE b IS NULL AND a = 3", "INSERT INTO {t} VALUES (1, 'x'), (1, 'x'), (NULL, NULL)"],
            ["UPDATE {t} SET a = 2, b = 'x' WHERE a = 2", "DELETE FROM {t} WHERE a = 2 AND b = 'x'"],
        ],
    },
    (3, 4, 5, 0),
    prepared={POSTGRES: ["ALTER TABLE {t} REPLICA IDENTITY FULL"], MARIADB: []},
)

LOOSE_TYPES = HardTable(
    "loose_types",
    "a double precision, b numeric(14, 4), c timestamp(6), d bytea, e varchar(30)",
    [
        (0.1, Decimal("1.5"), MOMENT, b"\x00\xff", "a "),
        (0.1, Decimal("1.5"), MOMENT, b"\x00\xff", "A "),
        (1 / 3, Decimal("-9999999999.9999"), None, b"", ""),
        (1e-300, None, MOMENT.replace(microsecond=0), None, "it's \\ \"so\""),
        (123456789.123456789, Decimal(0), MOMENT.replace(microsecond=100), b"x" * 500, "größer 🦀"),
    ],
    [
        ["UPDATE {t} SET b = 2.25 WHERE d IS NULL", "UPDATE {t} SET a = a / 7 WHERE b = 0"],
        ["DELETE FROM {t} WHERE e = 'a ' AND a < 0.2 AND b = 1.5", "UPDATE {t} SET e = 'new' WHERE a > 0.3 AND a < 0.4"],
        ["UPDATE {t} SET c = NULL WHERE b = 0"],
    ],
    # MariaDB calls both letters alike.
    {POSTGRES: (0, 4, 1, 0), MARIADB: (0, 4, 2, 0)},
    prepared={POSTGRES: ["ALTER TABLE {t} REPLICA IDENTITY FULL"], MARIADB: []},
)

# Without an identity PostgreSQL's log has what is inserted, and nothing else: that is documented, and the statements
# themselves must not fail because a task has published the table.
INSERTS_ALONE = HardTable(
    "inserts_alone",
    "a integer, b text",
    [(1, "x")],
    [
        ["INSERT INTO {t} VALUES (2, 'y'), (2, 'y')"],
        ["INSERT INTO {t} VALUES (3, 'z')", "UPDATE {t} SET b = b", "UPDATE {t} SET a = 4 WHERE a = 4", "DELETE FROM {t} WHERE a = 9"],
    ],
    (3, 0, 0, 0),
)

# --- constraints of the target ---------------------------------------------------------------------------------------

UNIQUE_VALUES = HardTable(
    "unique_values",
    "id integer PRIMARY KEY, u varchar(10) UNIQUE, v integer",
    [(1, "a", 1), (2, "b", 2), (3, "c", 3)],
    [
        [
            "UPDATE {t} SET u = NULL WHERE id = 1",
            "UPDATE {t} SET u = 'a' WHERE id = 2",
            "UPDATE {t} SET u = 'b' WHERE id = 1",
        ],
        ["DELETE FROM {t} WHERE id = 3", "INSERT INTO {t} VALUES (4, 'c', 4)"],
        ["UPDATE {t} SET u = 'd' WHERE id = 4", "INSERT INTO {t} VALUES (5, 'c', 5)"],
        [
            "INSERT INTO {t} VALUES (6, 'e', 6)",
            "UPDATE {t} SET u = 'f' WHERE id = 6",
            "INSERT INTO {t} VALUES (7, 'e', 7)",
        ],
        [
            "UPDATE {t} SET u = 'tmp' WHERE id = 5",
            "UPDATE {t} SET u = 'c' WHERE id = 7",
            "UPDATE {t} SET u = 'e' WHERE id = 5",
        ],
        ["INSERT INTO {t} VALUES (8, 'g', 8)"],
        ["DELETE FROM {t} WHERE id = 8"],
        ["INSERT INTO {t} VALUES (9, 'g', 9)"],
        ["UPDATE {t} SET id = 10, u = 'h' WHERE id = 9", "INSERT INTO {t} VALUES (9, 'g', 11)"],
    ],
    (7, 9, 2, 0),
    on_target=True,
)

TREE = HardTable(
    "tree",
    "id integer PRIMARY KEY, parent integer REFERENCES {t} (id)",
    [(1, None), (2, 1), (3, 2), (4, 1), (5, 4)],
    [
        ["INSERT INTO {t} VALUES (10, 1)", "INSERT INTO {t} VALUES (11, 10)", "INSERT INTO {t} VALUES (12, 11)"],
        ["INSERT INTO {t} VALUES (13, 12)", "UPDATE {t} SET parent = 13 WHERE id = 2"],
        ["DELETE FROM {t} WHERE id = 5", "DELETE FROM {t} WHERE id = 4"],
        ["UPDATE {t} SET parent = NULL WHERE id = 2", "DELETE FROM {t} WHERE id = 13", "DELETE FROM {t} WHERE id = 12"],
        ["INSERT INTO {t} VALUES (20, 20)", "INSERT INTO {t} VALUES (21, 20)"],
        ["UPDATE {t} SET parent = 21 WHERE id = 20"],
    ],
    (6, 3, 4, 0),
    on_target=True,
)

# --- values that are large, many or odd ------------------------------------------------------------------------------

WIDE_NUMBERS, WIDE_TEXTS = 300, 30

WIDE = HardTable(
    "wide",
    "id integer PRIMARY KEY, "
    + ", ".join(f"n{n} integer" for n in range(WIDE_NUMBERS))
    + ", "
    + ", ".join(f"c{n} varchar(40)" for n in range(WIDE_TEXTS)),
    [(id, *range(WIDE_NUMBERS), *[f"text {id}"] * WIDE_TEXTS) for id in (1, 2, 3)],
    [
        ["UPDATE {t} SET n299 = -1, c0 = NULL WHERE id = 1", "DELETE FROM {t} WHERE id = 2"],
        ["INSERT INTO {t} (id, n150, c29) VALUES (4, 7, 'last')", "UPDATE {t} SET n0 = id"],
    ],
    (1, 4, 1, 0),
)


def large(letter):
    """A text that does not get small enough for the row when it is compressed."""
    return "".join(chr(97 + (ord(letter) * n * n + n) % 26) for n in range(40_000)) + letter


LARGE_VALUES = HardTable(
    "large_values",
    "id integer PRIMARY KEY, n integer, body text, more bytea",
    [(id, id, large("a"), large("b").encode()) for id in (1, 2, 3, 4)],
    [
        ["UPDATE {t} SET n = 10 WHERE id = 1"],
        ["UPDATE {t} SET n = 20 WHERE id = 2", "UPDATE {t} SET body = 'short' WHERE id = 2", "UPDATE {t} SET n = 21 WHERE id = 2"],
        ["UPDATE {t} SET id = 30 WHERE id = 3", "UPDATE {t} SET n = 31 WHERE id = 30"],
        [("INSERT INTO {t} VALUES (5, 5, %s, NULL)", (large("c"),)), "UPDATE {t} SET n = 50 WHERE id = 5"],
        ["UPDATE {t} SET more = NULL WHERE id = 4", "UPDATE {t} SET n = 40 WHERE id = 4"],
        ["DELETE FROM {t} WHERE id = 5", ("INSERT INTO {t} VALUES (5, 51, NULL, %s)", (large("d").encode(),))],
        ["UPDATE {t} SET n = n + 1"],
    ],
    (2, 14, 1, 0),
    # Where they lie makes no difference to MariaDB.
    prepared={
        POSTGRES: ["ALTER TABLE {t} ALTER COLUMN body SET STORAGE EXTERNAL", "ALTER TABLE {t} ALTER COLUMN more SET STORAGE EXTERNAL"],
        MARIADB: [],
    },
)

LARGE_LOOSE = HardTable(
    "large_loose",
    "a integer, body text",
    [(1, large("a")), (1, large("a")), (2, large("b"))],
    [["UPDATE {t} SET a = 3 WHERE a = 2"], ["DELETE FROM {t} WHERE a = 1"], ["UPDATE {t} SET body = 'x' WHERE a = 3"]],
    (0, 2, 2, 0),
    prepared={
        POSTGRES: ["ALTER TABLE {t} REPLICA IDENTITY FULL", "ALTER TABLE {t} ALTER COLUMN body SET STORAGE EXTERNAL"],
        MARIADB: [],
    },
)

ODD_TEXTS = ["\\", "a\\'b", '"', "line\nbreak\r\n\ttab", "\\N", "NULL", "🦀 größer", "%s", "\x1a", "'); --", "{1,2}", "a,b"]

TEXTS = HardTable(
    "texts",
    "k varchar(60) PRIMARY KEY, v text",
    [(text, f"of {text}") for text in ODD_TEXTS],
    [
        [("UPDATE {t} SET v = %s WHERE k = %s", (text + text, text)) for text in ODD_TEXTS],
        [("INSERT INTO {t} VALUES (%s, %s)", ("new " + text, text)) for text in ODD_TEXTS],
        [("DELETE FROM {t} WHERE k = %s", (text,)) for text in ODD_TEXTS[::2]],
        [("UPDATE {t} SET k = %s WHERE k = %s", ("moved " + text, text)) for text in ODD_TEXTS[1::2]],
    ],
    (len(ODD_TEXTS), len(ODD_TEXTS) + len(ODD_TEXTS) // 2, len(ODD_TEXTS) // 2, 0),
)

ODD_NAMES = HardTable(
    "Größe und Maß",
    '"select" integer PRIMARY KEY, "Über Wert" varchar(20), "camelCase" integer, "a.b" integer',
    [(1, "a", 1, 1), (2, "b", 2, 2)],
    [
        ['UPDATE {t} SET "Über Wert" = \'ä\', "a.b" = 5 WHERE "select" = 1', "INSERT INTO {t} VALUES (3, 'c', 3, 3)"],
        ['DELETE FROM {t} WHERE "camelCase" = 2', 'UPDATE {t} SET "select" = 4 WHERE "select" = 3'],
    ],
    (1, 2, 1, 0),
)

EMPTIED = HardTable(
    "emptied",
    KEYED,
    [(1, "a"), (2, "b")],
    {
        # Here it is a part of a transaction.
        POSTGRES: [["INSERT INTO {t} VALUES (3, 'c')", "TRUNCATE {t}", "INSERT INTO {t} VALUES (1, 'anew')"]],
        MARIADB: [["INSERT INTO {t} VALUES (3, 'c')"], ["TRUNCATE {t}"], ["INSERT INTO {t} VALUES (1, 'anew')"]],
    },
    (2, 0, 0, 1),
)

MANY = HardTable(
    "many",
    "id integer PRIMARY KEY, v varchar(40), n integer",
    [],
    {
        POSTGRES: [
            ["INSERT INTO {t} SELECT n, 'row ' || n, 0 FROM generate_series(1, 6000) AS n"],
            ["UPDATE {t} SET n = id", "DELETE FROM {t} WHERE id % 3 = 0", "UPDATE {t} SET v = 'even' WHERE id % 2 = 0"],
        ],
        MARIADB: [
            ["INSERT INTO {t} SELECT seq, CONCAT('row ', seq), 0 FROM seq_1_to_6000"],
            ["UPDATE {t} SET n = id", "DELETE FROM {t} WHERE id % 3 = 0", "UPDATE {t} SET v = 'even' WHERE id % 2 = 0"],
        ],
    },
    (6000, 8000, 2000, 0),
)

UPSERTED = HardTable(
    "upserted",
    "id integer PRIMARY KEY, v varchar(10)",
    [(1, "a"), (2, "b")],
    {
        POSTGRES: [
            ["INSERT INTO {t} VALUES (1, 'x'), (3, 'y') ON CONFLICT (id) DO UPDATE SET v = EXCLUDED.v"],
            ["INSERT INTO {t} VALUES (2, 'x'), (4, 'y') ON CONFLICT DO NOTHING"],
        ],
        MARIADB: [
            ["REPLACE INTO {t} VALUES (1, 'x'), (3, 'y')"],
            ["INSERT INTO {t} VALUES (2, 'z'), (4, 'y') ON DUPLICATE KEY UPDATE v = VALUES(v)"],
            ["INSERT IGNORE INTO {t} VALUES (2, 'x'), (5, 'y')"],
        ],
    },
    {POSTGRES: (2, 1, 0, 0), MARIADB: None},
)

# PostgreSQL logs an update that changes nothing, and MariaDB as a target counts no row for it by itself.
NOTHING_NEW = HardTable(
    "nothing_new",
    KEYED,
    [(1, "a"), (2, None)],
    [["UPDATE {t} SET v = v", "UPDATE {t} SET id = id"]],
    (0, 4, 0, 0),
    engines=(POSTGRES,),
)

# --- what PostgreSQL's log can tell old rows by ----------------------------------------------------------------------

OTHER_INDEX = HardTable(
    "other_index",
    "id integer PRIMARY KEY, code varchar(10) NOT NULL, v text",
    [(1, "a", "one"), (2, "b", "two"), (3, "c", "three")],
    [
        ["UPDATE {t} SET v = 'new' WHERE id = 1", "UPDATE {t} SET code = 'z' WHERE id = 2", "UPDATE {t} SET id = 30 WHERE id = 3"],
        ["DELETE FROM {t} WHERE code = 'z'", "INSERT INTO {t} VALUES (4, 'b', 'four')"],
    ],
    (1, 3, 1, 0),
    prepared=["CREATE UNIQUE INDEX other_index_code ON {t} (code)", "ALTER TABLE {t} REPLICA IDENTITY USING INDEX other_index_code"],
    engines=(POSTGRES,),
)

INDEX_ALONE = dataclasses.replace(
    OTHER_INDEX,
    name="index_alone",
    columns="id integer, code varchar(10) NOT NULL, v text",
    prepared=["CREATE UNIQUE INDEX index_alone_code ON {t} (code)", "ALTER TABLE {t} REPLICA IDENTITY USING INDEX index_alone_code"],
)

FULL_WITH_KEY = dataclasses.replace(
    SWAPPED, name="full_with_key", prepared=["ALTER TABLE {t} REPLICA IDENTITY FULL"], engines=(POSTGRES,)
)

FULL_AND_LARGE = dataclasses.replace(
    LARGE_VALUES,
    name="full_and_large",
    prepared=[*LARGE_VALUES.prepared[POSTGRES], "ALTER TABLE {t} REPLICA IDENTITY FULL"],
    engines=(POSTGRES,),
)

HARD_TABLES = [value for value in list(globals().values()) if isinstance(value, HardTable)]
