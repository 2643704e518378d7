"""The storm of `chaos.py`, short and with a fixed seed; `make chaos` is the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHAOS = Path(__file__).with_name("chaos.py")

pytestmark = pytest.mark.slow


@pytest.mark.invariant("I12")
@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"])
def test_after_a_storm_every_run_has_ended_nothing_is_half_done_twice_or_left(database_url: str) -> None:
    short = ["--seconds", "12", "--drain", "60", "--seed", "5"]

    done = subprocess.run(
        [sys.executable, str(CHAOS), "--database", database_url, *short],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )

    assert done.returncode == 0, done.stdout + done.stderr
