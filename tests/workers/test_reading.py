"""What the reading commands answer, on both databases; the mirror is filled by runs, as it always is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from support import (
    GITLAB_URL,
    PROJECT,
    PROJECT_ID,
    FakeGitLab,
    discussion_body,
    drain,
    entity_body,
    event_body,
    note_body,
    submit,
)
from support import iso as iso_of

from lore.core import plan
from lore.core.errors import NotFoundError
from lore.core.pages import Page
from lore.core.plan import Entity
from models.content import Issue, MergeRequest
from models.ledger import Project, Run
from workers import history, lists, people, reads, timeline
from workers.lists import Filters

DAY = 86_400_000
START = 1_690_000_000_000


def day(number: int) -> str:
    return iso_of(START + number * DAY)


@pytest.fixture
def mirror(gitlab: FakeGitLab) -> Callable[..., None]:
    """Return a function that puts an entity into the mirror; what is not given is empty."""

    def put(entity: Entity, *, lists: dict[str, list[Any]] | None = None, **fields: Any) -> None:
        gitlab.set(entity, plan.OWN, entity_body(entity, **{"labels": [], **fields}))
        for endpoint in plan.ENDPOINTS[entity.entity_type][1:]:
            gitlab.set(entity, endpoint.job_type, (lists or {}).get(endpoint.job_type, []))
        submit(entity)
        drain()

    return put


def issue(iid: int) -> Entity:
    return Entity("issue", iid)


def mr(iid: int) -> Entity:
    return Entity("merge_request", iid)


def diff(old: str, new: str | None = None, **more: Any) -> dict[str, Any]:
    new = new or old
    return {"old_path": old, "new_path": new, "renamed_file": old != new, "diff": "@@ -1 +1,2 @@\n-a\n+b\n+c\n"} | more


def merged(number: int, **more: Any) -> dict[str, Any]:
    return {"state": "merged", "merged_at": day(number), "created_at": day(number - 1)} | more


@pytest.fixture
def renamed(mirror: Any) -> None:
    """A file that was a.py, then b.py, and a new a.py."""
    mirror(mr(1), lists={plan.DIFFS: [diff("a.py", new_file=True)]}, **merged(1))
    note = note_body(5, "Why \n\x1b[31m not?", type="DiffNote", resolvable=True, resolved=False)
    note["position"] = {"old_path": "a.py", "new_path": "b.py", "new_line": 3, "position_type": "text"}
    talk = {plan.DISCUSSIONS: [discussion_body(1, note), discussion_body(2, note_body(6))]}
    mirror(mr(2), lists={plan.DIFFS: [diff("a.py", "b.py")], **talk}, **merged(2))
    mirror(mr(3), lists={plan.DIFFS: [diff("a.py", new_file=True)]}, **merged(3))
    mirror(mr(4), lists={plan.DIFFS: [diff("b.py", diff="", too_large=True)]}, updated_at=START + 4 * DAY)


def iids(shown: dict[str, Any], key: str = "history") -> list[int]:
    return [one["iid"] for one in shown[key]]


def test_a_files_history_follows_its_renames_newest_first(renamed: None) -> None:
    shown = history.file_history(GITLAB_URL, PROJECT, "b.py")

    assert iids(shown) == [4, 2, 1]
    assert shown["paths"] == ["a.py", "b.py"]
    renaming = shown["history"][1]
    assert renaming["files"] == [
        {"change": "renamed", "old_path": "a.py", "new_path": "b.py", "lines_added": 2, "lines_removed": 1}
    ]
    assert renaming["at"] == renaming["merged_at"] == "2023-07-24T04:26:40.000Z"
    assert shown["history"][0]["files"][0]["lines_added"] is None, "GitLab sent no text of it"
    assert "discussions" not in renaming


def test_a_files_history_can_be_of_one_name_merged_and_short(renamed: None) -> None:
    assert iids(history.file_history(GITLAB_URL, PROJECT, "a.py", follows=False)) == [3, 2, 1]
    assert iids(history.file_history(GITLAB_URL, PROJECT, "b.py", is_merged=True)) == [2, 1]
    short = history.file_history(GITLAB_URL, PROJECT, "a.py", page=Page(2))
    assert (iids(short), short["total"]) == ([4, 3], 4)


def test_what_was_said_on_lines_of_the_file_comes_with_it(renamed: None) -> None:
    shown = history.file_history(GITLAB_URL, PROJECT, "b.py", with_discussions=True)

    assert [entry["discussions"] for entry in shown["history"]][::2] == [[], []]
    (said,) = shown["history"][1]["discussions"]
    assert (said["author"], said["path"], said["line"], said["resolved"]) == ("olaf", "b.py", 3, False)
    assert said["snippet"] == "Why \x1b[31m not?"


def test_a_path_never_seen_is_answered_with_the_nearest(renamed: None) -> None:
    with pytest.raises(NotFoundError) as caught:
        history.file_history(GITLAB_URL, PROJECT, "src/B.PY")

    assert (caught.value.code, int(caught.value.exit)) == ("PATH_NOT_FOUND", 5)
    assert caught.value.message.endswith("; the nearest is b.py")
    assert caught.value.actions == [f"lore file-history b.py -p {PROJECT}"]


def test_a_deleted_merge_request_is_in_no_history(renamed: None) -> None:
    MergeRequest.update(deleted_at=1).where(MergeRequest.iid == 2).execute()

    assert iids(history.file_history(GITLAB_URL, PROJECT, "b.py")) == [4]


def test_another_projects_file_of_the_same_name_is_another_file(renamed: None) -> None:
    other = Project.insert(gitlab_url=GITLAB_URL, gitlab_id=99, path_with_namespace="tern/other").execute()
    MergeRequest.update(project=other).where(MergeRequest.iid == 1).execute()

    assert iids(history.file_history(GITLAB_URL, PROJECT, "b.py")) == [4, 2]


@pytest.fixture
def listed(mirror: Any) -> None:
    mirror(issue(1), title="Tide ÄNGSTE", labels=["bug", "a b"], author={"username": "Bo"}, created_at=day(1))
    mirror(issue(2), state="closed", labels=['x "bug', "bugs"], description="the tide\nof 100%", created_at=day(2))
    mirror(
        issue(3),
        labels=["bug"],
        assignees=[{"username": "olaf"}],
        milestone={"title": "spring"},
        updated_at=START + 9 * DAY,
        user_notes_count=7,
        created_at=day(3),
    )


def found(entity_type: str = "issue", *, sort: str = "iid", **filters: Any) -> list[int]:
    shown = lists.list_entities(GITLAB_URL, PROJECT, entity_type, Filters(**filters), sort=sort)
    rows = shown[f"{entity_type}s"]
    assert shown["total"] == len(rows)
    return [row["iid"] for row in rows]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, [3, 2, 1]),
        ({"state": "opened"}, [3, 1]),
        ({"author": "bO"}, [1]),
        ({"assignee": "Olaf"}, [3]),
        ({"labels": ["bug"]}, [3, 1]),
        ({"labels": ["bug", "a b"]}, [1]),
        ({"labels": ["b"]}, []),
        ({"labels": ['x "bug']}, [2]),
        ({"milestone": "spring"}, [3]),
        ({"since": START + 2 * DAY}, [3, 2]),
        ({"updated_since": START + 9 * DAY + 1}, [2, 1]),
        ({"search": "TIDE"}, [2, 1]),
        ({"search": "ängste tide"}, [1]),
        ({"search": "100%"}, [2]),
        ({"search": "1__%"}, []),
    ],
)
def test_a_list_of_issues_is_limited_by_each_filter(listed: None, filters: dict[str, Any], expected: list[int]) -> None:
    assert found(**filters) == expected


def test_a_list_has_one_order_also_where_values_are_equal(listed: None) -> None:
    assert found(sort="created") == [3, 2, 1]
    assert found(sort="comments") == [3, 2, 1]
    assert found(sort="updated") == [2, 1, 3]
    shown = lists.list_entities(
        GITLAB_URL, PROJECT, "issue", Filters(), sort="updated", is_ascending=True, page=Page(2)
    )
    assert (iids(shown, "issues"), shown["total"]) == ([3, 1], 3)


def test_what_was_deleted_on_gitlab_is_in_no_list(listed: None) -> None:
    Issue.update(deleted_at=1).where(Issue.iid == 3).execute()

    assert found() == [2, 1]
    assert lists.stats(GITLAB_URL, PROJECT)["projects"][0]["deleted"] == 1


def test_merge_requests_have_filters_of_their_own(mirror: Any) -> None:
    mirror(mr(1), draft=True, target_branch="main", reviewers=[{"username": "Vera"}])
    mirror(mr(2), target_branch="stable", **merged(2))

    assert found("merge_request", is_draft=True) == [1]
    assert found("merge_request", is_draft=False) == [2]
    assert found("merge_request", reviewer="vera") == [1]
    assert found("merge_request", target_branch="stable") == [2]
    assert found("merge_request", state="merged") == [2]


def test_without_a_project_every_project_is_listed_and_an_unknown_one_is_said(listed: None) -> None:
    other = Project.insert(gitlab_url=GITLAB_URL, gitlab_id=99, path_with_namespace="tern/other").execute()
    Issue.update(project=other).where(Issue.iid == 1).execute()

    shown = lists.list_entities(GITLAB_URL, None, "issue", Filters(), sort="iid")

    assert [row["ref"] for row in shown["issues"]] == ["tern/harbour#3", "tern/harbour#2", "tern/other#1"]
    assert lists.list_entities("http://elsewhere.test", None, "issue", Filters())["issues"] == []
    with pytest.raises(NotFoundError) as caught:
        lists.list_entities(GITLAB_URL, "no/where", "issue", Filters())
    assert caught.value.code == "UNKNOWN_PROJECT"


@pytest.fixture
def closed(mirror: Any) -> None:
    """An issue that was closed by a merge request, and is linked and mentioned."""
    link = {"id": 900_008, "iid": 8, "project_id": PROJECT_ID, "issue_link_id": 3, "link_type": "blocks", "title": "x"}
    notes = [
        discussion_body(1, note_body(1, "mentioned in merge request !5", system=True, created_at=day(2))),
        discussion_body(2, note_body(2, "Really?", created_at=day(3))),
    ]
    events = {
        plan.STATE_EVENTS: [event_body(1, state="closed", created_at=day(5), source_merge_request_id=900_005)],
        plan.LABEL_EVENTS: [
            event_body(1, action="add", label={"id": 1, "name": "bug"}, created_at=day(2)),
            event_body(2, action="remove", label=None, created_at=day(2)),
        ],
        plan.MILESTONE_EVENTS: [event_body(1, action="add", milestone={"id": 1, "title": "spring"}, created_at=day(4))],
    }
    mirror(
        issue(7),
        lists={plan.LINKS: [link], plan.DISCUSSIONS: notes, **events},
        state="closed",
        created_at=day(1),
        closed_at=day(5),
        closed_by={"username": "vera"},
    )
    closes = [{"id": 900_007, "iid": 7, "project_id": PROJECT_ID, "title": "old title", "state": "opened"}]
    push = note_body(3, "added 2 commits\n\n* abc", system=True, created_at=day(4))
    mirror(
        mr(5),
        lists={plan.CLOSES_ISSUES: closes, plan.DISCUSSIONS: [discussion_body(3, push)]},
        **merged(5, created_at=day(2), merge_user={"username": "vera"}),
    )


def test_a_timeline_tells_one_story_with_who_and_by_what(closed: None) -> None:
    told = timeline.timeline(GITLAB_URL, [(PROJECT, issue(7))])
    events = told["events"]

    assert (told["titles"], told["total"]) == (["the issue 7"], len(events))
    assert [(event["kind"], event["author"], event["text"], event["cause"]) for event in events] == [
        ("created", "ida", "the issue 7", None),
        ("mentioned", "olaf", "mentioned in merge request !5", "!5"),
        ("label", "ida", "+bug", None),
        ("label", "ida", "-(deleted)", None),
        ("comment", "olaf", "Really?", None),
        ("milestone", "ida", "+spring", None),
        ("closed", "vera", None, "tern/harbour!5"),
    ]


def test_a_closing_right_after_the_merge_that_closes_it_came_by_that(closed: None) -> None:
    from models.content import ResourceEvent

    ResourceEvent.update(raw="{}").where(ResourceEvent.kind == "state").execute()

    events = timeline.timeline(GITLAB_URL, [(PROJECT, issue(7))])["events"]

    assert events[-1]["cause"] == "tern/harbour!5"


def test_a_timeline_of_several_is_one_story_and_can_be_cut(closed: None) -> None:
    told = timeline.timeline(GITLAB_URL, [(PROJECT, mr(5)), (PROJECT, issue(7))], page=Page(3))

    assert told["total"] == 10
    assert [(event["ref"], event["kind"]) for event in told["events"]] == [
        ("tern/harbour#7", "created"),
        ("tern/harbour!5", "created"),
        ("tern/harbour#7", "mentioned"),
    ]
    pushed, ended = timeline.timeline(GITLAB_URL, [(PROJECT, mr(5))])["events"][1:]
    assert (pushed["kind"], ended["kind"], ended["author"]) == ("pushed", "merged", "vera")


@pytest.mark.parametrize("project", [PROJECT, "no/where"])
def test_a_timeline_of_what_is_not_held_says_how_to_fetch_it(closed: None, project: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        timeline.timeline(GITLAB_URL, [(project, issue(99))])

    assert caught.value.actions == [f"lore-submit '{project}#99' --wait"]


def test_show_gives_what_belongs_to_an_entity_from_both_sides(closed: None, mirror: Any) -> None:
    back = {"id": 900_007, "iid": 7, "project_id": PROJECT_ID, "issue_link_id": 4, "link_type": "blocks"}
    mirror(issue(9), lists={plan.LINKS: [back]}, title="the blocker")

    of_issue, of_mr = (reads.show(GITLAB_URL, PROJECT, *one)["related"] for one in (("issue", 7), ("merge_request", 5)))

    assert [(one["relation"], one["ref"], one["title"], one["is_held"]) for one in of_issue] == [
        ("blocks", "tern/harbour#8", "x", False),
        ("closed_by", "tern/harbour!5", "the merge_request 5", True),
        ("is_blocked_by", "tern/harbour#9", "the blocker", True),
        ("mentioned_in", "tern/harbour!5", "the merge_request 5", True),
    ]
    assert [(one["relation"], one["ref"], one["title"], one["state"]) for one in of_mr] == [
        ("closes", "tern/harbour#7", "the issue 7", "closed")
    ]


def test_who_worked_on_a_file_counts_through_all_its_names(renamed: None) -> None:
    shown = people.who(GITLAB_URL, PROJECT, "b.py")

    assert (shown["kind"], shown["paths"]) == ("path", ["a.py", "b.py"])
    assert [(p["username"], p["authored"], p["commented"], p["total"], p["refs"]) for p in shown["people"]] == [
        ("ida", 3, 0, 3, ["tern/harbour!4", "tern/harbour!2", "tern/harbour!1"]),
        ("olaf", 0, 1, 1, ["tern/harbour!2"]),
    ]
    assert shown["people"][0]["last_at"] == "2023-07-26T04:26:40.000Z"


def test_who_worked_under_a_label(listed: None, mirror: Any) -> None:
    talk = [discussion_body(1, note_body(1)), discussion_body(2, note_body(2, "x", system=True))]
    mirror(mr(4), labels=["bug"], lists={plan.DISCUSSIONS: talk}, reviewers=[{"username": "vera"}], **merged(4))

    for name in ("bug", "~bug"):
        shown = people.who(GITLAB_URL, PROJECT, name)
        did = {person["username"]: person for person in shown["people"]}
        assert (shown["kind"], shown["name"], shown["total"]) == ("label", "bug", 4)
        assert (did["Bo"]["authored"], did["ida"]["authored"], did["vera"]["reviewed"]) == (1, 2, 1)
        assert (did["olaf"]["assigned"], did["olaf"]["commented"]) == (1, 1)


@pytest.mark.parametrize("name", ["nobody", "~a.py"])
def test_who_of_neither_path_nor_label_is_not_found(renamed: None, name: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        people.who(GITLAB_URL, PROJECT, name)

    assert caught.value.code == "PATH_NOT_FOUND"


def test_stats_say_what_is_held_how_fresh_and_how_big(closed: None) -> None:
    last = Run.select().order_by(Run.run_id.desc()).get()
    Run.insert(**last.__data__ | {"run_id": f"{last.run_id}.0001", "parent_run_id": last.run_id}).execute()

    shown = lists.stats(GITLAB_URL, None)

    (held,) = shown["projects"]
    assert held["project"] == PROJECT
    assert held["issues"] == {"total": 1, "closed": 1}
    assert held["merge_requests"] == {"total": 1, "merged": 1}
    assert {name: held[name] for name in ("discussions", "notes", "events", "files", "links")} == {
        "discussions": 3,
        "notes": 3,
        "events": 4,
        "files": 0,
        "links": 2,
    }
    assert held["oldest_observed_at"] <= held["newest_observed_at"]
    assert held["last_run"]["status"] == "succeeded"
    assert held["last_run"]["run_id"] == last.run_id, "a part of a sync is no run that anybody asked for"
    assert shown["database"]["size_bytes"] > 10_000
    assert json.dumps(shown)


def test_a_query_leads_to_the_entities_whose_words_fit_it_best(closed: None, mirror: Any) -> None:
    from lore.core.documents import build
    from models.base import write
    from models.documents import load_source, save

    mirror(issue(11), title="A walrus in the harbour", description="walrus walrus walrus")
    for entity_type, table in (("issue", Issue), ("merge_request", MergeRequest)):
        for (entity_id,) in table.select(table.id).tuples():
            with write():
                source = load_source(entity_type, entity_id)
                assert source is not None
                save(source, build(source))

    assert timeline.best_of(GITLAB_URL, PROJECT, "walrus")[0] == (PROJECT, issue(11))
    assert (PROJECT, issue(7)) in timeline.best_of(GITLAB_URL, None, "really")
    assert timeline.best_of(GITLAB_URL, PROJECT, "zeppelin") == []
    assert timeline.timeline(GITLAB_URL, [])["events"] == []
    assert timeline.best_of("http://elsewhere.test", None, "walrus") == []


def test_another_gitlab_that_gives_the_same_numbers_is_another_world(closed: None, mirror: Any) -> None:
    mirror(issue(12), moved_to_id=900_007)
    assert [one["ref"] for one in reads.show(GITLAB_URL, PROJECT, "issue", 12)["related"]] == ["tern/harbour#7"]
    other = Project.insert(
        gitlab_url="http://elsewhere.test", gitlab_id=PROJECT_ID, path_with_namespace="other/place"
    ).execute()
    MergeRequest.update(project=other).execute()
    Issue.update(project=other).where(Issue.iid == 7).execute()
    mirror(issue(7), lists={plan.STATE_EVENTS: [event_body(1, state="closed", source_merge_request_id=900_005)]})

    events = timeline.timeline(GITLAB_URL, [(PROJECT, issue(7))])["events"]

    assert [event["cause"] for event in events] == [None, None]
    assert reads.show(GITLAB_URL, PROJECT, "issue", 7)["related"] == []
    mirror(issue(13), moved_to_id=900_099)
    Issue.update(gitlab_id=900_099).where(Issue.project == other).execute()
    assert reads.show(GITLAB_URL, PROJECT, "issue", 13)["related"] == []


def test_a_document_that_outlives_its_entity_leads_nowhere(listed: None) -> None:
    assert (PROJECT, issue(2)) in timeline.best_of(GITLAB_URL, PROJECT, "tide")

    Issue.update(deleted_at=1).where(Issue.iid == 2).execute()

    assert (PROJECT, issue(2)) not in timeline.best_of(GITLAB_URL, PROJECT, "tide")
