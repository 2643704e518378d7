"""How a sync ends: by what of it is still owed, and by what failed behind its children's commits."""

from __future__ import annotations

from lore.core import plan, runs
from models.base import clock
from models.ledger import Run, RunEntity, SyncDebt
from workers import moves


def end_sync(run_id: str) -> None:
    """End a sync in the caller's transaction, which holds its row.

    Its entities are the debts that are left, and what failed behind a commit; one of either fails it.
    """
    run = Run.get_by_id(run_id)
    debts = list(
        SyncDebt.select().where(SyncDebt.project == run.project_id).order_by(SyncDebt.entity_type, SyncDebt.iid)
    )
    for debt in debts:
        _name_failed(run_id, debt, runs.STAGE_PREFLIGHT, debt.error_code, debt.error_message)
    behind = _take_over_failed(run_id)
    if run.error_code is not None:
        moves.settle(run_id, runs.FAILED, error_code=run.error_code, error_message=run.error_message)
    elif debts:
        named = ", ".join(f"{plan.entity_name(d.entity_type, d.iid)} ({d.error_code})" for d in debts[:5])
        more = f" and {len(debts) - 5} more" if len(debts) > 5 else ""
        message = f"{len(debts)} entities failed and have not landed since: {named}{more}"
        moves.settle(run_id, runs.FAILED, error_code="SYNC_INCOMPLETE", error_message=message)
    elif behind is not None:
        stage = behind.stage if behind.stage in runs.BEHIND_COMMIT else runs.STAGE_DOCUMENTS
        Run.update(stage=stage).where(Run.run_id == run_id).execute()
        message = f"all content is in the mirror; {behind.run_id}: {behind.error_message}"
        moves.settle(run_id, runs.FAILED, error_code=behind.error_code, error_message=message)
    else:
        moves.settle(run_id, runs.SUCCEEDED)


def _take_over_failed(run_id: str) -> Run | None:
    """Make what failed behind a child's commit the sync's own to say and to retry; return the first such child.

    That is no debt: the content has landed, and the cursor is past it.
    """
    failed = Run.select().where(Run.parent_run_id == run_id, Run.retry_of.is_null(), Run.status == runs.FAILED)
    first = None
    for child in list(failed.order_by(Run.run_id)):
        left = RunEntity.select().where(
            RunEntity.run == child.run_id,
            RunEntity.stage.in_(runs.BEHIND_COMMIT),
            RunEntity.status.in_((runs.FAILED, runs.ABORTED)),
        )
        for entity in left:
            first = first or child
            code, message = entity.error_code or child.error_code, entity.error_message or child.error_message
            _name_failed(run_id, entity, entity.stage, code, message)
    return first


def _name_failed(run_id: str, of: SyncDebt | RunEntity, stage: str, code: str | None, message: str | None) -> None:
    RunEntity.insert(
        run=run_id,
        entity_type=of.entity_type,
        iid=of.iid,
        stage=stage,
        status=runs.FAILED,
        error_code=code,
        error_message=message,
        updated_at=clock(),
    ).on_conflict_ignore().execute()
