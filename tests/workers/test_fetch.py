"""One fetch: claims, waits, pauses and what each failure does."""

from __future__ import annotations

import pytest
from support import (
    ISSUE_7,
    MR_12,
    FakeGitLab,
    Pages,
    age,
    discussion_body,
    drain,
    open_tasks,
    refused,
    status_of,
    submit,
)

from lore.core import plan
from lore.core.errors import PassingError, SettingError
from models.base import now_ms
from models.ledger import Run
from models.queue import GitLabHost, StagedPayload, Task
from workers import runs
from workers.preflight import fetch
from workers.upkeep import sweep


def unavailable(retry_after_s: float | None = 30.0) -> PassingError:
    return PassingError("GITLAB_UNAVAILABLE", "GitLab answered 502", retry_after_s=retry_after_s)


def task(job_type: str) -> Task:
    return Task.get(Task.job_type == job_type)


def test_what_can_pass_waits_in_the_row_and_is_tried_again_when_its_time_comes(gitlab: FakeGitLab) -> None:
    gitlab.set(MR_12, plan.DIFFS, unavailable())
    run_id = submit(MR_12)
    drain()
    waiting = task("diffs")
    assert (waiting.status, waiting.error_code) == ("pending", "GITLAB_UNAVAILABLE")
    assert 20_000 < waiting.next_at - now_ms() <= 30_000
    assert sweep() == {}

    gitlab.answers.clear()
    age(Task, 40_000, Task.next_at)
    sweep()
    drain()

    assert status_of(run_id) == "succeeded"


def test_a_short_wait_is_spent_within_the_claim(gitlab: FakeGitLab) -> None:
    answers = iter([unavailable(None), [discussion_body(1)]])
    gitlab.set(MR_12, plan.DISCUSSIONS, lambda: next(answers))

    run_id = submit(MR_12)
    drain()

    assert status_of(run_id) == "succeeded"
    assert task("discussions").tries == 1


def test_a_wait_past_the_deadline_fails_at_once_with_its_cause(gitlab: FakeGitLab) -> None:
    gitlab.set(MR_12, plan.OWN, unavailable(3_600.0))

    run_id = submit(MR_12)
    drain()

    error = runs.error_of(run_id)
    assert error is not None
    assert [f.code for f in error.failures] == ["GITLAB_UNAVAILABLE"]
    assert int(error.exit) == 7


def test_a_rate_limit_that_stood_in_the_way_until_the_deadline_exits_as_one(gitlab: FakeGitLab) -> None:
    limited = PassingError("GITLAB_RATE_LIMITED", "429", retry_after_s=3_600.0, pauses_host=True)
    gitlab.set(MR_12, plan.OWN, limited)

    run_id = submit(MR_12)
    drain()

    error = runs.error_of(run_id)
    assert error is not None
    assert int(error.exit) == 6


def test_a_429_keeps_every_worker_from_the_host_until_its_time_is_over(gitlab: FakeGitLab) -> None:
    limited = PassingError("GITLAB_RATE_LIMITED", "429", retry_after_s=60.0, pauses_host=True)
    gitlab.set(MR_12, plan.OWN, limited)
    submit(MR_12)
    drain(only={"preflight"})
    own = task("entity").id
    fetch.fn(own)
    gitlab.asked.clear()

    drain()

    assert gitlab.asked == []
    assert GitLabHost.get().paused_until > now_ms() + 50_000
    gitlab.answers.clear()
    age(GitLabHost, 61_000, GitLabHost.paused_until)
    age(Task, 61_000, Task.next_at)
    sweep()
    drain()
    assert open_tasks() == 0


def test_what_cannot_pass_fails_its_entity_and_aborts_its_other_tasks_while_the_rest_goes_on(
    gitlab: FakeGitLab,
) -> None:
    gitlab.set(MR_12, plan.OWN, refused("GITLAB_FORBIDDEN"))

    run_id = submit(MR_12, ISSUE_7)
    drain()

    statuses = {}
    for row in Task.select():
        statuses.setdefault(row.entity_type, set()).add(row.status)
    assert statuses == {"project": {"done"}, "issue": {"done"}, "merge_request": {"failed", "aborted"}}
    assert runs.read_run(run_id)["failed_iids"] == [["merge_request", 12]]


def test_a_setting_that_no_request_can_do_without_ends_the_run_with_its_own_status(gitlab: FakeGitLab) -> None:
    gitlab.set(MR_12, plan.OWN, SettingError("TLS_UNTRUSTED", "set LORE_CA_FILE"))

    run_id = submit(MR_12, ISSUE_7)
    drain()

    error = runs.error_of(run_id)
    assert error is not None
    assert (error.code, int(error.exit)) == ("TLS_UNTRUSTED", 3)


def test_a_bug_in_a_fetch_fails_its_task_and_shows_itself(gitlab: FakeGitLab) -> None:
    gitlab.set(MR_12, plan.OWN, ZeroDivisionError("ours"))
    run_id = submit(MR_12)

    with pytest.raises(ZeroDivisionError):
        drain()
    drain()

    assert [f.code for f in runs.error_of(run_id).failures] == ["INTERNAL"]


def test_a_cancelled_run_is_noticed_at_the_next_page(gitlab: FakeGitLab) -> None:
    run_id = submit(MR_12)
    drain(only={"preflight"})

    def pages():
        runs.cancel(run_id)
        return Pages([[discussion_body(1)], [discussion_body(2)]])

    gitlab.set(MR_12, plan.DISCUSSIONS, pages)
    fetch.fn(task("discussions").id)

    assert status_of(run_id) == "cancelled"
    assert StagedPayload.select().count() == 0
    assert task("discussions").status == "aborted"


def test_a_claim_that_was_taken_over_stages_nothing_and_ends_nothing(gitlab: FakeGitLab) -> None:
    submit(MR_12)
    drain(only={"preflight"})

    def taken_over():
        Task.update(claim_no=Task.claim_no + 1).where(Task.job_type == "diffs").execute()
        return []

    gitlab.set(MR_12, plan.DIFFS, taken_over)
    fetch.fn(task("diffs").id)

    assert task("diffs").status == "claimed"
    assert StagedPayload.select().count() == 0


def test_a_task_of_a_run_that_is_not_being_fetched_is_left_alone(gitlab: FakeGitLab) -> None:
    submit(MR_12)
    fetch.fn(task("diffs").id)

    assert gitlab.asked == []
    assert task("diffs").status == "pending"


def test_observation_begins_before_the_first_request(gitlab: FakeGitLab) -> None:
    seen = []

    def answer():
        seen.append(now_ms())
        return []

    gitlab.set(MR_12, plan.DIFFS, answer)
    submit(MR_12)
    drain(only={"preflight", "fetch"})

    assert task("diffs").observed_at <= seen[0]


def test_that_redis_takes_no_messages_is_said_once_until_it_takes_one(gitlab: FakeGitLab, monkeypatch, caplog) -> None:
    import dramatiq
    import redis

    from workers import messages

    run_id = submit(MR_12)

    def down(message, *, delay=None):
        raise redis.ConnectionError("down")

    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(dramatiq.get_broker(), "enqueue", down)
            assert not messages.send_run(messages.PREFLIGHT, run_id)
            assert not messages.send_run(messages.PREFLIGHT, run_id)
        assert messages.send_run(messages.PREFLIGHT, run_id)

    said = [record for record in caplog.records if "message_not_sent" in str(record.msg)]
    assert [record.levelname for record in said if record.levelname != "DEBUG"] == ["WARNING"] * 2


def test_a_wait_for_redis_is_not_counted_against_the_deadline(gitlab: FakeGitLab, monkeypatch) -> None:
    import dramatiq
    import redis

    run_id = submit(MR_12)
    broker = dramatiq.get_broker()

    def down(message, *, delay=None):
        raise redis.ConnectionError("down")

    with monkeypatch.context() as patched:
        patched.setattr(broker, "enqueue", down)
        from workers.preflight import preflight

        preflight.fn(run_id)
    before = Run.get_by_id(run_id).deadline_at
    age(Run, 100_000, Run.deadline_at)
    with monkeypatch.context() as patched:
        patched.setattr(broker, "enqueue", down)
        sweep()

    assert Run.get_by_id(run_id).deadline_at >= before
    assert Task.select().where(Task.sent_at.is_null(False)).count() == 0
