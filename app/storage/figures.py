"""What the rows know about all work ever done and still to do, for whoever watches the service."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

STAGES = ("reading", "ocr", "embedding", "storing")


async def read_figures(connection: AsyncConnection) -> Sequence[Row[Any]]:
    """(status, verdict, ingestions, pages, chunks, retries, oldest_seconds, one sum a stage) of all runs.

    One row for each pair of status and verdict. Runs that shared the chunks of others have no stages, and
    their pages and chunks are not counted again. Reads the whole table: 0.3 s for 200,000 rows, while
    others kept both cores busy.
    """
    seconds = ", ".join(
        f"coalesce(sum(CAST(stage_seconds ->> '{stage}' AS float8)), 0) AS {stage}" for stage in STAGES
    )
    found = await connection.execute(
        text(f"""
        SELECT status, CASE WHEN finished_at IS NOT NULL THEN coalesce(error_code, status) END AS verdict,
            count(*) AS ingestions, sum(greatest(attempt - 1, 0)) AS retries,
            coalesce(sum(pages_done) FILTER (WHERE stage_seconds <> '{{}}'), 0) AS pages,
            coalesce(sum(chunks) FILTER (WHERE stage_seconds <> '{{}}'), 0) AS chunks,
            CAST(extract(epoch FROM clock_timestamp() - min(created_at)) AS float8) AS oldest_seconds,
            {seconds}
        FROM ingestions GROUP BY 1, 2
        """)
    )
    return found.all()
