"""The full-text index of documents: FTS5 on SQLite, a tsvector beside each document on PostgreSQL.

Both hold the terms of `lore.core.terms`, so that both find the same, and no query is ever their syntax. Everything
runs inside the caller's transaction.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from lore.core.terms import Word, document_terms
from models.base import database, is_postgresql

_CHUNK: Final = 500
_MAX_RANKED: Final = 5_000
_MAX_RANKED_POSTGRESQL: Final = 2_000  # ts_rank unpacks the terms of each
_MAX_SCANNED: Final = 4_000
_COMMON: Final = 5_000
# PostgreSQL keeps 256 positions of a term and numbers up to 16,383, and refuses a vector of a megabyte.
_MAX_POSITIONS: Final = 255
_MAX_POSITION: Final = 16_383
_MAX_VECTOR_BYTES: Final = 900_000


@dataclass(frozen=True)
class Filters:
    """What a search is narrowed down to; a document has every label, and one of the types.

    Attributes:
        project_ids: The local ids; empty means every project.
        types: Source types: `issue`, `merge_request`, `discussion`; empty means every.
        since_ms: The earliest `updated_at`.
    """

    project_ids: tuple[int, ...] = ()
    types: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    author: str | None = None
    state: str | None = None
    since_ms: int | None = None

    def sql(self) -> tuple[str, list[Any]]:
        """Return conditions on the table `documents`, alias d, each with an AND before it, and their values."""
        mark, position = ("%s", "strpos") if is_postgresql() else ("?", "instr")
        found: list[tuple[str, Any]] = []
        if len(self.project_ids) == 1:
            found.append((f"d.project_id = {mark}", self.project_ids[0]))
        if self.author is not None:
            found.append((f"d.author = {mark}", self.author))
        if self.state is not None:
            found.append((f"d.state = {mark}", self.state))
        if self.since_ms is not None:
            found.append((f"d.updated_at >= {mark}", self.since_ms))
        # A label stands in the JSON list with its quotes, and a quote of its own is escaped there: no other has it.
        found += [(f"{position}(d.labels, {mark}) > 0", json.dumps(label, ensure_ascii=False)) for label in self.labels]
        sql = "".join(f" AND {condition}" for condition, _ in found)
        values = [value for _, value in found]
        if len(self.project_ids) > 1:
            sql += f" AND d.project_id IN ({', '.join([mark] * len(self.project_ids))})"
            values += self.project_ids
        if self.types:
            # SQLite would take the index of sources for this, and then read every row for its other columns.
            column = "d.source_type" if is_postgresql() else "+d.source_type"
            sql += f" AND {column} IN ({', '.join([mark] * len(self.types))})"
        return sql, [*values, *self.types]


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
        database.execute_sql(f"DELETE FROM {table} WHERE {key} IN ({', '.join([mark] * len(chunk))})", chunk)


def count() -> int:
    """Return how many documents have terms."""
    table = "document_terms" if is_postgresql() else "documents_fts"
    return int(database.execute_sql(f"SELECT count(*) FROM {table}").fetchone()[0])  # one of two names


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


def most_ranked() -> int:
    """Return how many documents `match` ranks at most."""
    return _MAX_RANKED_POSTGRESQL if is_postgresql() else _MAX_RANKED


def match(words: Sequence[Word], *, any_of: bool, filters: Filters, limit: int) -> tuple[list[int], bool]:
    """Return the documents that have all of the words, or any of them, best first by BM25 (SQLite) or ts_rank.

    Of more matches than `most_ranked` only the newest documents are ranked, and then the second value is False: what
    nearly every text has says little.
    """
    where, values = filters.sql()
    most = most_ranked()
    if is_postgresql():
        query = _tsquery(words, any_of=any_of)
        matches = (
            f"FROM document_terms t{' JOIN documents d ON d.id = t.document_id' if where else ''}"
            f" WHERE t.terms @@ %s::tsquery{where}"
        )
        sql = (
            "SELECT document_id, count(*) OVER () FROM (SELECT t.document_id, t.terms"
            f" {matches} ORDER BY t.document_id DESC LIMIT {most}) AS newest"
            " ORDER BY ts_rank(terms, %s::tsquery) DESC, document_id DESC LIMIT %s"
        )
        parameters: list[Any] = [query, *values, query, limit]
    else:
        query = _fts5_query(words, any_of=any_of)
        # The plus keeps FTS5 from being asked anew for each document that passes.
        inside = f" AND +rowid IN (SELECT d.id FROM documents d WHERE true{where})" if where else ""
        matches = f"FROM documents_fts WHERE documents_fts MATCH ?{inside}"
        sql = (
            "SELECT rowid, count(*) OVER () FROM (SELECT rowid, bm25(documents_fts, 4.0, 1.0) AS score"
            f" {matches} ORDER BY rowid DESC LIMIT {most})"
            " ORDER BY score, rowid DESC LIMIT ?"
        )
        parameters = [query, *values, limit]
    rows = database.execute_sql(sql, parameters).fetchall()
    is_complete = not rows or rows[0][1] < most
    if not is_complete:
        more = f"SELECT 1 {matches} LIMIT 1 OFFSET {most}"
        is_complete = database.execute_sql(more, [query, *values]).fetchone() is None
    return [row[0] for row in rows], is_complete


def is_common(word: Word) -> bool:
    """Tell whether so many documents have the word that it says little of any of them."""
    if is_postgresql():
        sql = f"SELECT 1 FROM document_terms WHERE terms @@ %s::tsquery OFFSET {_COMMON} LIMIT 1"
        query = _tsquery([word], any_of=False)
    else:
        sql = f"SELECT 1 FROM documents_fts WHERE documents_fts MATCH ? LIMIT 1 OFFSET {_COMMON}"
        query = _fts5_query([word], any_of=False)
    return database.execute_sql(sql, (query,)).fetchone() is not None


def containing(needle: str, *, filters: Filters, limit: int) -> tuple[list[int], bool]:
    """Return those of the newest documents whose text has this very string, and whether all were looked through."""
    where, values = filters.sql()
    mark, function = ("%s", "strpos") if is_postgresql() else ("?", "instr")
    newest = f"SELECT d.id, d.content FROM documents d WHERE true{where} ORDER BY d.id DESC LIMIT {_MAX_SCANNED}"
    sql = f"SELECT id FROM ({newest}) AS newest WHERE {function}(content, {mark}) > 0 LIMIT {mark}"
    found = [row[0] for row in database.execute_sql(sql, [*values, needle, limit]).fetchall()]
    more = f"SELECT 1 FROM documents d WHERE true{where} LIMIT 1 OFFSET {_MAX_SCANNED}"
    return found, database.execute_sql(more, values).fetchone() is None


def _fts5_query(words: Sequence[Word], *, any_of: bool) -> str:
    return (" OR " if any_of else " AND ").join(_quoted(word, '"', " OR ", " AND ") for word in words)


def _tsquery(words: Sequence[Word], *, any_of: bool) -> str:
    return (" | " if any_of else " & ").join(_quoted(word, "'", " | ", " & ") for word in words)


def _quoted(word: Word, quote: str, either: str, both: str) -> str:
    whole = f"{quote}{word.whole}{quote}"
    parts = both.join(f"{quote}{part}{quote}" for part in word.parts)
    return f"({whole}{either}({parts}))" if parts else whole
