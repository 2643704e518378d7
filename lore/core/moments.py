"""Moments as people name them, and as answers do."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

_UNIT_MS: Final = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_AGO: Final = re.compile(r"([0-9]{1,6})([mhdw])")


def parse_moment(text: str, *, now: int) -> int:
    """Return a moment in ms: `2026-11-01`, `2026-11-01T08:30`, with an offset or else in UTC, or `45m 12h 7d 2w` ago.

    Raises:
        ValueError: It is none; the message says what is allowed.
    """
    said = text.strip()
    ago = _AGO.fullmatch(said)
    if ago is not None:
        return now - int(ago[1]) * _UNIT_MS[ago[2]]
    try:
        at = datetime.fromisoformat(said)
        at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        return int(at.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise ValueError(
            "a date such as 2026-11-01, a time such as 2026-11-01T08:30Z, or 45m, 12h, 7d, 2w ago"
        ) from None


def iso(at_ms: int | None) -> str | None:
    """Return a time in ms as ISO 8601 with milliseconds and `Z`."""
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
