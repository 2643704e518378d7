"""The story of an entity in one order of time; only the local database is read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from lore.core import story
from lore.core.errors import NotFoundError
from lore.core.moments import iso
from lore.core.pages import Page, page_of
from lore.core.plan import ISSUE, MERGE_REQUEST, Entity
from lore.core.story import Event
from lore.search import search
from models.base import read
from models.content import ENTITY_TABLES, EntityLink, MergeRequest, Note, ResourceEvent
from models.fulltext import Filters
from models.ledger import Project
from workers.history import snippet
from workers.scope import full_ref, is_in, not_in_mirror, projects_of, searched

# So soon after a merge that closes it, an issue was closed by that merge.
_CLOSED_BY_MERGE_MS = 60_000
# Of so many documents the best entities are told of, so many of these: a thread is a document of its own.
_HITS, _BEST = 50, 5
_PAGE: Final = Page(200)


def timeline(gitlab_url: str, entities: Sequence[tuple[str, Entity]], *, page: Page = _PAGE) -> dict[str, Any]:
    """Return a page of the events of one story of some entities, oldest first, and how many there are.

    Args:
        gitlab_url: The configured GitLab.
        entities: Each with the project it is of: a full path or a numeric id.
        page: Which events.

    Raises:
        NotFoundError: NOT_IN_MIRROR.
    """
    with read():
        parts = [_story_of(gitlab_url, project, entity) for project, entity in entities]
    told = story.tell(*parts)
    shown, following = page_of(story.placed(told), page, lambda one: one[0])
    events = [asdict(event) | {"at": iso(event.at)} for _, event in shown]
    for event in events:
        del event["sequence"]
    titles = [next(event.text for event in part if event.kind == "created") for part in parts]
    return {"titles": titles, "total": len(told), "events": events, "next": following}


def best_of(gitlab_url: str, project: str | None, query: str) -> list[tuple[str, Entity]]:
    """Return the entities whose words fit a query best, each with its project, the best first.

    Args:
        gitlab_url: The configured GitLab.
        project: A full path or a numeric id; None: every project of this GitLab.
        query: Any text.

    Raises:
        NotFoundError: UNKNOWN_PROJECT.
    """
    with read():
        projects = projects_of(gitlab_url, project)
        filters = Filters(project_ids=searched(gitlab_url, project, projects))
    # The words alone: a story is no reason to wait for a model.
    hits = search(query, filters=filters, mode="text", limit=_HITS).hits
    found = dict.fromkeys(
        (projects[hit.project_id], Entity(hit.entity_type, hit.iid))  # type: ignore[arg-type]  # one of the two
        for hit in hits
        if hit.project_id in projects
    )
    with read():
        # A document can outlive its entity for a moment.
        return [(path, entity) for path, entity in found if _is_held(gitlab_url, path, entity)][:_BEST]


def _is_held(gitlab_url: str, path: str, entity: Entity) -> bool:
    table: Any = ENTITY_TABLES[entity.entity_type]
    held = table.select(table.id).where(is_in(table, projects_of(gitlab_url, path)), table.iid == entity.iid)
    return bool(held.exists())


def _story_of(gitlab_url: str, project: str, entity: Entity) -> list[Event]:
    try:
        projects = projects_of(gitlab_url, project)
    except NotFoundError:
        raise not_in_mirror(project, entity) from None
    ((project_id, path),) = projects.items()
    table: Any = ENTITY_TABLES[entity.entity_type]
    names = ["id", "iid", "author", "created_at", "closed_at", "closed_by", "gitlab_id", "title"]
    names += ["merged_at", "merged_by"] if entity.entity_type == MERGE_REQUEST else []
    columns = [getattr(table, name) for name in names]
    row = table.select(*columns).where(is_in(table, projects), table.iid == entity.iid).first()
    if row is None:
        raise not_in_mirror(path, entity)
    ref = full_ref(path, entity.entity_type, entity.iid)
    of_it = (entity.entity_type, row.id)
    events = [Event(row.created_at, ref, "created", row.author, row.title)]
    if entity.entity_type == MERGE_REQUEST and row.merged_at is not None:
        events.append(Event(row.merged_at, ref, "merged", row.merged_by))
    elif row.closed_at is not None:
        events.append(Event(row.closed_at, ref, "closed", row.closed_by))
    events += _notes(of_it, ref)
    its_project = Project.get_by_id(project_id)
    events += _resource_events(of_it, ref, its_project)
    told = story.without_echoes(events)
    return _with_causes(told, its_project, entity) if entity.entity_type == ISSUE else told


def _notes(of_it: tuple[str, int], ref: str) -> Iterator[Event]:
    rows = Note.select(
        Note.body, Note.author, Note.created_at, Note.system, Note.new_path, Note.old_path, Note.new_line, Note.old_line
    ).where(Note.entity_type == of_it[0], Note.entity_id == of_it[1])
    for number, note in enumerate(rows.order_by(Note.position).namedtuples()):
        if note.created_at is None:
            continue
        if note.system:
            yield story.of_system_note(
                Event(note.created_at, ref, "system", note.author, snippet(note.body or ""), sequence=number)
            )
        else:
            yield Event(
                note.created_at,
                ref,
                "comment",
                note.author,
                snippet(note.body or ""),
                path=note.new_path or note.old_path,
                line=note.new_line if note.new_line is not None else note.old_line,
                sequence=number,
            )


def _resource_events(of_it: tuple[str, int], ref: str, project: Project) -> Iterator[Event]:
    table = ResourceEvent
    rows = table.select().where(table.entity_type == of_it[0], table.entity_id == of_it[1])
    for event in rows.order_by(table.kind, table.gitlab_id):
        if event.created_at is None:
            continue
        if event.kind == "state":
            kind: Any = event.state if event.state in ("closed", "reopened", "merged") else "state"
            cause = _cause_of(json.loads(event.raw), project)
            text = None if kind == event.state else event.state
            yield Event(event.created_at, ref, kind, event.author, text, cause, sequence=event.gitlab_id)
            continue
        kind = "label" if event.kind == "label" else "milestone"
        # A label or milestone that was deleted since has no name any more.
        name = (event.label if kind == "label" else event.milestone) or "(deleted)"
        sign = {"add": "+", "remove": "-"}.get(event.action or "", "")
        yield Event(event.created_at, ref, kind, event.author, f"{sign}{name}", sequence=event.gitlab_id)


def _cause_of(raw: Mapping[str, Any], project: Project) -> str | None:
    gitlab_id = raw.get("source_merge_request_id")
    if isinstance(gitlab_id, int):
        for row in merge_requests_of(project.gitlab_url).where(MergeRequest.gitlab_id == gitlab_id).namedtuples():
            return full_ref(row.path, MERGE_REQUEST, row.iid)
    commit = raw.get("source_commit")
    return f"commit {commit[:12]}" if isinstance(commit, str) else None


def _with_causes(events: Sequence[Event], project: Project, entity: Entity) -> list[Event]:
    """Say of a closing that follows a merge which closes this issue that it came by that."""
    merges = closing_merge_requests(project, entity.iid)
    told = []
    for event in events:
        cause = event.cause
        if event.kind == "closed" and cause is None:
            near = [
                row
                for row in merges
                if row.merged_at is not None and abs(event.at - row.merged_at) <= _CLOSED_BY_MERGE_MS
            ]
            best = min(near, key=lambda row: (abs(event.at - row.merged_at), row.iid), default=None)
            cause = None if best is None else full_ref(best.path, MERGE_REQUEST, best.iid)
        told.append(replace(event, cause=cause))
    return told


def closing_merge_requests(project: Project, iid: int) -> list[Any]:
    """Return the merge requests of the mirror that close an issue of this project: path, iid, title, state, times."""
    return list(
        merge_requests_of(project.gitlab_url)
        .join(EntityLink, on=(EntityLink.entity_id == MergeRequest.id))
        .where(
            EntityLink.entity_type == MERGE_REQUEST,
            EntityLink.kind == "closes_issues",
            EntityLink.linked_project_id == project.gitlab_id,
            EntityLink.linked_iid == iid,
        )
        .order_by(MergeRequest.project, MergeRequest.iid)
        .namedtuples()
    )


def merge_requests_of(gitlab_url: str) -> Any:
    """Return the query for the merge requests of one GitLab: another one gives the same numbers to others."""
    return (
        MergeRequest.select(
            MergeRequest.iid,
            MergeRequest.title,
            MergeRequest.state,
            MergeRequest.merged_at,
            Project.path_with_namespace.alias("path"),
        )
        .join(Project, on=(MergeRequest.project == Project.project_id))
        .where(Project.gitlab_url == gitlab_url, MergeRequest.deleted_at.is_null())
        .switch(MergeRequest)
    )
