"""The incremental sync: it brings all that changed, moves its cursor over nothing it does not hold, and resumes."""

from __future__ import annotations

import random
from typing import Any

import dramatiq
import httpx
import pytest
from support import content, drain, next_message, open_tasks, submit
from syncing import World, first_issue, mutate, small_pages, status_of

from lore.core import walk
from lore.core.plan import Entity
from lore.core.runs import RunOptions
from models import ingest
from models.content import ENTITY_TABLES, Issue
from models.ledger import Run, SyncDebt
from workers import runs, syncing

# What no database has a part in is told once.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


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

    run_id = submit(Entity("issue", iid), project=world.project, docs=False, embed=False)
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
