"""The list of what is done to the stack."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from app.local.chaos import changes, faults, loops, paths, surroundings, webhooks
from app.local.chaos.pdfs import Kind
from app.local.chaos.world import World


@dataclass(frozen=True, slots=True)
class Scenario:
    """`play` breaks something while documents are ingested; the short form has those that are `is_short`."""

    name: str
    play: Callable[[World], Awaitable[None]]
    is_short: bool = False
    needs: Kind | None = None


SCENARIOS = (
    Scenario("child-kill", faults.kill_children, is_short=True),
    Scenario("worker-kill", faults.kill_one_of_two_workers, is_short=True),
    Scenario("only-worker-kill", faults.kill_the_only_worker),
    Scenario("stop-and-wake", faults.stop_and_wake, is_short=True),
    Scenario("broker-flush", faults.flush_broker),
    Scenario("broker-restart", faults.restart_broker),
    Scenario("database-restart", faults.restart_database),
    Scenario("api-kill", faults.kill_api),
    Scenario("embedder-failure", faults.fail_embedder),
    Scenario("poison", faults.poison),
    Scenario("cancel", changes.cancel_at_random),
    Scenario("delete", changes.delete_at_random),
    Scenario("delete-collection", changes.delete_collection, needs="tiny"),
    Scenario("replace", changes.replace_while_searching, needs="versions"),
    Scenario("kill-at-80", faults.kill_near_the_end, needs="longest"),
    Scenario("crash-loop", loops.crash_loop, needs="large"),
    Scenario("fleet-crash-loop", loops.fleet_crash_loop),
    Scenario("revoked-key", loops.revoked_key, needs="tiny"),
    Scenario("embedder-hangs", loops.hanging_embedder),
    Scenario("paused-sweeper", loops.paused_sweeper),
    Scenario("slow-stream", loops.slow_files_in_a_stream, needs="slow"),
    Scenario("database-cut-off", surroundings.database_cut_off),
    Scenario("clock-step", surroundings.clock_step),
    Scenario("full-store", surroundings.full_store),
    Scenario("by-path", paths.break_delivery),
    Scenario("webhooks", webhooks.tell_webhooks),
)


def choose(names: Sequence[str], *, is_short: bool) -> list[Scenario]:
    """Those named, else all or the short ones; none when there is no scenario of one of the names."""
    if not names:
        return [scenario for scenario in SCENARIOS if scenario.is_short or not is_short]
    known = {scenario.name: scenario for scenario in SCENARIOS}
    return [known[name] for name in names] if set(names) <= set(known) else []
