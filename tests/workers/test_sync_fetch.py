"""How a sync's children are fetched: all of an entity by one worker, which gives back what it cannot do."""

from __future__ import annotations

import httpx
import peewee
import pytest
from support import drain, waiting_messages
from syncing import World, first_issue, status_of

from lore.core.runs import RunOptions
from models.base import database
from models.ledger import Run, RunEntity, RunEvent
from models.queue import Claim, Task, claim_entity
from workers import preflight, resources, runs, syncing, upkeep


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
