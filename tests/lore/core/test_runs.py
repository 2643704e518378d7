"""The life of a run: legal moves, how a preflight ends, waits, exit statuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lore.core import runs
from lore.core.errors import CODES, Exit, Failure
from lore.core.plan import ENDPOINTS, PROJECT, Entity
from lore.core.runs import RunOptions, TaskState, judge_preflight

# DESIGN §3, in full: rows go down the table; every open state may fail or be cancelled.
LEGAL = {
    "queued": {"preflight", "documents", "embedding", "walking", "failed", "cancelled"},
    "preflight": {"committing", "succeeded", "failed", "cancelled"},
    "committing": {"documents", "succeeded", "failed", "cancelled"},
    "documents": {"embedding", "succeeded", "failed", "cancelled"},
    "embedding": {"succeeded", "failed", "cancelled"},
    "walking": {"succeeded", "failed", "cancelled"},
    "succeeded": set(),
    "failed": set(),
    "cancelled": set(),
}


@pytest.mark.parametrize("status", LEGAL)
@pytest.mark.parametrize("to", LEGAL)
def test_a_run_moves_only_as_the_table_says(status: str, to: str) -> None:
    assert runs.is_legal_move(status, to) is (to in LEGAL[status])


def test_the_table_names_every_status() -> None:
    assert set(LEGAL) == set(runs.STATUSES)
    assert set(runs.OPEN_STATUSES).isdisjoint(runs.FINAL_STATUSES)


@pytest.mark.parametrize("status", ["", "Queued", "poison", "pending"])
def test_a_status_that_is_none_of_a_runs_moves_nowhere(status: str) -> None:
    assert not any(runs.is_legal_move(status, to) for to in LEGAL)
    assert runs.moves_into(status) == ()


@pytest.mark.parametrize("to", LEGAL)
def test_the_statuses_a_move_starts_from_are_the_tables_column(to: str) -> None:
    assert set(runs.moves_into(to)) == {status for status in LEGAL if to in LEGAL[status]}


@pytest.mark.parametrize("status", runs.OPEN_STATUSES)
def test_from_every_open_status_an_end_can_be_reached_and_no_way_leads_round(status: str) -> None:
    seen: set[str] = set()
    left = {status}
    while left:
        seen |= left
        left = {to for one in left for to in LEGAL[one]}
        assert status not in left
        assert len(seen) <= len(LEGAL)

    assert "succeeded" in seen


# -------------------------------------------------------------------------------- how a preflight ends


def states(entity_type: str = "issue", iid: int = 7, **by_job: tuple[str, str | None] | str) -> list[TaskState]:
    """Return all the tasks of an entity: done, but for those named with their status or (failed, code)."""
    found = []
    for endpoint in ENDPOINTS[entity_type]:
        said = by_job.get(endpoint.job_type, "done")
        status, code = said if isinstance(said, tuple) else (said, None)
        found.append(TaskState(entity_type, iid, endpoint.job_type, status, code, code and f"why {code}"))
    return found


DONE = states()
NOT_FOUND = ("failed", "GITLAB_NOT_FOUND")
FORBIDDEN = ("failed", "GITLAB_FORBIDDEN")


def test_when_every_task_is_done_the_run_commits() -> None:
    assert judge_preflight(DONE, mode="commit").status == "committing"


def test_when_every_task_is_done_a_preflight_only_run_has_succeeded() -> None:
    assert judge_preflight(DONE, mode="preflight_only").status == "succeeded"


@pytest.mark.parametrize("status", ["pending", "claimed"])
def test_while_a_task_is_open_the_run_stays(status: str) -> None:
    tasks = [*DONE, *states(iid=8, entity=NOT_FOUND, discussions="aborted"), *states(iid=9, links=status)]

    assert judge_preflight(tasks, mode="commit").status == "preflight"


@pytest.mark.invariant("I1")
@pytest.mark.parametrize("mode", ["commit", "preflight_only"])
def test_one_entity_that_failed_fails_the_run_and_is_named_alone(mode: str) -> None:
    tasks = [*DONE, *states(iid=8, discussions=FORBIDDEN, links="aborted")]

    verdict = judge_preflight(tasks, mode=mode)

    assert (verdict.status, verdict.error_code) == ("failed", "SURGICAL_PREFLIGHT_FAILED")
    assert list(verdict.failures) == [Failure("issue", 8, "preflight", "GITLAB_FORBIDDEN", "why GITLAB_FORBIDDEN")]
    assert "1 of 2" in (verdict.error_message or "")


def test_an_entitys_own_endpoint_gives_its_code_else_the_first_in_the_fixed_order() -> None:
    broken = ("failed", "GITLAB_BAD_PAYLOAD")
    tasks = [
        *states(iid=1, links=broken, entity=NOT_FOUND, discussions=FORBIDDEN),
        *states(iid=2, links=broken, discussions=FORBIDDEN),
        *states("merge_request", 1, closes_issues=broken, diffs=FORBIDDEN),
    ]

    verdict = judge_preflight(reversed(tasks), mode="commit")

    assert [(f.entity_type, f.iid, f.code) for f in verdict.failures] == [
        ("issue", 1, "GITLAB_NOT_FOUND"),
        ("issue", 2, "GITLAB_FORBIDDEN"),
        ("merge_request", 1, "GITLAB_FORBIDDEN"),
    ]


def test_a_long_list_of_failures_is_named_in_part_in_the_message_and_in_full_beside_it() -> None:
    tasks = [task for iid in range(1, 9) for task in states(iid=iid, entity=NOT_FOUND)]

    verdict = judge_preflight(tasks, mode="commit")

    assert len(verdict.failures) == 8
    assert (verdict.error_message or "").endswith("issue 5 (GITLAB_NOT_FOUND) and 3 more")


@pytest.mark.parametrize("code", [code for code, of in CODES.items() if of.dooms_run])
def test_what_dooms_a_run_ends_it_at_once_whatever_is_open(code: str) -> None:
    tasks = [*states(iid=8, discussions=("failed", code)), *states(iid=9, entity="pending"), *states(iid=10)]

    verdict = judge_preflight(tasks, mode="commit")

    assert (verdict.status, verdict.error_code, verdict.error_message) == ("failed", code, f"why {code}")


def test_a_project_that_cannot_be_read_dooms_the_run_whatever_the_reason() -> None:
    project = TaskState(PROJECT, 0, PROJECT, "failed", "GITLAB_UNAVAILABLE", "502")

    verdict = judge_preflight([project, *states(entity="pending")], mode="commit")

    assert (verdict.status, verdict.error_code, verdict.failures) == ("failed", "GITLAB_UNAVAILABLE", [])


@pytest.mark.parametrize("code", [code for code, of in CODES.items() if not of.dooms_run])
def test_what_fails_one_entity_dooms_nobody_else(code: str) -> None:
    tasks = [*states(iid=8, entity=("failed", code)), *states(iid=9, entity="pending")]

    assert judge_preflight(tasks, mode="commit").status == "preflight"
    assert (code in runs.DOOMING_CODES) is False


def test_a_code_of_another_version_counts_as_a_bug_of_ours() -> None:
    verdict = judge_preflight(states(entity=("failed", "NO_SUCH_CODE")), mode="commit")

    assert [f.code for f in verdict.failures] == ["INTERNAL"]


def test_a_child_of_an_incremental_sync_commits_what_could_be_fetched() -> None:
    tasks = [*DONE, *states(iid=8, entity=NOT_FOUND)]

    verdict = judge_preflight(tasks, mode="commit", is_per_entity=True)

    assert verdict.status == "committing"
    assert [f.iid for f in verdict.failures] == [8]


def test_a_child_of_which_nothing_could_be_fetched_fails() -> None:
    tasks = [*states(iid=7, links=FORBIDDEN), *states(iid=8, entity=NOT_FOUND)]

    assert judge_preflight(tasks, mode="commit", is_per_entity=True).status == "failed"


def overdue(tasks: list[TaskState]) -> runs.Verdict:
    return runs.judge_overdue(tasks, status="preflight", stage="preflight", after_s=900)


def test_a_run_past_its_deadline_names_each_entity_that_was_not_done_and_what_it_waited_for() -> None:
    tasks = [
        *DONE,
        *states(iid=8, entity="claimed", discussions=("pending", "GITLAB_UNAVAILABLE"), links="pending"),
        *states(iid=9, links="pending"),
        *states(iid=10, discussions=NOT_FOUND, links="aborted"),
    ]

    verdict = overdue(tasks)

    assert (verdict.status, verdict.error_code) == ("failed", "RUN_DEADLINE")
    assert "preflight after 900 s" in (verdict.error_message or "")
    assert [(f.iid, f.code) for f in verdict.failures] == [
        (8, "GITLAB_UNAVAILABLE"),
        (9, "RUN_DEADLINE"),
        (10, "GITLAB_NOT_FOUND"),
    ]
    assert verdict.failures[0].message == "why GITLAB_UNAVAILABLE (waited until the deadline)"
    assert verdict.failures[2].message == "why GITLAB_NOT_FOUND"


def test_a_run_past_its_deadline_whose_project_could_not_be_read_fails_by_that() -> None:
    project = TaskState(PROJECT, 0, PROJECT, "pending", "GITLAB_RATE_LIMITED", "429")

    assert overdue([project, *states(entity="pending")]).error_code == "GITLAB_RATE_LIMITED"


def test_a_run_past_its_deadline_in_its_commit_names_no_entity() -> None:
    verdict = runs.judge_overdue(DONE, status="committing", stage="ingest", after_s=0.5)

    assert (verdict.error_code, list(verdict.failures)) == ("RUN_DEADLINE", [])
    assert verdict.error_message == "the run was still in committing after 0.5 s"


task_states = st.builds(
    TaskState,
    st.just("issue"),
    st.integers(1, 3),
    st.sampled_from([e.job_type for e in ENDPOINTS["issue"]]),
    st.sampled_from(["pending", "claimed", "done", "failed", "aborted"]),
    st.sampled_from([None, "GITLAB_NOT_FOUND", "GITLAB_UNAUTHORIZED"]),
)


@given(st.lists(task_states, min_size=1), st.sampled_from(["commit", "preflight_only"]), st.booleans())
def test_a_preflight_is_judged_the_same_in_whatever_order_its_tasks_come(
    tasks: list[TaskState], mode: str, is_per_entity: bool
) -> None:
    verdict = judge_preflight(tasks, mode=mode, is_per_entity=is_per_entity)

    other_way = judge_preflight(sorted(tasks, key=repr), mode=mode, is_per_entity=is_per_entity)
    assert (other_way.status, other_way.error_code) == (verdict.status, verdict.error_code)
    assert verdict.status == "preflight" or runs.is_legal_move("preflight", verdict.status)
    assert (verdict.error_code is not None) == (verdict.status == "failed")
    if any(task.status == "failed" for task in tasks) and not is_per_entity:
        assert verdict.status in ("failed", "preflight")


# ----------------------------------------------------------------------------------------------- waits


def test_a_message_is_sent_again_after_waits_from_2_s_to_5_min() -> None:
    assert [runs.resend_after_ms(n) for n in range(10)] == [
        2_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 300_000,
    ]  # fmt: skip


@given(st.integers(0, 200))
def test_the_wait_before_a_message_is_sent_again_never_shrinks_and_is_bounded(sends: int) -> None:
    assert 2_000 <= runs.resend_after_ms(sends) <= runs.resend_after_ms(sends + 1) <= 300_000


@given(st.integers(1, 200), st.floats(0, 1))
def test_the_wait_before_a_request_is_made_again_never_shrinks_and_is_bounded(tries: int, jitter: float) -> None:
    wait, next_wait = (runs.retry_wait_ms(n, None, jitter=jitter) for n in (tries, tries + 1))

    assert 250 <= wait <= next_wait <= 60_000


@given(st.integers(1, 20), st.floats(0, 1), st.floats(0, 3_600))
def test_what_gitlab_asked_to_wait_is_never_undercut(tries: int, jitter: float, asked_s: float) -> None:
    wait = runs.retry_wait_ms(tries, asked_s, jitter=jitter)

    assert wait >= int(asked_s * 1000)
    assert wait >= runs.retry_wait_ms(tries, None, jitter=jitter)


@given(st.integers(1, 20))
def test_jitter_spreads_a_wait_over_its_upper_half(tries: int) -> None:
    assert runs.retry_wait_ms(tries, None, jitter=0) * 2 == runs.retry_wait_ms(tries, None, jitter=1)


# --------------------------------------------------------------------------------------- exit statuses


def failure(code: str) -> Failure:
    return Failure("issue", 7, "preflight", code, "")


@pytest.mark.parametrize(
    ("code", "stage", "failures", "exit"),
    [
        ("SURGICAL_PREFLIGHT_FAILED", "preflight", [failure("GITLAB_NOT_FOUND")], Exit.PREFLIGHT),
        ("SURGICAL_PREFLIGHT_FAILED", "preflight", [failure("GITLAB_FORBIDDEN")] * 2, Exit.PREFLIGHT),
        ("GITLAB_UNAUTHORIZED", "preflight", [], Exit.NOT_ALLOWED),
        ("PROJECT_NOT_FOUND", "preflight", [], Exit.NOT_FOUND),
        ("NO_TOKEN", "preflight", [], Exit.CONFIGURATION),
        ("GITLAB_RATE_LIMITED", "preflight", [], Exit.RATE_LIMITED),
        ("GITLAB_UNREACHABLE", "preflight", [], Exit.GITLAB),
        ("RUN_DEADLINE", "preflight", [], Exit.PREFLIGHT),
        ("RUN_DEADLINE", "preflight", [failure("GITLAB_RATE_LIMITED")] * 2, Exit.RATE_LIMITED),
        ("SURGICAL_PREFLIGHT_FAILED", "preflight", [failure("GITLAB_UNAVAILABLE")], Exit.GITLAB),
        (
            "SURGICAL_PREFLIGHT_FAILED",
            "preflight",
            [failure("GITLAB_UNAVAILABLE"), failure("GITLAB_RATE_LIMITED")],
            Exit.PREFLIGHT,
        ),
        (
            "SURGICAL_PREFLIGHT_FAILED",
            "preflight",
            [failure("GITLAB_RATE_LIMITED"), failure("GITLAB_NOT_FOUND")],
            Exit.PREFLIGHT,
        ),
        ("INGEST_FAILED", "ingest", [], Exit.INGEST),
        ("POISON", "preflight", [], Exit.PREFLIGHT),
        ("POISON", "ingest", [], Exit.INGEST),
        ("DATABASE_BUSY", "ingest", [], Exit.INGEST),
        ("RUN_DEADLINE", "ingest", [], Exit.INGEST),
        ("RUN_CANCELLED", "preflight", [], Exit.CANCELLED),
        ("RUN_CANCELLED", "ingest", [], Exit.CANCELLED),
        ("QUEUE_DEADLINE", "preflight", [], Exit.BROKER),
        ("INTERNAL", "ingest", [], Exit.BUG),
        ("NO_SUCH_CODE", "ingest", [], Exit.BUG),
    ],
)
def test_a_run_exits_by_what_ended_it(code: str, stage: str, failures: list[Failure], exit: Exit) -> None:
    assert runs.exit_of(code, stage, failures) is exit


@given(st.sampled_from(sorted(CODES)), st.sampled_from(runs.STAGES))
def test_a_run_that_failed_never_exits_as_done(code: str, stage: str) -> None:
    assert runs.exit_of(code, stage) not in (Exit.DONE, Exit.STILL_RUNNING)


# ------------------------------------------------------------------------------------ retry and stages


@pytest.mark.invariant("I9")
def test_a_retry_takes_up_what_ended_neither_ok_nor_skipped() -> None:
    ended = ["ok", "failed", "skipped_stale", "aborted", "pending"]

    scope = runs.retry_scope((Entity("issue", iid), status) for iid, status in reversed(list(enumerate(ended, 1))))

    assert scope == [Entity("issue", 2), Entity("issue", 4), Entity("issue", 5)]


@pytest.mark.parametrize(
    ("status", "options", "to"),
    [
        ("committing", RunOptions(), "documents"),
        ("committing", RunOptions(embed=False), "documents"),
        ("committing", RunOptions(docs=False, embed=False), "succeeded"),
        ("committing", RunOptions(docs=False), "succeeded"),  # no documents, no embedding (I6)
        ("documents", RunOptions(), "embedding"),
        ("documents", RunOptions(embed=False), "succeeded"),
        ("embedding", RunOptions(), "succeeded"),
    ],
)
def test_a_run_goes_on_to_the_next_stage_it_was_asked_for(status: str, options: RunOptions, to: str) -> None:
    assert runs.status_after(status, options) == to
    assert runs.is_legal_move(status, to)


@pytest.mark.parametrize(
    ("entities", "stage"),
    [
        ([("ok", "embedding"), ("failed", "embedding"), ("aborted", "embedding")], "embedding"),
        ([("failed", "documents"), ("aborted", "embedding")], "documents"),
        ([("failed", "ingest"), ("aborted", "ingest")], "preflight"),
        ([("failed", "preflight"), ("aborted", "embedding")], "preflight"),
        ([("skipped_stale", "ingest"), ("failed", "embedding")], "embedding"),
    ],
)
def test_a_retry_begins_at_the_first_stage_that_any_of_its_entities_lacks(
    entities: list[tuple[str, str]], stage: str
) -> None:
    assert runs.resume_at((Entity("issue", iid), *rest) for iid, rest in enumerate(entities, 1)) == stage


def test_an_overdue_run_behind_its_commit_fails_what_still_waits() -> None:
    verdict = runs.judge_overdue(
        [], status="embedding", stage="embedding", after_s=900, pending=[Entity("issue", 7), Entity("issue", 3)]
    )

    assert [(one.iid, one.stage, one.code) for one in verdict.failures] == [
        (3, "embedding", "RUN_DEADLINE"),
        (7, "embedding", "RUN_DEADLINE"),
    ]
