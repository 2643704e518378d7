"""Fusing rankings, and what of a text is shown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lore.core.ranking import Snippet, fuse, snippet, snippet_of


def marked(shown: Snippet) -> list[str]:
    return [shown.text[a:b] for a, b in shown.marks]


def test_what_two_rankings_have_comes_before_what_only_one_has() -> None:
    fused = fuse({"text": ["a", "b"], "semantic": ["c", "b"]})

    assert [item for item, _, _ in fused] == ["b", "a", "c"]
    assert fused[0][2] == {"text": 2, "semantic": 2}
    assert fused[1][2] == {"text": 1}


def test_a_snippet_is_where_most_of_the_words_stand_together() -> None:
    text = "tide " + "x " * 300 + "the tide of the gauge " + "y " * 300

    shown = snippet(text, {"tide", "gauge"})

    assert marked(shown) == ["tide", "gauge"]
    assert shown.text.startswith("…")
    assert shown.text.endswith("…")
    assert len(shown.text) <= 202


def test_a_snippet_of_no_word_is_the_beginning() -> None:
    assert snippet("first line\nsecond", {"tide"}) == Snippet("first line second")


def test_an_identifier_is_marked_as_a_whole() -> None:
    assert marked(snippet("call fetchPage now", {"page"})) == ["fetchPage"]


def test_marks_survive_a_text_that_has_marks_of_its_own() -> None:
    shown = snippet("<mark>**tide**</mark>\x00", {"tide"})

    assert marked(shown) == ["tide"]
    assert shown.text.startswith("<mark>**tide**</mark>")


def test_a_string_is_shown_where_it_stands() -> None:
    shown = snippet_of("a" * 500 + " node->next " + "b" * 500, "->")

    assert marked(shown) == ["->"]
    assert snippet_of("nothing", "->").marks == ()


@given(st.text(max_size=500), st.sets(st.text(max_size=5)), st.integers(1, 300))
def test_a_snippet_is_one_line_and_its_marks_lie_in_it_in_order(text: str, terms: set[str], width: int) -> None:
    for shown in (snippet(text, terms, width=width), snippet_of(text, next(iter(terms), "x"), width=width)):
        assert "\n" not in shown.text
        assert len(shown.text) <= width + 2
        edges = [edge for mark in shown.marks for edge in mark]
        assert edges == sorted(edges)
        assert all(0 <= a < b <= len(shown.text) for a, b in shown.marks)
