"""The server as a process and as a thread: how it starts, what it prints, how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from lore.demo.answers import Answers, Question
from lore.demo.clock import Clock, commit_date, iso, micros
from lore.demo.server import running, spawn

COMMAND = [sys.executable, "-m", "lore.demo"]


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    started = subprocess.Popen([*COMMAND, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
            started.wait()
        for stream in (started.stdin, started.stdout, started.stderr):
            if stream is not None:
                stream.close()


def test_it_prints_one_json_line_when_it_is_accepting_connections() -> None:
    with process("--profile", "tiny", "--seed", "3") as server:
        assert server.stdout is not None
        known = json.loads(server.stdout.readline())
        version = httpx.get(
            f"{known['url']}/api/v4/version", headers={"PRIVATE-TOKEN": known["token"]}, trust_env=False, verify=False
        )
        server.send_signal(signal.SIGTERM)
        rest, errors = server.communicate(timeout=10)

    assert set(known) == {"url", "token", "project", "project_id", "pid"}
    assert (known["project"], known["pid"], known["token"]) == ("tiny/conformance", server.pid, "glpat-demo-full")
    assert version.status_code == 200
    assert (rest, errors, server.returncode) == ("", "", 0)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly_at_a_signal_also_while_a_client_is_connected(how: signal.Signals) -> None:
    with process("--profile", "tiny") as server:
        assert server.stdout is not None
        known = json.loads(server.stdout.readline())
        with httpx.Client(trust_env=False, verify=False) as http:
            http.get(f"{known['url']}/api/v4/projects/71")
            server.send_signal(how)
            _, errors = server.communicate(timeout=10)

    assert (server.returncode, errors) == (0, "")


def test_it_ends_with_its_standard_input_if_told_to() -> None:
    with process("--profile", "tiny", "--until-stdin-closes") as server:
        assert server.stdout is not None
        assert server.stdin is not None
        server.stdout.readline()
        server.stdin.close()

        assert server.wait(timeout=10) == 0


def test_a_spawned_server_is_a_process_that_ends_with_its_block() -> None:
    with spawn("demo", 2, "--latency-ms", "30", "--clock", "2031-05-01T10:00:00Z") as demo:
        response = httpx.get(
            f"{demo.url}/api/v4/projects/4127", headers={"PRIVATE-TOKEN": demo.token}, trust_env=False, verify=False
        )
        (entry,) = demo.log()

    assert response.json()["path_with_namespace"] == "tern/harbour"
    assert response.headers["date"].startswith("Thu, 01 May 2031 10:0")
    assert entry["ended"] - entry["started"] >= 0.03
    with pytest.raises(httpx.ConnectError):
        httpx.get(demo.url, trust_env=False, verify=False)


def test_faults_can_be_given_as_a_file(tmp_path: Path) -> None:
    file = tmp_path / "faults.json"
    file.write_text(json.dumps([{"action": {"type": "server_error", "status": 503}}]))
    with spawn("tiny", 1, "--faults", str(file)) as demo:
        assert httpx.get(f"{demo.url}/api/v4/projects/71", trust_env=False, verify=False).status_code == 503


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--clock", "noon"], "noon"),
        (["--faults", "/does/not/exist.json"], "exist.json"),
        (["--profile", "huge"], "invalid choice"),
        (["--host", "203.0.113.1"], "address"),
    ],
)
def test_a_wrong_option_is_named_and_is_no_traceback(arguments: list[str], words: str) -> None:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=20, check=False)

    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_server_on_a_thread_leaves_nothing_behind() -> None:
    before = set(threading.enumerate())
    with running("tiny", seed=4) as demo:
        httpx.get(f"{demo.url}/api/v4/projects/71", trust_env=False, verify=False)

    assert set(threading.enumerate()) == before
    with pytest.raises(httpx.ConnectError):
        httpx.get(demo.url, trust_env=False, verify=False)


def test_a_server_on_a_thread_ends_though_a_client_waits() -> None:
    with (
        running("tiny", latency_ms=60_000) as demo,
        httpx.Client(trust_env=False, verify=False) as http,
        pytest.raises(httpx.ReadTimeout),
    ):
        http.get(f"{demo.url}/api/v4/projects/71", timeout=0.2)


def test_the_same_seed_serves_the_same_bytes_and_another_one_others() -> None:
    def digest(seed: int) -> str:
        with running("demo", seed=seed, external_url="http://gitlab.example.com") as demo:
            return demo.digest()

    assert digest(7) == digest(7) != digest(8)


def test_an_answer_is_kept_until_something_changes(tiny: Any) -> None:
    answers = Answers(tiny.state)
    question = Question("GET", "/api/v4/projects/71/issues/3/discussions", "per_page=100", tiny.token)
    first, second = answers.to(question), answers.to(question)
    tiny.script([{"step": "comment", "kind": "issue", "iid": 3}])

    assert first is second
    assert answers.to(question).body != first.body


def test_nobody_else_is_imported() -> None:
    code = "import sys, lore.demo.server; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    ours = {name for name in done.stdout.split() if name.partition(".")[0] in ("lore", "models", "workers")}

    assert {name for name in ours if not name.startswith("lore.demo")} == {"lore"}


def test_a_moment_is_cut_to_milliseconds_and_never_rounded() -> None:
    assert iso(micros("2025-02-03T09:15:00.123999")) == "2025-02-03T09:15:00.123Z"
    assert micros("2025-02-03T11:15:00+02:00") == micros("2025-02-03T09:15:00Z")


def test_a_commit_date_is_in_its_authors_own_offset() -> None:
    at = micros("2025-02-03T23:15:00.5")

    assert commit_date(at, -210) == "2025-02-03T19:45:00.000-03:30"
    assert commit_date(at, 120) == "2025-02-04T01:15:00.000+02:00"


def test_a_clock_runs_from_the_moment_it_is_given() -> None:
    start = micros("2030-01-01T00:00:00Z")
    clock = Clock("2030-01-01T00:00:00Z", 0)

    assert 0 <= clock.now() - start < 5_000_000
    clock.advance(3600)
    assert clock.now() - start >= 3_600_000_000
