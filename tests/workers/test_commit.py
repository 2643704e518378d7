"""The commit: all or nothing, never older over newer, one at a time."""

from __future__ import annotations

import json

import pytest
from support import (
    ISSUE_7,
    LISTS,
    MR_12,
    FakeGitLab,
    Pages,
    content,
    discussion_body,
    drain,
    entity_body,
    note_body,
    open_tasks,
    rows_of,
    statements,
    status_of,
    submit,
)

from lore.core import plan
from models import locks, queue
from models.base import database, is_postgresql, now_ms, write
from models.content import Discussion, Issue, MergeRequest, MergeRequestDiff, Note
from models.ledger import Run
from models.locks import ProjectLock
from models.queue import Task
from workers import runs
from workers.commit import commit, hand_over

MONDAY = 1_700_000_000_000
TUESDAY = MONDAY + 86_400_000


def fetched(*entities) -> str:
    """Submit a run and stop before its commit."""
    run_id = submit(*entities)
    drain(only={"preflight", "fetch"})
    assert status_of(run_id) == "committing"
    return run_id


@pytest.mark.invariant("I4")
def test_an_exception_at_any_statement_leaves_every_content_table_as_it_was(gitlab: FakeGitLab) -> None:
    submit()
    drain()
    gitlab.set(MR_12, plan.DISCUSSIONS, [discussion_body(2, note_body(2, "changed")), discussion_body(3)])
    gitlab.set(ISSUE_7, plan.OWN, entity_body(ISSUE_7, updated_at=TUESDAY, title="another"))
    before = content()
    run_id = fetched()
    with statements() as counted:
        commit.fn(run_id)
    total = len(counted.seen)
    assert status_of(run_id) == "documents"
    landed = content()
    assert landed != before

    tried = set()
    for nth in range(1, total + 1):
        restore(before_of=run_id)
        gitlab.set(ISSUE_7, plan.OWN, entity_body(ISSUE_7, updated_at=TUESDAY + nth, title=f"title {nth}"))
        unchanged = content()
        failing = fetched()
        with statements() as forced:
            forced.fail_at = nth
            try:
                commit.fn(failing)
            except RuntimeError:
                tried.add("raised")
        outcome = status_of(failing)
        tried.add(outcome)
        if outcome == "documents":
            assert content() != unchanged
            continue
        assert content() == unchanged, f"statement {nth} of {total} left a trace: {forced.seen[nth - 1]}"
        if outcome == "failed":
            error = runs.error_of(failing)
            assert error is not None
            assert (error.code, int(error.exit)) == ("INGEST_FAILED", 11)
            assert "forced" in error.message
            assert open_tasks(failing) == 0
        else:
            runs.cancel(failing)
    assert "failed" in tried


@pytest.mark.invariant("I4")
@pytest.mark.parametrize("table", ["notes", "merge_request_diffs", "dirty_sources"])
def test_what_the_database_refuses_fails_its_entity_and_leaves_no_trace(gitlab: FakeGitLab, table: str) -> None:
    run_id = fetched()
    before = content()
    refuse(table)

    commit.fn(run_id)

    error = runs.error_of(run_id)
    assert error is not None
    assert (error.code, "refused on purpose" in error.message) == ("INGEST_FAILED", True)
    assert [failure.entity_type for failure in error.failures] == ["merge_request"]
    assert content() == before


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("table", ["notes", "dirty_sources"])
def test_a_deadlock_that_shows_late_is_tried_again(gitlab: FakeGitLab, table: str) -> None:
    run_id = fetched()
    before = content()
    refuse(table, code="40P01")

    commit.fn(run_id)

    assert (status_of(run_id), content()) == ("committing", before)
    database.execute_sql(f"DROP TRIGGER refuse ON {table}")
    commit.fn(run_id)
    assert status_of(run_id) == "documents"


def refuse(table: str, *, code: str = "P0001") -> None:
    """Have the database refuse every row of a merge request in a table."""
    column = "source_type" if table == "dirty_sources" else "entity_type"
    condition = f"NEW.{column} = 'merge_request'"
    how = f"WHEN {condition} BEGIN SELECT RAISE(ABORT, 'refused on purpose'); END"
    if is_postgresql():
        database.execute_sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN RAISE EXCEPTION 'refused on purpose' USING ERRCODE = '{code}'; END $$"
        )
        how = f"FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION refuse()"
    database.execute_sql(f"CREATE TRIGGER refuse BEFORE INSERT ON {table} {how}")


def restore(*, before_of: str) -> None:
    """Free what a forced exception outside the writing transaction may have kept."""
    ProjectLock.update(owner=None, until=None).execute()


@pytest.mark.invariant("I3")
def test_a_row_made_newer_between_preflight_and_commit_is_skipped_and_the_others_land(gitlab: FakeGitLab) -> None:
    submit()
    drain()
    gitlab.set(MR_12, plan.DISCUSSIONS, [discussion_body(9)])
    gitlab.set(ISSUE_7, plan.OWN, entity_body(ISSUE_7, title="lands"))
    run_id = fetched()
    MergeRequest.update(updated_at=TUESDAY, title="newer").execute()
    before = rows_of(MergeRequest)

    drain()

    view = runs.read_run(run_id)
    assert view["status"] == "succeeded"
    assert view["skipped_stale_iids"] == [["merge_request", 12]]
    assert view["counts"]["dirty_sources"] == 1
    assert rows_of(MergeRequest) == before
    assert Discussion.select().where(Discussion.gitlab_id == f"{9:040x}").count() == 0
    assert Issue.get().title == "lands"


@pytest.mark.invariant("I3")
def test_an_equal_updated_at_that_was_observed_later_is_skipped(gitlab: FakeGitLab) -> None:
    slow = fetched(MR_12)
    gitlab.set(MR_12, plan.OWN, entity_body(MR_12, title="observed later"))
    fast = submit(MR_12)
    Task.update(observed_at=Task.observed_at - 1000).where(Task.scope_run == slow).execute()
    drain(only={"preflight", "fetch"})

    commit.fn(fast)
    commit.fn(slow)

    assert MergeRequest.get().title == "observed later"
    assert runs.read_run(slow)["skipped_stale_iids"] == [["merge_request", 12]]


@pytest.mark.invariant("I3")
def test_children_are_replaced_also_when_updated_at_is_equal(gitlab: FakeGitLab) -> None:
    submit(MR_12)
    drain()
    gitlab.set(MR_12, plan.DISCUSSIONS, [discussion_body(1, note_body(11, "edited")), discussion_body(7)])

    submit(MR_12)
    drain()

    assert {row.gitlab_id for row in Discussion.select()} == {f"{1:040x}", f"{7:040x}"}
    assert sorted((note.gitlab_id, note.body) for note in Note.select()) == [(7, "a note"), (11, "edited")]


@pytest.mark.invariant("I3")
def test_of_two_interleaved_runs_no_list_replaces_a_later_reading_of_it(gitlab: FakeGitLab) -> None:
    first = submit(MR_12)
    drain(only={"preflight", "fetch"})
    gitlab.set(MR_12, plan.DISCUSSIONS, [discussion_body(8, note_body(8, "the second run's, read earlier"))])
    second = submit(MR_12, docs=False, embed=False)
    drain(only={"preflight", "fetch"})
    base = now_ms() - 10_000
    of = {run_id: Task.scope_run == run_id for run_id in (first, second)}
    # The first run began first, but read its discussions last; the second began and read in between.
    Task.update(observed_at=base).where(of[first]).execute()
    Task.update(observed_at=base + 1).where(of[second]).execute()
    Task.update(observed_at=base + 2).where(of[first], Task.job_type == plan.DISCUSSIONS).execute()

    commit.fn(first)
    commit.fn(second)

    assert runs.read_run(second)["counts"]["ok"] == 1
    assert {row.gitlab_id for row in Discussion.select()} == {f"{1:040x}", f"{2:040x}"}


@pytest.mark.invariant("I3")
def test_a_local_observation_in_the_future_proves_nothing(gitlab: FakeGitLab) -> None:
    submit(MR_12)
    drain()
    future = now_ms() + 3_600_000
    parts = dict.fromkeys(json.loads(MergeRequest.get().parts_observed_at), future)
    MergeRequest.update(observed_at=future, parts_observed_at=json.dumps(parts)).execute()
    gitlab.set(MR_12, plan.OWN, entity_body(MR_12, title="after the clock went back"))

    submit(MR_12)
    drain()

    assert MergeRequest.get().title == "after the clock went back"


@pytest.mark.invariant("I14")
def test_a_field_that_is_absent_keeps_what_an_earlier_answer_said_and_null_does_not(gitlab: FakeGitLab) -> None:
    gitlab.set(ISSUE_7, plan.OWN, entity_body(ISSUE_7, weight=3, due_date="2024-01-01"))
    submit(ISSUE_7)
    drain()
    gitlab.set(ISSUE_7, plan.OWN, entity_body(ISSUE_7, due_date=None))

    submit(ISSUE_7)
    drain()

    row = Issue.get()
    assert (row.weight, row.due_date) == (3, None)
    assert json.loads(row.raw)["unheard_of"] == {"kept": True}
    assert "weight" not in json.loads(row.raw)


def test_a_list_of_several_pages_is_one_list_in_gitlabs_order(gitlab: FakeGitLab) -> None:
    gitlab.set(MR_12, plan.DISCUSSIONS, Pages([[discussion_body(n) for n in range(1, 4)], [], [discussion_body(4)]]))

    submit(MR_12)
    drain()

    rows = Discussion.select(Discussion.gitlab_id, Discussion.position).order_by(Discussion.position).tuples()
    assert list(rows) == [(f"{n:040x}", n - 1) for n in range(1, 5)]


def test_pages_too_large_to_come_along_are_read_one_by_one(gitlab: FakeGitLab) -> None:
    large = "x" * queue.SMALL_PAGE_BYTES
    pages = [[discussion_body(n, note_body(n, f"{n} {large}"))] for n in (1, 2)]
    gitlab.set(MR_12, plan.DISCUSSIONS, Pages([*pages, [discussion_body(3, note_body(3, "small"))]]))

    submit(MR_12)
    drain()

    rows = Note.select(Note.gitlab_id, Note.body).order_by(Note.position).tuples()
    assert list(rows) == [(1, f"1 {large}"), (2, f"2 {large}"), (3, "small")]


def test_of_two_children_with_one_key_the_later_one_wins(gitlab: FakeGitLab) -> None:
    twice = [discussion_body(1, note_body(1, "first"), note_body(1, "second")), discussion_body(2)]
    gitlab.set(MR_12, plan.DISCUSSIONS, Pages([twice, [discussion_body(2, note_body(1, "third"))]]))

    submit(MR_12)
    drain()

    assert sorted(row.gitlab_id for row in Discussion.select()) == [f"{n:040x}" for n in (1, 2)]
    assert sorted(Note.select(Note.gitlab_id, Note.body).tuples()) == [(1, "third"), (2, "a note")]


@pytest.mark.invariant("I14")
@pytest.mark.parametrize("body", ['"quoted" \\ \\u0041 \t\r\n', "\x7f\u2028 café 𝄞", "%s ? :name {} $1", "", "null"])
def test_any_text_comes_out_as_it_went_in(gitlab: FakeGitLab, body: str) -> None:
    largest = 2**63 - 1
    gitlab.set(MR_12, plan.DISCUSSIONS, [discussion_body(1, note_body(largest, body, type=None))])
    gitlab.set(MR_12, plan.OWN, entity_body(MR_12, description=body))

    for _ in range(2):  # inserted, then updated
        submit(MR_12)
        drain()

        assert list(Note.select(Note.gitlab_id, Note.body, Note.type, Note.system).tuples()) == [
            (largest, body, None, False)
        ]
        assert json.loads(Note.get().raw)["body"] == body
        assert MergeRequest.get().description == body


def test_a_local_id_stays_the_same_and_that_of_a_deleted_child_is_not_given_again(gitlab: FakeGitLab) -> None:
    submit(MR_12)
    drain()
    ids = {row.gitlab_id: row.id for row in Discussion.select()}
    gitlab.set(MR_12, plan.DISCUSSIONS, [discussion_body(1)])
    submit(MR_12)
    drain()
    gitlab.set(MR_12, plan.DISCUSSIONS, [discussion_body(1), discussion_body(5)])

    submit(MR_12)
    drain()

    now = {row.gitlab_id: row.id for row in Discussion.select()}
    assert now[f"{1:040x}"] == ids[f"{1:040x}"]
    assert now[f"{5:040x}"] > max(ids.values())


def test_fewer_files_than_before_leave_none_behind(gitlab: FakeGitLab) -> None:
    gitlab.set(MR_12, plan.DIFFS, [{"old_path": f"{n}", "new_path": f"{n}"} for n in range(5)])
    submit(MR_12)
    drain()
    gitlab.set(MR_12, plan.DIFFS, LISTS[plan.DIFFS])

    submit(MR_12)
    drain()

    assert [(row.old_path, row.new_path) for row in MergeRequestDiff.select()] == [("a.py", "b.py")]


@pytest.mark.invariant("I5")
def test_a_run_claims_only_the_dirty_rows_it_inserted_itself(gitlab: FakeGitLab) -> None:
    submit(MR_12, docs=False, embed=False)
    drain()
    older = content()["dirty_sources"]

    run_id = submit(MR_12)
    drain()

    from models.ledger import RunSource

    mine = {row.dirty_source_id for row in RunSource.select().where(RunSource.run == run_id)}
    assert len(mine) == 1
    assert mine.isdisjoint(row[0] for row in older)
    assert content()["dirty_sources"] == older


@pytest.mark.invariant("I11")
def test_a_busy_lock_is_waited_for_and_handed_over_on_release(gitlab: FakeGitLab) -> None:
    run_id = fetched(MR_12)
    project_id = Run.get_by_id(run_id).project_id
    with write():
        lease = locks.take(project_id, owner="another/1/1", lease_ms=60_000)
    commit.fn(run_id)
    assert status_of(run_id) == "committing"
    drain(only={"commit"})
    assert status_of(run_id) == "committing"
    with write():
        locks.release(lease)

    assert hand_over(project_id) == run_id
    drain()

    assert status_of(run_id) == "succeeded"


@pytest.mark.invariant("I11")
def test_whoever_waited_longest_is_sent_first(gitlab: FakeGitLab) -> None:
    first, second = fetched(MR_12), fetched(ISSUE_7)
    Run.update(stage_at=Run.stage_at - 1000).where(Run.run_id == second).execute()

    assert hand_over(Run.get_by_id(first).project_id) == second


@pytest.mark.invariant("I11")
def test_a_holder_whose_lease_was_taken_over_writes_nothing_not_even_a_failure(gitlab: FakeGitLab, monkeypatch) -> None:
    run_id = fetched(MR_12)
    before = content()
    from workers import commit as module

    real = module._write

    def overtaken(work):
        # Between taking the lock and the writing transaction the lease runs out and another delivery takes it.
        ProjectLock.update(until=0).execute()
        with write():
            assert locks.take(work.lease.project_id, owner="another/1/1", lease_ms=60_000)
        real(work)

    monkeypatch.setattr(module, "_write", overtaken)
    commit.fn(run_id)

    assert content() == before
    assert status_of(run_id) == "committing"
    assert ProjectLock.get().owner == "another/1/1"


def test_a_commit_that_died_three_times_is_poison(gitlab: FakeGitLab, monkeypatch) -> None:
    run_id = fetched(MR_12)
    from workers import commit as module

    class Killed(BaseException):
        pass

    def die(work):
        raise Killed

    monkeypatch.setattr(module, "_write", die)
    for _ in range(3):
        ProjectLock.update(owner=None, until=None).execute()
        with pytest.raises(Killed):
            commit.fn(run_id)
    ProjectLock.update(owner=None, until=None).execute()
    commit.fn(run_id)

    error = runs.error_of(run_id)
    assert error is not None
    assert (error.code, int(error.exit)) == ("POISON", 11)
    assert ProjectLock.get().owner is None


def test_a_lost_connection_leaves_the_run_to_a_sweeper_and_the_third_time_fails_it(gitlab, monkeypatch) -> None:
    from lore.core.errors import BusyError
    from workers import commit as module

    run_id = fetched(MR_12)

    def busy(work):
        raise BusyError("DATABASE_BUSY", "the database was busy")

    monkeypatch.setattr(module, "_write", busy)
    statuses = []
    for _ in range(3):
        commit.fn(run_id)
        statuses.append(status_of(run_id))

    assert statuses == ["committing", "committing", "failed"]
    assert runs.error_of(run_id).code == "DATABASE_BUSY"
