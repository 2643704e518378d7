"""Queries that are written down once: peewee takes longer to write one down than SQLite takes to answer it.

For what is asked of every task of a run, of which a sync has thousands; elsewhere a plain query reads better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peewee

from models.base import clock, database, is_postgresql

_NOW = "now"


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
