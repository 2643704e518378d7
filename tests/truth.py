"""Comparing the mirror with the demo server's own ground truth, field by field."""

from __future__ import annotations

import json
from typing import Any

from lore.core import plan
from lore.core.payloads import parse_timestamp
from lore.core.plan import Entity
from models.content import ENTITY_TABLES, Discussion, EntityLink, MergeRequestDiff, Note, ResourceEvent

TIMES = ("created_at", "updated_at", "closed_at", "merged_at", "prepared_at")
PLAIN = (
    "iid",
    "title",
    "description",
    "state",
    "user_notes_count",
    "upvotes",
    "downvotes",
    "discussion_locked",
    "web_url",
    "issue_type",
    "confidential",
    "due_date",
    "weight",
    "merge_requests_count",
    "moved_to_id",
    "draft",
    "source_branch",
    "target_branch",
    "source_project_id",
    "target_project_id",
    "sha",
    "merge_commit_sha",
    "squash_commit_sha",
    "detailed_merge_status",
    "changes_count",
)


def entities_of(server: Any) -> list[Entity]:
    truth = server.whole_truth()
    found = [Entity("issue", int(iid)) for iid in truth["issues"]]
    return found + [Entity("merge_request", int(iid)) for iid in truth["merge_requests"]]


def compare(entity: Entity, truth: dict[str, Any]) -> None:
    body = truth["body"]
    table = ENTITY_TABLES[entity.entity_type]
    row = table.get(table.iid == entity.iid)
    assert json.loads(row.raw) == body
    assert row.gitlab_id == body["id"]
    for name in PLAIN:
        if name in table._meta.fields:
            assert getattr(row, name) == body.get(name), (entity, name)
    for name in TIMES:
        if name in table._meta.fields:
            said = body.get(name)
            assert getattr(row, name) == (None if said is None else parse_timestamp(said)), (entity, name)
    assert row.author == (body["author"] or {}).get("username")
    assert json.loads(row.labels) == body["labels"]
    assert json.loads(row.assignees) == [user["username"] for user in body["assignees"]]
    assert row.milestone == (body["milestone"] or {}).get("title")
    compare_children(entity, row.id, truth)


def compare_children(entity: Entity, entity_id: int, truth: dict[str, Any]) -> None:
    def raws(table: Any, *where: Any) -> list[Any]:
        query = table.select(table.raw).where(
            table.entity_type == entity.entity_type, table.entity_id == entity_id, *where
        )
        return [json.loads(raw) for (raw,) in query.order_by(table.position).tuples()]

    said = truth["discussions"]
    assert raws(Discussion) == [{name: value for name, value in item.items() if name != "notes"} for item in said]
    assert raws(Note) == [note for item in said for note in item["notes"]]
    for job_type, kind in (
        (plan.STATE_EVENTS, "state"),
        (plan.LABEL_EVENTS, "label"),
        (plan.MILESTONE_EVENTS, "milestone"),
    ):
        assert raws(ResourceEvent, ResourceEvent.kind == kind) == truth[f"{kind}_events"], job_type
    if entity.entity_type == "merge_request":
        assert raws(MergeRequestDiff) == truth["diffs"]
        assert raws(EntityLink) == truth["closes_issues"]
    else:
        assert raws(EntityLink) == truth["links"]
