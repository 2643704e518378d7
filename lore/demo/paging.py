"""GitLab's two ways of paging a list: by page number, and by an opaque cursor.

A page is cut first and filtered by permission after, so it can hold fewer rows than `per_page`, even none, and still
have a next page.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any, TypeVar
from urllib.parse import quote_plus

from lore.demo.model import Json
from lore.demo.replies import Call, Header, Reply, invalid, not_allowed

DEFAULT_PER_PAGE = 20
MAX_PER_PAGE = 100
COUNT_LIMIT = 10_000
MAX_OFFSET = 50_000

Row = TypeVar("Row")
Render = Callable[[Row], Json | None]


def paginate(call: Call, rows: Sequence[Row], render: Render[Row], declared: Mapping[str, str]) -> Reply:
    """Return the page of `rows` the call asks for, with GitLab's headers.

    Args:
        call: The request.
        rows: All of them, in order.
        render: Returns None for a row the reader may not see.
        declared: The route's own parameters and defaults, which GitLab writes into every `Link`.

    Raises:
        ApiError: A parameter is not valid, or the list has no keyset pager.
    """
    if call.value("pagination") == "keyset":
        raise not_allowed("Keyset pagination is not yet available for this type of request")
    page, per_page = page_numbers(call)
    start = (page - 1) * per_page
    shown = [body for row in rows[start : start + per_page] if (body := render(row)) is not None]
    return Reply(shown, offset_headers(call, declared, total=len(rows), page=page, per_page=per_page))


def page_numbers(call: Call) -> tuple[int, int]:
    """Return page and page size; a size above the maximum is cut, one below 1 is refused."""
    page = max(_integer(call, "page", 1), 1)
    per_page = _integer(call, "per_page", DEFAULT_PER_PAGE)
    if per_page < 1:
        raise invalid("per_page", "has a value not allowed")
    return page, min(per_page, MAX_PER_PAGE)


def offset_headers(call: Call, declared: Mapping[str, str], *, total: int, page: int, per_page: int) -> list[Header]:
    """Return the paging headers: empty strings, not absence, where there is no next or previous page.

    Past 10,000 rows GitLab does not count: the totals and `rel="last"` are left out.
    """
    pages = max(ceil(total / per_page), 1)
    is_counted = total <= COUNT_LIMIT
    next_page = page + 1 if page < pages else None
    prev_page = page - 1 if 1 < page <= pages else None
    links = [("prev", prev_page), ("next", next_page), ("first", 1), ("last", pages if is_counted else None)]
    headers = [
        (
            "Link",
            ", ".join(f'<{_url(call, declared, number, per_page)}>; rel="{name}"' for name, number in links if number),
        ),
        ("X-Next-Page", str(next_page or "")),
        ("X-Page", str(page)),
        ("X-Per-Page", str(per_page)),
        ("X-Prev-Page", str(prev_page or "")),
    ]
    if is_counted:
        headers += [("X-Total", str(total)), ("X-Total-Pages", str(pages))]
    return headers


def paginate_by_cursor(
    call: Call,
    rows: Sequence[Row],
    render: Render[Row],
    declared: Mapping[str, str],
    key: Callable[[Row], tuple[Any, int]],
) -> Reply:
    """Return the page after the call's cursor: only a `Link` to the next one, and none at the end.

    Args:
        call: The request.
        rows: All of them, in the order asked for.
        render: Returns None for a row the reader may not see.
        declared: As `paginate` has it.
        key: A row's place in that order; the id breaks ties.
    """
    _, per_page = page_numbers(call)
    start = 0
    cursor = call.value("cursor")
    if cursor:
        start = _start_after(rows, _decode(cursor), key, is_descending=declared["sort"] == "desc")
    page = rows[start : start + per_page]
    shown = [body for row in page if (body := render(row)) is not None]
    if start + per_page >= len(rows):
        return Reply(shown)
    query = _query(call, declared) | {"per_page": [str(per_page)], "cursor": [_encode(key(page[-1]))]}
    return Reply(shown, [("Link", f'<{call.state.external_url}{call.path}?{_encoded(query)}>; rel="next"')])


def refuse_deep_offset(call: Call, type_name: str) -> None:
    """Raise if the page begins beyond what GitLab serves by number."""
    page, per_page = page_numbers(call)
    if (page - 1) * per_page > MAX_OFFSET:
        raise not_allowed(
            f"Offset pagination has a maximum allowed offset of {MAX_OFFSET} for requests that return objects of type "
            f"{type_name}. Remaining records can be retrieved using keyset pagination."
        )


def _start_after(
    rows: Sequence[Row], place: tuple[Any, int], key: Callable[[Row], tuple[Any, int]], *, is_descending: bool
) -> int:
    for index, row in enumerate(rows):
        value, row_id = key(row)
        is_past = value < place[0] if is_descending else value > place[0]
        if is_past or (value == place[0] and row_id < place[1]):
            return index
    return len(rows)


def _integer(call: Call, name: str, default: int) -> int:
    text = call.value(name)
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise invalid(name) from None


def _url(call: Call, declared: Mapping[str, str], page: int, per_page: int) -> str:
    query = _query(call, declared) | {"page": [str(page)], "per_page": [str(per_page)]}
    return f"{call.state.external_url}{call.path}?{_encoded(query)}"


def _query(call: Call, declared: Mapping[str, str]) -> dict[str, list[str]]:
    """Return every parameter GitLab repeats in a link: those declared, with defaults, and those sent."""
    query = {name: [value] for name, value in declared.items()}
    sent: dict[str, list[str]] = {}
    for name, value in call.query:
        if name != "private_token":
            sent.setdefault(name, []).append(value)
    return query | sent


def _encoded(query: Mapping[str, list[str]]) -> str:
    return "&".join(sorted(f"{quote_plus(name)}={quote_plus(value)}" for name in query for value in query[name]))


def _encode(place: tuple[Any, int]) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def _decode(cursor: str) -> tuple[Any, int]:
    try:
        value, row_id = json.loads(base64.urlsafe_b64decode(cursor))
    except (binascii.Error, ValueError, TypeError):
        raise invalid("cursor") from None
    return value, row_id
