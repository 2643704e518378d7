"""A page of a list: so many rows behind a place in the list's one order, and the place behind which the next begins.

A place is of a row and not of a number of rows: what comes or goes between two pages moves no other row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
# Where a row stands, unlike any other row: numbers and texts, compared one after the other.
Place = tuple[Any, ...]


@dataclass(frozen=True)
class Page:
    """Which rows of a list are asked for; `after` is None for the first ones."""

    limit: int
    after: Place | None = None


def first_of(rows: Sequence[T], limit: int, place_of: Callable[[T], Place]) -> tuple[list[T], Place | None]:
    """Return at most `limit` of the rows, and the place behind which the others stand; None where there are none."""
    shown = list(rows[:limit])
    return shown, place_of(shown[-1]) if len(rows) > limit else None


def page_of(rows: Sequence[T], page: Page, place_of: Callable[[T], Place]) -> tuple[list[T], Place | None]:
    """Return the page of a whole list in ascending order of its places, and where the next page begins."""
    after = page.after
    left = rows if after is None else [row for row in rows if place_of(row) > after]
    return first_of(left, page.limit, place_of)
