"""What a run fetches: the GitLab endpoints of each kind of entity, in their fixed order.

All of them depend on nothing but ids, so they are fetched side by side.
Source: GitLab REST v4 (https://docs.gitlab.com/api/rest/).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

EntityType = Literal["issue", "merge_request"]

ISSUE: Final = "issue"
MERGE_REQUEST: Final = "merge_request"
PROJECT: Final = "project"
ENTITY_TYPES: Final[tuple[EntityType, ...]] = ("issue", "merge_request")

ROUTES: Final[dict[str, str]] = {"issue": "issues", "merge_request": "merge_requests"}
PER_PAGE: Final = 100


@dataclass(frozen=True)
class Endpoint:
    """One GitLab endpoint of an entity or of its project.

    Attributes:
        job_type: Its name in `dependent_queue.job_type`.
        suffix: What follows the entity's own path.
        is_list: A JSON array (read to its last page where `is_paged`), else one object.
        is_paged: Offers `page` and `per_page`.
    """

    job_type: str
    suffix: str = ""
    is_list: bool = False
    is_paged: bool = False


OWN: Final = "entity"
DISCUSSIONS: Final = "discussions"
STATE_EVENTS: Final = "resource_state_events"
LABEL_EVENTS: Final = "resource_label_events"
MILESTONE_EVENTS: Final = "resource_milestone_events"
DIFFS: Final = "diffs"
CLOSES_ISSUES: Final = "closes_issues"
LINKS: Final = "links"

PROJECT_ENDPOINT: Final = Endpoint(PROJECT)


def _list(name: str, *, is_paged: bool = True) -> Endpoint:
    return Endpoint(name, f"/{name}", is_list=True, is_paged=is_paged)


# The order is the one in which a failed entity's code is chosen, its own endpoint first.
ENDPOINTS: Final[dict[str, tuple[Endpoint, ...]]] = {
    "issue": (
        Endpoint(OWN),
        _list(DISCUSSIONS),
        _list(STATE_EVENTS),
        _list(LABEL_EVENTS),
        _list(MILESTONE_EVENTS),
        _list(LINKS, is_paged=False),
    ),
    "merge_request": (
        Endpoint(OWN),
        _list(DISCUSSIONS),
        _list(DIFFS),
        _list(STATE_EVENTS),
        _list(LABEL_EVENTS),
        _list(MILESTONE_EVENTS),
        _list(CLOSES_ISSUES),
    ),
}


@dataclass(frozen=True, order=True)
class Entity:
    """An issue or merge request of a run; sorts in the order in which content is locked."""

    entity_type: EntityType
    iid: int


@dataclass(frozen=True)
class PlannedTask:
    """One endpoint to read; `entity_type` is `project` and `iid` 0 for the run's project."""

    entity_type: str
    iid: int
    job_type: str


def plan_tasks(entities: Iterable[Entity], *, with_project: bool) -> list[PlannedTask]:
    """Return every task of a run, the project's first, then by entity in the fixed order of endpoints."""
    tasks = [PlannedTask(PROJECT, 0, PROJECT)] if with_project else []
    for entity in sorted(set(entities)):
        tasks += [PlannedTask(entity.entity_type, entity.iid, e.job_type) for e in ENDPOINTS[entity.entity_type]]
    return tasks


def endpoint_of(entity_type: str, job_type: str) -> Endpoint:
    """Return the endpoint that a task names.

    Raises:
        KeyError: The job type is not one of this entity type's (a row written by another version).
    """
    if entity_type == PROJECT and job_type == PROJECT:
        return PROJECT_ENDPOINT
    for endpoint in ENDPOINTS.get(entity_type, ()):
        if endpoint.job_type == job_type:
            return endpoint
    raise KeyError(f"no endpoint {job_type!r} of {entity_type!r}")


def api_path(project: str, entity_type: str, iid: int, endpoint: Endpoint) -> str:
    """Return the path below `/api/v4`; `project` is a numeric id or a URL-encoded full path."""
    if entity_type == PROJECT:
        return f"/projects/{project}"
    return f"/projects/{project}/{ROUTES[entity_type]}/{iid}{endpoint.suffix}"


def entity_name(entity_type: str, iid: int) -> str:
    """Name an entity as GitLab's users do, `#7` or `!12`; the project by its word."""
    return {ISSUE: f"#{iid}", MERGE_REQUEST: f"!{iid}"}.get(entity_type, entity_type)
