"""Changes go through the same rules and settings as rows that are loaded."""

import contextlib
import threading

import pytest
from conftest import wait_until
from following import KEYED, LOOSE, following, make_following, wait_until_alike  # noqa: F401
from pairs import FROM_MARIADB, FROM_POSTGRES, from_both_engines, in_all_directions, pair, transformation, with_rule  # noqa: F401


@in_all_directions
def test_changes_go_where_the_rules_send_them(following):
    pair, source, target = following.pair, following.source, following.target
    source.create("orders", "id integer PRIMARY KEY, secret varchar(20), amount numeric(10, 2), note varchar(20)")
    source.create("pre_old", KEYED)
    source.insert("orders", [(1, "s", 1.5, "one"), (2, "s", 2.5, "two"), (3, "s", 3.5, "three")])
    source.fill("pre_old", 2)
    there = pair.schema + "_there"
    mappings = with_rule(
        pair.schema,
        transformation("schema", "rename", there, schema=pair.schema) | {"object-locator": {"schema-name": pair.schema}},
        transformation("table", "rename", "bookings", table="orders"),
        transformation("table", "replace-prefix", table="pre_%") | {"value": "new_", "old-value": "pre_"},
        transformation("column", "remove-column", table="orders", column="secret"),
        transformation("column", "rename", "number", table="orders", column="id"),
    )
    following.start(mappings=mappings)
    following.wait_for_load("orders", "pre_old")
    orders, old = source.table("orders"), source.table("pre_old")
    source.execute(
        f"INSERT INTO {orders} VALUES (4, 'hidden', 4.5, 'four')",
        f"UPDATE {orders} SET amount = 10, secret = 'other' WHERE id = 1",
        f"UPDATE {orders} SET secret = 'nothing else' WHERE id = 2",
        f"UPDATE {orders} SET id = 30 WHERE id = 3",
        f"ALTER TABLE {orders} ADD COLUMN late integer",
        f"UPDATE {orders} SET late = 7 WHERE id = 30",
        f"DELETE FROM {old} WHERE id = 1",
        f"INSERT INTO {old} VALUES (3, 'three')",
    )
    expected = [(row[0], *row[2:]) for row in source.rows("orders")]

    def rows(table):
        try:
            return target.rows(table, there)
        except Exception as error:  # it may be in the middle of being altered
            return error

    wait_until(lambda: rows("bookings") == expected and rows("new_old") == source.rows("pre_old"), "all is there", 30)
    assert target.columns("bookings", there) == ["number", "amount", "note", "late"]
    # Statistics are told by the names of the source.
    following.wait_for_counts("orders", (1, 4, 0, 1))
    following.wait_for_counts("pre_old", (1, 0, 1, 0))
    assert set(target.tables(there)) >= {"bookings", "new_old"} and "orders" not in target.tables(there)


LIMITED = {"SupportLobs": True, "FullLobMode": False, "LimitedSizeLobMode": True, "LobMaxSize": 1}
FULL = {"SupportLobs": True, "FullLobMode": True, "LimitedSizeLobMode": False}
NONE = {"SupportLobs": False, "FullLobMode": False, "LimitedSizeLobMode": False}


@pytest.mark.parametrize("pair", ["postgres-mariadb", FROM_MARIADB], indirect=True)
def test_large_values_that_change_are_cut_kept_or_left_out_as_in_a_load(make_following, pair):
    source, target = pair.source, pair.target
    source.create("t", "id integer PRIMARY KEY, body text, scan bytea, n integer")
    long, bytes_ = "ä" * 40_000, b"\x00\xff" * 40_000
    source.insert("t", [(1, long, bytes_, 1)])
    modes = {"limited": LIMITED, "full": FULL, "none": NONE}
    follows = {name: make_following() for name in modes}
    for name, mode in modes.items():
        follows[name].start({"TargetMetadata": mode | {"TargetSchema": f"{pair.schema}_{name}"}})
        follows[name].wait_for_load("t")
    source.insert("t", [(2, long, bytes_, 2), (3, "short", b"short", 3)])
    connection = source.connect()
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute(f"UPDATE {source.table('t')} SET body = %s, scan = %s WHERE id = 3", ("x" + long, b"x" + bytes_))
    for one in follows.values():
        one.wait_for_counts("t", (2, 1, 0, 0))
    rows = {name: target.rows("t", f"{pair.schema}_{name}") for name in modes}
    assert rows["full"] == source.rows("t")
    # A letter of two bytes is not cut in half, and a change is cut as a load is.
    (_, body, scan, _), second, third = rows["limited"]
    assert long.startswith(body) and 1020 <= len(body.encode()) <= 1024 and scan == bytes_[:1024]
    assert second[1:3] == (body, scan)
    assert ("x" + long).startswith(third[1]) and 1020 <= len(third[1].encode()) <= 1024 and third[2] == b"x" + bytes_[:1023]
    none = source.columns("t") if "t" not in target.tables(f"{pair.schema}_none") else target.columns("t", f"{pair.schema}_none")
    assert "scan" not in none and [row[0] for row in rows["none"]] == [1, 2, 3] and [row[-1] for row in rows["none"]] == [1, 2, 3]


@in_all_directions
def test_a_transaction_that_is_open_when_the_task_starts_is_neither_lost_nor_doubled(following):
    source = following.source
    source.create("loose", LOOSE)
    source.create("t", KEYED)
    source.fill("loose", 2)
    loose = source.table("loose")
    connection = source.connect()
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(f"INSERT INTO {loose} VALUES (10, 'open')")
        following.begin()
        source.execute(f"INSERT INTO {loose} VALUES (11, 'meanwhile')")
        # The source may have to wait for the transaction; the other way round nobody waits.
        waits = following.task.status == "starting"
        source.execute(f"INSERT INTO {loose} VALUES (12, 'meanwhile')")
        cursor.execute(f"INSERT INTO {loose} VALUES (13, 'open')")
        if not waits:
            following.task.wait("running")
        cursor.execute("COMMIT")
    following.task.wait("running")
    source.execute(f"INSERT INTO {loose} VALUES (14, 'later')", f"INSERT INTO {source.table('t')} VALUES (1, 'last')")
    following.wait_until_equal("t")
    wait_until_alike(following, "loose")

    def counted():
        row = following.task.statistics()[(following.pair.schema, "loose")]
        return row["FullLoadRows"] + row["AppliedInserts"]

    wait_until(lambda: counted() == 7, "each row is counted once")


@contextlib.contextmanager
def open_transaction(source, number):
    """A transaction of the source that has inserted a row into `t`; gives what commits it."""
    connection = source.connect()
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(f"INSERT INTO {source.table('t')} VALUES ({number}, 'open')")
        yield lambda: cursor.execute("COMMIT")


@pytest.mark.parametrize("pair", [FROM_POSTGRES], indirect=True)
def test_open_transactions_are_waited_for_as_long_as_the_settings_say(following):
    source = following.source
    source.create("t", KEYED)
    with open_transaction(source, 1) as commit:
        settings = {"FullLoadSettings": {"TransactionConsistencyTimeout": 1}, "ErrorBehavior": {"RecoverableErrorCount": 0}}
        message = following.failure(settings)
        assert "did not end within 1 s" in message
        commit()
    # A load that had begun anyway would lack it for good.
    following.resume()
    following.wait_until_equal("t")
    assert following.target.rows("t") == [(1, "open")]


@pytest.mark.parametrize("pair", [FROM_MARIADB], indirect=True)
def test_a_log_that_has_all_of_an_open_transaction_needs_no_wait_for_it(following):
    source = following.source
    source.create("t", KEYED)
    source.fill("t", 2)
    with open_transaction(source, 10) as commit:
        following.start({"FullLoadSettings": {"TransactionConsistencyTimeout": 600}})
        following.wait_for_load("t")
        assert len(following.target.rows("t")) == 2
        commit()
    following.wait_until_equal("t")
    assert following.target.rows("t")[-1] == (10, "open")


@from_both_engines
def test_a_load_without_changes_waits_for_no_transaction(following):
    source = following.source
    source.create("t", KEYED)
    source.fill("t", 2)
    with open_transaction(source, 10) as commit:
        following.begin(MigrationType="full-load")
        assert following.task.wait("stopped")["StopReason"] == "Stop Reason FULL_LOAD_ONLY_FINISHED"
        commit()
    assert len(following.target.rows("t")) == 2


ONE_AT_A_TIME = {"FullLoadSettings": {"MaxFullLoadSubTasks": 1}}


def first_and_later(schema):
    """Mappings that load the table `first` first and the table `later` then."""
    mappings = {"rules": []}
    for number, name in enumerate(("later", "first"), 1):
        locator = {"schema-name": schema, "table-name": name}
        rule = {"rule-type": "selection", "rule-id": str(number), "rule-name": str(number), "rule-action": "include"}
        mappings["rules"].append(rule | {"object-locator": locator, "load-order": number})
    return mappings


@in_all_directions
def test_a_table_that_changes_its_columns_while_another_loads_is_loaded_and_followed(following):
    pair, source, target = following.pair, following.source, following.target
    pair.create_both("first", KEYED)
    source.create("later", KEYED)
    for name in ("first", "later"):
        source.fill(name, 10)
    later = source.table("later")
    # The first cannot be dropped and created anew before.
    with target.locked("first"):
        following.start(ONE_AT_A_TIME, first_and_later(pair.schema))
        pair.wait_for(following.task, "first", "Full load")
        source.execute(
            f"INSERT INTO {later} VALUES (11, 'before')",
            f"ALTER TABLE {later} ADD COLUMN n integer",
            f"INSERT INTO {later} VALUES (12, 'after', 12)",
            f"UPDATE {later} SET n = id WHERE id <= 3",
            f"ALTER TABLE {later} DROP COLUMN v",
            f"UPDATE {later} SET n = 40 WHERE id = 4",
            f"DELETE FROM {later} WHERE id = 5",
        )
    following.wait_for_load("first", "later")
    wait_until(lambda: target.columns("later") == ["id", "n"], "the columns have changed", 30)
    following.wait_until_equal("first", "later")
    assert target.exceptions() == []


@pytest.mark.parametrize("statement", ["TRUNCATE", "DROP"])
@in_all_directions
def test_a_table_that_is_emptied_or_dropped_while_another_loads_is_so_on_the_target(following, statement):
    pair, source, target = following.pair, following.source, following.target
    pair.create_both("first", KEYED)
    source.create("later", KEYED)
    for name in ("first", "later"):
        source.fill(name, 10)
    later = source.table("later")
    # The first cannot be dropped and created anew before.
    with target.locked("first"):
        following.start(ONE_AT_A_TIME, first_and_later(pair.schema))
        pair.wait_for(following.task, "first", "Full load")
        source.execute(f"INSERT INTO {later} VALUES (11, 'before')", f"{statement} TABLE {later}")
        if statement == "TRUNCATE":
            source.execute(f"INSERT INTO {later} VALUES (12, 'after')", f"INSERT INTO {later} VALUES (1, 'again')")
    follows_in_the_end(following, statement, "first", "later")


@pytest.mark.parametrize("handled", [True, False])
@from_both_engines
def test_a_table_that_was_there_before_and_is_dropped_before_its_turn_goes_if_drops_are_followed(following, handled):
    pair, source, target = following.pair, following.source, following.target
    for name in ("first", "later"):
        pair.create_both(name, KEYED)
        source.fill(name, 10)
    load = ONE_AT_A_TIME["FullLoadSettings"] | {"TargetTablePrepMode": "TRUNCATE_BEFORE_LOAD"}
    policy = {"HandleSourceTableDropped": handled}
    with target.locked("first"):
        settings = {"FullLoadSettings": load, "ChangeProcessingDdlHandlingPolicy": policy}
        following.start(settings, first_and_later(pair.schema))
        pair.wait_for(following.task, "first", "Full load")
        source.execute(f"DROP TABLE {source.table('later')}")
    following.wait_for_load("first")
    pair.wait_for(following.task, "later", "Table does not exist")
    source.execute(f"INSERT INTO {source.table('first')} VALUES (100, 'last')")
    following.wait_until_equal("first")
    assert ("later" in target.tables()) == (not handled)


@pytest.mark.parametrize("statement", ["TRUNCATE", "DROP"])
@in_all_directions
def test_a_table_that_is_emptied_or_dropped_while_it_loads_is_so_on_the_target(following, statement):
    pair, source, target = following.pair, following.source, following.target
    pair.create_both("t", KEYED)
    source.create("other", KEYED)
    source.fill("t", 10)
    t = source.table("t")
    statements = [f"INSERT INTO {t} VALUES (11, 'before')", f"{statement} TABLE {t}"]
    if statement == "TRUNCATE":
        statements += [f"INSERT INTO {t} VALUES (12, 'after')", f"INSERT INTO {t} VALUES (1, 'again')"]
    worker = threading.Thread(target=source.execute, args=statements)
    with target.held_at("t", 5):
        following.begin({"FullLoadSettings": {"TargetTablePrepMode": "TRUNCATE_BEFORE_LOAD"}})
        pair.wait_for(following.task, "t", "Full load")
        worker.start()
        # The statement may have to wait for the reader.
        worker.join(0.3)
    worker.join()
    follows_in_the_end(following, statement, "other", "t")


def follows_in_the_end(following, statement, other, table):
    """The other table is followed, and the one that the statement was for is as on the source."""
    source, target = following.source, following.target
    following.wait_for_load(other)
    source.execute(f"INSERT INTO {source.table(other)} VALUES (100, 'last')")
    following.wait_until_equal(other)
    if statement == "TRUNCATE":
        following.wait_until_equal(table)
        source.execute(f"UPDATE {source.table(table)} SET v = 'in the end' WHERE id = 12")
        following.wait_until_equal(table)
        following.pair.wait_for(following.task, table, "Table completed")
    else:
        wait_until(lambda: table not in target.tables(), "the table is gone", 30)
    assert following.task.status == "running" and target.exceptions() == []


@in_all_directions
def test_columns_that_the_source_computes_are_on_the_target_what_they_are_there(following):
    source = following.source
    computed = "g integer GENERATED ALWAYS AS (n * 2) STORED"
    if not source.is_postgres:
        computed += ", h integer GENERATED ALWAYS AS (n * 3) VIRTUAL"
    source.create("t", f"id integer PRIMARY KEY, n integer, {computed}, last varchar(10)")
    t = source.table("t")
    source.execute(f"INSERT INTO {t} (id, n, last) VALUES (1, 1, 'x'), (2, 2, 'y'), (3, 3, 'z')")
    following.start()
    following.wait_for_load("t")
    source.execute(
        f"INSERT INTO {t} (id, n, last) VALUES (4, 4, 'new')",
        f"UPDATE {t} SET n = 10 WHERE id = 1",
        f"UPDATE {t} SET last = 'other' WHERE id = 2",
        f"DELETE FROM {t} WHERE id = 3",
    )
    following.wait_for_counts("t", (1, 2, 1, 0))
    columns = ", ".join(following.target.columns("t"))
    assert following.target.rows("t") == list(source.execute(f"SELECT {columns} FROM {t} ORDER BY 1"))
    assert {"id", "n", "g", "last"} <= set(following.target.columns("t"))
    assert following.target.exceptions() == []


@pytest.mark.parametrize("pair", ["mariadb-postgres", "mariadb-mariadb"], indirect=True)
def test_changes_are_applied_in_sessions_that_the_endpoint_sets_up(following):
    """Foreign keys are off, says the guide, in this way."""
    pair, source, target = following.pair, following.source, following.target
    pair.make_target_schema()
    if target.is_postgres:
        pair.set_up_target(PostgreSQLSettings={"AfterConnectScript": "SET session_replication_role = replica"})
    else:
        pair.set_up_target(MySQLSettings={"AfterConnectScript": "SET FOREIGN_KEY_CHECKS = 0"})
    for name in ("parent", "child"):
        source.create(name, KEYED if name == "parent" else "id integer PRIMARY KEY, parent integer")
    target.create("parent", KEYED)
    parent = target.table("parent")
    target.create("child", f"id integer PRIMARY KEY, parent integer, FOREIGN KEY (parent) REFERENCES {parent} (id)")
    following.start({"FullLoadSettings": {"TargetTablePrepMode": "DO_NOTHING"}})
    following.wait_for_load("parent", "child")
    # The source does not mind the order.
    source.execute(
        f"INSERT INTO {source.table('child')} VALUES (1, 1)",
        f"INSERT INTO {source.table('parent')} VALUES (1, 'late')",
        f"INSERT INTO {source.table('child')} VALUES (2, 2)",
        f"DELETE FROM {source.table('parent')} WHERE id = 1",
    )
    following.wait_for_counts("parent", (1, 0, 1, 0))
    following.wait_until_equal("parent", "child")
    assert target.exceptions() == []


@pytest.mark.parametrize(
    "pair, engines",
    [
        ("postgres-mariadb", ("aurora-postgresql", "aurora")),
        ("mariadb-postgres", ("mysql", "aurora-postgresql")),
        ("mariadb-mariadb", ("aurora", "mysql")),
    ],
    indirect=["pair"],
)
def test_engines_that_speak_as_others_follow_as_those_do(following, engines):
    source = following.source
    following.pair.set_up_source(EngineName=engines[0])
    following.pair.set_up_target(EngineName=engines[1])
    source.create("t", KEYED)
    source.fill("t", 3)
    following.start()
    following.wait_for_load("t")
    t = source.table("t")
    source.execute(f"INSERT INTO {t} VALUES (4, 'x')", f"UPDATE {t} SET id = 10 WHERE id = 1", f"DELETE FROM {t} WHERE id = 2")
    following.wait_for_counts("t", (1, 1, 1, 0))
    following.wait_until_equal("t")
