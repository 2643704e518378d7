"""On SQLite, the codes of a model in blocks: to fetch a hundred thousand rows takes longer than to compare them."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    """Add the table, and what deletes a block as soon as it is not what the rows are; whoever embeds fills it."""
    if isinstance(db, peewee.PostgresqlDatabase):
        return
    for statement in _SQLITE:
        db.execute_sql(statement)


# A block has the rows of a model whose (id - 1) >> 9 is its number and whose code is so long: their ids and documents
# as 64-bit numbers, little endian, and their codes, each one behind the other, by id. One that is not here is read
# from the rows.
_SQLITE = (
    "CREATE TABLE code_blocks (model TEXT NOT NULL, block INTEGER NOT NULL, code_bytes INTEGER NOT NULL,"
    " ids BLOB NOT NULL, documents BLOB NOT NULL, codes BLOB NOT NULL, PRIMARY KEY (model, block, code_bytes))",
    # Triggers, so that no statement that writes a vector, also none that deletes its document, can leave a block wrong:
    # but a REPLACE, of which SQLite tells no trigger what it deletes.
    "CREATE TRIGGER embeddings_inserted AFTER INSERT ON embeddings BEGIN"
    " DELETE FROM code_blocks WHERE model = NEW.model AND block = (NEW.id - 1) >> 9; END",
    "CREATE TRIGGER embeddings_deleted AFTER DELETE ON embeddings BEGIN"
    " DELETE FROM code_blocks WHERE model = OLD.model AND block = (OLD.id - 1) >> 9; END",
    "CREATE TRIGGER embeddings_updated AFTER UPDATE OF id, document_id, model, code ON embeddings BEGIN"
    " DELETE FROM code_blocks WHERE model = OLD.model AND block = (OLD.id - 1) >> 9;"
    " DELETE FROM code_blocks WHERE model = NEW.model AND block = (NEW.id - 1) >> 9; END",
)
