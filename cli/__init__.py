"""The doors `lore-submit` and `lore`: arguments in, one call, one outcome.

Only click and the standard library are imported at the top, in every module here and in `lore.door`: `--help` stays
quick.
"""
# ruff: noqa: PLC0415  # what a command needs is imported when it is called

from __future__ import annotations

import sys

import click

from cli.agents import mcp, robot_docs
from cli.ledger import cancel, sweep, sync_runs
from cli.listing import file_history, issues, mrs, who
from cli.operating import demo, doctor, worker
from cli.reading import show, stats, timeline
from cli.searching import docs, embed, search
from cli.shapes import TEXT, record
from cli.submitting import submit, submit_too
from cli.syncing import sync
from lore.door import Call, Door, Doors, run, version


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

    made = get_completion_class(shell)
    assert made is not None
    script = "\n".join(
        made(command, {}, name, f"_{name.replace('-', '_').upper()}_COMPLETE").source()
        for name, command in (("lore", commands), ("lore-submit", submit))
    )
    call.done({"shell": shell, "script": script}, show=lambda: click.echo(script, nl=False))


_COMMANDS = (
    submit_too,
    sync,
    sync_runs,
    cancel,
    sweep,
    worker,
    search,
    show,
    issues,
    mrs,
    file_history,
    timeline,
    who,
    stats,
    docs,
    embed,
    doctor,
    demo,
    robot_docs,
    mcp,
    completion,
)
for _command in _COMMANDS:
    commands.add_command(_command)


def lore() -> None:
    """Run `lore`."""
    sys.exit(run(commands, "lore"))


def lore_submit() -> None:
    """Run `lore-submit`."""
    sys.exit(run(submit, "lore-submit"))
