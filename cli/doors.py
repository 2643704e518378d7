"""`lore` and its commands, each imported when it is called."""
# ruff: noqa: PLC0415  # what a command needs is imported when it is called

from __future__ import annotations

from collections import UserDict
from importlib import import_module
from typing import Any

import click

from cli.shapes import TEXT, record
from lore.door import Call, Door, Doors, version

_PLACES = {
    "submit": "submitting.submit_too",
    "sync": "syncing.sync",
    "sync-runs": "ledger.sync_runs",
    "cancel": "ledger.cancel",
    "sweep": "ledger.sweep",
    "worker": "operating.worker",
    "search": "searching.search",
    "show": "reading.show",
    "issues": "listing.issues",
    "mrs": "listing.mrs",
    "file-history": "listing.file_history",
    "timeline": "reading.timeline",
    "who": "listing.who",
    "stats": "reading.stats",
    "docs": "searching.docs",
    "embed": "searching.embed",
    "doctor": "operating.doctor",
    "demo": "operating.demo",
    "robot-docs": "agents.robot_docs",
    "mcp": "agents.mcp",
}


class _Commands(UserDict[str, Any]):
    """The commands by name; the module of one is imported when it is asked for, and of the others never."""

    def __getitem__(self, name: str) -> click.Command:
        if self.data[name] is None:
            module, _, function = _PLACES[name].partition(".")
            self.data[name] = getattr(import_module(f"cli.{module}"), function)
        found: click.Command = self.data[name]
        return found


def _print_version(ctx: click.Context, param: click.Parameter, is_asked: bool) -> None:
    if is_asked:
        click.echo(version())
        ctx.exit()


@click.group("lore", cls=Doors, example="lore sync-runs --run-id last", writes=False)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Its version."
)
def commands() -> None:
    """Keep a local, searchable mirror of GitLab issues and merge requests."""


@click.command(cls=Door, example='eval "$(lore completion bash)"', data=record(shell=TEXT, script=TEXT), writes=False)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_obj
def completion(call: Call, shell: str) -> None:
    """Print a shell's completion script."""
    from click.shell_completion import get_completion_class

    from cli.submitting import submit

    made = get_completion_class(shell)
    assert made is not None
    script = "\n".join(
        made(command, {}, name, f"_{name.replace('-', '_').upper()}_COMPLETE").source()
        for name, command in (("lore", commands), ("lore-submit", submit))
    )
    call.done({"shell": shell, "script": script}, show=lambda: click.echo(script, nl=False))


commands.commands = _Commands(dict.fromkeys(_PLACES) | {"completion": completion})
