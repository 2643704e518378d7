"""The incremental sync with real processes, real HTTP and a real clock: killed, doubled, and told to wait."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chaos.stage import Process, Stage, environment
from servers import RedisServer, redis_running, wait_until
from truth import compare, entities_of

from lore.demo.client import Demo
from lore.demo.server import spawn
from models import base
from models.locks import ProjectLock

pytestmark = pytest.mark.slow

KILLED = "20261123T054149.123-1a2b3c4d"


@pytest.fixture
def demo() -> Iterator[Demo]:
    with spawn("demo", 1) as served:
        yield served


def command(*argv: str) -> list[str]:
    return [sys.executable, "-m", "cli", *argv]


def lore(env: dict[str, str], *argv: str) -> tuple[int, Any]:
    done = subprocess.run(command(*argv, "--robot"), check=False, env=env, capture_output=True, text=True, timeout=240)
    return done.returncode, json.loads(done.stdout)


def begin(env: dict[str, str], demo: Demo, *words: str, requests: int) -> subprocess.Popen[bytes]:
    """Begin a sync, or another command, and let it make so many requests."""
    argv = command(*(words or ("sync",)), "--no-docs", "--no-embed", "--quiet")
    process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until = time.monotonic() + 60
    while demo.stats()["requests"] < requests:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    return process


def test_a_sync_killed_at_any_moment_goes_on_where_it_was(demo: Demo, database_url: str, tmp_path: Path) -> None:
    env = environment(tmp_path, demo, database_url)
    process = begin(env, demo, requests=1_500)
    process.kill()
    process.communicate()

    status, answer = lore(env, "sync", "--no-docs", "--no-embed")

    run, stats = answer["data"]["run"], demo.stats()
    assert (status, run["status"]) == (0, "succeeded")
    assert run["counts"]["ok"] == 650
    # All 650 entities have 4,150 endpoints; what was in flight or staged in a child that had to begin anew is little.
    assert stats["requests"] < 4_150 + 300


@pytest.mark.parametrize("words", [("submit", "--mr", "1", "--mr", "2", "--issue", "1"), ("sync",)])
def test_what_a_killed_process_left_is_done_by_a_sweep(
    database_url: str, tmp_path: Path, words: tuple[str, ...]
) -> None:
    with spawn("tiny", 1) as demo:
        env = environment(tmp_path, demo, database_url, LORE_LOCK_LEASE="5s", LORE_CLAIM_LEASE="5s")
        demo.latency(100)
        process = begin(env, demo, *words, requests=3)
        process.kill()
        process.communicate()
        swept: list[int] = []

        def is_done() -> bool:
            status, answer = lore(env, "sweep")
            assert status == 0, answer
            swept.append(answer["data"]["swept"].get("taken_up", 0))
            return bool(swept[-1])

        wait_until(is_done, "a sweep takes the run up")

        (run,) = lore(env, "sync-runs")[1]["data"]["runs"]
    assert (run["status"], run["counts"]["ok"]) == ("succeeded", run["counts"]["total"]), (
        run["error_code"],
        run["error_message"],
        swept,
    )
    assert lore(env, "sweep")[1]["data"]["swept"] == {}


@pytest.mark.parametrize("options", [(), ("--quiet",)])
def test_people_are_told_that_a_killed_sync_is_looked_at(tmp_path: Path, options: tuple[str, ...]) -> None:
    with spawn("tiny", 1) as demo:
        env = environment(tmp_path, demo, f"sqlite://{tmp_path}/lore.db")
        demo.latency(100)
        process = begin(env, demo, requests=5)
        process.kill()
        process.communicate()

        again = command("sync", "--no-docs", "--no-embed", *options)
        done = subprocess.run(again, check=False, env=env, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done
    assert len(re.findall(r"sync \S+ is open; looking for \d+ s at most", done.stderr)) == (not options)


def test_two_syncs_at_once_the_second_says_so_and_does_nothing(demo: Demo, database_url: str, tmp_path: Path) -> None:
    env = environment(tmp_path, demo, database_url)
    first = begin(env, demo, requests=200)

    status, answer = lore(env, "sync", "--no-docs", "--no-embed")
    said = first.communicate(timeout=240)

    assert status == 0
    assert [warning["code"] for warning in answer["warnings"]] == ["SYNC_ACTIVE"]
    assert (first.returncode, said) == (0, (b"", b""))


def test_a_quiet_sync_that_fails_says_one_line_and_a_status(demo: Demo, tmp_path: Path) -> None:
    env = environment(tmp_path, demo, f"sqlite://{tmp_path}/lore.db")
    demo.faults([{"match": {"route": "/projects/:id/issues", "kind": "issue"}, "action": {"type": "forbidden"}}])

    done = subprocess.run(
        command("sync", "--quiet", "--no-docs", "--no-embed"),
        check=False,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


def test_a_sync_that_nobody_takes_is_not_waited_for(demo: Demo, database_url: str, tmp_path: Path) -> None:
    with redis_running() as redis:
        env = environment(tmp_path, demo, database_url, LORE_REDIS_URL=redis.url)

        first, second = lore(env, "sync", "--quiet"), lore(env, "sync", "--quiet")
        later = lore(env, "sync", "--no-wait")

    redis_is_down = lore(env, "sync")
    assert [(status, answer["error"]["code"]) for status, answer in (first, second, redis_is_down)] == [
        (9, "NO_LIVE_WORKER"),
        (9, "NO_LIVE_WORKER"),
        (9, "BROKER_UNREACHABLE"),
    ]
    assert (later[0], [one["code"] for one in later[1]["warnings"]]) == (0, ["NO_LIVE_WORKER"])
    (left,) = lore(env, "sync-runs")[1]["data"]["runs"]
    assert left["status"] == "queued", "a worker that comes later does it"


def test_a_sync_whose_workers_all_died_is_not_waited_for_any_longer(demo: Demo, stage: Stage) -> None:
    demo.faults([{"match": {"route": "*"}, "when": {"every": 1}, "action": {"type": "latency", "ms": 60_000}}])
    worker = stage.worker(threads=4)
    sync = stage.start("sync", LORE_ROBOT="1")
    wait_until(lambda: demo.stats()["requests"] > 0, "the sync walks")

    worker.kill()

    assert sync.popen.wait(120) == 9
    assert '"NO_LIVE_WORKER"' in sync.tail()


def test_a_sync_that_was_cancelled_names_the_next_sync_as_the_way_on(demo: Demo, tmp_path: Path) -> None:
    env = environment(tmp_path, demo, f"sqlite://{tmp_path}/lore.db")
    process = begin(env, demo, requests=20)
    process.send_signal(signal.SIGINT)

    assert (process.wait(60), b"RUN_CANCELLED" in process.communicate()[1]) == (13, False), "one line for cron"
    run_id = lore(env, "sync-runs", "--run-id", "last")[1]["data"]["run"]["run_id"]
    status, answer = lore(env, "sync-runs", "--run-id", run_id, "--retry-failed")
    assert (status, answer["error"]["code"], answer["error"]["actions"]) == (2, "NOTHING_TO_RETRY", ["lore sync"])


def test_a_sync_where_embeddings_are_off_builds_documents_and_is_done(tmp_path: Path) -> None:
    with spawn("tiny", 1) as demo:
        env = environment(tmp_path, demo, f"sqlite://{tmp_path}/lore.db", LORE_EMBEDDINGS="off")

        status, answer = lore(env, "sync")

    counts = answer["data"]["run"]["counts"]
    assert (status, counts["ok"]) == (0, counts["total"])
    assert counts["documents_regenerated"] > counts["documents_embedded"] == 0


def test_after_a_429_nobody_asks_until_it_is_over(demo: Demo, tmp_path: Path) -> None:
    env = environment(tmp_path, demo, f"sqlite://{tmp_path}/lore.db")
    demo.latency(20)
    demo.faults([{"match": {}, "when": {"nth": [200, 600]}, "action": {"type": "rate_limited", "retry_after": 2}}])

    status, answer = lore(env, "sync", "--no-docs", "--no-embed")

    log = demo.log()
    refused = [entry for entry in log if entry["status"] == 429]
    assert (status, answer["data"]["run"]["counts"]["ok"]) == (0, 650)
    assert len(refused) == 2
    for entry in refused:
        late = [e for e in log if entry["ended"] + 0.5 < e["started"] < entry["ended"] + 1.9]
        assert late == []
    assert demo.stats()["peak_concurrency"] <= 16


def test_a_sync_and_persons_runs_of_the_same_entities_never_overwrite_newer_data(
    demo: Demo, database_url: str, tmp_path: Path
) -> None:
    env = environment(tmp_path, demo, database_url)
    demo.latency(5)
    sync = begin(env, demo, requests=100)
    titles = {}
    for turn, iid in enumerate((1, 2, 390, 400)):
        titles[iid] = f"edited in turn {turn}"
        demo.script([{"step": "edit", "kind": "issue", "iid": iid, "title": titles[iid]}])
        status, answer = lore(env, "submit", "--issue", str(iid), "--wait", "--no-docs", "--no-embed")
        assert (status, answer["data"]["run"]["status"]) == (0, "succeeded")
        assert shown_title(env, iid) == titles[iid]
    sync.communicate(timeout=240)

    assert sync.returncode == 0
    assert {iid: shown_title(env, iid) for iid in titles} == titles


def shown_title(env: dict[str, str], iid: int) -> str:
    return str(lore(env, "show", f"#{iid}")[1]["data"]["entity"]["title"])


# ------------------------------------------------------------------------------ workers over Redis


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_running() as server:
        yield server


@pytest.fixture
def stage(demo: Demo, redis: RedisServer, database_url: str, tmp_path: Path) -> Iterator[Stage]:
    environ = environment(
        tmp_path,
        demo,
        database_url,
        LORE_REDIS_URL=redis.url,
        # What a killed worker held comes back within the test's patience.
        LORE_CLAIM_LEASE="5s",
        LORE_LOCK_LEASE="5s",
    )
    with Stage(environ, tmp_path) as opened:
        yield opened


def sync_workers(stage: Stage) -> list[Process]:
    """Start workers as the Procfile has them, two for a sync's fetches; those come last."""
    queues = [("preflight,fetch", 16), ("commit,sync_commit", 1)]
    queues += [("plan,sync_fetch,sync_documents,sync_embed", 6)] * 2
    return [stage.worker(queues=names, threads=threads) for names, threads in queues]


def test_a_full_sync_whose_workers_are_killed_ends_with_all_that_gitlab_holds(
    demo: Demo, stage: Stage, database_url: str
) -> None:
    *_, commits, _, fetches = sync_workers(stage)
    sync = stage.start("sync", "--no-docs", "--no-embed", "--quiet", LORE_LOG_LEVEL="error")
    wait_until(lambda: demo.stats()["requests"] > 800, "a part is fetched")
    fetches.kill()
    wait_until(lambda: demo.stats()["requests"] > 2_000, "more is fetched")
    commits.kill()
    stage.worker(queues="commit,sync_commit", threads=1)

    wait_until(lambda: sync.popen.poll() is not None, "the sync ends", timeout_s=240)

    assert (sync.popen.returncode, sync.tail()) == (0, "")
    base.open_database(database_url)
    try:
        entities = entities_of(demo)
        assert len(entities) == 650
        for entity in entities:
            compare(entity, demo.truth(entity.entity_type, entity.iid))
    finally:
        base.disconnect()


def test_after_a_429_no_worker_of_any_process_asks_until_it_is_over(demo: Demo, stage: Stage) -> None:
    demo.latency(20)
    demo.faults([{"match": {}, "when": {"nth": [500, 1_500]}, "action": {"type": "rate_limited", "retry_after": 2}}])
    sync_workers(stage)

    answer = stage.robot("sync", "--no-docs", "--no-embed")

    log = demo.log()
    refused = [entry for entry in log if entry["status"] == 429]
    assert (answer.status, answer.robot["data"]["run"]["counts"]["ok"]) == (0, 650)
    assert len(refused) == 2
    for entry in refused:
        late = [e for e in log if entry["ended"] + 0.5 < e["started"] < entry["ended"] + 1.9]
        assert late == []
    assert demo.stats()["peak_concurrency"] <= 16


@pytest.mark.parametrize("reader", ["a pipe", "a terminal", "a robot"])
def test_a_sync_that_a_killed_process_keeps_waiting_says_so_once_to_people(tmp_path: Path, reader: str) -> None:
    with spawn("tiny", 1) as demo:
        env = environment(tmp_path, demo, f"sqlite://{tmp_path}/lore.db", TERM="xterm-256color")
        assert lore(env, "sync", "--no-docs", "--no-embed")[0] == 0
        demo.script([{"step": "edit", "kind": "issue", "iid": 1, "title": "another"}])
        base.open_database(env["LORE_DATABASE_URL"])
        try:
            ProjectLock.update(owner=f"{KILLED}/host:1:1/0", until=base.now_ms() + 5_000).execute()
        finally:
            base.disconnect()

        if reader == "a terminal":
            status, shown = on_a_terminal(env, "sync", "--no-docs", "--no-embed")
        else:
            options = ["--robot"] if reader == "a robot" else []
            done = subprocess.run(
                command("sync", "--no-docs", "--no-embed", *options),
                check=False,
                env=env,
                capture_output=True,
                text=True,
                timeout=120,
            )
            status, shown = done.returncode, done.stderr

    assert status == 0, shown
    assert shown.count(f"waiting for the project's lock, which run {KILLED} holds") == (reader != "a robot")
    assert reader == "a terminal" or shown.count("\n") == (reader != "a robot")


# ----------------------------------------------------------------------------------- on a terminal


def test_on_a_terminal_a_sync_shows_a_bar_with_its_rate_and_the_time_left(demo: Demo, tmp_path: Path) -> None:
    env = environment(tmp_path, demo, f"sqlite://{tmp_path}/lore.db", TERM="xterm-256color")
    demo.latency(5)

    status, shown = on_a_terminal(env, "sync", "--no-docs", "--no-embed")

    frames = re.findall(r"sync\s+\S+\s+(\d+)/(\d+)\s+(\d+)/s\s+(\d:\d\d:\d\d)\s+(\d:\d\d:\d\d)", shown)
    under_way = [frame for frame in frames if 0 < int(frame[0]) < 650]
    assert status == 0
    assert {frame[1] for frame in under_way} <= {"400", "500", "600", "650"}
    assert any(int(rate) > 0 and left != "0:00:00" for _, _, rate, _, left in under_way), shown[-2_000:]
    assert [int(frame[0]) for frame in frames] == sorted(int(frame[0]) for frame in frames)
    assert "650 ok" in shown


def on_a_terminal(env: dict[str, str], *argv: str) -> tuple[int, str]:
    """Run a command whose output is a terminal of 160 columns; return its status, and what was shown as plain text."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    with subprocess.Popen(command(*argv), env=env, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 65_536):
                shown += piece
        except OSError:
            pass  # Linux says EIO when the last who had it open is gone
        os.close(ours)
        status = process.wait(60)
    return status, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
