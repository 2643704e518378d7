"""Part of an answer is asked for by paths into it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lore.core.errors import UsageError
from lore.core.fields import parse_fields, select

ROW = {
    "type": "object",
    "properties": {"iid": {"type": "integer"}, "title": {"type": "string"}},
    "required": ["iid", "title"],
    "additionalProperties": False,
}
SCHEMA: dict[str, Any] = {
    "anyOf": [
        {
            "type": "object",
            "properties": {"rows": {"type": "array", "items": ROW}, "raw": {}, "names": {"type": "object"}},
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {"row": {"anyOf": [ROW, {"type": "null"}]}},
            "additionalProperties": False,
        },
    ]
}
DATA = {"rows": [{"iid": 1, "title": "a"}, {"iid": 2, "title": "b"}], "raw": {"x": {"y": 1}}, "names": {}}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("rows.iid", {"rows": [{"iid": 1}, {"iid": 2}]}),
        ("rows.iid,rows.title", {"rows": DATA["rows"]}),
        ("rows", {"rows": DATA["rows"]}),
        ("rows,rows.iid", {"rows": DATA["rows"]}),
        ("rows.iid, rows", {"rows": DATA["rows"]}),
        ("raw.x", {"raw": {"x": {"y": 1}}}),
        ("raw.x.y", {"raw": {"x": {"y": 1}}}),
        ("raw.z", {"raw": {}}),
        ("row.iid", {}),
    ],
)
def test_a_path_goes_through_lists_and_keeps_what_it_names(text: str, kept: dict[str, Any]) -> None:
    assert select(DATA, parse_fields(text, SCHEMA)) == kept


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rows.iidd", "there are iid, title"),
        ("row.iid.x", "nothing is below it"),
        ("run", "there are names, raw, row, rows"),
        ("", "there are names"),
        ("rows,", "there are names"),
    ],
)
def test_a_path_that_no_answer_has_is_refused_with_what_there_is(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_fields(text, SCHEMA)


def test_a_part_that_is_null_stays_null() -> None:
    assert select({"row": None}, parse_fields("row.iid", SCHEMA)) == {"row": None}


@given(st.recursive(st.none() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_all_is_kept_where_nothing_is_asked_for(value: Any) -> None:
    assert select(value, None) == value
