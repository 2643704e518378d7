"""Statements that a commit executes by the hundred, composed once for a table and its columns.

Peewee composes a statement anew for each call, which takes several times as long as the database takes to execute it.
Names are our own tables' and columns'; values are parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final

import msgspec

from models.base import Table, database, is_postgresql


def upsert(table: type[Table], key: tuple[str, ...], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, and update those whose key is there already, in the caller's transaction.

    Args:
        table: The table.
        key: The columns of a unique index; no two of the rows have the same.
        rows: By the names of the columns, all with the same ones in the same order.
    """
    if not rows:
        return
    sql = _upsert_sql(table._meta.table_name, key, tuple(rows[0]), is_postgresql=is_postgresql())
    if is_postgresql():
        # One value and one round trip, whatever the number of rows; their types are the table's.
        database.execute_sql(sql, (_JSON.encode(rows).decode(),))
    else:
        database.execute_many(sql, list(map(itemgetter(*rows[0]), rows)))


def insert(table: type[Table], columns: Mapping[str, Any]) -> int:
    """Insert one row, by the names of its columns, in the caller's transaction; return its id."""
    cursor = database.execute_sql(
        _insert_sql(table._meta.table_name, tuple(columns), is_postgresql=is_postgresql()), tuple(columns.values())
    )
    return int(cursor.fetchone()[0] if is_postgresql() else cursor.lastrowid)


def update(table: type[Table], row_id: int, columns: Mapping[str, Any]) -> None:
    """Update one row, by the names of its columns, in the caller's transaction."""
    changes = ", ".join(f'"{name}" = ?' for name in columns)
    execute(f"UPDATE {table._meta.table_name} SET {changes} WHERE id = ?", *columns.values(), row_id)


def execute(sql: str, *values: Any) -> Any:
    """Execute a statement, each of whose values is a `?` in it, and return its cursor."""
    return database.execute_sql(sql.replace("?", "%s") if is_postgresql() else sql, values)


@lru_cache
def _insert_sql(table: str, names: tuple[str, ...], *, is_postgresql: bool) -> str:
    columns = ", ".join(f'"{name}"' for name in names)
    marks = ", ".join(["%s" if is_postgresql else "?"] * len(names))
    # Not every SQLite in use knows RETURNING.
    return f"INSERT INTO {table} ({columns}) VALUES ({marks}){' RETURNING id' if is_postgresql else ''}"


@lru_cache
def _upsert_sql(table: str, key: tuple[str, ...], names: tuple[str, ...], *, is_postgresql: bool) -> str:
    columns = ", ".join(f'"{name}"' for name in names)
    changes = ", ".join(f'"{name}" = excluded."{name}"' for name in names if name not in key)
    if is_postgresql:
        values = f"SELECT {columns} FROM json_populate_recordset(NULL::{table}, %s::json)"
    else:
        values = f"VALUES ({', '.join('?' * len(names))})"
    return f"INSERT INTO {table} ({columns}) {values} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}"


# A moment is a kind of int that the encoder does not know.
_JSON: Final = msgspec.json.Encoder(enc_hook=int)
