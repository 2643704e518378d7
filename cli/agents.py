"""For programs that call lore: what the commands are, and the commands as tools."""
# ruff: noqa: PLC0415  # what a command needs is imported when it is called

from __future__ import annotations

import json

import click

from cli.manifest import MANIFEST, manifest
from cli.shapes import record
from cli.submitting import submit
from lore.door import Acting, Call, Door


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


@click.command(
    "mcp",
    cls=Door,
    example="lore mcp\nlore mcp --allow-submit",
    data=record(),
    writes=False,
)
@click.option("--allow-submit", cls=Acting, is_flag=True, help="Also offer to submit runs and to retry them.")
@click.pass_obj
def mcp(call: Call, allow_submit: bool) -> None:
    """Serve the mirror to an agent, by the Model Context Protocol.

    An agent's client starts it and speaks with it over standard input and output. Its tools are the commands that
    read, each answer is bounded, and what GitLab's users wrote is marked as untrusted.
    """
    from cli.tools import offers

    try:
        from cli.serving import serve
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("anyio", "mcp"):
            raise
        from lore.extras import missing_extra

        raise missing_extra("mcp", "the MCP server") from error
    root = click.get_current_context().find_root().command
    assert isinstance(root, click.Group)
    # Standard output is the protocol's, so there is no answer.
    call.is_robot = False
    serve(offers(root, may_write=allow_submit))
