"""One commit per project at a time, also when its process was stopped: real workers, stopped where it hurts.

A worker stops itself (SIGSTOP) at a chosen point of its first commit (see `chaos/entry.py`), and the test lets it go
on, or kills it, when the others have done what they should.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chaos.stage import Process, Stage, environment
from servers import redis_running, wait_until
from support import CONTENT_TABLES, ended, rows_of, status_of

from models.content import DirtySource, MergeRequest
from models.ledger import Project, Run, RunEntity, RunEvent, RunSource
from models.locks import ProjectLock
from models.queue import StagedPayload, Task

pytestmark = pytest.mark.slow

LEDGER = (Run, RunEntity, RunEvent, RunSource, Task, StagedPayload, Project, ProjectLock)


@pytest.fixture
def stage(demo: Any, ledger: Any, database_url: str, tmp_path: Path) -> Iterator[Stage]:
    demo.reset()
    with redis_running() as redis:
        environ = environment(
            tmp_path,
            demo,
            database_url,
            LORE_REDIS_URL=redis.url,
            LORE_LOCK_LEASE="1s",
            LORE_CLAIM_LEASE="3s",
        )
        with Stage(environ, tmp_path) as stage:
            yield stage


def everything() -> dict[str, Any]:
    return rows_of(*CONTENT_TABLES, *LEDGER)


def fetchers(stage: Stage) -> Process:
    return stage.worker(queues="preflight,fetch")


def wait_for_the_end_of_the_lease() -> None:
    from models.base import now_ms

    wait_until(lambda: (ProjectLock.get().until or 0) < now_ms(), "the lease is over")


@pytest.mark.invariant("I11")
@pytest.mark.parametrize("plant", ["stop-before-commit", "raise-in-commit,stop-before-commit"])
def test_a_commit_stopped_past_its_lease_before_its_transaction_writes_nothing_not_even_a_failure(
    stage: Stage, demo: Any, plant: str
) -> None:
    fetchers(stage)
    paused = stage.worker(queues="commit", threads=1, plant=plant)
    first = stage.submit("--mr", "12", "--issue", "7")
    paused.wait_stopped()

    stage.worker(queues="commit")
    assert ended(first) == "succeeded"
    demo.script([{"step": "comment", "kind": "merge_request", "iid": 12}])
    second = stage.submit("--mr", "12")
    assert ended(second) == "succeeded"
    before = everything()
    paused.go_on()

    assert paused.end() == 0
    assert len(paused.log("fenced_out")) == 1
    assert everything() == before
    assert [line["status"] for line in paused.log("run_ended")] == []


@pytest.mark.invariant("I11")
def test_a_commit_stopped_past_its_lease_leaves_its_run_as_its_cancel_ended_it(stage: Stage) -> None:
    fetchers(stage)
    paused = stage.worker(queues="commit", threads=1, plant="stop-before-commit")
    run_id = stage.submit("--mr", "12")
    paused.wait_stopped()

    assert stage.robot("cancel", run_id).status == 0
    before = everything()
    paused.go_on()

    assert paused.end() == 0
    assert len(paused.log("fenced_out")) == 1
    assert everything() == before
    assert status_of(run_id) == "cancelled"
    assert MergeRequest.select().count() == 0


@pytest.mark.invariant("I11")
def test_another_run_commits_while_one_is_stopped_which_lands_by_its_second_delivery(
    stage: Stage,
) -> None:
    fetchers(stage)
    paused = stage.worker(queues="commit", threads=1, plant="stop-before-commit")
    first = stage.submit("--issue", "7")
    paused.wait_stopped()
    wait_for_the_end_of_the_lease()

    stage.worker(queues="commit")
    second = stage.submit("--mr", "12")
    assert ended(second) == "succeeded"
    assert ended(first) == "succeeded"
    paused.go_on()

    assert paused.end() == 0
    assert len(paused.log("fenced_out")) == 1
    assert DirtySource.select().count() == RunSource.select().count() == 2
    assert [row.owner for row in ProjectLock.select()] == [None]


@pytest.mark.invariant("I11")
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("statement", [1, 2, 9, 26])
def test_postgresql_ends_the_transaction_of_a_commit_that_is_stopped_inside_it(stage: Stage, statement: int) -> None:
    fetchers(stage)
    paused = stage.worker(queues="commit", threads=1, plant=f"stop-in-commit={statement}")
    run_id = stage.submit("--mr", "12", "--issue", "7")
    paused.wait_stopped()

    stage.worker(queues="commit")
    assert ended(run_id) == "succeeded"
    before = everything()
    paused.go_on()

    assert paused.end() == 0
    assert [line["code"] for line in paused.log("commit_interrupted")] == ["DATABASE_BUSY"]
    assert everything() == before
    assert DirtySource.select().count() == 2


@pytest.mark.invariant("I11")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("fate", ["goes on", "dies"])
def test_on_sqlite_others_wait_for_a_commit_stopped_inside_its_transaction_and_name_its_process_and_host(
    stage: Stage, fate: str
) -> None:
    first = stage.submit("--mr", "12")
    second = stage.submit("--issue", "7")
    paused = stage.worker(queues="commit", threads=1, plant="stop-in-commit=9")
    others = stage.worker(queues="preflight,fetch", plant="busy-ms=200")
    paused.wait_stopped()
    holder = f"{socket.gethostname()}:{paused.pid}"

    other = stage.worker(queues="commit", plant="busy-ms=200")
    wait_until(lambda: any(holder in str(line) for line in other.log("sweep_postponed")), "a sweep names the holder")
    wait_until(lambda: any(holder in str(line) for line in others.log("sweep_postponed")), "so do the others")
    cancel = stage.robot("cancel", second, plant="busy-ms=200")
    assert (cancel.status, cancel.robot["error"]["code"]) == (8, "DATABASE_BUSY")
    assert holder in cancel.robot["error"]["message"]
    assert {"succeeded", "failed", "cancelled"}.isdisjoint({status_of(first), status_of(second)})
    paused.go_on() if fate == "goes on" else paused.kill()

    assert (ended(first), ended(second)) == ("succeeded", "succeeded")
    assert DirtySource.select().count() == RunSource.select().count() == 2
    assert [row.owner for row in ProjectLock.select()] == [None]
