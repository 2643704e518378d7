"""Statements composed once: rows by the names of their columns, on both databases."""

from __future__ import annotations

from typing import Any

from models import statements
from models.base import write
from models.content import DirtySource, ResourceEvent

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
