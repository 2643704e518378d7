"""The work of a run's preflight: tasks, the pages they fetched, and the hosts that asked to be left alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import peewee

from models.base import NeverReusedId, Table, clock, write
from models.ledger import Project, Run


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


def claim(task_id: int, *, by: str, lease_ms: int) -> Claim | None:
    """Claim a task whose time has come and whose run is being fetched; None: it is not ours to do. One transaction."""
    with write():
        now = clock()
        in_preflight = Run.select(Run.run_id).where(Run.run_id == Task.scope_run, Run.status == "preflight")
        claimed = (
            Task.update(
                status="claimed",
                claim_no=Task.claim_no + 1,
                claimed_by=by,
                claimed_until=now + lease_ms,
                tries=Task.tries + 1,
            )
            .where(
                Task.id == task_id,
                Task.status == "pending",
                Task.next_at.is_null() | (Task.next_at <= now),
                peewee.fn.EXISTS(in_preflight),
            )
            .execute()
        )
        if not claimed:
            return None
        task = Task.get_by_id(task_id)
        return Claim(
            task_id=task_id,
            claim_no=task.claim_no,
            run_id=task.scope_run_id,
            project_id=task.project_id,
            entity_type=task.entity_type,
            iid=task.iid,
            job_type=task.job_type,
            tries=task.tries,
            began_at=task.claimed_until - lease_ms,
        )


def renew(held: Claim, *, lease_ms: int) -> bool:
    """Renew a claim; False: it was lost, or its run has ended, so stop. In the caller's transaction."""
    return bool(Task.update(claimed_until=clock() + lease_ms).where(*is_held(held)).execute())


def is_held(held: Claim) -> tuple[peewee.Expression, ...]:
    """Return the condition under which the claim is still ours."""
    return (Task.id == held.task_id, Task.status == "claimed", Task.claim_no == held.claim_no)


def stage_page(held: Claim, page: int, body: bytes) -> None:
    """Keep one page of the claim's answer, in the caller's transaction; a page asked for again replaces the earlier."""
    (
        StagedPayload.insert(task=held.task_id, claim_no=held.claim_no, page=page, body=body)
        .on_conflict(
            conflict_target=[StagedPayload.task, StagedPayload.claim_no, StagedPayload.page],
            preserve=[StagedPayload.body],
        )
        .execute()
    )


def drop_pages(held: Claim) -> None:
    """Forget the pages of a walk that is begun anew, in the caller's transaction."""
    StagedPayload.delete().where(StagedPayload.task == held.task_id, StagedPayload.claim_no == held.claim_no).execute()


def staged_bodies(task_id: int, claim_no: int) -> Iterator[bytes]:
    """Yield a task's pages in order, one at a time: only one is ever in memory."""
    page = -1
    while True:
        row = (
            StagedPayload.select(StagedPayload.page, StagedPayload.body)
            .where(StagedPayload.task == task_id, StagedPayload.claim_no == claim_no, StagedPayload.page > page)
            .order_by(StagedPayload.page)
            .limit(1)
            .tuples()
            .first()
        )
        if row is None:
            return
        page, body = row
        yield bytes(body)


def paused_until(gitlab_url: str) -> int | None:
    """Return until when this host asked to be left alone; None when it did not, or that time is over."""
    row = (
        GitLabHost.select(GitLabHost.paused_until)
        .where(GitLabHost.gitlab_url == gitlab_url, GitLabHost.paused_until > clock())
        .tuples()
        .first()
    )
    return int(row[0]) if row else None


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
