"""Crashes that leave the server behind what the target has: its state is set back, and the log is read again."""

import shutil

import pytest

from conftest import create_replication_instance, wait_until
from following import Following
from pairs import DIRECTIONS, Pair

# Every transaction goes to the target by itself.
ONE_BY_ONE = {"ChangeProcessingTuning": {"MinTransactionSize": 1}}


class Crashing(Following):
    """Follows with a server of its own, which can be set back to an earlier state."""

    def __init__(self, server, pair):
        super().__init__(pair)
        self.server = server
        self.kept = server.data_dir.with_suffix(".kept")

    def value(self, query):
        return self.source.value(query)

    def slot(self):
        return self.value("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()")

    def keep(self):
        """Keeps the state as it is now, and what the source has of it."""
        self.server.kill9()
        shutil.copytree(self.server.data_dir, self.kept)
        if self.source.is_postgres:
            self.wait_for_slot()
            self.source.execute(f"SELECT pg_copy_logical_replication_slot('{self.slot()}', 'kept_{self.pair.schema}')")
        self.server.start()
        self.task.wait("running")

    def wait_for_slot(self):
        busy = "SELECT count(*) FROM pg_replication_slots WHERE active AND database = current_database()"
        wait_until(lambda: self.value(busy) == 0, "nobody reads the log")

    def set_back(self):
        """As if the server had died before it could keep anything since."""
        self.server.kill9()
        if self.source.is_postgres:
            self.wait_for_slot()
            kept = f"kept_{self.pair.schema}"
            slot = self.value(
                f"SELECT slot_name FROM pg_replication_slots WHERE database = current_database() AND slot_name <> '{kept}'"
            )
            self.source.execute(
                f"SELECT pg_drop_replication_slot('{slot}')",
                f"SELECT pg_copy_logical_replication_slot('{kept}', '{slot}')",
                f"SELECT pg_drop_replication_slot('{kept}')",
            )
        shutil.rmtree(self.server.data_dir)
        shutil.copytree(self.kept, self.server.data_dir)
        self.server.start()
        self.task.wait("running")


@pytest.fixture(params=DIRECTIONS)
def crashing(request, databases, make_server, make_client):
    server = make_server()
    client = make_client(url=server.url)
    arn = create_replication_instance(client)["ReplicationInstanceArn"]
    follows = Crashing(server, Pair(databases, request.param, client, arn))
    yield follows
    if follows.task is not None and follows.task.describe()["Status"] == "running":
        follows.task.stop()
        follows.task.wait("stopped")
        client.delete_replication_task(ReplicationTaskArn=follows.task.arn)


in_each_way = pytest.mark.parametrize(
    "settings",
    [
        ONE_BY_ONE,
        ONE_BY_ONE | {"TargetMetadata": {"TaskRecoveryTableEnabled": True}},
        {"TargetMetadata": {"BatchApplyEnabled": True}, "ChangeProcessingTuning": {"BatchApplyTimeoutMin": 0}},
    ],
    ids=["one-by-one", "recovery-table", "batch"],
)


@in_each_way
def test_what_the_target_has_is_not_applied_again(crashing, settings):
    source, target, t = crashing.source, crashing.target, crashing.source.table
    source.create("narrowed", "id integer PRIMARY KEY, a integer, gone integer")
    source.create("moved", "id integer PRIMARY KEY, v text")
    source.create("unique_values", "id integer PRIMARY KEY, u integer")
    source.create("log", "a integer")
    for name in ("swapped", "other"):
        source.create(name, "id integer PRIMARY KEY, v text")
        source.insert(name, [(1, name)])
    source.insert("narrowed", [(1, 1, 1)])
    source.insert("moved", [(1, "x" * 3000)])
    source.insert("unique_values", [(1, 0)])
    if source.is_postgres:
        source.execute(f"ALTER TABLE {t('moved')} ALTER v SET STORAGE EXTERNAL")
        source.execute(f"ALTER TABLE {t('unique_values')} REPLICA IDENTITY FULL")
    names = ["narrowed", "moved", "unique_values", "swapped", "other"]
    crashing.start(settings)
    crashing.wait_for_load(*names, "log")
    target.execute(f"CREATE UNIQUE INDEX u ON {target.table('unique_values')} (u)")
    crashing.keep()

    # Images that lack what has not changed.
    minimal = [] if source.is_postgres else ["SET SESSION binlog_row_image=MINIMAL"]
    source.execute(*minimal, f"UPDATE {t('moved')} SET id = 2 WHERE id = 1", f"INSERT INTO {t('moved')} VALUES (1, 'y')")
    source.execute(
        f"UPDATE {t('narrowed')} SET gone = 2", f"ALTER TABLE {t('narrowed')} DROP COLUMN gone", f"UPDATE {t('narrowed')} SET a = 2"
    )
    source.execute(
        f"UPDATE {t('unique_values')} SET u = 1", f"UPDATE {t('unique_values')} SET u = 2", f"INSERT INTO {t('unique_values')} VALUES (2, 1)"
    )
    if source.is_postgres:
        source.execute(
            "BEGIN", f"ALTER TABLE {t('swapped')} RENAME TO third", f"ALTER TABLE {t('other')} RENAME TO swapped",
            f"ALTER TABLE {t('third')} RENAME TO other", "COMMIT",
        )  # fmt: skip
    else:
        source.execute(f"RENAME TABLE {t('swapped')} TO {t('third')}, {t('other')} TO {t('swapped')}, {t('third')} TO {t('other')}")
    source.insert("log", [(1,), (1,), (2,)])
    crashing.wait_until_equal(*names, "log")
    # All counts up to a place are told together, and these come last.
    crashing.wait_for_counts("log", (3, 0, 0, 0))
    counts = {name: crashing.counts(name) for name in names}
    crashing.set_back()

    source.execute(f"UPDATE {t('narrowed')} SET a = 3", f"INSERT INTO {t('log')} VALUES (3)")
    crashing.wait_until_equal(*names, "log")
    assert target.exceptions() == []
    states = lambda: set(crashing.pair.states(crashing.task).values())
    wait_until(lambda: states() == {"Table completed"}, "all tables are followed")
    # Counted once, too: what was counted before the crash and lost with it, and the changes since.
    more = {"narrowed": (0, 1, 0, 0)}
    for name in names:
        both = tuple(tuple(a + b for a, b in zip(kind, more.get(name, (0, 0, 0, 0)))) for kind in counts[name])
        crashing.wait_for_counts(name, *both)


def test_a_new_table_that_needs_a_load_gets_it_after_a_crash(crashing):
    crashing.source.create("t", "id integer PRIMARY KEY")
    crashing.start(ONE_BY_ONE)
    crashing.wait_for_load("t")
    for number in range(4):
        name = f"new{number}"
        crashing.source.execute(f"CREATE TABLE {crashing.source.table(name)} AS SELECT 1 AS id")
        wait_until(lambda: name in crashing.target.tables(), f"{name} is there")
        crashing.server.kill9()
        crashing.server.start()
        crashing.task.wait("running")
        crashing.wait_until_equal(name)
