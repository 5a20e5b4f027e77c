"""The server by itself: its start, its idle memory, its calls a second."""

import json
import os
import pathlib
import re
import shutil
import statistics
import sys

from databases import run
from dms_local import DmsLocal
from report import verdict


def measure(bench, arguments):
    """Start time, idle memory, and describe calls a second on one core with 1,000 endpoints."""
    runs, folder = arguments.runs, bench.folder / "api"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # One core for the server, another for the load.
    server = DmsLocal(bench.binary, folder, "taskset", "-c", "0")
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
    return report({name: statistics.median(values) for name, values in figures.items()} | {"peak": peak})


def calls_a_second(url, operation, body):
    environment = os.environ | {"DMS_OPERATION": operation, "DMS_BODY": json.dumps(body)}
    command = [
        "taskset",
        "-c",
        "1",
        "wrk",
        "-t1",
        "-c16",
        "-d10s",
        "-s",
        str(pathlib.Path(__file__).with_name("describe.lua")),
        url,
    ]
    output = run(command, env=environment)
    if "Non-2xx" in output or "Socket errors" in output:
        sys.exit(f"calls failed:\n{output}")
    return float(re.search(r"Requests/sec:\s+([\d.]+)", output).group(1))


def report(figures):
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
