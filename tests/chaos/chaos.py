"""Many runs, and whatever can go wrong goes wrong meanwhile: then everything is counted.

    python tests/chaos/chaos.py --database sqlite|postgresql --seconds 60 --seed 7

Three submitters open runs of a dozen entities of one project, over two workers. Meanwhile workers, sweeps, submitters
and Redis (whose memory is lost) are killed, workers are stopped past their leases, Redis stalls, commits die at a
statement, doze or dawdle past their lease, one issue kills whoever fetches it, runs are cancelled, GitLab's answers
fail, and what GitLab holds changes. The seed decides what happens when; how it interleaves is up to the machine. At
the end every run must have ended, the mirror must hold what GitLab said when it was asked, and nothing may be left.
Everything started here is ended here, by its process.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import queue
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # This folder holds a module of the same name as the folder.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from chaos.stage import Process, Stage, environment
from servers import RedisServer, postgresql_running, redis_running

from lore.core import documents as texts
from lore.core import plan, runs
from lore.demo.server import spawn
from models import base, schema, vectors
from models.content import ENTITY_TABLES, DirtySource, Discussion, EntityLink, MergeRequestDiff, Note, ResourceEvent
from models.documents import Document, load_source
from models.ledger import Run, RunEntity, RunSource
from models.locks import ProjectLock
from models.queue import StagedPayload, Task

LEASE_S = 1.0
WORKERS = 2
SUBMITTERS = 3
POISON = 31
MISSING = 999_999
POOL = [("issue", iid) for iid in (3, 6, 7, 10, 13, 14)] + [("merge_request", iid) for iid in (7, 9, 11, 12, 13, 14)]
FAULTS = [
    {"when": {"prob": 0.01}, "action": {"type": "latency", "ms": LEASE_S * 2000}},
    {"when": {"prob": 0.01}, "action": {"type": "reset"}},
    {"when": {"prob": 0.01}, "action": {"type": "truncated"}},
    {"when": {"prob": 0.01}, "action": {"type": "server_error", "status": 503}},
]
POISONED = f"poison={POISON}"
PLANTS = f"die-in-commit=0.08,doze-in-commit=0.05:{LEASE_S * 3.5},{POISONED}"
# A slow commit keeps SQLite's one write lock from everybody, so there are fewer.
SLOW = {"sqlite": f"slow-in-commit=0.04:{LEASE_S * 3.5}", "postgresql": f"slow-in-commit=0.15:{LEASE_S * 3.5}"}
# The failures of a run that this test provokes; any other is a finding.
EXPECTED = {"SURGICAL_PREFLIGHT_FAILED", "RUN_CANCELLED", "POISON", "RUN_DEADLINE"}
MOST_MEMORY_MB = 200


@dataclass(frozen=True)
class Event:
    """Something that is to happen so many seconds after the start."""

    at_s: float
    lane: str
    what: str
    values: dict[str, Any] = field(default_factory=dict)


def draw_plan(seed: int, seconds: float) -> list[Event]:
    """Return what happens when; the same seed gives the same plan."""
    dice = random.Random(seed)
    events: list[Event] = []

    def every(mean_s: float, *, begin_s: float = 0.5) -> Iterator[float]:
        at_s = begin_s + dice.expovariate(1 / mean_s)
        while at_s < seconds:
            yield at_s
            at_s += dice.expovariate(1 / mean_s)

    number = 0
    for nth in range(SUBMITTERS):
        for at_s in every(1.2, begin_s=0):
            entities = dice.sample(POOL, dice.choice((1, 1, 2, 3)))
            if dice.random() < 0.02:
                entities.append(("issue", POISON))
            elif dice.random() < 0.08:
                entities.append(("issue", MISSING))
            mode = "preflight_only" if dice.random() < 0.08 else "commit"
            values = {"number": number, "entities": entities, "mode": mode, "dies": dice.random() < 0.03}
            events.append(Event(at_s, f"submit-{nth}", "submit", values))
            if dice.random() < 0.12:
                later_s = at_s + dice.uniform(0.05, 3)
                events.append(Event(later_s, f"submit-{(nth + 1) % SUBMITTERS}", "cancel", {"number": number}))
            number += 1
    for at_s in every(0.6):
        kind, iid = dice.choice(POOL)
        steps = ["comment", "comment", "edit", "label", "close", "reopen", "delete_discussion"]
        step = dice.choice(steps + (["push"] if kind == "merge_request" else []))
        values = {"step": step, "kind": kind, "iid": iid, "nonce": dice.randrange(10**6)}
        events.append(Event(at_s, "gitlab", "mutate", values))
    events += [Event(at_s, "kill", "kill_worker", {"worker": dice.randrange(WORKERS)}) for at_s in every(7)]
    for at_s in every(6):
        values = {"worker": dice.randrange(WORKERS), "for_s": LEASE_S * dice.uniform(1.1, 1.8)}
        events.append(Event(at_s, "stop", "stop_worker", values))
    events += [
        Event(at_s, "sweep", "sweep", {"dies_after_s": dice.choice((None, dice.uniform(0.1, 0.6)))})
        for at_s in every(2.5)
    ]
    events += [Event(at_s, "redis", "kill_redis", {"for_s": dice.choice((0, 0.2, 1.5))}) for at_s in every(12)]
    events += [Event(at_s, "read", "read", {}) for at_s in every(0.3)]
    if seconds >= 45:
        events.append(Event(seconds / 2, "redis", "stall_redis", {"for_s": 8.0}))
    return sorted(events, key=lambda event: event.at_s)


class Truth:
    """What GitLab held of each part of each entity, and from when to when at most (ms, this host's clock)."""

    def __init__(self, gitlab: Any) -> None:
        self._gitlab = gitlab
        self._versions: dict[tuple[str, int, str], list[tuple[int, int, str]]] = defaultdict(list)
        self.look(now_ms())

    def mutate(self, step: dict[str, Any]) -> None:
        began = now_ms()
        self._gitlab.script([step])
        self.look(began)

    def look(self, began: int) -> None:
        """Note what is there; what differs from before may be so since `began`, and is so from now on at the latest."""
        ended = now_ms()
        for kind, iid in POOL:
            for part, value in parts_of_truth(self._gitlab.truth(kind, iid)).items():
                versions = self._versions[kind, iid, part]
                if not versions or versions[-1][2] != digest(value):
                    versions.append((began, ended, digest(value)))

    def was(self, entity: tuple[str, int], part: str, value: Any, *, since: int, until: int) -> bool:
        """Tell whether the part had this value at some moment of the time."""
        versions = self._versions[(*entity, part)]
        for nth, (began, _, found) in enumerate(versions):
            gone = versions[nth + 1][1] if nth + 1 < len(versions) else until
            if found == digest(value) and began <= until and gone >= since:
                return True
        return False


def parts_of_truth(truth: dict[str, Any]) -> dict[str, Any]:
    found = {plan.OWN: truth["body"], plan.DISCUSSIONS: truth["discussions"]}
    found |= {plan.STATE_EVENTS: truth["state_events"], plan.LABEL_EVENTS: truth["label_events"]}
    found |= {plan.MILESTONE_EVENTS: truth["milestone_events"]}
    if "diffs" in truth:
        return found | {plan.DIFFS: truth["diffs"], plan.CLOSES_ISSUES: truth["closes_issues"]}
    return found | {plan.LINKS: truth["links"]}


def parts_of_mirror(kind: str, row: Any) -> dict[str, Any]:
    """Return what the mirror holds of an entity, as GitLab would say it."""

    def raws(table: Any, *where: Any) -> list[Any]:
        query = table.select(table.raw).where(table.entity_type == kind, table.entity_id == row.id, *where)
        return [json.loads(raw) for (raw,) in query.order_by(table.position).tuples()]

    notes = defaultdict(list)
    rows = Note.select(Note.discussion_gitlab_id, Note.raw).where(Note.entity_type == kind, Note.entity_id == row.id)
    for discussion_id, raw in rows.order_by(Note.position).tuples():
        notes[discussion_id].append(json.loads(raw))
    found = {
        plan.OWN: json.loads(row.raw),
        plan.DISCUSSIONS: [item | {"notes": notes.pop(item["id"], [])} for item in raws(Discussion)],
        plan.STATE_EVENTS: raws(ResourceEvent, ResourceEvent.kind == "state"),
        plan.LABEL_EVENTS: raws(ResourceEvent, ResourceEvent.kind == "label"),
        plan.MILESTONE_EVENTS: raws(ResourceEvent, ResourceEvent.kind == "milestone"),
    }
    if notes:
        found[plan.DISCUSSIONS].append({"notes without a discussion": dict(notes)})
    if kind == "merge_request":
        return found | {plan.DIFFS: raws(MergeRequestDiff), plan.CLOSES_ISSUES: raws(EntityLink)}
    return found | {plan.LINKS: raws(EntityLink)}


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Submitter:
    """A process that opens and cancels runs as it is told."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._process = stage.start("submitter")

    def ask(self, asked: dict[str, Any], *, dies: bool = False) -> dict[str, Any]:
        """Return its answer; empty when it was killed before it gave one."""
        popen = self._process.popen
        assert popen.stdin is not None
        assert popen.stdout is not None
        popen.stdin.write(json.dumps(asked).encode() + b"\n")
        popen.stdin.flush()
        if dies:
            time.sleep(0.01)
            self._process.kill()
        line = popen.stdout.readline()
        if dies or not line:
            self._process = self._stage.start("submitter")
        return json.loads(line) if line.endswith(b"\n") else {}


class Chaos:
    """One storm, from the first process to the last count."""

    def __init__(self, database: str, seed: int, seconds: float, drain_s: float, plant: str) -> None:
        self.seed, self.seconds, self.drain_s = seed, seconds, drain_s
        self.bugs = plant
        self.plants = ",".join(part for part in (PLANTS, SLOW[database], plant) if part)
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.peak_mb = 0.0
        self.run_ids: dict[int, str] = {}
        self._retired: list[Process] = []
        self._over = threading.Event()
        self._lock = threading.Lock()

    def rage(self, stage: Stage, redis: RedisServer, gitlab: Any) -> None:
        """Do the plan, then let everything come to rest."""
        self.stage, self.redis, self.gitlab = stage, redis, gitlab
        events = draw_plan(self.seed, self.seconds)
        self.truth = Truth(gitlab)
        self.workers = [self._new_worker() for _ in range(WORKERS)]
        for worker in self.workers:
            worker.wait_for("worker_ready")
        gitlab.faults(FAULTS)
        self.submitters = [Submitter(stage) for _ in range(SUBMITTERS)]
        lanes: dict[str, list[Event]] = defaultdict(list)
        for event in events:
            lanes[event.lane].append(event)
        errors: queue.Queue[BaseException] = queue.Queue()
        threads = [threading.Thread(target=self._ride, args=(lane, errors), daemon=True) for lane in lanes.values()]
        self._began = time.monotonic()
        watcher = threading.Thread(target=self._watch, args=(errors,), daemon=True)
        for thread in (*threads, watcher):
            thread.start()
        for thread in threads:
            thread.join()
        gitlab.faults([])
        self._calm_down()
        self._wait_for_the_end()
        self._over.set()
        watcher.join()
        if not errors.empty():
            raise errors.get()

    def _ride(self, lane: Sequence[Event], errors: queue.Queue[BaseException]) -> None:
        try:
            for event in lane:
                time.sleep(max(0.0, self._began + event.at_s - time.monotonic()))
                if not self._over.is_set():
                    getattr(self, f"_{event.what}")(lane=event.lane, **event.values)
        except BaseException as error:
            errors.put(error)
        finally:
            base.disconnect()

    def _submit(self, *, lane: str, number: int, entities: list[Any], mode: str, dies: bool) -> None:
        asked = {"project": self.gitlab.project, "entities": entities, "mode": mode}
        answer = self.submitters[int(lane[-1])].ask(asked, dies=dies)
        self.counts["submitters killed"] += dies
        if "run_id" in answer:
            self.run_ids[number] = answer["run_id"]
            self.counts["submitted while Redis did not answer"] += not answer["is_sent"]
        elif answer:
            self.problems.append(f"a submit was refused: {answer}")

    def _cancel(self, *, lane: str, number: int) -> None:
        if number in self.run_ids:
            answer = self.submitters[int(lane[-1])].ask({"cancel": self.run_ids[number]})
            self.counts["cancels asked for"] += 1
            if answer.get("error") not in (None, "RUN_ENDED"):
                self.problems.append(f"a cancel was refused: {answer}")

    def _mutate(self, *, lane: str, step: str, kind: str, iid: int, nonce: int) -> None:
        asked = {"step": step, "kind": kind, "iid": iid, "body": f"word {nonce}", "index": 0}
        asked |= {"title": f"title {nonce}"} if step == "edit" else {}
        asked |= {"add": [f"label {nonce % 7}"]} if step == "label" else {}
        with contextlib.suppress(RuntimeError):  # nothing left to delete
            self.truth.mutate(asked)
            self.counts["changes on GitLab"] += 1

    def _kill_worker(self, *, lane: str, worker: int) -> None:
        with self._lock:
            self._note_peak(self.workers[worker])
            self.workers[worker].kill()
            self.counts["kill -9 of a worker"] += 1
            self._replace(worker)

    def _stop_worker(self, *, lane: str, worker: int, for_s: float) -> None:
        process = self.workers[worker]
        process.stop()
        self.counts["workers stopped past their leases"] += 1
        time.sleep(for_s)
        process.go_on()

    def _sweep(self, *, lane: str, dies_after_s: float | None) -> None:
        sweep = self.stage.start("sweep", plant=self.bugs)
        try:
            sweep.popen.wait(10 if dies_after_s is None else dies_after_s)
        except Exception:
            sweep.kill()
            self.counts["kill -9 of a sweep"] += 1
        else:
            self.counts["sweeps besides the workers'"] += 1

    def _kill_redis(self, *, lane: str, for_s: float) -> None:
        self.redis.kill()
        time.sleep(for_s)
        self.redis.start()
        self.counts["kill -9 of Redis, emptied"] += 1

    def _stall_redis(self, *, lane: str, for_s: float) -> None:
        self.redis.stall()
        time.sleep(for_s)
        self.redis.resume()
        self.counts[f"Redis stalled for {for_s:g} s"] += 1

    def _read(self, *, lane: str) -> None:
        """Look for a trace of a run that has not come to its commit's end: there is never one to be seen."""
        early = (runs.QUEUED, runs.PREFLIGHT, runs.COMMITTING)
        with base.read():
            if base.is_postgresql():
                base.database.execute_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            landed = (runs.OK, runs.SKIPPED_STALE)
            ended = RunEntity.select(RunEntity.run).join(Run).where(RunEntity.status.in_(landed), Run.status.in_(early))
            sources = RunSource.select(RunSource.run).join(Run).where(Run.status.in_(early))
            found = {row[0] for row in ended.tuples()} | {row[0] for row in sources.tuples()}
            orphans = (
                DirtySource.select().where(DirtySource.id.not_in(RunSource.select(RunSource.dirty_source_id))).count()
            )
        self.problems += [f"run {run_id} was seen half committed" for run_id in found]
        if orphans:
            self.problems.append(f"{orphans} dirty rows of no run were seen")
        self.counts["looks for half a commit"] += 1

    def _watch(self, errors: queue.Queue[BaseException]) -> None:
        """Start a worker anew wherever one ended by itself, as a supervisor would."""
        try:
            while not self._over.wait(0.05):
                with self._lock:
                    for nth, worker in enumerate(self.workers):
                        self._note_peak(worker)
                        if worker.popen.poll() is None:
                            continue
                        if worker.popen.returncode != -signal.SIGKILL:
                            self.problems.append(
                                f"a worker ended by itself ({worker.popen.returncode}): {worker.tail()}"
                            )
                        self._replace(nth)
        except BaseException as error:
            errors.put(error)

    def _replace(self, nth: int) -> None:
        self._retired.append(self.workers[nth])
        self.workers[nth] = self._new_worker()

    def _new_worker(self) -> Process:
        seed = f"{self.seed}-{len(self.stage.processes)}"
        return self.stage.worker(threads=6, plant=self.plants, waits=False, CHAOS_SEED=seed)

    def _note_peak(self, worker: Process) -> None:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    self.peak_mb = max(self.peak_mb, int(line.split()[1]) / 1024)

    def _calm_down(self) -> None:
        """Replace the workers by those that only the poison can kill, and the planted bugs."""
        self.plants = ",".join(part for part in (POISONED, self.bugs) if part)
        for nth in range(WORKERS):
            self._kill_worker(lane="", worker=nth)

    def _wait_for_the_end(self) -> None:
        began = time.monotonic()
        while open_runs() and time.monotonic() - began < self.drain_s:
            time.sleep(0.1)
        self.counts["seconds until all was at rest"] = round(time.monotonic() - began)

    # --- what is counted

    def judge(self) -> None:
        """Look for everything that must not be."""
        for worker in self.workers:
            worker.kill()
        self._logs = [line for process in self.stage.processes for line in process.log()]
        for line in self._logs:
            event = str(line.get("event"))
            if event in (
                "left_open",
                "sweep_failed",
                "commit_failed",
                "documents_failed",
                "embedding_failed",
            ) or event.startswith("Failed to process"):
                self.problems.append(f"the log says {event}: {str(line)[:1500]}")
        if self.peak_mb > MOST_MEMORY_MB:
            self.problems.append(f"a worker took {self.peak_mb:.0f} MB")
        self._judge_ledger()
        self._judge_effects()
        self._judge_content()

    def _judge_ledger(self) -> None:
        known = {row[0] for row in Run.select(Run.run_id).tuples()}
        for run_id in set(self.run_ids.values()) - known:
            self.problems.append(f"run {run_id} was acknowledged and is not in the ledger")
        for run_id, status, age_ms, sends in open_runs():
            self.problems.append(f"run {run_id} is stuck in {status} for {age_ms / 1000:.0f} s, sent {sends} times")
        ended = Run.select(Run.run_id).where(Run.status.in_(runs.FINAL_STATUSES))
        for run_id, status in (
            Task.select(Task.scope_run, Task.status)
            .where(Task.status.in_(runs.OPEN_TASKS), Task.scope_run.in_(ended))
            .tuples()
        ):
            self.problems.append(f"a task of the ended run {run_id} is {status}")
        staged = StagedPayload.select().join(Task).where(Task.scope_run.in_(ended)).count()
        if staged:
            self.problems.append(f"{staged} staged pages of ended runs")
        for run_id, status in (
            RunEntity.select(RunEntity.run, RunEntity.status)
            .where(RunEntity.status == runs.PENDING, RunEntity.run.in_(ended))
            .tuples()
        ):
            self.problems.append(f"an entity of the ended run {run_id} is {status}")
        for lock in ProjectLock.select().where(ProjectLock.owner.is_null(False)):
            self.problems.append(f"the lock of project {lock.project_id} is held by {lock.owner}")
        for run in Run.select().where(Run.status == runs.FAILED, Run.error_code.not_in(EXPECTED)):
            self.problems.append(f"run {run.run_id} failed of {run.error_code}: {run.error_message}")

    def _judge_effects(self) -> None:
        by_run = Counter(row[0] for row in RunSource.select(RunSource.run).tuples())
        landed = Counter(row[0] for row in RunEntity.select(RunEntity.run).join(Run).where(*LANDED).tuples())
        for run_id in by_run.keys() | landed.keys():
            if by_run[run_id] != landed[run_id]:
                self.problems.append(f"run {run_id} wrote {landed[run_id]} entities and has {by_run[run_id]} sources")
        dirty = {row[0] for row in DirtySource.select(DirtySource.id).tuples()}
        owed = RunSource.select(RunSource.dirty_source_id).join(Run)
        built = {row[0] for row in owed.where(Run.status == runs.SUCCEEDED).tuples()}
        sources = {row[0] for row in RunSource.select(RunSource.dirty_source_id).tuples()}
        if dirty - sources or dirty & built:
            self.problems.append(f"{len(dirty - sources)} dirty rows of no run, {len(dirty & built)} of what is built")
        landed_otherwise = (
            RunEntity.select()
            .join(Run)
            .where(
                RunEntity.status == runs.OK,
                Run.status.in_((runs.FAILED, runs.CANCELLED)),
                Run.stage != runs.STAGE_EMBEDDING,
            )
            .count()
        )
        if landed_otherwise:
            self.problems.append(f"{landed_otherwise} entities are ok in runs that did not come that far")
        self.counts["effects (entities written)"] = len(sources)

    def _judge_content(self) -> None:
        """Compare each part with what GitLab held while it was asked, and its age with that of the last commit."""
        last, until = self._last_commits()
        for kind, iid in POOL:
            row = ENTITY_TABLES[kind].get_or_none(ENTITY_TABLES[kind].iid == iid)
            if row is None:
                if (kind, iid) in last:
                    self.problems.append(f"{kind} {iid} was committed and is not in the mirror")
                continue
            if (kind, iid) not in last:
                self.problems.append(f"{kind} {iid} is in the mirror and was never committed")
                continue
            observed = json.loads(row.parts_observed_at)
            for part, value in parts_of_mirror(kind, row).items():
                # What GitLab moved `updated_at` for is taken whoever asked first.
                if part != plan.OWN and observed.get(part) != last[kind, iid][part]:
                    self.problems.append(f"{part} of {kind} {iid} is not what was observed last")
                is_true = self.truth.was((kind, iid), part, value, since=observed.get(part, 0), until=until[kind, iid])
                if not is_true:
                    self.problems.append(f"{part} of {kind} {iid} is nothing that GitLab held when it was asked")
                self.counts["parts compared with GitLab"] += 1

    def _last_commits(self) -> tuple[dict[Any, dict[str, int]], dict[Any, int]]:
        """Return for each committed entity when each part was last observed, and when it was last committed."""
        last: dict[Any, dict[str, int]] = defaultdict(dict)
        until: dict[Any, int] = {}
        landed = (
            Task.select(Task.entity_type, Task.iid, Task.job_type, Task.observed_at, Run.finished_at)
            .join(Run, on=(Run.run_id == Task.scope_run))
            .join(
                RunEntity,
                on=(
                    (RunEntity.run == Task.scope_run)
                    & (RunEntity.entity_type == Task.entity_type)
                    & (RunEntity.iid == Task.iid)
                ),
            )
            .where(*LANDED)
        )
        for kind, iid, part, observed_at, finished_at in landed.tuples():
            last[kind, iid][part] = max(observed_at, last[kind, iid].get(part, 0))
            until[kind, iid] = max(finished_at, until.get((kind, iid), 0))
        return last, until

    def settle(self) -> None:
        """Refresh everything once more in peace: then the mirror is what GitLab holds now."""
        worker = self.stage.worker(threads=6)
        refs = [part for kind, iid in POOL for part in (f"--{'mr' if kind == 'merge_request' else 'issue'}", str(iid))]
        answer = self.stage.robot("submit", *refs, "--wait", "--timeout", "60")
        if answer.status:
            self.problems.append(f"the last refresh ended with {answer.status}: {answer.out[:500]}")
            return
        for kind, iid in POOL:
            row = ENTITY_TABLES[kind].get(ENTITY_TABLES[kind].iid == iid)
            now = parts_of_truth(self.gitlab.truth(kind, iid))
            for part, value in parts_of_mirror(kind, row).items():
                if value != now[part]:
                    self.problems.append(f"after the last refresh {part} of {kind} {iid} is not what GitLab holds")
            self._judge_documents(kind, row.id, iid)
        with base.read():
            lacking = sum(vectors.lacking(model) for model in vectors.models())
        if lacking or len(vectors.models()) != 1:
            self.problems.append(f"after the last refresh {lacking} documents have no vector of their text")
        worker.end()

    def _judge_documents(self, kind: str, entity_id: int, iid: int) -> None:
        with base.write():
            source = load_source(kind, entity_id)
            assert source is not None
            wanted = {(one.source_type, one.source_id): one.content for one in texts.build(source)}
            stored = Document.select(Document.source_type, Document.source_id, Document.content).where(
                Document.entity_type == kind, Document.entity_id == entity_id
            )
            if wanted != {tuple(key): content for *key, content in stored.tuples()}:
                self.problems.append(f"after the last refresh the documents of {kind} {iid} are not of its content")
            self.counts["documents compared with their content"] += len(wanted)

    def tell(self) -> None:
        """Print what was done and found."""
        outcomes = Counter(
            f"{status} ({code})" if code else status
            for status, code in Run.select(Run.status, Run.error_code).where(Run.trigger == "chaos").tuples()
        )
        say("runs", sum(outcomes.values()))
        for outcome, count in outcomes.most_common():
            say(f"  {outcome}", count)
        for what, count in sorted(self.counts.items()):
            say(what, count)
        events = Counter(str(line.get("event")) for line in self._logs)
        own = Counter(line["why"] for line in self._logs if line.get("event") == "killed_itself")
        for why, count in sorted(own.items()):
            say(f"workers dead of {why}" if why == "poison" else f"workers dead {why}", count)
        swept: Counter[str] = Counter()
        for line in self._logs:
            if line.get("event") == "swept":
                swept.update({name: n for name, n in line.items() if isinstance(n, int)})
        for what in ("preflight_sent", "fetch_sent", "commit_sent", "claim_expired", "preflight_ended", "run_deadline"):
            say(f"swept: {what}", swept[what])
        for event in ("fenced_out", "claim_lost", "lock_busy", "commit_interrupted", "left_to_the_sweeper"):
            say(f"logged: {event}", events[event])
        say(
            "logged: messages reclaimed",
            sum(n.get("count", 0) for n in self._logs if n["event"] == "messages_reclaimed"),
        )
        took = sorted(
            (finished - created) / 1000
            for created, finished in Run.select(Run.created_at, Run.finished_at)
            .where(Run.status == runs.SUCCEEDED, Run.trigger == "chaos")
            .tuples()
        )
        if len(took) > 1:
            say("seconds of a run that succeeded, p50", f"{statistics.median(took):.1f}")
            say("seconds of a run that succeeded, p95", f"{took[int(len(took) * 0.95)]:.1f}")
        say("most memory of a worker, MB", f"{self.peak_mb:.0f}")
        for problem in self.problems:
            say("PROBLEM", problem)
        say("problems", len(self.problems))


# An entity whose content was written, whatever became of its run behind the commit.
LANDED = (
    Run.mode == "commit",
    RunEntity.stage.in_((runs.STAGE_DOCUMENTS, runs.STAGE_EMBEDDING)),
)


def open_runs() -> list[tuple[Any, ...]]:
    with base.read():
        query = Run.select(Run.run_id, Run.status, Run.created_at, Run.sends).where(Run.status.in_(runs.OPEN_STATUSES))
        return [(run_id, status, now_ms() - at, sends) for run_id, status, at, sends in query.tuples()]


def say(what: str, value: object) -> None:
    print(f"{what:<45} {value}", flush=True)


@contextlib.contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    """Yield the URL of an empty database."""
    if kind == "sqlite":
        yield f"sqlite://{folder}/lore.db"
        return
    with postgresql_running(is_durable=True) as url:
        try:
            yield url
        finally:
            base.disconnect()


def main(arguments: Sequence[str] | None = None) -> int:
    """Rage once; return 0 if nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--seconds", type=float, default=60, help="how long things go wrong (60)")
    parser.add_argument("--drain", type=float, default=120, help="how long the runs may take to end afterwards (120)")
    parser.add_argument("--seed", type=int, default=7, help="what happens when (7)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the logs of all processes there")
    parser.add_argument("--plant", default="", help="bugs of entry.py in every worker, such as bug-no-fence")
    options = parser.parse_args(arguments)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _end)
    chaos = Chaos(options.database, options.seed, options.seconds, options.drain, options.plant)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lore-chaos-")))
        url = stack.enter_context(database(options.database, folder))
        gitlab = stack.enter_context(spawn("demo", options.seed, "--latency-ms", "10"))
        redis = stack.enter_context(redis_running())
        environ = environment(
            folder,
            gitlab,
            url,
            LORE_REDIS_URL=redis.url,
            LORE_LOCK_LEASE=f"{LEASE_S:g}s",
            LORE_CLAIM_LEASE=f"{LEASE_S:g}s",
            LORE_RUN_DEADLINE="60s",
        )
        base.open_database(url)
        stack.callback(base.disconnect)
        schema.bring_up()
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
        stage = stack.enter_context(Stage(environ, options.keep or folder))
        say("chaos", f"{options.database}, seed {options.seed}, {options.seconds:g} s {options.plant}")
        chaos.rage(stage, redis, gitlab)
        chaos.judge()
        if not open_runs():
            chaos.settle()
        chaos.tell()
    return 1 if chaos.problems else 0


def _end(signum: int, _: object) -> None:
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    sys.exit(main())
