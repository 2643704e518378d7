"""Every table of the first version, as frozen copies: the models may change, this file may not."""

from typing import Any

import peewee

from models.base import NeverReusedId


def up(migrator: Any, db: peewee.Database) -> None:
    """Create the tables."""

    class DirtySource(peewee.Model):
        id = NeverReusedId()
        source_type = peewee.CharField(max_length=20)
        source_id = peewee.BigIntegerField()
        queued_at = peewee.BigIntegerField()

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "dirty_sources"
            indexes = ((("source_type", "source_id"), False),)

    class Discussion(peewee.Model):
        id = NeverReusedId()
        entity_type = peewee.CharField(max_length=20)
        entity_id = peewee.BigIntegerField()
        position = peewee.IntegerField()
        observed_at = peewee.BigIntegerField()
        raw = peewee.TextField()
        gitlab_id = peewee.TextField()
        individual_note = peewee.BooleanField(null=True)
        updated_at = peewee.BigIntegerField(null=True)

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "discussions"
            indexes = ((("entity_type", "entity_id", "gitlab_id"), True),)

    class Document(peewee.Model):
        id = NeverReusedId()
        source_type = peewee.CharField(max_length=20)
        source_id = peewee.BigIntegerField()
        content = peewee.TextField()
        content_hash = peewee.CharField(max_length=64)
        updated_at = peewee.BigIntegerField()

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "documents"
            indexes = ((("source_type", "source_id"), True),)

    class Embedding(peewee.Model):
        document = peewee.ForeignKeyField(Document, on_delete="CASCADE", index=False)
        chunk_index = peewee.IntegerField()
        model = peewee.TextField()
        chunk_hash = peewee.CharField(max_length=64)
        content_hash = peewee.CharField(max_length=64)
        vector = peewee.BlobField()

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "embeddings"
            primary_key = peewee.CompositeKey("document", "chunk_index", "model")

    class EntityLink(peewee.Model):
        id = NeverReusedId()
        entity_type = peewee.CharField(max_length=20)
        entity_id = peewee.BigIntegerField()
        position = peewee.IntegerField()
        observed_at = peewee.BigIntegerField()
        raw = peewee.TextField()
        kind = peewee.CharField(max_length=40)
        gitlab_id = peewee.TextField()
        link_type = peewee.TextField(null=True)
        linked_project_id = peewee.BigIntegerField(null=True)
        linked_iid = peewee.BigIntegerField(null=True)
        title = peewee.TextField(null=True)
        state = peewee.TextField(null=True)
        web_url = peewee.TextField(null=True)

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "entity_links"
            indexes = ((("entity_type", "entity_id", "kind", "gitlab_id"), True),)

    class GitLabHost(peewee.Model):
        gitlab_url = peewee.TextField(primary_key=True)
        paused_until = peewee.BigIntegerField(null=True)
        remaining = peewee.BigIntegerField(null=True)
        reset_at = peewee.BigIntegerField(null=True)

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "gitlab_hosts"

    class Project(peewee.Model):
        project_id = NeverReusedId()
        gitlab_url = peewee.TextField()
        gitlab_id = peewee.BigIntegerField(null=True)
        path_with_namespace = peewee.TextField()
        default_branch = peewee.TextField(null=True)
        confirmed_at = peewee.BigIntegerField(null=True)
        raw = peewee.TextField(null=True)

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "projects"
            indexes = ((("gitlab_url", "gitlab_id"), True),)

    class Issue(peewee.Model):
        id = NeverReusedId()
        project = peewee.ForeignKeyField(Project, field=Project.project_id, on_delete="CASCADE", index=False)
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
        issue_type = peewee.TextField(null=True)
        confidential = peewee.BooleanField(null=True)
        due_date = peewee.TextField(null=True)
        weight = peewee.BigIntegerField(null=True)
        merge_requests_count = peewee.BigIntegerField(null=True)
        moved_to_id = peewee.BigIntegerField(null=True)

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "issues"
            indexes = ((("project", "iid"), True), (("project", "updated_at"), False))

    class MergeRequest(peewee.Model):
        id = NeverReusedId()
        project = peewee.ForeignKeyField(Project, field=Project.project_id, on_delete="CASCADE", index=False)
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
            database = db
            legacy_table_names = False
            table_name = "merge_requests"
            indexes = ((("project", "iid"), True), (("project", "updated_at"), False))

    class MergeRequestDiff(peewee.Model):
        id = NeverReusedId()
        entity_type = peewee.CharField(max_length=20)
        entity_id = peewee.BigIntegerField()
        position = peewee.IntegerField()
        observed_at = peewee.BigIntegerField()
        raw = peewee.TextField()
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
            database = db
            legacy_table_names = False
            table_name = "merge_request_diffs"
            indexes = ((("entity_type", "entity_id", "position"), True), (("new_path",), False), (("old_path",), False))

    class Note(peewee.Model):
        id = NeverReusedId()
        entity_type = peewee.CharField(max_length=20)
        entity_id = peewee.BigIntegerField()
        position = peewee.IntegerField()
        observed_at = peewee.BigIntegerField()
        raw = peewee.TextField()
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
            database = db
            legacy_table_names = False
            table_name = "notes"
            indexes = (
                (("entity_type", "entity_id", "gitlab_id"), True),
                (("new_path",), False),
                (("old_path",), False),
            )

    class ProjectLock(peewee.Model):
        project = peewee.ForeignKeyField(Project, primary_key=True, on_delete="CASCADE")
        owner = peewee.TextField(null=True)
        fence = peewee.BigIntegerField(default=0)
        until = peewee.BigIntegerField(null=True)

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "project_locks"

    class ProjectPath(peewee.Model):
        gitlab_url = peewee.TextField()
        path = peewee.TextField()
        project = peewee.ForeignKeyField(Project, on_delete="CASCADE")

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "project_paths"
            primary_key = peewee.CompositeKey("gitlab_url", "path")

    class ResourceEvent(peewee.Model):
        id = NeverReusedId()
        entity_type = peewee.CharField(max_length=20)
        entity_id = peewee.BigIntegerField()
        position = peewee.IntegerField()
        observed_at = peewee.BigIntegerField()
        raw = peewee.TextField()
        kind = peewee.CharField(max_length=40)
        gitlab_id = peewee.BigIntegerField()
        author = peewee.TextField(null=True)
        created_at = peewee.BigIntegerField(null=True)
        action = peewee.TextField(null=True)
        state = peewee.TextField(null=True)
        label = peewee.TextField(null=True)
        milestone = peewee.TextField(null=True)

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "resource_events"
            indexes = ((("entity_type", "entity_id", "kind", "gitlab_id"), True),)

    class Run(peewee.Model):
        run_id = peewee.CharField(primary_key=True, max_length=40)
        project = peewee.ForeignKeyField(Project, on_delete="CASCADE")
        kind = peewee.CharField(max_length=20)
        mode = peewee.CharField(max_length=20)
        status = peewee.CharField(max_length=20)
        stage = peewee.CharField(max_length=20)
        options = peewee.TextField()
        trigger = peewee.TextField()
        retry_of = peewee.CharField(unique=True, null=True, max_length=40)
        parent_run_id = peewee.CharField(index=True, null=True, max_length=40)
        counters = peewee.TextField(default="{}")
        error_code = peewee.CharField(null=True, max_length=40)
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
            database = db
            legacy_table_names = False
            table_name = "sync_runs"
            indexes = ((("status", "created_at"), False), (("project", "status"), False))

    class RunDocument(peewee.Model):
        run = peewee.ForeignKeyField(Run, on_delete="CASCADE", index=False)
        document_id = peewee.BigIntegerField()

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "sync_run_documents"
            primary_key = peewee.CompositeKey("run", "document_id")

    class RunEntity(peewee.Model):
        id = NeverReusedId()
        run = peewee.ForeignKeyField(Run, on_delete="CASCADE", index=False)
        entity_type = peewee.CharField(max_length=20)
        iid = peewee.BigIntegerField()
        stage = peewee.CharField(max_length=20)
        status = peewee.CharField(max_length=20)
        error_code = peewee.CharField(null=True, max_length=40)
        error_message = peewee.TextField(null=True)
        updated_at = peewee.BigIntegerField()
        is_settled = peewee.BooleanField(null=True)

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "sync_run_entities"
            indexes = (
                (("run", "entity_type", "iid"), True),
                (("status", "run"), False),
                (("entity_type", "iid"), False),
            )

    class RunEvent(peewee.Model):
        id = NeverReusedId()
        run = peewee.ForeignKeyField(Run, on_delete="CASCADE", index=False)
        at = peewee.BigIntegerField()
        entity = peewee.TextField(null=True)
        stage = peewee.CharField(max_length=20)
        event = peewee.CharField(max_length=40)
        detail = peewee.TextField(default="{}")

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "sync_run_events"
            indexes = ((("run", "id"), False),)

    class RunSource(peewee.Model):
        run = peewee.ForeignKeyField(Run, on_delete="CASCADE", index=False)
        dirty_source_id = peewee.BigIntegerField()
        source_type = peewee.CharField(max_length=20)
        source_id = peewee.BigIntegerField()

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "sync_run_sources"
            primary_key = peewee.CompositeKey("run", "dirty_source_id")

    class Task(peewee.Model):
        id = NeverReusedId()
        project = peewee.ForeignKeyField(Project, on_delete="CASCADE", index=False)
        scope_run = peewee.ForeignKeyField(Run, on_delete="CASCADE", index=False)
        entity_type = peewee.CharField(max_length=20)
        iid = peewee.BigIntegerField()
        job_type = peewee.CharField(max_length=40)
        status = peewee.CharField(max_length=20)
        claim_no = peewee.IntegerField(default=0)
        claimed_by = peewee.TextField(null=True)
        claimed_until = peewee.BigIntegerField(null=True)
        lost_claims = peewee.IntegerField(default=0)
        tries = peewee.IntegerField(default=0)
        next_at = peewee.BigIntegerField(null=True)
        sent_at = peewee.BigIntegerField(null=True)
        sends = peewee.IntegerField(default=0)
        observed_at = peewee.BigIntegerField(null=True)
        found_project_id = peewee.BigIntegerField(null=True)
        error_code = peewee.CharField(null=True, max_length=40)
        error_message = peewee.TextField(null=True)
        aborted_reason = peewee.TextField(null=True)

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "dependent_queue"
            indexes = (
                (("scope_run", "entity_type", "iid", "job_type"), True),
                (("scope_run", "status"), False),
                (("status", "next_at"), False),
            )

    class StagedPayload(peewee.Model):
        task = peewee.ForeignKeyField(Task, on_delete="CASCADE", index=False)
        claim_no = peewee.IntegerField()
        page = peewee.IntegerField()
        body = peewee.BlobField()

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "staged_payloads"
            primary_key = peewee.CompositeKey("task", "claim_no", "page")

    class SyncCursor(peewee.Model):
        project = peewee.ForeignKeyField(Project, on_delete="CASCADE", index=False)
        entity_type = peewee.CharField(max_length=20)
        updated_after = peewee.BigIntegerField(null=True)
        updated_at = peewee.BigIntegerField()

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "sync_cursors"
            primary_key = peewee.CompositeKey("project", "entity_type")

    db.create_tables(
        [
            DirtySource,
            Discussion,
            Document,
            Embedding,
            EntityLink,
            GitLabHost,
            Project,
            Issue,
            MergeRequest,
            MergeRequestDiff,
            Note,
            ProjectLock,
            ProjectPath,
            ResourceEvent,
            Run,
            RunDocument,
            RunEntity,
            RunEvent,
            RunSource,
            Task,
            StagedPayload,
            SyncCursor,
        ],
        safe=False,
    )
