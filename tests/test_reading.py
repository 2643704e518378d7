"""The reading commands as they are called: whatever GitLab's users write, no byte of it steers a terminal."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import sys
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hostile import EVIL, MARKUP, SHOWN, fill
from support import GITLAB_URL, PROJECT, FakeGitLab, drain, submit

import cli
from lore.core import plan
from lore.core.errors import Exit, RefusedError
from lore.core.plan import Entity
from lore.door import run
from models import base
from models.content import Issue
from models.ledger import Project

# What rich writes for our own styles.
OURS = re.compile(r"\x1b\[(?:0|1|3[1-6]|1;3[1-6])m")

READING = [
    "lore issues --state all",
    "lore mrs --state all",
    "lore show '#7'",
    "lore show '!5'",
    "lore timeline '#7'",
    "lore timeline '!5'",
    f"lore file-history {shlex.quote(EVIL)} --discussions",
    f"lore file-history {shlex.quote(EVIL)}",
    f"lore who {shlex.quote(EVIL)}",
    f"lore who {shlex.quote('~' + EVIL)}",
    "lore stats",
    "lore search evil",
    "lore search evil --type discussion --mode text",
]
# What is said of runs: of one that failed with what GitLab wrote, in a project that has such a name.
LEDGER = ["lore sync-runs", "lore sync-runs --run-id last", "lore sync-runs --run-id last --follow"]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@dataclass
class Said:
    status: int
    out: str
    err: str


@pytest.fixture
def call(
    gitlab: FakeGitLab, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> Callable[..., Said]:
    """Return a function that calls a command on a mirror of hostile content, on a terminal or not."""
    fill(gitlab)
    for name in list(os.environ):
        if name.startswith(("LORE_", "GITLAB_", "XDG_", "GIT_")):
            monkeypatch.delenv(name)
    for unwanted in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(unwanted, raising=False)
    environ = {"HOME": str(tmp_path), "LORE_GITLAB_URL": GITLAB_URL, "LORE_PROJECT": PROJECT}
    environ |= {"LORE_DATABASE_URL": database_url, "TERM": "xterm-256color", "COLUMNS": "200"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    def do(line: str, *, lines: int | None = None) -> Said:
        base.disconnect()
        capsys.readouterr()
        if lines is None:
            status = run(cli.commands, "lore", shlex.split(line)[1:])
            captured = capsys.readouterr()
            return Said(status, captured.out, captured.err)
        monkeypatch.setenv("LINES", str(lines))
        terminal = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", terminal)
            status = run(cli.commands, "lore", shlex.split(line)[1:])
        return Said(status, terminal.getvalue(), capsys.readouterr().err)

    return do


@pytest.mark.parametrize("line", READING, ids=[line.split("\x1b")[0] for line in READING])
def test_no_view_writes_a_byte_that_steers_a_terminal(call: Callable[..., Said], line: str) -> None:
    Project.update(path_with_namespace=EVIL).execute()

    plain, screen, paged = call(line), call(line, lines=1000), call(line, lines=2)

    for said in (plain, screen, paged):
        assert said.status == 0, said
        _assert_harmless(said.out if said is plain else OURS.sub("", said.out))
    assert paged.out == OURS.sub("", screen.out), "a pager that is not known to show colours gets none"
    assert MARKUP in plain.out
    assert re.sub(r"\s", "", SHOWN) in re.sub(r"\s", "", plain.out)
    assert r"\x1b]0;title\x07" in OURS.sub("", screen.out).replace("\n", "")
    assert OURS.search(screen.out), "on a terminal it is coloured"


def _assert_harmless(said: str) -> None:
    bad = {character for character in said if unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp")}
    assert bad <= {"\n"}, said
    assert "\nerror: fake" not in said


def test_every_command_that_only_reads_is_looked_at_here() -> None:
    looked_at = {line.split()[1] for line in READING + LEDGER}
    of_ours_alone = {"doctor", "robot-docs", "mcp", "completion"}

    assert {name for name, door in cli.commands.commands.items() if not door.writes} == looked_at | of_ours_alone


@pytest.mark.parametrize("line", LEDGER)
def test_no_line_about_a_run_steers_a_terminal(call: Callable[..., Said], gitlab: FakeGitLab, line: str) -> None:
    entity = Entity("issue", 8)
    gitlab.set(entity, plan.OWN, RefusedError("GITLAB_NOT_FOUND", EVIL))
    submit(entity)
    drain()
    Project.update(path_with_namespace=EVIL).execute()

    plain, screen = call(line), call(line, lines=1000)

    for said in (plain, screen):
        assert said.status == (Exit.PREFLIGHT if "--follow" in line else 0), said
        _assert_harmless(OURS.sub("", said.out) if said is screen else said.out)
        _assert_harmless(said.err)
    assert re.sub(r"\s", "", SHOWN) in re.sub(r"\s", "", plain.out + plain.err)


def test_an_error_that_names_hostile_paths_is_harmless(call: Callable[..., Said]) -> None:
    said = call(f"lore file-history {shlex.quote('nearly ' + EVIL)}")

    assert said.status == 5
    assert "\x1b" not in said.err
    assert "PATH_NOT_FOUND" in said.err


@pytest.mark.parametrize("line", READING, ids=[line.split("\x1b")[0] for line in READING])
def test_a_robot_reads_the_same_content_as_it_is(call: Callable[..., Said], line: str) -> None:
    said = call(f"{line} --robot")

    answer = json.loads(said.out)
    assert (said.status, answer["ok"], said.out.count("\n"), said.out.isascii()) == (0, True, 1, True)


@pytest.mark.parametrize(
    "line", ["issues --search 'caf\udce9'", "search --mode text 'caf\udce9'", "timeline 'caf\udce9'"]
)
def test_bytes_that_are_no_utf_8_are_looked_for_like_any_text(call: Callable[..., Said], line: str) -> None:
    assert call(f"lore {line} --robot").status in (0, 5)


@pytest.mark.parametrize("line", ["file-history 'caf\udce9.c'", "who 'caf\udce9'"])
def test_a_name_that_is_no_utf_8_is_a_name_never_seen(call: Callable[..., Said], line: str) -> None:
    said = call(f"lore {line} --robot")

    assert (said.status, json.loads(said.out)["ok"]) == (5, False)


def test_open_opens_an_address_of_ours_and_never_one_that_gitlab_sent(
    call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    import webbrowser

    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: bool(opened.append(url)))

    said = call("lore show '!5' --open --robot")

    assert opened == [f"{GITLAB_URL}/{PROJECT}/-/merge_requests/5"]
    assert [warning["code"] for warning in json.loads(said.out)["warnings"]] == ["NO_BROWSER"]
    assert call("lore show '!5' --robot").status == 0
    slip = json.loads(call("lore show '!5' --opn --robot").out)["error"]
    assert slip["code"] == "USAGE"
    assert slip["actions"][0] == "lore show '!5' --open --robot"
    assert len(opened) == 1


@pytest.mark.parametrize(
    ("line", "status", "code"),
    [
        ("lore issues --since yesterday", 2, "USAGE"),
        ("lore mrs -n 0", 2, "USAGE"),
        ("lore issues --reviewer ida", 2, "USAGE"),
        ("lore issues --state merged", 2, "USAGE"),
        ("lore file-history a.py -p no/where", 5, "UNKNOWN_PROJECT"),
        ("lore mrs -p nobody", 5, "UNKNOWN_PROJECT"),
        ("lore timeline '!99'", 5, "NOT_IN_MIRROR"),
        ("lore timeline '!0'", 2, "BAD_IID"),
        ("lore who '~nothing has it'", 5, "PATH_NOT_FOUND"),
    ],
)
def test_what_cannot_be_read_is_a_typed_error(call: Callable[..., Said], line: str, status: int, code: str) -> None:
    said = call(f"{line} --robot")

    assert (said.status, json.loads(said.out)["error"]["code"]) == (status, code)


@pytest.mark.parametrize("line", ["lore file-history a.py", "lore who bug"])
def test_a_file_and_a_label_are_of_one_project(call: Callable[..., Said], line: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("LORE_PROJECT", "")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(Path.home().parent))
    monkeypatch.chdir(Path.home())

    assert json.loads(call(f"{line} --robot").out)["error"]["code"] == "NO_PROJECT"
    assert json.loads(call("lore issues --robot").out)["data"]["total"] == 1


def test_a_cursor_is_of_the_same_list_and_lasts_while_time_goes_on(call: Callable[..., Said], monkeypatch: Any) -> None:
    line = "lore timeline '#7' -n 2"
    following = json.loads(call(f"{line} --robot").out)["meta"]["next"]

    assert json.loads(call(f"{line} --after {following} --robot").out)["data"]["events"]
    for other in ("lore timeline '!5'", "lore show '#7'", f"{line} -p other/one"):
        assert json.loads(call(f"{other} --after {following} --robot").out)["error"]["code"] == "USAGE", other
    for slip in (following[:-4], f"x{following}", following.swapcase()):
        assert "meta.next" in json.loads(call(f"{line} --after {slip} --robot").out)["error"]["message"], slip

    # The second issue is there by then, and a week ago is a minute later.
    Issue.insert(**_copied(Issue.get(), iid=8)).execute()
    first = json.loads(call("lore issues --updated-since 2500w -n 1 --robot").out)
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 60_000_000_000)
    second = json.loads(call(f"lore issues --updated-since 2500w -n 1 --after {first['meta']['next']} --robot").out)
    assert [one["iid"] for answer in (first, second) for one in answer["data"]["issues"]] == [8, 7]
    assert "next" not in second["meta"]


def _copied(row: Any, **more: Any) -> dict[str, Any]:
    values = {name: value for name, value in row.__data__.items() if name != "id"}
    return values | {"gitlab_id": values["gitlab_id"] + 1} | more


def test_a_list_passes_each_option_on(call: Callable[..., Said]) -> None:
    evil = shlex.quote(EVIL)
    options = f"--author @{evil} --assignee {evil} --label {evil} --milestone {evil} --since 2020-01-01 --search X"

    def total(line: str) -> int:
        return int(json.loads(call(f"{line} --robot").out)["data"]["total"])

    assert total(f"lore issues {options} --updated-since 2020-01-01 --sort comments:asc -n 1") == 1
    assert total(f"lore mrs {options} --reviewer {evil} --target-branch {evil} --no-draft") == 1
    for limit in ("--draft", "--label other", "--since 1m", "--updated-since 1m", "--state closed"):
        assert total(f"lore mrs {limit}") == 0, limit
