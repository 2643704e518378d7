"""The hardened broker on a real server that stalls, dies, forgets and comes back: one test for each fault.

The waits of 3 and 5 s between the tries are Dramatiq's own.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import certificates
import dramatiq
import pytest
import redis
from dramatiq.errors import ConnectionClosed
from servers import RedisServer, redis_running, wait_until
from support import MR_12, FakeGitLab, age, entity_body, open_tasks, status_of, submit

from lore.core import plan
from models.base import now_ms
from models.ledger import Run
from models.queue import Task
from workers import broker as module
from workers.broker import build_broker
from workers.processes import WORKER_TIMEOUT_MS
from workers.upkeep import sweep

pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_running(is_durable=True) as found:
        yield found


@contextmanager
def working(broker: Any, *, threads: int = 4) -> Iterator[dramatiq.Worker]:
    worker = dramatiq.Worker(broker, worker_threads=threads, worker_timeout=WORKER_TIMEOUT_MS)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop(timeout=30_000)
        broker.close()


class Tally:
    """An actor that counts what it was given."""

    def __init__(self, broker: Any, *, first: Any = None) -> None:
        self.runs: Counter[int] = Counter()
        self.first = first
        self.actor = dramatiq.actor(self._run, actor_name="tally", queue_name="q", broker=broker)

    def _run(self, number: int) -> None:
        self.runs[number] += 1
        if self.first is not None:
            first, self.first = self.first, None
            first()


def left(client: redis.Redis) -> list[str]:
    """Return the keys that hold unfinished work of the queue."""
    return sorted(key.decode() for key in client.keys("lore:*") if key.endswith((b":q", b"q.msgs")) or b"acks" in key)


def has_said(caplog: pytest.LogCaptureFixture, words: str) -> bool:
    return any(words in record.getMessage() for record in list(caplog.records))


class _Death(BaseException):
    """What no actor expects."""


@pytest.mark.invariant("I12")
def test_a_message_whose_actor_raises_while_redis_is_down_is_not_lost_to_the_run(
    gitlab: FakeGitLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fault a, dramatiq#545: there is no retry whose sending could fail, only a row that a sweeper sees to.
    with redis_running() as server:
        broker: Any = build_broker(server.url)
        for actor in dramatiq.get_broker().actors.values():  # type: ignore[attr-defined]
            broker.declare_actor(actor)
        monkeypatch.setattr(dramatiq.broker, "global_broker", broker)
        deaths: list[str] = []

        def die_once() -> Any:
            if not deaths:
                deaths.append("with Redis, and all it held")
                server.kill()
                raise _Death
            return entity_body(MR_12)

        gitlab.set(MR_12, plan.OWN, die_once)
        with working(broker) as worker:
            run_id = submit(MR_12)
            wait_until(lambda: bool(deaths), "the actor died")
            server.restart()
            wait_until(lambda: not worker.work_queue.unfinished_tasks, "the worker is done with what it had")
            Task.update(claimed_until=now_ms() - 1).where(Task.status == "claimed").execute()

            def is_over() -> bool:
                age(Task, 600_000, Task.sent_at)
                age(Run, 600_000, Run.sent_at)
                sweep()
                return status_of(run_id) in ("succeeded", "failed")

            wait_until(is_over, "the run ended")

    assert status_of(run_id) == "succeeded"
    assert open_tasks(run_id) == 0


def test_what_a_stalled_redis_gave_to_a_fetch_that_had_given_up_comes_again(server: RedisServer) -> None:
    # Fault c, dramatiq#894: the ids are among our own acks, nobody tracks them, and we live.
    broker: Any = build_broker(server.url)
    sender = build_broker(server.url)
    tally = Tally(broker)
    consumer = broker.consume("q", prefetch=4, timeout=10)
    assert next(consumer) is None
    for number in range(2):
        sender.enqueue(tally.actor.message(number))

    server.stall()
    with pytest.raises(ConnectionClosed, match="TimeoutError"):
        next(consumer)
    server.resume()
    with server.client() as client:
        wait_until(lambda: client.llen("lore:q") == 0, "the stalled fetch was done")
    with working(broker):
        wait_until(lambda: tally.runs == {0: 1, 1: 1}, "both ran in the same process")
        with server.client() as client:
            wait_until(lambda: not left(client), "both were acknowledged")
    sender.close()


def test_an_acknowledgement_that_a_stall_swallowed_is_given_again_and_nothing_runs_twice(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    # Fault d, dramatiq#894; the stalled server dies, so that the first try is really lost.
    broker = build_broker(server.url)
    tally = Tally(broker, first=server.stall)
    with working(broker, threads=1):
        tally.actor.send(1)
        wait_until(lambda: has_said(caplog, "Failed to post_process_message"), "the acknowledgement timed out")
        server.restart()
        with server.client() as client:
            assert left(client) != []
            wait_until(lambda: not left(client), "it was acknowledged")

    next_broker = build_broker(server.url)
    other = Tally(next_broker)
    with working(next_broker):
        other.actor.send(2)
        wait_until(lambda: bool(other.runs), "the next worker is at work")

    assert tally.runs == {1: 1}
    assert other.runs == {2: 1}
    assert not has_said(caplog, "You've found a bug in Dramatiq")


def test_a_stall_under_load_strands_nothing_while_the_worker_lives(server: RedisServer) -> None:
    # Faults c, d and f together: whatever was in flight when the server stopped for longer than our patience.
    broker = build_broker(server.url)
    tally = Tally(broker)
    sender = build_broker(server.url)
    sent: set[int] = set()
    is_over = threading.Event()

    def send() -> None:
        for number in range(1_000_000):
            if is_over.wait(0.002):
                return
            with suppress(redis.RedisError):
                sender.enqueue(tally.actor.message(number))
                sent.add(number)

    sending = threading.Thread(target=send)
    with working(broker):
        sending.start()
        try:
            wait_until(lambda: len(tally.runs) > 200, "the load is on")
            server.stall()
            time.sleep(8)  # the fault itself: longer than the socket's patience
            server.resume()
            seen = len(tally.runs)
            wait_until(lambda: len(tally.runs) > seen + 200, "the load goes on")
        finally:
            is_over.set()
            sending.join()
        wait_until(lambda: sent <= set(tally.runs), "every message ran")
        with server.client() as client:
            wait_until(lambda: not left(client), "every message was acknowledged")
    sender.close()

    assert max(tally.runs.values()) == 1


def test_one_undecodable_payload_does_not_take_its_neighbours_with_it(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    # Fault e, dramatiq#375.
    broker = build_broker(server.url)
    tally = Tally(broker)
    with server.client() as client:
        client.hset("lore:q.msgs", "bad", b"\x80\x04 hunter2")
        client.rpush("lore:q", "bad")
        for number in range(5):
            tally.actor.send(number)
        with working(broker):
            wait_until(lambda: len(tally.runs) == 5, "the good ones ran")
            wait_until(lambda: not left(client), "nothing is left")

        assert client.lrange(module.SET_ASIDE, 0, -1) == [b"\x80\x04 hunter2"]
    assert set(tally.runs.values()) == {1}
    assert [record.levelno for record in caplog.records if "message_set_aside" in record.getMessage()] == [
        logging.ERROR
    ]
    assert not has_said(caplog, "hunter2")


def test_a_send_into_a_stall_gives_up_once_and_queues_one_message(server: RedisServer) -> None:
    # Fault f: a retry of redis-py would queue it twice.
    broker = build_broker(server.url)
    tally = Tally(broker)
    tally.actor.send(1)
    tries: list[float] = []

    server.stall()
    for _ in range(2):  # on a connection that is open, and on one that is not
        began = time.monotonic()
        with pytest.raises(redis.TimeoutError):
            tally.actor.send(2)
        tries.append(time.monotonic() - began)
    server.resume()
    broker.close()

    with server.client() as client:
        wait_until(lambda: client.llen("lore:q") >= 2, "the first try was done all the same")
        assert client.llen("lore:q") == client.hlen("lore:q.msgs") == 2
    # Twice the patience is one retry.
    assert max(tries) < 2 * module.SOCKET_TIMEOUT_S


def test_without_a_server_a_send_fails_at_once(server: RedisServer) -> None:
    # Fault i.
    broker = build_broker(server.url)
    tally = Tally(broker)
    server.kill()

    began = time.monotonic()
    with pytest.raises(redis.ConnectionError):
        tally.actor.send(1)

    assert time.monotonic() - began < module.SOCKET_TIMEOUT_S
    broker.close()


@pytest.mark.invariant("I12")
def test_a_worker_goes_on_by_itself_when_redis_comes_back_empty() -> None:
    with redis_running(on_port=True) as server:
        broker = build_broker(server.url)
        tally = Tally(broker)
        with working(broker):
            tally.actor.send(1)
            wait_until(lambda: tally.runs[1] == 1, "it ran before")
            server.restart()
            tally.actor.send(2)
            wait_until(lambda: tally.runs[2] == 1, "it ran after")
            with server.client() as client:
                wait_until(lambda: not left(client), "it was acknowledged")


def test_an_idle_worker_is_woken_by_the_bell_long_before_it_would_look(server: RedisServer) -> None:
    broker = build_broker(server.url)
    tally = Tally(broker)
    took_ms = []
    with working(broker), server.client() as client:
        for number in range(10):
            # The wait has only just begun, so that without a bell nearly all of it is still to come.
            wait_until(lambda: client.info("clients")["blocked_clients"] == 1, "the worker waits for the bell")
            began = time.monotonic()
            tally.actor.send(number)
            wait_until(lambda n=number: tally.runs[n] == 1, "it ran")
            took_ms.append((time.monotonic() - began) * 1000)

    assert min(took_ms) < WORKER_TIMEOUT_MS / 2


def test_an_idle_worker_ends_within_a_few_of_its_waits(server: RedisServer) -> None:
    broker = build_broker(server.url)
    Tally(broker)
    worker = dramatiq.Worker(broker, worker_threads=2, worker_timeout=WORKER_TIMEOUT_MS)
    worker.start()
    with server.client() as client:
        wait_until(lambda: client.info("clients")["blocked_clients"] == 1, "the worker waits for the bell")

    began = time.monotonic()
    worker.stop(timeout=30_000)
    broker.close()

    assert time.monotonic() - began < 10 * WORKER_TIMEOUT_MS / 1000


# addresses and passwords


def ping(url: str) -> None:
    broker = build_broker(url)
    tally = Tally(broker)
    with working(broker):
        tally.actor.send(1)
        wait_until(lambda: tally.runs[1] == 1, "it ran")


@pytest.mark.parametrize("on_port", [True, False], ids=["redis", "unix"])
def test_a_password_in_the_address_opens_the_server(on_port: bool) -> None:
    with redis_running(on_port=on_port, password="hunter2") as server:
        ping(server.url)


def test_an_address_with_tls_is_spoken_to_in_tls(tmp_path: Path) -> None:
    with redis_running(on_port=True, password="hunter2") as server, tls_in_front(server.port, tmp_path) as port:
        ping(f"rediss://:hunter2@127.0.0.1:{port}/0?ssl_ca_certs={tmp_path / 'cert.pem'}")


@pytest.mark.parametrize("on_port", [True, False], ids=["redis", "unix"])
def test_no_error_and_no_log_line_holds_the_password(on_port: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with redis_running(on_port=on_port, password="right") as server:
        url = server.url.replace("right", "hunter2")
        broker = build_broker(url)
        tally = Tally(broker)
        with pytest.raises(redis.AuthenticationError) as refused:
            tally.actor.send(1)
        with working(broker):
            wait_until(lambda: has_said(caplog, "Consumer encountered a connection error"), "the worker complained")
        server.kill()
    with pytest.raises(redis.ConnectionError) as gone:
        tally.actor.send(1)

    texts = [str(refused.value), repr(refused.value), str(gone.value), repr(gone.value), caplog.text]
    assert "hunter2" not in "".join(texts)


@contextmanager
def tls_in_front(port: int, folder: Path) -> Iterator[int]:
    """Serve TLS on a free port and pass the bytes on; the certificate is `cert.pem`."""
    cert, key = certificates.make(folder)
    proxy = subprocess.Popen(
        [sys.executable, "-c", _TLS_PROXY, str(cert), str(key), str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert proxy.stdout is not None
        yield int(proxy.stdout.readline())
    finally:
        proxy.kill()
        proxy.communicate()


_TLS_PROXY = """
import asyncio, ssl, sys
async def main(cert, key, port):
    async def copy(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
    async def serve(reader, writer):
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", int(port))
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer), return_exceptions=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main(*sys.argv[1:]))
"""
