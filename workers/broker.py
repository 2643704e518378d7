"""The Redis broker of lore: a wake-up channel that survives what a network and a restarted Redis do to it.

It is an optimisation: whatever is lost here, a sweeper sends again. Written for one line of Dramatiq (see
`pyproject.toml`), whose commands (`dispatch.lua`) and key names it shares; each override names the upstream issue,
`dramatiq#…`, that it works around. Delayed messages are refused: waits live in the ledger.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import dramatiq
import redis
from dramatiq import Message, MessageProxy
from dramatiq.broker import Consumer
from dramatiq.brokers.redis import RedisBroker
from dramatiq.errors import ConnectionClosed, DecodeError

from lore.core.errors import SettingError
from lore.logs import get_logger
from workers.middleware import stack

log = get_logger(__name__)

NAMESPACE: Final = "lore"
# A worker that is silent this long is taken for dead and its messages go to another; a stalled Redis plus the
# restart of a consumer is a legal silence of about 9 s.
HEARTBEAT_TIMEOUT_MS: Final = 20_000
SOCKET_TIMEOUT_S: Final = 5.0
WORKER_SILENT_S: Final = 5.0
# A fetch that a network held back can arrive after the consumer that sent it is gone.
RECLAIM_EVERY_S: Final = 30.0
# A ring wakes one idle consumer, which takes all it has room for; one that nobody heard costs the next a fetch.
RINGS: Final = 16
MESSAGES_A_RING: Final = 8
SET_ASIDE: Final = f"{NAMESPACE}:set-aside"
SET_ASIDE_COUNT: Final = f"{SET_ASIDE}.count"
SET_ASIDE_KEPT: Final = 100
# Our own messages are a few hundred bytes.
SET_ASIDE_BYTES: Final = 4096
_WORKERS: Final = f"{NAMESPACE}:live-workers"


def build_broker(url: str) -> RedisBroker:
    """Return a broker on this Redis; nothing is sent yet.

    Raises:
        SettingError: The address cannot be used.
    """
    try:
        pool = redis.ConnectionPool.from_url(url)
        # After the URL, whose own parameters would win. redis-py must try nothing again: a send whose answer was lost
        # would be queued twice. (Its default policy, ten tries, is for clients made without a pool.)
        pool.connection_kwargs.update(
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=SOCKET_TIMEOUT_S,
            retry=None,
            retry_on_timeout=False,
            retry_on_error=[],
            decode_responses=False,
        )
        pool.connection_class(**pool.connection_kwargs)  # not connected: only looks at its parameters
    except (ValueError, TypeError):
        # Their words quote what they could not read, which may be a piece of the password.
        message = "LORE_REDIS_URL must be redis://host:6379/0, rediss://… or unix://…, with parameters redis-py knows"
        raise SettingError("BAD_SETTING", message) from None
    return HardenedBroker(redis.Redis.from_pool(pool))


class HardenedBroker(RedisBroker):
    """A RedisBroker without delays, whose sends ring a bell and leave no trace of the sender.

    Maintenance runs with every fetch: by default what a dead worker held comes back after ten minutes (dramatiq#64).
    """

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(  # type: ignore[no-untyped-call]  # dramatiq types its brokers in part
            client=client,
            middleware=stack(),
            namespace=NAMESPACE,
            heartbeat_timeout=HEARTBEAT_TIMEOUT_MS,
            maintenance_chance=1_000_000,
        )
        # Shared by the consumers of a queue that follow one another: what this process has in hand.
        self.held: defaultdict[str, set[bytes]] = defaultdict(set)

    def declare_queue(self, queue_name: str) -> None:
        """Declare a queue, but no `.DQ` beside it: nothing is ever in there, and it costs a thread that polls."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Enqueue a message for now.

        A delayed one would wait in a worker's memory, where a restart of Redis loses it (dramatiq#527) or doubles
        it (dramatiq#431).

        Raises:
            NotImplementedError: A delay was asked for: write the wait into the ledger's `next_at`.
            redis.RedisError: Redis did not answer; the message may be queued nevertheless.
        """
        if delay is not None:
            raise NotImplementedError("this broker delays nothing: a wait belongs in the ledger's next_at")
        return super().enqueue(message)

    def do_enqueue(self, queue_name: str, message_id: str, data: bytes) -> None:
        """Store and ring in one round trip: an idle worker would look in a second only (dramatiq#691).

        `dispatch.lua` would also note a heartbeat of each short-lived sender, for which every later maintenance
        scans the whole database once (dramatiq#199).
        """
        with self.client.pipeline() as pipe:
            self._store(pipe, queue_name, {message_id: data})
            pipe.execute()

    def enqueue_all(self, messages: Sequence[Message[Any]]) -> None:
        """Enqueue messages for now, all of them or none, in one round trip.

        Raises:
            redis.RedisError: Redis did not answer; the messages may be queued nevertheless.
        """
        copies = [message.copy(options={"redis_message_id": str(uuid.uuid4())}) for message in messages]
        with self.client.pipeline() as pipe:
            for queue_name in sorted({copy.queue_name for copy in copies}):
                of_queue = [copy for copy in copies if copy.queue_name == queue_name]
                self._store(pipe, queue_name, {copy.options["redis_message_id"]: copy.encode() for copy in of_queue})
            pipe.execute()

    def _store(self, pipe: Any, queue_name: str, data_by_id: Mapping[str, bytes]) -> None:
        key = f"{self.namespace}:{queue_name}"
        pipe.hset(f"{key}.msgs", mapping=data_by_id)
        pipe.rpush(key, *data_by_id)
        pipe.rpush(f"{key}.bell", *[1] * min(-(-len(data_by_id) // MESSAGES_A_RING), RINGS))
        pipe.ltrim(f"{key}.bell", -RINGS, -1)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 1000) -> Consumer:
        """Create a consumer; only one of a queue may live in a process.

        Args:
            queue_name: The queue.
            prefetch: How many messages this process may have in hand.
            timeout: How long an idle consumer waits for the bell before it looks all the same, in ms.
        """
        return _Consumer(self, queue_name, prefetch, timeout)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()


class _Consumer(Consumer):
    """Takes messages off one queue.

    An id is held from the moment its message is handed out until Redis has confirmed its end, whichever consumer
    object handed it out; an id in this process's `__acks__` that is not held belongs to an answer that got lost.
    """

    def __init__(self, broker: HardenedBroker, queue_name: str, prefetch: int, timeout_ms: int) -> None:
        self._broker = broker
        self._client: Any = broker.client
        self._queue = queue_name
        self._prefetch = prefetch
        # Never 0, which is for ever, and always less than the socket's own patience.
        self._timeout_s = min(max(timeout_ms / 1000, 0.01), SOCKET_TIMEOUT_S / 2)
        self._held = broker.held[queue_name]
        self._has_room = threading.Event()
        self._fetched: list[bytes | None] = []
        self._reclaim_at = 0.0
        self._key = f"{broker.namespace}:{queue_name}"
        self._acks = f"{broker.namespace}:__acks__.{broker.broker_id}.{queue_name}"

    def __next__(self) -> MessageProxy | None:
        """Return the next message; None after a while without one.

        What cannot be decoded does not take its neighbours with it (dramatiq#375, dramatiq#94).
        """
        with _renamed():
            if not self._fetched:
                self._fetch()
            while self._fetched:
                data = self._fetched.pop(0)
                if data is None:  # its payload is gone (dramatiq#266); the next reclaim forgets the id
                    continue
                message = self._decode(data)
                if message is None:
                    self._set_aside(data)
                    continue
                self._held.add(_id_of(message))
                return MessageProxy(message)
        return None

    def ack(self, message: MessageProxy) -> None:
        """Say that a message was processed; a time-out is tried again by the worker (dramatiq#894)."""
        self._end("ack", message)

    def nack(self, message: MessageProxy) -> None:
        """Move a message to the dead letters; a time-out is tried again by the worker (dramatiq#894)."""
        self._end("nack", message)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Give back messages that were not begun."""
        ids = [_id_of(message) for message in messages]
        if ids:
            with _renamed():
                self._broker.do_requeue(self._queue, *ids)
            self._held.difference_update(ids)

    def close(self) -> None:
        """Give back what was fetched and not handed out; otherwise it waits until this process is taken for dead."""
        if self._fetched:
            self._fetched = []
            with _renamed():
                self._reclaim()

    def _fetch(self) -> None:
        # By half at least, so that a round trip is not spent on each message. A full worker must go on fetching,
        # if only nothing: the fetch is also its heartbeat (dramatiq#692).
        self._has_room.clear()
        if self._is_busy():
            self._has_room.wait(self._timeout_s)
        if time.monotonic() >= self._reclaim_at:
            self._reclaim()
        room = max(self._prefetch - len(self._held), 0)
        self._fetched = self._broker.do_fetch(self._queue, room)
        if not self._fetched and room:
            # The bell never replaces the look: it may be lost, and then it is a second.
            self._client.blpop([f"{self._key}.bell"], timeout=self._timeout_s)

    def _reclaim(self) -> None:
        """Put back what Redis believes we hold and we do not: the answer to its fetch was lost (dramatiq#894).

        The script puts back only what is still unacknowledged, so an acknowledgement under way does no harm.
        """
        lost = set(self._client.smembers(self._acks)) - self._held
        if lost:
            self._broker.do_requeue(self._queue, *lost)
            log.warning("messages_reclaimed", queue=self._queue, count=len(lost))
        self._reclaim_at = time.monotonic() + RECLAIM_EVERY_S

    def _end(self, command: str, message: MessageProxy) -> None:
        message_id = _id_of(message)
        with _renamed():
            getattr(self._broker, f"do_{command}")(self._queue, message_id)
        # Only now: until Redis knows, nobody may take the id for a lost one.
        self._held.discard(message_id)
        if not self._is_busy():
            self._has_room.set()

    def _is_busy(self) -> bool:
        return len(self._held) * 2 > self._prefetch

    def _decode(self, data: bytes) -> Message[Any] | None:
        """Return the message; None for what would later break a worker's thread (no id, another queue, a delay)."""
        try:
            message: Message[Any] = Message.decode(data)
        except DecodeError:
            return None
        options = message.options
        if not isinstance(options, dict) or not isinstance(options.get("redis_message_id"), str) or "eta" in options:
            return None
        return message if message.queue_name == self._queue else None

    def _set_aside(self, data: bytes) -> None:
        """Take a payload that is no message out of the queue, count it and keep its beginning (dramatiq#375)."""
        ids = list(self._client.smembers(self._acks))
        payloads = self._client.hmget(f"{self._key}.msgs", ids) if ids else []
        for message_id in (one for one, payload in zip(ids, payloads, strict=True) if payload == data):
            with self._client.pipeline() as pipe:
                pipe.srem(self._acks, message_id)
                pipe.hdel(f"{self._key}.msgs", message_id)
                pipe.lpush(SET_ASIDE, data[:SET_ASIDE_BYTES])
                pipe.ltrim(SET_ASIDE, 0, SET_ASIDE_KEPT - 1)
                pipe.incr(SET_ASIDE_COUNT)
                count = pipe.execute()[-1]
            name = message_id.decode(errors="replace")
            log.error("message_set_aside", queue=self._queue, id=name, size_bytes=len(data), count=count)


def _id_of(message: Message[Any] | MessageProxy) -> bytes:
    return str(message.options["redis_message_id"]).encode()


@contextlib.contextmanager
def _renamed() -> Iterator[None]:
    """Rename what Redis answers, time-outs included, to the one error that Dramatiq tries again (dramatiq#894)."""
    try:
        yield
    except redis.RedisError as error:
        raise ConnectionClosed(f"{type(error).__name__}: {error}") from error  # type: ignore[no-untyped-call]


def announce(client: redis.Redis, name: str, queues: str) -> None:
    """Say that this worker lives; to be repeated every few seconds."""
    now = _clock(client)
    with client.pipeline(transaction=False) as pipe:
        pipe.zadd(_WORKERS, {f"{name} {queues}": now})
        pipe.zremrangebyscore(_WORKERS, "-inf", now - WORKER_SILENT_S * 10)
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
        found: Any = broker.client.zrangebyscore(_WORKERS, _clock(broker.client) - WORKER_SILENT_S, "+inf")
    except redis.RedisError:
        return []
    return [bytes(name).decode() for name in found]


def _clock(client: redis.Redis) -> float:
    # The server's: hosts may disagree by minutes.
    seconds, micros = client.time()
    return seconds + micros / 1_000_000
