"""Finding what GitLab no longer has: a sweep of all iids, believed only where it proves itself complete.

Nothing of a sweep is kept when it is interrupted or has to wait: it begins anew. What a complete one does not name is
asked for by itself, and only a 404, while the project answers, marks a row, under the project's lock and fence.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lore.core import payloads, plan, runs
from lore.core.errors import PassingError, RefusedError
from lore.logs import get_logger
from models import documents, locks
from models.base import clock, now_ms, read, write
from models.content import ENTITY_TABLES
from models.ledger import Run, SyncDebt
from workers import moves, resources
from workers.walking import FEATURES

if TYPE_CHECKING:
    from workers.planning import Planner

log = get_logger(__name__)

LOCK_TRIES = 50
LOCK_WAIT_S = 0.2


@dataclass
class _Sweep:
    """What one kind's sweep found; `gone` says when each 404 was asked for, by the database's clock."""

    began_at: int
    listed: set[int]
    gone: dict[int, int] = field(default_factory=dict)


def prune(planner: Planner) -> None:
    """Mark what GitLab no longer has, and note what it has that the mirror lacks.

    Raises:
        RefusedError: LISTING_INCOMPLETE, or what GitLab answered.
        PassingError: What can pass; the sweep begins anew.
    """
    sweeps: dict[plan.EntityType, _Sweep] = {}
    for entity_type in plan.ENTITY_TYPES:
        # Of a project that has switched a feature off GitLab lists nothing, and keeps everything.
        if planner.features.get(FEATURES[entity_type]) is not False:
            sweeps[entity_type] = _sweep(planner, entity_type)
    for kind, sweep in sweeps.items():
        for iid in _missing(planner.project_id, kind, sweep):
            asked_at = now_ms()
            if _is_gone(planner, kind, iid):
                sweep.gone[iid] = asked_at
    # A token that lost its rights sees 404 everywhere.
    planner.ask(f"/projects/{planner.segment}")
    _mark(planner, sweeps)


def _sweep(planner: Planner, entity_type: plan.EntityType) -> _Sweep:
    began_at = now_ms()
    listed, total = _pass(planner, entity_type)
    if total is None:
        # GitLab does not count past 10,000 rows. In this order rows can only leave or come last, so two passes that
        # meet the same ones have missed none.
        again, _ = _pass(planner, entity_type)
        if again != listed:
            raise _incomplete(entity_type, "two passes over it met different rows")
    elif total != len(set(listed)):
        raise _incomplete(entity_type, f"it says {total} rows and has {len(set(listed))}")
    if not listed and _count(planner.project_id, entity_type):
        raise _incomplete(entity_type, "it is empty, and the mirror is not")
    return _Sweep(began_at, set(listed))


def _pass(planner: Planner, entity_type: plan.EntityType) -> tuple[list[int], int | None]:
    listed: list[int] = []
    number: int | None = 1
    total: int | None = None
    while number is not None:
        params: dict[str, str | int] = {"order_by": "created_at", "sort": "asc", "state": "all", "scope": "all"}
        params |= {"per_page": plan.PER_PAGE, "page": number}
        if entity_type == plan.MERGE_REQUEST:
            params["view"] = "simple"
        answer = planner.ask(f"/projects/{planner.segment}/{plan.ROUTES[entity_type]}", **params)
        rows = payloads.decode_listing(answer.body)
        if not answer.has_paging:
            raise _incomplete(entity_type, "it does not say whether another page follows")
        if any(project_id != planner.gitlab_id for _, project_id, _ in rows):
            raise RefusedError("WRONG_ENTITY", f"the {entity_type} list has another project's rows")
        if number > 1 and answer.total != total:
            raise _incomplete(entity_type, "its number of rows changed while it was read")
        if answer.next_page is not None and (len(rows) != plan.PER_PAGE or answer.next_page <= number):
            raise _incomplete(entity_type, f"page {number} is short, and not the last")
        total = answer.total
        listed += [iid for iid, _, _ in rows]
        number = answer.next_page
    return listed, total


def _count(project_id: int, entity_type: str) -> int:
    table = ENTITY_TABLES[entity_type]
    with read():
        return int(table.select().where(table.project == project_id, table.deleted_at.is_null()).count())


def _missing(project_id: int, entity_type: str, sweep: _Sweep) -> list[int]:
    """Return what the mirror held before the sweep, or owes for a 404, and the sweep did not name."""
    table = ENTITY_TABLES[entity_type]
    with read():
        held = table.select(table.iid).where(
            table.project == project_id, table.deleted_at.is_null(), table.observed_at < sweep.began_at
        )
        owed = SyncDebt.select(SyncDebt.iid).where(
            SyncDebt.project == project_id,
            SyncDebt.entity_type == entity_type,
            SyncDebt.error_code == "GITLAB_NOT_FOUND",
        )
        return sorted({row[0] for query in (held, owed) for row in query.tuples()} - sweep.listed)


def _is_gone(planner: Planner, entity_type: plan.EntityType, iid: int) -> bool:
    try:
        planner.ask(f"/projects/{planner.segment}/{plan.ROUTES[entity_type]}/{iid}")
    except RefusedError as error:
        if error.code != "GITLAB_NOT_FOUND":
            raise
        return True
    return False


def _mark(planner: Planner, sweeps: dict[plan.EntityType, _Sweep]) -> None:
    lease = _take_lock(planner)
    marked = found = 0
    with write():
        if not locks.renew(lease, lease_ms=resources.settings().lock_lease_ms):
            log.warning("fenced_out", owner=lease.owner, fence=lease.fence)
            return
        planner.hold()
        for entity_type, sweep in sweeps.items():
            for iid, asked_at in sorted(sweep.gone.items()):
                marked += _mark_one(planner.project_id, entity_type, iid, asked_at, sweep.began_at)
            found += _owe_unknown(planner.project_id, entity_type, sweep)
        Run.update(counters=json.dumps({"marked_deleted": marked, "found_missing": found})).where(
            Run.run_id == planner.run_id
        ).execute()
        moves.record(planner.run_id, "pruned", stage=runs.STAGE_INGEST, marked=marked, found=found)
        moves.settle(planner.run_id, runs.SUCCEEDED)
    log.info("pruned", marked=marked, found=found)
    from workers.commit import hand_over  # noqa: PLC0415  # the actors import each other's modules

    hand_over(planner.project_id)


def _take_lock(planner: Planner) -> locks.Lease:
    owner = f"{planner.run_id}/{resources.whoami()}/{uuid.uuid4().hex[:8]}"
    for _ in range(LOCK_TRIES):
        with write():
            lease = locks.take(planner.project_id, owner=owner, lease_ms=resources.settings().lock_lease_ms)
            planner.hold()
        if lease is not None:
            return lease
        time.sleep(LOCK_WAIT_S)
    raise PassingError("LIST_UNSTABLE", "the project's lock was busy for too long: the sweep is too old to be believed")


def _mark_one(project_id: int, entity_type: str, iid: int, asked_at: int, began_at: int) -> int:
    """Mark a row that was observed before the sweep began; what was observed since has been seen alive."""
    mine = (SyncDebt.project == project_id, SyncDebt.entity_type == entity_type, SyncDebt.iid == iid)
    SyncDebt.delete().where(*mine, SyncDebt.error_code == "GITLAB_NOT_FOUND").execute()
    table = ENTITY_TABLES[entity_type]
    entity_id = (
        table.select(table.id)
        .where(table.project == project_id, table.iid == iid, table.deleted_at.is_null(), table.observed_at < began_at)
        .scalar()
    )
    if entity_id is None:
        return 0
    table.update(deleted_at=asked_at).where(table.id == entity_id).execute()
    documents.delete_of(entity_type, entity_id)
    return 1


def _owe_unknown(project_id: int, entity_type: str, sweep: _Sweep) -> int:
    """Owe what GitLab lists and the mirror lacks or holds for deleted: it came in sight without being touched."""
    table = ENTITY_TABLES[entity_type]
    held = table.select(table.iid).where(table.project == project_id, table.deleted_at.is_null())
    unknown = sorted(sweep.listed - {row[0] for row in held.tuples()})
    for iid in unknown:
        SyncDebt.insert(
            project=project_id,
            entity_type=entity_type,
            iid=iid,
            error_code="NOT_IN_MIRROR",
            error_message="GitLab lists it, and no sync has brought it yet",
            tries=0,
            since=clock(),
            next_at=clock(),
        ).on_conflict_ignore().execute()
    return len(unknown)


def _incomplete(entity_type: str, reason: str) -> RefusedError:
    return RefusedError(
        "LISTING_INCOMPLETE", f"nothing was marked: the listing of {plan.ROUTES[entity_type]} is not complete: {reason}"
    )
