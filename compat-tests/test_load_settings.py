"""What the settings and rules of a task promise of a load: bounds on rows and tables at once, what is selected, and
how soon a task stops.

https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TaskSettings.FullLoad.html
"""

import collections
import contextlib
import time

import pytest

from conftest import include, wait_until
from pairs import (
    FINISHED,
    STOP_SECONDS,
    STOPPED_BY_USER,
    from_both_engines,
    in_all_directions,
    make_held_load,
    pair,
    to_both_engines,
)

# --- CommitRate ------------------------------------------------------------------------------------------------------

COMMIT_RATE = 7


def write_marks(side, table):
    """Prepares for `rows_of_each_write`."""
    if not side.is_postgres:
        # Every row of a statement has the connection's number and the time at which the statement began.
        side.execute(
            f"ALTER TABLE {side.table(table)}"
            " ADD written_by bigint DEFAULT (CONNECTION_ID()), ADD written_at datetime(6) DEFAULT (NOW(6))"
        )


def rows_of_each_write(side, table):
    """How many rows each transaction (PostgreSQL) or statement (MariaDB) has written."""
    mark = "xmin::text" if side.is_postgres else "CONCAT(written_by, ' ', written_at)"
    return [count for (count,) in side.execute(f"SELECT COUNT(*) FROM {side.table(table)} GROUP BY {mark}")]


@in_all_directions
def test_no_more_rows_than_the_commit_rate_are_written_together(pair):
    pair.create_both("orders", "id integer PRIMARY KEY, value text")
    pair.source.fill("orders", 100)
    write_marks(pair.target, "orders")
    settings = {"FullLoadSettings": {"TargetTablePrepMode": "DO_NOTHING", "CommitRate": COMMIT_RATE}}
    assert pair.load(settings=settings)["orders"]["FullLoadRows"] == 100
    written = rows_of_each_write(pair.target, "orders")
    assert sum(written) == 100
    assert max(written) == COMMIT_RATE


# --- MaxFullLoadSubTasks ---------------------------------------------------------------------------------------------


def most_at_once(statistics):
    """How many tables at most were loading at the same time."""
    begun = [(row["FullLoadStartTime"], 1) for row in statistics]
    ended = [(row["FullLoadEndTime"], -1) for row in statistics]
    loading, most = 0, 0
    # Of the changes in one millisecond ends are the first: they have made room for what starts.
    for _, change in sorted(begun + ended):
        loading += change
        most = max(most, loading)
    return most


@to_both_engines
@pytest.mark.parametrize("limit", [1, 2])
def test_no_more_tables_than_allowed_load_at_once(pair, limit):
    tables = [f"table_{number}" for number in range(6)]
    for table in tables:
        pair.create_both(table, "id integer PRIMARY KEY, value text")
        pair.source.fill(table, 10)
    settings = {"FullLoadSettings": {"TargetTablePrepMode": "DO_NOTHING", "MaxFullLoadSubTasks": limit}}
    task = pair.task(settings=settings)

    def loading():
        states = collections.Counter(pair.states(task).values())
        assert states["Full load"] <= limit
        return states

    with contextlib.ExitStack() as held:
        releases = {table: held.enter_context(contextlib.ExitStack()) for table in tables}
        for table, release in releases.items():
            release.enter_context(pair.target.held_at(table, 10))
        task.start()
        for table in tables:
            wait_until(lambda: loading()["Full load"] == min(limit, len(releases)), "as many tables load as may")
            assert loading()["Before load"] == max(0, len(releases) - limit)
            (first, *_) = [name for name, state in pair.states(task).items() if state == "Full load"]
            releases.pop(first).close()
            wait_until(
                lambda: loading() and pair.states(task)[first] == "Table completed", "a released table completes"
            )
    task.wait("stopped")
    assert task.stop_reason == FINISHED
    statistics = task.statistics().values()
    assert {row["TableState"] for row in statistics} == {"Table completed"}
    assert most_at_once(statistics) == limit
    for table in tables:
        assert pair.target.rows(table) == pair.source.rows(table)


# --- selection -------------------------------------------------------------------------------------------------------


@from_both_engines
def test_an_explicit_rule_loads_the_table_it_names_and_no_other(pair):
    # https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TableMapping.SelectionTransformation.Selections.html
    for table in ["order_items", "orderXitems", "orders"]:
        pair.source.create(table, "id integer PRIMARY KEY, value text")
        pair.source.fill(table, 3)
    mappings = include(pair.schema, "order_items")
    mappings["rules"][0]["rule-action"] = "explicit"
    assert set(pair.load(mappings)) == {"order_items"}
    assert pair.target.tables() == ["order_items"]
    assert pair.target.rows("order_items") == pair.source.rows("order_items")


# --- stopping --------------------------------------------------------------------------------------------------------


@in_all_directions
def test_a_task_in_the_middle_of_a_table_has_stopped_two_seconds_after_it_is_told(pair):
    settings = make_held_load(pair)
    task = pair.task(settings=settings)
    with pair.target.held_at("large", 20_000):
        task.start()
        wait_until(
            lambda: task.statistics().get((pair.schema, "large"), {}).get("FullLoadRows", 0) > 0,
            "the large table is under way",
        )
        task.stop()
        told = time.time()
        description = task.wait("stopped")
    assert description["StopReason"] == STOPPED_BY_USER
    stopped = description["ReplicationTaskStats"]["StopDate"].timestamp()
    assert stopped - told <= STOP_SECONDS
