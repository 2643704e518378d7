"""What belongs to an entity: what it closes and is closed by, its links in both directions, where it is mentioned."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from lore.core import story
from lore.core.plan import ISSUE, MERGE_REQUEST
from lore.core.story import Event
from models.content import ENTITY_TABLES, EntityLink, Issue, Note
from models.ledger import Project
from workers.scope import full_ref
from workers.timeline import closing_merge_requests

_OTHER_SIDE: Final = {"blocks": "is_blocked_by", "is_blocked_by": "blocks"}

Related = dict[str, Any]


def related_to(project: Project, entity_type: str, row: Any) -> list[Related]:
    """Return what belongs to an entity, in the order of (relation, REF); inside the caller's transaction.

    `is_held` says whether the mirror holds the other one; then its title and state are the mirror's.
    """
    paths = dict(
        Project.select(Project.gitlab_id, Project.path_with_namespace)
        .where(Project.gitlab_url == project.gitlab_url, Project.gitlab_id.is_null(False))
        .tuples()
    )
    own = list(_own_links(entity_type, row.id, paths))
    linked = {one["ref"] for one in own}
    found: dict[tuple[str, str], Related] = {}
    for one in (
        *own,
        # What the entity's own list says of a link counts; the other side may have been observed long before.
        *(one for one in _links_to(project, entity_type, row) if one["ref"] not in linked),
        *_mentions(project, entity_type, row.id),
    ):
        if one["ref"] != full_ref(project.path_with_namespace, entity_type, row.iid):
            found.setdefault((one["relation"], one["ref"]), one)
    held = _held(project.gitlab_url, list(found.values()))
    return [one | held.get(one["ref"], {"is_held": False}) for _, one in sorted(found.items())]


def _own_links(entity_type: str, entity_id: int, paths: Mapping[int, str]) -> Iterator[Related]:
    links = EntityLink.select().where(EntityLink.entity_type == entity_type, EntityLink.entity_id == entity_id)
    for link in links.order_by(EntityLink.position):
        relation = "closes" if link.kind == "closes_issues" else link.link_type or "relates_to"
        yield _related(relation, _ref_of(link, paths), link.title, link.state)


def _links_to(project: Project, entity_type: str, row: Any) -> Iterator[Related]:
    if entity_type != ISSUE:
        return
    for closer in closing_merge_requests(project, row.iid):
        yield _related("closed_by", full_ref(closer.path, MERGE_REQUEST, closer.iid), closer.title, closer.state)
    links = (
        EntityLink.select(EntityLink.link_type, Issue.iid, Issue.title, Issue.state, Project.path_with_namespace)
        .join(Issue, on=(EntityLink.entity_id == Issue.id))
        .join(Project, on=(Issue.project == Project.project_id))
        .where(
            EntityLink.entity_type == ISSUE,
            EntityLink.kind == "links",
            EntityLink.linked_project_id == project.gitlab_id,
            EntityLink.linked_iid == row.iid,
            Issue.deleted_at.is_null(),
            Project.gitlab_url == project.gitlab_url,
        )
    )
    for link_type, iid, title, state, path in links.tuples():
        relation = link_type or "relates_to"
        yield _related(_OTHER_SIDE.get(relation, relation), full_ref(path, ISSUE, iid), title, state)
    if row.moved_to_id is not None:
        moved = (
            Issue.select(Issue.iid, Issue.title, Issue.state, Project.path_with_namespace)
            .join(Project, on=(Issue.project == Project.project_id))
            .where(Issue.gitlab_id == row.moved_to_id, Project.gitlab_url == project.gitlab_url)
        )
        for iid, title, state, path in moved.tuples():
            yield _related("moved_to", full_ref(path, ISSUE, iid), title, state)


def _mentions(project: Project, entity_type: str, entity_id: int) -> Iterator[Related]:
    notes = Note.select(Note.body, Note.created_at).where(
        Note.entity_type == entity_type,
        Note.entity_id == entity_id,
        Note.system == True,  # noqa: E712  # SQL's own
    )
    for body, at in notes.order_by(Note.position).tuples():
        told = story.of_system_note(Event(at or 0, "", "system", text=body))
        where = story.parse_mention(told.cause or "") if told.kind == "mentioned" else None
        if where is not None:
            path, its_type, iid = where
            if path and "/" not in path:
                path = f"{project.path_with_namespace.rsplit('/', 1)[0]}/{path}"
            yield _related("mentioned_in", full_ref(path or project.path_with_namespace, its_type, iid), None, None)


def _held(gitlab_url: str, related: list[Related]) -> dict[str, Related]:
    """Return what the mirror says of those of them that it holds, by REF."""
    wanted: dict[tuple[str, str], list[int]] = {}
    for one in related:
        where = story.parse_mention(one["ref"])
        if where is not None:
            wanted.setdefault(where[:2], []).append(where[2])
    found = {}
    for (path, entity_type), iids in wanted.items():
        table: Any = ENTITY_TABLES[entity_type]
        rows = (
            table.select(table.iid, table.title, table.state)
            .join(Project, on=(table.project == Project.project_id))
            .where(
                Project.gitlab_url == gitlab_url,
                Project.path_with_namespace == path,
                table.iid.in_(iids[:500]),
                table.deleted_at.is_null(),
            )
        )
        for iid, title, state in rows.tuples():
            found[full_ref(path, entity_type, iid)] = {"title": title, "state": state, "is_held": True}
    return found


def _ref_of(link: Any, paths: Mapping[int, str]) -> str:
    """Return the other's REF; of a project that the mirror does not know GitLab's own, else its bare number."""
    if link.linked_iid is None:
        return str(link.gitlab_id)
    if link.linked_project_id in paths:
        return full_ref(paths[link.linked_project_id], ISSUE, link.linked_iid)
    references = json.loads(link.raw).get("references")
    full = references.get("full") if isinstance(references, dict) else None
    return full if isinstance(full, str) else f"#{link.linked_iid}"


def _related(relation: str, ref: str, title: str | None, state: str | None) -> Related:
    return {"relation": relation, "ref": ref, "title": title, "state": state}
