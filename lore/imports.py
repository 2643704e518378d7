"""Import a library without the parts it looks for that this process does not use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(*optional: str) -> Iterator[None]:
    """Let what the block imports find these modules missing, as they may be: each is optional where it is named.

    A module that is loaded already stays, and what the block imported stays without them for the process's life.
    """
    hidden = [name for name in optional if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: Python's own way to say there is none
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
