"""Every feature the tiny profile promises is really in the bodies it serves."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from unicodedata import is_normalized

import pytest

from lore.demo import tiny as tiny_profile
from lore.demo.tiny import FEATURES

Truth = dict[str, Any]


def notes(truth: Truth) -> list[Any]:
    return [note for thread in truth["discussions"] for note in thread["notes"]]


def some_note(test: Callable[[Any], bool]) -> Callable[[Truth], bool]:
    return lambda truth: any(test(note) for note in notes(truth))


def some_diff_note(test: Callable[[Any], bool]) -> Callable[[Truth], bool]:
    return some_note(
        lambda note: note["type"] == "DiffNote" and note["position"] is not None and test(note["position"])
    )


def some_diff(test: Callable[[Any], bool]) -> Callable[[Truth], bool]:
    return lambda truth: any(test(diff) for diff in truth["diffs"])


def has_pair(truth: Truth, old: str, new: str) -> bool:
    return any(diff["renamed_file"] and (diff["old_path"], diff["new_path"]) == (old, new) for diff in truth["diffs"])


def is_swapped(truth: Truth) -> bool:
    pairs = {(diff["old_path"], diff["new_path"]) for diff in truth["diffs"]}
    return any((new, old) in pairs for old, new in pairs if old != new)


def is_rebased(truth: Truth) -> bool:
    bases = {version["base_commit_sha"] for version in truth["versions"]}
    return len(truth["versions"]) == 20 and len(bases) == 2


NULLS = ["author", "sha", "source_project_id", "changes_count", "diff_refs", "head_pipeline", "prepared_at"]
WEIRD = ["/..almost/", " with spaces/", '"', "\\", "🚢", "%2F", "\n", "?"]

HOLDS: dict[str, Callable[[Truth], bool]] = {
    "composed and decomposed unicode": lambda t: (
        not is_normalized("NFC", t["body"]["description"]) and not is_normalized("NFD", t["body"]["description"])
    ),
    "right-to-left text": lambda t: "שלום" in t["body"]["title"] and "\u202e" in t["body"]["description"],
    "emoji and astral characters": lambda t: "👩‍👩‍👧‍👦" in t["body"]["title"] and "𐍈" in t["body"]["description"],
    "control characters": some_note(lambda n: "\x07" in n["body"] and "\x1b" in n["body"]),
    "line separator U+2028": some_note(lambda n: "\u2028" in n["body"]),
    "CRLF line ends": some_note(lambda n: "\r\n" in n["body"]),
    "HTML in a system note": some_note(lambda n: n["system"] and n["body"].startswith("<p>")),
    "a note of white space only": some_note(lambda n: not n["body"].strip()),
    "a description of 1 MB": lambda t: len(t["body"]["description"].encode()) >= 2**20,
    "more than 100 notes in one thread": lambda t: max(len(d["notes"]) for d in t["discussions"]) > 100,
    "more than 100 threads": lambda t: len(t["discussions"]) > 100,
    "label names with comma, colon, scope and emoji": lambda t: (
        {"one, two", "kind: bug", "priority::high", "🚢 ship it"} <= set(t["body"]["labels"])
    ),
    "a label event without its label": lambda t: any(e["label"] is None for e in t["label_events"]),
    "an event without its user": lambda t: all(
        any(e["user"] is None for e in t[f"{name}_events"]) for name in ("label", "state", "milestone")
    ),
    "several label events at one moment": lambda t: len({e["created_at"] for e in t["label_events"][:3]}) == 1,
    "more than 100 label events": lambda t: len(t["label_events"]) > 100,
    "a milestone event without its milestone": lambda t: any(e["milestone"] is None for e in t["milestone_events"]),
    "an issue without author": lambda t: t["body"]["author"] is None,
    "a note by the Ghost user": some_note(lambda n: n["author"] is not None and n["author"]["username"] == "ghost"),
    "a note without author": some_note(lambda n: n["author"] is None),
    "a user without avatar": some_note(lambda n: n["author"] is not None and n["author"]["avatar_url"] is None),
    "an internal note": some_note(lambda n: n["internal"] and n["confidential"]),
    "an entity id above 2^31": lambda t: t["body"]["id"] > 2**31,
    "a note id above 2^53": lambda t: len({n["id"] for n in notes(t) if n["id"] > 2**53}) == 2,
    "an event id above 2^53": lambda t: t["label_events"][0]["id"] > 2**53 and t["state_events"][0]["id"] > 2**53,
    "links of every type": lambda t: {"relates_to", "blocks", "is_blocked_by"} == {e["link_type"] for e in t["links"]},
    "a moved issue": lambda t: t["body"]["state"] == "closed" and t["body"]["moved_to_id"] > 0,
    "a confidential issue": lambda t: t["body"]["confidential"],
    "an issue with nothing on it": lambda t: not any(t[name] for name in t if name != "body"),
    "no description": lambda t: t["body"]["description"] is None,
    "an incident": lambda t: (t["body"]["issue_type"], t["body"]["type"]) == ("incident", "INCIDENT"),
    "a merge request of nulls": lambda t: all(name in t["body"] and t["body"][name] is None for name in NULLS),
    "the locked state": lambda t: t["body"]["state"] == "locked",
    "a diff note without position": some_note(lambda n: n["type"] == "DiffNote" and n["position"] is None),
    "a diff note on an image": some_diff_note(lambda p: p["position_type"] == "image" and p["width"] == 640),
    "a diff note on a file": some_diff_note(lambda p: p["position_type"] == "file"),
    "a diff note over several lines": some_diff_note(
        lambda p: bool(p.get("line_range")) and p["line_range"]["start"] != p["line_range"]["end"]
    ),
    "a diff note on a removed and on an unchanged line": lambda t: (
        some_diff_note(lambda p: p.get("old_line") is not None and p["new_line"] is None)(t)
        and some_diff_note(lambda p: p.get("old_line") is not None and p["new_line"] is not None)(t)
    ),
    "a diff note without line range": some_diff_note(lambda p: "line_range" in p and p["line_range"] is None),
    "an outdated diff note": lambda t: some_diff_note(lambda p: p["head_sha"] != t["body"]["sha"])(t),
    "a diff note on a renamed file": some_diff_note(lambda p: p["old_path"] != p["new_path"]),
    "a diff note on a commit": some_note(lambda n: bool(n.get("commit_id"))),
    "a legacy diff note": some_note(lambda n: n["type"] == "LegacyDiffNote" and "position" not in n),
    "a suggestion": some_note(lambda n: "```suggestion" in n["body"]),
    "a resolved thread": some_note(lambda n: bool(n.get("resolved")) and n["updated_at"] == n["resolved_at"]),
    "an external issue with a text as id": lambda t: any(isinstance(row["id"], str) for row in t["closes_issues"]),
    "a pure rename": some_diff(lambda d: d["renamed_file"] and not d["diff"]),
    "a swap of two files": is_swapped,
    "a rename of case only": some_diff(
        lambda d: d["old_path"] != d["new_path"] and d["old_path"].lower() == d["new_path"].lower()
    ),
    "a chain of renames": lambda t: has_pair(t, "chain/b.py", "chain/c.py"),
    "a rename with edits": some_diff(lambda d: d["renamed_file"] and bool(d["diff"])),
    "a renamed directory": lambda t: has_pair(t, "old_dir/sub/two.py", "new_dir/sub/two.py"),
    "a copy": some_diff(lambda d: d["old_path"] != d["new_path"] and not d["renamed_file"]),
    "a change of mode": some_diff(lambda d: d["a_mode"] != d["b_mode"] and not d["new_file"] and not d["deleted_file"]),
    "a binary file": some_diff(lambda d: d["diff"].startswith("Binary files")),
    "a collapsed file": some_diff(lambda d: d["collapsed"] and not d["diff"]),
    "a file that is too large": some_diff(lambda d: d["too_large"] and not d["diff"]),
    "a file of which nobody knows whether it is generated": some_diff(lambda d: d["generated_file"] is None),
    "weird paths": lambda t: all(any(odd in diff["new_path"] for diff in t["diffs"]) for odd in WEIRD),
    "a deleted file": some_diff(lambda d: d["deleted_file"]),
    "a list of changes that overflows": lambda t: t["body"]["changes_count"] == "1000+",
    "twenty versions and a forced push": is_rebased,
    "commit dates in many offsets": lambda t: len({c["authored_date"][-6:] for c in t["commits"]}) >= 3,
    "a merge to a branch that closes nothing": lambda t: (
        "Closes #1" in t["body"]["description"] and t["body"]["target_branch"] != "main" and t["closes_issues"] == []
    ),
    "more than 100 files": lambda t: len(t["diffs"]) > 100,
    "more than 100 commits": lambda t: len(t["commits"]) > 100,
}


@pytest.mark.parametrize("feature", sorted(FEATURES))
def test_each_feature_is_where_the_map_says(tiny: Any, feature: str) -> None:
    places = FEATURES[feature]
    truth = tiny.truth(places[0].kind, places[0].iid)

    assert {place.part for place in places} <= set(truth)
    assert HOLDS[feature](truth)


def test_the_map_and_the_checks_name_the_same_features() -> None:
    assert set(FEATURES) == set(HOLDS)


def test_a_chain_of_renames_continues_in_the_next_merge_request(tiny: Any) -> None:
    assert has_pair(tiny.truth("merge_request", 6), "chain/a.py", "chain/b.py")
    assert has_pair(tiny.truth("merge_request", 7), "chain/b.py", "chain/c.py")


def test_there_are_ten_of_each_with_holes_between(tiny: Any) -> None:
    truth = tiny.whole_truth()

    assert [len(truth["issues"]), len(truth["merge_requests"])] == [10, 10]
    assert not set(map(str, tiny_profile.ISSUE_HOLES)) & set(truth["issues"])
    assert not set(map(str, tiny_profile.MERGE_REQUEST_HOLES)) & set(truth["merge_requests"])


def test_two_issues_have_the_same_times(tiny: Any) -> None:
    first, second = (tiny.truth("issue", iid)["body"] for iid in tiny_profile.TIED_ISSUES)

    assert (first["created_at"], first["updated_at"]) == (second["created_at"], second["updated_at"])


def test_every_body_is_text_that_any_json_reader_accepts(tiny: Any) -> None:
    whole = tiny.whole_truth()

    assert json.loads(json.dumps(whole)) == whole
