"""The vectors of documents: which documents lack one, and writing them, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import peewee

from models import codes
from models.documents import Document, Embedding
from models.statements import Prepared, given, insert_many

_CHUNK = 200


@dataclass(frozen=True)
class Pending:
    """A document without a vector for the text it has now."""

    document_id: int
    content: str
    content_hash: str


@dataclass(frozen=True)
class Vector:
    """The vector of one chunk: `vector` is float32 little endian, `code` the signs of its numbers, a bit each."""

    chunk_hash: str
    vector: bytes
    code: bytes


def pending(
    model: str,
    *,
    document_ids: Sequence[int] | None = None,
    after_id: int = 0,
    limit: int | None = None,
    is_rebuild: bool = False,
) -> list[Pending]:
    """Return documents that have no vector of this model for their text, by id.

    Args:
        model: What the vectors are to be made by.
        document_ids: Only these; None: all of them.
        after_id: Only those behind this one.
        limit: At most so many.
        is_rebuild: Also those that have one.
    """
    query = Document.select(Document.id, Document.content, Document.content_hash).order_by(Document.id)
    query = query.where(Document.id > after_id)
    if not is_rebuild:
        query = query.where(~peewee.fn.EXISTS(_valid(model)))
    if document_ids is None:
        return [Pending(*row) for row in query.limit(limit).tuples()]
    found: list[Pending] = []
    ids = sorted(document_ids)
    for start in range(0, len(ids), _CHUNK):
        chunk = query.where(Document.id.in_(ids[start : start + _CHUNK]))
        found += [Pending(*row) for row in chunk.limit(None if limit is None else limit - len(found)).tuples()]
        if len(found) == limit:
            break
    return found


def lacking(model: str) -> int:
    """Return how many documents have no vector of this model for their text."""
    return int(Document.select().where(~peewee.fn.EXISTS(_valid(model))).count())


def known(document_id: int, model: str) -> dict[str, Vector]:
    """Return the vectors a document has of this model, by the hash of their chunk, also those of an earlier text."""
    rows = _KNOWN.execute(document_id=document_id, model=model)
    return {chunk_hash: Vector(chunk_hash, bytes(vector), bytes(code)) for chunk_hash, vector, code in rows}


def write(
    document_id: int, content_hash: str, model: str, chunks: Sequence[Vector], *, is_rebuild: bool = False
) -> bool:
    """Make these the vectors of a document, if its text is still the one they were made of; False: it is not.

    A chunk that stays at its place keeps its row, and so its vector, unless that has another number of dimensions, or
    all are made anew.
    """
    # An UPDATE and not a SELECT: it locks the row, so that nobody builds the document anew until we are done.
    if not _LOCK.changed(document_id=document_id, content_hash=content_hash):
        return False
    before = {index: tuple(about) for index, *about in _CHUNKS.execute(document_id=document_id, model=model)}
    new = [(chunk.chunk_hash, len(chunk.code)) for chunk in chunks]
    kept = {index for index, about in enumerate(new) if before.get(index) == about and not is_rebuild}
    gone = sorted(set(before) - kept)
    for start in range(0, len(gone), _CHUNK):
        some = Embedding.chunk_index.in_(gone[start : start + _CHUNK])
        Embedding.delete().where(Embedding.document == document_id, Embedding.model == model, some).execute()
    if kept:
        _KEEP.execute(document_id=document_id, model=model, content_hash=content_hash)
    common = {"document_id": document_id, "model": model, "content_hash": content_hash}
    rows = [common | {"chunk_index": index, **asdict(one)} for index, one in enumerate(chunks) if index not in kept]
    insert_many(Embedding, rows)
    return True


def models() -> dict[str, int]:
    """Return how many vectors there are of each model."""
    rows = Embedding.select(Embedding.model, peewee.fn.COUNT(Embedding.id)).group_by(Embedding.model)
    return dict(rows.tuples())


def has_other_models(model: str) -> bool:
    """Tell whether there are vectors of another model; two looks into an index, however many there are."""
    # Not the least and the greatest at once: for both SQLite looks through all.
    return any(
        Embedding.select(Embedding.id).where(beside).limit(1).tuples().first() is not None
        for beside in (Embedding.model < model, Embedding.model > model)
    )


def delete_models_but(model: str) -> int:
    """Delete the vectors of every other model; return how many."""
    codes.delete_blocks_but(model)
    return int(Embedding.delete().where(Embedding.model != model).execute())


def _valid(model: str) -> peewee.ModelSelect:
    return Embedding.select(peewee.SQL("1")).where(
        Embedding.document == Document.id, Embedding.model == model, Embedding.content_hash == Document.content_hash
    )


_OF_DOCUMENT = (Embedding.document == given("document_id"), Embedding.model == given("model"))
_LOCK: Final = Prepared(
    lambda: Document.update({Document.content_hash: given("content_hash")}).where(
        Document.id == given("document_id"), Document.content_hash == given("content_hash")
    )
)
_KNOWN: Final = Prepared(
    lambda: Embedding.select(Embedding.chunk_hash, Embedding.vector, Embedding.code).where(*_OF_DOCUMENT)
)
_CHUNKS: Final = Prepared(
    lambda: Embedding.select(
        Embedding.chunk_index, Embedding.chunk_hash, peewee.fn.LENGTH(Embedding.code).coerce(False)
    ).where(*_OF_DOCUMENT)
)
_KEEP: Final = Prepared(lambda: Embedding.update({Embedding.content_hash: given("content_hash")}).where(*_OF_DOCUMENT))
