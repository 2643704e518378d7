"""What happens at the seams: a lock of an ended run, a run that is nobody's, a database that is busy for a moment."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import dramatiq
import pytest
from support import (
    GITLAB_URL,
    ISSUE_7,
    MR_12,
    FakeGitLab,
    age,
    drain,
    open_tasks,
    status_of,
    submit,
    waiting_messages,
)

from lore.core.errors import BusyError
from models.base import database, disconnect, is_postgresql, now_ms, read, write
from models.ledger import Run
from models.locks import ProjectLock
from models.queue import GitLabHost, Task, pause_host
from models.watch import Watch
from workers import commit, embedded, findings, moves, preflight, resources, runs, upkeep


def fetched(*entities: Any) -> str:
    run_id = submit(*entities)
    drain(only={"preflight", "fetch"})
    dramatiq.get_broker().flush_all()
    return run_id


def busy() -> BusyError:
    return BusyError("DATABASE_BUSY", "the database was busy for too long")


@pytest.mark.invariant("I7")
def test_a_lock_that_was_taken_for_a_run_that_ended_meanwhile_is_given_back(gitlab: FakeGitLab) -> None:
    ended, waiting = fetched(MR_12), fetched(ISSUE_7)
    lease = commit._take_lock(ended)
    assert lease is not None
    Run.update(status="cancelled").where(Run.run_id == ended).execute()

    commit._write(commit._Work(ended, lease))
    commit.commit.fn(waiting)

    assert status_of(waiting) == "documents"
    assert ProjectLock.get().owner is None


@pytest.mark.invariant("I12")
def test_without_redis_a_run_killed_before_its_commit_is_committed_by_the_next_command(gitlab: FakeGitLab) -> None:
    orphan = fetched(MR_12)
    age(Run, 3_600_000, Run.sent_at, Run.stage_at)

    run_id = submit(ISSUE_7)
    embedded.run_to_end(run_id)
    broker: Any = dramatiq.get_broker()
    broker.is_worked = True
    drain()

    assert (status_of(run_id), status_of(orphan)) == ("succeeded", "succeeded")


def test_who_waits_for_a_lock_is_told_once_whose_it_is_and_how_long_at_most(gitlab: FakeGitLab) -> None:
    run_id = fetched(MR_12)
    holder = fetched(ISSUE_7)
    lease = commit._take_lock(holder)
    assert lease is not None
    of_a_process_that_is_gone = lease.owner.replace(":", ":9", 1)
    ProjectLock.update(owner=of_a_process_that_is_gone).execute()
    told: list[tuple[str, bool]] = []

    def on_held(by: str, free_in_s: float) -> None:
        told.append((by, 0 < free_in_s <= resources.settings().lock_lease_ms / 1000))
        age(ProjectLock, 3_600_000, ProjectLock.until)

    embedded.run_to_end(run_id, on_held=on_held)

    assert told == [(holder, True)]
    assert status_of(run_id) == "succeeded"


def test_who_waits_for_a_lock_of_the_own_process_is_told_nothing(gitlab: FakeGitLab) -> None:
    run_id = fetched(MR_12)
    assert commit._take_lock(fetched(ISSUE_7)) is not None
    told = []
    lookout = embedded._Lookout(run_id, lambda *about: told.append(about))

    for _ in range(3):
        lookout.look()

    assert told == []


def test_who_does_no_work_marks_nothing_as_sent(gitlab: FakeGitLab) -> None:
    broker: Any = dramatiq.get_broker()
    broker.is_worked = False
    queued = submit(MR_12)

    upkeep.sweep()

    assert Run.get_by_id(queued).sent_at is None
    assert list(waiting_messages()) == []


def test_a_run_that_one_rule_stumbles_over_keeps_the_sweeper_from_no_other(gitlab: FakeGitLab) -> None:
    bad, good = fetched(MR_12), fetched(ISSUE_7)
    Run.update(status="preflight", options="{}").where(Run.run_id == bad).execute()
    age(Run, 60_000, Run.sent_at, Run.stage_at)

    upkeep.sweep()
    drain()

    assert status_of(good) == "succeeded"


def test_a_watch_is_busy_once_when_its_session_was_ended_and_then_goes_on(gitlab: FakeGitLab) -> None:
    watch = Watch()
    watch.has_changed()
    if is_postgresql():
        import psycopg

        (pid,) = database.execute_sql("SELECT pg_backend_pid()").fetchone()
        with psycopg.connect(database.obj.database, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", (pid,))
        with pytest.raises(BusyError):
            watch.has_changed()

    submit(MR_12)

    assert watch.has_changed() or not is_postgresql()


def test_a_busy_database_is_never_a_lost_claim(gitlab: FakeGitLab, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = submit(MR_12)
    real, left = preflight._finish, [5]

    def finish(fetched: Any) -> None:
        if left[0] and any(held.job_type == "entity" for held, _ in fetched):
            left[0] -= 1
            raise busy()
        real(fetched)

    monkeypatch.setattr(preflight, "_finish", finish)
    for _ in range(8):
        drain()
        age(Task, 10_000, Task.next_at)
        upkeep.sweep()

    assert status_of(run_id) == "succeeded"
    assert Task.select().where(Task.lost_claims > 0).count() == 0


def test_a_commit_that_was_interrupted_gets_time_before_it_is_tried_again(
    gitlab: FakeGitLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = fetched(MR_12)

    def interrupted(work: Any) -> None:
        raise busy()

    monkeypatch.setattr(commit, "_write", interrupted)
    commit.commit.fn(run_id)
    drain()
    upkeep.sweep()
    drain()

    assert Run.get_by_id(run_id).stage_tries == 1
    assert status_of(run_id) == "committing"


def test_a_pause_that_outlasts_the_deadline_fails_at_once_with_its_cause(gitlab: FakeGitLab) -> None:
    with write():
        pause_host(GITLAB_URL, 3_600_000)

    run_id = submit(MR_12)
    drain()

    error = runs.error_of(run_id)
    assert error is not None
    assert (error.code, int(error.exit)) == ("GITLAB_RATE_LIMITED", 6)
    assert (gitlab.asked, open_tasks()) == ([], 0)


def test_the_ledger_says_what_a_run_waits_for_and_for_how_long_also_in_a_pause(gitlab: FakeGitLab) -> None:
    with write():
        pause_host(GITLAB_URL, 60_000)
    run_id = submit(MR_12)
    assert runs.read_stuck(run_id) == runs.Stuck(0)
    drain()

    stuck = runs.read_stuck(run_id)
    assert (stuck.tasks, stuck.code) == (open_tasks(), "GITLAB_RATE_LIMITED")
    assert stuck.message == "GitLab asks to wait: every request to it is paused"
    assert stuck.left_s is not None
    assert 60 < stuck.left_s <= resources.settings().run_deadline_ms / 1000

    age(GitLabHost, 61_000, GitLabHost.paused_until)
    age(Task, 61_000, Task.next_at)
    upkeep.sweep()
    drain()
    assert runs.read_stuck(run_id) == runs.Stuck(0)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite has one write lock for everybody
@pytest.mark.parametrize("other", ["a sweeper", "another run's commit"])
def test_nobody_waits_for_a_commit_that_outlasts_its_lease(
    gitlab: FakeGitLab, settings: Any, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    run_id, waiting = fetched(MR_12), fetched(ISSUE_7)
    age(Run, 600_000, Run.sent_at)
    # Others cannot see that the transaction renewed its lease: to them it is over at once.
    resources.configure(dataclasses.replace(settings, lock_lease_ms=1))
    inside, go_on = threading.Event(), threading.Event()
    real = commit._write_entity

    def slow(work: Any, entity: Any) -> None:
        inside.set()
        assert go_on.wait(60)
        real(work, entity)

    def deliver() -> None:
        commit.commit.fn(run_id)
        disconnect()

    monkeypatch.setattr(commit, "_write_entity", slow)
    thread = threading.Thread(target=deliver)
    thread.start()
    try:
        assert inside.wait(60)
        with read():
            assert findings.is_lock_free(Run.get_by_id(run_id).project_id, now_ms() + 10)
        database.execute_sql("SET lock_timeout = 500")  # whoever waits is told so

        if other == "a sweeper":
            upkeep.sweep()
        else:
            assert commit._take_lock(waiting) is None

        assert thread.is_alive()
    finally:
        go_on.set()
        thread.join(60)
    assert status_of(run_id) == "documents"


def test_judging_a_fetch_does_not_read_all_that_failed(gitlab: FakeGitLab, monkeypatch: pytest.MonkeyPatch) -> None:
    from support import refused

    from lore.core import plan
    from lore.core.plan import Entity

    entities = [Entity("issue", iid) for iid in range(1, 31)]
    for entity in entities:
        gitlab.set(entity, plan.OWN, refused())
    read = []
    real = moves.task_states
    monkeypatch.setattr(moves, "task_states", lambda run_id: read.append(run_id) or real(run_id))

    submit(*entities)
    drain()

    assert len(read) == 1
