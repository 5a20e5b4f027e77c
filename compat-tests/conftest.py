"""Fixtures for the black-box tests: a real server, real databases, and the clients users have.

Nothing here knows how dms-local works inside. The server is the built binary, started on a free port with a data
folder of its own; the databases are two PostgreSQL and two MariaDB servers started by `dms-local sandbox`. A binary or
a database server that is missing is an error, never a skip.

    DMS_LOCAL_BIN   the binary to test; otherwise the debug build in CARGO_TARGET_DIR or target/
"""

import contextlib
import ctypes
import dataclasses
import itertools
import json
import os
import pathlib
import re
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request

import boto3
import botocore.config
import psycopg
import pymysql
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
REGION = "us-east-1"

# The variable by which the AWS SDKs and the AWS CLI find another endpoint for one service.
ENDPOINT_VARIABLE = "AWS_ENDPOINT_URL_DATABASE_MIGRATION_SERVICE"

# How long the server may take to print its URL, and to end. Both take milliseconds; these are bounds, not waits.
START_SECONDS = 20
STOP_SECONDS = 20

# How long one task of these tests may take. A longer one hangs.
TASK_SECONDS = 120

# Waiters of botocore ask every 5 to 60 seconds, as is right for a service that needs minutes. Tests ask more often.
QUICK = {"Delay": 0.1, "MaxAttempts": int(TASK_SECONDS / 0.1)}

_serial = itertools.count(1)


def unique(prefix):
    """An identifier that no other test of this run uses, valid for every resource of DMS."""
    return f"{prefix}-{os.getpid()}-{next(_serial)}"


def wait_until(condition, what, seconds=TASK_SECONDS):
    """Asks until `condition` gives something true and returns it; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s in vain until {what}")
        time.sleep(0.02)


def binary():
    """The dms-local under test."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    path = pathlib.Path(os.environ.get("DMS_LOCAL_BIN") or target / "debug" / "dms-local")
    if not path.is_file():
        pytest.exit(f"there is no dms-local at {path}: run `cargo build`, or set DMS_LOCAL_BIN", returncode=2)
    return str(path)


def children(pid):
    """The processes that a process has started."""
    threads = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for thread in threads for child in thread.read_text().split()]


def die_with_parent():
    """Has the kernel kill this process when the one that started it ends, so that a killed run leaves no server."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


# --- the server ------------------------------------------------------------------------------------------------------


class Server:
    """One `dms-local serve`. Its URL and its data folder stay the same over restarts."""

    def __init__(self, folder, *arguments, **environment):
        self.folder = pathlib.Path(folder)
        self.data_dir = self.folder / "data"
        self.log = self.folder / "server.log"
        self.arguments = arguments
        self.environment = environment
        self.url = None
        self.process = None

    @property
    def pid(self):
        return self.process.pid

    def start(self):
        """Starts the server and returns when it has printed its URL."""
        # After the first start the same port again, so that clients made before a restart go on working.
        listen = self.url.removeprefix("http://") if self.url else "127.0.0.1:0"
        command = [binary(), "serve", "--listen", listen, "--data-dir", str(self.data_dir), *self.arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DMS_LOCAL_")}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment | self.environment,
                preexec_fn=die_with_parent,
            )
        line = self._first_line()
        found = re.search(r"http://\S+", line)
        if not found:
            self.kill9()
            pytest.fail(
                f"the server did not print its URL in {START_SECONDS} s but {line!r}; see {self.log}:\n{self.tail()}"
            )
        self.url = found.group().rstrip("/.")
        return self

    def _first_line(self):
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            ready = selector.select(START_SECONDS)
        return self.process.stdout.readline().decode() if ready else ""

    def stop(self):
        """Ends the server with SIGTERM and returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self._ended()

    def interrupt(self):
        """Ends the server as Ctrl-C does and returns its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self._ended()

    def kill9(self):
        """Ends the server without giving it a chance to notice."""
        self.process.kill()
        self._ended()

    def restart(self):
        """Stops and starts the server."""
        self.stop()
        return self.start()

    def _ended(self):
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"the server did not end in {STOP_SECONDS} s; see {self.log}:\n{self.tail()}")
        self.process.stdout.close()
        return code

    def running(self):
        return self.process is not None and self.process.poll() is None

    def tail(self, lines=40):
        """The last lines of the server's log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def request(self, path, method="GET"):
        """Calls a path of the server that is not of the DMS protocol; returns the status and the parsed body."""
        request = urllib.request.Request(self.url + path, method=method, data=b"" if method == "POST" else None)
        with urllib.request.urlopen(request, timeout=10) as answer:
            body = answer.read()
            return answer.status, json.loads(body) if body else None

    def health(self):
        return self.request("/_dms-local/health")[1]

    def reset(self):
        """Stops all tasks and forgets everything, as the fixture `fresh` does."""
        self.request("/_dms-local/reset", "POST")

    def rss_mib(self):
        """Resident memory of the server process in MiB."""
        return self._memory_mib("VmRSS")

    def peak_mib(self):
        """The most resident memory that the server process ever had, in MiB."""
        return self._memory_mib("VmHWM")

    def _memory_mib(self, kind):
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"{kind}:\s+(\d+) kB", status).group(1)) / 1024


def _folder(prefix):
    """A new folder that database servers running as another user can reach (pytest's own are closed to them)."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix=prefix))
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def server():
    """The server that most tests share."""
    folder = _folder("dms-local-server-")
    server = Server(folder)
    try:
        yield server.start()
    finally:
        if server.running():
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def make_server():
    """Starts further servers, for tests that kill theirs or give it other flags: `make_server("--settle", "0")`."""
    started = []

    def make(*arguments, **environment):
        folder = _folder("dms-local-server-")
        server = Server(folder, *arguments, **environment)
        started.append(server)
        return server.start()

    yield make
    for server in started:
        if server.running():
            server.kill9()
        shutil.rmtree(server.folder, ignore_errors=True)


# --- clients ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def aws_environment(server):
    """The environment a user sets: any credentials, a region, and the URL of the server. Nothing of the machine's own
    AWS configuration takes part."""
    variables = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_PAGER": "",
        ENDPOINT_VARIABLE: server.url,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("AWS_"):
                patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        yield variables


@pytest.fixture(scope="session")
def make_client(aws_environment):
    """Makes clients of other accounts, regions and servers: `make_client(account="111122223333", region="eu-west-1")`.
    The account is chosen by an access key id of twelve digits."""

    def make(account=None, region=REGION, url=None, **config):
        config = {"retries": {"max_attempts": 1, "mode": "standard"}} | config
        return boto3.client(
            "dms",
            region_name=region,
            endpoint_url=url,
            aws_access_key_id=account or "test",
            aws_secret_access_key="test",
            config=botocore.config.Config(**config),
        )

    return make


@pytest.fixture(scope="session")
def dms(make_client):
    """A boto3 client of the shared server, which it finds through the environment alone."""
    return make_client()


@pytest.fixture
def fresh(server, dms):
    """The client of a server that knows nothing yet."""
    server.reset()
    return dms


def run_waiter(client, name, seconds=TASK_SECONDS, **request):
    """Runs a waiter of botocore, asking ten times a second."""
    config = {"Delay": QUICK["Delay"], "MaxAttempts": max(1, int(seconds / QUICK["Delay"]))}
    client.get_waiter(name).wait(WaiterConfig=config, **request)


def filters(name, *values):
    """`Filters=filters("endpoint-arn", arn)`."""
    return [{"Name": name, "Values": list(values)}]


# --- databases -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Database:
    """One database of one server of the sandbox."""

    sandbox: "Sandbox"
    name: str
    engine: str
    host: str
    port: int
    user: str
    password: str
    database: str
    version: str
    data_dir: str

    @property
    def is_postgres(self):
        return self.engine == "postgres"

    def connect(self, **options):
        """A connection of the plain Python driver, committing each statement."""
        if self.is_postgres:
            return psycopg.connect(
                host=self.host,
                port=self.port,
                user=self.user,
                password=self.password,
                dbname=self.database,
                autocommit=True,
                **options,
            )
        return pymysql.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            database=self.database,
            autocommit=True,
            charset="utf8mb4",
            local_infile=True,
            **options,
        )

    def execute(self, *statements):
        """Runs statements one after the other; returns the rows of the last, if it has any."""
        connection = self.connect()
        try:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else None
        finally:
            connection.close()

    def value(self, statement):
        """The only value a query gives."""
        ((value,),) = self.execute(statement)
        return value

    def quote(self, identifier):
        return '"%s"' % identifier.replace('"', '""') if self.is_postgres else "`%s`" % identifier.replace("`", "``")

    def endpoint(self, kind):
        """The parameters of CreateEndpoint for this database."""
        parameters = {
            "EndpointType": kind,
            "EngineName": self.engine,
            "ServerName": self.host,
            "Port": self.port,
            "Username": self.user,
            "Password": self.password,
        }
        # A MySQL endpoint names no database: a source reads all of them, a target gets one per source schema.
        return parameters | ({"DatabaseName": self.database} if self.is_postgres else {})

    def kill9(self):
        """Ends the server of this database without giving it a chance to notice."""
        pid = self.sandbox.status(self.name)["pid"]
        # PostgreSQL is a process for each connection, and those outlive their parent for a moment in which one could
        # still commit. Halted, the parent does not see them go.
        os.kill(pid, signal.SIGSTOP)
        for child in children(pid):
            os.kill(child, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: self.sandbox.status(self.name)["status"] == "stopped", f"{self.name} is gone", 20)

    def stop(self):
        self.sandbox.run("stop", "--name", self.name)

    def start(self):
        """Starts the server again, on the port it had."""
        self.sandbox.run("start", *self.sandbox.size)


class Sandbox:
    """`dms-local sandbox`: throw-away database servers in a folder."""

    def __init__(self, folder, postgres, mariadb):
        self.folder = folder
        self.size = ("--postgres", str(postgres), "--mariadb", str(mariadb), "--fast")

    def databases(self):
        """Starts the servers; the databases that they come with, by the names of the servers."""
        fields = {field.name for field in dataclasses.fields(Database)}
        return {
            one["name"]: Database(sandbox=self, **{key: value for key, value in one.items() if key in fields})
            for one in self.run("start", *self.size)["instances"]
        }

    def run(self, verb, *arguments):
        """Runs the command; returns what it printed."""
        command = [binary(), "sandbox", verb, "--dir", str(self.folder), *arguments]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180)
        if done.returncode != 0:
            pytest.fail(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
        return json.loads(done.stdout)

    def status(self, name):
        (instance,) = [one for one in self.run("status")["instances"] if one["name"] == name]
        return instance


class Databases:
    """Two PostgreSQL and two MariaDB servers, so that every direction has a source and a target of its own.

    `pg_source`, `pg_target`, `maria_source`, `maria_target` are the servers with the database they come with;
    `new(server)` makes an empty database on one of them.
    """

    def __init__(self, sandbox):
        self.sandbox = sandbox
        servers = sandbox.databases()
        self.pg_source, self.pg_target = servers["postgres-1"], servers["postgres-2"]
        self.maria_source, self.maria_target = servers["mariadb-1"], servers["mariadb-2"]

    def new(self, server, prefix="test"):
        """An empty database on a server, with a name of its own."""
        name = unique(prefix).replace("-", "_")
        server.execute(f"CREATE DATABASE {server.quote(name)}")
        return dataclasses.replace(server, database=name)


# Waits for the end of its input, which comes also when this process is killed, then removes the servers.
REMOVE_SANDBOX = 'cat >/dev/null; "$1" sandbox stop --delete --dir "$2" >/dev/null; rm -rf "$2"'


@contextlib.contextmanager
def temporary_sandbox(postgres=0, mariadb=0):
    """A `Sandbox` that is removed after the context, however this process ends."""
    folder = _folder("dms-local-sandbox-")
    # In a session of its own, which a Ctrl-C does not reach: that is when it is needed.
    remover = subprocess.Popen(
        ["sh", "-c", REMOVE_SANDBOX, "sh", binary(), str(folder)], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield Sandbox(folder, postgres, mariadb)
    finally:
        remover.stdin.close()
        remover.wait()


@pytest.fixture(scope="session")
def databases():
    """The database servers that all tests share; see `Databases`."""
    with temporary_sandbox(postgres=2, mariadb=2) as sandbox:
        yield Databases(sandbox)


# --- resources -------------------------------------------------------------------------------------------------------


def create_replication_instance(client, **parameters):
    """Creates a replication instance and waits until it is available; returns its description."""
    request = {"ReplicationInstanceIdentifier": unique("instance"), "ReplicationInstanceClass": "dms.t3.micro"}
    created = client.create_replication_instance(**(request | parameters))["ReplicationInstance"]
    by_arn = filters("replication-instance-arn", created["ReplicationInstanceArn"])
    run_waiter(client, "replication_instance_available", Filters=by_arn)
    return client.describe_replication_instances(Filters=by_arn)["ReplicationInstances"][0]


def create_endpoint(client, instance_arn, **parameters):
    """Creates an endpoint and tests its connection, which must succeed; returns its ARN."""
    request = {"EndpointIdentifier": unique(parameters["EndpointType"])}
    arn = client.create_endpoint(**(request | parameters))["Endpoint"]["EndpointArn"]
    run_connection_test(client, instance_arn, arn)
    return arn


def run_connection_test(client, instance_arn, endpoint_arn):
    """Tests a connection, which must succeed."""
    client.test_connection(ReplicationInstanceArn=instance_arn, EndpointArn=endpoint_arn)
    run_waiter(client, "test_connection_succeeds", Filters=filters("endpoint-arn", endpoint_arn))


@pytest.fixture
def replication_instance(dms):
    """A replication instance that is available; its description."""
    return create_replication_instance(dms)


@pytest.fixture
def make_endpoint(dms, replication_instance):
    """Makes tested endpoints of the sandbox: `make_endpoint("source", databases.pg_source, DatabaseName="shop")`."""

    def make(kind, database, **parameters):
        return create_endpoint(
            dms, replication_instance["ReplicationInstanceArn"], **(database.endpoint(kind) | parameters)
        )

    return make


@pytest.fixture
def pg_source_endpoint(make_endpoint, databases):
    """Makes a tested source endpoint of the first PostgreSQL server; parameters override those of CreateEndpoint."""
    return lambda database=None, **parameters: make_endpoint("source", database or databases.pg_source, **parameters)


@pytest.fixture
def pg_target_endpoint(make_endpoint, databases):
    """Makes a tested target endpoint of the second PostgreSQL server."""
    return lambda database=None, **parameters: make_endpoint("target", database or databases.pg_target, **parameters)


@pytest.fixture
def maria_source_endpoint(make_endpoint, databases):
    """Makes a tested source endpoint of the first MariaDB server."""
    return lambda database=None, **parameters: make_endpoint("source", database or databases.maria_source, **parameters)


@pytest.fixture
def maria_target_endpoint(make_endpoint, databases):
    """Makes a tested target endpoint of the second MariaDB server."""
    return lambda database=None, **parameters: make_endpoint("target", database or databases.maria_target, **parameters)


# --- tasks -----------------------------------------------------------------------------------------------------------


def include(schema="%", table="%"):
    """Table mappings that select tables, as a document."""
    return {
        "rules": [
            {
                "rule-type": "selection",
                "rule-id": "1",
                "rule-name": "1",
                "object-locator": {"schema-name": schema, "table-name": table},
                "rule-action": "include",
            }
        ]
    }


class Task:
    """A replication task and how far it is."""

    def __init__(self, client, arn):
        self.client = client
        self.arn = arn

    def describe(self):
        """The task as DescribeReplicationTasks shows it."""
        answer = self.client.describe_replication_tasks(Filters=filters("replication-task-arn", self.arn))
        return answer["ReplicationTasks"][0]

    @property
    def status(self):
        return self.describe()["Status"]

    @property
    def stop_reason(self):
        return self.describe().get("StopReason")

    @property
    def stats(self):
        """`ReplicationTaskStats`."""
        return self.describe()["ReplicationTaskStats"]

    def statistics(self):
        """The rows of DescribeTableStatistics by schema and table."""
        pages = self.client.get_paginator("describe_table_statistics").paginate(ReplicationTaskArn=self.arn)
        rows = [row for page in pages for row in page["TableStatistics"]]
        return {(row["SchemaName"], row["TableName"]): row for row in rows}

    def start(self, start_type="start-replication"):
        self.client.start_replication_task(ReplicationTaskArn=self.arn, StartReplicationTaskType=start_type)
        return self

    def stop(self):
        self.client.stop_replication_task(ReplicationTaskArn=self.arn)
        return self

    def wait(self, *statuses, seconds=TASK_SECONDS):
        """Waits until the task has one of the statuses; returns its description."""

        def reached():
            task = self.describe()
            if task["Status"] in statuses:
                return task
            if task["Status"] == "failed":
                pytest.fail(f"the task failed: {task.get('LastFailureMessage')}")
            return None

        return wait_until(reached, f"the task is {' or '.join(statuses)}", seconds)

    def finish(self, start_type="start-replication", seconds=TASK_SECONDS):
        """Runs the task until it has stopped by itself; returns its table statistics."""
        self.start(start_type)
        self.wait("stopped", seconds=seconds)
        return self.statistics()

    def finish_in_any_way(self, start_type="start-replication", seconds=TASK_SECONDS):
        """Runs the task until it has stopped or failed; returns its description."""
        self.start(start_type)
        return self.wait("stopped", "failed", seconds=seconds)


def create_task(client, instance_arn, source_arn, target_arn, mappings=None, settings=None, **parameters):
    """Creates a full-load task, waits until it is ready and returns it as a `Task`."""
    request = {
        "ReplicationTaskIdentifier": unique("task"),
        "ReplicationInstanceArn": instance_arn,
        "SourceEndpointArn": source_arn,
        "TargetEndpointArn": target_arn,
        "MigrationType": "full-load",
        "TableMappings": json.dumps(mappings or include()),
    }
    if settings is not None:
        request["ReplicationTaskSettings"] = json.dumps(settings)
    arn = client.create_replication_task(**(request | parameters))["ReplicationTask"]["ReplicationTaskArn"]
    run_waiter(client, "replication_task_ready", Filters=filters("replication-task-arn", arn))
    return Task(client, arn)


@pytest.fixture
def make_task(dms, replication_instance):
    """Makes tasks that are ready: `make_task(source_arn, target_arn, include("shop"), {"FullLoadSettings": {…}})`.
    Tasks still running when the test ends are stopped."""
    made = []

    def make(source_arn, target_arn, mappings=None, settings=None, **parameters):
        instance = replication_instance["ReplicationInstanceArn"]
        made.append(create_task(dms, instance, source_arn, target_arn, mappings, settings, **parameters))
        return made[-1]

    yield make
    for task in made:
        try:
            if task.status in ("starting", "running"):
                task.wait("running", "stopped")
                if task.status == "running":
                    task.stop()
                task.wait("stopped", "failed")
        except (dms.exceptions.ResourceNotFoundFault, dms.exceptions.InvalidResourceStateFault):
            # The test deleted it, or it ended between two looks.
            pass


@pytest.fixture
def run_task(make_task):
    """Makes a task, runs it to its end and returns its table statistics by schema and table."""

    def run(source_arn, target_arn, mappings=None, settings=None, **parameters):
        task = make_task(source_arn, target_arn, mappings, settings, **parameters)
        statistics = task.finish()
        assert task.stop_reason == "Stop Reason FULL_LOAD_ONLY_FINISHED"
        return statistics

    return run
