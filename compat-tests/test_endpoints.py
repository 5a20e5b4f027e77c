"""Endpoints: CreateEndpoint and its family, without connecting anywhere."""

import json
import re

import pytest
from conftest import filters, run_waiter, unique

import wire
from faults import ALREADY_EXISTS, COMBINATION, IDENTIFIER_RULE, NOT_BUILT, NOT_FOUND, STATE, VALUE, fault
from resources import (  # fmt: skip
    PASSWORD,
    RANDOM_ID,
    RELATIONAL,
    endpoint_parameters,
    list_tags,
    make_endpoint_row,
    make_stage,
    random_account,
    running_task,
    unused_arn,
)

ROLE = "arn:aws:iam::123456789012:role/dms"
SECRET = "arn:aws:secretsmanager:us-east-1:123456789012:secret:db-AbCdEf"
STREAM = "arn:aws:kinesis:us-east-1:123456789012:stream/changes"


@pytest.fixture
def account():
    return random_account()


@pytest.fixture
def client(make_client, account):
    return make_client(account=account)


def describe(client, arn):
    (endpoint,) = client.describe_endpoints(Filters=filters("endpoint-arn", arn))["Endpoints"]
    return endpoint


def create_with_only(client, engine="mysql", kind="source", **parameters):
    """Creates an endpoint with nothing but what every endpoint needs, and these."""
    return client.create_endpoint(
        EndpointIdentifier=parameters.pop("EndpointIdentifier", unique(kind)),
        EndpointType=kind,
        EngineName=engine,
        **parameters,
    )["Endpoint"]


# --- create ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["source", "target"])
@pytest.mark.parametrize(("engine", "display", "settings"), [(name, *about) for name, about in RELATIONAL.items()])
def test_create_answers_the_whole_endpoint(client, account, engine, display, settings, kind):
    given = endpoint_parameters(engine, kind)
    endpoint = client.create_endpoint(**given)["Endpoint"]
    assert endpoint["EndpointIdentifier"] == given["EndpointIdentifier"]
    assert endpoint["EndpointType"] == kind.upper()
    assert endpoint["EngineName"] == engine
    assert endpoint["EngineDisplayName"] == display
    assert endpoint["Status"] == "active"
    assert endpoint["SslMode"] == "none"
    assert re.fullmatch(f"arn:aws:dms:us-east-1:{account}:endpoint:{RANDOM_ID}", endpoint["EndpointArn"])
    assert re.fullmatch(rf"arn:aws:kms:us-east-1:{account}:key/[0-9a-f-]{{36}}", endpoint["KmsKeyId"])
    connection = {name: given[name] for name in ("Username", "ServerName", "Port")}
    if "DatabaseName" in given:
        connection["DatabaseName"] = given["DatabaseName"]
    assert connection.items() <= endpoint.items()
    assert connection.items() <= endpoint[settings].items()
    for absent in ("ExtraConnectionAttributes", "CertificateArn", "ServiceAccessRoleArn", "ExternalId"):
        assert absent not in endpoint
    assert describe(client, endpoint["EndpointArn"]) == endpoint


@pytest.mark.parametrize("engine", RELATIONAL)
def test_only_the_settings_of_the_engine_are_shown(client, engine):
    endpoint = make_endpoint_row(client, engine)
    assert [member for member in endpoint if member.endswith("Settings")] == [RELATIONAL[engine][1]]


@pytest.mark.parametrize("engine", RELATIONAL)
def test_a_password_is_never_returned(server, client, account, engine):
    settings = RELATIONAL[engine][1]
    given = endpoint_parameters(engine) | {"Password": "n0t-for-you", settings: {"Password": "n0r-this"}}
    answers = [wire.call(server, "CreateEndpoint", given, account=account)]
    arn = answers[0].json["Endpoint"]["EndpointArn"]
    answers.append(wire.call(server, "DescribeEndpoints", {}, account=account))
    answers.append(
        wire.call(server, "ModifyEndpoint", {"EndpointArn": arn, "Password": "n0t-for-you"}, account=account)
    )
    answers.append(wire.call(server, "DeleteEndpoint", {"EndpointArn": arn}, account=account))
    for answer in answers:
        assert answer.status == 200
        assert "n0t-for-you" not in answer.body.decode()
        assert "n0r-this" not in answer.body.decode()
        assert "Password" not in answer.body.decode()


def test_parameters_that_were_given_are_kept(client):
    given = {
        "KmsKeyId": "arn:aws:kms:us-east-1:123456789012:key/4c1731d6-5435-ed4d-be13-d53411a7cfbd",
        "SslMode": "require",
        "ExtraConnectionAttributes": "heartbeatFrequency=5",
        "ServerName": "db.example.com",
        "Port": 65535,
        "Username": "ünïcode",
        "DatabaseName": "a database",
    }
    assert given.items() <= make_endpoint_row(client, "postgres", **given).items()


def test_settings_of_the_engine_are_kept(client):
    settings = {"MaxFileSize": 1000, "HeartbeatEnable": True, "AfterConnectScript": "SET search_path = shop"}
    endpoint = make_endpoint_row(client, "postgres", PostgreSQLSettings=settings)
    assert settings.items() <= endpoint["PostgreSQLSettings"].items()


def test_members_at_the_top_win_over_those_in_the_settings(client):
    endpoint = make_endpoint_row(
        client,
        "postgres",
        PostgreSQLSettings={"ServerName": "overwritten.example.com", "Username": "overwritten", "MaxFileSize": 1000},
    )
    assert endpoint["PostgreSQLSettings"]["ServerName"] == endpoint["ServerName"] == "127.0.0.1"
    assert endpoint["PostgreSQLSettings"]["Username"] == endpoint["Username"] == "admin"
    assert endpoint["PostgreSQLSettings"]["MaxFileSize"] == 1000


def test_a_connection_given_in_the_settings_alone_is_enough(client):
    connection = {"ServerName": "127.0.0.1", "Port": 3306, "Username": "admin"}
    endpoint = create_with_only(client, MySQLSettings=connection | {"Password": PASSWORD})
    assert connection.items() <= endpoint.items()
    assert connection.items() <= endpoint["MySQLSettings"].items()


def test_settings_of_other_engines_are_ignored(client):
    endpoint = make_endpoint_row(
        client, "postgres", S3Settings={"BucketName": "foo", "BucketFolder": "bar"}, MySQLSettings={"Port": 1}
    )
    assert "S3Settings" not in endpoint and "MySQLSettings" not in endpoint
    assert "PostgreSQLSettings" in endpoint


def test_a_secret_takes_the_place_of_user_and_server(client):
    settings = {"SecretsManagerAccessRoleArn": ROLE, "SecretsManagerSecretId": SECRET}
    endpoint = create_with_only(client, DatabaseName="shop", MySQLSettings=settings)
    assert settings.items() <= endpoint["MySQLSettings"].items()
    assert endpoint["DatabaseName"] == "shop"
    assert not {"Username", "ServerName", "Port"} & endpoint.keys()


def test_the_identifier_is_stored_in_lower_case_and_the_resource_identifier_as_given(client, account):
    identifier = unique("Mixed-Case")
    endpoint = make_endpoint_row(client, EndpointIdentifier=identifier, ResourceIdentifier="Example-App-ARN1")
    assert endpoint["EndpointIdentifier"] == identifier.lower()
    assert endpoint["EndpointArn"] == f"arn:aws:dms:us-east-1:{account}:endpoint:Example-App-ARN1"


def test_tags_given_at_create_are_on_the_endpoint(client):
    tags = {"endpoint_test": "my_mysql_tags", "test_aws": "validated"}
    endpoint = make_endpoint_row(client, Tags=[{"Key": key, "Value": value} for key, value in tags.items()])
    assert list_tags(client, endpoint["EndpointArn"]) == tags


def test_an_identifier_in_use_is_refused_in_any_case(client):
    identifier = unique("taken")
    make_endpoint_row(client, EndpointIdentifier=identifier)
    with fault(ALREADY_EXISTS, f'ReplicationEndpoint "{identifier}" already in use'):
        make_endpoint_row(client, kind="target", EndpointIdentifier=identifier.upper())


def test_a_resource_identifier_in_use_is_refused(client):
    make_endpoint_row(client, ResourceIdentifier="taken")
    with fault(ALREADY_EXISTS, 'ReplicationEndpoint "taken" already in use'):
        make_endpoint_row(client, ResourceIdentifier="taken")


@pytest.mark.parametrize("identifier", ["1abc", "-abc", "test--endpoint", "abc-", "a_b", "a b", "a.b", "grün"])
def test_an_identifier_that_breaks_the_rule_is_refused(client, identifier):
    with fault(VALUE, IDENTIFIER_RULE.format(what="EndpointIdentifier")):
        make_endpoint_row(client, EndpointIdentifier=identifier)
    assert client.describe_endpoints()["Endpoints"] == []


@pytest.mark.parametrize("identifier", ["", "a" * 256])
def test_an_identifier_of_a_wrong_length_is_refused(client, identifier):
    with fault(VALUE, names=["EndpointIdentifier"]):
        make_endpoint_row(client, EndpointIdentifier=identifier)


def test_the_longest_identifier_is_accepted(client):
    assert make_endpoint_row(client, EndpointIdentifier="a" * 255)["EndpointIdentifier"] == "a" * 255


@pytest.mark.parametrize("identifier", ["a" * 32, "1a", "a--b", "a-", "a_b"])
def test_a_bad_resource_identifier_is_refused(client, identifier):
    with fault(VALUE, names=["ResourceIdentifier"]):
        make_endpoint_row(client, ResourceIdentifier=identifier)


@pytest.mark.parametrize("kind", ["nope", "SOURCE", ""])
def test_the_endpoint_type_is_source_or_target_in_lower_case(client, kind):
    with fault(VALUE, names=["EndpointType"]):
        make_endpoint_row(client, EndpointType=kind)


@pytest.mark.parametrize("engine", ["foobared", "cassandra", "documentdb"])
def test_an_unknown_engine_is_refused(client, engine):
    with fault(VALUE, f"Invalid engine name: {engine}"):
        make_endpoint_row(client, EngineName=engine)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, ""),
        ({"Password": "admin"}, "username"),
        ({"Password": "admin", "Username": "admin"}, "serverName"),
        ({"Password": "admin", "Username": "admin", "ServerName": "server"}, "port"),
        ({"Username": "admin", "ServerName": "server", "Port": 3306}, "password"),
        ({"Username": "admin", "ServerName": "server", "Port": 3306, "Password": ""}, "password"),
        ({"Username": "", "ServerName": "server", "Port": 3306, "Password": "admin"}, "username"),
    ],
)
@pytest.mark.parametrize("engine", ["mysql", "postgres"])
def test_a_relational_endpoint_needs_a_whole_connection(client, engine, given, missing):
    with fault(VALUE, names=[missing]):
        create_with_only(client, engine, **given)
    assert client.describe_endpoints()["Endpoints"] == []


@pytest.mark.parametrize("name", ["", None])
def test_a_missing_server_name_has_its_text(client, name):
    given = {"Username": "admin", "Password": "admin", "Port": 3306} | ({} if name is None else {"ServerName": name})
    with fault(VALUE, "The parameter serverName must be provided and must not be blank."):
        create_with_only(client, **given)


OTHER_SERVERS = {
    "oracle": "source", "sqlserver": "source", "azuredb": "source", "sybase": "target", "db2": "source",
    "redshift": "target", "mongodb": "source", "docdb": "target",
}  # fmt: skip


@pytest.mark.parametrize("name", ["", None])
@pytest.mark.parametrize("engine", OTHER_SERVERS)
def test_a_server_without_runtime_needs_a_name_too(client, engine, name):
    given = {"Username": "admin", "Password": PASSWORD, "Port": 1} | ({} if name is None else {"ServerName": name})
    with fault(VALUE, "The parameter serverName must be provided and must not be blank."):
        create_with_only(client, engine, OTHER_SERVERS[engine], **given)
    assert client.describe_endpoints()["Endpoints"] == []
    given["ServerName"] = "db.example.com"
    endpoint = create_with_only(client, engine, OTHER_SERVERS[engine], **given)
    assert (endpoint["EngineName"], endpoint["ServerName"]) == (engine, "db.example.com")


@pytest.mark.parametrize(
    ("engine", "member"),
    [("oracle", "OracleSettings"), ("sqlserver", "MicrosoftSQLServerSettings"), ("mongodb", "MongoDbSettings")],
)
def test_a_secret_names_the_server_of_an_engine_without_runtime(client, engine, member):
    settings = {"SecretsManagerAccessRoleArn": ROLE, "SecretsManagerSecretId": SECRET}
    endpoint = create_with_only(client, engine, **{member: settings})
    assert settings.items() <= endpoint[member].items()


def test_a_postgresql_endpoint_needs_a_database(client):
    given = endpoint_parameters("postgres")
    del given["DatabaseName"]
    with fault(VALUE, names=["databaseName"]):
        client.create_endpoint(**given)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_out_of_range_is_refused(client, port):
    with fault(VALUE, names=["port"]):
        make_endpoint_row(client, Port=port)


def test_a_secret_and_a_password_exclude_each_other(client):
    settings = {"SecretsManagerAccessRoleArn": ROLE, "SecretsManagerSecretId": SECRET}
    with fault(COMBINATION):
        create_with_only(client, Password="PASSWORD", MySQLSettings=settings)


@pytest.mark.parametrize("settings", [{"SecretsManagerAccessRoleArn": ROLE}, {"SecretsManagerSecretId": SECRET}])
def test_a_secret_needs_a_role_and_a_role_a_secret(client, settings):
    with fault(VALUE):
        create_with_only(client, MySQLSettings=settings)


@pytest.mark.parametrize("mode", ["", "prefer", "verify"])
def test_an_unknown_tls_mode_is_refused(client, mode):
    with fault(VALUE, names=["SslMode"]):
        make_endpoint_row(client, SslMode=mode)


def test_the_certificate_of_another_service_is_refused(client):
    arn = "arn:aws:acm:us-east-1:123456789012:certificate/12345678-1234-1234-1234-123456789012"
    with fault(VALUE, re.compile("^Invalid certificate ARN")):
        make_endpoint_row(client, SslMode="verify-full", CertificateArn=arn)


def test_an_unknown_certificate_is_refused(client, account):
    with fault((NOT_FOUND, VALUE)):
        make_endpoint_row(client, SslMode="verify-full", CertificateArn=unused_arn("cert", account))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"MySQLSettings": {"TargetDbType": "many-databases"}}, "TargetDbType"),
        ({"PostgreSQLSettings": {"PluginName": "wal2json"}}, "PluginName"),
        ({"PostgreSQLSettings": {"MapLongVarcharAs": "text"}}, "MapLongVarcharAs"),
    ],
)
def test_a_value_that_the_model_does_not_list_is_refused(client, settings, named):
    engine = "mysql" if "MySQLSettings" in settings else "postgres"
    with fault(VALUE, names=[named]):
        make_endpoint_row(client, engine, **settings)


# --- engines whose endpoints are not made of a connection ------------------------------------------------------------


def aws_or_not_built(create, code=None):
    """Does what AWS was recorded doing, or says that the engine is not built: nothing in between."""
    if code is None:
        try:
            return create()
        except Exception as error:  # Anything but the one honest refusal is judged by `fault`.
            with fault(NOT_BUILT):
                raise error
            return None
    with fault((*((code,) if isinstance(code, str) else code), NOT_BUILT)):
        create()
    return None


TABLES = json.dumps({"TableCount": "1", "Tables": [{"TableName": "employee", "TablePath": "hr/employee/"}]})


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"Password": "admin", "Username": "admin", "Port": 1234, "DatabaseName": "my_db"}, COMBINATION),
        ({}, COMBINATION),
        ({"MySQLSettings": {"Username": "foobar", "ServerName": "ignored"}}, COMBINATION),
        # Which of these three answers which of the two was not recorded.
        ({"S3Settings": {}}, (VALUE, COMBINATION)),
        ({"S3Settings": {"BucketName": "my-bucket"}}, (VALUE, COMBINATION)),
        ({"S3Settings": {"BucketName": "my-bucket", "ExternalTableDefinition": TABLES}}, (VALUE, COMBINATION)),
        (
            {
                "S3Settings": {
                    "BucketName": "my-bucket", "ServiceAccessRoleArn": ROLE, "ExternalTableDefinition": "not a json",
                }
            },
            COMBINATION,
        ),
        ({"S3Settings": {"BucketName": "my-bucket", "ServiceAccessRoleArn": ROLE}, "SslMode": "require"}, COMBINATION),
    ],
)  # fmt: skip
def test_a_bad_s3_source_is_refused(client, given, code):
    aws_or_not_built(lambda: create_with_only(client, "s3", **given), code)
    assert client.describe_endpoints()["Endpoints"] == []


@pytest.mark.parametrize("definition", [TABLES, '{"json": "test"}'])
def test_a_good_s3_source_is_accepted(client, definition):
    settings = {"BucketName": "my-bucket", "ServiceAccessRoleArn": ROLE, "ExternalTableDefinition": definition}
    endpoint = aws_or_not_built(lambda: create_with_only(client, "s3", S3Settings=settings))
    if endpoint is None:
        assert client.describe_endpoints()["Endpoints"] == []
    else:
        assert endpoint["EngineDisplayName"] == "Amazon S3"
        assert settings.items() <= endpoint["S3Settings"].items()
        assert "KmsKeyId" not in endpoint


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, VALUE),
        ({"Password": "testabc", "KinesisSettings": {"StreamArn": STREAM}}, COMBINATION),
        ({"KinesisSettings": {"ServiceAccessRoleArn": ROLE}}, VALUE),
        ({"KinesisSettings": {"StreamArn": STREAM, "ServiceAccessRoleArn": ROLE}}, VALUE),
        ({"KinesisSettings": {"StreamArn": STREAM, "ServiceAccessRoleArn": ROLE, "MessageFormat": "other"}}, VALUE),
    ],
)
def test_a_bad_kinesis_target_is_refused(client, given, code):
    aws_or_not_built(lambda: create_with_only(client, "kinesis", "target", **given), code)
    assert client.describe_endpoints()["Endpoints"] == []


def test_a_good_kinesis_target_is_accepted(client):
    settings = {"StreamArn": STREAM, "ServiceAccessRoleArn": ROLE, "MessageFormat": "json"}
    endpoint = aws_or_not_built(lambda: create_with_only(client, "kinesis", "target", KinesisSettings=settings))
    if endpoint is None:
        assert client.describe_endpoints()["Endpoints"] == []
    else:
        assert endpoint["EngineDisplayName"] == "Amazon Kinesis"
        assert settings.items() <= endpoint["KinesisSettings"].items()


# --- describe --------------------------------------------------------------------------------------------------------


def test_an_empty_account_has_an_empty_list(client):
    answer = client.describe_endpoints()
    assert answer["Endpoints"] == []
    assert "Marker" not in answer


# --- modify ----------------------------------------------------------------------------------------------------------


def modify(client, endpoint, **changes):
    return client.modify_endpoint(EndpointArn=endpoint["EndpointArn"], **changes)["Endpoint"]


def test_modify_keeps_what_is_not_sent(client):
    before = make_endpoint_row(client, "postgres", PostgreSQLSettings={"MaxFileSize": 1000, "HeartbeatEnable": True})
    endpoint = modify(client, before, ServerName="elsewhere.example.com")
    settings = before["PostgreSQLSettings"] | {"ServerName": "elsewhere.example.com"}
    assert endpoint == before | {"ServerName": "elsewhere.example.com", "PostgreSQLSettings": settings}
    assert describe(client, endpoint["EndpointArn"]) == endpoint


@pytest.mark.parametrize(
    "change",
    [{"Port": 5433}, {"Username": "other"}, {"DatabaseName": "other"}, {"ServerName": "other"}],
)
def test_a_connection_is_modified_at_the_top_and_in_the_settings(client, change):
    endpoint = modify(client, make_endpoint_row(client, "postgres"), **change)
    assert change.items() <= endpoint.items()
    assert change.items() <= endpoint["PostgreSQLSettings"].items()


def test_a_connection_modified_in_the_settings_is_modified_at_the_top(client):
    endpoint = modify(client, make_endpoint_row(client, "mysql"), MySQLSettings={"ServerName": "other", "Port": 3307})
    assert (endpoint["ServerName"], endpoint["Port"]) == ("other", 3307)


def test_modify_merges_settings(client):
    before = make_endpoint_row(client, "mysql", MySQLSettings={"EventsPollInterval": 9, "ParallelLoadThreads": 3})
    endpoint = modify(client, before, MySQLSettings={"ParallelLoadThreads": 4})
    assert {"EventsPollInterval": 9, "ParallelLoadThreads": 4}.items() <= endpoint["MySQLSettings"].items()


def test_exact_settings_replace_the_settings(client):
    before = make_endpoint_row(client, "mysql", MySQLSettings={"EventsPollInterval": 9, "ParallelLoadThreads": 3})
    endpoint = modify(client, before, MySQLSettings={"ParallelLoadThreads": 4}, ExactSettings=True)
    assert endpoint["MySQLSettings"]["ParallelLoadThreads"] == 4
    assert endpoint["MySQLSettings"].get("EventsPollInterval") in (None, 5)  # Absent, or its default.


def test_modify_changes_identifier_type_tls_and_attributes(client):
    before, identifier = make_endpoint_row(client, "postgres", "source"), unique("Renamed")
    endpoint = modify(
        client,
        before,
        EndpointIdentifier=identifier,
        EndpointType="target",
        SslMode="require",
        ExtraConnectionAttributes="executeTimeout=100",
    )
    assert endpoint["EndpointArn"] == before["EndpointArn"]
    assert endpoint["EndpointIdentifier"] == identifier.lower()
    assert endpoint["EndpointType"] == "TARGET"
    assert endpoint["SslMode"] == "require"
    assert "executeTimeout=100" in endpoint["ExtraConnectionAttributes"]
    assert endpoint["Status"] == "active"


def test_the_old_identifier_of_a_renamed_endpoint_is_free(client):
    before = make_endpoint_row(client)
    modify(client, before, EndpointIdentifier=unique("renamed"))
    with fault(NOT_FOUND):
        client.describe_endpoints(Filters=filters("endpoint-id", before["EndpointIdentifier"]))
    make_endpoint_row(client, EndpointIdentifier=before["EndpointIdentifier"])


def test_modify_can_change_the_engine_within_its_family(client):
    endpoint = modify(client, make_endpoint_row(client, "mysql"), EngineName="mariadb")
    assert (endpoint["EngineName"], endpoint["EngineDisplayName"]) == ("mariadb", "MariaDB")


def test_an_endpoint_cannot_take_the_name_of_another(client):
    other, endpoint = make_endpoint_row(client)["EndpointIdentifier"], make_endpoint_row(client)
    with fault(ALREADY_EXISTS, f'ReplicationEndpoint "{other}" already in use'):
        modify(client, endpoint, EndpointIdentifier=other)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"EndpointIdentifier": "a--b"}, "EndpointIdentifier"),
        ({"EndpointType": "sideways"}, "EndpointType"),
        ({"EngineName": "cassandra"}, "Invalid engine name: cassandra"),
        ({"Port": 0}, "port"),
        ({"Port": 65536}, "port"),
        ({"ServerName": ""}, "serverName"),
        ({"SslMode": "prefer"}, "SslMode"),
        ({"MySQLSettings": {"TargetDbType": "many-databases"}}, "TargetDbType"),
    ],
)
def test_a_bad_change_is_refused_and_changes_nothing(client, change, named):
    before = make_endpoint_row(client)
    with fault(VALUE, names=[named]):
        modify(client, before, **change)
    assert describe(client, before["EndpointArn"]) == before


# --- delete ----------------------------------------------------------------------------------------------------------


def test_delete_answers_the_whole_endpoint_and_then_it_is_gone(client):
    before = make_endpoint_row(client)
    arn = before["EndpointArn"]
    assert client.delete_endpoint(EndpointArn=arn)["Endpoint"] == before | {"Status": "deleting"}
    run_waiter(client, "endpoint_deleted", Filters=filters("endpoint-arn", arn))
    with fault(NOT_FOUND, "No Endpoints found matching provided filters"):
        client.describe_endpoints(Filters=filters("endpoint-arn", arn))
    with fault(NOT_FOUND):
        client.delete_endpoint(EndpointArn=arn)
    with fault(NOT_FOUND):
        client.list_tags_for_resource(ResourceArn=arn)
    assert client.describe_endpoints()["Endpoints"] == []


@pytest.mark.parametrize("side", ["source_arn", "target_arn"])
def test_an_endpoint_of_a_task_cannot_be_deleted(client, side):
    stage = make_stage(client)
    task = stage.ready_task()["ReplicationTaskArn"]
    with fault(STATE):
        client.delete_endpoint(EndpointArn=getattr(stage, side))
    assert describe(client, getattr(stage, side))["Status"] == "active"
    client.delete_replication_task(ReplicationTaskArn=task)
    run_waiter(client, "replication_task_deleted", Filters=filters("replication-task-arn", task))
    client.delete_endpoint(EndpointArn=getattr(stage, side))
    run_waiter(client, "endpoint_deleted", Filters=filters("endpoint-arn", getattr(stage, side)))


# --- which endpoint --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "parameters"), [("modify_endpoint", {"Port": 1}), ("delete_endpoint", {})])
def test_an_unknown_arn_is_not_found(client, account, call, parameters):
    with fault(NOT_FOUND):
        getattr(client, call)(EndpointArn=unused_arn("endpoint", account), **parameters)


@pytest.mark.parametrize(("call", "parameters"), [("modify_endpoint", {"Port": 1}), ("delete_endpoint", {})])
def test_what_is_no_arn_is_an_invalid_value(client, call, parameters):
    with fault(VALUE, "Invalid value TBD for EndpointArn"):
        getattr(client, call)(EndpointArn="TBD", **parameters)


# --- while a task runs -----------------------------------------------------------------------------------------------


def test_an_endpoint_of_a_running_task_cannot_be_modified_or_deleted(dms, databases, make_endpoint, make_task):
    with running_task(databases, make_endpoint, make_task) as task:
        for arn in (task.describe()["SourceEndpointArn"], task.describe()["TargetEndpointArn"]):
            before = describe(dms, arn)
            with fault(STATE):
                dms.modify_endpoint(EndpointArn=arn, Port=1)
            with fault(STATE):
                dms.delete_endpoint(EndpointArn=arn)
            assert describe(dms, arn) == before
