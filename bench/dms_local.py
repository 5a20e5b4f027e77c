"""The server under measurement."""

import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import boto3
import botocore.config


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

    def forget_memory(self):
        """The highest memory counts from here."""
        pathlib.Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

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

    def load(self, source, target, schema, tables, metadata=None):
        """Seconds of a whole task, from the call that starts it to its status `stopped`. Settings are the default ones,
        but that a primary key in PostgreSQL is made after the load, as the pipe does it, and what `metadata` says."""
        self.task_number += 1
        rules = [
            {
                "rule-type": "selection", "rule-id": str(number), "rule-name": str(number), "rule-action": "include",
                "object-locator": {"schema-name": schema, "table-name": table},
            }
            for number, table in enumerate(tables, 1)
        ]  # fmt: skip
        settings = {"FullLoadSettings": {"CreatePkAfterFullLoad": target.is_postgres}, "TargetMetadata": metadata or {}}
        task = self.client.create_replication_task(
            ReplicationTaskIdentifier=f"bench-{self.task_number}", ReplicationInstanceArn=self.instance(),
            SourceEndpointArn=self.endpoint("source", source), TargetEndpointArn=self.endpoint("target", target),
            MigrationType="full-load", TableMappings=json.dumps({"rules": rules}),
            ReplicationTaskSettings=json.dumps(settings),
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

    def follow(self, source, target, schema, tables, settings):
        """Makes and starts a task that loads the tables and follows the source; returns its ARN when it runs."""
        self.task_number += 1
        rules = [
            {
                "rule-type": "selection", "rule-id": str(number), "rule-name": str(number), "rule-action": "include",
                "object-locator": {"schema-name": schema, "table-name": table},
            }
            for number, table in enumerate(tables, 1)
        ]  # fmt: skip
        task = self.client.create_replication_task(
            ReplicationTaskIdentifier=f"bench-{self.task_number}", ReplicationInstanceArn=self.instance(),
            SourceEndpointArn=self.endpoint("source", source), TargetEndpointArn=self.endpoint("target", target),
            MigrationType="full-load-and-cdc", TableMappings=json.dumps({"rules": rules}),
            ReplicationTaskSettings=json.dumps(settings),
        )["ReplicationTask"]["ReplicationTaskArn"]  # fmt: skip
        self.client.start_replication_task(ReplicationTaskArn=task, StartReplicationTaskType="start-replication")
        self.wait_for(task, "running")
        return task

    def wait_for(self, task, status):
        by_arn = [{"Name": "replication-task-arn", "Values": [task]}]
        while True:
            described = self.client.describe_replication_tasks(Filters=by_arn, WithoutSettings=True)
            (described,) = described["ReplicationTasks"]
            if described["Status"] == status:
                return described
            if described["Status"] == "failed":
                sys.exit(f"the task failed: {described.get('LastFailureMessage')}")
            time.sleep(0.02)

    def wait_for_load(self, task):
        while True:
            rows = self.client.describe_table_statistics(ReplicationTaskArn=task)["TableStatistics"]
            if rows and all(row["TableState"] == "Table completed" for row in rows):
                return
            time.sleep(0.05)

    def stop_task(self, task):
        self.client.stop_replication_task(ReplicationTaskArn=task)
        self.wait_for(task, "stopped")

    def resume(self, task):
        self.client.start_replication_task(ReplicationTaskArn=task, StartReplicationTaskType="resume-processing")

    def delete_task(self, task):
        self.client.delete_replication_task(ReplicationTaskArn=task)
        by_arn = [{"Name": "replication-task-arn", "Values": [task]}]
        while True:
            try:
                self.client.describe_replication_tasks(Filters=by_arn, WithoutSettings=True)
            except self.client.exceptions.ResourceNotFoundFault:
                return
