"""The ledger: projects, runs, their entities and what happened to them. Times are integer milliseconds UTC."""

from __future__ import annotations

import peewee

from models.base import NeverReusedId, Table


class Project(Table):
    """A GitLab project, known by its host and numeric id; `gitlab_id` is null until GitLab first answered."""

    project_id = NeverReusedId()
    gitlab_url = peewee.TextField()
    gitlab_id = peewee.BigIntegerField(null=True)
    path_with_namespace = peewee.TextField()
    default_branch = peewee.TextField(null=True)
    confirmed_at = peewee.BigIntegerField(null=True)
    raw = peewee.TextField(null=True)

    class Meta:
        table_name = "projects"
        indexes = ((("gitlab_url", "gitlab_id"), True),)


class ProjectPath(Table):
    """Every path a project was ever asked for or answered with."""

    gitlab_url = peewee.TextField()
    path = peewee.TextField()
    project = peewee.ForeignKeyField(Project, lazy_load=False, on_delete="CASCADE")

    class Meta:
        table_name = "project_paths"
        primary_key = peewee.CompositeKey("gitlab_url", "path")


class Run(Table):
    """One submission; `lore.core.runs` owns its legal moves."""

    run_id = peewee.CharField(max_length=40, primary_key=True)
    project = peewee.ForeignKeyField(Project, lazy_load=False, on_delete="CASCADE")
    kind = peewee.CharField(max_length=20)
    mode = peewee.CharField(max_length=20)
    status = peewee.CharField(max_length=20)
    stage = peewee.CharField(max_length=20)
    options = peewee.TextField()
    trigger = peewee.TextField()
    retry_of = peewee.CharField(max_length=40, null=True, unique=True)
    parent_run_id = peewee.CharField(max_length=40, null=True, index=True)
    counters = peewee.TextField(default="{}")
    error_code = peewee.CharField(max_length=40, null=True)
    error_message = peewee.TextField(null=True)
    sent_at = peewee.BigIntegerField(null=True)
    sends = peewee.IntegerField(default=0)
    stage_owner = peewee.TextField(null=True)
    stage_until = peewee.BigIntegerField(null=True)
    stage_tries = peewee.IntegerField(default=0)
    stage_at = peewee.BigIntegerField()
    created_at = peewee.BigIntegerField()
    started_at = peewee.BigIntegerField(null=True)
    finished_at = peewee.BigIntegerField(null=True)
    deadline_at = peewee.BigIntegerField(null=True)

    class Meta:
        table_name = "sync_runs"
        indexes = ((("status", "created_at"), False), (("project", "status"), False))


# One sync or prune of a project at a time; their children, and what a person asks for, are not counted.
Run.add_index(
    Run.index(
        Run.project,
        unique=True,
        name="one_active_sync",
        where=(
            (Run.kind != "surgical")
            & Run.parent_run_id.is_null()
            & Run.status.not_in(("succeeded", "failed", "cancelled"))
        ),
    )
)


class RunEntity(Table):
    """An issue or merge request of a run, and what happened to it."""

    id = NeverReusedId()
    run = peewee.ForeignKeyField(Run, lazy_load=False, on_delete="CASCADE", index=False)
    entity_type = peewee.CharField(max_length=20)
    iid = peewee.BigIntegerField()
    stage = peewee.CharField(max_length=20)
    status = peewee.CharField(max_length=20)
    error_code = peewee.CharField(max_length=40, null=True)
    error_message = peewee.TextField(null=True)
    updated_at = peewee.BigIntegerField()
    is_settled = peewee.BooleanField(null=True)

    class Meta:
        table_name = "sync_run_entities"
        indexes = ((("run", "entity_type", "iid"), True), (("status", "run"), False), (("entity_type", "iid"), False))


class RunSource(Table):
    """A dirty row that a run inserted itself: its scope for documents and embeddings."""

    run = peewee.ForeignKeyField(Run, lazy_load=False, on_delete="CASCADE", index=False)
    dirty_source_id = peewee.BigIntegerField()
    source_type = peewee.CharField(max_length=20)
    source_id = peewee.BigIntegerField()

    class Meta:
        table_name = "sync_run_sources"
        primary_key = peewee.CompositeKey("run", "dirty_source_id")


class RunDocument(Table):
    """A document that a run regenerated."""

    run = peewee.ForeignKeyField(Run, lazy_load=False, on_delete="CASCADE", index=False)
    document_id = peewee.BigIntegerField()

    class Meta:
        table_name = "sync_run_documents"
        primary_key = peewee.CompositeKey("run", "document_id")


class RunEvent(Table):
    """One line of a run's timeline; rows are only ever added."""

    id = NeverReusedId()
    run = peewee.ForeignKeyField(Run, lazy_load=False, on_delete="CASCADE", index=False)
    at = peewee.BigIntegerField()
    entity = peewee.TextField(null=True)
    stage = peewee.CharField(max_length=20)
    event = peewee.CharField(max_length=40)
    detail = peewee.TextField(default="{}")

    class Meta:
        table_name = "sync_run_events"
        indexes = ((("run", "id"), False),)


class SyncCursor(Table):
    """How far the incremental sync of a project and kind has come."""

    project = peewee.ForeignKeyField(Project, lazy_load=False, on_delete="CASCADE", index=False)
    entity_type = peewee.CharField(max_length=20)
    updated_after = peewee.BigIntegerField(null=True)
    updated_at = peewee.BigIntegerField()

    class Meta:
        table_name = "sync_cursors"
        primary_key = peewee.CompositeKey("project", "entity_type")


class SyncStep(Table):
    """A stretch of an incremental sync's walk, and the child run that brings what changed in it.

    `position` is how far the walk of this kind had come with it (GitLab's `updated_at`), `seen` the iids it had met at
    exactly that moment, `bound` what the cursor never passes. A step that tries debts again has the kind `debt`,
    one that builds or embeds what earlier syncs left `left`; neither has any of these. Done means: every entity of
    it is committed, stale, or a debt.
    """

    run = peewee.ForeignKeyField(Run, lazy_load=False, on_delete="CASCADE", index=False)
    number = peewee.IntegerField()
    entity_type = peewee.CharField(max_length=20)
    child_run_id = peewee.CharField(max_length=40, null=True, index=True)
    position = peewee.BigIntegerField(null=True)
    seen = peewee.TextField(default="[]")
    bound = peewee.BigIntegerField(null=True)
    is_last = peewee.BooleanField(default=False)
    is_done = peewee.BooleanField(default=False)

    class Meta:
        table_name = "sync_steps"
        primary_key = peewee.CompositeKey("run", "number")


class SyncDebt(Table):
    """An entity that failed in an incremental sync and has not landed since; it outlives the ledger's runs."""

    project = peewee.ForeignKeyField(Project, lazy_load=False, on_delete="CASCADE", index=False)
    entity_type = peewee.CharField(max_length=20)
    iid = peewee.BigIntegerField()
    error_code = peewee.CharField(max_length=40)
    error_message = peewee.TextField(null=True)
    tries = peewee.IntegerField()
    since = peewee.BigIntegerField()
    next_at = peewee.BigIntegerField()

    class Meta:
        table_name = "sync_debts"
        primary_key = peewee.CompositeKey("project", "entity_type", "iid")
