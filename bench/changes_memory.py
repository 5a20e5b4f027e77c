"""The memory of the server while it follows a source: through one long transaction, and while the target stands still."""

import sys
import time

from changes import Ours, Source, wait_for
from databases import new_database
from report import verdict

LIMIT_MIB = 200

# Of the one transaction.
ROWS = 5_000_000

# How long the target stands still at least, and rows of 1,000 bytes that come meanwhile: more than the spool takes.
STANDSTILL_SECONDS = 120
WIDE_ROWS, WIDE_AT_ONCE = 1_300_000, 50_000


def numbers(server, first, last):
    return f"generate_series({first}, {last}) AS n" if server.is_postgres else f"(SELECT seq AS n FROM seq_{first}_to_{last}) AS s"


def long_transaction(bench, source, target):
    """One INSERT of many rows."""
    ours = Ours(bench, source, target, False)
    ours.server.resume(ours.task)
    ours.server.wait_for(ours.task, "running")
    bench.dms_local.forget_memory()
    began = time.monotonic()
    first, last = 1_000_000, 1_000_000 + ROWS - 1
    source.server.sql(f"INSERT INTO changes SELECT n, 0, 'long', 1, n FROM {numbers(source.server, first, last)}", "bench")
    wait_for(target, ours.schema_there, last, 1800)
    return ours, time.monotonic() - began


def standstill(bench, source, target):
    """The target's table is locked while the source works, until the spool is full and longer."""
    source.server.sql("CREATE TABLE wide (id bigint NOT NULL PRIMARY KEY, body varchar(1000) NOT NULL)", "bench")
    ours = Ours(bench, source, target, False, ["changes", "wide"])
    ours.server.resume(ours.task)
    ours.server.wait_for(ours.task, "running")
    bench.dms_local.forget_memory()
    began = time.monotonic()
    connection = target.connect("bench" if target.is_postgres else ours.schema_there)
    table = f"{ours.schema_there}.wide"
    with connection, connection.cursor() as cursor:
        for statement in ("BEGIN", f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE") if target.is_postgres else (f"LOCK TABLES {table} WRITE",):
            cursor.execute(statement)
        for first in range(1, WIDE_ROWS, WIDE_AT_ONCE):
            rows = numbers(source.server, first, first + WIDE_AT_ONCE - 1)
            source.server.sql(f"INSERT INTO wide SELECT n, REPEAT('x', 1000) FROM {rows}", "bench")
        while not paused(ours) or time.monotonic() - began < STANDSTILL_SECONDS:
            if time.monotonic() - began > 1800:
                sys.exit("reading was not paused")
            time.sleep(1)
        cursor.execute("COMMIT" if target.is_postgres else "UNLOCK TABLES")
    wait_for(target, ours.schema_there, WIDE_ROWS, 1800, "wide")
    return ours, time.monotonic() - began


def paused(ours):
    events = ours.server.client.describe_events(SourceType="replication-task", Duration=60)["Events"]
    return any("paused" in event["Message"] for event in events)


CASES = [(f"one transaction of {ROWS:,} rows", long_transaction), (f"a target that stands still for {STANDSTILL_SECONDS} s", standstill)]


def measure(bench, arguments):
    sources, targets = bench.databases()
    lines = ["| direction | what | time | highest memory of the server | must be | |", "|---|---|---:|---:|---:|---|"]
    for direction in arguments.directions:
        source_engine, target_engine = direction.split("-")
        for what, case in CASES:
            source, target = Source(sources[source_engine]), targets[target_engine]
            if target.is_postgres:
                new_database(target, "bench")
            bench.dms_local.start()
            ours, seconds = case(bench, source, target)
            memory = bench.dms_local.memory("VmHWM")
            ours.server.stop_task(ours.task)
            ours.end()
            bench.dms_local.stop()
            bench.say(f"{direction:<18} {what:<40} {seconds:7.1f} s, {memory:.1f} MiB")
            reached = verdict(memory < LIMIT_MIB)
            lines.append(f"| {direction} | {what} | {seconds:.0f} s | {memory:.1f} MiB | < {LIMIT_MIB} MiB | {reached} |")
    return lines
