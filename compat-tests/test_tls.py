"""Encrypted connections to a database server that takes no others.

https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Security.SSL.html
"""

import dataclasses
import pathlib
import shutil
import subprocess

import pytest

from conftest import filters, include, temporary_sandbox, unique, wait_until

USER, PASSWORD = "tls_user", "pass'word"


def run(*command):
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def encrypted():
    """A PostgreSQL server that speaks TLS, as a user whom it takes in by TLS only."""
    with temporary_sandbox(postgres=1) as sandbox:
        database = sandbox.databases()["postgres-1"]
        data = pathlib.Path(database.data_dir)
        key, certificate, logins = data / "server.key", data / "server.crt", data / "pg_hba.conf"
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-keyout", key, "-out", certificate)  # fmt: skip
        key.chmod(0o600)
        for file in (key, certificate):
            shutil.chown(file, data.owner(), data.group())
        logins.write_text(f"hostnossl all {USER} all reject\n" + logins.read_text())
        database.execute(
            "ALTER SYSTEM SET ssl = on",
            "CREATE USER {} SUPERUSER PASSWORD '{}'".format(USER, PASSWORD.replace("'", "''")),
            "SELECT pg_reload_conf()",
        )
        wait_until(lambda: database.value("SHOW ssl") == "on", "the server speaks TLS")
        yield dataclasses.replace(database, user=USER, password=PASSWORD)


def new_database(encrypted):
    name = unique("tls").replace("-", "_")
    encrypted.execute(f'CREATE DATABASE "{name}"')
    return dataclasses.replace(encrypted, database=name)


def test_a_load_through_tls_where_the_servers_ask_for_it(encrypted, make_endpoint, run_task):
    source, target = new_database(encrypted), new_database(encrypted)
    source.execute(
        "CREATE SCHEMA shop",
        "CREATE TABLE shop.orders AS SELECT n AS id, 'row ' || n AS value FROM generate_series(1, 5000) AS n",
    )
    source_arn = make_endpoint("source", source, SslMode="require")
    target_arn = make_endpoint("target", target, SslMode="require")
    statistics = run_task(source_arn, target_arn, include("shop"))
    assert statistics[("shop", "orders")]["FullLoadRows"] == 5000
    everything = "SELECT * FROM shop.orders ORDER BY id"
    assert target.execute(everything) == source.execute(everything)


def test_without_tls_the_server_refuses_the_connection(encrypted, dms, replication_instance):
    parameters = encrypted.endpoint("source") | {"EndpointIdentifier": unique("plain")}
    arn = dms.create_endpoint(**parameters)["Endpoint"]["EndpointArn"]
    dms.test_connection(ReplicationInstanceArn=replication_instance["ReplicationInstanceArn"], EndpointArn=arn)

    def tested():
        (connection,) = dms.describe_connections(Filters=filters("endpoint-arn", arn))["Connections"]
        return connection["Status"] != "testing" and connection

    connection = wait_until(tested, "the connection is tested")
    assert connection["Status"] == "failed"
    assert USER in connection["LastFailureMessage"]
