"""Without Redis: a broker inside this process, and a loop that does one run to its end.

The ledger is the queue. The loop watches the database for commits of others and applies the sweeper's rules, to its
own run only: other runs belong to the process that opened them, or to a worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dramatiq
from dramatiq import Message, MessageProxy
from dramatiq.brokers.stub import StubBroker

from lore.core import runs as rules
from lore.core.errors import BusyError, RunError
from lore.logs import get_logger
from workers import middleware

log = get_logger(__name__)

POLL_S = 0.01
SWEEP_EVERY_S = 1.0
# What an idle thread waits before it looks whether to end: a command waits for all of them.
WORKER_TIMEOUT_MS = 20
BUSY_WAIT_S = 0.5
LOOK_AGAIN_S = 0.2
STOP_MS, STOP_FETCHING_MS = 5_000, 200
NEVER = float("-inf")


class EmbeddedBroker(StubBroker):
    """A StubBroker that forgets: no list of dead letters grows, and an actor's exception is let go.

    Attributes:
        is_worked: A worker of this process listens; else a message sent here would be heard by nobody.
        only_run_id: The one run this process works for, with its children if it is a sync; None: every run.
    """

    def __init__(self) -> None:
        super().__init__(middleware=middleware.stack(), fail_fast_default=False)
        self.is_worked = False
        self.only_run_id: str | None = None

    def may_send(self, run_id: str) -> bool:
        """Tell whether messages of this run are for this process."""
        is_mine = self.only_run_id in (None, run_id) or run_id.startswith(f"{self.only_run_id}.")
        return self.is_worked and is_mine

    def enqueue_all(self, messages: Sequence[Message[Any]]) -> None:
        """Enqueue messages, one after the other."""
        for message in messages:
            self.enqueue(message)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 100) -> Any:
        """Create a consumer that keeps no dead letters."""
        consumer: Any = super().consume(queue_name, prefetch, timeout)
        consumer.dead_letters = _Nowhere()
        return consumer


class _Nowhere(list[MessageProxy]):
    """A list that stays empty."""

    def append(self, message: MessageProxy) -> None:
        """Forget the message: its row in the ledger says what became of it."""


def run_to_end(
    run_id: str,
    *,
    timeout_s: float | None = None,
    on_change: Callable[[], None] | None = None,
    threads: int = 16,
    is_interrupted: Callable[[], bool] = lambda: False,
    on_held: Callable[[str, float], None] | None = None,
    on_look: Callable[[], None] = lambda: None,
) -> None:
    """Do a run in this process, to its end.

    Args:
        run_id: An open run.
        timeout_s: Its deadline, in seconds from now; None: only that of each stage.
        on_change: Called after every change of the database.
        threads: How many requests are made side by side.
        is_interrupted: Asked a few times a second whether to leave the run.
        on_held: Called once when another process has kept the project's lock from this run for a second, with the run
            it works for and in how many seconds the lock is free if that process is gone.
        on_look: Called every second.

    Raises:
        KeyboardInterrupt: The run was left, as `is_interrupted` asked for.
        RunError: DATABASE_FULL. Not even a deadline could be written, so the run stays open, to be gone on with.
    """
    from models.base import take_full  # noqa: PLC0415  # this module is imported by tests without a database
    from models.watch import Watch  # noqa: PLC0415  # the same
    from workers import runs, upkeep  # noqa: PLC0415  # the actors need the broker to be set first

    broker = dramatiq.get_broker()
    assert isinstance(broker, EmbeddedBroker)
    broker.is_worked, broker.only_run_id = True, run_id
    worker = dramatiq.Worker(broker, worker_threads=threads, worker_timeout=WORKER_TIMEOUT_MS)
    began, swept = time.monotonic(), NEVER
    watch = Watch()
    patience_ms = STOP_MS
    lookout = _Lookout(run_id, on_held)
    take_full()
    try:
        worker.start()
        while True:
            if is_interrupted():
                if runs.is_fetching(run_id):
                    patience_ms = STOP_FETCHING_MS  # what is on its way is of no use any more; a commit is seen out
                raise KeyboardInterrupt
            try:
                # What a killed process left is settled first: its claims, its lease, its deadlines, its commit.
                if time.monotonic() - swept >= SWEEP_EVERY_S:
                    scope, swept = (None if swept == NEVER else run_id), time.monotonic()
                    upkeep.sweep(only_run_id=scope)
                    lookout.look()
                    on_look()
                if runs.has_ended(run_id):
                    return
                if timeout_s is not None and time.monotonic() - began > timeout_s:
                    upkeep.expire(run_id, after_s=timeout_s)
                elif watch.wait(POLL_S, timeout_s=LOOK_AGAIN_S):
                    # Perhaps somebody released the lock that our run waits for.
                    upkeep.send_commit(run_id)
                    if on_change is not None:
                        on_change()
            except BusyError as error:
                if error.code != "DATABASE_FULL":
                    log.warning("database_busy", code=error.code, cause=error.message)
                    time.sleep(BUSY_WAIT_S)
            full = take_full()  # met here, or by an actor
            if full is not None:
                raise RunError(full.code, f"{full.message}; run {run_id} stays open", run_id=run_id) from full
    finally:
        worker.stop(timeout=patience_ms)
        broker.is_worked, broker.only_run_id = False, None


def give_back(run_id: str) -> None:
    """Let others fetch at once what this process had begun to fetch of a run that it leaves: no claim was lost."""
    from peewee import fn  # noqa: PLC0415  # see run_to_end

    from models.base import write  # noqa: PLC0415
    from models.queue import Task  # noqa: PLC0415
    from workers import findings, resources  # noqa: PLC0415

    me = resources.this_process()
    is_mine = fn.SUBSTR(Task.claimed_by, 1, len(me)) == me
    with write():
        Task.update(status=rules.PENDING, sent_at=None, claimed_by=None, claimed_until=None).where(
            Task.status == rules.CLAIMED, is_mine, *findings.Scope(run_id).of(Task.scope_run)
        ).execute()


@dataclass
class _Lookout:
    """Notices that another process keeps the project's lock from our run, and says so once."""

    run_id: str
    on_held: Callable[[str, float], None] | None
    seen: str = ""

    def look(self) -> None:
        """Look once; a holder that was there at the last look too keeps us waiting."""
        from workers import findings, resources  # noqa: PLC0415  # see run_to_end

        held = None if self.on_held is None else findings.lock_held(findings.Scope(self.run_id))
        if self.on_held is None or held is None:
            return
        owner, left_ms = held
        holding_run, process, _ = owner.split("/")
        if owner == self.seen and not process.startswith(resources.this_process()):
            self.on_held(holding_run, left_ms / 1000)
            self.on_held = None
        self.seen = owner
