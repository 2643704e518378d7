"""On PostgreSQL, beside the terms what a search filters by, in rows so narrow that all of them are read in no time."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    """Add the columns, what keeps them as the document has them, and what moves the terms out of the row."""
    if not isinstance(db, peewee.PostgresqlDatabase):
        return
    for statement in _POSTGRESQL:
        db.execute_sql(statement)


# The index tells which rows match, yet each is read for its document: of 80 MB with the terms in them, of 16 without.
_POSTGRESQL = (
    # Whoever writes documents beside us waits, in the order in which they write: between the copy and the triggers
    # nothing can change.
    "LOCK TABLE documents IN SHARE ROW EXCLUSIVE MODE",
    "ALTER TABLE document_terms"
    " ADD COLUMN project_id bigint, ADD COLUMN source_type varchar(20), ADD COLUMN author text, ADD COLUMN state text,"
    " ADD COLUMN labels text, ADD COLUMN updated_at bigint",
    "UPDATE document_terms t SET project_id = d.project_id, source_type = d.source_type, author = d.author,"
    " state = d.state, labels = d.labels, updated_at = d.updated_at FROM documents d WHERE d.id = t.document_id",
    # Terms that no query can be: what blocks of 1,024, 4,096, 16,384 and 65,536 documents in a row this one is in. So
    # the index finds the newest documents with a common word, and them alone.
    "CREATE FUNCTION lore_blocks(id bigint) RETURNS tsvector LANGUAGE sql IMMUTABLE AS $$ SELECT array_to_tsvector("
    "ARRAY['#' || (id >> 10), '##' || (id >> 12), '###' || (id >> 14), '####' || (id >> 16)]) $$",
    # Triggers, so that no statement that writes a document can leave what it is filtered by as it was.
    """
    CREATE FUNCTION lore_terms_inserted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        SELECT d.project_id, d.source_type, d.author, d.state, d.labels, d.updated_at
        INTO NEW.project_id, NEW.source_type, NEW.author, NEW.state, NEW.labels, NEW.updated_at
        FROM documents d WHERE d.id = NEW.document_id;
        NEW.terms := NEW.terms || lore_blocks(NEW.document_id);
        RETURN NEW;
    END $$
    """,
    """
    CREATE FUNCTION lore_document_updated() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        UPDATE document_terms
        SET project_id = NEW.project_id, source_type = NEW.source_type, author = NEW.author, state = NEW.state,
            labels = NEW.labels, updated_at = NEW.updated_at
        WHERE document_id = NEW.id;
        RETURN NULL;
    END $$
    """,
    "CREATE TRIGGER lore_terms_inserted BEFORE INSERT ON document_terms"
    " FOR EACH ROW EXECUTE FUNCTION lore_terms_inserted()",
    "CREATE TRIGGER lore_document_updated"
    " AFTER UPDATE OF project_id, source_type, author, state, labels, updated_at ON documents FOR EACH ROW"
    " WHEN ((OLD.project_id, OLD.source_type, OLD.author, OLD.state, OLD.labels, OLD.updated_at)"
    " IS DISTINCT FROM (NEW.project_id, NEW.source_type, NEW.author, NEW.state, NEW.labels, NEW.updated_at))"
    " EXECUTE FUNCTION lore_document_updated()",
    # PostgreSQL moves a value out of its row only where the row is longer than 2,032 bytes, whatever its target is. So
    # a row has blanks as well: with them it is, and they are pressed to 30 bytes, and the terms are moved. What is
    # filtered by stays as it is, unless it is very long.
    "ALTER TABLE document_terms SET (toast_tuple_target = 256)",
    "ALTER TABLE document_terms ALTER COLUMN terms SET STORAGE EXTERNAL, ALTER COLUMN author SET STORAGE MAIN,"
    " ALTER COLUMN state SET STORAGE MAIN, ALTER COLUMN labels SET STORAGE MAIN",
    # This writes the table anew, and its indexes.
    "ALTER TABLE document_terms ADD COLUMN padding text GENERATED ALWAYS AS (repeat(' ', 2032)) STORED,"
    " ALTER COLUMN terms TYPE tsvector USING terms || lore_blocks(document_id)",
)
