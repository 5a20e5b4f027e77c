"""Where in its source's log a task without a load begins, and where a task begins that ran before."""

import contextlib
import datetime

import pytest
from conftest import filters, run_waiter, wait_until
from following import FOLLOW, is_gone, make_following  # noqa: F401
from pairs import FROM_MARIADB, FROM_POSTGRES, pair  # noqa: F401

from_mariadb = pytest.mark.parametrize("pair", [FROM_MARIADB], indirect=True)
from_postgres = pytest.mark.parametrize("pair", [FROM_POSTGRES], indirect=True)


def now():
    return datetime.datetime.now(datetime.timezone.utc)


def into(schema):
    """Each task has a schema of its own on the target."""
    return {"TargetMetadata": {"TargetSchema": schema}}


def insert(source, *numbers):
    source.execute(f"INSERT INTO {source.table('t')} VALUES " + ", ".join(f"({number})" for number in numbers))


def refused(client, call, code, text):
    with pytest.raises(client.exceptions.ClientError) as fault:
        call()
    assert fault.value.response["Error"]["Code"] == code
    assert text in fault.value.response["Error"]["Message"]


# --- MySQL and MariaDB -----------------------------------------------------------------------------------------------


def end_of_binlog(source):
    file, offset, *_ = source.execute("SHOW MASTER STATUS")[0]
    return f"{file}:{offset}"


@from_mariadb
def test_a_task_begins_at_a_place_of_the_binary_log_named_in_any_way(make_following, pair):
    source = pair.source
    source.create("t", "id integer PRIMARY KEY")
    insert(source, 1)
    # The log has whole seconds.
    time = now().replace(microsecond=0) + datetime.timedelta(seconds=1)
    wait_until(lambda: now() >= time, "another second has begun")
    place, gtid = end_of_binlog(source), source.value("SELECT @@gtid_binlog_pos")
    # Neither the log's files nor what they are read by end with a place.
    source.execute("FLUSH BINARY LOGS")
    insert(source, 2)
    source.execute("BEGIN", f"INSERT INTO {source.table('t')} VALUES (3)", f"DELETE FROM {source.table('t')}", "COMMIT")
    insert(source, 4)
    starts = {
        "place": {"CdcStartPosition": place},
        "date": {"CdcStartPosition": time.strftime("%Y-%m-%dT%H:%M:%S")},
        "time": {"CdcStartTime": time},
        "gtid": {"CdcStartPosition": gtid},
        "checkpoint": {"CdcStartPosition": f"checkpoint:V1#27#{place}:-1:{place.split(':')[1]}:0:{place}#0#0#*#0#93"},
    }
    follows = {name: make_following() for name in starts}
    for name, start in starts.items():
        follows[name].start(into(f"{pair.schema}_{name}"), **(FOLLOW | start))
    for name, one in follows.items():
        # The row of before is not there to be deleted.
        one.wait_for_counts("t", (3, 0, 3, 0), (3, 0, 2, 0))
        assert pair.target.rows("t", f"{pair.schema}_{name}") == [(4,)], name


@from_mariadb
def test_a_checkpoint_of_one_task_starts_another(make_following, pair):
    one, other = make_following(), make_following()
    pair.source.create("t", "id integer PRIMARY KEY")
    one.start(**FOLLOW)
    insert(pair.source, 1, 2)
    one.wait_for_counts("t", (2, 0, 0, 0))
    checkpoint = one.stop()["RecoveryCheckpoint"]
    insert(pair.source, 3)
    other.start(into("other"), **(FOLLOW | {"CdcStartPosition": checkpoint}))
    other.wait_for_counts("t", (1, 0, 0, 0))
    assert pair.target.rows("t", "other") == [(3,)]
    assert other.task.describe()["CdcStartPosition"] == checkpoint


@from_mariadb
def test_places_that_the_binary_log_has_not_fail_the_task_and_say_why(make_following, pair):
    pair.source.create("t", "id integer PRIMARY KEY")
    file, offset = end_of_binlog(pair.source).split(":")
    insert(pair.source, 1)
    for position, why in [
        ("binlog.999999:4", "Error 1236"),
        (f"{file}:{int(offset) + 10}", "is no position in the log of the source"),
        (f"{file}:99999999", "is no position in the log of the source"),
        ("4AF/B00000D0", "is no position in the log of MySQL"),
    ]:
        message = make_following().failure(**(FOLLOW | {"CdcStartPosition": position}))
        assert why in message and "Stop Reason FATAL_ERROR" in message, message
    assert "t" not in pair.target.tables() or pair.target.rows("t") == []


@from_mariadb
def test_a_task_without_a_load_can_be_started_anew_at_a_position_and_only_so(make_following, pair):
    following = make_following()
    pair.source.create("t", "id integer PRIMARY KEY")
    place = end_of_binlog(pair.source)
    task = following.start(**FOLLOW)
    insert(pair.source, 1, 2)
    following.wait_for_counts("t", (2, 0, 0, 0))
    first = following.stop()["ReplicationTaskStats"]
    text = "Start Type : START_REPLICATION, valid only for tasks running for the first time"
    refused(pair.client, task.start, "InvalidParameterCombinationException", text)
    both = {"CdcStartPosition": place, "CdcStartTime": now()}
    start = {"ReplicationTaskArn": task.arn, "StartReplicationTaskType": "start-replication"}
    refused(
        pair.client,
        lambda: pair.client.start_replication_task(**start, **both),
        "InvalidParameterCombinationException",
        "CdcStartPosition",
    )
    pair.target.execute(f"DELETE FROM {pair.target.table('t')}")
    insert(pair.source, 3)
    pair.client.start_replication_task(**start, CdcStartPosition=place)
    task.wait("running")
    following.wait_for_counts("t", (3, 0, 0, 0))
    following.wait_until_equal("t")
    stats = task.stats
    assert stats["FreshStartDate"] > first["FreshStartDate"]


def modify(task, **start):
    """Gives the task another place to begin at, which it shows."""
    task.client.modify_replication_task(ReplicationTaskArn=task.arn, **start)
    shown = start.get("CdcStartPosition") or start["CdcStartTime"].strftime("%Y-%m-%dT%H:%M:%S")
    assert task.wait("stopped")["CdcStartPosition"] == shown


def begin_anew(following):
    following.task.start()
    following.task.wait("running")


@from_mariadb
def test_a_task_without_a_load_begins_anew_where_it_was_modified_to_begin(make_following, pair):
    following = make_following()
    source, target = pair.source, pair.target
    source.create("t", "id integer PRIMARY KEY")
    insert(source, 1)
    place = end_of_binlog(source)
    insert(source, 2)
    # The log has whole seconds.
    time = now().replace(microsecond=0) + datetime.timedelta(seconds=1)
    wait_until(lambda: now() >= time, "another second has begun")
    task = following.start(**FOLLOW)
    insert(source, 3)
    following.wait_for_counts("t", (1, 0, 0, 0))
    following.stop()
    modify(task, CdcStartPosition=place)
    # Whoever resumes goes on where the task was.
    insert(source, 4)
    following.resume()
    following.wait_for_counts("t", (2, 0, 0, 0))
    following.stop()
    for start, rows in [({}, [2, 3, 4]), ({"CdcStartTime": time}, [3, 4])]:
        if start:
            modify(task, **start)
        target.execute(f"DELETE FROM {target.table('t')}")
        begin_anew(following)
        following.wait_for_counts("t", (len(rows), 0, 0, 0))
        assert [id for (id,) in target.rows("t")] == rows
        following.stop()
        text = "Start Type : START_REPLICATION, valid only for tasks running for the first time"
        refused(pair.client, task.start, "InvalidParameterCombinationException", text)


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def slot(pair, plugin="test_decoding"):
    """A slot that the user has made, and an endpoint that names it."""
    name = pair.schema
    pair.source.execute(f"SELECT pg_create_logical_replication_slot('{name}', '{plugin}')")
    pair.set_up_source(PostgreSQLSettings={"SlotName": name})
    yield name
    pair.source.execute(f"SELECT pg_drop_replication_slot('{name}')")


def end_of_wal(source):
    return source.value("SELECT pg_current_wal_lsn()::text")


@from_postgres
def test_a_task_begins_at_a_place_that_a_slot_of_the_user_has(make_following, pair, dms):
    source = pair.source
    source.create("t", "id integer PRIMARY KEY")
    one, again, early = make_following(), make_following(), make_following()
    before_the_slot = end_of_wal(source)
    with slot(pair) as name:
        insert(source, 1)
        place = end_of_wal(source)
        insert(source, 2)
        source.execute("BEGIN", f"INSERT INTO {source.table('t')} VALUES (3)", f"DELETE FROM {source.table('t')}", "COMMIT")
        insert(source, 4)
        one.start(into("one"), **(FOLLOW | {"CdcStartPosition": place}))
        one.wait_for_counts("t", (3, 0, 3, 0), (3, 0, 2, 0))
        assert pair.target.rows("t", "one") == [(4,)]
        checkpoint = one.stop()["RecoveryCheckpoint"]
        insert(source, 5)
        again.start(into("again"), **(FOLLOW | {"CdcStartPosition": checkpoint}))
        again.wait_for_counts("t", (1, 0, 0, 0))
        assert pair.target.rows("t", "again") == [(5,)]
        again.stop()
        message = early.failure(into("early"), **(FOLLOW | {"CdcStartPosition": before_the_slot}))
        assert f"replication slot {name} has it only from" in message
        for task in (one.task, again.task, early.task):
            dms.delete_replication_task(ReplicationTaskArn=task.arn)
            wait_until(lambda: is_gone(dms, task), "the task is deleted")
        assert source.value(f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{name}'") == 1


@pytest.mark.parametrize("plugin", ["test_decoding", "pgoutput"])
@from_postgres
def test_a_load_goes_together_with_a_slot_of_the_user_that_is_older(make_following, pair, plugin):
    following = make_following()
    pair.source.create("t", "id integer PRIMARY KEY, v text")
    with slot(pair, plugin) as name:
        pair.source.fill("t", 5)
        # It is in the load, and in the slot.
        pair.source.execute(f"UPDATE {pair.source.table('t')} SET id = id + 10", f"DELETE FROM {pair.source.table('t')} WHERE id = 11")
        following.start({"ErrorBehavior": {"ApplyErrorDeletePolicy": "LOG_ERROR", "FullLoadIgnoreConflicts": False}})
        following.wait_for_load("t")
        pair.source.execute(f"UPDATE {pair.source.table('t')} SET v = 'new' WHERE id = 12")
        following.wait_until_equal("t")
        following.wait_for_counts("t", (0, 1, 0, 0))
        assert pair.target.exceptions() == []
        following.stop()
        pair.source.execute(f"DELETE FROM {pair.source.table('t')} WHERE id = 13")
        following.resume()
        following.wait_for_counts("t", (0, 1, 1, 0))
        following.wait_until_equal("t")
        slots = pair.source.execute("SELECT slot_name, plugin FROM pg_replication_slots WHERE database = current_database()")
        assert slots == [(name, plugin)]
        following.stop()


@from_postgres
def test_places_that_postgresql_cannot_begin_at_fail_the_task_and_say_why(make_following, pair):
    pair.source.create("t", "id integer PRIMARY KEY")
    time = now().strftime("%Y-%m-%dT%H:%M:%S")
    for position, why in [
        (time, "cannot be captured from a time on"),
        (end_of_wal(pair.source), "SlotName has to name a replication slot that has it"),
        ("binlog.000001:4", "is no position in the log of PostgreSQL"),
    ]:
        message = make_following().failure(**(FOLLOW | {"CdcStartPosition": position}))
        assert why in message and "Stop Reason FATAL_ERROR" in message, message
    pair.set_up_source(PostgreSQLSettings={"SlotName": "nobody_made_it"})
    message = make_following().failure(**(FOLLOW | {"CdcStartPosition": end_of_wal(pair.source)}))
    assert "replication slot nobody_made_it, which SlotName names, does not exist" in message
    slots = pair.source.value("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()")
    assert slots == 0


@from_postgres
def test_a_task_that_ran_before_begins_anew_at_another_place_of_the_slot_of_the_user(make_following, pair):
    following = make_following()
    source, target = pair.source, pair.target
    source.create("t", "id integer PRIMARY KEY")
    with slot(pair):
        task = following.start(**(FOLLOW | {"CdcStartPosition": end_of_wal(source)}))
        insert(source, 1)
        following.wait_for_counts("t", (1, 0, 0, 0))
        following.stop()
        insert(source, 2)
        place = end_of_wal(source)
        insert(source, 3)
        modify(task, CdcStartPosition=place)
        begin_anew(following)
        following.wait_for_counts("t", (1, 0, 0, 0))
        assert target.rows("t") == [(1,), (3,)]
        following.stop()


@pytest.mark.parametrize("named", ["a slot of the user", "the slot of the task"])
@from_postgres
def test_a_task_with_a_slot_of_its_own_begins_anew_at_a_place_that_a_slot_has(make_following, pair, named):
    following = make_following()
    client, source, target = pair.client, pair.source, pair.target
    source.create("t", "id integer PRIMARY KEY")
    slots = "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"
    task = following.start(**FOLLOW)
    insert(source, 1)
    following.wait_for_counts("t", (1, 0, 0, 0))
    following.stop()
    own = source.value(slots)
    given = own if named == "the slot of the task" else f"{pair.schema}_given"
    if given != own:
        source.execute(f"SELECT pg_create_logical_replication_slot('{given}', 'pgoutput')")
    insert(source, 2)
    place = end_of_wal(source)
    insert(source, 3)
    # Nobody but SlotName says which slot has a place. What there is stays.
    modify(task, CdcStartPosition=place)
    task.start()
    assert "SlotName has to name a replication slot that has it" in task.wait("failed")["LastFailureMessage"]
    assert (own,) in source.execute(slots)
    settings = {"SlotName": given}
    client.modify_endpoint(EndpointArn=pair.source_arn, PostgreSQLSettings=settings)
    # An endpoint that was modified is tested again.
    run_waiter(client, "test_connection_succeeds", Filters=filters("endpoint-arn", pair.source_arn))
    client.start_replication_task(ReplicationTaskArn=task.arn, StartReplicationTaskType="start-replication", CdcStartPosition=place)
    task.wait("running")
    following.wait_for_counts("t", (1, 0, 0, 0))
    assert target.rows("t") == [(1,), (3,)]
    # Its own would keep the log of the server for nobody.
    assert source.execute(slots) == [(given,)]


# --- both ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", ["postgres-mariadb", FROM_MARIADB], indirect=True)
def test_reload_target_loads_everything_again_and_follows_on(make_following, pair):
    following = make_following()
    pair.source.create("t", "id integer PRIMARY KEY, v text")
    pair.source.fill("t", 10)
    task = following.start()
    following.wait_for_load("t")
    t, there = pair.source.table("t"), pair.target.table("t")
    pair.source.execute(f"UPDATE {t} SET v = 'one' WHERE id = 1")
    following.wait_for_counts("t", (0, 1, 0, 0))
    first = following.stop()["ReplicationTaskStats"]
    pair.source.execute(f"INSERT INTO {t} VALUES (11, 'meanwhile')")
    # What only a load can mend.
    pair.target.execute(f"DELETE FROM {there} WHERE id = 5", f"UPDATE {there} SET v = 'theirs' WHERE id = 6")
    following.resume()
    following.wait_for_counts("t", (1, 1, 0, 0))
    resumed = following.stop()["ReplicationTaskStats"]
    assert resumed["FreshStartDate"] == first["FreshStartDate"] and resumed["StartDate"] > first["StartDate"]
    task.start("reload-target")
    task.wait("running")
    following.wait_for_load("t")
    following.wait_until_equal("t")
    row = task.statistics()[(pair.schema, "t")]
    assert row["FullLoadRows"] == 11
    assert task.stats["FreshStartDate"] > first["FreshStartDate"]
    pair.source.execute(f"DELETE FROM {t} WHERE id = 2")
    following.wait_for_counts("t", (0, 0, 1, 0))
    following.wait_until_equal("t")
