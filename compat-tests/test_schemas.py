"""RefreshSchemas, DescribeRefreshSchemasStatus, DescribeSchemas."""

import datetime

import pytest
from conftest import create_replication_instance, unique, wait_until

from faults import NOT_FOUND, STATE, VALUE, fault
from resources import closed_port, make_endpoint_row, make_stage, random_account, unused_arn


@pytest.fixture
def client(make_client):
    return make_client(account=random_account())


@pytest.fixture
def instance(client):
    return create_replication_instance(client)["ReplicationInstanceArn"]


def endpoint_at(client, database, **changes):
    given = database.endpoint("source") | changes
    return make_endpoint_row(client, given.pop("EngineName"), given.pop("EndpointType"), **given)["EndpointArn"]


def refreshed(client, instance, endpoint):
    """Refreshes the schemas of an endpoint to the end; the status."""
    client.refresh_schemas(ReplicationInstanceArn=instance, EndpointArn=endpoint)

    def ended():
        status = client.describe_refresh_schemas_status(EndpointArn=endpoint)["RefreshSchemasStatus"]
        return status if status["Status"] != "refreshing" else None

    return wait_until(ended, "the schemas are refreshed", 60)


def schemas(client, endpoint):
    pages = client.get_paginator("describe_schemas").paginate(EndpointArn=endpoint)
    return [schema for page in pages for schema in page["Schemas"]]


def test_refresh_answers_a_refresh_under_way(client):
    stage = make_stage(client)
    answer = client.refresh_schemas(ReplicationInstanceArn=stage.instance_arn, EndpointArn=stage.source_arn)
    status = answer["RefreshSchemasStatus"]
    assert status["Status"] == "refreshing"
    assert status["EndpointArn"] == stage.source_arn
    assert status["ReplicationInstanceArn"] == stage.instance_arn
    assert "LastFailureMessage" not in status


def test_a_refresh_that_cannot_connect_fails_and_says_why(client, instance):
    endpoint = make_endpoint_row(client, Port=closed_port())["EndpointArn"]
    status = refreshed(client, instance, endpoint)
    assert status["Status"] == "failed"
    assert "refused" in status["LastFailureMessage"].lower()


def test_a_successful_refresh_has_a_date_and_no_failure(client, instance, databases):
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1)
    endpoint = endpoint_at(client, databases.pg_source)
    status = refreshed(client, instance, endpoint)
    assert status["Status"] == "successful"
    assert (status["EndpointArn"], status["ReplicationInstanceArn"]) == (endpoint, instance)
    assert before <= status["LastRefreshDate"] <= datetime.datetime.now(datetime.UTC)
    assert "LastFailureMessage" not in status


def test_schemas_of_postgresql_are_those_of_the_database(client, instance, databases):
    database = databases.new(databases.pg_source)
    database.execute('CREATE SCHEMA "Zoo"', "CREATE SCHEMA apples", 'CREATE SCHEMA "müsli & more"')
    endpoint = endpoint_at(client, database)
    assert refreshed(client, instance, endpoint)["Status"] == "successful"
    found = schemas(client, endpoint)
    assert sorted(found) == sorted(["Zoo", "apples", "müsli & more", "public"])


def test_schemas_of_mariadb_are_its_databases(client, instance, databases):
    new = [databases.new(databases.maria_source).database for _ in range(2)]
    endpoint = endpoint_at(client, databases.maria_source)
    assert refreshed(client, instance, endpoint)["Status"] == "successful"
    found = set(schemas(client, endpoint))
    assert set(new) <= found
    assert not found & {"information_schema", "performance_schema", "mysql", "sys"}


def test_schemas_are_those_of_the_last_refresh(client, instance, databases):
    database = databases.new(databases.pg_source)
    endpoint = endpoint_at(client, database)
    refreshed(client, instance, endpoint)
    database.execute("CREATE SCHEMA later")
    assert "later" not in schemas(client, endpoint)
    refreshed(client, instance, endpoint)
    assert "later" in schemas(client, endpoint)


def test_schemas_come_in_pages(client, instance, databases):
    database = databases.new(databases.pg_source)
    names = [f"schema_{number:02}" for number in range(45)]
    database.execute(*(f"CREATE SCHEMA {name}" for name in names))
    endpoint = endpoint_at(client, database)
    refreshed(client, instance, endpoint)
    first = client.describe_schemas(EndpointArn=endpoint, MaxRecords=20)
    assert len(first["Schemas"]) == 20
    second = client.describe_schemas(EndpointArn=endpoint, MaxRecords=20, Marker=first["Marker"])
    third = client.describe_schemas(EndpointArn=endpoint, MaxRecords=20, Marker=second["Marker"])
    assert "Marker" not in third
    assert sorted(first["Schemas"] + second["Schemas"] + third["Schemas"]) == sorted([*names, "public"])


@pytest.mark.parametrize("call", ["describe_schemas", "describe_refresh_schemas_status"])
def test_an_endpoint_that_was_never_refreshed_has_nothing_to_show(client, call):
    endpoint = make_endpoint_row(client)["EndpointArn"]
    # Which of the two AWS answers was not recorded.
    with fault((NOT_FOUND, STATE)):
        getattr(client, call)(EndpointArn=endpoint)


@pytest.mark.parametrize("call", ["describe_schemas", "describe_refresh_schemas_status"])
def test_an_unknown_endpoint_is_not_found(client, call):
    with fault(NOT_FOUND):
        getattr(client, call)(EndpointArn=unused_arn("endpoint"))


@pytest.mark.parametrize("call", ["describe_schemas", "describe_refresh_schemas_status"])
def test_what_is_no_arn_is_an_invalid_value(client, call):
    with fault(VALUE, "Invalid value TBD for EndpointArn"):
        getattr(client, call)(EndpointArn="TBD")


def test_the_status_of_a_deleted_endpoint_is_gone(client, instance):
    endpoint = make_endpoint_row(client, EndpointIdentifier=unique("gone"), Port=closed_port())["EndpointArn"]
    refreshed(client, instance, endpoint)
    client.delete_endpoint(EndpointArn=endpoint)
    with fault((NOT_FOUND, STATE)):
        client.describe_refresh_schemas_status(EndpointArn=endpoint)
