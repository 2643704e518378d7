"""How many requests are in flight at once, and who waits for whom."""

from __future__ import annotations

import dataclasses
from typing import Any

import dramatiq
import pytest
from support import GITLAB_URL, drain, submit
from syncing import World

from lore.core.plan import Entity
from lore.core.runs import RunOptions
from models.base import read, write
from models.ledger import Run
from models.queue import ABOUT_TO_BE_CLAIMED_MS, GitLabHost, NoRoom, Task, claim, has_room, note_limits
from workers import preflight, resources, syncing
from workers.commit import hand_over


def test_no_more_tasks_are_claimed_than_requests_may_be_in_flight(gitlab: Any) -> None:
    submit(*(Entity("issue", iid) for iid in range(1, 3)))
    drain(only={"preflight"})
    ids = [row.id for row in Task.select(Task.id).order_by(Task.id)]

    claims = [claim(one, by=f"{one}", lease_ms=60_000, gitlab_url=GITLAB_URL, most=2) for one in ids[:2]]
    with pytest.raises(NoRoom):
        claim(ids[2], by="me", lease_ms=60_000, gitlab_url=GITLAB_URL, most=2)

    assert None not in claims
    assert Task.get_by_id(ids[2]).status == "pending"


def two_tasks_and_the_only_place_taken_by_the_first() -> tuple[int, int]:
    submit(Entity("issue", 1))
    drain(only={"preflight"})
    first, second = [row.id for row in Task.select(Task.id).order_by(Task.id).limit(2)]
    claim(first, by="me", lease_ms=60_000)
    resources.configure(dataclasses.replace(resources.settings(), gitlab_concurrency=1))
    return first, second


def test_a_fetch_waits_for_a_place_and_takes_it(gitlab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = two_tasks_and_the_only_place_taken_by_the_first()
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
    _, second = two_tasks_and_the_only_place_taken_by_the_first()
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
    submit(Entity("issue", 1), project=world.project)
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
    mine = submit(Entity("issue", 1), project=world.project)
    drain(only={"preflight", "fetch"})
    dramatiq.get_broker().flush_all()

    assert child.stage_at <= Run.get_by_id(mine).stage_at
    assert hand_over(child.project_id) == mine
