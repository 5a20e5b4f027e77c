#!/usr/bin/env python3
"""Lets the workload change the source while a task of dms-local follows it, and shows on a line how far the task is.

    follow.py --source mariadb://user:password@host:port --target postgres://user:password@host:port/database \\
              [--schema shop] [--task demo] [--seconds 10]

Exit code 0 only if the row that was committed last has come to the target, and the task has captured and applied, table
by table, exactly what the workload has committed: nothing of what was rolled back, and no change twice.
"""

import argparse
import collections
import os
import re
import statistics
import sys
import time
import urllib.parse
import urllib.request

import boto3
import psycopg
import workload
from workload import KINDS, LAST_TABLE

# How often it is looked at the task, and a line printed where that cannot be written anew in its place.
LOOK_S = 0.1
PRINT_S = 2

# How long the last changes may take to come to the target, and what is there to be counted.
CATCH_UP_S = 120
COUNT_S = 20


class Task:
    """A running task of dms-local."""

    def __init__(self, identifier):
        self.identifier = identifier
        self.dms = boto3.client("dms")
        self.arn = self.describe()["ReplicationTaskArn"]
        # AWS has the latency in CloudWatch; dms-local has it here, under the same names.
        self.metrics_url = f"{self.dms.meta.endpoint_url}/_dms-local/metrics"

    def describe(self):
        filters = [{"Name": "replication-task-id", "Values": [self.identifier]}]
        return self.dms.describe_replication_tasks(Filters=filters, WithoutSettings=True)["ReplicationTasks"][0]

    def check(self):
        task = self.describe()
        if task["Status"] != "running":
            sys.exit(f"the task is {task['Status']}: {task.get('LastFailureMessage', task.get('StopReason'))}")

    def counts(self):
        """The changes captured and applied so far, each by table and kind."""
        captured, applied = collections.Counter(), collections.Counter()
        for page in self.dms.get_paginator("describe_table_statistics").paginate(ReplicationTaskArn=self.arn):
            for table in page["TableStatistics"]:
                for kind in KINDS:
                    captured[table["TableName"], kind] = table[kind]
                    applied[table["TableName"], kind] = table[f"Applied{kind}"]
        return captured, applied

    def latencies(self):
        """At the source and at the target, in seconds."""
        with urllib.request.urlopen(self.metrics_url, timeout=10) as answer:
            text = answer.read().decode()
        label = re.escape(f'ReplicationTaskIdentifier="{self.identifier}"')

        def metric(name):
            return float(re.search(rf"^{name}{{{label},.*}} (\S+)$", text, re.MULTILINE)[1])

        return metric("CDCLatencySource"), metric("CDCLatencyTarget")


class Line:
    """One line: written anew in its place on a terminal, printed now and then elsewhere."""

    def __init__(self):
        self.live = sys.stdout.isatty()
        self.printed = 0

    def show(self, text):
        if self.live:
            # Back to the beginning of the line, cut it at the width of the terminal, erase what was longer.
            columns = os.get_terminal_size(sys.stdout.fileno()).columns
            print("\r" + text[: columns - 1] + "\033[K", end="", flush=True)
        elif time.monotonic() - self.printed >= PRINT_S:
            self.printed = time.monotonic()
            print(text, flush=True)

    def end(self, text):
        self.printed = 0
        self.show(text)
        if self.live:
            print()


class Watch:
    """Looks at the task, again and again."""

    def __init__(self, task):
        self.task = task
        self.line = Line()
        self.started = time.monotonic()
        self.before = task.counts()
        self.latencies = []

    def look(self):
        self.task.check()
        self.latencies.append(self.task.latencies())
        captured, applied = self.counts()
        self.line.show(self.text(captured, applied))
        return captured, applied

    def counts(self):
        """What has changed since this watch began."""
        return tuple(now - before for now, before in zip(self.task.counts(), self.before, strict=True))

    def text(self, captured, applied):
        seconds, (source, target) = time.monotonic() - self.started, self.latencies[-1]
        names = zip(KINDS, ("inserts", "updates", "deletes", "DDL"), strict=True)
        counts = "  ".join(f"{name} {of(kind, applied):,}/{of(kind, captured):,}" for kind, name in names)
        return f"  {seconds:4.1f} s  latency {source:.2f}/{target:.2f} s  {counts}"


def of(kind, counts):
    return sum(count for (_, its_kind), count in counts.items() if its_kind == kind)


def wait_for_last_row(connection, schema, code, committed_at):
    """Waits until a row is on the target; returns how long after its commit it was there."""
    sql = f'SELECT 1 FROM "{schema}"."{LAST_TABLE}" WHERE code = %s'
    while True:
        try:
            there = connection.execute(sql, (code,)).fetchone()
        except psycopg.errors.UndefinedTable:
            there = None
        seconds = time.monotonic() - committed_at
        if there:
            return seconds
        if seconds > CATCH_UP_S:
            sys.exit(f"the row that was committed last has not come to the target in {CATCH_UP_S} s")
        time.sleep(0.001)


def wait_for_counts(watch, committed):
    """Waits until the task has counted what was committed; says what is not so in the end."""
    deadline = time.monotonic() + COUNT_S
    while True:
        captured, applied = watch.look()
        same = captured == committed == applied
        if same or time.monotonic() > deadline:
            break
        time.sleep(LOOK_S)
    watch.line.end(watch.text(captured, applied))
    for key in sorted(captured | applied | committed):
        counts = (committed[key], captured[key], applied[key])
        if len(set(counts)) > 1:
            print("  {}: {} {} committed, {} captured, {} applied".format(key[0], counts[0], key[1], *counts[1:]))
    return same


def main():
    arguments = parse_arguments()
    task = Task(arguments.task)
    source = urllib.parse.urlsplit(arguments.source)
    work = workload.Workload(source, arguments.schema, arguments.seconds, arguments.rate, arguments.seed)
    with psycopg.connect(arguments.target.replace("postgres://", "postgresql://", 1), autocommit=True) as target:
        print("  Latency at source/target, and changes applied/captured:")
        watch = Watch(task)
        work.start()
        while work.is_running():
            watch.look()
            time.sleep(LOOK_S)
        committed, last = work.finish()
        seconds = wait_for_last_row(target, arguments.schema, last, time.monotonic())
    latencies = [1000 * target for _, target in watch.latencies]
    same = wait_for_counts(watch, committed.changes)
    changes, tables = committed.changes.total(), {table for table, _ in committed.changes}
    print(
        f"  The workload committed {committed.transactions:,} transactions with {changes:,} changes"
        f" of {len(tables)} tables, and rolled back {committed.rolled_back:,}"
    )
    print(
        f"  Latency at the target: median {statistics.median(latencies):.1f} ms, at most {max(latencies):.0f} ms;"
        f" the last row was there {1000 * seconds:.0f} ms after its commit"
    )
    print("  The task has counted exactly these changes" if same else "  The task has NOT counted the same changes")
    return 0 if same else 1


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source, target = os.environ.get("MIGRATE_SOURCE"), os.environ.get("MIGRATE_TARGET")
    parser.add_argument("--source", default=source, required=not source, metavar="URL", help="or MIGRATE_SOURCE")
    parser.add_argument("--target", default=target, required=not target, metavar="URL", help="or MIGRATE_TARGET")
    parser.add_argument("--schema", default="shop")
    parser.add_argument("--task", default="demo", help="the identifier of the task")
    parser.add_argument("--seconds", type=float, default=10, help="how long the source changes")
    parser.add_argument("--rate", type=float, default=150, help="transactions a second")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
