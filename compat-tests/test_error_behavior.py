"""What a task does when a table cannot be loaded or a server is lost, and how it says so.

https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TaskSettings.ErrorHandling.html
"""

import re

import pytest

from conftest import include, wait_until
from pairs import FINISHED, QUICK_RETRY, from_both_engines, lost, make_held_load, pair, prepare, to_both_engines


def make_unloadable(pair):
    """Two tables, of which the target's first lacks a column; mappings that load them one after the other."""
    mappings = {"rules": []}
    for number, table in enumerate(["broken", "fine"], 1):
        pair.create_both(table, "id integer PRIMARY KEY, value text")
        pair.source.fill(table, 10)
        numbered = {"rule-id": str(number), "rule-name": str(number), "load-order": 10 - number}
        mappings["rules"].append(include(pair.schema, table)["rules"][0] | numbered)
    pair.target.execute(f"ALTER TABLE {pair.target.table('broken')} DROP COLUMN value")
    return mappings


def one_at_a_time(**behavior):
    return {
        "FullLoadSettings": {"TargetTablePrepMode": "DO_NOTHING", "MaxFullLoadSubTasks": 1},
        "ErrorBehavior": behavior,
    }


def last_error(description, level):
    """The error within a failure, which must have the shape that DMS gives it."""
    assert description["Status"] == "failed"
    assert description["LastFailureMessage"] == description["StopReason"]
    message = description["StopReason"]
    shape = re.fullmatch(rf"Last Error  (\S.*\S) Stop Reason {level}_ERROR Error Level {level}", message)
    assert shape, message
    return shape[1]


@to_both_engines
@pytest.mark.parametrize("behavior", [{}, {"TableErrorPolicy": "SUSPEND_TABLE"}], ids=["default", "suspend"])
def test_a_table_that_cannot_be_loaded_is_suspended_and_the_others_complete(pair, behavior):
    mappings = make_unloadable(pair)
    task = pair.task(mappings, one_at_a_time(**behavior))
    task.finish()
    assert task.stop_reason == FINISHED
    assert pair.states(task) == {"broken": "Table error", "fine": "Table completed"}
    assert "LastFailureMessage" not in task.describe()
    assert pair.target.rows("fine") == pair.source.rows("fine")
    assert pair.target.rows("broken") == []


@to_both_engines
def test_a_table_that_cannot_be_loaded_fails_the_task_when_told(pair):
    mappings = make_unloadable(pair)
    task = pair.task(mappings, one_at_a_time(TableErrorPolicy="STOP_TASK"))
    error = last_error(task.finish_in_any_way(), "FATAL")
    assert error.startswith(f"load table {pair.schema}.broken: ")
    assert "column" in error.lower() and "value" in error
    assert pair.states(task) == {"broken": "Table error", "fine": "Before load"}
    assert task.stats["TablesErrored"] == 1
    assert pair.target.rows("fine") == []


@to_both_engines
def test_a_failed_task_resumes_when_its_table_is_mended(pair):
    mappings = make_unloadable(pair)
    task = pair.task(mappings, one_at_a_time(TableErrorPolicy="STOP_TASK"))
    task.finish_in_any_way()
    pair.target.execute(f"ALTER TABLE {pair.target.table('broken')} ADD COLUMN value varchar(100)")
    task.start("resume-processing")
    wait_until(lambda: task.status == "stopped", "the resumed task has stopped")
    assert task.stop_reason == FINISHED
    assert "LastFailureMessage" not in task.describe()
    assert pair.states(task) == {"broken": "Table completed", "fine": "Table completed"}
    for table in ("broken", "fine"):
        assert pair.target.rows(table) == pair.source.rows(table)


@to_both_engines
def test_too_many_tables_that_cannot_be_loaded_fail_the_task(pair):
    mappings = make_unloadable(pair)
    pair.target.execute(f"ALTER TABLE {pair.target.table('fine')} DROP COLUMN value")
    task = pair.task(mappings, one_at_a_time(TableErrorEscalationPolicy="STOP_TASK", TableErrorEscalationCount=1))
    last_error(task.finish_in_any_way(), "FATAL")
    assert pair.states(task) == {"broken": "Table error", "fine": "Before load"}


def give_up_after(attempts):
    return {"ErrorBehavior": QUICK_RETRY | {"RecoverableErrorCount": attempts}}


def assert_gave_up(description, attempts):
    task_id = description["ReplicationTaskArn"].rsplit(":", 1)[1]
    message = f"Task '{task_id}' was stopped after {attempts} recovery attempts"
    message += " Stop Reason FATAL_ERROR Error Level FATAL"
    assert description["Status"] == "failed"
    assert description["StopReason"] == description["LastFailureMessage"] == message


def failure_of_a_lost_server(pair, side, settings):
    """The description of a task that has lost a server in the middle of a table."""
    task = pair.task(settings=make_held_load(pair) | settings)
    with pair.target.held_at("large", 20_000):
        task.start()
        pair.wait_for(task, "small", "Table completed")
        pair.wait_for(task, "large", "Full load")
        with lost(side):
            description = wait_until(
                lambda: (now := task.describe())["Status"] != "running" and now, "the task has given up"
            )
    assert pair.states(task) == {"small": "Table completed", "large": "Table error"}
    return description


@to_both_engines
@pytest.mark.parametrize("attempts", [1, 2])
def test_a_task_that_gives_up_on_a_lost_target_counts_its_attempts(pair, attempts):
    description = failure_of_a_lost_server(pair, pair.target, give_up_after(attempts))
    assert_gave_up(description, attempts)


@to_both_engines
def test_a_task_that_may_not_recover_from_a_lost_target_names_the_error(pair):
    description = failure_of_a_lost_server(pair, pair.target, give_up_after(0))
    error = last_error(description, "RECOVERABLE")
    assert error.startswith(f"load table {pair.schema}.large: ")


@from_both_engines
def test_a_task_that_may_not_recover_from_a_lost_source_at_its_start_names_the_error(pair):
    pair.source.create("orders", "id integer PRIMARY KEY")
    task = pair.task(settings=give_up_after(0))
    with lost(pair.source):
        description = task.finish_in_any_way()
    last_error(description, "RECOVERABLE")


@from_both_engines
def test_a_task_that_gives_up_on_a_source_that_is_gone_at_its_start_counts_its_attempts(pair):
    pair.source.create("orders", "id integer PRIMARY KEY")
    task = pair.task(settings=give_up_after(1))
    with lost(pair.source):
        description = task.finish_in_any_way()
    assert_gave_up(description, 1)
