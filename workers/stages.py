"""A stage behind the commit: one delivery at a time works on it, under a lease that is written into the run's row.

The lease keeps a second delivery of the message away and tells the sweeper of one that died; it protects nothing by
itself. Every transaction of a stage begins with `renew`, which locks the run's row and finds out whether it is still
ours.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from lore.core import runs
from lore.core.errors import BusyError, Failure
from lore.core.plan import Entity
from lore.logs import get_logger
from models.base import clock, now_ms, read, write
from models.ledger import Run, RunEntity
from workers import moves, resources
from workers.actors import say_busy

log = get_logger(__name__)


class Lost(Exception):
    """The stage is somebody else's, or its run has ended: stop without a trace."""


@dataclass(frozen=True)
class Held:
    """One delivery's hold on a stage."""

    run_id: str
    status: str
    owner: str
    project_id: int
    options: runs.RunOptions


def take(run_id: str, status: str) -> Held | None:
    """Take a run's stage for this delivery; None: it is not in it, or somebody else is at it.

    A queued run that begins with this stage is moved into it. Who died at it thrice has poisoned it.
    """
    settings = resources.settings()
    owner = f"{resources.whoami()}/{uuid.uuid4().hex[:8]}"
    with write():
        if not moves.lock_run(run_id, status, runs.QUEUED):
            return None
        run = Run.get_by_id(run_id)
        options = moves.options_of(run)
        if status not in (run.status, options.starts_at):
            return None
        if run.stage_owner is not None and run.stage_until >= now_ms():
            return None
        if run.stage_tries >= runs.STAGE_TRIES_LIMIT:
            message = f"whoever worked on its {status} died or was lost, {run.stage_tries} times"
            fail(run_id, "POISON", message, failures=failures_of(run_id, "POISON", message, stage=status))
            return None
        Run.update(
            status=status,
            stage_owner=owner,
            stage_until=clock() + settings.lock_lease_ms,
            stage_tries=Run.stage_tries + 1,
            deadline_at=clock() + settings.run_deadline_ms,
            sends=0,
            started_at=run.started_at or clock(),
        ).where(Run.run_id == run_id).execute()
    return Held(run_id, status, owner, run.project_id, options)


def renew(held: Held) -> None:
    """Lock the run's row and renew the lease, as the first statement of a transaction.

    Raises:
        Lost: It is not ours any more; nothing may be written.
    """
    until = clock() + resources.settings().lock_lease_ms
    if not Run.update(stage_until=until).where(*_is_held(held)).execute():
        raise Lost


def give_back(held: Held) -> None:
    """Let go of a stage that a busy database kept us from, for a sweeper to send again; that is no lost try."""
    try:
        with write():
            Run.update(
                stage_owner=None,
                stage_until=None,
                stage_tries=Run.stage_tries - 1,
                sent_at=clock(),
                sends=Run.sends + 1,
            ).where(*_is_held(held)).execute()
    except BusyError as error:
        say_busy("stage_kept_to_its_end", error, owner=held.owner)


def fail(run_id: str, code: str, message: str, *, failures: list[Failure]) -> None:
    """End a run that failed in its stage, in the caller's transaction: what it has committed stays."""
    moves.settle(run_id, runs.FAILED, error_code=code, error_message=message, failures=failures)


def pending(run_id: str, *, stage: str) -> list[Entity]:
    """Return the run's entities that have not passed this stage yet, in their order."""
    with read():
        return pending_in(run_id, stage=stage)


def failures_of(run_id: str, code: str, message: str, *, stage: str) -> list[Failure]:
    """Return one failure for each entity that has not passed this stage, in the caller's transaction."""
    return [Failure(one.entity_type, one.iid, stage, code, message) for one in pending_in(run_id, stage=stage)]


def pending_in(run_id: str, *, stage: str) -> list[Entity]:
    """Return the same in the caller's transaction."""
    rows = RunEntity.select(RunEntity.entity_type, RunEntity.iid).where(
        RunEntity.run == run_id, RunEntity.status == runs.PENDING, RunEntity.stage == stage
    )
    return sorted(Entity(*row) for row in rows.tuples())


def _is_held(held: Held) -> tuple[bool, ...]:
    return (Run.run_id == held.run_id, Run.status == held.status, Run.stage_owner == held.owner)
