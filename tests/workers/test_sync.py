"""The incremental sync: it brings all that changed, moves its cursor over nothing it does not hold, and resumes."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from typing import Any

import dramatiq
import httpx
import peewee
import pytest
from support import GITLAB_URL, content, drain, next_message, open_tasks, submit, waiting_messages
from syncing import World, mutate, small_pages, status_of, world_on

from lore.core import walk
from lore.core.plan import Entity
from lore.core.runs import RunOptions
from models import ingest
from models.base import database, read, write
from models.content import ENTITY_TABLES, Issue
from models.ledger import Run, RunEntity, RunEvent, SyncDebt
from models.locks import ProjectLock
from models.queue import (
    ABOUT_TO_BE_CLAIMED_MS,
    Claim,
    GitLabHost,
    NoRoom,
    Task,
    claim,
    claim_entity,
    has_room,
    note_limits,
)
from workers import commit, preflight, resources, runs, syncing, upkeep
from workers.commit import hand_over

# What no database has a part in is told once.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def world(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with world_on(database_url, monkeypatch) as made:
        yield made


def test_a_first_sync_brings_everything(world: World) -> None:
    run_id = world.sync()

    assert status_of(run_id) == ("succeeded", None)
    assert world.differences() == []


@pytest.mark.parametrize(
    ("database_url", "seed"),
    [
        ("sqlite", 0),
        pytest.param("sqlite", 1, marks=pytest.mark.slow),
        pytest.param("sqlite", 2, marks=pytest.mark.slow),
        pytest.param("postgresql", 3, marks=pytest.mark.slow),
    ],
    indirect=["database_url"],
)
def test_after_edits_between_any_two_requests_and_one_more_sync_the_mirror_is_what_gitlab_holds(
    world: World, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    small_pages(monkeypatch)
    dice = random.Random(seed)
    world.settle()

    def change(path: str) -> None:
        if dice.random() < 0.15:
            mutate(world, dice)

    world.before_answer = change
    for _ in range(3):
        world.sync()
    world.before_answer = lambda path: None
    world.time.pass_ms(7 * 3_600_000 if world.debts() else 1)
    world.sync()

    assert world.differences() == []
    assert runs.list_runs()


def refuse(world: World, fragment: str, status: int = 404) -> None:
    """Let GitLab answer so where a path ends with this."""

    def answer(path: str) -> httpx.Response | None:
        if not path.endswith(fragment):
            return None
        headers = {"content-type": "application/json"}
        return httpx.Response(status, headers=headers, content=b'{"message":"%d"}' % status)

    world.before_answer = answer


def first_issue(world: World) -> int:
    return next(entity.iid for entity in world.entities() if entity.entity_type == "issue")


def test_a_sync_with_nothing_new_makes_at_most_three_requests_and_writes_no_content(world: World) -> None:
    world.settle()
    world.sync()
    before = content()
    world.time.pass_ms(2 * 3_600_000)
    world.asked.clear()

    run_id = world.sync()

    assert status_of(run_id) == ("succeeded", None)
    assert len(world.asked) <= 3
    assert content() == before
    assert runs.read_run(run_id)["counts"]["total"] == 0


def test_one_bad_entity_keeps_nobody_else_out_and_is_a_debt_until_it_lands(world: World) -> None:
    iid = first_issue(world)
    refuse(world, f"/issues/{iid}/discussions", 403)

    first, again = world.sync(), world.sync()
    named = [(f.iid, f.code) for f in runs.error_of(again).failures]
    missing = world.differences()
    world.before_answer = lambda path: None
    world.time.pass_ms(walk.debt_wait_ms(3))
    mended = world.sync()

    assert status_of(first) == status_of(again) == ("failed", "SYNC_INCOMPLETE")
    assert int(runs.error_of(first).exit) == int(runs.error_of(again).exit) == 10
    assert named == [(iid, "GITLAB_FORBIDDEN")]
    assert missing == [f"Entity(entity_type='issue', iid={iid}) is missing"]
    assert status_of(mended) == ("succeeded", None)
    assert world.differences() == []
    assert world.debts() == []


@on_sqlite
def test_a_child_of_which_nothing_could_be_fetched_leaves_debts_and_the_cursor_goes_on(world: World) -> None:
    refuse(world, "/discussions", 403)

    run_id = world.sync()

    assert status_of(run_id) == ("failed", "SYNC_INCOMPLETE")
    assert len(world.debts()) == len(world.entities())
    assert set(world.cursors()) == set(ENTITY_TABLES)
    assert None not in world.cursors().values()


@on_sqlite
def test_a_debt_is_tried_again_with_growing_waits(world: World) -> None:
    iid = first_issue(world)
    refuse(world, f"/issues/{iid}", 403)
    world.sync()

    waits = []
    for _ in range(3):
        debt = SyncDebt.get()
        waits.append(debt.next_at - world.time.now_ms)
        world.time.move_to(debt.next_at)
        world.sync()

    assert SyncDebt.get().tries == 4
    assert 50_000 < waits[0] < waits[1] < waits[2]


def test_retry_failed_on_the_parent_opens_one_run_with_its_debts_and_keeps_the_good_ones(world: World) -> None:
    issues = [entity.iid for entity in world.entities() if entity.entity_type == "issue"][:2]
    world.before_answer = lambda path: (
        httpx.Response(403, headers={"content-type": "application/json"}, content=b"{}")
        if path.endswith(tuple(f"/issues/{iid}" for iid in issues))
        else None
    )
    parent = world.sync()
    refuse(world, f"/issues/{issues[0]}", 403)

    retried = runs.retry(parent).run_id
    same = runs.retry(parent).run_id
    world.go_on(retried)

    assert same == retried
    assert [debt[1] for debt in world.debts()] == [issues[0]]
    error = runs.error_of(retried)
    assert (error.code, int(error.exit), error.total) == ("SYNC_INCOMPLETE", 10, 2)


@on_sqlite
def test_a_surgical_run_that_lands_pays_the_debt(world: World) -> None:
    iid = first_issue(world)
    refuse(world, f"/issues/{iid}", 403)
    world.sync()
    world.before_answer = lambda path: None

    run_id = runs.submit(
        gitlab_url="http://gitlab.test",
        project=world.project,
        entities=[Entity("issue", iid)],
        options=RunOptions(docs=False, embed=False),
    ).run_id
    world.go_on(run_id)

    assert world.debts() == []
    assert status_of(world.sync()) == ("succeeded", None)


@on_sqlite
def test_an_entity_that_cannot_be_written_is_set_aside_and_the_others_of_its_child_land(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    iid = first_issue(world)
    real = ingest.insert_entity

    def insert(entity_type: str, project_id: int, its_iid: int, columns: Any) -> int:
        if (entity_type, its_iid) == ("issue", iid):
            raise ValueError("no table holds it")
        return real(entity_type, project_id, its_iid, columns)

    monkeypatch.setattr(ingest, "insert_entity", insert)

    run_id = world.sync()

    assert status_of(run_id) == ("failed", "SYNC_INCOMPLETE")
    assert world.debts() == [("issue", iid, "INGEST_FAILED")]
    assert world.differences() == [f"Entity(entity_type='issue', iid={iid}) is missing"]


@on_sqlite
@pytest.mark.parametrize(("status", "code", "exit"), [(401, "GITLAB_UNAUTHORIZED", 4), (403, "GITLAB_FORBIDDEN", 4)])
def test_a_list_that_may_not_be_read_is_a_failure_and_moves_no_cursor(
    world: World, status: int, code: str, exit: int
) -> None:
    refuse(world, "/merge_requests", status)

    run_id = world.sync()

    assert status_of(run_id) == ("failed", code)
    assert int(runs.error_of(run_id).exit) == exit
    assert "merge_request" not in world.cursors()


@on_sqlite
def test_a_token_that_ends_while_children_are_fetched_leaves_no_debts_and_moves_no_cursor_past_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pages(monkeypatch)
    refuse(world, "/discussions", 401)

    run_id = world.sync()

    assert status_of(run_id) == ("failed", "GITLAB_UNAUTHORIZED")
    assert world.debts() == []
    assert all(at is None for at in world.cursors().values())
    world.before_answer = lambda path: None
    assert status_of(world.sync()) == ("succeeded", None)
    assert world.differences() == []


@on_sqlite
def test_a_moment_that_is_larger_than_a_page_is_passed_over_until_nothing_leaves_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pages(monkeypatch, child=100)
    world.settle()
    at = world.state.clock.now() - 600_000_000
    for row in world.state.main.issues:
        row.updated_at = at
    world.state.changed()
    left: list[int] = []

    def leave_the_moment(path: str) -> None:
        # A row of the first page leaves before the second is asked for: the second then begins one row too late.
        if "updated_before" in world.asked[-1] and "&page=2" in world.asked[-1] and not left:
            left.append(max(row.iid for row in world.state.main.issues))
            world.step({"step": "edit", "kind": "issue", "iid": left[0], "title": "left"})

    world.before_answer = leave_the_moment
    world.sync()

    assert left
    held = {row.iid for row in Issue.select(Issue.iid)}
    assert held == {entity.iid for entity in world.entities() if entity.entity_type == "issue"}


def test_there_is_one_active_sync_a_project(world: World) -> None:
    first = syncing.open_sync(gitlab_url="http://gitlab.test", project=world.project, options=RunOptions())
    second = syncing.open_sync(gitlab_url="http://gitlab.test", project=world.project, options=RunOptions())

    assert (first.is_new, second.is_new) == (True, False)
    assert first.run_id == second.run_id


def test_cancelling_a_sync_cancels_its_children_and_the_next_one_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pages(monkeypatch)
    opened = syncing.open_sync(
        gitlab_url="http://gitlab.test", project=world.project, options=RunOptions(docs=False, embed=False)
    )
    drain(limit=30)

    runs.cancel(opened.run_id)

    statuses = {run.status for run in Run.select().where(Run.parent_run_id == opened.run_id)}
    assert statuses <= {"succeeded", "cancelled"}
    assert open_tasks() == 0
    assert status_of(world.sync()) == ("succeeded", None)
    assert world.differences() == []


@pytest.mark.parametrize("after", [17, 60])
def test_a_sync_whose_process_dies_goes_on_where_it_was(
    world: World, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    small_pages(monkeypatch)
    opened = syncing.open_sync(
        gitlab_url="http://gitlab.test", project=world.project, options=RunOptions(docs=False, embed=False)
    )
    drain(limit=after)
    dramatiq.get_broker().flush_all()  # its messages died with it
    asked = len(world.asked)

    syncing.adopt(opened.run_id)
    world.go_on(opened.run_id)

    assert status_of(opened.run_id) == ("succeeded", None)
    assert world.differences() == []
    bodies = [path for path in world.asked if path.split("?")[0].count("/") == 6]
    assert len(bodies) <= len(set(bodies)) + 1
    assert asked < len(world.asked)


def test_the_cursor_never_passes_a_child_that_is_not_committed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    small_pages(monkeypatch)
    opened = syncing.open_sync(
        gitlab_url="http://gitlab.test", project=world.project, options=RunOptions(docs=False, embed=False)
    )
    first, held_back = f"{opened.run_id}.0002", []
    broker: Any = dramatiq.get_broker()

    while (message := next_message(broker)) is not None:
        if message.options["run_id"] == first:
            held_back.append(message)
        else:
            broker.get_actor(message.actor_name).fn(*message.args)
    before = world.cursors()
    assert Run.select().where(Run.parent_run_id == opened.run_id, Run.status == "succeeded").count() > 3
    for message in held_back:
        broker.get_actor(message.actor_name).fn(*message.args)
    world.go_on(opened.run_id)

    assert before["issue"] is None
    assert before["merge_request"] is not None
    assert world.cursors()["issue"] is not None


# ---------------------------------------------------------------------------------- an entity at a time


def begin(world: World) -> tuple[Run, list[Task]]:
    """Open a sync up to where its first child's fetches are sent; return the child and its first issue's tasks."""
    syncing.open_sync(
        gitlab_url="http://gitlab.test", project=world.project, options=RunOptions(docs=False, embed=False)
    )
    drain(only={"plan", "preflight"})
    child = Run.select().where(Run.parent_run_id.is_null(False)).order_by(Run.run_id).get()
    return child, tasks_of_first(child)


def tasks_of_first(child: Run) -> list[Task]:
    iid = Task.select(Task.iid).where(Task.scope_run == child.run_id).order_by(Task.id).limit(1).scalar()
    return list(Task.select().where(Task.scope_run == child.run_id, Task.iid == iid).order_by(Task.id))


def test_of_a_syncs_child_each_entity_has_one_message_which_reads_all_of_it(world: World) -> None:
    child, tasks = begin(world)
    keys = [m.args[0] for m in waiting_messages() if m.options["run_id"] == child.run_id]

    preflight.sync_fetch.fn(tasks[0].id)

    entities = RunEntity.select().where(RunEntity.run == child.run_id).count()
    events = RunEvent.select().where(RunEvent.run == child.run_id, RunEvent.event == "fetched")
    assert (len(keys), len(set(keys))) == (entities, entities)
    assert {task.status for task in tasks_of_first(child)} == {"done"}
    assert events.count() == 1


def test_of_an_entity_that_must_wait_what_was_read_is_kept_and_the_rest_is_read_later(world: World) -> None:
    child, tasks = begin(world)
    slow_down(world, "/resource_state_events", 429, after="0")

    preflight.sync_fetch.fn(tasks[0].id)

    before = {task.job_type: task.status for task in tasks_of_first(child)}
    asked = len(world.asked)
    preflight.sync_fetch.fn(tasks[0].id)  # a message that came twice
    assert (before.pop("entity"), before.pop("discussions")) == ("done", "done")
    assert set(before.values()) == {"pending"}
    assert len(world.asked) == asked
    world.before_answer = lambda path: None
    world.go_on(child.parent_run_id)
    assert status_of(child.parent_run_id) == ("succeeded", None)
    assert world.differences() == []


def test_an_endpoint_that_fails_for_a_while_keeps_no_other_of_its_entity_from_being_read(world: World) -> None:
    child, tasks = begin(world)
    slow_down(world, "/discussions", 503, after="60")

    preflight.sync_fetch.fn(tasks[0].id)

    statuses = {task.job_type: task.status for task in tasks_of_first(child)}
    assert statuses.pop("discussions") == "pending"
    assert set(statuses.values()) == {"done"}


def slow_down(world: World, ending: str, status: int, *, after: str) -> None:
    world.before_answer = lambda path: (
        httpx.Response(status, headers={"Retry-After": after}) if path.endswith(ending) else None
    )


def test_who_reads_an_entity_hears_of_a_cancel_between_two_requests(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    child, tasks = begin(world)
    monkeypatch.setattr(preflight, "RENEW_EVERY_S", -1)

    def cancel(path: str) -> None:
        if path.endswith("/discussions"):
            runs.cancel(child.parent_run_id)

    world.before_answer = cancel
    asked = len(world.asked)

    preflight.sync_fetch.fn(tasks[0].id)

    assert len(world.asked) == asked + 2
    assert {task.status for task in tasks_of_first(child)} == {"aborted"}


def test_who_has_given_an_endpoint_away_renews_and_reads_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    child, tasks = begin(world)
    slow_down(world, "/discussions", 503, after="60")
    monkeypatch.setattr(preflight, "RENEW_EVERY_S", -1)

    preflight.sync_fetch.fn(tasks[0].id)

    statuses = {task.job_type: task.status for task in tasks_of_first(child)}
    assert statuses.pop("discussions") == "pending"
    assert set(statuses.values()) == {"done"}


def test_who_loses_one_claim_of_an_entity_gives_the_others_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    child, tasks = begin(world)
    monkeypatch.setattr(preflight, "RENEW_EVERY_S", -1)

    def lose(path: str) -> None:
        if path.endswith("/discussions"):
            Task.update(status="done").where(Task.id == tasks[-1].id).execute()

    world.before_answer = lose

    preflight.sync_fetch.fn(tasks[0].id)

    assert {(task.status, task.lost_claims) for task in tasks_of_first(child)[:-1]} == {("pending", 0)}


def test_who_loses_the_claim_of_an_endpoint_that_must_wait_gives_the_others_back(world: World) -> None:
    child, tasks = begin(world)

    def lose(path: str) -> httpx.Response | None:
        if not path.endswith("/discussions"):
            return None
        Task.update(claim_no=Task.claim_no + 1).where(Task.id == tasks[1].id).execute()
        return httpx.Response(503, headers={"Retry-After": "60"})

    world.before_answer = lose
    asked = len(world.asked)

    preflight.sync_fetch.fn(tasks[0].id)

    statuses = {task.job_type: task.status for task in tasks_of_first(child)}
    assert len(world.asked) == asked + 2
    assert statuses.pop("discussions") == "claimed"
    assert set(statuses.values()) == {"pending"}


def test_a_walk_longer_than_a_lease_costs_no_claim_of_its_entity(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lore.gitlab.PER_PAGE", 1)
    monkeypatch.setattr(preflight, "RENEW_EVERY_S", -1)
    iid = first_issue(world)
    world.step(*({"step": "comment", "kind": "issue", "iid": iid, "body": f"said {n}"} for n in range(3)))
    child, _ = begin(world)
    mine = (Task.scope_run == child.run_id, Task.entity_type == "issue", Task.iid == iid)
    pages: list[str] = []

    def take_long(path: str) -> None:
        if path.endswith("/discussions"):
            pages.append(path)
            world.time.pass_ms(resources.settings().claim_lease_ms * 2 // 3)
            upkeep.sweep()

    world.before_answer = take_long

    preflight.sync_fetch.fn(Task.select(peewee.fn.MIN(Task.id)).where(*mine).scalar())

    assert len(pages) > 2
    assert {(task.status, task.lost_claims) for task in Task.select().where(*mine)} == {("done", 0)}


def take_all(task: Task) -> list[Claim]:
    return claim_entity(task.id, by="me", lease_ms=60_000, gitlab_url="http://gitlab.test")


def test_what_a_thread_still_holds_of_an_entity_is_not_taken_with_the_rest_of_it(world: World) -> None:
    _, tasks = begin(world)
    before = take_all(tasks[0])
    Task.update(status="pending").where(Task.id.in_([tasks[2].id, tasks[4].id])).execute()

    again = take_all(tasks[0])

    assert [one.task_id for one in before] == [task.id for task in tasks]
    assert [(one.task_id, one.claim_no) for one in again] == [(tasks[2].id, 2), (tasks[4].id, 2)]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_task_that_somebody_has_locked_is_not_waited_for(world: World) -> None:
    import psycopg

    _, tasks = begin(world)
    database.execute_sql("SET lock_timeout = '1s'")
    with psycopg.connect(database.obj.database) as other:
        other.execute("SELECT id FROM dependent_queue WHERE id = %s FOR UPDATE", (tasks[1].id,))

        taken = take_all(tasks[0])

    assert [one.task_id for one in taken] == [task.id for task in tasks if task.id != tasks[1].id]


# --------------------------------------------------------------------------------------- commit in pieces


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
    mine = runs.submit(
        gitlab_url="http://gitlab.test",
        project=world.project,
        entities=[Entity("issue", first_issue(world))],
        options=RunOptions(docs=False, embed=False),
    ).run_id
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
    runs.submit(
        gitlab_url="http://gitlab.test",
        project=world.project,
        entities=[Entity("issue", first_issue(world))],
        options=RunOptions(docs=False, embed=False),
    )
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
    mine = runs.submit(
        gitlab_url="http://gitlab.test",
        project=world.project,
        entities=[Entity("issue", first_issue(world))],
        options=RunOptions(docs=False, embed=False),
    ).run_id
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


# ------------------------------------------------------------------------------------------------ prune


def deleted(world: World) -> set[tuple[str, int]]:
    return {
        (entity_type, row.iid)
        for entity_type, table in ENTITY_TABLES.items()
        for row in table.select(table.iid).where(table.deleted_at.is_null(False))
    }


def test_prune_marks_what_gitlab_no_longer_has_and_nothing_else(world: World) -> None:
    world.sync()
    iid = first_issue(world)
    world.step({"step": "delete_issue", "iid": iid}, {"step": "delete_mr", "iid": 2})
    world.sync()

    pruned = world.sync(is_prune=True)

    assert status_of(pruned) == ("succeeded", None)
    assert deleted(world) == {("issue", iid), ("merge_request", 2)}
    assert world.differences() == []


@on_sqlite
def test_a_debt_for_a_404_is_paid_by_a_prune(world: World) -> None:
    iid = first_issue(world)
    is_deleted = []

    def delete_between_list_and_fetch(path: str) -> None:
        if path.endswith(f"/issues/{iid}") and not is_deleted:
            is_deleted.append(True)
            world.step({"step": "delete_issue", "iid": iid})

    world.before_answer = delete_between_list_and_fetch
    assert status_of(world.sync()) == ("failed", "SYNC_INCOMPLETE")

    world.sync(is_prune=True)

    assert world.debts() == []
    assert status_of(world.sync()) == ("succeeded", None)


def rewrite(world: World, fragment: str, change: Any) -> None:
    """Let what GitLab answers where a path ends with this be changed on its way."""
    real = world.before_answer
    seen = {"page": 0}

    def answer(path: str) -> httpx.Response | None:
        if not path.endswith(fragment):
            return real(path)
        world.before_answer = real
        try:
            seen["page"] += 1
            found = world._answer(httpx.Request("GET", f"http://gitlab.test{world.asked[-1]}", headers=TOKEN))
        finally:
            world.before_answer = answer
        return change(found, seen["page"])

    world.before_answer = answer


TOKEN = {"private-token": "glpat-demo-full"}


def with_body(found: httpx.Response, body: list[Any], **headers: str) -> httpx.Response:
    kept = {name: value for name, value in found.headers.items() if name.lower() != "content-length"}
    return httpx.Response(200, headers=kept | headers, json=body)


@on_sqlite
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda found, n: with_body(found, [], **{"x-total": "0"}), id="it is empty"),
        pytest.param(lambda found, n: with_body(found, found.json()[:-1]), id="a row is missing"),
        pytest.param(
            lambda found, n: with_body(found, found.json(), **{"x-total": str(900 + n)}), id="its count does not agree"
        ),
        pytest.param(
            lambda found, n: httpx.Response(403, headers={"content-type": "application/json"}, content=b"{}"),
            id="it may not be read",
        ),
    ],
)
def test_a_listing_that_does_not_prove_itself_complete_marks_nothing(world: World, spoil: Any) -> None:
    world.sync()
    world.step({"step": "delete_mr", "iid": 2})
    rewrite(world, "/issues", spoil)

    pruned = world.sync(is_prune=True)

    assert status_of(pruned)[0] == "failed"
    assert deleted(world) == set()


@on_sqlite
def test_a_row_that_is_missing_from_a_listing_and_still_answers_is_not_marked(world: World) -> None:
    world.sync()
    iid = first_issue(world)

    def leave_out(found: httpx.Response, page: int) -> httpx.Response:
        rows = [row for row in found.json() if row["iid"] != iid]
        gone = len(found.json()) - len(rows)
        return with_body(found, rows, **{"x-total": str(int(found.headers["x-total"]) - gone)})

    rewrite(world, "/issues", leave_out)

    assert status_of(world.sync(is_prune=True)) == ("succeeded", None)
    assert deleted(world) == set()


@on_sqlite
def test_a_project_that_stops_answering_marks_nothing(world: World) -> None:
    world.sync()
    world.step({"step": "delete_mr", "iid": 2})
    rewrite(world, f"/projects/{world.state.main.id}", hide_after_first)

    pruned = world.sync(is_prune=True)

    assert status_of(pruned) == ("failed", "PROJECT_NOT_FOUND")
    assert deleted(world) == set()


def hide_after_first(found: httpx.Response, nth: int) -> httpx.Response:
    if nth == 1:
        return found
    body = b'{"message":"404 Project Not Found"}'
    return httpx.Response(404, headers={"content-type": "application/json"}, content=body)


@on_sqlite
def test_what_came_back_is_brought_by_the_next_sync(world: World) -> None:
    world.sync()
    row = world.state.main.issues[first_issue(world)]
    row.confidential, hidden = True, row.iid
    token = world.state.tokens.find(TOKEN["private-token"])
    object.__setattr__(token, "sees_confidential", False)
    world.state.changed()
    world.sync(is_prune=True)
    assert ("issue", hidden) in deleted(world)

    object.__setattr__(token, "sees_confidential", True)
    world.state.changed()
    world.sync(is_prune=True)
    world.sync()

    assert deleted(world) == set()
    assert world.debts() == []


def test_a_payload_observed_before_the_deletion_was_is_stale(world: World) -> None:
    world.sync()
    iid = first_issue(world)
    run_id = runs.submit(
        gitlab_url="http://gitlab.test",
        project=world.project,
        entities=[Entity("issue", iid)],
        options=RunOptions(docs=False, embed=False),
    ).run_id
    drain(only={"preflight", "fetch"})
    world.step({"step": "delete_issue", "iid": iid})
    opened = syncing.open_sync(
        gitlab_url="http://gitlab.test", project=world.project, options=RunOptions(), is_prune=True
    )
    drain(only={"plan"})
    assert status_of(opened.run_id) == ("succeeded", None)

    world.go_on(run_id)

    assert deleted(world) == {("issue", iid)}
    assert runs.read_run(run_id)["skipped_stale_iids"] == [["issue", iid]]


# ------------------------------------------------------------------------------------------- politeness


def test_no_more_tasks_are_claimed_than_requests_may_be_in_flight(gitlab: Any) -> None:
    submit(*(Entity("issue", iid) for iid in range(1, 3)))
    drain(only={"preflight"})
    ids = [row.id for row in Task.select(Task.id).order_by(Task.id)]

    claims = [claim(one, by=f"{one}", lease_ms=60_000, gitlab_url=GITLAB_URL, most=2) for one in ids[:2]]
    with pytest.raises(NoRoom):
        claim(ids[2], by="me", lease_ms=60_000, gitlab_url=GITLAB_URL, most=2)

    assert None not in claims
    assert Task.get_by_id(ids[2]).status == "pending"


def test_a_fetch_waits_for_a_place_and_takes_it(gitlab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    submit(Entity("issue", 1))
    drain(only={"preflight"})
    first, second = [row.id for row in Task.select(Task.id).order_by(Task.id).limit(2)]
    claim(first, by="me", lease_ms=60_000)
    resources.configure(dataclasses.replace(resources.settings(), gitlab_concurrency=1))
    looks: list[float] = []

    def look(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            Task.update(status="done").where(Task.id == first).execute()

    monkeypatch.setattr(preflight.time, "sleep", look)
    preflight.fetch.fn(second)

    assert Task.get_by_id(second).status == "done"
    assert looks == [preflight.ROOM_LOOK_S] * 3


def test_a_fetch_that_finds_no_place_is_left_to_a_sweeper_a_syncs_sooner(
    gitlab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(Entity("issue", 1))
    drain(only={"preflight"})
    first, second = [row.id for row in Task.select(Task.id).order_by(Task.id).limit(2)]
    claim(first, by="me", lease_ms=60_000)
    resources.configure(dataclasses.replace(resources.settings(), gitlab_concurrency=1))
    looks: list[float] = []
    monkeypatch.setattr(preflight.time, "sleep", looks.append)

    preflight.fetch.fn(second)
    of_person = len(looks)
    preflight.sync_fetch.fn(second)

    task = Task.get_by_id(second)
    assert (of_person, len(looks) - of_person) == (preflight.ROOM_LOOKS, preflight.PATIENT_LOOKS)
    assert (task.status, task.sent_at, task.next_at is not None) == ("pending", None, True)


def test_a_syncs_task_waits_while_a_persons_is_about_to_be_claimed(world: World) -> None:
    opened = syncing.open_sync(gitlab_url="http://gitlab.test", project=world.project, options=RunOptions())
    drain(only={"plan", "preflight"})
    mine = Task.select(Task.id).join(Run).where(Run.parent_run_id == opened.run_id).scalar()
    runs.submit(
        gitlab_url="http://gitlab.test", project=world.project, entities=[Entity("issue", 1)], options=RunOptions()
    )
    drain(only={"preflight"})

    with pytest.raises(NoRoom):
        claim(mine, by="me", lease_ms=60_000, gitlab_url="http://gitlab.test", most=16)
    world.time.pass_ms(ABOUT_TO_BE_CLAIMED_MS)

    assert claim(mine, by="me", lease_ms=60_000, gitlab_url="http://gitlab.test", most=16) is not None


def test_what_gitlab_says_is_left_is_never_used_up(gitlab: Any) -> None:
    submit(Entity("issue", 1))
    drain(only={"preflight"})
    Task.update(sent_at=None).execute()
    ids = [row.id for row in Task.select(Task.id)]

    def room() -> tuple[bool, bool]:
        with read():
            person, sync = (has_room(GITLAB_URL, most=16, is_patient=patient) for patient in (False, True))
        return person, sync

    with write():
        note_limits(GITLAB_URL, 5, 60_000)
        note_limits(GITLAB_URL, 8, 60_000)  # an answer that was overtaken
    plenty = room()
    Task.update(status="claimed", claimed_until=2**60, claimed_by="1").where(Task.id.in_(ids[:1])).execute()
    little = room()
    for one in ids[:5]:
        Task.update(status="claimed", claimed_until=2**60, claimed_by=f"{one}").where(Task.id == one).execute()
    nothing = room()

    assert (plenty, little, nothing) == ((True, True), (True, False), (False, False))


def test_what_gitlab_says_is_left_is_kept_for_every_claimed_task_and_places_for_whoever_holds_them(
    gitlab: Any,
) -> None:
    submit(Entity("issue", 1))
    drain(only={"preflight"})
    Task.update(status="claimed", claimed_until=2**60, claimed_by="one thread", sent_at=None).execute()
    count = Task.select().count()

    def room(remaining: int) -> bool:
        with write():
            GitLabHost.delete().execute()
            note_limits(GITLAB_URL, remaining, 60_000)
            return has_room(GITLAB_URL, most=2, is_patient=False)

    assert count > 2
    assert (room(count), room(count + 1)) == (False, True)


def test_a_commit_waiting_for_the_lock_is_sent_before_an_older_one_of_a_sync(world: World) -> None:
    syncing.open_sync(gitlab_url="http://gitlab.test", project=world.project, options=RunOptions(docs=False))
    drain(only={"plan", "preflight", "sync_fetch"})
    child = Run.get(Run.parent_run_id.is_null(False), Run.status == "committing")
    mine = runs.submit(
        gitlab_url="http://gitlab.test", project=world.project, entities=[Entity("issue", 1)], options=RunOptions()
    ).run_id
    drain(only={"preflight", "fetch"})
    dramatiq.get_broker().flush_all()

    assert child.stage_at <= Run.get_by_id(mine).stage_at
    assert hand_over(child.project_id) == mine
