"""Who worked on a file or under a label, by what, and when last; only the local database is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import peewee

from lore.core.errors import NotFoundError
from lore.core.moments import iso
from lore.core.pages import Page, page_of
from lore.core.plan import MERGE_REQUEST
from models.base import read
from models.content import ENTITY_TABLES, MergeRequest, Note
from workers.history import life_of
from workers.lists import is_one_of
from workers.scope import chosen, full_ref, in_chunks, is_in, plain_rows, projects_of

# In what somebody took part, in the order in which it is told.
PARTS: Final = ("authored", "assigned", "reviewed", "merged", "commented")
_SHOWN_REFS: Final = 3
_PAGE: Final = Page(20)


def who(gitlab_url: str, project: str, name: str, *, page: Page = _PAGE) -> dict[str, Any]:
    """Return who worked on a path (through all its names) or, else, under a label: most first, then latest, then name.

    Args:
        gitlab_url: The configured GitLab.
        project: A full path or a numeric id.
        name: A path, a label, or `~label`, which is never read as a path.
        page: Which people.

    Raises:
        NotFoundError: UNKNOWN_PROJECT, or PATH_NOT_FOUND with the nearest known paths.
    """
    with read():
        projects = projects_of(gitlab_url, project)
        people = _People()
        label = name.removeprefix("~")
        kind, paths = "label", []
        if name.startswith("~"):
            if not _of_label(projects, label, people):
                raise NotFoundError("PATH_NOT_FOUND", f"nothing in the mirror has the label {label!r}")
        else:
            try:
                paths = _of_path(projects, name, people)
                kind = "path"
            except NotFoundError as error:
                if not _of_label(projects, label, people):
                    error.message += ", and nothing has such a label"
                    raise
    ranked = people.ranked()
    shown, following = page_of(ranked, page, lambda one: one.place)
    (path,) = projects.values()
    return {
        "project": path,
        "kind": kind,
        "name": label if kind == "label" else name,
        "paths": paths,
        "total": len(ranked),
        "people": [person.view() for person in shown],
        "next": following,
    }


@dataclass
class _Person:
    """What one person did."""

    username: str
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    last_at: int = 0
    refs: dict[str, int] = field(default_factory=dict)

    @property
    def place(self) -> tuple[int, int, str]:
        """Who did most comes first, then who did something last."""
        return (-sum(self.counts.values()), -self.last_at, self.username)

    def view(self) -> dict[str, Any]:
        return {
            "username": self.username,
            **self.counts,
            "total": sum(self.counts.values()),
            "last_at": iso(self.last_at),
            "refs": sorted(self.refs, key=lambda ref: (-self.refs[ref], ref))[:_SHOWN_REFS],
        }


class _People:
    """What everybody did."""

    def __init__(self) -> None:
        self._by_name: dict[str, _Person] = {}

    def add(self, username: str | None, part: str, ref: str, at: int | None, count: int = 1) -> None:
        if username is None:
            return
        person = self._by_name.get(username)
        if person is None:
            person = self._by_name[username] = _Person(username)
        person.counts[part] += count
        person.last_at = max(person.last_at, at or 0)
        person.refs[ref] = max(person.refs.get(ref, 0), at or 0)

    def add_all(self, usernames: str | None, part: str, ref: str, at: int | None) -> None:
        for username in json.loads(usernames) if usernames else []:
            self.add(username, part, ref, at)

    def ranked(self) -> list[_Person]:
        return sorted(self._by_name.values(), key=lambda person: person.place)


def _of_path(projects: Mapping[int, str], path: str, people: _People) -> list[str]:
    life = life_of(projects, path, follows=True, command="lore who")
    at_of = {change.iid: change.at for change in life.changes}
    refs: dict[int, str] = {}
    (project,) = projects.values()
    table = MergeRequest
    columns = (table.id, table.iid, table.author, table.assignees, table.reviewers, table.merged_by)
    for these in chosen(table.iid, list(at_of)):
        rows = table.select(*columns).where(is_in(table, projects), *these)
        for entity_id, iid, author, assignees, reviewers, merged_by in plain_rows(rows):
            at = at_of.get(iid)
            if at is None:
                continue
            refs[entity_id] = ref = full_ref(project, MERGE_REQUEST, iid)
            people.add(author, "authored", ref, at)
            people.add_all(assignees, "assigned", ref, at)
            people.add_all(reviewers, "reviewed", ref, at)
            people.add(merged_by, "merged", ref, at)
    counted = (Note.entity_id, Note.author)
    rows = Note.select(*counted, peewee.fn.MAX(Note.created_at), peewee.fn.COUNT(Note.id)).where(
        Note.entity_type == MERGE_REQUEST, Note.new_path.in_(life.paths) | Note.old_path.in_(life.paths)
    )
    for entity_id, author, last_at, count in plain_rows(rows.group_by(*counted)):
        if entity_id in refs:
            people.add(author, "commented", refs[entity_id], last_at, count)
    return life.paths


def _of_label(projects: Mapping[int, str], label: str, people: _People) -> bool:
    """Add who worked under a label; False when nothing has it."""
    (project,) = projects.values()
    has_any = False
    for entity_type in ENTITY_TABLES:
        refs = {}
        for row in _labelled(entity_type, projects, label):
            refs[row.id] = ref = full_ref(project, entity_type, row.iid)
            at = row.closed_at or row.updated_at
            people.add(row.author, "authored", ref, row.created_at)
            people.add_all(row.assignees, "assigned", ref, at)
            if entity_type == MERGE_REQUEST:
                people.add_all(row.reviewers, "reviewed", ref, row.merged_at or at)
                people.add(row.merged_by, "merged", ref, row.merged_at)
        has_any = has_any or bool(refs)
        for ids in in_chunks(refs):
            counted = (Note.entity_id, Note.author)
            rows = Note.select(*counted, peewee.fn.MAX(Note.created_at), peewee.fn.COUNT(Note.id)).where(
                Note.entity_type == entity_type,
                Note.entity_id.in_(ids),
                Note.system == False,  # noqa: E712  # SQL's own
            )
            for entity_id, author, at, count in plain_rows(rows.group_by(*counted)):
                people.add(author, "commented", refs[entity_id], at, count)
    return has_any


def _labelled(entity_type: str, projects: Mapping[int, str], label: str) -> Any:
    table: Any = ENTITY_TABLES[entity_type]
    names = ["id", "iid", "author", "assignees", "created_at", "updated_at", "closed_at"]
    names += ["reviewers", "merged_by", "merged_at"] if entity_type == MERGE_REQUEST else []
    columns = [getattr(table, name) for name in names]
    return table.select(*columns).where(is_in(table, projects), is_one_of(table.labels, label)).namedtuples()
