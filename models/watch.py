"""Noticing that somebody else changed the database."""

from __future__ import annotations

import time

from models.base import database, is_postgresql, storage_errors
from models.ledger import RunEvent


class Watch:
    """Tells whether another connection committed since the last look; a busy database is a BusyError.

    SQLite counts commits of other connections (`PRAGMA data_version`, a read of a few bytes). PostgreSQL has no such
    counter: there it is the newest line of any run's timeline, and what writes none is noticed by the caller's sweep.
    """

    def __init__(self) -> None:
        self._seen: int | None = None  # the first look finds a change: it costs its caller a look at the ledger

    def has_changed(self) -> bool:
        """Look once."""
        version = self._version()
        has_changed, self._seen = version != self._seen, version
        return has_changed

    def wait(self, poll_s: float, *, timeout_s: float) -> bool:
        """Look every `poll_s` seconds until something changed; False when nothing had after `timeout_s`."""
        if is_postgresql():
            poll_s = max(poll_s, 0.05)
        until = time.monotonic() + timeout_s
        while not self.has_changed():
            if time.monotonic() >= until:
                return False
            time.sleep(poll_s)
        return True

    def _version(self) -> int:
        with storage_errors():
            if is_postgresql():
                return int(RunEvent.select(RunEvent.id).order_by(RunEvent.id.desc()).limit(1).scalar() or 0)
            return int(database.execute_sql("PRAGMA data_version").fetchone()[0])
