"""A search as the doors ask for it: projects by name, hits as the values that are shown."""

from __future__ import annotations

from typing import Any, Final

from lore.core.errors import LoreError, NotFoundError, UsageError
from lore.core.moments import iso
from lore.core.pages import Page
from lore.core.plan import entity_name
from lore.search import Hit
from lore.search import search as find
from models import vectors
from models.base import read
from models.documents import Document
from models.fulltext import Filters
from workers import resources
from workers.scope import projects_of, searched

_PAGE: Final = Page(10)


def search(
    query: str,
    *,
    gitlab_url: str,
    project: str | None,
    types: tuple[str, ...] = (),
    labels: tuple[str, ...] = (),
    author: str | None = None,
    state: str | None = None,
    since_ms: int | None = None,
    mode: Any = "hybrid",
    page: Page = _PAGE,
) -> dict[str, Any]:
    """Return `data` of a search, with its warnings as (code, message).

    Args:
        query: Any text.
        gitlab_url: The configured GitLab.
        project: A full path or a numeric id; None: every project of this GitLab.
        types: Source types; none means every.
        labels: All of them.
        author: Who began it.
        state: GitLab's.
        since_ms: The earliest `updated_at`.
        mode: `hybrid`, `text` or `semantic`.
        page: Which hits; a place is of all that were shown before, as any new document moves what comes after it.

    Raises:
        NotFoundError: UNKNOWN_PROJECT, or EMPTY_MIRROR.
        UsageError: EMPTY_QUERY.
        LoreError: The embedder's own errors, for `semantic`.
    """
    if not query.strip():
        raise UsageError("EMPTY_QUERY", "there is nothing to search for in an empty query")
    with read():
        projects = projects_of(gitlab_url, project)
        project_ids = searched(gitlab_url, project, projects)
        if not Document.select(Document.id).limit(1).tuples().first():
            raise NotFoundError("EMPTY_MIRROR", "the mirror holds no documents yet: fetch something, or build them")
    filters = Filters(
        project_ids=project_ids,
        types=types,
        labels=labels,
        author=author,
        state=state,
        since_ms=since_ms,
    )
    warnings: list[tuple[str, str]] = []
    embedder = None
    if mode != "text":
        try:
            embedder = resources.embedder()
        except LoreError as error:
            if mode == "semantic":
                raise
            warnings.append((error.code, f"only words were searched: {error.message}"))
            mode = "text"
    shown = list(page.after or ())
    found = find(query, filters=filters, mode=mode, limit=len(shown) + page.limit + 1, embedder=embedder)
    warnings += [(one.code, one.message) for one in found.warnings if one.code not in {code for code, _ in warnings}]
    if embedder is not None and found.mode != "text":
        warnings += _of_other_models(embedder.model)
    left = [hit for hit in found.hits if hit.document_id not in set(shown)]
    hits = left[: page.limit]
    following = (*shown, *(hit.document_id for hit in hits)) if len(left) > page.limit else None
    return {
        "query": query,
        "mode": found.mode,
        "hits": [_hit(one, projects) for one in hits],
        "next": following,
        "warnings": warnings,
    }


def _of_other_models(model: str) -> list[tuple[str, str]]:
    """Say that documents embedded with another model are not found by their meaning."""
    with read():
        if not vectors.has_other_models(model):
            return []
    message = f"there are vectors of another model than {model}, which are not searched: lore embed --rebuild"
    return [("OTHER_MODEL", message)]


def _hit(hit: Hit, projects: dict[int, str]) -> dict[str, Any]:
    path = projects[hit.project_id]
    return {
        "ref": f"{path}{entity_name(hit.entity_type, hit.iid)}",
        "type": hit.source_type,
        "project": path,
        "entity_type": hit.entity_type,
        "iid": hit.iid,
        "title": hit.title,
        "state": hit.state,
        "author": hit.author,
        "updated_at": iso(hit.updated_at),
        "web_url": hit.web_url,
        "snippet": hit.snippet.text,
        "marks": [list(mark) for mark in hit.snippet.marks],
        "score": round(hit.score, 6),
        "why": hit.why,
    }
