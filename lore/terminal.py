"""What people see: foreign text made harmless, tables on a terminal, plain lines elsewhere, the live view of a run."""

from __future__ import annotations

import json
import os
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, Final, Literal, Union

from lore.core.errors import LoreError, RunError, SettingError
from lore.core.refs import ref_of
from lore.core.runs import OPEN_TASKS

if TYPE_CHECKING:
    from rich.console import Console

# Joiners belong to the spelling of real languages and of emoji; every other invisible character is shown escaped.
_JOINERS: Final = "\u200c\u200d"
_INVISIBLE: Final = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
STYLES: Final[Mapping[str, str]] = {
    "ok": "green",
    "succeeded": "green",
    "failed": "red",
    "aborted": "yellow",
    "cancelled": "yellow",
    "skipped_stale": "cyan",
    "opened": "green",
    "merged": "magenta",
    "closed": "red",
}
_COLOR_SYSTEMS: Final[Mapping[str, Literal["standard", "256", "truecolor", "windows"]]] = {
    "standard": "standard",
    "256": "256",
    "truecolor": "truecolor",
    "windows": "windows",
}
_READ_EVERY_S: Final = 0.2
_LOOK_EVERY_S: Final = 1.0
_STUCK_AFTER_S: Final = 3.0
_COUNTED: Final = ("ok", "failed", "skipped_stale", "aborted")
# The kinds of a run as people are told them, where they are not the ledger's.
_NOUNS: Final[Mapping[str, str]] = {"incremental": "sync", "prune": "prune"}

Row = Sequence[object]
Event = Mapping[str, Any]


def visible(text: object, *, keeps_lines: bool = False) -> str:
    r"""Return foreign text with everything that could steer a terminal or hide text written as an escape.

    Control and format characters (ESC, bidi overrides, zero-width and tag characters), line ends and lone surrogates
    come out as `\x1b`, `\u202e`, `\n`.

    Args:
        text: What GitLab, a file or another program said.
        keeps_lines: Leave line ends as they are, for text of several lines.
    """
    said = str(text)
    if said.isascii() and said.isprintable():
        return said
    return "".join(_shown(character, keeps_lines=keeps_lines) for character in said)


def error_lines(error: LoreError, *, with_failures: bool = True) -> list[str]:
    """Return what a person reads of an error: the message, each failed entity, the code, then what to try."""
    # Only our own words have lines; an error that quotes GitLab must not look like two errors.
    message = visible(error.message, keeps_lines=isinstance(error, SettingError))
    failures = error.failures if isinstance(error, RunError) and with_failures else []
    return [
        f"error: {message}",
        *(f"  {ref_of(f.entity_type, f.iid)} {f.stage} {f.code}: {visible(f.message)}" for f in failures),
        f"  code: {error.code}",
        *(f"  try: {visible(action)}" for action in error.actions),
    ]


def show_run(run: Mapping[str, Any], entities: Sequence[Mapping[str, Any]], *, with_error: bool = True) -> None:
    """Print a run and what became of each of its entities.

    Args:
        run: As `data.run`.
        entities: As `data.entities`.
        with_error: Whether to say why it failed; the command's own error may do so.
    """
    out = open_out(sys.stdout)
    counts = run.get("counts") or {}
    said = ", ".join(f"{counts[name]} {name}" for name in _COUNTED if counts.get(name))
    took = f" in {_seconds(run['elapsed_ms'])}" if run.get("elapsed_ms") is not None else ""
    noun = _NOUNS.get(str(run.get("kind")), "run")
    print_line(out, f"{noun} {run['run_id']} {run['status']}{took}", STYLES.get(str(run["status"])))
    total = counts.get("total", len(entities))
    print_line(
        out, f"{run.get('project') or ''}: {total} {'entity' if total == 1 else 'entities'}" + (said and f", {said}")
    )
    if run.get("retry_of"):
        print_line(out, f"retries {run['retry_of']}")
    if run.get("error_code") and with_error:
        print_line(out, _why(run), "red")
    rows = [
        (
            ref_of(entity["entity_type"], entity["iid"]),
            entity["status"],
            entity["stage"],
            _either(entity.get("settled"), "settled", "not settled"),
            # What ended the whole run is said of the run, here or by the command.
            "" if _why(entity) == _why(run) else _why(entity),
        )
        for entity in entities
    ]
    print_table(out, ("entity", "status", "stage", "settled", "why"), rows, style_column=1, whole=(0, 1))


def show_runs(runs: Sequence[Mapping[str, Any]]) -> None:
    """Print one line for each run."""
    out = open_out(sys.stdout)
    if not runs:
        print_line(out, "no runs")
    rows = [
        (
            run["run_id"],
            _NOUNS.get(str(run.get("kind")), run.get("kind") or ""),
            run["status"],
            # Of all its entities together a sync has no stage, and who has come through all is in none.
            run["stage"] if run.get("kind") in (None, "surgical") and run["status"] != "succeeded" else "",
            run.get("project") or "",
            f"{run['counts'].get('ok', 0)}/{run['counts'].get('total', 0)}",
            _seconds(run["elapsed_ms"]) if run.get("elapsed_ms") is not None else "",
            run.get("error_code") or "",
        )
        for run in runs
    ]
    # When it was opened is how its id begins.
    header = ("run", "kind", "status", "stage", "project", "ok", "took", "error")
    # Where a run stands its status says, and where one failed mostly its error; `--run-id` has all of it.
    cut: Mapping[int, Callable[[str], str]] = {4: _without_namespace, 3: lambda stage: "", 7: str}
    print_table(out, header, rows, style_column=2, whole=(0, 1, 2, 3, 5, 6), cut=cut)


def _without_namespace(project: str) -> str:
    namespace, _, name = project.rpartition("/")
    return f"…/{name}" if len(namespace) > 1 else project


def _why(failed: Mapping[str, Any]) -> str:
    return ": ".join(str(failed[key]) for key in ("error_code", "error_message") if failed.get(key))


def show_plan(plan: Mapping[str, Any]) -> None:
    """Print what a run would ask GitLab for."""
    out = open_out(sys.stdout)
    entities = " ".join(ref_of(entity["entity_type"], entity["iid"]) for entity in plan["entities"])
    print_line(out, f"{plan['project']} on {plan['gitlab_url']}: {entities}")
    print_line(out, "options: " + ", ".join(f"{name}={value}" for name, value in plan["options"].items()))
    print_line(
        out, f"{len(plan['requests'])} endpoints, each to its last page; nothing was asked and nothing was written:"
    )
    for request in plan["requests"]:
        print_line(out, f"  GET {request['path']}")


def show_entity(shown: Mapping[str, Any]) -> None:
    """Print what the mirror holds of an issue or merge request."""
    paged(lambda out: _draw_entity(out, shown))


# What a reader looks for comes first, the rest as the mirror has it.
_FIRST: Final = (
    "state",
    "draft",
    "author",
    "created_at",
    "updated_at",
    "closed_at",
    "closed_by",
    "merged_at",
    "merged_by",
    "labels",
    "assignees",
    "reviewers",
    "milestone",
    "source_branch",
    "target_branch",
)
_OF_THEIR_OWN: Final = ("title", "description", "raw")


def _draw_entity(out: Out, shown: Mapping[str, Any]) -> None:
    entity = shown["entity"]
    print_line(out, f"{shown.get('ref') or ''} {entity.get('title') or ''}".strip(), "bold")
    fields = dict(entity)
    if shown.get("labels"):
        fields.setdefault("labels", shown["labels"])
    fields |= {name: value for name, value in (shown.get("fresh") or {}).items() if name not in entity}
    names = [name for name in _FIRST if name in fields] + [name for name in fields if name not in _FIRST]
    rows = [
        (name, _words(fields[name]))
        for name in names
        if name not in _OF_THEIR_OWN and fields[name] not in (None, "", [], {})
    ]
    print_table(out, ("field", "value"), rows, whole=(0,))
    if entity.get("description"):
        print_heading(out, "description")
        print_block(out, entity["description"])
    _show_threads(out, shown.get("threads") or (), shown.get("threads_total"))
    for name, describe in (("related", _related_words), ("events", _event_words), ("files", _file_words)):
        children: Sequence[Mapping[str, Any]] = shown.get(name) or ()
        if children:
            print_heading(out, f"{len(children)} {name if name == 'related' or len(children) != 1 else name[:-1]}")
        for child in children:
            print_line(out, f"  {describe(child)}")


def show_checks(checks: Iterable[Mapping[str, Any]]) -> None:
    """Print each check as it comes: ok, or what is wrong and the command that mends it."""
    out = open_out(sys.stdout)
    for check in checks:
        mark, style = ("ok", "green") if check["is_ok"] else ("not ok", "red")
        first, *rest = str(check["detail"]).split("\n")
        print_line(out, f"{mark:<7} {check['name']}: {first}", style)
        for line in rest:
            print_line(out, f"        {line}")
        if check.get("action"):
            print_line(out, f"  try: {check['action']}")


def show_fields(fields: Mapping[str, Any], *, title: str) -> None:
    """Print a few values under a title."""
    out = open_out(sys.stdout)
    print_line(out, title)
    for name, value in fields.items():
        print_line(out, f"  {name}: {_value(value)}")


def event_line(event: Event) -> str:
    """Return one event of a run's timeline as a line for people."""
    detail = event.get("detail")
    if isinstance(detail, Mapping):
        detail = " ".join(f"{name}={_value(value)}" for name, value in detail.items() if value is not None)
    parts = (time_words(event.get("at")), event.get("stage"), event.get("entity"), event.get("event"), detail)
    return visible("  ".join(str(part) for part in parts if part))


_FILE_FLAGS: Final = (
    ("new", "new_file"),
    ("deleted", "deleted_file"),
    ("renamed", "renamed_file"),
    ("generated", "generated_file"),
    ("collapsed", "collapsed"),
    ("too large", "too_large"),
)


class Follower:
    """Prints the events of a run as they come.

    Args:
        read: Gives the events after an id.
        is_robot: JSON lines on standard error, as standard output holds one answer only; else lines on standard output.
    """

    def __init__(self, read: Callable[[int], Sequence[Event]], *, is_robot: bool) -> None:
        self._read = read
        self._is_robot = is_robot
        self._last_id = 0

    def __call__(self) -> None:
        """Print what is new."""
        for event in self._read(self._last_id):
            self._last_id = int(event["id"])
            line = json.dumps(event, default=str) if self._is_robot else event_line(event)
            _write(sys.stderr if self._is_robot else sys.stdout, line)


@contextmanager
def watching(
    read: Callable[[], Mapping[str, Any]], *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[], None]]:
    """Show how a run gets on, on standard error: a live view on a terminal, else a line for each new status.

    Args:
        read: Gives `run` (as `data.run`) and `tasks`: how many are in each status.
        clock: Seconds.

    Yields:
        What to call after each change; it reads at most five times a second.
    """
    state = _State(read, clock=clock)
    state.refresh()
    if not is_terminal(sys.stderr):
        last = [""]

        def print_status() -> None:
            state.refresh()
            if state.status != last[0]:
                last[0] = state.status
                _write(sys.stderr, visible(state.line()))

        print_status()
        yield print_status
        return
    from rich.live import Live  # noqa: PLC0415  # rich is only paid for when something is shown

    with Live(console=open_console(sys.stderr), get_renderable=state.view, transient=True, refresh_per_second=8):
        yield state.refresh


@contextmanager
def watching_sync(
    read: Callable[[], Mapping[str, Any]], *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[], None]]:
    """Show how a sync gets on, on standard error: a bar with rate and time left on a terminal, else nothing.

    Args:
        read: Gives `done` and `total`, in entities, and `failed`.
        clock: Seconds.

    Yields:
        What to call after each change; it reads at most five times a second.
    """
    if not is_terminal(sys.stderr):
        yield lambda: None
        return
    from rich.progress import (  # noqa: PLC0415  # see watching
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    bar = Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=open_console(sys.stderr), transient=True
    )
    began = clock()
    next_at = [began]
    with bar:
        task = bar.add_task("sync", total=None, rate="")

        def refresh() -> None:
            now = clock()
            if now < next_at[0]:
                return
            next_at[0] = now + _READ_EVERY_S
            with suppress(LoreError):
                known = read()
                rate = f"{known['done'] / max(now - began, 0.001):.0f}/s"
                failed = f", {known['failed']} failed" if known["failed"] else ""
                bar.update(task, total=known["total"] or None, completed=known["done"], rate=rate + failed)

        refresh()
        yield refresh


def say_looking(run_id: str, left_s: float) -> None:
    """Say on standard error that it is not known yet whether another process is at a sync, and for how long."""
    _write(sys.stderr, f"sync {visible(run_id)} is open; looking for {left_s:.0f} s at most whether anybody is at it")


def say_held(run_id: str, free_in_s: float) -> None:
    """Say on standard error why nothing gets on: on a terminal the line comes to stand above the bar."""
    until = f"if its process is gone, the lock is free in {free_in_s:.0f} s"
    _write(sys.stderr, f"waiting for the project's lock, which run {visible(run_id)} holds; {until}")


class Waiting:
    """Says on standard error for what a run waits once it has got nowhere for some seconds, as `say_held` does.

    It is said again when the cause is another one.

    Args:
        read: Gives `tasks` (open), `code`, `message` and `left_s` (see `workers.runs.Stuck`).
        timeout_s: The run's own deadline, in seconds from now.
        clock: Seconds.
    """

    def __init__(
        self, read: Callable[[], Any], *, timeout_s: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._clock = clock
        self._until = None if timeout_s is None else clock() + timeout_s
        self._next_at = self._since = clock()
        self._tasks: int | None = None
        self._said: str | None = None

    def __call__(self) -> None:
        """Look, at most once a second."""
        now = self._clock()
        if now < self._next_at:
            return
        self._next_at = now + _LOOK_EVERY_S
        with suppress(LoreError):
            found = self._read()
            if found.code is None or found.tasks != self._tasks:
                self._tasks, self._since = found.tasks, now
            elif now - self._since >= _STUCK_AFTER_S and found.code != self._said:
                self._said = found.code
                ends = [found.left_s, None if self._until is None else self._until - now]
                left_s = min((end for end in ends if end is not None), default=None)
                until = "" if left_s is None else f" for {max(left_s, 0):.0f} s at most"
                _write(sys.stderr, f"waiting: {visible(found.message)}; trying again{until}")


class _State:
    """What is known of a run under way."""

    def __init__(self, read: Callable[[], Mapping[str, Any]], *, clock: Callable[[], float]) -> None:
        self._read = read
        self._clock = clock
        self._began = clock()
        self._next_at = self._began
        self._known: Mapping[str, Any] = {}

    @property
    def status(self) -> str:
        return str((self._known.get("run") or {}).get("status", ""))

    def refresh(self) -> None:
        if self._clock() < self._next_at:
            return
        # A view that cannot be read must not end the run it shows.
        with suppress(LoreError):
            self._known = self._read()
        self._next_at = self._clock() + _READ_EVERY_S

    def line(self) -> str:
        run = self._known.get("run") or {}
        counts = run.get("counts") or {}
        done = sum(counts.get(name, 0) for name in _COUNTED)
        tasks = f"{self._tasks_done()}/{self._tasks()} tasks"
        entities = f"{done}/{counts.get('total', 0)} entities"
        return f"run {run.get('run_id', '')} {self.status}: {tasks}, {entities}, {self._clock() - self._began:.1f} s"

    def view(self) -> Any:
        from rich.progress_bar import ProgressBar  # noqa: PLC0415  # see watching
        from rich.table import Table  # noqa: PLC0415  # see watching
        from rich.text import Text  # noqa: PLC0415  # see watching

        view = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(self._tasks(), 1), completed=self._tasks_done(), width=12)
        view.add_row(bar, Text(visible(self.line()), no_wrap=True, overflow="ellipsis"))
        return view

    def _tasks(self) -> int:
        return sum((self._known.get("tasks") or {}).values())

    def _tasks_done(self) -> int:
        return sum(count for status, count in (self._known.get("tasks") or {}).items() if status not in OPEN_TASKS)


def _shown(character: str, *, keeps_lines: bool) -> str:
    if (keeps_lines and character == "\n") or character in _JOINERS:
        return character
    if unicodedata.category(character) not in _INVISIBLE:
        return character
    return character.encode("unicode_escape").decode("ascii")


def _show_threads(out: Out, threads: Sequence[Mapping[str, Any]], total: int | None) -> None:
    if threads:
        of = "" if total in (None, len(threads)) else f" of {total}"
        print_heading(out, f"{len(threads)}{of} threads")
    for thread in threads:
        notes = thread.get("notes") or ()
        if len(notes) > 1 or thread.get("resolved") is not None:
            said = _either(thread.get("resolved"), ", resolved", ", open")
            print_line(out, f"thread{said}")
        for note in notes:
            kind = " (system)" if note.get("system") else ""
            print_line(out, f"  {note.get('author') or '?'} {_moment(note.get('created_at'))}{kind}", "cyan")
            print_block(out, note.get("body") or "")


def _event_words(event: Mapping[str, Any]) -> str:
    kind = str(event.get("kind"))
    # A label or milestone that was deleted since has no name any more.
    done = event.get("state") if kind == "state" else f"{event.get('action')} {kind} {event.get(kind) or '(deleted)'}"
    return f"{_moment(event.get('created_at'))}  {event.get('author') or '?'}  {done}"


def _file_words(file: Mapping[str, Any]) -> str:
    old, new = file.get("old_path") or "?", file.get("new_path") or "?"
    flags = [word for word, column in _FILE_FLAGS if file.get(column)]
    if file.get("a_mode") != file.get("b_mode") and not {"new", "deleted"} & set(flags):
        flags.append(f"mode {file.get('a_mode')} to {file.get('b_mode')}")
    path = old if old == new else f"{old} -> {new}"
    return f"{path} ({', '.join(flags)})" if flags else path


def _related_words(one: Mapping[str, Any]) -> str:
    state = f"({one['state']})" if one.get("state") else None
    held = None if one.get("is_held") else "not in the mirror"
    words = (str(one["relation"]).replace("_", " "), one["ref"], one.get("title"), state, held)
    return " ".join(str(word) for word in words if word)


class Plain:
    """A stream that nobody looks at: its lines need nothing of rich, which takes longer to load than they to print."""

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream

    def print(self, line: str = "") -> None:
        """Print one line, at once: it may be one of a check that is followed through a pipe."""
        _write(self._stream, line)


Out = Union["Console", Plain]


def print_heading(out: Out, text: str) -> None:
    """Print an empty line, then one that stands out."""
    out.print()
    print_line(out, text, "bold")


def print_block(out: Out, text: str) -> None:
    """Print foreign text of several lines."""
    # Each line gets our margin, so that none of them can pass for one of ours.
    for line in visible(text.replace("\r\n", "\n"), keeps_lines=True).split("\n"):
        print_line(out, f"    {line}")


def print_line(out: Out, text: object, style: str | None = None) -> None:
    """Print foreign text as one line."""
    if isinstance(out, Plain):
        out.print(visible(text))
        return
    from rich.text import Text  # noqa: PLC0415  # see watching

    # Text and not a str: foreign text may hold rich's own markup. Wrapping is left to the terminal.
    out.print(Text(visible(text), style=style or ""), soft_wrap=True)


def print_marked(out: Out, text: str, marks: Sequence[tuple[int, int]]) -> None:
    """Print foreign text as one line, with parts of it marked: bold on a terminal, else between asterisks.

    Args:
        out: Where to.
        text: What to print.
        marks: (start, end) in `text`, in order and apart.
    """
    parts: list[tuple[str, str]] = []
    end = 0
    for start, stop in marks:
        marked = visible(text[start:stop])
        parts += [(visible(text[end:start]), ""), (f"**{marked}**" if isinstance(out, Plain) else marked, "bold")]
        end = stop
    parts.append((visible(text[end:]), ""))
    if isinstance(out, Plain):
        out.print("".join(part for part, _ in parts))
        return
    from rich.text import Text  # noqa: PLC0415  # see watching

    out.print(Text.assemble(*parts), soft_wrap=True)


def print_table(
    out: Out,
    header: Sequence[str],
    rows: Sequence[Row],
    *,
    style_column: int | None = None,
    whole: Sequence[int] = (),
    cut: Mapping[int, Callable[[str], str]] = MappingProxyType({}),
) -> None:
    """Print rows: as a table with a header on a terminal, else as aligned plain lines.

    Args:
        out: Where to.
        header: The columns' names.
        rows: What stands in them.
        style_column: The column whose text has a colour of its own.
        whole: The columns that are copied, so that none of their texts is ever on two lines.
        cut: The columns that are rather cut than on two lines: one after the other, as long as a terminal has no room
            for all, and what is kept of their texts then; what is too long even so ends in an ellipsis.
    """
    if not rows:
        return
    cells = [[visible(cell) for cell in row] for row in rows]
    widths = _widths(cells)
    for column, keep in cut.items():
        if not isinstance(out, Plain) and sum(width + 2 for width in widths if width) > out.width + 2:
            cells = [[*row[:column], keep(row[column]), *row[column + 1 :]] for row in cells]
            widths = _widths(cells)
    # A column that says nothing is left out.
    kept = [column for column in range(len(header)) if any(row[column] for row in cells)]
    if isinstance(out, Plain):
        for row in cells:
            print_line(out, "  ".join(f"{row[column]:<{widths[column]}}" for column in kept).rstrip())
        return
    from rich.table import Table  # noqa: PLC0415  # see watching
    from rich.text import Text  # noqa: PLC0415  # see watching

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in kept:
        least = max(len(row[column]) for row in cells) if column in whole else None
        overflow: Literal["ellipsis", "fold"] = "ellipsis" if column in cut else "fold"
        table.add_column(header[column], overflow=overflow, no_wrap=column in whole, min_width=least)
    for row in cells:
        style = STYLES.get(row[style_column], "") if style_column is not None else ""
        table.add_row(*(Text(row[column], style=style if column == style_column else "") for column in kept))
    out.print(table)


def _widths(cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*cells, strict=True)]


def open_out(stream: IO[str]) -> Out:
    """Return what prints to this stream: a console where somebody looks at it, or asks for colours all the same."""
    # As rich sees it, and it is not loaded to be asked.
    is_forced = os.environ.get("FORCE_COLOR") or os.environ.get("TTY_COMPATIBLE") == "1"
    if is_forced or is_terminal(stream):
        console = open_console(stream)
        if console.is_terminal:
            return console
    return Plain(stream)


def open_console(stream: IO[str]) -> Console:
    """Return a console that takes no foreign text for markup."""
    from rich.console import Console  # noqa: PLC0415  # see watching

    return Console(file=stream, markup=False, emoji=False, highlight=False)


def paged(draw: Callable[[Out], None]) -> None:
    """Print to standard output what `draw` draws; what is longer than the terminal is handed to the user's pager."""
    out = open_out(sys.stdout)
    if isinstance(out, Plain):
        draw(out)
        return
    from io import StringIO  # noqa: PLC0415  # see watching

    from rich.console import Console  # noqa: PLC0415  # see watching

    drawn = StringIO()
    page = Console(
        file=drawn,
        markup=False,
        emoji=False,
        highlight=False,
        force_terminal=True,
        color_system=_COLOR_SYSTEMS.get(out.color_system or ""),
        no_color=out.no_color,
        width=out.width,
    )
    draw(page)
    text = drawn.getvalue()
    if text.count("\n") < out.height:
        sys.stdout.write(text)
        return
    import click  # noqa: PLC0415  # only where there is somebody who turns pages

    # Coloured where click knows that the pager shows it.
    click.echo_via_pager(text.removesuffix("\n"))


def _value(value: object) -> str:
    if isinstance(value, (Mapping, list, tuple)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _words(value: object) -> str:
    """Return a field as people read it: yes or no, a list without its brackets, a time to the second."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)) and not any(isinstance(one, (Mapping, list, tuple)) for one in value):
        return ", ".join(map(str, value))
    if isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,}(Z|[+-][0-9:]+)", value):
        return _moment(value)
    return _value(value)


def time_words(at: object) -> str:
    """Return a time to the second; the ledger's are integer milliseconds, the others ISO 8601 already."""
    if isinstance(at, int):
        return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return str(at or "")


def _moment(at: object) -> str:
    """Return a time as people read it, which a narrow column has on two lines."""
    return re.sub(r"(?<=[0-9])T(?=[0-9])", " ", re.sub(r"\.[0-9]+", "", time_words(at)))


def _either(is_so: bool | None, yes: str, no: str) -> str:
    if is_so is None:
        return ""
    return yes if is_so else no


def _seconds(duration_ms: int) -> str:
    return f"{duration_ms / 1000:.1f} s"


def _write(stream: IO[str] | None, line: str) -> None:
    if stream is not None:
        stream.write(f"{line}\n")
        stream.flush()


def is_terminal(stream: IO[str] | None) -> bool:
    """Tell whether somebody looks at this stream."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False
