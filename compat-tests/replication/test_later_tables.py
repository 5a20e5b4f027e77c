"""Tables that are loaded, or come into being, while a task follows its source."""

import pytest
from conftest import include, wait_until
from following import KEYED, LOOSE, busy, following, make_following, wait_until_alike  # noqa: F401
from pairs import DIRECTIONS, FROM_MARIADB, FROM_POSTGRES, in_all_directions, pair, prepare, with_rule  # noqa: F401

@in_all_directions
def test_tables_are_loaded_again_among_their_changes_and_no_row_is_lost_or_doubled(following):
    source, target = following.source, following.target
    for name, columns in [("t", KEYED), ("loose", LOOSE), ("other", KEYED)]:
        source.create(name, columns)
        source.fill(name, 300)
    if source.is_postgres:
        source.execute(f"ALTER TABLE {source.table('loose')} REPLICA IDENTITY FULL")
    following.start()
    following.wait_for_load("t", "loose", "other")
    # Only a load mends this.
    target.execute(
        f"UPDATE {target.table('t')} SET v = 'theirs' WHERE id > 290",
        f"INSERT INTO {target.table('t')} VALUES (-1, 'theirs')",
        f"INSERT INTO {target.table('loose')} SELECT * FROM {target.table('loose')} WHERE a < 100",
    )
    t, loose, other = map(source.table, ("t", "loose", "other"))
    changes = [
        f"INSERT INTO {t} VALUES (1000 + {{n}}, 'new')",
        f"UPDATE {t} SET v = 'round {{n}}' WHERE id = {{n}} % 300",
        f"DELETE FROM {t} WHERE id = 1000 + {{n}} / 2",
        f"INSERT INTO {loose} VALUES ({{n}} % 3, 'new')",
        f"UPDATE {loose} SET b = 'round {{n}}' WHERE a = 200 + {{n}} % 50",
        f"INSERT INTO {other} VALUES (1000 + {{n}}, 'new')",
    ]
    if not source.is_postgres:
        changes[2] = f"DELETE FROM {t} WHERE id = 1000 + {{n}} DIV 2"
    with busy(source, *changes) as rounds:
        for _ in range(2):
            begun = rounds[0]
            wait_until(lambda: rounds[0] > begun + 20, "the source changes")
            following.reload("t", "loose")
            following.wait_for_load("t", "loose")
    wait_until_alike(following, "t", "loose", "other")
    following.wait_for_counts("other", (rounds[0], 0, 0, 0))
    rows = following.task.statistics()
    assert [rows[(following.pair.schema, name)]["FullLoadReloaded"] for name in ("t", "loose", "other")] == [True, True, False]
    assert target.exceptions() == []


@in_all_directions
def test_what_changes_while_a_table_is_loaded_again_comes_after_the_load(following):
    pair, source, target = following.pair, following.source, following.target
    pair.create_both("t", KEYED)
    source.fill("t", 10)
    source.create("other", KEYED)
    following.start(prepare("TRUNCATE_BEFORE_LOAD") | {"ErrorBehavior": {"ApplyErrorDeletePolicy": "LOG_ERROR"}})
    following.wait_for_load("t", "other")
    t = source.table("t")
    with target.held_at("t", 5):
        following.reload("t")
        pair.wait_for(following.task, "t", "Table is being reloaded")
        wait_until(lambda: source_reads(following), "the snapshot is taken")
        source.execute(
            "BEGIN",
            f"UPDATE {t} SET v = 'during' WHERE id IN (1, 9)",
            f"DELETE FROM {t} WHERE id IN (2, 8)",
            f"UPDATE {t} SET id = id + 20 WHERE id IN (3, 7)",
            f"INSERT INTO {t} VALUES (11, 'during')",
            f"INSERT INTO {source.table('other')} VALUES (1, 'in the same transaction')",
            "COMMIT",
        )
    following.wait_until_equal("t", "other")
    following.wait_for_counts("t", (1, 4, 2, 0))
    assert target.exceptions() == []


def source_reads(following):
    """Whether the target has been emptied for the rows that are on their way."""
    return following.target.rows("t") == []


def make_tables(source, late=""):
    """New tables, made in every way, of which the task is to take those whose names begin with `in`."""
    table = lambda name: source.table(name + late)  # noqa: E731
    source.create("in_empty" + late, KEYED)
    source.create("in_filled" + late, KEYED)
    source.create("in_loose" + late, LOOSE)
    source.create("in_not" + late, KEYED)
    source.create("out" + late, KEYED)
    source.execute(
        f"INSERT INTO {table('in_filled')} VALUES (1, 'one'), (2, 'two')",
        f"INSERT INTO {table('in_loose')} VALUES (1, 'x'), (1, 'x')",
        f"INSERT INTO {table('in_not')} VALUES (1, 'no')",
        f"INSERT INTO {table('out')} VALUES (1, 'no')",
        f"CREATE TABLE {table('in_copy')} AS SELECT * FROM {table('in_filled')}",
        f"UPDATE {table('in_filled')} SET v = 'changed' WHERE id = 1",
        f"DELETE FROM {table('in_filled')} WHERE id = 2",
    )
    if source.is_postgres:
        source.execute(
            f"ALTER TABLE {table('in_loose')} REPLICA IDENTITY FULL",
            "BEGIN",
            f"CREATE TABLE {table('in_one')} ({KEYED})",
            f"INSERT INTO {table('in_one')} VALUES (1, 'in one transaction')",
            "COMMIT",
        )
    else:
        source.execute(f"CREATE TABLE {table('in_one')} LIKE {table('in_filled')}", f"INSERT INTO {table('in_one')} VALUES (1, 'x')")
    source.execute(
        f"INSERT INTO {table('in_loose')} VALUES (2, 'y')",
        f"UPDATE {table('in_loose')} SET b = 'z' WHERE a = 1",
        f"INSERT INTO {table('in_copy')} VALUES (9, 'later')",
    )
    return [name + late for name in ("in_empty", "in_filled", "in_loose", "in_copy", "in_one")]


@pytest.mark.parametrize(
    "pair, kind",
    [*[(direction, "full-load-and-cdc") for direction in DIRECTIONS], (FROM_POSTGRES, "cdc"), (FROM_MARIADB, "cdc")],
    indirect=["pair"],
)
def test_tables_that_come_into_being_are_taken_if_the_rules_select_them(following, kind):
    pair, source, target = following.pair, following.source, following.target
    source.create("in_first", KEYED)
    exclude = {"rule-type": "selection", "rule-action": "exclude"}
    mappings = with_rule(pair.schema, exclude | {"object-locator": {"schema-name": pair.schema, "table-name": "in_not%"}})
    mappings["rules"][0]["object-locator"]["table-name"] = "in%"
    following.start(mappings=mappings, MigrationType=kind)
    following.wait_for_load("in_first")
    made = make_tables(source)
    wait_until_alike(following, *made)
    # What they are changed in afterwards comes, too.
    source.execute(*[f"INSERT INTO {source.table(name)} VALUES (100, 'last')" for name in made])
    wait_until_alike(following, *made)
    # The same while the task does not run.
    following.stop()
    late = make_tables(source, "_late")
    following.resume()
    wait_until_alike(following, *late)
    source.execute(*[f"INSERT INTO {source.table(name)} VALUES (100, 'last')" for name in late])
    wait_until_alike(following, *late)
    # A table that goes, and another one that comes under its name.
    filled = source.table("in_filled")
    source.execute(
        f"DROP TABLE {filled}",
        f"CREATE TABLE {filled} (code varchar(10) PRIMARY KEY, n integer, m integer)",
        f"INSERT INTO {filled} VALUES ('a', 1, 2), ('b', 3, 4)",
        f"UPDATE {filled} SET m = 5 WHERE code = 'a'",
    )
    wait_until_alike(following, "in_filled")
    taken = {table for _, table in following.task.statistics()}
    assert taken == {"in_first", *made, *late}
    assert set(target.tables(pair.schema)) - {"awsdms_apply_exceptions"} == taken
    assert target.exceptions() == []


@pytest.mark.parametrize("pair", [FROM_POSTGRES, FROM_MARIADB], indirect=True)
@pytest.mark.parametrize("kind", ["cdc", "full-load-and-cdc"])
def test_a_task_may_begin_without_tables_if_it_is_allowed_to(make_following, pair, kind):
    message = make_following().failure(MigrationType=kind)
    assert "No tables were found at task initialization." in message and "Stop Reason FATAL_ERROR" in message
    following = make_following()
    following.start({"ErrorBehavior": {"FailOnNoTablesCaptured": False}}, MigrationType=kind)
    pair.source.create("t", KEYED)
    pair.source.execute(f"INSERT INTO {pair.source.table('t')} VALUES (1, 'first')")
    wait_until_alike(following, "t")
    pair.source.execute(f"UPDATE {pair.source.table('t')} SET v = 'followed'")
    wait_until_alike(following, "t")


def renamed(source, old, new):
    return f"ALTER TABLE {source.table(old)} RENAME TO {new if source.is_postgres else source.table(new)}"


@in_all_directions
@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_a_new_table_is_taken_under_the_name_it_has_by_then(following, stopped):
    source, target = following.source, following.target
    for name in ("t", "gate"):
        source.create(name, KEYED)
    source.fill("gate", 1)
    following.start()
    following.wait_for_load("t", "gate")
    gate, first = source.table("gate"), source.table("first_name")

    def work():
        source.create("first_name", KEYED)
        source.execute(
            f"INSERT INTO {first} VALUES (1, 'first'), (2, 'first')",
            f"DELETE FROM {first} WHERE id = 2",
            renamed(source, "first_name", "second_name"),
            f"INSERT INTO {source.table('second_name')} VALUES (3, 'second')",
            renamed(source, "second_name", "third_name"),
            f"UPDATE {source.table('third_name')} SET v = 'third' WHERE id = 1",
        )
        source.create("short_lived", KEYED)
        source.execute(f"INSERT INTO {source.table('short_lived')} VALUES (1, 'x')", f"DROP TABLE {source.table('short_lived')}")

    if stopped:
        following.stop()
        work()
        following.resume()
    else:
        with target.locked("gate"):
            source.execute(f"UPDATE {gate} SET v = 'reached' WHERE id = 1")
            following.wait_until_captured("gate", (0, 1, 0, 0))
            work()
    source.execute(f"INSERT INTO {source.table('t')} VALUES (1000, 'last')")
    following.wait_until_equal("t", "third_name")
    assert target.rows("third_name") == [(1, "third"), (3, "second")]
    source.execute(f"INSERT INTO {source.table('third_name')} VALUES (4, 'later')")
    following.wait_until_equal("third_name")
    there = lambda: {name for name in target.tables() if not name.startswith("awsdms_")}
    wait_until(lambda: there() == {"t", "gate", "third_name"}, "the other names are gone")
    assert following.task.status == "running"


@in_all_directions
def test_a_table_that_is_renamed_before_it_is_loaded_is_loaded_under_its_new_name(following):
    source, target = following.source, following.target
    following.pair.create_both("a_gate", KEYED)
    source.create("b_first", KEYED)
    for name in ("a_gate", "b_first"):
        source.fill(name, 10)
    with target.held_at("a_gate", 5):
        one_by_one = {"MaxFullLoadSubTasks": 1, "TargetTablePrepMode": "TRUNCATE_BEFORE_LOAD"}
        following.start({"FullLoadSettings": one_by_one})
        following.pair.wait_for(following.task, "a_gate", "Full load")
        source.execute(renamed(source, "b_first", "b_second"))
        source.execute(f"INSERT INTO {source.table('b_second')} VALUES (100, 'new')")
    following.wait_until_equal("a_gate", "b_second")
    assert len(target.rows("b_second")) == 11


@in_all_directions
def test_a_table_that_is_renamed_to_a_name_that_is_selected_is_loaded(following):
    source = following.source
    for name in ("t", "other"):
        source.create(name, KEYED)
        source.fill(name, 10)
    following.start(None, include(following.pair.schema, "t%"))
    following.wait_for_load("t")
    source.execute(renamed(source, "other", "t_other"), f"INSERT INTO {source.table('t_other')} VALUES (100, 'new')")
    following.wait_until_equal("t", "t_other")
    source.execute(f"DELETE FROM {source.table('t_other')} WHERE id = 3")
    following.wait_until_equal("t_other")
