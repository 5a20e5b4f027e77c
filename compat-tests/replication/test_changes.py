"""Ongoing replication as a user sees it."""

from conftest import wait_until
from following import FOLLOW, following, is_gone  # noqa: F401
from pairs import STOPPED_BY_USER, from_both_engines, in_all_directions, pair  # noqa: F401
import pytest



@in_all_directions
def test_rows_that_change_after_the_load_change_on_the_target(following):
    following.source.create("t", "id integer PRIMARY KEY, value text")
    following.source.fill("t", 1000)
    following.start()
    following.wait_for_load("t")
    t = following.source.table("t")
    following.source.execute(f"INSERT INTO {t} VALUES (2000, 'new')")
    following.source.execute(f"UPDATE {t} SET value = 'other' WHERE id <= 10", f"DELETE FROM {t} WHERE id > 990 AND id < 2000")
    following.wait_until_equal("t")
    following.wait_for_counts("t", (1, 10, 10, 0))
    row = following.task.statistics()[(following.pair.schema, "t")]
    assert (row["FullLoadRows"], row["TableState"]) == (1000, "Table completed")
    task = following.task.describe()
    assert task["Status"] == "running" and task["ReplicationTaskStats"]["FullLoadProgressPercent"] == 100
    assert task["RecoveryCheckpoint"].startswith("checkpoint:V1#")


@from_both_engines
def test_latency_grows_while_a_change_waits_and_is_none_when_nothing_does(following, server):
    following.source.create("t", "id integer PRIMARY KEY, value text")
    following.source.fill("t", 2)
    following.start()
    following.wait_for_load("t")
    with following.target.locked("t"):
        following.source.execute(f"UPDATE {following.source.table('t')} SET value = 'held'")
        wait_until(lambda: following.latencies(server)[1] > 1.5, "the change is late at the target")
        assert following.latencies(server)[0] == 0
    following.wait_until_equal("t")
    wait_until(lambda: following.latencies(server) == (0, 0), "there is no latency", 10)


@in_all_directions
def test_a_stopped_task_goes_on_where_it_was(following):
    following.source.create("t", "id integer PRIMARY KEY, value text")
    following.source.fill("t", 10)
    task = following.start()
    t = following.source.table("t")
    following.wait_for_load("t")
    following.source.execute(f"UPDATE {t} SET value = 'one'")
    following.wait_for_counts("t", (0, 10, 0, 0))
    task.stop()
    assert task.wait("stopped")["StopReason"] == STOPPED_BY_USER
    following.source.execute(f"UPDATE {t} SET value = 'two'", f"DELETE FROM {t} WHERE id = 1")
    task.start("resume-processing")
    task.wait("running")
    following.wait_until_equal("t")
    following.wait_for_counts("t", (0, 20, 1, 0))


@in_all_directions
def test_a_task_without_a_load_takes_only_what_changes(following):
    following.source.create("t", "id integer PRIMARY KEY, value text")
    following.source.fill("t", 5)
    following.start(**FOLLOW)
    following.source.execute(f"INSERT INTO {following.source.table('t')} VALUES (6, 'six')")
    following.wait_for_counts("t", (1, 0, 0, 0))
    assert following.target.rows("t") == [(6, "six")]


@in_all_directions
def test_a_deleted_task_leaves_nothing_on_the_source(following, dms):
    following.source.create("t", "id integer PRIMARY KEY, value text")
    task = following.start()
    following.wait_for_load("t")
    task.stop()
    task.wait("stopped")
    dms.delete_replication_task(ReplicationTaskArn=task.arn)
    wait_until(lambda: is_gone(dms, task), "the task is deleted")
    database = following.source.database.database
    if following.source.is_postgres:
        slots = f"SELECT count(*) FROM pg_replication_slots WHERE database = '{database}'"
        assert following.source.value(slots) == 0
        assert following.source.value("SELECT count(*) FROM pg_publication") == 0
