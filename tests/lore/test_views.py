"""What people read of lists, histories, stories and people; what hostile text does is in test_reading."""

from __future__ import annotations

from typing import Any

import pytest

from lore.views import show_entities, show_history, show_hits, show_people, show_stats, show_timeline


def entity(ref: str, **more: Any) -> dict[str, Any]:
    known = {"project": "g/p", "state": "opened", "title": "t", "author": None, "labels": [], "milestone": None}
    return {"ref": f"{more.get('project', 'g/p')}{ref}", "updated_at": "2026-11-01T08:30:00.000Z", **known, **more}


def test_a_list_says_how_much_of_it_is_shown_and_what_is_a_draft(capsys: pytest.CaptureFixture[str]) -> None:
    drafts = [entity("!1", draft=True, labels=["a", "b"]), entity("!2", draft=True, title="Draft: x", author="ida")]

    show_entities({"total": 9, "merge_requests": drafts})
    show_entities({"total": 2, "issues": [entity("#1"), entity("#1", project="g/q")]})

    assert capsys.readouterr().out.splitlines() == [
        "2 of 9 merge requests; more: -n 9",
        "!1  opened  Draft: t  ?    a, b  2026-11-01",
        "!2  opened  Draft: x  ida        2026-11-01",
        "2 issues",
        "g/p#1  opened  t  ?  2026-11-01",
        "g/q#1  opened  t  ?  2026-11-01",
    ]


def history(**more: Any) -> dict[str, Any]:
    file = {"change": "renamed", "old_path": "a", "new_path": "b", "lines_added": 2, "lines_removed": 0}
    entry = {"iid": 5, "state": "merged", "title": "Move it", "author": "ida", "at": "2026-11-01T08:30:00.000Z"}
    return {"paths": ["a", "b"], "total": 1, "history": [entry | {"files": [file]} | more]}


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ({}, "a -> b +2 −0"),
        ({"lines_added": 0}, "a -> b"),
        ({"lines_added": None, "lines_removed": None}, "a -> b"),
        ({"change": "added"}, "added +2 −0"),
        ({"change": "changed"}, "+2 −0"),
        ({"change": "deleted", "lines_added": None}, "deleted"),
    ],
)
def test_a_history_says_what_was_done_to_the_file(
    capsys: pytest.CaptureFixture[str], file: dict[str, Any], words: str
) -> None:
    shown = history()
    shown["history"][0]["files"][0] |= file

    show_history(shown)

    assert capsys.readouterr().out.splitlines() == [
        "a -> b",
        "1 merge request",
        f"!5  merged  2026-11-01  ida  Move it  {words}",
    ]


def test_a_history_with_discussions_has_each_note_below_its_merge_request(capsys: pytest.CaptureFixture[str]) -> None:
    note = {"author": None, "created_at": "2026-11-02T00:00:00Z", "path": "b", "line": 3, "snippet": "why?"}

    show_history(history(discussions=[note | {"resolved": False}, note | {"resolved": None, "line": None}]))

    assert capsys.readouterr().out.splitlines()[3:] == [
        "!5 Move it",
        "merged  2026-11-01  ida  a -> b +2 −0",
        "  ? 2026-11-02 b:3, open",
        "    why?",
        "  ? 2026-11-02 b",
        "    why?",
    ]


def test_a_story_of_nothing_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    show_timeline({"refs": [], "title": "engine room", "total": 0, "events": []})

    assert capsys.readouterr().out == "engine room\nnothing found\n"


def test_hits_are_apart_and_begin_without_an_empty_line(capsys: pytest.CaptureFixture[str]) -> None:
    hit = {"type": "issue", "ref": "g/p#1", "title": "T", "state": "opened", "author": "ida", "snippet": "s"}

    show_hits({"hits": [hit | {"updated_at": "2026-11-01", "why": {"text": 1}, "marks": []}] * 2})

    assert [not line for line in capsys.readouterr().out.splitlines()] == [False] * 3 + [True] + [False] * 3


def test_a_story_names_who_and_by_what(capsys: pytest.CaptureFixture[str]) -> None:
    event = {"at": "2026-11-01T08:30:00.000Z", "ref": "g/p#1", "author": "ida", "path": None, "line": None}
    events = [
        event | {"kind": "comment", "text": "why", "cause": None, "path": "a.py", "line": 3},
        event | {"kind": "mentioned", "text": "mentioned in !5", "cause": "!5"},
        event | {"kind": "closed", "text": None, "cause": "g/p!5"},
    ]

    show_timeline({"title": "T", "total": 3, "events": events})

    assert capsys.readouterr().out.splitlines() == [
        "T",
        "3 events",
        "2026-11-01 08:30  comment    ida  a.py:3: why",
        "2026-11-01 08:30  mentioned  ida  mentioned in !5",
        "2026-11-01 08:30  closed     ida  by g/p!5",
    ]


def test_people_are_shown_with_what_they_did(capsys: pytest.CaptureFixture[str]) -> None:
    did = {"authored": 2, "assigned": 0, "reviewed": 1, "merged": 0, "commented": 0}
    person = did | {"username": "ida", "last_at": "2026-11-01T08:30:00.000Z", "refs": ["g/p!5", "g/p#1"]}

    show_people({"project": "g/p", "kind": "label", "name": "bug", "paths": [], "total": 1, "people": [person]})

    assert capsys.readouterr().out == "label bug\n1 person\nida  authored 2, reviewed 1  2026-11-01  !5 #1\n"


def test_an_empty_mirror_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    empty = {"documents": 0, "embeddings": 0, "dirty_sources": 0, "total": 0, "projects": []}

    show_stats({"gitlab_url": "https://x.test", "database": {"kind": "sqlite", "size_bytes": 1_234_000}, **empty})

    assert capsys.readouterr().out.splitlines() == [
        "https://x.test: 0 projects",
        "sqlite, 1.2 MB; 0 documents, 0 embeddings, 0 dirty sources",
    ]
