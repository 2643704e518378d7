"""Lets PostgreSQL's triggers find their tables where nobody says in which schema: a dump's data is restored so."""

from typing import Any

import peewee


def up(migrator: Any, db: peewee.Database) -> None:
    """Give the functions that name a table the search path by which the tables are made."""
    if not isinstance(db, peewee.PostgresqlDatabase):
        return
    for function in ("lore_terms_inserted", "lore_document_updated"):
        db.execute_sql(f"ALTER FUNCTION {function}() SET search_path FROM CURRENT")
