"""A source and a target with the task between them, for the tests that load; and what holds or breaks a load.

Loads that must be caught in the middle are not made long but held: by a table lock on the source, or by a trigger on
the target that waits at a certain row for a lock which the test holds. So no test depends on the speed of a machine.
"""

import contextlib

import pytest

from conftest import create_endpoint, create_task, include, unique, wait_until

FINISHED = "Stop Reason FULL_LOAD_ONLY_FINISHED"
STOPPED_BY_USER = "Stop Reason NORMAL"

DIRECTIONS = ["postgres-postgres", "postgres-mariadb", "mariadb-postgres", "mariadb-mariadb"]
FROM_POSTGRES = DIRECTIONS[0]
FROM_MARIADB = DIRECTIONS[2]

# Stops in two seconds, by the promise; the rest is for a busy machine to notice it.
STOP_SECONDS = 2
GRACE_SECONDS = 2


# --- two databases and a task between them ---------------------------------------------------------------------------


class Side:
    """The schema of a test on one server: a database in MariaDB, a schema in a database of its own in PostgreSQL."""

    def __init__(self, databases, server, schema, create=True):
        self.schema = schema
        self.server = server
        if server.is_postgres:
            self.database = databases.new(server, "load")
            if create:
                self.execute(f"CREATE SCHEMA {self.quote(schema)}")
        else:
            self.database = server
            if create:
                self.execute(f"CREATE DATABASE {self.quote(schema)} CHARACTER SET utf8mb4")

    @property
    def is_postgres(self):
        return self.server.is_postgres

    def quote(self, name):
        return self.server.quote(name)

    def table(self, name, schema=None):
        return f"{self.quote(schema or self.schema)}.{self.quote(name)}"

    def connect(self):
        return self.database.connect()

    def execute(self, *statements):
        return self.database.execute(*statements)

    def value(self, statement):
        return self.database.value(statement)

    def create(self, name, columns):
        """Creates a table; `columns` in PostgreSQL's words, of which those that MariaDB says otherwise are replaced."""
        if not self.is_postgres:
            for theirs, ours in [
                ("bytea", "longblob"),
                ("text", "longtext"),
                ("timestamp(6)", "datetime(6)"),
                ("double precision", "double"),
            ]:
                columns = columns.replace(theirs, ours)
        self.execute(f"CREATE TABLE {self.table(name)} ({columns})")

    def insert(self, name, rows):
        connection = self.connect()
        with contextlib.closing(connection), connection.cursor() as cursor:
            places = ", ".join(["%s"] * len(rows[0]))
            cursor.executemany(f"INSERT INTO {self.table(name)} VALUES ({places})", rows)

    def fill(self, name, count, value="'row ' || n"):
        """Fills a table (id, value) with rows numbered from 1, in the server."""
        if self.is_postgres:
            self.execute(f"INSERT INTO {self.table(name)} SELECT n, {value} FROM generate_series(1, {count}) AS n")
        else:
            value = "CONCAT('row ', n)" if "||" in value else value
            self.execute(
                f"INSERT INTO {self.table(name)} SELECT n, {value} FROM (SELECT seq AS n FROM seq_1_to_{count}) AS numbers"
            )

    def rows(self, name, schema=None, order="1"):
        return list(self.execute(f"SELECT * FROM {self.table(name, schema)} ORDER BY {order}"))

    def columns(self, name, schema=None):
        rows = self.execute(
            "SELECT column_name FROM information_schema.columns"
            f" WHERE table_schema = '{schema or self.schema}' AND table_name = '{name}' ORDER BY ordinal_position"
        )
        return [column for (column,) in rows]

    def tables(self, schema=None):
        rows = self.execute(
            f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{schema or self.schema}' ORDER BY 1"
        )
        return [table for (table,) in rows]

    def exceptions(self):
        """What `awsdms_apply_exceptions` holds of this schema, wherever the control table is; one text for each."""
        schemas = self.execute(
            "SELECT table_schema FROM information_schema.tables WHERE table_name = 'awsdms_apply_exceptions'"
        )
        rows = [row for (schema,) in schemas for row in self.rows("awsdms_apply_exceptions", schema)]
        return [" ".join(map(str, row)) for row in rows if self.schema in row]

    @contextlib.contextmanager
    def locked(self, name):
        """Holds a lock on a table, so that nobody reads or writes it."""
        connection = self.connect()
        with contextlib.closing(connection), connection.cursor() as cursor:
            if self.is_postgres:
                cursor.execute("BEGIN")
                cursor.execute(f"LOCK TABLE {self.table(name)} IN ACCESS EXCLUSIVE MODE")
            else:
                cursor.execute(f"LOCK TABLES {self.table(name)} WRITE")
            yield

    @contextlib.contextmanager
    def held_at(self, name, row):
        """Makes every writer of the table wait when it comes to the row of this id, while the context lasts."""
        # A number for PostgreSQL's locks, a name for MariaDB's.
        lock = abs(hash((self.schema, name))) % 2**31
        connection = self.connect()
        with contextlib.closing(connection), connection.cursor() as cursor:
            if self.is_postgres:
                self.execute(
                    f"CREATE FUNCTION {self.table('wait_at_' + name)}() RETURNS trigger LANGUAGE plpgsql AS"
                    f" $$ BEGIN PERFORM pg_advisory_xact_lock_shared({lock}); RETURN NEW; END $$",
                    f"CREATE TRIGGER held BEFORE INSERT ON {self.table(name)} FOR EACH ROW"
                    f" WHEN (NEW.id = {row}) EXECUTE FUNCTION {self.table('wait_at_' + name)}()",
                )
                cursor.execute(f"SELECT pg_advisory_lock({lock})")
            else:
                self.execute(
                    f"CREATE TRIGGER {self.table('held_at_' + name)} BEFORE INSERT ON {self.table(name)} FOR EACH ROW"
                    f" IF NEW.id = {row} THEN DO GET_LOCK('{lock}', 600); DO RELEASE_LOCK('{lock}'); END IF"
                )
                cursor.execute(f"SELECT GET_LOCK('{lock}', 10)")
                cursor.fetchall()
            yield


class Pair:
    """A source, a target, and tested endpoints of both on one server."""

    def __init__(self, databases, direction, client, instance_arn):
        source, target = direction.split("-")
        self.schema = unique("shop").replace("-", "_")
        self.source = Side(
            databases, databases.pg_source if source == "postgres" else databases.maria_source, self.schema
        )
        self.target = Side(
            databases,
            databases.pg_target if target == "postgres" else databases.maria_target,
            self.schema,
            create=False,
        )
        self.client = client
        self.instance_arn = instance_arn
        self.source_arn = create_endpoint(client, instance_arn, **self.source.database.endpoint("source"))
        self.target_arn = create_endpoint(client, instance_arn, **self.target.database.endpoint("target"))

    @classmethod
    def reversed(cls, pair):
        """The same two sides, the other way round."""
        back = cls.__new__(cls)
        back.schema, back.client, back.instance_arn = pair.schema, pair.client, pair.instance_arn
        back.source, back.target = pair.target, pair.source
        back.source_arn = create_endpoint(pair.client, pair.instance_arn, **back.source.database.endpoint("source"))
        back.target_arn = create_endpoint(pair.client, pair.instance_arn, **back.target.database.endpoint("target"))
        return back

    def set_up_source(self, **parameters):
        """Takes another endpoint for the source, with further parameters of CreateEndpoint."""
        endpoint = self.source.database.endpoint("source") | parameters
        self.source_arn = create_endpoint(self.client, self.instance_arn, **endpoint)

    def set_up_target(self, **parameters):
        """The same for the target."""
        endpoint = self.target.database.endpoint("target") | parameters
        self.target_arn = create_endpoint(self.client, self.instance_arn, **endpoint)

    def make_target_schema(self):
        kind = "SCHEMA" if self.target.is_postgres else "DATABASE"
        self.target.execute(f"CREATE {kind} {self.target.quote(self.schema)}")

    def create_both(self, name, columns):
        """The same empty table on both sides, for the modes that keep what is there."""
        self.source.create(name, columns)
        if self.schema not in [
            schema for (schema,) in self.target.execute("SELECT schema_name FROM information_schema.schemata")
        ]:
            self.make_target_schema()
        self.target.create(name, columns)

    def task(self, mappings=None, settings=None, **parameters):
        ends = (self.source_arn, self.target_arn)
        mappings = mappings or include(self.schema)
        return create_task(self.client, self.instance_arn, *ends, mappings, settings, **parameters)

    def load(self, mappings=None, settings=None):
        """Runs a task that must succeed; returns its table statistics by table."""
        task = self.task(mappings, settings)
        statistics = task.finish()
        assert task.stop_reason == FINISHED
        return {table: row for (_, table), row in statistics.items()}

    def states(self, task):
        return {table: row["TableState"] for (_, table), row in task.statistics().items()}

    def wait_for(self, task, table, state):
        wait_until(lambda: self.states(task).get(table) == state, f"{table} is in state {state}")


@pytest.fixture
def pair(request, databases, dms, replication_instance):
    """A pair in the direction that the test is given, or else from MariaDB to PostgreSQL."""
    direction = getattr(request, "param", FROM_MARIADB)
    return Pair(databases, direction, dms, replication_instance["ReplicationInstanceArn"])


in_all_directions = pytest.mark.parametrize("pair", DIRECTIONS, indirect=True)
to_both_engines = pytest.mark.parametrize("pair", [FROM_POSTGRES, "postgres-mariadb"], indirect=True)
from_both_engines = pytest.mark.parametrize("pair", [FROM_POSTGRES, FROM_MARIADB], indirect=True)


def prepare(mode):
    return {"FullLoadSettings": {"TargetTablePrepMode": mode}}


LOB_COLUMNS = "id integer PRIMARY KEY, body text, scan bytea"

# LobMaxSize is 32 KB by default.
WHOLE_LOBS = {"TargetMetadata": {"SupportLobs": True, "FullLobMode": True, "LimitedSizeLobMode": False}}


def with_rule(schema, *rules):
    """The mappings that include a schema, with further rules."""
    mappings = include(schema)
    for number, rule in enumerate(rules, 2):
        mappings["rules"].append({"rule-id": str(number), "rule-name": str(number)} | rule)
    return mappings


def transformation(target, action, value=None, table="%", column=None, schema="%"):
    locator = {"schema-name": schema}
    if target != "schema":
        locator["table-name"] = table
    if column:
        locator["column-name"] = column
    rule = {"rule-type": "transformation", "rule-target": target, "object-locator": locator, "rule-action": action}
    return rule | ({"value": value} if value else {})


# --- loads that are held or lose a server ----------------------------------------------------------------------------


def make_held_load(pair, rows=40_000, at=20_000):
    """A small table, and one whose load waits at a row of the target; returns the settings that keep the tables."""
    pair.create_both("small", "id integer PRIMARY KEY, value text")
    pair.create_both("large", "id integer PRIMARY KEY, value text")
    pair.source.fill("small", 10)
    pair.source.fill("large", rows)
    assert at < rows
    return {"FullLoadSettings": {"TargetTablePrepMode": "TRUNCATE_BEFORE_LOAD", "CommitRate": 1000}}


QUICK_RETRY = {"RecoverableErrorInterval": 1, "RecoverableErrorThrottling": False}


@contextlib.contextmanager
def lost(side):
    """Kills the database server without notice; it is there again after the context."""
    side.server.kill9()
    try:
        yield
    finally:
        side.server.start()
        if not side.is_postgres:
            # MariaDB 10.11 undoes what was open at the crash while it takes statements already, and has been seen to
            # call a table corrupt that was truncated meanwhile.
            undoing = "SELECT count(*) FROM information_schema.INNODB_TRX"
            wait_until(lambda: side.value(undoing) == 0, "the server has recovered")
