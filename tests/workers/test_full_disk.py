"""What becomes of the work when the disk of the database is full: it says so, and is done when there is room."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from servers import wait_until
from support import MR_12, FakeGitLab, age, drain, entity_body, full_disk, status_of, submit

from lore.core import plan
from lore.core.errors import BusyError, Exit, RunError
from models.base import database, take_full, write
from models.ledger import Run
from models.queue import StagedPayload, Task
from workers import commit, embedded
from workers.upkeep import Sweeper


def submit_large(gitlab: FakeGitLab) -> str:
    """Open a run of more than fits into the pages that the database has."""
    gitlab.set(MR_12, plan.OWN, entity_body(MR_12, description="x" * 100_000))
    return submit()


def lines(logged: str) -> list[str]:
    """Return what was logged; that many runs of one process share a broker is said by Dramatiq, of tests alone."""
    return [line for line in logged.splitlines() if "adding a middleware" not in line]


@pytest.mark.parametrize("is_nested", [False, True])
def test_what_is_said_is_that_the_disk_is_full_not_what_the_rollback_stumbled_over(
    gitlab: FakeGitLab, is_nested: bool
) -> None:
    submit()
    task_id = Task.select(Task.id).limit(1).scalar()

    def stage() -> None:
        with write(), database.atomic() if is_nested else contextlib.nullcontext():
            StagedPayload.insert(task=task_id, claim_no=1, page=1, body=b"x" * 100_000).execute()

    take_full()
    with full_disk(), pytest.raises(BusyError) as caught:
        stage()

    assert caught.value.code == "DATABASE_FULL"
    assert (take_full(), take_full()) == (caught.value, None)
    stage()
    assert StagedPayload.select().count() == 1


@pytest.mark.invariant("I12")
def test_a_run_without_redis_ends_its_command_and_is_done_when_there_is_room(
    gitlab: FakeGitLab, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = submit_large(gitlab)

    with full_disk(), pytest.raises(RunError) as caught:
        embedded.run_to_end(run_id)

    assert (caught.value.code, caught.value.exit, caught.value.run_id) == ("DATABASE_FULL", Exit.DATABASE, run_id)
    assert lines(capsys.readouterr().err) == []
    assert status_of(run_id) in ("queued", "preflight")
    age(Task, 3_600_000, Task.claimed_until, Task.next_at, Task.sent_at)
    embedded.run_to_end(run_id)
    assert status_of(run_id) == "succeeded"


def test_of_all_that_a_worker_could_not_write_the_sweeper_says_one_line(
    gitlab: FakeGitLab, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = submit_large(gitlab)
    take_full()
    said: list[str] = []

    def has_said() -> bool:
        said.extend(lines(capsys.readouterr().err))
        return bool(said)

    with full_disk():
        drain()
        sweeper = Sweeper(every_s=0.01)
        sweeper.start()
        try:
            wait_until(has_said, "the sweeper said it")
        finally:
            sweeper.stop()
            sweeper.join()

    assert [json.loads(line)["event"] for line in said] == ["database_full"]
    assert status_of(run_id) == "preflight"


def test_a_commit_that_finds_no_room_waits_for_it_and_loses_no_try(
    gitlab: FakeGitLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = submit()
    drain(only={"preflight", "fetch"})
    Run.update(stage_tries=2).execute()

    def no_room(*_: Any) -> None:
        raise BusyError("DATABASE_FULL", "the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(commit, "_write_entity", no_room)
        for _ in range(5):
            commit.commit.fn(run_id)

    assert (status_of(run_id), Run.get().stage_tries) == ("committing", 2)
    commit.commit.fn(run_id)
    assert status_of(run_id) == "documents"
