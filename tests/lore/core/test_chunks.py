"""Chunks: all of a text is in them, none is too large, and a change moves few of them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lore.core.chunks import estimated_starts, split

TEXTS = st.text(alphabet="ab é🎉\n\t.", max_size=300)
LIMITS = st.integers(1, 40).flatmap(lambda limit: st.tuples(st.just(limit), st.integers(0, int(limit * 0.6 - 0.01))))


@st.composite
def tokenised(draw: st.DrawFn) -> tuple[str, list[int]]:
    """Return a text and where tokens begin in it, several at one character included, as of an emoji's bytes."""
    text = draw(TEXTS)
    starts = draw(st.lists(st.integers(0, max(len(text) - 1, 0)), max_size=300)) if text else []
    return text, sorted(starts)


@given(tokenised(), LIMITS)
def test_every_character_but_blanks_is_in_a_chunk_and_none_is_made_up(
    tokens: tuple[str, list[int]], sizes: tuple[int, int]
) -> None:
    text, starts = tokens
    numbered = "".join(chr(0x4E00 + place) if not sign.isspace() else sign for place, sign in enumerate(text))

    chunks = split(numbered, starts, limit=sizes[0], overlap=sizes[1])

    # Each character is another one, so that where a chunk is needs no guess.
    assert {sign for chunk in chunks for sign in chunk if not sign.isspace()} == {
        s for s in numbered if not s.isspace()
    }
    assert all(chunk in numbered and not chunk.isspace() for chunk in chunks)


@given(tokenised(), LIMITS)
@example(tokens=("aaa", [*[0] * 19, 1, 1, 2]), sizes=(21, 1))  # half of a character's tokens
def test_no_chunk_is_above_the_limit_but_a_single_character(
    tokens: tuple[str, list[int]], sizes: tuple[int, int]
) -> None:
    text, starts = tokens
    numbered = "".join(chr(0x4E00 + place) for place in range(len(text)))
    limit, overlap = sizes

    spans = [
        (numbered.index(c), numbered.index(c) + len(c)) for c in split(numbered, starts, limit=limit, overlap=overlap)
    ]

    for begin, end in spans:
        held = [start for start in starts if begin <= start < end]
        assert len(held) <= limit or len(set(held)) == 1
    assert spans == sorted(set(spans))
    for (_, end), (begin, _) in pairwise(spans):
        assert begin <= end
        assert sum(begin <= start < end for start in starts) <= overlap


@given(TEXTS, LIMITS)
def test_the_same_text_has_the_same_chunks(text: str, sizes: tuple[int, int]) -> None:
    first, again = (split(text, estimated_starts(text), limit=sizes[0], overlap=sizes[1]) for _ in range(2))

    assert first == again


@given(st.text(max_size=100))
def test_every_character_is_part_of_an_estimated_token(text: str) -> None:
    starts = estimated_starts(text)

    assert starts == sorted(set(starts))
    assert starts[:1] == ([0] if text else [])
    assert all(after - before <= 4 for before, after in pairwise([*starts, len(text)]))


def test_a_chunk_ends_at_a_paragraph_before_a_line_and_at_a_line_before_a_word() -> None:
    def ends(text: str) -> str:
        return split(text, range(len(text)), limit=20, overlap=0)[0]

    assert ends("aaaaaaaaaaaa\n\nb\nc d e f g h i") == "aaaaaaaaaaaa\n\n"
    assert ends("aaaaaaaaaaaa\nbb c d e f g h i") == "aaaaaaaaaaaa\n"
    assert ends("aaaaaaaaaaaa bb ccccccccccccc") == "aaaaaaaaaaaa bb "
    assert ends("a" * 50) == "a" * 20
    # Not where it would be less than 0.6 of a chunk.
    assert ends("aa\n\nb c d e f g h i j k l m") == "aa\n\nb c d e f g h i "


def test_a_chunk_begins_with_the_last_words_of_the_one_before() -> None:
    text = "one two three four five six seven eight"

    first, second, *_ = split(text, range(len(text)), limit=20, overlap=8)

    assert (first, second) == ("one two three four ", "four five six seven ")


def test_a_change_at_the_beginning_leaves_the_chunks_of_the_rest() -> None:
    paragraphs = [f"Paragraph {n} tells of thing {n * n % 97}, and of what came of it.\n\n" for n in range(60)]
    before = "State: opened\nLabels: bug\n\n" + "".join(paragraphs)
    after = "State: closed\nLabels: bug, shipping, needs a second look\n\n" + "".join(paragraphs)

    chunks = [split(text, estimated_starts(text), limit=64, overlap=12) for text in (before, after)]

    assert len(chunks[0]) > 20
    assert len(set(chunks[1]) - set(chunks[0])) <= 2


def test_blanks_have_no_chunk() -> None:
    assert split("", [], limit=8, overlap=2) == []
    assert split(" \n" * 500, estimated_starts(" \n" * 500), limit=8, overlap=2) == []


@pytest.mark.parametrize("overlap", [-1, 5, 8])
def test_an_overlap_without_a_way_forward_is_refused(overlap: int) -> None:
    with pytest.raises(ValueError, match="overlap"):
        split("abc", [0, 1, 2], limit=8, overlap=overlap)
