"""What is made of the content: documents, their terms and their embeddings.

`load_source` and `save` run in one transaction of the caller's: the first locks the entity's row, so that a document is
never older than its content.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import peewee

from lore.core import documents as texts
from lore.core.documents import File, Source, Thread
from lore.core.plan import MERGE_REQUEST
from models import content, fulltext
from models.base import NeverReusedId, Table, database, is_postgresql
from models.ledger import Project
from models.statements import Prepared, given


class Document(Table):
    """The text of one issue, merge request or discussion; `content_hash` spares what did not change.

    `source_id` is the local row it was made of, `(entity_type, entity_id)` the local row of the issue or merge request
    it belongs to, and `iid` that one's. `updated_at` is GitLab's; `labels` is a JSON list. The text comes last, so that
    the other columns are read without it.
    """

    id = NeverReusedId()
    project = peewee.ForeignKeyField(Project, lazy_load=False, on_delete="CASCADE")
    source_type = peewee.CharField(max_length=20)
    source_id = peewee.BigIntegerField()
    entity_type = peewee.CharField(max_length=20)
    entity_id = peewee.BigIntegerField()
    iid = peewee.BigIntegerField()
    author = peewee.TextField(null=True)
    state = peewee.TextField(null=True)
    labels = peewee.TextField(null=True)
    updated_at = peewee.BigIntegerField()
    content_hash = peewee.CharField(max_length=64)
    title = peewee.TextField()
    content = peewee.TextField()

    class Meta:
        table_name = "documents"
        indexes = ((("source_type", "source_id"), True), (("entity_type", "entity_id"), False))


class Embedding(Table):
    """The vector of one chunk; it is searched only while `content_hash` is its document's.

    `vector` is float32, little endian, of unit length; `code` holds the signs of its numbers, a bit each. The wide
    index lets every code of a model be read without the vectors; on SQLite `code_blocks` has most of them once more,
    see `models.codes`.
    """

    id = NeverReusedId()
    document = peewee.ForeignKeyField(Document, lazy_load=False, on_delete="CASCADE", index=False)
    chunk_index = peewee.IntegerField()
    model = peewee.TextField()
    chunk_hash = peewee.CharField(max_length=64)
    content_hash = peewee.CharField(max_length=64)
    code = peewee.BlobField()
    vector = peewee.BlobField()

    class Meta:
        table_name = "embeddings"
        indexes = ((("document", "model", "chunk_index"), True), (("model", "id", "document", "code"), False))


@dataclass(frozen=True)
class Saved:
    """What `save` did.

    Attributes:
        ids: The documents' ids, in the order given.
        changed: Those that are new or have another text than before.
        deleted: Those that were deleted, as nothing of the entity is their source any more.
    """

    ids: list[int]
    changed: list[int]
    deleted: list[int]


def load_source(entity_type: str, entity_id: int) -> Source | None:
    """Lock an entity's row and return all of it that goes into text; None where it is gone, also on GitLab."""
    found = _ENTITIES[entity_type].row(id=entity_id)
    if found is None:
        return None
    row = dict(zip(_names(entity_type), found, strict=True))
    return Source(
        entity_type=entity_type,
        entity_id=entity_id,
        project_id=row["project"],
        iid=row["iid"],
        title=row["title"] or "",
        state=row["state"],
        updated_at=row["updated_at"],
        created_at=row["created_at"],
        closed_at=row["closed_at"],
        merged_at=row.get("merged_at"),
        author=row["author"],
        assignees=tuple(name for name in json.loads(row["assignees"] or "[]") if name),
        labels=None if row["labels"] is None else tuple(json.loads(row["labels"])),
        milestone=row["milestone"],
        source_branch=row.get("source_branch"),
        target_branch=row.get("target_branch"),
        description=row["beginning"] or "",
        description_length=row["length"],
        threads=_threads(entity_type, entity_id),
        files=_files(entity_type, entity_id) if entity_type == MERGE_REQUEST else (),
    )


def save(source: Source, documents: Sequence[texts.Document]) -> Saved:
    """Make the entity's documents exactly these; one that has a row already keeps its id.

    Text and terms are written where the hash is another one; what a search filters by wherever it differs.
    """
    known = {
        (source_type, source_id): (document_id, content_hash, tuple(values))
        for document_id, source_type, source_id, content_hash, *values in _OF_ENTITY.execute(
            entity_type=source.entity_type, entity_id=source.entity_id
        )
    }
    saved = Saved([], [], [])
    for document in documents:
        labels = None if document.labels is None else json.dumps(document.labels, ensure_ascii=False)
        author, state = _short(document.author), _short(document.state)
        values = (author, state, labels, document.updated_at, source.project_id, source.iid)
        document_id, content_hash, had = known.pop((document.source_type, document.source_id), (None, None, None))
        if document_id is None or content_hash != document.content_hash:
            document_id = _write(source, document, dict(zip(_FACETS, values, strict=True)), document_id)
            saved.changed.append(document_id)
        elif had != values:
            _update(document_id, dict(zip(_FACETS, values, strict=True)))
        saved.ids.append(document_id)
    saved.deleted.extend(document_id for document_id, _, _ in known.values())
    _delete(saved.deleted)
    return saved


def _short(facet: str | None) -> str | None:
    """Return what stands in an index of PostgreSQL, which takes no row of more than 2,704 bytes."""
    return facet and facet[:_MAX_FACET]


def delete_of(entity_type: str, entity_id: int) -> list[int]:
    """Delete every document of an entity with its terms and vectors; return their ids."""
    query = Document.select(Document.id).where(Document.entity_type == entity_type, Document.entity_id == entity_id)
    ids = [document_id for (document_id,) in query.tuples()]
    _delete(ids)
    return ids


def _write(source: Source, document: texts.Document, facets: dict[peewee.Field, Any], document_id: int | None) -> int:
    if document_id is not None:
        changed = {
            **facets,
            Document.title: document.title,
            Document.content: document.content,
            Document.content_hash: document.content_hash,
        }
        _update(document_id, changed)
        fulltext.put(document_id, document.title, document.content)
        return document_id
    mark = "%s" if is_postgresql() else "?"
    values = (
        document.source_type,
        document.source_id,
        source.entity_type,
        source.entity_id,
        document.title,
        document.content,
        document.content_hash,
        *facets.values(),
    )
    # Of a first sync, composing this statement anew for each document would be a third of the time.
    columns = ", ".join((*_KEY_AND_TEXT, *(field.column_name for field in facets)))
    sql = f"INSERT INTO documents ({columns}) VALUES ({', '.join([mark] * len(values))})"
    cursor = database.execute_sql(f"{sql} RETURNING id" if is_postgresql() else sql, values)
    new_id = int(cursor.fetchone()[0] if is_postgresql() else cursor.lastrowid)
    fulltext.put(new_id, document.title, document.content, is_new=True)
    return new_id


def _update(document_id: int, values: dict[peewee.Field, Any]) -> None:
    mark = "%s" if is_postgresql() else "?"
    changed = ", ".join(f"{field.column_name} = {mark}" for field in values)
    # Composed by hand for the same reason.
    database.execute_sql(f"UPDATE documents SET {changed} WHERE id = {mark}", [*values.values(), document_id])


def _delete(document_ids: Sequence[int]) -> None:
    fulltext.remove(document_ids)
    for start in range(0, len(document_ids), _CHUNK):
        Document.delete().where(Document.id.in_(document_ids[start : start + _CHUNK])).execute()


def _names(entity_type: str) -> list[str]:
    """Return what is read of an entity's row."""
    known = content.ENTITY_TABLES[entity_type]._meta.fields
    return [*(name for name in _COLUMNS if name in known), "beginning", "length"]


def _entity_query(entity_type: str) -> peewee.ModelSelect:
    table = content.ENTITY_TABLES[entity_type]
    columns = [getattr(table, name) for name in _names(entity_type)[:-2]]
    # Of the description no more than fits.
    beginning = peewee.fn.SUBSTR(table.description, 1, texts.MAX_DESCRIPTION)
    query = table.select(*columns, beginning, peewee.fn.LENGTH(table.description))
    query = query.where(table.id == given("id"), table.deleted_at.is_null())
    return query.for_update() if is_postgresql() else query


def _threads(entity_type: str, entity_id: int) -> tuple[Thread, ...]:
    notes: dict[str, list[texts.Note]] = defaultdict(list)
    for (
        discussion,
        body,
        author,
        created,
        updated,
        is_system,
        is_resolved,
        old,
        new,
        line,
        old_line,
        length,
    ) in _NOTES.execute(entity_type=entity_type, entity_id=entity_id):
        note = texts.Note(
            body=body or "",
            author=author,
            created_at=created,
            updated_at=updated,
            is_system=bool(is_system),
            is_resolved=None if is_resolved is None else bool(is_resolved),
            old_path=old,
            new_path=new,
            line=old_line if line is None else line,
            length=length,
        )
        notes[discussion].append(note)
    in_order = _DISCUSSIONS.execute(entity_type=entity_type, entity_id=entity_id)
    return tuple(Thread(number, tuple(notes[gitlab_id])) for number, gitlab_id in in_order if gitlab_id in notes)


def _files(entity_type: str, entity_id: int) -> tuple[File, ...]:
    rows = _DIFFS.execute(entity_type=entity_type, entity_id=entity_id)
    return tuple(File(old, new, bool(is_new), bool(is_deleted)) for old, new, is_new, is_deleted in rows)


def _children(table: Any, *columns: Any) -> Prepared:
    """Return the query of an entity's rows in a table, in GitLab's order."""
    its = (table.entity_type == given("entity_type"), table.entity_id == given("entity_id"))
    return Prepared(lambda: table.select(*columns).where(*its).order_by(table.position, table.id))


# What a search filters by, in the order of the values that `save` compares.
_FACETS: Final = (
    Document.author,
    Document.state,
    Document.labels,
    Document.updated_at,
    Document.project,
    Document.iid,
)
_OF_ENTITY: Final = Prepared(
    lambda: Document.select(
        Document.id, Document.source_type, Document.source_id, Document.content_hash, *_FACETS
    ).where(Document.entity_type == given("entity_type"), Document.entity_id == given("entity_id"))
)
_CHUNK: Final = 500
_MAX_FACET: Final = 255
_KEY_AND_TEXT: Final = (
    "source_type",
    "source_id",
    "entity_type",
    "entity_id",
    "title",
    "content",
    "content_hash",
)
_COLUMNS: Final = (
    "project",
    "iid",
    "title",
    "state",
    "updated_at",
    "created_at",
    "closed_at",
    "merged_at",
    "author",
    "assignees",
    "labels",
    "milestone",
    "source_branch",
    "target_branch",
)
_ENTITIES: Final = {kind: Prepared(partial(_entity_query, kind)) for kind in content.ENTITY_TABLES}
_NOTES: Final = _children(
    content.Note,
    content.Note.discussion_gitlab_id,
    peewee.fn.SUBSTR(content.Note.body, 1, texts.MAX_NOTE),
    content.Note.author,
    content.Note.created_at,
    content.Note.updated_at,
    content.Note.system,
    content.Note.resolved,
    content.Note.old_path,
    content.Note.new_path,
    content.Note.new_line,
    content.Note.old_line,
    peewee.fn.LENGTH(content.Note.body),
)
_DISCUSSIONS: Final = _children(content.Discussion, content.Discussion.id, content.Discussion.gitlab_id)
_DIFFS: Final = _children(
    content.MergeRequestDiff,
    content.MergeRequestDiff.old_path,
    content.MergeRequestDiff.new_path,
    content.MergeRequestDiff.new_file,
    content.MergeRequestDiff.deleted_file,
)
