"""What only reads the mirror, of one entity or of all: no request is made."""
# ruff: noqa: PLC0415  # what a command needs is imported when it is called

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cli.opening import name_project, open_ledger, open_mirror_of, project_option, select
from cli.shapes import SHOWN, STATS, STORY
from lore.door import MOST_LISTED, Acting, Call, Door, Tool

if TYPE_CHECKING:
    from lore.core.plan import Entity
    from lore.settings import Settings


@click.command(
    cls=Door,
    example="lore show 'group/project!12'",
    data=SHOWN,
    writes=False,
    listed="threads",
    listed_rows=MOST_LISTED,
    tools=[Tool("show")],
)
@click.argument("ref", metavar="REF")
@project_option
@click.option("--open", "is_to_open", cls=Acting, is_flag=True, help="Also open it in the browser.")
@click.pass_obj
def show(call: Call, ref: str, project: str | None, is_to_open: bool) -> None:
    """Show what the mirror holds of an entity.

    REF is a web URL, group/project!12, '!12' or '#7'. Only the mirror is read: no request is made.
    """
    page = call.page()
    settings = call.settings(LORE_PROJECT=project)
    name, entity = _find(settings, ref)
    from lore.core.refs import ref_of, web_url_of
    from lore.terminal import show_entity
    from workers import reads

    held = reads.show(settings.gitlab_url, name, entity.entity_type, entity.iid, page=page)
    shown = {"ref": ref_of(entity.entity_type, entity.iid, project=name), **held}
    if is_to_open:
        # Made of what we know: an address that GitLab sent could be of any scheme and host.
        _open(call, web_url_of(settings.gitlab_url, held["project"], entity))
    call.done_page(shown, show=lambda: show_entity(shown))


@click.command(
    cls=Door,
    example="lore timeline '#7'\nlore timeline 'tide table'",
    data=STORY,
    writes=False,
    listed="events",
    listed_rows=200,
    tools=[Tool("timeline")],
)
@click.argument("subject", metavar="REF|QUERY")
@project_option
@click.pass_obj
def timeline(call: Call, subject: str, project: str | None) -> None:
    """Tell the story of an entity, or of those that fit a query best, in one order of time.

    Created, comments, pushes, labels, milestones, mentions, closed, reopened, merged: each with who did it and by what
    it came. REF is a web URL, group/project!12, '!12' or '#7'; anything else is searched for, by its words.
    """
    from lore.core.errors import UsageError
    from lore.core.refs import is_ref, ref_of

    if not subject.strip():
        raise UsageError("EMPTY_QUERY", "there is nothing to tell of an empty query")
    page = call.page()
    settings = call.settings(LORE_PROJECT=project)
    if is_ref(subject):
        named = [_find(settings, subject)]
    else:
        runs = open_ledger(settings)
        from workers import timeline as stories

        named = stories.best_of(settings.gitlab_url, name_project(settings, runs), subject)
    from lore.views import show_timeline
    from workers import timeline as stories

    told = stories.timeline(settings.gitlab_url, named, page=page)
    refs = [ref_of(entity.entity_type, entity.iid, project=name) for name, entity in named]
    title = told["titles"][0] if len(named) == 1 else subject
    shown = {"refs": refs, "title": title, **{name: told[name] for name in ("total", "events", "next")}}
    call.done_page(shown, show=lambda: show_timeline(shown))


@click.command(
    cls=Door,
    example="lore stats",
    data=STATS,
    writes=False,
    listed="projects",
    listed_rows=100,
    tools=[Tool("stats")],
)
@project_option
@click.pass_obj
def stats(call: Call, project: str | None) -> None:
    """Say what the mirror holds, how fresh and how big.

    Without -p every project of the mirror is counted.
    """
    page = call.page()
    settings, named = open_mirror_of(call, project)
    from lore.views import show_stats
    from workers import lists

    shown = lists.stats(settings.gitlab_url, named if project is not None else None, page=page)
    call.done_page(shown, show=lambda: show_stats(shown))


def _find(settings: Settings, ref: str) -> tuple[str, Entity]:
    """Open the mirror; return the project and entity that a REF names."""
    from lore.core.refs import parse_ref

    selection = select(settings, [parse_ref(ref, base_url=settings.gitlab_url)], options=())
    runs = open_ledger(settings)
    return runs.resolve_project(settings.gitlab_url, selection.project), selection.entities[0]


def _open(call: Call, url: str) -> None:
    import webbrowser

    if not webbrowser.open(url):
        call.warn("NO_BROWSER", f"no browser could be opened for {url}")
