"""What a search by meaning reads: every code of a model at once, and the vectors of the few that are close.

A hundred thousand rows take longer to fetch than to search, so SQLite has them in blocks of 512, and what is not in a
block comes in one row. Where PostgreSQL has pgvector, it compares the codes itself, and none is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from peewee import fn

from models.base import database, is_postgresql
from models.documents import Embedding
from models.fulltext import Filters, expected

_BATCH: Final = 100_000
# As the triggers of migration 0006 have it.
_BLOCK: Final = 512
# So that nobody waits long for the write lock.
_SEALED_AT_ONCE: Final = 8
_CHUNK: Final = 500
_MAX_NEAR: Final = 2_500
_NO_END: Final = 2**63 - 1


def count(model: str) -> int:
    """Return how many vectors of a model there are."""
    return int(Embedding.select().where(Embedding.model == model).count())


def has_any(model: str, *, code_bytes: int) -> bool:
    """Tell whether there is any vector of a model whose code is so long."""
    query = Embedding.select(Embedding.id).where(Embedding.model == model, fn.LENGTH(Embedding.code) == code_bytes)
    return query.limit(1).tuples().first() is not None


class Codes(NamedTuple):
    """Some of the codes of a model, one behind the other: ids and documents are 64-bit numbers, little endian."""

    ids: bytes
    documents: bytes
    codes: bytes


def read_codes(model: str, *, after_id: int, code_bytes: int) -> Iterator[Codes]:
    """Yield the codes whose id is greater, many at once, by id.

    A code of another length is left out: it has another number of dimensions, and so cannot be of this model, whatever
    is said.
    """
    if not is_postgresql():
        sql = (
            "SELECT block, ids, documents, codes FROM code_blocks"
            " WHERE model = ? AND block >= ? AND code_bytes = ? ORDER BY block"
        )
        for block, *found in database.execute_sql(sql, (model, -(-after_id // _BLOCK), code_bytes)):
            if after_id < block * _BLOCK:
                yield from _read_rows(model, after_id, block * _BLOCK, code_bytes)
            yield Codes(*found)
            after_id = (block + 1) * _BLOCK
    yield from _read_rows(model, after_id, _NO_END, code_bytes)


def seal(model: str) -> bool:
    """Write some of the blocks that are full and not there, in the caller's transaction; True: there are more.

    Codes as long as the newest. PostgreSQL has no blocks: one could be written without the rows that another
    transaction is still writing into it.
    """
    if is_postgresql():
        return False
    sql = "SELECT id, length(code) FROM embeddings WHERE model = ? ORDER BY id DESC LIMIT 1"
    newest = database.execute_sql(sql, (model,)).fetchone()
    if newest is None:
        return False
    last, code_bytes = newest
    # The last one still grows; into one before it no row ever comes, as an id is greater than all that were there.
    growing = (last - 1) // _BLOCK
    sql = "SELECT block FROM code_blocks WHERE model = ? AND block < ? AND code_bytes = ? ORDER BY block"
    first, left = 0, _SEALED_AT_ONCE
    for sealed in [*(row[0] for row in database.execute_sql(sql, (model, growing, code_bytes))), growing]:
        while first < sealed and (found := _least(model, first * _BLOCK, sealed * _BLOCK)) is not None:
            if not left:
                return True
            _write_block(model, (found - 1) // _BLOCK, code_bytes)
            first, left = (found - 1) // _BLOCK + 1, left - 1
        first = sealed + 1
    return False


def _least(model: str, after_id: int, last_id: int) -> int | None:
    sql = "SELECT min(id) FROM embeddings WHERE model = ? AND id > ? AND id <= ?"
    found: int | None = database.execute_sql(sql, (model, after_id, last_id)).fetchone()[0]
    return found


def _write_block(model: str, block: int, code_bytes: int) -> None:
    found = list(_read_rows(model, block * _BLOCK, (block + 1) * _BLOCK, code_bytes)) or [Codes(b"", b"", b"")]
    (codes,) = found
    sql = "INSERT INTO code_blocks (model, block, code_bytes, ids, documents, codes) VALUES (?, ?, ?, ?, ?, ?)"
    database.execute_sql(sql, (model, block, code_bytes, *codes))


def delete_blocks_but(model: str) -> None:
    """Delete the blocks of every other model: whose rows are all deleted next finds none to delete with each."""
    if not is_postgresql():
        database.execute_sql("DELETE FROM code_blocks WHERE model <> ?", (model,))


def _read_rows(model: str, after_id: int, last_id: int, code_bytes: int) -> Iterator[Codes]:
    """Yield what the rows behind an id hold, up to another; the database puts them together."""
    mark = "%s" if is_postgresql() else "?"
    batch = (
        f"SELECT id, document_id, code FROM embeddings WHERE model = {mark} AND id > {mark} AND id <= {mark}"
        f" AND length(code) = {mark} ORDER BY id LIMIT {_BATCH}"
    )
    if is_postgresql():
        columns = "string_agg(id::text, ','), string_agg(document_id::text, ','), string_agg(code, ''::bytea)"
    else:
        # A cast changes no byte, and only texts are put together.
        columns = "group_concat(id), group_concat(document_id), CAST(group_concat(CAST(code AS TEXT), '') AS BLOB)"
    sql = f"SELECT max(id), {columns} FROM ({batch}) AS batch"
    while True:
        last, ids, documents, codes = database.execute_sql(sql, (model, after_id, last_id, code_bytes)).fetchone()
        if last is None:
            return
        after_id = last
        yield Codes(_packed(ids), _packed(documents), bytes(codes))


def _packed(listed: str) -> bytes:
    numbers = listed.split(",")
    return struct.pack(f"<{len(numbers)}q", *map(int, numbers))


def has_pgvector() -> bool:
    """Tell whether this database compares codes itself."""
    # The operator and not the extension: that may stand in a schema which is not looked at.
    sql = "SELECT to_regoperator('<~>(bit,bit)') IS NOT NULL"
    return is_postgresql() and bool(database.execute_sql(sql).fetchone()[0])


def pgvector_version() -> str | None:
    """Return the version of the extension that PostgreSQL has, whether or not `has_pgvector`."""
    row = database.execute_sql("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
    return None if row is None else str(row[0])


def closest(model: str, code: bytes, *, filters: Filters, limit: int) -> list[int]:
    """Return the vectors whose codes differ from this one in the fewest bits, of the documents that pass.

    pgvector is asked; it looks at every code, so that no filter ever leaves too few.
    """
    where, values = filters.sql()
    # Codes of two lengths cannot be compared, and one of another length is of another model, whatever is said. Not a
    # condition: PostgreSQL would expect it to leave next to nothing, and plan for that.
    compared = (
        "SELECT e.id, e.document_id, CASE WHEN length(e.signs) = %s THEN e.signs <~> %s::varbit END AS distance"
        " FROM embeddings e"
    )
    parameters: list[Any] = [8 * len(code), f"x{code.hex()}", model]
    ordered = "WHERE distance IS NOT NULL ORDER BY distance, id LIMIT %s"
    if not where:
        # To order few is a third less work, and what is meant is nearly always closer than this.
        for bound in (len(code) * 8 * 2 // 5, len(code) * 8):
            sql = f"SELECT id FROM ({compared} WHERE e.model = %s OFFSET 0) AS compared WHERE distance <= %s"
            sql += " ORDER BY distance, id LIMIT %s"
            rows = database.execute_sql(sql, [*parameters, bound, limit]).fetchall()
            if len(rows) == limit:
                break
        return [row[0] for row in rows]
    # Where much passes, to look up those that are close is less work than to join all.
    near = (
        2 * limit * expected("FROM document_terms", []) // expected(f"FROM document_terms d WHERE true{where}", values)
    )
    if near <= _MAX_NEAR:
        sql = (
            f"SELECT id FROM (SELECT * FROM ({compared} WHERE e.model = %s OFFSET 0) AS compared {ordered}) AS near"
            f" JOIN document_terms d USING (document_id) WHERE true{where} ORDER BY distance, id LIMIT %s"
        )
        rows = database.execute_sql(sql, [*parameters, near, *values, limit]).fetchall()
        if len(rows) == limit:
            return [row[0] for row in rows]
    # The OFFSET has it first filter, and then order what is left: it would order all, to look up one after the other.
    sql = (
        f"SELECT id FROM ({compared} JOIN document_terms d USING (document_id) WHERE e.model = %s{where} OFFSET 0)"
        f" AS passing {ordered}"
    )
    return [row[0] for row in database.execute_sql(sql, [*parameters, *values, limit]).fetchall()]


def read_vectors(ids: Sequence[int]) -> list[tuple[int, int, bool, bytes]]:
    """Return id, document, whether it is of the document's present text, and vector of those that are still there."""
    # Written down here, and not by peewee anew for each search.
    sql = (
        "SELECT e.id, e.document_id, e.content_hash = d.content_hash, e.vector"
        " FROM embeddings e JOIN documents d ON d.id = e.document_id WHERE e.id "
    )
    if is_postgresql():  # which plans a statement for any number of them only once
        return list(database.execute_sql(f"{sql} = ANY(%s)", (list(ids),)).fetchall())
    found: list[tuple[int, int, bool, bytes]] = []
    for start in range(0, len(ids), _CHUNK):
        some = list(ids[start : start + _CHUNK])
        rows = database.execute_sql(f"{sql} IN ({', '.join('?' * len(some))})", some).fetchall()
        found += [(number, document_id, bool(is_current), vector) for number, document_id, is_current, vector in rows]
    return found


def filtered_ids(filters: Filters) -> str:
    """Return the ids of the documents that pass, as one text with commas between."""
    where, values = filters.sql()
    if is_postgresql():
        listed = "string_agg(d.document_id::text, ',') FROM document_terms d"
    else:
        listed = "group_concat(d.id) FROM documents d"
    row: Any = database.execute_sql(f"SELECT {listed} WHERE true{where}", values).fetchone()
    return row[0] or ""
