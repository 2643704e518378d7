"""The doors `lore-submit` and `lore`: arguments in, one call, one outcome.

Only click and the standard library are imported at the top, here and in `lore.door`: `--help` stays quick.
"""
# ruff: noqa: PLC0415  # what a command needs is imported when it is called

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from lore.door import Call, Door, Doors, run, version

if TYPE_CHECKING:
    from lore.core.errors import LoreError
    from lore.core.refs import Ref, Selection
    from lore.settings import Settings

MOST_LISTED = 10_000


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


_project_option = click.option(
    "-p", "--project", metavar="PROJECT", help="Full path, numeric id or URL; else LORE_PROJECT, else the git remote."
)


def _submit_options(command: Callable[..., None]) -> Callable[..., None]:
    for decorate in reversed(
        (  # the order of the help
            click.argument("refs", nargs=-1, metavar="[REF]..."),
            click.option("--issue", "issues", multiple=True, metavar="IID", help="An issue; may be repeated."),
            click.option("--mr", "mrs", multiple=True, metavar="IID", help="A merge request; may be repeated."),
            _project_option,
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


@click.command("lore-submit", cls=Door, help=_SUBMIT_HELP, example=_SUBMIT_EXAMPLE)
@_submit_options
def submit(call: Call, **asked: Any) -> None:
    """Open a run."""
    _submit(call, **asked)


def _print_version(ctx: click.Context, param: click.Parameter, is_asked: bool) -> None:
    if is_asked:
        click.echo(version())
        ctx.exit()


@click.group("lore", cls=Doors, example="lore sync-runs --run-id last")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Its version."
)
def commands() -> None:
    """Keep a local, searchable mirror of GitLab issues and merge requests."""


@commands.command("submit", help=_SUBMIT_HELP, example="lore submit --mr 12 --issue 7 -p group/project --wait")
@_submit_options
def submit_too(call: Call, **asked: Any) -> None:
    """Open a run."""
    _submit(call, **asked)


@commands.command("sync", example="lore sync --mr 12 -p group/project")
@_submit_options
def sync(call: Call, **asked: Any) -> None:
    """Refresh the named entities and wait.

    The same as lore-submit --wait.
    """
    if not (asked["refs"] or asked["issues"] or asked["mrs"]):
        from lore.core.errors import UsageError

        raise UsageError(
            "USAGE",
            "the incremental sync is not part of this version: name issues or merge requests",
            actions=["lore sync --help"],
        )
    _submit(call, **{**asked, "will_wait": asked["will_wait"] is not False})


@commands.command("sync-runs", example="lore sync-runs --run-id last --follow")
@click.option("--run-id", metavar="RUN", help="One run: its id, the beginning of it, or last.")
@click.option("--retry-failed", is_flag=True, help="Open a run for the entities that did not land.")
@click.option("--follow", is_flag=True, help="Print its events as they come, until it ends.")
@click.option("--status", metavar="STATUS", help="Only runs with this status.")
@click.option("--limit", type=click.IntRange(1, MOST_LISTED), metavar="N", help="So many runs, newest first (20).")
@click.pass_obj
def sync_runs(  # noqa: PLR0917  # click calls it by name
    call: Call, run_id: str | None, retry_failed: bool, follow: bool, status: str | None, limit: int | None
) -> None:
    """Show the runs of the ledger."""
    if run_id is None and (retry_failed or follow):
        raise click.UsageError("--retry-failed and --follow need --run-id")
    if run_id is not None and (status is not None or limit is not None):
        raise click.UsageError("--status and --limit are for the list of runs, not with --run-id")
    if status is not None:
        from lore.core.runs import STATUSES

        if status not in STATUSES:
            raise click.UsageError(f"a run has one of the statuses {', '.join(STATUSES)}, not {status!r}")
    settings = call.settings()
    runs = _open(settings, needs_token=True) if retry_failed else _open_ledger(settings)
    if run_id is None:
        from lore.terminal import show_runs

        listed = runs.list_runs(status, limit or 20)
        call.done({"runs": listed}, show=lambda: show_runs(listed))
        return
    run_id = runs.find_run(run_id)
    if retry_failed:
        _carry_on(call, settings, runs, runs.retry(run_id), will_wait=follow or None, follows=follow)
        return
    if follow:
        with _progress(call, runs, run_id, follows=True) as on_change:
            _wait(runs, run_id, timeout_s=None, on_change=on_change)
    _report(call, runs, run_id, was_waited_for=follow, is_quiet=False)


@commands.command(example="lore cancel last")
@click.argument("run", metavar="RUN")
@click.pass_obj
def cancel(call: Call, run: str) -> None:
    """Cancel a run that has not ended.

    RUN is an id, the beginning of one, or last. What the run has committed stays.
    """
    runs = _open(call.settings(), needs_token=False)
    run_id = runs.find_run(run)
    runs.cancel(run_id, why="cancelled by lore cancel")
    _report(call, runs, run_id, was_waited_for=False, is_quiet=False)


@commands.command(example="lore sweep")
@click.pass_obj
def sweep(call: Call) -> None:
    """Move on every run that was left behind.

    Workers and runs without Redis do so themselves, every second.
    """
    settings = call.settings()
    _open(settings, needs_token=False)
    import workers
    from lore.terminal import show_fields
    from workers import upkeep

    counts = upkeep.sweep()
    if not settings.is_embedded:
        workers.require_broker()
    call.done({"swept": counts}, show=lambda: show_fields(counts, title="swept" if counts else "nothing to sweep"))


@commands.command(example="lore worker --queues fetch --processes 2 --threads 16")
@click.option("--queues", default="", metavar="A,B", help="Only these queues (all).")
@click.option("--processes", type=click.IntRange(1, 256), default=1, metavar="N", help="So many processes (1).")
@click.option("--threads", type=click.IntRange(1, 256), default=8, metavar="N", help="So many threads in each (8).")
@click.option("--until-stdin-closes", is_flag=True, hidden=True, help="End when standard input does: leave no orphan.")
@click.pass_obj
def worker(call: Call, queues: str, processes: int, threads: int, until_stdin_closes: bool) -> None:
    """Work on queued runs until stopped."""
    import workers

    names = [name.strip() for name in queues.split(",") if name.strip()]
    unknown = [name for name in names if name not in workers.QUEUES]
    if unknown or (queues and not names):
        raise click.UsageError(f"the queues are {', '.join(workers.QUEUES)}, not {queues!r}")
    settings = call.settings(level="info")
    settings.require_token()
    from workers.processes import serve

    status = int(
        serve(
            settings,
            queues=names,
            threads=threads,
            processes=processes,
            until_stdin_closes=until_stdin_closes,
        )
    )
    call.done({"exit": status}, status=status)


@commands.command(example="lore show 'group/project!12'")
@click.argument("ref", metavar="REF")
@_project_option
@click.pass_obj
def show(call: Call, ref: str, project: str | None) -> None:
    """Show what the mirror holds of an entity.

    REF is a web URL, group/project!12, '!12' or '#7'. Only the mirror is read: no request is made.
    """
    from lore.core.refs import parse_ref, ref_of

    settings = call.settings(LORE_PROJECT=project)
    selection = _select(settings, [parse_ref(ref, base_url=settings.gitlab_url)], options=())
    runs = _open_ledger(settings)
    from lore.terminal import show_entity
    from workers import reads

    name = runs.resolve_project(settings.gitlab_url, selection.project)
    entity = selection.entities[0]
    held = reads.show(settings.gitlab_url, name, entity.entity_type, entity.iid)
    shown = {"ref": ref_of(entity.entity_type, entity.iid, project=name), **held}
    call.done(shown, show=lambda: show_entity(shown))


@commands.command(example="lore doctor")
@click.pass_obj
def doctor(call: Call) -> None:
    """Check everything lore needs.

    Each line is ok, or says what is not and the command that mends it: settings, GitLab, token, database, Redis,
    workers, what the sweeper would do.
    """
    from lore.core.errors import LoreError
    from lore.terminal import show_checks

    found: Iterator[Any]
    try:
        settings = call.settings()
    except LoreError as error:
        found = iter([{"name": "settings", "is_ok": False, "detail": error.message, "action": None}])
    else:
        from workers import doctor as examination

        keys = ("name", "is_ok", "detail", "action")
        found = ({key: getattr(check, key) for key in keys} for check in examination.checks(settings))
    # People see each check as it is made; a robot gets all of them.
    checks = list(found) if call.is_robot else []
    call.done({"is_ok": all(check["is_ok"] for check in checks), "checks": checks}, show=lambda: show_checks(found))


@commands.command(example="lore demo")
@click.option("--serve", is_flag=True, help="Just serve the demo GitLab, until stopped.")
@click.option("--no-redis", is_flag=True, help="Do the run without Redis and workers.")
@click.pass_obj
def demo(call: Call, serve: bool, no_redis: bool) -> None:
    """Try lore on a demo GitLab.

    The main job, from submit to show, in a temporary folder; all it starts is stopped again.
    """
    if serve and no_redis:
        raise _conflict(call, "--serve", "--no-redis")
    status = _run_demo(call, "lore.demo" if serve else "lore.demo.tour", ["--no-redis"] if no_redis else [])
    call.done({"exit": status}, status=status)


@commands.command(example='eval "$(lore completion bash)"')
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


def _submit(
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
    from lore.core.plan import ISSUE, MERGE_REQUEST, Entity
    from lore.core.refs import Ref, parse_iid, parse_ref
    from lore.core.runs import RunOptions

    if dry_run and preflight_only:
        raise _conflict(call, "--dry-run", "--preflight-only")
    if will_wait is False and timeout is not None:
        raise _conflict(call, "--no-wait", "--timeout")
    if no_docs and not no_embed:
        raise _no_docs_error(call)
    named = [Ref(None, Entity(ISSUE, parse_iid(iid, entity_type=ISSUE))) for iid in issues]
    named += [Ref(None, Entity(MERGE_REQUEST, parse_iid(iid, entity_type=MERGE_REQUEST))) for iid in mrs]
    settings = call.settings(LORE_PROJECT=project)
    named += [parse_ref(ref, base_url=settings.gitlab_url) for ref in refs]
    flags = [("--preflight-only", preflight_only), ("--dry-run", dry_run), ("--no-docs", no_docs)]
    flags += [("--no-embed", no_embed), ("--wait", bool(will_wait))]
    selection = _select(settings, named, options=[flag for flag, is_set in flags if is_set])
    options = RunOptions(mode="preflight_only" if preflight_only else "commit", docs=not no_docs, embed=not no_embed)
    if dry_run:
        from lore.core.outcome import plan_of
        from lore.terminal import show_plan

        plan = plan_of(settings.gitlab_url, selection.project, selection.entities, options)
        call.done({"plan": plan}, show=lambda: show_plan(plan))
        return
    runs = _open(settings, needs_token=True)
    submitted = runs.submit(
        gitlab_url=settings.gitlab_url,
        project=runs.resolve_project(settings.gitlab_url, selection.project),
        entities=selection.entities,
        options=options,
        trigger=trigger,
        is_to_be_sent=not (settings.is_embedded and will_wait is False),
    )
    _carry_on(call, settings, runs, submitted, will_wait=will_wait, timeout_s=timeout, is_quiet=is_quiet)


def _select(settings: Settings, named: Sequence[Ref], *, options: Sequence[str]) -> Selection:
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


def _open_ledger(settings: Settings) -> ModuleType:
    """Open the database alone, and return `workers.runs`: what only reads works while Redis is down."""
    import workers

    workers.open_ledger(settings)
    from workers import runs

    return runs


def _open(settings: Settings, *, needs_token: bool) -> ModuleType:
    """Open database and broker, and return `workers.runs`."""
    if needs_token:
        settings.require_token()
    import workers

    workers.open_workers(settings)
    from workers import runs

    return runs


def _carry_on(
    call: Call,
    settings: Settings,
    runs: ModuleType,
    submitted: Any,
    *,
    will_wait: bool | None,
    timeout_s: float | None = None,
    is_quiet: bool = False,
    follows: bool = False,
) -> None:
    """Do the run here, wait for it, or leave it to a worker, and report."""
    run_id = submitted.run_id
    is_here = settings.is_embedded and will_wait is not False
    was_waited_for = is_here or bool(will_wait) or timeout_s is not None
    if settings.is_embedded and not is_here:
        call.warn("LEFT_QUEUED", f"run {run_id} is queued; a worker does it: lore worker")
    elif not is_here and not submitted.is_sent:
        call.warn(
            "BROKER_UNREACHABLE", f"Redis does not answer: run {run_id} stays queued, and a worker sends it later"
        )
    elif not is_here and not runs.has_live_worker():
        call.warn("NO_LIVE_WORKER", f"no worker is alive to take run {run_id}; start one: lore worker")
    if was_waited_for:
        with _progress(call, runs, run_id, follows=follows, is_quiet=is_quiet) as on_change:
            if is_here:
                _do_here(runs, run_id, timeout_s=timeout_s, on_change=on_change)
            else:
                _wait(runs, run_id, timeout_s=timeout_s, on_change=on_change)
    _report(call, runs, run_id, was_waited_for=was_waited_for, is_quiet=is_quiet)


def _do_here(runs: ModuleType, run_id: str, *, timeout_s: float | None, on_change: Callable[[], None]) -> None:
    from lore.core.errors import LoreError
    from workers import embedded

    try:
        embedded.run_to_end(run_id, timeout_s=timeout_s, on_change=on_change)
    except KeyboardInterrupt:
        try:
            runs.cancel(run_id, why="cancelled by Ctrl-C")
        except LoreError as error:
            if error.code != "RUN_ENDED":
                raise


def _wait(runs: ModuleType, run_id: str, *, timeout_s: float | None, on_change: Callable[[], None]) -> None:
    from lore.core.errors import RunError

    try:
        has_ended = runs.wait(run_id, timeout_s=timeout_s, on_change=on_change)
    except KeyboardInterrupt:
        raise RunError("DETACHED", f"run {run_id} goes on without us", run_id=run_id) from None
    if not has_ended:
        raise RunError("STILL_RUNNING", f"run {run_id} had not ended after {timeout_s or 0:g} s", run_id=run_id)


@contextlib.contextmanager
def _progress(
    call: Call, runs: ModuleType, run_id: str, *, follows: bool, is_quiet: bool = False
) -> Iterator[Callable[[], None]]:
    from lore.terminal import Follower, watching

    if follows:
        follower = Follower(lambda after_id: runs.read_events(run_id, after_id), is_robot=call.is_robot)
        follower()
        try:
            yield follower
        finally:
            follower()
    elif is_quiet or call.is_robot:
        yield lambda: None
    else:
        with watching(lambda: {"run": runs.read_run(run_id), "tasks": runs.read_progress(run_id)}) as on_change:
            yield on_change


def _report(call: Call, runs: ModuleType, run_id: str, *, was_waited_for: bool, is_quiet: bool) -> None:
    from lore.terminal import show_run

    run, entities = runs.read_run(run_id), runs.read_entities(run_id)
    error = runs.error_of(run_id) if was_waited_for else None
    show = None if is_quiet else lambda: show_run(run, entities, with_error=error is None)
    call.done({"run": run, "entities": entities}, show=show)
    call.shows_failures = is_quiet
    if error is not None:
        raise error


def _run_demo(call: Call, module: str, argv: list[str]) -> int:
    """Run a module of the demo, which nothing imports; a robot's standard output is kept free of its words."""
    import runpy

    from lore.core.errors import SettingError

    said = sys.argv
    kept = os.dup(1) if call.is_robot else None
    try:
        if kept is not None:
            os.dup2(2, 1)
        sys.argv = [module, *argv]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("starlette", "uvicorn"):
            raise SettingError(
                "MISSING_EXTRA",
                "the demo GitLab needs lore's extra `demo`",
                actions=["pipx install --force 'gitlab-lore[demo]'"],
            ) from error
        raise
    finally:
        sys.argv = said
        if kept is not None:
            os.dup2(kept, 1)
            os.close(kept)
    return 0


def _conflict(call: Call, one: str, other: str) -> LoreError:
    from lore.core.errors import UsageError

    return UsageError("CONFLICTING_OPTIONS", f"{one} and {other} exclude each other", command=call.command)


def _no_docs_error(call: Call) -> LoreError:
    from lore.core.errors import UsageError

    place = call.argv.index("--no-docs") + 1
    mended = [call.prog, *call.argv[:place], "--no-embed", *call.argv[place:]]
    return UsageError(
        "NO_DOCS_REQUIRES_NO_EMBED",
        "without documents there is nothing to embed: --no-docs needs --no-embed",
        actions=[shlex.join(mended)],
    )


def lore() -> None:
    """Run `lore`."""
    sys.exit(run(commands, "lore"))


def lore_submit() -> None:
    """Run `lore-submit`."""
    sys.exit(run(submit, "lore-submit"))


if __name__ == "__main__":
    lore()
