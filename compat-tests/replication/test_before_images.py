"""Columns of the target that tell what a row was before its last update: `add-before-image-columns`."""

import pytest
from conftest import wait_until
from following import KEYED, following  # noqa: F401
from pairs import in_all_directions, pair, transformation, with_rule  # noqa: F401


def before_images(filter, **definition):
    rule = transformation("column", "add-before-image-columns")
    definition = {f"column-{key}": value for key, value in definition.items()}
    return rule | {"before-image-def": {"column-filter": filter, **definition}}


def mappings(following, filter, **definition):
    return with_rule(following.pair.schema, before_images(filter, **definition))


BATCH = {"TargetMetadata": {"BatchApplyEnabled": True}}


@in_all_directions
@pytest.mark.parametrize("settings", [None, BATCH], ids=["transactional", "batch"])
def test_the_key_before_an_update_is_told(following, settings):
    source, target = following.source, following.target
    source.create("t", KEYED)
    source.execute(f"INSERT INTO {source.table('t')} VALUES (1, 'loaded'), (2, 'loaded'), (3, 'loaded')")
    following.start(settings, mappings(following, "pk-only"))
    following.wait_for_load("t")
    assert target.columns("t") == ["id", "v", "BI_id"]
    t = source.table("t")
    source.execute(
        f"UPDATE {t} SET id = 10 WHERE id = 1",
        f"UPDATE {t} SET v = 'same key' WHERE id = 2",
        f"INSERT INTO {t} VALUES (4, 'new'), (5, 'new')",
        f"UPDATE {t} SET v = 'inserted and updated' WHERE id = 5",
        f"INSERT INTO {t} VALUES (6, 'gone')",
        f"DELETE FROM {t} WHERE id = 6",
    )
    following.wait_for_counts("t", (3, 3, 1, 0))
    assert target.rows("t") == [
        (2, "same key", 2),
        (3, "loaded", None),
        (4, "new", None),
        (5, "inserted and updated", 5),
        (10, "loaded", 1),
    ]


@in_all_directions
def test_all_columns_before_an_update_are_told_where_the_log_has_them(following):
    source, target = following.source, following.target
    source.create("t", "id integer PRIMARY KEY, n integer, v text")
    t = source.table("t")
    if source.is_postgres:
        source.execute(f"ALTER TABLE {t} REPLICA IDENTITY FULL")
    source.execute(f"INSERT INTO {t} VALUES (1, 5, 'first')")
    following.start(None, mappings(following, "all", prefix="", suffix="_before"))
    following.wait_for_load("t")
    source.execute(f"UPDATE {t} SET n = 6, v = NULL WHERE id = 1")
    wait_until(lambda: target.rows("t") == [(1, 6, None, 1, 5, "first")], "the row before is told")
    source.execute(f"UPDATE {t} SET v = 'second' WHERE id = 1", f"UPDATE {t} SET v = 'third' WHERE id = 1")
    wait_until(lambda: target.rows("t") == [(1, 6, "third", 1, 6, "second")], "the row before the last update is told")


@in_all_directions
def test_the_columns_follow_those_that_they_are_of(following):
    source, target = following.source, following.target
    source.create("t", "id integer PRIMARY KEY, n integer, v text")
    t = source.table("t")
    following.start(None, mappings(following, "non-lob"))
    following.wait_for_load("t")
    assert target.columns("t") == ["id", "n", "v", "BI_id", "BI_n"]
    source.execute(
        f"ALTER TABLE {t} ADD COLUMN m integer",
        f"ALTER TABLE {t} RENAME COLUMN n TO k",
        f"INSERT INTO {t} (id, k, m) VALUES (1, 2, 3)",
    )
    wait_until(lambda: set(target.columns("t")) == {"id", "k", "v", "m", "BI_id", "BI_k", "BI_m"}, "they are renamed")
    source.execute(f"ALTER TABLE {t} DROP COLUMN k", f"UPDATE {t} SET m = 4 WHERE id = 1")
    wait_until(lambda: set(target.columns("t")) == {"id", "v", "m", "BI_id", "BI_m"}, "they are dropped")
    before = lambda: target.execute(f"SELECT {target.quote('m')}, {target.quote('BI_id')} FROM {target.table('t')}")
    wait_until(lambda: list(before()) == [(4, 1)], "the row before is told")


def test_bad_definitions_are_refused(following, dms):
    for definition, offender in [
        ({"column-filter": "some"}, "column-filter"),
        ({"column-filter": "all", "column-prefix": ""}, "column-prefix"),
        ({}, "column-filter"),
    ]:
        rule = transformation("column", "add-before-image-columns") | {"before-image-def": definition}
        with pytest.raises(dms.exceptions.ClientError) as refused:
            following.pair.task(with_rule(following.pair.schema, rule), None)
        assert offender in str(refused.value)
