"""Full loads between real databases, seen from outside: rows, statistics, stop reasons, errors, crashes."""

import datetime
import decimal
import time

import botocore.exceptions
import pytest

from conftest import create_replication_instance, include, unique, wait_until
from pairs import (
    DIRECTIONS,
    FINISHED,
        GRACE_SECONDS,
    LOB_COLUMNS,
    QUICK_RETRY,
    STOP_SECONDS,
    STOPPED_BY_USER,
    WHOLE_LOBS,
    Pair,
    from_both_engines,
    in_all_directions,
    lost,
    make_held_load,
    pair,
    prepare,
    to_both_engines,
    transformation,
    with_rule,
)

# --- rows ------------------------------------------------------------------------------------------------------------

COMMON_COLUMNS = """
    id integer PRIMARY KEY, c_small smallint NOT NULL, c_big bigint, c_decimal numeric(20, 6), c_double double precision,
    c_char char(10), c_varchar varchar(100), c_text text, c_bytes bytea, c_date date, c_moment timestamp(6)
"""

COMMON_ROWS = [
    (1, -32768, -(2**63), decimal.Decimal("-99999999999999.999999"), -1.7976931348623157e308, "a", "", "", b"",
     datetime.date(1000, 1, 1), datetime.datetime(1000, 1, 1, 0, 0, 0, 1)),
    (2, 32767, 2**63 - 1, decimal.Decimal("99999999999999.999999"), 5e-324, "0123456789", "x" * 100, "long " * 20_000,
     bytes(range(256)) * 300, datetime.date(9999, 12, 31), datetime.datetime(9999, 12, 31, 23, 59, 59, 999999)),
    (3, 0, None, None, None, None, None, None, None, None, None),
    (4, 1, 0, decimal.Decimal("0.000001"), 0.1, "é", "NULL", "\\N", b"\\N\n\t\\", datetime.date(1970, 1, 1),
     datetime.datetime(1970, 1, 1)),
    (5, 2, -1, decimal.Decimal("-0.5"), -0.0, "😀", "tab\there", "line\nbreak\r\n\"quoted\", 'single' \\ \x7f", b"\x00",
     datetime.date(2024, 2, 29), datetime.datetime(2024, 2, 29, 12, 34, 56, 789000)),
    (6, 3, 42, decimal.Decimal("12345.678900"), 1e22, "汉字", "Ünïcödé 👩‍👩‍👧", "\\.", b"'\"`;--", datetime.date(1582, 10, 15),
     datetime.datetime(2000, 1, 1, 23, 59, 59)),
]  # fmt: skip


def unpadded(rows):
    """PostgreSQL's driver gives the blanks of char(n), MariaDB's does not."""
    return [row[:5] + (row[5] and row[5].rstrip(),) + row[6:] for row in rows]


@in_all_directions
def test_every_common_type_arrives_unchanged(pair):
    pair.source.create("types", COMMON_COLUMNS)
    pair.source.insert("types", COMMON_ROWS)
    statistics = pair.load(settings=WHOLE_LOBS)
    assert unpadded(pair.target.rows("types")) == unpadded(pair.source.rows("types")) == COMMON_ROWS
    assert pair.target.columns("types") == pair.source.columns("types")
    assert statistics["types"]["FullLoadRows"] == len(COMMON_ROWS)


@in_all_directions
def test_statistics_and_stop_reason_tell_of_a_finished_load(pair):
    for table, rows in [("empty", 0), ("one", 1), ("many", 25_000)]:
        pair.source.create(table, "id integer PRIMARY KEY, value text")
        if rows:
            pair.source.fill(table, rows)
    task = pair.task()
    assert task.statistics() == {}
    statistics = task.finish()
    assert {table: row["FullLoadRows"] for (_, table), row in statistics.items()} == {
        "empty": 0,
        "one": 1,
        "many": 25_000,
    }
    for (schema, _), row in statistics.items():
        assert schema == pair.schema
        assert row["TableState"] == "Table completed"
        assert row["FullLoadErrorRows"] == row["FullLoadCondtnlChkFailedRows"] == 0
        assert row["Inserts"] == row["Updates"] == row["Deletes"] == row["Ddls"] == 0
        assert row["FullLoadStartTime"] <= row["FullLoadEndTime"] <= row["LastUpdateTime"]
        assert row["ValidationState"] == "Not enabled"
        assert row["FullLoadReloaded"] is False
    description = task.describe()
    assert description["Status"] == "stopped"
    assert description["StopReason"] == FINISHED
    assert "LastFailureMessage" not in description
    stats = description["ReplicationTaskStats"]
    assert (stats["FullLoadProgressPercent"], stats["TablesLoaded"]) == (100, 3)
    assert stats["TablesLoading"] == stats["TablesQueued"] == stats["TablesErrored"] == 0
    assert stats["FreshStartDate"] == stats["StartDate"] <= stats["StopDate"]
    assert stats["FullLoadStartDate"] <= stats["FullLoadFinishDate"]
    assert pair.target.rows("many") == pair.source.rows("many")


@in_all_directions
def test_rows_of_a_table_without_a_primary_key_arrive_as_often_as_they_are(pair):
    pair.source.create("log", "at timestamp(6), line text")
    row = (datetime.datetime(2024, 1, 1), "again")
    pair.source.insert("log", [row, row, row, (None, None), (None, None)])
    pair.load()
    assert sorted(map(str, pair.target.rows("log"))) == sorted(map(str, pair.source.rows("log")))


@in_all_directions
def test_names_need_no_care(pair):
    table, column = 'Order "of" `Ünits`', "select"
    pair.source.execute(
        f"CREATE TABLE {pair.source.table(table)} (id integer PRIMARY KEY, {pair.source.quote(column)} integer)"
    )
    pair.source.insert(table, [(1, 2)])
    pair.load()
    assert pair.target.rows(table) == [(1, 2)]
    assert pair.target.columns(table) == ["id", column]


def test_unsigned_numbers_bits_enums_sets_and_times_of_mariadb_arrive_in_postgresql(pair):
    pair.source.execute(
        f"CREATE TABLE {pair.source.table('types')} (id int unsigned PRIMARY KEY, tiny tinyint unsigned, small smallint unsigned,"
        " medium mediumint unsigned, big bigint unsigned, real4 float, bit1 bit(1), kind enum('a', 'b,c'), tags set('x', 'y'),"
        " at timestamp(3) NULL, year year, time time, json json, latin varchar(20) CHARACTER SET latin1)",
        f"INSERT INTO {pair.source.table('types')} VALUES"
        " (4294967295, 255, 65535, 16777215, 9223372036854775807, 3.1415927, b'1', 'b,c', 'x,y', '2024-07-01 12:00:00.123', 2155,"
        " '23:59:59', '{\"a\": [1, null]}', 'café'), (0, 0, 0, 0, 0, -1.5, b'0', 'a', '', NULL, 1901, '00:00:00', NULL, NULL)",
    )
    pair.load()
    target = pair.target.table("types")
    numbers = pair.target.execute(f"SELECT id, tiny, small, medium, big, year FROM {target} ORDER BY id")
    assert numbers == [(0, 0, 0, 0, 0, 1901), (4294967295, 255, 65535, 16777215, 9223372036854775807, 2155)]
    others = pair.target.execute(
        f"SELECT real4::float4::text, bit1::text, kind, tags, at::text, time::text, json::text, latin FROM {target} ORDER BY id"
    )
    assert others[1][:1] + others[1][2:] == (
        "3.1415927",
        "b,c",
        "x,y",
        "2024-07-01 12:00:00.123",
        "23:59:59",
        '{"a": [1, null]}',
        "café",
    )
    assert others[0][:1] + others[0][2:] == ("-1.5", "a", "", None, "00:00:00", None, None)
    # A single bit is a boolean.
    assert (others[0][1], others[1][1]) == ("false", "true")


def test_a_boolean_of_postgresql_is_a_word_of_five_letters_by_default(databases, dms, replication_instance):
    # MapBooleanAsBoolean: https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Source.PostgreSQL.html
    pair = Pair(databases, "postgres-mariadb", dms, replication_instance["ReplicationInstanceArn"])
    pair.source.create("flags", "id integer PRIMARY KEY, flag boolean")
    pair.source.insert("flags", [(1, True), (2, False), (3, None)])
    pair.load()
    assert pair.target.rows("flags") == [(1, "true"), (2, "false"), (3, None)]


@in_all_directions
def test_tables_are_made_with_their_primary_key_and_nothing_else(pair):
    pair.source.create("parent", "id integer PRIMARY KEY, name varchar(20) NOT NULL, UNIQUE (name)")
    pair.source.create(
        "child",
        "a integer, b integer, name varchar(20) DEFAULT 'x', PRIMARY KEY (b, a),"
        f" FOREIGN KEY (a) REFERENCES {pair.source.table('parent')} (id)",
    )
    pair.source.insert("parent", [(1, "one")])
    pair.source.insert("child", [(1, 7, None)])
    pair.load()
    constraints = pair.target.execute(
        "SELECT table_name, constraint_type FROM information_schema.table_constraints"
        f" WHERE table_schema = '{pair.schema}' AND constraint_name NOT LIKE '%_not_null' ORDER BY 1"
    )
    assert list(constraints) == [("child", "PRIMARY KEY"), ("parent", "PRIMARY KEY")]
    key = pair.target.execute(
        "SELECT column_name FROM information_schema.key_column_usage"
        f" WHERE table_schema = '{pair.schema}' AND table_name = 'child' ORDER BY ordinal_position"
    )
    assert [column for (column,) in key] == ["b", "a"]
    nullable = pair.target.execute(
        "SELECT column_name, is_nullable FROM information_schema.columns"
        f" WHERE table_schema = '{pair.schema}' AND table_name = 'parent' ORDER BY 1"
    )
    assert list(nullable) == [("id", "NO"), ("name", "NO")]


# --- what is loaded, and under which name ----------------------------------------------------------------------------


@from_both_engines
def test_only_selected_tables_are_loaded(pair):
    for table in ["orders", "orders_old", "order1", "customers", "secret"]:
        pair.source.create(table, "id integer PRIMARY KEY")
    mappings = include(pair.schema, "order%")
    mappings["rules"] += [
        {"rule-type": "selection", "rule-id": "2", "rule-name": "2", "rule-action": "exclude",
         "object-locator": {"schema-name": pair.schema, "table-name": "%[_]old"}},
        {"rule-type": "selection", "rule-id": "3", "rule-name": "3", "rule-action": "include",
         "object-locator": {"schema-name": pair.schema, "table-name": "customer_"}},
    ]  # fmt: skip
    assert set(pair.load(mappings)) == {"orders", "order1", "customers"}
    assert pair.target.tables() == ["customers", "order1", "orders"]


@in_all_directions
def test_schemas_tables_and_columns_can_be_renamed(pair):
    pair.source.create("Orders", "id integer PRIMARY KEY, Amount integer, secret integer")
    pair.source.insert("Orders", [(1, 2, 3)])
    renamed = unique("renamed").replace("-", "_")
    amount = pair.source.columns("Orders")[1]
    statistics = pair.load(
        with_rule(
            pair.schema,
            transformation("schema", "rename", renamed, schema=pair.schema),
            transformation("table", "add-prefix", "my_"),
            transformation("column", "rename", "total", column=amount),
            transformation("column", "remove-column", column="secret"),
        )
    )
    # Statistics go by the names of the source.
    assert list(statistics) == ["Orders"]
    assert pair.target.columns("my_Orders", renamed) == ["id", "total"]
    assert pair.target.rows("my_Orders", renamed) == [(1, 2)]


@to_both_engines
def test_target_schema_takes_all_tables(pair):
    pair.source.create("orders", "id integer PRIMARY KEY")
    pair.source.insert("orders", [(1,)])
    elsewhere = unique("elsewhere").replace("-", "_")
    pair.load(settings={"TargetMetadata": {"TargetSchema": elsewhere}})
    assert pair.target.rows("orders", elsewhere) == [(1,)]
    assert pair.target.tables() == []


def test_views_are_loaded_when_they_are_asked_for(pair):
    pair.source.create("orders", "id integer PRIMARY KEY")
    pair.source.insert("orders", [(1,), (2,)])
    pair.source.execute(
        f"CREATE VIEW {pair.source.table('big_orders')} AS SELECT id FROM {pair.source.table('orders')} WHERE id > 1"
    )
    assert set(pair.load()) == {"orders"}
    mappings = include(pair.schema, "big%")
    mappings["rules"][0]["object-locator"]["table-type"] = "view"
    assert set(pair.load(mappings)) == {"big_orders"}
    assert pair.target.rows("big_orders") == [(2,)]


def test_tables_of_higher_load_order_go_first(pair):
    mappings = {"rules": []}
    for number, table in enumerate(["a", "b", "c"], 1):
        pair.source.create(table, "id integer PRIMARY KEY, value text")
        pair.source.fill(table, 10)
        rule = include(pair.schema, table)["rules"][0] | {
            "rule-id": str(number),
            "rule-name": str(number),
            "load-order": number,
        }
        mappings["rules"].append(rule)
    statistics = pair.load(mappings, {"FullLoadSettings": {"MaxFullLoadSubTasks": 1}})
    assert sorted(statistics, key=lambda table: statistics[table]["FullLoadEndTime"]) == ["c", "b", "a"]


def test_a_task_that_finds_no_table_fails_and_says_so(pair):
    task = pair.task(include(pair.schema, "nothing"))
    description = task.finish_in_any_way()
    assert description["Status"] == "failed"
    assert description["LastFailureMessage"] == description["StopReason"]
    assert description["StopReason"].startswith("Last Error  No tables were found at task initialization.")
    assert description["StopReason"].endswith("Stop Reason FATAL_ERROR Error Level FATAL")


def test_a_task_that_may_find_no_table_finishes(pair):
    settings = {"ErrorBehavior": {"FailOnNoTablesCaptured": False}}
    assert pair.load(include(pair.schema, "nothing"), settings) == {}


# --- what becomes of what is there -----------------------------------------------------------------------------------


@to_both_engines
def test_drop_and_create_replaces_a_table(pair):
    pair.create_both("orders", "id integer PRIMARY KEY, value text")
    pair.source.fill("orders", 3)
    pair.target.execute(
        f"ALTER TABLE {pair.target.table('orders')} ADD extra integer",
        f"INSERT INTO {pair.target.table('orders')} VALUES (9, 'old', 1)",
    )
    pair.load(settings=prepare("DROP_AND_CREATE"))
    assert pair.target.columns("orders") == ["id", "value"]
    assert pair.target.rows("orders") == pair.source.rows("orders")


@to_both_engines
def test_truncate_keeps_the_table_and_not_its_rows(pair):
    pair.create_both("orders", "id integer PRIMARY KEY, value text")
    pair.source.fill("orders", 3)
    pair.target.execute(
        f"ALTER TABLE {pair.target.table('orders')} ADD extra integer DEFAULT 5",
        f"INSERT INTO {pair.target.table('orders')} VALUES (9, 'old', 1)",
    )
    pair.load(settings=prepare("TRUNCATE_BEFORE_LOAD"))
    assert pair.target.rows("orders") == [row + (5,) for row in pair.source.rows("orders")]


@to_both_engines
def test_do_nothing_keeps_the_table_and_its_rows(pair):
    pair.create_both("orders", "id integer PRIMARY KEY, value text")
    pair.source.fill("orders", 3)
    pair.target.insert("orders", [(9, "old")])
    pair.load(settings=prepare("DO_NOTHING"))
    assert pair.target.rows("orders") == pair.source.rows("orders") + [(9, "old")]


@to_both_engines
def test_every_mode_makes_a_table_that_is_missing(pair):
    pair.source.create("orders", "id integer PRIMARY KEY, value text")
    pair.source.fill("orders", 3)
    for mode in ["DO_NOTHING", "TRUNCATE_BEFORE_LOAD"]:
        pair.load(settings=prepare(mode))
        assert pair.target.rows("orders") == pair.source.rows("orders")
        pair.target.execute(f"DROP TABLE {pair.target.table('orders')}")


@to_both_engines
def test_the_primary_key_can_be_made_after_the_load(pair):
    pair.source.create("orders", "id integer PRIMARY KEY, value text")
    pair.source.fill("orders", 1000)
    pair.load(settings={"FullLoadSettings": {"CreatePkAfterFullLoad": True}})
    with pytest.raises(Exception, match="(?i)duplicate"):
        pair.target.insert("orders", [(1, "again")])


def test_reload_target_loads_everything_again(pair):
    pair.source.create("orders", "id integer PRIMARY KEY, value text")
    pair.source.fill("orders", 3)
    task = pair.task()
    task.finish()
    first = task.stats
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        task.start("start-replication")
    assert refused.value.response["Error"]["Code"] == "InvalidParameterCombinationException"
    assert (
        "START_REPLICATION, valid only for tasks running for the first time"
        in refused.value.response["Error"]["Message"]
    )
    pair.source.execute(
        f"DELETE FROM {pair.source.table('orders')} WHERE id = 1",
        f"INSERT INTO {pair.source.table('orders')} VALUES (4, 'new')",
    )
    task.finish("reload-target")
    assert task.stop_reason == FINISHED
    assert pair.target.rows("orders") == pair.source.rows("orders")
    assert task.stats["StartDate"] > first["StartDate"]


# --- long values -----------------------------------------------------------------------------------------------------

def lob_rows():
    return [
        (1, "x" * 5000, b"\x00\xff" * 2500),
        (2, "short", b"\x01"),
        (3, "", b""),
        (4, None, None),
        (5, "é" * 700, b"y" * 1024),
    ]


@in_all_directions
def test_limited_lob_mode_cuts_long_values(pair):
    pair.source.create("documents", LOB_COLUMNS)
    pair.source.insert("documents", lob_rows())
    pair.load(
        settings={
            "TargetMetadata": {"SupportLobs": True, "LimitedSizeLobMode": True, "FullLobMode": False, "LobMaxSize": 1}
        }
    )
    rows = {row[0]: row[1:] for row in pair.target.rows("documents")}
    assert rows[1] == ("x" * 1024, (b"\x00\xff" * 512))
    assert [rows[2], rows[3], rows[4]] == [("short", b"\x01"), ("", b""), (None, None)]
    # 1,400 bytes of two-byte characters are cut between characters, never within one.
    assert rows[5] == ("é" * len(rows[5][0]), b"y" * 1024)
    assert 0 < len(rows[5][0].encode()) <= 1400


@in_all_directions
def test_full_lob_mode_keeps_long_values(pair):
    rows = lob_rows() + [(6, "漢" * 1_000_000, bytes(range(256)) * 12_000)]
    pair.source.create("documents", LOB_COLUMNS)
    pair.source.insert("documents", rows)
    pair.load(
        settings={
            "TargetMetadata": {
                "SupportLobs": True,
                "FullLobMode": True,
                "LimitedSizeLobMode": False,
                "LobChunkSize": 64,
            }
        }
    )
    assert pair.target.rows("documents") == rows


@to_both_engines
def test_without_lob_support_lob_columns_are_left_out(pair):
    pair.source.create("documents", LOB_COLUMNS)
    pair.source.insert("documents", lob_rows())
    pair.load(settings={"TargetMetadata": {"SupportLobs": False}})
    assert pair.target.columns("documents") == ["id"]
    assert pair.target.rows("documents") == [(1,), (2,), (3,), (4,), (5,)]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_value_of_100_mb_needs_no_more_memory_than_is_promised(direction, databases, make_server, make_client):
    server = make_server()
    client = make_client(url=server.url)
    instance = create_replication_instance(client)
    pair = Pair(databases, direction, client, instance["ReplicationInstanceArn"])
    pair.source.create("documents", LOB_COLUMNS)
    pair.source.execute(
        f"INSERT INTO {pair.source.table('documents')} VALUES (1, REPEAT('0123456789', 10000000), NULL)"
    )
    task = pair.task(settings=WHOLE_LOBS)
    task.finish()
    assert task.stop_reason == FINISHED
    digest = "SELECT LENGTH(body), MD5(body) FROM "
    assert list(pair.target.execute(digest + pair.target.table("documents"))) == list(
        pair.source.execute(digest + pair.source.table("documents"))
    )
    assert server.peak_mib() < 150


# --- bad rows --------------------------------------------------------------------------------------------------------


def make_bad_rows(pair, count=2000, bad=(777, 1500)):
    """A table on both sides of which the target refuses some rows, and another in which nothing is wrong."""
    pair.create_both("orders", "id integer PRIMARY KEY, value text")
    pair.create_both("fine", "id integer PRIMARY KEY, value text")
    pair.source.fill("orders", count)
    pair.source.fill("fine", 10)
    listed = ", ".join(map(str, bad))
    pair.target.execute(f"ALTER TABLE {pair.target.table('orders')} ADD CONSTRAINT good CHECK (id NOT IN ({listed}))")
    return [row for row in pair.source.rows("orders") if row[0] not in bad]


def on_data_error(policy, **more):
    return prepare("DO_NOTHING") | {"ErrorBehavior": {"DataErrorPolicy": policy} | more}


@in_all_directions
def test_a_bad_row_is_recorded_and_takes_no_other_along(pair):
    good = make_bad_rows(pair)
    statistics = pair.load(settings=on_data_error("LOG_ERROR"))
    assert pair.target.rows("orders") == good
    assert {row["TableState"] for row in statistics.values()} == {"Table completed"}
    exceptions = pair.target.exceptions()
    assert len(exceptions) == 2
    assert all("orders" in line for line in exceptions)
    assert any("777" in line for line in exceptions) and any("1500" in line for line in exceptions)


@to_both_engines
def test_ignored_bad_rows_are_left_out(pair):
    good = make_bad_rows(pair)
    pair.load(settings=on_data_error("IGNORE_RECORD"))
    assert pair.target.rows("orders") == good


@to_both_engines
def test_a_bad_row_can_suspend_its_table(pair):
    make_bad_rows(pair)
    task = pair.task(settings=on_data_error("SUSPEND_TABLE"))
    task.finish()
    assert task.stop_reason == FINISHED
    assert pair.states(task) == {"orders": "Table error", "fine": "Table completed"}
    assert pair.target.rows("fine") == pair.source.rows("fine")
    stats = task.stats
    assert (stats["FullLoadProgressPercent"], stats["TablesErrored"], stats["TablesLoaded"]) == (100, 1, 1)


@to_both_engines
def test_a_bad_row_can_stop_the_task(pair):
    make_bad_rows(pair)
    description = pair.task(settings=on_data_error("STOP_TASK")).finish_in_any_way()
    assert description["Status"] == "failed"
    assert description["StopReason"].startswith("Last Error  ")
    assert description["StopReason"].endswith("Stop Reason FATAL_ERROR Error Level FATAL")
    # Errors name tables, never values.
    assert "row 777" not in description["LastFailureMessage"]


@to_both_engines
def test_too_many_bad_rows_suspend_the_table(pair):
    make_bad_rows(pair, bad=(1, 2, 3, 4, 5))
    task = pair.task(
        settings=on_data_error("LOG_ERROR", DataErrorEscalationPolicy="SUSPEND_TABLE", DataErrorEscalationCount=3)
    )
    task.finish()
    assert pair.states(task)["orders"] == "Table error"


@to_both_engines
def test_a_table_that_cannot_be_loaded_leaves_the_others_alone(pair):
    pair.create_both("orders", "id integer PRIMARY KEY, value text")
    pair.create_both("fine", "id integer PRIMARY KEY, value text")
    for table in ("orders", "fine"):
        pair.source.fill(table, 10)
    # The target's table lacks a column that is to be loaded.
    pair.target.execute(f"ALTER TABLE {pair.target.table('orders')} DROP COLUMN value")
    task = pair.task(settings=prepare("DO_NOTHING"))
    task.finish()
    assert pair.states(task) == {"orders": "Table error", "fine": "Table completed"}
    assert pair.target.rows("fine") == pair.source.rows("fine")


# --- while it runs ---------------------------------------------------------------------------------------------------


@in_all_directions
def test_statistics_move_while_a_table_loads(pair):
    settings = make_held_load(pair)
    task = pair.task(settings=settings)
    with pair.target.held_at("large", 20_000):
        task.start()
        pair.wait_for(task, "small", "Table completed")
        large = wait_until(
            lambda: (row := task.statistics()[(pair.schema, "large")])["FullLoadRows"] > 0 and row,
            "rows of the large table are counted",
        )
        assert large["TableState"] == "Full load"
        assert large["FullLoadRows"] < 40_000
        assert "FullLoadEndTime" not in large
        assert task.status == "running"
        stats = task.stats
        assert (stats["TablesLoaded"], stats["TablesLoading"], stats["TablesErrored"]) == (1, 1, 0)
        assert 0 <= stats["FullLoadProgressPercent"] < 100
    task.wait("stopped")
    assert task.stop_reason == FINISHED
    assert pair.target.rows("large") == pair.source.rows("large")


@in_all_directions
def test_a_stopped_load_resumes_with_the_tables_that_are_not_finished(pair):
    settings = make_held_load(pair)
    task = pair.task(settings=settings)
    with pair.target.held_at("large", 20_000):
        task.start()
        pair.wait_for(task, "small", "Table completed")
        started = time.monotonic()
        task.stop()
        task.wait("stopped", seconds=STOP_SECONDS + GRACE_SECONDS)
        assert time.monotonic() - started < STOP_SECONDS + GRACE_SECONDS
    assert task.stop_reason == STOPPED_BY_USER
    assert pair.states(task) == {"small": "Table completed", "large": "Table cancelled"}
    # A mark in the finished table shows whether it is loaded again.
    pair.target.execute(f"DELETE FROM {pair.target.table('small')} WHERE id = 1")
    fresh_start = task.stats["FreshStartDate"]
    task.finish("resume-processing")
    assert task.stop_reason == FINISHED
    assert pair.target.rows("large") == pair.source.rows("large")
    assert pair.target.rows("small") == pair.source.rows("small")[1:]
    assert task.stats["FreshStartDate"] == fresh_start


@from_both_engines
def test_a_load_that_waits_for_its_source_stops_at_once(pair):
    pair.source.create("orders", "id integer PRIMARY KEY, value text")
    pair.source.fill("orders", 10)
    task = pair.task()
    with pair.source.locked("orders"):
        task.start()
        task.wait("running")
        task.stop()
        task.wait("stopped", seconds=STOP_SECONDS + GRACE_SECONDS)
        assert task.stop_reason == STOPPED_BY_USER


def test_a_task_that_does_not_run_cannot_be_stopped(pair):
    pair.source.create("orders", "id integer PRIMARY KEY")
    task = pair.task()
    for _ in ("ready", "stopped"):
        with pytest.raises(pair.client.exceptions.InvalidResourceStateFault, match="is currently not running"):
            task.stop()
        if task.status == "ready":
            task.finish()


@to_both_engines
def test_single_tables_can_be_reloaded_while_the_task_runs(pair):
    settings = make_held_load(pair)
    task = pair.task(settings=settings)
    tables = [{"SchemaName": pair.schema, "TableName": "small"}]
    with pair.target.held_at("large", 20_000):
        task.start()
        pair.wait_for(task, "small", "Table completed")
        pair.source.insert("small", [(11, "added later")])
        answer = pair.client.reload_tables(ReplicationTaskArn=task.arn, TablesToReload=tables)
        assert answer["ReplicationTaskArn"] == task.arn
        wait_until(
            lambda: task.statistics()[(pair.schema, "small")]["FullLoadReloaded"], "the table counts as reloaded"
        )
        pair.wait_for(task, "small", "Table completed")
        assert pair.target.rows("small") == pair.source.rows("small")
    task.wait("stopped")
    with pytest.raises(pair.client.exceptions.InvalidResourceStateFault):
        pair.client.reload_tables(ReplicationTaskArn=task.arn, TablesToReload=tables)


def test_a_task_can_be_deleted_while_databases_wait(pair):
    pair.source.create("orders", "id integer PRIMARY KEY, value text")
    pair.source.fill("orders", 10)
    task = pair.task()
    with pair.source.locked("orders"):
        task.start()
        task.wait("running")
        task.stop()
        task.wait("stopped")
        pair.client.delete_replication_task(ReplicationTaskArn=task.arn)

        def gone():
            try:
                return task.describe()["Status"] != "deleting"
            except pair.client.exceptions.ResourceNotFoundFault:
                return True

        wait_until(gone, "the task is gone")
        with pytest.raises(pair.client.exceptions.ResourceNotFoundFault):
            task.describe()


# --- crashes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_load_survives_the_death_of_the_server_process(direction, databases, make_server, make_client):
    server = make_server()
    client = make_client(url=server.url, retries={"max_attempts": 5, "mode": "standard"})
    instance = create_replication_instance(client)
    pair = Pair(databases, direction, client, instance["ReplicationInstanceArn"])
    settings = make_held_load(pair)
    pair.create_both("keyless", "at timestamp(6), line text")
    pair.source.insert("keyless", [(datetime.datetime(2024, 1, 1), "again")] * 5)
    task = pair.task(settings=settings)
    with pair.target.held_at("large", 20_000):
        task.start()
        pair.wait_for(task, "small", "Table completed")
        pair.wait_for(task, "keyless", "Table completed")
        wait_until(
            lambda: task.statistics()[(pair.schema, "large")]["FullLoadRows"] > 0, "the large table is under way"
        )
        server.kill9()
    server.start()
    # Nobody starts the task: it ran when the process died, so it goes on.
    task.wait("stopped")
    assert task.stop_reason == FINISHED
    for table in ("small", "large", "keyless"):
        assert pair.target.rows(table) == pair.source.rows(table)
    assert pair.states(task) == dict.fromkeys(["small", "large", "keyless"], "Table completed")


@to_both_engines
def test_a_load_goes_on_when_a_lost_target_is_back(pair):
    settings = make_held_load(pair) | {"ErrorBehavior": QUICK_RETRY}
    task = pair.task(settings=settings)
    # The lock that holds the load dies with the server.
    with pair.target.held_at("large", 20_000):
        task.start()
        pair.wait_for(task, "small", "Table completed")
        with lost(pair.target):
            assert task.status == "running"
    task.wait("stopped")
    assert task.stop_reason == FINISHED
    assert pair.target.rows("large") == pair.source.rows("large")
    assert pair.target.rows("small") == pair.source.rows("small")


@from_both_engines
def test_a_load_goes_on_when_a_lost_source_is_back(pair):
    settings = make_held_load(pair) | {"ErrorBehavior": QUICK_RETRY}
    task = pair.task(settings=settings)
    with pair.target.held_at("large", 20_000):
        task.start()
        pair.wait_for(task, "small", "Table completed")
        with lost(pair.source):
            assert task.status == "running"
    task.wait("stopped")
    assert task.stop_reason == FINISHED
    assert pair.target.rows("large") == pair.source.rows("large")


@to_both_engines
def test_a_task_gives_up_on_a_lost_target_as_told(pair):
    settings = make_held_load(pair) | {"ErrorBehavior": QUICK_RETRY | {"RecoverableErrorCount": 0}}
    task = pair.task(settings=settings)
    with pair.target.held_at("large", 20_000):
        task.start()
        pair.wait_for(task, "small", "Table completed")
        with lost(pair.target):
            description = task.wait("failed")
    description = task.describe()
    assert description["Status"] == "failed"
    assert description["StopReason"] == description["LastFailureMessage"]
    assert "Stop Reason" in description["StopReason"]
    # What failed for a passing reason can be taken up again.
    task.start("resume-processing")
    wait_until(lambda: task.status == "stopped", "the resumed task has stopped")
    assert pair.target.rows("large") == pair.source.rows("large")


def test_a_task_waits_for_a_target_that_is_gone_at_its_start(pair):
    pair.source.create("orders", "id integer PRIMARY KEY, value text")
    pair.source.fill("orders", 10)
    task = pair.task(settings={"ErrorBehavior": QUICK_RETRY})
    with lost(pair.target):
        task.start()
        assert task.status in ("starting", "running")
    task.wait("stopped")
    assert task.stop_reason == FINISHED
    assert pair.target.rows("orders") == pair.source.rows("orders")
