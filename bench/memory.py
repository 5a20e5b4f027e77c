"""The memory of the server while it loads a long table and a large object at the same time."""

import sys

from databases import fill, new_database
from loads import Direction
from report import verdict

LOB_BYTES = 100 * 1024 * 1024
LIMIT_MIB = 150

WHOLE_LOBS = {"SupportLobs": True, "FullLobMode": True, "LimitedSizeLobMode": False}


def fill_documents(server):
    """One row of 100 MiB."""
    body = f"REPEAT('0123456789abcdef', {LOB_BYTES // 16})"
    body, kind = (f"CONVERT_TO({body}, 'UTF8')", "bytea") if server.is_postgres else (body, "longblob")
    server.sql("DROP TABLE IF EXISTS documents", "bench")
    server.sql(f"CREATE TABLE documents (id integer PRIMARY KEY, body {kind})", "bench")
    server.sql(f"INSERT INTO documents SELECT 1, {body}", "bench")


def measure(bench, arguments):
    sources, targets = bench.databases()
    rows, server = arguments.memory_rows, bench.dms_local
    wanted = [name.split("-") for name in arguments.directions]
    for engine in sorted({source for source, _ in wanted}):
        bench.say(f"making {rows:,} rows and a document in {engine}")
        fill(sources[engine], rows)
        fill_documents(sources[engine])
    lines = [
        f"{rows:,} rows of lineitem and a LOB of {LOB_BYTES // 1024**2} MiB at once, full LOB mode.",
        "",
        "| direction | time | highest memory of the server | must be | |",
        "|---|---:|---:|---:|---|",
    ]
    for source, target in wanted:
        direction = Direction(sources[source], targets[target], server)
        direction.prepare()
        # A process of its own: what an earlier load has left is not counted.
        server.start()
        server.forget_memory()
        seconds = server.load(sources[source], targets[target], direction.schema, ["lineitem", "documents"], WHOLE_LOBS)
        memory = server.memory("VmHWM")
        server.stop()
        direction.check("dms-local")
        size = f"SELECT LENGTH(body) FROM {direction.schema}.documents"
        if targets[target].sql(size, "bench") != str(LOB_BYTES):
            sys.exit(f"{direction.name}: the LOB did not arrive")
        new_database(targets[target], "bench")
        if not targets[target].is_postgres:
            targets[target].sql(f"DROP DATABASE IF EXISTS {direction.schema}")
        bench.say(f"{direction.name:<22} {seconds:7.1f} s, {memory:.1f} MiB")
        reached = verdict(memory < LIMIT_MIB)
        lines.append(f"| {direction.name} | {seconds:.0f} s | {memory:.1f} MiB | < {LIMIT_MIB} MiB | {reached} |")
    return lines
