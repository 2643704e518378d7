"""Documents with what search filters by, vectors with their codes, and the full-text index.

No earlier version ever wrote a document or a vector, so the two tables are dropped and made anew. Frozen copies.
"""

from typing import Any

import peewee

from models.base import NeverReusedId


def up(migrator: Any, db: peewee.Database) -> None:
    """Replace the two tables and add the index."""

    class Project(peewee.Model):
        project_id = NeverReusedId()

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "projects"

    class Document(peewee.Model):
        id = NeverReusedId()
        project = peewee.ForeignKeyField(Project, on_delete="CASCADE")
        source_type = peewee.CharField(max_length=20)
        source_id = peewee.BigIntegerField()
        entity_type = peewee.CharField(max_length=20)
        entity_id = peewee.BigIntegerField()
        iid = peewee.BigIntegerField()
        author = peewee.TextField(null=True)
        state = peewee.TextField(null=True)
        labels = peewee.TextField(null=True)
        updated_at = peewee.BigIntegerField()
        content_hash = peewee.CharField(max_length=64)
        title = peewee.TextField()
        content = peewee.TextField()

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "documents"
            indexes = ((("source_type", "source_id"), True), (("entity_type", "entity_id"), False))

    class Embedding(peewee.Model):
        id = NeverReusedId()
        document = peewee.ForeignKeyField(Document, on_delete="CASCADE", index=False)
        chunk_index = peewee.IntegerField()
        model = peewee.TextField()
        chunk_hash = peewee.CharField(max_length=64)
        content_hash = peewee.CharField(max_length=64)
        code = peewee.BlobField()
        vector = peewee.BlobField()

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "embeddings"
            indexes = ((("document", "model", "chunk_index"), True), (("model", "id", "document", "code"), False))

    for table in ("embeddings", "documents"):
        db.execute_sql(f"DROP TABLE {table}")
    db.create_tables([Document, Embedding], safe=False)
    for statement in _POSTGRESQL if isinstance(db, peewee.PostgresqlDatabase) else _SQLITE:
        db.execute_sql(statement)


# The terms are made by lore.core.terms: the index must neither fold nor split them again. FTS5's ascii tokenizer takes
# every other character as part of a word, whatever version of Unicode it is from.
_SQLITE = (
    "CREATE VIRTUAL TABLE documents_fts USING fts5(title, body, tokenize = 'ascii')",
    # What a search filters by, so that it never reads the texts; too wide for an index of PostgreSQL.
    "CREATE INDEX documents_facets"
    " ON documents (project_id, entity_type, source_type, state, author, updated_at, labels, id)",
)
_POSTGRESQL = (
    "CREATE TABLE document_terms ("
    "document_id bigint PRIMARY KEY REFERENCES documents (id) ON DELETE CASCADE, terms tsvector NOT NULL)",
    "CREATE INDEX document_terms_terms ON document_terms USING gin (terms)",
)
