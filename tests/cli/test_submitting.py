"""`lore-submit`: which run it opens, of which project, and how it follows it to its end."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from doors import RUN_ID, Caller, Ledger, failed

from cli.following import noting_ctrl_c
from lore.core.errors import Exit, RunError, UsageError
from lore.core.plan import Entity
from lore.core.runs import RunOptions


def test_submit_opens_one_run_with_exactly_what_was_named(call: Caller, ledger: Ledger) -> None:
    answer = call(
        "lore-submit 'group/project!12' https://gitlab.example.com/group/project/-/issues/7#note_1 --mr 12 --mr 3"
        " -p group/project --no-docs --no-embed --trigger cron --robot"
    )

    assert answer.status == 0
    assert ledger.submitted == [
        {
            "gitlab_url": "https://gitlab.example.com",
            "project": "group/project",
            "entities": (Entity("issue", 7), Entity("merge_request", 3), Entity("merge_request", 12)),
            "options": RunOptions(docs=False, embed=False),
            "trigger": "cron",
            "is_to_be_sent": True,
        }
    ]
    assert answer.robot["data"]["run"]["run_id"] == RUN_ID
    assert [one["iid"] for one in answer.robot["data"]["entities"]] == [7, 12]
    assert answer.robot["warnings"] == []


def test_what_a_sync_of_all_refuses_its_help_says_is_for_named_ones(call: Caller) -> None:
    whole, named = call("lore sync --help").out, call("lore-submit --help").out

    said = [line.split()[0] for line in whole.splitlines() if "With ids only:" in line]
    assert said == ["--preflight-only", "--dry-run", "--timeout"]
    for option in said:
        assert f"{option} needs an issue" in call(f"lore sync {option}{' 3' if option == '--timeout' else ''}").err
    assert "With ids only" not in named


@pytest.mark.parametrize("line", ["lore submit 'g/p!12' --robot", "lore sync 'g/p!12' --robot"])
def test_submit_and_sync_with_ids_are_the_same_door(call: Caller, ledger: Ledger, line: str) -> None:
    assert call(line).robot["data"]["run"]["status"] == "succeeded"
    assert ledger.submitted[0]["entities"] == (Entity("merge_request", 12),)


def test_preflight_only_is_the_mode_of_the_run(call: Caller, ledger: Ledger) -> None:
    call("lore-submit 'g/p!12' --preflight-only")

    assert ledger.submitted[0]["options"] == RunOptions(mode="preflight_only")


def test_without_redis_the_run_is_done_here(call: Caller, ledger: Ledger) -> None:
    call("lore-submit 'g/p!12' --timeout 2.5")

    assert ("run_to_end", 2.5) in ledger.calls
    assert "wait" not in ledger.names()


def test_without_redis_no_wait_leaves_the_run_queued_and_names_the_worker(call: Caller, ledger: Ledger) -> None:
    human, robot = call("lore-submit 'g/p!12' --no-wait"), call("lore-submit 'g/p!12' --no-wait --robot")

    assert human.status == robot.status == 0
    assert "run_to_end" not in ledger.names()
    assert ledger.submitted[0]["is_to_be_sent"] is False
    assert "lore worker" in human.err
    assert robot.robot["warnings"][0]["code"] == "LEFT_QUEUED"


@pytest.mark.parametrize(("options", "said"), [("", 1), ("--quiet", 0), ("--robot", 0)])
def test_a_person_is_told_that_the_run_waits_for_a_lock(call: Caller, ledger: Ledger, options: str, said: int) -> None:
    ledger.is_held = True

    answer = call(f"lore-submit 'g/p!12' {options}")

    line = f"waiting for the project's lock, which run {RUN_ID} holds; if its process is gone, the lock is free in 57 s"
    assert answer.err.splitlines().count(line) == said
    assert answer.err.count("waiting") == said


def test_without_redis_ctrl_c_cancels_the_run(call: Caller, ledger: Ledger) -> None:
    ledger.raises["run_to_end"] = KeyboardInterrupt()

    answer = call("lore-submit 'g/p!12' --robot")

    assert ("cancel", "cancelled by Ctrl-C") in ledger.calls
    assert answer.status == Exit.CANCELLED
    assert answer.robot["error"]["code"] == "RUN_CANCELLED"
    assert answer.robot["error"]["run_id"] == RUN_ID


def test_a_run_that_ended_before_ctrl_c_could_cancel_it_keeps_its_end(call: Caller, ledger: Ledger) -> None:
    ledger.raises["run_to_end"] = KeyboardInterrupt()
    ledger.raises["cancel"] = UsageError("RUN_ENDED", "ended", run_id=RUN_ID)

    assert call("lore-submit 'g/p!12' --robot").robot["data"]["run"]["status"] == "succeeded"


def test_without_redis_a_run_over_its_timeout_exits_as_the_ledger_says(call: Caller, ledger: Ledger) -> None:
    ledger.error = RunError("RUN_DEADLINE", "not done after 5 s", run_id=RUN_ID)

    answer = call("lore-submit 'g/p!12' --timeout 5 --robot")

    assert ("run_to_end", 5.0) in ledger.calls
    assert answer.robot["error"]["code"] == "RUN_DEADLINE"
    assert answer.status == Exit.PREFLIGHT


@pytest.mark.usefixtures("redis")
def test_with_redis_submit_returns_at_once(call: Caller, ledger: Ledger) -> None:
    ledger.status = "queued"

    answer = call("lore-submit 'g/p!12'")

    assert answer.status == 0
    assert f"run {RUN_ID} queued" in answer.out
    assert answer.err == ""
    assert not {"wait", "run_to_end", "error_of"} & set(ledger.names())


@pytest.mark.usefixtures("redis")
@pytest.mark.parametrize(
    "line", ["lore-submit 'g/p!12' --wait", "lore-submit 'g/p!12' --timeout 5", "lore sync 'g/p!12'"]
)
def test_with_redis_wait_follows_the_run_to_its_end(call: Caller, ledger: Ledger, line: str) -> None:
    assert call(line).status == 0
    assert "wait" in ledger.names()


@pytest.mark.usefixtures("redis")
def test_redis_down_is_a_warning_and_the_run_stays_queued(call: Caller, ledger: Ledger) -> None:
    ledger.is_sent = False

    human, robot = call("lore-submit 'g/p!12'"), call("lore-submit 'g/p!12' --robot")

    assert human.status == robot.status == 0
    assert human.err.startswith("warning: Redis does not answer")
    assert [one["code"] for one in robot.robot["warnings"]] == ["BROKER_UNREACHABLE"]
    assert "has_live_worker" not in ledger.names()


@pytest.mark.usefixtures("redis")
def test_without_a_live_worker_the_command_that_starts_one_is_named(call: Caller, ledger: Ledger) -> None:
    ledger.has_worker = False

    human, robot = call("lore-submit 'g/p!12'"), call("lore-submit 'g/p!12' --robot")

    assert "lore worker" in human.err
    assert [one["code"] for one in robot.robot["warnings"]] == ["NO_LIVE_WORKER"]


@pytest.mark.parametrize(
    ("line", "code", "actions"),
    [
        ("lore show '!12'", "NO_PROJECT", ["lore show --help"]),
        ("lore show here", "BAD_REF", ["lore show --help"]),
        ("lore show 12", "BAD_REF", ["lore show '!12'", "lore show '#12'", "lore show --help"]),
        (
            "lore show 12 --project='g/a b'",
            "BAD_REF",
            ["lore show -p 'g/a b' '!12'", "lore show -p 'g/a b' '#12'", "lore show --help"],
        ),
        (
            "lore submit -p https://u:secret@gitlab.example.com/g/p 12",
            "BAD_REF",
            [
                *(f"lore submit -p 'https://u:***@gitlab.example.com/g/p' '{ref}'" for ref in ("!12", "#12")),
                "lore submit --help",
            ],
        ),
        ("lore submit 12", "BAD_REF", ["lore submit '!12'", "lore submit '#12'", "lore submit --help"]),
        ("lore timeline ' '", "EMPTY_QUERY", ["lore timeline --help"]),
        ("lore who ''", "USAGE", ["lore who --help"]),
        ("lore file-history ''", "USAGE", ["lore file-history --help"]),
        ("lore sync-runs --run-id ''", "USAGE", ["lore sync-runs --help"]),
        ("lore cancel ''", "USAGE", ["lore cancel --help"]),
    ],
)
def test_what_cannot_be_meant_names_the_command_that_was_called(
    call: Caller, ledger: Ledger, line: str, code: str, actions: list[str]
) -> None:
    answer = call(f"{line} --robot")

    assert answer.status == Exit.USAGE
    assert (answer.robot["error"]["code"], answer.robot["error"]["actions"]) == (code, actions)


@pytest.mark.usefixtures("redis")
def test_ctrl_c_while_waiting_detaches_and_says_how_to_follow_or_cancel(call: Caller, ledger: Ledger) -> None:
    ledger.raises["wait"] = KeyboardInterrupt()

    human, robot = call("lore-submit 'g/p!12' --wait"), call("lore-submit 'g/p!12' --wait --robot")

    assert human.status == robot.status == 130
    assert f"  try: lore sync-runs --run-id {RUN_ID} --follow\n  try: lore cancel {RUN_ID}\n" in human.err
    assert robot.robot["error"]["code"] == "DETACHED"
    assert "cancel" not in ledger.names()


def test_the_first_ctrl_c_in_a_run_of_our_own_is_noted_and_the_second_is_raised() -> None:
    before = signal.getsignal(signal.SIGINT)

    with noting_ctrl_c() as ctrl_c:
        assert not ctrl_c.was_pressed
        signal.raise_signal(signal.SIGINT)
        assert ctrl_c.was_pressed
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    assert signal.getsignal(signal.SIGINT) is before


def test_what_may_be_left_anywhere_is_left_at_the_first_ctrl_c_also_at_one_that_came_before() -> None:
    with noting_ctrl_c() as ctrl_c:
        with pytest.raises(KeyboardInterrupt), ctrl_c.raised():
            signal.raise_signal(signal.SIGINT)
        assert not ctrl_c.was_pressed
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), ctrl_c.raised():
            pytest.fail("it came before")


def test_ctrl_c_stays_ignored_where_a_shell_has_it_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with noting_ctrl_c() as ctrl_c:
            signal.raise_signal(signal.SIGINT)
            assert not ctrl_c.was_pressed
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("redis")
def test_a_run_that_goes_on_at_the_timeout_is_14(call: Caller, ledger: Ledger) -> None:
    ledger.ends = False

    answer = call("lore-submit 'g/p!12' --timeout 5 --robot")

    assert answer.status == 14
    assert answer.robot["error"]["code"] == "STILL_RUNNING"
    assert answer.robot["error"]["run_id"] == RUN_ID


@pytest.mark.invariant("I10")
def test_a_run_that_failed_exits_by_what_ended_it_and_names_every_failure(call: Caller, ledger: Ledger) -> None:
    ledger.error, ledger.status = failed(), "failed"

    human, robot = call("lore-submit 'g/p!12'"), call("lore-submit 'g/p!12' --robot")

    assert human.status == robot.status == Exit.PREFLIGHT
    assert "!12" in human.out
    assert "error: 1 of 2 failed" in human.err
    assert f"try: lore sync-runs --run-id {RUN_ID} --retry-failed" in human.err
    assert robot.robot["error"]["total"] == 2
    assert [one["code"] for one in robot.robot["error"]["failures"]] == ["GITLAB_NOT_FOUND"]


def test_quiet_prints_nothing_but_errors_and_those_in_full(call: Caller, ledger: Ledger) -> None:
    fine = call("lore-submit 'g/p!12' --quiet")
    ledger.error = failed()
    bad = call("lore-submit 'g/p!12' --quiet")

    assert (fine.out, fine.err, bad.out) == ("", "", "")
    assert "  !12 preflight GITLAB_NOT_FOUND: 404 \\x1b[31mfor !12\\nerror: faked\n" in bad.err


def test_the_entities_of_a_run_are_plain_lines_when_not_on_a_terminal(call: Caller, ledger: Ledger) -> None:
    answer = call("lore-submit 'g/p!12'")

    assert f"run {RUN_ID} succeeded in 1.2 s" in answer.out
    assert "#7   ok      ingest  not settled" in answer.out
    assert "GITLAB_NOT_FOUND: 404 \\x1b[31mfor !12" in answer.out
    assert "\x1b" not in answer.out
    assert answer.err == f"run {RUN_ID} succeeded: 3/13 tasks, 1/2 entities, 0.0 s\n"


def git(*words: str) -> None:
    subprocess.run(["git", *words], check=True, capture_output=True)


@pytest.mark.parametrize(
    "remote", ["git@gitlab.example.com:group/sub/project.git", "https://gitlab.example.com/group/sub/project"]
)
def test_the_project_can_come_from_the_checkouts_remote(call: Caller, ledger: Ledger, remote: str) -> None:
    git("init", "-q")
    git("remote", "add", "origin", remote)

    call("lore-submit --mr 12")

    assert ledger.submitted[0]["project"] == "group/sub/project"


@pytest.mark.invariant("I13")
def test_a_remote_on_another_host_is_refused_unasked_and_its_credentials_are_not_shown(
    call: Caller, ledger: Ledger
) -> None:
    git("init", "-q")
    git("remote", "add", "origin", "https://me:s3cr3t@github.com/group/project.git")

    human, robot = call("lore-submit --mr 12"), call("lore-submit --mr 12 --robot")

    assert human.status == robot.status == Exit.USAGE
    assert robot.robot["error"]["code"] == "HOST_MISMATCH"
    assert "s3cr3t" not in human.err + robot.out
    assert ledger.calls == []


def test_the_option_goes_before_the_environment_and_that_before_the_remote(
    call: Caller, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    git("init", "-q")
    git("remote", "add", "origin", "git@github.com:group/remote.git")
    monkeypatch.setenv("LORE_PROJECT", "group/environment")

    call("lore-submit --mr 12")
    call("lore-submit --mr 12 -p https://gitlab.example.com/group/option")
    call("lore-submit 'group/named!12'")

    assert [one["project"] for one in ledger.submitted] == ["group/environment", "group/option", "group/named"]


def test_a_ref_with_its_project_asks_neither_environment_nor_git(
    call: Caller, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")

    assert call("lore-submit 'group/named!12'").status == 0


def test_without_git_there_is_no_project(call: Caller, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    assert call("lore-submit '!12' --robot").robot["error"]["code"] == "NO_PROJECT"


@pytest.mark.invariant("I2")
def test_a_dry_run_prints_the_plan_and_opens_nothing(
    call: Caller, ledger: Ledger, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORE_GITLAB_TOKEN", "")
    before = sorted(home.rglob("*"))

    human = call("lore-submit 'group/project!12' 'group/project#7' --dry-run")
    robot = call("lore-submit 'group/project!12' 'group/project#7' --dry-run --robot")

    plan = robot.robot["data"]["plan"]
    assert human.status == robot.status == 0
    assert plan["entities"] == [{"entity_type": "issue", "iid": 7}, {"entity_type": "merge_request", "iid": 12}]
    assert plan["options"] == {"mode": "commit", "docs": True, "embed": True}
    assert [one["path"] for one in plan["requests"]][:2] == [
        "/api/v4/projects/group%2Fproject",
        "/api/v4/projects/group%2Fproject/issues/7",
    ]
    assert len(plan["requests"]) == 14
    assert all(one["path"] in human.out for one in plan["requests"])
    assert ledger.calls == []
    assert sorted(home.rglob("*")) == before
