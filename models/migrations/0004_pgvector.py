"""On PostgreSQL, the codes as bits that pgvector compares, pgvector itself where this role may have it, and facets."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    """Add the column and the indexes, of types that every PostgreSQL has; and the extension, if it can be made."""
    if not isinstance(db, peewee.PostgresqlDatabase):
        return
    # Generated, so that no statement that writes a code can leave its bits as they were.
    db.execute_sql(
        "ALTER TABLE embeddings ADD COLUMN signs varbit"
        " GENERATED ALWAYS AS (('x' || encode(code, 'hex'))::varbit) STORED"
    )
    # A search reads this index alone, which is a tenth of the table.
    db.execute_sql("CREATE INDEX embeddings_signs ON embeddings (model, id, document_id, signs)")
    # What a search filters by without reading the texts, as on SQLite; the labels can be too long for it.
    db.execute_sql(
        "UPDATE documents SET author = left(author, 255), state = left(state, 255)"
        " WHERE length(author) > 255 OR length(state) > 255"
    )
    db.execute_sql(
        "CREATE INDEX documents_facets ON documents (id) INCLUDE (project_id, source_type, state, author, updated_at)"
    )
    try:
        with db.atomic():
            db.execute_sql("CREATE EXTENSION IF NOT EXISTS vector")
    except peewee.DatabaseError:
        pass  # not installed, or not for this role: a search then compares in its own process
