"""Pages of a list: together they are the list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lore.core.pages import Page, page_of

places = st.lists(st.tuples(st.integers(0, 3), st.text("ab", max_size=2)), unique=True).map(sorted)


@given(places, st.integers(1, 4))
def test_all_pages_are_the_list(rows: list[tuple[int, str]], limit: int) -> None:
    walked: list[tuple[int, str]] = []
    after = None
    while True:
        shown, after = page_of(rows, Page(limit, after), lambda row: row)
        walked += shown
        if after is None:
            break
        assert len(shown) == limit

    assert walked == rows


@given(places, places)
def test_what_comes_or_goes_between_two_pages_moves_no_other_row(
    rows: list[tuple[int, str]], others: list[tuple[int, str]]
) -> None:
    shown, after = page_of(rows, Page(2), lambda row: row)
    if after is None:
        return

    then, _ = page_of(others, Page(99, after), lambda row: row)

    assert shown + [row for row in then if row in rows] == [row for row in rows if row in shown or row in others]
