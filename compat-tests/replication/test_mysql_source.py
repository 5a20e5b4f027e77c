"""What comes of the own ways of MySQL and MariaDB as sources."""

import contextlib
import time

import pytest
from conftest import wait_until
from following import FOLLOW, KEYED, following, is_gone, make_following, resource_id  # noqa: F401
from pairs import FROM_MARIADB, lost, pair  # noqa: F401
from torture import Proxy

from_mariadb = pytest.mark.parametrize("pair", [FROM_MARIADB], indirect=True)
to_both_engines = pytest.mark.parametrize("pair", [FROM_MARIADB, "mariadb-mariadb"], indirect=True)


def replicas(source):
    """Sessions that the log is sent to."""
    return source.value("SELECT count(*) FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'")


@from_mariadb
def test_the_log_is_read_by_one_session_that_goes_with_the_task(following, dms):
    source = following.source
    source.create("t", KEYED)
    before = replicas(source)
    task = following.start()
    source.execute(f"INSERT INTO {source.table('t')} VALUES (1, 'x')")
    following.wait_until_equal("t")
    assert replicas(source) == before + 1
    following.stop()
    dms.delete_replication_task(ReplicationTaskArn=task.arn)
    wait_until(lambda: is_gone(dms, task), "the task is deleted")
    # The server notices when it has something to send.
    source.execute(f"INSERT INTO {source.table('t')} VALUES (2, 'x')")
    wait_until(lambda: replicas(source) == before, "the session is gone", 10)


@to_both_engines
def test_transactions_in_two_phases_count_from_their_second(following):
    source = following.source
    for name in ("t", "other"):
        source.create(name, KEYED)
        source.fill(name, 3)
    following.start()
    following.wait_for_load("t", "other")
    t, other = source.table("t"), source.table("other")
    name = source.schema
    source.execute(
        f"XA START '{name}_one'",
        f"INSERT INTO {t} VALUES (10, 'one phase')",
        f"XA END '{name}_one'",
        f"XA COMMIT '{name}_one' ONE PHASE",
        f"XA START '{name}_two'",
        f"UPDATE {t} SET v = 'two phases' WHERE id = 1",
        f"XA END '{name}_two'",
        f"XA PREPARE '{name}_two'",
        f"XA COMMIT '{name}_two'",
        f"XA START '{name}_undone'",
        f"DELETE FROM {t}",
        f"XA END '{name}_undone'",
        f"XA PREPARE '{name}_undone'",
        f"XA ROLLBACK '{name}_undone'",
        # This one is open for long, and others go before it; the task stops between its phases.
        f"XA START '{name}_late'",
        f"INSERT INTO {t} VALUES (11, 'late')",
        f"DELETE FROM {other} WHERE id = 2",
        f"XA END '{name}_late'",
        f"XA PREPARE '{name}_late'",
    )
    source.execute(f"UPDATE {other} SET v = 'before' WHERE id = 1")
    following.wait_for_counts("other", (0, 1, 0, 0))
    following.wait_for_counts("t", (1, 1, 0, 0))
    assert following.target.rows("t") == [(1, "two phases"), (2, "row 2"), (3, "row 3"), (10, "one phase")]
    following.stop()
    source.execute("FLUSH BINARY LOGS")
    source.execute(f"XA COMMIT '{name}_late'")
    following.resume()
    following.wait_for_counts("other", (0, 1, 1, 0))
    following.wait_for_counts("t", (2, 1, 0, 0))
    following.wait_until_equal("t", "other")


@from_mariadb
def test_a_task_is_deleted_in_time_while_its_source_is_gone(following, dms):
    following.source.create("t", KEYED)
    task = following.start()
    following.stop()
    with lost(following.source):
        begun = time.monotonic()
        dms.delete_replication_task(ReplicationTaskArn=task.arn)
        wait_until(lambda: is_gone(dms, task), "the task is deleted")
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize("pair", ["mariadb-mariadb"], indirect=True)
def test_an_idle_server_is_heard_of_and_cuts_no_connection(following, server):
    """Though it ends sessions that are idle for a second; so does the target."""
    source, target = following.source, following.target
    source.create("t", KEYED)
    proxy = Proxy(source.server.port)
    following.pair.set_up_source(Port=proxy.port)
    before = source.value("SELECT @@global.wait_timeout")
    try:
        for side in (source, target):
            side.execute("SET GLOBAL wait_timeout = 1")
        following.start()
        following.wait_for_load("t")
        source.execute(f"INSERT INTO {source.table('t')} VALUES (1, 'before')")
        following.wait_until_equal("t")
        dumps = "SELECT id FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'"
        sessions = source.execute(dumps)
        # What is sent when nothing is written: an event that says no more than that.
        for _ in range(2):
            heard = proxy.received
            wait_until(lambda: proxy.received > heard, "the server is heard of", 10)
        source.execute(f"INSERT INTO {source.table('t')} VALUES (2, 'after')")
        following.wait_until_equal("t")
        assert source.execute(dumps) == sessions
    finally:
        for side in (source, target):
            side.execute(f"SET GLOBAL wait_timeout = {before}")
    (log,) = [path for path in server.data_dir.rglob("*.log") if resource_id(following.task) in path.name]
    assert "next attempt in" not in log.read_text()


@from_mariadb
def test_tasks_of_one_server_are_replicas_of_different_numbers(make_following, pair):
    """Of those with one number the server serves the last."""
    pair.source.create("t", KEYED)
    before = {number for number, *_ in pair.source.execute("SHOW SLAVE HOSTS")}
    both = [make_following(), make_following()]
    for number, following in enumerate(both):
        following.start({"TargetMetadata": {"TargetSchema": f"{pair.schema}_{number}"}}, **FOLLOW)
    dumps = "SELECT id FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%' ORDER BY id"
    own = lambda: {number for number, *_ in pair.source.execute("SHOW SLAVE HOSTS")} - before
    wait_until(lambda: len(own()) == 2, "two replicas are known", 20)
    sessions = pair.source.execute(dumps)
    for number in range(3):
        pair.source.execute(f"INSERT INTO {pair.source.table('t')} VALUES ({number}, 'x')")
        for following in both:
            following.wait_for_counts("t", (number + 1, 0, 0, 0))
    assert pair.source.execute(dumps) == sessions


@from_mariadb
def test_files_of_the_log_follow_each_other_and_one_that_is_missing_fails_the_task(following):
    source = following.source
    source.create("t", KEYED)
    task = following.start()
    t = source.table("t")
    for number in range(5):
        source.execute(f"INSERT INTO {t} VALUES ({number}, 'x')", "FLUSH BINARY LOGS")
    following.wait_for_counts("t", (5, 0, 0, 0))
    source.execute("FLUSH BINARY LOGS")
    following.stop()
    source.execute(f"INSERT INTO {t} VALUES (5, 'missed')", "FLUSH BINARY LOGS", "FLUSH BINARY LOGS")
    last = source.execute("SHOW MASTER STATUS")[0][0]

    def purged():
        # Not as long as somebody reads them.
        source.execute(f"PURGE BINARY LOGS TO '{last}'")
        return [file for file, *_ in source.execute("SHOW BINARY LOGS")] == [last]

    wait_until(purged, "the files are gone", 30)
    task.start("resume-processing")
    message = task.wait("failed")["LastFailureMessage"]
    assert "Error 1236 reading binary log" in message and "Stop Reason FATAL_ERROR" in message, message
    # Loaded again, it goes on.
    task.start("reload-target")
    task.wait("running")
    following.wait_for_load("t")
    source.execute(f"DELETE FROM {t} WHERE id = 0")
    following.wait_until_equal("t")


@from_mariadb
def test_a_change_that_is_logged_as_a_statement_does_not_pass_in_silence(following):
    """A session may write in another format than the server's: then the log lacks the rows."""
    source = following.source
    for name in ("t", "other"):
        source.create(name, KEYED)
        source.fill(name, 3)
    task = following.start()
    following.wait_for_load("t", "other")
    t, other = source.table("t"), source.table("other")
    source.execute("SET SESSION binlog_format = STATEMENT", f"UPDATE {t} SET v = 'unseen' WHERE id = 1")
    source.execute(f"UPDATE {other} SET v = 'seen' WHERE id = 1")

    def noticed():
        return task.status == "failed" or following.pair.states(task)["t"] == "Table error"

    wait_until(noticed, "the task or its table has failed", 20)


@from_mariadb
def test_a_server_that_does_not_log_rows_is_refused_with_what_to_set(following):
    source = following.source
    source.create("t", KEYED)
    source.execute("SET GLOBAL binlog_format = STATEMENT")
    try:
        message = following.failure()
    finally:
        source.execute("SET GLOBAL binlog_format = ROW")
    assert "binlog_format" in message and "Stop Reason FATAL_ERROR" in message


@to_both_engines
def test_statements_of_many_kinds_change_what_they_change_on_the_source(following):
    """What the log has of them is rows, of several tables together and under other names."""
    source = following.source
    for name in ("a", "b", "loaded"):
        source.create(name, KEYED)
        source.fill(name, 20)
    source.execute(f"CREATE VIEW {source.table('seen')} AS SELECT * FROM {source.table('a')}")
    following.start()
    following.wait_for_load("a", "b", "loaded")
    a, b, loaded, seen = map(source.table, ("a", "b", "loaded", "seen"))
    source.execute(
        f"UPDATE {a} AS x JOIN {b} AS y ON x.id = y.id SET x.v = 'joined', y.v = 'joined' WHERE x.id < 5",
        f"DELETE x, y FROM {a} AS x JOIN {b} AS y ON x.id = y.id WHERE x.id = 10",
        f"UPDATE {seen} SET v = 'through the view' WHERE id = 6",
        f"CREATE TRIGGER {source.table('copies')} AFTER INSERT ON {a} FOR EACH ROW INSERT INTO {b} VALUES (NEW.id, 'copied')",
        f"INSERT INTO {a} VALUES (100, 'new')",
        f"CREATE TEMPORARY TABLE {source.table('passing')} (id integer)",
        f"INSERT INTO {source.table('passing')} VALUES (1)",
        f"DELETE FROM {loaded} ORDER BY id DESC LIMIT 5",
        f"INSERT INTO {loaded} SELECT id + 200, v FROM {a}",
        f"LOCK TABLES {loaded} WRITE",
        f"UPDATE {loaded} SET v = 'locked' WHERE id = 1",
        "UNLOCK TABLES",
        "SET SESSION sql_log_bin = 0",
        "SET SESSION sql_log_bin = 1",
    )
    with contextlib.closing(source.connect()) as connection, connection.cursor() as cursor:
        # Not committed: it must not come.
        cursor.execute("BEGIN")
        cursor.execute(f"DELETE FROM {loaded}")
        connection.rollback()
    following.wait_until_equal("a", "b", "loaded")
    assert {table for _, table in following.task.statistics()} == {"a", "b", "loaded"}
    assert following.target.exceptions() == []
