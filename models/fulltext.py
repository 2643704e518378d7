"""The full-text index of documents: FTS5 on SQLite, a tsvector beside each document on PostgreSQL.

Both hold the terms of `lore.core.terms`, so that both find the same, and no query is ever their syntax. Everything
runs inside the caller's transaction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from lore.core.terms import Word, document_terms
from models.base import database, is_postgresql

_CHUNK: Final = 500
_MAX_RANKED: Final = 5_000
_MAX_RANKED_POSTGRESQL: Final = 2_000  # ts_rank unpacks the terms of each
_MAX_SCANNED: Final = 4_000
_COMMON: Final = 5_000
_TERMS: Final = "FROM document_terms d WHERE"
# On PostgreSQL, documents in a row have terms in common besides: 1,024 of them #0, #1, …, four times as many ##0, …
_SMALLEST_BLOCK: Final = 10
_BLOCK_SIZES: Final = 4
# Of so many terms it costs little to reckon how near they stand.
_TERMS_AT_ONCE: Final = 4
# Of each, the index compares every match with each of them.
_MAX_BLOCKS: Final = 6
# PostgreSQL keeps 256 positions of a term and numbers up to 16,383, and refuses a vector of a megabyte.
_MAX_POSITIONS: Final = 255
_MAX_POSITION: Final = 16_383
_MAX_VECTOR_BYTES: Final = 900_000
_WILDCARD: Final = re.compile(r"[%_\\]")
_ESCAPED: Final = r"\\\g<0>"


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
        """Return conditions on `documents` or `document_terms`, alias d, each behind an AND, and their values."""
        mark = "%s" if is_postgresql() else "?"
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
        for label in (json.dumps(one, ensure_ascii=False) for one in self.labels):
            if is_postgresql():  # whose statistics say how many have it, which they do not of a function
                found.append(("d.labels LIKE %s", f"%{_WILDCARD.sub(_ESCAPED, label)}%"))
            else:
                found.append(("instr(d.labels, ?) > 0", label))
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
    count = len(title) + len(body)
    places = [f"{place}A" for place in range(1, min(len(title), _MAX_POSITION) + 1)]
    places += map(str, range(len(places) + 1, min(count, _MAX_POSITION) + 1))
    places += [str(_MAX_POSITION)] * (count - len(places))
    positions: dict[str, list[str]] = {}
    size = 0
    for place, term in zip(places, (*title, *body), strict=True):
        at = positions.get(term)
        if at is None:
            size += len(term.encode()) + 10
            if size > _MAX_VECTOR_BYTES:
                break
            positions[term] = [place]
        elif len(at) < _MAX_POSITIONS:
            size += 2
            at.append(place)
    return " ".join([f"'{term}':{','.join(at)}" for term, at in positions.items()])


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
        return _match_postgresql(words, any_of=any_of, filters=filters, limit=limit)
    query = _fts5_query(words, any_of=any_of)
    # The plus keeps FTS5 from being asked anew for each document that passes.
    inside = f" AND +rowid IN (SELECT d.id FROM documents d WHERE true{where})" if where else ""
    matches = f"FROM documents_fts WHERE documents_fts MATCH ?{inside}"
    sql = (
        "SELECT rowid, count(*) OVER () FROM (SELECT rowid, bm25(documents_fts, 4.0, 1.0) AS score"
        f" {matches} ORDER BY rowid DESC LIMIT {most})"
        " ORDER BY score, rowid DESC LIMIT ?"
    )
    rows = database.execute_sql(sql, [query, *values, limit]).fetchall()
    is_complete = not rows or rows[0][1] < most
    if not is_complete:
        more = f"SELECT 1 {matches} LIMIT 1 OFFSET {most}"
        is_complete = database.execute_sql(more, [query, *values]).fetchone() is None
    return [row[0] for row in rows], is_complete


def _match_postgresql(words: Sequence[Word], *, any_of: bool, filters: Filters, limit: int) -> tuple[list[int], bool]:
    where, values = filters.sql()
    most = most_ranked()
    query = _tsquery(words, any_of=any_of)
    if where and _passes_few(query, where, values):
        # In these words and this order it only reads the terms of what passes.
        rows = _ranked(f"true{where} AND (d.terms @@ %s::tsquery) IS TRUE", [*values, query], words, query, limit)
        return [row[0] for row in rows], not rows or rows[0][1] <= most
    matching = f"d.terms @@ %s::tsquery{where}"
    newest = _newest(2 * most, expected(f"{_TERMS} {matching}", [query, *values]))
    for among in [f"({query}) & ({newest})", query] if newest else [query]:
        with _by_index():
            rows = _ranked(matching, [among, *values], words, query, limit)
        if rows and rows[0][1] > most:
            return [row[0] for row in rows], False
    return [row[0] for row in rows], True


def _ranked(matching: str, values: Sequence[Any], words: Sequence[Word], query: str, limit: int) -> list[Any]:
    """Return the best of the newest documents that match, each with the number of matches up to one too many."""
    most = most_ranked()
    best, parameters = f"(SELECT * FROM newest LIMIT {most}) AS best", [*values]
    # How near to each other the words stand is reckoned for each pair of terms: of very many terms for the documents
    # alone that have them most often.
    terms = sorted({term for word in words for term in word.terms})
    looked_at = max(limit, most * _TERMS_AT_ONCE**2 // len(terms) ** 2)
    if looked_at < most:
        often = "ts_rank(terms, %s::tsquery) DESC, document_id DESC LIMIT %s"
        best = f"(SELECT document_id, terms FROM {best} ORDER BY {often}) AS best"
        parameters += [_tsquery([Word(term) for term in terms], any_of=True), looked_at]
    sql = (
        "WITH newest AS MATERIALIZED"
        f" (SELECT d.document_id, d.terms {_TERMS} {matching} ORDER BY d.document_id + 0 DESC LIMIT {most + 1})"
        f" SELECT document_id, (SELECT count(*) FROM newest) FROM {best}"
        " ORDER BY ts_rank(terms, %s::tsquery) DESC, document_id DESC LIMIT %s"
    )
    return list(database.execute_sql(sql, [*parameters, query, limit]).fetchall())


def _passes_few(query: str, where: str, values: Sequence[Any]) -> bool:
    """Tell whether reading all rows, and the terms of those that pass, is less work than what the index would find."""
    passing = expected(f"{_TERMS} true{where}", values)
    return 8 * passing + expected(f"{_TERMS} true", []) // 3 < expected(f"{_TERMS} d.terms @@ %s::tsquery", [query])


def _newest(wanted: int, matching: int) -> str | None:
    """Return the terms of so many of the newest documents that the wanted number may match; None if of most of them."""
    last = database.execute_sql("SELECT max(document_id) FROM document_terms").fetchone()[0] or 0
    first = last - wanted * last // matching
    if first < last // 2:
        return None
    for size in range(_BLOCK_SIZES):
        bits = _SMALLEST_BLOCK + 2 * size
        blocks = range(first >> bits, (last >> bits) + 1)
        if len(blocks) <= _MAX_BLOCKS:
            return " | ".join(f"'{'#' * (size + 1)}{block}'" for block in blocks)
    return None


def expected(matches: str, values: Sequence[Any]) -> int:
    """Return how many rows PostgreSQL expects, by its statistics."""
    [plan] = database.execute_sql(f"EXPLAIN (FORMAT JSON) SELECT {matches}", values).fetchone()
    return max(int(plan[0]["Plan"]["Plan Rows"]), 1)


def is_common(word: Word) -> bool:
    """Tell whether so many documents have the word that it says little of any of them."""
    if not is_postgresql():
        sql = f"SELECT 1 FROM documents_fts WHERE documents_fts MATCH ? LIMIT 1 OFFSET {_COMMON}"
        return database.execute_sql(sql, (_fts5_query([word], any_of=False),)).fetchone() is not None
    query = _tsquery([word], any_of=False)
    matches = f"{_TERMS} d.terms @@ %s::tsquery"
    # PostgreSQL's own statistics know it without looking; only what is near the bound by them is counted.
    about = expected(matches, [query])
    if not _COMMON < 4 * about < 8 * _COMMON:
        return about > _COMMON
    with _by_index():
        return database.execute_sql(f"SELECT 1 {matches} OFFSET {_COMMON} LIMIT 1", (query,)).fetchone() is not None


@contextmanager
def _by_index() -> Iterator[None]:
    """Have PostgreSQL find matches by an index.

    It takes all terms to be as quickly read as the rows they belong to, though they stand elsewhere.
    """
    database.execute_sql("SET LOCAL enable_seqscan = off")
    yield
    database.execute_sql("SET LOCAL enable_seqscan TO DEFAULT")


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
