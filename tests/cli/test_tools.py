"""The other commands: which part of lore each calls, and what it says of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from doors import Caller, Ledger

import cli
from lore.core.errors import Exit
from lore.door import run
from lore.extras import DISTRIBUTION


def test_sweep_says_what_it_moved(call: Caller, ledger: Ledger) -> None:
    assert "fetch_sent: 2" in call("lore sweep").out
    assert call("lore sweep --robot").robot["data"] == {"swept": {"fetch_sent": 2}}


def test_a_sweep_without_redis_does_what_was_left_and_says_how_many(call: Caller, ledger: Ledger) -> None:
    ledger.left = ["run-1", "run-2"]

    answer = call("lore sweep --robot")

    assert answer.robot["data"]["swept"]["taken_up"] == 2
    assert ledger.names().count("run_to_end") == 2
    # A sweep marks what it finds as sent: it looks touched then.
    assert ledger.names().index("left_behind") < ledger.names().index("sweep")


def test_ctrl_c_of_a_sweep_gives_back_what_it_had_begun(call: Caller, ledger: Ledger) -> None:
    ledger.left = ["run-1", "run-2"]
    ledger.raises["run_to_end"] = KeyboardInterrupt()

    assert call("lore sweep").status == 130
    assert ledger.names()[-2:] == ["run_to_end", "give_back"]


def test_worker_serves_the_named_queues(call: Caller, ledger: Ledger) -> None:
    assert call("lore worker --queues fetch,commit --processes 2 --threads 3").status == 0
    assert call("lore worker --until-stdin-closes --robot").robot["data"] == {"exit": 0}

    assert ledger.calls == [("serve", ["fetch", "commit"], 3, 2, False), ("serve", [], 8, 1, True)]


def test_show_prints_what_the_mirror_holds_and_no_foreign_escape(call: Caller, ledger: Ledger) -> None:
    ledger.title = "[red]title[/red] \x1b]0;evil\x07\u202e"

    human, robot = call("lore show 'group/project!12'"), call("lore show '!12' -p group/project --robot")

    assert ("show", "group/project", "merge_request", 12) in ledger.calls
    assert human.out.startswith("group/project!12 [red]title[/red] \\x1b]0;evil\\x07\\u202e\n")
    assert "    what\n    and why\n" in human.out
    assert "    one\n    error: \\x1bfake\n" in human.out
    assert "  a\\u202eb" in human.out
    assert "\x1b" not in human.out
    assert robot.robot["data"]["entity"]["title"] == ledger.title
    assert robot.robot["data"]["ref"] == "group/project!12"


def test_doctor_names_what_mends_and_exits_0(call: Caller, ledger: Ledger) -> None:
    human, robot = call("lore doctor"), call("lore doctor --robot")

    assert human.status == robot.status == 0
    assert human.out == "ok      database: SQLite\nnot ok  token: expired\n  try: lore doctor\n"
    assert robot.robot["data"]["is_ok"] is False
    assert robot.robot["data"]["checks"][1]["action"] == "lore doctor"


def test_doctor_says_which_setting_is_wrong(call: Caller, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORE_LOG_LEVEL", "loud")

    human = call("lore doctor")

    assert human.status == 0
    assert human.out.startswith("not ok  settings: LORE_LOG_LEVEL (environment) must be one of")
    assert human.out.endswith("  try: env -u LORE_LOG_LEVEL lore doctor\n")


def test_an_unknown_setting_is_a_warning(call: Caller, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORE_PROJCT", "g/p")

    human, robot = call("lore sync-runs"), call("lore sync-runs --robot")

    assert "did you mean LORE_PROJECT?" in human.err
    assert [one["code"] for one in robot.robot["warnings"]] == ["UNKNOWN_SETTING"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_both_commands(call: Caller, shell: str) -> None:
    human, robot = call(f"lore completion {shell}"), call(f"lore completion {shell} --robot")

    assert "_LORE_COMPLETE" in human.out
    assert "_LORE_SUBMIT_COMPLETE" in human.out
    assert robot.robot["data"] == {"shell": shell, "script": human.out}


def test_completion_itself_is_never_json(call: Caller, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("LORE_ROBOT", "1")
    monkeypatch.setenv("_LORE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "lore sync")
    monkeypatch.setenv("COMP_CWORD", "1")

    with pytest.raises(SystemExit):
        run(cli.commands, "lore", [])

    assert capsys.readouterr().out == "plain,sync\nplain,sync-runs\n"


@pytest.mark.parametrize(("line", "module"), [("lore demo", "lore.demo.tour"), ("lore demo --serve", "lore.demo")])
@pytest.mark.parametrize(
    ("ends_with", "status", "code"),
    [
        (0, 0, None),
        (10, 10, "DEMO_FAILED"),
        (99, 1, "DEMO_FAILED"),
        (130, 130, "INTERRUPTED"),
        (143, 143, "INTERRUPTED"),
    ],
)
def test_a_demo_that_fails_is_an_error_with_its_status(
    call: Caller, monkeypatch: pytest.MonkeyPatch, line: str, module: str, ends_with: int, status: int, code: str | None
) -> None:
    import runpy

    ran: list[tuple[str, list[str]]] = []

    def run_module(name: str, **_: Any) -> None:
        ran.append((name, sys.argv[1:]))
        raise SystemExit(ends_with)

    monkeypatch.setattr(runpy, "run_module", run_module)

    human, robot = call(line), call(f"{line} --robot")

    assert human.status == robot.status == status
    assert robot.robot["ok"] is (code is None)
    assert robot.robot.get("data") == ({"exit": 0} if code is None else None)
    assert robot.robot.get("error", {}).get("code") == code
    assert ran == [(module, [])] * 2


@pytest.fixture
def demo_without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Takes away packages; the modules of the demo that would run then are in the list."""
    import importlib.metadata
    import runpy

    whole = importlib.metadata.distribution

    def without(*lacking: str) -> list[str]:
        def distribution(name: str) -> importlib.metadata.Distribution:
            if name in lacking:
                raise importlib.metadata.PackageNotFoundError(name)
            return whole(name)

        ran: list[str] = []
        monkeypatch.setattr(importlib.metadata, "distribution", distribution)
        monkeypatch.setattr(runpy, "run_module", lambda name, **_: ran.append(name))
        return ran

    return without


@pytest.mark.parametrize("line", ["lore demo", "lore demo --serve", "lore demo --no-redis"])
@pytest.mark.parametrize("from_a_bare_tree", [False, True])
@pytest.mark.parametrize("lacking", ["httptools", "starlette", "uvicorn"])
def test_a_demo_without_a_package_of_its_extra_says_so_before_anything_starts(
    call: Caller, demo_without: Callable[..., list[str]], line: str, from_a_bare_tree: bool, lacking: str
) -> None:
    ran = demo_without(lacking, *([DISTRIBUTION] if from_a_bare_tree else []))

    human, robot = call(line), call(f"{line} --robot")

    assert human.status == robot.status == Exit.CONFIGURATION
    assert robot.robot["error"]["code"] == "MISSING_EXTRA"
    assert f"lacks {lacking}" in robot.robot["error"]["message"]
    assert ran == []


def test_the_tour_of_a_bare_source_tree_says_to_install_that_as_its_commands_are_not_there(
    call: Caller, demo_without: Callable[..., list[str]]
) -> None:
    ran = demo_without(DISTRIBUTION)

    tour, served = call("lore demo --robot"), call("lore demo --serve --robot")

    assert (tour.status, tour.robot["error"]["code"]) == (Exit.CONFIGURATION, "MISSING_EXTRA")
    assert tour.robot["error"]["actions"][0].endswith("[demo]'")
    assert (served.status, ran) == (0, ["lore.demo"])
