"""Statements that define tables, on their way from a source to a target."""

import pytest

from conftest import wait_until
from following import FOLLOW, following  # noqa: F401
from pairs import FROM_POSTGRES, in_all_directions, pair  # noqa: F401


in_both_ways = pytest.mark.parametrize("batch", [False, True], ids=["transactional", "batch"])
from_postgres = pytest.mark.parametrize("pair", [FROM_POSTGRES], indirect=True)


def begin(following, settings=None, batch=False):
    following.source.create("t", "id integer PRIMARY KEY, value text, gone integer")
    following.source.insert("t", [(1, "one", 1), (2, "two", 2)])
    # No pause between two batches.
    applies = {"TargetMetadata": {"BatchApplyEnabled": batch}, "ChangeProcessingTuning": {"BatchApplyTimeoutMin": 0}}
    following.start((settings or {}) | applies)
    following.wait_for_load("t")
    return following.source.table("t")


def policy(**handled):
    return {"ChangeProcessingDdlHandlingPolicy": handled}


@in_both_ways
@in_all_directions
def test_columns_that_come_go_and_change_do_so_on_the_target(following, batch):
    t = begin(following, batch=batch)
    execute = following.source.execute
    execute(f"ALTER TABLE {t} ADD COLUMN late varchar(20)", f"INSERT INTO {t} VALUES (3, 'three', 3, 'new')")
    following.wait_until_equal("t")
    execute(f"ALTER TABLE {t} DROP COLUMN gone", f"UPDATE {t} SET late = 'set' WHERE id = 1")
    following.wait_until_equal("t")
    execute(f"ALTER TABLE {t} RENAME COLUMN late TO later", f"INSERT INTO {t} VALUES (4, 'four', 'x')")
    following.wait_until_equal("t")
    assert following.target.columns("t") == ["id", "value", "later"]
    if following.source.is_postgres:
        execute(f"ALTER TABLE {t} ALTER COLUMN later TYPE varchar(50)")
    else:
        execute(f"ALTER TABLE {t} MODIFY COLUMN later varchar(50)")
    execute(f"UPDATE {t} SET later = '{'y' * 40}' WHERE id = 4")
    following.wait_until_equal("t")
    following.wait_for_counts("t", (2, 2, 0, 4))


@in_both_ways
@in_all_directions
def test_a_table_that_comes_into_being_is_replicated(following, batch):
    begin(following, batch=batch)
    new = following.source.table("new")
    following.source.create("new", "id integer PRIMARY KEY, value text")
    following.source.execute(f"INSERT INTO {new} VALUES (1, 'first')")
    following.wait_until_equal("new")
    following.source.execute(f"UPDATE {new} SET value = 'changed'", f"INSERT INTO {new} VALUES (2, NULL)")
    following.wait_until_equal("new")
    following.pair.wait_for(following.task, "new", "Table completed")
    ddls = lambda: [counts[3] for counts in following.counts("new")]
    wait_until(lambda: ddls() == [1, 1], "the statement is counted")


@in_both_ways
@in_all_directions
def test_a_renamed_table_is_another_by_whose_name_the_statement_is_counted(following, batch):
    t = begin(following, batch=batch)
    renamed = following.source.table("renamed")
    rename = f"ALTER TABLE {t} RENAME TO renamed" if following.source.is_postgres else f"RENAME TABLE {t} TO {renamed}"
    following.source.execute(rename, f"INSERT INTO {renamed} VALUES (3, 'three', 3)")
    following.wait_until_equal("renamed")
    following.wait_for_counts("renamed", (1, 0, 0, 1))
    assert following.counts("t") == ((0, 0, 0, 0),) * 2


@in_both_ways
@in_all_directions
def test_a_table_that_is_emptied_or_dropped_is_so_on_the_target(following, batch):
    t = begin(following, batch=batch)
    following.source.execute(f"TRUNCATE TABLE {t}", f"INSERT INTO {t} VALUES (7, 'after', 7)")
    following.wait_until_equal("t")
    following.source.execute(f"DROP TABLE {t}")
    wait_until(lambda: "t" not in following.target.tables(), "the table is gone")
    following.wait_for_counts("t", (1, 0, 0, 2))


@in_both_ways
@in_all_directions
def test_what_the_policy_keeps_from_the_target_does_not_reach_it(following, batch):
    kept = policy(HandleSourceTableDropped=False, HandleSourceTableTruncated=False, HandleSourceTableAltered=False)
    t = begin(following, kept, batch)
    following.source.execute(f"ALTER TABLE {t} ADD COLUMN late integer", f"INSERT INTO {t} VALUES (3, 'three', 3, 3)")
    following.wait_for_counts("t", (1, 0, 0, 1), (1, 0, 0, 0))
    assert following.target.columns("t") == ["id", "value", "gone"]
    following.source.execute(f"TRUNCATE TABLE {t}")
    following.wait_for_counts("t", (1, 0, 0, 2), (1, 0, 0, 0))
    following.source.execute(f"DROP TABLE {t}")
    following.wait_for_counts("t", (1, 0, 0, 3), (1, 0, 0, 0))
    assert len(following.target.rows("t")) == 3


@in_all_directions
def test_a_statement_between_a_stop_and_a_resumption_is_carried_out_then(following):
    t = begin(following)
    following.task.stop()
    following.task.wait("stopped")
    following.source.execute(
        f"INSERT INTO {t} VALUES (3, 'three', 3)",
        f"ALTER TABLE {t} ADD COLUMN late integer",
        f"INSERT INTO {t} VALUES (4, 'four', 4, 4)",
        f"ALTER TABLE {t} DROP COLUMN gone",
        f"UPDATE {t} SET late = 1 WHERE id = 1",
    )
    following.task.start("resume-processing")
    following.task.wait("running")
    following.wait_until_equal("t")
    following.wait_for_counts("t", (2, 1, 0, 2))


@from_postgres
def test_a_statement_that_the_target_refuses_costs_its_table_and_nothing_else(following):
    t = begin(following)
    following.source.create("other", "id integer PRIMARY KEY")
    following.wait_until_equal("other")
    following.target.execute(f"CREATE VIEW {following.target.table('seen')} AS SELECT gone FROM {following.target.table('t')}")
    other = following.source.table("other")
    following.source.execute(
        "BEGIN", f"INSERT INTO {other} SELECT generate_series(1, 5)", f"ALTER TABLE {t} DROP COLUMN gone", "COMMIT"
    )
    following.source.execute(f"INSERT INTO {other} VALUES (6)")
    following.wait_until_equal("other")
    following.pair.wait_for(following.task, "t", "Table error")

    def all_came():
        # Those that came before the new table was taken in are in its load.
        row = following.task.statistics()[(following.pair.schema, "other")]
        return row["FullLoadRows"] + row["AppliedInserts"] == 6

    wait_until(all_came, "all rows of the other are counted")


@in_all_directions
def test_what_takes_the_name_of_another_table_is_a_table_of_its_own(following):
    t = begin(following)
    old = following.source.table("old")
    rename = f"ALTER TABLE {t} RENAME TO old" if following.source.is_postgres else f"RENAME TABLE {t} TO {old}"
    following.source.execute(rename, f"INSERT INTO {old} VALUES (3, 'three', 3)")
    following.source.create("t", "id integer PRIMARY KEY")
    following.source.execute(f"INSERT INTO {t} VALUES (10)")
    following.wait_until_equal("old", "t")
    following.source.execute(f"INSERT INTO {t} VALUES (11)", f"UPDATE {old} SET gone = 0")
    following.wait_until_equal("old", "t")


@in_all_directions
def test_a_table_may_come_again_after_its_end(following):
    t = begin(following, {"ErrorBehavior": {"FailOnNoTablesCaptured": False}})
    following.source.execute(f"DROP TABLE {t}")
    wait_until(lambda: "t" not in following.target.tables(), "the table is gone")
    following.task.stop()
    following.task.wait("stopped")
    following.task.start("resume-processing")
    following.task.wait("running")
    following.source.create("t", "id integer PRIMARY KEY, another integer")
    following.source.execute(f"INSERT INTO {t} VALUES (1, 1)")
    following.wait_until_equal("t")
    following.task.stop()
    following.task.wait("stopped")
    # While nobody reads the log.
    following.source.execute(f"DROP TABLE {t}")
    following.source.create("t", "id integer PRIMARY KEY, third integer")
    following.source.execute(f"INSERT INTO {t} VALUES (2, 2)")
    following.task.start("resume-processing")
    following.task.wait("running")
    following.wait_until_equal("t")
    following.source.execute(f"INSERT INTO {t} VALUES (3, 3)")
    following.wait_until_equal("t")
    assert following.target.columns("t") == ["id", "third"]


@in_all_directions
def test_a_table_that_keeps_its_columns_does_so_after_a_resumption(following):
    t = begin(following, policy(HandleSourceTableAltered=False))
    following.source.execute(f"ALTER TABLE {t} ADD COLUMN late integer", f"INSERT INTO {t} VALUES (3, 'three', 3, 3)")
    following.wait_for_counts("t", (1, 0, 0, 1), (1, 0, 0, 0))
    following.task.stop()
    following.task.wait("stopped")
    following.task.start("resume-processing")
    following.task.wait("running")
    following.source.execute(f"INSERT INTO {t} VALUES (4, 'four', 4, 4)")
    following.wait_for_counts("t", (2, 0, 0, 1), (2, 0, 0, 0))
    assert [row[0] for row in following.target.rows("t")] == [1, 2, 3, 4]


@in_all_directions
def test_a_task_without_a_full_load_has_all_of_a_table_that_comes_into_being(following):
    following.source.create("t", "id integer PRIMARY KEY")
    following.start(**FOLLOW)
    following.source.create("new", "id integer PRIMARY KEY")
    new = following.source.table("new")
    following.source.execute(f"INSERT INTO {new} VALUES (1)")
    following.wait_until_equal("new")
    following.source.execute(f"INSERT INTO {new} VALUES (2)")
    following.wait_until_equal("new")
    following.pair.wait_for(following.task, "new", "Table completed")
