"""How the database is used: every write in an immediate transaction of its own, and none across a request."""

from __future__ import annotations

from typing import Any

import pytest
from support import FakeGitLab, drain, entity_body, submit

from lore.core import plan
from lore.core.plan import Entity
from models.base import database, is_postgresql
from workers import runs
from workers.upkeep import sweep

WRITES = ("INSERT", "UPDATE", "DELETE")


def test_every_write_of_a_run_is_inside_a_transaction_that_took_its_lock_at_once(
    gitlab: FakeGitLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: Any = database.obj
    real_begin, real_execute = opened.begin, opened.execute_sql
    begun: list[tuple[Any, ...]] = []
    outside: list[str] = []

    def begin(*arguments: Any) -> Any:
        begun.append(arguments)
        return real_begin(*arguments)

    def execute_sql(sql: str, params: Any = None) -> Any:
        is_write = sql.startswith(WRITES)
        if is_write and not (opened.in_transaction() and (is_postgresql() or begun[-1] == ("IMMEDIATE",))):
            outside.append(sql)
        return real_execute(sql, params)

    monkeypatch.setattr(opened, "begin", begin)
    monkeypatch.setattr(opened, "execute_sql", execute_sql)
    run_id = submit()
    drain()
    sweep()
    cancelled = submit()
    runs.cancel(cancelled)

    assert runs.read_run(run_id)["status"] == "succeeded"
    assert outside == []
    assert begun


def test_no_transaction_is_open_while_gitlab_is_asked(gitlab: FakeGitLab) -> None:
    seen = []

    def answer() -> Any:
        seen.append(database.in_transaction())
        return entity_body(Entity("merge_request", 12))

    gitlab.set(Entity("merge_request", 12), plan.OWN, answer)
    submit(Entity("merge_request", 12))
    drain()

    assert seen == [False]


def test_what_a_commit_and_its_documents_hold_in_memory_do_not_grow_with_the_run(gitlab: FakeGitLab) -> None:
    import tracemalloc

    from support import discussion_body, note_body

    gitlab_notes = [discussion_body(n, note_body(n, "x" * 2000)) for n in range(1, 51)]

    def peak(count: int, offset: int) -> int:
        entities = [Entity("issue", offset + n) for n in range(count)]
        for entity in entities:
            gitlab.set(entity, plan.DISCUSSIONS, gitlab_notes)
        submit(*entities, embed=False)
        drain(only={"preflight", "fetch"})
        tracemalloc.start()
        try:
            drain()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1, 1)  # what the first commit caches is not counted
    small, large = peak(2, 100), peak(40, 1000)

    assert large < small * 2
