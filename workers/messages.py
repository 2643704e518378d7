"""Sending: a message is a wake-up call that holds ids only; the ledger says what is to be done.

A message that cannot be sent is not an error: its row is marked unsent, and a sweeper sends it later.
"""

from __future__ import annotations

from collections.abc import Iterable

import dramatiq
import structlog

from models.base import clock, write
from models.ledger import Run
from models.queue import Task
from workers import resources

log = structlog.get_logger(__name__)

PREFLIGHT = "preflight"
FETCH = "fetch"
COMMIT = "commit"


def send_run(actor: str, run_id: str) -> bool:
    """Send `actor(run_id)`, whose row is marked as sent already; when it cannot be sent the mark is taken back."""
    if _send(actor, run_id, run_id=run_id):
        return True
    with write():
        Run.update(sent_at=None, **_deadline_anew()).where(Run.run_id == run_id).execute()
    return False


def send_fetches(run_id: str, task_ids: Iterable[int]) -> bool:
    """Send `fetch(task)` for tasks that are marked as sent already; at the first that fails the rest is unmarked."""
    ids = list(task_ids)
    for position, task_id in enumerate(ids):
        if not _send(FETCH, task_id, run_id=run_id):
            with write():
                # A wait for Redis is not counted against the stage's deadline, so it is set anew.
                Run.update(**_deadline_anew()).where(Run.run_id == run_id, Run.status == "preflight").execute()
                Task.update(sent_at=None).where(Task.id.in_(ids[position:]), Task.status == "pending").execute()
            return False
    return True


def is_ours(run_id: str) -> bool:
    """Tell whether this process may send for a run: an embedded one leaves other runs to their own process."""
    may_send = getattr(dramatiq.get_broker(), "may_send", None)
    return may_send is None or bool(may_send(run_id))


def _send(actor_name: str, key: str | int, *, run_id: str) -> bool:
    if not is_ours(run_id):
        return True
    broker = dramatiq.get_broker()
    actor = broker.get_actor(actor_name)
    try:
        broker.enqueue(actor.message_with_options(args=(key,), run_id=run_id))
    except _broker_errors() as error:
        log.warning("message_not_sent", to=actor_name, run_id=run_id, cause=type(error).__name__)
        return False
    return True


def _deadline_anew() -> dict[str, object]:
    from peewee import Case  # noqa: PLC0415  # kept beside its one use

    anew = clock() + resources.settings().run_deadline_ms
    return {"deadline_at": Case(None, ((Run.status == "preflight", anew),), Run.deadline_at)}


def _broker_errors() -> tuple[type[BaseException], ...]:
    import redis  # noqa: PLC0415  # 80 ms that a process without Redis does not pay

    return (redis.RedisError, dramatiq.errors.BrokerError)
