"""What was asked for, by key and collection."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query

from app.api.dependencies import CallerDep, KeysDep
from app.api.key_schemas import KeyUsage, UsageOfMonth
from app.api.problems import problem_responses
from app.errors import InvalidQuery

router = APIRouter(tags=["keys"])


@router.get("/usage", responses=problem_responses(InvalidQuery))
async def get_usage(
    keys: KeysDep,
    caller: CallerDep,
    month: Annotated[
        str | None,
        Query(pattern="^20[0-9]{2}-(0[1-9]|1[0-2])$", description="As 2026-11, in UTC. Default: this one."),
    ] = None,
) -> UsageOfMonth:
    """What your key has asked for in a month; for administrators, what all have.

    As far back as runs are remembered (RETENTION_DAYS).
    """
    month = month or f"{datetime.now(UTC):%Y-%m}"
    begin = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    end = (begin + timedelta(days=31)).replace(day=1)
    used = await keys.usage(caller, begin, end)
    return UsageOfMonth(month=month, data=[KeyUsage.of(one) for one in used])
