"""What must leave no trace: a dry run of any kind, and in the content a preflight alone."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import content, drain, open_tasks

import cli
from lore.core.plan import Entity
from lore.core.runs import RunOptions
from lore.demo.server import running, spawn
from lore.demo.tour import redis_server
from lore.door import run
from models import base, schema
from models.queue import StagedPayload
from workers import resources, runs

ROOT = Path(__file__).resolve().parents[1]
NOWHERE = "redis://127.0.0.1:9/0"
NAMED = (Entity("issue", 7), Entity("merge_request", 12))

Tree = dict[str, tuple[int, int, int, str]]


def tree(folder: Path) -> Tree:
    """Return everything below a folder: mode, size, time of change, and what its bytes are."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_size, status.st_mtime_ns, digest)
    return found


def tables(database_url: str) -> set[str]:
    """Return the tables of a PostgreSQL database; empty for SQLite, whose file is compared instead."""
    if not database_url.startswith("postgresql"):
        return set()
    import psycopg

    with psycopg.connect(database_url, autocommit=True) as connection:
        rows = connection.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        return {name for (name,) in rows}


@contextmanager
def unvisited() -> Iterator[int]:
    """Listen on a port and fail if anybody came by."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        yield door.getsockname()[1]
        door.setblocking(False)
        with pytest.raises(BlockingIOError):
            door.accept()


@pytest.fixture(scope="module")
def demo() -> Iterator[Any]:
    with running("demo") as server:
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def environ(demo: Any, home: Path) -> dict[str, str]:
    demo.reset()
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return kept | {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_DATA_HOME": str(home / "data"),
        "PYTHONPATH": str(ROOT),
        "GIT_CEILING_DIRECTORIES": str(home.parent),
        "LORE_GITLAB_URL": demo.url,
        "LORE_GITLAB_TOKEN": demo.token,
        "LORE_PROJECT": demo.project,
    }


Caller = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def call(environ: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Caller:
    """Return a function that calls a command in this process, in the home and with the environment of the test."""
    monkeypatch.chdir(home)

    def call(line: str) -> tuple[int, str, str]:
        for name in list(os.environ):
            if name.startswith(("LORE_", "GITLAB_", "XDG_", "GIT_")):
                monkeypatch.delenv(name)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        prog, *argv = shlex.split(line)
        capfd.readouterr()
        status = run(cli.submit if prog == "lore-submit" else cli.commands, prog, argv)
        said = capfd.readouterr()
        return status, said.out, said.err

    return call


def lore(environ: dict[str, str], line: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", *shlex.split(line)]
    done = subprocess.run(
        command, env=environ, cwd=environ["HOME"], capture_output=True, text=True, check=False, timeout=120
    )
    return done


DRY_RUNS = (
    "lore-submit --mr 12 --issue 7 --dry-run",
    "lore-submit --mr 12 --issue 7 --dry-run --robot",
    "lore-submit --mr 12 --issue 7 --dry-run --no-embed",
    "lore-submit --mr 12 --issue 7 --dry-run --no-docs --no-embed",
    "lore-submit --mr 12 --issue 7 --dry-run --wait --timeout 5",
    "lore-submit --mr 12 --issue 7 --dry-run --no-wait",
    "lore-submit --mr 12 --issue 7 --dry-run --quiet --trigger cron",
    "lore submit '!12' '#7' --dry-run",
    "lore sync 'tern/harbour!12' 'tern/harbour#7' --dry-run",
    "lore-submit -p 4127 --mr 12 --issue 7 --dry-run",
)


@pytest.mark.invariant("I2")
@pytest.mark.parametrize("redis", ["embedded", "redis"])
@pytest.mark.parametrize("line", DRY_RUNS)
def test_a_dry_run_asks_nobody_and_makes_not_even_a_folder(
    line: str, redis: str, environ: dict[str, str], home: Path, demo: Any, call: Caller
) -> None:
    with unvisited() as port:
        if redis == "redis":
            environ["LORE_REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
        before = tree(home)

        status, out, err = call(line)

    assert (status, err) == (0, "")
    assert "4127/issues/7" in out or "tern%2Fharbour/issues/7" in out
    assert tree(home) == before == {}
    assert demo.log() == []


@pytest.mark.invariant("I2")
def test_a_dry_run_names_every_request_that_the_run_then_makes_and_no_other(
    environ: dict[str, str], demo: Any, call: Caller
) -> None:
    status, out, _ = call("lore-submit --mr 12 --issue 7 --dry-run --robot")
    planned = {request["path"] for request in json.loads(out)["data"]["plan"]["requests"]}
    assert (status, demo.log()) == (0, [])

    done = lore(environ, "submit --mr 12 --issue 7 --quiet")

    assert done.returncode == 0, done
    asked = {entry["path"] for entry in demo.log()}
    assert asked == planned
    assert len(planned) == 14


@pytest.mark.invariant("I2")
@pytest.mark.parametrize("redis", ["embedded", "redis"])
def test_a_dry_run_leaves_a_database_in_use_byte_for_byte_as_it_was(
    redis: str, ledger: Any, environ: dict[str, str], database_url: str, demo: Any, call: Caller, tmp_path: Path
) -> None:
    configure(environ, database_url)
    refresh(demo, *NAMED)
    demo.reset()
    environ["LORE_DATABASE_URL"] = database_url
    rows = everything()  # a reader leaves its mark in SQLite's -shm file
    before = tree(tmp_path)
    if database_url.startswith("sqlite"):
        assert {"lore.db", "lore.db-wal", "lore.db-shm"} <= set(before)

    with unvisited() as port:
        if redis == "redis":
            environ["LORE_REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
        answers = [call(line) for line in DRY_RUNS]

    assert {status for status, _, _ in answers} == {0}
    assert tree(tmp_path) == before
    assert everything() == rows
    assert demo.log() == []


@pytest.mark.invariant("I2")
def test_a_dry_run_does_not_migrate_a_database(
    environ: dict[str, str], database_url: str, home: Path, call: Caller
) -> None:
    environ["LORE_DATABASE_URL"] = database_url
    path = base.sqlite_path(database_url)
    if database_url.startswith("sqlite"):
        with closing(sqlite3.connect(path)) as older:
            older.execute("CREATE TABLE schema_migration (name TEXT)")
    before = tree(home.parent)

    answers = [call(line) for line in DRY_RUNS]

    assert {status for status, _, _ in answers} == {0}
    assert tree(home.parent) == before
    assert tables(database_url) == set()


@pytest.mark.invariant("I2")
def test_a_dry_run_does_not_mind_a_database_that_is_not_there(
    environ: dict[str, str], home: Path, call: Caller
) -> None:
    with unvisited() as port:
        for url in (f"postgresql://lore@127.0.0.1:{port}/lore", f"sqlite://{home}/not/there/lore.db"):
            environ["LORE_DATABASE_URL"] = url

            assert call(DRY_RUNS[0])[0] == 0

    assert tree(home) == {}


@pytest.mark.invariant("I2")
@pytest.mark.slow
@pytest.mark.parametrize("redis", ["embedded", "redis"])
def test_a_dry_run_as_a_process_of_its_own_leaves_no_trace(
    redis: str, environ: dict[str, str], database_url: str, home: Path, demo: Any
) -> None:
    environ["LORE_DATABASE_URL"] = database_url
    with unvisited() as port:
        if redis == "redis":
            environ["LORE_REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
        before = tree(home.parent)

        done = lore(environ, "submit --mr 12 --issue 7 --dry-run --robot")

    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)["data"]["plan"]["requests"]) == 14
    assert tree(home.parent) == before
    assert tables(database_url) == set()
    assert demo.log() == []


def configure(environ: dict[str, str], database_url: str) -> None:
    from lore.settings import read_settings

    resources.configure(read_settings(environ | {"LORE_DATABASE_URL": database_url}))


def refresh(demo: Any, *entities: Entity, mode: Any = "commit", docs: bool = True, embed: bool = True) -> str:
    run_id = runs.submit(
        gitlab_url=demo.url,
        project=demo.project,
        entities=entities,
        options=RunOptions(mode=mode, docs=docs, embed=embed),
    ).run_id
    drain()
    return run_id


def everything() -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table, whichever the database has."""
    names = sorted(base.database.get_tables())
    found = {name: base.database.execute_sql(f'SELECT * FROM "{name}"').fetchall() for name in names}
    return {name: sorted(map(tuple, rows), key=repr) for name, rows in found.items()}


@pytest.fixture
def mirror(ledger: Any, environ: dict[str, str], database_url: str, demo: Any) -> Any:
    """A mirror that holds two entities, which GitLab has changed since."""
    configure(environ, database_url)
    refresh(demo, *NAMED)
    demo.advance_clock(3600)
    demo.script(
        [
            {"step": "comment", "kind": "merge_request", "iid": 12, "body": "said since"},
            {"step": "comment", "kind": "issue", "iid": 7, "body": "said since"},
        ]
    )
    return demo


@pytest.mark.invariant("I2")
@pytest.mark.parametrize(("docs", "embed"), [(True, True), (True, False), (False, False)])
def test_a_preflight_alone_reads_what_changed_and_writes_none_of_it(mirror: Any, docs: bool, embed: bool) -> None:
    before = content()

    run_id = refresh(mirror, *NAMED, Entity("issue", 5), mode="preflight_only", docs=docs, embed=embed)

    assert content() == before
    assert StagedPayload.select().count() == open_tasks() == 0
    view = runs.read_run(run_id)
    assert (view["status"], view["mode"], view["counts"]["ok"]) == ("succeeded", "preflight_only", 3)
    assert {(e["status"], e["stage"]) for e in runs.read_entities(run_id)} == {("ok", "preflight")}
    refresh(mirror, *NAMED)
    assert content() != before


@pytest.mark.invariant("I2")
def test_a_preflight_alone_that_fails_changes_no_content_and_so_does_its_retry(mirror: Any) -> None:
    before = content()
    mirror.faults([{"match": {"kind": "issue", "iid": 7}, "action": "not_found"}])

    failed = refresh(mirror, *NAMED, mode="preflight_only")
    error = runs.error_of(failed)
    mirror.faults([])
    retried = runs.retry(failed).run_id
    drain()

    assert error is not None
    assert (error.code, int(error.exit)) == ("SURGICAL_PREFLIGHT_FAILED", 10)
    view = runs.read_run(retried)
    assert (view["mode"], view["status"], view["counts"]["total"]) == ("preflight_only", "succeeded", 2)
    assert content() == before
    assert StagedPayload.select().count() == open_tasks() == 0


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    """A Redis-protocol server of our own."""
    server = redis_server()
    assert server is not None
    with tempfile.TemporaryDirectory(prefix="lore-redis-") as folder:
        path = Path(folder) / "redis.sock"
        command = [server, "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            until = time.monotonic() + 30
            while not path.exists():
                assert time.monotonic() < until, "the Redis-protocol server did not start"
                assert process.poll() is None
                time.sleep(0.01)
            yield f"unix://{path}"
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def worker(environ: dict[str, str]) -> Iterator[None]:
    command = [sys.executable, "-m", "cli", "worker", "--until-stdin-closes"]
    process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    try:
        yield
    finally:
        process.stdin.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.mark.invariant("I2")
@pytest.mark.slow
@pytest.mark.parametrize("redis", ["embedded", "redis"])
def test_a_preflight_alone_as_real_processes_changes_no_content(
    redis: str, ledger: Any, mirror: Any, environ: dict[str, str], database_url: str, request: Any
) -> None:
    environ["LORE_DATABASE_URL"] = database_url
    before = content()
    line = "--robot submit --mr 12 --issue 7 --preflight-only --wait"
    if redis == "redis":
        environ["LORE_REDIS_URL"] = request.getfixturevalue("redis_url")
        with worker(environ):
            done = lore(environ, line)
    else:
        done = lore(environ, line)

    assert done.returncode == 0, done
    answer = json.loads(done.stdout)["data"]
    assert (answer["run"]["status"], answer["run"]["mode"]) == ("succeeded", "preflight_only")
    assert {(e["status"], e["stage"]) for e in answer["entities"]} == {("ok", "preflight")}
    assert content() == before
    assert StagedPayload.select().count() == open_tasks() == 0


@pytest.mark.invariant("I2")
@pytest.mark.slow
def test_a_preflight_alone_is_no_dry_run_and_makes_the_ledger(environ: dict[str, str], home: Path) -> None:
    """The other side of the rule: were the folder compared wrongly, the tests above would hold for anything."""
    with spawn("demo") as other:
        done = lore(
            environ | {"LORE_GITLAB_URL": other.url, "LORE_GITLAB_TOKEN": other.token},
            "--robot submit --mr 12 --preflight-only",
        )

    assert done.returncode == 0, done
    assert "data/lore/lore.db" in tree(home)
    base.open_database(f"sqlite://{home}/data/lore/lore.db")
    schema.bring_up()
    try:
        assert not any(content().values())
        assert StagedPayload.select().count() == open_tasks() == 0
    finally:
        base.disconnect()
