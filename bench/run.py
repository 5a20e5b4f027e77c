#!/usr/bin/env python3
"""Measures full loads and changes against the databases' own means, memory, and the server itself. See docs/benchmarks.md."""

import argparse
import json
import os
import pathlib
import platform
import re
import shutil
import time

import changes
import changes_memory
import loads
import memory
import server as server_alone
from databases import DIRECTIONS, ENGINES, Server, run
from dms_local import DmsLocal

ROOT = pathlib.Path(__file__).resolve().parent.parent

# What can be measured: each takes the bench and the arguments and returns the lines of its report.
PARTS = {
    "loads": loads.measure,
    "changes": changes.measure,
    "changes-memory": changes_memory.measure,
    "memory": memory.measure,
    "server": server_alone.measure,
}


def machine():
    cpu = re.search(r"model name\s*:\s*(.+)", pathlib.Path("/proc/cpuinfo").read_text())
    commit = run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], check=False).strip() or "unknown"
    return f"{cpu.group(1) if cpu else platform.processor()}, {os.cpu_count()} cores; dms-local {commit}; {time.strftime('%Y-%m-%d')}"


class Bench:
    """What all parts share: the binary, a folder, and database servers that start when a part asks for them."""

    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        self.sandbox = [binary, "sandbox", "{}", "--dir", str(folder / "sandbox")]
        # What an earlier run has left of its own.
        shutil.rmtree(folder / "server", ignore_errors=True)
        self.dms_local = DmsLocal(binary, folder)
        self.servers = None

    def say(self, line):
        print(f"  {line}", flush=True)

    def databases(self):
        """Two servers of each engine: the sources and the targets by engine."""
        if self.servers is None:
            start = [part.format("start") for part in self.sandbox] + ["--postgres", "2", "--mariadb", "2"]
            started = json.loads(run(start))
            self.servers = {fields["name"]: Server(fields) for fields in started["instances"]}
        return tuple({engine: self.servers[f"{engine}-{number}"] for engine in ENGINES} for number in (1, 2))

    def versions(self):
        return ", ".join(sorted({f"{one.engine} {one.version}" for one in (self.servers or {}).values()}))

    def stop(self, keep):
        self.dms_local.stop()
        run([part.format("stop") for part in self.sandbox] + ([] if keep else ["--delete"]), check=False)
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def main():
    arguments = parse_arguments()
    run(["cargo", "build", "--release", "--quiet"], cwd=ROOT)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()
    folder = pathlib.Path(arguments.dir or run([str(ROOT / "scripts/data_dir.sh"), "bench"]).strip())
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(str(target / "release" / "dms-local"), folder)
    lines = []
    try:
        for part in arguments.parts:
            bench.say(f"measuring: {part}")
            lines += ["", *PARTS[part](bench, arguments)]
    finally:
        bench.stop(arguments.keep)
    print("\n".join(["", machine(), bench.versions(), *lines]))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--directions", nargs="+", choices=DIRECTIONS, default=DIRECTIONS)
    parser.add_argument("--rows", type=int, default=3_000_000, help="of the loads that are timed")
    parser.add_argument("--runs", type=int, default=3, help="of each contender")
    parser.add_argument("--memory-rows", type=int, default=20_000_000, help="of the loads whose memory is measured")
    parser.add_argument("--dir", help="where the databases keep their data")
    parser.add_argument("--keep", action="store_true", help="keep the source tables for the next run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
