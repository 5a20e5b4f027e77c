"""Servers that go away while a task follows, by the task's `RecoverableError…` settings."""

import pytest
from conftest import wait_until
from following import KEYED, following  # noqa: F401
from pairs import FROM_MARIADB, QUICK_RETRY, lost, pair  # noqa: F401


def begin(following, behavior):
    following.source.create("t", KEYED)
    following.source.fill("t", 5)
    following.start({"ErrorBehavior": behavior})
    following.wait_for_load("t")
    following.source.execute(f"UPDATE {following.source.table('t')} SET v = 'before' WHERE id = 1")
    following.wait_for_counts("t", (0, 1, 0, 0))


@pytest.mark.parametrize("pair", ["postgres-mariadb", FROM_MARIADB], indirect=True)
def test_a_task_gives_up_on_a_lost_target_after_as_many_attempts_as_it_is_told(following):
    begin(following, QUICK_RETRY | {"RecoverableErrorCount": 2})
    t, task = following.source.table("t"), following.task
    with lost(following.target):
        following.source.execute(f"UPDATE {t} SET v = 'meanwhile' WHERE id = 2", f"DELETE FROM {t} WHERE id = 3")
        message = task.wait("failed", seconds=60)["LastFailureMessage"]
        name = task.arn.rsplit(":", 1)[1]
        text = f"Task '{name}' was stopped after 2 recovery attempts Stop Reason FATAL_ERROR Error Level FATAL"
        assert message == text
        following.source.execute(f"INSERT INTO {t} VALUES (6, 'later')")
    following.resume()
    following.wait_until_equal("t")
    following.wait_for_counts("t", (1, 2, 1, 0))
    assert following.target.exceptions() == []


@pytest.mark.parametrize("pair", ["postgres-mariadb", FROM_MARIADB], indirect=True)
def test_a_task_that_may_try_again_goes_on_when_a_lost_source_is_back(following):
    begin(following, QUICK_RETRY)
    t = following.source.table("t")
    with following.target.locked("t"):
        # Read, and not applied when the source goes.
        following.source.execute(f"UPDATE {t} SET v = 'read' WHERE id = 2")
        following.wait_until_captured("t", (0, 2, 0, 0))
        with lost(following.source):
            assert following.task.status == "running"
    following.source.execute(f"INSERT INTO {t} VALUES (6, 'later')", f"DELETE FROM {t} WHERE id = 3")
    following.wait_until_equal("t")
    following.wait_for_counts("t", (1, 2, 1, 0))
    assert following.task.status == "running" and following.target.exceptions() == []


@pytest.mark.parametrize("pair", [FROM_MARIADB], indirect=True)
def test_a_task_that_may_not_try_again_fails_at_once(following):
    begin(following, {"RecoverableErrorCount": 0})
    with lost(following.target):
        following.source.execute(f"DELETE FROM {following.source.table('t')} WHERE id = 4")
        message = following.task.wait("failed", seconds=30)["LastFailureMessage"]
    assert message.startswith("Last Error  ") and message.endswith("Stop Reason RECOVERABLE_ERROR Error Level RECOVERABLE")
    following.resume()
    following.wait_until_equal("t")
    wait_until(lambda: following.counts("t") == ((0, 1, 1, 0), (0, 1, 1, 0)), "the deletion is counted")
