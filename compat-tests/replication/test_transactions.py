"""A transaction of the source shows on the target as a whole or not at all, and in its turn."""

import contextlib
import random
import threading

import pytest
from conftest import wait_until
from following import FOLLOW, following  # noqa: F401
from pairs import in_all_directions, pair  # noqa: F401

ACCOUNTS, TRANSACTIONS = 10, 120

# The transaction that inserts so many rows.
LARGE_ONE, LARGE = 61, 900


def transfer(source, seed):
    """Moves money between the accounts of two tables, and notes each transfer. One transaction is large."""
    chosen = random.Random(seed)
    here, there, ledger, bulk = map(source.table, ("here", "there", "ledger", "bulk"))
    numbers = f"generate_series(1, {LARGE})" if source.is_postgres else f"(SELECT seq FROM seq_1_to_{LARGE}) AS n"
    connection = source.connect()
    with contextlib.closing(connection), connection.cursor() as cursor:
        for number in range(1, TRANSACTIONS + 1):
            amount = chosen.randrange(1, 100)
            cursor.execute("BEGIN")
            if number == LARGE_ONE:
                cursor.execute(f"INSERT INTO {bulk} SELECT * FROM {numbers}")
            cursor.execute(f"UPDATE {here} SET n = n - {amount} WHERE id = {chosen.randrange(1, ACCOUNTS + 1)}")
            cursor.execute(f"INSERT INTO {ledger} VALUES ({number}, {amount})")
            cursor.execute(f"UPDATE {there} SET n = n + {amount} WHERE id = {chosen.randrange(1, ACCOUNTS + 1)}")
            cursor.execute("ROLLBACK" if number % 10 == 0 else "COMMIT")


@pytest.mark.parametrize("batch", [False, True], ids=["transactional", "batch"])
@in_all_directions
def test_no_reader_of_the_target_sees_half_a_transaction(following, batch):
    source, target = following.source, following.target
    for name in ("here", "there"):
        source.create(name, "id integer PRIMARY KEY, n integer")
        source.fill(name, ACCOUNTS, "1000")
    source.create("ledger", "id integer PRIMARY KEY, amount integer")
    source.create("bulk", "id integer PRIMARY KEY")
    # Far fewer changes to a transaction of the target than the large one has.
    tuning = {"MinTransactionSize": 10, "BatchSplitSize": 100}
    following.start({"TargetMetadata": {"BatchApplyEnabled": batch}, "ChangeProcessingTuning": tuning})
    following.wait_for_load("here", "there", "ledger", "bulk")
    sums = ", ".join(f"(SELECT sum(n) FROM {target.table(name)})" for name in ("here", "there"))
    counts = ", ".join(
        f"(SELECT {what} FROM {target.table(name)})"
        for what, name in [("count(*)", "ledger"), ("max(id)", "ledger"), ("count(*)", "bulk")]
    )
    connection = target.connect()
    writer = threading.Thread(target=transfer, args=(source, 1))
    seen = set()
    with contextlib.closing(connection), connection.cursor() as cursor:

        def look():
            # One statement sees one moment.
            cursor.execute(f"SELECT {sums}, {counts}")
            seen.add(cursor.fetchone())
            return any(count == TRANSACTIONS - TRANSACTIONS // 10 for _, _, count, _, _ in seen)

        writer.start()
        wait_until(look, "all transfers are on the target", 60)
    writer.join()
    assert batch or len(seen) > 2
    for here, there, count, last, bulk in seen:
        assert here + there == 2 * 1000 * ACCOUNTS
        # All up to the last, but for those that were rolled back.
        assert count == (last or 0) - (last or 0) // 10
        assert bulk in (0, LARGE) and (bulk == 0) == ((last or 0) < LARGE_ONE)
    following.wait_until_equal("here", "there", "ledger", "bulk")
