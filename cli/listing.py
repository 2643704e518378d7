"""What only reads the mirror and answers with a list: issues, merge requests, a file's history, people."""
# ruff: noqa: PLC0415  # what a command needs is imported when it is called

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from cli.opening import Moment, given, open_mirror_of, open_mirror_of_one, project_option
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
    listed="issues",
    listed_rows=30,
    tools=[Tool("issues")],
)
@_filters(("opened", "closed", "all"))
@click.pass_obj
def issues(call: Call, /, project: str | None, sort: str, **filters: Any) -> None:
    """List issues of the mirror.

    Without a project, those of every project of the mirror.
    """
    _list(call, "issue", project=project, sort=sort, filters=filters)


@click.command(
    cls=Door,
    example="lore mrs --state merged --reviewer olaf --target-branch main",
    data=MERGE_REQUESTS,
    writes=False,
    listed="merge_requests",
    listed_rows=30,
    tools=[Tool("mrs")],
)
@_filters(("opened", "closed", "merged", "locked", "all"))
@click.option("--reviewer", metavar="USERNAME", help="With this reviewer.")
@click.option("--draft/--no-draft", "is_draft", default=None, help="Only drafts, or only what is none.")
@click.option("--target-branch", metavar="BRANCH", help="Into this branch.")
@click.pass_obj
def mrs(call: Call, /, project: str | None, sort: str, **filters: Any) -> None:
    """List merge requests of the mirror.

    Without a project, those of every project of the mirror.
    """
    _list(call, "merge_request", project=project, sort=sort, filters=filters)


def _list(call: Call, entity_type: str, *, project: str | None, sort: str, filters: dict[str, Any]) -> None:
    page = call.page()
    settings, named = open_mirror_of(call, project)
    from lore.views import show_entities
    from workers import lists

    for name in ("author", "assignee", "reviewer"):
        if filters.get(name):
            filters[name] = filters[name].removeprefix("@")
    by, _, order = sort.partition(":")
    shown = lists.list_entities(
        settings.gitlab_url,
        named,
        entity_type,
        lists.Filters(**filters | {"state": None if filters["state"] == lists.ALL else filters["state"]}),
        sort=by,
        is_ascending=order == "asc",
        page=page,
    )
    call.done_page(shown, show=lambda: show_entities(shown))


@click.command(
    "file-history",
    cls=Door,
    example="lore file-history src/tides.py --merged --discussions",
    data=HISTORY,
    writes=False,
    listed="history",
    listed_rows=30,
    tools=[Tool("file_history")],
)
@click.argument("path", metavar="PATH")
@project_option
@click.option("--no-follow-renames", is_flag=True, help="This name alone, whatever file had it.")
@click.option("--merged", is_flag=True, help="Only merged ones.")
@click.option("--discussions", is_flag=True, help="Also what was said on lines of the file.")
@click.pass_obj
def file_history(
    call: Call, /, *, path: str, project: str | None, no_follow_renames: bool, merged: bool, discussions: bool
) -> None:
    """Show which merge requests touched a file, newest first.

    PATH is any name the file ever had: renames are followed in both directions of time, through every merge request
    that the mirror holds.
    """
    given(path, "the path of a file")
    page = call.page()
    settings, named = open_mirror_of_one(call, project)
    from lore.views import show_history
    from workers import history

    shown = history.file_history(
        settings.gitlab_url,
        named,
        path.removeprefix("./"),
        follows=not no_follow_renames,
        is_merged=merged,
        with_discussions=discussions,
        page=page,
    )
    call.done_page(shown, show=lambda: show_history(shown))


@click.command(
    cls=Door, example="lore who src/tides.py", data=PEOPLE, writes=False, listed="people", tools=[Tool("who")]
)
@click.argument("name", metavar="PATH|LABEL")
@project_option
@click.pass_obj
def who(call: Call, name: str, project: str | None) -> None:
    """Say who worked on a file or under a label.

    By what, and when last; who did most comes first. What is no path of the mirror is read as a label; '~label' always
    is one.
    """
    given(name, "the path of a file, or a label")
    page = call.page()
    settings, named = open_mirror_of_one(call, project)
    from lore.views import show_people
    from workers import people

    shown = people.who(settings.gitlab_url, named, name.removeprefix("./"), page=page)
    call.done_page(shown, show=lambda: show_people(shown))
