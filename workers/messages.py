"""Sending: a message is a wake-up call that holds ids only; the ledger says what is to be done.

A row is marked as sent first, by compare-and-set, so that of two who would send only one does. A message that cannot
be sent is not an error: the mark is taken back, and a sweeper sends it later.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import dramatiq
from dramatiq import Message

from lore.core import runs
from lore.logs import get_logger
from models.base import clock, is_postgresql, write
from models.ledger import Run
from models.queue import Task
from workers import resources

log = get_logger(__name__)

# Whether the last message of this process could not be sent: that is said once.
_is_failing = threading.Event()

PREFLIGHT = "preflight"
FETCH = "fetch"
COMMIT = "commit"
DOCUMENTS = "documents"
EMBED = "embed"
PLAN = "plan_sync"

# Who moves on a run that is in this status; a queued one is begun by whoever does its first stage.
ACTORS: Mapping[str, str] = {
    runs.PREFLIGHT: PREFLIGHT,
    runs.COMMITTING: COMMIT,
    runs.DOCUMENTS: DOCUMENTS,
    runs.EMBEDDING: EMBED,
    runs.WALKING: PLAN,
}
# What a sync's children wait for in queues of their own, behind a person's runs.
_BEHIND_PEOPLE = (FETCH, COMMIT, DOCUMENTS, EMBED)
# Where an actor is heard whose queue has another name than it.
_QUEUES: Mapping[str, str] = {PLAN: "plan"}


def first_actor(options: str) -> str:
    """Return who begins a queued run with these options: a resumed one, or a sync, does not begin with a preflight."""
    return ACTORS[json.loads(options).get("starts_at", runs.PREFLIGHT)]


def is_ours(run_id: str) -> bool:
    """Tell whether messages of this run are for this process to send.

    Without Redis a message reaches this process only: who does nothing, or another run, leaves it to somebody who does.
    """
    may_send = getattr(dramatiq.get_broker(), "may_send", None)
    return may_send is None or bool(may_send(run_id))


def mark_run_sent(run_id: str, status: str, seen_sent_at: int | None) -> bool:
    """Mark a run as sent, if it is as it was seen; False: somebody else is at it, so there is nothing to send."""
    was = Run.sent_at.is_null() if seen_sent_at is None else Run.sent_at == seen_sent_at
    with write():
        return not is_locked_by_another(run_id) and bool(
            Run.update(sent_at=clock(), sends=Run.sends + 1)
            .where(Run.run_id == run_id, Run.status == status, was)
            .execute()
        )


def is_locked_by_another(run_id: str) -> bool:
    """Tell whether another transaction holds the run's row (PostgreSQL); who looks for work does not wait for it."""
    if not is_postgresql():
        return False
    free = Run.select(Run.run_id).where(Run.run_id == run_id).for_update("FOR UPDATE", skip_locked=True)
    return free.tuples().first() is None


def send_run(actor: str, run_id: str, *, is_adopted: bool = False) -> bool:
    """Send `actor(run_id)`, whose row is marked as sent; False: it was not, and the mark is taken back.

    Args:
        actor: One that takes a run.
        run_id: The run.
        is_adopted: It is somebody else's who is gone: send it all the same.
    """
    if (is_adopted or is_ours(run_id)) and _send(actor, run_id, run_id=run_id):
        return True
    with write():
        Run.update(sent_at=None).where(Run.run_id == run_id).execute()
        _set_deadline_anew(run_id)
    return False


def send_fetches(run_id: str, task_ids: Sequence[int]) -> bool:
    """Send `fetch(task)` for tasks that are marked as sent; False: they were not, and the marks are taken back."""
    if is_ours(run_id) and _send(FETCH, *task_ids, run_id=run_id):
        return True
    with write():
        _set_deadline_anew(run_id)
        Task.update(sent_at=None).where(Task.id.in_(task_ids), Task.status == runs.PENDING).execute()
    return False


def wake_sync(run_id: str) -> None:
    """Tell a sync that one of its children got on; a lost call only costs the time until a sweeper looks."""
    if is_ours(run_id):
        _send(PLAN, run_id, run_id=run_id)


def _send(actor_name: str, *keys: str | int, run_id: str) -> bool:
    broker: Any = dramatiq.get_broker()
    if runs.is_child(run_id) and actor_name in _BEHIND_PEOPLE:
        actor_name = f"sync_{actor_name}"
    queue_name = _QUEUES.get(actor_name, actor_name)
    try:
        # Not by the actor: who only sends has imported none.
        broker.enqueue_all(
            [
                Message(
                    queue_name=queue_name, actor_name=actor_name, args=(key,), kwargs={}, options={"run_id": run_id}
                )
                for key in keys
            ]
        )
    except _broker_errors() as error:
        # A sweeper tries again every second.
        say = log.debug if _is_failing.is_set() else log.warning
        _is_failing.set()
        say("message_not_sent", to=actor_name, run_id=run_id, cause=type(error).__name__)
        return False
    _is_failing.clear()
    return True


def _set_deadline_anew(run_id: str) -> None:
    # A wait for Redis is not counted against a stage's deadline.
    anew: Any = clock() + resources.settings().run_deadline_ms
    Run.update(deadline_at=anew).where(Run.run_id == run_id, Run.status == runs.PREFLIGHT).execute()


def _broker_errors() -> tuple[type[BaseException], ...]:
    import redis  # noqa: PLC0415  # 80 ms that a process without Redis does not pay

    return (redis.RedisError, dramatiq.errors.BrokerError)
