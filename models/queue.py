"""The work of a run's preflight: tasks, the pages they fetched, and the hosts that asked to be left alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import peewee

from models import statements
from models.base import NeverReusedId, Table, clock, database, is_postgresql, write
from models.ledger import Project, Run
from models.statements import Prepared, given, moment


class Task(Table):
    """One GitLab endpoint of one entity, read to its last page.

    `observed_at` is when the first request of the walk that was believed began; `found_project_id` is the project
    the answer says it belongs to, compared with the run's when the preflight ends.
    """

    id = NeverReusedId()
    project = peewee.ForeignKeyField(Project, lazy_load=False, on_delete="CASCADE", index=False)
    scope_run = peewee.ForeignKeyField(
        Run, lazy_load=False, on_delete="CASCADE", column_name="scope_run_id", index=False
    )
    entity_type = peewee.CharField(max_length=20)
    iid = peewee.BigIntegerField()
    job_type = peewee.CharField(max_length=40)
    status = peewee.CharField(max_length=20)
    claim_no = peewee.IntegerField(default=0)
    claimed_by = peewee.TextField(null=True)
    claimed_until = peewee.BigIntegerField(null=True)
    lost_claims = peewee.IntegerField(default=0)
    tries = peewee.IntegerField(default=0)
    next_at = peewee.BigIntegerField(null=True)
    sent_at = peewee.BigIntegerField(null=True)
    sends = peewee.IntegerField(default=0)
    observed_at = peewee.BigIntegerField(null=True)
    found_project_id = peewee.BigIntegerField(null=True)
    error_code = peewee.CharField(max_length=40, null=True)
    error_message = peewee.TextField(null=True)
    aborted_reason = peewee.TextField(null=True)

    class Meta:
        table_name = "dependent_queue"
        indexes = (
            (("scope_run", "entity_type", "iid", "job_type"), True),
            (("scope_run", "status"), False),
            (("status", "next_at"), False),
        )


class StagedPayload(Table):
    """One page as GitLab sent it, waiting for its run's commit."""

    task = peewee.ForeignKeyField(Task, lazy_load=False, on_delete="CASCADE", index=False)
    claim_no = peewee.IntegerField()
    page = peewee.IntegerField()
    body = peewee.BlobField()

    class Meta:
        table_name = "staged_payloads"
        primary_key = peewee.CompositeKey("task", "claim_no", "page")


class GitLabHost(Table):
    """What a GitLab host last said of its limits; every worker reads it before every request."""

    gitlab_url = peewee.TextField(primary_key=True)
    paused_until = peewee.BigIntegerField(null=True)
    remaining = peewee.BigIntegerField(null=True)
    reset_at = peewee.BigIntegerField(null=True)

    class Meta:
        table_name = "gitlab_hosts"


@dataclass(frozen=True)
class Claim:
    """A task that is ours until `claimed_until`, or until somebody else's claim has a higher number.

    `began_at` is the database's time at which it was claimed, in ms.
    """

    task_id: int
    claim_no: int
    run_id: str
    project_id: int
    entity_type: str
    iid: int
    job_type: str
    tries: int
    began_at: int


# How long a task waits that found no room, at least; a sweeper sends it then.
NO_ROOM_WAIT_MS: Final = 200
# A person's task that was sent within this time is about to be claimed: a sync's waits for it.
ABOUT_TO_BE_CLAIMED_MS: Final = 2_000


def claim(task_id: int, *, by: str, lease_ms: int, gitlab_url: str | None = None, most: int = 64) -> Claim | None:
    """Claim a task whose time has come and whose run is being fetched; None: it is not ours to do. One transaction.

    Args:
        task_id: The task.
        by: Who claims it.
        lease_ms: For how long.
        gitlab_url: The host whose claims are counted; None: none are.
        most: How many live claims a host may have.

    Raises:
        NoRoom: That many it has, or others come first.
    """
    with write():
        if gitlab_url is not None:
            _require_room(task_id, gitlab_url, most=most)
        if not _CLAIM.changed(task_id=task_id, by=by, lease_ms=lease_ms):
            return None
        return Claim(*_CLAIMED.row(task_id=task_id, lease_ms=lease_ms))


def claim_entity(task_id: int, *, by: str, lease_ms: int, gitlab_url: str, most: int = 64) -> list[Claim]:
    """Claim all tasks of a task's entity whose time has come, for one who does them one after the other.

    See `claim`; in the fixed order of endpoints, empty when there is nothing to do.

    Raises:
        NoRoom: See `claim`.
    """
    with write():
        _require_room(task_id, gitlab_url, most=most)
        entity = Task.select(Task.scope_run, Task.entity_type, Task.iid).where(Task.id == task_id).tuples().first()
        if entity is None:
            return []
        named = dict(zip(("run_id", "entity_type", "iid"), entity, strict=True))
        # One by one: what the same thread still holds of the entity is an older claim, with its own pages.
        due = [row[0] for row in _DUE_OF_ENTITY.execute(**named).fetchall()]
        taken = [one for one in due if _CLAIM.changed(task_id=one, by=by, lease_ms=lease_ms)]
        return [Claim(*_CLAIMED.row(task_id=one, lease_ms=lease_ms)) for one in taken]


def _require_room(task_id: int, gitlab_url: str, *, most: int) -> None:
    _lock_host(gitlab_url)
    if not has_room(gitlab_url, most=most, is_patient=bool(_IS_FOR_SYNC.row(task_id=task_id))):
        raise NoRoom


class NoRoom(Exception):
    """No request more may be made of a host now."""


def put_off(task_id: int) -> None:
    """Let a task that found no room wait for a sweeper. One transaction."""
    with write():
        Task.update(next_at=clock() + NO_ROOM_WAIT_MS, sent_at=None).where(
            Task.id == task_id, Task.status == "pending"
        ).execute()


_IS_FOR_SYNC: Final = Prepared(
    lambda: (
        Task.select(Task.id)
        .join(Run, on=(Run.run_id == Task.scope_run))
        .where(Task.id == given("task_id"), Run.kind != "surgical")
    )
)


def _is_due() -> tuple[peewee.Expression, ...]:
    in_preflight = Run.select(Run.run_id).where(Run.run_id == Task.scope_run, Run.status == "preflight")
    return (
        Task.status == "pending",
        Task.next_at.is_null() | (Task.next_at <= moment()),
        peewee.fn.EXISTS(in_preflight),
    )


def _due_of_entity() -> peewee.Query:
    due = Task.select(Task.id).where(
        Task.scope_run == given("run_id"),
        Task.entity_type == given("entity_type"),
        Task.iid == given("iid"),
        *_is_due(),
    )
    due = due.order_by(Task.id)
    # Whoever ends the entity locks its tasks in an order of its own; what it has locked is not ours to take.
    return due.for_update("FOR UPDATE", skip_locked=True) if is_postgresql() else due


_CLAIM: Final = Prepared(
    lambda: Task.update(
        status="claimed",
        claim_no=Task.claim_no + 1,
        claimed_by=given("by"),
        claimed_until=moment() + given("lease_ms"),
        tries=Task.tries + 1,
    ).where(Task.id == given("task_id"), *_is_due())
)
_CLAIMED: Final = Prepared(
    lambda: Task.select(
        Task.id,
        Task.claim_no,
        Task.scope_run,
        Task.project,
        Task.entity_type,
        Task.iid,
        Task.job_type,
        Task.tries,
        Task.claimed_until - given("lease_ms"),
    ).where(Task.id == given("task_id"))
)
_DUE_OF_ENTITY: Final = Prepared(_due_of_entity)


def has_room(gitlab_url: str, *, most: int, is_patient: bool) -> bool:
    """Tell whether one more request to this host may be in flight, in the caller's transaction.

    Whoever holds live claims makes one request at a time, and one at least for each of them. Of what GitLab says is
    left, a patient task leaves some to a person's, and it waits while one of those is about to be claimed.
    """
    claimers, claims, planners, remaining, is_somebody_waiting = _ROOM.row(gitlab_url=gitlab_url)
    spared = max(1, most // 4) if is_patient else 0
    if claimers + planners >= most or (remaining is not None and claims + planners + spared >= remaining):
        return False
    return not (is_patient and is_somebody_waiting)


def live_claims(gitlab_url: str) -> int:
    """Count who fetches from a host now, in the caller's transaction."""
    return int(_CLAIMERS.row(gitlab_url=gitlab_url)[0])


def _of_host() -> peewee.Query:
    return Project.select(Project.project_id).where(Project.gitlab_url == given("gitlab_url"))


def _of_live_claims(counted: peewee.Expression) -> peewee.Query:
    return Task.select(counted).where(
        Task.status == "claimed", Task.claimed_until > moment(), Task.project.in_(_of_host())
    )


def _claimers() -> peewee.Query:
    return _of_live_claims(peewee.fn.COUNT(Task.claimed_by.distinct()))


def _claims() -> peewee.Query:
    return _of_live_claims(peewee.fn.COUNT(Task.id))


def _planners() -> peewee.Query:
    return Run.select(peewee.fn.COUNT(Run.run_id)).where(
        Run.status == "walking", Run.stage_owner.is_null(False), Run.stage_until > moment(), Run.project.in_(_of_host())
    )


def _remaining() -> peewee.Query:
    return GitLabHost.select(GitLabHost.remaining).where(
        GitLabHost.gitlab_url == given("gitlab_url"), GitLabHost.reset_at > moment()
    )


def _somebody_waiting() -> peewee.Query:
    soon = Task.select(Task.id).where(
        Task.scope_run == Run.run_id, Task.status == "pending", Task.sent_at > moment() - ABOUT_TO_BE_CLAIMED_MS
    )
    return Run.select(Run.run_id).where(
        Run.status == "preflight", Run.kind == "surgical", Run.project.in_(_of_host()), peewee.fn.EXISTS(soon)
    )


_CLAIMERS: Final = Prepared(_claimers)
_ROOM: Final = Prepared(
    lambda: peewee.Select(
        columns=(_claimers(), _claims(), _planners(), _remaining(), peewee.fn.EXISTS(_somebody_waiting()))
    ).bind(database)
)


def _lock_host(gitlab_url: str) -> None:
    """Let claims of one host come one after the other; SQLite's writers do anyhow."""
    if is_postgresql():
        _LOCK_HOST.execute(gitlab_url=gitlab_url)


_LOCK_HOST: Final = Prepared(
    lambda: GitLabHost.insert(gitlab_url=given("gitlab_url")).on_conflict(
        conflict_target=[GitLabHost.gitlab_url], update={GitLabHost.gitlab_url: given("gitlab_url")}
    )
)


def note_limits(gitlab_url: str, remaining: int, reset_ms: int) -> None:
    """Keep how many requests this host says are left, in the caller's transaction; of one window the least counts."""
    reset_at = clock() + reset_ms
    is_newer = GitLabHost.reset_at.is_null() | (GitLabHost.reset_at <= clock())
    (
        GitLabHost.insert(gitlab_url=gitlab_url, remaining=remaining, reset_at=reset_at)
        .on_conflict(
            conflict_target=[GitLabHost.gitlab_url],
            update={GitLabHost.remaining: remaining, GitLabHost.reset_at: reset_at},
            where=(is_newer | GitLabHost.remaining.is_null() | (GitLabHost.remaining > remaining)),
        )
        .execute()
    )


def renew(held: Claim, *, lease_ms: int) -> bool:
    """Renew a claim; False: it was lost, or its run has ended, so stop. In the caller's transaction."""
    return bool(Task.update(claimed_until=clock() + lease_ms).where(*is_held(held)).execute())


def is_held(held: Claim) -> tuple[peewee.Expression, ...]:
    """Return the condition under which the claim is still ours."""
    return (Task.id == held.task_id, Task.status == "claimed", Task.claim_no == held.claim_no)


def stage_page(held: Claim, page: int, body: bytes) -> None:
    """Keep one page of the claim's answer, in the caller's transaction; a page asked for again replaces the earlier."""
    _STAGE.execute(task_id=held.task_id, claim_no=held.claim_no, page=page, body=body)


_STAGE: Final = Prepared(
    lambda: StagedPayload.insert(
        task=given("task_id"), claim_no=given("claim_no"), page=given("page"), body=given("body")
    ).on_conflict(
        conflict_target=[StagedPayload.task, StagedPayload.claim_no, StagedPayload.page], preserve=[StagedPayload.body]
    )
)


def drop_pages(held: Claim) -> None:
    """Forget the pages of a walk that is begun anew, in the caller's transaction."""
    StagedPayload.delete().where(StagedPayload.task == held.task_id, StagedPayload.claim_no == held.claim_no).execute()


@dataclass(frozen=True)
class Staged:
    """What one endpoint of an entity answered, up to its last page; the first comes along where it is small."""

    task_id: int
    claim_no: int
    observed_at: int
    last_page: int
    first: bytes | None = None


def staged(run_id: str, entity_type: str, iid: int) -> dict[str, Staged]:
    """Return what was fetched of an entity of a run, by job type."""
    rows = statements.execute(_STAGED, SMALL_PAGE_BYTES, run_id, entity_type, iid).fetchall()
    return {
        job_type: Staged(task_id, claim_no, observed_at, last_page, None if first is None else bytes(first))
        for job_type, task_id, claim_no, observed_at, last_page, first in rows
    }


def bodies_of(staged: Staged) -> Iterator[bytes]:
    """Yield its pages in order, one at a time: only one is ever in memory."""
    page = 0
    if staged.first is not None:
        page = 1
        yield staged.first
    while page < staged.last_page:
        page, body = statements.execute(_NEXT_PAGE, staged.task_id, staged.claim_no, page).fetchone()
        yield bytes(body)


# The usual entity has one small page of each list: all of them come with one round trip.
SMALL_PAGE_BYTES: Final = 1 << 18
_STAGED: Final = """
SELECT t.job_type, t.id, t.claim_no, t.observed_at,
  (SELECT MAX(p.page) FROM staged_payloads p WHERE p.task_id = t.id AND p.claim_no = t.claim_no), f.body
FROM dependent_queue t LEFT JOIN staged_payloads f
  ON f.task_id = t.id AND f.claim_no = t.claim_no AND f.page = 1 AND LENGTH(f.body) <= ?
WHERE t.scope_run_id = ? AND t.entity_type = ? AND t.iid = ? AND t.status = 'done'
"""
_NEXT_PAGE: Final = """
SELECT page, body FROM staged_payloads WHERE task_id = ? AND claim_no = ? AND page > ? ORDER BY page LIMIT 1
"""


def paused_until(gitlab_url: str) -> int | None:
    """Return until when this host asked to be left alone; None when it did not, or that time is over."""
    row = _PAUSED_UNTIL.row(gitlab_url=gitlab_url)
    return int(row[0]) if row else None


_PAUSED_UNTIL: Final = Prepared(
    lambda: GitLabHost.select(GitLabHost.paused_until).where(
        GitLabHost.gitlab_url == given("gitlab_url"), GitLabHost.paused_until > moment()
    )
)


def pause_host(gitlab_url: str, wait_ms: int) -> None:
    """Keep every worker from this host for a while, in the caller's transaction; a longer pause is not cut short."""
    until = clock() + wait_ms
    (
        GitLabHost.insert(gitlab_url=gitlab_url, paused_until=until)
        .on_conflict(
            conflict_target=[GitLabHost.gitlab_url],
            update={GitLabHost.paused_until: until},
            where=(GitLabHost.paused_until.is_null() | (GitLabHost.paused_until < until)),
        )
        .execute()
    )
