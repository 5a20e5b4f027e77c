"""DescribeTableStatistics and ReloadTables: what the API says of tables, not what is in them."""

import datetime

import pytest
from conftest import create_endpoint, create_replication_instance, create_task, filters, wait_until

from faults import NOT_FOUND, REFUSED, STATE, VALUE, fault
from resources import make_stage, random_account, running_task, unused_arn

COUNTERS = [
    "Inserts", "Deletes", "Updates", "Ddls", "FullLoadCondtnlChkFailedRows", "FullLoadErrorRows",
    "ValidationPendingRecords", "ValidationFailedRecords", "ValidationSuspendedRecords",
]  # fmt: skip

TABLES = 43


@pytest.fixture(scope="module")
def never_started(make_client):
    client = make_client(account=random_account())
    return client, make_stage(client).ready_task()["ReplicationTaskArn"]


@pytest.fixture(scope="module")
def loaded(make_client, databases):
    """A task that has loaded 40 tables of one schema and three of another, table N with N rows."""
    client = make_client(account=random_account())
    source, target = databases.new(databases.pg_source), databases.new(databases.pg_target)
    names = [f"many.t{number:02}" for number in range(40)] + [f"few.t{number:02}" for number in range(3)]
    source.execute(
        "CREATE SCHEMA many",
        "CREATE SCHEMA few",
        *(f"CREATE TABLE {name} (id int PRIMARY KEY)" for name in names),
        *(f"INSERT INTO {name} SELECT generate_series(1, {int(name[-2:])})" for name in names),
    )
    instance = create_replication_instance(client)["ReplicationInstanceArn"]
    arns = [create_endpoint(client, instance, **end) for end in (source.endpoint("source"), target.endpoint("target"))]
    task = create_task(client, instance, *arns)
    task.finish()
    return task


def rows_of(task, **parameters):
    answer = task.client.describe_table_statistics(ReplicationTaskArn=task.arn, **parameters)
    return {f"{row['SchemaName']}.{row['TableName']}": row for row in answer["TableStatistics"]}


def where(**conditions):
    """`where(schema_name="a", table_name=["b", "c"])` as filters."""
    return [
        {"Name": name.replace("_", "-"), "Values": [values] if isinstance(values, str) else values}
        for name, values in conditions.items()
    ]


# --- before a run ----------------------------------------------------------------------------------------------------


def test_a_task_that_was_never_started_has_no_rows(never_started):
    client, arn = never_started
    answer = client.describe_table_statistics(ReplicationTaskArn=arn)
    assert (answer["ReplicationTaskArn"], answer["TableStatistics"]) == (arn, [])
    assert "Marker" not in answer


def test_a_filter_that_matches_nothing_gives_no_rows(never_started):
    client, arn = never_started
    answer = client.describe_table_statistics(ReplicationTaskArn=arn, Filters=filters("schema-name", "hello"))
    assert answer["TableStatistics"] == []


@pytest.mark.parametrize("name", ["column-name", "schema_name", "Schema-Name", "", "replication-task-arn"])
def test_an_unknown_filter_is_refused(never_started, name):
    client, arn = never_started
    with fault(VALUE, names=[name]):
        client.describe_table_statistics(ReplicationTaskArn=arn, Filters=filters(name, "a"))


@pytest.mark.parametrize("number", [-1, 1, 19, 501])
def test_a_page_has_20_to_500_rows(never_started, number):
    client, arn = never_started
    with fault(VALUE, names=["MaxRecords", str(number)]):
        client.describe_table_statistics(ReplicationTaskArn=arn, MaxRecords=number)


@pytest.mark.parametrize("number", [0, 20, 101, 500])
def test_bounds_of_a_page_are_accepted(never_started, number):
    client, arn = never_started
    assert client.describe_table_statistics(ReplicationTaskArn=arn, MaxRecords=number)["TableStatistics"] == []


def test_a_garbage_marker_is_refused(never_started):
    client, arn = never_started
    with fault(VALUE, names=["Marker"]):
        client.describe_table_statistics(ReplicationTaskArn=arn, Marker="garbage")


# --- after a run -----------------------------------------------------------------------------------------------------


def test_a_loaded_table_has_a_full_row(loaded):
    before = loaded.describe()["ReplicationTaskStartDate"] - datetime.timedelta(seconds=1)
    row = rows_of(loaded, Filters=where(schema_name="many", table_name="t07"))["many.t07"]
    assert row["TableState"] == "Table completed"
    assert row["FullLoadRows"] == 7
    assert {name: row[name] for name in COUNTERS} == dict.fromkeys(COUNTERS, 0)
    assert row["FullLoadReloaded"] is False
    assert row["ValidationState"] == "Not enabled"
    assert before <= row["FullLoadStartTime"] <= row["FullLoadEndTime"]
    assert before <= row["LastUpdateTime"]


def test_every_loaded_table_has_a_row(loaded):
    rows = rows_of(loaded)
    assert len(rows) == TABLES
    assert {name: row["FullLoadRows"] for name, row in rows.items()} == {name: int(name[-2:]) for name in rows}


@pytest.mark.parametrize(
    ("conditions", "count"),
    [
        ({"schema_name": "many"}, 40),
        ({"schema_name": ["many", "few"]}, 43),
        ({"schema_name": ["few", "absent"]}, 3),
        ({"table_name": "t01"}, 2),
        ({"table_name": ["t01", "t02", "t30"]}, 5),
        ({"table_state": "Table completed"}, 43),
        ({"table_state": "Table error"}, 0),
        ({"schema_name": "few", "table_name": "t01"}, 1),
        ({"schema_name": "few", "table_name": "t30"}, 0),
        ({"schema_name": "many", "table_name": ["t00", "t39"], "table_state": "Table completed"}, 2),
        ({"schema_name": "m%"}, 0),
        ({"schema_name": "absent"}, 0),
    ],
)
def test_filters_are_alternatives_within_and_conditions_among_each_other(loaded, conditions, count):
    rows = rows_of(loaded, Filters=where(**conditions))
    assert len(rows) == count


def test_rows_come_in_pages(loaded):
    sizes, markers, found = [], [], []
    for page in loaded.client.get_paginator("describe_table_statistics").paginate(
        ReplicationTaskArn=loaded.arn, PaginationConfig={"PageSize": 20}
    ):
        sizes.append(len(page["TableStatistics"]))
        markers.append("Marker" in page)
        found += [(row["SchemaName"], row["TableName"]) for row in page["TableStatistics"]]
    assert sizes == [20, 20, 3]
    assert markers == [True, True, False]
    assert len(set(found)) == TABLES


def test_rows_are_kept_after_the_task_is_modified(loaded):
    loaded.client.modify_replication_task(ReplicationTaskArn=loaded.arn, TaskData="{}")
    loaded.wait("stopped")
    assert len(rows_of(loaded)) == TABLES


# --- reload ----------------------------------------------------------------------------------------------------------

ONE_TABLE = [{"SchemaName": "held", "TableName": "fruit"}]


def test_tables_of_a_task_that_does_not_run_cannot_be_reloaded(never_started, loaded):
    client, arn = never_started
    with fault(STATE):
        client.reload_tables(ReplicationTaskArn=arn, TablesToReload=ONE_TABLE)
    with fault(STATE):
        loaded.client.reload_tables(
            ReplicationTaskArn=loaded.arn, TablesToReload=[{"SchemaName": "few", "TableName": "t01"}]
        )


def test_tables_of_an_unknown_task_cannot_be_reloaded(never_started):
    client, _ = never_started
    with fault(NOT_FOUND):
        client.reload_tables(ReplicationTaskArn=unused_arn("task"), TablesToReload=ONE_TABLE)


def test_an_unknown_reload_option_is_refused(never_started):
    client, arn = never_started
    with fault(VALUE, names=["ReloadOption"]):
        client.reload_tables(ReplicationTaskArn=arn, TablesToReload=ONE_TABLE, ReloadOption="again")


def test_a_table_of_a_running_task_is_reloaded(dms, databases, make_endpoint, make_task):
    fruit = ["CREATE TABLE held.fruit (id int PRIMARY KEY)", "INSERT INTO held.fruit SELECT generate_series(1, 9)"]
    with running_task(databases, make_endpoint, make_task, fruit) as task:

        def completed():
            return rows_of(task).get("held.fruit", {}).get("TableState") == "Table completed"

        wait_until(completed, "held.fruit is loaded", 20)
        assert rows_of(task)["held.fruit"]["FullLoadReloaded"] is False
        assert rows_of(task)["held.gate"]["TableState"] in ("Before load", "Full load")
        answer = dms.reload_tables(ReplicationTaskArn=task.arn, TablesToReload=ONE_TABLE)
        assert answer["ReplicationTaskArn"] == task.arn
        # At once, or after the tables that are being loaded.
        assert rows_of(task)["held.fruit"]["TableState"] in ("Table is being reloaded", "Full load", "Table completed")
        with fault(REFUSED):
            dms.reload_tables(ReplicationTaskArn=task.arn, TablesToReload=[])
        with fault(REFUSED):
            dms.reload_tables(ReplicationTaskArn=task.arn, TablesToReload=ONE_TABLE * 11)
    task.wait("stopped")
    rows = rows_of(task)
    assert {row["TableState"] for row in rows.values()} == {"Table completed"}
    assert {name: row["FullLoadReloaded"] for name, row in rows.items()} == {"held.fruit": True, "held.gate": False}
    assert rows["held.fruit"]["FullLoadRows"] == 9
