"""When what we fetched is older than what we hold, and when GitLab can no longer have changed it unseen.

All times are integer milliseconds UTC: `updated_at` by GitLab's clock, the others by the database's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# GitLab drops a touch within a minute of the last one, so an equal `updated_at` can hide a change
# (API: app/models/concerns/throttled_touch.rb).
THROTTLED_TOUCH_MS: Final = 60_000
# How far GitLab's clock and the database's may be apart before an entity is thought settled too early.
CLOCK_SKEW_MS: Final = 30_000


@dataclass(frozen=True)
class Version:
    """What is known of an entity's age.

    Attributes:
        updated_at: GitLab's `updated_at`.
        observed_at: When the first fetch of the entity in its run began.
    """

    updated_at: int
    observed_at: int


def is_stale(payload: Version, local: Version | None, *, now: int) -> bool:
    """Tell whether the local row is newer: a later `updated_at`, or an equal one that was observed later."""
    if local is None:
        return False
    if not is_same_moment(local.updated_at, payload.updated_at):
        return local.updated_at > payload.updated_at
    return is_observed_later(local.observed_at, payload.observed_at, now=now)


def is_same_moment(one: int, other: int) -> bool:
    """Tell whether two `updated_at` may be the same: one without milliseconds stands for its whole second."""
    return one == other or (one // 1000 == other // 1000 and 0 in (one % 1000, other % 1000))


def is_observed_later(local_observed_at: int | None, observed_at: int, *, now: int) -> bool:
    """Tell whether the local part was observed after the fetched one.

    None means never observed. A local observation in the future proves nothing: a clock went back since.
    """
    if local_observed_at is None or local_observed_at > now:
        return False
    return local_observed_at > observed_at


def is_settled(updated_at: int, observed_at: int) -> bool:
    """Tell whether GitLab cannot have changed the entity since we observed it without moving `updated_at`."""
    return updated_at + THROTTLED_TOUCH_MS + CLOCK_SKEW_MS < observed_at
