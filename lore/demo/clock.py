"""The demo server's time: one clock for rows, tokens, throttled touches and the `Date` header.

Times are integer microseconds since 1970 UTC, as GitLab's database keeps them, and are rendered in milliseconds.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import formatdate

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(text: str) -> int:
    """Return the moment an ISO 8601 text names; one without an offset is UTC."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - EPOCH) // timedelta(microseconds=1)


def iso(at: int) -> str:
    """Return a moment as GitLab's REST answers write it: `2025-06-01T08:00:00.123Z` (cut to ms, never rounded)."""
    seconds, rest = divmod(at, SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1000:03d}Z"


def iso_or_none(at: int | None) -> str | None:
    """Return a moment as `iso` does, or None for none."""
    return None if at is None else iso(at)


def iso_day(at: int) -> str:
    """Return a moment's day, `2025-06-01`."""
    return iso(at)[:10]


def commit_date(at: int, offset_minutes: int) -> str:
    """Return a commit's date in its author's own offset, to the second, as GitLab does for commits only."""
    seconds = at // SECOND
    local = datetime.fromtimestamp(seconds + offset_minutes * 60, UTC)
    sign = "-" if offset_minutes < 0 else "+"
    hours, minutes = divmod(abs(offset_minutes), 60)
    return f"{local:%Y-%m-%dT%H:%M:%S}.000{sign}{hours:02d}:{minutes:02d}"


def http_date(at: int) -> str:
    """Return a moment as the `Date` header writes it."""
    return formatdate(at / SECOND, usegmt=True)


class Clock:
    """A clock that can stand still, run from a chosen moment, or follow the host, and be pushed forward.

    Args:
        mode: `frozen` (stands at `start`), `real` (the host's time), or an ISO 8601 moment to run from.
        start: Where a frozen clock stands.
    """

    def __init__(self, mode: str, start: int) -> None:
        self._stands_at: int | None = None
        self._ahead = 0
        if mode == "frozen":
            self._stands_at = start
        elif mode != "real":
            self._ahead = micros(mode) - _host_time()

    def now(self) -> int:
        """Return the time by this clock."""
        base = _host_time() if self._stands_at is None else self._stands_at
        return base + self._ahead

    def advance(self, seconds: float) -> None:
        """Push the clock forward."""
        self._ahead += round(seconds * SECOND)


def _host_time() -> int:
    return time.time_ns() // 1000
