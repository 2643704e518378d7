"""The incremental sync: the steps of a walk, the debts, and one active sync a project. Frozen copies."""

from typing import Any

import peewee

from models.base import NeverReusedId


def up(migrator: Any, db: peewee.Database) -> None:
    """Create the tables and the index."""

    class Project(peewee.Model):
        project_id = NeverReusedId()

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "projects"

    class Run(peewee.Model):
        run_id = peewee.CharField(primary_key=True, max_length=40)

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "sync_runs"

    class SyncStep(peewee.Model):
        run = peewee.ForeignKeyField(Run, on_delete="CASCADE", index=False)
        number = peewee.IntegerField()
        entity_type = peewee.CharField(max_length=20)
        child_run_id = peewee.CharField(max_length=40, null=True, index=True)
        position = peewee.BigIntegerField(null=True)
        seen = peewee.TextField(default="[]")
        bound = peewee.BigIntegerField(null=True)
        is_last = peewee.BooleanField(default=False)
        is_done = peewee.BooleanField(default=False)

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "sync_steps"
            primary_key = peewee.CompositeKey("run", "number")

    class SyncDebt(peewee.Model):
        project = peewee.ForeignKeyField(Project, on_delete="CASCADE", index=False)
        entity_type = peewee.CharField(max_length=20)
        iid = peewee.BigIntegerField()
        error_code = peewee.CharField(max_length=40)
        error_message = peewee.TextField(null=True)
        tries = peewee.IntegerField()
        since = peewee.BigIntegerField()
        next_at = peewee.BigIntegerField()

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "sync_debts"
            primary_key = peewee.CompositeKey("project", "entity_type", "iid")

    db.create_tables([SyncStep, SyncDebt], safe=False)
    db.execute_sql(
        "CREATE UNIQUE INDEX one_active_sync ON sync_runs (project_id) WHERE kind <> 'surgical'"
        " AND parent_run_id IS NULL AND status NOT IN ('succeeded', 'failed', 'cancelled')"
    )
