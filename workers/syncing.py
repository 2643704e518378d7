"""The incremental sync from a door's side: open it, know whether somebody is at it, follow it; and its children."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import peewee

from lore.core import runs as rules
from lore.core.errors import BusyError
from lore.core.plan import ENTITY_TYPES, Entity, plan_tasks
from lore.core.runs import RunOptions
from lore.logs import get_logger
from models.base import clock, database, insert_in_chunks, now_ms, read, write
from models.content import ENTITY_TABLES, DirtySource
from models.ledger import Project, Run, RunDocument, RunEntity, RunSource, SyncStep
from models.queue import Task
from workers import messages, moves, runs

log = get_logger(__name__)

# Whoever works on a sync says so every second; a process that a long write holds up is not taken for dead.
SILENT_MS = 10_000
_LOOK_EVERY_S = 0.2
_SAID_AFTER_S = 1.0


@dataclass(frozen=True)
class Opened:
    """A sync that was opened, or the one that was under way already."""

    run_id: str
    is_sent: bool
    project: str
    is_new: bool


def open_sync(
    *,
    gitlab_url: str,
    project: str,
    options: RunOptions,
    trigger: str = "cli",
    is_prune: bool = False,
    is_to_be_sent: bool = True,
) -> Opened:
    """Open a project's sync and send one message, or find the one that is under way: there is one at a time.

    Args:
        gitlab_url: The configured GitLab.
        project: A full path or a numeric id.
        options: What its children are to do.
        trigger: Who asked: `cli`, `cron`, ….
        is_prune: Look for what GitLab no longer has, instead of for what changed.
        is_to_be_sent: False leaves it queued for a worker.
    """
    with write():
        row = runs.find_or_add_project(gitlab_url, project)
        active, run_id = _active(row.project_id), None
        if active is None:
            try:
                with database.atomic():
                    run_id = _insert(row, project, options, trigger, is_prune=is_prune, is_to_be_sent=is_to_be_sent)
            except peewee.IntegrityError:
                active = _active(row.project_id)  # on PostgreSQL somebody else was faster
    if run_id is None:
        if active is None:
            raise BusyError("DATABASE_BUSY", "another sync of the project began and ended just now: try again")
        return Opened(active, True, row.path_with_namespace, is_new=False)
    log.info("sync_opened", run_id=run_id, project=project, trigger=trigger, is_prune=is_prune)
    is_sent = is_to_be_sent and messages.is_ours(run_id) and messages.send_run(messages.PLAN, run_id)
    return Opened(run_id, is_sent, row.path_with_namespace, is_new=True)


def _active(project_id: int) -> str | None:
    found: str | None = (
        Run.select(Run.run_id)
        .where(
            Run.project == project_id,
            Run.kind != "surgical",
            Run.parent_run_id.is_null(),
            Run.status.in_(rules.OPEN_STATUSES),
        )
        .scalar()
    )
    return found


def _insert(row: Project, asked: str, options: RunOptions, trigger: str, *, is_prune: bool, is_to_be_sent: bool) -> str:
    now = now_ms()
    run_id = runs.new_run_id(now)
    is_sent = is_to_be_sent and messages.is_ours(run_id)
    stored = asdict(options) | {"project": asked, "by_path": False, "starts_at": rules.WALKING}
    Run.insert(
        run_id=run_id,
        project=row.project_id,
        kind="prune" if is_prune else "incremental",
        mode=options.mode,
        status=rules.QUEUED,
        stage=rules.STAGE_PREFLIGHT,
        options=json.dumps(stored),
        trigger=trigger,
        sent_at=now if is_sent else None,
        sends=1 if is_sent else 0,
        created_at=now,
        stage_at=now,
    ).execute()
    moves.record(run_id, "opened", stage=rules.STAGE_PREFLIGHT, trigger=trigger)
    return run_id


def open_child(
    parent_run_id: str,
    run_id: str,
    project_id: int,
    entities: Sequence[Entity],
    *,
    starts_at: str = rules.PREFLIGHT,
    sources: Sequence[Source] = (),
    documents: Sequence[int] = (),
) -> None:
    """Write a child run, its entities and its tasks, in the planner's transaction, which holds the parent's row.

    Args:
        parent_run_id: The sync.
        run_id: The child's id.
        project_id: The project.
        entities: What the child is to bring.
        starts_at: `documents` for what has been committed already, `embedding` for what has been built too: nothing is
            fetched then.
        sources: The dirty rows that are its scope in the first case.
        documents: The documents that are it in the second.
    """
    parent = Run.get_by_id(parent_run_id)
    now = now_ms()
    options = json.loads(parent.options) | {"by_path": False, "starts_at": starts_at}
    Run.insert(
        run_id=run_id,
        project=project_id,
        kind="incremental",
        mode=parent.mode,
        status=rules.QUEUED,
        stage=starts_at,
        options=json.dumps(options),
        trigger=parent.trigger,
        parent_run_id=parent_run_id,
        sent_at=now if messages.is_ours(run_id) else None,
        sends=1,
        created_at=now,
        stage_at=now,
    ).execute()
    runs.insert_entities(run_id, entities, stage=starts_at)
    insert_in_chunks(RunSource, [{"run": run_id} | asdict(source) for source in sources])
    insert_in_chunks(RunDocument, [{"run": run_id, "document_id": document_id} for document_id in documents])
    if starts_at == rules.PREFLIGHT:
        runs.insert_tasks(run_id, project_id, plan_tasks(entities, with_project=False))
    moves.record(run_id, "opened", stage=starts_at, entities=len(entities), parent=parent_run_id)


@dataclass(frozen=True, order=True)
class Source:
    """A dirty row, and what is dirty."""

    source_type: str
    source_id: int
    dirty_source_id: int


def left_by_earlier(run_id: str, project_id: int) -> dict[Entity, list[Source]]:
    """Return what earlier syncs had committed when they were ended before they began its documents, by entity.

    What could not be built, whichever run tried it, is not among it: that is for a person to look at and to retry.
    """
    found: dict[Entity, list[Source]] = {}
    awaited = RunSource.alias()
    is_awaited = (
        awaited.select(awaited.dirty_source_id)
        .join(Run, on=(Run.run_id == awaited.run))
        .where(Run.status.in_(rules.OPEN_STATUSES))
    )
    for entity_type in ENTITY_TYPES:
        table = ENTITY_TABLES[entity_type]
        tried, one, its_table = RunSource.alias(), RunEntity.alias(), table.alias()
        could_not = (
            tried.select(tried.dirty_source_id)
            .join(its_table, on=(its_table.id == tried.source_id))
            .join(one, on=((one.run == tried.run) & (one.iid == its_table.iid)))
            .where(
                tried.source_type == entity_type,
                one.entity_type == entity_type,
                one.stage == rules.STAGE_DOCUMENTS,
                one.status == rules.FAILED,
            )
        )
        rows = (
            RunSource.select(table.iid, RunSource.source_id, RunSource.dirty_source_id)
            .distinct()
            .join(Run, on=(Run.run_id == RunSource.run))
            .join(table, on=(table.id == RunSource.source_id))
            .join(RunEntity, on=((RunEntity.run == Run.run_id) & (RunEntity.iid == table.iid)))
            .join(DirtySource, on=(DirtySource.id == RunSource.dirty_source_id))
            .where(
                Run.project == project_id,
                Run.kind == "incremental",
                Run.parent_run_id != run_id,
                Run.status.in_((rules.FAILED, rules.CANCELLED)),
                RunSource.source_type == entity_type,
                RunEntity.entity_type == entity_type,
                RunEntity.stage == rules.STAGE_DOCUMENTS,
                RunEntity.status == rules.ABORTED,
                RunSource.dirty_source_id.not_in(is_awaited),
                RunSource.dirty_source_id.not_in(could_not),
            )
        )
        for iid, source_id, dirty_source_id in rows.tuples():
            found.setdefault(Entity(entity_type, iid), []).append(Source(entity_type, source_id, dirty_source_id))
    return found


def unembedded_by_earlier(run_id: str, project_id: int) -> dict[Entity, list[int]]:
    """Return what earlier syncs had built when they were ended before they embedded it: the documents, by entity.

    Whoever took an entity up last has the last word: what a person's run left, what could not be embedded, and what
    somebody else is at, is not among it; nor is what has got its vectors since.
    """
    from models.documents import Document, Embedding  # noqa: PLC0415  # 8 ms that only a planner pays

    later, its = RunEntity.alias(), Run.alias()
    last = (
        later.select(peewee.fn.MAX(later.id))
        .join(its, on=(its.run_id == later.run))
        .where(
            later.entity_type == RunEntity.entity_type,
            later.iid == RunEntity.iid,
            later.stage.in_(rules.BEHIND_COMMIT),
            its.project == project_id,
            # A sync's own entities only say what failed in its children.
            (its.kind == "surgical") | its.parent_run_id.is_null(False),
        )
    )
    has_vectors = Embedding.select(peewee.SQL("1")).where(
        Embedding.document == Document.id, Embedding.content_hash == Document.content_hash
    )
    rows = (
        RunEntity.select(RunEntity.entity_type, RunEntity.iid, Document.id)
        .join(Run, on=(Run.run_id == RunEntity.run))
        .join(RunDocument, on=(RunDocument.run == Run.run_id))
        .join(Document, on=(Document.id == RunDocument.document_id))
        .where(
            Run.project == project_id,
            Run.parent_run_id != run_id,  # nobody but a sync's child, or a retry of it, has one
            Run.status.in_((rules.FAILED, rules.CANCELLED)),
            RunEntity.stage == rules.STAGE_EMBEDDING,
            RunEntity.status == rules.ABORTED,
            RunEntity.id == last,
            Document.entity_type == RunEntity.entity_type,
            Document.iid == RunEntity.iid,
            ~peewee.fn.EXISTS(has_vectors),
        )
    )
    found: dict[Entity, list[int]] = {}
    for entity_type, iid, document_id in rows.tuples():
        found.setdefault(Entity(entity_type, iid), []).append(document_id)
    return found


def is_worked_on(run_id: str, *, on_wait: Callable[[float], None] | None = None) -> bool:
    """Tell whether some process is at this sync; waits a moment for a sign of life.

    Without Redis nobody else takes a sync up by itself, so whoever asks may adopt one that is nobody's.

    Args:
        run_id: An open sync.
        on_wait: Called once when the answer is still not known after a second, with how many seconds more it may take.
    """
    began = time.monotonic()
    with read():
        seen = Run.select(Run.stage_at).where(Run.run_id == run_id).scalar()
    while True:
        with read():
            now = now_ms()
            row = Run.select(Run.stage_at, Run.status).where(Run.run_id == run_id).tuples().first()
        if row is None or row[1] not in rules.OPEN_STATUSES or row[0] != seen:
            return True
        if row[0] + SILENT_MS < now:
            return False
        if on_wait is not None and time.monotonic() - began > _SAID_AFTER_S:
            on_wait((row[0] + SILENT_MS - now) / 1000)
            on_wait = None
        time.sleep(_LOOK_EVERY_S)


def adopt(run_id: str) -> None:
    """Take a sync from a process that is gone: its leases are void, and what it claimed comes back."""
    with write():
        Run.update(stage_owner=None, stage_until=None, sent_at=None, stage_at=clock()).where(
            Run.run_id == run_id, Run.status.in_((rules.QUEUED, rules.WALKING))
        ).execute()
        of_mine = (Run.parent_run_id == run_id, Run.retry_of.is_null())
        Run.update(stage_owner=None, stage_until=None, sent_at=None).where(
            *of_mine, Run.status.in_((rules.DOCUMENTS, rules.EMBEDDING))
        ).execute()
        children = Run.select(Run.run_id).where(*of_mine)
        # A process that was killed cannot end a claim; its tasks would be waited for until their leases are over.
        Task.update(claimed_until=clock() - 1).where(
            Task.scope_run.in_(children), Task.status == rules.CLAIMED
        ).execute()
        Task.update(sent_at=None).where(Task.scope_run.in_(children), Task.status == rules.PENDING).execute()
    log.info("sync_adopted", run_id=run_id)


def mirrored_projects(gitlab_url: str) -> list[str]:
    """Return the projects of the mirror that this GitLab has named, by path."""
    with read():
        rows = Project.select(Project.path_with_namespace).where(
            Project.gitlab_url == gitlab_url, Project.gitlab_id.is_null(False)
        )
        return sorted({row[0] for row in rows.tuples()})


def read_progress(run_id: str) -> dict[str, Any]:
    """Return how far a sync is: entities done, how many it knows of, and how many the lists began with."""
    with read():
        run = Run.get_by_id(run_id)
        counts = dict(
            RunEntity.select(RunEntity.status, peewee.fn.COUNT(RunEntity.id))
            .join(Run, on=(Run.run_id == RunEntity.run))
            .where(Run.parent_run_id == run_id)
            .group_by(RunEntity.status)
            .tuples()
        )
        is_walked = (
            SyncStep.select()
            .where(SyncStep.run == run_id, SyncStep.is_last, SyncStep.entity_type == "merge_request")
            .exists()
        )
    known = sum(counts.values())
    expected = sum(json.loads(run.counters).get("expected", {}).values())
    return {
        "run_id": run_id,
        "status": run.status,
        "done": known - counts.get(rules.PENDING, 0),
        "failed": counts.get(rules.FAILED, 0),
        "total": known if is_walked else max(known, expected),
    }
