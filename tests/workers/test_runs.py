"""Submit, cancel, retry and the ledger's views."""

from __future__ import annotations

import json

import pytest
from support import (
    GITLAB_URL,
    ISSUE_7,
    MR_12,
    FakeGitLab,
    content,
    drain,
    open_tasks,
    refused,
    status_of,
    submit,
    waiting_messages,
)

from lore.core import plan
from lore.core.errors import NotFoundError, UsageError
from lore.core.plan import Entity
from lore.core.runs import RunOptions
from models.ledger import Project, ProjectPath, Run, RunEvent
from models.locks import ProjectLock
from models.queue import StagedPayload, Task
from workers import RUN_QUEUES, SYNC_QUEUES, runs
from workers.commit import commit
from workers.upkeep import sweep


def test_a_run_is_written_whole_before_anything_is_sent(ledger) -> None:
    run_id = submit(MR_12, ISSUE_7)

    (message,) = waiting_messages()
    assert (message.actor_name, message.args) == ("preflight", (run_id,))
    assert Task.select().where(Task.scope_run == run_id, Task.status == "pending").count() == 14


@pytest.mark.invariant("I13")
def test_a_message_holds_ids_only(gitlab: FakeGitLab) -> None:
    run_id = submit(MR_12)
    drain(only={"preflight"})

    for message in waiting_messages():
        assert all(isinstance(argument, int) for argument in message.args)
        assert message.options["run_id"] == run_id
        assert b"glpat" not in message.encode()


def test_the_same_entity_twice_is_done_once(ledger) -> None:
    assert runs.read_run(submit(MR_12, MR_12))["counts"]["total"] == 1


def test_runs_are_listed_newest_first_and_by_status(gitlab: FakeGitLab) -> None:
    first = submit(MR_12)
    drain()
    second = submit(ISSUE_7)

    assert [run["run_id"] for run in runs.list_runs()] == [second, first]
    assert [run["run_id"] for run in runs.list_runs(status="queued")] == [second]


def test_a_run_is_found_by_its_id_a_unique_prefix_or_last(ledger) -> None:
    first, second = submit(MR_12), submit(MR_12)

    assert runs.find_run(first) == first
    assert runs.find_run(second[:-2]) == second
    assert runs.find_run("last") == second
    with pytest.raises(UsageError) as several:
        runs.find_run(first[:8])
    with pytest.raises(NotFoundError):
        runs.find_run("zzz")
    with pytest.raises(NotFoundError):
        runs.find_run("%")
    assert several.value.code == "AMBIGUOUS_RUN"


def test_a_short_project_name_stands_for_the_one_project_it_fits(gitlab: FakeGitLab) -> None:
    submit(MR_12)
    drain()

    assert runs.resolve_project(GITLAB_URL, "harbour") == "tern/harbour"
    with pytest.raises(NotFoundError):
        runs.resolve_project(GITLAB_URL, "port")
    Project.insert(gitlab_url=GITLAB_URL, gitlab_id=1, path_with_namespace="x/harbour").execute()
    with pytest.raises(UsageError) as several:
        runs.resolve_project(GITLAB_URL, "harbour")
    assert several.value.code == "AMBIGUOUS_PROJECT"


def test_a_project_named_by_its_number_is_the_same_as_by_its_path(gitlab: FakeGitLab) -> None:
    submit(MR_12)
    drain()

    submit(MR_12, project="4711")
    drain()

    assert len(content()["merge_requests"]) == 1
    assert {path.path for path in ProjectPath.select()} >= {"tern/harbour"}


def stop_at(status: str) -> str:
    run_id = submit(MR_12, ISSUE_7)
    if status == "preflight":
        drain(only={"preflight"})
        drain(only={"fetch"}, limit=3)
    elif status == "committing":
        drain(only={"preflight", "fetch"})
    assert status_of(run_id) == status
    return run_id


@pytest.mark.invariant("I7")
@pytest.mark.parametrize("status", ["queued", "preflight", "committing"])
def test_a_cancel_in_any_state_leaves_nothing_behind_and_nothing_written(gitlab: FakeGitLab, status: str) -> None:
    run_id = stop_at(status)

    view = runs.cancel(run_id)
    drain()
    sweep()
    drain()

    assert view["status"] == status_of(run_id) == "cancelled"
    assert open_tasks() == 0
    assert StagedPayload.select().count() == 0
    assert all(not rows for rows in content().values())
    assert {e["status"] for e in runs.read_entities(run_id)} == {"aborted"}
    assert all(task.aborted_reason for task in Task.select().where(Task.status == "aborted"))
    error = runs.error_of(run_id)
    assert error is not None
    assert int(error.exit) == 13


def test_cancelling_a_holder_of_the_lock_frees_it_for_the_next_run(gitlab: FakeGitLab, monkeypatch) -> None:
    from workers import commit as module

    held, waiting = submit(MR_12), submit(ISSUE_7)
    drain(only={"preflight", "fetch"})
    real = module._write

    def cancelled(work):
        monkeypatch.setattr(module, "_write", real)
        commit.fn(waiting)
        assert status_of(waiting) == "committing"
        runs.cancel(held)
        real(work)

    monkeypatch.setattr(module, "_write", cancelled)
    commit.fn(held)
    drain()

    assert status_of(held) == "cancelled"
    assert status_of(waiting) == "succeeded"
    assert content()["merge_requests"] == []
    assert ProjectLock.get().owner is None


def test_cancelling_an_ended_run_is_a_typed_error(gitlab: FakeGitLab) -> None:
    run_id = submit(MR_12)
    drain()

    with pytest.raises(UsageError) as caught:
        runs.cancel(run_id)

    assert caught.value.code == "RUN_ENDED"
    assert status_of(run_id) == "succeeded"


@pytest.mark.invariant("I9")
def test_a_retry_takes_up_exactly_what_did_not_land_and_is_the_same_run_when_asked_twice(gitlab: FakeGitLab) -> None:
    gitlab.set(Entity("issue", 2), plan.OWN, refused())
    run_id = runs.submit(
        gitlab_url=GITLAB_URL,
        project="tern/harbour",
        entities=[Entity("issue", iid) for iid in (1, 2)],
        options=RunOptions(docs=False, embed=False),
    ).run_id
    drain()
    gitlab.answers.clear()

    first, second = runs.retry(run_id), runs.retry(run_id)
    drain()

    assert first.run_id == second.run_id
    retried = Run.get_by_id(first.run_id)
    assert (retried.retry_of, retried.trigger, retried.status) == (run_id, "retry", "succeeded")
    asked = json.loads(retried.options)
    assert (asked["docs"], asked["embed"]) == (False, False)
    assert [(e["entity_type"], e["iid"]) for e in runs.read_entities(first.run_id)] == [("issue", 1), ("issue", 2)]


@pytest.mark.invariant("I9")
def test_a_retry_leaves_out_what_ended_ok_or_stale(gitlab: FakeGitLab) -> None:
    from models.ledger import RunEntity

    run_id = submit(MR_12, ISSUE_7)
    runs.cancel(run_id)
    RunEntity.update(status="ok").where(RunEntity.entity_type == "issue").execute()

    retried = runs.retry(run_id).run_id

    assert [(e["entity_type"], e["iid"]) for e in runs.read_entities(retried)] == [("merge_request", 12)]


@pytest.mark.invariant("I9")
def test_nothing_to_retry_or_a_run_still_open_is_a_typed_error(gitlab: FakeGitLab) -> None:
    open_run = submit(MR_12)
    with pytest.raises(UsageError) as still_open:
        runs.retry(open_run)
    drain()
    with pytest.raises(UsageError) as nothing:
        runs.retry(open_run)

    assert (still_open.value.code, nothing.value.code) == ("RUN_OPEN", "NOTHING_TO_RETRY")


@pytest.mark.invariant("I10")
def test_a_failed_preflight_carries_the_run_the_total_and_every_failure(gitlab: FakeGitLab) -> None:
    gitlab.set(ISSUE_7, plan.OWN, refused())
    run_id = submit(MR_12, ISSUE_7)
    drain()

    error = runs.error_of(run_id)

    assert error is not None
    assert (error.run_id, error.total, len(error.failures)) == (run_id, 2, 1)
    assert f"lore sync-runs --run-id {run_id} --retry-failed" in error.actions


def test_the_timeline_tells_the_story_of_a_run_in_order(gitlab: FakeGitLab) -> None:
    run_id = submit(MR_12)
    drain()

    events = [event["event"] for event in runs.read_events(run_id)]
    assert events[:2] == ["opened", "preflight_started"]
    assert events.count("fetched") == 8
    assert events[-5:] == ["preflight_done", "committed", "documents_built", "embedded", "succeeded"]
    assert RunEvent.select().count() == len(events)


def test_waiting_ends_with_the_run_and_gives_up_at_the_timeout(gitlab: FakeGitLab) -> None:
    run_id = submit(MR_12)
    assert runs.wait(run_id, timeout_s=0.05) is False
    drain()

    assert runs.wait(run_id, timeout_s=5) is True


def test_workers_that_serve_a_run_need_not_serve_a_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    from workers import broker

    alive = ["host:1 preflight,fetch", "host:2 commit", "host:3 documents,embed"]
    monkeypatch.setattr(broker, "live_workers", lambda: alive)

    assert runs.has_live_worker(RUN_QUEUES)
    assert not runs.has_live_worker(SYNC_QUEUES)

    alive.append("host:4 plan,sync_fetch,sync_commit,sync_documents,sync_embed")

    assert runs.has_live_worker(SYNC_QUEUES)
