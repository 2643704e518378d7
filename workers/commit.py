"""The commit: one run, one project's lock, one transaction.

The lock is a lease row, taken in a short transaction of its own; the writing transaction begins by renewing it, so a
holder that was paused past its lease finds out before it writes. A run that finds the lock busy goes away: whoever
releases it sends the longest waiting run.

A sync's child, all or nothing for each entity, is written in pieces: between two of them others can write, and a
person's run that waits for the lock gets it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import peewee

from lore.core import payloads, plan, runs, staleness
from lore.core.errors import BusyError, Failure, LoreError
from lore.logs import get_logger
from models import ingest, locks, statements
from models.base import clock, is_postgresql, now_ms, read, write
from models.content import ENTITY_TABLES
from models.ledger import Run, RunEntity
from models.locks import Lease, ProjectLock
from models.queue import bodies_of, staged
from workers import landing, messages, moves, resources
from workers.actors import BEHIND_PEOPLE, actor, say_busy

log = get_logger(__name__)

# How long a piece of a sync's child keeps others from writing, give or take an entity, and how long it then leaves
# SQLite's lock to whoever looks for it every millisecond.
PIECE_S, PAUSE_S = 0.03, 0.01
# A person's run that waits longer has nobody who would take the lock.
PERSON_TAKES_MS = 10_000


@actor("commit")
def commit(run_id: str) -> None:
    """Write everything a run fetched, or nothing; of a sync's child what could be fetched."""
    lease = _take_lock(run_id)
    if lease is None:
        return
    is_over = False
    while not is_over:
        work = _Work(run_id, lease)
        try:
            is_over = _write(work)
            if work.has_stepped_aside:
                hand_over(lease.project_id, but_not=run_id)
                return
            if not is_over:
                time.sleep(PAUSE_S)
        except _FencedOut:
            log.warning("fenced_out", owner=lease.owner, fence=lease.fence)
            return
        except BusyError as error:
            _try_again(work, error)
            hand_over(lease.project_id, only_due=True)
            return
        except Exception as error:
            log.exception("commit_failed", entity=work.entity_name)
            is_over = not _set_aside_or_fail(work, f"the commit was rolled back: {_describe(error)}")
    hand_over(lease.project_id)


@actor("sync_commit", priority=BEHIND_PEOPLE)
def sync_commit(run_id: str) -> None:
    """Do the same for a sync's child."""
    commit.fn(run_id)


class _FencedOut(Exception):
    """The lock is somebody else's now: write nothing."""


@dataclass
class _Work:
    """One delivery of a commit, and what it has done so far.

    `now` is the database's time at which it held the lock's row: whoever wrote content before had done so by then.
    """

    run_id: str
    lease: Lease
    now: int = 0
    next_status: str = runs.SUCCEEDED
    is_in_pieces: bool = False
    has_stepped_aside: bool = False
    entity: plan.Entity | None = None
    rows: Counter[str] = field(default_factory=Counter)

    @property
    def entity_name(self) -> str | None:
        return plan.entity_name(self.entity.entity_type, self.entity.iid) if self.entity else None


def _take_lock(run_id: str) -> Lease | None:
    """Take the project's lock for this delivery; None when it is busy or the run does not wait for it any more."""
    taken = _try_to_take(run_id)
    if isinstance(taken, _Busy):
        # Whoever releases the lock may have looked for a waiting run before we were one again, hence a second look.
        taken = _try_to_take(run_id)
    if isinstance(taken, _Busy):
        log.info("lock_busy", run_id=run_id, holder=_holder(taken.project_id))
        return None
    return taken


@dataclass(frozen=True)
class _Busy:
    """Somebody else holds the project's lock."""

    project_id: int


def _try_to_take(run_id: str) -> Lease | _Busy | None:
    with write():
        run = Run.get_or_none(Run.run_id == run_id)
        if run is None or run.status != runs.COMMITTING:
            return None
        lease = _take(run)
        if lease is None:
            # Unsent: this message is spent, and the next one comes from whoever releases the lock. It was heard, too,
            # and only unheard ones count towards the wait before the next is sent again.
            if not messages.is_locked_by_another(run_id):
                Run.update(sent_at=None, sends=0).where(Run.run_id == run_id, Run.status == runs.COMMITTING).execute()
            return _Busy(run.project_id)
        if not moves.lock_run(run_id, runs.COMMITTING):
            locks.release(lease)  # it was ended while we looked: by another delivery, or by a cancel
        elif _count_try(run):
            return lease
    hand_over(run.project_id)
    return None


def _take(run: Run) -> Lease | None:
    if is_postgresql():
        # A holder inside its transaction has the row locked; wait for the hand-over, not here. An INSERT would wait for
        # the row too, if only to find that there is nothing to do.
        row = ProjectLock.select(ProjectLock.project).where(ProjectLock.project == run.project_id)
        if row.for_update("FOR UPDATE", skip_locked=True).tuples().first() is None and row.exists():
            return None
    owner = f"{run.run_id}/{resources.whoami()}/{uuid.uuid4().hex[:8]}"
    return locks.take(run.project_id, owner=owner, lease_ms=resources.settings().lock_lease_ms)


def _count_try(run: Run) -> bool:
    """Count the try before it is made, since a try that kills its process cannot; the fourth one ends the run."""
    if run.stage_tries >= runs.COMMIT_TRIES_LIMIT:
        message = f"the commit died {run.stage_tries} times; its process was killed, or lost the database"
        moves.settle(run.run_id, runs.FAILED, error_code="POISON", error_message=message)
        return False
    deadline_at = clock() + resources.settings().run_deadline_ms
    tried = Run.update(stage_tries=Run.stage_tries + 1, deadline_at=deadline_at, sends=0)
    tried.where(Run.run_id == run.run_id).execute()
    return True


def _write(work: _Work) -> bool:
    """Write the run and move it on, or a piece of it; tell whether this delivery is through with it."""
    began = time.monotonic()
    with write():
        # These two come first: a fenced-out holder must not even read what it would write.
        if not locks.renew(work.lease, lease_ms=resources.settings().lock_lease_ms):
            raise _FencedOut
        if not moves.lock_run(work.run_id, runs.COMMITTING):
            log.info("commit_not_needed", owner=work.lease.owner)
            locks.release(work.lease)
            return True
        run = Run.get_by_id(work.run_id)
        work.now = now_ms()
        work.next_status = runs.status_after(runs.COMMITTING, moves.options_of(run))
        work.is_in_pieces = moves.is_per_entity(work.run_id)
        entities = _unwritten(work.run_id)
        waited_ms = json.loads(run.counters).get("lock_wait_ms", 0) + work.now - run.stage_at
        if work.is_in_pieces and entities:
            _write_piece(work, entities)
            moves.count(work.run_id, rows=_rows_so_far(run, work), lock_wait_ms=waited_ms)
            return work.has_stepped_aside
        landing.land(run)
        for entity in entities:
            work.entity = entity
            _write_entity(work, entity)
        work.entity = None
        rows = _rows_so_far(run, work)
        moves.count(work.run_id, rows=rows, lock_wait_ms=waited_ms)
        moves.record(work.run_id, "committed", stage=runs.STAGE_INGEST, rows=rows, lock_wait_ms=waited_ms)
        has_written = rows.total() > rows["skipped_stale"]
        moved = moves.advance(work.run_id, work.next_status if has_written else runs.SUCCEEDED)
    log.info(
        "committed",
        ms=round((time.monotonic() - began) * 1000),
        lock_wait_ms=waited_ms,
        rows=dict(rows),
        fence=work.lease.fence,
    )
    if moved == runs.DOCUMENTS:
        # Whoever committed it, be it somebody else's orphan, carries on with it.
        messages.send_run(messages.DOCUMENTS, work.run_id, is_adopted=True)
    return True


def _unwritten(run_id: str) -> list[plan.Entity]:
    pending = RunEntity.select(RunEntity.entity_type, RunEntity.iid).where(
        RunEntity.run == run_id, RunEntity.status == runs.PENDING, RunEntity.stage == runs.STAGE_INGEST
    )
    return sorted(plan.Entity(*row) for row in pending.tuples())


def _write_piece(work: _Work, entities: list[plan.Entity]) -> None:
    """Write the first of these entities; what was written stays, whatever becomes of the rest."""
    until = time.monotonic() + PIECE_S
    written: list[plan.Entity] = []
    for entity in entities:
        if written and time.monotonic() > until:
            break
        work.entity = entity
        _write_entity(work, entity)
        written.append(entity)
    work.entity = None
    landing.pay(work.lease.project_id, written)
    # It got on: only tries that did not are counted, and it waits from here on.
    changes: dict[str, Any] = {"stage_tries": 1, "deadline_at": clock() + resources.settings().run_deadline_ms}
    if len(written) < len(entities) and _is_a_person_waiting(work.lease.project_id):
        locks.release(work.lease)
        work.has_stepped_aside = True
        changes = {"stage_tries": 0, "deadline_at": None, "sent_at": None, "sends": 0}
    Run.update(stage_at=clock(), **changes).where(Run.run_id == work.run_id).execute()


def _is_a_person_waiting(project_id: int) -> bool:
    waiting = Run.select().where(
        Run.project == project_id,
        Run.status == runs.COMMITTING,
        Run.kind == "surgical",
        Run.stage_at > clock() - PERSON_TAKES_MS,
    )
    return bool(waiting.exists())


def _rows_so_far(run: Run, work: _Work) -> Counter[str]:
    rows = Counter(json.loads(run.counters).get("rows", {}))
    rows.update(work.rows)  # a sum of two counters leaves out what is 0
    return rows


def _write_entity(work: _Work, entity: plan.Entity) -> None:
    fetched = staged(work.run_id, entity.entity_type, entity.iid)
    parts = {endpoint.job_type: fetched[endpoint.job_type] for endpoint in plan.ENDPOINTS[entity.entity_type]}
    observed_at = min(part.observed_at for part in parts.values())
    own = parts.pop(plan.OWN)
    value = payloads.decode_entity(entity.entity_type, b"".join(bodies_of(own)))
    local = _local(work.lease.project_id, entity)
    is_settled = staleness.is_settled(value.updated_at, observed_at)
    payload_version = staleness.Version(value.updated_at, observed_at)
    was_gone_since = local is not None and local.deleted_at is not None and observed_at <= local.deleted_at
    if was_gone_since or staleness.is_stale(payload_version, local.version if local else None, now=work.now):
        _end_entity(work, entity, runs.SKIPPED_STALE, is_settled=None)
        work.rows["skipped_stale"] += 1
        return
    known = dict(local.parts) if local else {}
    columns = ingest.entity_columns(value) | {"observed_at": observed_at, "deleted_at": None}
    is_equal = local is not None and staleness.is_same_moment(local.version.updated_at, value.updated_at)
    if is_equal and staleness.is_observed_later(known.get(plan.OWN), own.observed_at, now=work.now):
        # Another run of it read this endpoint after us, though it began before us; GitLab does not always move
        # `updated_at`, so its answer is kept.
        columns = {"observed_at": observed_at}
    else:
        known[plan.OWN] = own.observed_at
    newer = {
        job_type: part
        for job_type, part in parts.items()
        if not staleness.is_observed_later(known.get(job_type), part.observed_at, now=work.now)
    }
    known |= {job_type: part.observed_at for job_type, part in newer.items()}
    columns["parts_observed_at"] = json.dumps(known, sort_keys=True)
    columns["children_observed_at"] = min(at for job_type, at in known.items() if job_type != plan.OWN)
    if local is None:
        entity_id = ingest.insert_entity(entity.entity_type, work.lease.project_id, entity.iid, columns)
    else:
        entity_id = local.entity_id
        ingest.update_entity(entity.entity_type, entity_id, columns)
    for job_type, part in newer.items():
        written = ingest.replace_children(
            job_type,
            entity.entity_type,
            entity_id,
            bodies_of(part),
            observed_at=part.observed_at,
            is_new=local is None,
        )
        work.rows.update(written)
    work.rows[ENTITY_TABLES[entity.entity_type]._meta.table_name] += 1
    ingest.mark_dirty(work.run_id, entity.entity_type, entity_id, queued_at=work.now)
    ended = runs.OK if work.next_status == runs.SUCCEEDED else runs.PENDING
    _end_entity(work, entity, ended, is_settled=is_settled)


@dataclass(frozen=True)
class _Local:
    """What the mirror holds of an entity."""

    entity_id: int
    version: staleness.Version
    parts: dict[str, int]
    deleted_at: int | None


def _local(project_id: int, entity: plan.Entity) -> _Local | None:
    row = ingest.read_versions(entity.entity_type, project_id, entity.iid)
    if row is None:
        return None
    return _Local(row[0], staleness.Version(row[1], row[2]), json.loads(row[3]), row[4])


def _end_entity(work: _Work, entity: plan.Entity, status: str, *, is_settled: bool | None) -> None:
    # What is written of a run in pieces is in its next stage at once: the next piece does not write it again.
    stage = work.next_status if work.is_in_pieces and status == runs.PENDING else runs.STAGE_INGEST
    statements.execute(
        "UPDATE sync_run_entities SET status = ?, stage = ?, is_settled = ?, updated_at = ?"
        " WHERE run_id = ? AND entity_type = ? AND iid = ?",
        status,
        stage,
        is_settled,
        work.now,
        work.run_id,
        entity.entity_type,
        entity.iid,
    )


def _try_again(work: _Work, error: BusyError) -> None:
    """Leave the run to a sweeper: somebody else won, or at COMMIT the connection was lost and the outcome is open.

    A full disk is no lost try: what was fetched is there until somebody makes room.
    """
    is_full = error.code == "DATABASE_FULL"
    say_busy("commit_interrupted", error)
    try:
        with write():
            if not locks.renew(work.lease, lease_ms=resources.settings().lock_lease_ms):
                return
            run = Run.get_by_id(work.run_id)
            if run.status == runs.COMMITTING and run.stage_tries >= runs.COMMIT_TRIES_LIMIT and not is_full:
                moves.settle(work.run_id, runs.FAILED, error_code=error.code, error_message=error.message)
                return
            locks.release(work.lease)
            # As sent just now: what stood in the way gets the time until a sweeper sends it again.
            tries = Run.stage_tries - int(is_full)
            Run.update(sent_at=clock(), sends=Run.sends + 1, deadline_at=None, stage_tries=tries).where(
                Run.run_id == work.run_id, Run.status == runs.COMMITTING
            ).execute()
    except BusyError as another:
        say_busy("lock_kept_to_its_end", another, owner=work.lease.owner)


def _set_aside_or_fail(work: _Work, message: str) -> bool:
    """Fail the run; of a sync's child only the entity that could not be written, and tell to write the others."""
    if work.entity is None or not moves.is_per_entity(work.run_id):
        _fail(work, "INGEST_FAILED", message)
        return False
    with write():
        if not locks.renew(work.lease, lease_ms=resources.settings().lock_lease_ms):
            return True  # the next try finds itself fenced out
        moves.lock_run(work.run_id, runs.COMMITTING)
        RunEntity.update(
            status=runs.FAILED, error_code="INGEST_FAILED", error_message=message[:2000], updated_at=clock()
        ).where(
            RunEntity.run == work.run_id,
            RunEntity.entity_type == work.entity.entity_type,
            RunEntity.iid == work.entity.iid,
            RunEntity.status == runs.PENDING,
        ).execute()
    return True


def _fail(work: _Work, code: str, message: str) -> None:
    failures = []
    if work.entity is not None:
        failures.append(Failure(work.entity.entity_type, work.entity.iid, runs.STAGE_INGEST, code, message))
    with write():
        if not locks.renew(work.lease, lease_ms=resources.settings().lock_lease_ms):
            log.warning("fenced_out", owner=work.lease.owner, fence=work.lease.fence)
            return
        moves.settle(work.run_id, runs.FAILED, error_code=code, error_message=message, failures=failures)


def hand_over(project_id: int, *, only_due: bool = False, but_not: str | None = None) -> str | None:
    """Send the project's longest waiting run, a person's before a sync's, if the lock is free; return what was sent.

    Args:
        project_id: Our id of the project.
        only_due: Leave alone a run whose message may still be under way.
        but_not: A run that has just stepped aside.
    """
    with read():
        now = now_ms()
        lock = ProjectLock.get_or_none(ProjectLock.project == project_id)
        if lock is not None and lock.owner is not None and lock.until >= now:
            return None
        waiting = list(
            Run.select(Run.run_id, Run.sent_at, Run.sends, Run.stage_at)
            .where(Run.project == project_id, Run.status == runs.COMMITTING, Run.run_id != (but_not or ""))
            .order_by(peewee.Case(Run.kind, (("surgical", 0),), 1), Run.stage_at, Run.run_id)
            .tuples()
        )
    for run_id, sent_at, sends, stage_at in waiting:
        # Without Redis a process works for its own run only; one that waited a whole lease for a free lock has none.
        is_orphan = max(sent_at or 0, stage_at) + resources.settings().lock_lease_ms < now
        if not (is_orphan or messages.is_ours(run_id)):
            continue
        if only_due and sent_at is not None and sent_at + runs.resend_after_ms(sends) > now:
            continue
        if messages.mark_run_sent(run_id, runs.COMMITTING, sent_at):
            return str(run_id) if messages.send_run(messages.COMMIT, run_id, is_adopted=is_orphan) else None
    return None


def _holder(project_id: int) -> str | None:
    with read():
        owner = ProjectLock.select(ProjectLock.owner).where(ProjectLock.project == project_id).scalar()
    return None if owner is None else str(owner)


def _describe(error: Exception) -> str:
    if isinstance(error, LoreError):
        return error.message
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"
