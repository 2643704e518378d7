"""The layout of documents, what has one, and what is cut."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from lore.core import documents
from lore.core.documents import File, Note, Source, Thread, build

SOURCE = Source(
    entity_type="merge_request",
    entity_id=3,
    project_id=1,
    iid=12,
    title="Read the gauge\nat night",
    state="merged",
    updated_at=1_700_000_000_000,
    created_at=1_600_000_000_000,
    merged_at=1_650_000_000_000,
    author="ida",
    assignees=("olaf",),
    labels=("bug", "sea"),
    milestone="spring",
    source_branch="night",
    target_branch="main",
    description="It is dark.\r\nVery.",
    threads=(
        Thread(1, (Note("Is it?", "olaf", 1_600_000_100_000), Note("Yes.", None, 1_600_000_200_000))),
        Thread(2, (Note("A comment.", "olaf", 1_600_000_300_000),)),
        Thread(3, (Note("<p>changed title</p>", "ida", 1_600_000_400_000, is_system=True),)),
        Thread(4, (Note("Off by one.", "ida", 1, 5, old_path="a.c", new_path="b.c", line=9, is_resolved=True),)),
    ),
    files=(File("a.c", "b.c"), File("n.c", "n.c", is_new=True), File("d.c", "d.c", is_deleted=True), File("e", "e")),
)

ENTITY = """\
Merge request !12: Read the gauge at night
State: merged
Labels: bug, sea
Author: ida
Assignees: olaf
Milestone: spring
Branch: night into main
Created: 2020-09-13 12:26
Merged: 2022-04-15 05:20

It is dark.
Very.

olaf, 2020-09-13 12:28:
Is it?

someone, 2020-09-13 12:30:
Yes.

olaf, 2020-09-13 12:31:
A comment.

ida, 1970-01-01 00:00 on b.c:9 (was a.c):
Off by one.

Files:
b.c (was a.c)
n.c (new)
d.c (deleted)
e
"""
DIFF_THREAD = """\
Discussion of merge request !12: Read the gauge at night
File: b.c:9 (was a.c)
Resolved: yes

ida, 1970-01-01 00:00:
Off by one.
"""


def test_the_layout_of_an_entity() -> None:
    assert build(SOURCE)[0].content == ENTITY


def test_a_conversation_and_a_thread_in_the_diff_have_documents_of_their_own() -> None:
    found = build(SOURCE)

    assert [(d.source_type, d.source_id) for d in found] == [("merge_request", 3), ("discussion", 1), ("discussion", 4)]
    assert found[2].content == DIFF_THREAD
    assert (found[2].author, found[2].state, found[2].labels, found[2].updated_at) == (
        "ida",
        "merged",
        ("bug", "sea"),
        5,
    )
    assert (found[0].author, found[0].updated_at) == ("ida", SOURCE.updated_at)


def test_a_thread_of_one_human_note_and_system_notes_is_no_conversation() -> None:
    notes = (Note("hello", "ida"), Note("closed", "ida", is_system=True))

    assert len(build(replace(SOURCE, threads=(Thread(1, notes),)))) == 1


def test_what_only_moves_does_not_change_the_text() -> None:
    moved = build(replace(SOURCE, updated_at=SOURCE.updated_at + 1))

    assert [d.content_hash for d in moved] == [d.content_hash for d in build(SOURCE)]
    assert moved[0].updated_at == SOURCE.updated_at + 1


def test_control_characters_and_colours_are_left_out() -> None:
    [document] = build(replace(SOURCE, threads=(), files=(), description="\x1b[31mred\x1b[0m\x07 \x00\u202eevil\tok"))

    assert document.content.endswith("\n\nred evil\tok\n")


def test_what_is_cut_is_said() -> None:
    note = Note("n" * 30_000, "ida")
    source = replace(
        SOURCE,
        description="d" * documents.MAX_DESCRIPTION,
        description_length=1_000_000,
        threads=(Thread(1, (note,) * 40),),
        files=tuple(File(None, f"{n}" + "p" * 900) for n in range(100)),
    )

    entity, thread = build(source)

    assert "[cut: the description goes on for 900000 characters]" in entity.content
    assert "[cut: this note goes on for 10000 characters]" in entity.content
    assert "[cut: 30 more notes are not in this document]" in thread.content
    assert "more files are not in this document]" in entity.content
    assert len(entity.content) < 360_000


def test_a_time_before_1970_and_one_far_away_are_dates() -> None:
    [document] = build(replace(SOURCE, threads=(), created_at=-62_135_596_800_000, merged_at=253_402_300_799_000))

    assert "Created: 0001-01-01 00:00" in document.content
    assert "Merged: 9999-12-31 23:59" in document.content


@given(st.text(), st.text(), st.lists(st.text(), max_size=4))
def test_any_text_becomes_a_document_that_every_database_takes(title: str, description: str, notes: list[str]) -> None:
    threads = (Thread(1, tuple(Note(body) for body in notes)),)
    source = replace(SOURCE, title=title, description=description, threads=threads)

    first, second = build(source), build(source)

    assert first == second
    for document in first:
        assert "\0" not in document.content + document.title
        assert "\n" not in document.title
        document.content.encode()
