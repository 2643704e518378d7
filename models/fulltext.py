"""The full-text index of documents: FTS5 on SQLite, a tsvector beside each document on PostgreSQL.

Both hold the terms of `lore.core.terms`, so that both find the same, and no query is ever their syntax. Everything
runs inside the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lore.core.terms import document_terms
from models.base import database, is_postgresql

_CHUNK: Final = 500
# PostgreSQL keeps 256 positions of a term and numbers up to 16,383, and refuses a vector of a megabyte.
_MAX_POSITIONS: Final = 255
_MAX_POSITION: Final = 16_383
_MAX_VECTOR_BYTES: Final = 900_000


def put(document_id: int, title: str, body: str, *, is_new: bool = False) -> None:
    """Write what a document is found by, in place of what was there.

    Args:
        document_id: The document's id.
        title: Weighs more than the body.
        body: The text; where it begins with the title, that counts twice.
        is_new: The document had no terms so far.
    """
    if is_postgresql():
        sql = (
            "INSERT INTO document_terms (document_id, terms) VALUES (%s, %s::tsvector)"
            " ON CONFLICT (document_id) DO UPDATE SET terms = excluded.terms"
        )
        database.execute_sql(sql, (document_id, _vector(document_terms(title), document_terms(body))))
        return
    if not is_new:
        remove([document_id])
    database.execute_sql(
        "INSERT INTO documents_fts (rowid, title, body) VALUES (?, ?, ?)",
        (document_id, " ".join(document_terms(title)), " ".join(document_terms(body))),
    )


def remove(document_ids: Sequence[int]) -> None:
    """Remove the terms of documents."""
    table, key, mark = ("document_terms", "document_id", "%s") if is_postgresql() else ("documents_fts", "rowid", "?")
    for start in range(0, len(document_ids), _CHUNK):
        chunk = list(document_ids[start : start + _CHUNK])
        database.execute_sql(f"DELETE FROM {table} WHERE {key} IN ({', '.join([mark] * len(chunk))})", chunk)  # noqa: S608


def _vector(title: Sequence[str], body: Sequence[str]) -> str:
    """Return the text form of a tsvector; terms are letters and digits, so that nothing needs an escape."""
    positions: dict[str, list[str]] = {}
    size = 0
    for place, term in enumerate((*title, *body), start=1):
        at = positions.get(term)
        if at is None:
            size += len(term.encode()) + 8
            if size > _MAX_VECTOR_BYTES:
                break
            at = positions[term] = []
        elif len(at) >= _MAX_POSITIONS:
            continue
        size += 2
        at.append(f"{min(place, _MAX_POSITION)}{'A' if place <= len(title) else ''}")
    return " ".join(f"'{term}':{','.join(at)}" for term, at in positions.items())
