"""What the mirror holds of one entity; only the local database is read."""

from __future__ import annotations

import json
from typing import Any, Final

from lore.core import staleness
from lore.core.moments import iso
from lore.core.pages import Page, Place, first_of
from lore.core.plan import Entity, EntityType
from models.base import read
from models.content import ENTITY_TABLES, Discussion, EntityLink, MergeRequestDiff, Note, ResourceEvent
from workers.related import related_to
from workers.scope import find_project, not_in_mirror

_TIMES = {
    "created_at",
    "updated_at",
    "closed_at",
    "merged_at",
    "prepared_at",
    "observed_at",
    "children_observed_at",
    "deleted_at",
    "resolved_at",
}
_ALL: Final = Page(10_000)
_JSON = {"assignees", "reviewers", "labels"}
_HIDDEN = {"raw", "id", "project", "entity_type", "entity_id", "position", "observed_at", "parts_observed_at"}


def show(gitlab_url: str, project: str, entity_type: EntityType, iid: int, *, page: Page = _ALL) -> dict[str, Any]:
    """Return everything the mirror holds of an entity: its fields, children and what belongs to it, and how fresh.

    Of its threads those of the page.

    Raises:
        NotFoundError: NOT_IN_MIRROR.
    """
    with read():
        found = find_project(gitlab_url, project)
        table = ENTITY_TABLES[entity_type]
        row = None if found is None else table.get_or_none(table.project == found.project_id, table.iid == iid)
        if found is None or row is None:
            raise not_in_mirror(project, Entity(entity_type, iid))
        of_it = _OfIt(entity_type, row.id)
        threads, following = of_it.threads(page)
        return {
            "project": found.path_with_namespace,
            "entity_type": entity_type,
            "entity": _columns(row) | {"observed_at": iso(row.observed_at)},
            "threads_total": of_it.count(Discussion),
            "threads": threads,
            "events": of_it.events(),
            "files": of_it.rows(MergeRequestDiff),
            "links": of_it.rows(EntityLink),
            "related": related_to(found, entity_type, row),
            "fresh": {
                "observed_at": iso(row.observed_at),
                "children_observed_at": iso(row.children_observed_at),
                "settled": staleness.is_settled(row.updated_at, row.observed_at),
            },
            "next": following,
        }


class _OfIt:
    """Reads the children of one entity, in GitLab's order."""

    def __init__(self, entity_type: str, entity_id: int) -> None:
        self._of = (entity_type, entity_id)

    def rows(self, table: Any) -> list[dict[str, Any]]:
        """Return the children of one table."""
        return [_columns(row) for row in self._select(table).order_by(table.position)]

    def events(self) -> list[dict[str, Any]]:
        """Return the resource events of all kinds, oldest first."""
        table = ResourceEvent
        return [_columns(row) for row in self._select(table).order_by(table.created_at, table.kind, table.gitlab_id)]

    def count(self, table: Any) -> int:
        """Return how many children of one table there are."""
        return int(self._select(table).count())

    def threads(self, page: Page) -> tuple[list[dict[str, Any]], Place | None]:
        """Return a page of the discussions, each with its notes, and where the next page begins."""
        table = Discussion
        rows = self._select(table).order_by(table.position).limit(page.limit + 1)
        if page.after is not None:
            position, gitlab_id = page.after
            # Positions are counted anew with each fetch, so where that one stands now tells what comes behind it.
            now = self._select(table).where(table.gitlab_id == gitlab_id).first()
            rows = rows.where(table.position > (position if now is None else now.position))
        discussions, following = first_of(list(rows), page.limit, lambda row: (row.position, row.gitlab_id))
        notes: dict[str, list[dict[str, Any]]] = {}
        for note in self._select(Note).order_by(Note.position):
            notes.setdefault(note.discussion_gitlab_id, []).append(_columns(note))
        threads = []
        for discussion in discussions:
            its = notes.get(discussion.gitlab_id, [])
            resolvable = [note for note in its if note["resolvable"]]
            threads.append(
                {
                    "id": discussion.gitlab_id,
                    "individual_note": discussion.individual_note,
                    "resolved": all(note["resolved"] for note in resolvable) if resolvable else None,
                    "notes": its,
                }
            )
        return threads, following

    def _select(self, table: Any) -> Any:
        return table.select().where(table.entity_type == self._of[0], table.entity_id == self._of[1])


def _columns(row: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in row._meta.fields:
        if name in _HIDDEN:
            continue
        value = getattr(row, name)
        if name in _TIMES:
            value = iso(value)
        elif name in _JSON:
            value = None if value is None else json.loads(value)
        values[name] = value
    return values
