"""What each step of a script changes, and above all when `updated_at` moves and when it does not."""

from __future__ import annotations

from typing import Any

import pytest

from lore.demo.script import STEPS

ISSUE = {"kind": "issue", "iid": 8}
MR = {"kind": "merge_request", "iid": 3}


def run(demo: Any, step: str, where: dict[str, Any] | None = None, **options: Any) -> Any:
    return demo.script([{"step": step, **(where or {}), **options}])[0]["truth"]


def updated_at(demo: Any, where: dict[str, Any]) -> str:
    return str(demo.truth(where["kind"], where["iid"])["body"]["updated_at"])


TOUCHES = [("comment", {}), ("edit_note", {}), ("label", {"add": ["fresh"]})]
WRITES = [
    ("edit", {"title": "T"}),
    ("edit", {"description": "D"}),
    ("close", {}),
    ("reopen", {}),
    ("milestone", {"title": "Early"}),
]


@pytest.mark.parametrize(("step", "options"), TOUCHES)
def test_a_touch_within_a_minute_of_the_last_change_is_dropped(tiny: Any, step: str, options: dict[str, Any]) -> None:
    run(tiny, "edit", ISSUE, title="just now")
    before = updated_at(tiny, ISSUE)

    tiny.advance_clock(60)
    run(tiny, step, ISSUE, **options)

    assert updated_at(tiny, ISSUE) == before


@pytest.mark.parametrize(("step", "options"), TOUCHES)
def test_a_touch_later_than_a_minute_moves_updated_at(tiny: Any, step: str, options: dict[str, Any]) -> None:
    run(tiny, "edit", ISSUE, title="just now")
    before = updated_at(tiny, ISSUE)

    tiny.advance_clock(60.001)
    run(tiny, step, ISSUE, **options)

    assert updated_at(tiny, ISSUE) > before


@pytest.mark.parametrize(("step", "options"), WRITES)
def test_saving_an_attribute_always_moves_updated_at(tiny: Any, step: str, options: dict[str, Any]) -> None:
    run(tiny, "edit", ISSUE, title="just now")
    before = updated_at(tiny, ISSUE)

    tiny.advance_clock(1)
    run(tiny, step, ISSUE, **options)

    assert updated_at(tiny, ISSUE) > before


@pytest.mark.parametrize(
    ("step", "options"), [("delete_note", {}), ("delete_discussion", {}), ("link", {"to": 9}), ("unlink", {"to": 1})]
)
def test_some_changes_never_move_updated_at(tiny: Any, step: str, options: dict[str, Any]) -> None:
    before = tiny.truth("issue", 8)

    tiny.advance_clock(3600)
    after = run(tiny, step, ISSUE, **options)

    assert after["body"]["updated_at"] == before["body"]["updated_at"]
    assert (after["discussions"], after["links"]) != (before["discussions"], before["links"])


def test_a_deleted_note_leaves_no_trace(tiny: Any, client: Any) -> None:
    notes = client(tiny).get("/projects/71/issues/8/notes").json()
    run(tiny, "delete_note", ISSUE, note_id=notes[0]["id"])
    response = client(tiny).get("/projects/71/issues/8/notes")

    assert response.json() == notes[1:]
    assert response.headers["x-total"] == str(len(notes) - 1)
    assert tiny.truth("issue", 8)["body"]["user_notes_count"] == len(notes) - 1


def test_a_reply_joins_its_thread_and_makes_it_no_longer_individual(tiny: Any) -> None:
    thread = tiny.truth("issue", 8)["discussions"][0]
    after = run(tiny, "comment", ISSUE, body="A reply", discussion_id=thread["id"])

    joined = next(one for one in after["discussions"] if one["id"] == thread["id"])
    assert not joined["individual_note"]
    assert joined["notes"][-1]["body"] == "A reply"


def test_resolving_moves_all_notes_of_a_thread_but_not_the_merge_request(tiny: Any) -> None:
    thread = run(tiny, "comment", MR, thread=True)["discussions"][-1]
    run(tiny, "comment", MR, discussion_id=thread["id"])
    tiny.advance_clock(3600)
    before = updated_at(tiny, MR)

    after = run(tiny, "resolve", MR, discussion_id=thread["id"])

    notes = next(one for one in after["discussions"] if one["id"] == thread["id"])["notes"]
    assert len(notes) == 2
    assert all(note["resolved"] and note["updated_at"] == note["resolved_at"] for note in notes)
    assert after["body"]["updated_at"] == before


def test_resolving_the_last_open_thread_touches_and_says_so(tiny: Any) -> None:
    tiny.advance_clock(3600)
    before = updated_at(tiny, MR)
    threads = tiny.truth("merge_request", 3)["discussions"]
    open_ones = [thread for thread in threads if any(n["resolvable"] and not n["resolved"] for n in thread["notes"])]
    steps = [{"step": "resolve", **MR, "discussion_id": thread["id"]} for thread in open_ones]

    after = tiny.script(steps)[-1]["truth"]

    assert after["discussions"][-1]["notes"][0]["body"] == "resolved all threads"
    assert after["body"]["blocking_discussions_resolved"] is True
    assert after["body"]["updated_at"] > before


def test_labels_of_one_step_make_events_of_one_moment(tiny: Any) -> None:
    after = run(tiny, "label", ISSUE, add=["one, two", "fresh"], remove=["plain"])
    newest = max(event["created_at"] for event in after["label_events"])
    events = [event for event in after["label_events"] if event["created_at"] == newest]

    assert [
        (event["action"], event["label"]["name"]) for event in sorted(events, key=lambda e: e["label"]["name"])
    ] == [
        ("add", "fresh"),
        ("add", "one, two"),
        ("remove", "plain"),
    ]
    assert after["body"]["labels"] == ["fresh", "one, two"]


def test_closing_and_reopening_leave_state_events(tiny: Any) -> None:
    run(tiny, "close", {"kind": "issue", "iid": 12})
    closed = tiny.truth("issue", 12)
    after = run(tiny, "reopen", {"kind": "issue", "iid": 12})

    assert closed["body"]["state"] == "closed"
    assert closed["body"]["closed_at"]
    assert closed["body"]["closed_by"]
    assert after["body"]["closed_at"] is None
    assert [event["state"] for event in after["state_events"]] == ["closed", "reopened"]


def test_a_merge_to_the_default_branch_closes_its_issues(tiny: Any) -> None:
    after = run(tiny, "merge", {"iid": 4})
    issue = tiny.truth("issue", 1)

    assert (after["body"]["state"], issue["body"]["state"]) == ("merged", "closed")
    assert issue["state_events"][-1]["source_merge_request_id"] == after["body"]["id"]


def test_a_merge_to_another_branch_closes_nothing(tiny: Any) -> None:
    run(tiny, "merge", {"iid": 10})

    assert tiny.truth("issue", 1)["body"]["state"] == "opened"


def test_a_milestone_step_records_the_old_and_the_new_one(tiny: Any) -> None:
    run(tiny, "milestone", ISSUE, title="Early")
    after = run(tiny, "milestone", ISSUE, title='Late: the "second"')

    assert [event["action"] for event in after["milestone_events"]] == ["add", "remove", "add"]
    assert run(tiny, "milestone", ISSUE, title=None)["body"]["milestone"] is None


def test_a_push_makes_a_version_a_commit_and_a_system_note(tiny: Any) -> None:
    before = tiny.truth("merge_request", 6)
    diff = {"old_path": "new.py", "new_path": "new.py", "diff": "@@ -0,0 +1 @@\n+x\n", "new_file": True}
    after = run(tiny, "push", {"iid": 6}, diffs=[diff])

    assert len(after["versions"]) == len(before["versions"]) + 1
    assert after["body"]["sha"] == after["versions"][0]["head_commit_sha"] != before["body"]["sha"]
    assert after["diffs"][-1]["new_path"] == "new.py"
    assert len(after["diffs"]) == len(before["diffs"]) + 1
    assert after["discussions"][-1]["notes"][0]["body"].startswith("added 1 commit")


def test_a_renamed_file_takes_the_place_of_the_old_one(tiny: Any) -> None:
    after = run(tiny, "rename_file", {"iid": 11}, old_path="many/000.txt", new_path="few/000.txt", edited=True)
    paths = [diff["new_path"] for diff in after["diffs"]]

    assert "few/000.txt" in paths
    assert "many/000.txt" not in paths
    assert after["diffs"][-1]["renamed_file"] is True


@pytest.mark.parametrize(("step", "kind"), [("delete_issue", "issue"), ("delete_mr", "merge_request")])
def test_a_deletion_leaves_only_a_404_and_its_iid_is_not_used_again(
    tiny: Any, client: Any, step: str, kind: str
) -> None:
    http, path = client(tiny), f"/projects/71/{kind}s"
    before = http.get(path).headers["x-total"]
    run(tiny, step, {"iid": 11})
    created = run(tiny, f"create_{'mr' if kind == 'merge_request' else 'issue'}")

    assert http.get(f"{path}/11").json() == {"message": "404 Not found"}
    assert http.get(path).headers["x-total"] == before
    assert created["body"]["iid"] > 11
    assert tiny.whole_truth()["deleted"][f"{kind}s"] == [11]


def test_a_new_merge_request_closes_an_issue_without_moving_it(tiny: Any, client: Any) -> None:
    before = updated_at(tiny, ISSUE)
    created = run(tiny, "create_mr", title="Fix it", closes=[8])

    assert [issue["iid"] for issue in created["closes_issues"]] == [8]
    assert [row["iid"] for row in client(tiny).get("/projects/71/issues/8/closed_by").json()] == [
        created["body"]["iid"]
    ]
    assert updated_at(tiny, ISSUE) == before


def test_a_hidden_issue_is_gone_for_guests_only(tiny: Any, client: Any) -> None:
    run(tiny, "hide", ISSUE)

    assert client(tiny).get("/projects/71/issues/8").json()["confidential"] is True
    assert client(tiny, tiny.tokens()["guest"]).get("/projects/71/issues/8").status_code == 404


def test_a_hidden_project_is_gone(tiny: Any, client: Any) -> None:
    run(tiny, "hide_project")

    assert client(tiny).get("/projects/71/issues/8").json() == {"message": "404 Project Not Found"}


def test_a_moved_issue_points_to_the_id_of_the_new_one(tiny: Any) -> None:
    after = run(tiny, "move_issue", ISSUE, to="tiny/secret")

    assert after["body"]["state"] == "closed"
    assert after["body"]["moved_to_id"] in [row.id for row in tiny.state.projects[72].issues]


def test_the_clock_stands_still_until_it_is_moved(tiny: Any, client: Any) -> None:
    http = client(tiny)
    first, second = http.get("/version").headers["date"], http.get("/version").headers["date"]
    tiny.script([{"step": "advance_clock", "seconds": 3600}])

    assert first == second == "Mon, 30 Jun 2025 18:00:00 GMT"
    assert http.get("/version").headers["date"] == "Mon, 30 Jun 2025 19:00:00 GMT"


def test_the_same_script_leads_to_the_same_state(tiny: Any) -> None:
    steps = [{"step": "comment", **ISSUE}, {"step": "push", "iid": 6}, {"step": "create_issue"}]
    tiny.script(steps)
    first = tiny.digest()
    tiny.reset()
    tiny.script(steps)

    assert tiny.digest() == first


@pytest.mark.parametrize(
    "step",
    [
        {"step": "dance"},
        {"step": "comment"},
        {"step": "comment", "kind": "issue", "iid": 6},
        {"step": "merge", "iid": 99},
    ],
)
def test_a_step_that_makes_no_sense_is_refused(tiny: Any, step: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match="script"):
        tiny.script([step])


def test_every_step_the_specification_asks_for_is_there() -> None:
    wanted = "comment edit_note delete_note delete_discussion resolve label close reopen merge milestone edit push"
    wanted += (
        " rename_file delete_issue delete_mr hide rename_project create_issue create_mr advance_clock revoke_token"
    )

    assert set(wanted.split()) <= set(STEPS)
