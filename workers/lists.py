"""Issues and merge requests by what they are, and what the mirror holds altogether; only the local database is read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import peewee

from lore.core.moments import iso
from lore.core.pages import Page, first_of, page_of
from lore.core.plan import ENTITY_TYPES
from models.base import database, has_text, is_postgresql, lower, read, sqlite_path
from models.content import (
    ENTITY_TABLES,
    DirtySource,
    Discussion,
    EntityLink,
    MergeRequestDiff,
    Note,
    ResourceEvent,
)
from models.documents import Document, Embedding
from models.ledger import Run
from workers.scope import full_ref, is_in, projects_of

ALL: Final = "all"
STATES: Final[Mapping[str, tuple[str, ...]]] = {
    "issue": ("opened", "closed", ALL),
    "merge_request": ("opened", "closed", "merged", "locked", ALL),
}
# By what a list is sorted, the greatest or latest first.
SORTS: Final[Mapping[str, str]] = {
    "updated": "updated_at",
    "created": "created_at",
    "iid": "iid",
    "comments": "user_notes_count",
}
_PAGE: Final = Page(30)
_TIMES = ("created_at", "updated_at", "closed_at", "merged_at")
_LISTS = ("assignees", "labels", "reviewers")
_COMMON = ("iid", "title", "state", "author", "assignees", "labels", "milestone", "user_notes_count", "web_url")
_OWN = {
    "issue": ("confidential", "due_date", "created_at", "updated_at", "closed_at"),
    "merge_request": (
        "draft",
        "reviewers",
        "source_branch",
        "target_branch",
        "created_at",
        "updated_at",
        "closed_at",
        "merged_at",
    ),
}


@dataclass(frozen=True)
class Filters:
    """What a list is limited to; None and empty limit nothing.

    Attributes:
        state: As GitLab spells it.
        author: A username, in any case; so are `assignee` and `reviewer`.
        labels: All of these, exactly.
        milestone: Its title.
        since: Created at or after this moment, in ms.
        updated_since: The same of its last update.
        search: Words that all stand in the title or the description, in any case.
        is_draft: Only drafts, or only what is none.
    """

    state: str | None = None
    author: str | None = None
    assignee: str | None = None
    reviewer: str | None = None
    labels: Sequence[str] = ()
    milestone: str | None = None
    since: int | None = None
    updated_since: int | None = None
    search: str | None = None
    is_draft: bool | None = None
    target_branch: str | None = None


def list_entities(
    gitlab_url: str,
    project: str | None,
    entity_type: str,
    filters: Filters,
    *,
    sort: str = "updated",
    is_ascending: bool = False,
    page: Page = _PAGE,
) -> dict[str, Any]:
    """Return a page of a list of entities, and how many there are; ties are in the order of (project, iid).

    Raises:
        NotFoundError: UNKNOWN_PROJECT.
    """
    with read():
        projects = projects_of(gitlab_url, project)
        if not projects:
            return {"total": 0, f"{entity_type}s": [], "next": None}
        table = ENTITY_TABLES[entity_type]
        where = _conditions(table, filters, is_in(table, projects))
        column = getattr(table, SORTS[sort])
        order = peewee.fn.COALESCE(column, 0) if column.null else column
        places = (order, table.project, table.iid)
        rows = (
            table.select(
                table.project, order.alias("place"), *(getattr(table, name) for name in _COMMON + _OWN[entity_type])
            )
            .where(where if page.after is None else where & _is_behind(places, page.after, is_ascending=is_ascending))
            .order_by(*(one.asc() if is_ascending else one.desc() for one in places))
            .limit(page.limit + 1)
        )
        found = list(rows.dicts())
        is_all = page.after is None and len(found) <= page.limit
        total = len(found) if is_all else table.select().where(where).count()
    listed, following = first_of(found, page.limit, lambda row: (row["place"], row["project"], row["iid"]))
    shown = [_row(entity_type, projects[row["project"]], row) for row in listed]
    return {"total": total, f"{entity_type}s": shown, "next": following}


def _is_behind(columns: Sequence[Any], place: Sequence[Any], *, is_ascending: bool) -> Any:
    ours, its = peewee.Tuple(*columns), peewee.Tuple(*place)
    return ours > its if is_ascending else ours < its


def _conditions(table: Any, filters: Filters, where: Any) -> Any:
    if filters.state is not None:
        where &= table.state == filters.state
    if filters.author is not None:
        where &= lower(table.author) == filters.author.lower()
    for column, username in (("assignees", filters.assignee), ("reviewers", filters.reviewer)):
        if username is not None:
            where &= is_one_of(lower(getattr(table, column)), username.lower())
    for label in filters.labels:
        where &= is_one_of(table.labels, label)
    if filters.milestone is not None:
        where &= table.milestone == filters.milestone
    if filters.since is not None:
        where &= table.created_at >= filters.since
    if filters.updated_since is not None:
        where &= table.updated_at >= filters.updated_since
    for word in (filters.search or "").lower().split():
        where &= has_text(lower(table.title), word) | has_text(lower(table.description), word)
    if filters.is_draft is not None:
        where &= peewee.fn.COALESCE(table.draft, False) == filters.is_draft
    if filters.target_branch is not None:
        where &= table.target_branch == filters.target_branch
    return where


def is_one_of(column: Any, text: str) -> Any:
    """Return the condition that a column's JSON list holds exactly this text."""
    # Inside a JSON text a quote has a backslash before it, so only a whole element follows "[" or a space.
    spelt = json.dumps(text, ensure_ascii=False)
    return has_text(column, f" {spelt}") | has_text(column, f"[{spelt}")


def _row(entity_type: str, path: str, row: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {"ref": full_ref(path, entity_type, row["iid"]), "project": path}
    for name in _COMMON + _OWN[entity_type]:
        value = row[name]
        if name in _TIMES:
            value = iso(value)
        elif name in _LISTS:
            value = json.loads(value) if value else []
        shown[name] = value
    return shown


def stats(gitlab_url: str, project: str | None, *, page: Page = _PAGE) -> dict[str, Any]:
    """Return what the mirror holds, how fresh and how big, by a page of its projects in the order of their paths.

    Raises:
        NotFoundError: UNKNOWN_PROJECT.
    """
    with read():
        projects = projects_of(gitlab_url, project)
        holdings = {project_id: _Holding(path) for project_id, path in projects.items()}
        for entity_type in ENTITY_TABLES:
            _count_entities(entity_type, holdings)
        _count_children(holdings)
        _find_last_runs(holdings)
        places = sorted((path, project_id) for project_id, path in projects.items())
        shown, following = page_of(places, page, lambda place: place)
        return {
            "gitlab_url": gitlab_url,
            "database": {"kind": "postgresql" if is_postgresql() else "sqlite", "size_bytes": _size_bytes()},
            "documents": Document.select().count(),
            "embeddings": Embedding.select().count(),
            "dirty_sources": DirtySource.select().count(),
            "total": len(places),
            "projects": [holdings[project_id].view() for _, project_id in shown],
            "next": following,
        }


class _Holding:
    """What the mirror holds of one project."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.states: dict[str, Counter[str]] = {one: Counter() for one in ENTITY_TYPES}
        self.deleted = 0
        self.children: Counter[str] = Counter()
        self.observed: list[int] = []
        self.updated: list[int] = []
        self.last_run: dict[str, Any] | None = None

    def view(self) -> dict[str, Any]:
        counts = {kind: {"total": sum(states.values()), **states} for kind, states in self.states.items()}
        return {
            "project": self.path,
            "issues": counts["issue"],
            "merge_requests": counts["merge_request"],
            "deleted": self.deleted,
            **{name: self.children[name] for name in _CHILDREN},
            "oldest_observed_at": iso(min(self.observed, default=None)),
            "newest_observed_at": iso(max(self.observed, default=None)),
            "newest_updated_at": iso(max(self.updated, default=None)),
            "last_run": self.last_run,
        }


_CHILDREN: Final[Mapping[str, Any]] = {
    "discussions": Discussion,
    "notes": Note,
    "events": ResourceEvent,
    "files": MergeRequestDiff,
    "links": EntityLink,
}


def _count_entities(entity_type: str, holdings: Mapping[int, _Holding]) -> None:
    table = ENTITY_TABLES[entity_type]
    columns = (table.project, table.state, table.deleted_at.is_null(), peewee.fn.COUNT(table.id))
    ends = (peewee.fn.MIN(table.observed_at), peewee.fn.MAX(table.observed_at), peewee.fn.MAX(table.updated_at))
    rows = table.select(*columns, *ends).where(table.project.in_(list(holdings)))
    for project_id, state, is_there, count, first, last, updated in rows.group_by(*columns[:3]).tuples():
        holding = holdings[project_id]
        if not is_there:
            holding.deleted += count
            continue
        holding.states[entity_type][state] += count
        holding.observed += [first, last]
        holding.updated.append(updated)


def _count_children(holdings: Mapping[int, _Holding]) -> None:
    for entity_type, table in ENTITY_TABLES.items():
        for name, child in _CHILDREN.items():
            # Counted by owner first: an index has all of that, and a plain join would look up every child's owner.
            counted = (
                child.select(child.entity_id.alias("owner"), peewee.fn.COUNT(child.id).alias("many"))
                .where(child.entity_type == entity_type)
                .group_by(child.entity_id)
                .alias("counted")
            )
            rows = (
                table.select(table.project, peewee.fn.SUM(counted.c.many))
                .join(counted, on=(counted.c.owner == table.id))
                .where(table.project.in_(list(holdings)))
                .group_by(table.project)
            )
            for project_id, many in rows.tuples():
                holdings[project_id].children[name] += int(many)


def _find_last_runs(holdings: Mapping[int, _Holding]) -> None:
    # Not a sync's children, which are part of it.
    is_ours = Run.project.in_(list(holdings)) & Run.parent_run_id.is_null()
    newest = Run.select(peewee.fn.MAX(Run.run_id)).where(is_ours).group_by(Run.project)
    rows = Run.select(Run.project, Run.run_id, Run.status, Run.finished_at).where(Run.run_id.in_(newest))
    for project_id, run_id, status, finished_at in rows.tuples():
        holdings[project_id].last_run = {"run_id": run_id, "status": status, "finished_at": iso(finished_at)}


def _size_bytes() -> int:
    if is_postgresql():
        return int(database.execute_sql("SELECT pg_database_size(current_database())").fetchone()[0])
    path: Path = sqlite_path(str(database.obj.database))
    return sum(one.stat().st_size for one in (path, Path(f"{path}-wal")) if one.exists())
