"""`lore` with something made worse on purpose: what tests start as a process of its own instead of `lore`.

The environment's CHAOS_PLANT says what: names of `PLANTS`, each with its value behind `=`, divided by commas. A plant
wraps functions of the product inside this process, so the product itself has no hook for tests.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def stop_me() -> None:
    """Stop this process, all threads of it, until somebody sends SIGCONT."""
    # To this very thread: sent to the process it may reach another one first, and this one runs on for a moment.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def kill_me(why: str) -> None:
    """Kill -9 this process, and say so in its log."""
    os.write(2, json.dumps({"event": "killed_itself", "why": why}).encode() + b"\n")
    os.kill(os.getpid(), signal.SIGKILL)


# --- what happens to an honest program


def sweeper_off(_: str) -> None:
    """The thread lives, and does nothing."""
    from workers import upkeep

    upkeep.Sweeper.run = lambda self: self._stopping.wait()  # type: ignore[assignment]


def stop_before_commit(_: str) -> None:
    """Stop before the first commit opens its transaction; the lock is held."""
    from workers import commit

    real, once = commit._write, _Once()

    def write(work: Any) -> bool:
        once.do(stop_me)
        return real(work)

    commit._write = write


def stop_in_commit(nth: str) -> None:
    """Stop behind the n-th statement of the first commit."""
    _in_commit(lambda: int(nth), stop_me, once=True)


def raise_in_commit(_: str) -> None:
    """Let every commit fail before it opens its transaction (behind a `stop_before_commit` that is named after it)."""
    from workers import commit

    def write(work: Any) -> None:
        raise RuntimeError("planted")

    commit._write = write


def die_in_commit(share: str) -> None:
    """Kill -9 at a random statement of so many of the commits, or right behind the transaction."""
    _in_commit(lambda: random.randrange(1, 80) if random.random() < float(share) else None, _die_there, once=False)


def _die_there() -> None:
    kill_me("in a commit")


def doze_in_commit(value: str) -> None:
    """Sleep before the transaction of so many of the commits: `share:seconds`."""
    from workers import commit

    share, seconds = map(float, value.split(":"))
    real = commit._write

    def write(work: Any) -> bool:
        if random.random() < share:
            time.sleep(seconds)
        return real(work)

    commit._write = write


def slow_in_commit(value: str) -> None:
    """Let each statement of so many of the commits take its time, until so much is spent: `share:seconds`."""
    from models.base import database
    from workers import commit

    share, seconds = map(float, value.split(":"))
    opened: Any = database.obj
    real_write, real_execute = commit._write, opened.execute_sql
    local = threading.local()

    def execute_sql(*args: Any, **kwargs: Any) -> Any:
        if getattr(local, "left_s", 0) > 0:
            local.left_s -= seconds / 10
            time.sleep(seconds / 10)
        return real_execute(*args, **kwargs)

    def write(work: Any) -> bool:
        local.left_s = seconds if random.random() < share else 0
        try:
            return real_write(work)
        finally:
            local.left_s = 0

    opened.execute_sql = execute_sql
    commit._write = write


def poison(iid: str) -> None:
    """Die of the answer that holds this issue, as a decoder written in C may."""
    from lore.gitlab import GitLab

    real = GitLab.read_object

    def read_object(self: Any, path: str) -> Any:
        answer = real(self, path)
        if path.endswith(f"/issues/{iid}"):
            kill_me("poison")
        return answer

    GitLab.read_object = read_object


def busy_ms(value: str) -> None:
    """Wait so long, and not 20 s, for SQLite's write lock."""
    from models import base

    base.SQLITE_BUSY_S = int(value) / 1000


def _in_commit(choose: Callable[[], int | None], do: Callable[[], None], *, once: bool) -> None:
    """Do something behind a statement of a commit's transaction; `choose` says which, from 1; None: this time not."""
    from models.base import database
    from workers import commit

    opened: Any = database.obj
    real_write = commit._write
    local, done = threading.local(), _Once()

    def act() -> None:
        done.do(do) if once else do()

    def counted(real_execute: Callable[..., Any]) -> Callable[..., Any]:
        def execute(*args: Any, **kwargs: Any) -> Any:
            cursor = real_execute(*args, **kwargs)
            left = getattr(local, "left", None)
            if left is not None:
                local.left = left - 1
                if local.left == 0:
                    act()
            return cursor

        return execute

    def write(work: Any) -> bool:
        local.left = choose()
        try:
            is_over = real_write(work)
            if local.left is not None and local.left > 0 and not once:
                act()
            return is_over
        finally:
            local.left = None

    for name in ("execute_sql", "execute_many"):
        if hasattr(opened, name):
            setattr(opened, name, counted(getattr(opened, name)))
    commit._write = write


# --- bugs, to see that somebody notices


def bug_no_sweep(_: str) -> None:
    """Nothing is ever swept."""
    from workers import upkeep

    upkeep.sweep = lambda **_: {}


def bug_no_fence(_: str) -> None:
    """A commit believes that lock and run are still its own."""
    from workers import commit

    real = commit.moves.lock_run
    commit.locks.renew = lambda lease, *, lease_ms: True
    # Only a commit locks a run that is committing.
    commit.moves.lock_run = lambda run_id, *statuses: statuses == ("committing",) or real(run_id, *statuses)


def bug_stale(_: str) -> None:
    """What is older is written over what is newer."""
    from workers import commit

    commit.staleness.is_stale = lambda *_, **__: False
    commit.staleness.is_observed_later = lambda *_, **__: False


def bug_no_transaction(_: str) -> None:
    """Each statement of a commit is a transaction of its own."""
    from models.base import storage_errors
    from workers import commit

    real_write = commit._write

    @contextlib.contextmanager
    def write() -> Iterator[None]:
        with storage_errors():
            yield

    def write_work(work: Any) -> bool:
        kept, commit.write = commit.write, write
        try:
            return real_write(work)
        finally:
            commit.write = kept

    commit._write = write_work


def bug_open_tasks(_: str) -> None:
    """The end of a run leaves its tasks and pages, and nobody tidies up."""
    from workers import moves, upkeep

    moves.abort_tasks = lambda *_, **__: None
    moves.drop_staged = lambda *_, **__: None
    upkeep._RULES = tuple(rule for rule in upkeep._RULES if rule is not upkeep._tidy)


def bug_no_hand_over(_: str) -> None:
    """Who releases the lock tells nobody."""
    from workers import commit

    importlib.import_module("workers.upkeep")  # the sweeper keeps the real one
    commit.hand_over = lambda *_, **__: None


class _Once:
    def __init__(self) -> None:
        self._is_done = False

    def do(self, what: Callable[[], None]) -> None:
        if not self._is_done:
            self._is_done = True
            what()


PLANTS: dict[str, Callable[[str], None]] = {
    plant.__name__.replace("_", "-"): plant
    for plant in (
        sweeper_off,
        stop_before_commit,
        stop_in_commit,
        raise_in_commit,
        die_in_commit,
        doze_in_commit,
        slow_in_commit,
        poison,
        bug_no_sweep,
        bug_no_fence,
        bug_stale,
        bug_no_transaction,
        bug_open_tasks,
        bug_no_hand_over,
    )
}
# What must be in place before the database is opened.
EARLY = {"busy-ms": busy_ms}


def plant_all(names: str) -> None:
    """Put plants in place; the actors' are put there as soon as there are actors."""
    asked = [(name, value) for name, _, value in (part.partition("=") for part in names.split(",") if part)]
    for name, value in asked:
        if name in EARLY:
            EARLY[name](value)
    import workers

    def planted(real: Callable[..., None]) -> Callable[..., None]:
        def opened(settings: Any, **options: Any) -> None:
            real(settings, **options)
            for name, value in asked:
                if name not in EARLY:
                    PLANTS[name](value)

        return opened

    workers.open_workers, workers.open_sender = planted(workers.open_workers), planted(workers.open_sender)


def submitter() -> None:
    """Open and cancel runs as told, one JSON object a line, until standard input ends."""
    import workers
    from lore import logs
    from lore.core.errors import LoreError
    from lore.core.plan import Entity
    from lore.core.runs import RunOptions
    from lore.settings import read_settings

    settings = read_settings(os.environ)
    logs.configure(format="json", level="info", secrets=settings.secrets)
    workers.open_workers(settings)
    from workers import runs

    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if "cancel" in asked:
                answer = {"run_id": asked["cancel"], "status": runs.cancel(asked["cancel"])["status"]}
            else:
                done = runs.submit(
                    gitlab_url=settings.gitlab_url,
                    project=asked["project"],
                    entities=[Entity(*entity) for entity in asked["entities"]],
                    options=RunOptions(mode=asked["mode"]),
                    trigger="chaos",
                )
                answer = {"run_id": done.run_id, "is_sent": done.is_sent}
        except LoreError as error:
            answer = {"error": error.code, "message": error.message}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    random.seed(os.environ.get("CHAOS_SEED"))
    plant_all(os.environ.get("CHAOS_PLANT", ""))
    if sys.argv[1:] == ["submitter"]:
        submitter()
    else:
        import cli

        cli.lore()
