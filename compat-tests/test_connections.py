"""TestConnection, DescribeConnections, DeleteConnection."""

import re
import time

import pytest
from conftest import create_replication_instance, filters, run_waiter, unique, wait_until

from faults import NOT_FOUND, STATE, VALUE, fault
from resources import closed_port, make_endpoint_row, make_stage, random_account, silent_server, unused_arn

FAILURE = re.compile(
    r"Test Endpoint failed: Application-Status: 1020912, Application-Message: (?P<application>[^,\n]+),"
    r" Application-Detailed-Message: (?P<detail>[^\n]+)\n\nAdditional info:\n(?P<more>[^\n]+)"
)
DRIVERS = {
    "postgres": "RetCode: SQL_ERROR  SqlState: 08001 NativeError: 101 Message: [unixODBC]",
    "mysql": "RetCode: SQL_ERROR  SqlState: HY000 NativeError: {native} Message: [unixODBC][MySQL][ODBC 8.0(w) Driver]",
}
WRONG_PASSWORD = "Wr0ng-and-secret"

# How long a describe of a connection being tested is held (`--settle`).
SETTLE_SECONDS = 1


@pytest.fixture
def client(make_client):
    return make_client(account=random_account())


def pair(instance_arn, endpoint_arn):
    return filters("replication-instance-arn", instance_arn) + filters("endpoint-arn", endpoint_arn)


def describe(client, instance_arn, endpoint_arn):
    (connection,) = client.describe_connections(Filters=pair(instance_arn, endpoint_arn))["Connections"]
    return connection


def start_test(client, instance_arn, endpoint_arn):
    return client.test_connection(ReplicationInstanceArn=instance_arn, EndpointArn=endpoint_arn)["Connection"]


def outcome(client, instance_arn, endpoint_arn):
    """Waits until the test under way has ended; the connection."""

    def ended():
        connection = describe(client, instance_arn, endpoint_arn)
        return connection if connection["Status"] != "testing" else None

    return wait_until(ended, "the connection is tested", 60)


def after_test(client, instance_arn, **endpoint):
    """Creates an endpoint and tests it to the end; the connection."""
    arn = make_endpoint_row(client, **endpoint)["EndpointArn"]
    start_test(client, instance_arn, arn)
    return outcome(client, instance_arn, arn)


def assert_failed(connection, cause, family, code, native=None, severity="", number=2003):
    """The connection has failed for this cause, with DMS's code and the server's, in the words of DMS's driver."""
    assert connection["Status"] == "failed"
    text = connection["LastFailureMessage"]
    found = FAILURE.fullmatch(text)
    assert found, text
    driver = DRIVERS[family].format(native=number) + severity
    assert found["detail"].startswith(driver), text
    message = found["detail"].removeprefix(driver)
    assert re.search(cause, message, re.IGNORECASE), text
    assert not message.startswith("FATAL"), text
    native = f", NativeErrorCode: [{native}]" if native else ""
    assert found["more"] == f"Code: [{code}], Message: [{message}]{native}", text
    summary = {
        ("postgres", "DMS-00002"): "Failed to connect  Network error has occurred",
        ("postgres", "DMS-00100"): "Failed to connect  Network error has occurred",
        ("mysql", "DMS-00002"): "Cannot connect to ODBC provider Network error has occurred",
        ("mysql", "DMS-00100"): "Cannot connect to ODBC provider ODBC general error.",
    }
    assert found["application"] == summary[family, code], text
    assert WRONG_PASSWORD not in text


def assert_out_of_reach(connection, cause, engine, number=2003):
    family = "postgres" if "postgres" in engine else "mysql"
    assert_failed(connection, cause, family, "DMS-00002", number=number)


def assert_refused(connection, cause, native, family):
    """The server has refused the login with this error of its own: a SQLSTATE, or MySQL's number."""
    severity = "FATAL:  " if family == "postgres" else ""
    assert_failed(connection, cause, family, "DMS-00100", native, severity, number=native)


# --- the calls -------------------------------------------------------------------------------------------------------


def test_the_answer_is_a_connection_being_tested(client):
    stage = make_stage(client)
    assert start_test(client, stage.instance_arn, stage.source_arn) == {
        "ReplicationInstanceArn": stage.instance_arn,
        "EndpointArn": stage.source_arn,
        "Status": "testing",
        "EndpointIdentifier": stage.source["EndpointIdentifier"],
        "ReplicationInstanceIdentifier": stage.instance["ReplicationInstanceIdentifier"],
    }


def test_a_connection_that_was_never_tested_is_not_there(client):
    stage = make_stage(client)
    for by in (pair(stage.instance_arn, stage.source_arn), filters("endpoint-arn", stage.source_arn)):
        with fault(NOT_FOUND):
            client.describe_connections(Filters=by)
    assert client.describe_connections()["Connections"] == []


def test_only_the_pair_that_was_tested_is_there(client):
    stage, other = make_stage(client), create_replication_instance(client)["ReplicationInstanceArn"]
    start_test(client, stage.instance_arn, stage.source_arn)
    with fault(NOT_FOUND):
        client.describe_connections(Filters=pair(other, stage.source_arn))
    with fault(NOT_FOUND):
        client.describe_connections(Filters=pair(stage.instance_arn, stage.target_arn))
    assert len(client.describe_connections()["Connections"]) == 1


@pytest.mark.parametrize("missing", ["instance", "endpoint", "both"])
@pytest.mark.parametrize("call", ["test_connection", "delete_connection", "refresh_schemas"])
def test_unknown_arns_are_not_found(client, call, missing):
    stage = make_stage(client)
    arns = {"ReplicationInstanceArn": stage.instance_arn, "EndpointArn": stage.source_arn}
    if missing != "endpoint":
        arns["ReplicationInstanceArn"] = unused_arn("rep")
    if missing != "instance":
        arns["EndpointArn"] = unused_arn("endpoint")
    # Deleting a connection that is not there is recorded as a wrong state; of one that cannot be, nothing is known.
    with fault((NOT_FOUND, STATE) if call == "delete_connection" else NOT_FOUND):
        getattr(client, call)(**arns)


@pytest.mark.parametrize("wrong", ["ReplicationInstanceArn", "EndpointArn"])
@pytest.mark.parametrize("call", ["test_connection", "delete_connection", "refresh_schemas"])
def test_what_is_no_arn_is_an_invalid_value(client, call, wrong):
    stage = make_stage(client)
    arns = {"ReplicationInstanceArn": stage.instance_arn, "EndpointArn": stage.source_arn} | {wrong: "TBD"}
    with fault(VALUE, f"Invalid value TBD for {wrong}"):
        getattr(client, call)(**arns)


def test_a_connection_cannot_be_tested_twice_at_once(client):
    with silent_server() as port:
        instance = create_replication_instance(client)["ReplicationInstanceArn"]
        endpoint = make_endpoint_row(client, "postgres", Port=port)["EndpointArn"]
        start_test(client, instance, endpoint)
        with fault(STATE, re.compile("already being tested")):
            start_test(client, instance, endpoint)
        assert describe(client, instance, endpoint)["Status"] == "testing"


def test_the_same_endpoint_can_be_tested_from_two_instances_at_once(client):
    with silent_server() as port:
        endpoint = make_endpoint_row(client, "postgres", Port=port)["EndpointArn"]
        for _ in range(2):
            start_test(client, create_replication_instance(client)["ReplicationInstanceArn"], endpoint)
        answer = client.describe_connections(Filters=filters("endpoint-arn", endpoint))
        assert [connection["Status"] for connection in answer["Connections"]] == ["testing", "testing"]


@pytest.mark.parametrize(("flags", "held"), [((), True), (("--settle", "0"), False)])
def test_a_describe_of_a_connection_being_tested_is_held_for_the_settle_time(make_server, make_client, flags, held):
    client = make_client(url=make_server(*flags).url)
    instance = create_replication_instance(client)["ReplicationInstanceArn"]
    with silent_server() as port:
        endpoint = make_endpoint_row(client, "postgres", Port=port)["EndpointArn"]
        start_test(client, instance, endpoint)
        start = time.monotonic()
        assert describe(client, instance, endpoint)["Status"] == "testing"
        seconds = time.monotonic() - start
    assert (seconds >= SETTLE_SECONDS * 0.9) == held
    assert seconds < SETTLE_SECONDS + 5


# --- failures that need no database ----------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["mysql", "mariadb", "aurora", "postgres", "aurora-postgresql"])
def test_a_port_where_nobody_listens_refuses(client, engine):
    instance = create_replication_instance(client)["ReplicationInstanceArn"]
    assert_out_of_reach(after_test(client, instance, engine=engine, Port=closed_port()), "refused", engine)


@pytest.mark.parametrize("engine", ["mysql", "postgres"])
def test_a_host_that_does_not_exist_is_named(client, engine):
    instance = create_replication_instance(client)["ReplicationInstanceArn"]
    connection = after_test(client, instance, engine=engine, ServerName="no-such-host.invalid")
    assert_out_of_reach(connection, r"no-such-host\.invalid", engine, number=2005)


@pytest.mark.parametrize("engine", ["mysql", "postgres"])
def test_a_server_that_says_nothing_times_out(client, engine):
    instance = create_replication_instance(client)["ReplicationInstanceArn"]
    with silent_server() as port:
        connection = after_test(client, instance, engine=engine, Port=port)
    assert_out_of_reach(connection, r"no answer|timeout|timed out|in \d+ s", engine, number=2013)


@pytest.mark.parametrize(("engine", "member"), [("mysql", "MySQLSettings"), ("postgres", "PostgreSQLSettings")])
def test_a_secret_that_cannot_be_read_is_named(client, engine, member):
    instance = create_replication_instance(client)["ReplicationInstanceArn"]
    secret = "arn:aws:secretsmanager:us-east-1:123456789012:secret:db-AbCdEf"
    role = "arn:aws:iam::123456789012:role/dms"
    endpoint = client.create_endpoint(
        EndpointIdentifier=unique("secret"),
        EndpointType="source",
        EngineName=engine,
        **{member: {"SecretsManagerAccessRoleArn": role, "SecretsManagerSecretId": secret}},
    )["Endpoint"]["EndpointArn"]
    start_test(client, instance, endpoint)
    found = FAILURE.fullmatch(outcome(client, instance, endpoint)["LastFailureMessage"])
    assert found["application"] == "Failed to build connection string Unable to find Secrets Manager secret"
    assert found["detail"].startswith(
        f"Failed to retrieve secret. Unable to find AWS Secrets Manager secret Arn '{secret}' "
        "The secrets_manager get secret value failed: "
    )


# --- with databases --------------------------------------------------------------------------------------------------

SERVERS = ["pg_source", "pg_target", "maria_source", "maria_target"]


def endpoint_of(database, **parameters):
    """Parameters of an endpoint for a database, with what a test does not care about."""
    given = database.endpoint("source") | parameters
    return {"engine": given.pop("EngineName"), "kind": given.pop("EndpointType")} | given


@pytest.mark.parametrize("kind", ["source", "target"])
@pytest.mark.parametrize("server_name", SERVERS)
def test_a_good_endpoint_connects(client, databases, server_name, kind):
    instance = create_replication_instance(client)["ReplicationInstanceArn"]
    database = getattr(databases, server_name)
    endpoint = make_endpoint_row(client, **(endpoint_of(database) | {"kind": kind}))["EndpointArn"]
    start_test(client, instance, endpoint)
    run_waiter(client, "test_connection_succeeds", Filters=filters("endpoint-arn", endpoint))
    connection = describe(client, instance, endpoint)
    assert connection["Status"] == "successful"
    assert "LastFailureMessage" not in connection


@pytest.mark.parametrize(
    ("server_name", "engine"),
    [("pg_source", "aurora-postgresql"), ("maria_source", "mysql"), ("maria_source", "aurora")],
)
def test_a_relative_of_the_engine_connects(client, databases, server_name, engine):
    instance = create_replication_instance(client)["ReplicationInstanceArn"]
    parameters = endpoint_of(getattr(databases, server_name)) | {"engine": engine}
    assert after_test(client, instance, **parameters)["Status"] == "successful"


@pytest.mark.parametrize(
    ("server_name", "change", "cause", "native"),
    [
        ("pg_source", {"Username": "nobody-of-that-name"}, "nobody-of-that-name", "28P01"),
        ("pg_source", {"Password": WRONG_PASSWORD}, "password authentication failed", "28P01"),
        ("pg_source", {"DatabaseName": "no_such_database"}, "no_such_database", "3D000"),
        ("maria_source", {"Username": "nobody-of-that-name"}, "nobody-of-that-name", 1045),
        ("maria_source", {"Password": WRONG_PASSWORD}, "access denied", 1045),
        ("maria_source", {"DatabaseName": "no_such_database"}, "no_such_database", 1049),
    ],
)
def test_the_true_cause_of_a_refused_login_is_named(client, databases, server_name, change, cause, native):
    instance = create_replication_instance(client)["ReplicationInstanceArn"]
    database = getattr(databases, server_name)
    connection = after_test(client, instance, **endpoint_of(database, **change))
    assert_refused(connection, cause, native, "postgres" if database.is_postgres else "mysql")


@pytest.mark.parametrize("server_name", ["pg_source", "maria_source"])
def test_tls_that_a_server_does_not_speak_fails_the_test(client, databases, server_name):
    database = getattr(databases, server_name)
    query = "SHOW ssl" if database.is_postgres else "SELECT @@have_ssl"
    assert database.value(query).lower() in (
        "off",
        "disabled",
        "no",
    ), "the sandbox speaks TLS: test that it works instead"
    instance = create_replication_instance(client)["ReplicationInstanceArn"]
    connection = after_test(client, instance, **endpoint_of(database, SslMode="require"))
    if database.is_postgres:
        assert_failed(connection, "ssl", "postgres", "DMS-00100")
    else:
        assert_failed(connection, "ssl", "mysql", "DMS-00100", native=2026, number=2026)


def test_a_source_of_another_engine_fails_the_test(client, databases):
    instance = create_replication_instance(client)["ReplicationInstanceArn"]
    connection = after_test(client, instance, **(endpoint_of(databases.pg_source) | {"engine": "mysql"}))
    assert connection["Status"] == "failed"
    assert FAILURE.fullmatch(connection["LastFailureMessage"])


def test_a_test_after_a_repair_succeeds_in_the_same_row(client, databases):
    instance = create_replication_instance(client)["ReplicationInstanceArn"]
    good = endpoint_of(databases.maria_source)
    connection = after_test(client, instance, **(good | {"Password": WRONG_PASSWORD}))
    assert connection["Status"] == "failed"
    endpoint = connection["EndpointArn"]
    client.modify_endpoint(EndpointArn=endpoint, Password=good["Password"])
    outcome(client, instance, endpoint)  # The modification has started a test of its own.
    start_test(client, instance, endpoint)
    connection = outcome(client, instance, endpoint)
    assert connection["Status"] == "successful"
    assert "LastFailureMessage" not in connection
    assert len(client.describe_connections()["Connections"]) == 1


def test_modifying_an_endpoint_tests_its_connections_again(client, databases):
    instance = create_replication_instance(client)["ReplicationInstanceArn"]
    good = endpoint_of(databases.maria_source)
    endpoint = after_test(client, instance, **good)["EndpointArn"]
    assert describe(client, instance, endpoint)["Status"] == "successful"
    client.modify_endpoint(EndpointArn=endpoint, Password=WRONG_PASSWORD)
    assert_refused(outcome(client, instance, endpoint), "access denied", 1045, "mysql")
    client.modify_endpoint(EndpointArn=endpoint, Password=good["Password"])
    assert outcome(client, instance, endpoint)["Status"] == "successful"


def test_modifying_an_endpoint_that_was_never_tested_tests_nothing(client):
    stage = make_stage(client)
    client.modify_endpoint(EndpointArn=stage.source_arn, Port=closed_port())
    assert client.describe_connections()["Connections"] == []


# --- the end of a connection -----------------------------------------------------------------------------------------


@pytest.fixture
def connection(client):
    """A connection whose test has failed."""
    instance = create_replication_instance(client)["ReplicationInstanceArn"]
    return after_test(client, instance, Port=closed_port())


def key(connection):
    return {name: connection[name] for name in ("ReplicationInstanceArn", "EndpointArn")}


def test_delete_answers_the_connection_and_then_it_is_gone(client, connection):
    answer = client.delete_connection(**key(connection))["Connection"]
    assert answer["Status"] == "deleting"
    assert key(answer) == key(connection)
    wait_until(lambda: client.describe_connections()["Connections"] == [], "the connection is gone", 10)
    with fault(NOT_FOUND):
        client.describe_connections(Filters=filters("endpoint-arn", connection["EndpointArn"]))
    with fault(STATE):
        client.delete_connection(**key(connection))


def test_a_connection_that_was_never_tested_cannot_be_deleted(client):
    stage = make_stage(client)
    with fault(STATE):
        client.delete_connection(ReplicationInstanceArn=stage.instance_arn, EndpointArn=stage.source_arn)


def test_the_connections_of_a_deleted_endpoint_are_gone(client, connection):
    by_arn = filters("endpoint-arn", connection["EndpointArn"])
    client.delete_endpoint(EndpointArn=connection["EndpointArn"])
    run_waiter(client, "endpoint_deleted", Filters=by_arn)
    with fault(NOT_FOUND):
        client.describe_connections(Filters=by_arn)
    assert client.describe_connections()["Connections"] == []


def test_the_connections_of_a_deleted_instance_are_gone(client, connection):
    by_arn = filters("replication-instance-arn", connection["ReplicationInstanceArn"])
    client.delete_replication_instance(ReplicationInstanceArn=connection["ReplicationInstanceArn"])
    run_waiter(client, "replication_instance_deleted", Filters=by_arn)
    with fault(NOT_FOUND):
        client.describe_connections(Filters=by_arn)
    assert client.describe_connections()["Connections"] == []


def test_a_connection_shows_the_new_name_of_its_endpoint(client, connection):
    client.modify_endpoint(EndpointArn=connection["EndpointArn"], EndpointIdentifier="renamed")
    after = outcome(client, connection["ReplicationInstanceArn"], connection["EndpointArn"])
    assert after["EndpointIdentifier"] == "renamed"
