"""Resources that need no database: an account of their own, endpoints nobody answers at, tasks nobody starts."""

import contextlib
import dataclasses
import json
import secrets
import socket

from conftest import create_replication_instance, filters, include, run_waiter, unique

# The engines with a runtime: display name, and the member of CreateEndpoint that holds their settings.
RELATIONAL = {
    "mysql": ("MySQL", "MySQLSettings"),
    "mariadb": ("MariaDB", "MySQLSettings"),
    "aurora": ("Amazon Aurora MySQL", "MySQLSettings"),
    "postgres": ("PostgreSQL", "PostgreSQLSettings"),
    "aurora-postgresql": ("Amazon Aurora PostgreSQL", "PostgreSQLSettings"),
}

RANDOM_ID = "[A-Z2-7]{26}"
PASSWORD = "correct horse"


def random_account():
    """Twelve digits; an account that no other test uses, and that is therefore empty."""
    return str(secrets.randbelow(9 * 10**11) + 10**11)


def unused_arn(kind, account="123456789012"):
    return f"arn:aws:dms:us-east-1:{account}:{kind}:{secrets.token_hex(8)}"


def endpoint_parameters(engine="mysql", kind="source"):
    """Complete parameters of an endpoint at which nobody answers."""
    parameters = {
        "EndpointIdentifier": unique(kind),
        "EndpointType": kind,
        "EngineName": engine,
        "ServerName": "127.0.0.1",
        "Port": 1,
        "Username": "admin",
        "Password": PASSWORD,
    }
    if RELATIONAL[engine][1] == "PostgreSQLSettings":
        parameters["DatabaseName"] = "shop"
    return parameters


def make_endpoint_row(client, engine="mysql", kind="source", **parameters):
    """An endpoint that was never tested; its description."""
    return client.create_endpoint(**(endpoint_parameters(engine, kind) | parameters))["Endpoint"]


def make_subnet_group(client, **parameters):
    request = {
        "ReplicationSubnetGroupIdentifier": unique("group"),
        "ReplicationSubnetGroupDescription": "two subnets",
        "SubnetIds": ["subnet-0aaa1111", "subnet-0bbb2222"],
    }
    return client.create_replication_subnet_group(**(request | parameters))["ReplicationSubnetGroup"]


def list_tags(client, arn):
    return {tag["Key"]: tag["Value"] for tag in client.list_tags_for_resource(ResourceArn=arn)["TagList"]}


@dataclasses.dataclass
class Stage:
    """An instance, a source and a target: what a task needs to be created."""

    client: object
    instance: dict
    source: dict
    target: dict

    @property
    def instance_arn(self):
        return self.instance["ReplicationInstanceArn"]

    @property
    def source_arn(self):
        return self.source["EndpointArn"]

    @property
    def target_arn(self):
        return self.target["EndpointArn"]

    def task_parameters(self, **parameters):
        return {
            "ReplicationTaskIdentifier": unique("task"),
            "SourceEndpointArn": self.source_arn,
            "TargetEndpointArn": self.target_arn,
            "ReplicationInstanceArn": self.instance_arn,
            "MigrationType": "full-load",
            "TableMappings": json.dumps(include()),
        } | parameters

    def create_task(self, **parameters):
        """Creates a task; the answer of the call."""
        return self.client.create_replication_task(**self.task_parameters(**parameters))["ReplicationTask"]

    def ready_task(self, **parameters):
        """Creates a task and waits until it is ready; its description."""
        arn = self.create_task(**parameters)["ReplicationTaskArn"]
        run_waiter(self.client, "replication_task_ready", Filters=filters("replication-task-arn", arn))
        return describe_task(self.client, arn)


def describe_task(client, arn):
    (task,) = client.describe_replication_tasks(Filters=filters("replication-task-arn", arn))["ReplicationTasks"]
    return task


def make_stage(client, source="mysql", target="postgres"):
    return Stage(
        client,
        create_replication_instance(client),
        make_endpoint_row(client, source, "source"),
        make_endpoint_row(client, target, "target"),
    )


def closed_port():
    """A port of this machine at which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def silent_server():
    """The port of a server that accepts connections and never says a word, so that a test of one goes on and on."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener.getsockname()[1]


@contextlib.contextmanager
def gate(database, schema):
    """A view of PostgreSQL that gives its one row only when the block has ended: a task that loads it runs until
    then. The catalog stays readable, unlike with a locked table."""
    key = secrets.randbelow(2**31)
    database.execute(
        f"CREATE SCHEMA IF NOT EXISTS {schema}",
        f"CREATE VIEW {schema}.gate AS SELECT 1 AS id, pg_advisory_lock_shared({key}) IS NULL AS blocked",
    )
    keeper = database.connect()
    try:
        keeper.cursor().execute(f"SELECT pg_advisory_lock({key})")
        yield
    finally:
        keeper.close()


def selection(schema, table="%", kind="table", rule=1, action="include"):
    return {
        "rule-type": "selection",
        "rule-id": str(rule),
        "rule-name": str(rule),
        "object-locator": {"schema-name": schema, "table-name": table, "table-type": kind},
        "rule-action": action,
    }


@contextlib.contextmanager
def running_task(databases, make_endpoint, make_task, tables=(), settings=None):
    """A task that runs until the block has ended: one table more than `tables` (statements that create some in the
    schema `held`) waits behind a gate."""
    source = databases.new(databases.pg_source, "gate")
    target = databases.new(databases.pg_target, "gate")
    with gate(source, "held"):
        if tables:
            source.execute(*tables)
        mappings = {"rules": [selection("held", "%", "all")]}
        task = make_task(make_endpoint("source", source), make_endpoint("target", target), mappings, settings)
        task.start()
        run_waiter(task.client, "replication_task_running", Filters=filters("replication-task-arn", task.arn))
        yield task
