"""`lore-submit`, also as `lore submit`: open a run of exactly what is named."""
# ruff: noqa: PLC0415  # what a command needs is imported when it is called

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from cli.following import carry_on
from cli.opening import conflict, open_workers, project_option, select
from cli.shapes import PLAN, RUN_AND_ENTITIES, either
from lore.door import Call, Door, Tool

if TYPE_CHECKING:
    from lore.core.errors import LoreError


def _timeout(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,3})?", value) or float(value) <= 0:
        raise click.BadParameter(f"{value!r} is not a number of seconds above 0")
    return float(value)


def _named(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"[\w.:/-]{1,64}", value):
        raise click.BadParameter("a name has 1 to 64 letters, digits, or any of . : / _ -")
    return value


def submit_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the arguments and options of a submission."""
    for decorate in reversed(
        (  # the order of the help
            click.argument("refs", nargs=-1, metavar="[REF]..."),
            click.option("--issue", "issues", multiple=True, metavar="IID", help="An issue; may be repeated."),
            click.option("--mr", "mrs", multiple=True, metavar="IID", help="A merge request; may be repeated."),
            project_option,
            click.option("--preflight-only", is_flag=True, help="Fetch and check everything, change no content."),
            click.option("--dry-run", is_flag=True, help="Print the plan; ask nothing, write nothing."),
            click.option("--no-docs", is_flag=True, help="Build no documents (needs --no-embed)."),
            click.option("--no-embed", is_flag=True, help="Compute no embeddings."),
            click.option("--wait/--no-wait", "will_wait", default=None, help="Wait for the end of the run, or not."),
            click.option("--timeout", callback=_timeout, metavar="S", help="Wait at most this long, in seconds."),
            click.option("--trigger", default="cli", callback=_named, metavar="NAME", help="Who asks, for the ledger."),
            click.option("--quiet", "is_quiet", is_flag=True, help="Print nothing but warnings and errors."),
            click.pass_obj,
        )
    ):
        command = decorate(command)
    return command


_SUBMIT_HELP = """Refresh exactly the named entities.

REF is a web URL, group/project!12, '!12' (a merge request) or '#7' (an issue); quote ! and #, as a shell reads them
itself. With Redis the run is queued and its id printed; without, it is done at once.
"""


_SUBMIT_EXAMPLE = "lore-submit --mr 12 --issue 7 -p group/project --wait"

SUBMITTED = either(RUN_AND_ENTITIES, PLAN)


@click.command("lore-submit", cls=Door, help=_SUBMIT_HELP, example=_SUBMIT_EXAMPLE, data=SUBMITTED)
@submit_options
def submit(call: Call, **asked: Any) -> None:
    """Open a run."""
    submit_named(call, **asked)


@click.command(
    "submit",
    cls=Door,
    help=_SUBMIT_HELP,
    example="lore submit --mr 12 --issue 7 -p group/project --wait",
    data=SUBMITTED,
    tools=[
        Tool(
            "submit",
            ("refs", "project", "preflight_only"),
            always=("--trigger", "mcp"),
            writes=True,
            help="Fetch exactly the named issues and merge requests from GitLab into the mirror, all or nothing."
            " Each of refs is a web URL, group/project!12, !12 or #7.",
        )
    ],
)
@submit_options
def submit_too(call: Call, **asked: Any) -> None:
    """Open a run."""
    submit_named(call, **asked)


def submit_named(
    call: Call,
    *,
    refs: Sequence[str],
    issues: Sequence[str],
    mrs: Sequence[str],
    project: str | None,
    preflight_only: bool,
    dry_run: bool,
    no_docs: bool,
    no_embed: bool,
    will_wait: bool | None,
    timeout: float | None,
    trigger: str,
    is_quiet: bool,
) -> None:
    """Open a run of what is named, and carry it on."""
    from lore.core.plan import ISSUE, MERGE_REQUEST, Entity
    from lore.core.refs import Ref, parse_iid, parse_ref
    from lore.core.runs import RunOptions

    if dry_run and preflight_only:
        raise conflict(call, "--dry-run", "--preflight-only")
    if will_wait is False and timeout is not None:
        raise conflict(call, "--no-wait", "--timeout")
    if no_docs and not no_embed:
        raise _no_docs_error(call)
    named = [Ref(None, Entity(ISSUE, parse_iid(iid, entity_type=ISSUE))) for iid in issues]
    named += [Ref(None, Entity(MERGE_REQUEST, parse_iid(iid, entity_type=MERGE_REQUEST))) for iid in mrs]
    settings = call.settings(LORE_PROJECT=project)
    named += [parse_ref(ref, base_url=settings.gitlab_url) for ref in refs]
    flags = [("--preflight-only", preflight_only), ("--dry-run", dry_run), ("--no-docs", no_docs)]
    flags += [("--no-embed", no_embed), ("--wait", bool(will_wait))]
    selection = select(settings, named, options=[flag for flag, is_set in flags if is_set])
    options = RunOptions(
        mode="preflight_only" if preflight_only else "commit",
        docs=not no_docs,
        embed=not no_embed and settings.embeddings != "off",
    )
    if dry_run:
        from lore.core.outcome import plan_of
        from lore.terminal import show_plan

        plan = plan_of(settings.gitlab_url, selection.project, selection.entities, options)
        call.done({"plan": plan}, show=lambda: show_plan(plan))
        return
    runs = open_workers(settings, needs_token=True)
    open_run = partial(
        runs.submit,
        gitlab_url=settings.gitlab_url,
        project=runs.resolve_project(settings.gitlab_url, selection.project),
        entities=selection.entities,
        options=options,
        trigger=trigger,
        is_to_be_sent=not (settings.is_embedded and will_wait is False),
    )
    carry_on(call, settings, runs, open_run, will_wait=will_wait, timeout_s=timeout, is_quiet=is_quiet)


def _no_docs_error(call: Call) -> LoreError:
    from lore.core.errors import UsageError

    place = call.argv.index("--no-docs") + 1
    mended = [call.prog, *call.argv[:place], "--no-embed", *call.argv[place:]]
    return UsageError(
        "NO_DOCS_REQUIRES_NO_EMBED",
        "without documents there is nothing to embed: --no-docs needs --no-embed",
        actions=[shlex.join(mended)],
    )
