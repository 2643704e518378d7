"""A story in one order, and what system notes say in it."""

from __future__ import annotations

import pytest

from lore.core.story import Event, of_system_note, parse_mention, tell, without_echoes


@pytest.mark.parametrize(
    ("body", "kind", "cause"),
    [
        ("added 1 commit\n\n* 74877f1e - Follow review", "pushed", None),
        ("<p>added 12 commits</p>", "pushed", None),
        ("added 3 new commits", "pushed", None),
        ("mentioned in merge request !12", "mentioned", "!12"),
        ("mentioned in issue g/other#7", "mentioned", "g/other#7"),
        ("<p>mentioned in issue #7</p>", "mentioned", "#7"),
        ("mentioned in commit 0123456789abcdef", "mentioned", "commit 0123456789abcdef"),
        ("closed via merge request !9", "closed", "!9"),
        ("closed via commit 0123abc", "closed", "commit 0123abc"),
        ("assigned to @ida", "system", None),
        ("mentioned in passing", "system", None),
        ("", "system", None),
    ],
)
def test_what_a_system_note_says_is_understood_or_told_as_it_is(body: str, kind: str, cause: str | None) -> None:
    told = of_system_note(Event(1, "g/p#1", "system", text=body))

    assert (told.kind, told.cause) == (kind, cause)


def test_events_of_one_moment_are_told_in_the_order_in_which_they_happen() -> None:
    kinds = ["closed", "label", "comment", "created", "merged", "pushed"]

    told = tell([Event(1, "g/p!1", kind) for kind in kinds], [Event(0, "g/p#1", "comment")])  # type: ignore[arg-type]

    assert [event.kind for event in told] == ["comment", "created", "pushed", "comment", "label", "merged", "closed"]


def test_an_end_is_told_once_with_all_that_is_known_of_it() -> None:
    told = without_echoes(
        [
            Event(10_000, "g/p#1", "closed", None),
            Event(10_020, "g/p#1", "closed", "ida", sequence=5),
            Event(11_000, "g/p#1", "closed", "ida", "closed via merge request !9", "!9"),
            Event(90_000, "g/p#1", "closed", "olaf"),
        ]
    )

    assert [(event.author, event.cause) for event in told] == [("ida", "!9"), ("olaf", None)]


@pytest.mark.parametrize(
    ("text", "found"),
    [("g/p!12", ("g/p", "merge_request", 12)), ("#7", ("", "issue", 7)), ("commit abc", None), ("JIRA-1", None)],
)
def test_a_mention_names_an_entity_or_none(text: str, found: object) -> None:
    assert parse_mention(text) == found
