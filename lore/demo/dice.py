"""Deterministic choices: every answer is a pure function of the seed and of a key, never of what was asked before.

A shared random stream would make a row depend on the order of requests; a hash of (seed, key) cannot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """Choices for one seed. A key is any tuple of strings and integers that names what is being decided."""

    def __init__(self, seed: int) -> None:
        self._seed = str(seed).encode()

    def number(self, *key: str | int) -> int:
        """Return an integer of 64 bits."""
        return int.from_bytes(self._digest(key, 8), "big")

    def below(self, bound: int, *key: str | int) -> int:
        """Return an integer from 0 to below the bound."""
        return self.number(*key) % bound

    def between(self, low: int, high: int, *key: str | int) -> int:
        """Return an integer from low to high, both included."""
        return low + self.number(*key) % (high - low + 1)

    def chance(self, percent: int, *key: str | int) -> bool:
        """Return True in so many of a hundred cases."""
        return self.number(*key) % 100 < percent

    def pick(self, choices: Sequence[T], *key: str | int) -> T:
        """Return one of the choices."""
        return choices[self.number(*key) % len(choices)]

    def some(self, choices: Sequence[T], count: int, *key: str | int) -> list[T]:
        """Return up to `count` different choices, in the order they are listed."""
        ranked = sorted(range(len(choices)), key=lambda index: self.number(*key, index))
        return [choices[index] for index in sorted(ranked[:count])]

    def sha(self, *key: str | int) -> str:
        """Return 40 hex characters, for a commit or a discussion."""
        return self._digest(key, 20).hex()

    def _digest(self, key: tuple[str | int, ...], size: int) -> bytes:
        text = "\x1f".join(map(str, key)).encode()
        return hashlib.blake2b(text, digest_size=size, key=self._seed[:64]).digest()
