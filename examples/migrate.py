#!/usr/bin/env python3
"""Migrates one schema with AWS Database Migration Service: an ordinary boto3 script.

    export AWS_ENDPOINT_URL_DATABASE_MIGRATION_SERVICE=http://127.0.0.1:4580   # the only line that is about dms-local
    export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_DEFAULT_REGION=us-east-1

    migrate.py --source mariadb://user:password@127.0.0.1:3306 \\
               --target postgres://user:password@127.0.0.1:5432/database --schema shop

Without the first line the same script runs against AWS (with subnets of your own in --subnets). The two databases can
also be given as MIGRATE_SOURCE and MIGRATE_TARGET, which keeps the passwords out of the list of processes.

With --migration-type full-load-and-cdc the task goes on after the load and applies to the target what changes on the
source. When nothing writes to the source any more, and what was written last has come to the target, this ends it:

    migrate.py --stop
"""

import argparse
import json
import os
import sys
import time
import urllib.parse

import boto3
from botocore.exceptions import WaiterError

# The default ports of the engines, by their names in DMS.
PORTS = {"mysql": 3306, "mariadb": 3306, "postgres": 5432}

# How long a task gets for what has changed before it is stopped.
CATCH_UP_SECONDS = 600


def main():
    arguments = parse_arguments()
    dms = boto3.client("dms")
    created = {}
    try:
        if arguments.stop:
            created = find_everything(dms, arguments.name)
            if "task" not in created:
                sys.exit(f"There is no replication task {arguments.name}")
            complete = stop(dms, created["task"])
        else:
            task_arn = create_everything(dms, arguments, created)
            complete = run(dms, task_arn)
    finally:
        if arguments.clean_up:
            delete_everything(dms, created)
    return 0 if complete else 1


def create_everything(dms, arguments, created):
    """Creates what a migration needs and returns the ARN of the task. Notes in `created` what there is to delete."""
    name = arguments.name

    # A replication instance is the machine that does the work. It lives in the subnets of a subnet group.
    print(f"Creating subnet group and replication instance {name}")
    group = dms.create_replication_subnet_group(
        ReplicationSubnetGroupIdentifier=name,
        ReplicationSubnetGroupDescription="Subnets for the example",
        SubnetIds=arguments.subnets,
    )["ReplicationSubnetGroup"]
    created["group"] = group["ReplicationSubnetGroupIdentifier"]

    instance = dms.create_replication_instance(
        ReplicationInstanceIdentifier=name,
        ReplicationInstanceClass="dms.t3.medium",
        AllocatedStorage=50,
        ReplicationSubnetGroupIdentifier=group["ReplicationSubnetGroupIdentifier"],
        PubliclyAccessible=False,
    )["ReplicationInstance"]
    created["instance"] = instance_arn = instance["ReplicationInstanceArn"]
    # Nearly everything in DMS takes its time. Waiters ask until it is done.
    dms.get_waiter("replication_instance_available").wait(Filters=by("replication-instance-arn", instance_arn))

    # An endpoint is a database and how to log in to it.
    print("Creating endpoints and testing their connections")
    endpoints = {}
    for kind, url in [("source", arguments.source), ("target", arguments.target)]:
        endpoint = dms.create_endpoint(EndpointIdentifier=f"{name}-{kind}", EndpointType=kind, **endpoint_of(url))
        created[kind] = endpoints[kind] = endpoint["Endpoint"]["EndpointArn"]
        # A task only starts when the instance has reached both of its databases.
        dms.test_connection(ReplicationInstanceArn=instance_arn, EndpointArn=endpoints[kind])
    for kind, arn in endpoints.items():
        wait_for_connection(dms, kind, arn)

    # The task says what to copy, and whether it is done then or goes on with what changes.
    print("Creating the replication task")
    task = dms.create_replication_task(
        ReplicationTaskIdentifier=name,
        ReplicationInstanceArn=instance_arn,
        SourceEndpointArn=endpoints["source"],
        TargetEndpointArn=endpoints["target"],
        MigrationType=arguments.migration_type,
        TableMappings=json.dumps(table_mappings(arguments.schema)),
        ReplicationTaskSettings=json.dumps(task_settings()),
    )["ReplicationTask"]
    created["task"] = task["ReplicationTaskArn"]
    dms.get_waiter("replication_task_ready").wait(Filters=by("replication-task-arn", created["task"]))
    return created["task"]


def table_mappings(schema):
    """All tables of the schema, under their own names."""
    rule = {
        "rule-type": "selection",
        "rule-id": "1",
        "rule-name": "all-tables",
        "object-locator": {"schema-name": schema, "table-name": "%"},
        "rule-action": "include",
    }
    return {"rules": [rule]}


def task_settings():
    """What differs from the defaults of DMS."""
    return {
        # Texts and binary values longer than LobMaxSize (in KB) are cut; the default of 32 KB is too short for ours.
        "TargetMetadata": {"SupportLobs": True, "LimitedSizeLobMode": True, "FullLobMode": False, "LobMaxSize": 1024},
        "FullLoadSettings": {"TargetTablePrepMode": "DROP_AND_CREATE", "MaxFullLoadSubTasks": 8},
        "Logging": {"EnableLogging": True},
    }


def wait_for_connection(dms, kind, endpoint_arn):
    """Waits until the test of a connection has succeeded; says why if it has not."""
    filters = by("endpoint-arn", endpoint_arn)
    try:
        dms.get_waiter("test_connection_succeeds").wait(Filters=filters)
    except WaiterError:
        connection = dms.describe_connections(Filters=filters)["Connections"][0]
        sys.exit(f"The {kind} cannot be reached: {connection.get('LastFailureMessage', connection['Status'])}")
    print(f"  {kind}: successful")


def run(dms, task_arn):
    """Starts the task, shows how the load goes, prints what became of each table and returns whether all is there."""
    filters = by("replication-task-arn", task_arn)
    dms.start_replication_task(ReplicationTaskArn=task_arn, StartReplicationTaskType="start-replication")
    dms.get_waiter("replication_task_running").wait(Filters=filters)
    print("The task is running")

    progress = Progress()
    while (now := task(dms, filters))["Status"] == "running" and not follows_changes(now):
        progress.show(table_statistics(dms, task_arn))
        time.sleep(0.3)
    if now["Status"] != "running":
        wait_until_stopped(dms, filters)
    statistics = table_statistics(dms, task_arn)
    progress.end(statistics)
    print_loads(statistics)
    loaded = all(table["TableState"] == "Table completed" for table in statistics)
    if now["Status"] == "running":
        print("The load is complete; the task follows the changes of the source")
        return loaded
    # A task ends by itself for this reason once it is through, which does not mean that every table made it.
    return print_stop_reason(dms, filters) == "Stop Reason FULL_LOAD_ONLY_FINISHED" and loaded


def follows_changes(task):
    """Whether a task has loaded all it had to and is one that goes on."""
    loaded = task.get("ReplicationTaskStats", {}).get("FullLoadProgressPercent") == 100
    return loaded and task["MigrationType"] != "full-load"


def stop(dms, task_arn):
    """Stops a task when it has applied all changes that it has captured; returns whether it has."""
    filters = by("replication-task-arn", task_arn)
    if task(dms, filters)["Status"] == "running":
        print("Waiting until all changes are applied")
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while changes_ahead(table_statistics(dms, task_arn)) > 0 and time.monotonic() < deadline:
            time.sleep(0.3)
        print("Stopping the task")
        dms.stop_replication_task(ReplicationTaskArn=task_arn)
        wait_until_stopped(dms, filters)
    statistics = table_statistics(dms, task_arn)
    print_changes(statistics)
    stop_reason = print_stop_reason(dms, filters)
    complete = all(table["TableState"] == "Table completed" for table in statistics)
    return stop_reason == "Stop Reason NORMAL" and complete and changes_ahead(statistics) == 0


def changes_ahead(statistics):
    """How many changes were read from the source's log and are not on the target. Definitions of tables are left out:
    AWS does not always count in AppliedDdls what it has applied."""
    kinds = ("Inserts", "Updates", "Deletes")
    return sum(table[kind] - table.get(f"Applied{kind}", 0) for table in statistics for kind in kinds)


def wait_until_stopped(dms, filters):
    try:
        dms.get_waiter("replication_task_stopped").wait(Filters=filters)
    except WaiterError:
        # `failed` instead of `stopped`; the stop reason says why.
        pass


def print_stop_reason(dms, filters):
    stop_reason = task(dms, filters).get("StopReason")
    print(f"StopReason: {stop_reason}")
    return stop_reason


def task(dms, filters):
    return dms.describe_replication_tasks(Filters=filters, WithoutSettings=True)["ReplicationTasks"][0]


def table_statistics(dms, task_arn):
    """One entry for each table of the task, of however many pages there are."""
    pages = dms.get_paginator("describe_table_statistics").paginate(ReplicationTaskArn=task_arn)
    return [table for page in pages for table in page["TableStatistics"]]


class Progress:
    """Shows how many tables are loaded: as a bar that moves on a terminal, as a line for each table elsewhere."""

    WIDTH = 40

    def __init__(self):
        self.live = sys.stdout.isatty()
        self.said = set()

    def show(self, statistics):
        done = [table for table in statistics if table["TableState"] in ("Table completed", "Table error")]
        rows = sum(table["FullLoadRows"] for table in statistics)
        if self.live:
            filled = round(self.WIDTH * len(done) / max(1, len(statistics)))
            loading = ", ".join(t["TableName"] for t in statistics if t["TableState"] == "Full load")
            bar = "█" * filled + "░" * (self.WIDTH - filled)
            line = f"{bar} {len(done)}/{len(statistics)} tables  {rows:,} rows  {loading}"
            # Back to the beginning of the line, cut it at the width of the terminal, erase what was longer.
            columns = os.get_terminal_size(sys.stdout.fileno()).columns
            print("\r" + line[: columns - 1] + "\033[K", end="", flush=True)
        else:
            for table in done:
                if table["TableName"] not in self.said:
                    self.said.add(table["TableName"])
                    print(
                        f"  {len(self.said):>3}/{len(statistics)} {table['TableName']}: {table['TableState']}",
                        flush=True,
                    )

    def end(self, statistics):
        self.show(statistics)
        if self.live:
            print()


def print_loads(statistics):
    print(f"{'Table':<32} {'State':<20} {'Rows':>10} {'Seconds':>8}")
    for table in in_order(statistics):
        start, end = table.get("FullLoadStartTime"), table.get("FullLoadEndTime")
        seconds = f"{(end - start).total_seconds():.1f}" if start and end else ""
        print(f"{name_of(table):<32} {table['TableState']:<20} {table['FullLoadRows']:>10,} {seconds:>8}")


def print_changes(statistics):
    """What was applied to each table; where that is not all that was captured, of how much."""

    def applied(table, kind):
        captured, applied = table[kind], table.get(f"Applied{kind}", 0)
        return f"{applied:,}" if applied == captured else f"{applied:,} of {captured:,}"

    kinds = ("Inserts", "Updates", "Deletes", "Ddls")
    print(f"{'Table':<32} {'State':<20}" + "".join(f" {kind:>12}" for kind in kinds))
    for table in in_order(statistics):
        counts = "".join(f" {applied(table, kind):>12}" for kind in kinds)
        print(f"{name_of(table):<32} {table['TableState']:<20}{counts}")


def in_order(statistics):
    return sorted(statistics, key=name_of)


def name_of(table):
    return f"{table['SchemaName']}.{table['TableName']}"


def find_everything(dms, name):
    """Finds what an earlier run of this script has created, as far as it is there."""
    found = {}

    def find(key, describe, filters, items, arn):
        try:
            for item in describe(Filters=filters)[items]:
                found[key] = item[arn]
        except dms.exceptions.ResourceNotFoundFault:
            pass

    task = by("replication-task-id", name)
    find("task", dms.describe_replication_tasks, task, "ReplicationTasks", "ReplicationTaskArn")
    for kind in ("source", "target"):
        find(kind, dms.describe_endpoints, by("endpoint-id", f"{name}-{kind}"), "Endpoints", "EndpointArn")
    instance = by("replication-instance-id", name)
    find("instance", dms.describe_replication_instances, instance, "ReplicationInstances", "ReplicationInstanceArn")
    group, identifier = by("replication-subnet-group-id", name), "ReplicationSubnetGroupIdentifier"
    find("group", dms.describe_replication_subnet_groups, group, "ReplicationSubnetGroups", identifier)
    return found


def delete_everything(dms, created):
    """Deletes what was created, in the order that DMS asks for: what is used goes after what uses it."""
    print("Deleting what was created")
    if arn := created.get("task"):
        dms.delete_replication_task(ReplicationTaskArn=arn)
        dms.get_waiter("replication_task_deleted").wait(Filters=by("replication-task-arn", arn))
    for kind in ("source", "target"):
        if arn := created.get(kind):
            dms.delete_endpoint(EndpointArn=arn)
            dms.get_waiter("endpoint_deleted").wait(Filters=by("endpoint-arn", arn))
    if arn := created.get("instance"):
        dms.delete_replication_instance(ReplicationInstanceArn=arn)
        dms.get_waiter("replication_instance_deleted").wait(Filters=by("replication-instance-arn", arn))
    if group := created.get("group"):
        dms.delete_replication_subnet_group(ReplicationSubnetGroupIdentifier=group)


def by(name, value):
    """The filter that selects one resource."""
    return [{"Name": name, "Values": [value]}]


def endpoint_of(url):
    """The parameters of an endpoint from engine://user:password@host:port/database."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in PORTS or not parts.hostname:
        sys.exit(f"not a database: give engine://user:password@host:port/database; engines: {', '.join(PORTS)}")
    endpoint = {
        "EngineName": parts.scheme,
        "ServerName": parts.hostname,
        "Port": parts.port or PORTS[parts.scheme],
        "Username": urllib.parse.unquote(parts.username or ""),
        "Password": urllib.parse.unquote(parts.password or ""),
    }
    # PostgreSQL keeps schemas in databases, so the endpoint names one. In MySQL the schemas are the databases.
    if database := parts.path.strip("/"):
        endpoint["DatabaseName"] = database
    return endpoint


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default=os.environ.get("MIGRATE_SOURCE"), metavar="URL", help="or MIGRATE_SOURCE")
    parser.add_argument("--target", default=os.environ.get("MIGRATE_TARGET"), metavar="URL", help="or MIGRATE_TARGET")
    parser.add_argument("--schema", default="shop", help="the schema to migrate")
    parser.add_argument("--name", default="migrate-example", help="the identifier of everything that is created")
    parser.add_argument("--migration-type", choices=["full-load", "full-load-and-cdc"], default="full-load")
    parser.add_argument("--subnets", nargs="+", default=["subnet-0a1b2c3d", "subnet-4e5f6a7b"], metavar="ID")
    parser.add_argument("--stop", action="store_true", help="stop the task when all it has captured is applied")
    parser.add_argument("--clean-up", action="store_true", help="delete everything in the end")
    arguments = parser.parse_args()
    if not arguments.stop and not (arguments.source and arguments.target):
        parser.error("give --source and --target")
    if arguments.clean_up and not arguments.stop and arguments.migration_type != "full-load":
        parser.error("a task that goes on after its load is deleted by --stop --clean-up")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
