"""The preflight: fan a run out into tasks, and read one endpoint to its last page.

A fetch claims its row, stages what GitLab says and marks the row done, in transactions of its own: none lives across
a request. Whoever ends the last open task moves the run on.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import peewee

from lore.core import payloads, plan, runs
from lore.core.errors import BusyError, LoreError, PassingError, RefusedError, SettingError
from lore.gitlab import GitLab, check_entity, check_project, project_segment
from lore.logs import bind_context, get_logger
from models.base import clock, now_ms, read, write
from models.ledger import Project, Run
from models.queue import (
    Claim,
    NoRoom,
    Task,
    claim,
    claim_entity,
    drop_pages,
    is_held,
    pause_host,
    put_off,
    renew,
    stage_page,
)
from models.statements import Prepared, given
from workers import messages, moves, politeness, resources
from workers.actors import BEHIND_PEOPLE, actor, say_busy

log = get_logger(__name__)

T = TypeVar("T")

# A wait shorter than this is spent inside the claim; a longer one is written into the row.
INLINE_WAIT_MS = 1_000
# The places are taken for tens of ms. A person's fetch waits for one; a sync's would keep a thread from a person's.
ROOM_LOOK_S = 0.01
ROOM_LOOKS, PATIENT_LOOKS = 100, 5
# Whoever does many tasks one after the other keeps its claims alive, and hears of a cancel.
RENEW_EVERY_S = 2.0


@actor("preflight")
def preflight(run_id: str) -> None:
    """Begin a run's preflight and send all of its fetches."""
    with write():
        begun = (
            Run.update(
                status=runs.PREFLIGHT,
                started_at=clock(),
                stage_at=clock(),
                deadline_at=clock() + resources.settings().run_deadline_ms,
            )
            .where(Run.run_id == run_id, Run.status == runs.QUEUED)
            .execute()
        )
        if not begun:
            return
        of_run = Task.select(Task.id).where(Task.scope_run == run_id)
        if runs.is_child(run_id):
            # One message an entity: who takes it reads all of it.
            of_run = Task.select(peewee.fn.MIN(Task.id)).where(Task.scope_run == run_id)
            of_run = of_run.group_by(Task.entity_type, Task.iid)
        tasks = sorted(row[0] for row in of_run.tuples())
        Task.update(sent_at=clock(), sends=1).where(Task.scope_run == run_id, Task.status == runs.PENDING).execute()
        moves.record(run_id, "preflight_started", stage=runs.STAGE_PREFLIGHT, tasks=len(tasks))
    log.info("preflight_started", tasks=len(tasks))
    messages.send_fetches(run_id, tasks)


@actor("fetch")
def fetch(task_id: int) -> None:
    """Read one endpoint of one entity to its last page, and move the run on if that was its last open task."""
    held = _claim(task_id, claim, looks=ROOM_LOOKS)
    if held is not None:
        _fetch_all([held])


@actor("sync_fetch", priority=BEHIND_PEOPLE)
def sync_fetch(task_id: int) -> None:
    """Read all endpoints of a task's entity, one after the other: a sync's transactions keep others waiting."""
    _fetch_all(_claim(task_id, claim_entity, looks=PATIENT_LOOKS) or [])


def _claim(task_id: int, take: Callable[..., T], *, looks: int) -> T | None:
    """Claim as soon as there is room; in vain for so many looks, a sweeper sends the task again later."""
    settings = resources.settings()
    for _ in range(looks):
        try:
            return take(
                task_id,
                by=resources.whoami(),
                lease_ms=settings.claim_lease_ms,
                gitlab_url=settings.gitlab_url,
                most=settings.gitlab_concurrency,
            )
        except NoRoom:
            time.sleep(ROOM_LOOK_S)
    put_off(task_id)
    return None


def _fetch_all(claims: Sequence[Claim]) -> None:
    fetched: list[tuple[Claim, _Fetched]] = []
    live = _Live(list(claims))
    for held in claims:
        bind_context(run_id=held.run_id, entity=_entity(held), job=held.job_type)
        try:
            if live.are_due():
                _renew(held, live)
            politeness.heed()
            fetched.append((held, _fetch(held, live)))
        except _ClaimLost:
            log.info("claim_lost", claim_no=held.claim_no)
            _give_back(live.claims)
            return
        except PassingError as error:
            live.claims.remove(held)
            if not _wait_or_fail(held, error):
                _give_back(live.claims)
                return
            if error.code == "GITLAB_RATE_LIMITED":
                # The host asked everybody to wait.
                _give_back(live.claims[len(fetched) :])
                break
        except BusyError as error:
            say_busy("left_to_the_sweeper", error)
            _give_back(live.claims)
            return
        except LoreError as error:
            live.claims.remove(held)
            _fail(held, error, is_read=bool(fetched))
            _give_back(live.claims)
            return
        except Exception as error:
            _fail(held, RefusedError("INTERNAL", f"a bug of ours in {held.job_type}: {type(error).__name__}"))
            raise
    if fetched:
        try:
            _finish(fetched)
        except BusyError:
            _give_back([held for held, _ in fetched])
            raise


class _ClaimLost(Exception):
    """The claim is somebody else's, or its run has ended: stop without a trace."""


@dataclass
class _Live:
    """The claims of one entity that are ours still: one is being read, the others were or will be."""

    claims: list[Claim]
    renewed_s: float = field(default_factory=time.monotonic)

    def are_due(self) -> bool:
        return time.monotonic() - self.renewed_s > RENEW_EVERY_S


@dataclass
class _Fetched:
    """What one endpoint answered; the last page is kept here to be staged with the end of the task."""

    observed_at: int
    last_page: tuple[int, bytes]
    found_project_id: int | None = None
    pages: int = 1
    requests: int = 1
    size_bytes: int = 0
    ms: int = 0


def _fetch(held: Claim, live: _Live) -> _Fetched:
    with read():
        gitlab_url, gitlab_id, stored = _OF_CLAIM.row(run_id=held.run_id, project_id=held.project_id)
    if gitlab_url != resources.settings().gitlab_url:
        raise SettingError(
            "OTHER_GITLAB",
            f"this worker speaks to {resources.settings().gitlab_url}, the run is of {gitlab_url}: "
            "start the worker with the run's LORE_GITLAB_URL",
        )
    options = json.loads(stored)
    segment = project_segment(options["project"] if options["by_path"] else gitlab_id)
    endpoint = plan.endpoint_of(held.entity_type, held.job_type)
    path = plan.api_path(segment, held.entity_type, held.iid, endpoint)
    began = time.monotonic()
    gitlab = resources.gitlab()
    if endpoint.is_list:
        fetched = _fetch_list(held, live, gitlab, path, endpoint)
    else:
        known_id = None if options["by_path"] else gitlab_id
        fetched = _fetch_object(held, live, gitlab, path, known_id)
    fetched.ms = round((time.monotonic() - began) * 1000)
    return fetched


_OF_CLAIM: Final = Prepared(
    lambda: (
        Project.select(Project.gitlab_url, Project.gitlab_id, Run.options)
        .join(Run, on=(Run.run_id == given("run_id")))
        .where(Project.project_id == given("project_id"))
    )
)


def _fetch_object(held: Claim, live: _Live, gitlab: GitLab, path: str, known_id: int | None) -> _Fetched:
    observed_at = held.began_at

    def restart() -> None:
        nonlocal observed_at
        observed_at = now_ms()

    answer = _patiently(held, live, lambda: gitlab.read_object(path), again=restart)
    fetched = _Fetched(observed_at, (1, answer.body), size_bytes=len(answer.body))
    if held.entity_type == plan.PROJECT:
        project = payloads.decode_project(answer.body)
        check_project(project, gitlab_project_id=known_id)
        fetched.found_project_id = project.id
    else:
        value = payloads.decode_entity(held.entity_type, answer.body)
        check_entity(value, iid=held.iid, gitlab_project_id=known_id)
        fetched.found_project_id = value.project_id
    return fetched


def _fetch_list(held: Claim, live: _Live, gitlab: GitLab, path: str, endpoint: plan.Endpoint) -> _Fetched:
    observed_at = held.began_at
    waiting: list[tuple[int, bytes]] = []
    is_first = True

    def keep(page: int, body: bytes) -> None:
        # One page is held back: the usual list has no other, and is staged with the end of its task.
        if waiting and waiting[0][0] != page:
            _stage(held, *waiting.pop())
        waiting[:] = [(page, body)]

    def restart() -> None:
        nonlocal observed_at
        waiting.clear()
        with write():
            drop_pages(held)
        observed_at = now_ms()

    def before_request() -> None:
        nonlocal is_first
        if not is_first:
            _renew(held, live)
        is_first = False

    listed = _patiently(
        held,
        live,
        lambda: gitlab.read_list(path, endpoint, before_request=before_request, keep_page=keep, restart=restart),
        again=restart,
    )
    return _Fetched(observed_at, waiting[0], pages=listed.pages, requests=listed.requests, size_bytes=listed.size_bytes)


def _patiently(held: Claim, live: _Live, ask: Callable[[], T], again: Callable[[], None] | None = None) -> T:
    """Ask; after an error that can pass, and whose wait is short, ask again within the same claim."""
    tries = held.tries
    while True:
        try:
            return ask()
        except PassingError as error:
            wait_ms = runs.retry_wait_ms(tries, error.retry_after_s, jitter=random.random())
            if error.pauses_host or wait_ms > INLINE_WAIT_MS:
                raise
            log.info("request_again", code=error.code, cause=error.message, wait_ms=wait_ms)
            _note_cause(held, error)
            time.sleep(wait_ms / 1000)
            tries += 1
            _renew(held, live)
            if again is not None:
                again()


def _note_cause(held: Claim, error: PassingError) -> None:
    """Keep in the row what is waited for: the deadline may come before the next answer."""
    with write():
        Task.update(error_code=error.code, error_message=error.message[:2000]).where(*is_held(held)).execute()


def _renew(held: Claim, live: _Live) -> None:
    """Renew the claim before a request, which also tells of a cancel and of a host that asked for a pause.

    Now and then those of the entity's other endpoints are renewed as well: a walk may be longer than a lease.
    """
    lease_ms = resources.settings().claim_lease_ms
    are_due = live.are_due()
    with write():
        # Of several tasks the run's row first: whoever aborts them holds it, and takes them in another order.
        if are_due and len(live.claims) > 1 and not moves.lock_run(held.run_id, runs.PREFLIGHT):
            raise _ClaimLost
        if not all(renew(one, lease_ms=lease_ms) for one in (live.claims if are_due else [held])):
            raise _ClaimLost
        politeness.heed_in_transaction()
    if are_due:
        live.renewed_s = time.monotonic()


def _stage(held: Claim, page: int, body: bytes) -> None:
    with write():
        if not renew(held, lease_ms=resources.settings().claim_lease_ms):
            raise _ClaimLost
        stage_page(held, page, body)


def _finish(fetched: Sequence[tuple[Claim, _Fetched]]) -> None:
    """Mark tasks of one entity as done, and move its run on if they were the last."""
    moved = None
    first = fetched[0][0]
    with write():
        # The run's row first: of two last tasks that end at once, the second must see the first's.
        if not moves.lock_run(first.run_id, runs.PREFLIGHT):
            return
        done = [one for one in fetched if _mark_done(*one)]
        if not done:
            return
        politeness.note_limits()
        took = {
            "job": ",".join(held.job_type for held, _ in done),
            "pages": sum(one.pages for _, one in done),
            "requests": sum(one.requests for _, one in done),
            "bytes": sum(one.size_bytes for _, one in done),
            "ms": sum(one.ms for _, one in done),
        }
        moves.record(first.run_id, "fetched", stage=runs.STAGE_PREFLIGHT, entity=_entity(first), **took)
        moved = moves.end_preflight(first.run_id)
    log.info("fetched", **took)
    if moved == runs.COMMITTING:
        messages.send_run(messages.COMMIT, first.run_id)


def _mark_done(held: Claim, fetched: _Fetched) -> bool:
    done = _DONE.changed(
        task_id=held.task_id,
        claim_no=held.claim_no,
        observed_at=fetched.observed_at,
        found_project_id=fetched.found_project_id,
    )
    if not done:
        log.info("claim_lost", claim_no=held.claim_no)
        return False
    stage_page(held, *fetched.last_page)
    return True


_DONE: Final = Prepared(
    lambda: Task.update(
        status=runs.DONE,
        claimed_by=None,
        claimed_until=None,
        observed_at=given("observed_at"),
        found_project_id=given("found_project_id"),
        error_code=None,
        error_message=None,
    ).where(Task.id == given("task_id"), Task.status == runs.CLAIMED, Task.claim_no == given("claim_no"))
)


def _wait_or_fail(held: Claim, error: PassingError) -> bool:
    """Write the wait into the row, for a sweeper to send the task again; a wait past the deadline fails at once.

    Returns:
        Whether the rest of its entity is still to be read.
    """
    wait_ms = runs.retry_wait_ms(held.tries, error.retry_after_s, jitter=random.random())
    if error.pauses_host:
        # By itself and first: everybody waits for it, whatever became of this run.
        with write():
            pause_host(resources.settings().gitlab_url, wait_ms)
    with write():
        if not moves.lock_run(held.run_id, runs.PREFLIGHT):
            return False
        deadline_at = Run.select(Run.deadline_at).where(Run.run_id == held.run_id).scalar()
        next_at = now_ms() + wait_ms
        if deadline_at is None or next_at < deadline_at:
            waiting = Task.update(
                status=runs.PENDING,
                next_at=next_at,
                sent_at=None,
                claimed_by=None,
                claimed_until=None,
                error_code=error.code,
                error_message=error.message[:2000],
            ).where(*is_held(held))
            if not waiting.execute():
                return False
            _record(held, "fetch_waits", error, wait_ms=wait_ms)
            log.warning("fetch_waits", code=error.code, cause=error.message, wait_ms=wait_ms, tries=held.tries)
            return True
    _fail(held, error)
    return False


def _fail(held: Claim, error: LoreError, *, is_read: bool = False) -> None:
    """Fail a task and its entity; `is_read`: another endpoint of the entity has answered."""
    moved = None
    with write():
        if not moves.lock_run(held.run_id, runs.PREFLIGHT):
            return
        if not Task.select().where(*is_held(held)).exists():
            return
        message = _named(held, error, is_read=is_read)
        moves.fail_task(held.task_id, held.run_id, held.entity_type, held.iid, code=error.code, message=message)
        _record(held, "fetch_failed", error, message=error.message[:500])
        moved = moves.end_preflight(held.run_id)
    log.warning("fetch_failed", code=error.code, cause=error.message)
    if moved == runs.COMMITTING:
        messages.send_run(messages.COMMIT, held.run_id)


def _record(held: Claim, event: str, error: LoreError, **detail: Any) -> None:
    about = {"entity": _entity(held), "job": held.job_type, "code": error.code}
    moves.record(held.run_id, event, stage=runs.STAGE_PREFLIGHT, **about, **detail)


def _named(held: Claim, error: LoreError, *, is_read: bool) -> str:
    """Return an error's message; a 404 names what a person asked for, whichever of its endpoints was answered first."""
    hint = error.context.get("hint")
    if error.code not in ("GITLAB_NOT_FOUND", "PROJECT_NOT_FOUND") or hint is None:
        return error.message
    project = Project.select(Project.path_with_namespace).where(Project.project_id == held.project_id).scalar()
    if error.code == "PROJECT_NOT_FOUND":
        return f"GitLab has no project {project}{hint}"
    of_it = (Task.scope_run == held.run_id, Task.entity_type == held.entity_type, Task.iid == held.iid)
    if is_read or Task.select().where(*of_it, Task.status == runs.DONE).exists():
        return error.message  # it is there: this endpoint alone is not
    # Of the others one can be missing by itself, and its own answer does not come any more.
    or_this = "" if held.job_type == plan.OWN else f", or that has no {held.job_type}"
    return f"{project} has no {_entity(held)}{or_this}{hint}"


def _give_back(claims: Sequence[Claim]) -> None:
    """Make tasks pending again that are still ours: who stops has not lost a claim, of which three are poison."""
    if not claims:
        return
    try:
        with write():
            # The run's row first: whoever aborts these tasks holds it, and takes them in another order.
            if not moves.lock_run(claims[0].run_id, runs.PREFLIGHT):
                return
            for held in claims:
                Task.update(
                    status=runs.PENDING,
                    next_at=clock() + INLINE_WAIT_MS,
                    sent_at=None,
                    claimed_by=None,
                    claimed_until=None,
                ).where(*is_held(held)).execute()
    except BusyError as error:
        say_busy("claims_kept_to_their_end", error, count=len(claims))


def _entity(held: Claim) -> str:
    return plan.entity_name(held.entity_type, held.iid)
