"""Under real concurrency: of tasks that end at once exactly one moves the run on, and no deadlock surfaces.

SQLite would never show what these tests are for: its writers take turns. On PostgreSQL each of two transactions
that end the last two tasks sees the other's task open, unless the run's row is locked first (issue 3, 5 and 8).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import dramatiq
import pytest
from support import ISSUE_7, FakeGitLab, content, open_tasks, refused, submit, wait_until_waited_for

from lore.core import plan, runs
from lore.core.errors import LoreError, UsageError
from lore.core.plan import Entity
from models import base, locks
from models.content import DirtySource
from models.ledger import Run, RunEvent, RunSource
from models.locks import ProjectLock
from models.queue import StagedPayload, Task, claim_entity
from workers import QUEUES, commit, moves, preflight
from workers import runs as doors
from workers.upkeep import sweep

AT_ONCE = 4
RUNS = 200


@pytest.fixture
def pool(ledger: Any) -> Iterator[ThreadPoolExecutor]:
    """Threads with a connection of their own each, closed at the end."""
    closed = threading.Barrier(AT_ONCE)

    def close() -> None:
        closed.wait(timeout=30)
        base.disconnect()

    with ThreadPoolExecutor(AT_ONCE) as threads:
        yield threads
        for ended in [threads.submit(close) for _ in range(AT_ONCE)]:
            ended.result(timeout=60)


def at_once(pool: ThreadPoolExecutor, *actions: Callable[[], Any]) -> list[BaseException]:
    """Do actions side by side, all beginning at the same moment; return what they raised."""
    begin = threading.Barrier(len(actions))

    def act(action: Callable[[], Any]) -> None:
        begin.wait(timeout=30)
        action()

    doing = [pool.submit(act, action) for action in actions]
    return [error for error in (one.exception(timeout=120) for one in doing) if error is not None]


class Meeting:
    """Lets the fetches of a run meet at GitLab, so that they end at the same moment."""

    def __init__(self, gitlab: FakeGitLab) -> None:
        self._barrier = threading.Barrier(AT_ONCE)
        self._gitlab = gitlab
        self.job_types = [e.job_type for e in plan.ENDPOINTS["issue"]][:AT_ONCE]
        usual = FakeGitLab()
        for job_type in self.job_types:
            path = f"/projects/1/issues/7{plan.endpoint_of('issue', job_type).suffix}"
            self._gitlab.set(ISSUE_7, job_type, self._meet(usual._answer(path)))

    def fail(self, job_type: str, code: str) -> None:
        self._gitlab.set(ISSUE_7, job_type, self._meet(refused(code)))

    def _meet(self, answer: Any) -> Callable[[], Any]:
        def answered() -> Any:
            self._barrier.wait(timeout=60)
            return answer

        return answered


@pytest.fixture
def four_tasks(gitlab: FakeGitLab, monkeypatch: pytest.MonkeyPatch) -> Meeting:
    """An issue has four tasks, all of which end at once; its project is known."""
    submit(ISSUE_7)
    run_all_messages()
    monkeypatch.setitem(plan.ENDPOINTS, "issue", plan.ENDPOINTS["issue"][:AT_ONCE])
    return Meeting(gitlab)


def run_all_messages() -> None:
    from support import drain

    drain()


def forget_messages() -> Counter[str]:
    """Take the messages out of the broker; return how many there were to each actor."""
    broker: Any = dramatiq.get_broker()
    found: Counter[str] = Counter()
    for name in QUEUES:
        queue = broker.queues[name]
        while not queue.empty():
            found[dramatiq.Message.decode(queue.get_nowait()).actor_name] += 1
            queue.task_done()
    return found


def fetching() -> tuple[str, list[int]]:
    """Open a run and begin its preflight; return it and its tasks."""
    run_id = submit(ISSUE_7)
    preflight.preflight.fn(run_id)
    with base.read():
        tasks = [row[0] for row in Task.select(Task.id).where(Task.scope_run == run_id).order_by(Task.id).tuples()]
    assert len(tasks) == AT_ONCE
    return run_id, tasks


def fetches(tasks: list[int], *, twice: bool = False) -> list[Callable[[], Any]]:
    def once(task_id: int) -> Callable[[], Any]:
        def act() -> None:
            preflight.fetch.fn(task_id)
            if twice:
                preflight.fetch.fn(task_id)

        return act

    return [once(task_id) for task_id in tasks]


@pytest.mark.slow
@pytest.mark.invariant("I12")
def test_of_200_runs_whose_last_tasks_end_at_once_each_commits_exactly_once(
    four_tasks: Meeting, pool: ThreadPoolExecutor
) -> None:
    dirty_before = DirtySource.select().count()
    forget_messages()
    commits_sent: Counter[str] = Counter()
    every = []
    for _ in range(RUNS):
        run_id, tasks = fetching()
        every.append(run_id)
        forget_messages()
        # Every message comes twice; in this form the second finds the task claimed, or done.
        assert at_once(pool, *fetches(tasks, twice=True)) == []
        commits_sent[run_id] += forget_messages()["commit"]
        # The commit's message too, and both at once.
        assert at_once(pool, *[lambda run_id=run_id: commit.commit.fn(run_id)] * 2) == []

    assert set(commits_sent.values()) == {1}
    with base.read():
        moved = Counter(row[0] for row in _events("preflight_done", every))
        committed = Counter(row[0] for row in _events("committed", every))
        dirty = Counter(row[0] for row in RunSource.select(RunSource.run).where(RunSource.run.in_(every)).tuples())
    assert moved == committed == dirty == dict.fromkeys(every, 1)
    assert DirtySource.select().count() - dirty_before == RUNS
    assert open_tasks() == 0
    assert StagedPayload.select().count() == 0
    assert ProjectLock.select().where(ProjectLock.owner.is_null(False)).count() == 0


def _events(event: str, every: list[str]) -> Any:
    return RunEvent.select(RunEvent.run).where(RunEvent.event == event, RunEvent.run.in_(every)).tuples()


@pytest.mark.slow
@pytest.mark.invariant("I7")
def test_of_40_runs_whose_last_tasks_end_at_once_and_one_fails_each_fails_exactly_once(
    four_tasks: Meeting, pool: ThreadPoolExecutor
) -> None:
    before = content()
    four_tasks.fail(plan.DISCUSSIONS, "GITLAB_FORBIDDEN")
    every = []
    for _ in range(40):
        run_id, tasks = fetching()
        every.append(run_id)
        assert at_once(pool, *fetches(tasks)) == []

    with base.read():
        ended = Counter(row[0] for row in _events("failed", every))
    assert ended == dict.fromkeys(every, 1)
    assert open_tasks() == 0
    assert content() == before


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_without_the_lock_on_the_runs_row_some_runs_would_be_stranded(
    four_tasks: Meeting, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The naive form, which only looks: it is what the tests above must be able to tell from ours."""

    def only_look(run_id: str, *statuses: str) -> bool:
        return bool(Run.select().where(Run.run_id == run_id, Run.status.in_(statuses)).exists())

    monkeypatch.setattr(moves, "lock_run", only_look)
    stranded = 0
    for _ in range(100):
        run_id, tasks = fetching()
        assert at_once(pool, *fetches(tasks)) == []
        stranded += Run.get_by_id(run_id).status == "preflight"
        if stranded >= 3:
            break

    assert stranded >= 3


# ------------------------------------------------------------------ several claims of one entity


@pytest.mark.parametrize("what", ["give back", "renew"])
def test_who_gives_back_or_renews_the_claims_of_an_entity_waits_for_who_ends_them_in_another_order(
    gitlab: FakeGitLab, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """One ends the last task of an entity, then its others; meanwhile the other comes, from the first to the last."""
    monkeypatch.setattr(preflight, "RENEW_EVERY_S", -1)
    run_id = submit(ISSUE_7, Entity("issue", 8))
    preflight.preflight.fn(run_id)
    first = Task.select(Task.id).where(Task.scope_run == run_id, Task.iid == 7).order_by(Task.id).limit(1).scalar()
    claims = claim_entity(first, by="a worker", lease_ms=60_000, gitlab_url="http://gitlab.test")
    real, kept = moves.abort_tasks, []
    monkeypatch.setattr(preflight.log, "warning", lambda event, **_: kept.append(event))
    doing: list[Future[None]] = []

    def act() -> None:
        if what == "give back":
            preflight._give_back(claims)
        else:
            preflight._renew(claims[0], preflight._Live(list(claims)))

    def abort_the_others(*args: Any, **kwargs: Any) -> None:
        doing.append(pool.submit(act))
        wait_until_waited_for()
        real(*args, **kwargs)

    monkeypatch.setattr(moves, "abort_tasks", abort_the_others)
    preflight._fail(claims[-1], refused())

    error = doing[0].exception(timeout=60)
    assert error is None if what == "give back" else isinstance(error, preflight._ClaimLost), error
    assert kept == ["fetch_failed"]
    statuses = [Task.select(Task.status).where(Task.id == one.task_id).scalar() for one in claims]
    assert statuses == ["aborted"] * (len(claims) - 1) + ["failed"]


# ---------------------------------------------------------------------- cancel beside a commit, a lock


@pytest.mark.invariant("I11")
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("ending", ["cancel", "deadline"])
def test_a_run_that_is_ended_while_its_commit_takes_the_lock_holds_no_lock_when_that_is_over(
    gitlab: FakeGitLab, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """The commit has read that its run is committing, and takes the lock as the run ends. On SQLite they take turns."""
    from support import drain

    run_id, waiting = submit(ISSUE_7), submit(Entity("issue", 8))
    drain(only={"preflight", "fetch"})
    forget_messages()
    before = content()
    real = locks.take

    def end_it() -> None:
        if ending == "cancel":
            doors.cancel(run_id)
        else:
            Run.update(deadline_at=1).where(Run.run_id == run_id).execute()
            sweep()

    def take(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(locks, "take", real)
        pool.submit(end_it).result(timeout=60)
        return real(*args, **kwargs)

    monkeypatch.setattr(locks, "take", take)
    commit.commit.fn(run_id)

    assert Run.get_by_id(run_id).status in ("cancelled", "failed")
    assert ProjectLock.get().owner is None
    assert content() == before
    drain()
    assert Run.get_by_id(waiting).status == "succeeded"


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_commit_cancel_deadline_and_last_fetches_of_one_run_at_once_1000_times_never_deadlock(
    gitlab: FakeGitLab, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from support import drain

    submit(ISSUE_7)
    drain()
    monkeypatch.setitem(plan.ENDPOINTS, "issue", plan.ENDPOINTS["issue"][:2])
    deadlocks_before = deadlocks()
    ended: Counter[str] = Counter()
    for n in range(1000):
        with_two_open = n % 2 == 0
        run_id = submit(ISSUE_7, Entity("issue", 8))
        preflight.preflight.fn(run_id)
        with base.read():
            tasks = [r[0] for r in Task.select(Task.id).where(Task.scope_run == run_id).order_by(Task.id).tuples()]
        early, last = (tasks[:-2], tasks[-2:]) if with_two_open else (tasks, tasks[:1])
        for task_id in early:
            preflight.fetch.fn(task_id)
        forget_messages()
        errors = at_once(
            pool,
            lambda run_id=run_id, last=last: (preflight.fetch.fn(last[0]), commit.commit.fn(run_id)),
            lambda run_id=run_id, last=last: (preflight.fetch.fn(last[-1]), commit.commit.fn(run_id)),
            lambda run_id=run_id, n=n: (n % 4 > 1 and cancel(run_id), commit.commit.fn(run_id)),
            lambda run_id=run_id, n=n: (n % 3 == 0 and make_overdue(run_id), sweep()),
        )
        assert errors == []
        run_all_messages()
        status = str(Run.get_by_id(run_id).status)
        ended[status] += 1
        assert status in runs.FINAL_STATUSES
        assert ProjectLock.select().where(ProjectLock.owner.is_null(False)).count() == 0

    assert open_tasks() == 0
    assert StagedPayload.select().count() == 0
    assert set(ended) == set(runs.FINAL_STATUSES), ended
    assert deadlocks() == deadlocks_before


def cancel(run_id: str) -> None:
    try:
        doors.cancel(run_id)
    except UsageError as error:
        if error.code != "RUN_ENDED":
            raise


def make_overdue(run_id: str) -> None:
    try:
        with base.write():
            Run.update(deadline_at=1).where(Run.run_id == run_id, Run.status.in_(runs.OPEN_STATUSES)).execute()
    except LoreError as error:
        raise AssertionError(error.message) from error


def deadlocks() -> int:
    """Return how many deadlocks PostgreSQL has broken in this database."""
    base.database.execute_sql("SELECT pg_stat_force_next_flush()")
    (count,) = base.database.execute_sql(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    ).fetchone()
    return int(count)
