"""What DMS offers: instance classes, engine versions, endpoint types and settings, quotas."""

import re

import pytest
from conftest import create_replication_instance, filters

import wire
from faults import NOT_FOUND, VALUE, fault
from resources import RELATIONAL, make_endpoint_row, make_stage, make_subnet_group, random_account

SIZES = {
    "t3": "micro small medium large",
    "c5": "large xlarge 2xlarge 4xlarge 9xlarge 12xlarge 18xlarge 24xlarge",
    "c6i": "large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 32xlarge",
    "c7i": "large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 48xlarge",
    "r5": "large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge",
    "r6i": "large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 32xlarge",
    "r7i": "large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 48xlarge",
}
CLASSES = {f"dms.{family}.{size}" for family, sizes in SIZES.items() for size in sizes.split()}

# Engine: display name, ends (s source, t target), change data capture, first version of DMS.
ENDPOINT_TYPES = {
    "aurora": ("Amazon Aurora MySQL", "st", True, None),
    "aurora-serverless": ("Amazon Aurora MySQL Serverless", "t", True, None),
    "aurora-postgresql": ("Amazon Aurora PostgreSQL", "st", True, None),
    "aurora-postgresql-serverless": ("Amazon Aurora PostgreSQL Serverless", "t", True, None),
    "docdb": ("Amazon DocumentDB (with MongoDB compatibility)", "st", True, "3.1.1"),
    "dynamodb": ("Amazon DynamoDB", "t", True, None),
    "kinesis": ("Amazon Kinesis", "t", True, "3.1.3"),
    "neptune": ("Amazon Neptune", "t", False, "3.3.2"),
    "opensearch": ("Amazon OpenSearch Service (successor to Amazon Elasticsearch Service)", "t", True, None),
    "redshift": ("Amazon Redshift", "t", True, None),
    "s3": ("Amazon S3", "st", True, None),
    "dms-transfer": ("AWS DMS Transfer", "s", True, None),
    "elasticsearch": ("Elasticsearch Service", "t", True, "3.1.1"),
    "db2": ("IBM Db2 LUW", "s", True, None),
    "kafka": ("Kafka", "t", True, "3.3.1"),
    "mariadb": ("MariaDB", "st", True, None),
    "azuredb": ("Microsoft Azure SQL Database", "s", False, None),
    "sqlserver": ("Microsoft SQL Server", "st", True, None),
    "mongodb": ("MongoDB", "s", True, None),
    "mysql": ("MySQL", "st", True, None),
    "oracle": ("Oracle", "st", True, None),
    "postgres": ("PostgreSQL", "st", True, None),
    "redis": ("Redis", "t", True, "3.4.4"),
    "sybase": ("SAP Sybase ASE", "st", True, None),
}

QUOTAS = {
    "ReplicationInstances": 60,
    "AllocatedStorage": 30000,
    "ReplicationSubnetGroups": 60,
    "SubnetsPerReplicationSubnetGroup": 60,
    "Endpoints": 1000,
    "EndpointsPerInstance": 100,
    "ReplicationTasks": 600,
}


@pytest.fixture
def client(make_client):
    return make_client(account=random_account())


def everything(client, call, member, **parameters):
    """All rows of a call, over all its pages."""
    rows, marker = [], {}
    while True:
        answer = getattr(client, call)(**parameters, **marker)
        rows += answer[member]
        if "Marker" not in answer:
            return rows
        marker = {"Marker": answer["Marker"]}


# --- instance classes ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def orderable(make_client):
    client = make_client(account=random_account())
    return everything(client, "describe_orderable_replication_instances", "OrderableReplicationInstances")


def test_every_class_can_be_ordered(orderable):
    assert CLASSES <= {row["ReplicationInstanceClass"] for row in orderable}


def test_there_is_one_row_for_each_version_and_class(orderable, client):
    pairs = [(row["EngineVersion"], row["ReplicationInstanceClass"]) for row in orderable]
    assert len(pairs) == len(set(pairs))
    versions = {row["Version"] for row in everything(client, "describe_engine_versions", "EngineVersions")}
    assert {version for version, _ in pairs} <= versions
    assert {class_ for version, class_ in pairs if version == "3.5.4"} >= CLASSES


def test_a_row_has_bounds_and_zones(orderable):
    for row in orderable:
        assert row["StorageType"] in ("gp2", "gp3")
        assert (row["MinAllocatedStorage"], row["MaxAllocatedStorage"]) == (5, 6144)
        assert row["MinAllocatedStorage"] <= row["DefaultAllocatedStorage"] <= row["MaxAllocatedStorage"]
        assert row["IncludedAllocatedStorage"] == row["DefaultAllocatedStorage"]
        assert row["AvailabilityZones"]
        assert all(re.fullmatch("us-east-1[a-f]", zone) for zone in row["AvailabilityZones"])


def test_the_default_storage_is_the_same_in_every_version_and_what_instances_get(orderable, client):
    defaults = {}
    for row in orderable:
        defaults.setdefault(row["ReplicationInstanceClass"], set()).add(row["DefaultAllocatedStorage"])
    assert all(len(found) == 1 for found in defaults.values())
    assert (defaults["dms.t3.micro"], defaults["dms.c6i.large"]) == ({50}, {100})
    for class_ in ("dms.t3.micro", "dms.c6i.large", "dms.r7i.48xlarge"):
        instance = create_replication_instance(client, ReplicationInstanceClass=class_)
        assert {instance["AllocatedStorage"]} == defaults[class_]


def test_zones_are_those_of_the_region(make_client):
    client = make_client(account=random_account(), region="eu-west-1")
    row = client.describe_orderable_replication_instances()["OrderableReplicationInstances"][0]
    assert all(zone.startswith("eu-west-1") for zone in row["AvailabilityZones"])


def test_classes_come_in_pages(client, orderable):
    pages = list(
        client.get_paginator("describe_orderable_replication_instances").paginate(PaginationConfig={"PageSize": 100})
    )
    assert [len(page["OrderableReplicationInstances"]) for page in pages[:-1]] == [100] * (len(pages) - 1)
    assert [row for page in pages for row in page["OrderableReplicationInstances"]] == orderable
    assert len(pages) > 1, "there are more than 100 combinations of version and class"


# --- engine versions -------------------------------------------------------------------------------------------------


@pytest.fixture
def versions(client):
    return {row["Version"]: row for row in everything(client, "describe_engine_versions", "EngineVersions")}


def test_the_default_version_is_the_one_new_instances_get(client, versions):
    (default,) = [version for version, row in versions.items() if row["Lifecycle"] == "DEFAULT_VERSION"]
    assert default == "3.5.4"
    assert create_replication_instance(client)["EngineVersion"] == default


def test_every_version_has_a_lifecycle_and_a_launch_date(versions):
    assert {"3.5.3", "3.5.4", "3.6.1"} <= versions.keys()
    assert {row["Lifecycle"] for row in versions.values()} <= {"DEFAULT_VERSION", "ACTIVE", "DEPRECATED"}
    assert versions["3.5.4"]["LaunchDate"].date().isoformat() == "2024-11-15"
    assert versions["3.6.1"]["LaunchDate"].date().isoformat() == "2025-05-15"


def test_upgrades_lead_to_newer_versions_that_are_offered(versions):
    for version, row in versions.items():
        for upgrade in row.get("AvailableUpgrades", []):
            assert upgrade in versions
            assert [int(part) for part in upgrade.split(".")] > [int(part) for part in version.split(".")]
    assert "3.5.4" in versions["3.5.3"]["AvailableUpgrades"]


# --- endpoint types --------------------------------------------------------------------------------------------------


def expected_types():
    for engine, (display, ends, changes, version) in ENDPOINT_TYPES.items():
        for end in ends:
            row = {
                "EngineName": engine,
                "SupportsCDC": changes,
                "EndpointType": {"s": "source", "t": "target"}[end],
                "EngineDisplayName": display,
            }
            yield row | ({"ReplicationInstanceEngineMinimumVersion": version} if version else {})


def types(client, **parameters):
    return everything(client, "describe_endpoint_types", "SupportedEndpointTypes", **parameters)


def test_every_engine_with_a_runtime_is_offered_at_both_ends(client):
    offered = types(client)
    for row in expected_types():
        if row["EngineName"] in RELATIONAL:
            assert row in offered


def test_what_is_offered_is_described_as_aws_describes_it(client):
    expected = list(expected_types())
    for row in types(client):
        assert row in expected or row["EngineName"] not in ENDPOINT_TYPES
    assert len(types(client)) >= 10


@pytest.mark.parametrize(
    ("conditions", "engines", "ends"),
    [
        ([("engine-name", ["mysql"])], {"mysql"}, {"source", "target"}),
        ([("engine-name", ["mysql", "postgres"])], {"mysql", "postgres"}, {"source", "target"}),
        ([("engine-name", ["mysql"]), ("endpoint-type", ["target"])], {"mysql"}, {"target"}),
        ([("engine-name", ["mysql"]), ("endpoint-type", ["source", "target"])], {"mysql"}, {"source", "target"}),
        ([("engine-name", ["no-such-engine"])], set(), set()),
    ],
)
def test_endpoint_types_are_filtered(client, conditions, engines, ends):
    found = types(client, Filters=[{"Name": name, "Values": values} for name, values in conditions])
    assert {row["EngineName"] for row in found} == engines
    assert {row["EndpointType"] for row in found} == ends
    assert len(found) == len(engines) * len(ends)


def test_a_filter_by_end_gives_that_end_only(client):
    assert {row["EndpointType"] for row in types(client, Filters=filters("endpoint-type", "source"))} == {"source"}


# --- endpoint settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", RELATIONAL)
def test_the_settings_of_an_engine_are_those_of_its_structure(client, engine):
    rows = everything(client, "describe_endpoint_settings", "EndpointSettings", EngineName=engine)
    names = [row["Name"] for row in rows]
    assert names == sorted(names) and len(names) == len(set(names))
    structure = wire.model().shape_for(RELATIONAL[engine][1])
    assert set(names) <= set(structure.members)
    assert {"ServerName", "Port", "Username", "Password", "AfterConnectScript"} <= set(names)
    kinds = {"string": "string", "integer": "integer", "boolean": "boolean"}
    for row in rows:
        member = structure.members[row["Name"]]
        expected = "enum" if getattr(member, "enum", None) else kinds[member.type_name]
        assert row["Type"] == expected, row["Name"]
        assert row.get("Applicability") in (None, "SOURCE_ONLY", "TARGET_ONLY")
        assert ("EnumValues" in row) == (expected == "enum")
        if expected == "enum":
            assert set(row["EnumValues"]) == set(member.enum)


@pytest.mark.parametrize("engine", RELATIONAL)
def test_only_secrets_are_sensitive(client, engine):
    rows = everything(client, "describe_endpoint_settings", "EndpointSettings", EngineName=engine)
    assert [row["Name"] for row in rows if row["Sensitive"]] == ["Password"]


def test_the_settings_of_sql_server_are_those_of_the_documentation(client):
    rows = client.describe_endpoint_settings(EngineName="sqlserver")["EndpointSettings"]
    names = [row["Name"] for row in rows]
    assert names == sorted(names)
    plain = "ControlTablesFileGroup DatabaseName SecretsManagerAccessRoleArn SecretsManagerSecretId ServerName Username"
    expected = [{"Name": name, "Type": "string", "Sensitive": False} for name in plain.split()]
    for name, kind, more in [
        ("Password", "string", {"Sensitive": True}),
        ("Port", "integer", {}),
        ("QuerySingleAlwaysOnNode", "boolean", {}),
        ("UseThirdPartyBackupDevice", "boolean", {}),
        ("ReadBackupOnly", "boolean", {"Applicability": "SOURCE_ONLY"}),
        ("UseBcpFullLoad", "boolean", {"Applicability": "TARGET_ONLY"}),
        ("BcpPacketSize", "integer", {"Applicability": "TARGET_ONLY", "IntValueMin": 1, "IntValueMax": 100000}),
        ("SafeguardPolicy", "enum", {
            "Applicability": "SOURCE_ONLY",
            "EnumValues": ["rely-on-sql-server-replication-agent", "exclusive-automatic-truncation",
                           "shared-automatic-truncation"],
        }),
    ]:  # fmt: skip
        expected.append({"Name": name, "Type": kind, "Sensitive": False} | more)
    # The structure has gained members since; nothing is known of their rows.
    known = {row["Name"] for row in expected}
    assert sorted(expected, key=lambda row: row["Name"]) == [row for row in rows if row["Name"] in known]


@pytest.mark.parametrize("engine", ["cassandra", "", "MYSQL"])
def test_settings_of_an_unknown_engine_are_refused(client, engine):
    with fault(VALUE, names=[engine]):
        client.describe_endpoint_settings(EngineName=engine)


# --- quotas ----------------------------------------------------------------------------------------------------------


def quotas(client):
    rows = client.describe_account_attributes()["AccountQuotas"]
    assert len(rows) == len({row["AccountQuotaName"] for row in rows})
    return {row["AccountQuotaName"]: row for row in rows}


def used(client):
    return {name: row["Used"] for name, row in quotas(client).items()}


def test_an_empty_account_uses_nothing_of_its_quotas(client):
    found = quotas(client)
    assert {name: found[name]["Max"] for name in QUOTAS} == QUOTAS
    assert {row["Used"] for row in found.values()} == {0}


def test_quotas_count_what_is_there(client):
    before = used(client)
    group = make_subnet_group(client)["ReplicationSubnetGroupIdentifier"]
    stage = make_stage(client)  # One instance of 50 GB and two endpoints.
    stage.ready_task()
    create_replication_instance(client, AllocatedStorage=70, ReplicationSubnetGroupIdentifier=group)
    after = used(client)
    grown = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert {
        "ReplicationInstances": 2, "AllocatedStorage": 120, "ReplicationSubnetGroups": 1, "Endpoints": 2,
        "ReplicationTasks": 1,
    }.items() <= grown.items()  # fmt: skip


def test_the_endpoints_of_an_instance_are_those_it_was_tested_with(client):
    first, second = make_stage(client), make_stage(client)
    assert used(client)["EndpointsPerInstance"] == 0

    def test(instance, endpoint):
        client.test_connection(ReplicationInstanceArn=instance, EndpointArn=endpoint)
        return used(client)["EndpointsPerInstance"]

    assert test(first.instance_arn, first.source_arn) == 1
    assert test(first.instance_arn, first.target_arn) == 2
    # Of the instance with the most, not of all together.
    assert test(second.instance_arn, first.source_arn) == 2
    assert test(first.instance_arn, second.source_arn) == 3
    client.delete_endpoint(EndpointArn=first.target_arn)
    assert used(client)["EndpointsPerInstance"] == 2


def test_the_subnets_of_a_group_are_those_of_the_largest_group(client):
    def make(count):
        ids = [f"subnet-{number:08x}" for number in range(count)]
        group = make_subnet_group(client, SubnetIds=ids)["ReplicationSubnetGroupIdentifier"]
        return group, used(client)["SubnetsPerReplicationSubnetGroup"]

    assert make(3)[1] == 3
    largest, count = make(5)
    assert count == 5
    assert make(2)[1] == 5
    client.delete_replication_subnet_group(ReplicationSubnetGroupIdentifier=largest)
    assert used(client)["SubnetsPerReplicationSubnetGroup"] == 3


def test_quotas_count_down_again(client):
    endpoint = make_endpoint_row(client)["EndpointArn"]
    assert used(client)["Endpoints"] == 1
    client.delete_endpoint(EndpointArn=endpoint)
    with fault(NOT_FOUND):
        client.describe_endpoints(Filters=filters("endpoint-arn", endpoint))
    assert used(client)["Endpoints"] == 0


def test_an_account_has_an_identifier_that_stays_and_is_its_own(make_client):
    accounts = [random_account() for _ in range(2)]
    first, second = (
        [make_client(account=account).describe_account_attributes()["UniqueAccountIdentifier"] for account in accounts]
        for _ in range(2)
    )
    assert first == second
    assert first[0] != first[1]
    assert all(re.fullmatch("[a-z][a-z0-9]{11}", identifier) for identifier in first)
