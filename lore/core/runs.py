"""The life of a run: its states and legal moves, how a preflight ends, and when a message is sent again.

Times and waits are integer milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from lore.core.errors import CODES, Exit, Failure
from lore.core.plan import ENDPOINTS, PROJECT, Entity

Mode = Literal["commit", "preflight_only"]

QUEUED: Final = "queued"
PREFLIGHT: Final = "preflight"
COMMITTING: Final = "committing"
DOCUMENTS: Final = "documents"
EMBEDDING: Final = "embedding"
WALKING: Final = "walking"
SUCCEEDED: Final = "succeeded"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"

OPEN_STATUSES: Final = (QUEUED, PREFLIGHT, COMMITTING, DOCUMENTS, EMBEDDING, WALKING)
FINAL_STATUSES: Final = (SUCCEEDED, FAILED, CANCELLED)
STATUSES: Final = OPEN_STATUSES + FINAL_STATUSES

# The stages of an entity; the run's `stage` is the furthest one it reached.
STAGE_PREFLIGHT: Final = "preflight"
STAGE_INGEST: Final = "ingest"
STAGE_DOCUMENTS: Final = "documents"
STAGE_EMBEDDING: Final = "embedding"
STAGES: Final = (STAGE_PREFLIGHT, STAGE_INGEST, STAGE_DOCUMENTS, STAGE_EMBEDDING)
BEHIND_COMMIT: Final = (STAGE_DOCUMENTS, STAGE_EMBEDDING)

# The statuses of an entity.
PENDING: Final = "pending"
OK: Final = "ok"
SKIPPED_STALE: Final = "skipped_stale"
ABORTED: Final = "aborted"

# The statuses of a task, besides `pending`, `failed` and `aborted`.
CLAIMED: Final = "claimed"
DONE: Final = "done"
OPEN_TASKS: Final = (PENDING, CLAIMED)

LOST_CLAIMS_LIMIT: Final = 3
COMMIT_TRIES_LIMIT: Final = 3
STAGE_TRIES_LIMIT: Final = 3

_MOVES: Final[Mapping[str, frozenset[str]]] = {
    QUEUED: frozenset({PREFLIGHT, DOCUMENTS, EMBEDDING, WALKING}),
    PREFLIGHT: frozenset({COMMITTING, SUCCEEDED}),
    COMMITTING: frozenset({DOCUMENTS, SUCCEEDED}),
    DOCUMENTS: frozenset({EMBEDDING, SUCCEEDED}),
    EMBEDDING: frozenset({SUCCEEDED}),
    WALKING: frozenset({SUCCEEDED}),
}


def is_legal_move(status: str, to: str) -> bool:
    """Tell whether a run may go from one status to another."""
    if status not in OPEN_STATUSES:
        return False
    return to in (FAILED, CANCELLED) or to in _MOVES[status]


def moves_into(to: str) -> tuple[str, ...]:
    """Return the statuses from which a run may go to this one; the `WHERE` of every move."""
    return tuple(status for status in OPEN_STATUSES if is_legal_move(status, to))


@dataclass(frozen=True)
class RunOptions:
    """What the user asked a run to do; `starts_at` is where a resumed run begins: what came before it stands."""

    mode: Mode = "commit"
    docs: bool = True
    embed: bool = True
    starts_at: str = PREFLIGHT


def status_after(status: str, options: RunOptions) -> str:
    """Return the status a run goes to when its work in this one is done; `committing` is meant with content written."""
    if status == COMMITTING and options.docs:
        return DOCUMENTS
    if status == DOCUMENTS and options.embed:
        return EMBEDDING
    return SUCCEEDED


def child_id(parent_run_id: str, number: int) -> str:
    """Return the id of a sync's child: it begins with its parent's, so one prefix names them all."""
    return f"{parent_run_id}.{number:04d}"


def is_child(run_id: str) -> bool:
    """Tell whether this is the id of a sync's child; a person's own run goes before it."""
    return run_id.count(".") > 1


# How much longer the message of a task may stay unheard that waits behind all others of a sync.
LONG_QUEUE_MS: Final = 30_000


def resend_after_ms(sends: int) -> int:
    """Return how long a message that was sent this often may stay unheard before it is sent again.

    Grows from 2 s to 5 min: shorter than a busy queue's wait it would only make more messages (QUEUE: storms).
    """
    return int(min(2_000 * 2 ** max(sends - 1, 0), 300_000))


def retry_wait_ms(tries: int, retry_after_s: float | None, *, jitter: float) -> int:
    """Return how long to wait before a request that can pass is made again.

    Args:
        tries: How often it failed already, from 1.
        retry_after_s: What GitLab asked for; it is never undercut.
        jitter: 0 to 1, so that a hundred tasks do not come back at once.
    """
    own = min(500 * 2 ** min(tries - 1, 7), 60_000)
    return int(max(own * (0.5 + 0.5 * jitter), (retry_after_s or 0) * 1000))


@dataclass(frozen=True)
class TaskState:
    """What a preflight's end needs to know of one task."""

    entity_type: str
    iid: int
    job_type: str
    status: str
    error_code: str | None = None
    error_message: str | None = None


@dataclass(frozen=True)
class Verdict:
    """How a preflight ends.

    Attributes:
        status: `preflight` while a task is open, else the status the run moves to.
        failures: The entities that could not be fetched, in the order of (entity_type, iid).
        error_code: What ended the run; None unless it failed.
        error_message: The same in words.
    """

    status: str
    failures: Sequence[Failure] = ()
    error_code: str | None = None
    error_message: str | None = None


def judge_preflight(tasks: Iterable[TaskState], *, mode: str, is_per_entity: bool = False) -> Verdict:
    """Say what becomes of a run, given all its tasks.

    Args:
        tasks: Every task of the run.
        mode: `commit` or `preflight_only`.
        is_per_entity: A child of an incremental sync: what could be fetched is committed, whatever failed beside it.
    """
    tasks = list(tasks)
    dooming = [task for task in tasks if _dooms(task)]
    if dooming:
        task = min(dooming, key=_order)
        return Verdict(FAILED, _failures(tasks), _code(task), task.error_message)
    if any(t.status in OPEN_TASKS for t in tasks):
        return Verdict(PREFLIGHT)
    failures = _failures(tasks)
    entities = {(t.entity_type, t.iid) for t in tasks if t.entity_type != PROJECT}
    if failures and (not is_per_entity or len(failures) == len(entities)):
        named = ", ".join(f"{f.entity_type} {f.iid} ({f.code})" for f in failures[:5])
        more = f" and {len(failures) - 5} more" if len(failures) > 5 else ""
        message = (
            f"{len(failures)} of {len(entities)} entities could not be fetched, nothing was written: {named}{more}"
        )
        return Verdict(FAILED, failures, "SURGICAL_PREFLIGHT_FAILED", message)
    return Verdict(SUCCEEDED if mode == "preflight_only" else COMMITTING, failures)


# A task that failed with one of these, or any failure of the project's own task, ends the run.
DOOMING_CODES: Final = tuple(sorted(name for name, code in CODES.items() if code.dooms_run))


def _dooms(task: TaskState) -> bool:
    return task.status == FAILED and (task.entity_type == PROJECT or task.error_code in DOOMING_CODES)


def judge_overdue(
    tasks: Iterable[TaskState], *, status: str, stage: str, after_s: float, pending: Iterable[Entity] = ()
) -> Verdict:
    """Say why a run that did not leave its stage in time failed, and each entity with it.

    Args:
        tasks: Every task of the run.
        status: Where the run was.
        stage: The stage of its entities.
        after_s: The time it had.
        pending: The entities that wait behind the commit, where no task tells of them any more.
    """
    message = f"the run was still in {status} after {after_s:g} s"
    code, failures = "RUN_DEADLINE", dict[Entity, Failure]()
    for entity in pending:
        failures[entity] = Failure(entity.entity_type, entity.iid, stage, code, message)
    # What is known to stand in the way comes before what was merely not done yet.
    for task in sorted(tasks, key=lambda task: (task.error_code is None, _order(task))):
        if task.status not in (*OPEN_TASKS, FAILED):
            continue
        cause = task.error_message or message
        if task.error_code and task.status != FAILED:
            cause += " (waited until the deadline)"
        if task.entity_type == PROJECT:
            if task.error_code:
                code, message = _code(task), cause
            continue
        entity = Entity(task.entity_type, task.iid)  # type: ignore[arg-type]
        its_code = _code(task) if task.error_code else "RUN_DEADLINE"
        failures.setdefault(entity, Failure(task.entity_type, task.iid, stage, its_code, cause))
    return Verdict(FAILED, [failure for _, failure in sorted(failures.items())], code, message)


def _failures(tasks: Sequence[TaskState]) -> list[Failure]:
    first: dict[Entity, TaskState] = {}
    for task in sorted((t for t in tasks if t.status == FAILED and t.entity_type != PROJECT), key=_order):
        first.setdefault(Entity(task.entity_type, task.iid), task)  # type: ignore[arg-type]
    return [
        Failure(entity.entity_type, entity.iid, STAGE_PREFLIGHT, _code(task), task.error_message or "")
        for entity, task in sorted(first.items())
    ]


def _code(task: TaskState) -> str:
    return task.error_code if task.error_code in CODES else "INTERNAL"


def _order(task: TaskState) -> tuple[str, int, int]:
    order = [e.job_type for e in ENDPOINTS.get(task.entity_type, ())]
    return task.entity_type, task.iid, order.index(task.job_type) if task.job_type in order else -1


# A run has a code of GitLab's only when its project could not be read, which dooms all of it, whatever the reason.
_ENDS_ALL: Final = frozenset(
    {Exit.CANCELLED, Exit.BROKER, Exit.BUG, Exit.NOT_ALLOWED, Exit.NOT_FOUND, Exit.RATE_LIMITED, Exit.GITLAB}
)
_CAN_PASS: Final = frozenset(
    {"GITLAB_RATE_LIMITED", "GITLAB_UNREACHABLE", "GITLAB_UNAVAILABLE", "GITLAB_BROKEN_ANSWER", "LIST_UNSTABLE"}
)


def stage_exit(stage: str) -> Exit:
    """Return the status of a command whose run failed in this stage."""
    return {
        STAGE_PREFLIGHT: Exit.PREFLIGHT,
        STAGE_INGEST: Exit.INGEST,
        STAGE_DOCUMENTS: Exit.DOCUMENTS,
        STAGE_EMBEDDING: Exit.DOCUMENTS,
    }[stage]


def exit_of(error_code: str, stage: str, failures: Sequence[Failure] = ()) -> Exit:
    """Return the exit status of a run that failed: what dooms all of it keeps its own, else its stage's.

    Entities that all failed by a rate limit, or all by GitLab being down, doomed the run just as well.
    """
    code = CODES.get(error_code, CODES["INTERNAL"])
    if code.dooms_run or code.exit in _ENDS_ALL or error_code == "SYNC_INCOMPLETE":
        return code.exit
    if failures and all(failure.code in _CAN_PASS for failure in failures):
        causes = {CODES[failure.code].exit for failure in failures}
        if len(causes) == 1:
            return causes.pop()
    return stage_exit(stage)


def retry_scope(entities: Iterable[tuple[Entity, str]]) -> list[Entity]:
    """Return the entities a retry takes up again: those that ended neither `ok` nor `skipped_stale`."""
    return sorted(entity for entity, status in entities if status not in (OK, SKIPPED_STALE))


def resume_at(entities: Iterable[tuple[Entity, str, str]]) -> str:
    """Return where a retry begins: at the first stage that any entity it takes up has not passed.

    Args:
        entities: Every entity of the run with its status and the stage it reached.
    """
    reached = [stage for _, status, stage in entities if status not in (OK, SKIPPED_STALE)]
    first = min(reached, key=STAGES.index, default=STAGE_PREFLIGHT)
    # What was fetched for a commit that failed is gone.
    return first if first in BEHIND_COMMIT else STAGE_PREFLIGHT
