"""Every public code is met for real, by a command: what a robot reads, what a person reads, and the exit status."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import runpy
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import certificates
import click
import dramatiq
import dramatiq.worker
import pytest
from servers import redis_running, wait_until
from support import age, drain, full_disk

import cli
import workers
from lore import terminal
from lore.core import documents as texts
from lore.core.errors import CODES, EXIT_MEANINGS, Exit
from lore.core.outcome import WARNINGS
from lore.demo.server import running
from lore.door import run
from lore.settings import read_settings
from models import base, schema
from models.ledger import Project, Run
from models.queue import StagedPayload, Task
from workers import resources, runs, syncing
from workers.broker import build_broker

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = [
    *(path for folder in ("cli", "lore", "models", "workers") for path in sorted((ROOT / folder).rglob("*.py"))),
]
WORKING = dramatiq.worker._WorkerThread
RUN_ID = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{3}-[0-9a-f]{8}")
SUBMIT = "lore-submit --mr 1 --issue 4"
FOLLOW = "lore sync-runs --run-id last --follow"
RETRY = "lore sync-runs --run-id last --retry-failed"


@dataclass
class Answer:
    status: int
    out: str
    err: str


@dataclass
class World:
    """A demo GitLab, a database, and the settings and commands of somebody who uses them."""

    demo: Any
    environ: dict[str, str]
    database_url: str
    tmp_path: Path
    monkeypatch: pytest.MonkeyPatch
    stack: ExitStack
    capfd: Any

    def call(self, line: str) -> Answer:
        for name in list(os.environ):
            if name.startswith(("LORE_", "GITLAB_", "XDG_", "GIT_")):
                self.monkeypatch.delenv(name)
        for name, value in self.environ.items():
            self.monkeypatch.setenv(name, value)
        prog, *argv = shlex.split(line)
        base.disconnect()  # as a process of its own begins
        self.capfd.readouterr()
        status = run(cli.submit if prog == "lore-submit" else cli.commands, prog, argv)
        # The end of a process also ends a request that its run did not wait for.
        wait_until(lambda: not any(isinstance(one, WORKING) for one in threading.enumerate()), "its threads ended")
        said = self.capfd.readouterr()
        return Answer(status, said.out, said.err)

    def ok(self, line: str) -> None:
        answer = self.call(line)
        assert answer.status == 0, answer

    def fault(self, action: Any, *, of: str | None = None, **more: Any) -> None:
        """Let every request fail, or those of a route."""
        self.demo.faults([{"action": action, "match": {"route": of} if of else {}, **more}])

    def patch(self) -> pytest.MonkeyPatch:
        """Return what is undone after the call."""
        return self.stack.enter_context(pytest.MonkeyPatch.context())

    def set(self, **environ: str) -> None:
        self.environ |= environ

    def queued(self) -> str:
        """Leave a run to a worker that does not come."""
        self.ok(f"{SUBMIT} --no-wait")
        return runs.find_run("last")

    def fetched(self) -> str:
        """Leave a run before its commit."""
        run_id = self.queued()
        resources.configure(read_settings(os.environ))
        dramatiq.get_broker().get_actor("preflight").fn(run_id)
        drain(only={"preflight", "fetch"})
        assert Run.get().status == "committing"
        return run_id


@pytest.fixture(scope="module")
def demo() -> Iterator[Any]:
    with running("tiny") as server:
        yield server


@pytest.fixture
def world(
    ledger: Any, demo: Any, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> Iterator[World]:
    demo.reset()
    monkeypatch.chdir(tmp_path)
    # The actors of a process belong to one broker, which here is the one of all tests.
    for door in ("open_workers", "open_sender"):
        monkeypatch.setattr(workers, door, lambda settings, **_: workers.open_ledger(settings))
    environ = {
        "HOME": str(tmp_path),
        "GIT_CEILING_DIRECTORIES": str(tmp_path.parent),
        "LORE_GITLAB_URL": demo.url,
        "LORE_GITLAB_TOKEN": demo.token,
        "LORE_PROJECT": demo.project,
        "LORE_DATABASE_URL": database_url,
        "LORE_GITLAB_TIMEOUT": "10s",
    }
    with ExitStack() as stack:
        yield World(demo, environ, database_url, tmp_path, monkeypatch, stack, capfd)


Prepare = Callable[[World], object]


@dataclass(frozen=True)
class Met:
    """How a code is met.

    Attributes:
        line: The command that ends with it.
        prepare: What has to be so before; done anew for each of the two calls.
        environ: Settings.
        outer: The code of the whole run, where this one is an entity's; several, where it depends on who is first.
        exit: The exit status, where what ended the run gives another than the code's own.
        only: The one database on which there is such a thing.
    """

    line: str
    prepare: Prepare = field(default=lambda world: None)
    environ: dict[str, str] = field(default_factory=dict)
    outer: Sequence[str] = ()
    exit: Exit | None = None
    only: str | None = None


def everywhere(action: Any, **environ: str) -> Met:
    return Met(SUBMIT, lambda world: world.fault(action), environ)


def of_entity(
    action: Any,
    *,
    exit: Exit = Exit.PREFLIGHT,
    route: str = "/projects/:id/issues/:iid",
    outer: Sequence[str] = ("SURGICAL_PREFLIGHT_FAILED",),
) -> Met:
    return Met(SUBMIT, lambda world: world.fault(action, of=route), outer=outer, exit=exit)


PAUSED = ("SURGICAL_PREFLIGHT_FAILED", "GITLAB_RATE_LIMITED")


def of_list(line: str, action: Any, route: str) -> Met:
    return Met(line, lambda world: world.fault(action, of=route))


def two_projects(world: World) -> None:
    for number, group in enumerate(("a", "b"), start=1):
        Project.insert(
            gitlab_url=world.demo.url, path_with_namespace=f"{group}/twin", gitlab_id=number
        ).on_conflict_ignore().execute()


def untrusted(world: World) -> None:
    """Serve TLS with a certificate of an authority that is in no trust store."""
    cert, key = certificates.make(world.tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    # The handshake is made by the thread that reads, which then finds that it was broken off.
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    world.stack.callback(server.server_close)
    world.stack.callback(thread.join, 10)
    world.stack.callback(server.shutdown)
    world.set(LORE_GITLAB_URL=f"https://127.0.0.1:{server.server_address[1]}", NO_PROXY="*")


def of_another_gitlab(world: World) -> None:
    world.fault("forbidden")
    world.call(SUBMIT)
    world.set(LORE_GITLAB_URL=world.demo.url.replace("127.0.0.1", "localhost"))


def network_disk(world: World) -> None:
    world.patch().setattr(schema, "_NETWORK_FILE_SYSTEMS", ("",))


def unstable(world: World) -> None:
    """Let the first page of a list differ from one reading to the next, without an ETag that would say so."""
    first = {"route": "/projects/:id/issues/:iid/discussions", "page": 1}
    world.demo.faults(
        [
            {"match": first, "when": {"every": 2}, "action": {"type": "page_drift", "form": "drop"}},
            {"match": first, "action": {"type": "headers", "set": {"ETag": None}}},
        ]
    )


def held(world: World) -> None:
    """Let somebody else keep what a writing command needs."""
    world.queued()
    if world.database_url.startswith("sqlite"):
        world.patch().setattr(base, "SQLITE_BUSY_S", 0.05)
        import sqlite3

        other = sqlite3.connect(base.sqlite_path(world.database_url), isolation_level=None)
        world.stack.enter_context(closing(other))
        other.execute("BEGIN IMMEDIATE")
        return
    import psycopg

    world.patch().setenv("PGOPTIONS", "-c lock_timeout=50")
    holder = world.stack.enter_context(psycopg.connect(world.database_url, application_name="lore"))
    holder.execute("SELECT * FROM sync_runs FOR UPDATE")


def newer(world: World) -> None:
    world.call("lore sync-runs")
    base.database.execute_sql("INSERT INTO schema_migration (name, applied) VALUES ('9999_future', CURRENT_TIMESTAMP)")
    world.stack.callback(lambda: base.database.execute_sql("DELETE FROM schema_migration WHERE name = '9999_future'"))


def damaged(world: World) -> None:
    world.ok("lore sync-runs")
    base.database.execute_sql("ALTER TABLE sync_runs RENAME COLUMN trigger TO trigger_of_another")


def no_redis(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    sending_to(world, f"redis://:pw-of-redis@127.0.0.1:{port}/0")


def no_worker(world: World) -> None:
    world.call("lore cancel last")  # what the call before left queued
    sending_to(world, world.stack.enter_context(redis_running()).url)


def sending_to(world: World, redis_url: str) -> None:
    mine = dramatiq.get_broker()
    world.stack.callback(dramatiq.set_broker, mine)
    world.set(LORE_REDIS_URL=redis_url)
    broker = build_broker(redis_url)
    world.stack.callback(broker.close)
    dramatiq.set_broker(broker)


def unheard(world: World) -> None:
    world.queued()
    age(Run, 90_000_000, Run.created_at)
    world.ok("lore sweep")


def lost_thrice(world: World) -> None:
    world.queued()
    Run.update(status="preflight").execute()
    Task.update(status="claimed", claimed_until=1, lost_claims=2).where(Task.entity_type == "issue").execute()
    Task.update(status="done", found_project_id=71).where(Task.entity_type != "issue").execute()
    Project.update(gitlab_id=71).execute()
    Task.delete().where(Task.entity_type == "project").execute()
    world.ok("lore sweep")


def died_thrice(world: World) -> None:
    world.fetched()
    Run.update(stage_tries=3).execute()
    drain()


def spoilt(world: World) -> None:
    world.fetched()
    StagedPayload.update(body=b'{"broken').execute()
    drain()


# The fixture of the database gives the actors an embedder at our own seam; these ask for what the settings name.
REAL_EMBEDDER = resources.embedder


def really_embedding(world: World) -> None:
    world.patch().setattr(resources, "embedder", REAL_EMBEDDER)


def without_wordllama(world: World) -> None:
    really_embedding(world)
    world.patch().setitem(sys.modules, "wordllama", None)


def embedder_that_is_none(world: World) -> None:
    """A server that is there and knows nothing of embeddings."""
    really_embedding(world)
    world.set(LORE_EMBEDDINGS="ollama", LORE_EMBEDDINGS_URL=world.demo.url)


def embedder_that_babbles(world: World) -> None:
    world.ok(f"{SUBMIT} --no-embed")
    embedder_that_is_none(world)
    world.fault("html")


def text_that_cannot_be_built(world: World) -> None:
    world.patch().setattr(texts, "build", _bug)


def embedder_with_a_bug(world: World) -> None:
    embedder = SimpleNamespace(model="m", batch_size=1, split=_bug)
    world.patch().setattr(resources, "embedder", lambda: embedder)


def _bug(anything: Any) -> Any:
    raise IndexError("planted")


def cancelled(world: World) -> None:
    world.queued()
    world.ok("lore cancel last")


def interrupt_once_waited_for(world: World) -> None:
    """Press Ctrl-C as soon as the command follows its run."""
    real = runs.wait

    def wait(*args: Any, **named: Any) -> bool:
        signal.raise_signal(signal.SIGINT)
        return real(*args, **named)

    world.patch().setattr(runs, "wait", wait)


def interrupted(world: World) -> None:
    world.patch().setattr(workers, "open_ledger", lambda settings: signal.raise_signal(signal.SIGINT))


def demo_that_fails(world: World) -> None:
    def run_module(name: str, **_: Any) -> None:
        raise SystemExit(int(Exit.PREFLIGHT))

    world.patch().setattr(runpy, "run_module", run_module)


def buggy(world: World) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("nobody expected this")

    world.patch().setattr(runs, "list_runs", fail)


WITH_REDIS = {"LORE_REDIS_URL": "redis://127.0.0.1:9/0"}
HOUR = {"type": "server_error", "status": 503, "retry_after": 3600}
SHORT = {"LORE_RUN_DEADLINE": "1s", "LORE_GITLAB_TIMEOUT": "3s"}

MET: dict[str, Met] = {
    "USAGE": Met("lore frobnicate"),
    "NO_ENTITIES": Met("lore-submit -p g/p"),
    "BAD_IID": Met("lore-submit --mr 0"),
    "BAD_REF": Met("lore show nonsense"),
    "HOST_MISMATCH": Met("lore-submit https://elsewhere.test/g/p/-/issues/7"),
    "SEVERAL_PROJECTS": Met("lore-submit 'g/p!12' 'g/q#7'"),
    "NO_PROJECT": Met("lore-submit '!12'", environ={"LORE_PROJECT": ""}),
    "AMBIGUOUS_PROJECT": Met("lore-submit 'twin!12'", two_projects, {"LORE_PROJECT": ""}),
    "CONFLICTING_OPTIONS": Met(f"{SUBMIT} --dry-run --preflight-only"),
    "NO_DOCS_REQUIRES_NO_EMBED": Met(f"{SUBMIT} --no-docs"),
    "AMBIGUOUS_RUN": Met("lore cancel 2", lambda world: (world.queued(), world.queued())),
    "RUN_OPEN": Met(RETRY, World.queued),
    "RUN_ENDED": Met("lore cancel last", lambda world: world.ok(SUBMIT)),
    "NOTHING_TO_RETRY": Met(RETRY, lambda world: world.ok(SUBMIT)),
    "NO_TOKEN": Met(SUBMIT, environ={"LORE_GITLAB_TOKEN": ""}),
    "TOKEN_FILE": Met(SUBMIT, environ={"LORE_GITLAB_TOKEN": "", "LORE_GITLAB_TOKEN_FILE": "/not/there"}),
    "BAD_SETTING": Met(SUBMIT, environ={"LORE_GITLAB_CONCURRENCY": "many"}),
    "MISSING_EXTRA": Met(
        "lore sync-runs",
        lambda world: world.patch().setitem(sys.modules, "psycopg", None),
        {"LORE_DATABASE_URL": "postgresql://lore@127.0.0.1/lore"},
        only="sqlite",
    ),
    "TLS_UNTRUSTED": Met(SUBMIT, untrusted),
    "OTHER_GITLAB": Met(RETRY, of_another_gitlab),
    "NETWORK_FILE_SYSTEM": Met("lore sync-runs", network_disk, only="sqlite"),
    "GITLAB_UNAUTHORIZED": everywhere("unauthorized"),
    "GITLAB_FORBIDDEN": everywhere("forbidden"),
    "RUN_NOT_FOUND": Met("lore sync-runs --run-id nobody"),
    "UNKNOWN_PROJECT": Met("lore-submit 'nobody!12'", environ={"LORE_PROJECT": ""}),
    "PROJECT_NOT_FOUND": Met("lore-submit -p no/where --mr 12"),
    "NOT_IN_MIRROR": Met("lore show '!1'", two_projects),
    "PATH_NOT_FOUND": Met("lore file-history no/such/file.py", lambda world: world.ok(SUBMIT)),
    "GITLAB_NOT_FOUND": of_entity("not_found"),
    "GITLAB_RATE_LIMITED": everywhere({"type": "rate_limited", "retry_after": 3600}),
    "GITLAB_UNREACHABLE": Met(SUBMIT, environ={"LORE_GITLAB_URL": "http://127.0.0.1:9", **SHORT}),
    "GITLAB_UNAVAILABLE": everywhere(HOUR),
    "GITLAB_BROKEN_ANSWER": everywhere("truncated", **SHORT),
    "GITLAB_BAD_PAYLOAD": everywhere("html"),
    "GITLAB_TOO_LARGE": everywhere({"type": "big_body", "mb": 2}, LORE_GITLAB_MAX_BODY_MB="1"),
    "GITLAB_REDIRECT": everywhere({"type": "html", "form": "redirect"}),
    "GITLAB_BAD_REQUEST": everywhere({"type": "server_error", "status": 400}),
    "WRONG_ENTITY": of_entity({"type": "schema", "form": "value", "field": "iid", "value": 999}),
    "LIST_UNSTABLE": Met(SUBMIT, unstable, SHORT, ["SURGICAL_PREFLIGHT_FAILED", "RUN_DEADLINE"], exit=Exit.GITLAB),
    "DATABASE_UNREACHABLE": Met("lore sync-runs", environ={"LORE_DATABASE_URL": "/proc/no/lore.db"}),
    "DATABASE_BUSY": Met("lore cancel last", held),
    "DATABASE_FULL": Met(SUBMIT, lambda world: world.stack.enter_context(full_disk())),
    "DATABASE_NEWER": Met("lore sync-runs", newer),
    "DATABASE_ERROR": Met("lore sync-runs", damaged),
    "BROKER_UNREACHABLE": Met("lore sweep", no_redis),
    "NO_LIVE_WORKER": Met("lore sync", no_worker),
    "QUEUE_DEADLINE": Met(FOLLOW, unheard),
    "SURGICAL_PREFLIGHT_FAILED": Met("lore-submit --mr 1 --issue 99999"),
    "SYNC_INCOMPLETE": of_list("lore sync", {"type": "forbidden"}, "/projects/:id/issues/:iid"),
    "LISTING_INCOMPLETE": of_list(
        "lore sync --prune", {"type": "page_drift", "form": "wrong_total"}, "/projects/:id/merge_requests"
    ),
    "RUN_DEADLINE": Met(SUBMIT, lambda world: world.fault({"type": "latency", "ms": 60_000}), SHORT),
    "POISON": Met(FOLLOW, died_thrice),
    "INGEST_FAILED": Met(FOLLOW, spoilt),
    "EMPTY_QUERY": Met("lore search ' '"),
    "EMPTY_MIRROR": Met("lore search tide"),
    "EMBEDDER_MISSING": Met("lore embed", without_wordllama, {"LORE_EMBEDDINGS": "wordllama"}),
    "EMBEDDINGS_OFF": Met("lore embed", really_embedding, {"LORE_EMBEDDINGS": "off"}),
    "EMBEDDER_UNREACHABLE": Met(
        SUBMIT, really_embedding, {"LORE_EMBEDDINGS": "ollama", "LORE_EMBEDDINGS_URL": "http://127.0.0.1:9"}
    ),
    "EMBEDDER_REFUSED": Met(SUBMIT, embedder_that_is_none),
    "EMBEDDER_BAD_ANSWER": Met("lore embed", embedder_that_babbles),
    "DOCUMENTS_FAILED": Met(SUBMIT, text_that_cannot_be_built),
    "EMBEDDING_FAILED": Met(SUBMIT, embedder_with_a_bug),
    "RUN_CANCELLED": Met(FOLLOW, cancelled),
    "STILL_RUNNING": Met(f"{SUBMIT} --timeout 0.1", environ=WITH_REDIS),
    "DETACHED": Met(f"{SUBMIT} --wait", interrupt_once_waited_for, WITH_REDIS),
    "INTERRUPTED": Met("lore sync-runs", interrupted),
    "DEMO_FAILED": Met("lore demo", demo_that_fails, exit=Exit.PREFLIGHT),
    "INTERNAL": Met("lore sync-runs", buggy),
}
# Codes that an entity can have as well as a run, and the other way to one.
MET_TOO: list[tuple[str, Met]] = [
    ("GITLAB_FORBIDDEN", of_entity("forbidden")),
    (
        "GITLAB_BAD_PAYLOAD",
        of_entity({"type": "html", "form": "captive"}, route="/projects/:id/issues/:iid/discussions"),
    ),
    (
        "GITLAB_RATE_LIMITED",
        of_entity({"type": "rate_limited", "retry_after": 3600}, exit=Exit.RATE_LIMITED, outer=PAUSED),
    ),
    ("GITLAB_UNAVAILABLE", of_entity(HOUR, exit=Exit.GITLAB)),
    ("POISON", Met(FOLLOW, lost_thrice, outer=["SURGICAL_PREFLIGHT_FAILED"], exit=Exit.PREFLIGHT)),
    ("DATABASE_UNREACHABLE", Met("lore sync-runs", environ={"LORE_DATABASE_URL": "postgresql://lore@127.0.0.1:9/x"})),
    ("NO_TOKEN", Met("lore worker", environ={"LORE_GITLAB_TOKEN": ""})),
]
CASES = [*MET.items(), *MET_TOO]


@pytest.mark.slow
@pytest.mark.invariant("I10")
@pytest.mark.parametrize(("code", "met"), CASES, ids=[f"{code}-{number}" for number, (code, _) in enumerate(CASES)])
def test_a_code_is_met_with_its_json_its_words_its_status_and_a_way_out(world: World, code: str, met: Met) -> None:
    if met.only and not world.database_url.startswith(met.only):
        return
    world.set(**met.environ)
    met.prepare(world)
    robot = world.call(f"{met.line} --robot")
    world.stack.close()
    said = error_of(robot)
    assert robot.status == (met.exit or CODES[code].exit), robot
    assert said["code"] in (met.outer or [code]), robot
    if met.outer:
        assert code in {failure["code"] for failure in said["failures"]}, robot
    assert said["message"].strip()
    check_run(said)
    check_actions(said["code"], said["actions"])
    fresh(world, met)

    human = world.call(met.line)
    world.stack.close()

    assert human.status == robot.status
    check_words(human.err, said, met.outer)
    assert "Traceback" not in human.err + robot.err + human.out


def fresh(world: World, met: Met) -> None:
    """Put everything back for the second call."""
    world.demo.reset()
    base.disconnect()
    if world.database_url.startswith("sqlite"):
        for path in world.tmp_path.glob("lore.db*"):
            path.unlink()
    else:
        import psycopg

        with psycopg.connect(world.database_url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
    base.open_database(world.database_url)
    schema.bring_up()
    broker: Any = dramatiq.get_broker()
    broker.flush_all()
    world.environ["LORE_GITLAB_URL"] = world.demo.url
    world.set(**met.environ)
    met.prepare(world)


def error_of(answer: Answer) -> dict[str, Any]:
    assert answer.out.count("\n") == 1, answer
    whole = json.loads(answer.out)
    assert set(whole) == {"ok", "error", "meta"}
    assert whole["ok"] is False
    assert set(whole["meta"]) == {"command", "version", "elapsed_ms"}
    found: dict[str, Any] = whole["error"]
    return found


def check_words(err: str, said: dict[str, Any], outer: Sequence[str]) -> None:
    """A person reads the same message, code and actions; of a run of its own, which may end a little otherwise."""
    (message,) = re.findall(r"^error: (.*)$", err, re.MULTILINE)
    (code,) = re.findall(r"^  code: (.*)$", err, re.MULTILINE)
    actions = re.findall(r"^  try: (.*)$", err, re.MULTILINE)
    assert message
    if outer:
        assert code in outer
        check_actions(code, actions)
        return
    assert without_run(message) == without_run(said["message"].splitlines()[0])
    assert code == said["code"]
    assert [without_run(action) for action in actions] == [
        without_run(action.replace(" --robot", "")) for action in said["actions"]
    ]


def check_run(said: dict[str, Any]) -> None:
    assert set(said) - {"run_id", "total", "failures"} == {"code", "message", "actions"}
    for failure in said.get("failures", ()):
        assert set(failure) == {"entity_type", "iid", "stage", "code", "message"}
        assert failure["code"] in CODES
    if said["code"] == "SURGICAL_PREFLIGHT_FAILED":
        assert said["run_id"]
        assert said["total"] == 2
        assert said["failures"]


def without_run(text: str) -> str:
    text = re.sub(r"\b[0-9]+(\.[0-9]+)? s\b", "N s", text)
    text = text.replace(" (waited until the deadline)", "")
    # Several fail at once: whoever is first is named, or finds that another was told to wait.
    text = re.sub(r"/projects/[^\s,]+( was not asked for)?", "PATH", text)
    text = text.replace("every request to it is paused", "PATH")
    return re.sub(r"127\.0\.0\.1:[0-9]+", "HERE", RUN_ID.sub("RUN", text))


# What lore tells to run besides itself.
OTHERS = {"chmod", "curl", sys.executable}


def check_actions(code: str, actions: list[str]) -> None:
    """A command that is said to help has to exist, with each of its options."""
    assert actions or code == "INTERRUPTED", f"{code} has no way out"
    for action in actions:
        assert "{" not in action
        words = shlex.split(action)
        if words[0] == "env":
            words = [word for word in words[1:] if not re.fullmatch(r"[A-Z_]+=.*", word)]
        if words[0] in OTHERS:
            continue
        assert words[0] in ("lore", "lore-submit"), action
        parse(cli.submit if words[0] == "lore-submit" else cli.commands, words)


def parse(command: click.Command, words: list[str]) -> None:
    """Let click read a command line without doing what it says."""
    name, *rest = [word for word in words if word != "--robot"]
    if isinstance(command, click.Group) and rest[:1] != ["--help"]:
        assert rest[0] in command.commands, words
        parse(command.commands[rest[0]], rest)
        return
    with contextlib.suppress(click.exceptions.Exit):  # of --help
        command.make_context(name, rest)


def pressed_once_written(world: World, module: Any, name: str) -> None:
    """Press Ctrl-C at the moment at which a run is written and its id is not yet known to the command."""
    real = getattr(module, name)

    def write_and_press(*args: Any, **named: Any) -> Any:
        written = real(*args, **named)
        signal.raise_signal(signal.SIGINT)
        return written

    world.patch().setattr(module, name, write_and_press)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "module", "name"),
    [
        (SUBMIT, runs, "submit"),
        (RETRY, runs, "retry"),
        ("lore sync", syncing, "open_sync"),
        ("lore sync 'tern/harbour!1'", runs, "submit"),
    ],
)
def test_ctrl_c_once_a_run_is_written_cancels_it(world: World, line: str, module: Any, name: str) -> None:
    if line == RETRY:
        cancelled(world)
    project = world.environ["LORE_PROJECT"]
    pressed_once_written(world, module, name)

    answer = world.call(line.replace("tern/harbour", project) + " --robot")

    said = error_of(answer)
    assert (answer.status, said["code"]) == (Exit.CANCELLED, "RUN_CANCELLED")
    run = runs.read_run(runs.find_run("last"))
    assert (run["run_id"], run["status"]) == (said["run_id"], "cancelled")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "module", "name"),
    [
        (SUBMIT, runs, "submit"),
        (f"{SUBMIT} --wait", runs, "submit"),
        (f"{SUBMIT} --wait", runs, "has_live_worker"),
        (RETRY, runs, "retry"),
        ("lore sync", syncing, "open_sync"),
    ],
)
def test_with_redis_ctrl_c_once_a_run_is_written_names_it(world: World, line: str, module: Any, name: str) -> None:
    if line == RETRY:
        cancelled(world)
    world.set(**WITH_REDIS)
    pressed_once_written(world, module, name)

    answer = world.call(f"{line} --robot")

    said = error_of(answer)
    run_id = runs.find_run("last")
    assert (answer.status, said["code"], said["run_id"]) == (130, "DETACHED", run_id)
    assert any("--follow" in action and run_id in action for action in said["actions"])
    assert runs.read_run(run_id)["status"] == "queued"


@pytest.mark.slow
def test_ctrl_c_that_came_too_late_for_a_sync_is_for_those_that_were_to_come(world: World) -> None:
    project = world.environ["LORE_PROJECT"]
    world.patch().setattr(syncing, "mirrored_projects", lambda url: [project, "not/begun"])
    world.set(LORE_PROJECT="")
    pressed_once_written(world, runs, "error_of")

    answer = world.call("lore sync --no-docs --no-embed --robot")

    assert (answer.status, error_of(answer)["code"]) == (130, "INTERRUPTED")
    assert [run["status"] for run in runs.list_runs()] == ["succeeded"]


@pytest.mark.slow
@pytest.mark.parametrize(("options", "said"), [("", 1), ("--quiet", 0), ("--robot", 0)])
@pytest.mark.parametrize("line", ["lore-submit --mr 1", "lore sync"])
def test_people_are_told_what_a_run_that_gets_nowhere_waits_for(
    world: World, line: str, options: str, said: int
) -> None:
    world.patch().setattr(terminal, "_STUCK_AFTER_S", 0.0)
    world.set(LORE_GITLAB_URL="http://127.0.0.1:9", LORE_RUN_DEADLINE="6s")

    answer = world.call(f"{line} {options}")

    assert answer.status == Exit.GITLAB
    told = r"^waiting: cannot connect to 127\.0\.0\.1: .+; trying again for [0-6] s at most$"
    assert len(re.findall(told, answer.err, re.MULTILINE)) == answer.err.count("waiting: ") == said


@pytest.mark.slow
def test_people_are_told_what_a_run_of_workers_waits_for(world: World) -> None:
    world.patch().setattr(terminal, "_STUCK_AFTER_S", 0.0)
    world.set(**WITH_REDIS)
    real = runs.wait

    def wait(run_id: str, **named: Any) -> bool:
        Run.update(status="preflight").execute()
        Task.update(error_code="GITLAB_UNREACHABLE", error_message="no way").execute()
        return real(run_id, **named)

    world.patch().setattr(runs, "wait", wait)

    answer = world.call("lore-submit --mr 1 --timeout 3")

    assert answer.status == Exit.STILL_RUNNING
    assert re.findall("^waiting: .*$", answer.err, re.MULTILINE) == ["waiting: no way; trying again"]


def literals(tree: ast.AST) -> set[str]:
    """Return every text of a module that looks like a code, its docstrings left out."""
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[A-Z][A-Z_]+", node.value)
    }


def raised(tree: ast.AST) -> set[str]:
    """Return every code with which an error is made or a run is ended."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if (name.endswith("Error") or name in ("_fail", "_bad_payload")) and name != "ApiError":
            found |= {one.value for one in node.args[:2] if isinstance(one, ast.Constant)}
        found |= {
            one.value.value
            for one in node.keywords
            if one.arg in ("code", "error_code") and isinstance(one.value, ast.Constant)
        }
    return {one for one in found if isinstance(one, str) and re.fullmatch(r"[A-Z][A-Z_]+", one)}


def modules() -> Iterator[tuple[Path, ast.AST]]:
    for path in PRODUCT:
        if path.name != "errors.py" and "demo" not in path.parts:
            yield path, ast.parse(path.read_text("utf-8"))


@pytest.mark.invariant("I10")
def test_every_code_of_the_table_is_met_here() -> None:
    assert set(MET) == set(CODES)


@pytest.mark.invariant("I10")
def test_every_code_of_the_table_is_raised_somewhere_and_none_beside_it() -> None:
    used: set[str] = set()
    for path, tree in modules():
        used |= literals(tree)
        assert raised(tree) <= set(CODES), path

    assert set(CODES) <= used


def test_every_warning_that_is_given_is_in_the_table_of_warnings() -> None:
    given = {
        node.args[0].value
        for _, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "warn"
        and isinstance(node.args[0], ast.Constant)
    }

    assert given
    assert given <= set(WARNINGS)


def test_every_exit_status_but_success_has_a_code() -> None:
    assert {code.exit for code in CODES.values()} == set(EXIT_MEANINGS) - {Exit.DONE}


@pytest.mark.parametrize("code", sorted(CODES))
def test_the_actions_of_the_table_are_commands_that_exist(code: str) -> None:
    context = {"run_id": "RUN", "command": "lore show", "again": "lore show -p g/p"}
    context |= {"ref": "'g/p!12'", "number": "12"}
    actions = [template.format(**context) for template in CODES[code].actions]

    if actions:
        check_actions(code, actions)


@pytest.fixture
def shell(world: World) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Return a function that runs a line as it was printed, in a shell that finds both commands."""
    folder = world.tmp_path / "bin"
    folder.mkdir()
    for name, function in (("lore", "lore"), ("lore-submit", "lore_submit")):
        script = folder / name
        script.write_text(f"#!{sys.executable}\nimport sys\nsys.argv[0] = {name!r}\nimport cli\ncli.{function}()\n")
        script.chmod(0o755)
    environ = world.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def do(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "-c", line], env=environ, capture_output=True, text=True, check=False, timeout=120
        )

    return do


@pytest.mark.slow
@pytest.mark.invariant("I10")
def test_the_actions_of_a_failed_run_do_what_they_say_when_run_as_printed(world: World, shell: Any) -> None:
    world.fault({"type": "forbidden"}, of="/projects/:id/issues/:iid")
    failed = shell(SUBMIT)
    look, retry = re.findall(r"^  try: (.*)$", failed.stderr, re.MULTILINE)
    world.demo.faults([])

    looked, retried = shell(look), shell(retry)

    assert failed.returncode == Exit.PREFLIGHT, failed
    assert looked.returncode == 0, looked
    assert "GITLAB_FORBIDDEN" in looked.stdout
    assert retried.returncode == 0, retried
    assert runs.read_run(runs.find_run("last"))["counts"]["ok"] == 2
    assert {json.loads(shell(f"{look} --robot").stdout)["data"]["run"]["status"]} == {"failed"}


@pytest.mark.slow
@pytest.mark.invariant("I10")
def test_a_sync_that_fails_says_why_once_and_proposes_the_sync_of_the_same_project(world: World) -> None:
    said = world.call("lore sync -p no/such")

    whole = said.out + said.err
    assert said.status == Exit.NOT_FOUND
    assert whole.count("GitLab has no project no/such") == whole.count("PROJECT_NOT_FOUND") == 1, whole
    assert re.findall(r"^  try: (.*)$", said.err, re.MULTILINE)[1:] == ["lore sync -p no/such"]


@pytest.mark.slow
def test_of_an_embedder_that_is_set_wrongly_a_search_by_words_says_that_alone(world: World) -> None:
    world.ok(f"{SUBMIT} --no-embed")
    really_embedding(world)
    world.set(LORE_EMBEDDINGS="openai")

    human, robot = world.call("lore search tide"), world.call("lore search tide --robot")

    assert human.status == 0
    assert re.fullmatch(r"warning: only words were searched: .*LORE_EMBEDDINGS_URL.*\n", human.err)
    whole = json.loads(robot.out)
    assert [warning["code"] for warning in whole["warnings"]] == ["BAD_SETTING"]
    assert whole["data"]["mode"] == "text"


@pytest.mark.slow
@pytest.mark.invariant("I10")
@pytest.mark.parametrize("code", ["NO_DOCS_REQUIRES_NO_EMBED", "SEVERAL_PROJECTS", "NOT_IN_MIRROR", "RUN_OPEN"])
def test_the_action_of_a_refusal_is_the_way_out_when_run_as_printed(world: World, shell: Any, code: str) -> None:
    project = world.demo.project
    lines = {"SEVERAL_PROJECTS": f"lore-submit '{project}!1' 'g/q#7'", "NOT_IN_MIRROR": f"lore show '{project}!1'"}
    if code == "NOT_IN_MIRROR":
        world.ok("lore-submit --issue 4")
    elif code == "RUN_OPEN":
        world.queued()
    refused = shell(lines.get(code, MET[code].line))
    actions = re.findall(r"^  try: (.*)$", refused.stderr, re.MULTILINE)

    done = shell(actions[0])

    assert refused.returncode == CODES[code].exit, refused
    assert f"code: {code}" in refused.stderr
    assert done.returncode == 0, done
