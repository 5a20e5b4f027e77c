"""What a task has on a PostgreSQL source, and what comes of that source's own ways."""

import re
import time

import pytest
from conftest import include, wait_until
from following import FOLLOW, KEYED, following, is_gone, make_following, resource_id  # noqa: F401
from pairs import FROM_POSTGRES, lost, pair  # noqa: F401

from_postgres = pytest.mark.parametrize("pair", [FROM_POSTGRES], indirect=True)

HERE = "WHERE database = current_database()"


def left_behind(source):
    """All that a task may have made on the source, but for the record of statements, which DMS leaves, too."""
    names = [
        f"SELECT 'slot ' || slot_name FROM pg_replication_slots {HERE}",
        "SELECT 'publication ' || pubname FROM pg_publication",
        "SELECT 'session ' || pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
        "SELECT 'trigger ' || tgname FROM pg_trigger WHERE NOT tgisinternal",
        "SELECT 'table ' || relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'awsdms%' AND relname <> 'awsdms_ddl_audit'",
    ]
    return [name for (name,) in source.execute(" UNION ALL ".join(names))]


def delete(dms, task):
    dms.delete_replication_task(ReplicationTaskArn=task.arn)
    wait_until(lambda: is_gone(dms, task), "the task is deleted")


@from_postgres
def test_a_task_has_one_slot_that_stays_while_it_is_stopped_and_goes_with_the_task(following, dms):
    source = following.source
    source.create("t", KEYED)
    task = following.start()
    following.wait_for_load("t")
    source.execute(f"INSERT INTO {source.table('t')} VALUES (1, 'x')")
    following.wait_until_equal("t")
    slots = f"SELECT slot_name, plugin, active FROM pg_replication_slots {HERE}"
    ((name, plugin, active),) = source.execute(slots)
    begins = resource_id(task).lower()[:16]
    assert re.fullmatch(f"{begins}_[0-9]{{8}}_[0-9a-f]{{8}}(_[0-9a-f]{{4}}){{3}}_[0-9a-f]{{12}}", name)
    assert (plugin, active) == ("pgoutput", True)
    following.stop()
    assert source.execute(slots) == [(name, plugin, False)]
    following.resume()
    following.stop()
    delete(dms, task)
    wait_until(lambda: left_behind(source) == [], "nothing is left", 5)


@from_postgres
def test_nothing_stays_of_a_task_that_is_deleted_after_a_failure(make_following, pair, dms):
    pair.source.create("t", KEYED)
    following = make_following()
    following.start({"ErrorBehavior": {"TableErrorPolicy": "STOP_TASK"}})
    following.wait_for_load("t")
    pair.target.execute(f"DROP TABLE {pair.target.table('t')}")
    pair.source.execute(f"INSERT INTO {pair.source.table('t')} VALUES (1, 'x')")
    following.task.wait("failed")
    delete(dms, following.task)
    wait_until(lambda: left_behind(pair.source) == [], "nothing is left", 5)


@from_postgres
def test_of_a_task_that_is_deleted_while_its_source_is_gone_the_log_says_what_is_left_until_it_goes_later(
    following, dms, server
):
    source = following.source
    source.create("t", KEYED)
    task = following.start()
    following.wait_for_load("t")
    following.stop()
    slot, = [thing.removeprefix("slot ") for thing in left_behind(source) if thing.startswith("slot ")]
    before = server.log.stat().st_size
    with lost(source):
        begun = time.monotonic()
        delete(dms, task)
        assert time.monotonic() - begun < 5
        said = server.log.read_bytes()[before:].decode()
        assert "what the task has made on its source could not be taken away" in said
        assert f"drop replication slot {slot}, its replication sets and the publications dms_" in said
    wait_until(lambda: left_behind(source) == [], "nothing is left", 20)


@pytest.mark.parametrize("plugin", ["pglogical", "PGLOGICAL"])
@from_postgres
def test_a_plugin_that_the_server_lacks_is_refused_with_its_name(following, plugin):
    following.source.create("t", KEYED)
    following.pair.set_up_source(PostgreSQLSettings={"PluginName": plugin})
    message = following.failure()
    assert "PluginName pglogical: the server has not loaded pglogical: add it to shared_preload_libraries" in message
    assert "Stop Reason FATAL_ERROR" in message
    assert left_behind(following.source) == []


@from_postgres
def test_the_heartbeat_moves_the_slot_of_a_task_without_changes(following, dms):
    source = following.source
    source.create("t", KEYED)
    source.execute("CREATE SCHEMA pulse")
    settings = {"HeartbeatEnable": True, "HeartbeatFrequency": 1, "HeartbeatSchema": "pulse"}
    following.pair.set_up_source(PostgreSQLSettings=settings)
    # `%` selects the heartbeat's own table, too, if anything did.
    following.start(mappings=include("%"))
    following.wait_for_load("t")
    beats = "SELECT hb_key, hb_created_by, hb_last_heartbeat_by FROM pulse.awsdms_heartbeat"
    wait_until(lambda: source.value("SELECT to_regclass('pulse.awsdms_heartbeat') IS NOT NULL"), "the heart beats")
    wait_until(lambda: source.execute(beats) == [(1, source.database.user, source.database.user)], "it is told by whom")
    # The server may forget what is before it.
    place = source.value("SELECT pg_current_wal_lsn()::text")
    moved = f"SELECT confirmed_flush_lsn >= '{place}' FROM pg_replication_slots {HERE}"
    wait_until(lambda: source.value(moved), "the slot moves", 30)
    assert following.task.status == "running"


@from_postgres
def test_without_an_identity_only_inserts_come_and_no_statement_fails(following):
    source, target = following.source, following.target
    source.create("t", KEYED)
    source.fill("t", 3)
    source.execute(f"ALTER TABLE {source.table('t')} REPLICA IDENTITY NOTHING")
    source.create("last", KEYED)
    following.start()
    following.wait_for_load("t", "last")
    t = source.table("t")
    source.execute(
        f"INSERT INTO {t} VALUES (4, 'x')",
        f"UPDATE {t} SET v = 'unseen' WHERE id = 1",
        f"DELETE FROM {t} WHERE id = 2",
        f"INSERT INTO {t} VALUES (5, 'y')",
        f"INSERT INTO {source.table('last')} VALUES (1, 'x')",
    )
    following.wait_until_equal("last")
    following.wait_for_counts("t", (2, 0, 0, 0))
    assert target.rows("t") == [(1, "row 1"), (2, "row 2"), (3, "row 3"), (4, "x"), (5, "y")]
    source.execute(f"TRUNCATE {t}, {source.table('last')}")
    following.wait_until_equal("t", "last")
    following.wait_for_counts("t", (2, 0, 0, 1))


PARTITIONED = [
    "CREATE TABLE {p} (id integer, at integer, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
    "CREATE TABLE {p1} PARTITION OF {p} FOR VALUES FROM (0) TO (10)",
    "CREATE TABLE {p2} PARTITION OF {p} FOR VALUES FROM (10) TO (20)",
    "INSERT INTO {p} SELECT n, n, 'row ' || n FROM generate_series(1, 19) AS n",
]

CHANGED = [
    "INSERT INTO {p} VALUES (100, 5, 'in the first'), (101, 15, 'in the second')",
    "UPDATE {p} SET v = 'changed' WHERE id IN (1, 11)",
    # From one into the other.
    "UPDATE {p} SET at = 19, v = 'moved' WHERE id = 2",
    "DELETE FROM {p} WHERE id IN (3, 13)",
    "CREATE TABLE {p3} PARTITION OF {p} FOR VALUES FROM (20) TO (30)",
    "INSERT INTO {p} VALUES (200, 25, 'in the third')",
    "UPDATE {p} SET at = 25 WHERE id = 4",
]

AFTERWARDS = ["UPDATE {p} SET v = 'last' WHERE at IN (5, 15, 25)", "DELETE FROM {p3} WHERE id = 4", "INSERT INTO {p1} VALUES (300, 1, 'by its name')"]


def in_partitions(source, statements):
    names = {name: source.table(name) for name in ("p", "p1", "p2", "p3")}
    source.execute(*[statement.format(**names) for statement in statements])


@pytest.mark.parametrize("plugin", ["no-preference", "test-decoding"])
@pytest.mark.parametrize("selected", ["the whole", "its parts"])
@pytest.mark.parametrize("pair", ["postgres-mariadb"], indirect=True)
def test_rows_of_partitions_come_as_those_of_the_table_that_is_selected(following, selected, plugin):
    source = following.source
    following.pair.set_up_source(PostgreSQLSettings={"PluginName": plugin})
    in_partitions(source, PARTITIONED)
    whole = selected == "the whole"
    following.start(mappings=include(following.pair.schema, "p" if whole else "p_"))
    following.wait_for_load(*["p"] if whole else ["p1", "p2"])
    in_partitions(source, CHANGED)
    tables = ["p"] if whole else ["p1", "p2", "p3"]
    following.wait_until_equal(*tables)
    in_partitions(source, AFTERWARDS)
    following.wait_until_equal(*tables)
    told = lambda: {table for _, table in following.task.statistics()}
    wait_until(lambda: told() == set(tables), "the tables are told")
    assert following.target.exceptions() == []


@from_postgres
def test_statements_are_recorded_where_the_settings_say_and_leave_no_rows(following):
    source = following.source
    source.create("t", KEYED)
    following.pair.set_up_source(PostgreSQLSettings={"CaptureDdls": True, "DdlArtifactsSchema": "records"})
    following.start()
    following.wait_for_load("t")
    source.execute(f"ALTER TABLE {source.table('t')} ADD COLUMN n integer")
    wait_until(lambda: following.target.columns("t") == ["id", "v", "n"], "the column is there without a row")
    columns = ["c_key", "c_time", "c_user", "c_txn", "c_tag", "c_oid", "c_name", "c_schema", "c_ddlqry"]
    assert source.columns("awsdms_ddl_audit", "records") == columns
    assert source.rows("awsdms_ddl_audit", "records") == []
    assert source.execute("SELECT evtname FROM pg_event_trigger") == [("awsdms_intercept_ddl",)]


@from_postgres
def test_without_the_record_nothing_is_made_and_rows_show_what_changed(following, dms):
    source = following.source
    source.create("t", KEYED)
    source.fill("t", 2)
    following.pair.set_up_source(PostgreSQLSettings={"CaptureDdls": False})
    task = following.start()
    following.wait_for_load("t")
    t = source.table("t")
    source.execute(
        f"ALTER TABLE {t} ADD COLUMN n integer",
        f"INSERT INTO {t} VALUES (3, 'three', 3)",
        f"ALTER TABLE {t} DROP COLUMN v",
        f"UPDATE {t} SET n = 1 WHERE id = 1",
    )
    following.wait_until_equal("t")
    assert following.target.columns("t") == ["id", "n"]
    made = "SELECT count(*) FROM pg_event_trigger", "SELECT count(*) FROM pg_class WHERE relname LIKE 'awsdms%'"
    assert [source.value(count) for count in made] == [0, 0]
    following.stop()
    delete(dms, task)
    wait_until(lambda: left_behind(source) == [], "nothing is left", 5)


@from_postgres
def test_a_user_who_may_not_publish_follows_through_test_decoding(following):
    """Of a table that is another's; the slot needs the attribute REPLICATION, and reading the right to read."""
    source = following.source
    source.create("t", KEYED)
    source.fill("t", 2)
    schema, user = source.quote(source.schema), f"reader_{source.schema}"
    source.execute(
        f"CREATE ROLE {user} LOGIN REPLICATION PASSWORD 'reader'",
        f"GRANT USAGE ON SCHEMA {schema} TO {user}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {user}",
    )
    following.pair.set_up_source(Username=user, Password="reader")
    following.start()
    following.wait_for_load("t")
    assert source.execute(f"SELECT plugin FROM pg_replication_slots {HERE}") == [("test_decoding",)]
    source.execute(f"UPDATE {source.table('t')} SET v = 'changed' WHERE id = 1", f"DELETE FROM {source.table('t')} WHERE id = 2")
    following.wait_until_equal("t")
    following.wait_for_counts("t", (0, 1, 1, 0))


@from_postgres
def test_a_slot_that_is_gone_or_has_lost_its_log_fails_the_task_and_says_what_to_do(following):
    source = following.source
    source.create("t", KEYED)
    task = following.start(**FOLLOW)
    following.stop()
    source.execute(f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots {HERE}")
    task.start("resume-processing")
    message = task.wait("failed")["LastFailureMessage"]
    assert "does not exist any more" in message and "the task has to be started anew" in message


@from_postgres
def test_a_table_that_gets_a_key_or_an_identity_later_is_given_up_and_loaded_again(following):
    """What is updated in it before it is published anew is nowhere in the log of pgoutput."""
    source = following.source
    tables = ("keyed", "full", "index", "stopped")
    for name in tables:
        source.create(name, "id integer NOT NULL, v text")
        source.fill(name, 3)
    task = following.start()
    following.wait_for_load(*tables)
    keyed, full, index, stopped = map(source.table, tables)
    change = "UPDATE {0} SET v = 'changed' WHERE id = 1", "DELETE FROM {0} WHERE id = 2"
    source.execute(
        f"ALTER TABLE {keyed} ADD PRIMARY KEY (id)",
        f"ALTER TABLE {full} REPLICA IDENTITY FULL",
        f"CREATE UNIQUE INDEX by_id ON {index} (id)",
        f"ALTER TABLE {index} REPLICA IDENTITY USING INDEX by_id",
        *[statement.format(table) for table in (keyed, full, index) for statement in change],
    )
    for name in tables[:3]:
        following.pair.wait_for(task, name, "Table error")
    following.reload(*tables[:3])
    following.wait_for_load(*tables)
    following.wait_until_equal(*tables)
    following.stop()
    source.execute(f"ALTER TABLE {stopped} ADD PRIMARY KEY (id)", *[statement.format(stopped) for statement in change])
    following.resume()
    following.pair.wait_for(task, "stopped", "Table error")
    following.reload("stopped")
    following.wait_for_load("stopped")
    source.execute(*[f"UPDATE {table} SET id = 30 WHERE id = 3" for table in (keyed, full, index, stopped)])
    following.wait_until_equal(*tables)


@from_postgres
def test_through_test_decoding_a_table_that_gets_a_key_later_is_followed_by_it(following):
    source = following.source
    following.pair.set_up_source(PostgreSQLSettings={"PluginName": "test-decoding"})
    source.create("t", "id integer NOT NULL, v text")
    source.fill("t", 3)
    following.start()
    following.wait_for_load("t")
    t = source.table("t")
    source.execute(
        f"ALTER TABLE {t} ADD PRIMARY KEY (id)",
        f"UPDATE {t} SET v = 'changed' WHERE id = 1",
        f"DELETE FROM {t} WHERE id = 2",
        f"UPDATE {t} SET id = 30 WHERE id = 3",
    )
    following.wait_until_equal("t")
    following.wait_for_counts("t", (0, 2, 1, 0))
