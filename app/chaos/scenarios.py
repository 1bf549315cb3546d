"""The list of what is done to the stack."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from app.chaos import faults, wishes
from app.chaos.world import World


@dataclass(frozen=True, slots=True)
class Scenario:
    """`play` breaks something while documents are ingested; the short form has those that are `is_short`."""

    name: str
    play: Callable[[World], Awaitable[None]]
    is_short: bool = False
    needs_longest: bool = False
    needs_versions: bool = False


SCENARIOS = (
    Scenario("child-killed", faults.kill_children, is_short=True),
    Scenario("worker-killed", faults.kill_one_of_two_workers, is_short=True),
    Scenario("only-worker-killed", faults.kill_the_only_worker),
    Scenario("stopped-and-woken", faults.stop_and_wake, is_short=True),
    Scenario("broker-flushed", faults.flush_broker, is_short=True),
    Scenario("broker-restarted", faults.restart_broker),
    Scenario("database-restarted", faults.restart_database),
    Scenario("api-killed", faults.kill_api),
    Scenario("embedder-fails", faults.fail_embedder),
    Scenario("poison", faults.poison),
    Scenario("cancelled", wishes.cancel_at_random, is_short=True),
    Scenario("deleted", wishes.delete_at_random),
    Scenario("replaced", wishes.replace_while_searching, needs_versions=True),
    Scenario("killed-near-the-end", faults.kill_near_the_end, needs_longest=True),
)


def choose(names: Sequence[str], *, is_short: bool) -> list[Scenario]:
    """Those named, else all or the short ones; none when there is no scenario of one of the names."""
    if not names:
        return [scenario for scenario in SCENARIOS if scenario.is_short or not is_short]
    known = {scenario.name: scenario for scenario in SCENARIOS}
    return [known[name] for name in names] if set(names) <= set(known) else []
