"""Replication instances: CreateReplicationInstance and its family."""

import datetime
import re

import pytest
from conftest import create_replication_instance, filters, run_waiter, unique

import wire
from faults import ALREADY_EXISTS, COMBINATION, IDENTIFIER_RULE, NOT_FOUND, REFUSED, STATE, VALUE, fault
from resources import RANDOM_ID, list_tags, make_stage, make_subnet_group, random_account, unused_arn

DEFAULT_VERSION = "3.5.4"
HALF_HOUR = re.compile(r"(mon|tue|wed|thu|fri|sat|sun):(\d\d):(\d\d)-(mon|tue|wed|thu|fri|sat|sun):(\d\d):(\d\d)")

# Parts of an instance that come into being with it, after the create call has answered.
NOT_YET_AT_CREATE = {
    "InstanceCreateTime", "AvailabilityZone", "SecondaryAvailabilityZone", "FreeUntil", "DnsNameServers",
    "ReplicationInstancePrivateIpAddress", "ReplicationInstancePublicIpAddress",
}  # fmt: skip


@pytest.fixture
def account():
    return random_account()


@pytest.fixture
def client(make_client, account):
    return make_client(account=account)


def create(client, **parameters):
    """The answer of the create call."""
    request = {"ReplicationInstanceIdentifier": unique("instance"), "ReplicationInstanceClass": "dms.t3.micro"}
    return client.create_replication_instance(**(request | parameters))["ReplicationInstance"]


def describe(client, arn):
    answer = client.describe_replication_instances(Filters=filters("replication-instance-arn", arn))
    (instance,) = answer["ReplicationInstances"]
    return instance


def settled(client, arn):
    run_waiter(client, "replication_instance_available", Filters=filters("replication-instance-arn", arn))
    return describe(client, arn)


# --- create ----------------------------------------------------------------------------------------------------------


def test_create_answers_the_instance_being_created_with_its_defaults(client, account):
    identifier = unique("instance")
    instance = create(client, ReplicationInstanceIdentifier=identifier)
    assert instance["ReplicationInstanceIdentifier"] == identifier
    assert instance["ReplicationInstanceClass"] == "dms.t3.micro"
    assert instance["ReplicationInstanceStatus"] == "creating"
    assert re.fullmatch(f"arn:aws:dms:us-east-1:{account}:rep:{RANDOM_ID}", instance["ReplicationInstanceArn"])
    assert instance["EngineVersion"] == DEFAULT_VERSION
    assert instance["MultiAZ"] is False
    assert instance["AutoMinorVersionUpgrade"] is True
    assert instance["PubliclyAccessible"] is True
    assert instance["NetworkType"] == "IPV4"
    assert instance["PendingModifiedValues"] == {}
    assert re.fullmatch(rf"arn:aws:kms:us-east-1:{account}:key/[0-9a-f-]{{36}}", instance["KmsKeyId"])
    (group,) = instance["VpcSecurityGroups"]
    assert group["VpcSecurityGroupId"].startswith("sg-") and group["Status"] == "active"
    assert not NOT_YET_AT_CREATE & instance.keys()


def test_an_instance_without_subnet_group_is_in_the_default_one(client):
    group = create(client)["ReplicationSubnetGroup"]
    assert group["ReplicationSubnetGroupIdentifier"] == "default"
    assert group["ReplicationSubnetGroupDescription"] == "default"
    assert group["SubnetGroupStatus"] == "Complete"
    assert group["VpcId"].startswith("vpc-")
    assert len({subnet["SubnetAvailabilityZone"]["Name"] for subnet in group["Subnets"]}) >= 2


@pytest.mark.parametrize(("class_", "gigabytes"), [("dms.t3.micro", 50), ("dms.t3.medium", 50), ("dms.c6i.large", 100)])
def test_storage_defaults_by_class(client, class_, gigabytes):
    assert create(client, ReplicationInstanceClass=class_)["AllocatedStorage"] == gigabytes


def test_the_maintenance_window_is_a_random_half_hour(client):
    start_day, start_hour, start_minute, end_day, end_hour, end_minute = HALF_HOUR.fullmatch(
        create(client)["PreferredMaintenanceWindow"]
    ).groups()
    start, end = int(start_hour) * 60 + int(start_minute), int(end_hour) * 60 + int(end_minute)
    assert (end - start) % (24 * 60) == 30
    assert (start_day == end_day) == (end > start)


def test_an_available_instance_has_time_zone_and_addresses(client):
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1)
    instance = create_replication_instance(client)
    assert instance["ReplicationInstanceStatus"] == "available"
    assert before <= instance["InstanceCreateTime"] <= datetime.datetime.now(datetime.UTC)
    assert re.fullmatch("us-east-1[a-f]", instance["AvailabilityZone"])
    assert instance["ReplicationInstancePrivateIpAddresses"] == [instance["ReplicationInstancePrivateIpAddress"]]
    assert instance["ReplicationInstancePublicIpAddresses"] == [instance["ReplicationInstancePublicIpAddress"]]
    assert "SecondaryAvailabilityZone" not in instance


def test_a_private_instance_has_one_public_address_that_is_null(server, client, account):
    arn = create_replication_instance(client, PubliclyAccessible=False)["ReplicationInstanceArn"]
    request = {"Filters": filters("replication-instance-arn", arn)}
    (instance,) = wire.call(server, "DescribeReplicationInstances", request, account=account).json[
        "ReplicationInstances"
    ]
    assert instance["PubliclyAccessible"] is False
    assert instance["ReplicationInstancePublicIpAddresses"] == [None]
    assert "ReplicationInstancePublicIpAddress" not in instance
    assert instance["ReplicationInstancePrivateIpAddresses"]


def test_an_instance_in_two_zones_has_two_zones_and_two_addresses(client):
    instance = create_replication_instance(client, MultiAZ=True)
    assert instance["MultiAZ"] is True
    assert instance["SecondaryAvailabilityZone"] != instance["AvailabilityZone"]
    assert len(instance["ReplicationInstancePrivateIpAddresses"]) == 2


def test_parameters_that_were_given_are_kept(client):
    group = make_subnet_group(client)["ReplicationSubnetGroupIdentifier"]
    given = {
        "ReplicationInstanceClass": "dms.r5.large",
        "AllocatedStorage": 77,
        "VpcSecurityGroupIds": ["sg-0123456789abcdef0", "sg-0fedcba9876543210"],
        "AvailabilityZone": "us-east-1b",
        "ReplicationSubnetGroupIdentifier": group,
        "PreferredMaintenanceWindow": "Sun:06:00-Sun:14:00",
        "MultiAZ": False,
        "EngineVersion": "3.5.3",
        "AutoMinorVersionUpgrade": False,
        "KmsKeyId": "arn:aws:kms:us-east-1:123456789012:key/4c1731d6-5435-ed4d-be13-d53411a7cfbd",
        "PubliclyAccessible": False,
        "DnsNameServers": "10.0.0.2,10.0.0.3",
        "NetworkType": "IPV4",
    }
    instance = create_replication_instance(client, **given)
    for member in ("ReplicationInstanceClass", "AllocatedStorage", "AvailabilityZone", "MultiAZ", "EngineVersion",
                   "AutoMinorVersionUpgrade", "KmsKeyId", "PubliclyAccessible", "DnsNameServers", "NetworkType"):  # fmt: skip
        assert instance[member] == given[member], member
    assert {row["VpcSecurityGroupId"] for row in instance["VpcSecurityGroups"]} == set(given["VpcSecurityGroupIds"])
    assert instance["ReplicationSubnetGroup"]["ReplicationSubnetGroupIdentifier"] == group
    assert instance["PreferredMaintenanceWindow"] == "sun:06:00-sun:14:00"


def test_automatic_minor_upgrades_override_an_older_version(client):
    instance = create(client, EngineVersion="3.5.3", AutoMinorVersionUpgrade=True)
    assert instance["EngineVersion"] == DEFAULT_VERSION


def test_the_identifier_is_stored_in_lower_case(client):
    identifier = unique("Mixed-Case")
    instance = create(client, ReplicationInstanceIdentifier=identifier)
    assert instance["ReplicationInstanceIdentifier"] == identifier.lower()


def test_the_resource_identifier_ends_the_arn_in_the_case_given(client, account):
    instance = create(client, ResourceIdentifier="Example-App-ARN1")
    assert instance["ReplicationInstanceArn"] == f"arn:aws:dms:us-east-1:{account}:rep:Example-App-ARN1"


def test_tags_given_at_create_are_on_the_instance(client):
    instance = create(client, Tags=[{"Key": "team", "Value": "data"}])
    assert list_tags(client, instance["ReplicationInstanceArn"]) == {"team": "data"}


def test_an_identifier_in_use_is_refused_in_any_case(client):
    identifier = unique("taken")
    create(client, ReplicationInstanceIdentifier=identifier)
    with fault(ALREADY_EXISTS, names=[identifier, "already in use"]):
        create(client, ReplicationInstanceIdentifier=identifier.upper())


def test_a_resource_identifier_in_use_is_refused(client):
    create(client, ResourceIdentifier="taken")
    with fault(ALREADY_EXISTS, 'ReplicationInstance "taken" already in use'):
        create(client, ResourceIdentifier="taken")


@pytest.mark.parametrize("identifier", ["1abc", "-abc", "a--b", "abc-", "a_b", "a b", "a.b", "grün"])
def test_an_identifier_that_breaks_the_rule_is_refused(client, identifier):
    with fault(VALUE, IDENTIFIER_RULE.format(what="ReplicationInstanceIdentifier")):
        create(client, ReplicationInstanceIdentifier=identifier)
    assert client.describe_replication_instances()["ReplicationInstances"] == []


@pytest.mark.parametrize("identifier", ["", "a" * 64])
def test_an_identifier_of_a_wrong_length_is_refused(client, identifier):
    with fault(VALUE, names=["ReplicationInstanceIdentifier"]):
        create(client, ReplicationInstanceIdentifier=identifier)


def test_the_longest_identifier_is_accepted(client):
    assert create(client, ReplicationInstanceIdentifier="a" * 63)["ReplicationInstanceIdentifier"] == "a" * 63


@pytest.mark.parametrize("identifier", ["a" * 32, "1a", "a--b", "a-", "a_b"])
def test_a_bad_resource_identifier_is_refused(client, identifier):
    with fault(VALUE, names=["ResourceIdentifier"]):
        create(client, ResourceIdentifier=identifier)


@pytest.mark.parametrize("class_", ["dms.t3.enormous", "db.t3.micro", "t3.micro", "DMS.T3.MICRO"])
def test_an_unknown_class_is_refused(client, class_):
    with fault(VALUE, re.compile("Invalid ReplicationInstance class")):
        create(client, ReplicationInstanceClass=class_)


@pytest.mark.parametrize("version", ["9.9.9", "3.5", "latest"])
def test_an_unknown_engine_version_is_refused(client, version):
    with fault(VALUE, f"No replication engine found with version: {version}"):
        create(client, EngineVersion=version, AutoMinorVersionUpgrade=False)


@pytest.mark.parametrize("gigabytes", [-1, 0, 4, 6145])
def test_storage_out_of_bounds_is_refused(client, gigabytes):
    with fault(VALUE, names=["AllocatedStorage"]):
        create(client, AllocatedStorage=gigabytes)


@pytest.mark.parametrize("window", ["", "sunday", "sun:06:00", "sun:25:00-sun:26:00", "sun:06:00-sun:06:10"])
def test_a_bad_maintenance_window_is_refused(client, window):
    with fault(VALUE, names=["PreferredMaintenanceWindow"]):
        create(client, PreferredMaintenanceWindow=window)


def test_two_zones_and_a_chosen_zone_exclude_each_other(client):
    with fault(COMBINATION, names=["AvailabilityZone"]):
        create(client, MultiAZ=True, AvailabilityZone="us-east-1a")


def test_a_network_type_that_the_subnets_lack_is_refused(client):
    text = "The specified network type 'DUAL' is not supported by replication subnet group '{}'."
    group = make_subnet_group(client)["ReplicationSubnetGroupIdentifier"]
    with fault(COMBINATION, text.format("default")):
        create(client, NetworkType="DUAL")
    with fault(COMBINATION, text.format(group)):
        create(client, NetworkType="DUAL", ReplicationSubnetGroupIdentifier=group.upper())
    instance = create_replication_instance(client, ReplicationSubnetGroupIdentifier=group)
    with fault(COMBINATION, text.format(group)):
        client.modify_replication_instance(
            ReplicationInstanceArn=instance["ReplicationInstanceArn"], NetworkType="DUAL", ApplyImmediately=True
        )


def test_an_unknown_subnet_group_is_refused(client):
    with fault(NOT_FOUND, names=["nowhere"]):
        create(client, ReplicationSubnetGroupIdentifier="nowhere")


# --- describe --------------------------------------------------------------------------------------------------------


def test_an_empty_account_has_an_empty_list(client):
    answer = client.describe_replication_instances()
    assert answer["ReplicationInstances"] == []
    assert "Marker" not in answer


# --- modify ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [{"ReplicationInstanceClass": "dms.c5.large"}, {"AllocatedStorage": 60}, {"MultiAZ": True}]
)
def test_a_change_at_once_goes_through_modifying(client, change):
    arn = create_replication_instance(client)["ReplicationInstanceArn"]
    answer = client.modify_replication_instance(ReplicationInstanceArn=arn, ApplyImmediately=True, **change)
    assert answer["ReplicationInstance"]["ReplicationInstanceStatus"] == "modifying"
    instance = settled(client, arn)
    assert change.items() <= instance.items()
    assert instance["PendingModifiedValues"] == {}


@pytest.mark.parametrize(
    "change", [{"ReplicationInstanceClass": "dms.c5.large"}, {"AllocatedStorage": 60}, {"MultiAZ": True}]
)
def test_a_change_for_later_is_pending(client, change):
    before = create_replication_instance(client)
    arn = before["ReplicationInstanceArn"]
    answer = client.modify_replication_instance(ReplicationInstanceArn=arn, ApplyImmediately=False, **change)
    for instance in (answer["ReplicationInstance"], describe(client, arn)):
        assert instance["ReplicationInstanceStatus"] == "available"
        assert instance["PendingModifiedValues"] == change
        for member in change:
            assert instance[member] == before[member]


def test_changes_are_for_later_unless_asked_otherwise(client):
    arn = create_replication_instance(client)["ReplicationInstanceArn"]
    answer = client.modify_replication_instance(ReplicationInstanceArn=arn, MultiAZ=True)["ReplicationInstance"]
    assert (answer["ReplicationInstanceStatus"], answer["MultiAZ"]) == ("available", False)
    assert answer["PendingModifiedValues"] == {"MultiAZ": True}


def modify(client, arn, **changes):
    return client.modify_replication_instance(ReplicationInstanceArn=arn, **changes)["ReplicationInstance"]


@pytest.fixture
def pending(client):
    """The ARN of an instance that is to be in two zones after its next maintenance window."""
    arn = create_replication_instance(client)["ReplicationInstanceArn"]
    modify(client, arn, MultiAZ=True)
    return arn


def test_changes_for_later_add_up(client, pending):
    both = {"MultiAZ": True, "AllocatedStorage": 77}
    assert modify(client, pending, AllocatedStorage=77)["PendingModifiedValues"] == both
    assert modify(client, pending, AllocatedStorage=88)["PendingModifiedValues"] == both | {"AllocatedStorage": 88}
    assert modify(client, pending, MultiAZ=True)["PendingModifiedValues"] == both | {"AllocatedStorage": 88}
    instance = describe(client, pending)
    assert (instance["MultiAZ"], instance["AllocatedStorage"]) == (False, 50)


def test_a_change_for_later_is_taken_back_by_the_value_there_is(client, pending):
    modify(client, pending, AllocatedStorage=77)
    answer = modify(client, pending, MultiAZ=False)
    assert answer["PendingModifiedValues"] == {"AllocatedStorage": 77}
    assert answer["ReplicationInstanceStatus"] == "available"


@pytest.mark.parametrize(
    "change",
    [
        {"PreferredMaintenanceWindow": "mon:01:00-mon:01:30"},
        {"VpcSecurityGroupIds": ["sg-0123456789abcdef0"]},
        {"ReplicationInstanceIdentifier": "renamed"},
    ],
)
def test_what_changes_at_once_leaves_alone_what_is_pending(client, pending, change):
    modify(client, pending, **change)
    instance = settled(client, pending)
    assert instance["PendingModifiedValues"] == {"MultiAZ": True}
    assert instance["MultiAZ"] is False


@pytest.mark.parametrize(
    "change", [{}, {"AllocatedStorage": 77}, {"PreferredMaintenanceWindow": "mon:01:00-mon:01:30"}]
)
def test_a_change_at_once_takes_along_what_is_pending(client, pending, change):
    answer = modify(client, pending, ApplyImmediately=True, **change)
    assert answer["ReplicationInstanceStatus"] == "modifying"
    instance = settled(client, pending)
    assert (change | {"MultiAZ": True}).items() <= instance.items()
    assert instance["PendingModifiedValues"] == {}
    assert instance["SecondaryAvailabilityZone"]
    with fault(COMBINATION, "No modifications were requested"):
        modify(client, pending, ApplyImmediately=True)


def test_a_pending_upgrade_at_once_is_an_upgrade(client):
    arn = create_replication_instance(client, EngineVersion="3.5.3", AutoMinorVersionUpgrade=False)[
        "ReplicationInstanceArn"
    ]
    answer = modify(client, arn, EngineVersion="3.5.4")
    assert (answer["PendingModifiedValues"], answer["EngineVersion"]) == ({"EngineVersion": "3.5.4"}, "3.5.3")
    assert modify(client, arn, ApplyImmediately=True)["ReplicationInstanceStatus"] == "upgrading"
    assert settled(client, arn)["EngineVersion"] == "3.5.4"


def test_an_engine_upgrade_at_once(client):
    arn = create_replication_instance(client, EngineVersion="3.5.3", AutoMinorVersionUpgrade=False)[
        "ReplicationInstanceArn"
    ]
    answer = client.modify_replication_instance(
        ReplicationInstanceArn=arn, EngineVersion="3.5.4", ApplyImmediately=True
    )
    assert answer["ReplicationInstance"]["ReplicationInstanceStatus"] in ("upgrading", "modifying")
    assert settled(client, arn)["EngineVersion"] == "3.5.4"


def test_what_needs_no_downtime_changes_at_once(client):
    arn = create_replication_instance(client)["ReplicationInstanceArn"]
    client.modify_replication_instance(
        ReplicationInstanceArn=arn,
        PreferredMaintenanceWindow="mon:01:00-mon:01:30",
        VpcSecurityGroupIds=["sg-0123456789abcdef0"],
        AutoMinorVersionUpgrade=False,
    )
    instance = settled(client, arn)
    assert instance["PreferredMaintenanceWindow"] == "mon:01:00-mon:01:30"
    assert [row["VpcSecurityGroupId"] for row in instance["VpcSecurityGroups"]] == ["sg-0123456789abcdef0"]
    assert instance["AutoMinorVersionUpgrade"] is False
    assert instance["PendingModifiedValues"] == {}


def test_an_instance_can_be_renamed(client):
    arn = create_replication_instance(client)["ReplicationInstanceArn"]
    name = unique("Renamed")
    client.modify_replication_instance(
        ReplicationInstanceArn=arn, ReplicationInstanceIdentifier=name, ApplyImmediately=True
    )
    assert settled(client, arn)["ReplicationInstanceIdentifier"] == name.lower()


def test_an_instance_cannot_take_the_name_of_another(client):
    other, arn = (
        create(client)["ReplicationInstanceIdentifier"],
        create_replication_instance(client)["ReplicationInstanceArn"],
    )
    with fault(ALREADY_EXISTS, names=[other]):
        client.modify_replication_instance(
            ReplicationInstanceArn=arn, ReplicationInstanceIdentifier=other, ApplyImmediately=True
        )


@pytest.mark.parametrize(
    "changes", [{}, {"AllocatedStorage": 50}, {"MultiAZ": False, "ReplicationInstanceClass": "dms.t3.micro"}]
)
def test_changing_nothing_is_refused(client, changes):
    arn = create_replication_instance(client)["ReplicationInstanceArn"]
    with fault(COMBINATION, "No modifications were requested"):
        client.modify_replication_instance(ReplicationInstanceArn=arn, **changes)


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"ReplicationInstanceClass": "dms.t3.enormous"}, VALUE, "Invalid ReplicationInstance class"),
        ({"EngineVersion": "9.9.9"}, VALUE, "No replication engine found with version: 9.9.9"),
        ({"AllocatedStorage": 6145}, VALUE, "AllocatedStorage"),
        ({"AllocatedStorage": 49}, REFUSED, "storage"),
        ({"ReplicationInstanceIdentifier": "a--b"}, VALUE, "ReplicationInstanceIdentifier"),
        ({"PreferredMaintenanceWindow": "never"}, VALUE, "PreferredMaintenanceWindow"),
    ],
)
def test_a_bad_change_is_refused_and_changes_nothing(client, change, code, named):
    before = create_replication_instance(client)
    with fault(code, names=[named]):
        client.modify_replication_instance(
            ReplicationInstanceArn=before["ReplicationInstanceArn"], ApplyImmediately=True, **change
        )
    assert describe(client, before["ReplicationInstanceArn"]) == before


# --- reboot ----------------------------------------------------------------------------------------------------------


def test_a_reboot_goes_through_rebooting(client):
    before = create_replication_instance(client)
    arn = before["ReplicationInstanceArn"]
    answer = client.reboot_replication_instance(ReplicationInstanceArn=arn)["ReplicationInstance"]
    assert answer["ReplicationInstanceStatus"] == "rebooting"
    assert answer["ReplicationInstanceIdentifier"] == before["ReplicationInstanceIdentifier"]
    assert settled(client, arn) == before


@pytest.mark.parametrize("flag", ["ForceFailover", "ForcePlannedFailover"])
def test_a_failover_needs_two_zones(client, flag):
    single = create_replication_instance(client)["ReplicationInstanceArn"]
    with fault(REFUSED):
        client.reboot_replication_instance(ReplicationInstanceArn=single, **{flag: True})
    double = create_replication_instance(client, MultiAZ=True)["ReplicationInstanceArn"]
    client.reboot_replication_instance(ReplicationInstanceArn=double, **{flag: True})
    assert settled(client, double)["MultiAZ"] is True


def test_the_two_kinds_of_failover_exclude_each_other(client):
    arn = create_replication_instance(client, MultiAZ=True)["ReplicationInstanceArn"]
    with fault(REFUSED):
        client.reboot_replication_instance(ReplicationInstanceArn=arn, ForceFailover=True, ForcePlannedFailover=True)


# --- delete ----------------------------------------------------------------------------------------------------------


def test_delete_answers_the_whole_instance_and_then_it_is_gone(client):
    before = create_replication_instance(client)
    arn = before["ReplicationInstanceArn"]
    answer = client.delete_replication_instance(ReplicationInstanceArn=arn)["ReplicationInstance"]
    assert answer == before | {"ReplicationInstanceStatus": "deleting"}
    by_arn = filters("replication-instance-arn", arn)
    run_waiter(client, "replication_instance_deleted", Filters=by_arn)
    with fault(NOT_FOUND):
        client.describe_replication_instances(Filters=by_arn)
    with fault(NOT_FOUND):
        client.delete_replication_instance(ReplicationInstanceArn=arn)
    assert client.describe_replication_instances()["ReplicationInstances"] == []


def test_the_identifier_of_a_deleted_instance_is_free(client):
    before = create_replication_instance(client, ResourceIdentifier="again")
    arn = before["ReplicationInstanceArn"]
    client.delete_replication_instance(ReplicationInstanceArn=arn)
    run_waiter(client, "replication_instance_deleted", Filters=filters("replication-instance-arn", arn))
    identifier = before["ReplicationInstanceIdentifier"]
    after = create_replication_instance(client, ReplicationInstanceIdentifier=identifier, ResourceIdentifier="again")
    assert after["ReplicationInstanceArn"] == arn


def test_an_instance_with_tasks_cannot_be_deleted(client):
    stage = make_stage(client)
    task = stage.ready_task()["ReplicationTaskArn"]
    with fault(STATE, re.compile("has one or more replication tasks")):
        client.delete_replication_instance(ReplicationInstanceArn=stage.instance_arn)
    client.delete_replication_task(ReplicationTaskArn=task)
    run_waiter(client, "replication_task_deleted", Filters=filters("replication-task-arn", task))
    client.delete_replication_instance(ReplicationInstanceArn=stage.instance_arn)
    run_waiter(client, "replication_instance_deleted", Filters=filters("replication-instance-arn", stage.instance_arn))


# --- which instance --------------------------------------------------------------------------------------------------

ON_ONE_INSTANCE = [
    ("modify_replication_instance", {"MultiAZ": True}),
    ("reboot_replication_instance", {}),
    ("delete_replication_instance", {}),
]


@pytest.mark.parametrize(("call", "parameters"), ON_ONE_INSTANCE)
def test_an_unknown_arn_is_not_found(client, account, call, parameters):
    with fault(NOT_FOUND):
        getattr(client, call)(ReplicationInstanceArn=unused_arn("rep", account), **parameters)


@pytest.mark.parametrize(("call", "parameters"), ON_ONE_INSTANCE)
def test_what_is_no_arn_is_an_invalid_value(client, call, parameters):
    with fault(VALUE, "Invalid value TBD for ReplicationInstanceArn"):
        getattr(client, call)(ReplicationInstanceArn="TBD", **parameters)


@pytest.mark.parametrize(("call", "parameters"), ON_ONE_INSTANCE)
def test_the_arn_of_another_kind_of_resource_is_refused(client, call, parameters):
    endpoint = make_stage(client).source_arn
    with fault((NOT_FOUND, VALUE)):
        getattr(client, call)(ReplicationInstanceArn=endpoint, **parameters)
