"""The Redis broker of lore: a wake-up channel whose every loss a sweeper mends (QUEUE rules 1, 3, 6, 7)."""

from __future__ import annotations

import time
from typing import Any, Final

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker

from workers.middleware import stack

NAMESPACE: Final = "lore"
# A worker that is silent this long is taken for dead and its messages go to another; a stalled Redis plus the
# restart of a consumer is a legal silence of about 9 s.
HEARTBEAT_TIMEOUT_MS: Final = 20_000
SOCKET_TIMEOUT_S: Final = 5.0
WORKER_SILENT_S: Final = 5.0
_WORKERS: Final = f"{NAMESPACE}:live-workers"


def build_broker(url: str) -> RedisBroker:
    """Return a broker on this Redis; nothing is sent yet.

    `url` and not `host`: with single parameters redis-py retries a send whose answer was lost, and the message is
    queued twice. Maintenance runs with every command: the default finds a dead worker only after ten minutes.
    """
    pool = redis.ConnectionPool.from_url(
        url, socket_timeout=SOCKET_TIMEOUT_S, socket_connect_timeout=SOCKET_TIMEOUT_S, retry=None
    )
    return RedisBroker(  # type: ignore[no-untyped-call]  # dramatiq types its brokers in part
        client=redis.Redis(connection_pool=pool),
        middleware=stack(),
        namespace=NAMESPACE,
        heartbeat_timeout=HEARTBEAT_TIMEOUT_MS,
        maintenance_chance=1_000_000,
    )


def announce(client: redis.Redis, name: str, queues: str) -> None:
    """Say that this worker lives; to be repeated every few seconds."""
    with client.pipeline(transaction=False) as pipe:
        pipe.zadd(_WORKERS, {f"{name} {queues}": time.time()})
        pipe.zremrangebyscore(_WORKERS, "-inf", time.time() - WORKER_SILENT_S * 10)
        pipe.execute()


def withdraw(client: redis.Redis, name: str, queues: str) -> None:
    """Say that this worker ends."""
    client.zrem(_WORKERS, f"{name} {queues}")


def live_workers() -> list[str]:
    """Return the workers that lately said they live, as `host:pid queues`; empty also when Redis does not answer."""
    broker = dramatiq.get_broker()
    if not isinstance(broker, RedisBroker):
        return []
    try:
        found: Any = broker.client.zrangebyscore(_WORKERS, time.time() - WORKER_SILENT_S, "+inf")
    except redis.RedisError:
        return []
    return [bytes(name).decode() for name in found]
