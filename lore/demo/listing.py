"""Which issues or merge requests a list holds, and in which order: the query parameters of the two lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lore.demo.clock import micros
from lore.demo.model import Issue
from lore.demo.replies import Call, invalid

ORDERS: dict[str, Callable[[Any], Any]] = {
    "created_at": lambda row: row.created_at,
    "updated_at": lambda row: row.updated_at,
    "title": lambda row: row.title,
    "id": lambda row: row.id,
}


def listed(call: Call, rows: Sequence[Any], states: tuple[str, ...]) -> list[Any]:
    """Return the rows a list call asks for, in its order.

    Ties are broken by id, highest first, whichever way the list is sorted. `updated_after` and its like include
    the moment they name.

    Raises:
        ApiError: A parameter has no meaning.
    """
    wanted = filters(call, states)
    order = ordering(call)[0]
    is_descending = ordering(call)[1] == "desc"
    kept = [row for row in rows if all(keep(row) for keep in wanted)]
    kept.sort(key=lambda row: row.id, reverse=True)
    kept.sort(key=ORDERS[order], reverse=is_descending)
    return kept


def ordering(call: Call) -> tuple[str, str]:
    """Return field and direction; GitLab's default is the newest first."""
    order, sort = call.value("order_by") or "created_at", call.value("sort") or "desc"
    if order not in ORDERS:
        raise invalid("order_by", "does not have a valid value")
    if sort not in ("asc", "desc"):
        raise invalid("sort", "does not have a valid value")
    return order, sort


def filters(call: Call, states: tuple[str, ...]) -> list[Callable[[Any], bool]]:
    """Return one test for each parameter sent; parameters GitLab does not know are ignored."""
    return [
        *_state_filter(call, states),
        *_time_filters(call),
        *_iid_filter(call),
        *_label_filter(call),
        *_field_filters(call),
    ]


def _state_filter(call: Call, states: tuple[str, ...]) -> list[Callable[[Any], bool]]:
    state = call.value("state") or "all"
    if state == "all":
        return []
    if state not in states:
        raise invalid("state", "does not have a valid value")
    return [lambda row: bool(row.state == state)]


def _time_filters(call: Call) -> list[Callable[[Any], bool]]:
    found: list[Callable[[Any], bool]] = []
    for field in ("created", "updated"):
        after, before = _moment(call, f"{field}_after"), _moment(call, f"{field}_before")
        name = f"{field}_at"
        if after is not None:
            found.append(lambda row, name=name, at=after: bool(getattr(row, name) >= at))  # type: ignore[misc]
        if before is not None:
            found.append(lambda row, name=name, at=before: bool(getattr(row, name) <= at))  # type: ignore[misc]
    return found


def _moment(call: Call, name: str) -> int | None:
    text = call.value(name)
    if not text:
        return None
    try:
        return micros(text)
    except ValueError:
        # An offset whose plus sign was not encoded arrives as a space and lands here, as on GitLab.
        raise invalid(name) from None


def _iid_filter(call: Call) -> list[Callable[[Any], bool]]:
    sent = call.values("iids")
    if not sent:
        return []
    try:
        iids = {int(text) for text in sent}
    except ValueError:
        raise invalid("iids") from None
    return [lambda row: bool(row.iid in iids)]


def _label_filter(call: Call) -> list[Callable[[Any], bool]]:
    wanted = set(call.values("labels"))
    if not wanted:
        return []
    if wanted == {"None"}:
        return [lambda row: not row.labels]
    if wanted == {"Any"}:
        return [lambda row: bool(row.labels)]
    return [lambda row: wanted <= {label.name for label in row.labels}]


def _field_filters(call: Call) -> list[Callable[[Any], bool]]:
    found: list[Callable[[Any], bool]] = []
    milestone, search, author = call.value("milestone"), call.value("search"), call.value("author_id")
    confidential, issue_type = call.value("confidential"), call.value("issue_type")
    if milestone:
        found.append(lambda row: (row.milestone.title if row.milestone else "None") == milestone)
    if search:
        found.append(lambda row: search.lower() in f"{row.title}\n{row.description or ''}".lower())
    if author:
        found.append(lambda row: row.author is not None and str(row.author.id) == author)
    if confidential in ("true", "false"):
        found.append(lambda row: getattr(row, "confidential", False) == (confidential == "true"))
    if issue_type:
        found.append(lambda row: getattr(row, "issue_type", "") == issue_type)
    return found


def issue_counts(rows: Sequence[Issue]) -> dict[str, int]:
    """Return how many there are, closed and open."""
    closed = sum(row.state == "closed" for row in rows)
    return {"all": len(rows), "closed": closed, "opened": len(rows) - closed}
