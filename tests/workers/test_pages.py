"""Every list is read page by page: nothing is lost or comes twice, whatever comes in between, on both databases."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from support import (
    GITLAB_URL,
    PROJECT,
    FakeGitLab,
    discussion_body,
    drain,
    entity_body,
    event_body,
    iso,
    note_body,
    submit,
)

from lore.core import plan
from lore.core.errors import NotFoundError
from lore.core.pages import Page, Place, first_of
from lore.core.plan import Entity
from models.content import Discussion, Issue, MergeRequest, Note
from models.documents import Document
from models.ledger import Project
from workers import history, lists, people, reads, runs, searching, timeline
from workers.lists import Filters

DAY = 86_400_000
START = 1_690_000_000_000
SAME = iso(START)


@pytest.fixture
def mirror(gitlab: FakeGitLab) -> None:
    """Several of everything, and much of it at one moment: only what comes last tells it apart."""
    for iid in range(1, 6):
        put(gitlab, Entity("issue", iid), user_notes_count=iid % 2, created_at=SAME, updated_at=START + iid // 2 * DAY)
    for iid in range(1, 6):
        note = note_body(iid, type="DiffNote", author={"username": f"user{iid % 3}"}, created_at=SAME)
        note["position"] = {"old_path": "a.py", "new_path": "a.py", "new_line": 3, "position_type": "text"}
        put(
            gitlab,
            Entity("merge_request", iid),
            {
                plan.DIFFS: [{"old_path": "a.py", "new_path": "a.py", "diff": ""}],
                plan.DISCUSSIONS: [discussion_body(iid, note)],
            },
            author={"username": f"user{iid}"},
            created_at=SAME,
            updated_at=START + iid // 2 * DAY,
        )
    talk = [discussion_body(100 + n, note_body(100 + n, "same", created_at=SAME)) for n in range(4)]
    labels = [event_body(n, action="add", label={"id": 1, "name": "x"}, created_at=SAME) for n in (1, 2, 3)]
    put(gitlab, Entity("issue", 9), {plan.DISCUSSIONS: talk, plan.LABEL_EVENTS: labels}, created_at=SAME)
    for number in range(3):
        Project.insert(gitlab_url=GITLAB_URL, gitlab_id=90 + number, path_with_namespace="tern/twin").execute()


def put(gitlab: FakeGitLab, entity: Entity, children: dict[str, list[Any]] | None = None, **fields: Any) -> None:
    gitlab.set(entity, plan.OWN, entity_body(entity, **{"labels": ["bug"], **fields}))
    for endpoint in plan.ENDPOINTS[entity.entity_type][1:]:
        gitlab.set(entity, endpoint.job_type, (children or {}).get(endpoint.job_type, []))
    submit(entity)
    drain()


def sync_runs(page: Page) -> dict[str, Any]:
    (before,) = page.after or (None,)
    listed, following = first_of(runs.list_runs(None, page.limit + 1, before), page.limit, lambda run: (run["run_id"],))
    return {"runs": listed, "next": following}


def entities(entity_type: str, **options: Any) -> Callable[[Page], dict[str, Any]]:
    return lambda page: lists.list_entities(GITLAB_URL, None, entity_type, Filters(), page=page, **options)


Read = Callable[[Page], dict[str, Any]]
LISTS: dict[str, tuple[str, Read]] = {
    **{
        f"issues by {sort}{' up' if up else ''}": ("issues", entities("issue", sort=sort, is_ascending=up))
        for sort, up in itertools.product(lists.SORTS, (False, True))
    },
    "merge requests": ("merge_requests", entities("merge_request")),
    "history": ("history", lambda page: history.file_history(GITLAB_URL, PROJECT, "a.py", page=page)),
    "people of a path": ("people", lambda page: people.who(GITLAB_URL, PROJECT, "a.py", page=page)),
    "people of a label": ("people", lambda page: people.who(GITLAB_URL, PROJECT, "bug", page=page)),
    "timeline": (
        "events",
        lambda page: timeline.timeline(
            GITLAB_URL, [(PROJECT, Entity("issue", 9)), (PROJECT, Entity("merge_request", 1))], page=page
        ),
    ),
    "stats": ("projects", lambda page: lists.stats(GITLAB_URL, None, page=page)),
    "threads": ("threads", lambda page: reads.show(GITLAB_URL, PROJECT, "issue", 9, page=page)),
    "hits by words": ("hits", lambda page: found("the issue", page, mode="text")),
    "hits": ("hits", lambda page: found("the issue", page, mode="hybrid")),
    "runs": ("runs", sync_runs),
}
SEARCHES = ("hits by words", "hits")


def found(query: str, page: Page, *, mode: str) -> dict[str, Any]:
    return searching.search(query, gitlab_url=GITLAB_URL, project=PROJECT, mode=mode, page=page)


def walk(name: str, rows: int, *, between: Callable[[], object] = lambda: None) -> list[Any]:
    """Read a list to its end, so many rows at once."""
    return list(itertools.chain.from_iterable(pages(name, rows, between)))


def pages(name: str, rows: int, between: Callable[[], object]) -> Iterator[list[Any]]:
    listed, read = LISTS[name]
    after: Place | None = None
    while True:
        shown = read(Page(rows, after))
        assert len(shown[listed]) <= rows
        yield shown[listed]
        if shown["next"] is None:
            return
        assert len(shown[listed]) == rows
        after = shown["next"]
        between()


@pytest.mark.usefixtures("mirror")
def test_all_pages_of_a_list_are_the_whole_of_it() -> None:
    for name, (listed, read) in LISTS.items():
        whole = read(Page(10_000))
        assert whole["next"] is None
        assert len(whole[listed]) >= 4, name
        for rows in (1, 2, 3, len(whole[listed])):
            walked = walk(name, rows)
            if name in SEARCHES:  # the farther one looks, the more a hit may be worth: its rank can change, not the set
                walked, same = sorted(walked, key=_name), sorted(whole[listed], key=_name)
                assert [_name(one) for one in walked] == [_name(one) for one in same], name
            else:
                assert walked == whole[listed], (name, rows)


def _name(row: dict[str, Any]) -> str:
    """What stays the same of a row, whatever happens to others."""
    for key in ("run_id", "username"):
        if key in row:
            return str(row[key])
    return f"{row['ref']} {row['type']}" if "snippet" in row else repr(row)


@dataclass
class Grows:
    """Puts something new at every end of the lists, each time it is called."""

    gitlab: FakeGitLab
    number: int = 0

    def __call__(self) -> None:
        self.number += 1
        if self.number > 3:
            return
        new = START + (10 + self.number) * DAY
        for entity_type in ("issue", "merge_request"):
            diff = {plan.DIFFS: [{"old_path": "a.py", "new_path": "a.py", "diff": ""}]}
            put(
                self.gitlab,
                Entity(entity_type, 100 + self.number),  # type: ignore[arg-type]
                diff if entity_type == "merge_request" else None,
                created_at=iso(new),
                updated_at=new,
                user_notes_count=9,
                author={"username": "busy"},
            )
        Project.insert(gitlab_url=GITLAB_URL, gitlab_id=500 + self.number, path_with_namespace="a/new").execute()


@pytest.mark.parametrize("name", [name for name in LISTS if not name.endswith(" up")])
def test_what_comes_between_two_pages_moves_no_other_row(mirror: None, gitlab: FakeGitLab, name: str) -> None:
    listed, read = LISTS[name]
    before = [_name(row) for row in read(Page(10_000))[listed]]

    walked = [_name(row) for row in walk(name, 2, between=Grows(gitlab))]

    there_before = [one for one in walked if one in before]
    assert sorted(there_before) == sorted(before), "each once"
    assert there_before == before or name in SEARCHES


@pytest.mark.usefixtures("mirror")
def test_what_is_gone_between_two_pages_takes_no_other_row_along() -> None:
    first = lists.list_entities(GITLAB_URL, PROJECT, "issue", Filters(), sort="iid", page=Page(2))
    assert [row["iid"] for row in first["issues"]] == [9, 5]

    Issue.update(deleted_at=1).where(Issue.iid == 5).execute()
    MergeRequest.update(deleted_at=1).where(MergeRequest.iid == 5).execute()
    Note.delete().where(Note.gitlab_id == 100).execute()
    Discussion.delete().where(Discussion.position == 0).execute()

    second = lists.list_entities(GITLAB_URL, PROJECT, "issue", Filters(), sort="iid", page=Page(2, first["next"]))
    assert [row["iid"] for row in second["issues"]] == [4, 3]
    assert (second["total"], second["next"] is not None) == (5, True)


def test_a_thread_is_not_passed_over_where_an_earlier_one_was_deleted_on_gitlab(
    mirror: None, gitlab: FakeGitLab
) -> None:
    def threads(page: Page) -> tuple[list[str], Place | None]:
        shown = reads.show(GITLAB_URL, PROJECT, "issue", 9, page=page)
        return [one["id"] for one in shown["threads"]], shown["next"]

    whole, _ = threads(Page(10))
    first, following = threads(Page(2))
    talk = [discussion_body(100 + n, note_body(100 + n, "same", created_at=SAME)) for n in range(1, 4)]
    put(gitlab, Entity("issue", 9), {plan.DISCUSSIONS: talk}, created_at=SAME, updated_at=START + 40 * DAY)

    second, _ = threads(Page(2, following))

    assert (first, second) == (whole[:2], whole[2:])


@pytest.mark.usefixtures("mirror")
def test_a_page_of_hits_is_full_where_another_gitlab_is_in_the_mirror_too() -> None:
    other = Project.create(gitlab_url="http://other.test", gitlab_id=1, path_with_namespace=PROJECT)
    Document.update(project=other.project_id).where(Document.entity_type == "merge_request").execute()

    shown = searching.search("the", gitlab_url=GITLAB_URL, project=None, mode="text", page=Page(3))

    assert len(shown["hits"]) == 3
    assert {hit["entity_type"] for hit in shown["hits"]} == {"issue"}


@pytest.mark.usefixtures("mirror")
@pytest.mark.parametrize("number", ["9" * 20, "³", "9" * 5_000])
def test_a_number_that_no_project_can_have_is_an_unknown_project(number: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        lists.list_entities(GITLAB_URL, number, "issue", Filters())

    assert caught.value.code == "UNKNOWN_PROJECT"
