"""Being a good guest of GitLab: everybody's pause, and a share of one budget, before any request is made.

A 429 is known to this process as it arrives (`lore.gitlab`), and to all others by `gitlab_hosts`.
"""

from __future__ import annotations

import time

from lore.core.errors import PassingError
from models import queue as tables
from models.base import now_ms, read
from models.queue import paused_until
from workers import resources

# From when on what is left is written down: a few times as much as can be in flight.
LITTLE = 4
ROOM_LOOKS, ROOM_LOOK_S = 500, 0.01


def heed() -> None:
    """Do nothing, unless the host asked everybody to wait.

    Raises:
        PassingError: GITLAB_RATE_LIMITED, with how long the pause still lasts.
    """
    with read():
        heed_in_transaction()


def heed_in_transaction() -> None:
    """Do the same in the caller's transaction."""
    until = paused_until(resources.settings().gitlab_url)
    if until is not None:
        message = "GitLab asks to wait: every request to it is paused"
        raise PassingError("GITLAB_RATE_LIMITED", message, retry_after_s=(until - now_ms()) / 1000)


def wait_for_room() -> None:
    """Wait until a request more may be in flight: while a planner holds its lease no new fetch takes the last place.

    Raises:
        PassingError: GITLAB_UNAVAILABLE, the fetches under way took too long.
    """
    settings = resources.settings()
    for _ in range(ROOM_LOOKS):
        with read():
            if tables.live_claims(settings.gitlab_url) < settings.gitlab_concurrency:
                return
        time.sleep(ROOM_LOOK_S)
    raise PassingError("GITLAB_UNAVAILABLE", "all requests that may be made at a time are under way", retry_after_s=1)


def note_limits() -> None:
    """Tell all processes what GitLab said is left, once it is little, in the caller's transaction."""
    limits = resources.gitlab().take_limits()
    if limits is not None and limits.remaining <= LITTLE * resources.settings().gitlab_concurrency:
        tables.note_limits(resources.settings().gitlab_url, limits.remaining, int(limits.reset_s * 1000))
