"""Who did what to which document: lines for whoever has to answer for that, without a word of content."""

from uuid import UUID

import structlog

_log = structlog.get_logger("audit")


def audit(action: str, **what: UUID | str | int | None) -> None:
    """A log line; the caller and his key are in the context of the request."""
    known = {name: value for name, value in what.items() if value is not None}
    _log.info("audit", action=action, **{k: str(v) if isinstance(v, UUID) else v for k, v in known.items()})
