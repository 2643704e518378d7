"""The sweeper: every state of a run has a rule that moves it on when whoever should have done it is gone.

It runs every second in every worker and embedded run, and as `lore sweep`. Every rule is a compare-and-set in a short
transaction of its own, so two sweepers at once are harmless.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from lore.core import runs
from lore.core.errors import BusyError, StorageError
from lore.logs import get_logger
from models.base import clock, database, disconnect, now_ms, read, storage_errors, take_full, write
from models.ledger import Run, RunEntity
from models.queue import Task
from workers import findings, messages, moves, resources, stages
from workers.actors import say_busy
from workers.commit import hand_over
from workers.findings import Scope

log = get_logger(__name__)

# A sync that is worked on says so: whoever would begin another one, or take it over, looks at it.
_SIGN_EVERY_MS = 1_000


def sweep(*, only_run_id: str | None = None) -> dict[str, int]:
    """Apply every rule once; return how often each did something.

    Args:
        only_run_id: Leave every other run alone (an embedded run's own loop).
    """
    done: Counter[str] = Counter()
    scope = Scope(only_run_id)
    for rule in _RULES:
        try:
            for what in rule(scope):
                done[what] += 1
        except BusyError:
            raise
        except Exception:
            # A run that one rule stumbles over must not keep the others from all runs.
            log.exception("rule_failed", rule=rule.__name__)
    if done:
        log.info("swept", **done)
    return dict(done)


class Sweeper(threading.Thread):
    """Sweeps once a second until it is stopped; an error of one sweep is logged and the next one tries again."""

    def __init__(self, *, every_s: float = 1.0, on_fatal: Callable[[StorageError], None] | None = None) -> None:
        super().__init__(name="sweeper", daemon=True)
        self._every_s = every_s
        self._stopping = threading.Event()
        self._on_fatal = on_fatal

    def run(self) -> None:
        """Sweep until stopped."""
        while not self._stopping.wait(self._every_s):
            try:
                self._check()
                sweep()
            except BusyError as error:
                say_busy("sweep_postponed", error)
            except Exception:
                log.exception("sweep_failed")
            full = take_full()  # met by the sweep, or by an actor since the last one
            if full is not None:
                log.warning("database_full", cause=full.message)
        disconnect()

    def stop(self) -> None:
        """Stop after the sweep under way."""
        self._stopping.set()

    def _check(self) -> None:
        from models.schema import check_not_newer  # noqa: PLC0415  # the migrations' machinery, once a second

        try:
            with storage_errors():  # a session that the server ended must not end the sweeper with it
                check_not_newer()
        except StorageError as error:
            if error.code != "DATABASE_NEWER":
                raise
            log.error("worker_stops", code=error.code, cause=error.message)
            self._stopping.set()
            if self._on_fatal is not None:
                self._on_fatal(error)


def _send_queued(scope: Scope) -> Iterable[str]:
    """queued: too old → failed; never sent, or sent long ago → send."""
    settings = resources.settings()
    with read():
        now = now_ms()
        queued = findings.queued(scope)
    for run_id, created_at, sent_at, sends, options in queued:
        if created_at + settings.queue_deadline_ms < now:
            message = f"no worker took the run within {settings.queue_deadline_ms // 1000} s"
            with write():
                if not moves.lock_run(run_id, runs.QUEUED):
                    continue
                moves.settle(run_id, runs.FAILED, error_code="QUEUE_DEADLINE", error_message=message)
            yield "queue_deadline"
        elif (
            findings.is_due(sent_at, sends, now)
            and messages.is_ours(run_id)
            and messages.mark_run_sent(run_id, runs.QUEUED, sent_at)
        ):
            if not messages.send_run(messages.first_actor(options), run_id):
                return
            yield "preflight_sent"


def _end_overdue(scope: Scope) -> Iterable[str]:
    """Any stage past its deadline → failed, with the cause that its tasks were waiting for."""
    with read():
        overdue = findings.overdue(scope)
    after_s = resources.settings().run_deadline_ms / 1000
    for run_id, status, stage in overdue:
        if _fail_overdue(run_id, status, stage, after_s, Run.deadline_at < clock()):
            yield "run_deadline"


def expire(run_id: str, *, after_s: float) -> None:
    """End an open run whose time is over by the caller's clock (`--timeout` of an embedded run)."""
    with read():
        status, stage = Run.select(Run.status, Run.stage).where(Run.run_id == run_id).tuples().get()
    if status in runs.OPEN_STATUSES and not _fail_overdue(run_id, status, stage, after_s):
        expire(run_id, after_s=after_s)  # it moved on in between


def _fail_overdue(run_id: str, status: str, stage: str, after_s: float, *still: Any) -> bool:
    with write():
        # A commit under way either ends first, or finds itself fenced out.
        moves.lock_project_of(run_id)
        is_still = Run.update(stage=Run.stage).where(Run.run_id == run_id, Run.status == status, *still)
        if not is_still.execute():
            return False
        pending = stages.pending_in(run_id, stage=stage) if status in (runs.DOCUMENTS, runs.EMBEDDING) else ()
        states = moves.task_states(run_id)
        verdict = runs.judge_overdue(states, status=status, stage=stage, after_s=after_s, pending=pending)
        if status == runs.PREFLIGHT and verdict.failures and moves.is_per_entity(run_id):
            moved = moves.fail_entities(run_id, verdict.failures)
            if moved == runs.COMMITTING:
                database.after_commit(lambda: messages.send_run(messages.COMMIT, run_id))
            return moved is not None
        return moves.settle(
            run_id,
            runs.FAILED,
            error_code=verdict.error_code,
            error_message=verdict.error_message,
            failures=verdict.failures,
        )


def _take_back_claims(scope: Scope) -> Iterable[str]:
    """An expired claim → pending again; the third time the task is poison."""
    with read():
        expired = findings.expired_claims(scope)
    for task_id, run_id, entity_type, iid, claim_no, lost_claims in expired:
        moved = None
        with write():
            if not moves.lock_run(run_id, runs.PREFLIGHT):
                continue
            back = Task.update(
                status=runs.PENDING,
                lost_claims=Task.lost_claims + 1,
                claimed_by=None,
                claimed_until=None,
                next_at=None,
                sent_at=None,
            ).where(
                Task.id == task_id, Task.status == runs.CLAIMED, Task.claim_no == claim_no, Task.claimed_until < clock()
            )
            if not back.execute():
                continue
            if lost_claims + 1 >= runs.LOST_CLAIMS_LIMIT:
                message = f"whoever fetched it died or was lost, {lost_claims + 1} times"
                moves.fail_task(task_id, run_id, entity_type, iid, code="POISON", message=message)
                moved = moves.end_preflight(run_id)
        if moved == runs.COMMITTING:
            messages.send_run(messages.COMMIT, run_id)
        yield "claim_expired"


def _send_tasks(scope: Scope) -> Iterable[str]:
    """preflight: a task that is due and unsent, or was sent long ago → send."""
    with read():
        tasks = findings.due_tasks(scope)
    for task_id, run_id, sent_at in tasks:
        if not messages.is_ours(run_id):
            continue
        was = Task.sent_at.is_null() if sent_at is None else Task.sent_at == sent_at
        with write():
            marked = (
                Task.update(sent_at=clock(), sends=Task.sends + 1)
                .where(Task.id == task_id, Task.status == runs.PENDING, was)
                .execute()
            )
        if marked:
            if not messages.send_fetches(run_id, [task_id]):
                return
            yield "fetch_sent"


def _end_preflights(scope: Scope) -> Iterable[str]:
    """preflight with nothing open → end it (whoever should have was killed before it could)."""
    with read():
        ready = findings.finished_preflights(scope)
    for run_id in ready:
        with write():
            moved = moves.end_preflight(run_id) if moves.lock_run(run_id, runs.PREFLIGHT) else None
        if moved == runs.COMMITTING:
            messages.send_run(messages.COMMIT, run_id)
        if moved is not None:
            yield "preflight_ended"


def _send_commits(scope: Scope) -> Iterable[str]:
    """committing: the lock is free or its lease over → send the longest waiting run of the project."""
    with read():
        projects = findings.waiting_projects(scope)
    for project_id in projects:
        if hand_over(project_id, only_due=True) is not None:
            yield "commit_sent"


def _send_plans(scope: Scope) -> Iterable[str]:
    """walking: nobody plans it, and the time to look again has come → send; who would do it says that he is there."""
    with read():
        now = now_ms()
        walking = findings.walking(scope)
    for run_id, stage_at, stage_until, sent_at, sends in walking:
        if not messages.is_ours(run_id):
            continue
        if stage_at + _SIGN_EVERY_MS < now:
            with write():
                Run.update(stage_at=clock()).where(Run.run_id == run_id, Run.status == runs.WALKING).execute()
        is_due = (stage_until is None or stage_until < now) and findings.is_due(sent_at, sends, now)
        if is_due and messages.mark_run_sent(run_id, runs.WALKING, sent_at):
            if not messages.send_run(messages.PLAN, run_id):
                return
            yield "plan_sent"


def _send_stages(scope: Scope) -> Iterable[str]:
    """documents, embedding: nobody's, and never sent or sent long ago → send."""
    with read():
        now = now_ms()
        idle = findings.idle_stages(scope)
    for run_id, status, sent_at, sends, stage_at in idle:
        # As with a commit: without Redis a run that was nobody's for a whole lease has lost its process.
        is_orphan = max(sent_at or 0, stage_at) + resources.settings().lock_lease_ms < now
        if not (is_orphan or messages.is_ours(run_id)) or not findings.is_due(sent_at, sends, now):
            continue
        if messages.mark_run_sent(run_id, status, sent_at):
            if not messages.send_run(messages.ACTORS[status], run_id, is_adopted=is_orphan):
                return
            yield "stage_sent"


def send_commit(run_id: str) -> None:
    """Send the run's commit if it waits for a lock that is free by now."""
    for _ in _send_commits(Scope(run_id)):
        pass


def _tidy(scope: Scope) -> Iterable[str]:
    """Ended runs: nothing open and no staged page may be left; what is found is our bug, and logged."""
    with read():
        left = findings.left_open(scope)
    for run_id in left:
        with write():
            moves.abort_tasks(run_id, reason="left open by an ended run")
            moves.drop_staged(run_id)
            RunEntity.update(status=runs.ABORTED, updated_at=clock()).where(
                RunEntity.run == run_id, RunEntity.status == runs.PENDING
            ).execute()
        log.error("left_open", run_id=run_id)
        yield "left_open"


def _forget_old(scope: Scope) -> Iterable[str]:
    """Ended runs older than LORE_LEDGER_KEEP → deleted, with all that hangs on them."""
    if scope.only_run_id is not None:
        return
    with read():
        old = findings.old_runs(resources.settings().ledger_keep_ms)
    for run_id in old:
        with write():
            Run.delete().where(Run.run_id == run_id).execute()
        yield "forgotten"


_RULES: tuple[Callable[[Scope], Iterable[str]], ...] = (
    _end_overdue,
    _send_queued,
    _take_back_claims,
    _send_tasks,
    _end_preflights,
    _send_commits,
    _send_plans,
    _send_stages,
    _tidy,
    _forget_old,
)
