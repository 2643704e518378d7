"""A demo GitLab behind the real client, in one thread and in simulated time: a test decides what happens when."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import dramatiq
import httpx
import pytest
from simulated import Time
from support import drain, settings_for

from lore.core import walk
from lore.core.plan import Entity
from lore.core.runs import RunOptions
from lore.demo import script
from lore.demo.answers import Answers, Question
from lore.demo.clock import http_date
from lore.demo.profiles import PROFILES
from lore.demo.state import State
from lore.demo.tokens import DEFAULT_TOKEN
from lore.demo.truth import entity_truth
from lore.gitlab import GitLab
from models import base, schema
from models.content import ENTITY_TABLES, Discussion, MergeRequestDiff, Note, ResourceEvent
from models.ledger import Run, SyncCursor, SyncDebt
from workers import planning, preflight, resources, runs, syncing, upkeep
from workers.planning import plan

URL = "http://gitlab.test"
CONTENT_ONLY = RunOptions(docs=False, embed=False)


class Token:
    def reveal(self) -> str:
        return DEFAULT_TOKEN


class World:
    """A GitLab, its clock and the database's, and what was asked of it."""

    def __init__(self, time: Time, monkeypatch: pytest.MonkeyPatch, profile: str = "tiny") -> None:
        self.time = time
        self.skew_ms = 0
        self.state = State(partial(PROFILES[profile], 1))
        time.move_to(self.state.clock.now() // 1000)
        self.state.clock.now = lambda: (time.now_ms + self.skew_ms) * 1000  # type: ignore[method-assign]
        self.asked: list[str] = []
        self.before_answer: Callable[[str], httpx.Response | None] = lambda path: None
        self._answers = Answers(self.state)
        client = httpx.Client(transport=httpx.MockTransport(self._answer))
        self._gitlab = GitLab(client, URL, Token())
        monkeypatch.setattr(resources, "gitlab", lambda: self._gitlab)
        monkeypatch.setattr(preflight.time, "sleep", lambda s: time.pass_ms(int(s * 1000)))
        monkeypatch.setattr(planning.random, "random", lambda: 0.5)

    @property
    def project(self) -> str:
        return self.state.main.path

    def _answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode().partition("?")[0]
        self.asked.append(f"{path}?{request.url.query.decode()}")
        self.time.pass_ms(1)
        forced = self.before_answer(path)
        if forced is not None:
            return forced
        question = Question(
            "GET",
            path,
            request.url.query.decode(),
            request.headers.get("private-token"),
            request.headers.get("if-none-match"),
        )
        answer = self._answers.to(question)
        headers = [(name, value) for name, value in answer.headers if name.lower() != "content-length"]
        headers.append(("Date", http_date(self.state.clock.now())))
        return httpx.Response(answer.status, headers=headers, content=answer.body)

    def step(self, *steps: dict[str, Any]) -> None:
        script.run_steps(self.state, steps)

    def sync(self, *, is_prune: bool = False, trigger: str = "cron", options: RunOptions = CONTENT_ONLY) -> str:
        """Do a whole sync, and return its id."""
        opened = syncing.open_sync(
            gitlab_url=URL,
            project=self.project,
            options=options,
            trigger=trigger,
            is_prune=is_prune,
        )
        self.go_on(opened.run_id)
        return opened.run_id

    def go_on(self, run_id: str, *, rounds: int = 400) -> None:
        for _ in range(rounds):
            drain()
            if runs.has_ended(run_id):
                return
            self.time.pass_ms(3_000)
            upkeep.sweep()
        raise AssertionError(f"{run_id} does not end: {runs.read_run(run_id)}")

    def settle(self) -> None:
        """Let so much time pass that nothing can change unseen any more."""
        self.time.pass_ms(walk.OVERLAP_MS + 60_000)

    def entities(self) -> list[Entity]:
        from lore.demo.state import can_see

        project = self.state.main
        token = self.state.tokens.find(DEFAULT_TOKEN)
        found = [Entity("issue", row.iid) for row in project.issues if can_see(token, "issue", row)]
        return found + [Entity("merge_request", iid) for iid in project.merge_requests.iids()]

    def differences(self) -> list[str]:
        """Return in what the mirror is not what GitLab holds; children of others' making (links) left out."""
        found: list[str] = []
        for entity in self.entities():
            truth = entity_truth(self.state, self.state.main, entity.entity_type, entity.iid)
            assert truth is not None
            table = ENTITY_TABLES[entity.entity_type]
            row = table.get_or_none(table.iid == entity.iid, table.deleted_at.is_null())
            if row is None:
                found.append(f"{entity} is missing")
                continue
            raw = json.loads(row.raw)
            unlike = [name for name in truth["body"] if raw.get(name) != truth["body"][name]]
            if set(unlike) - BLIND:
                found.append(f"{entity} body: {unlike}")
            said = truth["discussions"]
            found += self._unlike(entity, row.id, Note, [note for item in said for note in item["notes"]])
            threads = [{name: value for name, value in item.items() if name != "notes"} for item in said]
            found += self._unlike(entity, row.id, Discussion, threads)
            for kind in ("state", "label", "milestone"):
                of_kind = ResourceEvent.kind == kind
                found += self._unlike(entity, row.id, ResourceEvent, truth[f"{kind}_events"], of_kind)
            if entity.entity_type == "merge_request":
                found += self._unlike(entity, row.id, MergeRequestDiff, truth["diffs"])
        return found

    def _unlike(self, entity: Entity, entity_id: int, table: Any, said: list[Any], *where: Any) -> list[str]:
        query = table.select(table.raw).where(
            table.entity_type == entity.entity_type, table.entity_id == entity_id, *where
        )
        held = [json.loads(raw) for (raw,) in query.order_by(table.position).tuples()]
        return [] if held == said else [f"{entity} {table._meta.table_name}: {len(held)} for {len(said)}"]

    def cursors(self) -> dict[str, int | None]:
        return dict(SyncCursor.select(SyncCursor.entity_type, SyncCursor.updated_after).tuples())

    def debts(self) -> list[tuple[str, int, str]]:
        return sorted(SyncDebt.select(SyncDebt.entity_type, SyncDebt.iid, SyncDebt.error_code).tuples())


# What changes in an entity's body without `updated_at` moving: another entity's doing.
BLIND = {"merge_requests_count", "detailed_merge_status", "merge_status", "closed_by", "milestone"}


@contextmanager
def world_on(database_url: str, monkeypatch: pytest.MonkeyPatch, profile: str = "tiny") -> Iterator[World]:
    time = Time()
    with time.govern(database_url, monkeypatch) as url:
        base.open_database(url)
        schema.bring_up()
        resources.configure(settings_for(URL, DEFAULT_TOKEN, database_url))
        broker: Any = dramatiq.get_broker()
        broker.flush_all()
        broker.is_worked, broker.only_run_id = True, None
        try:
            yield World(time, monkeypatch, profile)
        finally:
            broker.flush_all()
            resources.close()
            base.disconnect()


def first_issue(world: World) -> int:
    return next(entity.iid for entity in world.entities() if entity.entity_type == "issue")


def small_pages(monkeypatch: pytest.MonkeyPatch, *, rows: int = 3, child: int = 3) -> None:
    """Let a walk of twenty rows have many pages and many children."""
    monkeypatch.setattr(plan, "PER_PAGE", rows)
    monkeypatch.setattr(walk, "CHILD_SIZE", child)
    monkeypatch.setattr(walk, "CHILD_IS_FULL", max(1, child - 1))


def mutate(world: World, dice: random.Random) -> None:
    """Change something in GitLab, as anybody might between two requests of ours."""
    project = world.state.main
    kind = dice.choice(["issue", "merge_request"])
    iids = project.shelf(kind).iids()
    if not iids:
        return
    iid = dice.choice(iids)
    step = dice.choices(
        ["edit", "comment", "label", "close", "reopen", "create", "delete", "move_clock"],
        weights=[6, 6, 4, 2, 2, 2, 1, 4],
    )[0]
    if step == "move_clock":
        world.time.pass_ms(dice.choice([1, 20, 1_000, 45_000, 61_000]))
        return
    steps: dict[str, dict[str, Any]] = {
        "edit": {"step": "edit", "kind": kind, "iid": iid, "title": f"edited {dice.random()}"},
        "comment": {"step": "comment", "kind": kind, "iid": iid, "body": f"said {dice.random()}"},
        "label": {"step": "label", "kind": kind, "iid": iid, "add": [f"label {dice.randrange(5)}"]},
        "close": {"step": "close", "kind": kind, "iid": iid},
        "reopen": {"step": "reopen", "kind": kind, "iid": iid},
        "create": {"step": "create_issue" if kind == "issue" else "create_mr", "title": "new"},
        "delete": {"step": "delete_issue" if kind == "issue" else "delete_mr", "iid": iid},
    }
    with suppress(script.ScriptError):
        world.step(steps[step])


def status_of(run_id: str) -> tuple[str, str | None]:
    row = Run.get_by_id(run_id)
    return row.status, row.error_code
