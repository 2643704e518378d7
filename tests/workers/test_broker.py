"""The hardened broker, on a Redis in memory: what it stores, rings, refuses, sets aside and takes back."""

from __future__ import annotations

import io
import json
import threading
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dramatiq
import fakeredis
import pytest
import redis
from dramatiq.errors import ConnectionClosed

from lore import logs
from lore.core.errors import SettingError
from workers import broker as module
from workers.broker import HardenedBroker, announce, build_broker, live_workers, withdraw

IDLE_MS = 10


@pytest.fixture
def server() -> fakeredis.FakeServer:
    return fakeredis.FakeServer()


@pytest.fixture
def broker(server: fakeredis.FakeServer) -> Iterator[HardenedBroker]:
    found = connect(server)
    yield found
    found.close()


def connect(server: fakeredis.FakeServer) -> HardenedBroker:
    broker = HardenedBroker(fakeredis.FakeRedis(server=server))
    broker.declare_queue("q")
    return broker


def send(broker: HardenedBroker, *args: Any) -> str:
    message = dramatiq.Message(queue_name="q", actor_name="work", args=args, kwargs={}, options={})
    return str(broker.enqueue(message).options["redis_message_id"])


def put(broker: HardenedBroker, message_id: str, body: bytes) -> None:
    """Put a payload into the queue as it is."""
    broker.client.hset("lore:q.msgs", message_id, body)
    broker.client.rpush("lore:q", message_id)


def consumer_of(broker: HardenedBroker, *, prefetch: int = 8) -> Any:
    return broker.consume("q", prefetch=prefetch, timeout=IDLE_MS)


def take(consumer: Any, *, looks: int = 20) -> list[dramatiq.MessageProxy]:
    """Take messages until the consumer finds none."""
    found = []
    for _ in range(looks):
        message = next(consumer)
        if message is None and found:
            return found
        if message is not None:
            found.append(message)
    return found


def acks(broker: HardenedBroker) -> set[str]:
    return {known.decode() for known in broker.client.smembers(f"lore:__acks__.{broker.broker_id}.q")}


def lose_answer(broker: HardenedBroker, command: str, *, is_done: bool) -> None:
    """Let the next such command time out, done by Redis all the same or not."""
    real: Any = broker.scripts["dispatch"]

    def dispatch(*, args: list[Any], keys: list[str]) -> Any:
        if args[0] != command:
            return real(args=args, keys=keys)
        broker.scripts["dispatch"] = real
        if is_done:
            real(args=args, keys=keys)
        raise redis.TimeoutError("Timeout reading from socket")

    broker.scripts["dispatch"] = dispatch


def test_dramatiq_is_of_the_line_whose_keys_and_scripts_the_broker_shares() -> None:
    project = tomllib.loads((Path(module.__file__).parents[1] / "pyproject.toml").read_text())

    assert any(line.startswith("dramatiq>=2.2.1,<2.3") for line in project["project"]["dependencies"])
    assert version("dramatiq").startswith("2.2.")


# the doorbell


def test_a_send_wakes_a_consumer_that_waits(broker: HardenedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    real, is_waiting = broker.client.blpop, threading.Event()

    def blpop(keys: list[str], *, timeout: float) -> Any:
        is_waiting.set()
        return real(keys, timeout=600.0)

    monkeypatch.setattr(broker.client, "blpop", blpop)
    consumer = consumer_of(broker)
    found: list[dramatiq.MessageProxy] = []
    waiting = threading.Thread(target=lambda: found.extend(take(consumer)[:1]), daemon=True)
    waiting.start()
    assert is_waiting.wait(60.0)

    send(broker, 7)
    send(broker, 8)  # whose ring ends the wait that follows
    waiting.join(60.0)

    assert [message.args for message in found] == [(7,)]


def test_a_lost_ring_costs_only_the_wait(broker: HardenedBroker) -> None:
    consumer = consumer_of(broker)
    send(broker, 1)
    broker.client.delete("lore:q.bell")

    assert [message.args for message in take(consumer)] == [(1,)]


def test_rings_that_nobody_hears_do_not_pile_up(broker: HardenedBroker) -> None:
    for number in range(200):
        send(broker, number)

    assert broker.client.llen("lore:q.bell") == module.RINGS


def test_messages_that_are_sent_together_come_in_order_and_wake_no_more_workers_than_they_need(
    broker: HardenedBroker,
) -> None:
    messages = [
        dramatiq.Message(queue_name="q", actor_name="work", args=(number,), kwargs={}, options={})
        for number in range(13)
    ]

    broker.enqueue_all(messages)

    assert broker.client.llen("lore:q.bell") == 2
    assert [message.args[0] for message in take(consumer_of(broker, prefetch=13))] == list(range(13))


def test_messages_come_in_the_order_they_were_sent(broker: HardenedBroker) -> None:
    for number in range(20):
        send(broker, number)

    assert [message.args[0] for message in take(consumer_of(broker, prefetch=20))] == list(range(20))


# delays (dramatiq#527, dramatiq#431)


def test_a_delay_is_refused_and_nothing_is_queued(broker: HardenedBroker) -> None:
    message = dramatiq.Message(queue_name="q", actor_name="work", args=(), kwargs={}, options={})

    with pytest.raises(NotImplementedError, match="next_at"):
        broker.enqueue(message, delay=1000)

    assert broker.client.keys("*") == []


def test_a_queue_has_no_delay_queue_beside_it(broker: HardenedBroker) -> None:
    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=IDLE_MS)
    worker.start()

    consumers = list(worker.consumers)
    worker.stop()

    assert broker.get_declared_delay_queues() == set()
    assert consumers == ["q"]


# senders (dramatiq#199)


def test_a_thousand_senders_leave_no_trace_but_their_messages(server: fakeredis.FakeServer) -> None:
    for number in range(1000):
        sender = connect(server)
        send(sender, number)
        sender.close()

    keys = {key.decode() for key in fakeredis.FakeRedis(server=server).keys("*")}

    assert keys == {"lore:q", "lore:q.msgs", "lore:q.bell"}


def test_messages_of_a_worker_that_fell_silent_go_to_another(server: fakeredis.FakeServer) -> None:
    dead, alive = connect(server), connect(server)
    send(dead, 1)
    assert len(take(consumer_of(dead))) == 1
    dead.client.zadd("lore:__heartbeats__", {dead.broker_id: 1})

    assert [message.args for message in take(consumer_of(alive))] == [(1,)]
    assert [name.decode() for name in alive.client.zrange("lore:__heartbeats__", 0, -1)] == [alive.broker_id]


def test_a_worker_with_its_hands_full_still_says_that_it_lives(broker: HardenedBroker) -> None:
    consumer = consumer_of(broker, prefetch=1)
    send(broker, 1)
    send(broker, 2)
    assert len(take(consumer)) == 1
    broker.client.zadd("lore:__heartbeats__", {broker.broker_id: 1})

    assert next(consumer) is None

    assert broker.client.zscore("lore:__heartbeats__", broker.broker_id) > 1
    assert broker.client.llen("lore:q") == 1


# lost answers (dramatiq#894)


def test_what_a_fetch_took_whose_answer_was_lost_comes_with_the_next_consumer(broker: HardenedBroker) -> None:
    sent = {send(broker, 1), send(broker, 2)}
    lose_answer(broker, "fetch", is_done=True)

    with pytest.raises(ConnectionClosed):
        next(consumer_of(broker))
    assert acks(broker) == sent
    found = take(consumer_of(broker))

    assert sorted(message.args for message in found) == [(1,), (2,)]


def test_a_fetch_that_arrives_late_is_taken_back_by_the_living_consumer(
    broker: HardenedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RECLAIM_EVERY_S", 0.0)
    consumer = consumer_of(broker)
    assert next(consumer) is None
    send(broker, 1)
    broker.do_fetch("q", 1)  # sent long ago by a consumer that is gone, kept back by the network until now

    assert [message.args for message in take(consumer)] == [(1,)]


def test_what_is_being_worked_on_is_not_taken_back_by_a_new_consumer(broker: HardenedBroker) -> None:
    send(broker, 1)
    in_hand = take(consumer_of(broker))

    assert take(consumer_of(broker), looks=3) == []
    consumer_of(broker).ack(in_hand[0])

    assert acks(broker) == set()
    assert broker.client.hlen("lore:q.msgs") == 0


@pytest.mark.parametrize("is_done", [True, False])
@pytest.mark.parametrize("command", ["ack", "nack"])
def test_an_end_that_timed_out_is_held_until_redis_has_confirmed_it(
    broker: HardenedBroker, command: str, is_done: bool
) -> None:
    send(broker, 1)
    [message] = take(consumer_of(broker))
    lose_answer(broker, command, is_done=is_done)

    with pytest.raises(ConnectionClosed):
        getattr(consumer_of(broker), command)(message)
    assert take(consumer_of(broker), looks=3) == []
    getattr(consumer_of(broker), command)(message)

    assert acks(broker) == set()
    assert broker.held["q"] == set()
    assert broker.client.hlen("lore:q.msgs") == 0


def test_a_refusal_by_a_server_that_cannot_write_now_is_tried_again(
    broker: HardenedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(broker, 1)
    [message] = take(consumer_of(broker))

    def refuse(**_: Any) -> None:
        raise redis.ResponseError("MISCONF Redis is configured to save RDB snapshots")

    monkeypatch.setitem(broker.scripts, "dispatch", refuse)
    with pytest.raises(ConnectionClosed, match="MISCONF"):
        consumer_of(broker).ack(message)


def test_messages_that_were_not_begun_are_given_back(broker: HardenedBroker) -> None:
    send(broker, 1)
    consumer = consumer_of(broker)

    consumer.requeue(take(consumer))

    assert acks(broker) == broker.held["q"] == set()
    assert [message.args for message in take(consumer)] == [(1,)]


def test_what_was_fetched_and_not_handed_out_is_given_back_at_the_end(broker: HardenedBroker) -> None:
    for number in range(4):
        send(broker, number)
    consumer = consumer_of(broker)
    first = next(consumer)
    assert first is not None

    consumer.close()

    assert acks(broker) == {first.options["redis_message_id"]}
    assert broker.client.llen("lore:q") == 3


def test_an_id_without_a_payload_is_forgotten(broker: HardenedBroker) -> None:
    broker.client.rpush("lore:q", "gone")
    send(broker, 1)

    found = take(consumer_of(broker))
    assert acks(broker) == {"gone", found[0].options["redis_message_id"]}
    next(consumer_of(broker))

    assert [message.args for message in found] == [(1,)]
    assert acks(broker) == {found[0].options["redis_message_id"]}


# what is no message (dramatiq#375)


def body(change: Callable[[dict[str, Any]], object] = lambda fields: None) -> bytes:
    fields: dict[str, Any] = {
        "queue_name": "q",
        "actor_name": "work",
        "args": ["hunter2"],
        "kwargs": {},
        "options": {"redis_message_id": "bad"},
        "message_id": "bad",
        "message_timestamp": 1,
    }
    change(fields)
    return json.dumps(fields).encode()


NO_MESSAGES = {
    "no JSON": b"\x80\x04 hunter2",
    "no object": b'["hunter2"]',
    "not our fields": b'{"hunter2": 1}',
    "options that are none": body(lambda fields: fields.update(options=None)),
    "no id": body(lambda fields: fields["options"].clear()),
    "of another queue": body(lambda fields: fields.update(queue_name="other")),
    "delayed": body(lambda fields: fields["options"].update(eta=1)),
}


@pytest.mark.parametrize("payload", NO_MESSAGES.values(), ids=NO_MESSAGES.keys())
def test_what_is_no_message_is_set_aside_and_its_neighbours_come(broker: HardenedBroker, payload: bytes) -> None:
    send(broker, 1)
    put(broker, "bad", payload)
    send(broker, 2)

    said = io.StringIO()
    logs.configure(stream=said)
    found = take(consumer_of(broker))
    assert take(consumer_of(broker), looks=3) == []

    assert [message.args for message in found] == [(1,), (2,)]
    assert acks(broker) == {message.options["redis_message_id"] for message in found}
    assert not broker.client.hexists("lore:q.msgs", "bad")
    assert broker.client.lrange(module.SET_ASIDE, 0, -1) == [payload]
    [event] = [json.loads(line) for line in said.getvalue().splitlines()]
    expected = {"queue": "q", "id": "bad", "size_bytes": len(payload), "count": 1}
    assert event == event | expected | {"event": "message_set_aside", "level": "error"}


def test_what_is_set_aside_stays_small_and_is_counted_in_full(broker: HardenedBroker) -> None:
    many = module.SET_ASIDE_KEPT + 5
    for number in range(many):
        put(broker, f"bad-{number}", b"x" * (module.SET_ASIDE_BYTES * 2))
    consumer = consumer_of(broker)

    take(consumer, looks=40)

    kept = broker.client.lrange(module.SET_ASIDE, 0, -1)
    assert len(kept) == module.SET_ASIDE_KEPT
    assert {len(one) for one in kept} == {module.SET_ASIDE_BYTES}
    assert int(broker.client.get(module.SET_ASIDE_COUNT)) == many
    assert broker.client.llen("lore:q") == broker.client.hlen("lore:q.msgs") == 0


# the address


@pytest.mark.parametrize("tail", ["", "?retry_on_timeout=true", "?retry_on_error=TimeoutError&socket_timeout=60"])
@pytest.mark.parametrize(
    "scheme", ["redis://:hunter2@127.0.0.1:1/0", "rediss://:hunter2@127.0.0.1:1/0", "unix://:hunter2@/nowhere"]
)
def test_redis_py_tries_nothing_twice_whatever_the_address_says(scheme: str, tail: str) -> None:
    broker = build_broker(scheme + tail)

    connection = broker.client.connection_pool.make_connection()

    assert connection.retry.get_retries() == 0
    assert connection.socket_timeout == connection.socket_connect_timeout == module.SOCKET_TIMEOUT_S
    assert "hunter2" not in repr(broker.client) + repr(connection)
    broker.close()


@pytest.mark.parametrize(
    "url",
    ["redis://:hunter2@h/0?colour=blue", "redis://:hunter2@h/0?db=hunter2", "redis://:hun/ter2@h", "http://hunter2"],
)
def test_an_address_that_cannot_be_used_is_a_setting_error_without_the_password(url: str) -> None:
    with pytest.raises(SettingError) as caught:
        build_broker(url)

    assert caught.value.code == "BAD_SETTING"
    assert "LORE_REDIS_URL" in str(caught.value)
    assert "hun" not in str(caught.value)
    assert caught.value.__suppress_context__


# who is alive


def test_a_worker_that_announced_itself_is_alive_until_it_withdraws(
    broker: HardenedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dramatiq.broker, "global_broker", broker)
    announce(broker.client, "host:1", "fetch,commit")
    announce(broker.client, "host:2", "fetch")
    withdraw(broker.client, "host:2", "fetch")

    assert live_workers() == ["host:1 fetch,commit"]


def test_a_worker_that_was_silent_for_long_is_not_alive(
    broker: HardenedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dramatiq.broker, "global_broker", broker)
    announce(broker.client, "host:1", "fetch")
    broker.client.zincrby("lore:live-workers", -2 * module.WORKER_SILENT_S, "host:1 fetch")

    assert live_workers() == []


def test_without_an_answer_no_worker_is_known_to_be_alive(
    server: fakeredis.FakeServer, broker: HardenedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dramatiq.broker, "global_broker", broker)
    announce(broker.client, "host:1", "fetch")
    server.connected = False

    assert live_workers() == []
