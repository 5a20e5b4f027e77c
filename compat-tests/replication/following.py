"""Tasks that follow a source: what they are made and waited for with."""

import collections
import contextlib
import re
import threading
import urllib.request

import pytest

from conftest import wait_until
from pairs import Pair

LOAD_AND_FOLLOW = {"MigrationType": "full-load-and-cdc"}
FOLLOW = {"MigrationType": "cdc"}

KEYED = "id integer PRIMARY KEY, v text"
LOOSE = "a integer, b text"


class Following:
    """A pair and the task between it, which ends with the test."""

    def __init__(self, pair):
        self.pair = pair
        self.source = pair.source
        self.target = pair.target
        self.task = None

    def start(self, settings=None, mappings=None, **parameters):
        """Makes a task and starts it; returns when it runs."""
        self.begin(settings, mappings, **parameters)
        self.task.wait("running")
        return self.task

    def begin(self, settings=None, mappings=None, **parameters):
        """Makes a task and starts it, whatever comes of that."""
        self.task = self.pair.task(mappings, settings, **(LOAD_AND_FOLLOW | parameters))
        self.task.start()

    def failure(self, settings=None, mappings=None, **parameters):
        """Makes a task that must fail, and gives what it says of that."""
        self.begin(settings, mappings, **parameters)
        return self.task.wait("failed")["LastFailureMessage"]

    def stop(self):
        self.task.stop()
        return self.task.wait("stopped")

    def resume(self):
        self.task.start("resume-processing")
        self.task.wait("running")

    def reload(self, *tables):
        """Has tables loaded again while the task runs."""
        names = [{"SchemaName": self.pair.schema, "TableName": name} for name in tables]
        self.pair.client.reload_tables(ReplicationTaskArn=self.task.arn, TablesToReload=names)

    def counts(self, table):
        """Inserts, updates, deletes and statements that define the table: captured, and applied."""
        return self.all_counts().get(table, (None, None))

    def all_counts(self):
        kinds = ("Inserts", "Updates", "Deletes", "Ddls")
        return {
            table: tuple(tuple(row[prefix + kind] for kind in kinds) for prefix in ("", "Applied"))
            for (schema, table), row in self.task.statistics().items()
            if schema == self.pair.schema
        }

    def latencies(self, server):
        """What the metrics tell of the task: its latency at the source and at the target, in seconds."""
        with urllib.request.urlopen(f"{server.url}/_dms-local/metrics", timeout=10) as answer:
            text = answer.read().decode()
        of_task = rf'{{.*ReplicationTaskArn="{self.task.arn}"}} (\S+)$'
        metric = lambda name: float(re.search(rf"^{name}{of_task}", text, re.MULTILINE)[1])
        return metric("CDCLatencySource"), metric("CDCLatencyTarget")

    def wait_for_load(self, *tables):
        def loaded():
            states = self.pair.states(self.task)
            return all(states.get(table) == "Table completed" for table in tables)

        wait_until(loaded, f"{tables} are loaded")

    def wait_until_equal(self, *tables, order="1"):
        """Waits until the tables have the same rows on both sides."""
        for table in tables:
            wait_until(lambda: self.rows(self.target, table, order) == self.rows(self.source, table, order), f"{table} is equal")

    @staticmethod
    def rows(side, table, order="1"):
        try:
            return side.rows(table, order=order)
        except Exception as error:  # the table may not be there yet
            return error

    def wait_until_captured(self, table, captured):
        wait_until(lambda: self.counts(table)[0] == captured, f"{captured} of {table} are captured")

    def wait_for_counts(self, table, captured, applied=None):
        wanted = (captured, applied or captured)
        try:
            wait_until(lambda: self.counts(table) == wanted, f"counts of {table} are {captured}", 30)
        except pytest.fail.Exception:
            task = self.task.describe()
            pytest.fail(f"counts of {table} are {self.counts(table)}, not {wanted}; {task['Status']}, {task.get('StopReason')}")


@contextlib.contextmanager
def busy(source, *statements):
    """Runs the statements over and over, with the number of the round for `{n}`; gives that number."""
    rounds = [0]
    ended = threading.Event()
    failures = []

    def work():
        try:
            connection = source.connect()
            with contextlib.closing(connection), connection.cursor() as cursor:
                while not ended.is_set():
                    rounds[0] += 1
                    for statement in statements:
                        cursor.execute(statement.replace("{n}", str(rounds[0])))
        except Exception as error:
            failures.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield rounds
    finally:
        ended.set()
        worker.join()
        assert failures == []


def multiset(side, table):
    try:
        return collections.Counter(side.execute(f"SELECT * FROM {side.table(table)}"))
    except Exception as error:  # the table may not be there yet
        return error


def wait_until_alike(following, *tables):
    """As `wait_until_equal`, of rows in no order."""
    for table in tables:
        wait_until(lambda: multiset(following.source, table) == multiset(following.target, table), f"{table} is equal", 60)


def control_rows(side, table):
    """A control table where it is kept when the settings do not name a schema."""
    return side.rows(table, "public" if side.is_postgres else "awsdms_control")


def resource_id(task):
    return task.arn.rsplit(":", 1)[1]


@pytest.fixture
def following(pair, dms):
    with contextlib.closing(following_of(pair, dms)) as makes:
        yield next(makes)


@pytest.fixture
def make_following(pair, dms):
    """Makes several tasks of one pair: `make_following()`."""
    with contextlib.closing(following_of(pair, dms)) as makes:
        yield lambda: next(makes)


def following_of(pair, dms):
    """One after the other, whose tasks end with the test."""
    made = []
    try:
        while True:
            made.append(Following(pair))
            yield made[-1]
    finally:
        for follows in made:
            if follows.task is not None:
                clean_up(dms, follows.task)


def clean_up(dms, task):
    """Stops and deletes a task, whatever it does."""
    try:
        if task.describe()["Status"] == "running":
            task.stop()
        wait_until(lambda: task.status in ("stopped", "failed", "ready"), "the task has ended")
        dms.delete_replication_task(ReplicationTaskArn=task.arn)
        wait_until(lambda: is_gone(dms, task), "the task is deleted")
    except dms.exceptions.ResourceNotFoundFault:
        pass


def is_gone(dms, task):
    try:
        task.describe()
    except dms.exceptions.ResourceNotFoundFault:
        return True
    return False
