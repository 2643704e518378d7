"""Writing what GitLab said into the content tables: an entity's row, and the set of its children of one endpoint.

Every function runs inside the caller's transaction, under the project's lock. Rows are upserted on GitLab's own keys,
so that a local id stays the same for ever; children that GitLab does not list any more are deleted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from lore.core import payloads
from lore.core.payloads import or_none
from lore.core.plan import DIFFS, DISCUSSIONS, LABEL_EVENTS, MILESTONE_EVENTS, STATE_EVENTS
from models import statements
from models.base import Table
from models.content import (
    ENTITY_TABLES,
    Child,
    DirtySource,
    Discussion,
    EntityLink,
    MergeRequestDiff,
    Note,
    ResourceEvent,
)

_CHUNK = 100

_SAME_NAME = (
    "title",
    "description",
    "state",
    "created_at",
    "updated_at",
    "closed_at",
    "user_notes_count",
    "upvotes",
    "downvotes",
    "discussion_locked",
    "web_url",
)
_ISSUE_ONLY = ("issue_type", "confidential", "due_date", "weight", "merge_requests_count", "moved_to_id")
_MERGE_REQUEST_ONLY = (
    "draft",
    "source_branch",
    "target_branch",
    "source_project_id",
    "target_project_id",
    "sha",
    "merge_commit_sha",
    "squash_commit_sha",
    "merged_at",
    "prepared_at",
    "detailed_merge_status",
    "changes_count",
)


def entity_columns(value: payloads.Issue | payloads.MergeRequest) -> dict[str, Any]:
    """Return the columns that an answer says something about; a field that is absent has no key here."""
    names = _SAME_NAME + (_ISSUE_ONLY if isinstance(value, payloads.Issue) else _MERGE_REQUEST_ONLY)
    columns = {name: getattr(value, name) for name in names}
    columns |= {
        "gitlab_id": value.id,
        "raw": value.raw,
        "author": _username(value.author),
        "closed_by": _username(value.closed_by),
        "assignees": _usernames(value.assignees),
        "labels": _json(value.labels),
        "milestone": UNSET if value.milestone is UNSET else _title(value.milestone),
    }
    if isinstance(value, payloads.MergeRequest):
        columns["reviewers"] = _usernames(value.reviewers)
        # The older of the two names is sent by servers that do not know the newer one yet.
        columns["merged_by"] = _username(value.merged_by if value.merge_user is UNSET else value.merge_user)
    return {name: column for name, column in columns.items() if column is not UNSET}


def read_versions(entity_type: str, project_id: int, iid: int) -> tuple[Any, ...] | None:
    """Return what tells how old the mirror's row of an entity is; None: it has none.

    Shape: (id, updated_at, observed_at, parts_observed_at, deleted_at).
    """
    columns = "id, updated_at, observed_at, parts_observed_at, deleted_at"
    sql = f"SELECT {columns} FROM {ENTITY_TABLES[entity_type]._meta.table_name} WHERE project_id = ? AND iid = ?"
    row: tuple[Any, ...] | None = statements.execute(sql, project_id, iid).fetchone()
    return row


def insert_entity(entity_type: str, project_id: int, iid: int, columns: Mapping[str, Any]) -> int:
    """Insert an entity that the mirror does not hold yet; return its local id."""
    given = {"project_id": project_id, "iid": iid, "parts_observed_at": "{}", **columns}
    return statements.insert(ENTITY_TABLES[entity_type], given)


def update_entity(entity_type: str, entity_id: int, columns: Mapping[str, Any]) -> None:
    """Update the columns of an entity that are given; the others keep what an earlier answer said."""
    statements.update(ENTITY_TABLES[entity_type], entity_id, columns)


def mark_dirty(run_id: str, entity_type: str, entity_id: int, *, queued_at: int) -> None:
    """Queue an entity for its documents to be built again, as one of this run's sources."""
    source = {"source_type": entity_type, "source_id": entity_id}
    dirty_id = statements.insert(DirtySource, source | {"queued_at": queued_at})
    statements.execute(
        "INSERT INTO sync_run_sources (run_id, dirty_source_id, source_type, source_id) VALUES (?, ?, ?, ?)",
        run_id,
        dirty_id,
        entity_type,
        entity_id,
    )


def replace_children(
    job_type: str,
    entity_type: str,
    entity_id: int,
    bodies: Iterable[bytes],
    *,
    observed_at: int,
    is_new: bool = False,
) -> dict[str, int]:
    """Make the entity's children of one endpoint what its pages say; return rows written and deleted, by table.

    Args:
        job_type: A list endpoint of `lore.core.plan`.
        entity_type: `issue` or `merge_request`.
        entity_id: The entity's local id.
        bodies: Its pages in order; one at a time is held in memory.
        observed_at: When the walk that read them began, in ms.
        is_new: The entity was inserted in this transaction: it has no children yet.
    """
    if job_type == DISCUSSIONS:
        return _replace_discussions(entity_type, entity_id, bodies, observed_at, is_new=is_new)
    table, make_row = _LISTS[job_type]
    sets = _ChildSet(table, entity_type, entity_id, _scope_of(job_type), is_new=is_new)
    position = 0
    for body in bodies:
        rows = []
        for item in payloads.decode_list(job_type, body, is_checked=True):
            rows.append(
                _common(entity_type, entity_id, position, observed_at, item.raw) | make_row(job_type, item, position)
            )
            position += 1
        sets.upsert(rows)
    return {table._meta.table_name: sets.written, f"{table._meta.table_name}_deleted": sets.delete_the_rest()}


class _ChildSet:
    """The children that an entity has of one kind: what is upserted stays, the rest is deleted at the end."""

    def __init__(
        self, table: type[Child], entity_type: str, entity_id: int, scope: Mapping[str, Any], *, is_new: bool
    ) -> None:
        self._table = table
        self._key = _KEYS[table]
        self._gone = (
            {} if is_new else _ids(table, self._key, {**scope, "entity_type": entity_type, "entity_id": entity_id})
        )
        self.written = 0

    def upsert(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write rows; of two with one key the later one wins."""
        unique = {row[self._key]: row for row in rows}
        statements.upsert(self._table, _CONFLICT[self._table], list(unique.values()))
        for key in unique:
            self._gone.pop(key, None)
        self.written += len(unique)

    def delete_the_rest(self) -> int:
        """Delete the rows whose key was not written; return how many."""
        ids = list(self._gone.values())
        for start in range(0, len(ids), _CHUNK):
            self._table.delete().where(self._table.id.in_(ids[start : start + _CHUNK])).execute()
        return len(ids)


def _ids(table: type[Child], key: str, where: Mapping[str, Any]) -> dict[Any, int]:
    conditions = " AND ".join(f"{name} = ?" for name in where)
    sql = f"SELECT {key}, id FROM {table._meta.table_name} WHERE {conditions}"
    return dict(statements.execute(sql, *where.values()).fetchall())


def _replace_discussions(
    entity_type: str, entity_id: int, bodies: Iterable[bytes], observed_at: int, *, is_new: bool
) -> dict[str, int]:
    discussions = _ChildSet(Discussion, entity_type, entity_id, {}, is_new=is_new)
    notes = _ChildSet(Note, entity_type, entity_id, {}, is_new=is_new)
    position = note_position = 0
    for body in bodies:
        rows = []
        note_rows = []
        for item in payloads.decode_list(DISCUSSIONS, body, is_checked=True):
            rows.append(
                _common(entity_type, entity_id, position, observed_at, _without_notes(item.raw))
                | {
                    "gitlab_id": item.id,
                    "individual_note": or_none(item.individual_note),
                    "updated_at": max((note.updated_at for note in item.notes), default=None),
                }
            )
            position += 1
            for note in item.notes:
                note_rows.append(
                    _common(entity_type, entity_id, note_position, observed_at, note.raw) | _note(item, note)
                )
                note_position += 1
        discussions.upsert(rows)
        notes.upsert(note_rows)
    return {
        "discussions": discussions.written,
        "discussions_deleted": discussions.delete_the_rest(),
        "notes": notes.written,
        "notes_deleted": notes.delete_the_rest(),
    }


def _note(discussion: payloads.Discussion, note: payloads.Note) -> dict[str, Any]:
    at = note.position if isinstance(note.position, payloads.Position) else payloads.Position()
    return {
        "discussion_gitlab_id": discussion.id,
        "gitlab_id": note.id,
        "type": or_none(note.type),
        "body": or_none(note.body),
        "author": or_none(_username(note.author)),
        "created_at": note.created_at,
        "updated_at": note.updated_at,
        "system": or_none(note.system),
        "internal": or_none(note.confidential if note.internal is UNSET else note.internal),
        "resolvable": or_none(note.resolvable),
        "resolved": or_none(note.resolved),
        "resolved_by": or_none(_username(note.resolved_by)),
        "resolved_at": or_none(note.resolved_at),
        "old_path": or_none(at.old_path),
        "new_path": or_none(at.new_path),
        "old_line": or_none(at.old_line),
        "new_line": or_none(at.new_line),
        "position_type": or_none(at.position_type),
    }


def _event(job_type: str, item: payloads.ResourceEvent, position: int) -> dict[str, Any]:
    return {
        "kind": item.kind,
        "gitlab_id": item.id,
        "author": or_none(_username(item.user)),
        "created_at": item.created_at,
        "action": or_none(item.action),
        "state": or_none(item.state),
        "label": or_none(item.label.name) if isinstance(item.label, payloads.Label) else None,
        "milestone": or_none(item.milestone.title) if isinstance(item.milestone, payloads.Milestone) else None,
    }


def _diff(job_type: str, item: payloads.Diff, position: int) -> dict[str, Any]:
    names = ("a_mode", "b_mode", "new_file", "renamed_file", "deleted_file", "generated_file", "collapsed", "too_large")
    return {"old_path": item.old_path, "new_path": item.new_path} | {n: or_none(getattr(item, n)) for n in names}


def _link(job_type: str, item: payloads.EntityLink, position: int) -> dict[str, Any]:
    return {
        "kind": job_type,
        "gitlab_id": str(item.id),
        "link_type": or_none(item.link_type),
        "linked_project_id": or_none(item.project_id),
        "linked_iid": or_none(item.iid),
        "title": or_none(item.title),
        "state": or_none(item.state),
        "web_url": or_none(item.web_url),
    }


_LISTS: dict[str, tuple[type[Child], Any]] = {
    STATE_EVENTS: (ResourceEvent, _event),
    LABEL_EVENTS: (ResourceEvent, _event),
    MILESTONE_EVENTS: (ResourceEvent, _event),
    DIFFS: (MergeRequestDiff, _diff),
    "closes_issues": (EntityLink, _link),
    "links": (EntityLink, _link),
}
_KEYS: dict[type[Table], str] = {
    Discussion: "gitlab_id",
    Note: "gitlab_id",
    ResourceEvent: "gitlab_id",
    MergeRequestDiff: "position",
    EntityLink: "gitlab_id",
}
_CONFLICT: dict[type[Table], tuple[str, ...]] = {
    Discussion: ("entity_type", "entity_id", "gitlab_id"),
    Note: ("entity_type", "entity_id", "gitlab_id"),
    ResourceEvent: ("entity_type", "entity_id", "kind", "gitlab_id"),
    MergeRequestDiff: ("entity_type", "entity_id", "position"),
    EntityLink: ("entity_type", "entity_id", "kind", "gitlab_id"),
}
_EVENT_KINDS = {STATE_EVENTS: "state", LABEL_EVENTS: "label", MILESTONE_EVENTS: "milestone"}


def _scope_of(job_type: str) -> dict[str, Any]:
    """Return which of the table's rows belong to this endpoint: two of them share a table."""
    if job_type in _EVENT_KINDS:
        return {"kind": _EVENT_KINDS[job_type]}
    return {} if job_type == DIFFS else {"kind": job_type}


def _common(entity_type: str, entity_id: int, position: int, observed_at: int, raw: str) -> dict[str, Any]:
    return {
        "entity_type": entity_type,
        "entity_id": entity_id,
        "position": position,
        "observed_at": observed_at,
        "raw": raw,
    }


def _without_notes(raw: str) -> str:
    fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    fields.pop("notes", None)
    return msgspec.json.encode(fields).decode()


def _username(user: Any) -> Any:
    return or_none(user.username) if isinstance(user, payloads.User) else user


def _usernames(users: Any) -> Any:
    return _json([or_none(user.username) for user in users]) if isinstance(users, tuple) else users


def _title(milestone: Any) -> Any:
    return or_none(milestone.title) if isinstance(milestone, payloads.Milestone) else None


def _json(values: Any) -> Any:
    return json.dumps(list(values), ensure_ascii=False) if isinstance(values, tuple | list) else values
