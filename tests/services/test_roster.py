"""Who works: remembered for a while when a roll call is not answered in time."""

import asyncio
from collections.abc import Mapping, Sequence

from app.services.roster import Roster
from app.storage.database import Database


class RollCalls:
    """What workers answer, one call after the other; the last answer for ever."""

    def __init__(self, *answers: Mapping[str, Sequence[int]]) -> None:
        self.answers = list(answers)

    async def __call__(self) -> Mapping[str, Sequence[int]]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def processes(found: Roster) -> set[tuple[str | None, int]]:
    return {(worker.name, worker.pid) for worker in await found.list()}


async def test_a_worker_that_misses_a_call_is_remembered_for_a_while_only(
    database: Database,
) -> None:
    found = Roster(database, RollCalls({"a@roster": [1, 2]}, {}), remembered_seconds=2.5)
    assert await processes(found) >= {("a@roster", 1), ("a@roster", 2)}
    await asyncio.sleep(1.1)  # it may be a second old
    assert await processes(found) >= {("a@roster", 1), ("a@roster", 2)}
    await asyncio.sleep(1.6)
    assert not {name for name, _ in await processes(found)} & {"a@roster"}


async def test_a_process_that_was_replaced_is_not_remembered(database: Database) -> None:
    found = Roster(database, RollCalls({"a@roster": [1, 2]}, {"a@roster": [2, 3]}))
    await processes(found)
    await asyncio.sleep(1.1)
    assert {pid for name, pid in await processes(found) if name == "a@roster"} == {2, 3}
