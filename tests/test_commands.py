"""The commands as a user runs them: real processes, a real database, the demo GitLab; here without Redis."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def lore(environ: dict[str, str], *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", *arguments]
    return subprocess.run(command, env=environ, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


def robot(environ: dict[str, str], *arguments: str) -> tuple[int, dict[str, Any]]:
    done = lore(environ, "--robot", *arguments)
    assert done.stdout.count("\n") == 1, done
    return done.returncode, json.loads(done.stdout)


def test_a_run_without_redis_is_done_by_one_command(environ: dict[str, str]) -> None:
    status, answer = robot(environ, "submit", "--mr", "12", "--issue", "7")

    assert (status, answer["ok"]) == (0, True)
    assert answer["data"]["run"]["status"] == "succeeded"
    assert answer["data"]["run"]["counts"]["ok"] == 2
    shown = lore(environ, "show", "!12")
    assert shown.returncode == 0
    assert "Read tide tables" in shown.stdout


def test_who_leaves_sqlite_last_clears_its_log_away(environ: dict[str, str], tmp_path: Path) -> None:
    environ["LORE_DATABASE_URL"] = f"sqlite://{tmp_path}/own.db"

    for line in ("sync-runs", "submit --mr 12", "show !12", "submit --mr 999999"):
        lore(environ, *line.split())

        assert {path.name for path in tmp_path.glob("own.db*")} == {"own.db", "own.db.lock"}, line


def test_one_404_exits_10_and_names_that_one_failure(environ: dict[str, str], demo: Any) -> None:
    status, answer = robot(environ, "submit", "--issue", "7", "--issue", "999999")

    error = answer["error"]
    assert (status, error["code"]) == (10, "SURGICAL_PREFLIGHT_FAILED")
    assert [(f["entity_type"], f["iid"], f["code"]) for f in error["failures"]] == [
        ("issue", 999999, "GITLAB_NOT_FOUND")
    ]
    assert robot(environ, "show", "#7")[0] == 5


@pytest.mark.invariant("I6")
def test_no_docs_without_no_embed_is_refused_and_nothing_is_written(environ: dict[str, str], database_url: str) -> None:
    status, answer = robot(environ, "submit", "--mr", "12", "--no-docs")

    assert (status, answer["error"]["code"]) == (2, "NO_DOCS_REQUIRES_NO_EMBED")
    assert "--no-embed" in answer["error"]["actions"][0]
    if database_url.startswith("sqlite"):
        assert not Path(database_url.removeprefix("sqlite://")).exists()


def test_no_wait_leaves_the_run_to_a_worker_which_does_it(environ: dict[str, str]) -> None:
    status, answer = robot(environ, "submit", "--mr", "12", "--no-wait")
    assert (status, answer["data"]["run"]["status"]) == (0, "queued")
    assert answer["warnings"][0]["code"] == "LEFT_QUEUED"

    with worker(environ) as process:
        done = lore(environ, "--robot", "sync-runs", "--run-id", "last", "--follow")
    assert process.returncode == 0

    assert json.loads(done.stdout)["data"]["run"]["status"] == "succeeded"


def worker(environ: dict[str, str]) -> Any:
    from contextlib import contextmanager

    @contextmanager
    def running() -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "cli", "worker", "--until-stdin-closes"]
        process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)

    return running()


def test_a_run_over_its_timeout_fails_with_what_it_waited_for(environ: dict[str, str], demo: Any) -> None:
    demo.faults([{"match": {"route": "*diffs*"}, "when": {"every": 1}, "action": {"type": "latency", "ms": 60_000}}])

    status, answer = robot(environ, "submit", "--mr", "12", "--timeout", "1")

    assert status == 10
    assert answer["error"]["code"] == "RUN_DEADLINE"
    run = robot(environ, "sync-runs", "--run-id", "last")[1]["data"]["run"]
    assert run["status"] == "failed"


def test_ctrl_c_cancels_an_embedded_run(environ: dict[str, str], demo: Any) -> None:
    demo.faults([{"match": {"route": "*diffs*"}, "when": {"every": 1}, "action": {"type": "latency", "ms": 60_000}}])
    command = [sys.executable, "-m", "cli", "submit", "--mr", "12", "--robot"]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        wait_until(lambda: lore(environ, "sync-runs", "--status", "preflight", "--robot").stdout.count("run_id"))
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()

    assert process.returncode == 13
    assert json.loads(said)["error"]["code"] == "RUN_CANCELLED"
    assert robot(environ, "sync-runs", "--run-id", "last")[1]["data"]["run"]["status"] == "cancelled"


def wait_until(is_so: Any, seconds: float = 30) -> None:
    import time

    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it did not happen"


@pytest.mark.invariant("I12")
def test_what_a_killed_command_left_is_settled_by_the_next_one(environ: dict[str, str], demo: Any) -> None:
    environ = environ | {"LORE_CLAIM_LEASE": "1s", "LORE_LOCK_LEASE": "1s"}
    demo.faults([{"match": {"route": "*diffs*"}, "when": {"nth": [1]}, "action": {"type": "latency", "ms": 60_000}}])
    command = [sys.executable, "-m", "cli", "submit", "--mr", "12", "--quiet"]
    process = subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: any(row["iid"] == 12 for row in demo.log() if "diffs" in str(row)))
    finally:
        process.kill()
        process.wait()

    status, _ = robot(environ, "submit", "--mr", "12")
    with worker(environ):
        runs = [run["run_id"] for run in robot(environ, "sync-runs")[1]["data"]["runs"]]
        for run_id in runs:
            lore(environ, "sync-runs", "--run-id", run_id, "--follow")

    ended = [run["status"] for run in robot(environ, "sync-runs")[1]["data"]["runs"]]
    assert status == 0
    assert ended == ["succeeded", "succeeded"]


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("moment", ["demo GitLab with", "$ lore worker", "$ lore-submit"])
def test_a_signal_ends_the_demo_with_all_that_it_started(
    tmp_path: Path, signum: signal.Signals, status: int, moment: str
) -> None:
    environ = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-u", "-m", "cli", "demo"]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True, start_new_session=True)
    with process:
        try:
            assert process.stdout is not None
            assert any(line.startswith(moment) for line in process.stdout), "it does not come so far"
            process.send_signal(signum)
            process.communicate(timeout=60)
        finally:
            process.kill()

    assert process.returncode == status
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert list(tmp_path.glob("lore-demo-*")) == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_signals_while_the_demo_ends_do_not_keep_its_folder(tmp_path: Path, signum: signal.Signals) -> None:
    environ = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-u", "-m", "cli", "demo"]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True, start_new_session=True)
    with process:
        try:
            assert process.stdout is not None
            assert any(line.startswith("$ lore-submit") for line in process.stdout), "it does not come so far"
            # As who stops a group, and then each of its processes; with the folder the last of them has come.
            while process.poll() is None and list(tmp_path.glob("lore-demo-*")):
                process.send_signal(signum)
            process.communicate(timeout=60)
        finally:
            process.kill()

    assert process.returncode == 128 + signum
    assert list(tmp_path.glob("lore-demo-*")) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
