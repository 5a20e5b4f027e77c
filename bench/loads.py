"""Full loads of one table against the databases' own tools.

Every figure is the median of several runs. The contenders of one direction take turns, so that a machine that is busy
for a while is so for all of them, and what counts is the ratio. Each run starts without the target table, ends with the
primary key in place, and is checked for the number of rows and, once, for their sums.
"""

import re
import shutil
import statistics
import sys
import time

from databases import COLUMNS, PRIMARY_KEY, fill, new_database, run
from report import verdict

# What is summed up on both sides to see that the rows are the same.
CHECK = """
    SELECT COUNT(*), SUM(l_orderkey), SUM(l_partkey), SUM(l_linenumber), SUM(l_quantity), SUM(l_extendedprice),
           SUM(l_discount), SUM(l_tax), COUNT(DISTINCT l_returnflag), COUNT(DISTINCT l_linestatus), MIN(l_shipdate),
           MAX(l_receiptdate), SUM(LENGTH(RTRIM(l_shipinstruct))), SUM(LENGTH(RTRIM(l_shipmode))), SUM(LENGTH(l_comment))
    FROM {table}
"""

# The most that dms-local may take, as a multiple of a contender's time.
LIMITS = {
    ("postgres → postgres", "pipe"): 1.15,
    ("postgres → postgres", "pgcopydb"): 1.0,
    ("mariadb → postgres", "pipe"): 1.2,
    ("mariadb → postgres", "pgloader"): 0.4,
    ("postgres → mariadb", "pipe"): 1.2,
    ("mariadb → mariadb", "pipe"): 1.2,
}


class Direction:
    """A source, a target, and everything that copies from one to the other."""

    def __init__(self, source, target, server):
        self.source, self.target, self.server = source, target, server
        self.name = f"{source.engine} → {target.engine}"
        self.contenders = {"dms-local": self.dms_local, "pipe": self.pipe}
        if source.is_postgres and target.is_postgres:
            self.contenders["pgcopydb"] = self.pgcopydb
        if not source.is_postgres and target.is_postgres:
            self.contenders["pgloader"] = self.pgloader

    def prepare(self):
        """An empty database in the target, and nothing left to write of what went before."""
        new_database(self.target, "bench")
        self.schema = "public" if self.source.is_postgres else "bench"
        if self.target.is_postgres:
            self.target.sql("CHECKPOINT")

    def dms_local(self):
        return self.server.load(self.source, self.target, self.schema, ["lineitem"])

    def pipe(self):
        source, target = self.source.client("bench"), self.target.client("bench")
        self.target.sql(
            f"CREATE TABLE lineitem ({COLUMNS}{'' if self.target.is_postgres else ', ' + PRIMARY_KEY})", "bench"
        )
        binary = " (FORMAT binary)" if self.source.is_postgres and self.target.is_postgres else ""
        # mariadb -B writes NULL as this word; the table has none.
        if self.source.is_postgres:
            read = f'{source} -c "COPY lineitem TO STDOUT{binary}"'
        else:
            read = f'{source} --quick -N -B -e "SELECT * FROM lineitem"'
        if self.target.is_postgres:
            write = f'{target} -c "COPY lineitem FROM STDIN{binary}"'
        else:
            write = f"{target} -e \"LOAD DATA LOCAL INFILE '/dev/stdin' INTO TABLE lineitem\""
        return self.timed(
            f"PGPASSWORD={self.source.password} MYSQL_PWD={self.source.password} {read}"
            f" | PGPASSWORD={self.target.password} MYSQL_PWD={self.target.password} {write}",
            f"ALTER TABLE lineitem ADD {PRIMARY_KEY}" if self.target.is_postgres else None,
        )

    def timed(self, pipeline, then=None):
        started = time.monotonic()
        run(["bash", "-c", f"set -o pipefail; {pipeline}"])
        if then:
            self.target.sql(then, "bench")
        return time.monotonic() - started

    def pgcopydb(self):
        work = self.server.folder / "pgcopydb"
        shutil.rmtree(work, ignore_errors=True)
        command = [
            "pgcopydb",
            "clone",
            "--source",
            self.source.url("bench"),
            "--target",
            self.target.url("bench"),
            "--dir",
            str(work),
        ]
        started = time.monotonic()
        run(command)
        return time.monotonic() - started

    def pgloader(self):
        started = time.monotonic()
        run(["pgloader", self.source.url("bench"), self.target.url("bench")])
        return time.monotonic() - started

    def check(self, contender):
        """The rows that arrived are those of the source."""
        if self.target.is_postgres:
            schema = self.target.sql(
                "SELECT table_schema FROM information_schema.tables WHERE table_name = 'lineitem'", "bench"
            )
            table, database = f"{schema}.lineitem", "bench"
            keys = self.target.sql(
                "SELECT COUNT(*) FROM pg_index JOIN pg_class ON indrelid = pg_class.oid WHERE indisprimary AND relname = 'lineitem'",
                "bench",
            )
        else:
            schema = self.schema if contender == "dms-local" else "bench"
            table, database = f"{schema}.lineitem", None
            keys = self.target.sql(
                f"SELECT COUNT(*) FROM information_schema.table_constraints WHERE table_schema = '{schema}' AND table_name = 'lineitem'"
            )
        here = self.source.sql(CHECK.format(table="lineitem"), "bench")
        there = self.target.sql(CHECK.format(table=table), database)
        if numbers(here) != numbers(there) or keys != "1":
            sys.exit(f"{self.name}: {contender} did not copy the table:\n{here}\n{there}\nprimary keys: {keys}")

    def measure(self, runs, say):
        times = {name: [] for name in self.contenders}
        for number in range(runs):
            for name, contender in self.contenders.items():
                self.prepare()
                times[name].append(contender())
                say(f"{self.name:<22} {name:<10} run {number + 1}: {times[name][-1]:7.2f} s")
                if number == 0:
                    self.check(name)
                if not self.target.is_postgres:
                    self.target.sql(f"DROP DATABASE IF EXISTS {self.schema}")
        return times


def numbers(line):
    """A line of values without what the engines write differently, trailing zeros."""
    return [re.sub(r"\.?0+$", "", value) if "." in value else value for value in line.split("\t")]


def measure(bench, arguments):
    sources, targets = bench.databases()
    wanted = [name.split("-") for name in arguments.directions]
    for engine in sorted({source for source, _ in wanted}):
        bench.say(f"making {arguments.rows:,} rows in {engine}")
        fill(sources[engine], arguments.rows)
    bench.dms_local.start()
    results = {}
    for source, target in wanted:
        direction = Direction(sources[source], targets[target], bench.dms_local)
        results[direction.name] = direction.measure(arguments.runs, bench.say)
    memory = bench.dms_local.memory("VmHWM")
    bench.dms_local.stop()
    return [*report(arguments.rows, results), "", f"Highest memory of the server in all loads: {memory:.1f} MiB"]


def report(rows, results):
    lines = [f"{rows:,} rows of lineitem, whole task from start to stopped; medians.", ""]
    lines += ["| direction | dms-local | against | its time | ratio | must be | |", "|---|---:|---|---:|---:|---:|---|"]
    for direction, times in results.items():
        ours = statistics.median(times["dms-local"])
        for contender, theirs in times.items():
            if contender != "dms-local":
                its, limit = statistics.median(theirs), LIMITS[direction, contender]
                ratio = ours / its
                lines.append(
                    f"| {direction} | {ours:.2f} s | {contender} | {its:.2f} s"
                    f" | {ratio:.2f} | ≤ {limit:.2f} | {verdict(ratio <= limit)} |"
                )
    return lines
