"""What a task that follows a source keeps on its target."""

import pytest
from conftest import wait_until
from following import FOLLOW, Following, clean_up, control_rows, following, resource_id  # noqa: F401
from pairs import FROM_MARIADB, Pair, from_both_engines, in_all_directions, pair, to_both_engines  # noqa: F401

# As the service makes them; the guide has the names in capitals and some of them cut.
COLUMNS = {
    "awsdms_apply_exceptions": ["TASK_NAME", "TABLE_OWNER", "TABLE_NAME", "ERROR_TIME", "STATEMENT", "ERROR"],
    "awsdms_history": [
        "server_name", "task_name", "timeslot_type", "timeslot", "timeslot_duration", "timeslot_latency", "timeslot_records",
        "timeslot_volume",
    ],
    "awsdms_loopback_prevention": ["TASK_NAME", "TRANSACTIONS"],
    "awsdms_status": [
        "server_name", "task_name", "task_status", "status_time", "pending_changes", "disk_swap_size", "task_memory",
        "source_current_position", "source_current_timestamp", "source_tail_position", "source_tail_timestamp",
        "source_timestamp_applied",
    ],
    "awsdms_suspended_tables": [
        "server_name", "task_name", "table_owner", "table_name", "suspend_reason", "suspend_timestamp",
    ],
    "awsdms_txn_state": ["SERVER_NAME", "TASK_NAME", "STATE_TIME", "CHECKPOINT"],
}  # fmt: skip

ALL = {"StatusTableEnabled": True, "HistoryTableEnabled": True, "SuspendedTablesTableEnabled": True}


def named_rows(side, table, schema):
    """The rows of a control table by the names of its columns."""
    return [dict(zip(COLUMNS[table], row)) for row in side.rows(table, schema)]


@to_both_engines
def test_all_control_tables_are_where_the_settings_say_and_have_the_columns_of_the_service(following):
    source, target = following.source, following.target
    source.create("t", "id integer PRIMARY KEY, value integer")
    ctl = following.pair.schema + "_ctl"
    loopback = {"EnableLoopbackPrevention": True, "SourceSchema": following.pair.schema, "TargetSchema": ctl}
    settings = {
        "ControlTablesSettings": ALL | {"ControlSchema": ctl, "HistoryTimeslotInMinutes": 1},
        "TargetMetadata": {"TaskRecoveryTableEnabled": True},
        "LoopbackPreventionSettings": loopback,
    }
    following.start(settings)
    following.wait_for_load("t")
    source.fill("t", 3, "n")
    following.wait_for_counts("t", (3, 0, 0, 0))
    wait_until(lambda: set(target.tables(ctl)) >= set(COLUMNS), "all tables are there", 30)
    assert {table: target.columns(table, ctl) for table in target.tables(ctl)} == COLUMNS
    wait_until(lambda: named_rows(target, "awsdms_history", ctl), "the history is told", 30)
    assert {row["timeslot_duration"] for row in named_rows(target, "awsdms_history", ctl)} == {1}


@from_both_engines
def test_without_settings_exceptions_alone_have_a_table_where_control_tables_are(following):
    """The place of a task is kept in `awsdms_control`, out of the way."""
    source, target = following.source, following.target
    source.create("t", "id integer PRIMARY KEY, value integer")
    following.start()
    following.wait_for_load("t")
    source.fill("t", 3, "n")
    following.wait_for_counts("t", (3, 0, 0, 0))
    assert target.tables("public") == ["awsdms_apply_exceptions"]


@pytest.mark.parametrize("pair", [FROM_MARIADB], indirect=True)
def test_status_and_history_tell_what_waits_and_what_has_come(following):
    source, target = following.source, following.target
    source.create("t", "id integer PRIMARY KEY, value integer")
    ctl = following.pair.schema + "_ctl"
    # The slot does not end during the test.
    task = following.start({"ControlTablesSettings": ALL | {"ControlSchema": ctl, "HistoryTimeslotInMinutes": 1440}})
    following.wait_for_load("t")
    t = source.table("t")

    def status():
        (row,) = named_rows(target, "awsdms_status", ctl)
        return row

    with target.locked("t"):
        source.execute(f"INSERT INTO {t} VALUES (0, 0)")
        following.wait_until_captured("t", (1, 0, 0, 0))
        source.execute(f"INSERT INTO {t} VALUES (1, 0), (2, 0), (3, 0)", f"UPDATE {t} SET value = 1 WHERE id > 1")
        following.wait_until_captured("t", (4, 2, 0, 0))
        wait_until(lambda: status()["pending_changes"] > 0, "some changes wait", 20)
        waits = status()
    assert waits["task_name"] == resource_id(task) and waits["task_status"] == "CHANGE PROCESSING"
    following.wait_for_counts("t", (4, 2, 0, 0))
    wait_until(lambda: status()["pending_changes"] == 0, "no change waits", 20)
    done = status()
    assert None not in done.values(), done
    # Commits of the source, in UTC; MariaDB tells of the second alone.
    age = done["status_time"] - done["source_timestamp_applied"]
    assert 0 <= age.total_seconds() < 60 and done["source_current_timestamp"] == done["source_timestamp_applied"]
    assert done["status_time"] > waits["status_time"]

    def processed():
        rows = named_rows(target, "awsdms_history", ctl)
        return [row["timeslot_records"] for row in rows if row["timeslot_type"] == "CHANGE PROCESSING"]

    wait_until(lambda: processed() == [6], "six records are told", 20)
    # What came since the table was written last is told in the end.
    source.execute(f"INSERT INTO {t} VALUES (7, 0), (8, 0)")
    following.wait_for_counts("t", (6, 2, 0, 0))
    task.stop()
    task.wait("stopped")
    assert processed() == [8]


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
    # Whatever slots the load and its end have fallen into.
    assert sum(row[6] for row in told("awsdms_history") if row[2] == "FULL LOAD") == 3


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
