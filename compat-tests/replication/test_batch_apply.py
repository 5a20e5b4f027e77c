"""Changes that are gathered, folded and applied together: `BatchApplyEnabled`."""

import contextlib
import re
import time

import pytest
from conftest import wait_until
from following import KEYED, following  # noqa: F401
from pairs import FROM_MARIADB, in_all_directions, pair, prepare, to_both_engines  # noqa: F401


def batch(**tuning):
    return {"TargetMetadata": {"BatchApplyEnabled": True}, "ChangeProcessingTuning": tuning}


@pytest.mark.parametrize("pair", ["postgres-mariadb", FROM_MARIADB], indirect=True)
def test_batches_keep_the_least_time_between_them(following):
    source, target = following.source, following.target
    source.create("t", KEYED)
    following.start(batch(BatchApplyTimeoutMin=3, BatchApplyTimeoutMax=4))
    following.wait_for_load("t")
    seen = []
    for number in range(2):
        source.execute(f"INSERT INTO {source.table('t')} VALUES ({number}, 'x')")
        wait_until(lambda: (number, "x") in target.rows("t"), "the batch is applied")
        seen.append(time.monotonic())
    # The first was seen a little later than it was applied.
    assert 2.5 < seen[1] - seen[0] < 6


@pytest.mark.parametrize("pair", ["postgres-mariadb", FROM_MARIADB], indirect=True)
def test_a_batch_that_has_its_size_does_not_wait_for_its_time(following):
    source, target = following.source, following.target
    source.create("t", KEYED)
    following.start(batch(BatchSplitSize=10, BatchApplyTimeoutMin=20, BatchApplyTimeoutMax=30))
    following.wait_for_load("t")
    t = source.table("t")
    source.execute(*[f"INSERT INTO {t} VALUES ({number}, 'x')" for number in range(9)])
    following.wait_until_captured("t", (9, 0, 0, 0))
    assert target.rows("t") == []
    source.execute(f"INSERT INTO {t} VALUES (9, 'x')", f"INSERT INTO {t} VALUES (10, 'of the next')")
    wait_until(lambda: len(target.rows("t")) >= 10, "the batch is applied", 5)
    following.wait_until_captured("t", (11, 0, 0, 0))
    assert [id for id, _ in target.rows("t")] == list(range(10))


@in_all_directions
def test_of_a_row_that_changes_often_the_last_state_alone_reaches_the_target(following):
    pair, source, target = following.pair, following.source, following.target
    pair.create_both("t", KEYED)
    for name in ("gate", "counted"):
        source.create(name, KEYED)
    source.fill("t", 3)
    source.fill("gate", 1)
    target.create("seen", "id integer, v text")
    seen = target.table("seen")
    if target.is_postgres:
        target.execute(
            f"CREATE FUNCTION {target.table('notes')}() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN INSERT INTO {seen} VALUES (NEW.id, NEW.v); RETURN NEW; END $$",
            f"CREATE TRIGGER notes AFTER UPDATE ON {target.table('t')} FOR EACH ROW EXECUTE FUNCTION {target.table('notes')}()",
        )
    else:
        target.execute(
            f"CREATE TRIGGER {target.table('notes')} AFTER UPDATE ON {target.table('t')} FOR EACH ROW"
            f" INSERT INTO {seen} VALUES (NEW.id, NEW.v)"
        )
    following.start(batch() | prepare("TRUNCATE_BEFORE_LOAD"))
    following.wait_for_load("t", "gate", "counted")
    t, gate = source.table("t"), source.table("gate")
    with target.locked("gate"):
        source.execute(f"UPDATE {gate} SET v = 'reached' WHERE id = 1")
        following.wait_until_captured("gate", (0, 1, 0, 0))
        # Now, or within a batch, the target waits; what follows is at most in that one and the next.
        source.execute(*[f"UPDATE {t} SET v = 'no. {number}' WHERE id = 1" for number in range(60)])
        source.execute(f"UPDATE {t} SET v = 'passing' WHERE id = 2", f"DELETE FROM {t} WHERE id = 2")
        source.execute(f"INSERT INTO {t} VALUES (4, 'first')", f"UPDATE {t} SET v = 'second' WHERE id = 4")
        following.wait_until_captured("t", (1, 62, 1, 0))
    following.wait_for_counts("t", (1, 62, 1, 0))
    following.wait_until_equal("t")
    changed = target.rows("seen")
    assert (1, "no. 59") in changed and len(changed) <= 4, changed


@to_both_engines
def test_one_bad_row_of_a_batch_takes_no_other_along(following):
    source, target = following.source, following.target
    for name in ("t", "other", "loose"):
        source.create(name, KEYED if name != "loose" else "a integer, b text")
    following.start(batch() | {"ErrorBehavior": {"FullLoadIgnoreConflicts": False}})
    following.wait_for_load("t", "other", "loose")
    target.execute(f"INSERT INTO {target.table('t')} VALUES (777, 'theirs')")
    numbers = "generate_series(1, 1000)"
    source.execute(
        "BEGIN",
        f"INSERT INTO {source.table('other')} SELECT n, 'x' FROM {numbers} AS n",
        f"INSERT INTO {source.table('t')} SELECT n, 'x' FROM {numbers} AS n",
        f"INSERT INTO {source.table('loose')} SELECT n % 10, 'x' FROM {numbers} AS n",
        f"UPDATE {source.table('other')} SET v = 'y'",
        "COMMIT",
    )
    following.wait_for_counts("t", (1000, 0, 0, 0), (999, 0, 0, 0))
    following.wait_for_counts("other", (1000, 1000, 0, 0))
    following.wait_for_counts("loose", (1000, 0, 0, 0))
    assert set(source.rows("t")) ^ set(target.rows("t")) == {(777, "x"), (777, "theirs")}
    following.wait_until_equal("other")
    assert len(target.rows("loose")) == 1000
    assert len(target.exceptions()) == 1 and "777" in target.exceptions()[0]


@contextlib.contextmanager
def statements(server, schema):
    """Gives a function: what a MariaDB has been told of temporary tables of a schema, with the sessions, in order."""
    log, output = server.execute("SELECT @@global.general_log, @@global.log_output")[0]
    told = "SELECT thread_id, CONVERT(argument USING utf8mb4) FROM mysql.general_log WHERE command_type = 'Query'"
    ours = f" AND argument LIKE '%TEMPORARY TABLE%`{schema}`%' AND argument NOT LIKE 'SELECT%' ORDER BY event_time"
    server.execute("SET GLOBAL log_output = 'TABLE'", "SET GLOBAL general_log = 1")
    try:
        yield lambda: list(server.execute(told + ours))
    finally:
        server.execute(f"SET GLOBAL general_log = {log}", f"SET GLOBAL log_output = '{output}'", "TRUNCATE mysql.general_log")


@pytest.mark.parametrize("pair", ["postgres-mariadb", "mariadb-mariadb"], indirect=True)
def test_rows_of_a_batch_go_through_work_tables_which_are_few_and_end_with_the_session(following):
    """They are called as those of DMS, and they are temporary: of those the task needs no more than the right to make
    them."""
    source, target, schema = following.source, following.target, following.pair.schema
    tables = ["a", "b", "c", "d"]
    for name in tables:
        source.create(name, KEYED)
        source.fill(name, 500)
    with statements(target, schema) as told:
        following.start(batch(StatementCacheSize=2))
        following.wait_for_load(*tables)
        for value in ("one", "two"):
            source.execute(*[f"UPDATE {source.table(name)} SET v = '{value}'" for name in tables])
            following.wait_until_equal(*tables)
        following.stop()
        works, made = set(), []
        for session, text in told():
            for kind, name in re.findall(rf"(CREATE|DROP) TEMPORARY TABLE (?:IF EXISTS )?`{schema}`\.`(\w+)`", text):
                works = works | {name} if kind == "CREATE" else works - {name}
                assert len(works) <= 2, works
                made += [(session, name)] if kind == "CREATE" else []
    # A batch has one work table for each table, and two stay.
    assert len(made) >= 4 and all(re.fullmatch("awsdms_changes[0-9]{9}", name) for _, name in made), made
    sessions = ", ".join({str(session) for session, _ in made})
    ended = f"SELECT count(*) FROM information_schema.processlist WHERE id IN ({sessions})"
    wait_until(lambda: target.value(ended) == 0, "the session has ended", 5)
    assert [name for name in target.tables() if name.startswith("awsdms_changes")] == []
