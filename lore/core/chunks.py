"""A text in chunks of so many tokens, each beginning a little before the last one ends.

A chunk ends where the text does by itself, at a paragraph, a line or a word, if that is near enough. So, after a
change, the chunks of what follows are mostly the same again, and keep their vectors.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Final

# After what a chunk likes to end, the best first.
_ENDS: Final = tuple(re.compile(pattern) for pattern in (r"\n[^\S\n]*\n\s*", r"\n\s*", r"\s+"))
# How much of its tokens a chunk may give up for a good end.
_GIVEN_UP: Final = 0.4
_ESTIMATED: Final = re.compile(r"[A-Za-z0-9_]{1,4}|[^\S\n]{1,4}|\n|[^\s]")


def split(text: str, starts: Sequence[int], *, limit: int, overlap: int) -> list[str]:
    """Return the chunks in the order of the text; together they hold all of it but blanks.

    Args:
        text: Any text.
        starts: Where each of its tokens begins, in characters, in order; several may begin at the same character.
        limit: The most tokens of a chunk; only a single character can have more.
        overlap: How many of the last tokens of a chunk the next one has again, at most; less than 0.6 of the limit.

    Raises:
        ValueError: With this overlap there is no way forward.
    """
    if not 0 <= overlap < limit * (1 - _GIVEN_UP):
        raise ValueError("the overlap of chunks must be less than 0.6 of their limit")
    return [text[start:end] for start, end in _spans(text, starts, limit, overlap) if not text[start:end].isspace()]


def estimated_starts(text: str) -> list[int]:
    """Return where tokens would begin, for a model whose own tokens are not known here.

    A token is up to four letters, digits or blanks, or one other character: more tokens than the models have of prose,
    fewer than of what has no words, such as a key or emoji.
    """
    return [match.start() for match in _ESTIMATED.finditer(text)]


def _spans(text: str, starts: Sequence[int], limit: int, overlap: int) -> Iterator[tuple[int, int]]:
    begin = 0
    while begin < len(text):
        first = _token_at(starts, begin)
        if len(starts) - first <= limit:
            yield begin, len(text)
            return
        end = _end(text, starts, first, begin, limit)
        yield begin, end
        following = _begin(text, starts, end, overlap)
        begin = following if following > begin else end


def _token_at(starts: Sequence[int], begin: int) -> int:
    """Return the index of the token that a character is in, the first of those that begin together."""
    index = max(bisect_right(starts, begin) - 1, 0)
    return bisect_left(starts, starts[index]) if starts else 0


def _end(text: str, starts: Sequence[int], first: int, begin: int, limit: int) -> int:
    most = starts[first + limit]
    if most <= begin:
        after = bisect_right(starts, begin)
        return starts[after] if after < len(starts) else len(text)
    least = max(starts[first + int(limit * (1 - _GIVEN_UP))], begin)
    for pattern in _ENDS:
        ends = [match.end() for match in pattern.finditer(text, least, most)]
        if ends and ends[-1] > begin:
            return ends[-1]
    return most


def _begin(text: str, starts: Sequence[int], end: int, overlap: int) -> int:
    """Return where the next chunk begins: at a line or a word of the end of the last one, or somewhere in it."""
    if not overlap:
        return end
    first = max(bisect_left(starts, end) - overlap, 0)
    least = starts[first]
    if first and starts[first - 1] == least:
        # A character is had again whole or not at all.
        after = bisect_right(starts, least)
        least = min(starts[after], end) if after < len(starts) else end
    for pattern in _ENDS[1:]:
        for match in pattern.finditer(text, least, end):
            if match.end() < end:
                return match.end()
    return least
