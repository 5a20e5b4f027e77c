"""Filters, MaxRecords and Marker of the describe calls."""

import dataclasses

import pytest
from conftest import create_replication_instance, filters, unique, wait_until

from faults import IDENTIFIER_RULE, NOT_FOUND, VALUE, fault
from resources import closed_port, make_endpoint_row, make_stage, make_subnet_group, random_account, unused_arn


@dataclasses.dataclass
class Listing:
    """A describe call: where its rows are, what names a row, and what it answers when nothing matches."""

    call: str
    rows: str
    key: str
    miss: str | None = NOT_FOUND
    text: str | None = None

    def find(self, client, conditions=(), **parameters):
        """The keys of the rows found; conditions are (name, values)."""
        if conditions:
            parameters["Filters"] = [{"Name": name, "Values": list(values)} for name, values in conditions]
        return [row[self.key] for row in getattr(client, self.call)(**parameters)[self.rows]]


LISTINGS = {
    "instances": Listing("describe_replication_instances", "ReplicationInstances", "ReplicationInstanceArn"),
    "endpoints": Listing(
        "describe_endpoints", "Endpoints", "EndpointArn", text="No Endpoints found matching provided filters"
    ),
    "tasks": Listing(
        "describe_replication_tasks", "ReplicationTasks", "ReplicationTaskArn",
        text="No Tasks found matching provided filters",
    ),
    "connections": Listing("describe_connections", "Connections", "EndpointArn"),
    "groups": Listing(
        "describe_replication_subnet_groups", "ReplicationSubnetGroups", "ReplicationSubnetGroupIdentifier", miss=None
    ),
}  # fmt: skip

# Every filter of DMS for these calls, with a value that matches nothing.
FILTERS = {
    "instances": {
        "replication-instance-arn": unused_arn("rep"), "replication-instance-id": "no-such-instance",
        "replication-instance-class": "dms.c5.24xlarge", "engine-version": "3.5.2",
    },
    "endpoints": {
        "endpoint-arn": unused_arn("endpoint"), "endpoint-type": "nowhere", "endpoint-id": "no-such-endpoint",
        "engine-name": "oracle",
    },
    "tasks": {
        "replication-task-arn": unused_arn("task"), "replication-task-id": "no-such-task", "migration-type": "cdc",
        "endpoint-arn": unused_arn("endpoint"), "replication-instance-arn": unused_arn("rep"),
    },
    "connections": {"endpoint-arn": unused_arn("endpoint"), "replication-instance-arn": unused_arn("rep")},
    "groups": {"replication-subnet-group-id": "no-such-group"},
}  # fmt: skip

EVERY_FILTER = [(listing, name) for listing, names in FILTERS.items() for name in names]


class World:
    """Two of everything, each pair alike in some ways."""

    def __init__(self, client):
        self.client = client
        self.first, self.second = make_stage(client, "mysql", "postgres"), make_stage(client, "mariadb", "postgres")
        self.big = create_replication_instance(
            client, ReplicationInstanceClass="dms.c5.large", EngineVersion="3.5.3", AutoMinorVersionUpgrade=False
        )
        self.tasks = [self.first.ready_task(), self.second.ready_task()]
        self.shared = self.first.ready_task(TargetEndpointArn=self.second.target_arn)
        self.groups = [make_subnet_group(client)["ReplicationSubnetGroupIdentifier"] for _ in range(2)]
        self.instances = [self.first.instance, self.second.instance]
        # Tested connections: the first source from both instances, the second target from one.
        self.pairs = [
            (self.first.instance_arn, self.first.source_arn),
            (self.second.instance_arn, self.first.source_arn),
            (self.second.instance_arn, self.second.target_arn),
        ]
        for instance, endpoint in self.pairs:
            client.test_connection(ReplicationInstanceArn=instance, EndpointArn=endpoint)
        wait_until(
            lambda: all(row["Status"] == "failed" for row in client.describe_connections()["Connections"]),
            "the connections are tested", 60,
        )  # fmt: skip


@pytest.fixture(scope="module")
def world(make_client):
    return World(make_client(account=random_account()))


def assert_found(world, listing, conditions, expected):
    assert sorted(LISTINGS[listing].find(world.client, conditions)) == sorted(expected)


# --- hits ------------------------------------------------------------------------------------------------------------


def test_instances_are_filtered(world):
    first, second = (instance["ReplicationInstanceArn"] for instance in world.instances)
    big = world.big["ReplicationInstanceArn"]
    name = world.instances[0]["ReplicationInstanceIdentifier"]
    for conditions, expected in [
        ([], [first, second, big]),
        ([("replication-instance-arn", [first])], [first]),
        ([("replication-instance-arn", [first, big])], [first, big]),
        ([("replication-instance-arn", [first, unused_arn("rep")])], [first]),
        ([("replication-instance-id", [name])], [first]),
        ([("replication-instance-id", [name.upper()])], [first]),
        ([("replication-instance-class", ["dms.t3.micro"])], [first, second]),
        ([("replication-instance-class", ["dms.t3.micro", "dms.c5.large"])], [first, second, big]),
        ([("engine-version", ["3.5.3"])], [big]),
        ([("engine-version", ["3.5.4"]), ("replication-instance-arn", [second, big])], [second]),
    ]:
        assert_found(world, "instances", conditions, expected)


def test_endpoints_are_filtered(world):
    mysql, mariadb = world.first.source_arn, world.second.source_arn
    postgres = [world.first.target_arn, world.second.target_arn]
    name = world.first.source["EndpointIdentifier"]
    for conditions, expected in [
        ([], [mysql, mariadb, *postgres]),
        ([("endpoint-arn", [mysql])], [mysql]),
        ([("endpoint-arn", [mysql, *postgres])], [mysql, *postgres]),
        ([("endpoint-type", ["source"])], [mysql, mariadb]),
        ([("endpoint-type", ["target"])], postgres),
        ([("endpoint-type", ["source", "target"])], [mysql, mariadb, *postgres]),
        ([("endpoint-id", [name])], [mysql]),
        ([("endpoint-id", [name.upper()])], [mysql]),
        ([("engine-name", ["postgres"])], postgres),
        ([("engine-name", ["mysql", "mariadb"])], [mysql, mariadb]),
        ([("engine-name", ["mysql", "postgres"]), ("endpoint-type", ["source"])], [mysql]),
    ]:
        assert_found(world, "endpoints", conditions, expected)


def test_tasks_are_filtered(world):
    first, second = (task["ReplicationTaskArn"] for task in world.tasks)
    shared = world.shared["ReplicationTaskArn"]
    name = world.tasks[0]["ReplicationTaskIdentifier"]
    for conditions, expected in [
        ([], [first, second, shared]),
        ([("replication-task-arn", [first])], [first]),
        ([("replication-task-arn", [first, second])], [first, second]),
        ([("replication-task-id", [name])], [first]),
        ([("replication-task-id", [name.upper()])], [first]),
        ([("migration-type", ["full-load"])], [first, second, shared]),
        ([("migration-type", ["cdc", "full-load"])], [first, second, shared]),
        ([("endpoint-arn", [world.first.source_arn])], [first, shared]),
        ([("endpoint-arn", [world.second.target_arn])], [second, shared]),
        ([("endpoint-arn", [world.first.target_arn, world.second.target_arn])], [first, second, shared]),
        ([("replication-instance-arn", [world.second.instance_arn])], [second]),
        (
            [("replication-instance-arn", [world.first.instance_arn]), ("endpoint-arn", [world.second.target_arn])],
            [shared],
        ),
    ]:
        assert_found(world, "tasks", conditions, expected)


def test_connections_are_filtered(world):
    source, target = world.first.source_arn, world.second.target_arn
    for conditions, expected in [
        ([], [source, source, target]),
        ([("endpoint-arn", [source])], [source, source]),
        ([("endpoint-arn", [source, target])], [source, source, target]),
        ([("replication-instance-arn", [world.first.instance_arn])], [source]),
        ([("replication-instance-arn", [world.second.instance_arn])], [source, target]),
        ([("replication-instance-arn", [world.second.instance_arn]), ("endpoint-arn", [source])], [source]),
    ]:
        assert_found(world, "connections", conditions, expected)


def test_subnet_groups_are_filtered(world):
    first, second = world.groups
    for conditions, expected in [
        ([("replication-subnet-group-id", [first])], [first]),
        ([("replication-subnet-group-id", [first.upper()])], [first]),
        ([("replication-subnet-group-id", [first, second])], [first, second]),
        ([("replication-subnet-group-id", [first, "no-such-group"])], [first]),
    ]:
        assert_found(world, "groups", conditions, expected)


# --- misses ----------------------------------------------------------------------------------------------------------


def assert_miss(client, listing, conditions):
    about = LISTINGS[listing]
    if about.miss is None:
        assert about.find(client, conditions) == []
    else:
        with fault(about.miss, about.text):
            about.find(client, conditions)


@pytest.mark.parametrize(("listing", "name"), EVERY_FILTER)
def test_a_value_that_matches_nothing_is_a_miss(world, listing, name):
    assert_miss(world.client, listing, [(name, [FILTERS[listing][name]])])


@pytest.mark.parametrize(("listing", "name"), EVERY_FILTER)
def test_a_miss_is_a_miss_in_an_empty_account_too(make_client, listing, name):
    assert_miss(make_client(account=random_account()), listing, [(name, [FILTERS[listing][name]])])


@pytest.mark.parametrize("listing", ["instances", "endpoints", "tasks", "connections"])
def test_conditions_that_match_apart_but_not_together_are_a_miss(world, listing):
    first, second = world.first, world.second
    conditions = {
        "instances": [("replication-instance-arn", [first.instance_arn]), ("engine-version", ["3.5.3"])],
        "endpoints": [("endpoint-arn", [first.source_arn]), ("endpoint-type", ["target"])],
        "tasks": [("endpoint-arn", [first.source_arn]), ("replication-instance-arn", [second.instance_arn])],
        "connections": [("endpoint-arn", [second.target_arn]), ("replication-instance-arn", [first.instance_arn])],
    }[listing]
    assert_miss(world.client, listing, conditions)


@pytest.mark.parametrize("value", ["%", "*", "no-such"])
def test_values_are_no_patterns(world, value):
    assert_miss(world.client, "endpoints", [("engine-name", [value])])


# --- bad filters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listing", LISTINGS)
@pytest.mark.parametrize("name", ["colour", "Endpoint-Arn", "endpoint_arn", "certificate-arn"])
def test_an_unknown_filter_is_refused(world, listing, name):
    with fault(VALUE, names=[name]):
        LISTINGS[listing].find(world.client, [(name, ["a"])])


@pytest.mark.parametrize(
    ("listing", "name"),
    [("endpoints", "replication-instance-arn"), ("tasks", "engine-version"), ("instances", "endpoint-arn"),
     ("connections", "replication-task-arn"), ("groups", "replication-instance-arn")],
)  # fmt: skip
def test_the_filter_of_another_call_is_refused(world, listing, name):
    with fault(VALUE, names=[name]):
        LISTINGS[listing].find(world.client, [(name, ["a"])])


def test_an_unknown_filter_is_refused_where_a_miss_is_no_fault(world):
    with fault(VALUE, names=["colour"]):
        world.client.describe_endpoint_types(Filters=filters("colour", "green"))


@pytest.mark.parametrize(("listing", "name"), EVERY_FILTER)
def test_a_filter_without_values_is_refused(world, listing, name):
    with fault(VALUE, names=[name]):
        LISTINGS[listing].find(world.client, [(name, [])])


@pytest.mark.parametrize("name", ["engine-name", "endpoint-type"])
def test_a_filter_without_values_is_refused_where_a_miss_is_no_fault(world, name):
    with fault(VALUE, f"The parameter Filter: {name} must have a value."):
        world.client.describe_endpoint_types(Filters=filters(name))


@pytest.mark.parametrize(
    ("listing", "name"),
    [
        ("instances", "replication-instance-id"), ("endpoints", "endpoint-id"), ("tasks", "replication-task-id"),
        ("groups", "replication-subnet-group-id"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", ["not valid", "a--b", "-x", "x-", "1a", "a_b", ""])
def test_a_value_that_can_be_no_identifier_is_refused(world, listing, name, value):
    with fault(VALUE, IDENTIFIER_RULE.format(what=f"Filter: {name}")):
        LISTINGS[listing].find(world.client, [(name, [value])])


# --- the size of a page ----------------------------------------------------------------------------------------------

PAGED = [
    "describe_replication_instances", "describe_endpoints", "describe_replication_tasks", "describe_connections",
    "describe_replication_subnet_groups", "describe_endpoint_types", "describe_orderable_replication_instances",
]  # fmt: skip


@pytest.mark.parametrize("call", PAGED)
@pytest.mark.parametrize("number", [-1, 1, 19, 101])
def test_a_page_has_20_to_100_rows(world, call, number):
    with fault(VALUE, f"Invalid value {number} for MaxRecords. Must be between 20 and 100"):
        getattr(world.client, call)(MaxRecords=number)


@pytest.mark.parametrize("call", PAGED)
@pytest.mark.parametrize("number", [0, 20, 100])
def test_bounds_of_a_page_are_accepted(world, call, number):
    answer = getattr(world.client, call)(MaxRecords=number)
    (rows,) = (value for value in answer.values() if isinstance(value, list))
    assert 0 < len(rows) <= (number or 100)


@pytest.mark.parametrize("call", PAGED)
def test_an_empty_marker_counts_as_not_given(world, call):
    first, second = getattr(world.client, call)(), getattr(world.client, call)(Marker="")
    first.pop("ResponseMetadata"), second.pop("ResponseMetadata")
    assert first == second


@pytest.mark.parametrize("call", [*PAGED, "describe_engine_versions"])
@pytest.mark.parametrize("marker", ["garbage", "0", "-1", "AAAA", "\u00e9", "x" * 2000])
def test_a_garbage_marker_is_refused(world, call, marker):
    with fault(VALUE, names=["Marker"]):
        getattr(world.client, call)(Marker=marker)


# --- a walk ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowd(make_client):
    """120 endpoints and tasks, 45 instances and subnet groups."""
    client = make_client(account=random_account())
    stage = make_stage(client)
    for _ in range(118):
        make_endpoint_row(client)
    for _ in range(120):
        stage.create_task()
    for _ in range(44):
        create_replication_instance(client)
    for _ in range(45):
        make_subnet_group(client)
    return client


WALKS = [("endpoints", 120), ("tasks", 120), ("instances", 45), ("groups", 45)]


@pytest.mark.parametrize("size", [20, 50, 100])
@pytest.mark.parametrize(("listing", "count"), WALKS)
def test_a_walk_over_the_pages_sees_every_row_once(crowd, listing, count, size):
    about = LISTINGS[listing]
    pages = list(crowd.get_paginator(about.call).paginate(PaginationConfig={"PageSize": size}))
    keys = [[row[about.key] for row in page[about.rows]] for page in pages]
    full, rest = divmod(count, size)
    assert [len(page) for page in keys] == [size] * full + ([rest] if rest else [])
    assert len({key for page in keys for key in page}) == count
    assert [bool(page.get("Marker")) for page in pages] == [True] * (len(pages) - 1) + [False]


@pytest.mark.parametrize(("listing", "count"), WALKS)
def test_a_page_is_100_rows_unless_asked_otherwise(crowd, listing, count):
    about = LISTINGS[listing]
    answer = getattr(crowd, about.call)()
    assert len(answer[about.rows]) == min(count, 100)
    assert ("Marker" in answer) == (count > 100)


def test_the_last_page_has_no_marker_even_when_it_is_full(crowd):
    arns = LISTINGS["endpoints"].find(crowd)[:40]
    conditions = filters("endpoint-arn", *arns)
    first = crowd.describe_endpoints(Filters=conditions, MaxRecords=20)
    second = crowd.describe_endpoints(Filters=conditions, MaxRecords=20, Marker=first["Marker"])
    assert [len(answer["Endpoints"]) for answer in (first, second)] == [20, 20]
    assert "Marker" not in second


def test_a_walk_keeps_to_its_filter(crowd):
    pages = crowd.get_paginator("describe_endpoints").paginate(
        Filters=filters("endpoint-type", "source"), PaginationConfig={"PageSize": 20}
    )
    found = [endpoint for page in pages for endpoint in page["Endpoints"]]
    assert {endpoint["EndpointType"] for endpoint in found} == {"SOURCE"}
    assert len(found) == 119


def test_rows_that_vanish_during_a_walk_hide_no_others(make_client):
    client = make_client(account=random_account())
    arns = {make_endpoint_row(client)["EndpointArn"] for _ in range(45)}
    first = client.describe_endpoints(MaxRecords=20)
    seen = [endpoint["EndpointArn"] for endpoint in first["Endpoints"]]
    for arn in seen[:10]:
        client.delete_endpoint(EndpointArn=arn)
        with fault(NOT_FOUND):
            client.describe_endpoints(Filters=filters("endpoint-arn", arn))
    pages = client.get_paginator("describe_endpoints").paginate(
        PaginationConfig={"PageSize": 20, "StartingToken": None}, Marker=first["Marker"]
    )
    seen += [endpoint["EndpointArn"] for page in pages for endpoint in page["Endpoints"]]
    assert set(seen) == arns and len(seen) == len(arns)


def test_connections_come_in_pages(make_client):
    client = make_client(account=random_account())
    instance = create_replication_instance(client)["ReplicationInstanceArn"]
    port, arns = closed_port(), set()
    for _ in range(25):
        arns.add(make_endpoint_row(client, EndpointIdentifier=unique("tested"), Port=port)["EndpointArn"])
    for arn in arns:
        client.test_connection(ReplicationInstanceArn=instance, EndpointArn=arn)
    pages = list(client.get_paginator("describe_connections").paginate(PaginationConfig={"PageSize": 20}))
    assert [len(page["Connections"]) for page in pages] == [20, 5]
    assert {row["EndpointArn"] for page in pages for row in page["Connections"]} == arns
