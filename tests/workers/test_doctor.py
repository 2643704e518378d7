"""What the doctor finds, and the command it names."""

from __future__ import annotations

import dataclasses
import os
import re
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import dramatiq
import pytest

from lore.core.errors import SettingError
from lore.core.payloads import TokenInfo
from lore.settings import Settings, read_settings
from models import base
from models.ledger import Project, Run
from workers import QUEUES, doctor
from workers.doctor import Check, checks, judge_token, judge_workers

TOKEN = "glpat-s3cr3t"
TODAY = date(2026, 11, 23)


def closed_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@pytest.fixture
def unreachable(tmp_path: Path) -> Settings:
    return read_settings(
        {
            "HOME": str(tmp_path),
            "LORE_GITLAB_URL": f"http://127.0.0.1:{closed_port()}",
            "LORE_GITLAB_TOKEN": TOKEN,
            "LORE_REDIS_URL": f"redis://:s3cr3t@127.0.0.1:{closed_port()}/0",
        }
    )


@pytest.fixture
def _same_broker() -> Iterator[None]:
    broker = dramatiq.get_broker()
    yield
    dramatiq.set_broker(broker)


def by_name(settings: Settings) -> dict[str, Check]:
    return {check.name: check for check in checks(settings)}


@pytest.mark.parametrize(
    ("known", "is_ok", "said"),
    [
        (None, True, "does not tell"),
        (TokenInfo(scopes=("read_api",)), True, "does not expire"),
        (TokenInfo(scopes=("api", "sudo"), expires_at="2027-11-23"), True, "in 365 days"),
        (TokenInfo(scopes=("read_api",), expires_at="2026-11-30"), True, "in 7 days"),
        (TokenInfo(scopes=("read_api",), expires_at="2026-11-29"), False, "in 6 days"),
        (TokenInfo(scopes=("read_api",), expires_at="some day"), True, "some day"),
        (TokenInfo(scopes=("read_user",)), False, "read_api is needed"),
        (TokenInfo(scopes=("read_api",), revoked=True), False, "revoked"),
        (TokenInfo(scopes=("read_api",), active=False), False, "expired"),
        (TokenInfo(), True, "unknown"),
    ],
)
def test_a_token_must_read_and_last(known: TokenInfo | None, is_ok: bool, said: str) -> None:
    check = judge_token(known, today=TODAY)

    assert check.is_ok is is_ok
    assert said in check.detail
    assert (check.action is None) is is_ok


@pytest.mark.invariant("I13")
def test_every_setting_is_listed_with_its_source_and_without_secrets(unreachable: Settings) -> None:
    found = by_name(unreachable)

    assert found["LORE_GITLAB_TOKEN"].detail == "*** (environment, LORE_GITLAB_TOKEN)"
    assert found["LORE_GITLAB_CONCURRENCY"].detail == "16 (default)"
    assert found["LORE_REDIS_URL"].detail.startswith("redis://:***@127.0.0.1")
    assert "s3cr3t" not in str(found)


def test_what_does_not_answer_is_a_check_and_no_exception(unreachable: Settings) -> None:
    found = by_name(unreachable)

    assert found["gitlab"].detail.startswith("GITLAB_UNREACHABLE")
    assert found["redis"].action == "LORE_REDIS_URL=off lore doctor"
    assert all(check.action for check in found.values() if not check.is_ok)
    assert "lore doctor" not in {check.action for check in found.values()}


def test_a_database_that_is_not_there_is_not_made(unreachable: Settings, tmp_path: Path) -> None:
    found = by_name(unreachable)

    assert found["database"].is_ok
    assert "the first run makes it" in found["database"].detail
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["/proc/x/lore.db", "/sys/lore.db", "/dev/null/x", "{tmp_path}/file/x/lore.db"])
@pytest.mark.skipif(not Path("/proc/self/mounts").exists(), reason="Linux has these")
def test_a_database_that_can_never_be_made_is_not_ok(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    path = place.format(tmp_path=tmp_path)
    environ = {"HOME": str(tmp_path), "LORE_DATABASE_URL": path}

    check = by_name(read_settings(environ))["database"]

    assert not check.is_ok
    assert check.detail.startswith(f"DATABASE_UNREACHABLE: the database {path} cannot be made")
    assert check.action == "env -u LORE_DATABASE_URL lore doctor"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_disk_with_no_room_for_a_run_is_not_ok(
    ledger: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    if base.is_postgresql():
        return  # its disk is another host's
    before = by_name(settings)["database"]
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 1 << 80)

    check = by_name(settings)["database"]

    assert before.is_ok
    assert not check.is_ok
    assert re.search(r"its disk is full, or nearly so: [0-9.]+ MB are free", check.detail)
    assert check.action == f"df -h {settings.sqlite_path.parent}"


def test_a_folder_that_may_not_be_written_is_not_ok(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write everywhere

    check = by_name(read_settings({"HOME": str(tmp_path)}))["database"]

    assert check.detail.endswith(f"you may not write to {tmp_path}")
    assert "lore/env" in str(check.action)


def test_a_setting_of_a_time_reads_as_it_is_written(tmp_path: Path) -> None:
    found = by_name(read_settings({"HOME": str(tmp_path), "LORE_LOCK_LEASE": "1.5", "LORE_GITLAB_TIMEOUT": "1s"}))

    said = {name: check.detail.split(" ")[0] for name, check in found.items()}
    assert said["LORE_LEDGER_KEEP"] == "90d"
    assert said["LORE_QUEUE_DEADLINE"] == "24h"
    assert said["LORE_RUN_DEADLINE"] == "15m"
    assert said["LORE_CLAIM_LEASE"] == "60s"
    assert said["LORE_GITLAB_TIMEOUT"] == "1s"
    assert said["LORE_LOCK_LEASE"] == "1500ms"


def test_the_queues_that_nobody_serves_are_named_with_the_worker_that_would() -> None:
    no_fetch = ["vm:1 commit,documents,embed,plan", "vm:2 sync_fetch,sync_commit,sync_documents,sync_embed"]

    check = judge_workers(no_fetch)

    assert not check.is_ok
    assert check.detail.endswith("sync_embed; of a run, nobody serves preflight, fetch")
    assert check.action == "lore worker --queues preflight,fetch"
    only_runs = judge_workers(["vm:1 preflight,fetch,commit,documents,embed"])
    assert only_runs.action == "lore worker --queues plan,sync_fetch,sync_commit,sync_documents,sync_embed"
    assert "of a run" not in only_runs.detail
    assert judge_workers([f"vm:1 {','.join(QUEUES)}"]) == Check("workers", True, f"vm:1 {','.join(QUEUES)}")
    assert judge_workers([]).action == "lore worker"


def test_a_missing_token_names_what_to_write(unreachable: Settings) -> None:
    problem = SettingError("NO_TOKEN", "no token is set")
    without = dataclasses.replace(unreachable, gitlab_token=None, token_problem=problem, sources={})

    found = by_name(without)

    assert found["LORE_GITLAB_TOKEN"].detail == "no token is set"
    assert "mkdir -p" in str(found["LORE_GITLAB_TOKEN"].action)
    assert "lore/env" in str(found["LORE_GITLAB_TOKEN"].action)
    assert not found["gitlab"].is_ok


def test_without_redis_nothing_else_is_needed(unreachable: Settings) -> None:
    found = by_name(dataclasses.replace(unreachable, redis_url=None))

    assert found["redis"].is_ok
    assert found["workers"].is_ok


def test_a_run_over_its_deadline_asks_for_the_sweeper(ledger: Any, settings: Settings) -> None:
    now = base.now_ms()
    with base.write():
        project = Project.insert(gitlab_url="http://gitlab.test", path_with_namespace="g/p").execute()
        known = {"project": project, "kind": "surgical", "mode": "commit", "stage": "preflight", "options": "{}"}
        times = {"trigger": "cli", "created_at": now, "stage_at": now}
        Run.insert(run_id="late", status="preflight", deadline_at=now - 60_000, **known, **times).execute()
        Run.insert(run_id="fine", status="queued", **known, **times).execute()
    base.disconnect()

    found = {check.name: check for check in checks(dataclasses.replace(settings, gitlab_token=None))}

    assert found["database"].is_ok
    assert found["runs"].detail == "1 preflight, 1 queued; 0 open tasks"
    assert found["sweeper"].action == "lore sweep"
    assert found["backlog"].detail.startswith("0 issues and merge requests")


def test_what_is_still_held_is_said_with_the_end_of_its_lease(ledger: Any, settings: Settings) -> None:
    now = base.now_ms()
    with base.write():
        project = Project.insert(gitlab_url="http://gitlab.test", path_with_namespace="g/p").execute()
        known = {"project": project, "kind": "surgical", "mode": "commit", "stage": "documents", "options": "{}"}
        times = {"trigger": "cli", "created_at": now, "stage_at": now, "stage_until": now + 50_000}
        Run.insert(run_id="killed", status="documents", stage_owner="host:1:2", **known, **times).execute()
        waits = known | times | {"stage_until": now + 500_000}  # and nobody holds it
        Run.insert(run_id="waits", status="walking", **waits).execute()
    base.disconnect()

    found = {check.name: check for check in checks(dataclasses.replace(settings, gitlab_token=None))}

    assert re.search(r"; worked on, or left by who died: the last lease ends in [45][0-9] s$", found["runs"].detail)


def test_a_damaged_database_is_put_aside_by_its_action(unreachable: Settings, tmp_path: Path) -> None:
    path = tmp_path / "it's" / "lore.db"
    path.parent.mkdir()
    (tmp_path / "it's" / "lore.db.damaged").touch()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE schema_migration (name TEXT)")
    connection.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"\xff" * (len(whole) - 100))

    check = by_name(dataclasses.replace(unreachable, database_url=f"sqlite://{path}"))["database"]

    assert not check.is_ok
    mend, then = str(check.action).rsplit(" && ", 1)
    subprocess.run(["/bin/sh", "-c", mend], check=True)
    assert then == "lore sync"
    assert not path.exists()
    assert (tmp_path / "it's" / "lore.db.damaged1" / "lore.db").exists()


def test_a_file_that_is_another_s_is_not_put_aside(unreachable: Settings, tmp_path: Path) -> None:
    path = tmp_path / "passwd"
    path.write_bytes(b"this is no database" * 100)

    check = by_name(dataclasses.replace(unreachable, database_url=f"sqlite://{path}"))["database"]

    assert (check.is_ok, str(path) in check.detail) == (False, True)
    assert " mv " not in str(check.action)


@pytest.mark.slow
@pytest.mark.usefixtures("_same_broker")
def test_a_url_without_a_gitlab_api_is_said_to_be_one(tmp_path: Path) -> None:
    from lore.demo.server import running

    written = tmp_path / ".config" / "lore" / "env"
    written.parent.mkdir(parents=True)
    with running() as demo:
        known = {"HOME": str(tmp_path), "LORE_GITLAB_TOKEN": demo.token}
        set_here = by_name(read_settings({**known, "LORE_GITLAB_URL": f"{demo.url}/foo"}))["gitlab"]
        written.write_text(f"LORE_GITLAB_URL={demo.url}/foo\n")
        in_the_file = by_name(read_settings(known))["gitlab"]

    said = f"there is no GitLab API at {demo.url}/foo: is LORE_GITLAB_URL right?"
    # Not `env -u`, which would show the token to gitlab.com.
    assert set_here == Check("gitlab", False, said, f"env LORE_GITLAB_URL={demo.url} lore doctor")
    assert (in_the_file.is_ok, in_the_file.detail) == (False, said)
    assert "lore/env" in str(in_the_file.action)


@pytest.mark.slow
@pytest.mark.usefixtures("_same_broker")
def test_a_demo_gitlab_passes(tmp_path: Path) -> None:
    from lore.demo.server import running

    with running() as demo:
        settings = read_settings({"HOME": str(tmp_path), "LORE_GITLAB_URL": demo.url, "LORE_GITLAB_TOKEN": demo.token})
        found = by_name(settings)

    assert found["gitlab"].is_ok
    assert "is GitLab" in found["gitlab"].detail
    assert "read_api" in found["token"].detail or "api" in found["token"].detail
