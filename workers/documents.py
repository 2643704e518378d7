"""Documents: the texts of exactly what a run dirtied, or, when asked for it, of everybody's backlog.

An entity is read, built and written in one transaction that holds its row, so no document is older than its content.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import peewee

from lore.core import documents as texts
from lore.core import plan, runs
from lore.core.errors import BusyError, Failure
from lore.logs import get_logger
from models import documents as tables
from models.base import read, write
from models.content import ENTITY_TABLES, DirtySource
from models.ledger import Run, RunDocument, RunEntity, RunSource
from models.statements import execute
from workers import messages, moves, stages
from workers.actors import BEHIND_PEOPLE, actor

log = get_logger(__name__)

_KEEP = "INSERT INTO sync_run_documents (run_id, document_id) VALUES (?, ?) ON CONFLICT DO NOTHING"


@actor("documents")
def documents(run_id: str) -> None:
    """Build the documents of everything the run wrote, and of nothing else."""
    held = stages.take(run_id, runs.DOCUMENTS)
    if held is None:
        return
    try:
        moved = _build_all(held)
    except stages.Lost:
        log.info("stage_lost", stage=runs.DOCUMENTS)
        return
    except BusyError:
        stages.give_back(held)
        raise
    if moved == runs.EMBEDDING:
        messages.send_run(messages.EMBED, run_id, is_adopted=True)


@actor("sync_documents", priority=BEHIND_PEOPLE)
def sync_documents(run_id: str) -> None:
    """Do the same for a sync's child."""
    documents.fn(run_id)


def _build_all(held: stages.Held) -> str:
    began = time.monotonic()
    failures = []
    for entity in stages.pending(held.run_id, stage=runs.STAGE_DOCUMENTS):
        try:
            _build(held, entity)
        except (BusyError, stages.Lost):
            raise
        except Exception as error:
            # One bad text keeps nobody else's from being built, so that one run names every failure.
            log.exception("documents_failed", entity=plan.entity_name(entity.entity_type, entity.iid))
            message = f"its documents could not be built: {type(error).__name__}"
            failures.append(Failure(entity.entity_type, entity.iid, runs.STAGE_DOCUMENTS, "DOCUMENTS_FAILED", message))
    with write():
        stages.renew(held)
        built = RunDocument.select().where(RunDocument.run == held.run_id).count()
        moves.count(held.run_id, documents_regenerated=built)
        if failures:
            message = f"the documents of {len(failures)} entities could not be built; their content is kept"
            stages.fail(held.run_id, "DOCUMENTS_FAILED", message, failures=failures)
            return runs.FAILED
        moved = moves.advance(held.run_id, runs.status_after(runs.DOCUMENTS, held.options))
    log.info("documents_built", documents=built, ms=round((time.monotonic() - began) * 1000))
    return moved


def _build(held: stages.Held, entity: plan.Entity) -> None:
    """Build one entity's documents and take the run's own dirty rows of it; older ones and others' stay."""
    table = ENTITY_TABLES[entity.entity_type]
    next_stage = runs.status_after(runs.DOCUMENTS, held.options)
    ends_here = next_stage == runs.SUCCEEDED
    with write():
        stages.renew(held)
        mine = (RunEntity.run == held.run_id, RunEntity.entity_type == entity.entity_type, RunEntity.iid == entity.iid)
        if ends_here:
            RunEntity.update(status=runs.OK).where(*mine).execute()
        else:
            RunEntity.update(stage=next_stage).where(*mine).execute()
        entity_id = table.select(table.id).where(table.project == held.project_id, table.iid == entity.iid).scalar()
        if entity_id is None:
            return
        saved = _regenerate(entity.entity_type, entity_id)
        dirty = RunSource.select(RunSource.dirty_source_id).where(
            RunSource.run == held.run_id,
            RunSource.source_type == entity.entity_type,
            RunSource.source_id == entity_id,
        )
        DirtySource.delete().where(DirtySource.id.in_(dirty)).execute()
        for document_id in saved.ids:
            execute(_KEEP, held.run_id, document_id)
        moves.record(
            held.run_id,
            "documents_built",
            stage=runs.STAGE_DOCUMENTS,
            entity=plan.entity_name(entity.entity_type, entity.iid),
            documents=len(saved.ids),
            changed=len(saved.changed),
            deleted=len(saved.deleted),
        )


def _regenerate(entity_type: str, entity_id: int) -> tables.Saved:
    """Make the documents of an entity what its content says now, in the caller's transaction."""
    source = tables.load_source(entity_type, entity_id)
    if source is None:
        return tables.Saved(ids=[], changed=[], deleted=tables.delete_of(entity_type, entity_id))
    return tables.save(source, texts.build(source))


def drain(*, on_progress: Callable[[int], None] | None = None) -> dict[str, int]:
    """Build the documents of every dirty source that no open run is about to build; return what was done.

    Args:
        on_progress: Called after each entity with how many are done.
    """
    sources = documents_built = 0
    after: tuple[str, int] = ("", 0)
    while batch := _backlog(after):
        for source_type, source_id in batch:
            with write():
                documents_built += len(_drain_one(source_type, source_id))
            sources += 1
            if on_progress is not None:
                on_progress(sources)
        after = batch[-1]
    return {"sources": sources, "documents": documents_built}


def _drain_one(source_type: str, source_id: int) -> Sequence[int]:
    saved = _regenerate(source_type, source_id)
    # Read under the entity's lock: what was dirtied before is in what was read, what comes later is not deleted.
    DirtySource.delete().where(
        DirtySource.source_type == source_type,
        DirtySource.source_id == source_id,
        DirtySource.id.not_in(_awaited()),
    ).execute()
    return saved.ids


def backlog_size() -> int:
    """Return how many sources are dirty and no open run's, in the caller's transaction."""
    rows = DirtySource.select(DirtySource.source_type, DirtySource.source_id)
    return int(rows.where(DirtySource.id.not_in(_awaited())).distinct().count())


def _backlog(after: tuple[str, int], limit: int = 200) -> list[tuple[str, int]]:
    key = (DirtySource.source_type, DirtySource.source_id)
    with read():
        rows = (
            DirtySource.select(*key)
            .where(
                (key[0] > after[0]) | ((key[0] == after[0]) & (key[1] > after[1])),
                DirtySource.id.not_in(_awaited()),
            )
            .distinct()
            .order_by(*key)
            .limit(limit)
        )
        return [(source_type, source_id) for source_type, source_id in rows.tuples()]


def _awaited() -> peewee.ModelSelect:
    """Return the dirty rows that an open run will take itself."""
    return RunSource.select(RunSource.dirty_source_id).join(Run).where(Run.status.in_(runs.OPEN_STATUSES))
