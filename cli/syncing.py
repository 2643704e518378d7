"""`lore sync`: with ids the same as `lore-submit --wait`; without, bring a project or the whole mirror up to date."""
# ruff: noqa: PLC0415  # what a command needs is imported when it is called

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from cli.following import CtrlC, cancelling, detaching, do_here, noting_ctrl_c, wait, waiting
from cli.opening import conflict, open_workers, origin_remote
from cli.shapes import RUN, either, record, rows
from cli.submitting import SUBMITTED, submit_named, submit_options
from lore.door import Call, Door

if TYPE_CHECKING:
    from lore.core.errors import LoreError
    from lore.core.runs import RunOptions
    from lore.settings import Settings

# How long a sync is waited for until its workers are looked for again.
_LOOK_FOR_WORKERS_S = 10.0
# What is said of an entity by name has no meaning for all of them.
_ONLY_NAMED = ("preflight_only", "dry_run", "timeout")


# Of one project the run stands by itself too, as a run's command answers.
_SYNCED = either(SUBMITTED, record(runs=rows(RUN), run=RUN), record(runs=rows(RUN)))


@click.command("sync", cls=Door, example="lore sync -p group/project --quiet", data=_SYNCED)
@submit_options
@click.option("--prune", is_flag=True, help="Mark what GitLab no longer has as deleted, after the sync.")
def sync(call: Call, *, prune: bool, **asked: Any) -> None:
    """Bring the mirror up to date.

    Without ids all that changed since the last sync is fetched: of the project that is named or configured, else of
    every project of the mirror in turn. With ids it is lore-submit --wait.
    """
    if asked["refs"] or asked["issues"] or asked["mrs"]:
        if prune:
            raise conflict(call, "--prune", "an entity")
        submit_named(call, **{**asked, "will_wait": asked["will_wait"] is not False})
        return
    for name in _ONLY_NAMED:
        if asked[name]:
            raise click.UsageError(f"--{name.replace('_', '-')} needs an issue or a merge request to be named")
    _sync_all(call, asked, is_prune=prune)


for _option in sync.params:
    if isinstance(_option, click.Option) and _option.name in _ONLY_NAMED:
        _option.help = f"With ids only: {_option.help}"


def _sync_all(call: Call, asked: Mapping[str, Any], *, is_prune: bool) -> None:
    from lore.core.errors import UsageError
    from lore.core.refs import no_project
    from lore.core.runs import RunOptions

    if asked["no_docs"] and not asked["no_embed"]:
        raise UsageError("NO_DOCS_REQUIRES_NO_EMBED", "without documents there is nothing to embed: add --no-embed")
    is_quiet = asked["is_quiet"]
    call.is_terse = is_quiet
    settings = call.settings(LORE_PROJECT=asked["project"])
    runs = open_workers(settings, needs_token=True)
    from workers import syncing

    named = _project(settings)
    projects = [named] if named else syncing.mirrored_projects(settings.gitlab_url)
    if not projects:
        raise no_project(settings.gitlab_url)
    options = RunOptions(docs=not asked["no_docs"], embed=not asked["no_embed"] and settings.embeddings != "off")
    will_wait = asked["will_wait"] is not False
    done: list[dict[str, Any]] = []
    errors: list[LoreError] = []
    with noting_ctrl_c() as ctrl_c:
        for project in projects:
            for prunes in (False, True) if is_prune else (False,):
                with ctrl_c.raised():
                    name = runs.resolve_project(settings.gitlab_url, project)
                opened = syncing.open_sync(
                    gitlab_url=settings.gitlab_url,
                    project=name,
                    options=options,
                    trigger=asked["trigger"],
                    is_prune=prunes,
                    is_to_be_sent=not settings.is_embedded or will_wait,
                )
                if settings.is_embedded:
                    error = _do_here(call, settings, opened, ctrl_c, will_wait=will_wait, is_quiet=is_quiet)
                else:
                    needed = _queues(options, is_prune=prunes)
                    with detaching(ctrl_c, opened.run_id):
                        error = _leave(call, opened, needed, will_wait=will_wait, is_quiet=is_quiet)
                done.append(runs.read_run(opened.run_id))
                if error is not None:
                    errors.append(error)
    _report(call, done, errors, is_quiet=is_quiet)


def _project(settings: Settings) -> str | None:
    from lore.core.refs import parse_project, project_of_remote

    if settings.project:
        return parse_project(settings.project, base_url=settings.gitlab_url)
    remote = origin_remote()
    return project_of_remote(remote, base_url=settings.gitlab_url) if remote else None


def _do_here(
    call: Call, settings: Settings, opened: Any, ctrl_c: CtrlC, *, will_wait: bool, is_quiet: bool
) -> LoreError | None:
    """Do the sync in this process, unless another is at it or none is to; return what it ended with."""
    from workers import runs, syncing

    run_id = opened.run_id
    if not opened.is_new:
        with ctrl_c.raised():
            if syncing.is_worked_on(run_id, on_wait=_on_wait(call, run_id, is_quiet=is_quiet)):
                _say_active(call, opened, is_quiet=is_quiet)
                return None
    if not will_wait:
        call.warn("LEFT_QUEUED", f"sync {run_id} is queued; a worker does it: lore worker")
        return None
    with cancelling(run_id), _progress(call, run_id, is_quiet=is_quiet) as on_change:
        if not opened.is_new:
            syncing.adopt(run_id)
        told = {"on_change": on_change, "on_look": waiting(call, run_id, is_quiet=is_quiet)}
        do_here(call, run_id, ctrl_c, is_quiet=is_quiet, threads=settings.gitlab_concurrency, **told)
    error = runs.error_of(run_id)
    if ctrl_c.was_pressed and error is not None:
        raise error  # it is for all projects that were to come; the next sync goes on where the cursor stands
    return error


def _leave(call: Call, opened: Any, needed: Sequence[str], *, will_wait: bool, is_quiet: bool) -> LoreError | None:
    """Leave the sync to the workers, and wait for its end if that is asked for; return what it ended with."""
    from workers import runs

    run_id = opened.run_id
    on_wait = _on_wait(call, run_id, is_quiet=is_quiet)
    nobody = _nobody_for_long(runs, run_id, needed, on_wait) if will_wait else _nobody(runs, run_id, needed)
    if not opened.is_new and nobody is None:
        _say_active(call, opened, is_quiet=is_quiet)
        return None
    if not will_wait:
        if nobody is not None:
            call.warn(nobody.code, nobody.message)
        return None
    if nobody is not None:
        return nobody
    with _progress(call, run_id, is_quiet=is_quiet) as on_change:
        on_look = waiting(call, run_id, is_quiet=is_quiet)
        return _wait(runs, run_id, needed, on_change=on_change, on_look=on_look) or runs.error_of(run_id)


def _on_wait(call: Call, run_id: str, *, is_quiet: bool) -> Callable[[float], None] | None:
    from lore.terminal import say_looking

    return None if is_quiet or call.is_robot else partial(say_looking, run_id)


def _say_active(call: Call, opened: Any, *, is_quiet: bool) -> None:
    # It does what we would do: to run beside it would only ask for everything twice.
    if not is_quiet:
        call.warn("SYNC_ACTIVE", f"a sync of {opened.project} is under way already: {opened.run_id}")


def _queues(options: RunOptions, *, is_prune: bool) -> list[str]:
    """Return the queues that have to be served for such a sync to come to its end."""
    from workers import SYNC_QUEUES

    unneeded = {"sync_fetch", "sync_commit", "sync_documents", "sync_embed"} if is_prune else set()
    unneeded |= set() if options.docs else {"sync_documents"}
    unneeded |= set() if options.embed else {"sync_embed"}
    return [name for name in SYNC_QUEUES if name not in unneeded]


def _wait(runs: ModuleType, run_id: str, needed: Sequence[str], **told: Callable[[], None]) -> LoreError | None:
    """Wait for the end of a sync as long as there is somebody to do it."""
    from lore.core.errors import RunError

    while True:
        try:
            wait(runs, run_id, timeout_s=_LOOK_FOR_WORKERS_S, **told)
        except RunError as error:
            if error.code != "STILL_RUNNING":
                raise
        else:
            return None
        nobody = _nobody_for_long(runs, run_id, needed)
        if nobody is not None:
            return nobody


def _nobody_for_long(
    runs: ModuleType, run_id: str, needed: Sequence[str], on_wait: Callable[[float], None] | None = None
) -> LoreError | None:
    """Do as `_nobody`, and look twice: a worker or a Redis that is started anew is soon there again.

    A process that works without Redis is no worker, and says that it is at it.
    """
    from workers import syncing

    if _nobody(runs, run_id, needed) is None or syncing.is_worked_on(run_id, on_wait=on_wait):
        return None
    return _nobody(runs, run_id, needed)


def _nobody(runs: ModuleType, run_id: str, needed: Sequence[str]) -> LoreError | None:
    """Return why nobody is there to do a sync; None where somebody is.

    It is not waited for then: whoever runs it from cron would never hear of it.
    """
    from lore.core.errors import BrokerError, RunError
    from workers import require_broker

    if runs.has_live_worker(needed):
        return None
    try:
        require_broker()
    except BrokerError:
        message = f"Redis does not answer: sync {run_id} stays as it is, for workers to go on with"
        return RunError("BROKER_UNREACHABLE", message, run_id=run_id)
    return RunError("NO_LIVE_WORKER", f"no worker is alive to do sync {run_id}, which stays as it is", run_id=run_id)


@contextlib.contextmanager
def _progress(call: Call, run_id: str, *, is_quiet: bool) -> Iterator[Callable[[], None]]:
    from lore.terminal import watching_sync
    from workers import syncing

    if is_quiet or call.is_robot:
        yield lambda: None
        return
    with watching_sync(lambda: syncing.read_progress(run_id)) as on_change:
        yield on_change


def _report(call: Call, done: list[dict[str, Any]], errors: list[LoreError], *, is_quiet: bool) -> None:
    from lore.terminal import show_run

    # The command ends with the first error, which says why that run failed.
    raised = errors[0] if errors else None
    answer: dict[str, Any] = {"runs": done}
    if len(done) == 1:
        answer["run"] = done[0]

    def show() -> None:
        for run in done:
            show_run(run, [], with_error=run["run_id"] != getattr(raised, "run_id", None))

    call.done(answer, show=None if is_quiet else show)
    if raised is not None:
        raise raised
