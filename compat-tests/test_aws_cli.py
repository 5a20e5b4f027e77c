"""A whole life of a migration through the AWS command line, versions 1 and 2."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ENDPOINT_VARIABLE, include, unique

COMMANDS = {
    "v1": [sys.executable, "-m", "awscli"],
    "v2": ["/usr/bin/aws"],
}

# A call takes a second, most of it Python starting. A waiter that sleeps takes at least five.
TIMEOUT_SECONDS = 60


class Cli:
    """The `aws dms` of one version."""

    def __init__(self, command, url):
        self.command = command
        self.url = url

    def run(self, *arguments, **options):
        """Runs a command; options are flags: `engine_name="mysql"`. Returns the finished process."""
        flags = []
        for name, value in options.items():
            flags.append(f"--{name.replace('_', '-')}")
            if isinstance(value, str):
                flags.append(value)
            elif isinstance(value, list) and all(isinstance(item, str) for item in value):
                flags += value
            elif value is not True:
                flags.append(json.dumps(value))
        command = [*self.command, "--endpoint-url", self.url, "--output", "json", "dms", *arguments, *flags]
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)

    def __call__(self, *arguments, **options):
        """Runs a command that succeeds; returns what it printed."""
        done = self.run(*arguments, **options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else None

    def fails(self, *arguments, **options):
        """Runs a command that fails; returns what it said."""
        done = self.run(*arguments, **options)
        assert done.returncode != 0, done.stdout
        return done.stderr


@pytest.fixture(params=COMMANDS)
def cli(request, server):
    return Cli(COMMANDS[request.param], server.url)


@pytest.mark.parametrize(("version", "expected"), [("v1", "aws-cli/1."), ("v2", "aws-cli/2.")])
def test_both_versions_are_here(version, expected):
    done = subprocess.run([*COMMANDS[version], "--version"], capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    assert (done.stdout + done.stderr).startswith(expected)


def test_version_1_finds_the_server_by_the_environment(server):
    assert os.environ[ENDPOINT_VARIABLE] == server.url
    command = [*COMMANDS["v1"], "dms", "describe-endpoint-types", "--query", "SupportedEndpointTypes[].EngineName"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    assert done.returncode == 0, done.stderr
    assert "mysql" in json.loads(done.stdout)


def create_endpoint(cli, kind, database):
    given = database.endpoint(kind)
    options = {
        "endpoint_identifier": unique(kind), "endpoint_type": kind, "engine_name": given["EngineName"],
        "server_name": given["ServerName"], "port": str(given["Port"]), "username": given["Username"],
        "password": given["Password"], "database_name": database.database,
    }  # fmt: skip
    return cli("create-endpoint", **options)["Endpoint"]["EndpointArn"]


def test_a_migration_from_the_first_command_to_the_last(cli, databases):
    source, target = databases.new(databases.pg_source), databases.new(databases.pg_target)
    source.execute(
        "CREATE TABLE fruit (id int PRIMARY KEY, name text)", "INSERT INTO fruit VALUES (1, 'apple'), (2, NULL)"
    )

    group = unique("group")
    created = cli(
        "create-replication-subnet-group",
        replication_subnet_group_identifier=group,
        replication_subnet_group_description="two subnets",
        subnet_ids=["subnet-0aaa1111", "subnet-0bbb2222"],
    )
    assert created["ReplicationSubnetGroup"]["SubnetGroupStatus"] == "Complete"

    instance = cli(
        "create-replication-instance",
        replication_instance_identifier=unique("instance"),
        replication_instance_class="dms.t3.micro",
        replication_subnet_group_identifier=group,
        no_publicly_accessible=True,
        tags=["Key=team,Value=data"],
    )["ReplicationInstance"]
    assert instance["ReplicationInstanceStatus"] == "creating"
    instance_arn = instance["ReplicationInstanceArn"]
    by_instance = f"Name=replication-instance-arn,Values={instance_arn}"
    cli("wait", "replication-instance-available", filters=by_instance)
    tags = cli("list-tags-for-resource", resource_arn=instance_arn)
    assert tags == {"TagList": [{"Key": "team", "Value": "data"}]}

    endpoints = [create_endpoint(cli, "source", source), create_endpoint(cli, "target", target)]
    for endpoint in endpoints:
        tested = cli("test-connection", replication_instance_arn=instance_arn, endpoint_arn=endpoint)
        assert tested["Connection"]["Status"] == "testing"
        cli("wait", "test-connection-succeeds", filters=f"Name=endpoint-arn,Values={endpoint}")

    cli("refresh-schemas", replication_instance_arn=instance_arn, endpoint_arn=endpoints[0])
    assert (
        cli("describe-refresh-schemas-status", endpoint_arn=endpoints[0])["RefreshSchemasStatus"]["Status"]
        == "successful"
    )
    assert cli("describe-schemas", endpoint_arn=endpoints[0]) == {"Schemas": ["public"]}

    task_arn = cli(
        "create-replication-task",
        replication_task_identifier=unique("task"),
        source_endpoint_arn=endpoints[0],
        target_endpoint_arn=endpoints[1],
        replication_instance_arn=instance_arn,
        migration_type="full-load",
        table_mappings=include("public"),
    )["ReplicationTask"]["ReplicationTaskArn"]
    by_task = f"Name=replication-task-arn,Values={task_arn}"
    cli("wait", "replication-task-ready", filters=by_task)
    started = cli(
        "start-replication-task", replication_task_arn=task_arn, start_replication_task_type="start-replication"
    )
    assert started["ReplicationTask"]["Status"] == "starting"
    # One look each: between two commands a load of two rows may be over, which ends the waiter for `running`.
    cli("wait", "replication-task-stopped", filters=by_task)
    (row,) = cli("describe-table-statistics", replication_task_arn=task_arn)["TableStatistics"]
    assert (row["TableName"], row["TableState"], row["FullLoadRows"]) == ("fruit", "Table completed", 2)
    assert target.execute("SELECT id, name FROM fruit ORDER BY id") == [(1, "apple"), (2, None)]
    (task,) = cli("describe-replication-tasks", filters=by_task, without_settings=True)["ReplicationTasks"]
    assert task["StopReason"] == "Stop Reason FULL_LOAD_ONLY_FINISHED"
    assert "ReplicationTaskSettings" not in task

    assert "ResourceNotFoundFault" in cli.fails(
        "describe-endpoints", filters="Name=endpoint-id,Values=no-such-endpoint"
    )
    assert "InvalidResourceStateFault" in cli.fails("delete-endpoint", endpoint_arn=endpoints[0])

    assert cli("delete-replication-task", replication_task_arn=task_arn)["ReplicationTask"]["Status"] == "deleting"
    cli("wait", "replication-task-deleted", filters=by_task)
    for endpoint in endpoints:
        assert cli("delete-endpoint", endpoint_arn=endpoint)["Endpoint"]["Status"] == "deleting"
        cli("wait", "endpoint-deleted", filters=f"Name=endpoint-arn,Values={endpoint}")
    deleted = cli("delete-replication-instance", replication_instance_arn=instance_arn)
    assert deleted["ReplicationInstance"]["ReplicationInstanceStatus"] == "deleting"
    cli("wait", "replication-instance-deleted", filters=by_instance)
    cli("delete-replication-subnet-group", replication_subnet_group_identifier=group)
    left = cli("describe-replication-subnet-groups")["ReplicationSubnetGroups"]
    assert group not in [row["ReplicationSubnetGroupIdentifier"] for row in left]


@pytest.mark.parametrize(
    ("arguments", "options", "code", "text"),
    [
        (
            ["delete-replication-task"], {"replication_task_arn": "TBD"},
            "InvalidParameterValueException", "Invalid value TBD for ReplicationTaskArn",
        ),
        (
            ["delete-endpoint"], {"endpoint_arn": "arn:aws:dms:us-east-1:123456789012:endpoint:NOSUCH"},
            "ResourceNotFoundFault", "",
        ),
        (["describe-replication-tasks"], {"filters": "Name=colour,Values=green"}, "InvalidParameterValueException", "colour"),
        (["describe-endpoint-settings"], {"engine_name": "cassandra"}, "InvalidParameterValueException", "cassandra"),
        (["describe-certificates"], {}, "NotImplementedException", "DescribeCertificates"),
    ],
)  # fmt: skip
def test_the_command_line_shows_what_went_wrong(cli, arguments, options, code, text):
    said = cli.fails(*arguments, **options)
    assert f"An error occurred ({code})" in said
    assert text in said


def test_lists_are_paged_by_the_command_line(cli):
    printed = cli("describe-orderable-replication-instances", max_items="90")
    assert len(printed["OrderableReplicationInstances"]) == 90
    assert printed["NextToken"]
    whole = cli("describe-orderable-replication-instances", page_size="20")["OrderableReplicationInstances"]
    rest = cli("describe-orderable-replication-instances", starting_token=printed["NextToken"])
    assert printed["OrderableReplicationInstances"] + rest["OrderableReplicationInstances"] == whole


def test_account_attributes_of_an_account(cli):
    quotas = cli("describe-account-attributes")["AccountQuotas"]
    assert {"ReplicationInstances", "Endpoints", "ReplicationTasks"} <= {row["AccountQuotaName"] for row in quotas}
