"""How a sync's children are committed: in pieces, between which a person's run comes first."""

from __future__ import annotations

import json
from typing import Any

import dramatiq
import pytest
from support import drain, next_message, submit
from syncing import World, first_issue, status_of

from lore.core.plan import Entity
from lore.core.runs import RunOptions
from models.ledger import Run, RunEntity, SyncDebt
from models.locks import ProjectLock
from workers import commit, resources, runs, syncing
from workers.commit import hand_over


def committing_child(world: World, options: RunOptions) -> Run:
    """Open a sync and let its first child wait for the lock, with all messages forgotten."""
    syncing.open_sync(gitlab_url="http://gitlab.test", project=world.project, options=options)
    drain(only={"plan", "preflight", "sync_fetch"})
    dramatiq.get_broker().flush_all()
    return Run.select().where(Run.parent_run_id.is_null(False), Run.status == "committing").order_by(Run.run_id).get()


def written_of(child: Run) -> list[tuple[str, str]]:
    rows = RunEntity.select(RunEntity.status, RunEntity.stage).where(RunEntity.run == child.run_id)
    return [row for row in rows.tuples() if row != ("pending", "ingest")]


@pytest.mark.parametrize("has_docs", [False, True])
def test_a_child_steps_aside_between_two_entities_when_a_person_waits_for_the_lock(
    world: World, monkeypatch: pytest.MonkeyPatch, has_docs: bool
) -> None:
    child = committing_child(world, RunOptions(docs=has_docs, embed=False))
    mine = submit(Entity("issue", first_issue(world)), project=world.project, docs=False, embed=False)
    drain(only={"preflight", "fetch"})
    dramatiq.get_broker().flush_all()
    monkeypatch.setattr(commit, "PIECE_S", 0)

    commit.sync_commit.fn(child.run_id)

    message = next_message(dramatiq.get_broker())
    assert written_of(child) == [("pending", "documents") if has_docs else ("ok", "ingest")]
    assert (ProjectLock.get().owner, Run.get_by_id(child.run_id).status) == (None, "committing")
    assert message is not None
    assert (message.actor_name, message.args) == ("commit", (mine,))
    commit.commit.fn(mine)
    world.go_on(child.parent_run_id)
    assert (status_of(mine), status_of(child.parent_run_id)) == (("succeeded", None), ("succeeded", None))
    assert world.differences() == []
    counts = runs.read_run(child.run_id)["counts"]
    assert (
        counts["ok"] + counts["skipped_stale"] == counts["total"] == counts["dirty_sources"] + counts["skipped_stale"]
    )


def test_a_child_that_has_stepped_aside_waits_without_a_deadline_and_is_nobodys_orphan(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = committing_child(world, RunOptions(docs=False, embed=False))
    world.time.pass_ms(resources.settings().lock_lease_ms + 1)
    Run.update(stage_at=world.time.now_ms).where(Run.run_id != child.run_id).execute()
    submit(Entity("issue", first_issue(world)), project=world.project, docs=False, embed=False)
    drain(only={"preflight", "fetch"})
    monkeypatch.setattr(commit, "PIECE_S", 0)
    commit.sync_commit.fn(child.run_id)
    dramatiq.get_broker().flush_all()
    monkeypatch.setattr(commit.messages, "is_ours", lambda run_id: False)  # another process, without Redis

    assert Run.get_by_id(child.run_id).deadline_at is None
    assert hand_over(child.project_id) is None


def test_a_child_in_pieces_tells_how_long_it_waited_for_the_lock_and_all_it_wrote(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = committing_child(world, RunOptions(docs=False, embed=False))
    monkeypatch.setattr(commit, "PIECE_S", 0)
    world.time.move_to(child.stage_at + 5_000)
    pause_ms = int(commit.PAUSE_S * 1000)
    real = commit._write_entity

    def write_for_a_second(work: Any, entity: Any) -> None:
        real(work, entity)
        world.time.pass_ms(1_000)

    monkeypatch.setattr(commit, "_write_entity", write_for_a_second)

    commit.sync_commit.fn(child.run_id)

    counters = json.loads(Run.get_by_id(child.run_id).counters)
    pieces = RunEntity.select().where(RunEntity.run == child.run_id).count()
    assert counters["lock_wait_ms"] == 5_000 + pieces * pause_ms
    assert counters["rows"]["issues"] == pieces
    assert counters["rows"]["notes_deleted"] == 0


def test_a_child_does_not_step_aside_for_a_run_that_nobody_commits(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = committing_child(world, RunOptions(docs=False, embed=False))
    mine = submit(Entity("issue", first_issue(world)), project=world.project, docs=False, embed=False)
    drain(only={"preflight", "fetch"})
    Run.update(stage_at=Run.stage_at - commit.PERSON_TAKES_MS - 1).where(Run.run_id == mine).execute()
    monkeypatch.setattr(commit, "PIECE_S", 0)

    commit.sync_commit.fn(child.run_id)

    assert status_of(child.run_id) == ("succeeded", None)


@pytest.mark.invariant("I12")
def test_a_child_killed_between_two_pieces_is_written_on_and_no_entity_of_it_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = committing_child(world, RunOptions(docs=False, embed=False))
    monkeypatch.setattr(commit, "PIECE_S", 0)
    for _ in range(5):  # more often than a commit may die without having written anything
        lease = commit._take_lock(child.run_id)
        assert lease is not None
        assert commit._write(commit._Work(child.run_id, lease)) is False
        ProjectLock.update(owner=None).execute()  # its lease ran out
    before = len(written_of(child))

    commit.sync_commit.fn(child.run_id)

    counts = runs.read_run(child.run_id)["counts"]
    assert before == 5
    assert status_of(child.run_id) == ("succeeded", None)
    assert (counts["ok"], counts["dirty_sources"]) == (counts["total"], counts["total"])


def test_a_debt_is_paid_with_the_piece_that_brought_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    child = committing_child(world, RunOptions(docs=False, embed=False))
    first = RunEntity.select().where(RunEntity.run == child.run_id).order_by(RunEntity.iid).get()
    known = {"error_code": "GITLAB_UNAVAILABLE", "tries": 1, "since": 1, "next_at": 1}
    for iid in (first.iid, 1_000):
        SyncDebt.insert(project=child.project_id, entity_type="issue", iid=iid, **known).execute()
    monkeypatch.setattr(commit, "PIECE_S", 0)
    lease = commit._take_lock(child.run_id)
    assert lease is not None

    commit._write(commit._Work(child.run_id, lease))

    assert world.debts() == [("issue", 1_000, "GITLAB_UNAVAILABLE")]
