#!/usr/bin/env python3
"""Tortures a task that follows a source, and looks whether anything was lost or doubled.

A random workload runs on the source while dms-local is killed, servers are killed and started again, connections are cut,
the target stands still or takes no writes, and the disk for what waits is full. In the end both databases must hold the
same rows, and the task's statistics must be those of what the source has committed. Each fault comes once, then any of them.

    torture.py --direction postgres-postgres --seed 7 --kills 200

Everything random comes from the seed; what the machine does in between does not.
"""

import argparse
import collections
import contextlib
import json
import pathlib
import random
import re
import select
import shutil
import socket
import sys
import threading
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from conftest import (  # noqa: E402
    Databases,
    Server,
    _folder,
    create_endpoint,
    create_replication_instance,
    create_task,
    include,
    temporary_sandbox,
    unique,
    wait_until,
)

KINDS = ("Inserts", "Updates", "Deletes")

# Keyed tables, a key of two columns, rows that nothing tells apart, a table of inserts alone, and one whose columns
# come and go. Besides, there are tables that come into being meanwhile.
KEYED = ["k1", "k2", "k3"]
TABLES = [*KEYED, "two", "loose", "log", "ledger", "shape"]

# Those that stay while their definition changes, or that are emptied.
DEFINED = ["k3", "shape"]

COLUMNS_MAX, MADE_MAX = 6, 4

# Ends the names of tables that are made with the rows of another, and have no key: of those PostgreSQL logs inserts alone.
COPIED = "_copy"

# Between two transactions, on average.
PAUSE_SECONDS = 0.02

CATCH_UP_SECONDS = 300  # and two more for each kill


class Proxy:
    """A TCP proxy before a database server, whose connections can be cut or held up."""

    def __init__(self, port):
        self.port_behind = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.pairs = set()
        # Bytes from the server.
        self.received = 0
        self.flows = threading.Event()
        self.flows.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        try:
            server = socket.create_connection(("127.0.0.1", self.port_behind), 5)
        except OSError:
            client.close()
            return
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = (client, server)
        with self.lock:
            self.pairs.add(pair)
        try:
            while True:
                for end in select.select(pair, [], [])[0]:
                    data = end.recv(1 << 16)
                    self.flows.wait()
                    if not data:
                        return
                    (server if end is client else client).sendall(data)
                    if end is server:
                        with self.lock:
                            self.received += len(data)
        except (OSError, ValueError):
            pass
        finally:
            self._close(pair)

    def _close(self, pair):
        with self.lock:
            self.pairs.discard(pair)
        for end in pair:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def cut(self):
        """Ends all connections."""
        with self.lock:
            pairs = list(self.pairs)
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def hold(self):
        self.flows.clear()

    def go_on(self):
        self.flows.set()


class Side:
    """One of the two databases and the proxy before it."""

    def __init__(self, databases, direction_end, kind, schema):
        is_postgres = direction_end == "postgres"
        servers = {
            ("source", True): databases.pg_source,
            ("source", False): databases.maria_source,
            ("target", True): databases.pg_target,
            ("target", False): databases.maria_target,
        }
        self.server = servers[(kind, is_postgres)]
        self.database = databases.new(self.server, "torture") if is_postgres else self.server
        self.schema = schema
        self.kind = kind
        self.is_postgres = is_postgres
        self.proxy = Proxy(self.server.port)

    def table(self, name):
        return f"{self.database.quote(self.schema)}.{self.database.quote(name)}"

    def endpoint(self):
        return self.database.endpoint(self.kind) | {"Port": self.proxy.port}

    def rows(self, name):
        """All rows as text with the names of their columns, in one order."""
        with contextlib.closing(self.database.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {self.table(name)}")
            columns = [column for column, *_ in cursor.description]
            return sorted(repr(sorted(zip(columns, map(plain, row)))) for row in cursor.fetchall())


def plain(value):
    return bytes(value) if isinstance(value, (bytearray, memoryview)) else value


class Workload(threading.Thread):
    """Random transactions on the source, until it is told to stop. What each has done is in the table `ledger`, which
    the transaction itself fills: nobody knows better what was committed when the server is killed at a commit. Statements
    that define tables do not go with others into a transaction everywhere: of the tables that stay they are counted here,
    and apart from those of which the server was killed before it had answered."""

    def __init__(self, source, seed):
        super().__init__(daemon=True)
        self.source = source
        self.random = random.Random(seed)
        self.ended = threading.Event()
        self.number = 0
        self.defined, self.maybe_defined = collections.Counter(), collections.Counter()
        self.failure = None

    def run(self):
        try:
            connection = None
            while not self.ended.is_set():
                try:
                    if connection is None:
                        connection = self.source.database.connect()
                        connection.cursor().execute("BEGIN")
                        connection.cursor().execute("ROLLBACK")
                    self.number += 1
                    if self.random.random() < 0.02:
                        self.define(connection.cursor())
                    else:
                        self.transaction(connection.cursor())
                    # What is lost in a fault is found by what comes after it, not by how much that is.
                    time.sleep(self.random.uniform(0, 2 * PAUSE_SECONDS))
                except Exception as error:
                    if not is_lost(error):
                        raise
                    connection = None
                    time.sleep(0.05)
        except BaseException as error:
            self.failure = error

    def transaction(self, cursor):
        counts = collections.Counter()
        cursor.execute("BEGIN")
        size = self.random.choice([1, 1, 2, 5, 20])
        for _ in range(size):
            self.change(cursor, counts)
        if self.random.random() < 0.01:
            self.many(cursor, counts)
        if self.random.random() < 0.1:
            cursor.execute("ROLLBACK")
            return
        cursor.execute(
            f"INSERT INTO {self.source.table('ledger')} VALUES (%s, %s)",
            (self.number, json.dumps({f"{table} {kind}": count for (table, kind), count in counts.items()})),
        )
        cursor.execute("COMMIT")

    def change(self, cursor, counts):
        choose = self.random
        key, number = choose.randrange(200), choose.randrange(100_000)
        text = choose.choice(["", "a", "it's \\ \"quoted\"\n", "größer 🦀", "x" * 300, None])
        table = choose.choice(KEYED)
        name = self.source.table(table)
        match choose.randrange(12):
            case 0 | 1 | 2:
                sql = f"INSERT INTO {name} VALUES (%s, %s, %s)"
                sql = sql + " ON CONFLICT DO NOTHING" if self.source.is_postgres else sql.replace("INSERT", "INSERT IGNORE")
                cursor.execute(sql, (key, text, number / 100))
                counts[(table, "Inserts")] += cursor.rowcount
            case 3 | 4:
                # A new number, or a server might see that nothing changes.
                cursor.execute(f"UPDATE {name} SET v = %s, n = n + 1 WHERE id = %s", (text, key))
                counts[(table, "Updates")] += cursor.rowcount
            case 5:
                cursor.execute(f"DELETE FROM {name} WHERE id = %s", (key,))
                counts[(table, "Deletes")] += cursor.rowcount
            case 6:
                # The key itself moves, out of the way of all others.
                new = 1_000_000 + self.number * 100 + choose.randrange(100)
                cursor.execute(f"SELECT count(*) FROM {name} WHERE id = %s", (new,))
                if cursor.fetchone()[0] == 0:
                    cursor.execute(f"UPDATE {name} SET id = %s WHERE id = %s", (new, key))
                    counts[(table, "Updates")] += cursor.rowcount
            case 7:
                two = self.source.table("two")
                cursor.execute(f"DELETE FROM {two} WHERE a = %s AND b = %s", (key % 20, str(key)))
                counts[("two", "Deletes")] += cursor.rowcount
                cursor.execute(f"INSERT INTO {two} VALUES (%s, %s, %s)", (key % 20, str(key), number))
                counts[("two", "Inserts")] += cursor.rowcount
            case 8:
                loose = self.source.table("loose")
                if choose.random() < 0.6:
                    cursor.execute(f"INSERT INTO {loose} VALUES (%s, %s), (%s, %s)", (key, text, key, text))
                    counts[("loose", "Inserts")] += 2
                else:
                    # All that are alike, since which of them does not matter.
                    cursor.execute(f"DELETE FROM {loose} WHERE a = %s", (key,))
                    counts[("loose", "Deletes")] += cursor.rowcount
            case 9:
                cursor.execute(f"INSERT INTO {self.source.table('log')} VALUES (%s, %s)", (number, text))
                counts[("log", "Inserts")] += 1
            case 10:
                self.change_shape(cursor, counts, key)
            case _:
                made = self.made(cursor)
                if made:
                    name = choose.choice(made)
                    if not name.endswith(COPIED):
                        cursor.execute(f"DELETE FROM {self.source.table(name)} WHERE id = %s", (key,))
                    cursor.execute(f"INSERT INTO {self.source.table(name)} VALUES (%s, %s)", (key, text))

    def change_shape(self, cursor, counts, key):
        name, choose = self.source.table("shape"), self.random
        columns = self.columns(cursor)
        value = lambda: str(choose.randrange(1000))
        if not columns or choose.random() < 0.6:
            cursor.execute(f"DELETE FROM {name} WHERE id = %s", (key,))
            counts[("shape", "Deletes")] += cursor.rowcount
            places = ", ".join(["%s"] * (len(columns) + 1))
            values = (key, *[value() for _ in columns])
            cursor.execute(f"INSERT INTO {name} ({', '.join(['id', *columns])}) VALUES ({places})", values)
            counts[("shape", "Inserts")] += 1
        else:
            # A new number, or a server might see that nothing changes.
            cursor.execute(f"UPDATE {name} SET {choose.choice(columns)} = %s, stamp = stamp + 1 WHERE id = %s", (value(), key))
            counts[("shape", "Updates")] += cursor.rowcount

    def columns(self, cursor):
        """Those of `shape` that come and go, as they are now: a server that was killed may not have told."""
        cursor.execute(f"SELECT * FROM {self.source.table('shape')} WHERE id = -1")
        return [name for name, *_ in cursor.description if name not in ("id", "stamp")]

    def type_of(self, cursor, column):
        cursor.execute(
            "SELECT data_type FROM information_schema.columns WHERE table_schema = %s AND table_name = 'shape' AND column_name = %s",
            (self.source.schema, column),
        )
        return cursor.fetchone()[0]

    def made(self, cursor):
        """The tables that came into being meanwhile."""
        cursor.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = %s AND table_name LIKE 'made%%'",
            (self.source.schema,),
        )
        return sorted(name for (name,) in cursor.fetchall())

    def define(self, cursor):
        """A statement that defines tables, in a transaction of its own."""
        choose, table = self.random, self.source.table
        columns, made = self.columns(cursor), self.made(cursor)
        new = f"c{self.number}"
        statements = ["TRUNCATE k3"]
        if len(columns) < COLUMNS_MAX:
            statements += [f"ADD COLUMN {new} {kind}" for kind in ("integer", "varchar(20)", "bigint")]
        if columns:
            column = choose.choice(columns)
            retype = f"ALTER COLUMN {column} TYPE text" if self.source.is_postgres else f"MODIFY {column} longtext"
            statements += [f"DROP COLUMN {column}", f"RENAME COLUMN {column} TO {new}"]
            # What changes nothing is not told.
            statements += [retype] if self.type_of(cursor, column) not in ("text", "longtext") else []
        if len(made) < MADE_MAX:
            statements += ["CREATE"] * 2
        if made:
            statements += ["RENAME", "DROP"]
        statement = choose.choice(statements)
        name = None
        match statement.split()[0]:
            case "TRUNCATE":
                name = "k3"
                statement = f"TRUNCATE {table(name)}"
            case "CREATE":
                copied, columns = choose.choice(
                    [("", "(id integer PRIMARY KEY, v text)"), (COPIED, f"AS SELECT id, v FROM {table('k1')}")]
                )
                statement = f"CREATE TABLE {table(f'made{self.number}{copied}')} {columns}"
            case "RENAME" if statement == "RENAME":
                old = choose.choice(made)
                new = f"made{self.number}{COPIED if old.endswith(COPIED) else ''}"
                statement = f"ALTER TABLE {table(old)} RENAME TO {new if self.source.is_postgres else table(new)}"
            case "DROP" if statement == "DROP":
                statement = f"DROP TABLE {table(choose.choice(made))}"
            case _:
                name = "shape"
                statement = f"ALTER TABLE {table(name)} {statement}"
        self.maybe_defined[name] += 1
        cursor.execute(statement)
        self.maybe_defined[name] -= 1
        self.defined[name] += 1

    def many(self, cursor, counts):
        """A transaction of some thousand rows."""
        log, count = self.source.table("log"), self.random.randrange(1000, 6000)
        numbers = f"generate_series(1, {count}) AS n" if self.source.is_postgres else f"seq_1_to_{count}"
        cursor.execute(f"INSERT INTO {log} SELECT {'n' if self.source.is_postgres else 'seq'}, 'many' FROM {numbers}")
        counts[("log", "Inserts")] += count

    def finish(self):
        self.ended.set()
        self.join(60)
        if self.failure is not None:
            raise self.failure

    def committed(self):
        """What the source has committed, by table and kind, as it says itself."""
        totals = collections.Counter()
        rows = self.source.database.execute(f"SELECT id, counts FROM {self.source.table('ledger')}")
        for _, text in rows:
            for what, count in json.loads(text).items():
                totals[tuple(what.split(" "))] += count
        totals[("ledger", "Inserts")] = len(rows)
        return totals


def is_lost(error):
    name = f"{type(error).__module__}.{type(error).__name__}"
    return name in (
        "psycopg.OperationalError",
        "psycopg.errors.AdminShutdown",
        "psycopg.errors.CrashShutdown",
        "psycopg.errors.CannotConnectNow",
        "pymysql.err.OperationalError",
        "pymysql.err.InterfaceError",
    ) or isinstance(error, (ConnectionError, OSError))


class Torture:
    def __init__(self, databases, server, client, direction, seed, recovery_table=True, say=lambda text: None):
        self.say = say
        self.random = random.Random(seed)
        self.dms = server
        self.client = client
        self.recovery_table = recovery_table
        self.batch = self.random.choice([False, True])
        self.say(f"batch apply: {self.batch}")
        self.large_rows = 0
        schema = unique("torture").replace("-", "_")
        source, target = direction.split("-")
        self.source = Side(databases, source, "source", schema)
        self.target = Side(databases, target, "target", schema)
        self.tables = TABLES if recovery_table else [table for table in TABLES if table not in ("loose", "log")]
        self.create_tables()
        self.workload = Workload(self.source, seed)
        # How many of its definitions may have been before the load.
        self.defined_before = None
        self.task = self.create()

    def create_tables(self):
        name, database = self.source.table, self.source.database
        kind = "SCHEMA" if self.source.is_postgres else "DATABASE"
        database.execute(f"CREATE {kind} {database.quote(self.source.schema)}")
        text = "text" if self.source.is_postgres else "longtext"
        for table in KEYED:
            database.execute(f"CREATE TABLE {name(table)} (id integer PRIMARY KEY, v {text}, n numeric(12, 2))")
            database.execute(f"INSERT INTO {name(table)} VALUES (1, 'first', 1.5), (2, NULL, 0)")
        database.execute(f"CREATE TABLE {name('two')} (a integer, b varchar(20), c bigint, PRIMARY KEY (b, a))")
        database.execute(f"CREATE TABLE {name('loose')} (a integer, b {text})")
        database.execute(f"CREATE TABLE {name('log')} (a integer, b {text})")
        database.execute(f"CREATE TABLE {name('ledger')} (id bigint PRIMARY KEY, counts {text})")
        database.execute(f"CREATE TABLE {name('shape')} (id integer PRIMARY KEY, stamp integer DEFAULT 0)")
        if self.source.is_postgres:
            database.execute(f"ALTER TABLE {name('loose')} REPLICA IDENTITY FULL")

    def create(self):
        instance = create_replication_instance(self.client)["ReplicationInstanceArn"]
        source = create_endpoint(self.client, instance, **self.source.endpoint())
        target = create_endpoint(self.client, instance, **self.target.endpoint())
        retry = {"RecoverableErrorInterval": 1, "RecoverableErrorThrottling": False, "RecoverableErrorCount": -1}
        settings = {
            "ErrorBehavior": retry,
            "TargetMetadata": {"TaskRecoveryTableEnabled": self.recovery_table, "BatchApplyEnabled": self.batch},
            "ChangeProcessingTuning": {
                "MinTransactionSize": self.random.choice([1, 50, 1000]),
                # In MB; so little that what waits goes to disk.
                "MemoryLimitTotal": self.random.choice([0, 1]),
            },
        }
        mappings = include(self.source.schema)
        for number, table in enumerate(sorted(set(TABLES) - set(self.tables)), 2):
            locator = {"schema-name": self.source.schema, "table-name": table}
            rule = {"rule-type": "selection", "rule-id": str(number), "rule-name": str(number), "rule-action": "exclude"}
            mappings["rules"].append(rule | {"object-locator": locator})
        return create_task(
            self.client, instance, source, target, mappings, settings, MigrationType="full-load-and-cdc"
        )

    # --- faults ---

    def kill_dms(self):
        self.dms.kill9()
        self.dms.start()

    def kill_source(self):
        self.source.server.kill9()
        self.source.server.start()

    def kill_target(self):
        self.target.server.kill9()
        self.target.server.start()

    def cut_source(self):
        self.source.proxy.cut()

    def cut_target(self):
        self.target.proxy.cut()

    def cut_both_and_kill(self):
        self.source.proxy.cut()
        self.target.proxy.cut()
        self.kill_dms()

    def hold_target(self):
        self.target.proxy.hold()
        time.sleep(self.random.uniform(0.2, 1.5))
        self.target.proxy.go_on()

    def hold_target_and_kill(self):
        self.target.proxy.hold()
        time.sleep(self.random.uniform(0.2, 1.0))
        self.dms.kill9()
        self.target.proxy.cut()
        self.target.proxy.go_on()
        self.dms.start()

    def refuse_writes(self):
        database = self.target.database
        if database.is_postgres:
            name = database.quote(database.database)
            database.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            self.target.proxy.cut()
            time.sleep(self.random.uniform(0.2, 1.5))
            database.execute(
                "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
                f"ALTER DATABASE {name} RESET default_transaction_read_only",
            )
        else:
            connection = database.connect()
            with contextlib.closing(connection), connection.cursor() as cursor:
                cursor.execute("FLUSH TABLES WITH READ LOCK")
                time.sleep(self.random.uniform(0.2, 1.5))
        self.target.proxy.cut()

    def fill_disk(self):
        """The folder for what waits cannot be made, and the target stands still while the source writes more than fits in
        memory."""
        self.stop()
        spool = pathlib.Path(self.dms.data_dir) / "spool"
        shutil.rmtree(spool, ignore_errors=True)
        spool.write_text("")
        self.task.start("resume-processing")
        wait_until(lambda: self.metric("CDCRowsTarget_total") > 0, "changes are applied again", 60)
        paused, resumed = "Reading paused, disk usage limit reached.", "Reading resumed."
        times_paused, times_resumed = self.events(paused), self.events(resumed)
        for _ in range(6):
            self.target.proxy.hold()
            # Not so long that the target would be taken for lost.
            held_until = time.monotonic() + 5
            while self.events(paused) == times_paused and time.monotonic() < held_until:
                self.write_large_rows()
                time.sleep(0.5)
            if self.events(paused) > times_paused:
                break
            # Nothing was to be applied, maybe because a new table had to be loaded first.
            self.target.proxy.go_on()
            time.sleep(1)
        else:
            raise AssertionError("the full disk was not noticed")
        spool.unlink()
        self.target.proxy.go_on()
        wait_until(lambda: self.events(resumed) > times_resumed, "reading is resumed", 60)

    def write_large_rows(self):
        """Some MB in rows of the ledger that tell of no changes, each smaller than a LOB may be."""
        first, last = self.large_rows + 1, self.large_rows + 100
        self.large_rows = last
        numbers = f"generate_series({first}, {last}) AS seq" if self.source.is_postgres else f"seq_{first}_to_{last}"
        ledger = self.source.table("ledger")
        self.source.database.execute(f"INSERT INTO {ledger} SELECT -seq, rpad('{{}}', 30000) FROM {numbers}")

    def events(self, message):
        """How often the task has told this."""
        pages = self.client.get_paginator("describe_events").paginate(SourceType="replication-task", Duration=60)
        return [event["Message"] for page in pages for event in page["Events"]].count(message)

    def metric(self, name):
        """0 before the task runs."""
        with urllib.request.urlopen(f"{self.dms.url}/_dms-local/metrics", timeout=10) as answer:
            text = answer.read().decode()
        told = re.search(rf'^{name}{{.*ReplicationTaskArn="{self.task.arn}"}} (\S+)$', text, re.MULTILINE)
        return float(told[1]) if told else 0

    def stop(self):
        self.wait_until_it_runs()
        self.task.stop()
        wait_until(lambda: self.task.status in ("stopped", "failed"), "the task has stopped", 30)

    def stop_and_resume(self):
        self.stop()
        self.task.start("resume-processing")

    FAULTS = [
        (kill_dms, 8),
        (cut_source, 3),
        (cut_target, 3),
        (cut_both_and_kill, 2),
        (hold_target, 1),
        (hold_target_and_kill, 2),
        (kill_source, 2),
        (kill_target, 2),
        (refuse_writes, 1),
        (fill_disk, 1),
        (stop_and_resume, 1),
    ]

    # --- the whole ---

    def wait_until_it_runs(self):
        def runs():
            task = self.task.describe()
            if task["Status"] in ("failed", "stopped"):
                raise AssertionError(f"the task has ended: {task.get('StopReason')}")
            return task["Status"] == "running"

        wait_until(runs, "the task runs", 60)

    def run(self, kills):
        """Ends after so many kills of servers and what comes between them, but not before each fault has come once."""
        self.workload.start()
        self.task.start()
        self.wait_until_it_runs()
        faults = killed = 0
        every, weights = zip(*self.FAULTS)
        to_come = self.random.sample(every, len(every))
        while to_come or killed < kills:
            time.sleep(self.random.uniform(0.05, 1.2))
            (fault,) = [to_come.pop()] if to_come else self.random.choices(every, weights)
            faults += 1
            killed += "kill" in fault.__name__
            self.look_for_load()
            self.say(f"{killed}/{kills} {fault.__name__}, {self.workload.number} transactions")
            fault(self)
            if self.workload.failure is not None:
                raise self.workload.failure
            self.wait_until_it_runs()
        self.workload.finish()
        self.check(kills)
        self.say(f"{faults} faults, {killed} of them kills, {self.workload.number} transactions: nothing lost or doubled")

    def look_for_load(self):
        if self.defined_before is None:
            statistics = self.task.statistics()
            states = [statistics.get((self.source.schema, table), {}).get("TableState") for table in DEFINED]
            if states == ["Table completed"] * len(DEFINED):
                self.defined_before = self.workload.defined + self.workload.maybe_defined

    def check(self, kills):
        deadline = time.monotonic() + CATCH_UP_SECONDS + 2 * kills
        with contextlib.closing(self.source.database.connect()) as connection:
            tables = {*self.tables, *self.workload.made(connection.cursor())}
        differing = sorted(tables)
        while differing:
            differing = [table for table in differing if not self.is_equal(table)]
            if differing and time.monotonic() > deadline:
                raise AssertionError(f"{differing} differ: {self.differences(differing[0])}")
            if differing:
                time.sleep(0.2)
        expected = {key: count for key, count in self.workload.committed().items() if key[0] in self.tables and count}
        loaded = {}

        def told():
            counts, applied = {}, {}
            for (_, table), row in self.task.statistics().items():
                if table not in tables:
                    # It went, maybe before it was loaded: then its changes were not needed.
                    continue
                loaded[table] = row["FullLoadRows"]
                for kind in KINDS:
                    if row[kind]:
                        counts[(table, kind)] = row[kind]
                    if row["Applied" + kind]:
                        applied[(table, kind)] = row["Applied" + kind]
            return counts, applied

        # What committed before the load began is in the load.
        def exact():
            counts, applied = told()
            return counts == applied and all(counts.get(key, 0) <= count for key, count in expected.items())

        wait_until(exact, f"the statistics are exact: expected {expected}, told {told()}", 30)
        exceptions = [row for row in self.exceptions() if row[0] == self.task.arn.rsplit(":", 1)[1]]
        assert not exceptions, f"changes were not applied: {exceptions}"
        told_exactly = lambda: all(applied == told and least <= told <= most for told, applied, least, most in self.definitions())
        wait_until(told_exactly, f"definitions are told exactly: {list(self.definitions())}", 30)
        self.say(f"definitions of {DEFINED}: {list(self.definitions())}")
        counts, _ = told()
        # Of a table of inserts alone, each row was loaded or inserted.
        assert counts.get(("ledger", "Inserts"), 0) + loaded["ledger"] == expected[("ledger", "Inserts")]

    def definitions(self):
        """Of each table: how many definitions are captured, applied, and were there at least and at most."""
        statistics, workload = self.task.statistics(), self.workload
        # Where no look has found the load done, all may have been before it.
        before = workload.defined if self.defined_before is None else self.defined_before
        for table in DEFINED:
            row, sure = statistics[(self.source.schema, table)], workload.defined[table]
            yield row["Ddls"], row["AppliedDdls"], sure - before[table], sure + workload.maybe_defined[table]

    def exceptions(self):
        schema = "public" if self.target.is_postgres else "awsdms_control"
        return self.target.database.execute(f"SELECT * FROM {schema}.awsdms_apply_exceptions")

    def is_equal(self, table):
        try:
            return self.source.rows(table) == self.target.rows(table)
        except Exception as error:
            self.say(f"{table} cannot be compared: {error}")
            return False

    def differences(self, table):
        source, target = map(collections.Counter, (self.source.rows(table), self.target.rows(table)))
        return {"only on source": list(source - target)[:5], "only on target": list(target - source)[:5]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--direction", default="postgres-postgres")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--no-recovery-table", action="store_true")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"{arguments.direction}, seed {seed}", flush=True)
    import boto3

    folder = _folder("dms-local-torture-")
    server = Server(folder)
    try:
        with temporary_sandbox(postgres=2, mariadb=2) as sandbox:
            server.start()
            client = boto3.client(
                "dms",
                endpoint_url=server.url,
                region_name="us-east-1",
                aws_access_key_id="test",
                aws_secret_access_key="test",
            )
            torture = Torture(
                Databases(sandbox),
                server,
                client,
                arguments.direction,
                seed,
                not arguments.no_recovery_table,
                lambda text: print(text, flush=True),
            )
            torture.run(arguments.kills)
    finally:
        if server.running():
            server.kill9()
        print("kept for a look:" if sys.exc_info()[0] else "", folder if sys.exc_info()[0] else "")
        if not sys.exc_info()[0]:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
