"""The doors `lore-submit` and `lore`: arguments in, one call, one outcome.

Only click and the standard library are imported at the top, in every module here and in `lore.door`: `--help` stays
quick.
"""
# ruff: noqa: PLC0415  # what a command needs is imported when it is called

from __future__ import annotations

import sys

try:
    import gc
    from collections.abc import Callable
    from typing import Any

    import click

    from cli.doors import commands
    from lore.door import run
except KeyboardInterrupt:
    sys.exit(130)  # nobody is there yet to answer Ctrl-C

__all__ = ["commands", "lore", "lore_submit"]


def __getattr__(name: str) -> Any:
    """Return the command `submit`, which is a door by itself and so not needed by `lore`."""
    if name == "submit":
        from cli.submitting import submit

        return submit
    raise AttributeError(name)


def lore() -> None:
    """Run `lore`."""
    _run(lambda: commands, "lore")


def lore_submit() -> None:
    """Run `lore-submit`."""
    _run(lambda: __getattr__("submit"), "lore-submit")


def _run(load: Callable[[], click.Command], prog: str) -> None:
    try:
        status = run(load(), prog)
        if "models.base" in sys.modules:
            from models.base import disconnect

            disconnect()  # the last one to leave SQLite clears its log away
    except KeyboardInterrupt:  # before the door can answer it, or in its answer
        status = 130
    # Python looks for garbage among all objects of all modules before it goes, which took 40 ms of a short command.
    gc.freeze()
    sys.exit(status)
