"""Which hit comes first, and what of its text is shown."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from lore.core.terms import runs

T = TypeVar("T", bound=Hashable)

# The usual constant: a list's first place is worth hardly more than its second, two lists' places more than one's.
_SMOOTHING: Final = 60
_MAX_RUNS: Final = 20_000
_BEFORE: Final = 60


@dataclass(frozen=True)
class Snippet:
    """A piece of a text on one line.

    Attributes:
        text: The piece; an ellipsis stands where it was cut.
        marks: Where in `text` the query's words stand, as (start, end) in order. Offsets, as any sign that marks them
            could be in the text itself.
    """

    text: str
    marks: tuple[tuple[int, int], ...] = ()


def fuse(rankings: Mapping[str, Sequence[T]]) -> list[tuple[T, float, dict[str, int]]]:
    """Return every item of the rankings by reciprocal rank fusion: the item, its score, its rank from 1 in each.

    Of two with one score, the one that an earlier ranking names first comes first.
    """
    ranks: dict[T, dict[str, int]] = {}
    for name, ranking in rankings.items():
        for rank, item in enumerate(ranking, start=1):
            ranks.setdefault(item, {}).setdefault(name, rank)
    scored = [(item, sum(1 / (_SMOOTHING + rank) for rank in by.values()), by) for item, by in ranks.items()]
    return sorted(scored, key=lambda one: -one[1])


def snippet(text: str, terms: Collection[str], *, width: int = 200) -> Snippet:
    """Return the piece of a text where most of the terms stand close together; its beginning where none does."""
    wanted = frozenset(terms)
    found: list[tuple[int, int, frozenset[str]]] = []
    missing = set(wanted)
    for index, (start, end, own) in enumerate(runs(text)):
        if index > _MAX_RUNS or (not missing and found and start > found[-1][0] + width):
            break
        met = wanted.intersection(own)
        if met:
            found.append((start, end, met))
            missing -= met
    return _cut(text, _best_start(found, width), width, [(start, end) for start, end, _ in found])


def snippet_of(text: str, needle: str, *, width: int = 200) -> Snippet:
    """Return the piece of a text around a string that stands in it."""
    start = text.find(needle)
    marks = [(start, start + len(needle))] if start >= 0 else []
    return _cut(text, max(start, 0), width, marks)


def _best_start(found: Sequence[tuple[int, int, frozenset[str]]], width: int) -> int:
    best, most = 0, 0
    for index, (start, _, _) in enumerate(found):
        met: set[str] = set()
        for other_start, _, terms in found[index:]:
            if other_start > start + width - _BEFORE:
                break
            met |= terms
        if len(met) > most:
            best, most = start, len(met)
    return best


def _cut(text: str, around: int, width: int, marks: Sequence[tuple[int, int]]) -> Snippet:
    start = max(around - _BEFORE, 0)
    if start:
        space = text.find(" ", start, around)
        start = space + 1 if space >= 0 else start
    end = min(start + width, len(text))
    piece = "".join(" " if char.isspace() else char for char in text[start:end]).rstrip()
    before = "…" if start else ""
    after = "…" if end < len(text) and text[end:].strip() else ""
    shift = len(before) - start
    inside = [(max(a, start), min(b, start + len(piece))) for a, b in marks]
    return Snippet(f"{before}{piece}{after}", tuple((a + shift, b + shift) for a, b in inside if a < b))
