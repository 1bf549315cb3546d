"""Redis as a broker: what kombu would lose of it.

Redis takes a message off its list when it hands it out; only then kombu writes down in another that it did.
"""

from typing import Any

import structlog
from kombu.connection import Connection
from kombu.transport import redis, virtual
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)


def keep_messages() -> None:
    """From now on, in this process: whatever Redis does after it has handed out a message."""
    redis.Channel.QoS = KeepingQoS


def warn_of_eviction(broker: Connection) -> None:
    """If it is a Redis that throws away any key when it is full, such as the queue."""
    channel = broker.default_channel
    if not isinstance(channel, redis.Channel):
        return
    try:
        with channel.conn_or_acquire() as client:
            policy = client.info("memory").get("maxmemory_policy", "")
    except RedisError:  # it does not tell everybody
        return
    if policy.startswith("allkeys"):
        log.warning("Redis may throw messages away when it is full: noeviction is safe", policy=policy)


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
