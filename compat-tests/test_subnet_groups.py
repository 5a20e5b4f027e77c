"""Replication subnet groups."""

import pytest
from conftest import create_replication_instance, filters, run_waiter, unique

from faults import ALREADY_EXISTS, NOT_FOUND, STATE, TOO_FEW_ZONES, VALUE, fault
from resources import list_tags, make_subnet_group, random_account


@pytest.fixture
def account():
    return random_account()


@pytest.fixture
def client(make_client, account):
    return make_client(account=account)


def describe(client, identifier):
    (group,) = client.describe_replication_subnet_groups(Filters=filters("replication-subnet-group-id", identifier))[
        "ReplicationSubnetGroups"
    ]
    return group


def subnets(group):
    return {subnet["SubnetIdentifier"] for subnet in group["Subnets"]}


# --- create ----------------------------------------------------------------------------------------------------------


def test_create_answers_the_whole_group(client):
    identifier, ids = unique("group"), ["subnet-da327bf6", "subnet-bac383e0", "subnet-d7c825e8"]
    group = client.create_replication_subnet_group(
        ReplicationSubnetGroupIdentifier=identifier,
        ReplicationSubnetGroupDescription="my subnet group",
        SubnetIds=ids,
    )["ReplicationSubnetGroup"]
    assert group["ReplicationSubnetGroupIdentifier"] == identifier
    assert group["ReplicationSubnetGroupDescription"] == "my subnet group"
    assert group["SubnetGroupStatus"] == "Complete"
    assert group["VpcId"].startswith("vpc-")
    assert subnets(group) == set(ids)
    assert {subnet["SubnetStatus"] for subnet in group["Subnets"]} == {"Active"}
    zones = {subnet["SubnetAvailabilityZone"]["Name"] for subnet in group["Subnets"]}
    assert len(zones) >= 2 and all(zone.startswith("us-east-1") for zone in zones)
    assert not any(member.endswith("Arn") for member in group)
    assert describe(client, identifier) == group


def test_the_identifier_is_stored_in_lower_case(client):
    identifier = unique("Mixed.Case_Group")
    group = make_subnet_group(client, ReplicationSubnetGroupIdentifier=identifier)
    assert group["ReplicationSubnetGroupIdentifier"] == identifier.lower()


@pytest.mark.parametrize("identifier", ["1st", "a.b", "a_b", "a--b", "a-", "g" * 255])
def test_identifiers_are_laxer_than_those_of_other_resources(client, identifier):
    group = make_subnet_group(client, ReplicationSubnetGroupIdentifier=identifier)
    assert group["ReplicationSubnetGroupIdentifier"] == identifier


@pytest.mark.parametrize("identifier", ["", "a/b", "a:b", "grün", "g" * 256, "default", "Default"])
def test_a_bad_identifier_is_refused(client, identifier):
    with fault(VALUE, names=["ReplicationSubnetGroupIdentifier"]):
        make_subnet_group(client, ReplicationSubnetGroupIdentifier=identifier)


def test_an_identifier_in_use_is_refused_in_any_case(client):
    identifier = unique("taken")
    make_subnet_group(client, ReplicationSubnetGroupIdentifier=identifier)
    with fault(ALREADY_EXISTS, names=["already exists"]):
        make_subnet_group(client, ReplicationSubnetGroupIdentifier=identifier.upper())


@pytest.mark.parametrize("ids", [["subnet-0aaa1111"], ["subnet-0aaa1111", "subnet-0aaa1111"]])
def test_one_subnet_does_not_cover_enough_zones(client, ids):
    with fault(TOO_FEW_ZONES):
        make_subnet_group(client, SubnetIds=ids)
    assert client.describe_replication_subnet_groups()["ReplicationSubnetGroups"] == []


def test_no_subnets_are_refused(client):
    with fault((TOO_FEW_ZONES, VALUE)):
        make_subnet_group(client, SubnetIds=[])


def test_a_group_is_tagged_by_the_arn_that_clients_build(client, account):
    identifier = make_subnet_group(client, Tags=[{"Key": "team", "Value": "data"}])["ReplicationSubnetGroupIdentifier"]
    arn = f"arn:aws:dms:us-east-1:{account}:subgrp:{identifier}"
    client.add_tags_to_resource(ResourceArn=arn, Tags=[{"Key": "stage", "Value": "test"}])
    assert list_tags(client, arn) == {"team": "data", "stage": "test"}


# --- describe --------------------------------------------------------------------------------------------------------


def test_a_filter_that_matches_nothing_gives_an_empty_list(client):
    # Recorded against AWS, and unlike every other filter of DMS.
    answer = client.describe_replication_subnet_groups(Filters=filters("replication-subnet-group-id", "no-such-group"))
    assert answer["ReplicationSubnetGroups"] == []


def test_an_empty_account_has_an_empty_list(client):
    answer = client.describe_replication_subnet_groups()
    assert answer["ReplicationSubnetGroups"] == []
    assert "Marker" not in answer


# --- modify ----------------------------------------------------------------------------------------------------------


def test_modify_replaces_the_subnets_and_keeps_the_description(client):
    before = make_subnet_group(client, ReplicationSubnetGroupDescription="kept")
    identifier = before["ReplicationSubnetGroupIdentifier"]
    group = client.modify_replication_subnet_group(
        ReplicationSubnetGroupIdentifier=identifier.upper(), SubnetIds=["subnet-0bbb2222", "subnet-0ccc3333"]
    )["ReplicationSubnetGroup"]
    assert subnets(group) == {"subnet-0bbb2222", "subnet-0ccc3333"}
    assert group["ReplicationSubnetGroupDescription"] == "kept"
    assert group["VpcId"] == before["VpcId"]
    assert describe(client, identifier) == group


def test_modify_changes_the_description(client):
    identifier = make_subnet_group(client)["ReplicationSubnetGroupIdentifier"]
    group = client.modify_replication_subnet_group(
        ReplicationSubnetGroupIdentifier=identifier,
        ReplicationSubnetGroupDescription="changed",
        SubnetIds=["subnet-0aaa1111", "subnet-0bbb2222"],
    )["ReplicationSubnetGroup"]
    assert group["ReplicationSubnetGroupDescription"] == "changed"


def test_a_group_cannot_be_modified_to_one_subnet(client):
    before = make_subnet_group(client)
    identifier = before["ReplicationSubnetGroupIdentifier"]
    with fault(TOO_FEW_ZONES):
        client.modify_replication_subnet_group(
            ReplicationSubnetGroupIdentifier=identifier, SubnetIds=["subnet-0aaa1111"]
        )
    assert describe(client, identifier) == before


def test_an_unknown_group_cannot_be_modified(client):
    with fault(NOT_FOUND):
        client.modify_replication_subnet_group(
            ReplicationSubnetGroupIdentifier="no-such-group", SubnetIds=["subnet-0aaa1111", "subnet-0bbb2222"]
        )


def test_an_instance_shows_its_group_as_it_is_now(client):
    identifier = make_subnet_group(client)["ReplicationSubnetGroupIdentifier"]
    create_replication_instance(client, ReplicationSubnetGroupIdentifier=identifier)
    ids = ["subnet-0aaa1111", "subnet-0bbb2222", "subnet-0ccc3333"]
    client.modify_replication_subnet_group(ReplicationSubnetGroupIdentifier=identifier, SubnetIds=ids)
    (instance,) = client.describe_replication_instances()["ReplicationInstances"]
    assert subnets(instance["ReplicationSubnetGroup"]) == set(ids)


# --- delete ----------------------------------------------------------------------------------------------------------


def test_a_deleted_group_is_gone(client):
    identifier = make_subnet_group(client)["ReplicationSubnetGroupIdentifier"]
    answer = client.delete_replication_subnet_group(ReplicationSubnetGroupIdentifier=identifier.upper())
    assert answer.keys() == {"ResponseMetadata"}
    assert client.describe_replication_subnet_groups()["ReplicationSubnetGroups"] == []
    with fault(NOT_FOUND):
        client.delete_replication_subnet_group(ReplicationSubnetGroupIdentifier=identifier)


def test_an_unknown_group_cannot_be_deleted(client):
    with fault(NOT_FOUND, names=["no-such-group"]):
        client.delete_replication_subnet_group(ReplicationSubnetGroupIdentifier="no-such-group")


def test_a_group_in_use_cannot_be_deleted(client):
    identifier = make_subnet_group(client)["ReplicationSubnetGroupIdentifier"]
    instance = create_replication_instance(client, ReplicationSubnetGroupIdentifier=identifier)
    name, arn = instance["ReplicationInstanceIdentifier"], instance["ReplicationInstanceArn"]
    text = f"Cannot delete the subnet group '{identifier}' because at least one database instance: {name} is still using it."
    with fault(STATE, text):
        client.delete_replication_subnet_group(ReplicationSubnetGroupIdentifier=identifier)
    client.delete_replication_instance(ReplicationInstanceArn=arn)
    run_waiter(client, "replication_instance_deleted", Filters=filters("replication-instance-arn", arn))
    client.delete_replication_subnet_group(ReplicationSubnetGroupIdentifier=identifier)
    assert client.describe_replication_subnet_groups()["ReplicationSubnetGroups"] == []
