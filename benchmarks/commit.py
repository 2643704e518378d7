"""Measure the commit of 100 merge requests with 50 notes and 20 files each, beside the bare insertion of its rows.

    python benchmarks/commit.py [--quick] [--json FILE]

A round commits a staged run into an empty mirror, reads the content rows it wrote, and inserts the same into the same
tables of another empty mirror: with `executemany` of Python's own sqlite3 on SQLite, with `COPY` on PostgreSQL, in one
transaction. Then it commits the same answers once more, every row of which is there already. What is taken from the
clock is the whole actor, and its writing transaction, during which the lock is held, by itself.
"""

from __future__ import annotations

import gc
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import rows
import staged
from stand import postgresql_running

from models import base
from models.content import CHILD_TABLES, MergeRequest
from models.ledger import Project

TABLES: tuple[Any, ...] = (MergeRequest, *CHILD_TABLES)
WANTED = {"sqlite": 0.4, "postgresql": 0.25}
BARE = {"sqlite": "sqlite3.executemany", "postgresql": "COPY"}


@dataclass
class Taken:
    """What the rounds took, in seconds."""

    written: int = 0
    first: list[float] = field(default_factory=list)
    first_locked: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    again_locked: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)


def measure(url: str, bare_url: str, pages: dict[int, dict[str, list[bytes]]], rounds: int) -> Taken:
    """Commit the pages into an empty mirror and insert the same rows barely, by turns."""
    taken = Taken()
    for nth in range(rounds + 1):
        where = f"{url}{nth}.db" if url.startswith("sqlite") else url
        staged.empty(where)
        whole, locked = commit(staged.stage(pages))
        found = {table: list(table.select().tuples()) for table in TABLES}
        again, again_locked = commit(staged.stage(pages))
        project = list(Project.select().tuples())
        bare_where = f"{bare_url}{nth}.db" if url.startswith("sqlite") else url
        staged.empty(bare_where)
        bare = insert(bare_where, found, project)
        if nth:  # the first round loads what a process loads once
            taken.written = sum(map(len, found.values()))
            taken.first.append(whole)
            taken.first_locked.append(locked)
            taken.again.append(again)
            taken.again_locked.append(again_locked)
            taken.bare.append(bare)
    base.disconnect()
    return taken


def commit(run_id: str) -> tuple[float, float]:
    """Commit a run; return how long the actor took, and its longest transaction."""
    from workers import commit as module
    from workers.runs import has_ended

    longest = 0.0

    @contextmanager
    def timed() -> Iterator[None]:
        nonlocal longest
        with base.write():
            began = time.perf_counter()
            yield
        longest = max(longest, time.perf_counter() - began)

    gc.collect()
    with patch.object(module, "write", timed):
        began = time.perf_counter()
        module.commit.fn(run_id)
        whole = time.perf_counter() - began
    assert has_ended(run_id)
    return whole, longest


def insert(url: str, found: dict[Any, list[tuple[Any, ...]]], project: list[tuple[Any, ...]]) -> float:
    """Insert rows into an empty mirror as fast as the driver can; return how long it took, in seconds."""
    base.disconnect()
    everything = {Project: project, **found}
    gc.collect()
    if url.startswith("sqlite"):
        connection = sqlite3.connect(base.sqlite_path(url), isolation_level=None)
        for pragma in ("journal_mode = wal", "synchronous = normal", "foreign_keys = 1"):
            connection.execute(f"PRAGMA {pragma}")
        began = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        for table, values in everything.items():
            marks = ", ".join("?" * len(table._meta.sorted_fields))
            connection.executemany(f"INSERT INTO {table._meta.table_name} ({_columns(table)}) VALUES ({marks})", values)
        connection.execute("COMMIT")
        took = time.perf_counter() - began
        connection.close()
        return took
    import psycopg

    with psycopg.connect(url) as opened, opened.cursor() as cursor:
        began = time.perf_counter()
        for table, values in everything.items():
            with cursor.copy(f"COPY {table._meta.table_name} ({_columns(table)}) FROM STDIN") as copy:
                for row in values:
                    copy.write_row(row)
        opened.commit()
        return time.perf_counter() - began


def _columns(table: Any) -> str:
    return ", ".join(f'"{one.column_name}"' for one in table._meta.sorted_fields)


def rows_of(database: str, taken: Taken) -> list[rows.Row]:
    """Return what is reported of one database."""
    name = staged.DATABASES[database]
    bare = taken.written / rows.median(taken.bare)
    wanted = WANTED[database]
    found = []
    for what, values, is_wanted in (
        ("a commit of new merge requests", taken.first, True),
        ("its transaction, the lock held", taken.first_locked, False),
        ("the same once more, all there already", taken.again, False),
        ("its transaction, the lock held", taken.again_locked, False),
    ):
        speed = taken.written / rows.median(values)
        found.append(
            rows.Row(
                f"{name}: {what}",
                speed,
                "rows/s",
                BARE[database],
                bare,
                wanted=f">= {wanted:g}" if is_wanted else None,
                met=speed / bare >= wanted if is_wanted else None,
            )
        )
    return found


def main() -> None:
    arguments = rows.arguments(__doc__).parse_args()
    made = staged.MergeRequests(notes=50, files=20)
    pages = {iid: made.pages(iid) for iid in range(1, 51 if arguments.quick else 101)}
    rounds = 2 if arguments.quick else 7
    with tempfile.TemporaryDirectory(prefix="lore-bench-") as folder, postgresql_running() as url:
        found = rows_of("sqlite", measure(f"sqlite://{folder}/commit", f"sqlite://{folder}/bare", pages, rounds))
        found += rows_of("postgresql", measure(url, url, pages, rounds))
    rows.show(found)
    rows.write(arguments.json, Path(__file__).stem, found)


if __name__ == "__main__":
    main()
