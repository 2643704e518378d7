"""Moments as people name them."""

from __future__ import annotations

import pytest

from lore.core.moments import parse_moment

NOW = 1_700_000_000_000


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2023-11-01", 1_698_796_800_000),
        ("2023-11-01T08:30Z", 1_698_827_400_000),
        ("2023-11-01T08:30", 1_698_827_400_000),
        ("2023-11-01T09:30+01:00", 1_698_827_400_000),
        ("45m", NOW - 45 * 60_000),
        ("12h", NOW - 12 * 3_600_000),
        ("7d", NOW - 7 * 86_400_000),
        (" 2w ", NOW - 14 * 86_400_000),
    ],
)
def test_a_moment_is_a_date_a_time_or_how_long_ago(text: str, moment: int) -> None:
    assert parse_moment(text, now=NOW) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "7", "7 d", "-3d", "2023-13-01", "9999999d"])
def test_anything_else_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="2026-11-01"):
        parse_moment(text, now=NOW)
