"""The doors: what each command answers, to people and to robots, and by which exit status."""

from __future__ import annotations

import ast
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import structlog

import cli
from cli.following import noting_ctrl_c
from lore.core.errors import (
    CODES,
    EXIT_MEANINGS,
    BrokerError,
    Exit,
    Failure,
    LoreError,
    NotFoundError,
    RunError,
    StorageError,
    UsageError,
)
from lore.core.plan import Entity
from lore.core.runs import RunOptions
from lore.door import run

ROOT = Path(__file__).parents[1]
TOKEN = "glpat-s3cr3t"
RUN_ID = "20261123T054149.123-1a2b3c4d"
QUIET_LOGGERS = ("httpx", "httpcore", "peewee", "playhouse", "asyncio")


@dataclass
class Ledger:
    """Stands in for everything in workers/ that the doors call, and remembers what they asked."""

    submitted: list[dict[str, Any]] = field(default_factory=list)
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    status: str = "succeeded"
    is_sent: bool = True
    has_worker: bool = True
    ends: bool = True
    error: RunError | None = None
    raises: dict[str, BaseException] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    title: str = "Fix the frobnicator"

    def called(self, name: str, *args: Any) -> None:
        self.calls.append((name, *args))
        if name in self.raises:
            raise self.raises[name]

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    def submit(self, **asked: Any) -> SimpleNamespace:
        self.called("submit")
        self.submitted.append(asked)
        return SimpleNamespace(run_id=RUN_ID, is_sent=self.is_sent, project=asked["project"])

    def retry(self, run_id: str) -> SimpleNamespace:
        self.called("retry", run_id)
        return SimpleNamespace(run_id=RUN_ID, is_sent=self.is_sent, project="group/project")

    def resolve_project(self, gitlab_url: str, name: str) -> str:
        self.called("resolve_project", name)
        return name if "/" in name or name.isdigit() else f"group/{name}"

    def find_run(self, text: str) -> str:
        self.called("find_run", text)
        return RUN_ID

    def read_run(self, run_id: str) -> dict[str, Any]:
        counts = {"total": 2, "ok": 1, "failed": 1 if self.error else 0, "skipped_stale": 0, "aborted": 0}
        return {
            "run_id": run_id,
            "project": "group/project",
            "status": self.status,
            "stage": "ingest",
            "retry_of": None,
            "error_code": None,
            "error_message": None,
            "counts": counts,
            "created_at": "2026-11-23T05:41:49.123Z",
            "elapsed_ms": 1234,
        }

    def read_entities(self, run_id: str) -> list[dict[str, Any]]:
        return [
            entity("issue", 7, "ok", settled=False),
            entity("merge_request", 12, "failed", error_code="GITLAB_NOT_FOUND", error_message="404 \x1b[31mfor !12"),
        ]

    def list_runs(self, status: str | None, limit: int, before: str | None) -> list[dict[str, Any]]:
        self.called("list_runs", status, limit, before)
        return [self.read_run(RUN_ID)]

    def read_events(self, run_id: str, after_id: int) -> list[dict[str, Any]]:
        return [event for event in self.events if event["id"] > after_id]

    def read_progress(self, run_id: str) -> dict[str, int]:
        return {"done": 3, "pending": 10}

    def wait(self, run_id: str, *, timeout_s: float | None, on_change: Callable[[], None] | None) -> bool:
        self.called("wait", timeout_s)
        return self.ends

    def run_to_end(
        self,
        run_id: str,
        *,
        timeout_s: float | None,
        on_change: Callable[[], None] | None,
        is_interrupted: Callable[[], bool],
    ) -> bool:
        assert not is_interrupted()
        self.called("run_to_end", timeout_s)
        return self.ends

    def error_of(self, run_id: str) -> RunError | None:
        self.called("error_of")
        return self.error

    def cancel(self, run_id: str, *, why: str) -> dict[str, Any]:
        self.called("cancel", why)
        self.status = "cancelled"
        self.error = RunError("RUN_CANCELLED", why, run_id=run_id)
        return self.read_run(run_id)

    def has_live_worker(self) -> bool:
        self.called("has_live_worker")
        return self.has_worker

    def open_workers(self, settings: Any) -> None:
        self.called("open_workers")

    def open_ledger(self, settings: Any) -> None:
        self.called("open_ledger")

    def sweep(self) -> dict[str, int]:
        self.called("sweep")
        return {"fetch_sent": 2}

    def serve(self, settings: Any, *, queues: list[str], threads: int, processes: int, until_stdin_closes: bool) -> int:
        self.called("serve", queues, threads, processes, until_stdin_closes)
        return 0

    def show(self, gitlab_url: str, project: str, entity_type: str, iid: int, *, page: Any) -> dict[str, Any]:
        self.called("show", project, entity_type, iid)
        notes = [
            {
                "author": "ada",
                "created_at": "2026-11-23T05:41:49.123Z",
                "system": False,
                "body": "one\nerror: \x1bfake",
            },
            {"author": "bob", "created_at": "2026-11-23T05:41:50.123Z", "system": True, "body": "closed"},
        ]
        return {
            "project": project,
            "entity_type": entity_type,
            "entity": {"iid": iid, "title": self.title, "description": "what\nand why", "state": "opened", "raw": "{}"},
            "threads": [{"id": "d1", "individual_note": False, "resolved": True, "notes": notes}],
            "events": [{"kind": "state", "action": "closed"}],
            "files": [{"old_path": "a\u202eb", "new_path": "c"}],
            "links": [],
            "fresh": {"observed_at": "2026-11-23T05:41:49.123Z", "settled": True},
            "next": None,
        }

    def checks(self, settings: Any) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(name="database", is_ok=True, detail="SQLite", action=None)
        yield SimpleNamespace(name="token", is_ok=False, detail="expired", action="lore doctor")


@pytest.fixture
def seam(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, Any], None]:
    """Puts another function into a module of workers."""
    return lambda module, name, function: monkeypatch.setattr(sys.modules[f"workers.{module}"], name, function)


def entity(entity_type: str, iid: int, status: str, **more: Any) -> dict[str, Any]:
    known = {"stage": "ingest", "error_code": None, "error_message": None, "settled": None}
    return {"entity_type": entity_type, "iid": iid, "status": status, **known, **more}


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Ledger:
    ledger = Ledger()
    package: Any = ModuleType("workers")
    package.open_workers, package.open_ledger = ledger.open_workers, ledger.open_ledger
    package.open_sender = ledger.open_workers
    package.QUEUES = ("preflight", "fetch", "commit")
    seams = {
        "runs": "submit retry resolve_project find_run read_run read_entities list_runs read_events read_progress wait"
        " error_of cancel has_live_worker",
        "embedded": "run_to_end",
        "upkeep": "sweep",
        "processes": "serve",
        "reads": "show",
        "doctor": "checks",
    }
    monkeypatch.setitem(sys.modules, "workers", package)
    for name, functions in seams.items():
        module = ModuleType(f"workers.{name}")
        for function in functions.split():
            setattr(module, function, getattr(ledger, function))
        setattr(package, name, module)
        monkeypatch.setitem(sys.modules, f"workers.{name}", module)
    return ledger


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home and an empty current folder, a token, and logging as it was."""
    for name in list(os.environ):
        if name.startswith(("LORE_", "GITLAB_", "XDG_", "GIT_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("LORE_GITLAB_URL", "https://gitlab.example.com")
    monkeypatch.setenv("LORE_GITLAB_TOKEN", TOKEN)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    root = logging.getLogger()
    handlers, level, raises = list(root.handlers), root.level, logging.raiseExceptions
    levels = {name: logging.getLogger(name).level for name in QUIET_LOGGERS}
    yield tmp_path
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raises
    for name, one in levels.items():
        logging.getLogger(name).setLevel(one)
    structlog.reset_defaults()


@dataclass
class Answer:
    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        assert self.out.count("\n") == 1
        answer = json.loads(self.out)
        assert set(answer) == ({"ok", "data", "warnings", "meta"} if answer["ok"] else {"ok", "error", "meta"})
        assert set(answer["meta"]) == {"command", "version", "elapsed_ms"}
        return answer


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[[str], Answer]:
    def call(line: str) -> Answer:
        prog, *argv = shlex.split(line)
        capsys.readouterr()
        status = run(cli.submit if prog == "lore-submit" else cli.commands, prog, argv)
        said = capsys.readouterr()
        return Answer(status, said.out, said.err)

    return call


Caller = Callable[[str], Answer]

UNSET = {"LORE_GITLAB_TOKEN": ""}
BAD_INPUTS = [
    ("no ids", "lore-submit -p g/p", {}, "NO_ENTITIES", "name at least one"),
    ("iid 0", "lore-submit -p g/p --issue 0", {}, "BAD_IID", "'0' is no iid"),
    ("iid -3", "lore-submit -p g/p --mr -3", {}, "BAD_IID", "'-3' is no iid"),
    ("iid abc", "lore-submit -p g/p --mr abc", {}, "BAD_IID", "'abc' is no iid"),
    ("ref with iid abc", "lore-submit -p g/p '!abc'", {}, "BAD_IID", "'abc' is no iid"),
    ("no ref", "lore-submit -p g/p 12", {}, "BAD_REF", "try: lore-submit '!12'"),
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
    assert robot.json["ok"] is False
    assert robot.json["error"]["code"] == code
    assert all(f"  try: {action.removesuffix(' --robot')}\n" in human.err for action in robot.json["error"]["actions"])
    assert robot.json["error"]["actions"]
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
    assert robot.json["error"]["code"] == error.code
    assert robot.json["error"]["actions"] == error.actions
    assert not ledger.submitted


@pytest.mark.parametrize("line", ["lore --robot sync-runs", "lore sync-runs --robot", "LORE_ROBOT lore sync-runs"])
def test_robot_stands_before_or_after_the_command_or_in_the_environment(
    call: Caller, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    if line.startswith("LORE_ROBOT"):
        monkeypatch.setenv("LORE_ROBOT", "1")

    answer = call(line.removeprefix("LORE_ROBOT "))

    assert answer.json["data"]["runs"][0]["run_id"] == RUN_ID
    assert answer.json["meta"]["command"] == "lore sync-runs"


def test_robot_can_be_set_in_the_settings_file(call: Caller, ledger: Ledger, home: Path) -> None:
    (home / ".config" / "lore").mkdir(parents=True)
    (home / ".config" / "lore" / "env").write_text("LORE_ROBOT=1\n")

    assert call("lore sync-runs").json["ok"]


def test_what_follows_two_dashes_is_no_option(call: Caller, ledger: Ledger) -> None:
    answer = call("lore-submit -p g/p -- --robot")

    assert answer.status == Exit.USAGE
    assert answer.err.startswith("error: '--robot' is no REF")


@pytest.mark.parametrize("line", ["lore --help", "lore-submit --help", "lore show --help", "lore --version"])
def test_help_and_version_are_one_json_object_for_a_robot(call: Caller, line: str) -> None:
    answer = call(f"{line} --robot" if "version" not in line else "lore --robot --version")

    assert answer.status == 0
    assert answer.json["data"]["text"]


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
    assert robot.json["error"]["code"] == "INTERNAL"
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
    assert answer.json["error"]["code"] == "INTERNAL"


def test_what_somebody_prints_does_not_break_a_robots_answer(
    call: Caller, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["workers.upkeep"], "sweep", lambda: sys.stdout.write("stray\n") and {})

    answer = call("lore sweep --robot")

    assert answer.json["data"] == {"swept": {}}
    assert answer.err == "stray\n"


def test_ctrl_c_before_a_run_is_130(call: Caller, ledger: Ledger) -> None:
    ledger.raises["open_workers"] = KeyboardInterrupt()

    human, robot = call("lore-submit 'g/p!12'"), call("lore-submit 'g/p!12' --robot")

    assert human.status == robot.status == 130
    assert robot.json["error"]["code"] == "INTERRUPTED"
    assert not ledger.submitted


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
    assert answer.json["data"]["run"]["run_id"] == RUN_ID
    assert [one["iid"] for one in answer.json["data"]["entities"]] == [7, 12]
    assert answer.json["warnings"] == []


@pytest.mark.parametrize("line", ["lore submit 'g/p!12' --robot", "lore sync 'g/p!12' --robot"])
def test_submit_and_sync_with_ids_are_the_same_door(call: Caller, ledger: Ledger, line: str) -> None:
    assert call(line).json["data"]["run"]["status"] == "succeeded"
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
    assert robot.json["warnings"][0]["code"] == "LEFT_QUEUED"


def test_without_redis_ctrl_c_cancels_the_run(call: Caller, ledger: Ledger) -> None:
    ledger.raises["run_to_end"] = KeyboardInterrupt()

    answer = call("lore-submit 'g/p!12' --robot")

    assert ("cancel", "cancelled by Ctrl-C") in ledger.calls
    assert answer.status == Exit.CANCELLED
    assert answer.json["error"]["code"] == "RUN_CANCELLED"
    assert answer.json["error"]["run_id"] == RUN_ID


def test_a_run_that_ended_before_ctrl_c_could_cancel_it_keeps_its_end(call: Caller, ledger: Ledger) -> None:
    ledger.raises["run_to_end"] = KeyboardInterrupt()
    ledger.raises["cancel"] = UsageError("RUN_ENDED", "ended", run_id=RUN_ID)

    assert call("lore-submit 'g/p!12' --robot").json["data"]["run"]["status"] == "succeeded"


def test_without_redis_a_run_over_its_timeout_exits_as_the_ledger_says(call: Caller, ledger: Ledger) -> None:
    ledger.error = RunError("RUN_DEADLINE", "not done after 5 s", run_id=RUN_ID)

    answer = call("lore-submit 'g/p!12' --timeout 5 --robot")

    assert ("run_to_end", 5.0) in ledger.calls
    assert answer.json["error"]["code"] == "RUN_DEADLINE"
    assert answer.status == Exit.PREFLIGHT


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORE_REDIS_URL", "redis://localhost:6379/0")


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
    assert [one["code"] for one in robot.json["warnings"]] == ["BROKER_UNREACHABLE"]
    assert "has_live_worker" not in ledger.names()


@pytest.mark.usefixtures("redis")
def test_without_a_live_worker_the_command_that_starts_one_is_named(call: Caller, ledger: Ledger) -> None:
    ledger.has_worker = False

    human, robot = call("lore-submit 'g/p!12'"), call("lore-submit 'g/p!12' --robot")

    assert "lore worker" in human.err
    assert [one["code"] for one in robot.json["warnings"]] == ["NO_LIVE_WORKER"]


@pytest.mark.parametrize(
    ("line", "code", "actions"),
    [
        ("lore show '!12'", "NO_PROJECT", ["lore show --help"]),
        ("lore show here", "BAD_REF", ["lore show --help"]),
        ("lore show 12", "BAD_REF", ["lore show '!12'", "lore show '#12'", "lore show --help"]),
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
    assert (answer.json["error"]["code"], answer.json["error"]["actions"]) == (code, actions)


@pytest.mark.usefixtures("redis")
def test_ctrl_c_while_waiting_detaches_and_says_how_to_follow_or_cancel(call: Caller, ledger: Ledger) -> None:
    ledger.raises["wait"] = KeyboardInterrupt()

    human, robot = call("lore-submit 'g/p!12' --wait"), call("lore-submit 'g/p!12' --wait --robot")

    assert human.status == robot.status == 130
    assert f"  try: lore sync-runs --run-id {RUN_ID} --follow\n  try: lore cancel {RUN_ID}\n" in human.err
    assert robot.json["error"]["code"] == "DETACHED"
    assert "cancel" not in ledger.names()


def test_the_first_ctrl_c_in_a_run_of_our_own_is_noted_and_the_second_is_raised() -> None:
    before = signal.getsignal(signal.SIGINT)

    with noting_ctrl_c() as was_pressed:
        assert not was_pressed()
        signal.raise_signal(signal.SIGINT)
        assert was_pressed()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_stays_ignored_where_a_shell_has_it_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with noting_ctrl_c() as was_pressed:
            signal.raise_signal(signal.SIGINT)
            assert not was_pressed()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("redis")
def test_a_run_that_goes_on_at_the_timeout_is_14(call: Caller, ledger: Ledger) -> None:
    ledger.ends = False

    answer = call("lore-submit 'g/p!12' --timeout 5 --robot")

    assert answer.status == 14
    assert answer.json["error"]["code"] == "STILL_RUNNING"
    assert answer.json["error"]["run_id"] == RUN_ID


def failed() -> RunError:
    failures = [Failure("merge_request", 12, "preflight", "GITLAB_NOT_FOUND", "404 \x1b[31mfor !12\nerror: faked")]
    return RunError("SURGICAL_PREFLIGHT_FAILED", "1 of 2 failed", run_id=RUN_ID, total=2, failures=failures)


def test_a_bug_in_the_logs_themselves_is_no_traceback(
    call: Caller, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lore.logs", None)

    answer = call("lore sync-runs")

    assert answer.status == Exit.BUG
    assert "Traceback" not in answer.err
    assert "ModuleNotFoundError" in answer.err


@pytest.mark.invariant("I10")
def test_a_run_that_failed_exits_by_what_ended_it_and_names_every_failure(call: Caller, ledger: Ledger) -> None:
    ledger.error, ledger.status = failed(), "failed"

    human, robot = call("lore-submit 'g/p!12'"), call("lore-submit 'g/p!12' --robot")

    assert human.status == robot.status == Exit.PREFLIGHT
    assert "!12" in human.out
    assert "error: 1 of 2 failed" in human.err
    assert f"try: lore sync-runs --run-id {RUN_ID} --retry-failed" in human.err
    assert robot.json["error"]["total"] == 2
    assert [one["code"] for one in robot.json["error"]["failures"]] == ["GITLAB_NOT_FOUND"]


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
    assert robot.json["error"]["code"] == "HOST_MISMATCH"
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

    assert call("lore-submit '!12' --robot").json["error"]["code"] == "NO_PROJECT"


@pytest.mark.invariant("I2")
def test_a_dry_run_prints_the_plan_and_opens_nothing(
    call: Caller, ledger: Ledger, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORE_GITLAB_TOKEN", "")
    before = sorted(home.rglob("*"))

    human = call("lore-submit 'group/project!12' 'group/project#7' --dry-run")
    robot = call("lore-submit 'group/project!12' 'group/project#7' --dry-run --robot")

    plan = robot.json["data"]["plan"]
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
    assert "meta.next" in answer.json["error"]["message"]
    assert "list_runs" not in ledger.names()


def test_a_cursor_is_of_one_list_and_not_of_another(call: Caller, ledger: Ledger, seam: Any) -> None:
    seam("runs", "list_runs", lambda status, limit, before: [{"run_id": str(n)} for n in range(limit)])
    following = json.loads(call("lore sync-runs --robot -n 1").out)["meta"]["next"]

    assert call(f"lore sync-runs --robot -n 3 --after {following}").status == 0
    assert call(f"lore sync-runs --robot --status failed --after {following}").status == Exit.USAGE


def test_fields_keep_an_answer_small_and_imply_robot(call: Caller, ledger: Ledger) -> None:
    answer = call("lore show 'group/project!12' --fields entity.title,fresh")

    assert answer.json["data"] == {
        "entity": {"title": "Fix the frobnicator"},
        "fresh": {"observed_at": "2026-11-23T05:41:49.123Z", "settled": True},
    }


def test_a_field_that_no_answer_has_is_refused_before_the_work(call: Caller, ledger: Ledger) -> None:
    answer = call("lore show 'group/project!12' --fields=entity.titel")

    assert answer.status == Exit.USAGE
    assert "title" in answer.json["error"]["message"]
    assert ledger.calls == []


def test_sync_run_is_read_as_sync_runs_and_a_slip_in_a_writing_command_is_not(call: Caller, ledger: Ledger) -> None:
    human, robot = call("lore sync-run"), call("lore sync-run --robot")

    assert human.err == "warning: command 'sync-run' of lore was read as sync-runs\n"
    assert [one["code"] for one in robot.json["warnings"]] == ["CORRECTED"]
    refused = call("lore-submit -issue 7 -p g/p")
    assert refused.status == Exit.USAGE
    assert "did you mean --issue?" in refused.err
    assert "  try: lore-submit --issue 7 -p g/p\n" in refused.err
    assert not ledger.submitted


def test_sync_runs_shows_one_run_and_exits_0_though_it_failed(call: Caller, ledger: Ledger) -> None:
    ledger.error, ledger.status = failed(), "failed"

    human, robot = call("lore sync-runs --run-id last"), call("lore sync-runs --run-id last --robot")

    assert human.status == robot.status == 0
    assert f"run {RUN_ID} failed" in human.out
    assert robot.json["data"]["run"]["status"] == "failed"


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
    assert robot.json["error"]["code"] == "SURGICAL_PREFLIGHT_FAILED"


@pytest.mark.invariant("I9")
def test_retry_failed_does_the_new_run_here_without_redis(call: Caller, ledger: Ledger) -> None:
    answer = call("lore sync-runs --run-id last --retry-failed --robot")

    assert answer.json["data"]["run"]["run_id"] == RUN_ID
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
    assert robot.json["data"]["run"]["status"] == "cancelled"


def test_sweep_says_what_it_moved(call: Caller, ledger: Ledger) -> None:
    assert "fetch_sent: 2" in call("lore sweep").out
    assert call("lore sweep --robot").json["data"] == {"swept": {"fetch_sent": 2}}


def test_worker_serves_the_named_queues(call: Caller, ledger: Ledger) -> None:
    assert call("lore worker --queues fetch,commit --processes 2 --threads 3").status == 0
    assert call("lore worker --until-stdin-closes --robot").json["data"] == {"exit": 0}

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
    assert robot.json["data"]["entity"]["title"] == ledger.title
    assert robot.json["data"]["ref"] == "group/project!12"


def test_doctor_names_what_mends_and_exits_0(call: Caller, ledger: Ledger) -> None:
    human, robot = call("lore doctor"), call("lore doctor --robot")

    assert human.status == robot.status == 0
    assert human.out == "ok      database: SQLite\nnot ok  token: expired\n  try: lore doctor\n"
    assert robot.json["data"]["is_ok"] is False
    assert robot.json["data"]["checks"][1]["action"] == "lore doctor"


def test_doctor_says_which_setting_is_wrong(call: Caller, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORE_LOG_LEVEL", "loud")

    human = call("lore doctor")

    assert human.status == 0
    assert human.out.startswith("not ok  settings: LORE_LOG_LEVEL (environment) must be one of")


def test_an_unknown_setting_is_a_warning(call: Caller, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORE_PROJCT", "g/p")

    human, robot = call("lore sync-runs"), call("lore sync-runs --robot")

    assert "did you mean LORE_PROJECT?" in human.err
    assert [one["code"] for one in robot.json["warnings"]] == ["UNKNOWN_SETTING"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_both_commands(call: Caller, shell: str) -> None:
    human, robot = call(f"lore completion {shell}"), call(f"lore completion {shell} --robot")

    assert "_LORE_COMPLETE" in human.out
    assert "_LORE_SUBMIT_COMPLETE" in human.out
    assert robot.json["data"] == {"shell": shell, "script": human.out}


def test_completion_itself_is_never_json(call: Caller, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("LORE_ROBOT", "1")
    monkeypatch.setenv("_LORE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "lore sync")
    monkeypatch.setenv("COMP_CWORD", "1")

    with pytest.raises(SystemExit):
        run(cli.commands, "lore", [])

    assert capsys.readouterr().out == "plain,sync\nplain,sync-runs\n"


@pytest.mark.parametrize(("line", "module"), [("lore demo", "lore.demo.tour"), ("lore demo --serve", "lore.demo")])
def test_demo_runs_the_demo_and_exits_as_it_does(
    call: Caller, monkeypatch: pytest.MonkeyPatch, line: str, module: str
) -> None:
    import runpy

    ran: list[tuple[str, list[str]]] = []

    def run_module(name: str, **_: Any) -> None:
        ran.append((name, sys.argv[1:]))
        raise SystemExit(3)

    monkeypatch.setattr(runpy, "run_module", run_module)

    assert call(line).status == 3
    assert call(f"{line} --robot").json["data"] == {"exit": 3}
    assert ran == [(module, [])] * 2


def test_a_demo_without_its_extra_says_so(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    import runpy

    def run_module(name: str, **_: Any) -> None:
        raise ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn")

    monkeypatch.setattr(runpy, "run_module", run_module)

    answer = call("lore demo --robot")

    assert answer.status == Exit.CONFIGURATION
    assert answer.json["error"]["code"] == "MISSING_EXTRA"


# What `lore mcp` alone imports, when it is called.
LATE = {"cli/serving.py", "cli/tools.py"}
DOORS = sorted({str(path.relative_to(ROOT)) for path in (*ROOT.glob("cli/*.py"), ROOT / "lore/door.py")} - LATE)


@pytest.mark.parametrize("path", DOORS)
def test_the_door_imports_only_click_and_the_standard_library_at_its_top(path: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))

    imported = {
        name if name == "lore.door" else name.split(".")[0]
        for node in tree.body
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }

    assert imported - set(sys.stdlib_module_names) <= {"click", "lore.door", "cli"}


def python(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words], env=environ, text=True, capture_output=True, timeout=30, check=False, **options
    )


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys, cli, lore.door
lore.door.run(cli.submit, "lore-submit", ["--help"])
heavy = {"rich", "structlog", "msgspec", "httpx", "peewee", "dramatiq", "redis", "workers", "models", "lore.settings",
         "lore.core.outcome", "dataclasses_json", "logging", "asyncio"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""

    ran = python("-c", code)

    assert ran.stdout.startswith("Usage: lore-submit")
    assert ran.stderr == "[]\n"


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = f"{shlex.quote(sys.executable)} -c 'import cli; cli.lore()' completion fish | true"

    for _ in range(5):
        ran = subprocess.run(["sh", "-c", line], env=environ, text=True, capture_output=True, timeout=30, check=False)
        assert ran.stderr == ""


def test_the_installed_commands_exit_with_the_status() -> None:
    ran = python("-c", "import cli; cli.lore_submit()", "--mr", "abc", "--robot")

    assert ran.returncode == 2
    assert json.loads(ran.stdout)["error"]["code"] == "BAD_IID"
    assert ran.stderr == ""


def test_a_terminal_that_cannot_show_a_letter_shows_its_escape() -> None:
    os.environ["PYTHONIOENCODING"] = "ascii"
    try:
        ran = python(
            "-c",
            "import cli, click, lore.door\nclick.echo\n"
            "@click.command()\n@click.pass_obj\ndef c(call): call.done({}, show=lambda: print('na\\u00efve'))\n"
            "lore.door.run(c, 'c', [])",
        )
    finally:
        del os.environ["PYTHONIOENCODING"]

    assert ran.stdout == "na\\xefve\n"
    assert ran.returncode == 0
