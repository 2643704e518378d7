"""What the commands have in common before they begin: which project and entities are meant, and what is opened."""
# ruff: noqa: PLC0415  # what a command needs is imported when it is called

from __future__ import annotations

import time
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from lore.door import Call

if TYPE_CHECKING:
    from lore.core.errors import LoreError
    from lore.core.refs import Ref, Selection
    from lore.settings import Settings

project_option = click.option(
    "-p", "--project", metavar="PROJECT", help="Full path, numeric id or URL; else LORE_PROJECT, else the git remote."
)


class Moment(click.ParamType[int]):
    """A date, a time, or how long ago, as milliseconds."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the moment that was named."""
        from lore.core.moments import parse_moment

        try:
            return _Moment(parse_moment(str(value), now=time.time_ns() // 1_000_000), str(value))
        except ValueError as error:
            self.fail(f"{value!r} is no moment: {error}", param, ctx)


class _Moment(int):
    """A moment that shows itself as it was written: a cursor of `--since 7d` is one of `--since 7d` a minute later."""

    written: str

    def __new__(cls, at_ms: int, written: str) -> _Moment:
        made = super().__new__(cls, at_ms)
        made.written = written
        return made

    def __repr__(self) -> str:
        return self.written


def open_mirror_of(call: Call, project: str | None) -> tuple[Settings, str | None]:
    """Open the mirror for a command that reads it; return the settings and the project that is meant.

    It is the one that was named, else the configured one, else the checkout's; None where there is none.
    """
    settings = call.settings(LORE_PROJECT=project)
    return settings, name_project(settings, open_ledger(settings))


def name_project(settings: Settings, runs: ModuleType) -> str | None:
    """Return the project that was named, or the checkout's; None where neither is."""
    from lore.core.refs import parse_project, project_of_remote

    if settings.project:
        named = parse_project(settings.project, base_url=settings.gitlab_url)
        return str(runs.resolve_project(settings.gitlab_url, named))
    remote = origin_remote()
    return project_of_remote(remote, base_url=settings.gitlab_url) if remote else None


def open_mirror_of_one(call: Call, project: str | None) -> tuple[Settings, str]:
    """Do the same for a command that is about one project.

    Raises:
        UsageError: NO_PROJECT.
    """
    from lore.core.refs import no_project

    settings, named = open_mirror_of(call, project)
    if named is None:
        raise no_project(settings.gitlab_url)
    return settings, named


def select(settings: Settings, named: Sequence[Ref], *, options: Sequence[str]) -> Selection:
    """Return the project and entities that were named; the remote of the checkout is only looked at if need be."""
    from lore.core.refs import no_project, parse_project, project_of_remote, select

    is_option = settings.sources["project"] == "option"
    project = None
    if settings.project and (is_option or any(ref.project is None for ref in named)):
        project = parse_project(settings.project, base_url=settings.gitlab_url)
    elif any(ref.project is None for ref in named):
        remote = origin_remote()
        project = project_of_remote(remote, base_url=settings.gitlab_url) if remote else None
        if project is None:
            raise no_project(settings.gitlab_url)
    return select(named, project=project, options=options)


def origin_remote() -> str | None:
    """Return the remote origin of the git checkout around the current folder; None where there is none."""
    import subprocess

    try:
        found = subprocess.run(
            ["git", "remote", "get-url", "origin"],  # noqa: S607  # git is where the user's PATH says
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=5,
            check=True,
            text=True,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return found.stdout.strip() or None


def open_mirror(settings: Settings) -> None:
    """Open the database for a command that reads content alone; `workers.runs` loads half of the queue with it."""
    import workers

    workers.open_ledger(settings)


def open_ledger(settings: Settings) -> ModuleType:
    """Open the database alone, and return `workers.runs`: what only reads works while Redis is down."""
    open_mirror(settings)
    from workers import runs

    return runs


def open_workers(settings: Settings, *, needs_token: bool) -> ModuleType:
    """Open database and broker, and return `workers.runs`; with Redis the actors are left to the workers."""
    if needs_token:
        settings.require_token()
    import workers

    if settings.is_embedded:
        workers.open_workers(settings)
    else:
        workers.open_sender(settings)
    from workers import runs

    return runs


def given(text: str, what: str) -> str:
    """Return an argument that must not be empty; a script's variable that is not set is no name of anything."""
    if not text.strip():
        raise click.UsageError(f"nothing was named: give {what}")
    return text


def conflict(call: Call, one: str, other: str) -> LoreError:
    """Return the error for two options that exclude each other."""
    from lore.core.errors import UsageError

    return UsageError("CONFLICTING_OPTIONS", f"{one} and {other} exclude each other", command=call.command)
