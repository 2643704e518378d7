"""Never older over newer: stale payloads, clocks, and two runs of one entity in every order (I3; issue 3, 7)."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from simulated import ISSUE_1, Endpoint, World, mirrored, opened
from support import CONTENT_ONLY, ISSUE_7, drain, entity_body, settings_for, submit

from lore.core import plan, staleness
from lore.core.errors import PassingError
from lore.core.plan import Entity
from lore.demo.server import running
from models import base
from models.content import Discussion, Issue, Note
from models.ledger import RunEntity
from models.queue import Task
from workers import commit, preflight, resources
from workers import runs as doors

MINUTE_MS = 60_000
HOUR_MS = 3_600_000


@pytest.fixture
def world(database_url: str, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(database_url, settings, monkeypatch) as made:
        yield made


def asked(world: World, entity: Entity = ISSUE_1) -> str:
    """Submit a run and begin its preflight; nothing is fetched yet."""
    world.time.pass_ms(1)
    world.submit(entity)
    run_id = world.runs[-1]
    preflight.preflight.fn(run_id)
    return run_id


def fetch(run_id: str, *job_types: str) -> None:
    """Do the fetches of some endpoints of a run's entity, in this order; all that are left if none is named."""
    with base.read():
        ids = dict(
            Task.select(Task.job_type, Task.id).where(Task.scope_run == run_id, Task.status == "pending").tuples()
        )
    for job_type in job_types or sorted(ids):
        preflight.fetch.fn(ids[job_type])


def ended(run_id: str) -> str:
    """Commit a run; return how its one entity ended."""
    commit.commit.fn(run_id)
    with base.read():
        return str(RunEntity.select(RunEntity.status).where(RunEntity.run == run_id).scalar())


def lacking(world: World, run_id: str) -> set[Endpoint]:
    """Return the endpoints that the mirror holds in an older version than GitLab did when the run was asked for."""
    mirror = mirrored()
    return {key for key, version in world.asked_for[run_id].items() if mirror[key] < version}


# -------------------------------------------------------------------------------- one payload, one row


@pytest.mark.invariant("I3")
def test_an_equal_updated_at_that_was_observed_earlier_is_skipped(world: World) -> None:
    slow = asked(world)
    fetch(slow)
    world.gitlab.edit(ISSUE_1, moves_updated_at=False)
    fast = asked(world)
    fetch(fast)

    statuses = [ended(fast), ended(slow)]

    assert statuses == ["ok", "skipped_stale"]
    assert set(mirrored().values()) == {world.gitlab.versions[ISSUE_1, plan.OWN]}


@pytest.mark.invariant("I3")
def test_an_equal_updated_at_that_was_observed_later_is_written_with_its_children(world: World) -> None:
    first = asked(world)
    fetch(first)
    ended(first)
    world.gitlab.edit(ISSUE_1, moves_updated_at=False)

    second = asked(world)
    fetch(second)

    assert ended(second) == "ok"
    assert set(mirrored().values()) == {world.gitlab.versions[ISSUE_1, plan.OWN]}


@pytest.mark.invariant("I3")
def test_a_payload_that_gitlab_updated_earlier_is_skipped_though_its_run_commits_last(world: World) -> None:
    slow = asked(world)
    fetch(slow)
    world.time.pass_ms(MINUTE_MS)
    world.gitlab.edit(ISSUE_1)
    fast = asked(world)
    fetch(fast)

    assert [ended(fast), ended(slow)] == ["ok", "skipped_stale"]
    assert set(mirrored().values()) == {world.gitlab.versions[ISSUE_1, plan.OWN]}


@pytest.mark.invariant("I3")
def test_a_newer_updated_at_is_written_also_when_the_local_row_was_asked_for_later(world: World) -> None:
    # The request that began first was answered last: with the newer row.
    first = asked(world)
    second = asked(world)
    own_of_second = _answer_in_between(world, first, second, plan.OWN)
    fetch(first)
    fetch(second)

    assert [ended(second), ended(first)] == ["ok", "ok"]
    assert own_of_second < mirrored()[ISSUE_1, plan.OWN] == world.gitlab.versions[ISSUE_1, plan.OWN]


def _answer_in_between(world: World, first: str, second: str, job_type: str) -> int:
    """Fetch one endpoint of two runs: the first run's request begins first, and is answered last, after an edit."""
    usual = world.gitlab.fake.answers[f"issue/{ISSUE_1.iid}/{job_type}"]
    seen = []

    def slow() -> Any:
        world.gitlab.fake.set(ISSUE_1, job_type, usual)
        fetch(second, job_type)
        seen.append(world.gitlab.versions[ISSUE_1, job_type])
        world.time.pass_ms(MINUTE_MS)
        world.gitlab.edit(ISSUE_1)
        return usual()

    world.gitlab.fake.set(ISSUE_1, job_type, slow)
    fetch(first, job_type)
    return seen[0]


@pytest.mark.invariant("I3")
def test_an_answer_counts_from_the_request_that_was_answered_not_from_one_that_failed(world: World) -> None:
    # The first run's first request fails; while it waits to ask again, the second run reads an older row than it will.
    first, second = asked(world), asked(world)
    usual = world.gitlab.fake.answers[f"issue/{ISSUE_1.iid}/{plan.OWN}"]

    def failing() -> Any:
        world.gitlab.fake.set(ISSUE_1, plan.OWN, usual)
        fetch(second)
        world.gitlab.edit(ISSUE_1, moves_updated_at=False)
        return PassingError("GITLAB_UNAVAILABLE", "502")

    world.gitlab.fake.set(ISSUE_1, plan.OWN, failing)
    fetch(first, plan.OWN)
    fetch(first)

    ended(first)
    before = mirrored()
    ended(second)

    assert mirrored() == before


@pytest.mark.invariant("I3")
@pytest.mark.parametrize(
    "spelled",
    ["2023-11-14T22:13:20Z", "2023-11-14T22:13:20.000Z", "2023-11-14T18:13:20.000-04:00", "2023-11-15T03:43:20+05:30"],
)
def test_one_moment_is_one_moment_however_gitlab_spells_it(gitlab: Any, spelled: str) -> None:
    submit(ISSUE_7)
    drain()

    gitlab.set(ISSUE_7, plan.OWN, entity_body(ISSUE_7, title="again", updated_at=0) | {"updated_at": spelled})
    run_id = submit(ISSUE_7)
    drain()

    assert doors.read_run(run_id)["counts"]["ok"] == 1
    row = Issue.get()
    assert (row.title, row.updated_at) == ("again", 1_700_000_000_000)


@pytest.mark.invariant("I3")
@pytest.mark.parametrize(
    ("local", "payload"),
    [
        ("2023-11-14T22:13:20.937Z", "2023-11-14T22:13:20Z"),
        ("2023-11-14T22:13:20Z", "2023-11-14T22:13:20.937Z"),
    ],
)
def test_an_updated_at_without_milliseconds_is_not_told_from_its_own_second(
    gitlab: Any, local: str, payload: str
) -> None:
    """Which of the two was observed later decides, as it does for equal ones."""
    gitlab.set(ISSUE_7, plan.OWN, entity_body(ISSUE_7) | {"updated_at": payload, "title": "slow"})
    slow = submit(ISSUE_7)
    drain(only={"preflight", "fetch"})
    gitlab.set(ISSUE_7, plan.OWN, entity_body(ISSUE_7) | {"updated_at": local, "title": "fast"})
    Task.update(observed_at=Task.observed_at - 1000).execute()
    fast = submit(ISSUE_7)
    drain(only={"preflight", "fetch"})
    commit.commit.fn(fast)
    commit.commit.fn(slow)
    title_after_the_older = Issue.get().title

    gitlab.set(ISSUE_7, plan.OWN, entity_body(ISSUE_7) | {"updated_at": payload, "title": "later"})
    later = submit(ISSUE_7)
    drain()

    assert doors.read_run(slow)["counts"]["skipped_stale"] == 1
    assert title_after_the_older == "fast"
    assert doors.read_run(later)["counts"]["ok"] == 1
    assert Issue.get().title == "later"


@pytest.mark.invariant("I3")
def test_an_offset_does_not_make_an_older_payload_newer(gitlab: Any) -> None:
    newer = {"updated_at": "2023-11-14T18:13:20.937-04:00"}  # 22:13:20.937Z
    older = {"updated_at": "2023-11-14T22:13:19.000Z"}
    gitlab.set(ISSUE_7, plan.OWN, entity_body(ISSUE_7) | newer)
    submit(ISSUE_7)
    drain()
    gitlab.set(ISSUE_7, plan.OWN, entity_body(ISSUE_7) | older)

    run_id = submit(ISSUE_7)
    drain()

    assert doors.read_run(run_id)["skipped_stale_iids"] == [["issue", 7]]


# ---------------------------------------------------------------------------------------------- clocks


@pytest.mark.invariant("I3")
def test_after_the_clock_went_back_a_new_run_is_still_believed(world: World) -> None:
    world.time.pass_ms(HOUR_MS)
    first = asked(world)
    fetch(first)
    ended(first)
    world.gitlab.edit(ISSUE_1, moves_updated_at=False)

    world.time.pass_ms(-HOUR_MS)
    second = asked(world)
    fetch(second)

    assert ended(second) == "ok"
    assert set(mirrored().values()) == {world.gitlab.versions[ISSUE_1, plan.OWN]}


@pytest.mark.invariant("I3")
def test_a_clock_that_goes_back_between_the_fetches_of_a_run_costs_no_part_of_it(world: World) -> None:
    first = asked(world)
    fetch(first)
    ended(first)
    world.gitlab.edit(ISSUE_1)
    world.time.pass_ms(HOUR_MS)

    second = asked(world)
    fetch(second, plan.DISCUSSIONS, plan.OWN)
    world.time.pass_ms(-MINUTE_MS)
    fetch(second)

    assert ended(second) == "ok"
    assert set(mirrored().values()) == {world.gitlab.versions[ISSUE_1, plan.OWN]}


@pytest.mark.invariant("I3")
def test_once_the_clock_went_back_the_next_observation_is_again_compared(world: World) -> None:
    first = asked(world)
    fetch(first)
    ended(first)
    world.time.pass_ms(-HOUR_MS)
    slow = asked(world)
    fetch(slow)
    world.gitlab.edit(ISSUE_1, moves_updated_at=False)
    fast = asked(world)
    fetch(fast)

    assert [ended(fast), ended(slow)] == ["ok", "skipped_stale"]


@pytest.mark.invariant("I3")
def test_two_hosts_whose_clocks_are_minutes_apart_agree_by_the_databases(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite there is but one host, whose clock is the database's; on PostgreSQL a worker's is never asked."""
    apart = {"ahead": 10 * MINUTE_MS, "behind": -10 * MINUTE_MS} if base.is_postgresql() else {"ahead": 0, "behind": 0}

    def at(host: str) -> None:
        monkeypatch.setattr(
            base, "time", SimpleNamespace(time_ns=lambda: (world.time.now_ms + apart[host]) * 1_000_000)
        )

    at("ahead")
    slow = asked(world)
    fetch(slow)
    world.gitlab.edit(ISSUE_1, moves_updated_at=False)
    at("behind")
    fast = asked(world)
    fetch(fast)
    statuses = [ended(fast)]
    at("ahead")
    statuses.append(ended(slow))

    assert statuses == ["ok", "skipped_stale"]
    with base.read():
        observed = [row[0] for row in Task.select(Task.observed_at).where(Task.observed_at.is_null(False)).tuples()]
    assert len(observed) > 10
    assert max(observed) - min(observed) < MINUTE_MS


def test_the_actors_and_the_tables_read_no_clock_but_the_databases() -> None:
    """`models.base` is where SQLite's is read; doctor compares a token's expiry, a date, with today's."""
    root = Path(base.__file__).parents[1]
    readers = [
        path.relative_to(root).as_posix()
        for folder in ("workers", "models", "lore/core")
        for path in sorted((root / folder).rglob("*.py"))
        if re.search(r"time\.time(_ns)?\(|datetime\.(now|utcnow)\(|date\.today\(", path.read_text())
    ]

    assert set(readers) <= {"models/base.py", "workers/doctor.py"}


# -------------------------------------------------------------------------------- two runs interleaved

MARKS = (plan.OWN, plan.DISCUSSIONS)


def orders(parts: Sequence[str]) -> list[tuple[tuple[str, str], ...]]:
    """Return every order of the fetches and commits of two runs, each commit after its run's fetches."""
    events = [(run, part) for run in "ab" for part in (*parts, "commit")]
    return [
        order
        for order in itertools.permutations(events)
        if all(order.index((run, "commit")) > order.index((run, part)) for run in "ab" for part in parts)
        and order.index(("a", parts[0])) < order.index(("b", parts[0]))  # else it is the same with the names exchanged
    ]


def play(world: World, order: Sequence[tuple[str, str]], moves_updated_at: Sequence[bool], *, is_held: bool) -> int:
    """Play one order, with an edit in GitLab before each event; return how many lists a skipped run left behind.

    Each run is asked for just before its first fetch.
    """
    world.begin_anew()
    if is_held:
        earlier = asked(world)
        fetch(earlier)
        ended(earlier)
    named: dict[str, str] = {}
    mirror = mirrored()
    behind = 0
    for (run, part), moves in zip(order, itertools.cycle(moves_updated_at), strict=False):
        world.time.pass_ms(100)
        world.gitlab.edit(ISSUE_1, moves_updated_at=moves)
        if run not in named:
            named[run] = asked(world)
            if plan.PROJECT in _parts_of(named[run]):
                fetch(named[run], plan.PROJECT)
        if part != "commit":
            fetch(named[run], part)
            continue
        status = ended(named[run])
        held, mirror = mirror, mirrored()
        older = {key for key, version in held.items() if mirror[key] < version}
        assert not older, f"{order}: {older} went back"
        left = lacking(world, named[run])
        assert status in ("ok", "skipped_stale")
        if left:
            assert status == "skipped_stale", f"{order}: ok, and yet {left} is older than when it was asked for"
            assert (ISSUE_1, plan.OWN) not in left, order
            assert not is_said_to_be_settled(), order
            behind += len(left)
    return behind


def _parts_of(run_id: str) -> list[str]:
    with base.read():
        return [row[0] for row in Task.select(Task.job_type).where(Task.scope_run == run_id).tuples()]


def is_said_to_be_settled() -> bool:
    row = Issue.get()
    return staleness.is_settled(row.updated_at, row.children_observed_at)


@pytest.mark.invariant("I3")
@pytest.mark.parametrize("is_held", [False, True])
@pytest.mark.parametrize("moves", [(False,), (True,), (True, False), (False, False, True)])
def test_in_every_order_of_two_runs_no_part_replaces_a_newer_one_and_none_is_older_than_asked_for(
    world: World, monkeypatch: pytest.MonkeyPatch, moves: tuple[bool, ...], is_held: bool
) -> None:
    monkeypatch.setitem(plan.ENDPOINTS, "issue", tuple(e for e in plan.ENDPOINTS["issue"] if e.job_type in MARKS))
    every = orders(MARKS)
    assert len(every) == 40
    if base.is_postgresql():
        every = every[::4]

    behind = [play(world, order, moves, is_held=is_held) for order in every]

    # A list is left behind only where `updated_at` itself says that the skipped run saw an older row.
    assert any(moves) or not any(behind)


orders_of_three = st.permutations([(run, part) for run in "abc" for part in (*MARKS, plan.LINKS)])


@pytest.mark.invariant("I3")
def test_in_any_order_of_three_runs_no_part_replaces_a_newer_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = (*MARKS, plan.LINKS)
    monkeypatch.setitem(plan.ENDPOINTS, "issue", tuple(e for e in plan.ENDPOINTS["issue"] if e.job_type in parts))

    @settings(
        max_examples=12 if base.is_postgresql() else 60,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(orders_of_three, st.lists(st.integers(0, 9), min_size=3, max_size=3), st.lists(st.booleans(), min_size=1))
    def check(fetches: list[tuple[str, str]], waits: list[int], moves: list[bool]) -> None:
        order = list(fetches)
        for run, wait in zip("abc", waits, strict=True):
            last = max(order.index((run, part)) for part in parts)
            order.insert(min(last + 1 + wait, len(order)), (run, "commit"))
        play(world, order, moves, is_held=False)

    check()


@pytest.mark.invariant("I3")
def test_a_run_that_is_skipped_may_leave_a_list_read_before_it_was_asked_for_and_says_so(world: World) -> None:
    """The one exception, and the rule that forces it: a newer local `updated_at` keeps the local children.

    The first run read the discussions early and the row late; the second was asked for in between and read the row
    before it moved. It is skipped, so the discussions stay as they were before it was asked for. The mirror does not
    claim otherwise: the entity is not settled, and `children_observed_at` is before the run was asked for.
    """
    first = asked(world)
    fetch(first, plan.DISCUSSIONS)
    world.time.pass_ms(1000)
    world.gitlab.edit(ISSUE_1, plan.DISCUSSIONS)
    second = asked(world)
    asked_at = world.time.now_ms
    fetch(second, plan.OWN)
    world.time.pass_ms(1000)
    world.gitlab.edit(ISSUE_1, plan.OWN)
    fetch(first)
    fetch(second)

    assert [ended(first), ended(second)] == ["ok", "skipped_stale"]
    assert lacking(world, second) == {(ISSUE_1, plan.DISCUSSIONS)}
    assert Issue.get().children_observed_at < asked_at
    assert doors.read_entities(first)[0]["settled"] is False
    third = asked(world)
    fetch(third)
    assert ended(third) == "ok"
    assert not lacking(world, third)


@pytest.mark.invariant("I3")
def test_of_two_requests_under_way_at_once_neither_leaves_a_list_older_than_its_run(world: World) -> None:
    """Which of two overlapping requests GitLab answered from the newer state cannot be told from when they began.

    What holds even then: no run leaves a list older than when the run was asked for.
    """
    first, second = asked(world), asked(world)
    _answer_in_between(world, first, second, plan.DISCUSSIONS)
    fetch(first)
    fetch(second)

    for run_id in (first, second):
        assert ended(run_id) in ("ok", "skipped_stale")
        assert not lacking(world, run_id)


# ---------------------------------------------------------------------- a list that changes while read


@pytest.fixture
def demo(ledger: Any, database_url: str) -> Iterator[Any]:
    with running("tiny") as server:
        resources.configure(settings_for(server.url, server.token, database_url))
        yield server
        resources.close()


MANY = Entity("issue", 4)  # has more than a page of discussions


def refresh(server: Any, entity: Entity) -> None:
    run_id = doors.submit(gitlab_url=server.url, project=server.project, entities=[entity], options=CONTENT_ONLY).run_id
    drain()
    assert doors.error_of(run_id) is None


def mirror_of_discussions() -> tuple[list[Any], list[Any]]:
    threads, notes = (
        [json.loads(raw) for (raw,) in table.select(table.raw).order_by(table.position).tuples()]
        for table in (Discussion, Note)
    )
    return threads, notes


def truth_of_discussions(server: Any) -> tuple[list[Any], list[Any]]:
    said = server.truth(MANY.entity_type, MANY.iid)["discussions"]
    threads = [{name: value for name, value in item.items() if name != "notes"} for item in said]
    return threads, [note for item in said for note in item["notes"]]


@pytest.mark.slow
@pytest.mark.invariant("I3")
@pytest.mark.parametrize("change", ["delete_discussion", "delete_note", "edit_note", "comment"])
def test_a_list_that_changes_between_the_requests_of_two_of_its_pages_ends_as_gitlabs_truth(
    demo: Any, change: str
) -> None:
    """A thread of page 1 deleted after page 1 was read moves one of page 2 into it, where nobody looks any more."""
    thread = demo.truth(MANY.entity_type, MANY.iid)["discussions"][2]
    step = {"step": change, "kind": MANY.entity_type, "iid": MANY.iid}
    step |= {
        "delete_discussion": {"discussion_id": thread["id"]},
        "delete_note": {"note_id": thread["notes"][0]["id"]},
        "edit_note": {"note_id": thread["notes"][0]["id"], "body": "edited in between"},
        "comment": {"body": "said in between"},
    }[change]
    demo.faults(
        [
            {
                "match": {"route": "*/discussions", "kind": MANY.entity_type, "iid": MANY.iid, "page": 1},
                "times": 1,
                "action": {"type": "mutate", "at": "after", "steps": [step]},
            }
        ]
    )
    before = truth_of_discussions(demo)

    refresh(demo, MANY)

    truth = truth_of_discussions(demo)
    assert truth != before
    assert len(truth[0]) > plan.PER_PAGE
    assert mirror_of_discussions() == truth


@pytest.mark.slow
@pytest.mark.invariant("I3")
def test_a_thread_deleted_between_two_runs_is_deleted_from_the_mirror(demo: Any) -> None:
    refresh(demo, MANY)
    thread = demo.truth(MANY.entity_type, MANY.iid)["discussions"][2]
    step = {"kind": MANY.entity_type, "iid": MANY.iid, "discussion_id": thread["id"]}
    demo.script([{"step": "delete_discussion"} | step])

    refresh(demo, MANY)

    assert mirror_of_discussions() == truth_of_discussions(demo)
