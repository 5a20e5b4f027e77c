"""The scripts that users copy, and the demo's tools, on a small sample."""

import json
import os
import re
import subprocess
import sys

import pytest

from conftest import ROOT, unique

# Half of one per cent of the demo's rows, and all of its small tables.
SCALE = "0.005"


def script(path, *arguments, **environment):
    """Runs a script as a user does; returns its exit code and what it printed."""
    done = subprocess.run(
        [sys.executable, str(ROOT / path), *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=170, env=os.environ | environment,
    )  # fmt: skip
    return done.returncode, done.stdout


def url(database, name=""):
    return f"{database.engine}://{database.user}:{database.password}@{database.host}:{database.port}/{name}"


@pytest.fixture
def sample(databases):
    """The demo's sample, small, in MariaDB; its schema."""
    schema = unique("sample").replace("-", "_")
    code, output = script(
        "examples/demo/sample_data.py", url(databases.maria_source), "--schema", schema, "--scale", SCALE
    )
    assert code == 0, output
    assert "18 tables" in output
    return schema


def test_a_plain_boto3_script_migrates_the_sample(databases, sample):
    target = databases.new(databases.pg_target, "example")
    urls = {"MIGRATE_SOURCE": url(databases.maria_source), "MIGRATE_TARGET": url(target, target.database)}
    code, output = script("examples/migrate.py", "--schema", sample, "--name", unique("example"), "--clean-up", **urls)
    assert code == 0, output
    assert output.count("Table completed") >= 18
    assert "StopReason: Stop Reason FULL_LOAD_ONLY_FINISHED" in output
    code, output = script("examples/demo/compare.py", "--schema", sample, **urls)
    assert code == 0, output
    assert "VERDICT: source and target are the same" in output


def test_the_script_follows_a_source_until_it_is_told_to_stop(databases, sample):
    target = databases.new(databases.pg_target, "example")
    urls = {"MIGRATE_SOURCE": url(databases.maria_source), "MIGRATE_TARGET": url(target, target.database)}
    name = unique("example")
    following = ["--migration-type", "full-load-and-cdc"]
    code, output = script("examples/migrate.py", "--schema", sample, "--name", name, *following, **urls)
    assert code == 0, output
    assert output.count("Table completed") >= 18
    assert "The load is complete; the task follows the changes of the source" in output
    code, output = script("examples/demo/follow.py", "--schema", sample, "--task", name, "--seconds", 3, **urls)
    assert code == 0, output
    assert "The task has counted exactly these changes" in output
    shows_how_far_the_task_is(output)
    code, output = script("examples/migrate.py", "--name", name, "--stop", "--clean-up")
    assert code == 0, output
    assert "StopReason: Stop Reason NORMAL" in output
    code, output = script("examples/demo/compare.py", "--schema", sample, "--self-test", **urls)
    assert code == 0, output
    # The workload has created one table and dropped another.
    assert "rows of 19 tables" in output
    assert "VERDICT: source and target are the same" in output
    code, output = script("examples/migrate.py", "--name", name, "--stop")
    assert (code, output) == (1, f"There is no replication task {name}\n")


# The kinds of changes, each applied/captured, of what is printed of a task again and again.
COUNTED = ("inserts", "updates", "deletes", "DDL")
LINE = re.compile(
    r"^ +(\d+\.\d) s  latency (\d+\.\d\d)/(\d+\.\d\d) s" + "".join(rf"  {kind} ([\d,]+)/([\d,]+)" for kind in COUNTED) + "$",
    re.MULTILINE,
)


def shows_how_far_the_task_is(output):
    lines = [[float(number.replace(",", "")) for number in line] for line in LINE.findall(output)]
    # Every two seconds, and in the end.
    assert len(lines) >= 2, output
    for earlier, later in zip(lines, lines[1:]):
        assert earlier[0] <= later[0] and all(a <= b for a, b in zip(earlier[3:], later[3:]))
    for _, at_source, at_target, *counts in lines:
        assert 0 <= at_source <= at_target
        assert all(applied <= captured for applied, captured in zip(counts[::2], counts[1::2]))
    counts = lines[-1][3:]
    committed = re.search(r"transactions with ([\d,]+) changes", output)[1]
    assert counts[::2] == counts[1::2] and min(counts) > 0 and sum(counts[::2]) == float(committed.replace(",", ""))


def test_the_script_says_why_a_database_cannot_be_reached(databases, sample):
    target = databases.new(databases.pg_target, "example")
    wrong = url(target, target.database).replace(target.password, "wrong")
    urls = {"MIGRATE_SOURCE": url(databases.maria_source), "MIGRATE_TARGET": wrong}
    code, output = script("examples/migrate.py", "--schema", sample, "--name", unique("example"), "--clean-up", **urls)
    assert code == 1
    assert "The target cannot be reached: Test Endpoint failed" in output


# --- the comparison, on a copy that was made by hand ------------------------------------------------------------------

SOURCE_COLUMNS = """
    id int PRIMARY KEY, tiny tinyint, flag boolean, one bit(1), bits bit(12), big bigint unsigned, price decimal(12, 4), ratio float,
    size double, word varchar(20), code char(5), body longtext, data longblob, day date, clock time(6), at datetime(6),
    stamp timestamp(3) NULL, year year, kind enum('a', 'b'), tags set('x', 'y'), doc json
"""

TARGET_COLUMNS = """
    id integer PRIMARY KEY, tiny smallint, flag boolean, one boolean, bits bytea, big numeric(20), price numeric(12, 4), ratio real,
    size double precision, word varchar(20), code char(5), body text, data bytea, day date, clock time(6), at timestamp(6),
    stamp timestamptz(3), year smallint, kind varchar(1), tags varchar(3), doc jsonb
"""

SOURCE_ROWS = """
    (1, -128, 1, b'1', b'101000000001', 18446744073709551615, -0.5000, 3.1415927, 0.1, 'é 😀', 'ab', 'long\\ntext', x'00ff5c', '1000-01-01',
     '23:59:59.999999', '9999-12-31 23:59:59.999999', '2024-07-01 12:00:00.120', 1901, 'b', 'x,y', '{"b": 1, "a": null}'),
    (2, 0, 0, b'0', b'0', 0, 0, -1.5, 1e22, '', '', '', x'', '2024-02-29', '00:00:00', '1970-01-01', '2001-01-01', 2155, 'a', '', '[]'),
    (3, 7, 1, b'1', b'1', 5, 12.34, 0.1, 2.5, 'word', 'abcde', 'body', x'aa', '1999-12-31', '12:00:00', '2020-01-01 10:00:00', '2020-01-01', 2000, 'a', 'y', '{}'),
    (4, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (5, 7, 1, b'1', b'1', 5, 12.34, 0.1, 2.5, 'word', 'abcde', 'body', x'aa', '1999-12-31', '12:00:00', '2020-01-01 10:00:00', '2020-01-01', 2000, 'a', 'y', '{}')
"""

TARGET_ROWS = """
    (1, -128, true, true, '\\x0a01', 18446744073709551615, -0.5, 3.1415927, 0.1, 'é 😀', 'ab', E'long\\ntext', '\\x00ff5c', '1000-01-01',
     '23:59:59.999999', '9999-12-31 23:59:59.999999', '2024-07-01 14:00:00.12+02', 1901, 'b', 'x,y', '{"a": null, "b": 1}'),
    (2, 0, false, false, '\\x0000', 0, 0, -1.5, 1e22, '', '', '', '', '2024-02-29', '00:00:00', '1970-01-01', '2001-01-01+00', 2155, 'a', '', '[]'),
    (3, 7, true, true, '\\x0001', 5, 12.34, 0.1, 2.5, 'word', 'abcde', 'body', '\\xaa', '1999-12-31', '12:00:00', '2020-01-01 10:00:00', '2020-01-01+00', 2000, 'a', 'y', '{}'),
    (4, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (5, 7, true, true, '\\x0001', 5, 12.34, 0.1, 2.5, 'word', 'abcde', 'body', '\\xaa', '1999-12-31', '12:00:00', '2020-01-01 10:00:00', '2020-01-01+00', 2000, 'a', 'y', '{}')
"""


@pytest.fixture
def copy(databases):
    """A table in MariaDB, its copy in PostgreSQL, and a way to compare them."""
    source = databases.new(databases.maria_source, "compare")
    source.execute(
        "SET time_zone = '+00:00'",
        f"CREATE TABLE types ({SOURCE_COLUMNS}) CHARACTER SET utf8mb4",
        f"INSERT INTO types VALUES {SOURCE_ROWS}",
        "CREATE TABLE log (line text, number int)",
        "INSERT INTO log VALUES ('same', 1), ('same', 1), ('other', NULL)",
        "CREATE TABLE named (name varchar(20) PRIMARY KEY, n int) CHARACTER SET utf8mb4",
        "INSERT INTO named VALUES ('b', 1), ('B2', 2), ('é', 3), ('Z', 4), ('a', 5), ('_', 6)",
    )
    target = databases.new(databases.pg_target, "compare")
    target.execute(
        f"CREATE SCHEMA {source.database}",
        f"SET search_path = {source.database}",
        "SET timezone = 'UTC'",
        f"CREATE TABLE types ({TARGET_COLUMNS})",
        f"INSERT INTO types VALUES {TARGET_ROWS}",
        "CREATE TABLE log (line text, number int)",
        "INSERT INTO log VALUES ('other', NULL), ('same', 1), ('same', 1)",
        "CREATE TABLE named (name varchar(20) PRIMARY KEY, n int)",
        "INSERT INTO named VALUES ('b', 1), ('B2', 2), ('é', 3), ('Z', 4), ('a', 5), ('_', 6)",
    )

    def compare(*statements, arguments=()):
        if statements:
            target.execute(f"SET search_path = {source.database}", *statements)
        urls = {"MIGRATE_SOURCE": url(source), "MIGRATE_TARGET": url(target, target.database)}
        return script("examples/demo/compare.py", "--schema", source.database, *arguments, **urls)

    return compare


def test_the_comparison_forgives_how_the_engines_write_a_value(copy):
    code, output = copy(arguments=["--self-test"])
    assert code == 0, output
    assert "Compared 14 rows of 3 tables" in output
    assert "VERDICT: source and target are the same" in output


@pytest.mark.parametrize(
    "statement, said",
    [
        ("UPDATE types SET at = at - interval '1 microsecond' WHERE id = 1", "types: row id = '1', at: "),
        ("UPDATE types SET word = '' WHERE id = 4", "types: row id = '4', word: NULL in the source, '' in the target"),
        ("UPDATE types SET ratio = 3.1415925 WHERE id = 1", "types: row id = '1', ratio: "),
        ("UPDATE types SET stamp = stamp + interval '1 hour' WHERE id = 2", "types: row id = '2', stamp: "),
        ("DELETE FROM types WHERE id = 3", "types: row id = '3' is not in the target"),
        ("INSERT INTO types VALUES (6)", "types: row id = '6' is only in the target"),
        ("DELETE FROM named WHERE name = 'é'", "named: row name = 'é' is not in the target"),
        ("UPDATE log SET number = 2 WHERE line = 'other'", "log: the rows are not the same"),
        ("INSERT INTO log VALUES ('same', 1)", "log: 3 rows in the source, 4 in the target"),
        ("DROP TABLE named", "named: is not in the target"),
        ("CREATE TABLE stray (n int)", "stray: is only in the target"),
        ("ALTER TABLE named DROP COLUMN n", "named: columns ['name', 'n'] in the source, ['name'] in the target"),
    ],
)
def test_the_comparison_finds(copy, statement, said):
    code, output = copy(statement)
    assert code == 1
    assert said in output
    assert output.count("\n  ") - output.count(" rows  ") <= 2
    assert "VERDICT: source and target are different" in output


def test_the_script_is_plain_boto3():
    """What migrates here migrates on AWS: the script knows nothing of dms-local but one line of its help."""
    text = (ROOT / "examples/migrate.py").read_text()
    code = text.split('"""', 2)[2]
    assert "dms-local" not in code and "endpoint_url" not in code and "127.0.0.1" not in code
    assert json.dumps("subnet-0a1b2c3d") in code
