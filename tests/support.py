"""What many tests need: payloads to fetch, a GitLab at our own seam, and a look at the tables."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import dramatiq
import numpy as np
from servers import wait_until

from lore.core import payloads, plan
from lore.core.errors import RefusedError
from lore.core.plan import Entity
from lore.core.runs import RunOptions
from lore.settings import Settings, read_settings
from models.base import SqliteDatabase, Table, database, disconnect, is_postgresql
from models.content import CHILD_TABLES, DirtySource, Issue, MergeRequest
from models.documents import Document, Embedding
from models.ledger import Run
from models.queue import Task
from workers import QUEUES, runs

GITLAB_URL = "http://gitlab.test"
PROJECT = "tern/harbour"
PROJECT_ID = 4711
CONTENT_TABLES: tuple[type[Table], ...] = (Issue, MergeRequest, *CHILD_TABLES, Document, Embedding, DirtySource)

MR_12 = Entity("merge_request", 12)
ISSUE_7 = Entity("issue", 7)


def settings_for(gitlab_url: str, token: str, database_url: str, **settings: str) -> Settings:
    """Return the settings of somebody without a home, with this GitLab, this database and these settings."""
    known = {"LORE_GITLAB_URL": gitlab_url, "LORE_GITLAB_TOKEN": token, "LORE_DATABASE_URL": database_url}
    return read_settings(known | {"HOME": "/nonexistent"} | settings)


def iso(at_ms: int) -> str:
    return payloads.datetime.fromtimestamp(at_ms / 1000, payloads.UTC).isoformat(timespec="milliseconds")


def project_body(gitlab_id: int = PROJECT_ID, path: str = PROJECT) -> dict[str, Any]:
    return {"id": gitlab_id, "path_with_namespace": path, "default_branch": "main"}


def entity_body(entity: Entity, *, updated_at: int = 1_700_000_000_000, **more: Any) -> dict[str, Any]:
    return {
        "id": 900_000 + entity.iid,
        "iid": entity.iid,
        "project_id": PROJECT_ID,
        "title": f"the {entity.entity_type} {entity.iid}",
        "state": "opened",
        "created_at": "2023-01-01T00:00:00.000Z",
        "updated_at": iso(updated_at),
        "labels": ["bug", "sea"],
        "author": {"id": 1, "username": "ida"},
        "unheard_of": {"kept": True},
    } | more


def note_body(note_id: int, body: str = "a note", **more: Any) -> dict[str, Any]:
    return {
        "id": note_id,
        "body": body,
        "author": {"id": 2, "username": "olaf"},
        "created_at": "2023-01-02T00:00:00.000Z",
        "updated_at": "2023-01-02T00:00:00.000Z",
        "system": False,
    } | more


def discussion_body(number: int, *notes: dict[str, Any]) -> dict[str, Any]:
    return {"id": f"{number:040x}", "individual_note": False, "notes": list(notes or [note_body(number)])}


def event_body(event_id: int, **more: Any) -> dict[str, Any]:
    return {"id": event_id, "created_at": "2023-01-03T00:00:00.000Z", "user": {"id": 1, "username": "ida"}} | more


LISTS: dict[str, list[dict[str, Any]]] = {
    plan.DISCUSSIONS: [discussion_body(1, note_body(11), note_body(12)), discussion_body(2)],
    plan.STATE_EVENTS: [event_body(1, state="closed"), event_body(2, state="reopened")],
    plan.LABEL_EVENTS: [event_body(1, action="add", label={"id": 1, "name": "bug"})],
    plan.MILESTONE_EVENTS: [event_body(1, action="add", milestone={"id": 1, "title": "spring"})],
    plan.DIFFS: [{"old_path": "a.py", "new_path": "b.py", "renamed_file": True, "diff": ""}],
    plan.CLOSES_ISSUES: [{"id": 5, "iid": 7, "project_id": PROJECT_ID, "title": "leak", "state": "opened"}],
    plan.LINKS: [{"id": 6, "iid": 8, "project_id": PROJECT_ID, "issue_link_id": 3, "link_type": "relates_to"}],
}

Body = bytes | Exception | Callable[[], bytes]


@dataclass
class FakeGitLab:
    """Answers by path below `/api/v4`; a list may have several pages; what is not set has the usual answer."""

    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    def set(self, entity: Entity | None, job_type: str, answer: Any) -> None:
        self.answers[_key(entity, job_type)] = answer

    def take_limits(self) -> None:
        return None

    def read_object(self, path: str) -> Any:
        return SimpleNamespace(body=_as_bytes(self._answer(path)))

    def read_list(
        self,
        path: str,
        endpoint: plan.Endpoint,
        *,
        before_request: Callable[[], None],
        keep_page: Callable[[int, bytes], None],
        restart: Callable[[], None],
    ) -> Any:
        answer = self._answer(path)
        pages = answer if isinstance(answer, Pages) else [answer]
        size = 0
        for number, page in enumerate(pages, start=1):
            before_request()
            body = _as_bytes(page)
            size += len(body)
            keep_page(number, body)
        return SimpleNamespace(pages=len(pages), requests=len(pages), size_bytes=size)

    def _answer(self, path: str) -> Any:
        with self.lock:
            self.asked.append(path)
        entity, job_type = _parse(path)
        answer = self.answers.get(_key(entity, job_type))
        if callable(answer):
            answer = answer()
        if isinstance(answer, Exception):
            raise answer
        if answer is not None:
            return answer
        if entity is None:
            return project_body()
        return entity_body(entity) if job_type == plan.OWN else LISTS[job_type]


class Pages(list[Any]):
    """The pages of one list."""


def _key(entity: Entity | None, job_type: str) -> str:
    return f"{entity.entity_type}/{entity.iid}/{job_type}" if entity else job_type


def _parse(path: str) -> tuple[Entity | None, str]:
    parts = path.strip("/").split("/")
    if len(parts) == 2:
        return None, plan.PROJECT
    entity_type: Any = "issue" if parts[2] == "issues" else "merge_request"
    return Entity(entity_type, int(parts[3])), parts[4] if len(parts) > 4 else plan.OWN


def _as_bytes(answer: Any) -> bytes:
    return answer if isinstance(answer, bytes) else json.dumps(answer).encode()


def refused(code: str = "GITLAB_NOT_FOUND") -> RefusedError:
    return RefusedError(code, f"GitLab said {code}")


# A run that ends with its commit.
CONTENT_ONLY = RunOptions(docs=False, embed=False)


def submit(*entities: Entity, mode: Any = "commit", project: str = PROJECT, **options: Any) -> str:
    asked = RunOptions(mode=mode, **options)
    return runs.submit(
        gitlab_url=GITLAB_URL, project=project, entities=entities or (MR_12, ISSUE_7), options=asked
    ).run_id


def ended(run_id: str) -> str:
    """Wait for the end of a run that others do; return its status."""
    wait_until(lambda: runs.has_ended(run_id), f"run {run_id} ends")
    run = runs.read_run(run_id)
    print(run["run_id"], run["status"], run["error_code"], run["error_message"])  # shown when the test fails
    return str(run["status"])


def wait_until_waited_for() -> None:
    """Return when another connection waits for this one's transaction. On SQLite whoever writes is waited for."""
    if not is_postgresql():
        return
    waiting = (
        "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid)))"
    )
    wait_until(lambda: bool(database.execute_sql(waiting).fetchone()[0]), "another connection waits for this one")


@contextmanager
def full_disk() -> Iterator[None]:
    """Let the database find no room for a page of a payload, as it is when the disk is full.

    SQLite may add no page to its file, which is the same error; PostgreSQL's is raised in its name.
    """
    if is_postgresql():
        for statement in _PLANT_FULL:
            database.execute_sql(statement)
        try:
            yield
        finally:
            database.execute_sql("DROP FUNCTION IF EXISTS full_disk CASCADE")
        return
    database.execute_sql("VACUUM")
    disconnect()
    real = SqliteDatabase._add_conn_hooks

    def with_no_room(self: Any, connection: Any) -> None:
        real(self, connection)
        connection.execute("PRAGMA max_page_count = 1")  # those that are there stay

    SqliteDatabase._add_conn_hooks = with_no_room
    try:
        yield
    finally:
        SqliteDatabase._add_conn_hooks = real
        disconnect()


_PLANT_FULL = (
    "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$",
    "CREATE TRIGGER full_disk BEFORE INSERT ON staged_payloads EXECUTE FUNCTION full_disk()",
)


def drain(*, only: set[str] | None = None, limit: int | None = None) -> int:
    """Do the messages of the broker, or the first `limit`, one after the other in this thread; return how many."""
    broker: Any = dramatiq.get_broker()
    done = 0
    while limit is None or done < limit:
        message = next_message(broker, only)
        if message is None:
            return done
        broker.get_actor(message.actor_name).fn(*message.args)
        done += 1
        assert done < 100_000, "the messages do not end"
    return done


def next_message(broker: Any, only: set[str] | None = None) -> dramatiq.Message[Any] | None:
    for name in QUEUES:
        if (only is None or name in only) and not broker.queues[name].empty():
            data = broker.queues[name].get_nowait()
            broker.queues[name].task_done()
            return dramatiq.Message.decode(data)
    return None


def waiting_messages() -> Iterator[dramatiq.Message[Any]]:
    broker: Any = dramatiq.get_broker()
    for name in QUEUES:
        for data in list(broker.queues[name].queue):
            yield dramatiq.Message.decode(data)


def rows_of(*tables: type[Table], without: tuple[str, ...] = ()) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of the tables, ordered, as plain values."""
    found = {}
    for table in tables:
        fields = [f for name, f in sorted(table._meta.fields.items()) if name not in without]
        rows = table.select(*fields).tuples()
        found[table._meta.table_name] = sorted((tuple(row) for row in rows), key=repr)
    return found


def content(without: tuple[str, ...] = ()) -> dict[str, list[tuple[Any, ...]]]:
    return rows_of(*CONTENT_TABLES, without=without)


def status_of(run_id: str) -> str:
    return str(Run.select(Run.status).where(Run.run_id == run_id).scalar())


def open_tasks(run_id: str | None = None) -> int:
    which = [Task.status.in_(("pending", "claimed"))]
    if run_id is not None:
        which.append(Task.scope_run == run_id)
    return int(Task.select().where(*which).count())


def age(table: type[Table], ms: int, *fields: Any, where: Any = None) -> None:
    """Make times of rows older, which is how a test lets time pass."""
    query = table.update({f: f - ms for f in fields})
    (query if where is None else query.where(where)).execute()


def statements() -> _Statements:
    return _Statements()


class _Statements:
    """Counts the statements of a block, and can make the n-th fail."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.fail_at: int | None = None
        self.error: Exception = RuntimeError("forced")

    def __enter__(self) -> _Statements:
        opened: Any = database.obj
        for name in self._names(opened):
            setattr(opened, name, self._counting(getattr(opened, name)))
        return self

    def __exit__(self, *_: object) -> None:
        opened: Any = database.obj
        for name in self._names(opened):
            delattr(opened, name)

    def _names(self, opened: Any) -> list[str]:
        return [name for name in ("execute_sql", "execute_many") if hasattr(opened, name)]

    def _counting(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def execute(sql: str, params: Any = None) -> Any:
            self.seen.append(sql)
            if self.fail_at is not None and len(self.seen) == self.fail_at:
                raise self.error
            return real(sql, params)

        return execute


class LetterEmbedder:
    """An embedder of which a test knows the vectors: how often each letter occurs, of unit length.

    `spoil` is called with the texts before they are embedded: it may raise, or let something happen meanwhile.
    """

    model = "letters"
    dimensions = 27
    batch_size = 8

    def __init__(self) -> None:
        self.embedded: list[str] = []
        self.spoil: Callable[[Sequence[str]], None] = lambda texts: None

    def split(self, text: str) -> list[str]:
        return [text[start : start + 400] for start in range(0, len(text), 400)]

    def embed(self, texts: Sequence[str]) -> Any:
        self.spoil(texts)
        self.embedded += texts
        rows = [[1.0, *(text.lower().count(chr(97 + n)) for n in range(26))] for text in texts]
        counted = np.array(rows, dtype=np.float32)
        return counted / np.linalg.norm(counted, axis=1, keepdims=True)

    def close(self) -> None:
        pass


def as_mapping(value: Any) -> Mapping[str, Any]:
    return json.loads(value)
