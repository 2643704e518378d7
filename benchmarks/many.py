"""Measure many runs at once: 200 of one merge request each, from 8 submitters, until the last has ended.

    python benchmarks/many.py [--quick] [--runs 200] [--json FILE]

Over one project on SQLite by 2 worker processes, where every commit waits for the same lock; over 20 projects on
PostgreSQL by 1 and by 2 of them. The demo GitLab takes 20 ms a request; submitters, workers, servers and databases
share the machine. The wait for the lock is what the ledger notes: from the end of a run's preflight until it may write.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rows import Row, arguments, median, p95, show, write
from stand import Demo, Stage, end_cleanly, open_door, postgresql_running, redis_running, stage, wait_until

HERE = Path(__file__).parent
SUBMITTERS = 8
THREADS = 8
LATENCY_MS = 20
PROJECTS = 20
MERGE_REQUESTS = 40  # the demo has them all up to here


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=int)
    options = parser.parse_args()
    count = options.runs or (16 if options.quick else 200)
    end_cleanly()
    rows = []
    with many_projects(PROJECTS) as demo:
        one = measure(demo, "", 1, count, processes=2)
        rows += rows_of("one project, SQLite, 2 worker processes", one)
        found = {}
        for processes in (2,) if options.quick else (1, 2):
            with postgresql_running(is_durable=True) as url:
                found[processes] = measure(demo, url, PROJECTS, count, processes=processes)
            words = f"{PROJECTS} projects, PostgreSQL, {processes} worker process{'es' if processes > 1 else ''}"
            rows += rows_of(words, found[processes], found.get(processes - 1))
    show(rows)
    write(options.json, "many", rows)


def rows_of(words: str, found: Found, against: Found | None = None) -> list[Row]:
    compared = ("1 worker process", against.per_s) if against else ()
    return [
        Row(f"{words}: runs", found.per_s, "runs/s", *compared),
        Row(f"{words}: wait for the lock, p50", median(found.waits_ms), "ms"),
        Row(f"{words}: wait for the lock, p95", p95(found.waits_ms), "ms"),
        Row(f"{words}: failed runs", found.failed, "runs", wanted="0", met=found.failed == 0),
    ]


class Found:
    """What became of the runs."""

    def __init__(self, passed_s: float, ended: Sequence[tuple[str, str]]) -> None:
        self.per_s = len(ended) / passed_s
        self.failed = sum(status != "succeeded" for status, _ in ended)
        self.waits_ms = [json.loads(counters)["lock_wait_ms"] for _, counters in ended if "lock_wait_ms" in counters]


def measure(demo: Demo, database_url: str, projects: int, count: int, *, processes: int) -> Found:
    import workers
    from lore.settings import read_settings
    from models import base
    from models.ledger import Run

    with redis_running() as redis, stage(demo, redis, database_url) as opened:
        workers.open_ledger(read_settings(opened.environ))
        for _ in range(processes):
            opened.worker(threads=THREADS)
        with submitters(opened) as children:
            # Every worker loads its model, and every project is confirmed.
            warm = [(nth, 50 + nth) for nth in range(max(projects, 8))]
            submit(children[:1], warm, projects)
            wait_for_ended(len(warm))
            began = time.monotonic()
            submit(children, [(nth, 1 + nth % MERGE_REQUESTS) for nth in range(count)], projects)
            wait_for_ended(len(warm) + count)
            passed_s = time.monotonic() - began
        rows = Run.select(Run.status, Run.counters).order_by(Run.run_id).offset(len(warm))
        found = Found(passed_s, list(rows.tuples()))
        base.disconnect()
        return found


def submit(children: Sequence[subprocess.Popen[str]], asked: Sequence[tuple[int, int]], projects: int) -> None:
    """Let the children submit these runs, each its share, and wait until they have."""
    named = [(f"tern/harbour-{number % projects}", iid) for number, iid in asked]
    for nth, child in enumerate(children):
        assert child.stdin
        child.stdin.write(json.dumps(named[nth :: len(children)]) + "\n")
        child.stdin.flush()
    for child in children:
        assert child.stdout
        assert child.stdout.readline() == "done\n"


def wait_for_ended(count: int) -> None:
    from models.ledger import Run

    ended = Run.select().where(Run.finished_at.is_null(False))
    wait_until(lambda: ended.count() >= count, f"{count} runs have ended", timeout_s=120)


@contextmanager
def many_projects(count: int) -> Iterator[Demo]:
    """Serve a demo GitLab with so many projects, as a process of its own."""
    popen = subprocess.Popen(
        [sys.executable, "-c", f"import many; many.serve({count})"],
        cwd=HERE,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert popen.stdin
    assert popen.stdout
    try:
        yield Demo(**json.loads(popen.stdout.readline()))
    finally:
        popen.kill()
        popen.wait()
        popen.stdin.close()
        popen.stdout.close()


def serve(count: int) -> None:
    """Be a demo GitLab with so many projects."""
    from lore.demo import __main__ as door
    from lore.demo import harbour, profiles
    from lore.demo.model import Project
    from lore.demo.state import World

    def many(seed: int) -> World:
        made: list[Project] = []
        for number in range(count):
            world = harbour.build(seed + number)
            project = world.projects[0]
            project.id, project.path, project.former_paths = 5000 + number, f"tern/harbour-{number}", []
            made.append(project)
        return World(made, world.now)

    profiles.PROFILES["many"] = many
    sys.exit(door.main(["--profile", "many", "--latency-ms", str(LATENCY_MS), "--until-stdin-closes"]))


def submit_what_is_asked() -> None:
    """Be a process that submits a run for each project and iid in a line of its input, and says when it has."""
    open_door(dict(os.environ))
    from lore.core.plan import Entity
    from lore.core.runs import RunOptions
    from workers import runs

    print("ready", flush=True)
    for line in sys.stdin:
        for project, iid in json.loads(line):
            runs.submit(
                gitlab_url=os.environ["LORE_GITLAB_URL"],
                project=project,
                entities=[Entity("merge_request", iid)],
                options=RunOptions(),
            )
        print("done", flush=True)


@contextmanager
def submitters(opened: Stage) -> Iterator[list[subprocess.Popen[str]]]:
    """Start the processes that submit, each with database and broker open."""
    children: list[subprocess.Popen[str]] = []
    try:
        for _ in range(SUBMITTERS):
            child = subprocess.Popen(
                [sys.executable, "-c", "import many; many.submit_what_is_asked()"],
                cwd=HERE,
                env=opened.environ,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            children.append(child)
        for child in children:
            assert child.stdout
            assert child.stdout.readline() == "ready\n"
        yield children
    finally:
        for child in children:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe:
                    pipe.close()


if __name__ == "__main__":
    main()
