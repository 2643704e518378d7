"""Runs from a door's side: open, follow, cancel and retry them, and read the ledger."""

from __future__ import annotations

import json
import secrets
import shlex
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import dramatiq
import peewee

from lore.core import runs as rules
from lore.core.errors import BusyError, Failure, NotFoundError, RunError, UsageError
from lore.core.moments import iso
from lore.core.plan import Entity, PlannedTask, plan_tasks
from lore.core.runs import RunOptions
from lore.logs import get_logger
from models.base import insert_in_chunks, now_ms, read, write
from models.content import ENTITY_TABLES
from models.ledger import Project, ProjectPath, Run, RunDocument, RunEntity, RunEvent, RunSource
from models.queue import Task
from models.watch import Watch
from workers import messages, moves

log = get_logger(__name__)

# A project that GitLab confirmed within this time is not asked for again.
CONFIRMED_FOR_MS = 3_600_000
FOLLOW_POLL_S = 0.01
BUSY_WAIT_S = 0.5


@dataclass(frozen=True)
class Submitted:
    """A run that was opened; `is_sent` is False while Redis does not take its message."""

    run_id: str
    is_sent: bool
    project: str


@dataclass(frozen=True)
class Stuck:
    """What a run has still to fetch, and for what it waits; `code` is None where it waits for nothing.

    Attributes:
        tasks: How many endpoints are to be fetched; as long as that is the same, it gets nowhere.
        code: The last error of the first one that had one.
        message: The same in words.
        left_s: How long it is tried again, in seconds; None: without an end.
    """

    tasks: int
    code: str | None = None
    message: str = ""
    left_s: float | None = None


def submit(
    *,
    gitlab_url: str,
    project: str,
    entities: Sequence[Entity],
    options: RunOptions,
    trigger: str = "cli",
    is_to_be_sent: bool = True,
) -> Submitted:
    """Write a run, its entities and its tasks in one transaction, then send one message.

    Args:
        gitlab_url: The configured GitLab.
        project: A full path or a numeric id.
        entities: What to refresh; the same one twice is done once.
        options: What the run is to do.
        trigger: Who asked: `cli`, `cron`, ….
        is_to_be_sent: False leaves the run queued for a worker.
    """
    with write():
        opened = _open_run(gitlab_url, project, sorted(set(entities)), options, trigger, is_to_be_sent=is_to_be_sent)
    log.info("run_opened", run_id=opened.run_id, project=project, entities=len(set(entities)), trigger=trigger)
    return _sent(opened, project)


def retry(run_id: str) -> Submitted:
    """Open the one run that takes up what this run left; asked twice it answers with the same run.

    Raises:
        UsageError: RUN_OPEN, or NOTHING_TO_RETRY.
    """
    with write():
        # Two who ask at once on PostgreSQL: the second waits here, and finds the first one's run.
        Run.update(stage=Run.stage).where(Run.run_id == run_id).execute()
        run = Run.get_by_id(run_id)
        project = Project.get_by_id(run.project_id)
        earlier = Run.get_or_none(Run.retry_of == run_id)
        if earlier is not None:
            return Submitted(earlier.run_id, earlier.sends > 0, project.path_with_namespace)
        if run.status not in rules.FINAL_STATUSES:
            raise UsageError("RUN_OPEN", f"run {run_id} is still {run.status}", run_id=run_id)
        rows = RunEntity.select(RunEntity.entity_type, RunEntity.iid, RunEntity.status, RunEntity.stage)
        rows = rows.where(RunEntity.run == run_id)
        ended = [(Entity(entity_type, iid), status, stage) for entity_type, iid, status, stage in rows.tuples()]
        scope = rules.retry_scope((entity, status) for entity, status, _ in ended)
        if not scope and run.kind != "surgical":
            message = f"nothing failed in sync {run_id}; where it stopped the next one goes on"
            raise UsageError("NOTHING_TO_RETRY", message, actions=["lore sync"], run_id=run_id)
        if not scope:
            raise UsageError("NOTHING_TO_RETRY", f"every entity of run {run_id} ended ok or skipped", run_id=run_id)
        asked = json.loads(run.options)["project"]
        options = replace(moves.options_of(run), starts_at=rules.resume_at(ended))
        opened = _open_run(
            project.gitlab_url,
            asked,
            scope,
            options,
            "retry",
            retry_of=run_id,
            kind="surgical" if run.kind == "surgical" else "incremental",
            # What is left of a sync stays its matter: what fails again is a debt again, and keeps nobody else out.
            parent_run_id=None if run.kind == "surgical" else run.parent_run_id or run_id,
        )
    log.info("run_opened", run_id=opened.run_id, retry_of=run_id, entities=len(scope), trigger="retry")
    return _sent(opened, project.path_with_namespace)


def cancel(run_id: str, *, why: str = "cancelled by a user") -> dict[str, Any]:
    """End an open run; a commit under way either finishes first, or writes nothing.

    Raises:
        UsageError: RUN_ENDED.
    """
    with write():
        moves.lock_project_of(run_id)
        project_id = Run.select(Run.project).where(Run.run_id == run_id).scalar()
        if not moves.settle(run_id, rules.CANCELLED, error_code="RUN_CANCELLED", error_message=why):
            status = Run.select(Run.status).where(Run.run_id == run_id).scalar()
            raise UsageError("RUN_ENDED", f"run {run_id} has ended already: {status}", run_id=run_id)
    from workers.commit import hand_over  # noqa: PLC0415  # the actors need a broker; reading the ledger does not

    hand_over(project_id)
    return read_run(run_id)


def resolve_project(gitlab_url: str, name: str) -> str:
    """Return the full path that a short name stands for; a full path or a numeric id is returned as it is.

    Raises:
        NotFoundError: UNKNOWN_PROJECT.
        UsageError: AMBIGUOUS_PROJECT.
    """
    if "/" in name or name.isdigit():
        return name
    with read():
        paths = Project.select(Project.path_with_namespace).where(
            Project.gitlab_url == gitlab_url, Project.gitlab_id.is_null(False)
        )
        fitting = sorted({row[0] for row in paths.tuples() if row[0].rsplit("/", 1)[-1] == name})
    if not fitting:
        raise NotFoundError(
            "UNKNOWN_PROJECT", f"the mirror has no project named {name!r}; give its full path, group/{name}"
        )
    if len(fitting) > 1:
        raise UsageError(
            "AMBIGUOUS_PROJECT",
            f"{name!r} could be {', '.join(fitting)}; give the full path",
        )
    return str(fitting[0])


def find_run(text: str) -> str:
    """Return the run that an id, a unique prefix of one, or `last` names.

    Raises:
        NotFoundError: RUN_NOT_FOUND.
        UsageError: AMBIGUOUS_RUN.
    """
    with read():
        exact = Run.select(Run.run_id).where(Run.run_id == text).scalar()
        if exact is not None:
            return str(exact)
        # Ids sort by time; a sync's children are named in full.
        newest = Run.select(Run.run_id).where(_is_asked_for()).order_by(Run.run_id.desc())
        # SUBSTR and not LIKE: its wildcards are legal characters of an argument.
        fitting = newest if text == "last" else newest.where(peewee.fn.SUBSTR(Run.run_id, 1, len(text)) == text)
        found = [row[0] for row in fitting.limit(1 if text == "last" else 3).tuples()]
    if not found or not text:
        raise NotFoundError("RUN_NOT_FOUND", f"no run {text!r} in the ledger")
    if len(found) > 1:
        raise UsageError("AMBIGUOUS_RUN", f"several runs begin with {text!r}, such as {found[0]} and {found[1]}")
    return str(found[0])


def has_ended(run_id: str) -> bool:
    """Tell whether the run is in a final state."""
    with read():
        return Run.select(Run.status).where(Run.run_id == run_id).scalar() in rules.FINAL_STATUSES


def is_fetching(run_id: str) -> bool:
    """Tell whether nothing of the run has gone beyond the fetching."""
    with read():
        return Run.select(Run.status).where(Run.run_id == run_id).scalar() in (rules.QUEUED, rules.PREFLIGHT)


def wait(
    run_id: str,
    *,
    timeout_s: float | None = None,
    on_change: Callable[[], None] | None = None,
    on_look: Callable[[], None] = lambda: None,
) -> bool:
    """Wait until the run has ended; False when it had not after `timeout_s` seconds.

    Args:
        run_id: The run.
        timeout_s: How long.
        on_change: Called after every change of the database.
        on_look: Called at least once a second.
    """
    until = None if timeout_s is None else time.monotonic() + timeout_s
    watch = Watch()
    while True:
        try:
            if has_ended(run_id):
                break
            if until is not None and time.monotonic() >= until:
                return False
            left_s = 1.0 if until is None else max(0.0, min(1.0, until - time.monotonic()))
            if watch.wait(FOLLOW_POLL_S, timeout_s=left_s) and on_change is not None:
                on_change()
            on_look()
        except BusyError as error:
            log.warning("database_busy", code=error.code, cause=error.message)
            time.sleep(BUSY_WAIT_S)
    if on_change is not None:
        on_change()
    return True


def read_run(run_id: str) -> dict[str, Any]:
    """Return `data.run`."""
    with read():
        return _views([Run.get_by_id(run_id)])[0]


def list_runs(status: str | None = None, limit: int = 20, before: str | None = None) -> list[dict[str, Any]]:
    """Return `data.run` of the newest runs, newest first.

    Args:
        status: Only runs with this status.
        limit: At most so many.
        before: Only runs older than this one; a run's id begins with when it was created.
    """
    with read():
        query = Run.select().where(_is_asked_for()).limit(limit)
        if before is not None:
            query = query.where(Run.run_id < before)
        if status is None:
            return _views(list(query.order_by(Run.run_id.desc())))
        return _views(list(query.where(Run.status == status).order_by(Run.created_at.desc(), Run.run_id.desc())))


def _is_asked_for() -> Any:
    """Return the condition under which somebody asked for the run: a sync's children are part of it."""
    return Run.parent_run_id.is_null() | Run.retry_of.is_null(False)


def read_entities(run_id: str) -> list[dict[str, Any]]:
    """Return `data.entities`, in the order of (entity_type, iid)."""
    with read():
        rows = RunEntity.select().where(RunEntity.run == run_id).order_by(RunEntity.entity_type, RunEntity.iid)
        return [
            {
                "entity_type": row.entity_type,
                "iid": row.iid,
                "stage": row.stage,
                "status": row.status,
                "error_code": row.error_code,
                "error_message": row.error_message,
                "updated_at": iso(row.updated_at),
                "settled": row.is_settled,
            }
            for row in rows
        ]


def read_events(run_id: str, after_id: int = 0) -> list[dict[str, Any]]:
    """Return the run's timeline behind an event, oldest first."""
    with read():
        rows = RunEvent.select().where(RunEvent.run == run_id, RunEvent.id > after_id).order_by(RunEvent.id).limit(1000)
        return [
            {
                "id": row.id,
                "at": iso(row.at),
                "entity": row.entity,
                "stage": row.stage,
                "event": row.event,
                "detail": json.loads(row.detail),
            }
            for row in rows
        ]


def read_progress(run_id: str) -> dict[str, int]:
    """Return how many of the run's tasks are in each status."""
    with read():
        rows = (
            Task.select(Task.status, peewee.fn.COUNT(Task.id))
            .where(Task.scope_run == run_id)
            .group_by(Task.status)
            .tuples()
        )
        return dict(rows)


def read_stuck(run_id: str) -> Stuck:
    """Return how much a run, or a sync with its children, has still to fetch, and what its first task waits for."""
    with read():
        mine = (Run.run_id == run_id) | (Run.parent_run_id == run_id)
        fetching = Run.select(Run.run_id).where(Run.status == rules.PREFLIGHT, mine)
        open_tasks = Task.select().where(Task.scope_run.in_(fetching), Task.status.in_(rules.OPEN_TASKS))
        waiting = Task.select(Task.error_code, Task.error_message, Run.deadline_at).join(
            Run, on=(Run.run_id == Task.scope_run)
        )
        waiting = waiting.where(
            Task.scope_run.in_(fetching), Task.status == rules.PENDING, Task.error_code.is_null(False)
        )
        found = waiting.order_by(Task.id).limit(1).tuples().first()
        tasks = open_tasks.count()
        if not tasks:
            found = _planner_waits(run_id)
        if found is None:
            return Stuck(tasks)
        code, message, deadline_at = found
        return Stuck(tasks, code, message or "", None if deadline_at is None else (deadline_at - now_ms()) / 1000)


def _planner_waits(run_id: str) -> tuple[str, str, int | None] | None:
    """Return what the planner of a sync waits for, and until when; None: it has got on since, or there is none."""
    said = (
        RunEvent.select(RunEvent.event, RunEvent.detail, Run.deadline_at)
        .join(Run)
        .where(RunEvent.run == run_id, Run.status == rules.WALKING, Run.sends > 0)
        .order_by(RunEvent.id.desc())
        .limit(1)
    )
    row = said.tuples().first()
    if row is None or row[0] != "plan_waits":
        return None
    why = json.loads(row[1])
    return why["code"], why.get("message", why["code"]), row[2]


def error_of(run_id: str) -> RunError | None:
    """Return what a command that waited for this run ends with; None when the run succeeded."""
    with read():
        run = Run.get_by_id(run_id)
        failures = [
            Failure(row.entity_type, row.iid, row.stage, row.error_code or "INTERNAL", row.error_message or "")
            for row in RunEntity.select()
            .where(RunEntity.run == run_id, RunEntity.status == rules.FAILED)
            .order_by(RunEntity.entity_type, RunEntity.iid)
        ]
        total = RunEntity.select().where(RunEntity.run == run_id).count()
        project = Project.get_by_id(run.project_id).path_with_namespace
    if run.status == rules.SUCCEEDED and failures:
        message = f"{len(failures)} of {total} entities could not be brought; the others were"
        return RunError("SYNC_INCOMPLETE", message, run_id=run_id, total=total, failures=failures)
    if run.status not in (rules.FAILED, rules.CANCELLED):
        return None
    code = run.error_code or "INTERNAL"
    # What a sync did not come to is no debt: the next one of its project goes on where the cursor stands.
    again = [f"lore sync-runs --run-id {run_id}", shlex.join(["lore", "sync", "-p", project])]
    return RunError(
        code,
        run.error_message or f"the run ended {run.status}",
        run_id=run_id,
        exit=rules.exit_of(code, run.stage, failures),
        total=total,
        failures=failures,
        actions=None if failures or run.kind == "surgical" else again,
    )


def count_workers() -> int:
    """Return how many worker processes live; without Redis, this one."""
    if getattr(dramatiq.get_broker(), "client", None) is None:
        return 1
    from workers.broker import live_workers  # noqa: PLC0415  # redis is not imported without it

    return len(live_workers())


def has_live_worker(queues: Iterable[str]) -> bool:
    """Tell whether the workers that listen on this Redis serve all of these queues between them."""
    from workers.broker import live_workers  # noqa: PLC0415  # redis is not imported without it

    served = {queue for worker in live_workers() for queue in worker.rsplit(" ", 1)[-1].split(",")}
    return served.issuperset(queues)


@dataclass(frozen=True)
class _Opened:
    run_id: str
    is_marked_sent: bool
    starts_at: str


def _sent(opened: _Opened, project: str) -> Submitted:
    is_sent = opened.is_marked_sent and messages.send_run(messages.ACTORS[opened.starts_at], opened.run_id)
    return Submitted(opened.run_id, is_sent, project)


def _open_run(
    gitlab_url: str,
    project: str,
    entities: Sequence[Entity],
    options: RunOptions,
    trigger: str,
    *,
    is_to_be_sent: bool = True,
    retry_of: str | None = None,
    kind: str = "surgical",
    parent_run_id: str | None = None,
) -> _Opened:
    now = now_ms()
    row = find_or_add_project(gitlab_url, project)
    is_known = row.gitlab_id is not None and (row.confirmed_at or 0) > now - CONFIRMED_FOR_MS
    run_id = new_run_id(now)
    is_resumed = options.starts_at != rules.PREFLIGHT
    is_sent = is_to_be_sent and messages.is_ours(run_id)
    Run.insert(
        run_id=run_id,
        project=row.project_id,
        kind=kind,
        parent_run_id=parent_run_id,
        mode=options.mode,
        status=rules.QUEUED,
        stage=options.starts_at,
        options=json.dumps(asdict(options) | {"project": project, "by_path": not is_known}),
        trigger=trigger,
        retry_of=retry_of,
        sent_at=now if is_sent else None,
        sends=1 if is_sent else 0,
        created_at=now,
        stage_at=now,
    ).execute()
    insert_entities(run_id, entities, stage=options.starts_at)
    if is_resumed:
        assert retry_of is not None
        _take_over_scope(retry_of, run_id, row.project_id, entities)
    else:
        insert_tasks(run_id, row.project_id, plan_tasks(entities, with_project=not is_known))
    moves.record(run_id, "opened", stage=options.starts_at, entities=len(entities), trigger=trigger)
    return _Opened(run_id, is_sent, options.starts_at)


def insert_entities(run_id: str, entities: Sequence[Entity], *, stage: str) -> None:
    """Write a new run's entities, which begin with this stage, in the caller's transaction."""
    about = {"run": run_id, "stage": stage, "status": rules.PENDING, "updated_at": now_ms()}
    insert_in_chunks(RunEntity, [about | {"entity_type": one.entity_type, "iid": one.iid} for one in entities])


def insert_tasks(run_id: str, project_id: int, tasks: Sequence[PlannedTask]) -> None:
    """Write a new run's tasks, in the caller's transaction."""
    about = {"project": project_id, "scope_run": run_id, "status": rules.PENDING}
    insert_in_chunks(Task, [about | asdict(task) for task in tasks])


def _take_over_scope(earlier: str, run_id: str, project_id: int, entities: Sequence[Entity]) -> None:
    """Give a resumed run the sources and documents that the earlier one had of these entities, and no others.

    What a sync had is its children's.
    """
    from models.documents import Document  # noqa: PLC0415  # and what builds them: 8 ms that only a retry pays

    those = Run.select(Run.run_id).where((Run.run_id == earlier) | (Run.parent_run_id == earlier))
    for entity in entities:
        table = ENTITY_TABLES[entity.entity_type]
        entity_id = table.select(table.id).where(table.project == project_id, table.iid == entity.iid).scalar()
        sources = (
            RunSource.select(RunSource.dirty_source_id)
            .where(RunSource.run.in_(those), RunSource.source_type == entity.entity_type)
            .where(RunSource.source_id == entity_id)
        )
        insert_in_chunks(
            RunSource,
            [
                {
                    "run": run_id,
                    "dirty_source_id": dirty_id,
                    "source_type": entity.entity_type,
                    "source_id": entity_id,
                }
                for (dirty_id,) in sources.tuples()
            ],
        )
        built = (
            RunDocument.select(RunDocument.document_id)
            .distinct()
            .join(Document, on=(Document.id == RunDocument.document_id))
            .where(
                RunDocument.run.in_(those),
                Document.entity_type == entity.entity_type,
                Document.entity_id == entity_id,
            )
        )
        insert_in_chunks(
            RunDocument, [{"run": run_id, "document_id": document_id} for (document_id,) in built.tuples()]
        )


def new_run_id(now: int) -> str:
    """Return a run id that sorts by time and reads as one: `20261123T054149.123-1a2b3c4d`."""
    at = datetime.fromtimestamp(now / 1000, UTC)
    return f"{at:%Y%m%dT%H%M%S}.{now % 1000:03d}-{secrets.token_hex(4)}"


def find_or_add_project(gitlab_url: str, asked: str) -> Project:
    """Return the project of a path or a numeric id, written if it is new, in the caller's transaction."""
    found: Project | None
    if asked.isdigit():
        found = Project.get_or_none(Project.gitlab_url == gitlab_url, Project.gitlab_id == int(asked))
        if found is not None:
            return found
    path = ProjectPath.get_or_none(ProjectPath.gitlab_url == gitlab_url, ProjectPath.path == asked)
    if path is None:
        project_id = Project.insert(gitlab_url=gitlab_url, path_with_namespace=asked).execute()
        added = ProjectPath.insert(gitlab_url=gitlab_url, path=asked, project=project_id).on_conflict_ignore()
        added.execute()
        path = ProjectPath.get(ProjectPath.gitlab_url == gitlab_url, ProjectPath.path == asked)
        if path.project_id != project_id:
            Project.delete().where(Project.project_id == project_id).execute()
    found = Project.get_by_id(path.project_id)
    assert found is not None
    return found


def _views(found: Sequence[Run]) -> list[dict[str, Any]]:
    ids = [run.run_id for run in found]
    entities = _entities_by_run(ids)
    made = _made(ids)
    paths = dict(
        Project.select(Project.project_id, Project.path_with_namespace)
        .where(Project.project_id.in_([run.project_id for run in found]))
        .tuples()
    )
    syncs = [run.run_id for run in found if run.kind != "surgical" and run.parent_run_id is None]
    children = _children_counts(syncs)
    made.update(_made(syncs, owner=Run.parent_run_id))
    return [
        _view(run, paths[run.project_id], entities.get(run.run_id, []), made[run.run_id], children[run.run_id])
        for run in found
    ]


def _made(ids: Sequence[str], *, owner: peewee.Field = Run.run_id) -> defaultdict[str, Counter[str]]:
    """Return what was made of each run's content, or of that of its children, by the counts that say so."""
    made: defaultdict[str, Counter[str]] = defaultdict(Counter)
    sources = RunSource.select(owner, peewee.fn.COUNT(RunSource.dirty_source_id)).join(Run)
    for run_id, count in sources.where(owner.in_(ids), _is_first(owner)).group_by(owner).tuples():
        made[run_id]["dirty_sources"] = count
    for run_id, counters in Run.select(owner, Run.counters).where(owner.in_(ids), _is_first(owner)).tuples():
        known = json.loads(counters)
        made[run_id].update({name: known.get(name, 0) for name in ("documents_regenerated", "documents_embedded")})
    return made


def _is_first(owner: peewee.Field) -> Any:
    # A retry of a sync is a run of its own, that somebody asked for.
    return owner.is_null(False) if owner is Run.run_id else Run.retry_of.is_null()


def _children_counts(ids: Iterable[str]) -> defaultdict[str, Counter[str]]:
    """Return how many entities of each sync's children are in each status; what failed is the sync's own to say.

    An entity that several children had, as it changed meanwhile or was left by an earlier sync, is the last one's.
    """
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    is_child = Run.parent_run_id.in_(list(ids)) & Run.retry_of.is_null()
    last = (
        RunEntity.select(peewee.fn.MAX(RunEntity.id))
        .join(Run, on=(Run.run_id == RunEntity.run))
        .where(is_child)
        .group_by(Run.parent_run_id, RunEntity.entity_type, RunEntity.iid)
    )
    own = RunEntity.alias()
    is_own = own.select(own.id).where(
        own.run == Run.parent_run_id, own.entity_type == RunEntity.entity_type, own.iid == RunEntity.iid
    )
    is_behind = (Run.status == rules.FAILED) & RunEntity.stage.in_(rules.BEHIND_COMMIT)
    is_owed = (RunEntity.status == rules.FAILED) | ((RunEntity.status == rules.ABORTED) & is_behind)
    rows = (
        RunEntity.select(Run.parent_run_id, RunEntity.status, peewee.fn.COUNT(RunEntity.id))
        .join(Run, on=(Run.run_id == RunEntity.run))
        .where(is_child, RunEntity.id.in_(last), ~is_owed, ~peewee.fn.EXISTS(is_own))
        .group_by(Run.parent_run_id, RunEntity.status)
    )
    for run_id, status, count in rows.tuples():
        counts[run_id][status] += count
    return counts


def _entities_by_run(ids: Iterable[str]) -> dict[str, list[tuple[str, int, str]]]:
    found: dict[str, list[tuple[str, int, str]]] = {}
    rows = (
        RunEntity.select(RunEntity.run, RunEntity.entity_type, RunEntity.iid, RunEntity.status)
        .where(RunEntity.run.in_(list(ids)))
        .order_by(RunEntity.run, RunEntity.entity_type, RunEntity.iid)
    )
    for run_id, entity_type, iid, status in rows.tuples():
        found.setdefault(run_id, []).append((entity_type, iid, status))
    return found


def _view(
    run: Run, project: str, entities: Sequence[tuple[str, int, str]], made: Counter[str], children: Counter[str]
) -> dict[str, Any]:
    statuses = Counter(status for _, _, status in entities) + children

    def iids(status: str) -> list[list[Any]]:
        return [[entity_type, iid] for entity_type, iid, its in entities if its == status]

    return {
        "run_id": run.run_id,
        "project": project,
        "kind": run.kind,
        "mode": run.mode,
        "status": run.status,
        "stage": run.stage,
        "trigger": run.trigger,
        "retry_of": run.retry_of,
        "error_code": run.error_code,
        "error_message": run.error_message,
        "counts": {
            "total": statuses.total(),
            "ok": statuses[rules.OK],
            "failed": statuses[rules.FAILED],
            "skipped_stale": statuses[rules.SKIPPED_STALE],
            "aborted": statuses[rules.ABORTED],
            "dirty_sources": made["dirty_sources"],
            "documents_regenerated": made["documents_regenerated"],
            "documents_embedded": made["documents_embedded"],
        },
        "failed_iids": iids(rules.FAILED),
        "skipped_stale_iids": iids(rules.SKIPPED_STALE),
        "created_at": iso(run.created_at),
        "finished_at": iso(run.finished_at),
        "elapsed_ms": (run.finished_at or now_ms()) - run.created_at,
    }
