"""What survives a restart and `kill -9`, and that secrets stay where they belong."""

import contextlib
import json
import os
import pathlib
import re
import signal
import sqlite3
import subprocess

import pytest
from conftest import (
    binary,
    create_endpoint,
    create_replication_instance,
    create_task,
    filters,
    include,
    run_waiter,
    unique,
    wait_until,
)

import wire
from faults import ALREADY_EXISTS, NOT_FOUND, fault
from resources import closed_port, make_endpoint_row, make_stage, make_subnet_group, random_account, running_task

SECRET = "Tr0ub4dor-and-3-horses"


def restart(server):
    server.restart()


def crash(server):
    server.kill9()
    server.start()


ENDS = pytest.mark.parametrize("end", [restart, crash])


def everything(server, account):
    """All that the account can see, by operation."""
    seen = {}
    for operation in ("DescribeReplicationInstances", "DescribeReplicationSubnetGroups", "DescribeEndpoints",
                      "DescribeConnections", "DescribeReplicationTasks", "DescribeAccountAttributes"):  # fmt: skip
        answer = wire.call(server, operation, {}, account=account)
        assert answer.status == 200
        seen[operation] = answer.json
    for task in seen["DescribeReplicationTasks"]["ReplicationTasks"]:
        arn = task["ReplicationTaskArn"]
        seen[arn] = [
            wire.call(server, "DescribeTableStatistics", {"ReplicationTaskArn": arn}, account=account).json,
            wire.call(server, "ListTagsForResource", {"ResourceArn": arn}, account=account).json,
        ]
    return seen


def refreshed(client, instance, endpoint):
    client.refresh_schemas(ReplicationInstanceArn=instance, EndpointArn=endpoint)
    wait_until(
        lambda: client.describe_refresh_schemas_status(EndpointArn=endpoint)["RefreshSchemasStatus"]["Status"]
        != "refreshing",
        "the schemas are refreshed",
        30,
    )
    return client.describe_refresh_schemas_status(EndpointArn=endpoint)["RefreshSchemasStatus"]


@ENDS
def test_everything_survives(make_server, make_client, end):
    server, account = make_server(), random_account()
    client = make_client(account=account, url=server.url)
    stage = make_stage(client)
    group = make_subnet_group(client, Tags=[{"Key": "team", "Value": "data"}])["ReplicationSubnetGroupIdentifier"]
    create_replication_instance(client, ReplicationSubnetGroupIdentifier=group, MultiAZ=True)
    client.modify_replication_instance(
        ReplicationInstanceArn=stage.instance_arn, ReplicationInstanceClass="dms.c5.large"
    )
    stage.ready_task(
        ReplicationTaskSettings='{"FullLoadSettings": {"CommitRate": 77}}', Tags=[{"Key": "a", "Value": "b"}]
    )
    client.test_connection(ReplicationInstanceArn=stage.instance_arn, EndpointArn=stage.source_arn)
    wait_until(lambda: client.describe_connections()["Connections"][0]["Status"] == "failed", "the test ends", 30)
    status = refreshed(client, stage.instance_arn, stage.target_arn)
    before = everything(server, account)
    end(server)
    assert everything(server, account) == before
    assert client.describe_refresh_schemas_status(EndpointArn=stage.target_arn)["RefreshSchemasStatus"] == status
    # And it goes on living: identifiers stay taken, resources can be used and deleted.
    with fault(ALREADY_EXISTS):
        make_endpoint_row(client, EndpointIdentifier=stage.source["EndpointIdentifier"])
    (task,) = client.describe_replication_tasks()["ReplicationTasks"]
    client.delete_replication_task(ReplicationTaskArn=task["ReplicationTaskArn"])
    run_waiter(client, "replication_task_deleted", Filters=filters("replication-task-arn", task["ReplicationTaskArn"]))
    client.delete_endpoint(EndpointArn=stage.source_arn)
    run_waiter(client, "endpoint_deleted", Filters=filters("endpoint-arn", stage.source_arn))


def test_what_was_answered_survives_a_crash_at_that_moment(make_server, make_client):
    server, account = make_server(), random_account()
    client = make_client(account=account, url=server.url)
    for round_ in range(5):
        arns = {make_endpoint_row(client)["EndpointArn"] for _ in range(5)}
        gone = make_endpoint_row(client)["EndpointArn"]
        client.delete_endpoint(EndpointArn=gone)
        last = make_endpoint_row(client, EndpointIdentifier=unique("last"))["EndpointArn"]
        crash(server)
        run_waiter(client, "endpoint_deleted", Filters=filters("endpoint-arn", gone))
        there = {endpoint["EndpointArn"] for endpoint in client.describe_endpoints()["Endpoints"]}
        assert arns | {last} <= there, f"round {round_}"
        assert gone not in there


@pytest.mark.parametrize("kind", ["instance", "task"])
def test_what_was_being_created_or_deleted_in_a_crash_is_finished(make_server, make_client, kind):
    server = make_server()
    client = make_client(account=random_account(), url=server.url)
    stage = make_stage(client)
    if kind == "instance":
        request = {"ReplicationInstanceIdentifier": "late", "ReplicationInstanceClass": "dms.t3.micro"}
        arn = client.create_replication_instance(**request)["ReplicationInstance"]["ReplicationInstanceArn"]
        by_arn = filters("replication-instance-arn", arn)
        created, deleted = "replication_instance_available", "replication_instance_deleted"
    else:
        arn = stage.create_task()["ReplicationTaskArn"]
        by_arn = filters("replication-task-arn", arn)
        created, deleted = "replication_task_ready", "replication_task_deleted"
    crash(server)
    run_waiter(client, created, seconds=20, Filters=by_arn)
    delete = client.delete_replication_instance if kind == "instance" else client.delete_replication_task
    delete(**{"ReplicationInstanceArn" if kind == "instance" else "ReplicationTaskArn": arn})
    crash(server)
    run_waiter(client, deleted, seconds=20, Filters=by_arn)
    assert server.running()


def test_a_connection_test_that_a_crash_cut_off_does_not_stay_testing(make_server, make_client, databases):
    server = make_server()
    client = make_client(account=random_account(), url=server.url)
    instance = create_replication_instance(client)["ReplicationInstanceArn"]
    given = databases.pg_source.endpoint("source")
    endpoint = make_endpoint_row(client, given.pop("EngineName"), given.pop("EndpointType"), **given)["EndpointArn"]
    client.test_connection(ReplicationInstanceArn=instance, EndpointArn=endpoint)
    crash(server)

    def status():
        return client.describe_connections(Filters=filters("endpoint-arn", endpoint))["Connections"][0]["Status"]

    wait_until(lambda: status() in ("successful", "failed"), "the test ends", 30)
    client.test_connection(ReplicationInstanceArn=instance, EndpointArn=endpoint)
    wait_until(lambda: status() == "successful", "the next test succeeds", 30)


@ENDS
def test_a_finished_task_keeps_its_outcome(make_server, make_client, databases, end):
    server, account = make_server(), random_account()
    client = make_client(account=account, url=server.url)
    task = ready_task(client, databases)
    task.finish()
    before = everything(server, account)
    assert len(before[task.arn][0]["TableStatistics"]) == 1
    end(server)
    assert everything(server, account) == before


def ready_task(client, databases):
    source, target = databases.new(databases.pg_source), databases.new(databases.pg_target)
    source.execute("CREATE TABLE fruit (id int PRIMARY KEY)", "INSERT INTO fruit VALUES (1), (2)")
    instance = create_replication_instance(client)["ReplicationInstanceArn"]
    arns = [create_endpoint(client, instance, **end) for end in (source.endpoint("source"), target.endpoint("target"))]
    return create_task(client, instance, *arns, include("public"))


@ENDS
def test_a_running_task_is_resumed(make_server, make_client, databases, end):
    server = make_server()
    client = make_client(account=random_account(), url=server.url)
    instance = create_replication_instance(client)["ReplicationInstanceArn"]

    def make_endpoint(kind, database):
        return create_endpoint(client, instance, **database.endpoint(kind))

    def make_task(*arguments):
        return create_task(client, instance, *arguments)

    fruit = ["CREATE TABLE held.fruit (id int PRIMARY KEY)", "INSERT INTO held.fruit SELECT generate_series(1, 9)"]
    with running_task(databases, make_endpoint, make_task, fruit) as task:
        end(server)
        assert task.wait("running", seconds=20)["Status"] == "running"
    task.wait("stopped", seconds=60)
    assert task.stop_reason == "Stop Reason FULL_LOAD_ONLY_FINISHED"
    rows = {name: row["FullLoadRows"] for (_, name), row in task.statistics().items()}
    assert rows == {"fruit": 9, "gate": 1}


def test_a_fresh_start_that_a_crash_cut_off_begins_with_nothing(make_server, make_client, databases):
    server = make_server()
    task = ready_task(make_client(account=random_account(), url=server.url), databases)
    task.finish()
    loaded = task.statistics()
    server.kill9()
    # As it is after the first of the start's two steps: what the run before has told is not forgotten yet.
    with contextlib.closing(sqlite3.connect(server.data_dir / "state.db")) as store, store:
        changed = store.execute(
            "UPDATE resource SET status = 'starting', body = json_set(body, '$.Status', 'starting') WHERE arn = ?",
            [task.arn],
        )
        assert changed.rowcount == 1
    server.start()
    task.wait("stopped")
    again = task.statistics()
    assert again.keys() == loaded.keys() and again != loaded
    assert {row["FullLoadRows"] for row in again.values()} == {2}
    assert again["public", "fruit"]["FullLoadEndTime"] > loaded["public", "fruit"]["FullLoadEndTime"]


def test_a_reset_is_final(make_server, make_client):
    server, account = make_server(), random_account()
    client = make_client(account=account, url=server.url)
    make_stage(client).ready_task()
    server.reset()
    crash(server)
    assert client.describe_endpoints()["Endpoints"] == []
    assert client.describe_replication_tasks()["ReplicationTasks"] == []
    assert client.describe_replication_instances()["ReplicationInstances"] == []


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_asked_to_ends_well(make_server, make_client, signal_):
    server = make_server()
    make_stage(make_client(url=server.url)).ready_task()
    assert (server.stop() if signal_ == signal.SIGTERM else server.interrupt()) == 0


# --- ephemeral -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "variables"),
    [
        (["--ephemeral"], {}),
        (["--ephemeral"], {"DMS_LOCAL_DATA_DIR": "elsewhere"}),
        ([], {"DMS_LOCAL_EPHEMERAL": "1"}),
        ([], {"DMS_LOCAL_EPHEMERAL": "true"}),
    ],
)
def test_an_ephemeral_server_leaves_nothing_behind(make_client, tmp_path, flags, variables):
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir(), work.mkdir()
    environment = os.environ | {"HOME": str(home), "XDG_DATA_HOME": str(home), "TMPDIR": str(work)} | variables
    for _ in range(2):
        process = subprocess.Popen(
            [binary(), "serve", *flags, "--listen", "127.0.0.1:0"],
            cwd=work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        try:
            url = re.search(r"http://[0-9.:]+", process.stdout.readline()).group()
            client = make_client(account="111122223333", url=url)
            assert client.describe_endpoints()["Endpoints"] == []
            make_endpoint_row(client, Password=SECRET)
            assert len(client.describe_endpoints()["Endpoints"]) == 1
        finally:
            process.terminate()
            process.communicate(timeout=20)
        assert process.returncode == 0
    assert list(home.rglob("*")) == list(work.rglob("*")) == []


def test_two_servers_do_not_share_a_data_folder(make_server):
    server = make_server()
    second = subprocess.run(
        [binary(), "serve", "--listen", "127.0.0.1:0", "--data-dir", str(server.data_dir)],
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert second.returncode != 0
    assert str(server.data_dir) in second.stderr
    assert wire.call(server, "DescribeEndpointTypes", {}).status == 200


# --- secrets ---------------------------------------------------------------------------------------------------------


def readable_files(folder):
    """Every file of a folder but the SQLite database itself, which is where passwords live."""
    for path in pathlib.Path(folder).rglob("*"):
        if path.is_file() and not path.name.endswith(("-wal", "-shm", "-journal")):
            content = path.read_bytes()
            if not content.startswith(b"SQLite format 3\0"):
                yield path, content


def test_passwords_are_in_no_answer_and_no_log(make_server, make_client, databases):
    server, account = make_server("--log", "trace"), random_account()
    client = make_client(account=account, url=server.url)
    instance = create_replication_instance(client)["ReplicationInstanceArn"]
    endpoints = []
    for database in (databases.pg_source, databases.maria_source):
        for changes in ({"Password": SECRET}, {"Password": SECRET, "Port": closed_port()}, {}):
            given = database.endpoint("source") | changes
            row = make_endpoint_row(client, given.pop("EngineName"), given.pop("EndpointType"), **given)
            endpoints.append(row["EndpointArn"])
    wire.call(server, "CreateEndpoint", {"EndpointIdentifier": "a--b", "Password": SECRET}, account=account)
    wire.call(server, "CreateEndpoint", f'{{"Password": "{SECRET}",'.encode(), account=account)
    for endpoint in endpoints:
        client.modify_endpoint(EndpointArn=endpoint, SslMode="none")
        client.test_connection(ReplicationInstanceArn=instance, EndpointArn=endpoint)
    wait_until(
        lambda: all(row["Status"] != "testing" for row in client.describe_connections()["Connections"]),
        "the connections are tested",
        60,
    )
    task = ready_task(client, databases)
    task.finish()
    shown = json.dumps(everything(server, account))
    server.stop()
    secrets = {SECRET, databases.pg_source.password, databases.maria_source.password}
    files = [(server.log, server.log.read_bytes()), *readable_files(server.data_dir)]
    assert server.log.stat().st_size > 0, "a server that logs at trace level says something"
    for secret in secrets:
        assert secret not in shown
        for path, content in files:
            assert secret.encode() not in content, path


def test_the_data_folder_is_closed_to_others(make_server):
    mode = make_server().data_dir.stat().st_mode
    assert mode & 0o077 == 0, "others can read the folder, and passwords are in there"


def test_a_missing_resource_is_missing_after_a_restart_too(make_server, make_client):
    server = make_server()
    client = make_client(url=server.url)
    arn = make_endpoint_row(client)["EndpointArn"]
    client.delete_endpoint(EndpointArn=arn)
    run_waiter(client, "endpoint_deleted", Filters=filters("endpoint-arn", arn))
    crash(server)
    with fault(NOT_FOUND):
        client.describe_endpoints(Filters=filters("endpoint-arn", arn))
