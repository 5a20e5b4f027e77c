"""Replication tasks: their documents, states and refusals. What a task moves is tested elsewhere."""

import copy
import datetime
import json
import pathlib
import re

import pytest
from conftest import create_replication_instance, filters, include, run_waiter, unique, wait_until

from faults import ALREADY_EXISTS, COMBINATION, IDENTIFIER_RULE, NOT_BUILT, NOT_FOUND, REFUSED, STATE, VALUE, fault
from resources import (  # fmt: skip
    RANDOM_ID,
    describe_task,
    list_tags,
    make_endpoint_row,
    make_stage,
    random_account,
    running_task,
    selection,
    unused_arn,
)

DEFAULT_SETTINGS = json.loads((pathlib.Path(__file__).parent / "default_task_settings.json").read_text())

NO_TABLES = (
    "Last Error  No tables were found at task initialization. Either the selected table(s) or schemas(s) no longer exist"
    " or no match was found for the table selection pattern(s). If you would like to start a Task that does not initially"
    " capture any tables, set Task Setting FailOnNoTablesCaptured to false and restart task."
    " Stop Reason FATAL_ERROR Error Level FATAL"
)
STARTED_BEFORE = "Start Type : START_REPLICATION, valid only for tasks running for the first time"


@pytest.fixture(scope="module")
def account():
    return random_account()


@pytest.fixture(scope="module")
def client(make_client, account):
    return make_client(account=account)


@pytest.fixture(scope="module")
def stage(client):
    """An instance and two endpoints nobody answers at. Tests only add tasks."""
    return make_stage(client)


def settings_of(task):
    return json.loads(task["ReplicationTaskSettings"])


def merged(document, changes):
    """The document with nested members replaced."""
    result = copy.deepcopy(document)
    for name, value in changes.items():
        result[name] = merged(result[name], value) if isinstance(value, dict) and result.get(name) else value
    return result


# --- create ----------------------------------------------------------------------------------------------------------


def test_create_answers_the_task_being_created(stage, account):
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1)
    given = stage.task_parameters()
    task = stage.client.create_replication_task(**given)["ReplicationTask"]
    assert task.pop("ReplicationTaskSettings")
    assert before <= task.pop("ReplicationTaskCreationDate") <= datetime.datetime.now(datetime.UTC)
    assert re.fullmatch(f"arn:aws:dms:us-east-1:{account}:task:{RANDOM_ID}", task.pop("ReplicationTaskArn"))
    assert task == given | {"Status": "creating"}


def test_a_task_that_is_ready_has_not_run(stage):
    task = stage.ready_task()
    assert task["Status"] == "ready"
    assert not {"StopReason", "LastFailureMessage", "ReplicationTaskStartDate", "RecoveryCheckpoint"} & task.keys()


def test_table_mappings_are_echoed_to_the_letter(stage):
    mappings = '{ "rules" :\n [ ' + json.dumps(selection("a%", "_b")) + " ]\t}\n"
    assert stage.ready_task(TableMappings=mappings)["TableMappings"] == mappings


def test_task_data_is_echoed(stage):
    assert stage.ready_task(TaskData='{"a": 1}')["TaskData"] == '{"a": 1}'


def test_the_identifier_is_stored_in_lower_case_and_the_resource_identifier_as_given(stage, account):
    identifier, resource = unique("Mixed-Case"), unique("App-ARN")
    task = stage.create_task(ReplicationTaskIdentifier=identifier, ResourceIdentifier=resource)
    assert task["ReplicationTaskIdentifier"] == identifier.lower()
    assert task["ReplicationTaskArn"] == f"arn:aws:dms:us-east-1:{account}:task:{resource}"


def test_tags_given_at_create_are_on_the_task(stage):
    task = stage.create_task(Tags=[{"Key": "team", "Value": "data"}])
    assert list_tags(stage.client, task["ReplicationTaskArn"]) == {"team": "data"}


def test_an_identifier_in_use_is_refused_in_any_case(stage):
    identifier = stage.create_task()["ReplicationTaskIdentifier"]
    with fault(ALREADY_EXISTS, names=[identifier, "already in use"]):
        stage.create_task(ReplicationTaskIdentifier=identifier.upper())


def test_a_resource_identifier_in_use_is_refused(stage):
    taken = unique("taken")
    stage.create_task(ResourceIdentifier=taken)
    with fault(ALREADY_EXISTS, f'ReplicationTask "{taken}" already in use'):
        stage.create_task(ResourceIdentifier=taken)


@pytest.mark.parametrize("identifier", ["1abc", "-abc", "a--b", "abc-", "a_b", "a b", "a.b", "grün"])
def test_an_identifier_that_breaks_the_rule_is_refused(stage, identifier):
    with fault(VALUE, IDENTIFIER_RULE.format(what="ReplicationTaskIdentifier")):
        stage.create_task(ReplicationTaskIdentifier=identifier)


@pytest.mark.parametrize("identifier", ["", "a" * 256])
def test_an_identifier_of_a_wrong_length_is_refused(stage, identifier):
    with fault(VALUE, names=["ReplicationTaskIdentifier"]):
        stage.create_task(ReplicationTaskIdentifier=identifier)


@pytest.mark.parametrize("identifier", ["a" * 32, "1a", "a--b", "a-", "a_b"])
def test_a_bad_resource_identifier_is_refused(stage, identifier):
    with fault(VALUE, names=["ResourceIdentifier"]):
        stage.create_task(ResourceIdentifier=identifier)


@pytest.mark.parametrize(
    ("member", "kind"),
    [("SourceEndpointArn", "endpoint"), ("TargetEndpointArn", "endpoint"), ("ReplicationInstanceArn", "rep")],
)
def test_unknown_parts_are_not_found(stage, account, member, kind):
    with fault(NOT_FOUND):
        stage.create_task(**{member: unused_arn(kind, account)})


@pytest.mark.parametrize("member", ["SourceEndpointArn", "TargetEndpointArn", "ReplicationInstanceArn"])
def test_what_is_no_arn_is_an_invalid_value(stage, member):
    with fault(VALUE, f"Invalid value TBD for {member}"):
        stage.create_task(**{member: "TBD"})


def test_a_target_is_no_source_and_a_source_no_target(stage):
    with fault(VALUE, re.compile("must be of type SOURCE")):
        stage.create_task(SourceEndpointArn=stage.target_arn, TargetEndpointArn=stage.source_arn)
    with fault(VALUE, re.compile("must be of type TARGET")):
        stage.create_task(TargetEndpointArn=stage.source_arn)


@pytest.mark.parametrize("kind", ["full-loading", ""])
def test_an_unknown_migration_type_is_refused(stage, kind):
    with fault(VALUE, names=["MigrationType"]):
        stage.create_task(MigrationType=kind)


@pytest.mark.parametrize("kind", ["full-load", "cdc", "full-load-and-cdc"])
def test_a_task_is_of_the_migration_type_that_was_asked(stage, kind):
    created = stage.create_task(MigrationType=kind)
    assert created["MigrationType"] == kind
    assert describe_task(stage.client, created["ReplicationTaskArn"])["MigrationType"] == kind


# --- table mappings --------------------------------------------------------------------------------------------------


def rules(*several):
    return json.dumps({"rules": list(several)})


def changed(rule, **changes):
    result = rule | {name.replace("_", "-"): value for name, value in changes.items()}
    return {name: value for name, value in result.items() if value is not None}


SELECT = selection("shop")
RENAME = {
    "rule-type": "transformation", "rule-id": "2", "rule-name": "2", "rule-action": "rename", "rule-target": "schema",
    "object-locator": {"schema-name": "shop"}, "value": "store",
}  # fmt: skip

INVALID_DOCUMENT = "invalid table mappings document"


@pytest.mark.parametrize(
    ("mappings", "named"),
    [
        ('{"rules": }', ["Invalid Table Mappings document. Invalid json"]),
        ("", []),
        ("rules", ["Invalid Table Mappings document"]),
        ('{"hello": "world"}', ["Valid Table mappings is required"]),
        ('{"rules": []}', []),
        ('{"rules": {}}', ["rules"]),
        ("[]", []),
        (rules("shop"), []),
        (rules(changed(SELECT, rule_type="select")), [INVALID_DOCUMENT, "rule-type"]),
        (rules(SELECT, changed(SELECT, rule_id=2, rule_type="something")), [INVALID_DOCUMENT, "rule-type"]),
        (rules(changed(SELECT, rule_action="including")), [INVALID_DOCUMENT, "rule-action"]),
        (rules(changed(SELECT, rule_type=None)), ["rule-type"]),
        (rules(changed(SELECT, rule_id=None)), ["rule-id"]),
        (rules(changed(SELECT, rule_id="one")), ["rule-id"]),
        (
            rules(changed(SELECT, object_locator=None)),
            ["Error in mapping rules. Rule with ruleId = 1 failed validation. object locator cannot be null"],
        ),
        (rules(changed(SELECT, object_locator={"table-name": "%"})), ["schema-name"]),
        (rules(changed(SELECT, object_locator={"schema-name": "%"})), ["table-name"]),
        (rules(changed(SELECT, object_locator={"schema-name": 1, "table-name": "%"})), ["schema-name"]),
        (rules(SELECT, changed(SELECT, rule_action="exclude")), ["Error in mapping rules. Duplicate ruleid 1"]),
        (rules(SELECT, changed(RENAME, rule_target="database")), ["rule-target"]),
        (rules(SELECT, changed(RENAME, rule_action="explode")), ["rule-action"]),
        (rules(SELECT, changed(RENAME, value=None)), ["value"]),
        (rules(RENAME), []),
    ],
)
def test_bad_table_mappings_are_refused(stage, mappings, named):
    identifier = unique("task")
    with fault(VALUE, names=named):
        stage.create_task(ReplicationTaskIdentifier=identifier, TableMappings=mappings)
    # No task was left behind: the identifier is free.
    stage.create_task(ReplicationTaskIdentifier=identifier)


@pytest.mark.parametrize(
    "mappings",
    [
        rules(SELECT),
        rules(SELECT, changed(SELECT, rule_id=2, rule_action="exclude")),  # A number is fine, the name may repeat.
        rules(changed(SELECT, rule_action="explicit", object_locator={"schema-name": "shop", "table-name": "orders"})),
        rules(changed(SELECT, object_locator={"schema-name": "s[ho]%", "table-name": "_rders"})),
        rules(changed(SELECT, load_order="3")),
        rules(SELECT, RENAME),
        rules(SELECT, changed(RENAME, rule_action="convert-lowercase", value=None)),
        rules(
            SELECT,
            changed(
                RENAME, rule_action="add-prefix", rule_target="column",
                object_locator={"schema-name": "shop", "table-name": "%", "column-name": "a%"},
            ),
        ),
        rules(
            SELECT,
            changed(
                RENAME, rule_action="remove-column", rule_target="column", value=None,
                object_locator={"schema-name": "shop", "table-name": "%", "column-name": "secret"},
            ),
        ),
    ],
)  # fmt: skip
def test_good_table_mappings_are_accepted(stage, mappings):
    assert stage.create_task(TableMappings=mappings)["TableMappings"] == mappings


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        (changed(RENAME, rule_action="add-column", rule_target="column", expression="1"), "add-column"),
        (
            {
                "rule-type": "table-settings", "rule-id": "2", "rule-name": "2",
                "object-locator": {"schema-name": "shop", "table-name": "orders"},
                "parallel-load": {"type": "partitions-auto"},
            },
            "table-settings",
        ),
    ],
)  # fmt: skip
def test_rules_that_are_not_built_say_so(stage, rule, named):
    with fault((NOT_BUILT, VALUE), names=[named]):
        stage.create_task(TableMappings=rules(SELECT, rule))


# --- settings --------------------------------------------------------------------------------------------------------


def test_the_settings_of_a_task_are_the_whole_document(stage):
    task = stage.create_task()
    assert settings_of(task) == DEFAULT_SETTINGS
    assert (
        describe_task(stage.client, task["ReplicationTaskArn"])["ReplicationTaskSettings"]
        == task["ReplicationTaskSettings"]
    )


def test_the_sections_of_the_settings_are_in_the_order_of_aws(stage):
    assert list(settings_of(stage.create_task())) == list(DEFAULT_SETTINGS)


@pytest.mark.parametrize("settings", [None, "{}"])
def test_no_settings_are_the_default_settings(stage, settings):
    given = {} if settings is None else {"ReplicationTaskSettings": settings}
    assert settings_of(stage.create_task(**given)) == DEFAULT_SETTINGS


@pytest.mark.parametrize(
    "given",
    [
        {"FullLoadSettings": {"TargetTablePrepMode": "DO_NOTHING"}},
        {"FullLoadSettings": {"CommitRate": 1, "MaxFullLoadSubTasks": 49}},
        {"TargetMetadata": {"TargetSchema": "elsewhere", "FullLobMode": True, "LimitedSizeLobMode": False}},
        {"ErrorBehavior": {"DataErrorPolicy": "STOP_TASK"}, "StreamBufferSettings": {"StreamBufferCount": 4}},
        {"ControlTablesSettings": {"ControlSchema": "control", "HistoryTimeslotInMinutes": 9, "historyTimeslotInMinutes": 9}},
        {"FailTaskWhenCleanTaskResourceFailed": True},
    ],
)
def test_settings_are_merged_into_the_default_ones(stage, given):
    task = stage.create_task(ReplicationTaskSettings=json.dumps(given))
    assert settings_of(task) == merged(DEFAULT_SETTINGS, given)


def test_the_whole_document_can_be_sent_back(stage):
    document = json.dumps(settings_of(stage.create_task()))
    assert settings_of(stage.create_task(ReplicationTaskSettings=document)) == DEFAULT_SETTINGS


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"ValidationSettings": {"EnableValidation": True}}, "ValidationSettings.EnableValidation"),
        ({"ControlTablesSettings": {"FullLoadExceptionTableEnabled": True}}, "ControlTablesSettings.FullLoadExceptionTableEnabled"),
    ],
)
def test_settings_that_are_not_built_say_so(stage, settings, path):
    with fault(NOT_BUILT, names=[path]):
        stage.create_task(ReplicationTaskSettings=json.dumps(settings))


def test_logging_fills_in_the_names_of_group_and_stream(stage):
    task = stage.create_task(ReplicationTaskSettings='{"Logging": {"EnableLogging": true}}')
    logging = settings_of(task)["Logging"]
    task_id = task["ReplicationTaskArn"].rsplit(":", 1)[1]
    assert logging["EnableLogging"] is True
    assert logging["CloudWatchLogGroup"] == f"dms-tasks-{stage.instance['ReplicationInstanceIdentifier']}"
    assert logging["CloudWatchLogStream"] == f"dms-task-{task_id}"
    assert logging["LogComponents"] == DEFAULT_SETTINGS["Logging"]["LogComponents"]


def test_the_severity_of_one_log_component_can_be_set(stage):
    component = {"Id": "SOURCE_UNLOAD", "Severity": "LOGGER_SEVERITY_DEBUG"}
    given = {"Logging": {"EnableLogging": True, "LogComponents": [component]}}
    components = settings_of(stage.create_task(ReplicationTaskSettings=json.dumps(given)))["Logging"]["LogComponents"]
    severities = {row["Id"]: row["Severity"] for row in components}
    assert severities.pop("SOURCE_UNLOAD") == "LOGGER_SEVERITY_DEBUG"
    assert set(severities.values()) == {"LOGGER_SEVERITY_DEFAULT"}
    assert len(severities) == len(DEFAULT_SETTINGS["Logging"]["LogComponents"]) - 1


@pytest.mark.parametrize("settings", ["{", "FullLoadSettings", '{"FullLoadSettings": }', "[]", '"text"', "7"])
def test_settings_that_are_no_document_are_refused(stage, settings):
    with fault(VALUE, re.compile("^Invalid task settings JSON")):
        stage.create_task(ReplicationTaskSettings=settings)


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"Nonsense": {}}, "Nonsense"),
        ({"fullLoadSettings": {}}, "fullLoadSettings"),
        ({"FullLoadSettings": []}, "FullLoadSettings"),
        ({"FullLoadSettings": {"CommitRat": 1}}, "FullLoadSettings.CommitRat"),
        ({"FullLoadSettings": {"CommitRate": "many"}}, "FullLoadSettings.CommitRate"),
        ({"FullLoadSettings": {"CommitRate": 1.5}}, "FullLoadSettings.CommitRate"),
        ({"FullLoadSettings": {"CommitRate": -1}}, "FullLoadSettings.CommitRate"),
        ({"FullLoadSettings": {"MaxFullLoadSubTasks": 0}}, "FullLoadSettings.MaxFullLoadSubTasks"),
        ({"FullLoadSettings": {"MaxFullLoadSubTasks": 50}}, "FullLoadSettings.MaxFullLoadSubTasks"),
        ({"FullLoadSettings": {"CreatePkAfterFullLoad": "perhaps"}}, "FullLoadSettings.CreatePkAfterFullLoad"),
        ({"FullLoadSettings": {"TargetTablePrepMode": "DROP"}}, "FullLoadSettings.TargetTablePrepMode"),
        ({"TargetMetadata": {"TargetSchema": 7}}, "TargetMetadata.TargetSchema"),
        ({"TargetMetadata": {"LobMaxSize": -1}}, "TargetMetadata.LobMaxSize"),
        ({"ErrorBehavior": {"DataErrorPolicy": "SHRUG"}}, "ErrorBehavior.DataErrorPolicy"),
        ({"ErrorBehavior": {"DataErrorEscalationCount": "0x"}}, "ErrorBehavior.DataErrorEscalationCount"),
        ({"Logging": {"EnableLogging": True, "LogComponents": {}}}, "Logging.LogComponents"),
        (
            {"Logging": {"LogComponents": [{"Id": "NO_SUCH", "Severity": "LOGGER_SEVERITY_DEBUG"}]}},
            "Logging.LogComponents",
        ),
        ({"Logging": {"LogComponents": [{"Id": "SORTER", "Severity": "LOUD"}]}}, "Logging.LogComponents"),
    ],
)
def test_a_bad_setting_is_refused_with_its_path(stage, settings, path):
    identifier = unique("task")
    with fault(VALUE, re.compile(re.escape(path))):
        stage.create_task(ReplicationTaskIdentifier=identifier, ReplicationTaskSettings=json.dumps(settings))
    stage.create_task(ReplicationTaskIdentifier=identifier)


@pytest.mark.parametrize("member", ["CloudWatchLogGroup", "CloudWatchLogStream"])
def test_the_names_of_group_and_stream_cannot_be_chosen(stage, member):
    with fault(VALUE, "Task Settings CloudWatchLogGroup or CloudWatchLogStream cannot be set on create."):
        stage.create_task(ReplicationTaskSettings=json.dumps({"Logging": {"EnableLogging": True, member: "mine"}}))


def test_log_context_needs_logging(stage):
    text = "The parameter Logging.EnableLogContext is not allowed when Logging.EnableLogging is not set to true."
    with fault(VALUE, text):
        stage.create_task(ReplicationTaskSettings='{"Logging": {"EnableLogContext": true}}')


# --- describe --------------------------------------------------------------------------------------------------------


def test_a_describe_can_leave_the_settings_out(stage):
    arn = stage.ready_task()["ReplicationTaskArn"]
    (task,) = stage.client.describe_replication_tasks(
        Filters=filters("replication-task-arn", arn), WithoutSettings=True
    )["ReplicationTasks"]
    assert "ReplicationTaskSettings" not in task
    assert (task["ReplicationTaskArn"], task["Status"]) == (arn, "ready")


def test_an_empty_account_has_an_empty_list(make_client):
    answer = make_client(account=random_account()).describe_replication_tasks()
    assert answer["ReplicationTasks"] == []
    assert "Marker" not in answer


# --- modify ----------------------------------------------------------------------------------------------------------


def modified(stage, arn, **changes):
    """Modifies a task and waits until it is ready again; its description."""
    answer = stage.client.modify_replication_task(ReplicationTaskArn=arn, **changes)["ReplicationTask"]
    assert answer["Status"] == "modifying"
    # Not botocore's waiter for `ready`, to which `modifying` is a failure.
    wait_until(lambda: describe_task(stage.client, arn)["Status"] == "ready", "the task is modified", 10)
    return describe_task(stage.client, arn)


def test_modify_changes_mappings_identifier_and_task_data(stage):
    before = stage.ready_task()
    identifier, mappings = unique("Renamed"), rules(selection("other"))
    after = modified(
        stage,
        before["ReplicationTaskArn"],
        ReplicationTaskIdentifier=identifier,
        TableMappings=mappings,
        TaskData="{}",
    )
    assert after == before | {
        "ReplicationTaskIdentifier": identifier.lower(), "TableMappings": mappings, "TaskData": "{}",
    }  # fmt: skip


def test_modify_merges_settings_into_those_of_the_task(stage):
    first, second = {"FullLoadSettings": {"CommitRate": 77}}, {
        "FullLoadSettings": {"TargetTablePrepMode": "DO_NOTHING"}
    }
    arn = stage.ready_task(ReplicationTaskSettings=json.dumps(first))["ReplicationTaskArn"]
    after = modified(stage, arn, ReplicationTaskSettings=json.dumps(second))
    assert settings_of(after) == merged(merged(DEFAULT_SETTINGS, first), second)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"TableMappings": '{"rules": }'}, "Invalid Table Mappings document"),
        ({"TableMappings": rules(SELECT, SELECT)}, "Duplicate ruleid 1"),
        ({"ReplicationTaskSettings": "{"}, "Invalid task settings JSON"),
        ({"ReplicationTaskSettings": '{"FullLoadSettings": {"CommitRate": "many"}}'}, "FullLoadSettings.CommitRate"),
        ({"ReplicationTaskIdentifier": "a--b"}, "ReplicationTaskIdentifier"),
        ({"MigrationType": "sideways"}, "MigrationType"),
    ],
)
def test_a_bad_change_is_refused_and_changes_nothing(stage, change, named):
    before = stage.ready_task()
    with fault(VALUE, names=[named]):
        stage.client.modify_replication_task(ReplicationTaskArn=before["ReplicationTaskArn"], **change)
    assert describe_task(stage.client, before["ReplicationTaskArn"]) == before


def test_a_task_cannot_take_the_name_of_another(stage):
    other, arn = stage.create_task()["ReplicationTaskIdentifier"], stage.ready_task()["ReplicationTaskArn"]
    with fault(ALREADY_EXISTS, names=[other]):
        stage.client.modify_replication_task(ReplicationTaskArn=arn, ReplicationTaskIdentifier=other)


@pytest.mark.parametrize("kind", ["cdc", "full-load-and-cdc"])
def test_a_task_that_never_ran_can_become_one_of_another_migration_type(stage, kind):
    before = stage.ready_task()
    after = modified(stage, before["ReplicationTaskArn"], MigrationType=kind)
    assert after == before | {"MigrationType": kind}


# --- delete ----------------------------------------------------------------------------------------------------------


def test_delete_answers_the_whole_task_and_then_it_is_gone(stage):
    before = stage.ready_task()
    arn = before["ReplicationTaskArn"]
    answer = stage.client.delete_replication_task(ReplicationTaskArn=arn)["ReplicationTask"]
    assert answer == before | {"Status": "deleting"}
    run_waiter(stage.client, "replication_task_deleted", Filters=filters("replication-task-arn", arn))
    with fault(NOT_FOUND, "No Tasks found matching provided filters"):
        describe_task(stage.client, arn)
    with fault(NOT_FOUND):
        stage.client.delete_replication_task(ReplicationTaskArn=arn)


# --- which task ------------------------------------------------------------------------------------------------------

ON_ONE_TASK = [
    ("modify_replication_task", {"TaskData": "{}"}),
    ("delete_replication_task", {}),
    ("start_replication_task", {"StartReplicationTaskType": "start-replication"}),
    ("stop_replication_task", {}),
    ("describe_table_statistics", {}),
    ("reload_tables", {"TablesToReload": [{"SchemaName": "a", "TableName": "b"}]}),
]


@pytest.mark.parametrize(("call", "parameters"), ON_ONE_TASK)
def test_an_unknown_task_is_not_found(client, account, call, parameters):
    with fault(NOT_FOUND):
        getattr(client, call)(ReplicationTaskArn=unused_arn("task", account), **parameters)


@pytest.mark.parametrize("arn", ["TBD", "M5CQ7FJE7AG3GULBS2T6GFY7YADUIWWD5WMLYBA"])
@pytest.mark.parametrize(("call", "parameters"), ON_ONE_TASK)
def test_what_is_no_task_arn_is_an_invalid_value(client, call, parameters, arn):
    with fault(VALUE, f"Invalid value {arn} for ReplicationTaskArn"):
        getattr(client, call)(ReplicationTaskArn=arn, **parameters)


# --- before a start --------------------------------------------------------------------------------------------------


def start(client, arn, kind="start-replication", **parameters):
    return client.start_replication_task(ReplicationTaskArn=arn, StartReplicationTaskType=kind, **parameters)


def untested(instance_id, endpoint_id):
    return (
        f"Test connection for replication instance {instance_id} and endpoint {endpoint_id} should be successful for"
        " starting the replication task"
    )


def test_a_start_needs_tested_endpoints(stage):
    arn = stage.ready_task()["ReplicationTaskArn"]
    instance, source = stage.instance["ReplicationInstanceIdentifier"], stage.source["EndpointIdentifier"]
    with fault(STATE, untested(instance, source)):
        start(stage.client, arn)
    assert describe_task(stage.client, arn)["Status"] == "ready"


def test_a_start_needs_a_tested_target_too(client, databases):
    instance = create_replication_instance(client)
    given = databases.pg_source.endpoint("source")
    source = make_endpoint_row(client, given.pop("EngineName"), given.pop("EndpointType"), **given)
    stage = make_stage(client)
    client.test_connection(ReplicationInstanceArn=instance["ReplicationInstanceArn"], EndpointArn=source["EndpointArn"])
    run_waiter(client, "test_connection_succeeds", Filters=filters("endpoint-arn", source["EndpointArn"]))
    arn = stage.ready_task(
        ReplicationInstanceArn=instance["ReplicationInstanceArn"], SourceEndpointArn=source["EndpointArn"]
    )["ReplicationTaskArn"]
    with fault(STATE, untested(instance["ReplicationInstanceIdentifier"], stage.target["EndpointIdentifier"])):
        start(client, arn)


def test_a_start_needs_endpoints_tested_from_the_instance_of_the_task(dms, databases, make_endpoint):
    source = make_endpoint("source", databases.pg_source)
    target = make_endpoint("target", databases.pg_target)
    stage = make_stage(dms)  # With an instance that has tested nothing.
    arn = stage.ready_task(SourceEndpointArn=source, TargetEndpointArn=target)["ReplicationTaskArn"]
    with fault(STATE, re.compile(re.escape(stage.instance["ReplicationInstanceIdentifier"]))):
        start(dms, arn)


def test_an_unknown_start_type_is_invalid(stage):
    arn = stage.ready_task()["ReplicationTaskArn"]
    with fault(VALUE, "StartReplicationTaskType start-replicate is invalid"):
        start(stage.client, arn, "start-replicate")


@pytest.mark.parametrize("kind", ["resume-processing", "reload-target"])
def test_a_task_that_never_ran_can_only_be_started(dms, databases, make_endpoint, make_task, kind):
    source, target = make_endpoint("source", databases.pg_source), make_endpoint("target", databases.pg_target)
    task = make_task(source, target)
    with fault(REFUSED):
        start(dms, task.arn, kind)
    assert task.status == "ready"


def test_a_task_that_does_not_run_cannot_be_stopped(stage):
    arn = stage.ready_task()["ReplicationTaskArn"]
    with fault(STATE, re.compile("is currently not running")):
        stage.client.stop_replication_task(ReplicationTaskArn=arn)


# --- a run -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_task(databases, make_endpoint, make_task):
    """A task with three rows to load, ready."""
    source, target = databases.new(databases.pg_source), databases.new(databases.pg_target)
    source.execute(
        "CREATE SCHEMA shop",
        "CREATE TABLE shop.fruit (id int PRIMARY KEY, name text)",
        "INSERT INTO shop.fruit VALUES (1, 'apple'), (2, 'pear'), (3, NULL)",
    )
    return make_task(make_endpoint("source", source), make_endpoint("target", target), include("shop"))


def test_a_full_load_runs_and_stops_by_itself(dms, small_task):
    before = small_task.describe()
    started = start(dms, small_task.arn)["ReplicationTask"]
    assert started["Status"] == "starting"
    assert started["ReplicationTaskArn"] == small_task.arn
    task = small_task.wait("stopped")
    assert task["StopReason"] == "Stop Reason FULL_LOAD_ONLY_FINISHED"
    assert "LastFailureMessage" not in task
    assert task["ReplicationTaskStartDate"] > before["ReplicationTaskCreationDate"]
    stats = task["ReplicationTaskStats"]
    counts = {
        "FullLoadProgressPercent": 100, "TablesLoaded": 1, "TablesLoading": 0, "TablesQueued": 0, "TablesErrored": 0,
    }  # fmt: skip
    assert counts.items() <= stats.items()
    assert stats["FreshStartDate"] == stats["StartDate"] <= stats["StopDate"]
    assert stats["FullLoadStartDate"] <= stats["FullLoadFinishDate"]


def test_a_task_that_ran_cannot_be_started_afresh(dms, small_task):
    small_task.finish()
    with fault(COMBINATION, STARTED_BEFORE):
        start(dms, small_task.arn)
    assert small_task.status == "stopped"


@pytest.mark.parametrize("kind", ["reload-target", "resume-processing"])
def test_a_task_that_ran_can_run_again(small_task, kind):
    small_task.finish()
    first = small_task.stats
    small_task.finish(kind)
    assert small_task.stop_reason == "Stop Reason FULL_LOAD_ONLY_FINISHED"
    assert small_task.stats["StartDate"] > first["StartDate"]


def test_resume_keeps_the_date_of_the_fresh_start(small_task):
    small_task.finish()
    first = small_task.stats
    small_task.finish("resume-processing")
    assert small_task.stats["FreshStartDate"] == first["FreshStartDate"]


def test_a_task_that_ran_is_stopped_again_after_a_modification(dms, small_task):
    small_task.finish()
    answer = dms.modify_replication_task(
        ReplicationTaskArn=small_task.arn, ReplicationTaskSettings='{"FullLoadSettings": {"CommitRate": 5}}'
    )["ReplicationTask"]
    assert answer["Status"] == "modifying"
    assert answer["StopReason"] == "Stop Reason FULL_LOAD_ONLY_FINISHED"
    assert small_task.wait("stopped")["Status"] == "stopped"
    assert settings_of(small_task.describe())["FullLoadSettings"]["CommitRate"] == 5


def test_a_task_that_ran_can_be_deleted(dms, small_task):
    small_task.finish()
    dms.delete_replication_task(ReplicationTaskArn=small_task.arn)
    run_waiter(dms, "replication_task_deleted", Filters=filters("replication-task-arn", small_task.arn))
    with fault(NOT_FOUND):
        small_task.describe()


def test_a_task_without_tables_fails_and_says_so(databases, make_endpoint, make_task):
    source, target = databases.new(databases.pg_source), databases.new(databases.pg_target)
    task = make_task(make_endpoint("source", source), make_endpoint("target", target), include("no_such_schema"))
    described = task.finish_in_any_way()
    assert described["Status"] == "failed"
    assert described["LastFailureMessage"] == NO_TABLES
    assert described["StopReason"] == NO_TABLES


def test_a_task_may_be_allowed_to_have_no_tables(databases, make_endpoint, make_task):
    source, target = databases.new(databases.pg_source), databases.new(databases.pg_target)
    settings = {"ErrorBehavior": {"FailOnNoTablesCaptured": False}}
    task = make_task(
        make_endpoint("source", source), make_endpoint("target", target), include("no_such_schema"), settings
    )
    assert task.finish() == {}


# --- while a task runs -----------------------------------------------------------------------------------------------


def test_a_running_task_cannot_be_started_modified_or_lose_its_instance(dms, databases, make_endpoint, make_task):
    with running_task(databases, make_endpoint, make_task) as task:
        for kind in ("start-replication", "resume-processing", "reload-target"):
            with fault(STATE, "Replication Task cannot be started, invalid state"):
                start(dms, task.arn, kind)
        text = (
            "Replication Task, excluding logging severity task settings, cannot be modified while it is running state"
        )
        for change in ({"TaskData": "{}"}, {"TableMappings": rules(SELECT)},
                       {"ReplicationTaskSettings": '{"FullLoadSettings": {"CommitRate": 5}}'}):  # fmt: skip
            with fault(STATE, text):
                dms.modify_replication_task(ReplicationTaskArn=task.arn, **change)
        with fault(STATE, re.compile("has one or more replication tasks")):
            dms.delete_replication_instance(ReplicationInstanceArn=task.describe()["ReplicationInstanceArn"])
        assert task.status == "running"


def task_log(server, task):
    """The file of a task's log."""
    found = list(server.data_dir.glob(f"logs/dms-tasks-*/dms-task-{task.arn.rsplit(':', 1)[1]}.log"))
    assert len(found) == 1, list(server.data_dir.rglob("*.log"))
    return found[0]


def test_the_log_severity_of_a_running_task_can_be_modified(server, dms, databases, make_endpoint, make_task):
    with running_task(databases, make_endpoint, make_task, settings={"Logging": {"EnableLogging": True}}) as task:
        log = task_log(server, task)
        assert " starts, full load only" in log.read_text()
        component = {"Id": "TASK_MANAGER", "Severity": "LOGGER_SEVERITY_ERROR"}
        settings = json.dumps({"Logging": {"LogComponents": [component]}})
        dms.modify_replication_task(ReplicationTaskArn=task.arn, ReplicationTaskSettings=settings)
        assert component in settings_of(task.describe())["Logging"]["LogComponents"]
        assert task.wait("running")["Status"] == "running"
        dms.stop_replication_task(ReplicationTaskArn=task.arn)
        task.wait("stopped", seconds=5)
    assert "Task stopped" not in log.read_text()


def test_the_logs_of_a_task_can_be_deleted(server, dms, databases, make_endpoint, make_task):
    with running_task(databases, make_endpoint, make_task) as task:
        log = task_log(server, task)
        beginning = log.read_text().splitlines()[0]
        delete = json.dumps({"Logging": {"DeleteTaskLogs": True}})
        dms.modify_replication_task(ReplicationTaskArn=task.arn, ReplicationTaskSettings=delete)
        assert beginning not in log.read_text()
        dms.stop_replication_task(ReplicationTaskArn=task.arn)
        task.wait("stopped", seconds=5)
    told = log.read_text()
    assert beginning not in told and "Task stopped" in told


def test_a_start_time_comes_back_as_a_position(stage):
    time = datetime.datetime(2018, 3, 8, 12, 12, 12, tzinfo=datetime.timezone.utc)
    assert stage.create_task(CdcStartTime=time)["CdcStartPosition"] == "2018-03-08T12:12:12"


def test_a_running_task_can_be_stopped_and_resumed(dms, databases, make_endpoint, make_task):
    with running_task(databases, make_endpoint, make_task) as task:
        answer = dms.stop_replication_task(ReplicationTaskArn=task.arn)["ReplicationTask"]
        assert answer["Status"] == "stopping"
        assert task.wait("stopped", seconds=5)["StopReason"] == "Stop Reason NORMAL"
        with fault(STATE, re.compile("is currently not running")):
            dms.stop_replication_task(ReplicationTaskArn=task.arn)
    statistics = task.finish("resume-processing")
    assert statistics["held", "gate"]["FullLoadRows"] == 1
    assert task.stop_reason == "Stop Reason FULL_LOAD_ONLY_FINISHED"
