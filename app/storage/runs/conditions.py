"""What a run can be, as conditions on its row in `ingestions`."""

LEASE_SECONDS = 3.0
# So often a lost lease may be somebody else's fault. Then the run goes on alone in its process, and what
# happens to that is its own.
LOSSES_IN_COMPANY = 2
COMPANY_SECONDS = 120  # nothing waits longer for a process of its own
SLOW_TURN_SECONDS = 120  # what has been slow for so long has waited for its turn, and counts as any other

UNCLAIMED = ("queued", "retrying")
OPEN = ("queued", "processing", "retrying")
FINAL = frozenset({"success", "error", "cancelled"})
IS_UNCLAIMED = f"status IN {UNCLAIMED}"
IS_OPEN = f"status IN {OPEN}"

# The lease of :id is that of :epoch.
IS_OURS = "id = :id AND lease_epoch = :epoch AND status = 'processing'"
NEW_LEASE = f"clock_timestamp() + interval '{LEASE_SECONDS} seconds'"
# For a while after Postgres' own start no lease is lost: its holders could not have renewed it.
IS_EXPIRED = (
    "lease_expires_at < clock_timestamp() "
    f"AND clock_timestamp() > pg_postmaster_start_time() + interval '{LEASE_SECONDS} seconds'"
)
# It is queued, or its time for another attempt has come.
IS_DUE = f"{IS_UNCLAIMED} AND coalesce(next_attempt_at <= clock_timestamp(), true)"
# What was lost too often without progress waits for a process that has nothing else in work, and has it for
# itself: in a pool of threads a crash takes all of them.
IS_IN_GOOD_COMPANY = f"""NOT EXISTS (
    SELECT FROM ingestions AS other WHERE other.status = 'processing' AND other.worker = :worker AND (
        other.losses >= {LOSSES_IN_COMPANY} OR ingestions.losses >= {LOSSES_IN_COMPANY}
        AND ingestions.next_attempt_at > clock_timestamp() - interval '{COMPANY_SECONDS} seconds'
    )
)"""
IS_SLOW = f"""(
    is_slow AND coalesce(slow_since, created_at) > clock_timestamp() - interval '{SLOW_TURN_SECONDS} seconds'
)"""
# Processes that have work, or asked for some a moment ago.
RUNNING = """(
    SELECT count(*) FROM (
        SELECT holder FROM workers WHERE seen_at > clock_timestamp() - interval '10 seconds'
        UNION SELECT worker FROM ingestions WHERE status = 'processing'
    ) AS running
)"""
# Half of the processes may read slow files at a time, so that these cannot hold every one of them; the only
# process looks at them last.
LANE_SIZE = f"CASE WHEN {RUNNING} > 1 THEN {RUNNING} / 2 ELSE 0 END"
IS_LANE_FREE = f"""(
    NOT EXISTS (SELECT FROM ingestions WHERE {IS_DUE} AND NOT {IS_SLOW})
    OR (SELECT count(*) FROM ingestions WHERE status = 'processing' AND {IS_SLOW}) < {LANE_SIZE}
)"""
# It has been due for so long that no worker can be free.
FOUND_NO_WORKER = f"""
    {IS_DUE} AND NOT {IS_SLOW}
    AND coalesce(next_attempt_at, created_at) < clock_timestamp() - interval '0.5 seconds'
"""
# A task that waits for the run of equal bytes has bytes of its own, which a newer version does not replace.
WAITS_FOR_NONE = f"(waits_for IS NULL OR NOT {IS_OPEN})"
