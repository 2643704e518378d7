"""Measure whole commands by the clock on the wall, each a fresh process, beside what cannot be done without.

    python benchmarks/commands.py [--quick] [--rounds 10] [--json FILE]

`lore-submit --mr 12 --issue 7 --wait`, by warm workers and in its own process, beside a python-gitlab script that
fetches the same 13 answers side by side and stores nothing; the demo GitLab takes 20 ms for each. What only starts
something is compared with a process that imports the libraries it needs and ends. All take turns.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rows import Row, arguments, median, show, write
from stand import PERSON_S_WORKERS, PYTHON_GITLAB, end_cleanly, peer_arguments, redis_running, requests_of, spawn, stage

from lore.core.plan import Entity

ENTITIES = (Entity("issue", 7), Entity("merge_request", 12))
LATENCY_MS = 20
SUBMIT = str(Path(sys.executable).with_name("lore-submit"))
# The last of a turn leaves a run to the workers.
WORKERS_END_S = 0.4
NAMED = ("--mr", "12", "--issue", "7")
NEEDED = {
    "help": "import click",
    "queued": "import click, peewee, dramatiq.brokers.redis",
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    rounds = options.rounds or (2 if options.quick else 10)
    end_cleanly()
    with spawn("demo", 1, "--latency-ms", str(LATENCY_MS)) as demo, redis_running() as redis:
        fetching = [*peer_arguments(demo, requests_of(demo.project_id, ENTITIES))]
        with stage(demo, redis) as with_redis, stage(demo, None) as alone:
            for queues, threads in PERSON_S_WORKERS:
                with_redis.worker(queues=queues, threads=threads)

            def lore(*words: str, environ: dict[str, str] = with_redis.environ) -> Callable[[], None]:
                return lambda: run([SUBMIT, *words], as_of_a_person(environ))

            def python(code: str, *words: str) -> Callable[[], None]:
                return lambda: run([sys.executable, "-c", code, *words], alone.environ)

            taken = by_turns(
                {
                    "waited": lore(*NAMED, "--wait"),
                    "alone": lore(*NAMED, "--wait", environ=alone.environ),
                    "python-gitlab": python(f"{PYTHON_GITLAB}\nall_at_once()\n", *fetching),
                    "lore --help": lore("--help"),
                    "help": python(NEEDED["help"]),
                    "queued": python(NEEDED["queued"]),
                    "lore queued": lore(*NAMED),
                },
                rounds,
            )
    whole = f"lore-submit {' '.join(NAMED)} --wait"
    rows = [
        row(f"{whole}, with Redis", taken["waited"], "python-gitlab, fetching only", taken["python-gitlab"], 1.5),
        row(f"{whole}, without", taken["alone"], "python-gitlab, fetching only", taken["python-gitlab"], 2.5),
        row("lore-submit --help", taken["lore --help"], NEEDED["help"], taken["help"], 2),
        row(f"lore-submit {' '.join(NAMED)}", taken["lore queued"], NEEDED["queued"], taken["queued"], 1.4),
    ]
    show(rows)
    write(options.json, "commands", rows)


def as_of_a_person(environ: dict[str, str]) -> dict[str, str]:
    """Return the environment without what an operator's workers log."""
    return {name: value for name, value in environ.items() if not name.startswith("LORE_LOG_")}


def row(what: str, ours_ms: float, against: str, theirs_ms: float, most: float) -> Row:
    return Row(what, ours_ms, "ms", against, theirs_ms, wanted=f"≤ {most:g}", met=ours_ms / theirs_ms <= most)


def by_turns(cases: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each; the first turn, which fills caches, is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds + 1):
        for name, work in cases.items():
            began = time.perf_counter()
            work()
            taken[name].append((time.perf_counter() - began) * 1000)
        time.sleep(WORKERS_END_S)
    return {name: median(values[1:]) for name, values in taken.items()}


def run(command: Sequence[str], environ: dict[str, str]) -> None:
    done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
