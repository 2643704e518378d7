"""The sweeper: every state moves on, whoever was lost."""

from __future__ import annotations

import dramatiq
import pytest
from support import (
    GITLAB_URL,
    ISSUE_7,
    MR_12,
    FakeGitLab,
    age,
    content,
    drain,
    next_message,
    open_tasks,
    status_of,
    submit,
    waiting_messages,
)

from models.base import now_ms, write
from models.ledger import Run, RunEntity
from models.locks import ProjectLock
from models.queue import StagedPayload, Task, pause_host
from workers import embedded, findings, resources, runs
from workers.upkeep import sweep


def lose_messages() -> None:
    dramatiq.get_broker().flush_all()


def later(ms: int = 600_000) -> None:
    """Let time pass for everything that waits to be sent again."""
    age(Run, ms, Run.sent_at)
    age(Task, ms, Task.sent_at)


def left(*, gitlab_url: str = GITLAB_URL, can_fetch: bool = True, can_embed: bool = True) -> list[str]:
    return findings.left_behind(gitlab_url, silent_ms=60_000, can_fetch=can_fetch, can_embed=can_embed)


@pytest.mark.invariant("I12")
def test_what_a_killed_process_left_is_what_nobody_has_touched_for_a_lease(gitlab: FakeGitLab) -> None:
    queued, fetching, committing = submit(MR_12), submit(ISSUE_7), submit(MR_12)
    dramatiq.get_broker().get_actor("preflight").fn(fetching)
    Run.update(status="committing", stage="ingest").where(Run.run_id == committing).execute()
    Task.update(status="done").where(Task.scope_run == committing).execute()
    assert left() == []

    age(Run, 61_000, Run.created_at, Run.stage_at, Run.sent_at)

    assert left() == [queued, fetching, committing]
    assert left(can_fetch=False) == [committing], "without a token nothing can be fetched"
    assert left(can_embed=False) == [], "whoever has no embedder would fail it"
    assert left(gitlab_url="https://elsewhere.test") == []
    Task.update(status="claimed", claimed_until=now_ms() + 5_000).where(Task.scope_run == fetching).execute()
    assert left() == [queued, committing], "somebody is at it"
    Task.update(status="pending", next_at=now_ms() - 5_000).where(Task.scope_run == fetching).execute()
    assert left() == [queued, committing], "its time has only just come"
    ProjectLock.insert(project=Run.get_by_id(queued).project_id, owner="a/b/c", until=now_ms()).execute()
    assert left() == [], "somebody had the project's lock until now"
    ProjectLock.delete().execute()
    with write():
        pause_host(GITLAB_URL, 600_000)
    assert left() == [committing], "nobody may ask for anything now"
    Run.update(status="cancelled").where(Run.run_id == committing).execute()
    assert left() == []


@pytest.mark.invariant("I12")
def test_who_leaves_a_run_gives_back_what_he_claimed_and_loses_no_claim(gitlab: FakeGitLab) -> None:
    run_id = submit(MR_12)
    dramatiq.get_broker().get_actor("preflight").fn(run_id)
    tasks = [row.id for row in Task.select(Task.id).where(Task.status == "pending").order_by(Task.id)]
    for task, by in ((tasks[0], resources.whoami()), (tasks[1], "elsewhere:1:2")):
        Task.update(status="claimed", claimed_by=by, claimed_until=now_ms() + 60_000).where(Task.id == task).execute()

    embedded.give_back(run_id)

    mine, other = Task.get_by_id(tasks[0]), Task.get_by_id(tasks[1])
    assert (mine.status, mine.sent_at, mine.claimed_by, mine.lost_claims) == ("pending", None, None, 0)
    assert (other.status, other.claimed_by) == ("claimed", "elsewhere:1:2")


@pytest.mark.invariant("I12")
def test_a_run_whose_every_message_was_lost_still_ends(gitlab: FakeGitLab) -> None:
    run_id = submit()
    for _ in range(3):
        lose_messages()
        later()
        sweep()
        first = next_message(dramatiq.get_broker())
        assert first is not None
        dramatiq.get_broker().get_actor(first.actor_name).fn(*first.args)
    for _ in range(50):
        lose_messages()
        later()
        sweep()
        message = next_message(dramatiq.get_broker())
        if message is None:
            break
        dramatiq.get_broker().get_actor(message.actor_name).fn(*message.args)

    assert status_of(run_id) == "succeeded"


def test_nothing_is_sent_again_while_its_message_may_still_be_under_way(gitlab: FakeGitLab) -> None:
    submit()

    assert "preflight_sent" not in sweep()


def test_a_message_is_sent_again_after_waits_that_grow(gitlab: FakeGitLab) -> None:
    run_id = submit()
    sent = []
    for _ in range(4):
        age(Run, 3_000, Run.sent_at)
        sent.append(sweep().get("preflight_sent", 0))

    assert sent == [1, 0, 1, 0]
    assert Run.get_by_id(run_id).sends == 3


def test_a_run_that_no_worker_took_in_time_fails_as_such(gitlab: FakeGitLab) -> None:
    run_id = submit()
    age(Run, 25 * 3_600_000, Run.created_at)

    sweep()

    error = runs.error_of(run_id)
    assert (error.code, int(error.exit)) == ("QUEUE_DEADLINE", 9)
    assert open_tasks() == 0


def test_an_expired_claim_is_taken_back_and_done_by_another(gitlab: FakeGitLab) -> None:
    run_id = submit(MR_12)
    drain(only={"preflight"})
    Task.update(status="claimed", claim_no=1, claimed_by="gone", claimed_until=now_ms() - 1).execute()
    lose_messages()

    assert sweep()["claim_expired"] == Task.select().count()
    drain()

    assert status_of(run_id) == "succeeded"
    assert set(Task.select(Task.claim_no, Task.lost_claims).tuples()) == {(2, 1)}


@pytest.mark.invariant("I12")
def test_a_task_whose_claim_is_lost_three_times_is_poison_and_fails_its_entity(gitlab: FakeGitLab) -> None:
    run_id = submit(MR_12, ISSUE_7)
    drain(only={"preflight"})
    poison = Task.get(Task.entity_type == "issue", Task.job_type == "discussions").id
    for _ in range(3):
        lose_messages()
        Task.update(status="claimed", claimed_by="gone", claimed_until=now_ms() - 1).where(Task.id == poison).execute()
        sweep()
    later()
    sweep()
    drain()

    error = runs.error_of(run_id)
    assert error.code == "SURGICAL_PREFLIGHT_FAILED"
    assert [(f.entity_type, f.code) for f in error.failures] == [("issue", "POISON")]
    assert all(not rows for rows in content().values())


def test_a_preflight_whose_last_fetch_died_before_it_could_end_it_is_ended(gitlab: FakeGitLab) -> None:
    run_id = submit(MR_12)
    drain(only={"preflight", "fetch"})
    Run.update(status="preflight").execute()
    lose_messages()

    assert sweep()["preflight_ended"] == 1
    drain()

    assert status_of(run_id) == "succeeded"


def test_a_run_past_its_deadline_fails_with_what_its_tasks_were_waiting_for(gitlab: FakeGitLab) -> None:
    run_id = submit(MR_12)
    drain(only={"preflight"})
    lose_messages()
    Task.update(error_code="GITLAB_UNAVAILABLE", error_message="502", next_at=now_ms() + 10_000_000).execute()
    age(Run, 10_000_000, Run.deadline_at)

    sweep()

    error = runs.error_of(run_id)
    assert error.code in ("RUN_DEADLINE", "GITLAB_UNAVAILABLE")
    assert int(error.exit) == 7
    assert open_tasks() == 0


def test_a_commit_whose_holder_died_is_done_once_the_lease_is_over(gitlab: FakeGitLab) -> None:
    run_id = submit(MR_12)
    drain(only={"preflight", "fetch"})
    lose_messages()
    project_id = Run.get_by_id(run_id).project_id
    ProjectLock.insert(project=project_id, owner=f"{run_id}/gone/1", fence=1, until=now_ms() + 60_000).execute()
    later()
    assert "commit_sent" not in sweep()
    ProjectLock.update(until=now_ms() - 1).execute()

    assert sweep()["commit_sent"] == 1
    drain()

    assert status_of(run_id) == "succeeded"


def test_two_sweepers_at_once_send_once(gitlab: FakeGitLab) -> None:
    submit()
    lose_messages()
    later()

    counts = [sweep().get("preflight_sent", 0), sweep().get("preflight_sent", 0)]

    assert counts == [1, 0]
    assert len(list(waiting_messages())) == 1


@pytest.mark.invariant("I7")
def test_what_an_ended_run_left_open_is_settled(gitlab: FakeGitLab) -> None:
    run_id = submit(MR_12)
    drain()
    Task.update(status="pending").where(Task.job_type == "diffs").execute()
    RunEntity.update(status="pending").execute()
    task_id = Task.select(Task.id).limit(1).scalar()
    StagedPayload.insert(task=task_id, claim_no=1, page=1, body=b"[]").execute()

    sweep()

    assert open_tasks() == 0
    assert StagedPayload.select().count() == 0
    assert {e["status"] for e in runs.read_entities(run_id)} == {"aborted"}


def test_ended_runs_are_forgotten_after_90_days_with_all_that_hangs_on_them(gitlab: FakeGitLab) -> None:
    old, young = submit(MR_12), submit(ISSUE_7)
    drain()
    age(Run, 91 * 86_400_000, Run.created_at, Run.finished_at, where=Run.run_id == old)
    kept = content()

    sweep()

    assert [row.run_id for row in Run.select()] == [young]
    assert Task.select().where(Task.scope_run == old).count() == 0
    assert content() == kept


def test_redis_down_at_submit_leaves_the_run_to_a_sweeper(gitlab: FakeGitLab, monkeypatch) -> None:
    import redis

    broker = dramatiq.get_broker()

    def down(message, *, delay=None):
        raise redis.ConnectionError("down")

    with monkeypatch.context() as patched:
        patched.setattr(broker, "enqueue", down)
        run_id = submit()
        assert sweep() == {}
    assert Run.get_by_id(run_id).sent_at is None

    assert sweep()["preflight_sent"] == 1
    drain()

    assert status_of(run_id) == "succeeded"
