"""What several tests of the workers stand on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from syncing import World, world_on


@pytest.fixture
def world(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A demo GitLab in simulated time, beside an empty database."""
    with world_on(database_url, monkeypatch) as made:
        yield made
