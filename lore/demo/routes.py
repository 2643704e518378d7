"""Which path is which route. Matching is Starlette's, on the path as it was sent.

The path stays percent-encoded until it is split, because `group%2Fproject` is one part and `group/project` is two,
which no route has: GitLab answers the second with 404.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from lore.demo import accounts, api
from lore.demo.api import ApiRoute
from lore.demo.model import Kind

PREFIX = "/api/v4"
_KINDS: tuple[tuple[Kind, str], ...] = (("issue", "issues"), ("merge_request", "merge_requests"))


def _shared_routes() -> Iterator[ApiRoute]:
    """Yield what issues and merge requests have alike; all of it needs a token."""
    for kind, path in _KINDS:
        base = f"/projects/:id/{path}/:iid"
        yield ApiRoute(f"{base}/discussions", api.discussions(kind), True, kind)
        yield ApiRoute(f"{base}/discussions/:child_id", api.one_discussion(kind), True, kind)
        yield ApiRoute(f"{base}/notes", api.notes(kind), True, kind)
        yield ApiRoute(f"{base}/notes/:child_id", api.one_note(kind), True, kind)
        for name in ("state", "label", "milestone"):
            events = f"{base}/resource_{name}_events"
            yield ApiRoute(events, api.events(kind, name), True, kind)
            yield ApiRoute(f"{events}/:child_id", api.one_event(kind, name), True, kind)


ROUTES = (
    ApiRoute("/version", api.version, needs_token=True, scope="read_user"),
    ApiRoute("/metadata", api.metadata, needs_token=True, scope="read_user"),
    ApiRoute("/user", accounts.user, needs_token=True, scope="read_user"),
    ApiRoute("/personal_access_tokens/self", accounts.token_self, needs_token=True, scope="read_user"),
    ApiRoute("/projects/:id", api.project),
    ApiRoute("/projects/:id/issues", api.issues, kind="issue"),
    ApiRoute("/projects/:id/issues_statistics", api.issues_statistics, kind="issue"),
    ApiRoute("/projects/:id/issues/:iid", api.issue, kind="issue"),
    ApiRoute("/projects/:id/issues/:iid/links", api.issue_links, needs_token=True, kind="issue"),
    ApiRoute("/projects/:id/issues/:iid/closed_by", api.closed_by, kind="issue"),
    ApiRoute("/projects/:id/issues/:iid/related_merge_requests", api.related_merge_requests, kind="issue"),
    ApiRoute("/projects/:id/merge_requests", api.merge_requests, kind="merge_request"),
    ApiRoute("/projects/:id/merge_requests/:iid", api.merge_request, kind="merge_request"),
    ApiRoute("/projects/:id/merge_requests/:iid/diffs", api.diffs, kind="merge_request"),
    ApiRoute("/projects/:id/merge_requests/:iid/changes", api.changes, kind="merge_request"),
    ApiRoute("/projects/:id/merge_requests/:iid/commits", api.commits, kind="merge_request"),
    ApiRoute("/projects/:id/merge_requests/:iid/versions", api.versions, needs_token=True, kind="merge_request"),
    ApiRoute(
        "/projects/:id/merge_requests/:iid/versions/:child_id",
        api.one_version,
        needs_token=True,
        kind="merge_request",
    ),
    ApiRoute("/projects/:id/merge_requests/:iid/closes_issues", api.closes_issues, kind="merge_request"),
    *_shared_routes(),
)


async def _unused(request: Request) -> Response:
    raise NotImplementedError(request.url)  # the routes only match; `lore.demo.answers` calls the handler


_TABLE = [(Route(PREFIX + re.sub(r":(\w+)", r"{\1}", route.template), _unused), route) for route in ROUTES]


@lru_cache(maxsize=20_000)
def find_route(raw_path: str) -> tuple[ApiRoute, dict[str, str]] | None:
    """Return the route of a path that is still percent-encoded, and its variable parts decoded."""
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": raw_path, "root_path": ""}
    for pattern, route in _TABLE:
        match, found = pattern.matches(scope)
        if match is Match.FULL:
            return route, {name: unquote(value) for name, value in found["path_params"].items()}
    return None
