"""What the doctor finds, and the command it names."""

from __future__ import annotations

import dataclasses
import socket
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
from workers.doctor import Check, checks, judge_token

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


def test_a_missing_token_names_what_to_write(unreachable: Settings) -> None:
    problem = SettingError("NO_TOKEN", "no token is set")
    without = dataclasses.replace(unreachable, gitlab_token=None, token_problem=problem)

    found = by_name(without)

    assert found["LORE_GITLAB_TOKEN"].detail == "no token is set"
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


def test_a_database_that_cannot_be_opened_is_a_check(unreachable: Settings, tmp_path: Path) -> None:
    path = tmp_path / "lore.db"
    path.write_bytes(b"this is no database" * 100)

    found = by_name(dataclasses.replace(unreachable, database_url=f"sqlite://{path}"))

    assert not found["database"].is_ok
    assert found["database"].action


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
