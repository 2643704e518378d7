"""The project's lock: a lease row with a fencing token, held by one delivery of a commit at a time."""

from __future__ import annotations

from dataclasses import dataclass

import peewee

from models.base import Table, clock
from models.ledger import Project


class ProjectLock(Table):
    """The lease; `fence` only ever grows, so a holder that wakes after its lease can be told from the present one."""

    project = peewee.ForeignKeyField(Project, lazy_load=False, on_delete="CASCADE", primary_key=True)
    owner = peewee.TextField(null=True)
    fence = peewee.BigIntegerField(default=0)
    until = peewee.BigIntegerField(null=True)

    class Meta:
        table_name = "project_locks"


@dataclass(frozen=True)
class Lease:
    """A lock that was taken: valid while owner and fence are still the row's."""

    project_id: int
    owner: str
    fence: int


def take(project_id: int, *, owner: str, lease_ms: int) -> Lease | None:
    """Take the lock if it is free or its lease is over; None when somebody holds it. In the caller's transaction."""
    ProjectLock.insert(project=project_id).on_conflict_ignore().execute()
    now = clock()
    taken = (
        ProjectLock.update(owner=owner, fence=ProjectLock.fence + 1, until=now + lease_ms)
        .where(
            ProjectLock.project == project_id,
            ProjectLock.owner.is_null() | (ProjectLock.until < now),
        )
        .execute()
    )
    if not taken:
        return None
    fence = ProjectLock.select(ProjectLock.fence).where(ProjectLock.project == project_id).scalar()
    return Lease(project_id, owner, fence)


def renew(lease: Lease, *, lease_ms: int) -> bool:
    """Renew the lease as the first statement of a transaction; False: we were fenced out, write nothing."""
    return bool(ProjectLock.update(until=clock() + lease_ms).where(*_is_ours(lease)).execute())


def release(lease: Lease) -> bool:
    """Give the lock back; False when it is not ours any more."""
    return bool(ProjectLock.update(owner=None, until=None).where(*_is_ours(lease)).execute())


def _is_ours(lease: Lease) -> tuple[peewee.Expression, ...]:
    return (
        ProjectLock.project == lease.project_id,
        ProjectLock.owner == lease.owner,
        ProjectLock.fence == lease.fence,
    )
