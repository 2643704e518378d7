"""What only reads the mirror: no request is made."""
# ruff: noqa: PLC0415  # what a command needs is imported when it is called

from __future__ import annotations

import click

from cli.opening import open_ledger, project_option, select
from cli.shapes import SHOWN
from lore.door import Call, Door


@click.command(
    cls=Door,
    example="lore show 'group/project!12'",
    data=SHOWN,
    writes=False,
)
@click.argument("ref", metavar="REF")
@project_option
@click.pass_obj
def show(call: Call, ref: str, project: str | None) -> None:
    """Show what the mirror holds of an entity.

    REF is a web URL, group/project!12, '!12' or '#7'. Only the mirror is read: no request is made.
    """
    from lore.core.refs import parse_ref, ref_of

    settings = call.settings(LORE_PROJECT=project)
    selection = select(settings, [parse_ref(ref, base_url=settings.gitlab_url)], options=())
    runs = open_ledger(settings)
    from lore.terminal import show_entity
    from workers import reads

    name = runs.resolve_project(settings.gitlab_url, selection.project)
    entity = selection.entities[0]
    held = reads.show(settings.gitlab_url, name, entity.entity_type, entity.iid)
    shown = {"ref": ref_of(entity.entity_type, entity.iid, project=name), **held}
    call.done(shown, show=lambda: show_entity(shown))
