"""First use, upgrades, and a database of another version."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import peewee
import psycopg
import pytest
from support import wait_until_waited_for

from lore.core.errors import StorageError
from models import base, content, documents, fulltext, ledger, locks, queue, schema
from models.base import Table, database, write
from models.ledger import Project


def all_tables() -> list[type[Table]]:
    found: list[type[Table]] = []
    for module in (ledger, content, queue, locks, documents):
        for value in vars(module).values():
            is_table = isinstance(value, type) and issubclass(value, Table)
            if is_table and value not in (Table, content.Entity, content.Child) and value not in found:
                found.append(value)
    return found


# What only one of the two databases has is in no model.
WITHOUT_MODEL = ("document_terms", "documents_facets", "signs", "embeddings_signs")


def shape() -> dict[str, Any]:
    """Columns, keys and indexes of every table of a model."""
    opened = database.obj
    found = {}
    for table in sorted(set(opened.get_tables()) - {schema.HISTORY, "sqlite_sequence", *WITHOUT_MODEL}):
        indexes = [i for i in opened.get_indexes(table) if i.name not in WITHOUT_MODEL]
        found[table] = {
            "columns": [
                (c.name, c.data_type, c.null, c.primary_key)
                for c in opened.get_columns(table)
                if c.name not in WITHOUT_MODEL
            ],
            "indexes": sorted((tuple(i.columns), i.unique) for i in indexes),
            "foreign_keys": sorted((k.column, k.dest_table, k.dest_column) for k in opened.get_foreign_keys(table)),
        }
    return found


def test_the_migrations_make_exactly_the_tables_of_the_models(ledger: Any) -> None:
    migrated = shape()
    with write():
        database.execute_sql("DROP TABLE IF EXISTS document_terms")
        for table in reversed(peewee.sort_models(all_tables())):
            table.drop_table()
    with write():
        database.obj.create_tables(all_tables())

    assert shape() == migrated


def test_a_dirty_row_never_has_the_id_of_an_earlier_one(ledger: Any) -> None:
    def insert() -> int:
        return int(content.DirtySource.insert(source_type="issue", source_id=1, queued_at=1).execute())

    ids = [insert(), insert()]
    content.DirtySource.delete().execute()
    ids.append(insert())

    assert ids == sorted(set(ids))


def test_a_second_first_use_finds_nothing_to_do(ledger: Any) -> None:
    assert schema.bring_up() == []


def test_a_database_of_a_newer_lore_is_refused_with_a_way_out(ledger: Any) -> None:
    database.execute_sql("INSERT INTO schema_migration (name, applied) VALUES ('9999_later', '2030-01-01 00:00:00')")

    with pytest.raises(StorageError) as caught:
        schema.bring_up()

    assert caught.value.code == "DATABASE_NEWER"
    assert int(caught.value.exit) == 8


def test_six_processes_that_come_at_once_migrate_once(database_url: str) -> None:
    code = (
        "import sys; from models import base, schema; base.open_database(sys.argv[1]);"
        "sys.stdin.readline(); print(schema.bring_up())"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, database_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0].strip() for process in processes]

    assert [process.returncode for process in processes] == [0] * 6
    assert sorted(said) == sorted(["[]"] * 5 + [str(sorted(schema.migration_names()))])


REBUILD = """
import peewee

def up(migrator, db):
    migrator.migrate(migrator.alter_column_type("projects", "default_branch", peewee.CharField(null=True)))
"""


def test_a_table_that_an_upgrade_rebuilds_keeps_every_child_row(
    ledger: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from support import MR_12, submit

    submit(MR_12)
    before = {t: t.select().count() for t in all_tables()}
    directory = tmp_path / "migrations"
    directory.mkdir()
    for name in schema.migration_names():
        (directory / f"{name}.py").write_text((schema.DIRECTORY / f"{name}.py").read_text())
    (directory / "9000_rebuild.py").write_text(REBUILD)
    monkeypatch.setattr(schema, "DIRECTORY", directory)

    assert schema.bring_up() == ["9000_rebuild"]

    assert {t: t.select().count() for t in all_tables()} == before
    assert before[queue.Task] > 0


on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def with_wide_terms(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A database before the fifth migration with two documents; their project."""
    for name in sorted(schema.migration_names())[:4]:
        (tmp_path / f"{name}.py").write_text((schema.DIRECTORY / f"{name}.py").read_text())
    with monkeypatch.context() as older:
        older.setattr(schema, "DIRECTORY", tmp_path)
        base.open_database(database_url)
        schema.bring_up()
    project = Project.insert(gitlab_url="http://gitlab.test", gitlab_id=1, path_with_namespace="a/b").execute()
    common = {"project": project, "entity_type": "issue", "entity_id": 1, "iid": 1, "source_type": "issue"}
    common |= {"content_hash": "", "title": "tide", "content": "tide"}
    for number in (5, 3_000):
        row = {"id": number, "source_id": number, "state": f"s{number}", "labels": '["bug"]', "updated_at": number}
        documents.Document.insert(**common, **row).execute()
        database.execute_sql("INSERT INTO document_terms VALUES (%s, $$'tide':1A,2$$)", (number,))
    yield project
    base.disconnect()


@on_postgresql
def test_terms_that_are_there_get_what_a_search_filters_by(with_wide_terms: int) -> None:
    assert schema.bring_up() == sorted(schema.migration_names())[4:]

    rows = database.execute_sql(
        "SELECT document_id, project_id, source_type, author, state, labels, updated_at, terms::text"
        " FROM document_terms ORDER BY 1"
    ).fetchall()
    assert rows == [
        (5, with_wide_terms, "issue", None, "s5", '["bug"]', 5, "'####0' '###0' '##0' '#0' 'tide':1A,2"),
        (3_000, with_wide_terms, "issue", None, "s3000", '["bug"]', 3_000, "'####0' '###0' '##0' '#2' 'tide':1A,2"),
    ]


@on_postgresql
def test_what_a_writer_beside_the_migration_changes_is_not_lost(with_wide_terms: int) -> None:
    def migrate() -> None:
        schema.bring_up()
        base.disconnect()

    with ThreadPoolExecutor(1) as threads:
        with write():
            documents.Document.update(labels='["sea"]').where(documents.Document.id == 5).execute()
            migrating = threads.submit(migrate)
            wait_until_waited_for()
        migrating.result()

    filtered_by = database.execute_sql("SELECT document_id, labels FROM document_terms ORDER BY 1").fetchall()
    assert filtered_by == [(5, '["sea"]'), (3_000, '["bug"]')]


@on_postgresql
@pytest.mark.parametrize("parts", [[()], [("--schema-only",), ("--data-only",)]], ids=["whole", "in two parts"])
def test_a_mirror_is_restored_from_a_dump(
    ledger: Any, database_url: str, tmp_path: Path, parts: Sequence[Sequence[str]]
) -> None:
    said = "SELECT * FROM document_terms"
    with write():
        project = Project.insert(gitlab_url="http://gitlab.test", gitlab_id=1, path_with_namespace="a/b").execute()
        document = {"project": project, "entity_type": "issue", "entity_id": 1, "iid": 1, "updated_at": 1}
        document |= {"source_type": "issue", "source_id": 1, "content_hash": "", "title": "tide", "content": "table"}
        fulltext.put(documents.Document.insert(document).execute(), "tide", "table")
    held = database.execute_sql(said).fetchall()
    (bin_path,) = database.execute_sql("SELECT setting FROM pg_config WHERE name = 'BINDIR'").fetchone()
    restored_url = database_url.replace("/postgres?", "/restored?")

    database.execute_sql("CREATE DATABASE restored")
    try:
        for part in parts:
            dump = [f"{bin_path}/pg_dump", "--format=custom", f"--file={tmp_path}/dump", *part, database_url]
            restore = [f"{bin_path}/pg_restore", "--exit-on-error", f"--dbname={restored_url}", f"{tmp_path}/dump"]
            subprocess.run(dump, check=True)
            subprocess.run(restore, check=True)
        with psycopg.connect(restored_url) as restored:
            assert restored.execute(said).fetchall() == held
            restored.execute("UPDATE documents SET state = 'closed'")
            assert restored.execute("SELECT state FROM document_terms").fetchall() == [("closed",)]
    finally:
        database.execute_sql("DROP DATABASE restored")


def test_sqlite_is_opened_as_the_design_says(tmp_path: Path) -> None:
    base.open_database(f"sqlite://{tmp_path}/new folder/lore.db")
    schema.bring_up()

    found = {
        name: base.database.obj.pragma(name)
        for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
    }
    busy_ms = base.database.obj.pragma("busy_timeout")
    modes = (tmp_path / "new folder").stat().st_mode & 0o777, (tmp_path / "new folder/lore.db").stat().st_mode & 0o777
    base.disconnect()
    assert found == {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "secure_delete": 2}
    assert busy_ms >= 15_000
    assert modes == (0o700, 0o600)


def test_a_writing_transaction_takes_its_lock_at_once_and_is_the_outermost(ledger: Any) -> None:
    with write(), pytest.raises(RuntimeError), write():
        pass


def test_a_database_that_cannot_be_opened_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    base.open_database(f"sqlite://{tmp_path}/file/lore.db")

    with pytest.raises(StorageError) as caught:
        schema.bring_up()

    assert caught.value.code == "DATABASE_UNREACHABLE"


def test_a_file_that_is_no_database_is_a_typed_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "lore.db").write_text("this is not a database at all, but long enough to be looked at")
    base.open_database(f"sqlite://{tmp_path}/lore.db")

    with pytest.raises(StorageError) as caught:
        schema.bring_up()
    base.disconnect()

    assert int(caught.value.exit) == 8
    assert caught.value.message.endswith(f"file is not a database ({tmp_path}/lore.db)")


def test_a_postgresql_that_is_not_there_is_a_typed_error(tmp_path: Path) -> None:
    base.open_database(f"postgresql://postgres:geheim@/postgres?host={tmp_path}")

    with pytest.raises(StorageError) as caught:
        schema.bring_up()

    assert caught.value.code == "DATABASE_UNREACHABLE"
    assert "geheim" not in str(caught.value)


def test_sqlite_on_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_NETWORK_FILE_SYSTEMS", ("",))
    base.open_database(f"sqlite://{tmp_path}/lore.db")

    from lore.core.errors import SettingError

    with pytest.raises(SettingError) as caught:
        schema.bring_up()

    assert caught.value.code == "NETWORK_FILE_SYSTEM"
