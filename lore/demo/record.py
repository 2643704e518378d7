"""The log of what was asked, for tests and benchmarks to look at."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import asdict, dataclass
from typing import Any

KEPT_ENTRIES = 500_000


@dataclass(slots=True)
class Entry:
    """One request. Times are seconds of a monotonic clock; `status` is 0 while, or if never, it is answered."""

    number: int
    method: str
    path: str
    query: str
    route: str
    kind: str | None
    iid: int | None
    page: int
    token: str
    connection: int
    started: float
    ended: float = 0.0
    status: int = 0
    size_bytes: int = 0
    is_violation: bool = False


class Record:
    """Counts requests, the newest 500,000 of them, and watches who keeps asking during a 429's wait."""

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque(maxlen=KEPT_ENTRIES)
        self.peak = 0
        self._active = 0
        self._connections: set[int] = set()
        self._paused_until: dict[str, float] = {}

    def begin(self, entry: Entry) -> None:
        """Note that a request has come."""
        self.entries.append(entry)
        self._active += 1
        self.peak = max(self.peak, self._active)
        self._connections.add(entry.connection)
        entry.is_violation = entry.started < self._paused_until.get(entry.token, 0.0)

    def end(self, entry: Entry, status: int, size_bytes: int) -> None:
        """Note that it was answered."""
        entry.ended = time.monotonic()
        entry.status = status
        entry.size_bytes = size_bytes
        self._active -= 1

    def pause(self, token: str, seconds: float) -> None:
        """Remember that the token's holder was told to wait; a request before then is a violation."""
        self._paused_until[token] = time.monotonic() + seconds

    def clear(self) -> None:
        """Forget everything but what is under way."""
        self.entries.clear()
        self.peak = self._active
        self._connections.clear()
        self._paused_until.clear()

    def log(self) -> list[dict[str, Any]]:
        """Return every request as a JSON object."""
        return [asdict(entry) for entry in self.entries]

    def stats(self) -> dict[str, Any]:
        """Return totals; a duplicate is a request for a URL that the same token had asked for before."""
        asked = Counter((entry.method, entry.path, entry.query, entry.token) for entry in self.entries)
        return {
            "requests": len(self.entries),
            "by_route": dict(Counter(entry.route for entry in self.entries)),
            "by_status": {str(code): count for code, count in Counter(e.status for e in self.entries).items()},
            "duplicates": sum(count - 1 for count in asked.values()),
            "peak_concurrency": self.peak,
            "connections": len(self._connections),
            "violations": sum(entry.is_violation for entry in self.entries),
            "size_bytes": sum(entry.size_bytes for entry in self.entries),
        }
