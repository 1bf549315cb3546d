"""Redis as a broker: what kombu would lose of it.

Redis takes a message off its list when it hands it out; only then kombu writes down in another that it did.
"""

from typing import Any

import structlog
from kombu.transport import redis, virtual
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)


def keep_messages() -> None:
    """From now on, in this process: whatever Redis does after it has handed out a message."""
    redis.Channel.QoS = KeepingQoS


class KeepingQoS(redis.QoS):
    """Has a message worked on that Redis did not let it write down: it is full, read-only or silent.

    kombu's own raises there, and the message, which is in no list any more, is gone.
    """

    def append(self, message: Any, delivery_tag: str) -> None:
        try:
            super().append(message, delivery_tag)  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as error:
            log.warning("Redis has not noted that a message was handed out", error=type(error).__name__)
            virtual.QoS.append(self, message, delivery_tag)  # type: ignore[no-untyped-call]
