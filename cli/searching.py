"""Documents and embeddings: search them, and build what is missing of them, on purpose and for everybody."""
# ruff: noqa: PLC0415  # what a command needs is imported when it is called

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import click

from cli.opening import Moment, name_project, open_mirror, open_workers, project_option
from cli.shapes import FOUND, WHOLE, record
from lore.door import Call, Door, Tool, works_long

_TYPES = {"issue": "issue", "mr": "merge_request", "discussion": "discussion"}


@click.command(
    cls=Door,
    example="lore search 'engine room' --type mr --since 30d",
    data=FOUND,
    writes=False,
    listed="hits",
    listed_rows=10,
    tools=[Tool("search")],
)
@click.argument("words", nargs=-1, required=True, metavar="QUERY...")
@click.option("--type", "types", multiple=True, type=click.Choice(list(_TYPES)), help="Only these; may be repeated.")
@project_option
@click.option("--label", "labels", metavar="LABEL", multiple=True, help="With this label; several: with all.")
@click.option("--author", metavar="USERNAME", help="Begun by this user.")
@click.option("--state", type=click.Choice(["opened", "closed", "merged", "locked"]), help="Only in this state.")
@click.option("--since", type=Moment(), metavar="WHEN", help="Updated since: 2026-11-01, or 7d ago.")
@click.option(
    "--mode",
    type=click.Choice(["hybrid", "text", "semantic"]),
    default="hybrid",
    help="By words, by meaning, or by both (hybrid).",
)
@click.pass_obj
def search(  # noqa: PLR0917  # click calls it by name
    call: Call,
    words: tuple[str, ...],
    types: tuple[str, ...],
    project: str | None,
    labels: tuple[str, ...],
    author: str | None,
    state: str | None,
    since: int | None,
    mode: str,
) -> None:
    """Find issues, merge requests and discussions of the mirror.

    Any text is a legal query: quotes, operators and emoji are searched for themselves. Only the mirror is asked, and
    the embedder. Without -p every project of the mirror is searched.
    """
    page = call.page()
    settings = call.settings(LORE_PROJECT=project)
    open_mirror(settings)
    from workers import searching

    named = None
    if project is not None:
        from workers import runs

        named = name_project(settings, runs)

    def show() -> None:
        from lore.views import show_hits

        show_hits(found)

    found = searching.search(
        " ".join(words),
        gitlab_url=settings.gitlab_url,
        project=named,
        types=tuple(_TYPES[one] for one in types),
        labels=labels,
        author=author,
        state=state,
        since_ms=since,
        mode=mode,
        page=page,
    )
    for code, message in found.pop("warnings"):
        call.warn(code, message)
    call.done_page(found, show=show)


@click.command(cls=Door, example="lore docs", data=record(sources=WHOLE, documents=WHOLE))
@click.pass_obj
def docs(call: Call) -> None:
    """Build the documents that anybody left to be built.

    A run builds its own; what stays is what --no-docs, a cancelled or a failed run left.
    """
    from lore.terminal import show_fields

    open_workers(call.settings(), needs_token=False)
    from workers import documents

    works_long()
    with _counting(call, "sources") as on_progress:
        done = documents.drain(on_progress=on_progress)
    call.done(done, show=lambda: show_fields(done, title="documents were built" if done["sources"] else "nothing left"))


@click.command(cls=Door, example="lore embed --rebuild", data=record(documents=WHOLE, vectors_deleted=WHOLE))
@click.option("--rebuild", is_flag=True, help="Make every vector anew, and delete those of other models.")
@click.pass_obj
def embed(call: Call, rebuild: bool) -> None:
    """Embed every document that lacks a vector.

    A run embeds its own; what stays is what --no-embed, a cancelled or a failed run left, and all of them after
    LORE_EMBEDDINGS has changed.
    """
    from lore.terminal import show_fields

    open_workers(call.settings(), needs_token=False)
    from workers import embed as embedding

    works_long()
    with _counting(call, "documents") as on_progress:
        done = embedding.drain(rebuild=rebuild, on_progress=on_progress)
    call.done(done, show=lambda: show_fields(done, title="embedded" if done["documents"] else "nothing left"))


@contextlib.contextmanager
def _counting(call: Call, noun: str) -> Iterator[Callable[[int], None]]:
    """Show how many are done, on a terminal."""
    import sys

    if call.is_robot or not sys.stderr.isatty():
        yield lambda count: None
        return
    yield lambda count: click.echo(f"\r{count} {noun}", nl=False, err=True)
    click.echo("\r\x1b[K", nl=False, err=True)
