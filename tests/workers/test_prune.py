"""A prune: it marks what GitLab provably no longer has, and nothing else."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from support import drain, submit
from syncing import World, first_issue, status_of

from lore.core.plan import Entity
from lore.core.runs import RunOptions
from models.content import ENTITY_TABLES
from workers import runs, syncing

# What no database has a part in is told once.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def deleted(world: World) -> set[tuple[str, int]]:
    return {
        (entity_type, row.iid)
        for entity_type, table in ENTITY_TABLES.items()
        for row in table.select(table.iid).where(table.deleted_at.is_null(False))
    }


def test_prune_marks_what_gitlab_no_longer_has_and_nothing_else(world: World) -> None:
    world.sync()
    iid = first_issue(world)
    world.step({"step": "delete_issue", "iid": iid}, {"step": "delete_mr", "iid": 2})
    world.sync()

    pruned = world.sync(is_prune=True)

    assert status_of(pruned) == ("succeeded", None)
    assert deleted(world) == {("issue", iid), ("merge_request", 2)}
    assert world.differences() == []


@on_sqlite
def test_a_debt_for_a_404_is_paid_by_a_prune(world: World) -> None:
    iid = first_issue(world)
    is_deleted = []

    def delete_between_list_and_fetch(path: str) -> None:
        if path.endswith(f"/issues/{iid}") and not is_deleted:
            is_deleted.append(True)
            world.step({"step": "delete_issue", "iid": iid})

    world.before_answer = delete_between_list_and_fetch
    assert status_of(world.sync()) == ("failed", "SYNC_INCOMPLETE")

    world.sync(is_prune=True)

    assert world.debts() == []
    assert status_of(world.sync()) == ("succeeded", None)


def rewrite(world: World, fragment: str, change: Any) -> None:
    """Let what GitLab answers where a path ends with this be changed on its way."""
    real = world.before_answer
    seen = {"page": 0}

    def answer(path: str) -> httpx.Response | None:
        if not path.endswith(fragment):
            return real(path)
        world.before_answer = real
        try:
            seen["page"] += 1
            found = world._answer(httpx.Request("GET", f"http://gitlab.test{world.asked[-1]}", headers=TOKEN))
        finally:
            world.before_answer = answer
        return change(found, seen["page"])

    world.before_answer = answer


TOKEN = {"private-token": "glpat-demo-full"}


def with_body(found: httpx.Response, body: list[Any], **headers: str) -> httpx.Response:
    kept = {name: value for name, value in found.headers.items() if name.lower() != "content-length"}
    return httpx.Response(200, headers=kept | headers, json=body)


@on_sqlite
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda found, n: with_body(found, [], **{"x-total": "0"}), id="it is empty"),
        pytest.param(lambda found, n: with_body(found, found.json()[:-1]), id="a row is missing"),
        pytest.param(
            lambda found, n: with_body(found, found.json(), **{"x-total": str(900 + n)}), id="its count does not agree"
        ),
        pytest.param(
            lambda found, n: httpx.Response(403, headers={"content-type": "application/json"}, content=b"{}"),
            id="it may not be read",
        ),
    ],
)
def test_a_listing_that_does_not_prove_itself_complete_marks_nothing(world: World, spoil: Any) -> None:
    world.sync()
    world.step({"step": "delete_mr", "iid": 2})
    rewrite(world, "/issues", spoil)

    pruned = world.sync(is_prune=True)

    assert status_of(pruned)[0] == "failed"
    assert deleted(world) == set()


@on_sqlite
def test_a_row_that_is_missing_from_a_listing_and_still_answers_is_not_marked(world: World) -> None:
    world.sync()
    iid = first_issue(world)

    def leave_out(found: httpx.Response, page: int) -> httpx.Response:
        rows = [row for row in found.json() if row["iid"] != iid]
        gone = len(found.json()) - len(rows)
        return with_body(found, rows, **{"x-total": str(int(found.headers["x-total"]) - gone)})

    rewrite(world, "/issues", leave_out)

    assert status_of(world.sync(is_prune=True)) == ("succeeded", None)
    assert deleted(world) == set()


@on_sqlite
def test_a_project_that_stops_answering_marks_nothing(world: World) -> None:
    world.sync()
    world.step({"step": "delete_mr", "iid": 2})
    rewrite(world, f"/projects/{world.state.main.id}", hide_after_first)

    pruned = world.sync(is_prune=True)

    assert status_of(pruned) == ("failed", "PROJECT_NOT_FOUND")
    assert deleted(world) == set()


def hide_after_first(found: httpx.Response, nth: int) -> httpx.Response:
    if nth == 1:
        return found
    body = b'{"message":"404 Project Not Found"}'
    return httpx.Response(404, headers={"content-type": "application/json"}, content=body)


@on_sqlite
def test_what_came_back_is_brought_by_the_next_sync(world: World) -> None:
    world.sync()
    row = world.state.main.issues[first_issue(world)]
    row.confidential, hidden = True, row.iid
    token = world.state.tokens.find(TOKEN["private-token"])
    object.__setattr__(token, "sees_confidential", False)
    world.state.changed()
    world.sync(is_prune=True)
    assert ("issue", hidden) in deleted(world)

    object.__setattr__(token, "sees_confidential", True)
    world.state.changed()
    world.sync(is_prune=True)
    world.sync()

    assert deleted(world) == set()
    assert world.debts() == []


def test_a_payload_observed_before_the_deletion_was_is_stale(world: World) -> None:
    world.sync()
    iid = first_issue(world)
    run_id = submit(Entity("issue", iid), project=world.project, docs=False, embed=False)
    drain(only={"preflight", "fetch"})
    world.step({"step": "delete_issue", "iid": iid})
    opened = syncing.open_sync(
        gitlab_url="http://gitlab.test", project=world.project, options=RunOptions(), is_prune=True
    )
    drain(only={"plan"})
    assert status_of(opened.run_id) == ("succeeded", None)

    world.go_on(run_id)

    assert deleted(world) == {("issue", iid)}
    assert runs.read_run(run_id)["skipped_stale_iids"] == [["issue", iid]]
