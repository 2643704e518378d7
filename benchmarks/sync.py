"""Measure a full sync: entities with all their children a second, what a person's run beside it takes, and memory.

    python benchmarks/sync.py [--quick] [--rounds 3] [--memory] [--json FILE]

A demo GitLab takes 20 ms for each request. lore syncs its 650 issues and merge requests into an empty SQLite mirror,
by real workers over Redis, everything committed. By turns, python-gitlab fetches the same in 8 threads and stores
nothing, and dlt fetches it in 16 and loads it into DuckDB. Then a run of `--mr 12` is timed alone and during a sync.
With --memory instead: the most memory each kind of worker has had after 1,000 of 8,000 entities, and after all
(minutes).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rows import Curve, Row, arguments, median, p95, show, write
from stand import (
    ROOT,
    Demo,
    Process,
    Stage,
    end_cleanly,
    open_door,
    redis_running,
    spawn,
    stage,
    wait_until,
)

LATENCY_MS = 20
THREADS = {"python-gitlab": 8, "dlt": 16}
# As in the Procfile.
SYNC_S_WORKERS = (("preflight,fetch", 16), ("commit,sync_commit", 1), ("documents,embed", 2))
SYNC_QUEUES, SYNC_PROCESSES, SYNC_THREADS = "plan,sync_fetch,sync_documents,sync_embed", 2, 6
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
RUNS_AT_LEAST = 20

# Somebody else's full sync, as their documentation has it; prints the milliseconds it took, and how many entities.
PYTHON_GITLAB = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
import gitlab, requests
url, token, project, count = sys.argv[1:]
session = requests.Session()
session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=int(count)))
client = gitlab.Gitlab(url, private_token=token, session=session, keep_base_url=True)
OF = {
    "issues": ("discussions", "resource_state_events", "resource_label_events", "resource_milestone_events", "links"),
    "merge_requests": ("discussions", "diffs", "resource_state_events", "resource_label_events",
                       "resource_milestone_events", "closes_issues"),
}
def one(asked):
    path, is_list = asked
    return client.http_list(path, per_page=100, get_all=True) if is_list else client.http_get(path)
began = time.perf_counter()
with ThreadPoolExecutor(int(count)) as threads:
    asked = []
    for kind, children in OF.items():
        for row in client.http_list(f"/projects/{project}/{kind}", per_page=100, get_all=True, scope="all"):
            path = f"/projects/{project}/{kind}/{row['iid']}"
            asked += [(path, False), *((f"{path}/{child}", True) for child in children)]
    found = list(threads.map(one, asked))
print((time.perf_counter() - began) * 1000, sum(not is_list for _, is_list in asked), flush=True)
"""
DLT = """
import sys, time
import dlt
from dlt.sources.helpers.rest_client import RESTClient
from dlt.sources.helpers.rest_client.paginators import HeaderLinkPaginator, SinglePagePaginator
url, token, project, folder = sys.argv[1:]
client = RESTClient(f"{url}/api/v4", headers={"PRIVATE-TOKEN": token}, paginator=HeaderLinkPaginator())
OF = {
    "issues": ("discussions", "resource_state_events", "resource_label_events", "resource_milestone_events", "links"),
    "merge_requests": ("discussions", "diffs", "resource_state_events", "resource_label_events",
                       "resource_milestone_events", "closes_issues"),
}
def rows_of(kind):
    @dlt.resource(name=f"{kind}_list", selected=False)
    def rows():
        yield from client.paginate(f"/projects/{project}/{kind}", params={"per_page": 100, "scope": "all"})
    return rows
def whole_of(kind, rows):
    @dlt.transformer(data_from=rows, name=kind, write_disposition="append")
    def whole(page):
        @dlt.defer
        def one(row):
            return client.get(f"/projects/{project}/{kind}/{row['iid']}").json()
        for row in page:
            yield one(row)
    return whole
def children_of(kind, child, rows):
    @dlt.transformer(data_from=rows, name=f"{kind}_{child}", write_disposition="append")
    def children(page):
        @dlt.defer
        def one(row):
            paginator = SinglePagePaginator() if child == "links" else None
            path = f"/projects/{project}/{kind}/{row['iid']}/{child}"
            pages = client.paginate(path, params={"per_page": 100}, paginator=paginator)
            return [{**item, "of_iid": row["iid"]} for page in pages for item in page]
        for row in page:
            yield one(row)
    return children
@dlt.source
def mirror():
    for kind, children in OF.items():
        rows = rows_of(kind)
        yield whole_of(kind, rows)
        for child in children:
            yield children_of(kind, child, rows)
began = time.perf_counter()
pipeline = dlt.pipeline("mirror", pipelines_dir=f"{folder}/pipelines",
                        destination=dlt.destinations.duckdb(f"{folder}/gitlab.duckdb"), dataset_name="mirror")
pipeline.run(mirror()).raise_on_failed_jobs()
took = (time.perf_counter() - began) * 1000
with pipeline.sql_client() as sql:
    count = sum(sql.execute_sql(f"SELECT count(*) FROM {kind}")[0][0] for kind in OF)
print(took, count, flush=True)
"""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--memory", action="store_true", help="measure memory instead: minutes")
    options = parser.parse_args()
    end_cleanly()
    curves: list[Curve] = []
    if options.memory:
        found, curves = memory(options.quick)
    else:
        with spawn("tiny" if options.quick else "demo") as demo, redis_running() as redis:
            demo.latency(LATENCY_MS)
            found = speed(demo, redis, options.rounds or (1 if options.quick else 3), is_quick=options.quick)
            if not options.quick:
                found += beside_a_person(demo, redis)
    show(found)
    write(options.json, "sync", found, curves)


# ------------------------------------------------------------------------------------------------ speed


class Lore:
    """Warm workers and an empty mirror."""

    def __init__(self, demo: Demo, opened: Stage, *, own_planner: bool = False) -> None:
        from lore.core.runs import RunOptions

        self.demo = demo
        self.workers: dict[str, Process] = {
            queues: opened.worker(queues=queues, threads=threads) for queues, threads in SYNC_S_WORKERS
        }
        queues = SYNC_QUEUES.removeprefix("plan,") if own_planner else SYNC_QUEUES
        for number in range(SYNC_PROCESSES):
            self.workers[f"{queues} {number}"] = opened.worker(queues=queues, threads=SYNC_THREADS)
        if own_planner:
            self.workers["plan"] = opened.worker(queues="plan", threads=1)
        _open(opened)
        self.content_only = RunOptions(docs=False, embed=False)

    def begin(self) -> str:
        from workers import syncing

        opened = syncing.open_sync(
            gitlab_url=self.demo.url, project=self.demo.project, options=self.content_only, trigger="bench"
        )
        return opened.run_id

    def ended(self, run_id: str) -> int:
        """Wait for the end of a sync; return how many entities it brought."""
        from workers import runs

        wait_until(lambda: runs.has_ended(run_id), f"{run_id} ends", timeout_s=900)
        assert runs.error_of(run_id) is None
        return int(runs.read_run(run_id)["counts"]["ok"])


_opened: list[Stage] = []


def _open(opened: Stage) -> None:
    """Open a door; the second time only another database: the actors stay with the broker they were declared for."""
    import workers
    from lore.settings import read_settings

    if _opened:
        workers.open_ledger(read_settings(opened.environ))
    else:
        open_door(opened.environ)
    _opened.append(opened)


@contextmanager
def lore_on_an_empty_mirror(demo: Demo, redis: Any, **how: Any) -> Iterator[Lore]:
    from models import base

    with redis.client() as client:
        client.flushall()
    with stage(demo, redis) as opened:
        try:
            yield Lore(demo, opened, **how)
        finally:
            base.disconnect()


def speed(demo: Demo, redis: Any, rounds: int, *, is_quick: bool) -> list[Row]:
    """Return entities a second, by turns; of a few entities it says how long a sync takes at least, and no more."""
    rates: dict[str, list[float]] = {"lore": [], "python-gitlab": [], "dlt": []}
    in_flight = count = 0
    for _ in range(rounds):
        with lore_on_an_empty_mirror(demo, redis) as lore:
            demo.reset()
            demo.latency(LATENCY_MS)
            began = time.perf_counter()
            count = lore.ended(lore.begin())
            rates["lore"].append(count / (time.perf_counter() - began))
            in_flight = max(in_flight, demo.stats()["peak_concurrency"])
        rates["python-gitlab"].append(peer_s_rate(sys.executable, PYTHON_GITLAB, demo, str(THREADS["python-gitlab"])))
        if PEERS_PYTHON.exists():
            with tempfile.TemporaryDirectory(prefix="lore-bench-") as folder:
                rates["dlt"].append(peer_s_rate(str(PEERS_PYTHON), DLT, demo, folder))
    lore_s = median(rates["lore"])
    found = [Row(f"full sync of {count} entities, {LATENCY_MS} ms a request, committed", lore_s, "entities/s")]
    for peer, does in (("python-gitlab", "8 threads, stores nothing"), ("dlt", "16 workers, into DuckDB")):
        if rates[peer]:
            theirs = median(rates[peer])
            found.append(
                Row(
                    f"the same beside {peer}",
                    lore_s,
                    "entities/s",
                    f"{peer}, {does}",
                    theirs,
                    wanted=None if is_quick else "ahead",
                    met=None if is_quick else lore_s > theirs,
                )
            )
    found.append(Row("most requests in flight", in_flight, "", wanted="≤ 16", met=in_flight <= 16))
    return found


def peer_s_rate(python: str, program: str, demo: Demo, last: str) -> float:
    """Return how many entities a second somebody else brings, imports not counted."""
    done = subprocess.run(
        [python, "-c", program, demo.url, demo.token, str(demo.project_id), last],
        capture_output=True,
        text=True,
        check=False,
        env=peer_s_environment(last),
        timeout=170,
    )
    if done.returncode:
        raise RuntimeError(f"{python} failed:\n{done.stderr[-2000:]}")
    took_ms, count = done.stdout.split()[-2:]
    return int(count) / (float(took_ms) / 1000)


def peer_s_environment(folder: str) -> dict[str, str]:
    import os

    # dlt's own names: its threads, items under way, and no report of its use to anybody.
    return os.environ | {
        "DLT_DATA_DIR": folder,
        "EXTRACT__WORKERS": str(THREADS["dlt"]),
        "EXTRACT__MAX_PARALLEL_ITEMS": str(THREADS["dlt"] * 4),
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "RUNTIME__LOG_LEVEL": "ERROR",
    }


# --------------------------------------------------------------------------------------- beside a person


def beside_a_person(demo: Demo, redis: Any) -> list[Row]:
    """Return what a run of one merge request takes during a full sync, and alone."""
    demo.reset()
    demo.latency(LATENCY_MS)
    during: list[float] = []
    alone: list[float] = []
    while len(during) < RUNS_AT_LEAST:
        with lore_on_an_empty_mirror(demo, redis) as lore:
            from workers import runs

            for _ in range(3):
                one_run(lore)  # what a process loads once
            alone += [one_run(lore) for _ in range(RUNS_AT_LEAST // 2)]
            sync = lore.begin()
            while not runs.has_ended(sync):
                took = one_run(lore)
                if not runs.has_ended(sync):
                    during.append(took)
            lore.ended(sync)
    return [
        Row("--mr 12 during a full sync, p50", median(during), "ms", "alone", median(alone)),
        Row(
            "--mr 12 during a full sync, p95",
            p95(during),
            "ms",
            "alone",
            p95(alone),
            wanted="≤ 3 x",
            met=p95(during) <= 3 * p95(alone),
        ),
    ]


def one_run(lore: Lore) -> float:
    """Return how many milliseconds a run of `!12` takes, with its documents, from before it is submitted."""
    from lore.core.plan import Entity
    from lore.core.runs import RunOptions
    from workers import runs

    began = time.perf_counter()
    run_id = runs.submit(
        gitlab_url=lore.demo.url,
        project=lore.demo.project,
        entities=[Entity("merge_request", 12)],
        options=RunOptions(),
    ).run_id
    wait_until(lambda: runs.has_ended(run_id), f"{run_id} ends")
    assert runs.error_of(run_id) is None
    return (time.perf_counter() - began) * 1000


# ----------------------------------------------------------------------------------------------- memory


def memory(is_quick: bool) -> tuple[list[Row], list[Curve]]:
    """Return how much memory each kind of worker has had at most, after the first entities and after all."""
    early = 200 if is_quick else 1_000
    with (
        spawn("demo" if is_quick else "medium") as demo,
        redis_running() as redis,
        lore_on_an_empty_mirror(demo, redis, own_planner=True) as lore,
    ):
        from workers import runs, syncing

        run_id = lore.begin()
        points: dict[str, list[tuple[float, float]]] = {name: [] for name in lore.workers}
        first: dict[str, float] = {}
        while not runs.has_ended(run_id):
            done = syncing.read_progress(run_id)["done"]
            for name, worker in lore.workers.items():
                points[name].append((done, peak_mb(worker)))
            if done >= early and not first:
                first = {name: peak_mb(worker) for name, worker in lore.workers.items()}
            time.sleep(1)
        total = lore.ended(run_id)
        last = {name: peak_mb(worker) for name, worker in lore.workers.items()}
    found = [
        Row(
            f"peak memory after {total:,} entities: {name}",
            last[name],
            "MB",
            f"after {early:,}",
            first[name],
            wanted="flat: ≤ 1.1 x",
            met=last[name] <= 1.1 * first[name],
        )
        for name in lore.workers
    ]
    return found, [Curve("Memory of a sync's workers", "entities", "MB", points)]


def peak_mb(worker: Process) -> float:
    status = Path(f"/proc/{worker.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


if __name__ == "__main__":
    main()
