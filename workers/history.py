"""Which merge requests touched a file; only the local database is read."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import peewee

from lore.core import renames
from lore.core.errors import NotFoundError
from lore.core.moments import iso
from lore.core.pages import Page, page_of
from lore.core.plan import MERGE_REQUEST
from lore.core.renames import Change, Life
from models.base import read
from models.content import MergeRequest, MergeRequestDiff, Note
from workers.scope import chosen, full_ref, in_chunks, is_in, plain_rows, projects_of

SNIPPET = 240
_PAGE: Final = Page(30)


def file_history(
    gitlab_url: str,
    project: str,
    path: str,
    *,
    follows: bool = True,
    is_merged: bool = False,
    with_discussions: bool = False,
    page: Page = _PAGE,
) -> dict[str, Any]:
    """Return the names a file had and the merge requests that touched it, newest first by (`at`, `iid`).

    Args:
        gitlab_url: The configured GitLab.
        project: A full path or a numeric id.
        path: Any name the file ever had.
        follows: Whether its other names count.
        is_merged: Only what was merged.
        with_discussions: Add the notes that were written on the file.
        page: Which merge requests.

    Raises:
        NotFoundError: UNKNOWN_PROJECT, or PATH_NOT_FOUND with the nearest known paths.
    """
    with read():
        projects = projects_of(gitlab_url, project)
        life = life_of(projects, path, follows=follows, command="lore file-history")
        (its_path,) = projects.values()
        by_iid: dict[int, list[Change]] = {}
        for change in life.changes:
            if change.is_merged or not is_merged:
                by_iid.setdefault(change.iid, []).append(change)
        shown, following = page_of(list(by_iid), page, lambda iid: (-by_iid[iid][0].at, -iid))
        rows = {row.iid: row for row in _merge_requests(projects, shown)}
        patches = _patches([row.id for row in rows.values()], life.paths)
        notes = _notes([row.id for row in rows.values()], life.paths) if with_discussions else {}
        return {
            "project": its_path,
            "path": path,
            "paths": life.paths,
            "total": len(by_iid),
            "history": [
                _entry(rows[iid], its_path, by_iid[iid], patches)
                | ({"discussions": notes.get(rows[iid].id, [])} if with_discussions else {})
                for iid in shown
            ],
            "next": following,
        }


def life_of(projects: Mapping[int, str], path: str, *, follows: bool, command: str) -> Life:
    """Return the life of a file.

    Raises:
        NotFoundError: PATH_NOT_FOUND; its actions are `command` with the nearest known paths.
    """
    changes = _Changes(projects)
    life = renames.follow(path, changes) if follows else renames.only(path, changes)
    if not life.changes:
        (project,) = projects.values()
        near = renames.nearest(path, _known_paths(projects))
        hint = f"; the nearest {'is' if len(near) == 1 else 'are'} {', '.join(near)}" if near else ""
        raise NotFoundError(
            "PATH_NOT_FOUND",
            f"no merge request of the mirror touches {path!r}{hint}",
            actions=[f"{command} {shlex.join([one, '-p', project])}" for one in near] or None,
        )
    return life


class _Changes:
    """Reads what was done under some names."""

    def __init__(self, projects: Mapping[int, str]) -> None:
        self._projects = projects
        self._owners: dict[int, tuple[int, int, str]] = {}

    def __call__(self, paths: Collection[str]) -> Iterator[Change]:
        """Return every change whose old or new name is one of these."""
        diff = MergeRequestDiff
        columns = (
            diff.id,
            diff.entity_id,
            diff.old_path,
            diff.new_path,
            diff.new_file,
            diff.deleted_file,
            diff.renamed_file,
        )
        is_other = diff.old_path.is_null() | (diff.old_path != diff.new_path)
        found: dict[int, tuple[Any, ...]] = {}
        for chunk in in_chunks(paths):
            # Not joined and not one OR: SQLite would read every merge request, and for each its files.
            for names in (diff.old_path.in_(chunk), diff.new_path.in_(chunk) & is_other):
                found.update((row[0], row[1:]) for row in diff.select(*columns).where(names).tuples())
        self._read_owners({row[0] for row in found.values()})
        for entity_id, *row in found.values():
            if entity_id in self._owners:
                yield _change(self._owners[entity_id], row)

    def _read_owners(self, ids: set[int]) -> None:
        owner = MergeRequest
        at = peewee.fn.COALESCE(owner.merged_at, owner.closed_at, owner.updated_at)
        rows = owner.select(owner.id, at, owner.iid, owner.state)
        for these in chosen(owner.id, sorted(ids - set(self._owners))):
            its = rows.where(is_in(owner, self._projects), *these)
            self._owners.update((entity_id, (at, iid, state)) for entity_id, at, iid, state in plain_rows(its))


def _change(owner: tuple[int, int, str], row: Sequence[Any]) -> Change:
    at, iid, state = owner
    old_path, new_path, is_added, is_deleted, is_renamed = row
    old_path, new_path = old_path or new_path or "", new_path or old_path or ""
    # A file that says it is no rename has one name, whatever else GitLab says of it.
    if is_renamed is False:
        old_path = new_path
    return Change(at, iid, old_path, new_path, state == "merged", state == "closed", bool(is_added), bool(is_deleted))


def _known_paths(projects: Mapping[int, str]) -> list[str]:
    diff, owner = MergeRequestDiff, MergeRequest
    found: set[str] = set()
    for column in (diff.old_path, diff.new_path):
        rows = diff.select(column).join(owner, on=(diff.entity_id == owner.id))
        rows = rows.where(diff.entity_type == MERGE_REQUEST, column.is_null(False), is_in(owner, projects))
        found.update(row[0] for row in rows.distinct().tuples())
    return sorted(found)


def _merge_requests(projects: Mapping[int, str], iids: Sequence[int]) -> list[Any]:
    table = MergeRequest
    columns = [
        getattr(table, name)
        for name in ("id", "iid", "title", "state", "author", "created_at", "merged_at", "closed_at", "updated_at")
    ]
    found: list[Any] = []
    for chunk in in_chunks(iids):
        found.extend(table.select(*columns).where(is_in(table, projects), table.iid.in_(chunk)))
    return found


@dataclass(frozen=True)
class _Patch:
    """The lines a diff adds and removes; None where GitLab sent no text of it."""

    added: int | None
    removed: int | None


def _patches(ids: Sequence[int], paths: Sequence[str]) -> dict[tuple[int, str], _Patch]:
    names = set(paths)
    found = {}
    for chunk in in_chunks(ids):
        rows = MergeRequestDiff.select(
            MergeRequestDiff.entity_id, MergeRequestDiff.old_path, MergeRequestDiff.new_path, MergeRequestDiff.raw
        ).where(MergeRequestDiff.entity_type == MERGE_REQUEST, MergeRequestDiff.entity_id.in_(chunk))
        for entity_id, old_path, new_path, raw in rows.tuples().iterator():
            if old_path in names or new_path in names:
                found[entity_id, new_path or old_path] = _patch(json.loads(raw))
    return found


def _patch(raw: Mapping[str, Any]) -> _Patch:
    diff = raw.get("diff")
    if not isinstance(diff, str) or raw.get("collapsed") or raw.get("too_large"):
        return _Patch(None, None)
    return _Patch(*renames.count_lines(diff))


def _entry(
    row: Any, project: str, changes: Sequence[Change], patches: Mapping[tuple[int, str], _Patch]
) -> dict[str, Any]:
    return {
        "ref": full_ref(project, MERGE_REQUEST, row.iid),
        "iid": row.iid,
        "title": row.title,
        "state": row.state,
        "author": row.author,
        "at": iso(changes[0].at),
        "created_at": iso(row.created_at),
        "merged_at": iso(row.merged_at),
        "closed_at": iso(row.closed_at),
        "files": [_file(change, patches.get((row.id, change.new_path), _Patch(None, None))) for change in changes],
    }


def _file(change: Change, patch: _Patch) -> dict[str, Any]:
    done = "renamed" if change.is_rename else "deleted" if change.is_deleted else "changed"
    return {
        "change": "added" if change.is_added else done,
        "old_path": change.old_path,
        "new_path": change.new_path,
        "lines_added": patch.added,
        "lines_removed": patch.removed,
    }


def _notes_on(ids: Sequence[int], paths: Sequence[str]) -> Iterator[Any]:
    """Return the notes people wrote on lines of these files, in these merge requests."""
    for chunk in in_chunks(ids):
        for names in in_chunks(paths):
            yield from (
                Note.select(
                    Note.entity_id,
                    Note.gitlab_id,
                    Note.discussion_gitlab_id,
                    Note.author,
                    Note.body,
                    Note.created_at,
                    Note.resolvable,
                    Note.resolved,
                    Note.old_path,
                    Note.new_path,
                    Note.old_line,
                    Note.new_line,
                )
                .where(
                    Note.entity_type == MERGE_REQUEST,
                    Note.entity_id.in_(chunk),
                    Note.new_path.in_(names) | Note.old_path.in_(names),
                )
                .order_by(Note.entity_id, Note.position)
                .namedtuples()
            )


def _notes(ids: Sequence[int], paths: Sequence[str]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, dict[int, dict[str, Any]]] = {}
    for note in _notes_on(ids, paths):
        found.setdefault(note.entity_id, {})[note.gitlab_id] = {
            "note_id": note.gitlab_id,
            "discussion_id": note.discussion_gitlab_id,
            "author": note.author,
            "created_at": iso(note.created_at),
            "path": note.new_path or note.old_path,
            "line": note.new_line if note.new_line is not None else note.old_line,
            "resolved": note.resolved if note.resolvable else None,
            "snippet": snippet(note.body or ""),
        }
    return {entity_id: list(notes.values()) for entity_id, notes in found.items()}


def snippet(text: str) -> str:
    """Return the beginning of a text, its white space made single spaces."""
    said = " ".join(text[: SNIPPET * 4].split())
    return said if len(said) <= SNIPPET and len(text) <= SNIPPET * 4 else f"{said[:SNIPPET].rstrip()}…"
