"""`lore sync-runs` and `lore cancel`: lists page by page, one run, its events, its retry."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from doors import RUN_ID, Caller, Ledger, failed

from lore.core.errors import Exit


def test_sync_runs_lists_runs(call: Caller, ledger: Ledger) -> None:
    human = call("lore sync-runs --status failed --limit 5")

    assert ("list_runs", "failed", 6, None) in ledger.calls
    assert RUN_ID in human.out
    assert ledger.names() == ["open_ledger", "list_runs"]


def test_a_list_is_read_page_by_page_and_the_answer_says_how(call: Caller, ledger: Ledger, seam: Any) -> None:
    ids = [f"2026112{day}T054149.123-1a2b3c4d" for day in (5, 4, 3, 2, 1)]

    def list_runs(status: str | None, limit: int, before: str | None) -> list[dict[str, Any]]:
        return [{"run_id": one, "n": 1} for one in ids if before is None or one < before][:limit]

    seam("runs", "list_runs", list_runs)
    pages, more = [], ""
    while True:
        answer = json.loads(call(f"lore sync-runs --fields runs.run_id -n 2 {more}").out)
        pages.append([run["run_id"] for run in answer["data"]["runs"]])
        if "next" not in answer["meta"]:
            break
        more = f"--after {answer['meta']['next']}"

    assert pages == [ids[:2], ids[2:4], ids[4:]]


DEEP = b64encode(b"[" * 30_000).decode()


@pytest.mark.parametrize("cursor", ["x", "e30=", "\u00e9", "WzEsMl0=", "--after", pytest.param(DEEP, id="deep")])
def test_a_cursor_of_something_else_is_refused(call: Caller, ledger: Ledger, cursor: str) -> None:
    answer = call(f"lore sync-runs --after {cursor} --robot")

    assert answer.status == Exit.USAGE
    assert "meta.next" in answer.robot["error"]["message"]
    assert "list_runs" not in ledger.names()


def test_a_cursor_is_of_one_list_and_not_of_another(call: Caller, ledger: Ledger, seam: Any) -> None:
    seam("runs", "list_runs", lambda status, limit, before: [{"run_id": str(n)} for n in range(limit)])
    following = json.loads(call("lore sync-runs --robot -n 1").out)["meta"]["next"]

    assert call(f"lore sync-runs --robot -n 3 --after {following}").status == 0
    assert call(f"lore sync-runs --robot --status failed --after {following}").status == Exit.USAGE


def test_fields_keep_an_answer_small_and_imply_robot(call: Caller, ledger: Ledger) -> None:
    answer = call("lore show 'group/project!12' --fields entity.title,fresh")

    assert answer.robot["data"] == {
        "entity": {"title": "Fix the frobnicator"},
        "fresh": {"observed_at": "2026-11-23T05:41:49.123Z", "settled": True},
    }


def test_a_field_that_no_answer_has_is_refused_before_the_work(call: Caller, ledger: Ledger) -> None:
    answer = call("lore show 'group/project!12' --fields=entity.titel")

    assert answer.status == Exit.USAGE
    assert "title" in answer.robot["error"]["message"]
    assert answer.robot["meta"]["command"] == "lore show"
    assert ledger.calls == []
    (action,) = answer.robot["error"]["actions"]
    commands = {one["name"]: one["data"] for one in call(f"{action} --robot").robot["data"]["commands"]}
    assert "title" in str(commands["lore show"])


def test_sync_run_is_read_as_sync_runs_and_a_slip_in_a_writing_command_is_not(call: Caller, ledger: Ledger) -> None:
    human, robot = call("lore sync-run"), call("lore sync-run --robot")

    assert human.err == "warning: command 'sync-run' of lore was read as sync-runs\n"
    assert [one["code"] for one in robot.robot["warnings"]] == ["CORRECTED"]
    refused = call("lore-submit -issue 7 -p g/p")
    assert refused.status == Exit.USAGE
    assert "did you mean --issue?" in refused.err
    assert "  try: lore-submit --issue 7 -p g/p\n" in refused.err
    assert not ledger.submitted


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("lore help", "lore --help"),
        ("lore --robot version", "lore --version"),
        ("lore -V", "lore --version"),
        ("lore show -h", "lore show --help"),
        ("lore-submit -h", "lore-submit --help"),
    ],
)
def test_what_other_programs_call_help_and_version_is_named(call: Caller, line: str, meant: str) -> None:
    answer = call(line if "--robot" in line else f"{line} --robot")

    assert answer.status == Exit.USAGE
    assert f"did you mean {meant}?" in answer.robot["error"]["message"]
    assert answer.robot["error"]["actions"] == [meant]


def test_an_option_that_is_near_nothing_is_compared_to_nothing(call: Caller) -> None:
    answer = call("lore worker --foo")

    assert answer.err == "error: No such option '--foo'.\n  code: USAGE\n  try: lore worker --help\n"


def test_sync_runs_shows_one_run_and_exits_0_though_it_failed(call: Caller, ledger: Ledger) -> None:
    ledger.error, ledger.status = failed(), "failed"

    human, robot = call("lore sync-runs --run-id last"), call("lore sync-runs --run-id last --robot")

    assert human.status == robot.status == 0
    assert f"run {RUN_ID} failed" in human.out
    assert robot.robot["data"]["run"]["status"] == "failed"


def test_follow_prints_events_as_they_come_and_exits_by_what_ended_the_run(call: Caller, ledger: Ledger) -> None:
    ledger.error, ledger.status = failed(), "failed"
    at = "2026-11-23T05:41:49.123Z"
    ledger.events = [
        {"id": 1, "at": at, "entity": None, "stage": "preflight", "event": "opened", "detail": {"entities": 2}},
        {"id": 2, "at": at, "entity": "!12", "stage": "preflight", "event": "failed", "detail": {"m": "\x1b[31m"}},
    ]

    human, robot = call("lore sync-runs --run-id last --follow"), call("lore --robot sync-runs --run-id last --follow")

    assert human.status == robot.status == Exit.PREFLIGHT
    assert f"{at}  preflight  opened  entities=2\n" in human.out
    assert "!12  failed  m=\\x1b[31m\n" in human.out
    assert [json.loads(line)["id"] for line in robot.err.splitlines()] == [1, 2]
    assert robot.robot["error"]["code"] == "SURGICAL_PREFLIGHT_FAILED"


@pytest.mark.invariant("I9")
def test_retry_failed_does_the_new_run_here_without_redis(call: Caller, ledger: Ledger) -> None:
    answer = call("lore sync-runs --run-id last --retry-failed --robot")

    assert answer.robot["data"]["run"]["run_id"] == RUN_ID
    assert ledger.names() == ["open_workers", "find_run", "retry", "run_to_end", "error_of"]


@pytest.mark.usefixtures("redis")
def test_retry_failed_leaves_the_new_run_to_workers_with_redis(call: Caller, ledger: Ledger) -> None:
    call("lore sync-runs --run-id last --retry-failed")
    assert "wait" not in ledger.names()

    call("lore sync-runs --run-id last --retry-failed --follow")
    assert "wait" in ledger.names()


def test_cancel_answers_with_the_run(call: Caller, ledger: Ledger) -> None:
    human, robot = call("lore cancel last"), call("lore cancel last --robot")

    assert human.status == robot.status == 0
    assert f"run {RUN_ID} cancelled" in human.out
    assert robot.robot["data"]["run"]["status"] == "cancelled"
