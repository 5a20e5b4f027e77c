"""Rows that are hard to follow end on the target as they are on the source, and are counted exactly."""

import collections
import contextlib
import uuid

import pytest
from following import following  # noqa: F401
from hard_tables import HARD_TABLES, said
from pairs import FROM_MARIADB, in_all_directions, pair  # noqa: F401

# Every conflict is told, and LOBs are moved whole.
SETTINGS = {
    "ErrorBehavior": {"ApplyErrorDeletePolicy": "LOG_ERROR", "FullLoadIgnoreConflicts": False},
    "TargetMetadata": {"LobMaxSize": 1024},
    "FullLoadSettings": {"TargetTablePrepMode": "TRUNCATE_BEFORE_LOAD"},
}


def settings(apply):
    return SETTINGS | {"TargetMetadata": SETTINGS["TargetMetadata"] | {"BatchApplyEnabled": apply == "batch"}}


@contextlib.contextmanager
def cursor_of(side):
    """One session for many statements: `run(table, statement, parameters)`."""
    connection = side.connect()
    with contextlib.closing(connection), connection.cursor() as cursor:

        def run(table, statement, *parameters):
            cursor.execute(said(side, table.name, statement), *parameters)
            return cursor

        yield run


def make(following, tables):
    """The tables with their rows, and on the target those that are to have their constraints there."""
    with cursor_of(following.source) as run:
        for table in tables:
            following.source.create(table.name, said(following.source, table.name, table.columns))
            if table.on_target:
                following.target.create(table.name, said(following.target, table.name, table.columns))
            for statement in table.prepared:
                run(table, statement)
            for row in table.rows:
                run(table, f"INSERT INTO {{t}} VALUES ({', '.join(['%s'] * len(row))})", row)


def change(side, tables, session):
    with cursor_of(side) as run:
        for statement in session:
            run(tables[0], statement)
        for table in tables:
            for statements in table.transactions:
                ends = [] if statements[-1] == "ROLLBACK" else ["COMMIT"]
                for statement in ["BEGIN", *statements, *ends]:
                    run(table, *(statement if isinstance(statement, tuple) else (statement,)))


def all_rows(side, tables):
    """How often each table has each row."""
    plain = lambda value: str(value) if isinstance(value, uuid.UUID) else value  # noqa: E731
    with cursor_of(side) as run:
        rows = {table.name: run(table, "SELECT * FROM {t}").fetchall() for table in tables}
    return {name: collections.Counter(tuple(map(plain, row)) for row in of_table) for name, of_table in rows.items()}


def short(differing):
    return [tuple(str(value)[:40] for value in row[:8]) for row in differing.elements()][:5]


def differences(following, tables):
    """What is not as it should be, by table."""
    found = {}
    sources, targets = all_rows(following.source, tables), all_rows(following.target, tables)
    counts = following.all_counts()
    for table in tables:
        here, there = sources[table.name], targets[table.name]
        if here != there:
            found[table.name] = f"only on source: {short(here - there)}, only on target: {short(there - here)}"
        elif table.counts is not None and counts[table.name] != (table.counts, table.counts):
            found[table.name] = f"counts are {counts[table.name]}, not {table.counts}"
    return found


def check(following, apply, *session):
    """Follows all the tables; `session` are statements before the changes."""
    source, target = following.source, following.target
    tables = [table.of(source.server.engine) for table in HARD_TABLES if source.server.engine in table.engines]
    following.pair.make_target_schema()
    source.create("gate", "id integer PRIMARY KEY, v integer")
    source.insert("gate", [(1, 0)])
    make(following, tables)
    following.start(settings(apply))
    following.wait_for_load("gate", *[table.name for table in tables])
    # All that changes while the target waits at the gate is in one batch.
    with target.locked("gate") if apply == "batch" else contextlib.nullcontext():
        source.execute(f"UPDATE {source.table('gate')} SET v = 1")
        change(source, tables, session)
        source.execute(f"UPDATE {source.table('gate')} SET v = 2")
        following.wait_until_captured("gate", (0, 2, 0, 0))
    following.wait_for_counts("gate", (0, 2, 0, 0))
    assert differences(following, tables) == {}
    assert target.exceptions() == []


@pytest.mark.parametrize("apply", ["transactional", "batch"])
@in_all_directions
def test_rows_that_are_hard_to_follow_end_as_on_the_source(following, apply):
    check(following, apply)


@pytest.mark.parametrize("pair", ["postgres-mariadb"], indirect=True)
def test_they_do_so_through_test_decoding(following):
    following.pair.set_up_source(PostgreSQLSettings={"PluginName": "test-decoding"})
    check(following, "transactional")
    assert following.source.execute("SELECT plugin FROM pg_replication_slots WHERE active") == [("test_decoding",)]


@pytest.mark.parametrize("pair, image", [(FROM_MARIADB, "MINIMAL"), ("mariadb-mariadb", "NOBLOB")], indirect=["pair"])
def test_they_do_so_when_the_binary_log_has_parts_of_them_alone(following, image):
    check(following, "batch", f"SET SESSION binlog_row_image = {image}")


@pytest.mark.parametrize("pair", [FROM_MARIADB], indirect=True)
def test_they_do_so_when_the_binary_log_is_compressed(following):
    source = following.source
    source.execute("SET GLOBAL log_bin_compress = ON", "SET GLOBAL log_bin_compress_min_len = 10")
    file, place, *_ = source.execute("SHOW MASTER STATUS")[0]
    try:
        check(following, "transactional")
        events = source.execute(f"SHOW BINLOG EVENTS IN '{file}' FROM {place}")
        assert {"Write_rows_compressed_v1", "Update_rows_compressed_v1"} <= {kind for _, _, kind, *_ in events}
    finally:
        source.execute("SET GLOBAL log_bin_compress = OFF", "SET GLOBAL log_bin_compress_min_len = 256")
