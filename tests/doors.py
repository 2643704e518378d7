"""What the tests of the commands stand on: workers/ of which a test says what it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from chaos.stage import Answer

from lore.core.errors import Failure, RunError

TOKEN = "glpat-s3cr3t"
RUN_ID = "20261123T054149.123-1a2b3c4d"


@dataclass
class Ledger:
    """Stands in for everything in workers/ that the doors call, and remembers what they asked."""

    submitted: list[dict[str, Any]] = field(default_factory=list)
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    status: str = "succeeded"
    is_sent: bool = True
    has_worker: bool = True
    ends: bool = True
    is_held: bool = False
    error: RunError | None = None
    raises: dict[str, BaseException] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    title: str = "Fix the frobnicator"
    left: list[str] = field(default_factory=list)

    def called(self, name: str, *args: Any) -> None:
        self.calls.append((name, *args))
        if name in self.raises:
            raise self.raises[name]

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    def submit(self, **asked: Any) -> SimpleNamespace:
        self.called("submit")
        self.submitted.append(asked)
        return SimpleNamespace(run_id=RUN_ID, is_sent=self.is_sent, project=asked["project"])

    def retry(self, run_id: str) -> SimpleNamespace:
        self.called("retry", run_id)
        return SimpleNamespace(run_id=RUN_ID, is_sent=self.is_sent, project="group/project")

    def resolve_project(self, gitlab_url: str, name: str) -> str:
        self.called("resolve_project", name)
        return name if "/" in name or name.isdigit() else f"group/{name}"

    def find_run(self, text: str) -> str:
        self.called("find_run", text)
        return RUN_ID

    def read_run(self, run_id: str) -> dict[str, Any]:
        counts = {"total": 2, "ok": 1, "failed": 1 if self.error else 0, "skipped_stale": 0, "aborted": 0}
        return {
            "run_id": run_id,
            "project": "group/project",
            "status": self.status,
            "stage": "ingest",
            "retry_of": None,
            "error_code": None,
            "error_message": None,
            "counts": counts,
            "created_at": "2026-11-23T05:41:49.123Z",
            "elapsed_ms": 1234,
        }

    def read_entities(self, run_id: str) -> list[dict[str, Any]]:
        return [
            entity("issue", 7, "ok", settled=False),
            entity("merge_request", 12, "failed", error_code="GITLAB_NOT_FOUND", error_message="404 \x1b[31mfor !12"),
        ]

    def list_runs(self, status: str | None, limit: int, before: str | None) -> list[dict[str, Any]]:
        self.called("list_runs", status, limit, before)
        return [self.read_run(RUN_ID)]

    def read_events(self, run_id: str, after_id: int) -> list[dict[str, Any]]:
        return [event for event in self.events if event["id"] > after_id]

    def read_progress(self, run_id: str) -> dict[str, int]:
        return {"done": 3, "pending": 10}

    def wait(
        self,
        run_id: str,
        *,
        timeout_s: float | None,
        on_change: Callable[[], None] | None,
        on_look: Callable[[], None] = lambda: None,
    ) -> bool:
        self.called("wait", timeout_s)
        return self.ends

    def run_to_end(
        self,
        run_id: str,
        *,
        is_interrupted: Callable[[], bool],
        timeout_s: float | None = None,
        on_change: Callable[[], None] | None = None,
        on_held: Callable[[str, float], None] | None = None,
        on_look: Callable[[], None] = lambda: None,
        threads: int = 16,
    ) -> bool:
        assert not is_interrupted()
        if self.is_held and on_held is not None:
            on_held(RUN_ID, 57.4)
        self.called("run_to_end", timeout_s)
        return self.ends

    def give_back(self, run_id: str) -> None:
        self.called("give_back", run_id)

    def error_of(self, run_id: str) -> RunError | None:
        self.called("error_of")
        return self.error

    def cancel(self, run_id: str, *, why: str) -> dict[str, Any]:
        self.called("cancel", why)
        self.status = "cancelled"
        self.error = RunError("RUN_CANCELLED", why, run_id=run_id)
        return self.read_run(run_id)

    def has_live_worker(self, queues: Sequence[str]) -> bool:
        self.called("has_live_worker")
        return self.has_worker

    def open_workers(self, settings: Any) -> None:
        self.called("open_workers")

    def open_ledger(self, settings: Any) -> None:
        self.called("open_ledger")

    def left_behind(self, gitlab_url: str, **options: Any) -> list[str]:
        self.called("left_behind", gitlab_url, options)
        return self.left

    def sweep(self) -> dict[str, int]:
        self.called("sweep")
        return {"fetch_sent": 2}

    def serve(self, settings: Any, *, queues: list[str], threads: int, processes: int, until_stdin_closes: bool) -> int:
        self.called("serve", queues, threads, processes, until_stdin_closes)
        return 0

    def show(self, gitlab_url: str, project: str, entity_type: str, iid: int, *, page: Any) -> dict[str, Any]:
        self.called("show", project, entity_type, iid)
        notes = [
            {
                "author": "ada",
                "created_at": "2026-11-23T05:41:49.123Z",
                "system": False,
                "body": "one\nerror: \x1bfake",
            },
            {"author": "bob", "created_at": "2026-11-23T05:41:50.123Z", "system": True, "body": "closed"},
        ]
        return {
            "project": project,
            "entity_type": entity_type,
            "entity": {"iid": iid, "title": self.title, "description": "what\nand why", "state": "opened", "raw": "{}"},
            "threads": [{"id": "d1", "individual_note": False, "resolved": True, "notes": notes}],
            "events": [{"kind": "state", "action": "closed"}],
            "files": [{"old_path": "a\u202eb", "new_path": "c"}],
            "links": [],
            "fresh": {"observed_at": "2026-11-23T05:41:49.123Z", "settled": True},
            "next": None,
        }

    def checks(self, settings: Any) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(name="database", is_ok=True, detail="SQLite", action=None)
        yield SimpleNamespace(name="token", is_ok=False, detail="expired", action="lore doctor")


def entity(entity_type: str, iid: int, status: str, **more: Any) -> dict[str, Any]:
    known = {"stage": "ingest", "error_code": None, "error_message": None, "settled": None}
    return {"entity_type": entity_type, "iid": iid, "status": status, **known, **more}


Caller = Callable[[str], Answer]


def failed() -> RunError:
    failures = [Failure("merge_request", 12, "preflight", "GITLAB_NOT_FOUND", "404 \x1b[31mfor !12\nerror: faked")]
    return RunError("SURGICAL_PREFLIGHT_FAILED", "1 of 2 failed", run_id=RUN_ID, total=2, failures=failures)
