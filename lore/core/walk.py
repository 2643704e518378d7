"""The walk of an incremental sync through a GitLab list, and how far it may be believed.

A list is sorted by `updated_at` and always asked for from its first page, from the last moment seen on (inclusive), so
every page is one snapshot of all that is newer. A row can only move towards the end: it is met again or still to come,
never passed over. Times are integer milliseconds of GitLab's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from lore.core.errors import CODES
from lore.core.plan import Entity
from lore.core.staleness import CLOCK_SKEW_MS, THROTTLED_TOUCH_MS, is_same_moment, is_settled

# What GitLab may still change without moving `updated_at`, or write late under an earlier moment, is listed again.
OVERLAP_MS: Final = THROTTLED_TOUCH_MS + CLOCK_SKEW_MS
CHILD_SIZE: Final = 100
# A page more would seldom fit, and would cost a request for the few rows of it that do.
CHILD_IS_FULL: Final = 90
# An entity that killed its commit, or was waited for too long, is tried by itself: it keeps no other out again.
_TRIED_ALONE: Final = frozenset({"POISON", "RUN_DEADLINE", "INGEST_FAILED"})
# A child that ended with one of these has said something of its entities; any other says something of us or GitLab.
DEBT_CODES: Final = frozenset({"SURGICAL_PREFLIGHT_FAILED", "INTERNAL", *_TRIED_ALONE})
_FIRST_WAIT_MS: Final = 60_000
_LONGEST_WAIT_MS: Final = 6 * 3_600_000


@dataclass(frozen=True)
class Row:
    """One row of a list."""

    iid: int
    updated_at: int


@dataclass(frozen=True)
class Position:
    """How far a walk has come: to this moment, of which it has met these iids. None: nowhere yet."""

    at: int | None = None
    seen: frozenset[int] = frozenset()

    def behind(self, row: Row) -> Position:
        """Return the position behind a row."""
        if row.updated_at == self.at:
            return Position(self.at, self.seen | {row.iid})
        return Position(row.updated_at, frozenset({row.iid}))

    def has_met(self, row: Row) -> bool:
        """Tell whether the row was met already, in this very version."""
        return row.updated_at == self.at and row.iid in self.seen


@dataclass(frozen=True)
class Local:
    """What the mirror holds of an entity; `observed_at` is the earliest of all its parts, by the database's clock."""

    updated_at: int
    observed_at: int
    is_deleted: bool = False


def is_in_order(position: Position, rows: Sequence[Row]) -> bool:
    """Tell whether a page is sorted as asked for, and begins no earlier."""
    moments = [row.updated_at for row in rows]
    if moments != sorted(moments):
        return False
    # An answer without milliseconds shows the beginning of its second.
    return not moments or position.at is None or moments[0] // 1000 * 1000 >= position.at // 1000 * 1000


def is_current(row: Row, local: Local | None, *, ahead_ms: int) -> bool:
    """Tell whether the mirror holds this version, or a newer one, and nothing of it can have changed unseen since.

    Args:
        row: What the list says.
        local: What the mirror holds.
        ahead_ms: How far the database's clock is ahead of GitLab's; a clock behind makes nothing settled.
    """
    if local is None or local.is_deleted:
        return False
    if local.updated_at < row.updated_at and not is_same_moment(local.updated_at, row.updated_at):
        return False
    return is_settled(local.updated_at, local.observed_at - max(ahead_ms, 0))


def moment_span_ms(at: int) -> int:
    """Return how long the moment is that a shown `updated_at` stands for: one without milliseconds, a second."""
    return 1_000 if at % 1_000 == 0 else 1


def bound_of(date_ms: int) -> int:
    """Return what the cursor never passes, given GitLab's clock at the walk's first request."""
    return date_ms - OVERLAP_MS


def debt_wait_ms(tries: int) -> int:
    """Return how long a debt waits after so many tries: from a minute, doubled, to six hours."""
    return min(_FIRST_WAIT_MS * int(2 ** min(tries - 1, 20)), _LONGEST_WAIT_MS)


def debt_batches(debts: Iterable[tuple[Entity, str]]) -> list[list[Entity]]:
    """Return debts, each with its error code, as the entities of the children that try them again."""
    ordered = sorted(debts)
    together = [entity for entity, code in ordered if code not in _TRIED_ALONE]
    alone = [[entity] for entity, code in ordered if code in _TRIED_ALONE]
    return [together[start : start + CHILD_SIZE] for start in range(0, len(together), CHILD_SIZE)] + alone


def is_of_its_entities(error_code: str | None) -> bool:
    """Tell whether a child that failed so leaves debts; else all of it is to be walked again."""
    code = CODES.get(error_code or "")
    return error_code in DEBT_CODES and code is not None and not code.dooms_run


def timestamp(at: int) -> str:
    """Return a moment as GitLab's parameters take it."""
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
