"""What becomes of a change that the target does not take, by the task's `ErrorBehavior`."""

import json

import pytest
from conftest import wait_until
from following import control_rows, following, resource_id  # noqa: F401
from pairs import FROM_POSTGRES, in_all_directions, prepare, pair, to_both_engines  # noqa: F401
from test_task_log import entries

in_both_ways = pytest.mark.parametrize("batch", [False, True], ids=["transactional", "batch"])

KEYED = "id integer PRIMARY KEY, value text"

# The changes that `conflict` makes, and those of them that meet no conflict.
CAPTURED, UNDISPUTED = (2, 2, 1, 0), (1, 1, 0, 0)


# Otherwise those of changes that were made before the load was over are passed over.
TOLD = {"FullLoadIgnoreConflicts": False}


def policies(word, **others):
    return {f"ApplyError{kind}Policy": word for kind in ("Insert", "Update", "Delete")} | others


def applying(batch):
    """In batches without a pause between them, or not."""
    return {"TargetMetadata": {"BatchApplyEnabled": batch}, "ChangeProcessingTuning": {"BatchApplyTimeoutMin": 0}}


def begin(following, behavior, batch=False):
    """A task whose target lacks two rows of table `t` and has one too many."""
    for name in ("t", "other"):
        following.source.create(name, KEYED)
        following.source.fill(name, 9)
    following.start({"ErrorBehavior": TOLD | behavior} | applying(batch))
    following.wait_for_load("t", "other")
    there = following.target.table("t")
    following.target.execute(f"DELETE FROM {there} WHERE id IN (1, 2)", f"INSERT INTO {there} VALUES (10, 'theirs')")


def conflict(following):
    """An update and a deletion of rows that the target lacks, an insert of one that it has, and changes beside them."""
    t = following.source.table("t")
    following.source.execute(
        "BEGIN",
        f"UPDATE {t} SET value = 'fine' WHERE id = 3",
        f"UPDATE {t} SET value = 'it''s gone' WHERE id = 1",
        f"DELETE FROM {t} WHERE id = 2",
        "COMMIT",
        f"INSERT INTO {t} VALUES (10, 'ours')",
        f"INSERT INTO {t} VALUES (11, 'fine')",
    )


def others_go_on(following):
    """A change of the other table arrives, and with it all before it."""
    following.source.execute(f"UPDATE {following.source.table('other')} SET value = 'followed' WHERE id = 1")
    following.wait_until_equal("other")


def exceptions(following):
    """The rows of the control table that are this task's, without their times."""
    rows = [row for row in control_rows(following.target, "awsdms_apply_exceptions") if row[0] == resource_id(following.task)]
    assert all((owner, table) == (following.pair.schema, "t") and time for _, owner, table, time, _, _ in rows), rows
    return [(statement, error) for *_, statement, error in rows]


@in_both_ways
@to_both_engines
def test_changes_that_conflict_are_told_with_statements_that_can_be_carried_out_by_hand(following, batch):
    begin(following, policies("LOG_ERROR"), batch)
    conflict(following)
    following.wait_for_counts("t", CAPTURED, UNDISPUTED)
    told = exceptions(following)
    assert [statement.split(" ")[0] for statement, _ in told] == ["UPDATE", "DELETE", "INSERT"]
    assert ["0 rows" in error for _, error in told] == [True, True, False], told
    assert "uplicate" in told[2][1]
    table = "awsdms_apply_exceptions"
    schema = "public" if following.target.is_postgres else "awsdms_control"
    columns = ["TASK_NAME", "TABLE_OWNER", "TABLE_NAME", "ERROR_TIME", "STATEMENT", "ERROR"]
    assert following.target.columns(table, schema) == columns
    # Once the target has what the changes were made for, they do what they did on the source.
    there = following.target.table("t")
    assert (10, "theirs") in following.target.rows("t")
    following.target.execute(f"INSERT INTO {there} VALUES (1, 'x'), (2, 'x')", f"DELETE FROM {there} WHERE id = 10")
    following.target.execute(*[statement for statement, _ in told])
    following.wait_until_equal("t")
    assert following.task.status == "running"


@in_both_ways
@to_both_engines
def test_changes_that_conflict_can_be_passed_over(following, batch):
    begin(following, policies("IGNORE_RECORD"), batch)
    conflict(following)
    following.wait_for_counts("t", CAPTURED, UNDISPUTED)
    rows = following.target.rows("t")
    assert [row for row in rows if row[0] in (1, 2, 3, 10, 11)] == [(3, "fine"), (10, "theirs"), (11, "fine")]
    assert exceptions(following) == []
    assert following.pair.states(following.task)["t"] == "Table completed"


@in_both_ways
@to_both_engines
def test_rows_that_are_there_can_be_replaced_and_missing_ones_inserted(following, batch):
    behavior = {"ApplyErrorInsertPolicy": "INSERT_RECORD", "ApplyErrorUpdatePolicy": "UPDATE_RECORD"}
    begin(following, behavior, batch)
    conflict(following)
    following.wait_until_equal("t")
    following.wait_for_counts("t", CAPTURED, (2, 2, 0, 0))
    # An update of the key, too, whose row is missing.
    here, there = following.source.table("t"), following.target.table("t")
    following.target.execute(f"DELETE FROM {there} WHERE id = 4")
    following.source.execute(f"UPDATE {here} SET id = 40 WHERE id = 4")
    following.wait_until_equal("t")
    assert exceptions(following) == []


@pytest.mark.parametrize("pair", [FROM_POSTGRES], indirect=True)
def test_a_missing_row_is_not_made_of_half_an_update(following):
    """The log has not the large value, because it did not change."""
    following.source.create("t", "id integer PRIMARY KEY, n integer, body text")
    following.source.execute(f"ALTER TABLE {following.source.table('t')} ALTER COLUMN body SET STORAGE EXTERNAL")
    following.source.insert("t", [(1, 1, "x" * 10_000), (2, 2, "y" * 10_000)])
    following.start({"ErrorBehavior": TOLD | {"ApplyErrorUpdatePolicy": "UPDATE_RECORD"}})
    following.wait_for_load("t")
    following.target.execute(f"DELETE FROM {following.target.table('t')} WHERE id = 1")
    following.source.execute(f"UPDATE {following.source.table('t')} SET n = n + 10")
    following.wait_for_counts("t", (0, 2, 0, 0), (0, 1, 0, 0))
    assert following.target.rows("t") == [(2, 12, "y" * 10_000)]
    assert len(exceptions(following)) == 1


@in_both_ways
@to_both_engines
def test_a_conflict_can_suspend_its_table_and_no_other(following, batch):
    tables = ["insert", "update", "delete"]
    for name in [*tables, "t", "other"]:
        following.source.create(name, KEYED)
        following.source.fill(name, 9)
    task = following.start({"ErrorBehavior": TOLD | policies("SUSPEND_TABLE")} | applying(batch))
    following.wait_for_load(*tables, "t", "other")
    there = following.target.table
    following.target.execute(
        f"INSERT INTO {there('insert')} VALUES (10, 'theirs')",
        f"DELETE FROM {there('update')} WHERE id = 1",
        f"DELETE FROM {there('delete')} WHERE id = 1",
    )
    here = following.source.table
    following.source.execute(
        f"INSERT INTO {here('insert')} VALUES (10, 'ours')",
        f"UPDATE {here('update')} SET value = 'new' WHERE id = 1",
        f"DELETE FROM {here('delete')} WHERE id = 1",
    )
    for name in tables:
        following.pair.wait_for(task, name, "Table error")
    # Nothing more of them is carried over; of others all is.
    following.source.execute(*[f"UPDATE {here(name)} SET value = 'later' WHERE id = 5" for name in [*tables, "t"]])
    others_go_on(following)
    following.wait_until_equal("t")
    assert [(5, "later") in following.target.rows(name) for name in tables] == [False] * 3
    # Loaded again, they go on.
    following.reload(*tables[:2])
    following.wait_for_load(*tables[:2])
    following.source.execute(*[f"UPDATE {here(name)} SET value = 'last' WHERE id = 6" for name in tables])
    following.wait_until_equal(*tables[:2])
    assert following.pair.states(task)["delete"] == "Table error"
    # A resumption gives the one that is left another chance.
    task.stop()
    task.wait("stopped")
    task.start("resume-processing")
    task.wait("running")
    following.wait_for_load("delete")
    following.source.execute(f"UPDATE {here('delete')} SET value = 'in the end' WHERE id = 7")
    following.wait_until_equal(*tables)


@in_both_ways
@to_both_engines
def test_a_conflict_can_stop_the_task_which_goes_on_once_it_is_settled(following, batch):
    begin(following, policies("IGNORE_RECORD", ApplyErrorInsertPolicy="STOP_TASK"), batch)
    conflict(following)
    task = following.task
    wait_until(lambda: task.status == "failed", "the task has failed")
    message = task.describe()["LastFailureMessage"]
    assert message.startswith("Last Error  ") and message.endswith(" Stop Reason FATAL_ERROR Error Level FATAL"), message
    assert "uplicate" in message and "ours" not in message
    following.target.execute(f"DELETE FROM {following.target.table('t')} WHERE id = 10")
    task.start("resume-processing")
    task.wait("running")
    following.wait_for_counts("t", CAPTURED, (2, 1, 0, 0))
    assert following.target.rows("t")[-2:] == [(10, "ours"), (11, "fine")]


@pytest.mark.parametrize(
    "escalation, told",
    [("LOG_ERROR", [3, 4]), ("SUSPEND_TABLE", None), ("STOP_TASK", None)],
)
@in_both_ways
@to_both_engines
def test_conflicts_are_escalated_when_there_are_too_many_of_a_table(following, escalation, told, batch):
    behavior = {"ApplyErrorEscalationCount": 3, "ApplyErrorEscalationPolicy": escalation}
    begin(following, policies("IGNORE_RECORD", **behavior), batch)
    following.target.execute(*[f"DELETE FROM {following.target.table(name)} WHERE id <= 5" for name in ("t", "other")])
    t, other = following.source.table("t"), following.source.table("other")
    # Two in another table count for that table alone.
    following.source.execute(*[f"UPDATE {other} SET value = 'missed' WHERE id = {id}" for id in (2, 3)])
    following.source.execute(*[f"UPDATE {t} SET value = 'no. {id}' WHERE id = {id}" for id in (1, 2)])
    following.source.execute(f"UPDATE {t} SET value = 'fine' WHERE id = 9")
    following.wait_for_counts("t", (0, 3, 0, 0), (0, 1, 0, 0))
    assert (following.task.status, exceptions(following)) == ("running", [])
    following.source.execute(*[f"UPDATE {t} SET value = 'no. {id}' WHERE id = {id}" for id in (3, 4)])
    match escalation:
        case "LOG_ERROR":
            following.source.execute(f"UPDATE {t} SET value = 'fine' WHERE id = 8")
            following.wait_for_counts("t", (0, 6, 0, 0), (0, 2, 0, 0))
            statements = [statement for statement, _ in exceptions(following)]
            assert [f"no. {id}" in statement for id, statement in zip(told, statements)] == [True, True], statements
        case "SUSPEND_TABLE":
            following.pair.wait_for(following.task, "t", "Table error")
            following.source.execute(f"UPDATE {other} SET value = 'followed' WHERE id = 9")
            following.wait_for_counts("other", (0, 3, 0, 0), (0, 1, 0, 0))
        case "STOP_TASK":
            wait_until(lambda: following.task.status == "failed", "the task has failed")
            assert "Stop Reason FATAL_ERROR" in following.task.describe()["LastFailureMessage"]


@to_both_engines
def test_conflicts_count_until_their_table_is_loaded_again(following):
    pair, source = following.pair, following.source
    escalated = {"ApplyErrorEscalationCount": 3, "ApplyErrorEscalationPolicy": "SUSPEND_TABLE"}
    begin(following, policies("IGNORE_RECORD", **escalated))
    t, theirs = source.table("t"), following.target.table("t")
    change = lambda value, *ids: source.execute(*[f"UPDATE {t} SET value = '{value}' WHERE id = {id}" for id in ids])
    change("first", 1, 2, 9)
    following.wait_for_counts("t", (0, 3, 0, 0), (0, 1, 0, 0))
    # Two so far. The load of another table does not make them undone.
    following.reload("other")
    wait_until(lambda: following.task.statistics()[(pair.schema, "other")]["FullLoadReloaded"], "the other is reloaded")
    following.wait_for_load("other")
    others_go_on(following)
    assert pair.states(following.task)["t"] == "Table completed"
    following.target.execute(f"DELETE FROM {theirs} WHERE id = 3")
    change("second", 3)
    pair.wait_for(following.task, "t", "Table error")
    following.reload("t")
    following.wait_for_load("t")
    following.wait_until_equal("t")
    following.target.execute(f"DELETE FROM {theirs} WHERE id IN (1, 2)")
    captured, applied = following.counts("t")
    change("third", 1, 2, 9)
    and_updates = lambda counts, more: (counts[0], counts[1] + more, *counts[2:])
    following.wait_for_counts("t", and_updates(captured, 3), and_updates(applied, 1))
    assert pair.states(following.task)["t"] == "Table completed"


@in_both_ways
@to_both_engines
def test_a_value_that_the_target_does_not_take_costs_its_row_alone(following, batch):
    pair = following.pair
    pair.make_target_schema()
    following.source.create("t", "id integer PRIMARY KEY, value varchar(20)")
    following.target.create("t", "id integer PRIMARY KEY, value varchar(5) NOT NULL")
    following.source.create("other", KEYED)
    following.source.fill("other", 1)
    following.start(prepare("TRUNCATE_BEFORE_LOAD") | {"ErrorBehavior": TOLD} | applying(batch))
    following.wait_for_load("t", "other")
    t = following.source.table("t")
    following.source.execute(
        f"INSERT INTO {t} VALUES (1, 'short'), (2, 'much too long'), (3, NULL), (4, 'four')",
        f"UPDATE {t} SET value = 'too long now' WHERE id = 4",
        f"UPDATE {t} SET value = 'fits' WHERE id = 1",
    )
    following.wait_for_counts("t", (4, 2, 0, 0), (2, 1, 0, 0))
    assert following.target.rows("t") == [(1, "fits"), (4, "four")]
    statements = [statement for statement, _ in exceptions(following)]
    assert len(statements) == 3 and ["too long" in statement for statement in statements] == [True, False, True]
    others_go_on(following)


@pytest.mark.parametrize("policy", ["IGNORE_RECORD", "SUSPEND_TABLE", "STOP_TASK"])
@in_both_ways
@to_both_engines
def test_a_value_that_is_too_long_for_the_target_is_settled_as_one_that_is_cut(following, policy, batch):
    following.pair.make_target_schema()
    following.source.create("t", "id integer PRIMARY KEY, value varchar(20)")
    following.target.create("t", "id integer PRIMARY KEY, value varchar(5)")
    behavior = TOLD | {"DataTruncationErrorPolicy": policy}
    following.start(prepare("TRUNCATE_BEFORE_LOAD") | {"ErrorBehavior": behavior} | applying(batch))
    following.wait_for_load("t")
    t = following.source.table("t")
    following.source.execute(f"INSERT INTO {t} VALUES (1, 'short')", f"INSERT INTO {t} VALUES (2, 'much too long')")
    match policy:
        case "IGNORE_RECORD":
            following.wait_for_counts("t", (2, 0, 0, 0), (1, 0, 0, 0))
            assert exceptions(following) == []
        case "SUSPEND_TABLE":
            following.pair.wait_for(following.task, "t", "Table error")
            assert len(exceptions(following)) == 1
        case "STOP_TASK":
            wait_until(lambda: following.task.status == "failed", "the task has failed", 30)


LONG = "ä" * 2000
CUT = "ä" * 512


def begin_cutting(following, behavior, batch):
    """A task that cuts the LOBs of tables `t` and `other` to a kilobyte."""
    limited = {"SupportLobs": True, "FullLobMode": False, "LimitedSizeLobMode": True, "LobMaxSize": 1}
    for name in ("t", "other"):
        following.source.create(name, "id integer PRIMARY KEY, body text, n integer")
    following.source.insert("t", [(1, "short", 1)])
    following.source.insert("other", [(1, "short", 1)])
    settings = {"ErrorBehavior": TOLD | behavior} | applying(batch)
    settings["TargetMetadata"] = settings["TargetMetadata"] | limited
    following.start(settings)
    following.wait_for_load("t", "other")


def cut_warnings(following, server, name="t"):
    return [line for line in entries(server, following.task) if "was truncated to" in line[2] and f".{name}'" in line[2]]


@in_both_ways
@in_all_directions
def test_a_change_whose_value_is_cut_is_applied_and_told_in_the_log(following, server, batch):
    begin_cutting(following, {}, batch)
    t = following.source.table("t")
    following.source.execute(
        f"INSERT INTO {t} VALUES (2, '{LONG}', 2), (3, '{CUT}', 3)",
        f"UPDATE {t} SET body = '{LONG}' WHERE id = 1",
        f"DELETE FROM {t} WHERE id = 2",
    )
    following.wait_for_counts("t", (2, 1, 1, 0))
    assert following.target.rows("t") == [(1, CUT, 1), (3, CUT, 3)]
    name = f"{following.pair.schema}.t"
    told = f"Value of column 'body' in table '{name}' was truncated to 1024 bytes"
    assert cut_warnings(following, server) == [("SOURCE_CAPTURE", "W", told)] * 2
    assert exceptions(following) == [] and following.task.status == "running"


@in_both_ways
@in_all_directions
def test_a_change_whose_value_is_cut_can_be_left_out(following, server, batch):
    begin_cutting(following, {"DataTruncationErrorPolicy": "IGNORE_RECORD"}, batch)
    t = following.source.table("t")
    following.source.execute(
        "BEGIN",
        f"INSERT INTO {t} VALUES (2, '{LONG}', 2)",
        f"UPDATE {t} SET body = '{LONG}' WHERE id = 1",
        "COMMIT",
        f"INSERT INTO {t} VALUES (3, 'fine', 3)",
    )
    following.wait_for_counts("t", (2, 1, 0, 0), (1, 0, 0, 0))
    assert following.target.rows("t") == [(1, "short", 1), (3, "fine", 3)]
    assert exceptions(following) == [] and cut_warnings(following, server) == []


@in_both_ways
@in_all_directions
def test_a_change_whose_value_is_cut_can_suspend_its_table(following, batch):
    begin_cutting(following, {"DataTruncationErrorPolicy": "SUSPEND_TABLE"}, batch)
    t, other = following.source.table("t"), following.source.table("other")
    following.source.execute(
        "BEGIN",
        f"INSERT INTO {t} VALUES (2, 'before', 2)",
        f"INSERT INTO {t} VALUES (3, '{LONG}', 3)",
        f"INSERT INTO {t} VALUES (4, 'after', 4)",
        f"INSERT INTO {other} VALUES (2, 'beside', 2)",
        "COMMIT",
    )
    following.pair.wait_for(following.task, "t", "Table error")
    following.wait_until_equal("other")
    assert following.target.rows("t") == [(1, "short", 1), (2, "before", 2)]
    ((statement, error),) = exceptions(following)
    assert statement.startswith("INSERT INTO ") and CUT in statement and LONG not in statement
    assert "longer than LobMaxSize" in error and "ä" not in error


@in_both_ways
@in_all_directions
def test_a_change_whose_value_is_cut_can_stop_the_task(following, batch):
    begin_cutting(following, {"DataTruncationErrorPolicy": "STOP_TASK"}, batch)
    t = following.source.table("t")
    following.source.execute(f"INSERT INTO {t} VALUES (2, 'fine', 2)")
    following.wait_for_counts("t", (1, 0, 0, 0))
    following.source.execute(f"UPDATE {t} SET body = '{LONG}' WHERE id = 1")
    wait_until(lambda: following.task.status == "failed", "the task has failed", 30)
    message = following.task.describe()["LastFailureMessage"]
    assert "longer than LobMaxSize" in message and message.endswith(" Stop Reason FATAL_ERROR Error Level FATAL"), message
    # With room for it, the task goes on.
    settings = json.dumps({"TargetMetadata": {"LobMaxSize": 32}})
    following.pair.client.modify_replication_task(ReplicationTaskArn=following.task.arn, ReplicationTaskSettings=settings)
    following.resume()
    following.wait_until_equal("t")


@pytest.mark.parametrize("escalation", ["SUSPEND_TABLE", "STOP_TASK"])
@in_both_ways
@to_both_engines
def test_values_that_are_cut_are_escalated_as_errors_of_data(following, escalation, batch):
    behavior = {"DataErrorEscalationCount": 3, "DataErrorEscalationPolicy": escalation, "ApplyErrorEscalationCount": 1}
    begin_cutting(following, behavior | {"ApplyErrorEscalationPolicy": "STOP_TASK"}, batch)
    t, other = following.source.table("t"), following.source.table("other")
    # Two in another table count for that table alone.
    following.source.execute(*[f"INSERT INTO {other} VALUES ({id}, '{LONG}', {id})" for id in (2, 3)])
    following.source.execute(*[f"INSERT INTO {t} VALUES ({id}, '{LONG}', {id})" for id in (2, 3)])
    following.wait_for_counts("t", (2, 0, 0, 0))
    following.source.execute(f"INSERT INTO {t} VALUES (4, '{LONG}', 4)")
    if escalation == "STOP_TASK":
        wait_until(lambda: following.task.status == "failed", "the task has failed", 30)
        return
    following.pair.wait_for(following.task, "t", "Table error")
    assert following.target.rows("t") == [(1, "short", 1), (2, CUT, 2), (3, CUT, 3)]
    following.source.execute(f"INSERT INTO {other} VALUES (4, 'fine', 4)")
    following.wait_for_counts("other", (3, 0, 0, 0))


@in_both_ways
@to_both_engines
def test_a_key_that_is_too_long_for_the_target_is_none_of_its_rows(following, batch):
    following.pair.make_target_schema()
    following.source.create("t", "k varchar(20) PRIMARY KEY, n integer")
    following.target.create("t", "k varchar(5) PRIMARY KEY, n integer")
    following.start(prepare("TRUNCATE_BEFORE_LOAD") | {"ErrorBehavior": TOLD} | applying(batch))
    following.wait_for_load("t")
    t = following.source.table("t")
    following.source.execute(
        f"INSERT INTO {t} VALUES ('abcde', 1)",
        f"INSERT INTO {t} VALUES ('abcdefgh', 2)",
        f"UPDATE {t} SET n = 3 WHERE k = 'abcdefgh'",
        f"DELETE FROM {t} WHERE k = 'abcdefgh'",
        f"INSERT INTO {t} VALUES ('last', 4)",
    )
    following.wait_for_counts("t", (3, 1, 1, 0), (2, 0, 0, 0))
    assert following.target.rows("t") == [("abcde", 1), ("last", 4)]
    # The deletion of what is not there is passed over by default.
    assert [statement.split(" ")[0] for statement, _ in exceptions(following)] == ["INSERT", "UPDATE"]


@pytest.mark.parametrize("policy", ["SUSPEND_TABLE", "STOP_TASK"])
@in_both_ways
@to_both_engines
def test_a_table_that_vanishes_from_the_target_costs_that_table_or_the_task(following, policy, batch):
    begin(following, {"TableErrorPolicy": policy}, batch)
    following.target.execute(f"DROP TABLE {following.target.table('t')}")
    following.source.execute(f"UPDATE {following.source.table('t')} SET value = 'nowhere' WHERE id = 5")
    match policy:
        case "SUSPEND_TABLE":
            following.pair.wait_for(following.task, "t", "Table error")
            others_go_on(following)
        case "STOP_TASK":
            wait_until(lambda: following.task.status == "failed", "the task has failed")
            assert following.pair.schema in following.task.describe()["LastFailureMessage"]


@in_both_ways
@to_both_engines
def test_a_table_that_fails_again_is_escalated(following, batch):
    begin(following, {"TableErrorEscalationCount": 2}, batch)
    here, there = following.source.table, following.target.table
    # One error of another table counts for that table alone.
    for name in ("other", "t"):
        following.target.execute(f"DROP TABLE {there(name)}")
        following.source.execute(f"UPDATE {here(name)} SET value = 'nowhere' WHERE id = 5")
        following.pair.wait_for(following.task, name, "Table error")
    following.reload("t")
    following.wait_for_load("t")
    assert following.task.status == "running"
    following.target.execute(f"DROP TABLE {there('t')}")
    following.source.execute(f"UPDATE {here('t')} SET value = 'nowhere again' WHERE id = 5")
    wait_until(lambda: following.task.status == "failed", "the task has failed", 30)
    assert "Stop Reason FATAL_ERROR" in following.task.describe()["LastFailureMessage"]


@in_both_ways
@to_both_engines
def test_a_statement_that_the_target_does_not_take_is_escalated(following, batch):
    begin(following, {"TableErrorEscalationCount": 1}, batch)
    following.target.execute(f"DROP TABLE {following.target.table('t')}")
    following.source.execute(f"TRUNCATE TABLE {following.source.table('t')}")
    wait_until(lambda: following.task.status == "failed", "the task has failed", 30)
    message = following.task.describe()["LastFailureMessage"]
    assert following.pair.schema in message and "Stop Reason FATAL_ERROR" in message, message


@in_both_ways
@pytest.mark.parametrize("pair", ["postgres-mariadb", "mariadb-postgres"], indirect=True)
def test_a_truncated_table_can_fail_the_task(following, batch):
    begin(following, {"ApplyErrorFailOnTruncationDdl": True}, batch)
    following.source.execute(f"TRUNCATE TABLE {following.source.table('t')}")
    wait_until(lambda: following.task.status == "failed", "the task has failed")
    message = following.task.describe()["LastFailureMessage"]
    assert "truncated" in message and f"{following.pair.schema}.t" in message
    assert len(following.target.rows("t")) == 8


@pytest.mark.parametrize("ignores", [True, False])
@to_both_engines
def test_conflicts_of_what_changed_during_the_load_are_passed_over_if_that_is_asked(following, ignores):
    pair, source, target = following.pair, following.source, following.target
    pair.create_both("t", KEYED)
    source.fill("t", 10)
    load = {"TargetTablePrepMode": "TRUNCATE_BEFORE_LOAD", "StopTaskCachedChangesApplied": True}
    with target.held_at("t", 5):
        following.begin({"FullLoadSettings": load, "ErrorBehavior": {"FullLoadIgnoreConflicts": ignores}})
        pair.wait_for(following.task, "t", "Full load")
        target.execute(f"INSERT INTO {target.table('t')} VALUES (11, 'theirs')")
        source.execute(f"INSERT INTO {source.table('t')} VALUES (11, 'ours')", f"UPDATE {source.table('t')} SET value = 'new' WHERE id = 1")
    assert following.task.wait("stopped")["StopReason"] == "Stop Reason STOPPED_AFTER_CACHED_EVENTS"
    told = exceptions(following)
    assert told == [] if ignores else [statement.split(" ")[0] for statement, _ in told] == ["INSERT"]
    # Afterwards every conflict is one.
    target.execute(f"INSERT INTO {target.table('t')} VALUES (12, 'theirs')")
    source.execute(f"INSERT INTO {source.table('t')} VALUES (12, 'ours')")
    following.resume()
    wait_until(lambda: len(exceptions(following)) == len(told) + 1, "the conflict is told")
    assert (12, "theirs") in target.rows("t")
