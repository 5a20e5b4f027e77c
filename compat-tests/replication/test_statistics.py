"""What a task says of itself while it follows a source."""

import contextlib
import re
import time
import urllib.request

import pytest
from conftest import create_replication_instance, wait_until
from following import KEYED, LOOSE, busy, following, following_of, wait_until_alike  # noqa: F401
from pairs import FROM_MARIADB, GRACE_SECONDS, STOP_SECONDS, Pair, in_all_directions, pair  # noqa: F401


@in_all_directions
def test_a_task_that_stops_among_changes_does_so_in_two_seconds_and_counts_each_once(following):
    source = following.source
    source.create("t", KEYED)
    source.create("loose", LOOSE)
    source.fill("t", 100)
    source.create("ended", KEYED)
    following.start()
    following.wait_for_load("t", "loose", "ended")
    t, loose = source.table("t"), source.table("loose")
    changes = [
        f"INSERT INTO {t} VALUES (1000 + {{n}}, 'new')",
        f"UPDATE {t} SET v = 'round {{n}}' WHERE id = {{n}} % 100 + 1",
        f"UPDATE {t} SET id = id + 1000000 WHERE id = 1000 + {{n}}",
        f"DELETE FROM {t} WHERE id = 1001000 + {{n}}",
        "BEGIN",
        f"INSERT INTO {loose} VALUES ({{n}} % 3, 'new'), ({{n}} % 3, 'new')",
        f"DELETE FROM {t} WHERE id > 0",
        "ROLLBACK",
        f"INSERT INTO {loose} VALUES ({{n}}, 'new'), (1, 'new')",
    ]
    with busy(source, *changes) as rounds:
        for _ in range(3):
            reached = rounds[0] + 30
            wait_until(lambda: rounds[0] > reached, "the source changes")
            begun = time.monotonic()
            following.task.stop()
            wait_until(lambda: following.task.status == "stopped", "the task has stopped")
            assert time.monotonic() - begun < STOP_SECONDS + GRACE_SECONDS
            following.resume()
    source.execute(f"INSERT INTO {source.table('ended')} VALUES (1, 'x')")
    number = rounds[0]
    for name, counts in {"t": (number, 2 * number, number, 0), "loose": (2 * number, 0, 0, 0), "ended": (1, 0, 0, 0)}.items():
        following.wait_for_counts(name, counts)
    wait_until_alike(following, "t", "loose", "ended")
    assert following.target.exceptions() == []


def metrics(server, task):
    """The metrics of a task by their names."""
    with urllib.request.urlopen(server.url + "/_dms-local/metrics", timeout=10) as answer:
        text = answer.read().decode()
    lines = re.findall(r'^(\w+)\{(.*)\} (\S+)$', text, re.MULTILINE)
    return {name: float(value) for name, labels, value in lines if f'ReplicationTaskArn="{task.arn}"' in labels}


@pytest.mark.parametrize("pair", ["postgres-mariadb", "mariadb-postgres"], indirect=True)
def test_metrics_tell_how_far_behind_a_task_is_and_what_waits_where(following, server):
    source = following.source
    source.create("t", "id integer PRIMARY KEY, v varchar(200)")
    task = following.start({"ChangeProcessingTuning": {"MemoryLimitTotal": 1}})
    following.wait_for_load("t")
    t = source.table("t")
    source.execute(f"INSERT INTO {t} VALUES (0, 'x')")
    following.wait_until_equal("t")

    def idle():
        told = metrics(server, task)
        return (told["CDCLatencySource"], told["CDCLatencyTarget"], told["CDCIncomingChanges"]) == (0, 0, 0)

    wait_until(idle, "nothing waits", 10)
    with following.target.locked("t"):
        for start in (1, 10_001, 20_001):
            end = start + 9_999
            numbers = f"generate_series({start}, {end}) AS seq" if source.is_postgres else f"seq_{start}_to_{end}"
            source.execute(f"INSERT INTO {t} SELECT seq, repeat('x', 150) FROM {numbers}")
        following.wait_until_captured("t", (30_001, 0, 0, 0))
        told = metrics(server, task)
        assert told["CDCRowsSource_total"] == 30_001 and told["CDCRowsTarget_total"] == 1
        assert told["CDCChangesDiskTarget"] > 0
        assert told["CDCIncomingChanges"] == told["CDCChangesMemoryTarget"] + told["CDCChangesDiskTarget"]

        def behind():
            told = metrics(server, task)
            return told["CDCLatencyTarget"] > 1 and told["CDCLatencySource"] == 0

        wait_until(behind, "the target alone falls behind", 5)
    following.wait_for_counts("t", (30_001, 0, 0, 0))
    wait_until(idle, "nothing waits", 10)
    told = metrics(server, task)
    assert (told["CDCRowsTarget_total"], told["CDCChangesMemoryTarget"], told["CDCChangesDiskTarget"]) == (30_001, 0, 0)
    following.stop()
    assert metrics(server, task) == {}


@pytest.mark.parametrize("pair", ["postgres-mariadb", "mariadb-postgres"], indirect=True)
def test_what_waits_for_longer_than_memory_may_keep_it_goes_to_disk(following, server):
    source = following.source
    source.create("t", "id integer PRIMARY KEY, v varchar(200)")
    task = following.start({"ChangeProcessingTuning": {"MemoryKeepTime": 1, "MinTransactionSize": 1}})
    following.wait_for_load("t")
    t = source.table("t")
    with following.target.locked("t"):
        for number in range(5):
            source.execute(f"INSERT INTO {t} VALUES ({number}, 'x')")
            following.wait_until_captured("t", (number + 1, 0, 0, 0))
        wait_until(lambda: metrics(server, task)["CDCChangesDiskTarget"] > 0, "what waits is on disk", 30)
        source.execute(f"INSERT INTO {t} VALUES (5, 'x')", f"UPDATE {t} SET v = 'y' WHERE id = 1")
        following.wait_until_captured("t", (6, 1, 0, 0))
        assert metrics(server, task)["CDCChangesMemoryTarget"] == 0
    following.wait_for_counts("t", (6, 1, 0, 0))
    following.wait_until_equal("t")


MEMORY_MIB = 200


@pytest.fixture
def lone_server(make_server):
    """A server that has nothing else to do."""
    return make_server()


@pytest.fixture
def lone(databases, lone_server, make_client):
    """Follows on that server."""
    client = make_client(url=lone_server.url)
    arn = create_replication_instance(client)["ReplicationInstanceArn"]
    with contextlib.closing(following_of(Pair(databases, FROM_MARIADB, client, arn), client)) as makes:
        yield next(makes)


def insert(source, table, first, last, length):
    """One transaction of many rows."""
    numbers = f"generate_series({first}, {last}) AS seq" if source.is_postgres else f"seq_{first}_to_{last}"
    source.execute(f"INSERT INTO {source.table(table)} SELECT seq, repeat('x', {length}) FROM {numbers}")


def memory_mib(server):
    """What the server says of it."""
    with urllib.request.urlopen(server.url + "/_dms-local/metrics", timeout=10) as answer:
        return int(re.search(r"^process_resident_memory_bytes (\d+)$", answer.read().decode(), re.MULTILINE)[1]) / 2**20


def test_memory_stays_within_bounds_however_much_waits_for_the_target(lone, lone_server):
    source, target = lone.source, lone.target
    source.create("t", "id integer PRIMARY KEY, v varchar(1000)")
    lone.start()
    lone.wait_for_load("t")
    assert abs(memory_mib(lone_server) - lone_server.rss_mib()) < 10
    with target.locked("t"):
        # More than memory may be.
        insert(source, "t", 1, 300_000, 800)
        lone.wait_until_captured("t", (300_000, 0, 0, 0))
        told = metrics(lone_server, lone.task)
        assert told["CDCChangesDiskTarget"] > 200_000 and 0 < memory_mib(lone_server) < MEMORY_MIB
        lone.stop()
    assert lone_server.peak_mib() < MEMORY_MIB


def test_a_disk_that_takes_nothing_pauses_reading_and_is_told(lone, lone_server):
    source, target = lone.source, lone.target
    source.create("t", "id integer PRIMARY KEY, v varchar(1000)")
    # Where the folder for what waits should be.
    (lone_server.data_dir / "spool").write_text("")
    lone.start({"ChangeProcessingTuning": {"MemoryLimitTotal": 1}})
    lone.wait_for_load("t")
    name = lone.task.describe()["ReplicationTaskIdentifier"]
    told = lambda: [
        (event["EventCategories"], event["Message"])
        for event in lone.pair.client.describe_events(SourceType="replication-task", SourceIdentifier=name)["Events"]
        if event["Message"].startswith("Reading")
    ]
    paused = (["state change"], "Reading paused, disk usage limit reached.")
    with target.locked("t"):
        for first in range(1, 30_001, 10_000):
            insert(source, "t", first, first + 9_999, 900)
        wait_until(told, "the pause is told", 20)
        assert told() == [paused] and lone.counts("t")[0][0] < 30_000 and lone.task.status == "running"
    lone.wait_for_counts("t", (30_000, 0, 0, 0))
    assert told() == [paused, (["state change"], "Reading resumed.")]
    lone.wait_until_equal("t")
