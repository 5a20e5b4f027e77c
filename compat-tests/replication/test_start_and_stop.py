"""Where a task begins to follow a source, and how it ends by itself."""

import contextlib
import datetime
import time

import pytest
from conftest import wait_until
from following import FOLLOW, following, resource_id  # noqa: F401
from pairs import FROM_MARIADB, GRACE_SECONDS, STOP_SECONDS, in_all_directions, lost, pair  # noqa: F401
from torture import Proxy

between_engines = pytest.mark.parametrize("pair", ["postgres-mariadb", FROM_MARIADB], indirect=True)
of_each_side = pytest.mark.parametrize("kind", ["source", "target"])

def utc(seconds_from_now=0.0):
    moment = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds_from_now)
    return moment.strftime("%Y-%m-%dT%H:%M:%S")


@contextlib.contextmanager
def load_among_changes(following, *keys):
    """A load that is held in the middle of a table while rows of it change, those that are loaded and those that are not."""
    pair = following.pair
    pair.create_both("t", "id integer PRIMARY KEY, value text")
    pair.source.fill("t", 10)
    settings = {"FullLoadSettings": {"TargetTablePrepMode": "TRUNCATE_BEFORE_LOAD"} | dict.fromkeys(keys, True)}
    t = pair.source.table("t")
    with pair.target.held_at("t", 5):
        following.begin(settings | {"ErrorBehavior": {"ApplyErrorDeletePolicy": "LOG_ERROR", "FullLoadIgnoreConflicts": False}})
        following.task.wait("running")
        pair.wait_for(following.task, "t", "Full load")
        before = following.source.rows("t")
        pair.source.execute(
            f"INSERT INTO {t} VALUES (11, 'during')",
            f"UPDATE {t} SET value = 'during' WHERE id IN (1, 9)",
            f"DELETE FROM {t} WHERE id IN (2, 8)",
            f"UPDATE {t} SET id = id + 20 WHERE id IN (3, 7)",
        )
    yield before


@in_all_directions
def test_a_task_stops_after_its_load_and_goes_on_when_it_is_told_to(following):
    with load_among_changes(following, "StopTaskCachedChangesNotApplied") as before:
        assert following.task.wait("stopped")["StopReason"] == "Stop Reason STOPPED_AFTER_FULL_LOAD"
    assert following.target.rows("t") == before
    following.source.execute(f"INSERT INTO {following.source.table('t')} VALUES (12, 'later')")
    following.resume()
    following.wait_until_equal("t")
    following.wait_for_counts("t", (2, 4, 2, 0))
    assert following.target.exceptions() == []


@in_all_directions
def test_a_task_stops_when_what_changed_during_the_load_is_applied(following):
    with load_among_changes(following, "StopTaskCachedChangesApplied"):
        assert following.task.wait("stopped")["StopReason"] == "Stop Reason STOPPED_AFTER_CACHED_EVENTS"
    assert following.target.rows("t") == following.source.rows("t")
    assert following.counts("t") == ((1, 4, 2, 0), (1, 4, 2, 0))
    following.source.execute(f"DELETE FROM {following.source.table('t')} WHERE id = 1")
    following.resume()
    following.wait_until_equal("t")
    assert following.task.status == "running" and following.target.exceptions() == []


@between_engines
def test_a_task_that_is_to_stop_at_both_moments_stops_at_the_earlier_one_and_then_goes_on(following):
    both = ["StopTaskCachedChangesApplied", "StopTaskCachedChangesNotApplied"]
    with load_among_changes(following, *both) as before:
        assert following.task.wait("stopped")["StopReason"] == "Stop Reason STOPPED_AFTER_FULL_LOAD"
    assert following.target.rows("t") == before
    following.resume()
    following.wait_until_equal("t")
    following.wait_for_counts("t", (1, 4, 2, 0))
    assert following.task.status == "running"


@in_all_directions
def test_a_task_stops_at_a_time_of_the_clock(following):
    following.source.create("t", "id integer PRIMARY KEY, value text")
    following.start(CdcStopPosition=f"server_time:{utc(4)}")
    following.source.execute(f"INSERT INTO {following.source.table('t')} VALUES (1, 'in time')")
    following.wait_for_counts("t", (1, 0, 0, 0))
    assert following.task.wait("stopped")["StopReason"] == "Stop Reason STOPPED_AT_SERVER_TIME"
    assert following.target.rows("t") == [(1, "in time")]


@in_all_directions
def test_a_task_stops_before_the_first_transaction_that_committed_too_late(following):
    following.source.create("t", "id integer PRIMARY KEY, value text")
    task = following.start()
    t = following.source.table("t")
    following.source.execute(f"INSERT INTO {t} VALUES (1, 'in time')")
    following.wait_for_counts("t", (1, 0, 0, 0))
    task.stop()
    task.wait("stopped")
    following.source.execute(f"INSERT INTO {t} VALUES (2, 'in time, too')")
    limit = utc(1)
    # To the second: what commits now is before the limit, what commits in two seconds is after it.
    wait_until(lambda: utc() > limit, "the clock has passed the limit")
    following.source.execute(f"INSERT INTO {t} VALUES (3, 'late')", f"UPDATE {t} SET value = 'late'")
    following.pair.client.start_replication_task(
        ReplicationTaskArn=task.arn,
        StartReplicationTaskType="resume-processing",
        CdcStopPosition=f"commit_time:{limit}",
    )
    assert task.wait("stopped")["StopReason"] == "Stop Reason STOPPED_AT_COMMIT_TIME"
    assert following.target.rows("t") == [(1, "in time"), (2, "in time, too")]
    assert following.counts("t")[1] == (2, 0, 0, 0)


@between_engines
def test_a_task_stops_where_it_was_modified_to_stop(following):
    following.source.create("t", "id integer PRIMARY KEY, value text")
    task = following.start()
    t = following.source.table("t")
    following.source.execute(f"INSERT INTO {t} VALUES (1, 'in time')")
    following.wait_for_counts("t", (1, 0, 0, 0))
    following.stop()
    limit = utc(1)
    wait_until(lambda: utc() > limit, "the clock has passed the limit")
    following.source.execute(f"INSERT INTO {t} VALUES (2, 'late')")
    stop = f"commit_time:{limit}"
    following.pair.client.modify_replication_task(ReplicationTaskArn=task.arn, CdcStopPosition=stop)
    assert task.wait("stopped")["CdcStopPosition"] == stop
    task.start("resume-processing")
    assert task.wait("stopped")["StopReason"] == "Stop Reason STOPPED_AT_COMMIT_TIME"
    assert following.target.rows("t") == [(1, "in time")]


def stop_in_time(task):
    begun = time.monotonic()
    task.stop()
    task.wait("stopped")
    assert time.monotonic() - begun < STOP_SECONDS + GRACE_SECONDS


@of_each_side
@between_engines
def test_a_stop_takes_two_seconds_at_most_while_a_server_is_gone(following, server, kind):
    following.source.create("t", "id integer PRIMARY KEY, value text")
    task = following.start()
    following.wait_for_load("t")
    t = following.source.table("t")
    (log,) = [path for path in server.data_dir.rglob("*.log") if resource_id(task) in path.name]
    with lost(getattr(following, kind)):
        if kind == "target":
            following.source.execute(f"INSERT INTO {t} VALUES (1, 'meanwhile')")
        wait_until(lambda: "next attempt in" in log.read_text(), "the loss is noticed", 20)
        assert task.status == "running"
        stop_in_time(task)
    following.source.execute(f"INSERT INTO {t} VALUES (2, 'later')")
    following.resume()
    following.wait_until_equal("t")


@of_each_side
@between_engines
def test_a_stop_takes_two_seconds_at_most_while_a_server_does_not_answer(following, kind):
    pair = following.pair
    proxy = Proxy(getattr(pair, kind).server.port)
    (pair.set_up_source if kind == "source" else pair.set_up_target)(Port=proxy.port)
    pair.source.create("t", "id integer PRIMARY KEY, value text")
    task = following.start()
    following.wait_for_load("t")
    t = pair.source.table("t")
    pair.source.execute(f"INSERT INTO {t} VALUES (1, 'before')")
    following.wait_for_counts("t", (1, 0, 0, 0))
    proxy.hold()
    pair.source.execute(f"INSERT INTO {t} VALUES (2, 'meanwhile')")
    if kind == "target":
        following.wait_until_captured("t", (2, 0, 0, 0))
    stop_in_time(task)
    proxy.cut()
    proxy.go_on()
    following.resume()
    following.wait_until_equal("t")
    following.wait_for_counts("t", (2, 0, 0, 0))


@in_all_directions
def test_a_stop_takes_two_seconds_at_most_while_the_target_stands_still(following):
    following.source.create("t", "id integer PRIMARY KEY, value text")
    following.source.fill("t", 10)
    task = following.start()
    following.wait_for_load("t")
    with following.target.locked("t"):
        following.source.execute(f"UPDATE {following.source.table('t')} SET value = 'held'")
        wait_until(lambda: following.counts("t")[0] == (0, 10, 0, 0), "the changes are captured")
        stop_in_time(task)
    following.resume()
    following.wait_until_equal("t")
    following.wait_for_counts("t", (0, 10, 0, 0))


def test_positions_that_name_no_place_are_refused(pair):
    bad = [
        ({"CdcStartPosition": "yesterday"}, "Invalid value yesterday for CdcStartPosition. Allowed: a date"),
        ({"CdcStopPosition": "noon"}, "Invalid value noon for CdcStopPosition. Allowed: server_time:"),
    ]
    for parameters, text in bad:
        with pytest.raises(pair.client.exceptions.ClientError) as refused:
            pair.task(**(FOLLOW | parameters))
        assert refused.value.response["Error"]["Code"] == "InvalidParameterValueException"
        assert text in refused.value.response["Error"]["Message"]


def test_a_place_and_a_time_to_begin_at_exclude_each_other(pair):
    client, task = pair.client, pair.task(**FOLLOW)
    both = {"CdcStartPosition": "2024-01-02T03:04:05", "CdcStartTime": datetime.datetime(2024, 1, 2, 3, 4, 5)}
    start = {"ReplicationTaskArn": task.arn, "StartReplicationTaskType": "start-replication"}
    for call in [
        lambda: pair.task(**FOLLOW, **both),
        lambda: client.modify_replication_task(ReplicationTaskArn=task.arn, **both),
        lambda: client.start_replication_task(**start, **both),
    ]:
        with pytest.raises(client.exceptions.ClientError) as refused:
            call()
        assert refused.value.response["Error"]["Code"] == "InvalidParameterCombinationException"
        assert "CdcStartTime and CdcStartPosition" in refused.value.response["Error"]["Message"]
    assert task.status == "ready" and "CdcStartPosition" not in task.describe()


def test_a_task_without_a_load_cannot_load(pair):
    task = pair.task(**FOLLOW)
    with pytest.raises(pair.client.exceptions.ClientError) as refused:
        task.start("reload-target")
    assert refused.value.response["Error"]["Code"] == "InvalidParameterCombinationException"
