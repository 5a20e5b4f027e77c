"""Changes of a source's log against the databases' own replication, and the time that one of them takes.

A backlog is made while nobody reads it: transactions of inserts and updates, half of each. Then a replica works it off,
and the time counts from its start until its table has the last transaction. The contenders of one direction work off the
same backlog in turns. PostgreSQL's own is a subscription, MariaDB's own a replica.
"""

import statistics
import sys
import threading
import time

from databases import new_database
from report import verdict

# Rows that are there before, for the updates.
BASE = 100_000

COLUMNS = "id bigint NOT NULL PRIMARY KEY, a integer NOT NULL, b varchar(60) NOT NULL, c numeric(12, 2) NOT NULL, d bigint NOT NULL"

# Transactions and rows in each.
BACKLOGS = {"20,000 of 20": (20_000, 20), "100,000 of 2": (100_000, 2)}

# The least that dms-local must reach, as a multiple of the native replication that it is measured against.
MUST_BE = {
    ("postgres-postgres", False): 1.0,
    ("postgres-postgres", True): 2.0,
    ("mariadb-postgres", False): 1.0,
    ("mariadb-postgres", True): None,
    ("postgres-mariadb", False): 0.3,
    ("postgres-mariadb", True): 0.6,
    ("mariadb-mariadb", False): 0.3,
    ("mariadb-mariadb", True): 0.6,
}

WORK_POSTGRES = """
CREATE OR REPLACE PROCEDURE work(first bigint, transactions int, size int) LANGUAGE plpgsql AS $$
DECLARE t int; i int; next bigint := first;
BEGIN
    FOR t IN 1..transactions LOOP
        FOR i IN 1..size / 2 LOOP
            INSERT INTO changes VALUES (next, t, 'row ' || next || ' of transaction ' || t, i + 0.25, next);
            UPDATE changes SET a = a + 1, b = 'updated by ' || t, d = next WHERE id = (next * 7919) % 100000 + 1;
            next := next + 1;
        END LOOP;
        COMMIT;
    END LOOP;
END $$
"""

WORK_MARIADB = """
CREATE OR REPLACE PROCEDURE work(first bigint, transactions int, size int)
BEGIN
    DECLARE t int DEFAULT 1; DECLARE i int; DECLARE next bigint DEFAULT first;
    WHILE t <= transactions DO
        START TRANSACTION;
        SET i = 1;
        WHILE i <= size DIV 2 DO
            INSERT INTO changes VALUES (next, t, CONCAT('row ', next, ' of transaction ', t), i + 0.25, next);
            UPDATE changes SET a = a + 1, b = CONCAT('updated by ', t), d = next WHERE id = (next * 7919) % 100000 + 1;
            SET next = next + 1, i = i + 1;
        END WHILE;
        COMMIT;
        SET t = t + 1;
    END WHILE;
END
"""


class Source:
    """A source with the table, and what makes its backlogs."""

    def __init__(self, server):
        self.server = server
        self.next = 1_000_000
        new_database(server, "bench")
        server.sql(f"CREATE TABLE changes ({COLUMNS})", "bench")
        rows = f"n, 0, 'base', 1.5, 0 FROM generate_series(1, {BASE}) n" if server.is_postgres else f"seq, 0, 'base', 1.5, 0 FROM seq_1_to_{BASE}"
        server.sql(f"INSERT INTO changes SELECT {rows}", "bench")
        # Not by MariaDB's client, which would cut the procedure at its semicolons.
        connection = server.connect("bench")
        with connection, connection.cursor() as cursor:
            cursor.execute(WORK_POSTGRES if server.is_postgres else WORK_MARIADB)

    def work(self, transactions, size):
        """Makes a backlog and a last row; returns that row's number."""
        self.server.sql(f"CALL work({self.next}, {transactions}, {size})", "bench")
        self.next += transactions * (size // 2)
        last = self.next
        self.next += 1
        self.server.sql(f"INSERT INTO changes VALUES ({last}, 0, 'last', 0, 0)", "bench")
        return last


def wait_for(target, schema, last, seconds=300, name="changes"):
    """Returns when the target has the row."""
    table = f"{schema}.{name}"
    deadline = time.monotonic() + seconds
    connection = target.connect("bench" if target.is_postgres else schema)
    with connection, connection.cursor() as cursor:
        while True:
            cursor.execute(f"SELECT count(*) FROM {table} WHERE id = {last}")
            if cursor.fetchone()[0]:
                return
            if time.monotonic() > deadline:
                sys.exit(f"row {last} did not arrive in {seconds} s")
            time.sleep(0.005)


class Ours:
    """A task that is stopped while the backlog is made."""

    def __init__(self, bench, source, target, batch, tables=("changes",)):
        self.server, self.target = bench.dms_local, target
        self.name = "dms-local, batch" if batch else "dms-local"
        self.schema = "public" if source.server.is_postgres else "bench"
        self.schema_there = "dms_batch" if batch else "dms_single"
        settings = {"TargetMetadata": {"BatchApplyEnabled": batch, "TargetSchema": self.schema_there}}
        self.task = self.server.follow(source.server, target, self.schema, list(tables), settings)
        self.server.wait_for_load(self.task)
        self.server.stop_task(self.task)

    def work_off(self, last):
        started = time.monotonic()
        self.server.resume(self.task)
        wait_for(self.target, self.schema_there, last)
        seconds = time.monotonic() - started
        self.server.stop_task(self.task)
        return seconds

    def end(self):
        self.server.delete_task(self.task)


class Subscription:
    """PostgreSQL's own logical replication."""

    name = "subscription"
    schema_there = "public"

    def __init__(self, source, target):
        self.source, self.target = source.server, target
        database = "native"
        new_database(target, database)
        target.sql(f"CREATE TABLE changes ({COLUMNS})", database)
        self.database = database
        source.server.sql("DROP PUBLICATION IF EXISTS bench", "bench")
        source.server.sql("CREATE PUBLICATION bench FOR TABLE changes", "bench")
        link = f"host={source.server.host} port={source.server.port} user={source.server.user} password={source.server.password} dbname=bench"
        target.sql(f"CREATE SUBSCRIPTION bench CONNECTION '{link}' PUBLICATION bench", database)
        while target.sql("SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'", database) != "0":
            time.sleep(0.05)
        target.sql("ALTER SUBSCRIPTION bench DISABLE", database)

    def work_off(self, last):
        started = time.monotonic()
        self.target.sql("ALTER SUBSCRIPTION bench ENABLE", self.database)
        wait_for_in(self.target, self.database, last)
        seconds = time.monotonic() - started
        self.target.sql("ALTER SUBSCRIPTION bench DISABLE", self.database)
        return seconds

    def end(self):
        self.target.sql("DROP SUBSCRIPTION bench", self.database)
        self.source.sql("DROP PUBLICATION bench", "bench")


def wait_for_in(target, database, last):
    connection = target.connect(database)
    with connection, connection.cursor() as cursor:
        while True:
            cursor.execute(f"SELECT count(*) FROM changes WHERE id = {last}")
            if cursor.fetchone()[0]:
                return
            time.sleep(0.005)


class Replica:
    """MariaDB's own replication, of the database of the benchmark alone."""

    name = "replica"

    def __init__(self, source, target):
        self.target = target
        target.sql("STOP SLAVE")
        target.sql("RESET SLAVE ALL")
        new_database(target, "bench")
        target.sql(f"CREATE TABLE changes ({COLUMNS})", "bench")
        rows = source.server.sql("SELECT * FROM changes", "bench")
        load(target, rows)
        file, position = source.server.sql("SHOW MASTER STATUS").split("\t")[:2]
        target.sql("SET GLOBAL replicate_do_db = 'bench'")
        target.sql(
            f"CHANGE MASTER TO MASTER_HOST='{source.server.host}', MASTER_PORT={source.server.port}, MASTER_USER='{source.server.user}',"
            f" MASTER_PASSWORD='{source.server.password}', MASTER_LOG_FILE='{file}', MASTER_LOG_POS={position}, MASTER_USE_GTID=no"
        )

    def work_off(self, last):
        started = time.monotonic()
        self.target.sql("START SLAVE")
        wait_for(self.target, "bench", last)
        seconds = time.monotonic() - started
        self.target.sql("STOP SLAVE")
        return seconds

    def end(self):
        self.target.sql("STOP SLAVE")
        self.target.sql("RESET SLAVE ALL")


def load(target, rows):
    connection = target.connect("bench")
    with connection, connection.cursor() as cursor:
        values = [tuple(line.split("\t")) for line in rows.splitlines()]
        cursor.executemany("INSERT INTO changes VALUES (%s, %s, %s, %s, %s)", values)
        connection.commit()


def contenders(bench, name, source, target, natives):
    ours = [Ours(bench, source, target, batch) for batch in (False, True)]
    if name == "postgres-postgres":
        return [*ours, Subscription(source, target)]
    if name == "mariadb-mariadb":
        return [*ours, Replica(source, target)]
    return ours


def measure(bench, arguments):
    sources, targets = bench.databases()
    bench.dms_local.start()
    # Rows a second by direction, backlog and contender.
    speeds = {}
    for direction in arguments.directions:
        source_engine, target_engine = direction.split("-")
        source, target = Source(sources[source_engine]), targets[target_engine]
        if target.is_postgres:
            new_database(target, "bench")
        running = contenders(bench, direction, source, target, speeds)
        for backlog, (transactions, size) in BACKLOGS.items():
            for number in range(arguments.runs):
                last = source.work(transactions, size)
                for contender in running:
                    seconds = contender.work_off(last)
                    speed = transactions * size / seconds
                    speeds.setdefault((direction, backlog, contender.name), []).append(speed)
                    bench.say(f"{direction:<18} {backlog:<12} {contender.name:<16} run {number + 1}: {speed:9,.0f} rows/s")
        for contender in running:
            contender.end()
    lines = report(speeds, arguments.directions)
    for direction in arguments.directions:
        lines += latency(bench, direction, sources, targets)
    bench.dms_local.stop()
    return lines


def report(speeds, directions):
    def speed(*key):
        return statistics.median(speeds[key]) if key in speeds else None

    lines = ["Backlogs of row changes, half inserts and half updates; rows a second, medians.", ""]
    lines += ["| direction | transactions | contender | rows/s | against | its rows/s | ratio | must be | |", "|---|---|---|---:|---|---:|---:|---:|---|"]
    for direction in directions:
        target = direction.split("-")[1]
        peer = ("postgres-postgres", "subscription") if target == "postgres" else ("mariadb-mariadb", "replica")
        for backlog in BACKLOGS:
            theirs = speed(peer[0], backlog, peer[1])
            for batch, name in ((False, "dms-local"), (True, "dms-local, batch")):
                ours = speed(direction, backlog, name)
                if ours is None:
                    continue
                bound = MUST_BE[direction, batch]
                cells = [direction, backlog, name, f"{ours:,.0f}", peer[1]]
                if theirs is None:
                    cells += ["not measured", "", "", ""]
                else:
                    ratio = ours / theirs
                    cells += [f"{theirs:,.0f}", f"{ratio:.2f}", f"≥ {bound:.2f}" if bound else "", verdict(ratio >= bound) if bound else ""]
                lines.append(f"| {' | '.join(cells)} |")
    return lines


# --- latency ---------------------------------------------------------------------------------------------------------

LATENCY_SECONDS = 20
RATE = 100


def latency(bench, direction, sources, targets):
    """The time from a commit on the source until another session sees it on the target, at 100 transactions a second."""
    source_engine, target_engine = direction.split("-")
    source, target = Source(sources[source_engine]), targets[target_engine]
    if target.is_postgres:
        new_database(target, "bench")
    ours = Ours(bench, source, target, False)
    bench.dms_local.resume(ours.task)
    committed, seen = {}, {}
    count = LATENCY_SECONDS * RATE
    first = source.next

    def look():
        connection = target.connect("bench" if target.is_postgres else ours.schema_there)
        with connection, connection.cursor() as cursor:
            last = first - 1
            while len(seen) < count:
                cursor.execute(f"SELECT id FROM {ours.schema_there}.changes WHERE id > {last} AND id < {first + count}")
                now = time.monotonic()
                for (number,) in cursor.fetchall():
                    seen[number] = now
                    last = max(last, number)

    wait_for(target, ours.schema_there, 1)
    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    connection = source.server.connect("bench")
    with connection, connection.cursor() as cursor:
        begun = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, begun + number / RATE - time.monotonic()))
            cursor.execute(f"INSERT INTO changes VALUES ({first + number}, 0, 'one', 0, 0)")
            committed[first + number] = time.monotonic()
    looking.join(60)
    source.next = first + count
    ours.server.stop_task(ours.task)
    ours.end()
    times = sorted((seen[number] - committed[number]) * 1000 for number in committed if number in seen)
    if len(times) < count:
        sys.exit(f"{direction}: {count - len(times)} of {count} rows did not arrive")
    median, late = times[count // 2], times[count * 99 // 100]
    verdicts = f"{verdict(median < 10)}, {verdict(late < 50)}"
    return [
        "",
        f"{direction}, {RATE} transactions of one row a second: from commit to visible {median:.1f} ms in the median (must be < 10)"
        f" and {late:.1f} ms for 99 of 100 (must be < 50): {verdicts}.",
    ]
