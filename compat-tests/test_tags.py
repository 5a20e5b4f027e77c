"""Tags of every kind of resource."""

import pytest

from faults import NOT_FOUND, VALUE, fault
from resources import list_tags, make_stage, make_subnet_group, random_account, unused_arn

KINDS = ["rep", "endpoint", "task", "subgrp"]


@pytest.fixture(scope="module")
def account():
    return random_account()


@pytest.fixture(scope="module")
def client(make_client, account):
    return make_client(account=account)


@pytest.fixture
def arns(client, account):
    """An untagged resource of every kind."""
    stage = make_stage(client)
    group = make_subnet_group(client)["ReplicationSubnetGroupIdentifier"]
    return {
        "rep": stage.instance_arn,
        "endpoint": stage.source_arn,
        "task": stage.ready_task()["ReplicationTaskArn"],
        "subgrp": f"arn:aws:dms:us-east-1:{account}:subgrp:{group}",
    }


def add(client, arn, **tags):
    client.add_tags_to_resource(ResourceArn=arn, Tags=[{"Key": key, "Value": value} for key, value in tags.items()])


@pytest.mark.parametrize("kind", KINDS)
def test_tags_are_added_replaced_and_removed(client, arns, kind):
    arn = arns[kind]
    assert list_tags(client, arn) == {}
    add(client, arn, team="data", stage="test")
    add(client, arn, stage="live", hello="world")
    assert list_tags(client, arn) == {"team": "data", "stage": "live", "hello": "world"}
    client.remove_tags_from_resource(ResourceArn=arn, TagKeys=["stage", "no-such-key"])
    assert list_tags(client, arn) == {"team": "data", "hello": "world"}
    for other in arns.values():
        assert other == arn or list_tags(client, other) == {}


def test_the_list_of_one_resource_does_not_repeat_its_arn(client, arns):
    add(client, arns["endpoint"], team="data")
    answer = client.list_tags_for_resource(ResourceArn=arns["endpoint"])
    assert answer["TagList"] == [{"Key": "team", "Value": "data"}]


def test_the_list_of_several_resources_names_each(client, arns):
    add(client, arns["endpoint"], team="data")
    add(client, arns["task"], team="apps")
    answer = client.list_tags_for_resource(ResourceArnList=[arns["endpoint"], arns["task"], arns["rep"]])
    assert sorted(answer["TagList"], key=lambda tag: tag["Value"]) == [
        {"Key": "team", "Value": "apps", "ResourceArn": arns["task"]},
        {"Key": "team", "Value": "data", "ResourceArn": arns["endpoint"]},
    ]


def test_a_list_of_nothing_is_refused(client):
    with fault(VALUE, names=["ResourceArn"]):
        client.list_tags_for_resource()


@pytest.mark.parametrize(
    ("key", "value"),
    [("k", "v"), ("k" * 128, "v" * 256), ("Ünïcode ключ", "Wert_.:/=+-"), ("with space", "x"), ("aws", "dms")],
)
def test_every_allowed_tag_is_kept(client, arns, key, value):
    add(client, arns["endpoint"], **{key: value})
    assert list_tags(client, arns["endpoint"]) == {key: value}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("", "v"), ("k" * 129, "v"), ("k", "v" * 257), ("aws:team", "v"), ("dms:team", "v"), ("k?", "v"), ("k", "v!"),
        ("k\n", "v"), ("k", "<v>"),
    ],
)  # fmt: skip
def test_a_bad_tag_is_refused(client, arns, key, value):
    with fault(VALUE, names=["tag"]):
        add(client, arns["endpoint"], **{"fine": "too", key: value})
    assert list_tags(client, arns["endpoint"]) == {}


def test_a_resource_with_a_bad_tag_is_not_created(client):
    with fault(VALUE, names=["tag"]):
        make_subnet_group(client, ReplicationSubnetGroupIdentifier="untaggable", Tags=[{"Key": "aws:a", "Value": "b"}])
    make_subnet_group(client, ReplicationSubnetGroupIdentifier="untaggable")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("call", "parameters"),
    [
        ("add_tags_to_resource", {"Tags": [{"Key": "a", "Value": "b"}]}),
        ("remove_tags_from_resource", {"TagKeys": ["a"]}),
        ("list_tags_for_resource", {}),
    ],
)
def test_an_unknown_resource_is_not_found(client, account, kind, call, parameters):
    with fault(NOT_FOUND):
        getattr(client, call)(ResourceArn=unused_arn(kind, account), **parameters)


def test_an_unknown_resource_in_a_list_is_not_found(client, account, arns):
    with fault(NOT_FOUND):
        client.list_tags_for_resource(ResourceArnList=[arns["endpoint"], unused_arn("endpoint", account)])


@pytest.mark.parametrize(
    ("call", "parameters"),
    [
        ("add_tags_to_resource", {"Tags": [{"Key": "a", "Value": "b"}]}),
        ("remove_tags_from_resource", {"TagKeys": ["a"]}),
        ("list_tags_for_resource", {}),
    ],
)
def test_what_is_no_arn_is_an_invalid_value(client, call, parameters):
    with fault(VALUE, "Invalid value TBD for ResourceArn"):
        getattr(client, call)(ResourceArn="TBD", **parameters)


def test_tags_end_with_their_resource(client, arns):
    add(client, arns["subgrp"], team="data")
    identifier = arns["subgrp"].rsplit(":", 1)[1]
    client.delete_replication_subnet_group(ReplicationSubnetGroupIdentifier=identifier)
    with fault(NOT_FOUND):
        list_tags(client, arns["subgrp"])
    make_subnet_group(client, ReplicationSubnetGroupIdentifier=identifier)
    assert list_tags(client, arns["subgrp"]) == {}
