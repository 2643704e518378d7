"""A mistyped name finds the names it may stand for, and never chooses between them."""

from __future__ import annotations

import string
from functools import cache

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lore.core.nearest import LONG, SHORTEST, distance, near

letters = st.sampled_from(string.ascii_lowercase + "-")
names = st.text(string.ascii_lowercase, min_size=SHORTEST, max_size=14)
words = st.text(string.ascii_letters + "-_", max_size=14)
known = st.lists(names, max_size=8)


@st.composite
def slips(draw: st.DrawFn) -> tuple[str, str]:
    """A name, and the same with one slip."""
    name = draw(st.text(string.ascii_lowercase, min_size=SHORTEST + 1, max_size=14))
    place = draw(st.integers(0, len(name) - 2))
    letter = draw(letters.filter(str.isalpha))
    slip = draw(st.sampled_from(("drop", "add", "change", "swap")))
    if slip == "drop":
        return name, name[:place] + name[place + 1 :]
    if slip == "add":
        return name, name[:place] + letter + name[place:]
    if slip == "change":
        return name, name[:place] + letter + name[place + 1 :]
    return name, name[:place] + name[place + 1] + name[place] + name[place + 2 :]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--isue", ["--issue"]),
        ("-issue", ["--issue"]),
        ("--run_id", ["--run-id"]),
        ("--RUN-ID", ["--run-id"]),
        ("--runid", ["--run-id"]),
        ("sync-run", ["sync-runs"]),
        ("Show", ["show"]),
        ("sho", ["show", "who"]),
        ("stat", ["stats"]),
        ("--frobnicate", []),
        ("-m", []),
        ("--", []),
        ("", []),
    ],
)
def test_what_people_mistype_finds_what_they_mean(word: str, meant: list[str]) -> None:
    commands = ["show", "who", "sync", "sync-runs", "stats", "worker"]

    assert near(word, [*commands, "--issue", "--mr", "--run-id", "-p"]) == meant


@given(slips(), known)
def test_one_slip_is_always_found(slip: tuple[str, str], others: list[str]) -> None:
    name, word = slip
    assume(word not in others)

    assert name in near(word, [name, *others])


@given(words, known)
def test_what_is_found_is_known_and_comes_once_in_order(word: str, others: list[str]) -> None:
    found = near(word, others + others)

    assert found == sorted(set(found))
    assert set(found) <= set(others)


@given(names, known, st.sampled_from((str.upper, str.title, lambda name: f"--{name}", lambda name: f"-{name}")))
def test_case_and_dashes_alone_leave_no_choice(name: str, others: list[str], spell: object) -> None:
    assert near(spell(name), [name, *others]) == [name]  # type: ignore[operator]


@given(words, known)
def test_a_word_far_from_all_finds_nothing(word: str, others: list[str]) -> None:
    allowed = 2 if len(word) >= LONG else 1
    far = [name for name in others if abs(len(name) - len(word.lstrip("-"))) > allowed]

    assert near(word, far) == []


@given(words, words)
def test_the_distance_is_the_one_of_its_definition(one: str, other: str) -> None:
    @cache
    def slow(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        costs = [slow(i - 1, j) + 1, slow(i, j - 1) + 1, slow(i - 1, j - 1) + (one[i - 1] != other[j - 1])]
        if i > 1 and j > 1 and one[i - 1] == other[j - 2] and one[i - 2] == other[j - 1]:
            costs.append(slow(i - 2, j - 2) + 1)
        return min(costs)

    assert distance(one, other) == distance(other, one) == slow(len(one), len(other))
