"""What GitLab said: issues, merge requests and all that hangs on them. GitLab's times are kept to the millisecond.

Columns are what lists, search and staleness ask for; `raw` is the payload as received, so that an unknown field is
kept and an absent one can be told from null. A child belongs to `(entity_type, entity_id)`, the local row's key.
"""

from __future__ import annotations

import peewee

from models.base import NeverReusedId, Table
from models.ledger import Project


class Entity(Table):
    """What issues and merge requests have in common.

    `observed_at` is when the first fetch of the entity in the run that wrote it began. `parts_observed_at` says the
    same of each endpoint by itself (JSON, job type → ms); `children_observed_at` is the earliest of the lists.
    """

    id = NeverReusedId()
    project = peewee.ForeignKeyField(Project, lazy_load=False, on_delete="CASCADE", index=False)
    iid = peewee.BigIntegerField()
    gitlab_id = peewee.BigIntegerField()
    title = peewee.TextField(null=True)
    description = peewee.TextField(null=True)
    state = peewee.TextField()
    author = peewee.TextField(null=True)
    assignees = peewee.TextField(null=True)
    labels = peewee.TextField(null=True)
    milestone = peewee.TextField(null=True)
    created_at = peewee.BigIntegerField()
    updated_at = peewee.BigIntegerField()
    closed_at = peewee.BigIntegerField(null=True)
    closed_by = peewee.TextField(null=True)
    user_notes_count = peewee.BigIntegerField(null=True)
    upvotes = peewee.BigIntegerField(null=True)
    downvotes = peewee.BigIntegerField(null=True)
    discussion_locked = peewee.BooleanField(null=True)
    web_url = peewee.TextField(null=True)
    raw = peewee.TextField()
    observed_at = peewee.BigIntegerField()
    children_observed_at = peewee.BigIntegerField(null=True)
    parts_observed_at = peewee.TextField(default="{}")
    deleted_at = peewee.BigIntegerField(null=True)


class Issue(Entity):
    """An issue of a project."""

    issue_type = peewee.TextField(null=True)
    confidential = peewee.BooleanField(null=True)
    due_date = peewee.TextField(null=True)
    weight = peewee.BigIntegerField(null=True)
    merge_requests_count = peewee.BigIntegerField(null=True)
    moved_to_id = peewee.BigIntegerField(null=True)

    class Meta:
        table_name = "issues"
        indexes = ((("project", "iid"), True), (("project", "updated_at"), False))


class MergeRequest(Entity):
    """A merge request of its target project."""

    draft = peewee.BooleanField(null=True)
    source_branch = peewee.TextField(null=True)
    target_branch = peewee.TextField(null=True)
    source_project_id = peewee.BigIntegerField(null=True)
    target_project_id = peewee.BigIntegerField(null=True)
    sha = peewee.TextField(null=True)
    merge_commit_sha = peewee.TextField(null=True)
    squash_commit_sha = peewee.TextField(null=True)
    merged_at = peewee.BigIntegerField(null=True)
    merged_by = peewee.TextField(null=True)
    prepared_at = peewee.BigIntegerField(null=True)
    reviewers = peewee.TextField(null=True)
    detailed_merge_status = peewee.TextField(null=True)
    changes_count = peewee.TextField(null=True)

    class Meta:
        table_name = "merge_requests"
        indexes = ((("project", "iid"), True), (("project", "updated_at"), False))


class Child(Table):
    """What hangs on an entity; `position` is its place in GitLab's list, from 0."""

    id = NeverReusedId()
    entity_type = peewee.CharField(max_length=20)
    entity_id = peewee.BigIntegerField()
    position = peewee.IntegerField()
    observed_at = peewee.BigIntegerField()
    raw = peewee.TextField()


class Discussion(Child):
    """A thread, or a single comment or system note; its `raw` is without the notes, which have their own."""

    gitlab_id = peewee.TextField()
    individual_note = peewee.BooleanField(null=True)
    updated_at = peewee.BigIntegerField(null=True)

    class Meta:
        table_name = "discussions"
        indexes = ((("entity_type", "entity_id", "gitlab_id"), True),)


class Note(Child):
    """One note of a discussion; a DiffNote also says where in the diff it stands."""

    discussion_gitlab_id = peewee.TextField()
    gitlab_id = peewee.BigIntegerField()
    type = peewee.TextField(null=True)
    body = peewee.TextField(null=True)
    author = peewee.TextField(null=True)
    created_at = peewee.BigIntegerField(null=True)
    updated_at = peewee.BigIntegerField(null=True)
    system = peewee.BooleanField(null=True)
    internal = peewee.BooleanField(null=True)
    resolvable = peewee.BooleanField(null=True)
    resolved = peewee.BooleanField(null=True)
    resolved_by = peewee.TextField(null=True)
    resolved_at = peewee.BigIntegerField(null=True)
    old_path = peewee.TextField(null=True)
    new_path = peewee.TextField(null=True)
    old_line = peewee.BigIntegerField(null=True)
    new_line = peewee.BigIntegerField(null=True)
    position_type = peewee.TextField(null=True)

    class Meta:
        table_name = "notes"
        indexes = (
            (("entity_type", "entity_id", "gitlab_id"), True),
            (("new_path",), False),
            (("old_path",), False),
        )


class ResourceEvent(Child):
    """A state, label or milestone event (`kind` is the endpoint it was listed by)."""

    kind = peewee.CharField(max_length=40)
    gitlab_id = peewee.BigIntegerField()
    author = peewee.TextField(null=True)
    created_at = peewee.BigIntegerField(null=True)
    action = peewee.TextField(null=True)
    state = peewee.TextField(null=True)
    label = peewee.TextField(null=True)
    milestone = peewee.TextField(null=True)

    class Meta:
        table_name = "resource_events"
        indexes = ((("entity_type", "entity_id", "kind", "gitlab_id"), True),)


class MergeRequestDiff(Child):
    """One file of a merge request's diff; the patch itself is in `raw`."""

    old_path = peewee.TextField(null=True)
    new_path = peewee.TextField(null=True)
    a_mode = peewee.TextField(null=True)
    b_mode = peewee.TextField(null=True)
    new_file = peewee.BooleanField(null=True)
    renamed_file = peewee.BooleanField(null=True)
    deleted_file = peewee.BooleanField(null=True)
    generated_file = peewee.BooleanField(null=True)
    collapsed = peewee.BooleanField(null=True)
    too_large = peewee.BooleanField(null=True)

    class Meta:
        table_name = "merge_request_diffs"
        indexes = (
            (("entity_type", "entity_id", "position"), True),
            (("new_path",), False),
            (("old_path",), False),
        )


class EntityLink(Child):
    """An issue that a merge request closes, or that an issue is linked to (`kind` is the endpoint).

    `gitlab_id` is text: an external tracker's issue has no number.
    """

    kind = peewee.CharField(max_length=40)
    gitlab_id = peewee.TextField()
    link_type = peewee.TextField(null=True)
    linked_project_id = peewee.BigIntegerField(null=True)
    linked_iid = peewee.BigIntegerField(null=True)
    title = peewee.TextField(null=True)
    state = peewee.TextField(null=True)
    web_url = peewee.TextField(null=True)

    class Meta:
        table_name = "entity_links"
        indexes = ((("entity_type", "entity_id", "kind", "gitlab_id"), True),)


class DirtySource(Table):
    """An entity whose documents are to be built again; several rows for one source are legal."""

    id = NeverReusedId()
    source_type = peewee.CharField(max_length=20)
    source_id = peewee.BigIntegerField()
    queued_at = peewee.BigIntegerField()

    class Meta:
        table_name = "dirty_sources"
        indexes = ((("source_type", "source_id"), False),)


ENTITY_TABLES: dict[str, type[Issue] | type[MergeRequest]] = {"issue": Issue, "merge_request": MergeRequest}
CHILD_TABLES: tuple[type[Child], ...] = (Discussion, Note, ResourceEvent, MergeRequestDiff, EntityLink)
