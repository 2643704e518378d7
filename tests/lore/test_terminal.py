"""What people see of foreign text, runs and entities."""

from __future__ import annotations

import io
import itertools
import re
import sys
import unicodedata
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lore.core.errors import BusyError, SettingError, UsageError
from lore.terminal import (
    Waiting,
    error_lines,
    event_line,
    show_checks,
    show_entity,
    show_run,
    show_runs,
    visible,
    watching,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("\U000e0041tag", "\\U000e0041tag"),
        ("\x9b31m\x00\x7f", "\\x9b31m\\x00\\x7f"),
        ("lone \ud800", "lone \\ud800"),
        ("[bold]markup[/bold] :smile:", "[bold]markup[/bold] :smile:"),
        ("naïve 日本語 👩‍👧 نمی‌دانم", "naïve 日本語 👩‍👧 نمی‌دانم"),
    ],
)
def test_foreign_text_is_shown_and_never_obeyed(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_text_of_several_lines_can_keep_them() -> None:
    assert visible("a\n\x1bb", keeps_lines=True) == "a\n\\x1bb"


@given(st.text(alphabet=st.characters(exclude_categories=[])))
def test_nothing_invisible_is_left_of_any_text(text: str) -> None:
    left = {unicodedata.category(character) for character in visible(text) if character not in "\u200c\u200d"}

    assert not left & {"Cc", "Cf", "Cs", "Zl", "Zp"}


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def run_row(**more: Any) -> dict[str, Any]:
    counts = {"total": 2, "ok": 1, "failed": 1, "skipped_stale": 0, "aborted": 0}
    return {"run_id": "r1", "project": "g/p", "status": "failed", "stage": "preflight", "counts": counts, **more}


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, name: str = "stdout") -> Terminal:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    for unwanted in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(unwanted, raising=False)
    monkeypatch.setattr(sys, name, terminal)
    return terminal


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_on_a_terminal_a_run_has_a_table_of_its_entities(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    entity = {"entity_type": "issue", "iid": 7, "status": "failed", "stage": "preflight", "settled": None}

    show_run(
        run_row(error_code="INGEST_FAILED", error_message="[red]no[/red]", retry_of="r0", elapsed_ms=1500),
        [entity | {"error_code": "GITLAB_NOT_FOUND", "error_message": "[bold]x\x1b[31m\n"}],
    )

    said = plain(terminal.getvalue())
    assert "\x1b[31mfailed" in terminal.getvalue()
    assert "run r1 failed in 1.5 s" in said
    assert "g/p: 2 entities, 1 ok, 1 failed" in said
    assert "retries r0" in said
    assert "INGEST_FAILED: [red]no[/red]" in said
    assert re.search(r"entity +status +stage +why", said)
    assert re.search(r"#7 +failed +preflight +GITLAB_NOT_FOUND: \[bold\]x\\x1b\[31m\\n", said)


def test_whoever_asks_for_colours_has_them_through_a_pipe_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_terminal(monkeypatch, "stderr")
    show_runs([run_row()])
    monkeypatch.setenv("FORCE_COLOR", "1")
    show_runs([run_row()])

    plain_line, *coloured = capsys.readouterr().out.splitlines()
    assert "\x1b" not in plain_line
    assert "\x1b[31mfailed" in "".join(coloured)


def test_on_100_columns_an_id_is_never_on_two_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    run_id = "20261125T101112.123456-ab12cd34"
    rows = [run_row(run_id=run_id, kind="surgical", created_at=0, elapsed_ms=0, error_code="SURGICAL_PREFLIGHT_FAILED")]

    show_runs(rows)

    assert run_id in plain(terminal.getvalue())


LONG = {"kind": "surgical", "elapsed_ms": 1_200, "run_id": "20261125T101112.123-ab12cd34"}


@pytest.mark.parametrize(
    ("columns", "project", "line"),
    [
        ("80", "g/sub/harbour", "surgical  failed  …/harbour  1/2  1.2 s  SURGICAL…"),
        ("100", "g/sub/harbour", "surgical  failed  …/harbour  1/2  1.2 s  SURGICAL_PREFLIGHT_FAILED"),
        ("100", "g/sub/a-harbour-of-ships", "surgical  failed  …/a-harbour-of-sh…  1/2  1.2 s  SURGICAL_PREFLIGHT_…"),
        ("120", "g/sub/harbour", "surgical  failed  preflight  g/sub/harbour  1/2  1.2 s  SURGICAL_PREFLIGHT_FAILED"),
    ],
)
def test_on_a_terminal_a_run_of_the_list_is_one_line_and_is_cut_where_it_must_be(
    monkeypatch: pytest.MonkeyPatch, columns: str, project: str, line: str
) -> None:
    terminal = on_a_terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", columns)

    show_runs([run_row(**LONG, project=project, error_code="SURGICAL_PREFLIGHT_FAILED")])

    _, *lines = plain(terminal.getvalue()).splitlines()
    assert len(lines) == 1
    assert re.sub(" {2,}", "  ", lines[0]).rstrip() == f"{LONG['run_id']}  {line}"


def test_a_list_of_runs_says_the_kind_of_each_and_no_stage_of_a_sync(capsys: pytest.CaptureFixture[str]) -> None:
    show_runs([run_row(kind=kind) for kind in ("surgical", "incremental", "prune")])

    first, *others = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert first == ["r1", "surgical", "failed", "preflight", "g/p", "1/2"]
    assert others == [["r1", "sync", "failed", "g/p", "1/2"], ["r1", "prune", "failed", "g/p", "1/2"]]


def test_a_sync_is_told_from_a_prune(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("incremental", "prune"):
        show_run(run_row(kind=kind), [])

    assert capsys.readouterr().out.splitlines()[::2] == ["sync r1 failed", "prune r1 failed"]


def test_what_ended_the_run_is_not_said_again_of_its_entity(capsys: pytest.CaptureFixture[str]) -> None:
    why = {"error_code": "GITLAB_UNAUTHORIZED", "error_message": "no"}

    show_run(run_row(**why), [{"entity_type": "issue", "iid": 7, "status": "failed", "stage": "preflight"} | why])

    assert capsys.readouterr().out.count("GITLAB_UNAUTHORIZED: no") == 1


def test_fields_are_in_a_reader_s_order_and_words(capsys: pytest.CaptureFixture[str]) -> None:
    entity = {"iid": 7, "title": "T", "sha": "ab", "draft": False, "assignees": ["ines", "mara"], "state": "opened"}

    show_entity({"ref": "g/p!7", "entity": entity | {"author": "olaf", "created_at": "2026-11-01T08:30:00.123Z"}})

    assert [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["state", "opened"],
        ["draft", "no"],
        ["author", "olaf"],
        ["created_at", "2026-11-01 08:30:00Z"],
        ["assignees", "ines, mara"],
        ["iid", "7"],
        ["sha", "ab"],
    ]


def test_no_runs_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    show_runs([])

    assert capsys.readouterr().out == "no runs\n"


def test_a_line_that_is_long_is_not_cut_when_not_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show_runs([run_row(error_code="X" * 300, created_at=0, elapsed_ms=0)])

    assert capsys.readouterr().out == f"r1  failed  preflight  g/p  1/2  0.0 s  {'X' * 300}\n"


def test_checks_are_shown_as_they_are_made(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[str] = []

    def make() -> Iterator[dict[str, Any]]:
        yield {"name": "first", "is_ok": True, "detail": "fine", "action": None}
        seen.append(capsys.readouterr().out)

    show_checks(make())

    assert seen == ["ok      first: fine\n"]


def test_the_live_view_shows_tasks_entities_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch, "stderr")
    ticks = itertools.count()

    with watching(
        lambda: {"run": run_row(), "tasks": {"done": 3, "pending": 1}}, clock=lambda: float(next(ticks))
    ) as on_change:
        on_change()

    said = plain(terminal.getvalue())
    assert "run r1 failed: 3/4 tasks, 2/2 entities" in said


def test_without_a_terminal_there_is_a_line_for_each_new_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    statuses = iter(["queued", "preflight", "preflight", "committing"])
    ticks = itertools.count()

    with watching(
        lambda: {"run": run_row(status=next(statuses)), "tasks": {}}, clock=lambda: float(next(ticks))
    ) as on_change:
        on_change()
        on_change()

    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == ["run r1 preflight", "run r1 committing"]


def test_the_view_reads_at_most_five_times_a_second() -> None:
    reads: list[int] = []

    def read() -> dict[str, Any]:
        reads.append(1)
        return {}

    with watching(read, clock=lambda: 0.1) as on_change:
        for _ in range(100):
            on_change()

    assert len(reads) == 1


def stuck(tasks: int, code: str | None = None, left_s: float | None = 60.0) -> SimpleNamespace:
    return SimpleNamespace(tasks=tasks, code=code, message=f"the \x1b {code}", left_s=left_s)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([stuck(8, "DOWN")] * 9, ["the \\x1b DOWN; trying again for 60 s at most"]),
        ([stuck(8, "DOWN", None)] * 9, ["the \\x1b DOWN; trying again"]),
        ([stuck(8, "DOWN")] * 3, []),
        ([stuck(8)] * 9, []),
        ([stuck(8 - second, "DOWN") for second in range(9)], []),  # one after the other is done
        ([stuck(8, "DOWN"), stuck(8)] * 5, []),
        (
            [stuck(8, "DOWN")] * 6 + [stuck(8, "LIMITED")] * 6 + [stuck(8)] + [stuck(8, "LIMITED")] * 6,
            ["the \\x1b DOWN; trying again for 60 s at most", "the \\x1b LIMITED; trying again for 60 s at most"],
        ),
    ],
)
def test_what_a_run_waits_for_is_said_once_it_gets_nowhere_and_again_when_it_is_something_else(
    found: list[Any], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter(found)
    seconds = itertools.count()
    look = Waiting(lambda: next(answers), clock=lambda: float(next(seconds)))

    for _ in found:
        look()

    assert capsys.readouterr().err.splitlines() == [f"waiting: {line}" for line in said]


def test_what_a_run_waits_for_is_read_once_a_second_and_ends_with_the_commands_deadline(
    capsys: pytest.CaptureFixture[str],
) -> None:
    quarters = itertools.count()
    reads = []

    def read() -> Any:
        reads.append(1)
        return stuck(8, "DOWN")

    look = Waiting(read, timeout_s=10, clock=lambda: next(quarters) / 4)

    for _ in range(21):
        look()

    assert len(reads) == 6
    assert capsys.readouterr().err == "waiting: the \\x1b DOWN; trying again for 6 s at most\n"


def test_a_look_at_what_is_waited_for_that_fails_does_not_end_the_run() -> None:
    def read() -> Any:
        raise BusyError("DATABASE_BUSY", "busy")

    Waiting(read)()


def test_a_view_that_cannot_be_read_does_not_end_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    def read() -> dict[str, Any]:
        raise BusyError("DATABASE_BUSY", "busy")

    with watching(read) as on_change:
        on_change()


def test_an_error_names_message_code_and_each_action() -> None:
    error = UsageError("BAD_IID", "'\x1b' is no iid\nerror: faked", actions=["one", "two"])

    assert error_lines(error) == [
        "error: '\\x1b' is no iid\\nerror: faked",
        "  code: BAD_IID",
        "  try: one",
        "  try: two",
    ]


def test_an_error_of_a_setting_keeps_its_lines() -> None:
    assert error_lines(SettingError("NO_TOKEN", "write:\n  LINE", actions=[]))[0] == "error: write:\n  LINE"


def test_an_event_is_one_line_of_visible_text() -> None:
    event = {
        "id": 1,
        "at": 0,
        "stage": "preflight",
        "entity": None,
        "event": "opened",
        "detail": {"a": "\n", "b": None},
    }

    assert event_line(event) == "1970-01-01T00:00:00Z  preflight  opened  a=\\n"


def test_a_check_of_several_lines_is_shown_as_lines(capsys: Any) -> None:
    show_checks([{"name": "token", "is_ok": False, "detail": "write:\n  A=1\x1b", "action": None}])

    assert capsys.readouterr().out == "not ok  token: write:\n          A=1\\x1b\n"
