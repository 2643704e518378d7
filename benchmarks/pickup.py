"""Measure how soon an idle worker takes a message, how soon a busy lock is handed over, and what idleness costs.

    python benchmarks/pickup.py [--quick] [--messages 40] [--idle-s 30] [--json FILE]

A worker of lore, with every queue and its sweeper, beside Dramatiq's own RedisBroker and Worker as they come, with the
same queues and threads, on a Redis of their own each. Pick-up is from before the message is sent until its actor runs.
The hand-over is from before a project's lock is released until the run that waited for it writes; where a lock is
refused, plain Dramatiq would try again after 15 s at the earliest (`Retries`, `min_backoff`), so nothing is compared.
Processor times are of all of a process's threads, while both workers are idle side by side.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rows import Row, arguments, median, p95, show, write
from stand import RedisServer, Stage, cpu_s, end_cleanly, open_door, redis_running, spawn, stage, wait_until

if TYPE_CHECKING:
    from dramatiq import Broker

THREADS = 8
QUEUE = "preflight"
P95_MS, CPU_PERCENT = 10, 1


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--messages", type=int)
    parser.add_argument("--idle-s", type=float)
    options = parser.parse_args()
    messages = options.messages or (5 if options.quick else 40)
    idle_s = options.idle_s or (2 if options.quick else 30)
    end_cleanly()
    with spawn("demo") as demo, redis_running() as redis, redis_running() as other, stage(demo, redis) as opened:
        rows = measure(opened, redis, other, messages, idle_s)
    show(rows)
    write(options.json, "pickup", rows)


def measure(opened: Stage, redis: RedisServer, other: RedisServer, messages: int, idle_s: float) -> list[Row]:
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    from workers import QUEUES

    open_door(opened.environ)
    ours, theirs = dramatiq.get_broker(), RedisBroker(url=other.url)  # type: ignore[no-untyped-call]
    with (
        child(lore_worker, opened.environ) as lore,
        child(plain_worker, opened.environ | {"LORE_REDIS_URL": other.url}, *QUEUES) as plain,
    ):
        pairs = [(ours, lore), (theirs, plain)]
        taken: list[list[float]] = [[], []]
        for nth in range(messages + 2):
            for (broker, worker), values in zip(pairs, taken, strict=True):
                time.sleep(random.uniform(0.1, 0.3))  # it has become idle, and is anywhere in its waiting
                ms = picked_up(broker, worker)
                if nth >= 2:
                    values.append(ms)
        handed = [handed_over(opened, lore) for _ in range(messages // 2 + 2)][2:]
        spent = idle({"lore": lore.pid, "its Redis": redis.pid, "plain": plain.pid, "other Redis": other.pid}, idle_s)
    against = "plain Dramatiq"
    is_cheap = spent["lore"] <= CPU_PERCENT
    return [
        Row("pick-up by an idle worker, p50", median(taken[0]), "ms", against, median(taken[1])),
        Row(
            "pick-up by an idle worker, p95",
            p95(taken[0]),
            "ms",
            against,
            p95(taken[1]),
            wanted=f"≤ {P95_MS} ms",
            met=p95(taken[0]) <= P95_MS,
        ),
        Row("hand-over of a busy lock, p50", median(handed), "ms"),
        Row("hand-over of a busy lock, p95", p95(handed), "ms", wanted=f"≤ {P95_MS} ms", met=p95(handed) <= P95_MS),
        Row(
            f"processor of an idle worker, {idle_s:g} s",
            spent["lore"],
            "%",
            against,
            spent["plain"],
            wanted=f"≤ {CPU_PERCENT} %",
            met=is_cheap,
        ),
        Row(
            f"processor of its Redis, {idle_s:g} s",
            spent["its Redis"],
            "%",
            against,
            spent["other Redis"],
            wanted=f"≤ {CPU_PERCENT} %",
            met=spent["its Redis"] <= CPU_PERCENT,
        ),
    ]


def lore_worker() -> None:
    """Be a worker of lore that also says when its actor of this benchmark runs, and when a run is about to write."""
    import workers
    from lore import logs
    from lore.settings import read_settings

    logs.configure(level="warning")
    workers.open_workers(read_settings(os.environ))
    import dramatiq

    from workers import commit, processes

    dramatiq.actor(queue_name=QUEUE)(ping)
    write = commit._write

    def told(work: commit._Work) -> bool:
        print("writes", time.time(), flush=True)
        return write(work)

    commit._write = told
    stop = threading.Event()
    threading.Thread(target=processes._stop_at_end_of_stdin, args=(stop,), daemon=True).start()
    print("ready", flush=True)
    processes._Loop(workers.QUEUES, THREADS, stop).run()


def plain_worker() -> None:
    """Be Dramatiq's own worker of the queues on the command line, which says when its actor runs."""
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    broker = RedisBroker(url=os.environ["LORE_REDIS_URL"])  # type: ignore[no-untyped-call]
    dramatiq.set_broker(broker)
    dramatiq.actor(queue_name=QUEUE)(ping)
    for name in sys.argv[1:]:
        broker.declare_queue(name)
    worker = dramatiq.Worker(broker, worker_threads=THREADS)
    worker.start()
    print("ready", flush=True)
    sys.stdin.read()
    worker.stop()


def ping() -> None:
    print("ping", time.time(), flush=True)


class Child:
    """A worker that says on its output what it is at."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self._popen = popen
        self.pid = popen.pid

    def said(self, word: str) -> float:
        """Wait for the word, and return the time that stands behind it, if any."""
        assert self._popen.stdout
        for line in self._popen.stdout:
            if line.startswith(word):
                return float([*line.split(), "0"][1])
        raise SystemExit(f"a worker ended with {self._popen.wait()} before it said {word!r}")


@contextmanager
def child(be: Callable[[], None], environ: dict[str, str], *queues: str) -> Iterator[Child]:
    popen = subprocess.Popen(
        [sys.executable, "-c", f"import pickup; pickup.{be.__name__}()", *queues],
        env=environ | {"PYTHONPATH": str(Path(__file__).parent)},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert popen.stdin
    assert popen.stdout
    try:
        worker = Child(popen)
        worker.said("ready")
        yield worker
    finally:
        popen.kill()
        popen.wait()
        popen.stdin.close()
        popen.stdout.close()


def picked_up(broker: Broker, worker: Child) -> float:
    import dramatiq

    message: dramatiq.Message[None] = dramatiq.Message(
        queue_name=QUEUE, actor_name="ping", args=(), kwargs={}, options={}
    )
    began = time.time()
    broker.enqueue(message)
    return (worker.said("ping") - began) * 1000


def handed_over(opened: Stage, worker: Child) -> float:
    """Hold the project's lock until a run waits for it, and let it go as a commit does."""
    from lore.core.plan import Entity
    from lore.core.runs import RunOptions
    from models import locks
    from models.base import write as writing
    from models.ledger import Project, Run
    from workers import runs
    from workers.commit import hand_over

    gitlab_url, project = opened.environ["LORE_GITLAB_URL"], opened.environ["LORE_PROJECT"]
    entities, options = [Entity("issue", 7)], RunOptions(docs=False, embed=False)

    def open_run() -> str:
        return runs.submit(gitlab_url=gitlab_url, project=project, entities=entities, options=options).run_id

    if not Project.select().where(Project.gitlab_id.is_null(False)).exists():
        first = open_run()
        worker.said("writes")
        wait_until(lambda: runs.has_ended(first), "the first run ends")
    project_id = Project.select(Project.project_id).where(Project.gitlab_id.is_null(False)).scalar()
    with writing():
        lease = locks.take(project_id, owner=f"benchmark/{os.getpid()}", lease_ms=60_000)
    assert lease is not None
    run_id = open_run()
    waits = Run.select().where(Run.run_id == run_id, Run.status == "committing", Run.sent_at.is_null())
    wait_until(waits.exists, "the run has met the busy lock")
    time.sleep(0.1)
    began = time.time()
    with writing():
        locks.release(lease)
    assert hand_over(project_id) == run_id
    ms = (worker.said("writes") - began) * 1000
    wait_until(lambda: runs.has_ended(run_id), "the run ends")
    return ms


def idle(pids: dict[str, int], seconds: float) -> dict[str, float]:
    """Return how many percent of a processor each process takes while nothing is asked of it."""
    time.sleep(1.5)
    before, began = {name: cpu_s(pid) for name, pid in pids.items()}, time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - began
    return {name: (cpu_s(pid) - before[name]) / passed * 100 for name, pid in pids.items()}


if __name__ == "__main__":
    main()
