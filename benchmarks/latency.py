"""Measure one run of `#7` and `!12` with warm workers: from before it is submitted to committed, and to done.

    python benchmarks/latency.py [--quick] [--rounds 30] [--json FILE]

For a demo GitLab that takes 0, 20 and 100 ms for each of the run's 13 requests. The floor is the slowest of them, asked
one by one on a warm connection, since a run has to wait for it at least. python-gitlab fetches the same all at once in
a warm process and stores nothing. The three take turns, and before each turn somebody edits a note of both, so
that the documents change too.
"""

from __future__ import annotations

from rows import Row, arguments, median, p95, show, write
from stand import (
    PERSON_S_WORKERS,
    Demo,
    Peer,
    Stage,
    Wire,
    end_cleanly,
    logged_at,
    open_door,
    redis_running,
    requests_of,
    spawn,
    stage,
    wait_until,
)

from lore.core.plan import Entity

ENTITIES = (Entity("issue", 7), Entity("merge_request", 12))
LATENCIES_MS = (0, 20, 100)
COMMITTED_P50_MS, COMMITTED_P95_MS = 40, 120
WARM_UP = 3


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    rounds = options.rounds or (5 if options.quick else 30)
    end_cleanly()
    rows = []
    with spawn("demo") as demo, redis_running() as redis, stage(demo, redis) as opened:
        measure = Measure(demo, opened)
        for latency_ms in LATENCIES_MS[1:2] if options.quick else LATENCIES_MS:
            rows += measure.rows(latency_ms, rounds)
    show(rows)
    write(options.json, "latency", rows)


class Measure:
    """Workers that stay warm, and what is compared to them."""

    def __init__(self, demo: Demo, opened: Stage) -> None:
        import time

        from lore.core.runs import RunOptions

        self.clock = time.time
        self.demo = demo
        self.options = RunOptions()
        self.requests = requests_of(demo.project_id, ENTITIES)
        open_door(opened.environ)
        self.fetching, self.committing, self.documents = (
            opened.worker(queues=queues, threads=threads) for queues, threads in PERSON_S_WORKERS
        )

    def run(self) -> tuple[float, float]:
        """Return the milliseconds until it is committed, and until it is done."""
        from workers import runs

        began = self.clock()
        submitted = runs.submit(
            gitlab_url=self.demo.url, project=self.demo.project, entities=ENTITIES, options=self.options
        )
        run_id = submitted.run_id
        wait_until(lambda: runs.has_ended(run_id), f"{run_id} ends")
        assert runs.error_of(run_id) is None
        self.documents.wait_for("run_ended", run_id=run_id)
        committed = logged_at(self.committing, "committed", run_id)
        return (committed - began) * 1000, (logged_at(self.documents, "run_ended", run_id) - began) * 1000

    def edit(self) -> None:
        """Edit a note of both, by which every cached answer ends too."""
        steps = []
        for kind, iid in ((entity.entity_type, entity.iid) for entity in ENTITIES):
            truth = self.demo.truth(kind, iid)
            assert truth is not None
            note = next(n for thread in truth["discussions"] for n in thread["notes"] if not n["system"])
            body = f"Edited at {self.clock():f}."
            steps.append({"step": "edit_note", "kind": kind, "iid": iid, "note_id": note["id"], "body": body})
        self.demo.script(steps)

    def rows(self, latency_ms: int, rounds: int) -> list[Row]:
        committed: list[float] = []
        done: list[float] = []
        floor: list[float] = []
        peer: list[float] = []
        self.demo.reset()
        self.demo.latency(latency_ms)
        with Peer(self.demo, self.requests) as other, Wire(self.demo) as wire:
            for nth in range(rounds + WARM_UP):
                self.edit()
                until_committed, until_done = self.run()
                self.edit()
                others_ms = other.fetch()
                if nth >= WARM_UP:
                    committed.append(until_committed)
                    done.append(until_done)
                    peer.append(others_ms)
                    if len(floor) < 10:
                        self.edit()
                        floor.append(wire.slowest(self.requests))
        said = f"{latency_ms} ms a request"
        least = median(floor)
        other_client = "python-gitlab, stores nothing"
        return [
            Row(
                f"committed, {said}, p50",
                median(committed),
                "ms",
                "slowest single request",
                least,
                wanted=f"≤ floor + {COMMITTED_P50_MS} ms",
                met=median(committed) <= least + COMMITTED_P50_MS,
            ),
            Row(
                f"committed, {said}, p95",
                p95(committed),
                "ms",
                "slowest single request",
                least,
                wanted=f"≤ floor + {COMMITTED_P95_MS} ms",
                met=p95(committed) <= least + COMMITTED_P95_MS,
            ),
            Row(f"the same, {said}", median(committed), "ms", other_client, median(peer)),
            Row(f"done, {said}, p50", median(done), "ms", other_client, median(peer)),
            Row(f"done, {said}, p95", p95(done), "ms", other_client, p95(peer)),
        ]


if __name__ == "__main__":
    main()
