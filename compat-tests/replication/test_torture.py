"""The short form of `make torture`, one direction after the other."""

import pytest
from pairs import DIRECTIONS
from torture import Torture

# So many there are when each fault has come once.
KILLS = 5


# Of these seeds, every other one applies in batches.
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed, direction", list(enumerate(DIRECTIONS, 7)))
def test_nothing_is_lost_or_doubled(databases, make_server, make_client, direction, seed):
    server = make_server()
    Torture(databases, server, make_client(url=server.url), direction, seed, say=print).run(KILLS)


@pytest.mark.timeout(400)
def test_tables_with_a_key_survive_without_a_recovery_table(databases, make_server, make_client):
    server = make_server()
    client = make_client(url=server.url)
    Torture(databases, server, client, DIRECTIONS[2], 5, recovery_table=False, say=print).run(KILLS)
