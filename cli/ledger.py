"""The runs of the ledger: show, follow, retry and cancel them, and move on what was left behind."""
# ruff: noqa: PLC0415  # what a command needs is imported when it is called

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from cli.following import carry_on, detaching, noting_ctrl_c, progress, report, wait
from cli.opening import given, open_ledger, open_workers
from cli.shapes import RUN, RUN_AND_ENTITIES, WHOLE, either, mapping, record, rows
from lore.door import Acting, Call, Door, Tool, works_long

if TYPE_CHECKING:
    from lore.settings import Settings


@click.command(
    "sync-runs",
    cls=Door,
    example="lore sync-runs --run-id last --follow",
    data=either(record(runs=rows(RUN)), RUN_AND_ENTITIES),
    writes=False,
    listed="runs",
    tools=[
        Tool("runs", ("run_id", "status"), help="Show the newest runs of the ledger, or one run and its entities."),
        Tool(
            "retry",
            ("run_id",),
            always=("--retry-failed",),
            writes=True,
            help="Open a run for the entities of a run that did not land.",
        ),
    ],
)
@click.option("--run-id", metavar="RUN", help="One run: its id, the beginning of it, or last.")
@click.option("--retry-failed", cls=Acting, is_flag=True, help="Open a run for the entities that did not land.")
@click.option("--follow", is_flag=True, help="Print its events as they come, until it ends.")
@click.option("--status", metavar="STATUS", help="Only runs with this status.")
@click.pass_obj
def sync_runs(call: Call, run_id: str | None, retry_failed: bool, follow: bool, status: str | None) -> None:
    """Show the runs of the ledger, newest first."""
    if run_id is not None:
        given(run_id, "a run: its id, the beginning of it, or last")
    if run_id is None and (retry_failed or follow):
        raise click.UsageError("--retry-failed and --follow need --run-id")
    if run_id is not None and (status is not None or call.is_paged):
        raise click.UsageError("--status, --limit and --after are for the list of runs, not with --run-id")
    if status is not None:
        from lore.core.runs import STATUSES

        if status not in STATUSES:
            raise click.UsageError(f"a run has one of the statuses {', '.join(STATUSES)}, not {status!r}")
    settings = call.settings()
    runs = open_workers(settings, needs_token=True) if retry_failed else open_ledger(settings)
    if run_id is None:
        from lore.core.pages import first_of
        from lore.terminal import show_runs

        page = call.page()
        (before,) = page.after or (None,)
        read = runs.list_runs(status, page.limit + 1, before)
        listed, following = first_of(read, page.limit, lambda run: (run["run_id"],))
        call.done_page({"runs": listed, "next": following}, show=lambda: show_runs(listed))
        return
    run_id = runs.find_run(run_id)
    if retry_failed:
        carry_on(call, settings, runs, partial(runs.retry, run_id), will_wait=follow or None, follows=follow)
        return
    if follow:
        with (
            noting_ctrl_c() as ctrl_c,
            detaching(ctrl_c, run_id),
            progress(call, runs, run_id, follows=True) as on_change,
        ):
            wait(runs, run_id, timeout_s=None, on_change=on_change)
    report(call, runs, run_id, was_waited_for=follow, is_quiet=False)


@click.command(cls=Door, example="lore cancel last", data=RUN_AND_ENTITIES)
@click.argument("run", metavar="RUN")
@click.pass_obj
def cancel(call: Call, run: str) -> None:
    """Cancel a run that has not ended.

    RUN is an id, the beginning of one, or last. What the run has committed stays.
    """
    given(run, "a run: its id, the beginning of it, or last")
    runs = open_workers(call.settings(), needs_token=False)
    run_id = runs.find_run(run)
    runs.cancel(run_id, why="cancelled by lore cancel")
    report(call, runs, run_id, was_waited_for=False, is_quiet=False)


@click.command(cls=Door, example="lore sweep", data=record(swept=mapping(WHOLE)))
@click.pass_obj
def sweep(call: Call) -> None:
    """Move on every run that was left behind.

    Workers do so themselves, every second. Without Redis nobody else takes up what a killed process left: it is done
    here, to its end, once nobody has touched it for a minute or two.
    """
    settings = call.settings()
    open_workers(settings, needs_token=False)
    import workers
    from lore.terminal import show_fields
    from workers import upkeep

    left = _left_behind(settings) if settings.is_embedded else []  # before the sweep, which touches what it finds
    counts = Counter(upkeep.sweep())
    if not settings.is_embedded:
        workers.require_broker()
    _take_up(left, threads=settings.gitlab_concurrency)
    counts["taken_up"] = len(left)
    counts = +counts  # without what did nothing
    call.done({"swept": counts}, show=lambda: show_fields(counts, title="swept" if counts else "nothing to sweep"))


def _left_behind(settings: Settings) -> list[str]:
    from workers import findings

    return findings.left_behind(
        settings.gitlab_url,
        silent_ms=max(settings.lock_lease_ms, settings.claim_lease_ms),
        can_fetch=settings.gitlab_token is not None,
        can_embed=settings.embeddings != "off",
    )


def _take_up(run_ids: Sequence[str], *, threads: int) -> None:
    """Do, in this process, what killed ones left. Ctrl-C leaves the rest as it is."""
    from workers import embedded

    works_long()
    with noting_ctrl_c() as ctrl_c:
        for run_id in run_ids:
            try:
                embedded.run_to_end(run_id, threads=threads, is_interrupted=lambda: ctrl_c.was_pressed)
            except KeyboardInterrupt:
                embedded.give_back(run_id)
                raise
