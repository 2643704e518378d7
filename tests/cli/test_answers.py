"""What every command answers, to people and to robots, and by which exit status."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from doors import RUN_ID, TOKEN, Caller, Ledger

import cli
from lore.core.errors import CODES, EXIT_MEANINGS, BrokerError, Exit, LoreError, NotFoundError, StorageError, UsageError

UNSET = {"LORE_GITLAB_TOKEN": ""}
BAD_INPUTS = [
    ("no ids", "lore-submit -p g/p", {}, "NO_ENTITIES", "name at least one"),
    ("iid 0", "lore-submit -p g/p --issue 0", {}, "BAD_IID", "'0' is no iid"),
    ("iid -3", "lore-submit -p g/p --mr -3", {}, "BAD_IID", "'-3' is no iid"),
    ("iid abc", "lore-submit -p g/p --mr abc", {}, "BAD_IID", "'abc' is no iid"),
    ("ref with iid abc", "lore-submit -p g/p '!abc'", {}, "BAD_IID", "'abc' is no iid"),
    ("no ref", "lore-submit -p g/p 12", {}, "BAD_REF", "try: lore-submit -p g/p '!12'"),
    ("no project in -p", "lore-submit -p 'a b' '!12'", {}, "BAD_REF", "names no project"),
    ("other host", "lore-submit https://gitlab.com/g/p/-/issues/7", {}, "HOST_MISMATCH", "https://gitlab.com"),
    ("two projects", "lore-submit 'g/p!12' 'g/q#7'", {}, "SEVERAL_PROJECTS", "try: lore-submit 'g/q#7'"),
    ("project and ref", "lore-submit -p g/q 'g/p!12'", {}, "SEVERAL_PROJECTS", "try: lore-submit 'g/p!12'"),
    ("no project", "lore-submit '!12'", {}, "NO_PROJECT", "-p group/project"),
    ("no token", "lore-submit 'g/p!12'", UNSET, "NO_TOKEN", "LORE_GITLAB_TOKEN="),
    ("token file", "lore-submit 'g/p!12'", {**UNSET, "LORE_GITLAB_TOKEN_FILE": "/no/file"}, "TOKEN_FILE", "/no/file"),
    ("setting", "lore-submit 'g/p!12'", {"LORE_GITLAB_CONCURRENCY": "99"}, "BAD_SETTING", "from 1 to 64"),
    ("robot setting", "lore-submit 'g/p!12'", {"LORE_ROBOT": "maybe"}, "BAD_SETTING", "LORE_ROBOT"),
    ("url", "lore-submit 'g/p!12'", {"LORE_GITLAB_URL": "gitlab.com"}, "BAD_SETTING", "LORE_GITLAB_URL"),
    ("docs", "lore-submit 'g/p!12' --no-docs", {}, "NO_DOCS_REQUIRES_NO_EMBED", "'g/p!12' --no-docs --no-embed"),
    ("dry preflight", "lore-submit 'g/p!12' --dry-run --preflight-only", {}, "CONFLICTING_OPTIONS", "exclude"),
    ("no-wait timeout", "lore-submit 'g/p!12' --no-wait --timeout 5", {}, "CONFLICTING_OPTIONS", "exclude"),
    ("timeout 0", "lore-submit 'g/p!12' --timeout 0", {}, "USAGE", "above 0"),
    ("timeout -1", "lore-submit 'g/p!12' --timeout -1", {}, "USAGE", "above 0"),
    ("timeout nan", "lore-submit 'g/p!12' --timeout nan", {}, "USAGE", "above 0"),
    ("trigger", "lore-submit 'g/p!12' --trigger 'a b'", {}, "USAGE", "1 to 64"),
    ("unknown option", "lore-submit --frobnicate", {}, "USAGE", "--frobnicate"),
    ("short name in a dry run", "lore-submit 'p!12' --dry-run", {}, "NO_PROJECT", "full path"),
    ("submit by lore", "lore submit -p g/p --mr abc", {}, "BAD_IID", "'abc' is no iid"),
    ("a sync of all with a time-out", "lore sync -p g/p --timeout 3", {}, "USAGE", "--timeout needs an issue"),
    ("no command", "lore", {}, "USAGE", "name a command"),
    ("unknown command", "lore frobnicate", {}, "USAGE", "frobnicate"),
    ("follow what", "lore sync-runs --follow", {}, "USAGE", "--run-id"),
    ("retry what", "lore sync-runs --retry-failed", {}, "USAGE", "--run-id"),
    ("one and many", "lore sync-runs --run-id last --limit 5", {}, "USAGE", "not with --run-id"),
    ("status", "lore sync-runs --status lost", {}, "USAGE", "succeeded"),
    ("limit", "lore sync-runs --limit 0", {}, "USAGE", "--limit"),
    ("one and a page", "lore sync-runs --run-id last --after x", {}, "USAGE", "not with --run-id"),
    ("a slip that writes", "lore submit --isue 7", {}, "USAGE", "did you mean --issue?"),
    ("a retry by a slip", "lore sync-run --run-id last --retry-failed", {}, "USAGE", "did you mean sync-runs?"),
    ("retry without token", "lore sync-runs --run-id last --retry-failed", UNSET, "NO_TOKEN", "LORE_GITLAB_TOKEN="),
    ("show what", "lore show", {}, "USAGE", "REF"),
    ("show nothing", "lore show g/p", {}, "BAD_REF", "'g/p' is no REF"),
    ("queue", "lore worker --queues fetch,nope", {}, "USAGE", "preflight, fetch, commit"),
    ("no queue", "lore worker --queues ,", {}, "USAGE", "preflight, fetch, commit"),
    ("worker without token", "lore worker", UNSET, "NO_TOKEN", "LORE_GITLAB_TOKEN="),
    ("shell", "lore completion csh", {}, "USAGE", "csh"),
    ("demo", "lore demo --serve --no-redis", {}, "CONFLICTING_OPTIONS", "exclude"),
]


@pytest.mark.invariant("I10")
@pytest.mark.parametrize(
    ("line", "environ", "code", "said"), [case[1:] for case in BAD_INPUTS], ids=[case[0] for case in BAD_INPUTS]
)
def test_bad_input_is_a_typed_error_with_a_way_out_and_nothing_is_written(
    call: Caller,
    ledger: Ledger,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    environ: dict[str, str],
    code: str,
    said: str,
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    human, robot = call(line), call(f"{line} --robot")

    assert human.status == robot.status == CODES[code].exit
    assert human.out == ""
    assert human.err.startswith("error: ") or "\nerror: " in human.err
    assert f"  code: {code}\n" in human.err
    assert said in human.err
    assert robot.robot["ok"] is False
    assert robot.robot["error"]["code"] == code
    assert all(f"  try: {action.removesuffix(' --robot')}\n" in human.err for action in robot.robot["error"]["actions"])
    assert robot.robot["error"]["actions"]
    assert TOKEN not in human.err + robot.out + robot.err
    assert not ledger.submitted
    assert not (home / ".local").exists()


WAYS_IT_CAN_FAIL = [
    ("resolve_project", NotFoundError("UNKNOWN_PROJECT", "no project 'p'"), "lore-submit 'p!12'", 5),
    ("resolve_project", UsageError("AMBIGUOUS_PROJECT", "a/p, b/p"), "lore-submit 'p!12'", 2),
    ("open_workers", StorageError("DATABASE_UNREACHABLE", "cannot open /x"), "lore-submit 'g/p!12'", 8),
    ("open_workers", BrokerError("BROKER_UNREACHABLE", "no Redis"), "lore sweep", 9),
    ("open_ledger", StorageError("DATABASE_NEWER", "newer"), "lore sync-runs", 8),
    ("find_run", NotFoundError("RUN_NOT_FOUND", "no run 'x'"), "lore sync-runs --run-id x", 5),
    ("find_run", NotFoundError("RUN_NOT_FOUND", "no run 'x'"), "lore cancel x", 5),
    ("find_run", UsageError("AMBIGUOUS_RUN", "several"), "lore sync-runs --run-id 2", 2),
    ("retry", UsageError("NOTHING_TO_RETRY", "all ok", run_id="r"), "lore sync-runs --run-id x --retry-failed", 2),
    ("cancel", UsageError("RUN_ENDED", "ended", run_id="r"), "lore cancel last", 2),
    ("show", NotFoundError("NOT_IN_MIRROR", "not held", ref="'g/p!12'"), "lore show 'g/p!12'", 5),
]


@pytest.mark.parametrize(("seam", "error", "line", "status"), WAYS_IT_CAN_FAIL)
def test_an_error_from_below_keeps_its_code_and_status(
    call: Caller, ledger: Ledger, seam: str, error: LoreError, line: str, status: int
) -> None:
    ledger.raises[seam] = error

    human, robot = call(line), call(f"{line} --robot")

    assert human.status == robot.status == status
    assert error.message in human.err
    assert robot.robot["error"]["code"] == error.code
    assert robot.robot["error"]["actions"] == error.actions
    assert not ledger.submitted


@pytest.mark.parametrize("line", ["lore --robot sync-runs", "lore sync-runs --robot", "LORE_ROBOT lore sync-runs"])
def test_robot_stands_before_or_after_the_command_or_in_the_environment(
    call: Caller, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    if line.startswith("LORE_ROBOT"):
        monkeypatch.setenv("LORE_ROBOT", "1")

    answer = call(line.removeprefix("LORE_ROBOT "))

    assert answer.robot["data"]["runs"][0]["run_id"] == RUN_ID
    assert answer.robot["meta"]["command"] == "lore sync-runs"


def test_robot_can_be_set_in_the_settings_file(call: Caller, ledger: Ledger, home: Path) -> None:
    (home / ".config" / "lore").mkdir(parents=True)
    (home / ".config" / "lore" / "env").write_text("LORE_ROBOT=1\n")

    assert call("lore sync-runs").robot["ok"]


def test_what_follows_two_dashes_is_no_option(call: Caller, ledger: Ledger) -> None:
    answer = call("lore-submit -p g/p -- --robot")

    assert answer.status == Exit.USAGE
    assert answer.err.startswith("error: '--robot' is no REF")


@pytest.mark.parametrize("line", ["lore --help", "lore-submit --help", "lore show --help", "lore --version"])
def test_help_and_version_are_one_json_object_for_a_robot(call: Caller, line: str) -> None:
    answer = call(f"{line} --robot" if "version" not in line else "lore --robot --version")

    assert answer.status == 0
    assert answer.robot["data"]["text"]


def commands() -> list[str]:
    return ["lore-submit", "lore", *(f"lore {name}" for name in sorted(cli.commands.commands))]


@pytest.mark.parametrize("line", commands())
def test_every_command_has_help_with_an_example_and_the_exit_statuses(call: Caller, line: str) -> None:
    answer = call(f"{line} --help")

    assert answer.status == 0
    assert "Example:\n  lore" in answer.out or 'Example:\n  eval "$(lore' in answer.out
    assert "--robot" in answer.out
    for status, meaning in EXIT_MEANINGS.items():
        assert f"\n  {status:<5}{meaning}" in answer.out


def test_an_unexpected_exception_is_a_typed_bug_without_traceback_or_text(call: Caller, ledger: Ledger) -> None:
    ledger.raises["open_ledger"] = RuntimeError("postgresql://lore:s3cr3t@host")

    human, robot = call("lore sync-runs"), call("lore sync-runs --robot")

    assert human.status == robot.status == Exit.BUG
    assert robot.robot["error"]["code"] == "INTERNAL"
    assert "RuntimeError" in human.err
    for said in (human.err, robot.out, robot.err):
        assert "Traceback" not in said
        assert "s3cr3t" not in said


@pytest.mark.invariant("I13")
def test_the_traceback_of_a_bug_is_one_clean_event_of_the_debug_log(
    call: Caller, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORE_LOG_LEVEL", "debug")
    ledger.raises["open_ledger"] = RuntimeError(f"postgresql://lore:pw@host {TOKEN}")

    answer = call("lore sync-runs --robot")

    (event,) = [json.loads(line) for line in answer.err.splitlines()]
    assert "Traceback" in event["exception"]
    assert ":pw@" not in answer.err
    assert TOKEN not in answer.err
    assert answer.robot["error"]["code"] == "INTERNAL"


def test_what_somebody_prints_does_not_break_a_robots_answer(
    call: Caller, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["workers.upkeep"], "sweep", lambda: sys.stdout.write("stray\n") and {})

    answer = call("lore sweep --robot")

    assert answer.robot["data"] == {"swept": {}}
    assert answer.err == "stray\n"


def test_ctrl_c_before_a_run_is_130(call: Caller, ledger: Ledger) -> None:
    ledger.raises["open_workers"] = KeyboardInterrupt()

    human, robot = call("lore-submit 'g/p!12'"), call("lore-submit 'g/p!12' --robot")

    assert human.status == robot.status == 130
    assert robot.robot["error"]["code"] == "INTERRUPTED"
    assert not ledger.submitted


def test_a_bug_in_the_logs_themselves_is_no_traceback(
    call: Caller, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lore.logs", None)

    answer = call("lore sync-runs")

    assert answer.status == Exit.BUG
    assert "Traceback" not in answer.err
    assert "ModuleNotFoundError" in answer.err
