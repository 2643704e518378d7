"""The walk of a sync over GitLab's lists: every row that is new behind a position, whatever changes meanwhile.

A list is asked for in the order of `updated_at` and from the last row's on, never by offset over an order that moves;
inside one moment rows can only leave, so its pages are passed over until two passes meet the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from lore.core import payloads, plan, walk
from lore.core.errors import PassingError, RefusedError
from lore.gitlab import Answer
from models.base import now_ms

# Each further pass over one moment needs a row that left it meanwhile.
MOMENT_PASSES = 20
# What a project says of each list, where it has it switched off.
FEATURES = {plan.ISSUE: "issues_enabled", plan.MERGE_REQUEST: "merge_requests_enabled"}


@dataclass
class Stretch:
    """A piece of a walk: where it stands, what it found, what GitLab's clock said."""

    position: walk.Position
    bound: int | None
    wanted: list[int]
    ahead_ms: int = 0
    total: int | None = None
    is_at_end: bool = False


class Ask(Protocol):
    """Asks GitLab for a path below the API's root."""

    def __call__(self, path: str, **params: str | int) -> Answer:
        """Return its answer."""


@dataclass(frozen=True)
class Lists:
    """A project's lists: how they are asked for, by which segment of a path, and whose rows they must be."""

    ask: Ask
    segment: str
    gitlab_id: int

    def rows(self, entity_type: plan.EntityType, stretch: Stretch) -> Iterator[list[walk.Row]]:
        """Yield what is new behind the stretch's position, page by page; the caller moves the position."""
        while True:
            at = stretch.position.at
            window = None if at is None else (walk.timestamp(at), None)
            page, next_page = self._page(entity_type, stretch, window)
            new = [row for row in page if not stretch.position.has_met(row)]
            stretch.is_at_end = next_page is None
            if new:
                yield new
            if next_page is None:
                return
            if not page:
                raise _bad_list(entity_type, "an empty page is followed by another")
            at = page[-1].updated_at
            if page[0].updated_at == at:
                # All of the page is one moment: its rows cannot be told apart by time, and can only leave it.
                yield [row for row in self._moment(entity_type, stretch, at) if not stretch.position.has_met(row)]
                stretch.position = walk.Position(at + walk.moment_span_ms(at))

    def _moment(self, entity_type: plan.EntityType, stretch: Stretch, at: int) -> list[walk.Row]:
        """Return every row of one moment: passes over its pages until two of them met the same."""
        window = walk.timestamp(at), walk.timestamp(at + walk.moment_span_ms(at))
        found: dict[int, walk.Row] = {}
        before: set[int] | None = None
        for _ in range(MOMENT_PASSES):
            met: set[int] = set()
            number: int | None = 1
            while number is not None:
                page, number = self._page(entity_type, stretch, window, page=number)
                met.update(row.iid for row in page)
                found |= {row.iid: row for row in page}
            if met == before:
                return sorted(found.values(), key=lambda row: (row.updated_at, row.iid))
            before = met
        raise PassingError(
            "LIST_UNSTABLE", f"the {entity_type} list changed each of the {MOMENT_PASSES} times it was read"
        )

    def _page(
        self, entity_type: plan.EntityType, stretch: Stretch, window: tuple[str, str | None] | None, *, page: int = 1
    ) -> tuple[list[walk.Row], int | None]:
        params: dict[str, str | int] = {"order_by": "updated_at", "sort": "asc", "state": "all"}
        params |= {"scope": "all", "per_page": plan.PER_PAGE}
        after, before = window or (None, None)
        if after is not None:
            params["updated_after"] = after
        if before is not None:
            params["updated_before"] = before
        if page > 1:
            params["page"] = page
        if entity_type == plan.MERGE_REQUEST:
            params["view"] = "simple"
        answer = self.ask(f"/projects/{self.segment}/{plan.ROUTES[entity_type]}", **params)
        if stretch.bound is None:
            if answer.date_ms is None:
                raise _bad_list(entity_type, "it has no Date")
            stretch.bound = walk.bound_of(answer.date_ms)
        if answer.date_ms is not None:
            stretch.ahead_ms = now_ms() - answer.date_ms
        stretch.total = answer.total if stretch.total is None else stretch.total
        if not answer.has_paging:
            raise _bad_list(entity_type, "it does not say whether another page follows")
        if answer.next_page is not None and answer.next_page <= page:
            raise _bad_list(entity_type, f"page {page} is followed by page {answer.next_page}")
        listed = payloads.decode_listing(answer.body)
        if any(project_id != self.gitlab_id for _, project_id, _ in listed):
            raise RefusedError("WRONG_ENTITY", f"the {entity_type} list of project {self.gitlab_id} has another's rows")
        rows = [walk.Row(iid, updated_at) for iid, _, updated_at in listed]
        begin = walk.Position() if page > 1 or before is not None else stretch.position
        if not walk.is_in_order(begin, rows):
            raise _bad_list(entity_type, "it is not in the order asked for")
        return rows, answer.next_page


def _bad_list(entity_type: str, reason: str) -> RefusedError:
    return RefusedError("GITLAB_BAD_PAYLOAD", f"GitLab's list of {plan.ROUTES[entity_type]} cannot be used: {reason}")
