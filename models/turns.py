"""Turns at SQLite's one write lock.

SQLite's own wait sleeps longer and longer, up to 100 ms, and knows no order: of many threads that write for a
millisecond each, most of the time went by in its sleeps. Here the threads of a process wait for one another at a lock
that wakes them, and only the one whose turn it is looks at SQLite's, often.

A turn begins with BEGIN IMMEDIATE and ends with its COMMIT or ROLLBACK, before anything that follows a commit.
"""

from __future__ import annotations

import sqlite3
import threading
from time import monotonic, sleep
from typing import Final

import peewee

LOOK_EVERY_S: Final = 0.001

_turn = threading.Lock()
_mine = threading.local()


def take(within_s: float) -> None:
    """Wait until no other thread of this process has its turn.

    Raises:
        peewee.OperationalError: It did not come to that in time.
    """
    if not _turn.acquire(timeout=within_s):
        raise peewee.OperationalError("database is locked")
    _mine.is_held = True


def pass_on() -> None:
    """End this thread's turn, if it has one."""
    if getattr(_mine, "is_held", False):
        _mine.is_held = False
        _turn.release()


def begin_immediate(connection: sqlite3.Connection, within_s: float) -> None:
    """Begin a writing transaction as soon as no other process is in one.

    Raises:
        sqlite3.OperationalError: Others were, all the time.
    """
    until = monotonic() + within_s
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or monotonic() >= until:
                    raise
            sleep(LOOK_EVERY_S)
    finally:
        connection.execute(f"PRAGMA busy_timeout = {round(within_s * 1000)}")
