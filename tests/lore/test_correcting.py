"""A slip is corrected when it can only mean one thing and nothing is written; a value never is."""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lore.core.errors import UsageError
from lore.correcting import correct
from lore.door import Acting, Call, Door, Doors, run

DATA: dict[str, Any] = {"type": "object"}


@click.group("lore", cls=Doors, writes=False)
def tree() -> None:
    """A small tree."""


def _answer(call: Call, **asked: Any) -> None:
    said = {name: value for name, value in asked.items() if value not in (None, False, ())}
    call.done(said, show=lambda: click.echo(json.dumps(said)))


@tree.command("sync-runs", data=DATA, writes=False)
@click.option("--run-id")
@click.option("--status")
@click.option("--state")
@click.option("--retry-failed", cls=Acting, is_flag=True)
@click.option("--follow/--no-follow")
@click.option("-p", "--project")
@click.option("--pair", nargs=2)
@click.option("--secret-option", is_flag=True, hidden=True)
@click.argument("refs", nargs=-1)
@click.pass_obj
def sync_runs(call: Call, **asked: Any) -> None:
    """Read."""
    _answer(call, **asked)


@tree.command("submit", data=DATA)
@click.option("--issue")
@click.pass_obj
def submit(call: Call, **asked: Any) -> None:
    """Write."""
    _answer(call, **asked)


@tree.command("show", data=DATA, writes=False)
@click.option("--open", "is_to_open", cls=Acting, is_flag=True)
@click.option("--colour")
@click.pass_obj
def show(call: Call, **asked: Any) -> None:
    """Read."""
    _answer(call, **asked)


tree.add_command(click.Command("who", callback=lambda: None))


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("LORE_")]:
        monkeypatch.delenv(name)
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


Robot = Callable[[str], tuple[int, dict[str, Any]]]


@pytest.fixture
def robot(capsys: pytest.CaptureFixture[str]) -> Robot:
    def robot(line: str) -> tuple[int, dict[str, Any]]:
        status = run(tree, "lore", shlex.split(line))
        return status, json.loads(capsys.readouterr().out)

    return robot


@pytest.mark.parametrize(
    ("line", "data", "said"),
    [
        ("sync-run --robot", {}, ["command 'sync-run' of lore was read as sync-runs"]),
        ("SYNC_RUNS --robot", {}, ["command 'SYNC_RUNS' of lore was read as sync-runs"]),
        ("sync-runs --run_id x --robot", {"run_id": "x"}, ["option '--run_id' of lore sync-runs was read as --run-id"]),
        ("sync-runs --Run-Id=X --robot", {"run_id": "X"}, ["option '--Run-Id' of lore sync-runs was read as --run-id"]),
        ("sync-runs -status x --robot", {"status": "x"}, ["option '-status' of lore sync-runs was read as --status"]),
        ("sync-runs --robt", {}, ["option '--robt' of lore sync-runs was read as --robot"]),
        ("--robt sync-runs", {}, ["option '--robt' of lore was read as --robot"]),
        ("sync-runs --no-folow --robot", {}, ["option '--no-folow' of lore sync-runs was read as --no-follow"]),
        (
            "--robot sync-run --runid x",
            {"run_id": "x"},
            [
                "command 'sync-run' of lore was read as sync-runs",
                "option '--runid' of lore sync-runs was read as --run-id",
            ],
        ),
    ],
)
def test_a_slip_that_can_only_mean_one_thing_is_corrected_and_said(
    robot: Robot, line: str, data: dict[str, Any], said: list[str]
) -> None:
    status, answer = robot(line)

    assert status == 0
    assert answer["data"] == data
    assert answer["warnings"] == [{"code": "CORRECTED", "message": one} for one in said]


def test_people_read_it_as_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tree, "lore", ["sync-run", "--status", "x"]) == 0

    said = capsys.readouterr()
    assert said.out == '{"status": "x"}\n'
    assert said.err == "warning: command 'sync-run' of lore was read as sync-runs\n"


@pytest.mark.parametrize(
    ("line", "message", "actions"),
    [
        (
            "--robot submit --isue 7",
            "lore submit has no option '--isue': did you mean --issue?",
            ["lore --robot submit --issue 7", "lore submit --help"],
        ),
        ("--robot submt", "lore has no command 'submt': did you mean submit?", ["lore --robot submit", "lore --help"]),
        (
            "--robot sho",
            "lore has no command 'sho': did you mean show or who?",
            ["lore --robot show", "lore --robot who", "lore --help"],
        ),
        (
            "--robot sync-runs --statu 1",
            "lore sync-runs has no option '--statu': did you mean --state or --status?",
            ["lore --robot sync-runs --state 1", "lore --robot sync-runs --status 1", "lore sync-runs --help"],
        ),
        (
            "--robot sync-run --retry-failed",
            "lore has no command 'sync-run': did you mean sync-runs?",
            ["lore --robot sync-runs --retry-failed", "lore --help"],
        ),
        (
            "--robot sync-runs --retry-faild",
            "lore sync-runs has no option '--retry-faild': did you mean --retry-failed?",
            ["lore --robot sync-runs --retry-failed", "lore sync-runs --help"],
        ),
        (
            "--robot show --opn",
            "lore show has no option '--opn': did you mean --open?",
            ["lore --robot show --open", "lore show --help"],
        ),
        (
            "--robot show --open --color x",
            "lore show has no option '--color': did you mean --colour?",
            ["lore --robot show --open --colour x", "lore show --help"],
        ),
        ("--robot whoo", "lore has no command 'whoo': did you mean who?", ["lore --robot who", "lore --help"]),
        (
            "--robot submt --isue=7",
            "lore has no command 'submt': did you mean submit?; "
            "lore submit has no option '--isue': did you mean --issue?",
            ["lore --robot submit --issue=7", "lore --help"],
        ),
    ],
)
def test_two_candidates_or_a_command_that_may_do_more_than_read_is_a_usage_error_that_names_them(
    robot: Robot, line: str, message: str, actions: list[str]
) -> None:
    status, answer = robot(line)

    assert status == 2
    assert answer["error"] == {"code": "USAGE", "message": message, "actions": actions}


@pytest.mark.parametrize(
    "line",
    [
        "sync-runs --status --run_id",
        "sync-runs -p -status",
        "sync-runs -p-status",
        "sync-runs --pair --run_id -status",
        "sync-runs --status=--run_id",
        "sync-runs show sync-run SHOW",
        "sync-runs -- --run_id --statu",
    ],
)
def test_a_value_is_never_corrected(robot: Robot, line: str) -> None:
    status, answer = robot(f"--robot {line}")

    assert (status, answer["warnings"]) == (0, [])
    assert correct(tree, "lore", shlex.split(line)) is None


@pytest.mark.parametrize(
    "line",
    ["frobnicate", "sync-runs --frobnicate", "sync-runs --secret-optio", "sync-runs -x", "sync-run --frobnicate"],
)
def test_what_is_near_nothing_is_the_usage_error_it_was(robot: Robot, line: str) -> None:
    status, answer = robot(f"--robot {line}")

    assert status == 2
    assert "No such" in answer["error"]["message"]


words = st.sampled_from(
    [
        "sync-runs",
        "sync-run",
        "submit",
        "submt",
        "show",
        "--run-id",
        "--run_id",
        "-p",
        "--isue",
        "--retry-faild",
        "--",
        "x",
    ],
)


@given(st.lists(words, max_size=6))
def test_a_correction_has_no_slip_left_and_never_writes(argv: list[str]) -> None:
    try:
        mended = correct(tree, "lore", argv)
    except UsageError:
        return

    if mended is not None:
        assert correct(tree, "lore", mended[0]) is None
        assert "submit" not in mended[0][:1]
        assert "--retry-failed" not in mended[0] or "--run-id" in mended[0]  # there it is a value
        assert len(mended[0]) == len(argv)


def test_a_door_that_does_not_say_writes() -> None:
    assert Door("x").writes
