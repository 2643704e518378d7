"""Statements that are composed once and executed by the hundred; elsewhere a plain query reads better.

Peewee composes a statement anew for each call, which takes several times as long as the database takes to execute it.
What has a fixed shape is a `Prepared` query of Peewee's; what has the columns that GitLab's answer happened to have is
`upsert`ed, `insert`ed or `update`d by their names. Names are our own tables' and columns'; values are parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import peewee

from models.base import Table, clock, database, is_postgresql

if TYPE_CHECKING:
    import msgspec

_NOW: Final = "now"
_ROWS_AT_ONCE: Final = 200


class _Given(str):
    """Stands for a value that each execution brings."""

    __slots__ = ()


def given(name: str) -> peewee.Value:
    """Return the place in a query of the value that `execute` is given by this name, as the database takes it."""
    return peewee.Value(_Given(name), converter=False)


def moment() -> Any:
    """Return the database's clock as an expression, read at each execution; see `models.base.clock`."""
    return clock() if is_postgresql() else given(_NOW)


class Prepared:
    """A query, and what it looks like on each database.

    Args:
        build: Returns the query; it is called once for each kind of database.
    """

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build = build
        self._written: dict[bool, tuple[str, list[Any]]] = {}

    def execute(self, **values: Any) -> Any:
        """Execute it on this thread's connection and return the cursor; `rowcount` says how many rows it changed."""
        kind = is_postgresql()
        if kind not in self._written:
            text, parameters = self._build().sql()
            self._written[kind] = (text, list(parameters))
        text, parameters = self._written[kind]
        if not kind:
            values[_NOW] = clock().value
        return database.execute_sql(text, [values[one] if type(one) is _Given else one for one in parameters])

    def row(self, **values: Any) -> Any:
        """Return the first row as a tuple; None if there is none."""
        return self.execute(**values).fetchone()

    def changed(self, **values: Any) -> int:
        """Return how many rows it changed."""
        return int(self.execute(**values).rowcount)


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
        database.execute_sql(sql, (_encoder().encode(rows).decode(),))
    else:
        database.execute_many(sql, list(map(itemgetter(*rows[0]), rows)))


def insert(table: type[Table], columns: Mapping[str, Any]) -> int:
    """Insert one row, by the names of its columns, in the caller's transaction; return its id."""
    cursor = database.execute_sql(
        _insert_sql(table._meta.table_name, tuple(columns), is_postgresql=is_postgresql()), tuple(columns.values())
    )
    return int(cursor.fetchone()[0] if is_postgresql() else cursor.lastrowid)


def insert_many(table: type[Table], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows that no row is in the way of, by the names of their columns, all with the same ones in one order."""
    if not rows:
        return
    names = tuple(rows[0])
    values = list(map(itemgetter(*names), rows))
    if not is_postgresql():
        database.execute_many(_insert_sql(table._meta.table_name, names, is_postgresql=False), values)
        return
    for start in range(0, len(values), _ROWS_AT_ONCE):
        some = values[start : start + _ROWS_AT_ONCE]
        marks = ", ".join([f"({', '.join(['%s'] * len(names))})"] * len(some))
        columns = ", ".join(f'"{name}"' for name in names)
        database.execute_sql(f"INSERT INTO {table._meta.table_name} ({columns}) VALUES {marks}", list(chain(*some)))


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


@lru_cache(maxsize=1)
def _encoder() -> msgspec.json.Encoder:
    import msgspec  # noqa: PLC0415  # a search writes nothing

    # A moment is a kind of int that the encoder does not know.
    return msgspec.json.Encoder(enc_hook=int)
