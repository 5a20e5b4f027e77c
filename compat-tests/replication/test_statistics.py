"""What a task says of itself while it follows a source."""

import re
import time
import urllib.request

import pytest
from conftest import wait_until
from following import KEYED, LOOSE, busy, following, wait_until_alike  # noqa: F401
from pairs import GRACE_SECONDS, STOP_SECONDS, in_all_directions, pair  # noqa: F401


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
    following.wait_until_equal("ended")
    number = rounds[0]
    assert following.all_counts() == {
        "t": ((number, 2 * number, number, 0),) * 2,
        "loose": ((2 * number, 0, 0, 0),) * 2,
        "ended": ((1, 0, 0, 0),) * 2,
    }
    wait_until_alike(following, "t", "loose")
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
