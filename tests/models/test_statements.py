"""Statements composed once: queries that take values, rows by the names of their columns, on both databases."""

from __future__ import annotations

from typing import Any

from models import statements
from models.base import now_ms, write
from models.content import DirtySource, ResourceEvent
from models.ledger import Project
from models.statements import Prepared, given, moment

PROJECT = Prepared(lambda: Project.select(Project.path_with_namespace).where(Project.gitlab_url == given("url")))
CONFIRM = Prepared(
    lambda: Project.update(confirmed_at=moment() + given("ms")).where(Project.gitlab_url == given("url"))
)
KEY = ("entity_type", "entity_id", "kind", "gitlab_id")


def event(gitlab_id: int, **more: Any) -> dict[str, Any]:
    key = {"entity_type": "issue", "entity_id": 1, "kind": "label", "gitlab_id": gitlab_id}
    return key | {"position": 0, "observed_at": 1, "raw": "{}", "action": "add", "label": None} | more


def test_of_many_rows_those_whose_key_is_there_are_updated_and_keep_their_id(ledger: Any) -> None:
    with write():
        statements.upsert(ResourceEvent, KEY, [event(1), event(2)])
        ids = dict(ResourceEvent.select(ResourceEvent.gitlab_id, ResourceEvent.id).tuples())
        statements.upsert(ResourceEvent, KEY, [event(2, action="remove", label='a "label"'), event(3)])

    rows = {row.gitlab_id: row for row in ResourceEvent.select()}
    assert {number: row.action for number, row in rows.items()} == {1: "add", 2: "remove", 3: "add"}
    assert (rows[2].label, rows[2].id) == ('a "label"', ids[2])


def test_no_rows_are_no_statement(ledger: Any) -> None:
    with write():
        statements.upsert(ResourceEvent, KEY, [])

    assert ResourceEvent.select().count() == 0


def test_a_row_is_inserted_with_an_id_by_which_it_is_updated(ledger: Any) -> None:
    columns = {"source_type": "issue", "source_id": 7, "queued_at": 1}
    with write():
        first, second = (statements.insert(DirtySource, columns) for _ in range(2))
        statements.update(DirtySource, second, {"source_id": 8, "queued_at": 2})

    assert DirtySource.get_by_id(first).source_id == 7
    assert (DirtySource.get_by_id(second).source_id, DirtySource.get_by_id(second).queued_at) == (8, 2)


def test_a_prepared_query_takes_its_values_at_each_execution(ledger: Any) -> None:
    with write():
        Project.insert(gitlab_url="one", path_with_namespace="a/b").execute()
        Project.insert(gitlab_url="two", path_with_namespace="c/d").execute()

    assert [PROJECT.row(url=url) for url in ("one", "two", "three")] == [("a/b",), ("c/d",), None]


def test_its_moment_is_the_databases_clock_at_each_execution(ledger: Any) -> None:
    with write():
        Project.insert(gitlab_url="one", path_with_namespace="a/b").execute()
    times = []
    for _ in range(2):
        before = now_ms()
        with write():
            assert CONFIRM.changed(url="one", ms=5) == 1
            assert CONFIRM.changed(url="other", ms=5) == 0
        times.append(before <= Project.get().confirmed_at - 5 <= now_ms())

    assert times == [True, True]


def test_it_is_written_down_once(ledger: Any) -> None:
    built: list[int] = []
    query = Prepared(lambda: built.append(1) or Project.select(Project.project_id))

    query.row()
    query.row()

    assert built == [1]
