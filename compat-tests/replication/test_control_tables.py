"""What a task that follows a source keeps on its target."""

import pytest
from conftest import wait_until
from following import FOLLOW, Following, clean_up, control_rows, following, resource_id  # noqa: F401
from pairs import Pair, in_all_directions, pair  # noqa: F401


@in_all_directions
def test_status_history_and_suspended_tables_are_told(following):
    following.source.create("t", "id integer PRIMARY KEY, value integer")
    following.source.fill("t", 3, "n")
    tables = {"StatusTableEnabled": True, "HistoryTableEnabled": True, "SuspendedTablesTableEnabled": True}
    policies = {"ApplyErrorInsertPolicy": "SUSPEND_TABLE", "FullLoadIgnoreConflicts": False}
    task = following.start({"ControlTablesSettings": tables, "ErrorBehavior": policies})
    following.wait_for_load("t")
    assert following.target.exceptions() == []
    following.target.execute(f"INSERT INTO {following.target.table('t')} VALUES (9, 9)")
    following.source.execute(f"INSERT INTO {following.source.table('t')} VALUES (9, 0)")
    following.pair.wait_for(task, "t", "Table error")
    name = resource_id(task)

    def told(table):
        return [row for row in control_rows(following.target, table) if name in row]

    wait_until(lambda: told("awsdms_suspended_tables"), "the suspended table is told")
    assert told("awsdms_suspended_tables")[0][2:4] == (following.pair.schema, "t")
    assert told("awsdms_status")[0][2] == "CHANGE PROCESSING"
    assert {row[2] for row in told("awsdms_history")} <= {"FULL LOAD", "CHANGE PROCESSING"} and told("awsdms_history")
    exceptions = following.target.exceptions()
    assert len(exceptions) == 1 and "INSERT INTO" in exceptions[0]
    task.stop()
    task.wait("stopped")
    assert told("awsdms_status")[0][2] == "NOT RUNNING"


@in_all_directions
def test_the_recovery_table_holds_the_place_of_what_is_applied(following):
    following.source.create("t", "id integer, value text")
    task = following.start({"TargetMetadata": {"TaskRecoveryTableEnabled": True}})
    following.source.execute(f"INSERT INTO {following.source.table('t')} VALUES (1, 'one')")
    following.wait_for_counts("t", (1, 0, 0, 0))
    rows = [row for row in control_rows(following.target, "awsdms_txn_state") if row[1] == resource_id(task)]
    assert len(rows) == 1 and rows[0][3].startswith("checkpoint:V1#")


@in_all_directions
def test_two_tasks_in_opposite_directions_send_nothing_back(databases, dms, replication_instance, following):
    """Loopback prevention: what one task applies, the other does not send back."""
    there = following
    there.source.create("t", "id integer PRIMARY KEY, value text")
    there.source.fill("t", 2)

    def loopback():
        # Both keep their marks in the schema of the test, on the side to which they apply.
        schema = there.pair.schema
        return {"LoopbackPreventionSettings": {"EnableLoopbackPrevention": True, "SourceSchema": schema, "TargetSchema": schema}}

    there.start(loopback())
    there.wait_for_load("t")
    back = Following(Pair.reversed(there.pair))
    try:
        back.start(loopback(), **FOLLOW)
        there.source.execute(f"INSERT INTO {there.source.table('t')} VALUES (3, 'from here')")
        there.target.execute(f"INSERT INTO {there.target.table('t')} VALUES (4, 'from there')")
        back.wait_for_counts("t", (1, 0, 0, 0))
        there.wait_for_counts("t", (1, 0, 0, 0))
        there.wait_until_equal("t")
        # A later change of each passes: had an echo been sent, it would have come before.
        there.source.execute(f"UPDATE {there.source.table('t')} SET value = 'changed' WHERE id = 1")
        there.target.execute(f"DELETE FROM {there.target.table('t')} WHERE id = 2")
        there.wait_for_counts("t", (1, 1, 0, 0))
        back.wait_for_counts("t", (1, 0, 1, 0))
        there.wait_until_equal("t")
    finally:
        clean_up(dms, back.task)
