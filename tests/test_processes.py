"""Workers, Redis and commands as processes of their own: killed, cancelled, interrupted, and restarted empty."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from chaos.stage import Process, Stage, environment, process_state
from servers import RedisServer, redis_running, wait_until
from support import CONTENT_TABLES, ended, open_tasks, rows_of, status_of

from models import base
from models.content import DirtySource, Issue, MergeRequest
from models.ledger import Run, RunSource
from models.locks import ProjectLock
from models.queue import StagedPayload, Task

pytestmark = pytest.mark.slow

HANGING_MS = 3_000


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_running() as server:
        yield server


@pytest.fixture
def stage(demo: Any, redis: RedisServer, ledger: Any, database_url: str, tmp_path: Path) -> Iterator[Stage]:
    demo.reset()
    environ = environment(
        tmp_path,
        demo,
        database_url,
        LORE_REDIS_URL=redis.url,
        LORE_LOCK_LEASE="1s",
        LORE_CLAIM_LEASE="1s",
    )
    with Stage(environ, tmp_path) as stage:
        yield stage


def wait_for_status(run_id: str, status: str) -> None:
    wait_until(lambda: status_of(run_id) == status, f"run {run_id} is {status}")


def wait_for_claim(run_id: str, job_type: str) -> None:
    wait_until(
        lambda: (
            Task.select().where(Task.scope_run == run_id, Task.job_type == job_type, Task.status == "claimed").exists()
        ),
        f"the fetch of {job_type} has begun",
    )


def hang(demo: Any, ms: int = HANGING_MS) -> None:
    """Let the first answer about diffs take its time."""
    demo.faults([{"match": {"route": "*diffs*"}, "times": 1, "action": {"type": "latency", "ms": ms}}])


def assert_nothing_is_left(run_id: str) -> None:
    assert open_tasks(run_id) == 0
    assert StagedPayload.select().count() == 0
    assert ProjectLock.select().where(ProjectLock.owner.is_null(False)).count() == 0


def content_rows() -> int:
    return sum(len(rows) for rows in rows_of(*CONTENT_TABLES).values())


# --- cancel, from another process, in every state


@pytest.mark.invariant("I7")
def test_a_queued_run_is_cancelled_and_its_message_does_nothing_later(stage: Stage, demo: Any) -> None:
    run_id = stage.submit("--mr", "12")

    answer = stage.robot("cancel", run_id)

    assert (answer.status, answer.robot["data"]["run"]["status"]) == (0, "cancelled")
    assert_nothing_is_left(run_id)
    stage.worker()
    assert ended(stage.submit("--issue", "7")) == "succeeded"
    assert status_of(run_id) == "cancelled"
    assert not [line for line in demo.log() if "merge_requests" in str(line)]


@pytest.mark.invariant("I7")
def test_a_run_is_cancelled_while_a_fetch_hangs_which_then_leaves_no_trace(stage: Stage, demo: Any) -> None:
    hang(demo)
    worker = stage.worker(LORE_CLAIM_LEASE="30s")
    run_id = stage.submit("--mr", "12")
    wait_for_claim(run_id, "diffs")

    answer = stage.robot("cancel", run_id)

    assert (answer.status, status_of(run_id)) == (0, "cancelled")
    assert_nothing_is_left(run_id)
    assert worker.end() == 0  # it has waited for the hanging fetch
    assert_nothing_is_left(run_id)
    assert {task.status for task in Task.select()} <= {"done", "aborted"}
    assert content_rows() == 0


@pytest.mark.invariant("I7")
def test_a_run_that_waits_for_the_lock_is_cancelled_and_the_holder_is_left_alone(stage: Stage) -> None:
    stage.worker(queues="preflight,fetch")
    holder = stage.worker(queues="commit", threads=1, plant="stop-before-commit", LORE_LOCK_LEASE="60s")
    first = stage.submit("--mr", "12")
    holder.wait_stopped()
    other = stage.worker(queues="commit")
    second = stage.submit("--issue", "7")
    other.wait_for("lock_busy", run_id=second)

    answer = stage.robot("cancel", second)
    holder.go_on()

    assert (answer.status, status_of(second)) == (0, "cancelled")
    assert ended(first) == "succeeded"
    assert status_of(second) == "cancelled"
    assert_nothing_is_left(second)
    assert (MergeRequest.select().count(), Issue.select().count()) == (1, 0)


@pytest.mark.invariant("I4")
def test_a_cancel_during_a_commit_waits_for_its_end_and_finds_the_run_succeeded(
    stage: Stage, database_url: str
) -> None:
    stage.worker(queues="preflight,fetch", plant="sweeper-off")
    # The sessions of PostgreSQL outlive the stop.
    commit = stage.worker(queues="commit", threads=1, plant="stop-in-commit=12,sweeper-off", LORE_LOCK_LEASE="60s")
    run_id = stage.submit("--mr", "12", "--issue", "7")
    commit.wait_stopped()
    before = rows_of(*CONTENT_TABLES)

    cancel = stage.start("cancel", run_id, LORE_ROBOT="1", LORE_LOCK_LEASE="60s")
    wait_until(lambda: is_waiting_for_a_lock(cancel, database_url), "the cancel waits")
    assert rows_of(*CONTENT_TABLES) == before
    commit.go_on()

    assert ended(run_id) == "succeeded"
    assert cancel.popen.wait(60) == 2
    assert '"RUN_ENDED"' in cancel.tail()
    assert DirtySource.select().count() == RunSource.select().count() == 2
    assert_nothing_is_left(run_id)


def is_waiting_for_a_lock(process: Process, database_url: str) -> bool:
    """Tell whether a command stands before a lock of the database."""
    assert process.popen.poll() is None, process.tail()
    if database_url.startswith("postgresql"):
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lore' AND wait_event_type = 'Lock'"
        return bool(base.database.execute_sql(waiting).fetchone()[0])
    # It has opened the file, and SQLite sleeps between its tries.
    files = Path(f"/proc/{process.pid}/fd")
    if files.parent.exists():
        return any(points_to_the_log(link) for link in files.iterdir()) and process_state(process.pid) == "S"
    return process_state(process.pid).startswith("S")


def points_to_the_log(link: Path) -> bool:
    try:
        return str(link.readlink()).endswith("lore.db-wal")
    except FileNotFoundError:  # closed meanwhile
        return False


# --- Ctrl-C


def test_ctrl_c_of_a_waiting_submit_detaches_and_the_run_goes_on(stage: Stage, demo: Any) -> None:
    hang(demo, ms=2_000)
    stage.worker(LORE_CLAIM_LEASE="30s")
    submit = stage.start("submit", "--mr", "12", "--wait", LORE_ROBOT="1")
    wait_until(lambda: Run.select().exists(), "the run is there")
    run_id = Run.get().run_id
    wait_for_claim(run_id, "diffs")

    submit.popen.send_signal(signal.SIGINT)

    assert submit.popen.wait(60) == 130
    assert '"DETACHED"' in submit.tail()
    assert run_id in submit.tail()
    assert status_of(run_id) == "preflight"
    assert ended(run_id) == "succeeded"


# --- kill -9


@pytest.mark.invariant("I12")
def test_a_worker_killed_in_a_fetch_is_replaced_by_another(stage: Stage, demo: Any) -> None:
    hang(demo, ms=30_000)
    victim = stage.worker()
    run_id = stage.submit("--mr", "12")
    wait_for_claim(run_id, "diffs")

    victim.kill()
    stage.worker()

    assert ended(run_id) == "succeeded"
    assert Task.get(Task.job_type == "diffs").lost_claims >= 1  # a busy machine may lose the next one too
    assert_nothing_is_left(run_id)


@pytest.mark.invariant("I12")
@pytest.mark.parametrize("statement", [2, 20])
def test_a_worker_killed_in_a_commit_leaves_nothing_half_and_another_commits_once(stage: Stage, statement: int) -> None:
    stage.worker(queues="preflight,fetch")
    victim = stage.worker(queues="commit", threads=1, plant=f"stop-in-commit={statement}")
    run_id = stage.submit("--mr", "12", "--issue", "7")
    victim.wait_stopped()

    victim.kill()
    assert content_rows() == 0
    stage.worker(queues="commit")

    assert ended(run_id) == "succeeded"
    assert DirtySource.select().count() == RunSource.select().count() == 2
    assert_nothing_is_left(run_id)


# --- Redis


@pytest.mark.invariant("I12")
def test_a_run_survives_redis_restarted_empty_before_its_message_was_read(stage: Stage, redis: RedisServer) -> None:
    run_id = stage.submit("--mr", "12")

    redis.restart()
    stage.worker()

    assert ended(run_id) == "succeeded"


@pytest.mark.invariant("I12")
def test_a_run_survives_redis_restarted_empty_under_its_worker(stage: Stage, redis: RedisServer, demo: Any) -> None:
    hang(demo)
    stage.worker(threads=1, LORE_CLAIM_LEASE="30s")
    run_id = stage.submit("--mr", "12", "--issue", "7")
    wait_for_claim(run_id, "diffs")

    redis.restart()

    assert ended(run_id) == "succeeded"
    assert_nothing_is_left(run_id)


@pytest.mark.invariant("I12")
def test_a_run_submitted_while_redis_is_down_is_queued_with_a_warning_and_done_when_it_is_back(
    stage: Stage, redis: RedisServer
) -> None:
    worker = stage.worker()
    redis.kill()
    worker.wait_for("redis_is_down")

    answer = stage.robot("submit", "--mr", "12")

    assert answer.status == 0
    assert [warning["code"] for warning in answer.robot["warnings"]] == ["BROKER_UNREACHABLE"]
    assert answer.robot["data"]["run"]["status"] == "queued"
    redis.start()
    assert ended(answer.robot["data"]["run"]["run_id"]) == "succeeded"


# --- the lock and the sweeper


@pytest.mark.parametrize("plant", ["sweeper-off"])
def test_a_run_that_waited_for_a_busy_lock_starts_because_it_was_handed_over(stage: Stage, plant: str) -> None:
    stage.worker(queues="preflight,fetch", plant=plant)
    holder = stage.worker(queues="commit", threads=1, plant=f"stop-before-commit,{plant}", LORE_LOCK_LEASE="60s")
    first = stage.submit("--mr", "12")
    holder.wait_stopped()
    other = stage.worker(queues="commit", plant=plant)
    second = stage.submit("--issue", "7")
    other.wait_for("lock_busy", run_id=second)

    holder.go_on()

    assert (ended(first), ended(second)) == ("succeeded", "succeeded")


@pytest.mark.invariant("I12")
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_worker_whose_sessions_the_database_ended_goes_on_sweeping(stage: Stage, redis: RedisServer) -> None:
    worker = stage.worker()
    assert ended(stage.submit("--mr", "12")) == "succeeded"

    ending = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    base.database.execute_sql(f"{ending} AND application_name = 'lore'")
    redis.kill()
    answer = stage.robot("submit", "--mr", "13")
    redis.start()

    assert ended(answer.robot["data"]["run"]["run_id"]) == "succeeded"
    assert worker.popen.poll() is None


def test_two_sweeps_at_once_send_each_message_once(stage: Stage, redis: RedisServer) -> None:
    waiting = [stage.submit("--mr", str(iid)) for iid in (11, 12, 13)]
    redis.restart()
    Run.update(sent_at=Run.sent_at - 60_000).execute()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: stage.robot("sweep"), range(4)))

    assert [answer.status for answer in answers] == [0] * 4
    assert sum(answer.robot["data"]["swept"].get("preflight_sent", 0) for answer in answers) == 3
    with redis.client() as client:
        assert client.llen("lore:preflight") == 3
    stage.worker()
    assert [ended(run_id) for run_id in waiting] == ["succeeded"] * 3
    assert DirtySource.select().count() == 3


def test_doctor_tells_what_the_sweeper_would_find(stage: Stage, demo: Any) -> None:
    hang(demo, ms=30_000)
    victim = stage.worker()
    run_id = stage.submit("--mr", "12")
    wait_for_claim(run_id, "diffs")
    victim.kill()
    wait_until(
        lambda: not Task.select().where(Task.status == "claimed", Task.claimed_until >= base.clock()).exists(),
        "the leases of its claims are over",
    )

    checks = {check["name"]: check for check in stage.robot("doctor").robot["data"]["checks"]}

    assert (checks["sweeper"]["is_ok"], checks["sweeper"]["action"]) == (False, "lore sweep")
    assert "claim_expired" in checks["sweeper"]["detail"]
    assert stage.robot("sweep").robot["data"]["swept"]["claim_expired"] >= 1
    # Its messages wait for a worker now, and are due again soon; with the run, the last of them is nobody's.
    assert stage.robot("cancel", run_id).status == 0
    checks = {check["name"]: check for check in stage.robot("doctor").robot["data"]["checks"]}
    assert checks["sweeper"] == {"name": "sweeper", "is_ok": True, "detail": "nothing to do", "action": None}


# --- a newer database


def make_newer(is_newer: bool) -> None:
    """Write into the history of migrations what only a later lore knows, or take it out again."""
    insert = "INSERT INTO schema_migration (name, applied) VALUES ('9999_later', '2030-01-01 00:00:00')"
    delete = "DELETE FROM schema_migration WHERE name = '9999_later'"
    base.database.execute_sql(insert if is_newer else delete)


def test_a_worker_that_finds_a_newer_database_stops_with_8_and_leaves_its_claim_to_others(
    stage: Stage, demo: Any
) -> None:
    hang(demo)
    worker = stage.worker()
    run_id = stage.submit("--mr", "12")
    wait_for_claim(run_id, "diffs")

    make_newer(True)

    assert worker.popen.wait(60) == 8
    assert [line["code"] for line in worker.log("worker_stops")] == ["DATABASE_NEWER"]
    task = Task.get(Task.job_type == "diffs")
    assert (task.status, task.claim_no, status_of(run_id)) == ("claimed", 1, "preflight")
    make_newer(False)
    stage.worker()
    assert ended(run_id) == "succeeded"


# --- the log


def test_one_run_can_be_followed_in_the_logs_by_its_run_id(stage: Stage) -> None:
    worker = stage.worker()
    submitted = stage.robot("submit", "--mr", "12", "--issue", "7", "--wait")
    assert submitted.status == 0
    run_id = submitted.robot["data"]["run"]["run_id"]
    stage.robot("submit", "--mr", "13", "--wait")
    worker.end()

    said = [line for line in worker.log() if line.get("run_id") == run_id]
    opened = [line for line in submitted.err.splitlines() if run_id in line and "run_opened" in line]
    assert len(opened) == 1
    assert [line["event"] for line in said if line["event"] != "fetched"] == [
        "preflight_started",
        "preflight_done",
        "committed",
        "documents_built",
        "run_ended",
        "embedded",
    ]
    fetched = [line for line in said if line["event"] == "fetched"]
    assert len(fetched) == Task.select().where(Task.scope_run == run_id).count() == 14
    assert {(line["entity"], line["job"]) for line in fetched} >= {
        ("!12", "diffs"),
        ("#7", "links"),
        ("project", "project"),
    }
    for line in fetched:
        assert line["requests"] >= 1
        assert line["bytes"] > 1
        assert line["ms"] >= 0
        assert line["message_id"]
    (committed,) = (line for line in said if line["event"] == "committed")
    assert committed["rows"]["merge_requests"] == committed["rows"]["issues"] == 1
    assert committed["ms"] >= 0
    assert committed["lock_wait_ms"] >= 0
