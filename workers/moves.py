"""A run's moves, each inside its caller's transaction: the end of a preflight, and the end of the run.

Whoever ends the last open task, a fetch, the sweeper or an abort, calls `end_preflight`; whoever ends the run calls
`settle`, which leaves nothing open behind it. The run's row is locked first, so that of two who finish at once on
PostgreSQL the second sees what the first wrote.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any, Final

import peewee

from lore.core import payloads, runs
from lore.core.errors import Failure
from lore.core.plan import PROJECT
from lore.logs import get_logger
from models.base import clock, database
from models.ledger import Project, ProjectPath, Run, RunEntity, RunEvent
from models.locks import ProjectLock
from models.queue import StagedPayload, Task, bodies_of, staged
from models.statements import Prepared, given, moment
from workers import landing

log = get_logger(__name__)


def record(run_id: str, event: str, *, stage: str, entity: str | None = None, **detail: Any) -> None:
    """Add a line to the run's timeline."""
    _RECORD.execute(run_id=run_id, entity=entity, stage=stage, event=event, detail=json.dumps(detail, default=str))


_RECORD: Final = Prepared(
    lambda: RunEvent.insert(
        run=given("run_id"),
        at=moment(),
        entity=given("entity"),
        stage=given("stage"),
        event=given("event"),
        detail=given("detail"),
    )
)


def lock_run(run_id: str, *statuses: str) -> bool:
    """Lock the run's row until the transaction ends; False when the run is in none of these statuses."""
    return bool(_lock_of(statuses).changed(run_id=run_id))


@functools.cache
def _lock_of(statuses: tuple[str, ...]) -> Prepared:
    return Prepared(lambda: Run.update(stage=Run.stage).where(Run.run_id == given("run_id"), Run.status.in_(statuses)))


def lock_project_of(run_id: str) -> None:
    """Lock the project's lock row if this run holds it: it comes before the run's row in every transaction."""
    ProjectLock.update(fence=ProjectLock.fence).where(*is_lock_of(run_id)).execute()


def end_preflight(run_id: str) -> str | None:
    """Move on a run whose row is locked, if none of its tasks is open any more; return the status it moved to.

    None means that a task is still open, or that somebody else moved the run. After `committing` the caller sends
    `commit(run)`, once its transaction is over.
    """
    status, has_open, is_doomed = _PREFLIGHT.row(run_id=run_id)
    if status != runs.PREFLIGHT:
        return None
    if has_open and not is_doomed:
        # The usual case, at every fetch: it must not cost a look at all the run's tasks.
        return None
    run = Run.get_by_id(run_id)
    if not has_open:
        _confirm_project(run, json.loads(run.options))
    verdict = runs.judge_preflight(task_states(run_id), mode=run.mode, is_per_entity=run.kind == "incremental")
    if verdict.status == runs.PREFLIGHT:
        return None
    if verdict.status == runs.COMMITTING:
        # A sync's child: what could not be fetched keeps nobody else out.
        _mark_failed(run_id, verdict.failures)
        moved = _move(
            run_id,
            runs.COMMITTING,
            stage=runs.STAGE_INGEST,
            sent_at=clock(),
            sends=1,
            deadline_at=None,
            stage_at=clock(),
            stage_tries=0,
        )
        if moved:
            RunEntity.update(stage=runs.STAGE_INGEST, updated_at=clock()).where(
                RunEntity.run == run_id, RunEntity.status == runs.PENDING
            ).execute()
            record(run_id, "preflight_done", stage=runs.STAGE_PREFLIGHT)
            _log_once_committed("preflight_done", run_id=run_id)
        return runs.COMMITTING if moved else None
    settled = settle(
        run_id,
        verdict.status,
        error_code=verdict.error_code,
        error_message=verdict.error_message,
        failures=verdict.failures,
    )
    return verdict.status if settled else None


def advance(run_id: str, to: str) -> str:
    """Move a run on behind its commit, or end it when that was all it was asked for; return the status it has then.

    Its lock is released and what its preflight left is settled, in the caller's transaction, which holds its row. The
    caller sends the next stage's message, once that transaction is over.
    """
    if to == runs.SUCCEEDED:
        settle(run_id, to)
        return to
    ProjectLock.update(owner=None, until=None).where(*is_lock_of(run_id)).execute()
    _move(
        run_id,
        to,
        stage=to,
        sent_at=clock(),
        sends=1,
        stage_at=clock(),
        stage_owner=None,
        stage_until=None,
        stage_tries=0,
        deadline_at=None,
    )
    RunEntity.update(stage=to, updated_at=clock()).where(
        RunEntity.run == run_id, RunEntity.status == runs.PENDING
    ).execute()
    drop_staged(run_id)
    return to


def count(run_id: str, **counters: Any) -> None:
    """Add to the run's counters, in the caller's transaction, which holds its row."""
    known = json.loads(Run.select(Run.counters).where(Run.run_id == run_id).scalar())
    Run.update(counters=json.dumps(known | counters)).where(Run.run_id == run_id).execute()


def options_of(run: Run) -> runs.RunOptions:
    """Return what the run was asked to do."""
    stored = json.loads(run.options)
    return runs.RunOptions(
        mode=run.mode,
        docs=stored["docs"],
        embed=stored["embed"],
        starts_at=stored.get("starts_at", runs.PREFLIGHT),
    )


def settle(
    run_id: str,
    status: str,
    *,
    error_code: str | None = None,
    error_message: str | None = None,
    failures: Sequence[Failure] = (),
) -> bool:
    """End a run: its row, its entities, its open tasks, its staged pages and its lock, all in the caller's transaction.

    Args:
        run_id: The run.
        status: `succeeded`, `failed` or `cancelled`.
        error_code: Why, unless it succeeded.
        error_message: The same in words.
        failures: The entities that failed; what else is still pending is aborted, or `ok` when the run succeeded.

    Returns:
        False when the run had ended already; nothing was changed then.
    """
    reason = error_code or status
    # The lock first: that is the order in which every transaction takes rows.
    ProjectLock.update(owner=None, until=None).where(*is_lock_of(run_id)).execute()
    ended = _move(
        run_id,
        status,
        error_code=error_code,
        error_message=_bounded(error_message),
        finished_at=clock(),
        deadline_at=None,
        stage_owner=None,
        stage_until=None,
    )
    if not ended:
        return False
    _mark_failed(run_id, failures)
    RunEntity.update(status=runs.OK if status == runs.SUCCEEDED else runs.ABORTED, updated_at=clock()).where(
        RunEntity.run == run_id, RunEntity.status == runs.PENDING
    ).execute()
    abort_tasks(run_id, reason=reason)
    drop_staged(run_id)
    run = Run.get_by_id(run_id)
    landing.ended(run)
    _end_children(run_id)
    record(run_id, status, stage=run.stage, code=error_code, message=_bounded(error_message))
    _log_once_committed(
        "run_ended",
        run_id=run_id,
        status=status,
        stage=run.stage,
        code=error_code,
        message=error_message,
        ms=run.finished_at - run.created_at,
    )
    return True


def _mark_failed(run_id: str, failures: Sequence[Failure]) -> None:
    for failure in failures:
        RunEntity.update(
            status=runs.FAILED, error_code=failure.code, error_message=_bounded(failure.message), updated_at=clock()
        ).where(
            RunEntity.run == run_id,
            RunEntity.entity_type == failure.entity_type,
            RunEntity.iid == failure.iid,
            RunEntity.status == runs.PENDING,
        ).execute()


def _end_children(run_id: str) -> None:
    """Cancel what a sync that ends leaves open: nobody would count it any more."""
    children = Run.select(Run.run_id).where(
        Run.parent_run_id == run_id, Run.status.in_(runs.OPEN_STATUSES), Run.retry_of.is_null()
    )
    for child in [row[0] for row in children.order_by(Run.run_id).tuples()]:
        settle(child, runs.CANCELLED, error_code="RUN_CANCELLED", error_message=f"its sync {run_id} ended")


def abort_tasks(run_id: str, *, reason: str, entity_type: str | None = None, iid: int | None = None) -> None:
    """Abort the run's open tasks, or those of one of its entities."""
    which = [Task.scope_run == run_id, Task.status.in_(runs.OPEN_TASKS)]
    if entity_type is not None:
        which += [Task.entity_type == entity_type, Task.iid == iid]
    Task.update(status=runs.ABORTED, aborted_reason=reason, claimed_by=None, claimed_until=None).where(*which).execute()


def drop_staged(run_id: str) -> None:
    """Delete the run's staged pages."""
    tasks = Task.select(Task.id).where(Task.scope_run == run_id)
    StagedPayload.delete().where(StagedPayload.task.in_(tasks)).execute()


def fail_task(task_id: int, run_id: str, entity_type: str, iid: int, *, code: str, message: str) -> None:
    """Fail a task and its entity, whose other open tasks are aborted; the run's row is locked."""
    Task.update(
        status=runs.FAILED, error_code=code, error_message=_bounded(message), claimed_by=None, claimed_until=None
    ).where(Task.id == task_id, Task.status.in_(runs.OPEN_TASKS)).execute()
    if entity_type == PROJECT:
        return
    abort_tasks(run_id, reason=f"{entity_type} {iid}: {code}", entity_type=entity_type, iid=iid)


def is_lock_of(run_id: str) -> tuple[peewee.Expression, ...]:
    """Return the condition under which a project's lock is held by a delivery of this run, or of a child of it.

    An owner is `run_id/…`, and a child's id is its parent's with a dot and a number.
    """
    # SUBSTR and not LIKE, which has two dialects, nor a range, which depends on the collation.
    return (peewee.fn.SUBSTR(ProjectLock.owner, 1, len(run_id) + 1).in_((f"{run_id}/", f"{run_id}.")),)


def _log_once_committed(event: str, **values: Any) -> None:
    # A log line about what is then rolled back would be a lie.
    database.after_commit(lambda: log.info(event, **values))


def _move(run_id: str, to: str, **changes: Any) -> bool:
    moved: int = (
        Run.update(status=to, **changes).where(Run.run_id == run_id, Run.status.in_(runs.moves_into(to))).execute()
    )
    return moved > 0


def _tasks_in(*statuses: str) -> peewee.Query:
    return Task.select(Task.id).where(Task.scope_run == given("run_id"), Task.status.in_(statuses))


_PREFLIGHT: Final = Prepared(
    lambda: Run.select(
        Run.status,
        peewee.fn.EXISTS(_tasks_in(*runs.OPEN_TASKS)),
        peewee.fn.EXISTS(
            _tasks_in(runs.FAILED).where((Task.entity_type == PROJECT) | Task.error_code.in_(runs.DOOMING_CODES))
        ),
    ).where(Run.run_id == given("run_id"))
)


def task_states(run_id: str) -> list[runs.TaskState]:
    """Return every task of a run, as the core judges them."""
    columns = (Task.entity_type, Task.iid, Task.job_type, Task.status, Task.error_code, Task.error_message)
    return [runs.TaskState(*row) for row in Task.select(*columns).where(Task.scope_run == run_id).tuples()]


def is_per_entity(run_id: str) -> bool:
    """Tell whether what fails of the run keeps the rest of it from nothing: it is part of a sync."""
    return bool(Run.select().where(Run.run_id == run_id, Run.kind == "incremental").exists())


def fail_entities(run_id: str, failures: Sequence[Failure]) -> str | None:
    """Fail entities of a sync's child whose preflight took too long, and move the others on; its row is locked."""
    for failure in failures:
        Task.update(
            status=runs.FAILED,
            error_code=failure.code,
            error_message=_bounded(failure.message),
            claimed_by=None,
            claimed_until=None,
        ).where(
            Task.scope_run == run_id,
            Task.entity_type == failure.entity_type,
            Task.iid == failure.iid,
            Task.status.in_(runs.OPEN_TASKS),
        ).execute()
    return end_preflight(run_id)


def _confirm_project(run: Run, options: dict[str, Any]) -> None:
    """Bind the run to the project that GitLab answered with, and fail the entities that are of another one."""
    answer = staged(run.run_id, PROJECT, 0).get(PROJECT)
    gitlab_id = Project.select(Project.gitlab_id).where(Project.project_id == run.project_id).scalar()
    if answer is not None:
        gitlab_id = bind_project(run, payloads.decode_project(b"".join(bodies_of(answer))), options["project"])
    strangers = Task.select(Task.id, Task.entity_type, Task.iid).where(
        Task.scope_run == run.run_id, Task.status == runs.DONE, Task.found_project_id != gitlab_id
    )
    for task_id, entity_type, iid in strangers.tuples():
        message = f"GitLab answered with {entity_type} {iid} of another project"
        Task.update(status=runs.FAILED, error_code="WRONG_ENTITY", error_message=message).where(
            Task.id == task_id
        ).execute()


def bind_project(run: Run, answer: payloads.Project, asked: str) -> int:
    """Bind a run, whose row is locked, to the project that GitLab answered with; return its numeric id."""
    gitlab_url = Project.select(Project.gitlab_url).where(Project.project_id == run.project_id).scalar()
    known = {
        "path_with_namespace": answer.path_with_namespace,
        "default_branch": answer.default_branch or None,
        "confirmed_at": clock(),
        "raw": answer.raw,
    }
    project_id = _project_with(gitlab_url, answer.id)
    if project_id is None:
        try:
            with database.atomic():
                Project.update(gitlab_id=answer.id, **known).where(
                    Project.project_id == run.project_id, Project.gitlab_id.is_null()
                ).execute()
        except peewee.IntegrityError:
            pass  # another run, asked by another path of the same project, was faster
        project_id = _project_with(gitlab_url, answer.id)
    if project_id is None:
        # Our row belongs to the project that had this path before.
        Project.insert(gitlab_url=gitlab_url, gitlab_id=answer.id, **known).on_conflict_ignore().execute()
        project_id = _project_with(gitlab_url, answer.id)
        assert project_id is not None
    Project.update(**known).where(Project.project_id == project_id).execute()
    # In order: of two runs of one project neither may wait for the other's path.
    for path in sorted({asked, answer.path_with_namespace}):
        (
            ProjectPath.insert(gitlab_url=gitlab_url, path=path, project=project_id)
            .on_conflict(conflict_target=[ProjectPath.gitlab_url, ProjectPath.path], preserve=[ProjectPath.project])
            .execute()
        )
    if project_id != run.project_id:
        Run.update(project=project_id).where(Run.run_id == run.run_id).execute()
        Task.update(project=project_id).where(Task.scope_run == run.run_id).execute()
    return answer.id


def _project_with(gitlab_url: str, gitlab_id: int) -> int | None:
    found: int | None = (
        Project.select(Project.project_id)
        .where(Project.gitlab_url == gitlab_url, Project.gitlab_id == gitlab_id)
        .scalar()
    )
    return found


def _bounded(message: str | None, limit: int = 2000) -> str | None:
    return None if message is None else message[:limit]
