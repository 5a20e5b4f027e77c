"""The waiters of botocore, with the delays they come with: none of them may have to wait.

They ask every 5 to 60 seconds, as is right for a service that takes minutes. Here everything takes milliseconds, so
the first look must already find what is waited for.
"""

import types

import botocore.waiter
import pytest
from conftest import filters, include

from resources import closed_port, make_endpoint_row, make_stage, running_task, silent_server


class SecondLook(Exception):
    """The first look did not find what was waited for."""


@pytest.fixture
def one_look(monkeypatch):
    """Waiters that fail instead of sleeping."""

    def sleep(seconds):
        raise SecondLook(f"the waiter would have slept {seconds} s")

    monkeypatch.setattr(botocore.waiter, "time", types.SimpleNamespace(sleep=sleep))


def look(client, waiter, name, value):
    """Runs a waiter with its own settings; returns how many calls it made."""
    calls = []
    client.meta.events.register("before-call.dms.*", lambda **_: calls.append(1), unique_id="count")
    try:
        client.get_waiter(waiter).wait(Filters=filters(name, value))
    finally:
        client.meta.events.unregister("before-call.dms.*", unique_id="count")
    return len(calls)


@pytest.fixture
def dms(make_server, make_client):
    """A client of a server that holds a describe for as long as a slow machine may need. By default it is a second,
    which is plenty where nothing else runs."""
    return make_client(url=make_server("--settle", "30").url)


@pytest.fixture
def client(dms):
    return dms


def test_a_waiter_that_would_sleep_is_caught(make_server, make_client, request):
    client = make_client(url=make_server("--settle", "0").url)
    stage = make_stage(client)
    request.getfixturevalue("one_look")
    with silent_server() as port:
        client.modify_endpoint(EndpointArn=stage.source_arn, Port=port)
        client.test_connection(ReplicationInstanceArn=stage.instance_arn, EndpointArn=stage.source_arn)
        with pytest.raises(SecondLook):
            look(client, "test_connection_succeeds", "endpoint-arn", stage.source_arn)


def create_instance(client, **parameters):
    request = {"ReplicationInstanceIdentifier": "instance", "ReplicationInstanceClass": "dms.t3.micro"}
    return client.create_replication_instance(**(request | parameters))["ReplicationInstance"]


# --- without a database ----------------------------------------------------------------------------------------------


def test_replication_instance_available_after_create(one_look, client):
    arn = create_instance(client)["ReplicationInstanceArn"]
    assert look(client, "replication_instance_available", "replication-instance-arn", arn) == 1


@pytest.mark.parametrize(
    ("call", "parameters"),
    [
        ("reboot_replication_instance", {}),
        ("modify_replication_instance", {"AllocatedStorage": 99, "ApplyImmediately": True}),
    ],
)
def test_replication_instance_available_after_a_change(one_look, client, call, parameters):
    arn = create_instance(client)["ReplicationInstanceArn"]
    look(client, "replication_instance_available", "replication-instance-arn", arn)
    getattr(client, call)(ReplicationInstanceArn=arn, **parameters)
    assert look(client, "replication_instance_available", "replication-instance-arn", arn) == 1


def test_replication_instance_deleted(one_look, client):
    arn = create_instance(client)["ReplicationInstanceArn"]
    look(client, "replication_instance_available", "replication-instance-arn", arn)
    client.delete_replication_instance(ReplicationInstanceArn=arn)
    assert look(client, "replication_instance_deleted", "replication-instance-arn", arn) == 1


def test_replication_instance_waiters_by_identifier(one_look, client):
    arn = create_instance(client)["ReplicationInstanceArn"]
    assert look(client, "replication_instance_available", "replication-instance-id", "instance") == 1
    client.delete_replication_instance(ReplicationInstanceArn=arn)
    assert look(client, "replication_instance_deleted", "replication-instance-id", "instance") == 1


def test_endpoint_deleted(one_look, client):
    arn = make_endpoint_row(client)["EndpointArn"]
    client.delete_endpoint(EndpointArn=arn)
    assert look(client, "endpoint_deleted", "endpoint-arn", arn) == 1


def test_replication_task_ready_after_create(one_look, client):
    arn = make_stage(client).create_task()["ReplicationTaskArn"]
    assert look(client, "replication_task_ready", "replication-task-arn", arn) == 1


def test_replication_task_deleted(one_look, client):
    arn = make_stage(client).ready_task()["ReplicationTaskArn"]
    client.delete_replication_task(ReplicationTaskArn=arn)
    assert look(client, "replication_task_deleted", "replication-task-arn", arn) == 1


def test_a_connection_that_fails_ends_its_waiter_at_once(one_look, client):
    stage = make_stage(client)
    client.modify_endpoint(EndpointArn=stage.source_arn, Port=closed_port())
    client.test_connection(ReplicationInstanceArn=stage.instance_arn, EndpointArn=stage.source_arn)
    with pytest.raises(botocore.exceptions.WaiterError, match="failed"):
        look(client, "test_connection_succeeds", "endpoint-arn", stage.source_arn)


# --- with databases --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server_name", ["pg_source", "maria_source"])
def test_test_connection_succeeds(one_look, client, databases, server_name):
    given = getattr(databases, server_name).endpoint("source")
    endpoint = make_endpoint_row(client, given.pop("EngineName"), given.pop("EndpointType"), **given)["EndpointArn"]
    instance = create_instance(client)["ReplicationInstanceArn"]
    look(client, "replication_instance_available", "replication-instance-arn", instance)
    client.test_connection(ReplicationInstanceArn=instance, EndpointArn=endpoint)
    assert look(client, "test_connection_succeeds", "endpoint-arn", endpoint) == 1


@pytest.fixture
def tiny_task(databases, make_endpoint, make_task):
    """A task that loads one row in milliseconds, ready."""
    source, target = databases.new(databases.pg_source), databases.new(databases.pg_target)
    source.execute("CREATE TABLE fruit (id int PRIMARY KEY)", "INSERT INTO fruit VALUES (1)")
    return make_task(make_endpoint("source", source), make_endpoint("target", target), include("public"))


@pytest.mark.parametrize("kind", ["start-replication", "reload-target", "resume-processing"])
def test_the_usual_script_sees_running_and_then_stopped(tiny_task, dms, request, kind):
    if kind != "start-replication":
        tiny_task.finish()
    request.getfixturevalue("one_look")  # Only now: what came before may wait.
    dms.start_replication_task(ReplicationTaskArn=tiny_task.arn, StartReplicationTaskType=kind)
    assert look(dms, "replication_task_running", "replication-task-arn", tiny_task.arn) == 1
    assert look(dms, "replication_task_stopped", "replication-task-arn", tiny_task.arn) == 1
    assert tiny_task.describe()["StopReason"] == "Stop Reason FULL_LOAD_ONLY_FINISHED"


def test_replication_task_stopped_after_a_stop(dms, databases, make_endpoint, make_task, request):
    with running_task(databases, make_endpoint, make_task) as task:
        request.getfixturevalue("one_look")
        dms.stop_replication_task(ReplicationTaskArn=task.arn)
        assert look(dms, "replication_task_stopped", "replication-task-arn", task.arn) == 1
        assert task.describe()["StopReason"] == "Stop Reason NORMAL"


def test_replication_task_deleted_after_a_run(dms, tiny_task, request):
    tiny_task.finish()
    request.getfixturevalue("one_look")
    dms.delete_replication_task(ReplicationTaskArn=tiny_task.arn)
    assert look(dms, "replication_task_deleted", "replication-task-arn", tiny_task.arn) == 1
