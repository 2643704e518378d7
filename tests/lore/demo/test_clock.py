"""The demo server reads a moment as exactly as it was written."""

from __future__ import annotations

from lore.demo.clock import iso, micros


def test_a_moment_late_in_its_second_is_not_rounded_up() -> None:
    assert iso(micros("2025-06-01T08:00:00.588Z")) == "2025-06-01T08:00:00.588Z"
    assert micros("2025-06-01T10:00:00.588+02:00") == micros("2025-06-01T08:00:00.588Z")
