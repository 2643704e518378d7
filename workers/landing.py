"""What a run means for the incremental sync: debts it pays or makes, and the cursor that follows its parent's walk.

Each inside its caller's transaction, which holds the run's row: `pay` and `land` where content is committed, `ended`
where a run ends. None touches the parent's row: once the transaction is over the parent is woken and looks for itself,
so no order of locks binds a child to it. The cursor's own row is locked before the steps are looked at; of two
children that end at once the second sees what the first wrote.
"""

from __future__ import annotations

from collections.abc import Sequence

import peewee

from lore.core import runs, walk
from lore.core.plan import Entity
from models.base import clock, database
from models.ledger import Run, RunEntity, SyncCursor, SyncDebt, SyncStep
from workers import messages

DEBT = "debt"
# Of a step that builds or embeds what an earlier sync left behind its commits.
LEFT = "left"


def land(run: Run) -> None:
    """Count what the caller is about to commit: its pending entities land, those that failed are debts."""
    pending = RunEntity.select(RunEntity.iid).where(
        RunEntity.run == run.run_id,
        RunEntity.status == runs.PENDING,
        RunEntity.entity_type == SyncDebt.entity_type,
        RunEntity.iid == SyncDebt.iid,
    )
    SyncDebt.delete().where(SyncDebt.project == run.project_id, peewee.fn.EXISTS(pending)).execute()
    if run.parent_run_id is not None:
        _owe(run, runs.FAILED)
        _count_step(run)
        _wake(run.parent_run_id)


def pay(project_id: int, entities: Sequence[Entity]) -> None:
    """Forget the debts of entities that the caller has just written."""
    for entity_type in {entity.entity_type for entity in entities}:
        iids = [entity.iid for entity in entities if entity.entity_type == entity_type]
        SyncDebt.delete().where(
            SyncDebt.project == project_id, SyncDebt.entity_type == entity_type, SyncDebt.iid.in_(iids)
        ).execute()


def ended(run: Run) -> None:
    """Count a run that has just ended, if it is a sync's child: what it did not commit is a debt, or not done.

    What it had committed, in pieces, before it ended is neither: only its documents are missing.
    """
    if run.parent_run_id is None:
        return
    was_committed = run.stage not in (runs.STAGE_PREFLIGHT, runs.STAGE_INGEST) or run.status == runs.SUCCEEDED
    if not was_committed and run.status == runs.FAILED and walk.is_of_its_entities(run.error_code):
        _owe(run, runs.FAILED, runs.ABORTED)
        _count_step(run)
    _wake(run.parent_run_id)


def move_cursor(project_id: int, parent_run_id: str, entity_type: str) -> None:
    """Move the cursor over the unbroken row of steps that are done, in the caller's transaction."""
    if entity_type == DEBT:
        return
    _lock_cursor(project_id, entity_type)
    mine = (SyncCursor.project == project_id, SyncCursor.entity_type == entity_type)
    steps = (SyncStep.run == parent_run_id, SyncStep.entity_type == entity_type)
    open_from = SyncStep.select(peewee.fn.MIN(SyncStep.number)).where(*steps, ~SyncStep.is_done).scalar()
    before = () if open_from is None else (SyncStep.number < open_from,)
    reached = peewee.Case(None, ((SyncStep.position < SyncStep.bound, SyncStep.position),), SyncStep.bound)
    to = (
        SyncStep.select(peewee.fn.MAX(reached))
        .where(*steps, *before, SyncStep.position.is_null(False), SyncStep.is_done)
        .scalar()
    )
    if to is not None:
        is_ahead = SyncCursor.updated_after.is_null() | (SyncCursor.updated_after < to)
        SyncCursor.update(updated_after=to).where(*mine, is_ahead).execute()


def _count_step(run: Run) -> None:
    step = SyncStep.get_or_none(SyncStep.child_run_id == run.run_id, ~SyncStep.is_done)
    if step is None:
        return
    SyncStep.update(is_done=True).where(SyncStep.child_run_id == run.run_id).execute()
    move_cursor(run.project_id, step.run_id, step.entity_type)


def _lock_cursor(project_id: int, entity_type: str) -> None:
    SyncCursor.insert(project=project_id, entity_type=entity_type, updated_at=clock()).on_conflict_ignore().execute()
    SyncCursor.update(updated_at=clock()).where(
        SyncCursor.project == project_id, SyncCursor.entity_type == entity_type
    ).execute()


def _owe(run: Run, *statuses: str) -> None:
    """Write a debt for each entity of the run that has one of these statuses; one tried again waits longer."""
    columns = (RunEntity.entity_type, RunEntity.iid, RunEntity.error_code, RunEntity.error_message)
    failed = RunEntity.select(*columns).where(
        RunEntity.run == run.run_id, RunEntity.status.in_(statuses), RunEntity.stage.not_in(runs.BEHIND_COMMIT)
    )
    for entity_type, iid, code, message in list(failed.order_by(RunEntity.entity_type, RunEntity.iid).tuples()):
        mine = (SyncDebt.project == run.project_id, SyncDebt.entity_type == entity_type, SyncDebt.iid == iid)
        tries = (SyncDebt.select(SyncDebt.tries).where(*mine).scalar() or 0) + 1
        known = {
            "error_code": code or run.error_code or "INTERNAL",
            "error_message": message or run.error_message,
            "tries": tries,
            "next_at": clock() + walk.debt_wait_ms(tries),
        }
        (
            SyncDebt.insert(project=run.project_id, entity_type=entity_type, iid=iid, since=clock(), **known)
            .on_conflict(
                conflict_target=[SyncDebt.project, SyncDebt.entity_type, SyncDebt.iid],
                update={getattr(SyncDebt, name): value for name, value in known.items()},
            )
            .execute()
        )


def _wake(parent_run_id: str) -> None:
    database.after_commit(lambda: messages.wake_sync(parent_run_id))
