"""What only reads the mirror and answers with a list: issues, merge requests, a file's history, people."""
# ruff: noqa: PLC0415  # what a command needs is imported when it is called

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from cli.opening import Moment, limit_option, name_project, open_ledger, project_option, require_project
from cli.shapes import HISTORY, ISSUES, MERGE_REQUESTS, PEOPLE
from lore.door import Call, Door, Tool

C = TypeVar("C", bound=Callable[..., Any])


def _filters(states: tuple[str, ...]) -> Callable[[C], C]:
    """Return a decorator that gives a list's command the filters that both lists have."""
    sorts = [f"{name}{order}" for name in ("updated", "created", "iid", "comments") for order in ("", ":asc")]
    options = (
        project_option,
        click.option("--state", type=click.Choice(states), default="opened", help="Only in this state (opened)."),
        click.option("--author", metavar="USERNAME", help="Written by this user."),
        click.option("--assignee", metavar="USERNAME", help="Assigned to this user."),
        click.option("--label", "labels", metavar="LABEL", multiple=True, help="With this label; several: with all."),
        click.option("--milestone", metavar="TITLE", help="Of this milestone."),
        click.option("--since", type=Moment(), metavar="WHEN", help="Created since: 2026-11-01, or 7d ago."),
        click.option("--updated-since", type=Moment(), metavar="WHEN", help="Updated since."),
        click.option("--search", metavar="WORDS", help="With all these words in title or description."),
        click.option(
            "--sort", type=click.Choice(sorts), default="updated", help="Latest or most first; :asc turns it."
        ),
        limit_option(30, "of them"),
    )

    def decorate(command: C) -> C:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.command(
    cls=Door,
    example="lore issues --label bug --assignee ida --since 2w",
    data=ISSUES,
    writes=False,
    tools=[Tool("issues")],
)
@_filters(("opened", "closed", "all"))
@click.pass_obj
def issues(call: Call, /, project: str | None, sort: str, limit: int, **filters: Any) -> None:
    """List issues of the mirror.

    Without a project, those of every project of the mirror.
    """
    _list(call, "issue", project=project, sort=sort, limit=limit, filters=filters)


@click.command(
    cls=Door,
    example="lore mrs --state merged --reviewer olaf --target-branch main",
    data=MERGE_REQUESTS,
    writes=False,
    tools=[Tool("mrs")],
)
@_filters(("opened", "closed", "merged", "locked", "all"))
@click.option("--reviewer", metavar="USERNAME", help="With this reviewer.")
@click.option("--draft/--no-draft", "is_draft", default=None, help="Only drafts, or only what is none.")
@click.option("--target-branch", metavar="BRANCH", help="Into this branch.")
@click.pass_obj
def mrs(call: Call, /, project: str | None, sort: str, limit: int, **filters: Any) -> None:
    """List merge requests of the mirror.

    Without a project, those of every project of the mirror.
    """
    _list(call, "merge_request", project=project, sort=sort, limit=limit, filters=filters)


def _list(call: Call, entity_type: str, *, project: str | None, sort: str, limit: int, filters: dict[str, Any]) -> None:
    settings = call.settings(LORE_PROJECT=project)
    runs = open_ledger(settings)
    from lore.views import show_entities
    from workers import lists

    for name in ("author", "assignee", "reviewer"):
        if filters.get(name):
            filters[name] = filters[name].removeprefix("@")
    by, _, order = sort.partition(":")
    listed, total = lists.list_entities(
        settings.gitlab_url,
        name_project(settings, runs),
        entity_type,
        lists.Filters(**filters | {"state": None if filters["state"] == lists.ALL else filters["state"]}),
        sort=by,
        is_ascending=order == "asc",
        limit=limit,
    )
    shown = {"total": total, f"{entity_type}s": listed}
    call.done(shown, show=lambda: show_entities(shown))


@click.command(
    "file-history",
    cls=Door,
    example="lore file-history src/tides.py --merged --discussions",
    data=HISTORY,
    writes=False,
    tools=[Tool("file_history")],
)
@click.argument("path", metavar="PATH")
@project_option
@click.option("--no-follow-renames", is_flag=True, help="This name alone, whatever file had it.")
@click.option("--merged", is_flag=True, help="Only merged ones.")
@click.option("--discussions", is_flag=True, help="Also what was said on lines of the file.")
@limit_option(30, "merge requests, newest first")
@click.pass_obj
def file_history(  # noqa: PLR0917  # click calls it by name
    call: Call,
    path: str,
    project: str | None,
    no_follow_renames: bool,
    merged: bool,
    discussions: bool,
    limit: int,
) -> None:
    """Show which merge requests touched a file.

    PATH is any name the file ever had: renames are followed in both directions of time, through every merge request
    that the mirror holds.
    """
    settings = call.settings(LORE_PROJECT=project)
    runs = open_ledger(settings)
    from lore.views import show_history
    from workers import history

    shown = history.file_history(
        settings.gitlab_url,
        require_project(settings, runs),
        path.removeprefix("./"),
        follows=not no_follow_renames,
        is_merged=merged,
        with_discussions=discussions,
        limit=limit,
    )
    call.done(shown, show=lambda: show_history(shown))


@click.command(cls=Door, example="lore who src/tides.py", data=PEOPLE, writes=False, tools=[Tool("who")])
@click.argument("name", metavar="PATH|LABEL")
@project_option
@limit_option(20, "people, who did most first")
@click.pass_obj
def who(call: Call, name: str, project: str | None, limit: int) -> None:
    """Say who worked on a file or under a label.

    By what, and when last. What is no path of the mirror is read as a label; '~label' always is one.
    """
    settings = call.settings(LORE_PROJECT=project)
    runs = open_ledger(settings)
    from lore.views import show_people
    from workers import people

    shown = people.who(settings.gitlab_url, require_project(settings, runs), name.removeprefix("./"), limit=limit)
    call.done(shown, show=lambda: show_people(shown))
