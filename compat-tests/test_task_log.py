"""The log that each task writes into the data folder, line by line as DMS writes it.

https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Monitoring.html
https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TaskSettings.Logging.html
"""

import datetime
import re

import pytest

from pairs import LOB_COLUMNS, in_all_directions, make_held_load, pair, prepare, to_both_engines, with_rule

LINE = re.compile(
    r"(?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d) \[(?P<component>[A-Z_]+) *\](?P<severity>[EWIDT]):  (?P<text>.+?)"
    r"  \([a-z_]+\.rs:\d+\)"
)

# The name of a component is filled up to this length.
COMPONENT_LENGTH = 16


def resource_id(task):
    return task.arn.rsplit(":", 1)[1]


def log_file(server, task):
    (path,) = [path for path in server.data_dir.rglob("*.log") if resource_id(task) in path.name]
    return path


def entries(server, task):
    """The lines of a task's log, each of which must have DMS's format, as (component, severity, text)."""
    found = []
    for line in log_file(server, task).read_text().splitlines():
        match = LINE.fullmatch(line)
        assert match, line
        assert line.index("]") - line.index("[") - 1 == COMPONENT_LENGTH, line
        found.append((match["component"], match["severity"], match["text"]))
    return found


def severities(**components):
    """Task settings with the severities of some components: `severities(TARGET_LOAD="ERROR")`."""
    listed = [{"Id": name, "Severity": f"LOGGER_SEVERITY_{severity}"} for name, severity in components.items()]
    return {"Logging": {"EnableLogging": True, "LogComponents": listed}}


def test_the_log_tells_of_a_load_from_its_start_to_its_end(server, pair):
    for table, rows in [("orders", 7), ("customers", 3)]:
        pair.source.create(table, "id integer PRIMARY KEY, value text")
        pair.source.fill(table, rows)
    task = pair.task()
    before = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0, tzinfo=None)
    task.finish()
    after = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
    lines = entries(server, task)
    resource = task.describe()["ReplicationTaskArn"].rpartition(":")[2]
    assert lines[0] == ("TASK_MANAGER", "I", f"Task '{resource}' starts, full load only")
    assert lines[-1] == ("TASK_MANAGER", "I", "Task stopped, FULL_LOAD_ONLY_FINISHED")
    for table, rows in [("orders", 7), ("customers", 3)]:
        name = f"{pair.schema}.{table}"
        planned, begun, ended = [
            next(number for number, line in enumerate(lines) if line == expected)
            for expected in [
                ("TABLES_MANAGER", "I", f"Table {name} with 2 columns goes to {name}"),
                ("SOURCE_UNLOAD", "I", f"Start loading table {name}"),
                ("TARGET_LOAD", "I", f"Load finished for table {name}, {rows} rows"),
            ]
        ]
        assert planned < begun < ended
    times = [LINE.match(line)["at"] for line in log_file(server, task).read_text().splitlines()]
    assert times == sorted(times)
    assert before <= datetime.datetime.fromisoformat(times[0])
    assert datetime.datetime.fromisoformat(times[-1]) <= after


def test_each_task_has_a_log_of_its_own_to_which_each_run_adds(server, pair):
    pair.source.create("orders", "id integer PRIMARY KEY")
    first, second = pair.task(), pair.task()
    first.finish()
    second.finish()
    assert log_file(server, first) != log_file(server, second)
    once = log_file(server, first).read_text()
    assert resource_id(second) not in once
    first.finish("reload-target")
    twice = log_file(server, first).read_text()
    assert twice.startswith(once)
    assert twice.count("Task stopped, FULL_LOAD_ONLY_FINISHED") == 2


def test_the_log_tells_that_a_user_has_stopped_the_task(server, pair):
    settings = make_held_load(pair)
    task = pair.task(settings=settings)
    with pair.target.held_at("large", 20_000):
        task.start()
        pair.wait_for(task, "small", "Table completed")
        task.stop()
        task.wait("stopped")
    lines = entries(server, task)
    assert lines[-1] == ("TASK_MANAGER", "I", "Task stopped, NORMAL")
    assert ("TARGET_LOAD", "I", f"Load finished for table {pair.schema}.small, 10 rows") in lines
    assert not any("Load finished" in text and "large" in text for _, _, text in lines)


def test_the_log_tells_why_the_task_failed(server, pair):
    task = pair.task(with_rule("no_such_schema"))
    message = task.finish_in_any_way()["LastFailureMessage"]
    assert entries(server, task)[-1] == ("TASK_MANAGER", "E", message)


def test_the_log_tells_which_table_failed_and_that_the_others_go_on(server, pair):
    pair.create_both("orders", "id integer PRIMARY KEY, value text")
    pair.source.fill("orders", 10)
    pair.target.execute(f"ALTER TABLE {pair.target.table('orders')} DROP COLUMN value")
    task = pair.task(settings=prepare("DO_NOTHING"))
    task.finish()
    lines = entries(server, task)
    name = f"{pair.schema}.orders"
    assert ("TASK_MANAGER", "W", f"Table {name} was suspended, the task goes on without it") in lines
    (error,) = [text for component, severity, text in lines if (component, severity) == ("TARGET_LOAD", "E")]
    assert error.startswith(f"load table {name}: ")


@in_all_directions
def test_the_log_warns_once_of_each_table_whose_lobs_are_cut(server, pair):
    for table, length in [("cut", 5000), ("whole", 1000)]:
        pair.source.create(table, LOB_COLUMNS)
        pair.source.insert(table, [(1, "x" * length, b"y" * length), (2, "x" * length, None)])
    # With a batch for each row.
    limited = {"TargetMetadata": {"LimitedSizeLobMode": True, "LobMaxSize": 1}, "FullLoadSettings": {"CommitRate": 1}}
    task = pair.task(settings=limited)
    task.finish()
    warnings = [line for line in entries(server, task) if line[1] == "W"]
    assert warnings == [
        ("SOURCE_UNLOAD", "W", f"LOB values of table {pair.schema}.cut are truncated to LobMaxSize"),
    ]


def test_the_log_tells_which_columns_stay_behind_without_lob_support(server, pair):
    pair.source.create("documents", LOB_COLUMNS)
    task = pair.task(settings={"TargetMetadata": {"SupportLobs": False}})
    task.finish()
    name = f"{pair.schema}.documents"
    left = [text for component, _, text in entries(server, task) if component == "SOURCE_UNLOAD" and "'" in text]
    assert left == [
        f"Column '{column}' is unsupported in table def '{name}' since the LOB support is disabled"
        for column in ("body", "scan")
    ]


def test_each_component_writes_what_its_severity_lets_through(server, pair):
    pair.source.create("orders", LOB_COLUMNS)
    pair.source.insert("orders", [(1, "x" * 5000, None)])
    limited = {"TargetMetadata": {"LimitedSizeLobMode": True, "LobMaxSize": 1}}

    def written(settings):
        task = pair.task(settings=limited | settings)
        task.finish()
        return {(component, severity) for component, severity, _ in entries(server, task)}

    usual = {("TASK_MANAGER", "I"), ("TABLES_MANAGER", "I"), ("TARGET_LOAD", "I")}
    unload = {("SOURCE_UNLOAD", "I"), ("SOURCE_UNLOAD", "W")}
    assert written({}) == usual | unload
    assert written(severities(SOURCE_UNLOAD="DEFAULT")) == usual | unload
    assert written(severities(SOURCE_UNLOAD="DEBUG")) == usual | unload | {("SOURCE_UNLOAD", "D")}
    assert written(severities(SOURCE_UNLOAD="WARNING")) == usual | {("SOURCE_UNLOAD", "W")}
    assert written(severities(SOURCE_UNLOAD="ERROR")) == usual
    silent = severities(TASK_MANAGER="ERROR", TABLES_MANAGER="ERROR", SOURCE_UNLOAD="ERROR", TARGET_LOAD="ERROR")
    assert written(silent) == set()


SECRET = "s3cr3t-value"


@to_both_engines
@pytest.mark.parametrize(
    ("columns", "constraint"),
    [
        ("id integer PRIMARY KEY, value varchar(100)", "UNIQUE (value)"),
        ("id integer PRIMARY KEY, value varchar(100)", f"CHECK (value <> '{SECRET}')"),
    ],
    ids=["duplicate", "check"],
)
def test_a_refused_row_is_told_without_its_values(server, pair, columns, constraint):
    pair.create_both("orders", columns)
    pair.target.execute(f"ALTER TABLE {pair.target.table('orders')} ADD CONSTRAINT sound {constraint}")
    pair.source.insert("orders", [(number, SECRET) for number in range(1, 4)])
    task = pair.task(settings=prepare("DO_NOTHING"))
    task.finish()
    table = f"{pair.schema}.orders"
    beginning = f"A row of table {table} was not loaded: "
    warned = [text for *kind, text in entries(server, task) if kind == ["TARGET_LOAD", "W"]]
    refused = [text for text in warned if text.startswith(beginning)]
    assert len(refused) == 3 - len(pair.target.rows("orders")) > 0
    assert SECRET not in log_file(server, task).read_text()
