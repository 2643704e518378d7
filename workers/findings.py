"""What a sweeper would find now: the rows of every state that nobody seems to move on. Nothing here changes anything.

Each query starts from an index on a status of open work, so that it costs what is open, not what the ledger holds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

import peewee

from lore.core import runs
from models.base import clock, now_ms, read
from models.ledger import Project, Run, RunEntity
from models.locks import ProjectLock
from models.queue import StagedPayload, Task, paused_until

BATCH: Final = 200


@dataclass(frozen=True)
class Scope:
    """Which runs are looked at: one with the children of its sync; None: all of them."""

    only_run_id: str | None = None

    def of(self, field: Any) -> list[Any]:
        """Return the condition on a column that holds a run id."""
        if self.only_run_id is None:
            return []
        is_child = peewee.fn.SUBSTR(field, 1, len(self.only_run_id) + 1) == f"{self.only_run_id}."
        return [(field == self.only_run_id) | is_child]


def outlook(*, queue_deadline_ms: int, ledger_keep_ms: int) -> dict[str, int]:
    """Return how much each rule of the sweeper would find, by the name under which `sweep` counts it."""
    scope = Scope()
    with read():
        now = now_ms()
        waiting = queued(scope)
        found = {
            "queue_deadline": sum(created_at + queue_deadline_ms < now for _, created_at, _, _, _ in waiting),
            "preflight_sent": sum(is_due(sent_at, sends, now) for _, _, sent_at, sends, _ in waiting),
            "run_deadline": len(overdue(scope)),
            "claim_expired": len(expired_claims(scope)),
            "fetch_sent": len(due_tasks(scope)),
            "preflight_ended": len(finished_preflights(scope)),
            "commit_sent": sum(is_lock_free(project_id, now) for project_id in waiting_projects(scope)),
            "plan_sent": sum(
                (until is None or until < now) and is_due(sent_at, sends, now)
                for _, _, until, sent_at, sends in walking(scope)
            ),
            "stage_sent": sum(is_due(sent_at, sends, now) for _, _, sent_at, sends, _ in idle_stages(scope)),
            "left_open": len(left_open(scope)),
            "forgotten": len(old_runs(ledger_keep_ms)),
        }
    return {what: count for what, count in found.items() if count}


def is_due(sent_at: int | None, sends: int, now: int) -> bool:
    """Tell whether a message that was sent this often, lastly then, is to be sent again."""
    return sent_at is None or sent_at + runs.resend_after_ms(sends) < now


def queued(scope: Scope) -> list[tuple[str, int, int | None, int, str]]:
    """Return (run_id, created_at, sent_at, sends, options) of queued runs, the oldest first."""
    return list(
        Run.select(Run.run_id, Run.created_at, Run.sent_at, Run.sends, Run.options)
        .where(Run.status == runs.QUEUED, *scope.of(Run.run_id))
        .order_by(Run.created_at)
        .limit(BATCH)
        .tuples()
    )


def overdue(scope: Scope) -> list[tuple[str, str, str]]:
    """Return (run_id, status, stage) of runs past their stage's deadline."""
    return list(
        Run.select(Run.run_id, Run.status, Run.stage)
        .where(Run.status.in_(runs.OPEN_STATUSES), Run.deadline_at < clock(), *scope.of(Run.run_id))
        .limit(BATCH)
        .tuples()
    )


def expired_claims(scope: Scope) -> list[tuple[int, str, str, int, int, int]]:
    """Return (task id, run_id, entity_type, iid, claim_no, lost_claims) of tasks whose claim ran out."""
    return list(
        Task.select(Task.id, Task.scope_run, Task.entity_type, Task.iid, Task.claim_no, Task.lost_claims)
        .where(Task.status == runs.CLAIMED, Task.claimed_until < clock(), *scope.of(Task.scope_run))
        .limit(BATCH)
        .tuples()
    )


def due_tasks(scope: Scope) -> list[tuple[int, str, int | None]]:
    """Return (task id, run_id, sent_at) of tasks whose time has come and whose message was not sent, or lost."""
    now = clock()
    waits = tuple((sends, runs.resend_after_ms(sends)) for sends in range(12))
    lost_at = Task.sent_at + peewee.Case(Task.sends, waits, runs.resend_after_ms(12))
    # A sync's tasks wait for one another by the thousand.
    lost_at += peewee.Case(None, ((Run.kind != "surgical", runs.LONG_QUEUE_MS),), 0)
    return list(
        Task.select(Task.id, Task.scope_run, Task.sent_at)
        .join(Run, on=(Run.run_id == Task.scope_run))
        .where(
            Task.status == runs.PENDING,
            Run.status == runs.PREFLIGHT,
            Task.next_at.is_null() | (Task.next_at <= now),
            Task.sent_at.is_null() | (lost_at < now),
            *scope.of(Task.scope_run),
        )
        .order_by(Task.id)
        .limit(BATCH)
        .tuples()
    )


def finished_preflights(scope: Scope) -> list[str]:
    """Return the runs in preflight that have no open task: whoever should have moved them on was killed."""
    open_tasks = Task.select(Task.id).where(Task.scope_run == Run.run_id, Task.status.in_(runs.OPEN_TASKS))
    ready = Run.select(Run.run_id).where(
        Run.status == runs.PREFLIGHT, ~peewee.fn.EXISTS(open_tasks), *scope.of(Run.run_id)
    )
    return [row[0] for row in ready.limit(BATCH).tuples()]


def waiting_projects(scope: Scope) -> list[int]:
    """Return the projects that have a run waiting for their lock, or holding it."""
    waiting = Run.select(Run.project).where(Run.status == runs.COMMITTING, *scope.of(Run.run_id)).distinct()
    return [row[0] for row in waiting.limit(BATCH).tuples()]


def is_lock_free(project_id: int, now: int) -> bool:
    """Tell whether nobody holds the project's lock, or its lease is over."""
    lock = ProjectLock.get_or_none(ProjectLock.project == project_id)
    return lock is None or lock.owner is None or lock.until < now


def lock_held(scope: Scope) -> tuple[str, int] | None:
    """Return (owner, ms until its lease is over) of a lock that a run waits for, or holds itself; None: it is free."""
    with read():
        now = now_ms()
        held = ProjectLock.select(ProjectLock.owner, ProjectLock.until).where(
            ProjectLock.project.in_(waiting_projects(scope)), ProjectLock.until >= now
        )
        row = held.tuples().first()
    return None if row is None else (row[0], row[1] - now)


def walking(scope: Scope) -> list[tuple[str, int, int | None, int | None, int]]:
    """Return (run_id, stage_at, stage_until, sent_at, sends) of syncs under way."""
    columns = (Run.run_id, Run.stage_at, Run.stage_until, Run.sent_at, Run.sends)
    under_way = Run.select(*columns).where(Run.status == runs.WALKING, *scope.of(Run.run_id))
    return list(under_way.order_by(Run.created_at).limit(BATCH).tuples())


def idle_stages(scope: Scope) -> list[tuple[str, str, int | None, int, int]]:
    """Return (run_id, status, sent_at, sends, stage_at) of runs behind their commit that nobody works on now."""
    return list(
        Run.select(Run.run_id, Run.status, Run.sent_at, Run.sends, Run.stage_at)
        .where(
            Run.status.in_((runs.DOCUMENTS, runs.EMBEDDING)),
            Run.stage_owner.is_null() | (Run.stage_until < clock()),
            *scope.of(Run.run_id),
        )
        .order_by(Run.stage_at)
        .limit(BATCH)
        .tuples()
    )


def left_open(scope: Scope) -> list[str]:
    """Return ended runs that still have an open task, a pending entity or a staged page: a bug of ours."""
    # NOT IN and not IN: no index fits it, so the planner begins at the few open rows, not at every ended run.
    has_ended = (Run.status.not_in(runs.OPEN_STATUSES), *scope.of(Run.run_id))
    tasks = Task.select(Run.run_id).join(Run).where(Task.status.in_(runs.OPEN_TASKS), *has_ended)
    entities = RunEntity.select(Run.run_id).join(Run).where(RunEntity.status == runs.PENDING, *has_ended)
    pages = StagedPayload.select(Run.run_id).join(Task).join(Run).where(*has_ended)
    return sorted({row[0] for query in (tasks, entities, pages) for row in query.distinct().limit(BATCH).tuples()})


def left_behind(gitlab_url: str, *, silent_ms: int, can_fetch: bool, can_embed: bool) -> list[str]:
    """Return the runs that nobody has touched for so long, the oldest first: without Redis their process is gone.

    What waits for its time, for its GitLab or for a lock that is held is nobody's to take up.

    Args:
        gitlab_url: Only runs of this GitLab; what another one's settings are good for is not known here.
        silent_ms: As long as a lease.
        can_fetch: Also runs that have not got all answers yet.
        can_embed: Also runs that are to be embedded.
    """
    can_fetch = can_fetch and paused_until(gitlab_url) is None
    statuses = runs.OPEN_STATUSES if can_fetch else (runs.COMMITTING, runs.DOCUMENTS, runs.EMBEDDING)
    is_child = Run.parent_run_id.is_null(False) & Run.retry_of.is_null()  # done with its sync
    columns = (Run.run_id, Run.options, ProjectLock.until, Run.created_at, Run.stage_at, Run.sent_at, Run.stage_until)
    with read():
        now = now_ms()
        rows = (
            Run.select(*columns)
            .join(Project)
            .switch(Run)
            .join(ProjectLock, peewee.JOIN.LEFT_OUTER, on=(ProjectLock.project == Run.project))
            .where(Run.status.in_(statuses), ~is_child, Project.gitlab_url == gitlab_url)
            .order_by(Run.created_at)
        )
        silent = [
            run_id
            for run_id, options, *touched in rows.tuples()
            if max(at or 0 for at in touched) + silent_ms < now and (can_embed or not json.loads(options).get("embed"))
        ]
        return [run_id for run_id in silent if not _is_awaited(Scope(run_id), now, silent_ms)]


def _is_awaited(scope: Scope, now: int, silent_ms: int) -> bool:
    """Tell whether a task of a run is claimed, or has a time that is yet to come, or came just now."""
    is_claimed = (Task.status == runs.CLAIMED) & (Task.claimed_until >= now)
    has_its_time = (Task.status == runs.PENDING) & (Task.next_at >= now - silent_ms)
    return bool(Task.select(Task.id).where(is_claimed | has_its_time, *scope.of(Task.scope_run)).exists())


def old_runs(keep_ms: int) -> list[str]:
    """Return ended runs that ended longer ago than the ledger is kept."""
    before = now_ms() - keep_ms  # a value: PostgreSQL uses no index for what it must ask the clock for at each row
    old = Run.select(Run.run_id).where(
        Run.status.in_(runs.FINAL_STATUSES), Run.created_at < before, Run.finished_at < before
    )
    return [row[0] for row in old.limit(BATCH).tuples()]
