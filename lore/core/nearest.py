"""Which known names a mistyped one may stand for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

# Below three letters everything is near everything.
SHORTEST: Final = 3
# From so many letters on two slips are still the same word.
LONG: Final = 6


def near(word: str, known: Iterable[str]) -> list[str]:
    """Return the known names that a word may stand for, in alphabetical order.

    A name that differs only in case, in `_` for `-` or in the dashes before it is the one. Otherwise every name is one
    that a slip away is: a letter too many, too few, another one, or two neighbours swapped; two slips in a long word.
    All of them count, also the farther ones: who corrects must not choose.
    """
    spelt = _bare(word)
    names = sorted(set(known))
    same = [name for name in names if _bare(name) == spelt]
    if same or len(spelt) < SHORTEST:
        return same
    slips = 2 if len(spelt) >= LONG else 1
    return [name for name in names if len(_bare(name)) >= SHORTEST and distance(spelt, _bare(name)) <= slips]


def distance(one: str, other: str) -> int:
    """Return how many slips lie between two words, where no letter is touched twice."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, start=1):
        before, above, row = row, before, [i]
        for j, right in enumerate(other, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (left != right))
            if i > 1 and j > 1 and left == other[j - 2] and one[i - 2] == right:
                cost = min(cost, above[j - 2] + 1)
            row.append(cost)
    return row[-1]


def _bare(name: str) -> str:
    return name.lstrip("-").replace("_", "-").casefold()
