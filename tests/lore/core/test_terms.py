"""How words are read, the same for a text and for a query."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lore.core.terms import MAX_QUERY_WORDS, MAX_TERM_LENGTH, Word, document_terms, query_words


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The tide, at 7!", ["the", "tide", "at", "7"]),
        ("fetchPage", ["fetchpage", "fetch", "page"]),
        ("fetch_page", ["fetchpage", "fetch", "page"]),
        ("HTTPServer2", ["httpserver2", "http", "server2"]),
        ("__init__", ["init"]),
        ("lore/core/terms.py", ["lore", "core", "terms", "py"]),
        ("merge-request", ["merge", "request"]),
        ("Straße Ärger", ["strasse", "arger"]),
        ("👍🏽 👩‍💻", ["u1f44d", "u1f469", "u1f4bb"]),
        ("€5 → ok", ["u20ac", "5", "u2192", "ok"]),
        ("日本語", ["日", "本", "語", "日本", "本語"]),
        ("ガ", ["ガ"]),
        ("“quoted”—and", ["quoted", "and"]),
        ('"); -> <=', []),
    ],
)
def test_the_terms_of_a_text(text: str, terms: list[str]) -> None:
    assert document_terms(text) == terms


def test_a_word_of_a_query_is_its_whole_or_all_of_its_parts() -> None:
    assert query_words("fetchPage tide") == [Word("fetchpage", ("fetch", "page")), Word("tide")]
    assert query_words("日本語 日") == [Word("日本"), Word("本語"), Word("日")]


def test_a_query_says_each_word_once_and_not_too_many() -> None:
    assert query_words("tide Tide TIDE") == [Word("tide")]
    assert len(query_words(" ".join(f"w{n}" for n in range(500)))) == MAX_QUERY_WORDS


def test_a_word_without_end_is_cut() -> None:
    assert document_terms("x" * 10_000) == ["x" * MAX_TERM_LENGTH]
    assert query_words("x" * 10_000) == [Word("x" * MAX_TERM_LENGTH)]


@given(st.text())
def test_a_term_holds_nothing_that_could_be_syntax(text: str) -> None:
    for term in document_terms(text):
        assert 0 < len(term) <= MAX_TERM_LENGTH
        assert not set(term) & set("\0 \t\r\n\"'()*:^+-&|!<>\\,")


@given(st.text(), st.text())
def test_a_text_has_the_terms_of_every_query_that_stands_in_it(before: str, query: str) -> None:
    terms = set(document_terms(f"{before} {query}"))

    for word in query_words(query):
        assert word.whole in terms or (word.parts and terms.issuperset(word.parts))
