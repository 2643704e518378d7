"""A small world of which a test decides everything: the time, what GitLab holds, every message, and who dies when.

The actors, the ledger and the sweeper in it are the real ones; one thread does it all, so what happens is repeatable.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import dramatiq
import peewee
import pytest
import redis
from support import (
    CONTENT_ONLY,
    CONTENT_TABLES,
    GITLAB_URL,
    PROJECT,
    FakeGitLab,
    LetterEmbedder,
    Pages,
    entity_body,
    event_body,
    note_body,
)

from lore import logs
from lore.core import plan, runs
from lore.core.errors import BusyError, PassingError, RefusedError, UsageError
from lore.core.plan import Entity
from models import base, schema
from models.base import Table
from models.content import (
    CHILD_TABLES,
    ENTITY_TABLES,
    DirtySource,
    Discussion,
    EntityLink,
    MergeRequestDiff,
    Note,
    ResourceEvent,
)
from models.ledger import Project, ProjectPath, Run, RunDocument, RunEntity, RunEvent, RunSource
from models.locks import ProjectLock
from models.queue import GitLabHost, StagedPayload, Task
from workers import QUEUES, preflight, resources, upkeep
from workers import runs as doors

ISSUE_1 = Entity("issue", 1)
MR_3 = Entity("merge_request", 3)
ENTITIES = (ISSUE_1, MR_3)
RENAMED_FROM = "tern/port"

# 2025-11-23, and no round number of seconds.
BEGINNING_MS = 1_763_900_000_123

_CONTROL_TABLES: tuple[type[Table], ...] = (
    StagedPayload,
    RunDocument,
    RunSource,
    RunEvent,
    RunEntity,
    Task,
    Run,
    ProjectLock,
    GitLabHost,
    ProjectPath,
    Project,
)


class Killed(BaseException):
    """The process is gone: nothing after this runs in it."""


# ------------------------------------------------------------------------------------------------ time


class Time:
    """The database's clock, which stands still until the test moves it.

    SQLite's is this host's, read in `models.base` alone; PostgreSQL finds a `clock_timestamp()` of ours before its own.
    """

    def __init__(self, now_ms: int = BEGINNING_MS) -> None:
        self.now_ms = now_ms
        self._postgresql: Any = None

    @contextmanager
    def govern(self, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        """Govern the clock of a database; yield the URL to open it by."""
        monkeypatch.setattr(base, "time", SimpleNamespace(time_ns=lambda: self.now_ms * 1_000_000))
        if not database_url.startswith("postgresql://"):
            yield database_url
            return
        import psycopg

        with psycopg.connect(database_url, autocommit=True) as connection:
            self._postgresql = connection
            for statement in (
                "CREATE SCHEMA IF NOT EXISTS simulated",
                "CREATE SEQUENCE IF NOT EXISTS simulated.now",
                "CREATE OR REPLACE FUNCTION simulated.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS"
                " 'SELECT to_timestamp(last_value / 1000.0) FROM simulated.now'",
            ):
                connection.execute(statement)
            self.move_to(self.now_ms)
            yield f"{database_url}&options=-c%20search_path%3Dpublic%2Csimulated%2Cpg_catalog"
            self._postgresql = None

    def move_to(self, now_ms: int) -> None:
        self.now_ms = now_ms
        if self._postgresql is not None:
            self._postgresql.execute("SELECT setval('simulated.now', %s)", (now_ms,))

    def pass_ms(self, ms: int) -> None:
        self.move_to(self.now_ms + ms)


# ---------------------------------------------------------------------------------------------- GitLab

Endpoint = tuple[Entity, str]


@dataclass
class ChangingGitLab:
    """A GitLab at our own seam, each endpoint of which says in all it answers how often it was edited.

    `fake` answers the actors; `versions` is the truth.
    """

    time: Time
    entities: tuple[Entity, ...] = ENTITIES
    fake: FakeGitLab = field(default_factory=FakeGitLab)
    versions: dict[Endpoint, int] = field(default_factory=dict)
    updated_at: dict[Entity, int] = field(default_factory=dict)
    broken: dict[Endpoint, Exception] = field(default_factory=dict)
    after_answer: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._edits = itertools.count(1)
        for entity in self.entities:
            self.updated_at[entity] = self.time.now_ms - 86_400_000
            for endpoint in plan.ENDPOINTS[entity.entity_type]:
                self.versions[entity, endpoint.job_type] = 0
                self.fake.set(entity, endpoint.job_type, self._answerer(entity, endpoint.job_type))

    def edit(self, entity: Entity, *job_types: str, moves_updated_at: bool = True) -> None:
        """Change what some endpoints of an entity answer, all of them if none is named."""
        version = next(self._edits)
        for endpoint in plan.ENDPOINTS[entity.entity_type]:
            if not job_types or endpoint.job_type in job_types:
                self.versions[entity, endpoint.job_type] = version
        if moves_updated_at:
            self.updated_at[entity] = self.time.now_ms

    def body(self, entity: Entity, job_type: str) -> Any:
        version = self.versions[entity, job_type]
        marks = {"version": version}
        if job_type == plan.OWN:
            return entity_body(entity, updated_at=self.updated_at[entity], title=f"v{version}", **marks)
        size = size_of(version)
        marks["size"] = size
        if job_type == plan.DISCUSSIONS:
            # Two pages, so that an answer could also be half there.
            items = [_discussion(entity, n, marks) for n in range(size)]
            return Pages([items[:1], items[1:]])
        return [_ITEMS[job_type](n) | marks for n in range(size)]

    def _answerer(self, entity: Entity, job_type: str) -> Callable[[], Any]:
        def answer() -> Any:
            error = self.broken.get((entity, job_type))
            found = error if error is not None else self.body(entity, job_type)
            self.after_answer()
            return found

        return answer


def size_of(version: int) -> int:
    """Return how many children an endpoint lists in this version: now more, now fewer."""
    return 1 + version % 3


def _discussion(entity: Entity, n: int, marks: dict[str, Any]) -> dict[str, Any]:
    note = note_body(1000 + n, f"v{marks['version']}", **marks)
    return {"id": f"{n:040x}", "individual_note": False, "notes": [note]} | marks


_ITEMS: dict[str, Callable[[int], dict[str, Any]]] = {
    plan.STATE_EVENTS: lambda n: event_body(n + 1, state="closed"),
    plan.LABEL_EVENTS: lambda n: event_body(n + 1, action="add", label={"id": 1, "name": "bug"}),
    plan.MILESTONE_EVENTS: lambda n: event_body(n + 1, action="add", milestone={"id": 1, "title": "spring"}),
    plan.DIFFS: lambda n: {"old_path": f"{n}.py", "new_path": f"{n}.py", "diff": ""},
    plan.CLOSES_ISSUES: lambda n: {"id": n + 5, "iid": n + 5, "project_id": 4711, "title": "leak", "state": "opened"},
    plan.LINKS: lambda n: {"id": n + 5, "iid": n + 5, "project_id": 4711, "issue_link_id": 3, "title": "leak"},
}
_EVENTS = {"state": plan.STATE_EVENTS, "label": plan.LABEL_EVENTS, "milestone": plan.MILESTONE_EVENTS}


def mirrored() -> dict[Endpoint, int]:
    """Return the version that the mirror holds of each endpoint.

    Raises:
        AssertionError: Some of its rows are of another version than the others, or missing, or too many.
    """
    found: dict[Endpoint, list[dict[str, Any]]] = {}
    names: dict[tuple[str, int], Entity] = {}
    for entity_type, table in ENTITY_TABLES.items():
        for entity_id, iid, title, raw in table.select(table.id, table.iid, table.title, table.raw).tuples():
            entity = Entity(entity_type, iid)  # type: ignore[arg-type]
            names[entity_type, entity_id] = entity
            marks = json.loads(raw)
            assert title == f"v{marks['version']}", "a column and the payload it was read from differ"
            found[entity, plan.OWN] = [marks | {"size": 1}]
    columns: list[tuple[Any, Any]] = [
        (Discussion, peewee.Value(plan.DISCUSSIONS)),
        (Note, peewee.Value("notes")),
        (ResourceEvent, ResourceEvent.kind),
        (MergeRequestDiff, peewee.Value(plan.DIFFS)),
        (EntityLink, EntityLink.kind),
    ]
    for table, kind in columns:
        for entity_type, entity_id, job_type, raw in table.select(
            table.entity_type, table.entity_id, kind, table.raw
        ).tuples():
            owner = names[entity_type, entity_id]
            found.setdefault((owner, _EVENTS.get(job_type, job_type)), []).append(json.loads(raw))
    versions = {}
    for key, rows in found.items():
        seen = {row["version"] for row in rows}
        assert len(seen) == 1, f"{key} is mixed of versions {sorted(seen)}"
        versions[key] = seen.pop()
        assert len(rows) == rows[0]["size"], f"{key} has {len(rows)} rows instead of {rows[0]['size']}"
    for (entity, job_type), version in list(versions.items()):
        if job_type == "notes":
            assert versions[entity, plan.DISCUSSIONS] == versions.pop((entity, job_type)) == version
    for entity in names.values():
        missing = [e.job_type for e in plan.ENDPOINTS[entity.entity_type] if (entity, e.job_type) not in versions]
        assert not missing, f"{entity} was written without {missing}"
    return versions


# ---------------------------------------------------------------------------------------- what happens


@dataclass(frozen=True)
class Fault:
    """What befalls an action at one moment of it.

    Attributes:
        at: `begin` and `commit` of a transaction, `committed` (just after), `statement`, or `answer` (of GitLab's).
        nth: Which of these moments, from 1.
        what: `die`, `lose` (the connection to the database), or what else happens meanwhile, then the action goes on.
    """

    at: str
    nth: int
    what: str | Callable[[], None]


class Stage:
    """Lets a fault befall the action that is going on, at the very moment of it that the fault names."""

    def __init__(self) -> None:
        self._fault: Fault | None = None
        self._counts: dict[str, int] = {}
        # Between its claim and GitLab's answer a fetch is one moment: what overlaps there has no order.
        self.is_one_moment = False

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Watch the open database's transactions and statements."""
        opened: Any = base.database.obj
        real = SimpleNamespace(
            begin=opened.begin, commit=opened.commit, rollback=opened.rollback, execute_sql=opened.execute_sql
        )
        execute_many = getattr(opened, "execute_many", None)

        def begin(*args: Any, **kwargs: Any) -> None:
            self.come_to("begin")
            real.begin(*args, **kwargs)

        def commit_it() -> None:
            self.come_to("commit", before=real.rollback)
            real.commit()
            self.come_to("committed")

        def rollback() -> None:
            # After a COMMIT whose answer was lost there is nothing to roll back, and SQLite says so.
            if not opened.is_closed() and not (hasattr(opened.connection(), "in_transaction") and _is_idle(opened)):
                real.rollback()

        def execute_sql(sql: str, params: Any = None) -> Any:
            self.come_to("statement")
            return real.execute_sql(sql, params)

        def execute_for_all(sql: str, rows: Any) -> None:
            self.come_to("statement")
            execute_many(sql, rows)

        opened.begin, opened.commit, opened.rollback, opened.execute_sql = begin, commit_it, rollback, execute_sql
        opened.execute_many = execute_for_all
        try:
            yield
        finally:
            del opened.begin, opened.commit, opened.rollback, opened.execute_sql, opened.execute_many

    def run(self, action: Callable[[], Any], fault: Fault | None) -> Any:
        """Do an action, with its fault; None when it died of it, or gave up because the database was gone."""
        self._fault, self._counts = fault, {}
        self.is_one_moment = False
        try:
            return action()
        except (Killed, BusyError):
            return None
        finally:
            self._fault = None
            logs.clear_context()

    def come_to(self, moment: str, *, before: Callable[[], None] | None = None) -> None:
        fault = self._fault
        if fault is None:
            return
        self._counts[moment] = self._counts.get(moment, 0) + 1
        if moment != fault.at or self._counts[moment] < fault.nth:
            return
        if callable(fault.what):
            if self.is_one_moment:
                return
            counts, self._fault = self._counts, None
            fault.what()
            self._counts = counts
            return
        self._fault = None
        if before is not None:
            before()
        if fault.what == "lose":
            if base.is_postgresql():
                base.database.obj.connection().close()
            raise peewee.InterfaceError("the connection was lost")
        raise Killed


def _is_idle(opened: Any) -> bool:
    return not opened.connection().in_transaction


class World:
    """Everything: the time, GitLab, the messages under way, and the runs that were submitted."""

    def __init__(self, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time = time
        self.stage = Stage()
        self.reached: Counter[str] = Counter()
        monkeypatch.setattr(preflight, "random", SimpleNamespace(random=lambda: 0.5))
        monkeypatch.setattr(
            preflight, "time", SimpleNamespace(sleep=lambda s: time.pass_ms(int(s * 1000)), monotonic=lambda: 0.0)
        )
        self._numbers = itertools.count()
        monkeypatch.setattr(doors, "secrets", SimpleNamespace(token_hex=lambda _: f"{next(self._numbers):08x}"))
        self._broker: Any = dramatiq.get_broker()
        monkeypatch.setattr(self._broker, "is_worked", True, raising=False)
        monkeypatch.setattr(self._broker, "only_run_id", None)
        real_enqueue = self._broker.enqueue

        def enqueue(message: Any, *, delay: int | None = None) -> Any:
            if self.redis == "down":
                raise redis.ConnectionError("down")
            sent = real_enqueue(message, delay=delay)
            if self.redis == "answers get lost":
                raise redis.TimeoutError("the message was queued, its answer was lost")
            return sent

        monkeypatch.setattr(self._broker, "enqueue", enqueue)
        real_claim = preflight.claim

        def claim(*args: Any, **kwargs: Any) -> Any:
            time.pass_ms(1)  # no two requests begin in the same millisecond
            held = real_claim(*args, **kwargs)
            self.stage.is_one_moment = held is not None
            return held

        monkeypatch.setattr(preflight, "claim", claim)
        monkeypatch.setattr(resources, "gitlab", lambda: self.gitlab.fake)
        self.embedder = LetterEmbedder()
        monkeypatch.setattr(resources, "embedder", lambda: self.embedder)
        self.begin_anew()

    def begin_anew(self) -> None:
        """Empty every table and forget every message."""
        self._broker.flush_all()
        self.time.move_to(BEGINNING_MS)
        with base.write():
            for table in (*CONTENT_TABLES, *_CONTROL_TABLES):
                table.delete().execute()
        self.gitlab = ChangingGitLab(self.time)
        self.gitlab.after_answer = self._answered
        self.redis = "up"
        self.options = CONTENT_ONLY
        self.messages: list[tuple[str, Any]] = []
        self.runs: list[str] = []
        self.asked_for: dict[str, dict[Endpoint, int]] = {}

    def _answered(self) -> None:
        self.stage.is_one_moment = False
        self.stage.come_to("answer")

    # Every action below is one that the world can take at any time, also while another one is going on.

    def submit(self, *entities: Entity, mode: Any = "commit", project: str = PROJECT) -> None:
        # What GitLab held when the run was asked for: the least that it must bring.
        asked_for = {key: version for key, version in self.gitlab.versions.items() if key[0] in entities}
        known = set(self.runs)
        options = replace(self.options, mode=mode)
        try:
            doors.submit(gitlab_url=GITLAB_URL, project=project, entities=entities, options=options)
        finally:
            with base.read():
                opened = [row[0] for row in Run.select(Run.run_id).order_by(Run.run_id).tuples() if row[0] not in known]
            for run_id in opened:
                self.runs.append(run_id)
                self.asked_for[run_id] = asked_for

    def collect(self) -> None:
        """Take what was sent out of the broker's queues: it is under way now."""
        for name in QUEUES:
            queue = self._broker.queues[name]
            while not queue.empty():
                message = dramatiq.Message.decode(queue.get_nowait())
                queue.task_done()
                self.messages.append((message.actor_name, message.args))

    def deliver(self, nth: int = 0, *, keep: bool = False) -> None:
        """Deliver the n-th message under way; `keep` delivers a duplicate of it."""
        self.collect()
        if not self.messages:
            return
        actor_name, args = self.messages[nth % len(self.messages)]
        if not keep:
            del self.messages[nth % len(self.messages)]
        self._broker.get_actor(actor_name).fn(*args)

    def deliver_one_of(self, *actors: str, nth: int = 0, keep: bool = False) -> None:
        """Deliver the n-th message under way to one of these actors."""
        self.collect()
        fitting = [position for position, (actor_name, _) in enumerate(self.messages) if actor_name in actors]
        if fitting:
            self.deliver(fitting[nth % len(fitting)], keep=keep)

    def drop(self, nth: int) -> None:
        self.collect()
        if self.messages:
            del self.messages[nth % len(self.messages)]

    def sweep(self) -> None:
        found = upkeep.sweep()
        assert "left_open" not in found, "an ended run had left something open"

    def cancel(self, nth: int) -> None:
        if not self.runs:
            return
        try:
            doors.cancel(self.runs[nth % len(self.runs)])
        except UsageError as error:
            if error.code != "RUN_ENDED":
                raise

    def pass_time(self, ms: int) -> None:
        self.time.pass_ms(ms)

    def edit(self, nth: int, mask: int, *, moves_updated_at: bool) -> None:
        entity = self.gitlab.entities[nth % len(self.gitlab.entities)]
        names = [e.job_type for e in plan.ENDPOINTS[entity.entity_type]]
        self.time.pass_ms(1)
        self.gitlab.edit(
            entity,
            *(name for position, name in enumerate(names) if mask >> position & 1),
            moves_updated_at=moves_updated_at,
        )

    def break_endpoint(self, nth: int, how: str) -> None:
        keys = sorted(self.gitlab.versions)
        self.gitlab.broken[keys[nth % len(keys)]] = {
            "refuses": RefusedError("GITLAB_NOT_FOUND", "404"),
            "is down": PassingError("GITLAB_UNAVAILABLE", "502"),
            "asks to wait": PassingError("GITLAB_RATE_LIMITED", "429", retry_after_s=20, pauses_host=True),
            "dooms": RefusedError("GITLAB_UNAUTHORIZED", "401"),
        }[how]

    def mend(self) -> None:
        self.gitlab.broken.clear()

    def fall_silent(self, *, rounds: int = 40) -> bool:
        """Let nothing go wrong any more; tell whether every run then ends, within less than a run's deadline."""
        self.mend()
        self.redis = "up"
        for _ in range(rounds):
            self.collect()
            while self.messages:
                self.stage.run(self.deliver, None)
                self.collect()
            if not open_runs():
                return True
            self.pass_time(20_000)
            self.stage.run(self.sweep, None)
        return False


def open_runs() -> list[str]:
    with base.read():
        return [row[0] for row in Run.select(Run.run_id).where(Run.status.not_in(runs.FINAL_STATUSES)).tuples()]


# ------------------------------------------------------------------------------------ what is recorded


@dataclass(frozen=True)
class Move:
    """One change that a transaction committed, as the database itself saw it."""

    kind: str
    key: str
    was: str | None
    now: str | None
    more: str | None


_WATCHED: tuple[tuple[str, str, str, str, str, str], ...] = (
    # kind, table, key, value, more (of the new row N and the old row O), when
    ("run", "sync_runs", "N.run_id", "status", "N.error_code", "O.status <> N.status"),
    (
        "task",
        "dependent_queue",
        "N.id",
        "status",
        "O.claim_no || ' ' || N.claim_no",
        "O.status <> N.status OR O.claim_no <> N.claim_no",
    ),
    ("entity", "sync_run_entities", "N.run_id", "status", "N.id", "O.status <> N.status"),
    (
        "lock",
        "project_locks",
        "N.project_id",
        "owner",
        "O.fence || ' ' || N.fence || ' ' || COALESCE(O.until, 0) || ' ' || COALESCE(N.until, 0)",
        "COALESCE(O.owner, '') <> COALESCE(N.owner, '')",
    ),
)


def record_moves() -> None:
    """Make the database write down every change of a status, of the lock's owner and of content, in their order."""
    is_postgresql = base.is_postgresql()
    number = "bigserial PRIMARY KEY" if is_postgresql else "integer PRIMARY KEY AUTOINCREMENT"
    run = base.database.execute_sql
    run(f"CREATE TABLE simulated_moves (n {number}, kind text, key text, was text, now text, more text)")
    insert = "INSERT INTO simulated_moves (kind, key, was, now, more) VALUES"
    for kind, table, key, value, more, when in _WATCHED:
        values = f"{insert} ('{kind}', {key}, O.{value}, N.{value}, {more})"
        _trigger(f"{kind}_moves", table, "UPDATE", values, when)
    for table in (*ENTITY_TABLES.values(), *CHILD_TABLES, DirtySource):
        name = table._meta.table_name
        # A dirty row goes when its documents are built, which is after the commit.
        for event in ("INSERT", "UPDATE", "DELETE") if table is not DirtySource else ("INSERT", "UPDATE"):
            _trigger(
                f"{name}_{event.lower()}", name, event, f"{insert} ('content', '{name}', '{event}', NULL, NULL)", None
            )


def _trigger(name: str, table: str, event: str, statement: str, when: str | None) -> None:
    run = base.database.execute_sql
    statement, when = (text and text.replace("O.", "OLD.").replace("N.", "NEW.") for text in (statement, when))
    condition = f"WHEN ({when})" if when else ""
    if base.is_postgresql():
        run(f"CREATE FUNCTION {name}_f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {statement}; RETURN NULL; END $$")
        run(f"CREATE TRIGGER {name} AFTER {event} ON {table} FOR EACH ROW {condition} EXECUTE FUNCTION {name}_f()")
    else:
        run(f"CREATE TRIGGER {name} AFTER {event} ON {table} FOR EACH ROW {condition} BEGIN {statement}; END")


def take_moves() -> list[Move]:
    """Return what was recorded since the last call."""
    rows = base.database.execute_sql("SELECT kind, key, was, now, more FROM simulated_moves ORDER BY n").fetchall()
    if rows:
        base.database.execute_sql("DELETE FROM simulated_moves")
    return [Move(*row) for row in rows]


@contextmanager
def opened(database_url: str, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Open a world on an empty database."""
    time = Time()
    with time.govern(database_url, monkeypatch) as url:
        base.open_database(url)
        schema.bring_up()
        resources.configure(settings)
        logs.configure(format="json", level="critical")  # what is told of thousands of faults is not read here
        world = World(time, monkeypatch)
        try:
            yield world
        finally:
            dramatiq.get_broker().flush_all()
            resources.close()
            base.disconnect()
