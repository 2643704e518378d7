"""For programs that call lore: what the commands are."""
# what a command needs is imported when it is called

from __future__ import annotations

import json

import click

from cli.manifest import MANIFEST, manifest
from cli.submitting import submit
from lore.door import Call, Door


@click.command(
    "robot-docs",
    cls=Door,
    example="lore robot-docs\nlore robot-docs --fields commands.name,commands.summary",
    data=MANIFEST,
    writes=False,
)
@click.pass_obj
def robot_docs(call: Call) -> None:
    """Print everything a program needs to call lore, as JSON.

    Every command with its options, their types and defaults, and the JSON schema of what it answers; exit statuses,
    error codes with their actions, and warnings. It is read from the commands themselves.
    """
    root = click.get_current_context().find_root()
    told = manifest(("lore-submit", submit), (str(root.info_name), root.command))
    call.done(told, show=lambda: click.echo(json.dumps(told, indent=2)))
