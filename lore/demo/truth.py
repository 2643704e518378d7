"""What the demo GitLab really holds, in one piece: what a mirror is compared with.

It is the view of the default token, made by the same handlers as the API but without pages.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from lore.demo import api
from lore.demo.model import Json, Kind, Project
from lore.demo.replies import ApiError, Call, Reply
from lore.demo.state import State
from lore.demo.tokens import DEFAULT_TOKEN

CHILDREN: dict[Kind, tuple[str, ...]] = {
    "issue": ("discussions", "state_events", "label_events", "milestone_events", "links"),
    "merge_request": (
        "discussions",
        "state_events",
        "label_events",
        "milestone_events",
        "diffs",
        "closes_issues",
        "commits",
        "versions",
    ),
}
_LISTS: dict[Kind, dict[str, api.Handler]] = {
    kind: {
        "discussions": api.discussions(kind),
        "state_events": api.events(kind, "state"),
        "label_events": api.events(kind, "label"),
        "milestone_events": api.events(kind, "milestone"),
        "links": api.issue_links,
        "diffs": api.diffs,
        "closes_issues": api.closes_issues,
        "commits": api.commits,
        "versions": api.versions,
    }
    for kind in CHILDREN
}
_SINGLE: dict[Kind, api.Handler] = {"issue": api.issue, "merge_request": api.merge_request}


def entity_truth(state: State, project: Project, kind: Kind, iid: int) -> Json | None:
    """Return `{"body": ..., "discussions": [...], ...}` of one entity, or None if it is not to be seen."""
    with state.lock:
        try:
            body = _answer(state, project, _SINGLE[kind], iid).body
        except ApiError:
            return None
        return {"body": body} | {name: _whole_list(state, project, _LISTS[kind][name], iid) for name in CHILDREN[kind]}


def project_truth(state: State, project: Project) -> Json:
    """Return the project's body, every issue and merge request by iid (as text), and the iids that were deleted."""
    with state.lock:
        found: Json = {"project": _project_body(state, project), "deleted": {}}
        for kind in CHILDREN:
            shelf = project.shelf(kind)
            rows = {str(iid): entity_truth(state, project, kind, iid) for iid in shelf.iids()}
            found[f"{kind}s"] = {iid: row for iid, row in rows.items() if row is not None}
            found["deleted"][f"{kind}s"] = sorted(shelf.deleted)
        return found


def digest(truth: Any) -> str:
    """Return one hash of a truth, whatever the order of its keys."""
    text = json.dumps(truth, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _project_body(state: State, project: Project) -> Json | None:
    try:
        body: Json = _answer(state, project, api.project, 0).body
    except ApiError:
        return None
    return body


def _whole_list(state: State, project: Project, handler: api.Handler, iid: int) -> list[Any]:
    rows: list[Any] = []
    page = 1
    while True:
        reply = _answer(state, project, handler, iid, page=page)
        rows += reply.body
        if not dict(reply.headers).get("X-Next-Page"):
            return rows
        page += 1


def _answer(state: State, project: Project, handler: api.Handler, iid: int, page: int = 1) -> Reply:
    token = state.tokens.find(DEFAULT_TOKEN)
    query = [("page", str(page)), ("per_page", "100")]
    return handler(Call(state, "/api/v4", query, {"id": str(project.id), "iid": str(iid)}, token))
