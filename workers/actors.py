"""How an actor of lore is declared: a busy database is never a verdict, it leaves the row to a sweeper."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import dramatiq

from lore.core.errors import BusyError
from lore.logs import get_logger

log = get_logger(__name__)


# What a sync does for itself waits, in a busy worker, behind what a person waits for.
BEHIND_PEOPLE = 10


def actor(queue_name: str, *, priority: int = 0) -> Callable[[Callable[[Any], None]], dramatiq.Actor[[Any], None]]:
    """Declare an actor of one key on a queue; of a worker's waiting messages the lowest priority goes first."""

    def declare(work: Callable[[Any], None]) -> dramatiq.Actor[[Any], None]:
        @functools.wraps(work)
        def run(key: Any) -> None:
            try:
                work(key)
            except BusyError as error:
                say_busy("left_to_the_sweeper", error)

        declared: dramatiq.Actor[[Any], None] = dramatiq.actor(queue_name=queue_name, priority=priority)(run)
        return declared

    return declare


def say_busy(event: str, error: BusyError, **more: Any) -> None:
    """Log what a busy database kept somebody from; of a full one there is one line a sweep, and not one each."""
    say = log.debug if error.code == "DATABASE_FULL" else log.warning
    say(event, code=error.code, cause=error.message, **more)
