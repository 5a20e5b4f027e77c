"""The protocol itself: awsJson 1.1 over HTTP, without an SDK in between."""

import json
import re
import resource
import socket
import subprocess
import sys
import urllib.parse
import uuid

import botocore
import pytest
from conftest import ROOT, create_replication_instance, unique

import wire
from faults import ALREADY_EXISTS, NOT_BUILT, NOT_FOUND, VALUE, fault
from resources import endpoint_parameters, make_endpoint_row, make_stage, make_subnet_group, random_account, unused_arn

BUILT = """
    CreateReplicationInstance DescribeReplicationInstances ModifyReplicationInstance DeleteReplicationInstance
    RebootReplicationInstance DescribeOrderableReplicationInstances DescribeEngineVersions
    CreateReplicationSubnetGroup DescribeReplicationSubnetGroups ModifyReplicationSubnetGroup
    DeleteReplicationSubnetGroup CreateEndpoint DescribeEndpoints ModifyEndpoint DeleteEndpoint DescribeEndpointTypes
    DescribeEndpointSettings TestConnection DescribeConnections DeleteConnection RefreshSchemas
    DescribeRefreshSchemasStatus DescribeSchemas CreateReplicationTask DescribeReplicationTasks ModifyReplicationTask
    DeleteReplicationTask StartReplicationTask StopReplicationTask DescribeTableStatistics ReloadTables
    DescribeEvents DescribeEventCategories
    AddTagsToResource RemoveTagsFromResource ListTagsForResource DescribeAccountAttributes
""".split()

NOT_YET_BUILT = sorted(set(wire.model().operation_names) - set(BUILT))

BODY_BYTES_MAX = 10 * 1024 * 1024


def required_members():
    for operation in BUILT:
        shape = wire.model().operation_model(operation).input_shape
        for member in shape.required_members:
            yield operation, member


# --- the model -------------------------------------------------------------------------------------------------------


def test_the_model_is_the_one_of_the_pinned_botocore():
    requirements = (ROOT / "compat-tests" / "requirements.txt").read_text()
    pinned = re.search(r"^botocore==(\S+)$", requirements, re.MULTILINE).group(1)
    assert botocore.__version__ == pinned, f"install botocore {pinned}, or pin {botocore.__version__} and refresh the model"
    check = [sys.executable, str(ROOT / "smithy-models" / "generate.py"), "--check"]
    outcome = subprocess.run(check, capture_output=True, text=True, timeout=60)
    assert outcome.returncode == 0, outcome.stderr


# --- the frame -------------------------------------------------------------------------------------------------------


def assert_frame(answer):
    assert answer.headers["content-type"] == wire.CONTENT_TYPE
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert uuid.UUID(answer.headers["x-amzn-requestid"])
    assert answer.headers["date"].endswith("GMT")


def test_a_success_has_the_headers_of_the_protocol(server):
    answer = wire.call(server, "DescribeAccountAttributes", {})
    assert answer.status == 200
    assert_frame(answer)
    assert isinstance(answer.json, dict)


def test_a_fault_has_the_headers_of_the_protocol(server):
    answer = wire.call(server, "DeleteEndpoint", {"EndpointArn": unused_arn("endpoint")})
    assert answer.status == 400
    assert_frame(answer)


def test_every_answer_has_a_request_id_of_its_own(server):
    ids = {wire.call(server, "DescribeEndpointTypes", {}).headers["x-amzn-requestid"] for _ in range(20)}
    assert len(ids) == 20


def test_a_fault_is_its_short_code_and_a_message(server):
    answer = wire.call(server, "DeleteEndpoint", {"EndpointArn": unused_arn("endpoint")})
    assert answer.json.keys() == {"__type", "message"}
    assert answer.code == NOT_FOUND
    assert isinstance(answer.json["message"], str) and answer.json["message"]


@pytest.mark.parametrize("again", ["EndpointIdentifier", "ResourceIdentifier"])
def test_a_taken_name_comes_with_the_arn_of_its_holder(server, again):
    account = random_account()
    given = endpoint_parameters() | {"ResourceIdentifier": "first"}
    arn = wire.call(server, "CreateEndpoint", given, account=account).json["Endpoint"]["EndpointArn"]
    other = endpoint_parameters() | {"ResourceIdentifier": "second", again: given[again]}
    answer = wire.call(server, "CreateEndpoint", other, account=account)
    assert (answer.status, answer.code) == (400, ALREADY_EXISTS)
    assert answer.json["resourceArn"] == arn
    assert f'"{given[again]}"' in answer.json["message"]


def test_a_connection_carries_many_calls(server):
    connection = wire.connect(server)
    for expected in (200, 400, 200):
        request = {"EndpointArn": unused_arn("endpoint")} if expected == 400 else {}
        operation = "DeleteEndpoint" if expected == 400 else "DescribeEndpointTypes"
        connection.request("POST", "/", body=json.dumps(request), headers=wire.headers_for(operation))
        assert wire.answer_of(connection).status == expected
    connection.close()


# --- what does not parse ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [b"{", b"}", b"nonsense", b"[]", b'"text"', b"7", b'{"MaxRecords":}', b"{'MaxRecords':20}", b'{"Marker":"\xff"}',
     b'{} {}', b'{"Marker":"\\ud800"}', b"[" * 200_000, b'{"a":' * 200_000],
    ids=lambda body: body[:20].decode(errors="replace"),
)  # fmt: skip
def test_a_body_that_is_no_json_object_is_a_serialization_exception(server, body):
    answer = wire.call(server, "DescribeEndpoints", body)
    assert (answer.status, answer.code) == (400, "SerializationException")
    assert_frame(answer)


@pytest.mark.parametrize(
    ("operation", "request_"),
    [
        ("DescribeEndpoints", {"MaxRecords": "20"}),
        ("DescribeEndpoints", {"MaxRecords": 20.5}),
        ("DescribeEndpoints", {"MaxRecords": True}),
        ("DescribeEndpoints", {"MaxRecords": 2**31}),
        ("DescribeEndpoints", {"MaxRecords": [20]}),
        ("DescribeEndpoints", {"Marker": 7}),
        ("DescribeEndpoints", {"Filters": {"Name": "endpoint-id", "Values": ["a"]}}),
        ("DescribeEndpoints", {"Filters": ["endpoint-id"]}),
        ("DescribeEndpoints", {"Filters": [{"Name": "endpoint-id", "Values": "a"}]}),
        ("DescribeEndpoints", {"Filters": [{"Name": "endpoint-id", "Values": [7]}]}),
        ("DescribeReplicationTasks", {"WithoutSettings": "yes"}),
        ("CreateReplicationTask", {"CdcStartTime": {}}),
        ("CreateEndpoint", {"MySQLSettings": []}),
        ("CreateEndpoint", {"MySQLSettings": {"EventsPollInterval": "5"}}),
    ],
)
def test_a_value_of_the_wrong_type_is_a_serialization_exception(server, operation, request_):
    answer = wire.call(server, operation, request_)
    assert (answer.status, answer.code) == (400, "SerializationException")


def test_a_null_counts_as_not_given(server):
    account = random_account()
    answer = wire.call(
        server, "DescribeEndpoints", {"MaxRecords": None, "Filters": None, "Marker": None}, account=account
    )
    assert (answer.status, answer.json) == (200, {"Endpoints": []})


def test_members_unknown_to_the_model_are_ignored(server):
    answer = wire.call(server, "DescribeEndpoints", {"Colour": "green", "Nested": {"a": [1]}}, account=random_account())
    assert (answer.status, answer.json) == (200, {"Endpoints": []})


@pytest.mark.parametrize(("operation", "member"), list(required_members()))
def test_a_missing_required_member_is_refused_and_named(server, operation, member):
    shape = wire.model().operation_model(operation).input_shape
    request = wire.smallest(shape)
    del request[member]
    answer = wire.call(server, operation, request, account=random_account())
    assert answer.status == 400
    # No recording of DMS shows which: SDKs do not send such a request.
    assert answer.code in (VALUE, "ValidationException")
    assert member.lower() in answer.json["message"].lower()


# --- which operation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", [None, "", "DescribeEndpoints", f"{wire.TARGET}.", f"{wire.TARGET}.describeEndpoints",
               f"{wire.TARGET}.DescribeWeather", "DynamoDB_20120810.DescribeEndpoints"],
)  # fmt: skip
def test_an_unknown_target_is_an_unknown_operation(server, target):
    headers = wire.headers_for("DescribeEndpoints")
    del headers["X-Amz-Target"]
    if target is not None:
        headers["X-Amz-Target"] = target
    answer = wire.send(server, b"{}", headers)
    # The documentation says 404, services of this kind answer 400; DMS was not recorded.
    assert answer.status in (400, 404)
    assert answer.code == "UnknownOperationException"
    assert_frame(answer)


def test_the_operations_of_the_model_are_split_into_built_and_not_yet():
    assert len(BUILT) == len(set(BUILT)) == 37
    assert set(BUILT) < set(wire.model().operation_names)


@pytest.mark.parametrize("operation", NOT_YET_BUILT)
def test_an_operation_that_is_not_built_says_so(server, operation):
    shape = wire.model().operation_model(operation).input_shape
    answer = wire.call(server, operation, wire.smallest(shape) if shape else {})
    assert (answer.status, answer.code) == (501, NOT_BUILT)
    assert operation in answer.json["message"]
    assert_frame(answer)


def test_an_sdk_shows_the_code_of_an_operation_that_is_not_built(dms):
    with fault(NOT_BUILT, names=["DescribeCertificates"]):
        dms.describe_certificates()


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("PUT", "/"), ("DELETE", "/"), ("POST", "/elsewhere")])
def test_other_methods_and_paths_are_client_errors(server, method, path):
    answer = wire.send(server, b"{}", wire.headers_for("DescribeEndpoints"), method=method, path=path)
    assert 400 <= answer.status < 500


# --- limits ----------------------------------------------------------------------------------------------------------


def test_a_body_within_the_limit_is_read(server):
    request = {"Ignored": "x" * (BODY_BYTES_MAX - 1000)}
    assert wire.call(server, "DescribeEndpointTypes", request).status == 200


def test_a_body_over_the_limit_is_refused_without_being_read(server):
    connection = wire.connect(server)
    connection.putrequest("POST", "/")
    for name, value in wire.headers_for("DescribeEndpoints").items():
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(BODY_BYTES_MAX + 1))
    connection.endheaders(b'{"Marker":"')  # The rest is never sent: the refusal must not wait for it.
    answer = wire.answer_of(connection)
    connection.close()
    assert answer.status == 413
    assert answer.code.startswith("RequestEntityTooLarge")


def test_a_chunked_body_over_the_limit_is_refused(server):
    connection = wire.connect(server)
    chunks = (b"x" * 65536 for _ in range(BODY_BYTES_MAX // 65536 + 16))
    try:
        connection.request("POST", "/", body=chunks, headers=wire.headers_for("DescribeEndpoints"), encode_chunked=True)
    except (BrokenPipeError, ConnectionResetError):
        pass  # The server stopped reading; its answer is still there.
    answer = wire.answer_of(connection)
    connection.close()
    assert answer.status == 413


def test_ten_thousand_idle_connections_do_not_hurt(server):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard > 10_100, "this test needs `ulimit -Hn` above 10,100"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    url = urllib.parse.urlsplit(server.url)
    idle = []
    try:
        for _ in range(10_000):
            idle.append(socket.create_connection((url.hostname, url.port), timeout=10))
        assert wire.call(server, "DescribeEndpointTypes", {}).status == 200
        assert server.rss_mib() < 500
    finally:
        for connection in idle:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert wire.call(server, "DescribeEndpointTypes", {}).status == 200


# --- accounts and regions --------------------------------------------------------------------------------------------


def test_an_access_key_id_of_twelve_digits_is_the_account(make_client):
    account = random_account()
    endpoint = make_endpoint_row(make_client(account=account))
    assert endpoint["EndpointArn"].startswith(f"arn:aws:dms:us-east-1:{account}:endpoint:")


@pytest.mark.parametrize("key", ["test", "AKIAIOSFODNN7EXAMPLE", "12345678901", "1234567890123", "12345678901a"])
def test_any_other_access_key_id_is_the_configured_account(make_client, key):
    endpoint = make_endpoint_row(make_client(account=key))
    assert endpoint["EndpointArn"].startswith("arn:aws:dms:us-east-1:123456789012:endpoint:")


def test_the_configured_account_and_region_come_from_the_flags(make_server):
    server = make_server("--account-id", "210987654321", "--region", "eu-north-1")
    headers = {"X-Amz-Target": f"{wire.TARGET}.CreateEndpoint", "Content-Type": wire.CONTENT_TYPE}
    answer = wire.send(server, json.dumps(endpoint_parameters()), headers)
    assert answer.status == 200
    assert answer.json["Endpoint"]["EndpointArn"].startswith("arn:aws:dms:eu-north-1:210987654321:endpoint:")


def test_the_region_comes_from_the_credential_scope(make_client):
    account = random_account()
    client = make_client(account=account, region="ap-southeast-2")
    instance = create_replication_instance(client)
    assert instance["ReplicationInstanceArn"].startswith(f"arn:aws:dms:ap-southeast-2:{account}:rep:")
    assert instance["AvailabilityZone"].startswith("ap-southeast-2")
    assert f":ap-southeast-2:{account}:" in instance["KmsKeyId"]


def test_accounts_and_regions_do_not_see_each_other(make_client):
    account = random_account()
    here = make_client(account=account)
    elsewhere = [make_client(account=random_account()), make_client(account=account, region="eu-west-1")]
    parameters = endpoint_parameters()
    arn = here.create_endpoint(**parameters)["Endpoint"]["EndpointArn"]
    for client in elsewhere:
        assert client.describe_endpoints()["Endpoints"] == []
        with fault(NOT_FOUND):
            client.delete_endpoint(EndpointArn=arn)
        with fault(NOT_FOUND):
            client.list_tags_for_resource(ResourceArn=arn)
        # The identifier is free there.
        assert client.create_endpoint(**parameters)["Endpoint"]["EndpointArn"] != arn
    assert [endpoint["EndpointArn"] for endpoint in here.describe_endpoints()["Endpoints"]] == [arn]


# --- what answers look like ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inhabited(server, make_client):
    """An account with one resource of every kind."""
    account = random_account()
    client = make_client(account=account)
    group = make_subnet_group(client)["ReplicationSubnetGroupIdentifier"]
    stage = make_stage(client)
    create_replication_instance(client, ReplicationSubnetGroupIdentifier=group, MultiAZ=True)
    task = stage.ready_task()["ReplicationTaskArn"]
    client.test_connection(ReplicationInstanceArn=stage.instance_arn, EndpointArn=stage.source_arn)
    client.refresh_schemas(ReplicationInstanceArn=stage.instance_arn, EndpointArn=stage.source_arn)
    client.add_tags_to_resource(ResourceArn=task, Tags=[{"Key": "a", "Value": "b"}])
    requests = {
        "DescribeRefreshSchemasStatus": {"EndpointArn": stage.source_arn},
        "DescribeTableStatistics": {"ReplicationTaskArn": task},
        "DescribeEndpointSettings": {"EngineName": "postgres"},
        "ListTagsForResource": {"ResourceArn": task},
    }
    return account, requests


READING = [
    "DescribeReplicationInstances", "DescribeReplicationSubnetGroups", "DescribeEndpoints", "DescribeConnections",
    "DescribeReplicationTasks", "DescribeRefreshSchemasStatus", "DescribeTableStatistics", "ListTagsForResource",
    "DescribeOrderableReplicationInstances", "DescribeEngineVersions", "DescribeEndpointTypes",
    "DescribeEndpointSettings", "DescribeAccountAttributes",
]  # fmt: skip


@pytest.mark.parametrize("operation", READING)
def test_answers_agree_with_the_model_and_hold_no_nulls(server, inhabited, operation):
    account, requests = inhabited
    answer = wire.call(server, operation, requests.get(operation, {}), account=account)
    assert answer.status == 200
    assert list(wire.disagreements(answer.json, wire.model().operation_model(operation).output_shape)) == []


def test_every_kind_of_resource_is_in_the_answers_looked_at(server, inhabited):
    account, requests = inhabited
    for operation in READING[:5]:
        rows = [
            rows for name, rows in wire.call(server, operation, {}, account=account).json.items() if name != "Marker"
        ]
        assert rows[0], operation


def test_timestamps_are_epoch_seconds_with_up_to_three_decimals(server, inhabited):
    account, _ = inhabited
    instances = wire.call(server, "DescribeReplicationInstances", {}, account=account).body.decode()
    tasks = wire.call(server, "DescribeReplicationTasks", {}, account=account).body.decode()
    found = re.findall(r'"(?:InstanceCreateTime|ReplicationTaskCreationDate)"\s*:\s*([^,}\s]+)', instances + tasks)
    assert len(found) == 3
    for text in found:
        assert re.fullmatch(r"1\d{9}(\.\d{1,3})?", text), text


def test_no_describe_shows_tags(server, inhabited):
    account, requests = inhabited
    for operation in READING[:5]:
        answer = wire.call(server, operation, requests.get(operation, {}), account=account)
        assert "Tag" not in answer.body.decode()


# --- the server's own paths ------------------------------------------------------------------------------------------


def test_health_answers_json(server):
    answer = wire.send(server, None, method="GET", path="/_dms-local/health")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("application/json")
    assert isinstance(answer.json, dict) and answer.json


def test_reset_empties_every_account(make_server, make_client):
    server = make_server()  # Its own: others may still need what the shared one holds.
    clients = [make_client(random_account(), region, server.url) for region in ("us-east-1", "eu-west-1")]
    for client in clients:
        make_stage(client).ready_task()
    server.reset()
    for client in clients:
        assert client.describe_replication_tasks()["ReplicationTasks"] == []
        assert client.describe_endpoints()["Endpoints"] == []
        assert client.describe_replication_instances()["ReplicationInstances"] == []


def test_reset_is_not_a_get(server, make_client):
    client = make_client(account=random_account())
    make_endpoint_row(client, EndpointIdentifier=unique("kept"))
    assert wire.send(server, None, method="GET", path="/_dms-local/reset").status in (404, 405)
    assert len(client.describe_endpoints()["Endpoints"]) == 1
