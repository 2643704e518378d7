"""The profiles a server can be started with: each makes a world of a seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lore.demo import harbour, tiny
from lore.demo.state import World

PROFILES: dict[str, Callable[[int], World]] = {
    "demo": harbour.build,
    "medium": partial(harbour.build, size=harbour.MEDIUM),
    "tiny": tiny.build,
}
