"""DescribeEvents and DescribeEventCategories."""

import datetime

import pytest
from botocore.exceptions import ClientError
from conftest import create_replication_instance

from faults import VALUE
from resources import make_stage, random_account


def events(client, **request):
    pages = client.get_paginator("describe_events").paginate(**request)
    return [event for page in pages for event in page["Events"]]


@pytest.fixture
def client(make_client):
    """A client of an account of its own, in which nothing has happened yet."""
    return make_client(account=random_account())


def test_an_account_in_which_nothing_happened_has_no_events(client):
    assert client.describe_events()["Events"] == []


def test_what_happens_to_an_instance_is_told(client):
    before = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=1)
    instance = create_replication_instance(client, ReplicationInstanceIdentifier="Told-Of")
    client.delete_replication_instance(ReplicationInstanceArn=instance["ReplicationInstanceArn"])
    told = events(client, SourceType="replication-instance", SourceIdentifier="told-of")
    assert [event["EventCategories"] for event in told] == [["creation"], ["deletion"]]
    assert told[0]["Message"] == "A replication instance has been created."
    assert all(before <= event["Date"] for event in told)
    assert {(event["SourceIdentifier"], event["SourceType"]) for event in told} == {("told-of", "replication-instance")}


def test_what_happens_to_a_task_is_told_in_order(client):
    stage = make_stage(client)
    task = stage.ready_task()["ReplicationTaskArn"]
    client.modify_replication_task(ReplicationTaskArn=task, TableMappings=client.describe_replication_tasks()["ReplicationTasks"][0]["TableMappings"])
    client.delete_replication_task(ReplicationTaskArn=task)
    told = events(client, SourceType="replication-task")
    assert [event["EventCategories"][0] for event in told][:2] == ["creation", "configuration change"]
    assert events(client, EventCategories=["configuration change"])[0]["Message"] == "Replication task has modified."


def test_events_are_found_by_time(client):
    create_replication_instance(client)
    now = datetime.datetime.now(datetime.timezone.utc)
    hour = datetime.timedelta(hours=1)
    assert events(client, StartTime=now - hour, EndTime=now + hour)
    assert events(client, EndTime=now + hour, Duration=20160)
    assert not events(client, StartTime=now - 3 * hour, EndTime=now - 2 * hour)
    assert not events(client, EndTime=now - hour)


@pytest.mark.parametrize(
    "request_, text",
    [
        ({"Duration": 0}, "Duration"),
        ({"Duration": 20161}, "Duration"),
        ({"SourceType": "endpoint"}, "SourceType"),
        ({"Filters": [{"Name": "color", "Values": ["red"]}]}, "color"),
        ({"MaxRecords": 7}, "MaxRecords"),
    ],
)
def test_bad_requests_name_the_offender(client, request_, text):
    with pytest.raises(ClientError) as refused:
        client.describe_events(**request_)
    error = refused.value.response["Error"]
    assert error["Code"] == VALUE and text in error["Message"]


def test_categories_are_those_of_dms(client):
    groups = {group["SourceType"]: group["EventCategories"] for group in client.describe_event_categories()["EventCategoryGroupList"]}
    assert groups == {
        "replication-instance": ["low storage", "configuration change", "maintenance", "deletion", "creation", "failover", "failure"],
        "replication-task": ["configuration change", "state change", "deletion", "creation", "failure"],
    }
    (only,) = client.describe_event_categories(SourceType="replication-task")["EventCategoryGroupList"]
    assert only["SourceType"] == "replication-task"
