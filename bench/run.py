#!/usr/bin/env python3
"""Measures full loads against the databases' own tools, and the server itself. See docs/benchmarks.md.

Every figure is the median of several runs. The contenders of one direction take turns, so that a machine that is busy
for a while is so for all of them, and what counts is the ratio. Each run starts without the target table, ends with the
primary key in place, and is checked for the number of rows and, once, for their sum.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time

import boto3
import botocore.config

ROOT = pathlib.Path(__file__).resolve().parent.parent

# As in TPC-H, in words that both engines understand; about 140 bytes a row.
COLUMNS = """
    l_orderkey bigint NOT NULL, l_partkey bigint NOT NULL, l_suppkey bigint NOT NULL, l_linenumber integer NOT NULL,
    l_quantity numeric(15, 2) NOT NULL, l_extendedprice numeric(15, 2) NOT NULL, l_discount numeric(15, 2) NOT NULL,
    l_tax numeric(15, 2) NOT NULL, l_returnflag char(1) NOT NULL, l_linestatus char(1) NOT NULL, l_shipdate date NOT NULL,
    l_commitdate date NOT NULL, l_receiptdate date NOT NULL, l_shipinstruct char(25) NOT NULL, l_shipmode char(10) NOT NULL,
    l_comment varchar(44) NOT NULL
"""
PRIMARY_KEY = "PRIMARY KEY (l_orderkey, l_linenumber)"

# What is summed up on both sides to see that the rows are the same.
CHECK = """
    SELECT COUNT(*), SUM(l_orderkey), SUM(l_partkey), SUM(l_linenumber), SUM(l_quantity), SUM(l_extendedprice),
           SUM(l_discount), SUM(l_tax), COUNT(DISTINCT l_returnflag), COUNT(DISTINCT l_linestatus), MIN(l_shipdate),
           MAX(l_receiptdate), SUM(LENGTH(RTRIM(l_shipinstruct))), SUM(LENGTH(RTRIM(l_shipmode))), SUM(LENGTH(l_comment))
    FROM {table}
"""


def run(command, check=True, **options):
    """Runs a command without input and returns what it prints."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    if check and done.returncode != 0:
        sys.exit(f"{command} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


class Server:
    """One database server of the sandbox, used through its own client."""

    def __init__(self, fields):
        vars(self).update(fields)
        self.environment = os.environ | {"PGPASSWORD": self.password, "MYSQL_PWD": self.password}

    @property
    def is_postgres(self):
        return self.engine == "postgres"

    def client(self, database):
        """The client's command line, without the SQL."""
        if self.is_postgres:
            return f"psql -X -q -v ON_ERROR_STOP=1 -h {self.host} -p {self.port} -U {self.user} -d {database}"
        return f"mariadb --no-defaults --local-infile=1 -h {self.host} -P {self.port} -u {self.user} -D {database}"

    def sql(self, statement, database=None):
        flags = ["-At", "-F", "\t", "-c", statement] if self.is_postgres else ["-N", "-B", "-e", statement]
        return run([*self.client(database or self.database).split(), *flags], env=self.environment).strip()

    def url(self, database):
        scheme = "postgresql" if self.is_postgres else "mysql"
        return f"{scheme}://{self.user}:{self.password}@{self.host}:{self.port}/{database}"

    def endpoint(self, kind, database):
        endpoint = {
            "EndpointIdentifier": f"{kind}-{self.name}", "EndpointType": kind, "EngineName": self.engine, "ServerName": self.host,
            "Port": self.port, "Username": self.user, "Password": self.password,
        }  # fmt: skip
        return endpoint | ({"DatabaseName": database} if self.is_postgres else {})


# --- the table -------------------------------------------------------------------------------------------------------


def fill(server, rows):
    """Makes the source table in the database `bench` unless it is there with as many rows; the server makes the rows."""
    have = (
        server.sql("SELECT COUNT(*) FROM information_schema.tables WHERE table_name = 'lineitem'", "bench")
        if exists(server)
        else "0"
    )
    if have == "1" and server.sql("SELECT COUNT(*) FROM lineitem", "bench") == str(rows):
        return
    # From the row's number n by arithmetic, the same in both engines.
    n = "n" if server.is_postgres else "seq"
    date = "DATE '1992-01-01' + CAST({0} AS integer)" if server.is_postgres else "DATE '1992-01-01' + INTERVAL {0} DAY"
    quantity, price = f"1 + {n} * 7919 % 50", f"(90000 + {n} * 104729 % 10000000) / 100.0"
    ship = f"{n} * 31 % 2500"
    choose = "(ARRAY[{1}])[1 + {0}]" if server.is_postgres else "ELT(1 + {0}, {1})"
    select = ", ".join([
        f"1 + ({n} - 1) / 4" if server.is_postgres else f"1 + ({n} - 1) DIV 4",
        f"1 + {n} * 7907 % 600000", f"1 + {n} * 7901 % 30000", f"1 + ({n} - 1) % 4", quantity, price,
        f"{n} % 11 / 100.0", f"{n} % 9 / 100.0", choose.format(f"({n} % 3)", "'A', 'N', 'R'"), choose.format(f"({n} % 2)", "'F', 'O'"),
        date.format(f"({ship})"), date.format(f"({ship} + {n} % 60)"), date.format(f"({ship} + 1 + {n} % 30)"),
        choose.format(f"({n} % 4)", "'DELIVER IN PERSON', 'COLLECT COD', 'NONE', 'TAKE BACK RETURN'"),
        choose.format(f"({n} % 7)", "'REG AIR', 'AIR', 'RAIL', 'SHIP', 'TRUCK', 'MAIL', 'FOB'"),
        f"SUBSTR(CONCAT(MD5(CAST({n} AS char(20))), ' final deposits'), 1, CAST(10 + {n} % 35 AS {'integer' if server.is_postgres else 'signed'}))",
    ])  # fmt: skip
    numbers = (
        f"generate_series(1::bigint, {rows}) AS n"
        if server.is_postgres
        else f"(SELECT CAST(seq AS signed) AS seq FROM seq_1_to_{rows}) AS numbers"
    )
    new_database(server, "bench")
    if server.is_postgres:
        server.sql(f"CREATE TABLE lineitem ({COLUMNS})", "bench")
        server.sql(f"INSERT INTO lineitem SELECT {select} FROM {numbers}", "bench")
        server.sql(f"ALTER TABLE lineitem ADD {PRIMARY_KEY}", "bench")
        server.sql("VACUUM (ANALYZE, FREEZE) lineitem", "bench")
    else:
        server.sql(
            f"CREATE TABLE lineitem ({COLUMNS}, {PRIMARY_KEY}); SET sql_log_bin = 0; INSERT INTO lineitem SELECT {select} FROM {numbers}",
            "bench",
        )


def exists(server):
    names = "SELECT datname FROM pg_database" if server.is_postgres else "SHOW DATABASES"
    return "bench" in server.sql(names).split()


def new_database(server, name):
    server.sql(f"DROP DATABASE IF EXISTS {name}" + (" (FORCE)" if server.is_postgres else ""))
    server.sql(f"CREATE DATABASE {name}" + ("" if server.is_postgres else " CHARACTER SET utf8mb4"))


# --- the contenders --------------------------------------------------------------------------------------------------


class Direction:
    """A source, a target, and everything that copies from one to the other."""

    def __init__(self, source, target, server, rows):
        self.source, self.target, self.server, self.rows = source, target, server, rows
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
        return self.server.load(self.source, self.target, self.schema)

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
                say(f"  {self.name:<22} {name:<10} run {number + 1}: {times[name][-1]:7.2f} s")
                if number == 0:
                    self.check(name)
                if not self.target.is_postgres:
                    self.target.sql(f"DROP DATABASE IF EXISTS {self.schema}")
        return times


def numbers(line):
    """A line of values without what the engines write differently, trailing zeros."""
    return [re.sub(r"\.?0+$", "", value) if "." in value else value for value in line.split("\t")]


# --- dms-local -------------------------------------------------------------------------------------------------------


class DmsLocal:
    """The server under measurement."""

    def __init__(self, binary, folder, *prefix):
        self.binary, self.folder, self.prefix = binary, folder, prefix
        self.process = None
        self.task_number = 0
        self.endpoints = {}

    def start(self):
        """Returns the seconds from the start of the process to its URL."""
        command = [
            *self.prefix,
            self.binary,
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--data-dir",
            str(self.folder / "server"),
        ]
        with open(self.folder / "server.log", "ab") as log:
            started = time.monotonic()
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
            )
            line = self.process.stdout.readline()
            seconds = time.monotonic() - started
        found = re.search(r"http://\S+", line)
        if not found:
            sys.exit(f"the server did not start; see {self.folder}/server.log")
        self.url = found.group()
        self.client = boto3.client(
            "dms", endpoint_url=self.url, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test",
            config=botocore.config.Config(parameter_validation=False),
        )  # fmt: skip
        return seconds

    def stop(self):
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)
            self.process = None

    def memory(self, what):
        """VmRSS (now) or VmHWM (highest so far) in MiB."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{what}:\s+(\d+) kB", status).group(1)) / 1024

    def instance(self):
        if "instance" not in self.endpoints:
            created = self.client.create_replication_instance(
                ReplicationInstanceIdentifier="bench", ReplicationInstanceClass="dms.c5.large"
            )
            self.endpoints["instance"] = created["ReplicationInstance"]["ReplicationInstanceArn"]
            self.client.get_waiter("replication_instance_available").wait()
        return self.endpoints["instance"]

    def endpoint(self, kind, server):
        key = f"{kind}-{server.name}"
        if key not in self.endpoints:
            arn = self.client.create_endpoint(**server.endpoint(kind, "bench"))["Endpoint"]["EndpointArn"]
            self.client.test_connection(ReplicationInstanceArn=self.instance(), EndpointArn=arn)
            self.client.get_waiter("test_connection_succeeds").wait(
                Filters=[{"Name": "endpoint-arn", "Values": [arn]}], WaiterConfig={"Delay": 0.1, "MaxAttempts": 300}
            )
            self.endpoints[key] = arn
        return self.endpoints[key]

    def load(self, source, target, schema):
        """Seconds of a whole task, from the call that starts it to its status `stopped`. Settings are the default ones,
        but that a primary key in PostgreSQL is made after the load, as the pipe does it."""
        self.task_number += 1
        locator = {"schema-name": schema, "table-name": "lineitem"}
        rule = {
            "rule-type": "selection",
            "rule-id": "1",
            "rule-name": "1",
            "object-locator": locator,
            "rule-action": "include",
        }
        task = self.client.create_replication_task(
            ReplicationTaskIdentifier=f"bench-{self.task_number}", ReplicationInstanceArn=self.instance(),
            SourceEndpointArn=self.endpoint("source", source), TargetEndpointArn=self.endpoint("target", target),
            MigrationType="full-load", TableMappings=json.dumps({"rules": [rule]}),
            ReplicationTaskSettings=json.dumps({"FullLoadSettings": {"CreatePkAfterFullLoad": target.is_postgres}}),
        )["ReplicationTask"]["ReplicationTaskArn"]  # fmt: skip
        by_arn = [{"Name": "replication-task-arn", "Values": [task]}]
        self.client.get_waiter("replication_task_ready").wait(Filters=by_arn)
        started = time.monotonic()
        self.client.start_replication_task(ReplicationTaskArn=task, StartReplicationTaskType="start-replication")
        while True:
            described = self.client.describe_replication_tasks(Filters=by_arn, WithoutSettings=True)[
                "ReplicationTasks"
            ][0]
            if described["Status"] in ("stopped", "failed"):
                break
            time.sleep(0.05)
        seconds = time.monotonic() - started
        if described.get("StopReason") != "Stop Reason FULL_LOAD_ONLY_FINISHED":
            sys.exit(f"the task did not finish: {described.get('StopReason')}")
        return seconds


def measure_server(binary, folder, runs):
    """Start time, idle memory, and describe calls a second on one core with 1,000 endpoints."""
    folder = folder / "api"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # One core for the server, another for the load.
    server = DmsLocal(binary, folder, "taskset", "-c", "0")
    figures = {"start": [], "memory": [], "one": [], "page": []}
    for _ in range(5 * runs):
        figures["start"].append(server.start())
        server.stop()
    server.start()
    for number in range(1000):
        server.client.create_endpoint(
            EndpointIdentifier=f"endpoint-{number}", EndpointType="source", EngineName="postgres", ServerName="db.example.com",
            Port=5432, Username="user", Password="password", DatabaseName="db",
        )  # fmt: skip
    for _ in range(runs):
        server.stop()
        server.start()
        figures["memory"].append(server.memory("VmRSS"))
        one = {"Filters": [{"Name": "endpoint-id", "Values": ["endpoint-500"]}]}
        for name, body in [("one", one), ("page", {"MaxRecords": 100})]:
            figures[name].append(calls_a_second(server.url, "DescribeEndpoints", body))
    peak = server.memory("VmHWM")
    server.stop()
    return {name: statistics.median(values) for name, values in figures.items()} | {"peak": peak}


def calls_a_second(url, operation, body):
    environment = os.environ | {"DMS_OPERATION": operation, "DMS_BODY": json.dumps(body)}
    command = ["taskset", "-c", "1", "wrk", "-t1", "-c16", "-d10s", "-s", str(ROOT / "bench/describe.lua"), url]
    output = run(command, env=environment)
    if "Non-2xx" in output or "Socket errors" in output:
        sys.exit(f"calls failed:\n{output}")
    return float(re.search(r"Requests/sec:\s+([\d.]+)", output).group(1))


# --- the report ------------------------------------------------------------------------------------------------------

# The most that dms-local may take, as a multiple of a contender's time.
LIMITS = {
    ("postgres → postgres", "pipe"): 1.15,
    ("postgres → postgres", "pgcopydb"): 1.0,
    ("mariadb → postgres", "pipe"): 1.2,
    ("mariadb → postgres", "pgloader"): 0.4,
    ("postgres → mariadb", "pipe"): 1.2,
    ("mariadb → mariadb", "pipe"): 1.2,
}


def verdict(reached):
    return "reached" if reached else "MISSED"


def report_loads(rows, results):
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


def report_server(figures):
    rows = [
        ("start to URL", f"{figures['start'] * 1000:.0f} ms", "< 50 ms", figures["start"] < 0.05),
        ("idle memory", f"{figures['memory']:.1f} MiB", "< 25 MiB", figures["memory"] < 25),
        (
            "DescribeEndpoints of one by its identifier, of 1,000",
            f"{figures['one']:,.0f} calls/s",
            "≥ 2,000 calls/s",
            figures["one"] >= 2000,
        ),
        ("DescribeEndpoints, a page of 100 of 1,000", f"{figures['page']:,.0f} calls/s", "", None),
        ("highest memory in all of these", f"{figures['peak']:.1f} MiB", "", None),
    ]
    lines = ["The server on one core; medians.", "", "| | measured | must be | |", "|---|---:|---:|---|"]
    return lines + [
        f"| {what} | {value} | {limit} | {'' if ok is None else verdict(ok)} |" for what, value, limit, ok in rows
    ]


def machine():
    cpu = re.search(r"model name\s*:\s*(.+)", pathlib.Path("/proc/cpuinfo").read_text())
    commit = run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], check=False).strip() or "unknown"
    return f"{cpu.group(1) if cpu else platform.processor()}, {os.cpu_count()} cores; dms-local {commit}; {time.strftime('%Y-%m-%d')}"


def main():
    arguments = parse_arguments()
    run(["cargo", "build", "--release", "--quiet"], cwd=ROOT)
    binary = str(
        pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve() / "release" / "dms-local"
    )
    folder = pathlib.Path(arguments.dir or run([str(ROOT / "scripts/data_dir.sh"), "bench"]).strip())
    folder.mkdir(parents=True, exist_ok=True)
    sandbox = [binary, "sandbox", "{}", "--dir", str(folder / "sandbox")]
    lines = ["", machine()]
    server = DmsLocal(binary, folder)
    try:
        if "loads" in arguments.parts:
            started = json.loads(
                run([part.format("start") for part in sandbox] + ["--postgres", "2", "--mariadb", "2"])
            )
            servers = {fields["name"]: Server(fields) for fields in started["instances"]}
            lines.append(", ".join(sorted({f"{one.engine} {one.version}" for one in servers.values()})))
            sources = {"postgres": servers["postgres-1"], "mariadb": servers["mariadb-1"]}
            targets = {"postgres": servers["postgres-2"], "mariadb": servers["mariadb-2"]}
            wanted = [name.split("-") for name in arguments.directions]
            for engine in sorted({source for source, _ in wanted}):
                print(f"  making {arguments.rows:,} rows in {engine}", flush=True)
                fill(sources[engine], arguments.rows)
            shutil.rmtree(folder / "server", ignore_errors=True)
            server.start()
            results = {}
            for source, target in wanted:
                direction = Direction(sources[source], targets[target], server, arguments.rows)
                results[direction.name] = direction.measure(arguments.runs, lambda line: print(line, flush=True))
            lines += [
                "",
                *report_loads(arguments.rows, results),
                "",
                f"Highest memory of the server in all loads: {server.memory('VmHWM'):.1f} MiB",
            ]
            server.stop()
        if "server" in arguments.parts:
            print("  measuring the server", flush=True)
            lines += ["", *report_server(measure_server(binary, folder, arguments.runs))]
    finally:
        server.stop()
        run([part.format("stop") for part in sandbox] + ([] if arguments.keep else ["--delete"]), check=False)
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print("\n".join(lines))


def parse_arguments():
    directions = ["postgres-postgres", "mariadb-postgres", "postgres-mariadb", "mariadb-mariadb"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--runs", type=int, default=3, help="of each contender")
    parser.add_argument("--directions", nargs="+", choices=directions, default=directions)
    parser.add_argument("--parts", nargs="+", choices=["loads", "server"], default=["loads", "server"])
    parser.add_argument("--dir", help="where the databases keep their data")
    parser.add_argument("--keep", action="store_true", help="keep the source tables for the next run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
