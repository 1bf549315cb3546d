"""Redis as a broker: what kombu would lose of it.

Redis takes a message off its list when it hands it out; only then kombu writes down in another that it did.
"""

from typing import Any

import structlog
from kombu.connection import Connection
from kombu.transport import redis, virtual
from redis.exceptions import RedisError, ResponseError

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
    """Goes on when Redis does not let it write down what it hands out or what is done.

    kombu's own raises there.
    """

    def append(self, message: Any, delivery_tag: str) -> None:
        """By a Redis that is full, read-only or silent; in no list any more, the message would be gone."""
        try:
            super().append(message, delivery_tag)  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as error:
            log.warning("Redis has not noted that a message was handed out", error=type(error).__name__)
            virtual.QoS.append(self, message, delivery_tag)  # type: ignore[no-untyped-call]

    def ack(self, delivery_tag: str) -> None:
        """Refused, as by a read-only Redis, it ended the worker. It is handed out again, and found done."""
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            log.warning("Redis has not noted that a message is done", error=type(error).__name__)
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]
