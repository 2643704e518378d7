"""Vectors: which documents lack one, what is written anew, and that none is of another text; on both databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peewee
import psycopg
import pytest
from support import statements

from models import base, codes, schema, vectors
from models.base import now_ms, write
from models.documents import Document, Embedding
from models.fulltext import Filters
from models.ledger import Project
from models.vectors import Vector
from workers import doctor

MODEL = "wordllama/l2_supercat-256"
OTHER = "ollama/nomic-embed-text"


@pytest.fixture
def project(ledger: Any) -> int:
    return int(Project.insert(gitlab_url="http://gitlab.test", gitlab_id=7, path_with_namespace="g/p").execute())


def document(project: int, source_id: int, content: str = "text") -> int:
    return int(
        Document.insert(
            project=project,
            source_type="issue",
            source_id=source_id,
            entity_type="issue",
            entity_id=source_id,
            iid=source_id,
            updated_at=now_ms(),
            content_hash=f"hash of {content}",
            title="t",
            content=content,
        ).execute()
    )


def chunk(name: str) -> Vector:
    return Vector(chunk_hash=name, vector=name.encode().ljust(8, b"."), code=b"\x01\xff")


def put(document_id: int, *names: str, content: str = "text", model: str = MODEL) -> bool:
    with write():
        return vectors.write(document_id, f"hash of {content}", model, [chunk(name) for name in names])


def rows(document_id: int, model: str = MODEL) -> list[tuple[Any, ...]]:
    query = Embedding.select(Embedding.chunk_index, Embedding.chunk_hash, Embedding.id, Embedding.content_hash)
    query = query.where(Embedding.document == document_id, Embedding.model == model).order_by(Embedding.chunk_index)
    return list(query.tuples())


def ids(found: list[vectors.Pending]) -> list[int]:
    return [one.document_id for one in found]


def test_what_lacks_a_vector_is_what_has_none_of_this_model_and_this_text(project: int) -> None:
    first, second, third = (document(project, number) for number in (1, 2, 3))
    put(first, "a")
    put(second, "a", model=OTHER)
    put(third, "a")
    Document.update(content="new", content_hash="hash of new").where(Document.id == third).execute()

    found = vectors.pending(MODEL)

    assert ids(found) == [second, third]
    assert (found[1].content, found[1].content_hash) == ("new", "hash of new")
    assert vectors.lacking(MODEL) == 2
    assert ids(vectors.pending(MODEL, after_id=second)) == [third]
    assert ids(vectors.pending(MODEL, limit=1)) == [second]
    assert ids(vectors.pending(MODEL, is_rebuild=True)) == [first, second, third]


@pytest.mark.invariant("I5")
def test_only_the_documents_that_were_named_are_pending(project: int) -> None:
    made = [document(project, number) for number in range(1, 461)]

    assert ids(vectors.pending(MODEL, document_ids=[made[1], made[450]])) == [made[1], made[450]]
    assert ids(vectors.pending(MODEL, document_ids=made)) == made
    assert ids(vectors.pending(MODEL, document_ids=made[::-1], limit=201)) == made[:201]
    assert vectors.pending(MODEL, document_ids=[]) == []


def test_a_chunk_that_stays_keeps_its_row_and_the_rest_gets_new_ones(project: int) -> None:
    mine = document(project, 1)
    put(mine, "a", "b", "c", "d")
    before = rows(mine)
    Document.update(content_hash="hash of new").where(Document.id == mine).execute()

    assert put(mine, "a", "x", "c", content="new")

    after = rows(mine)
    assert [row[:2] for row in after] == [(0, "a"), (1, "x"), (2, "c")]
    assert (after[0][2], after[2][2]) == (before[0][2], before[2][2])
    # A search finds what is new behind the highest id that it has seen.
    assert after[1][2] > max(row[2] for row in before)
    assert {row[3] for row in after} == {"hash of new"}
    assert vectors.pending(MODEL) == []


def test_vectors_of_another_text_are_not_written(project: int) -> None:
    mine = document(project, 1, content="new")
    put(mine, "a", content="new")

    assert not put(mine, "b", content="old")
    assert not put(mine + 1, "b", content="new")

    assert [row[:2] for row in rows(mine)] == [(0, "a")]


def test_the_same_written_twice_changes_nothing(project: int) -> None:
    mine = document(project, 1)

    assert put(mine, "a", "a", "b")
    once = rows(mine)

    assert put(mine, "a", "a", "b")
    assert rows(mine) == once


def test_a_vector_of_another_number_of_dimensions_takes_the_place_of_the_earlier(project: int) -> None:
    mine = document(project, 1)
    put(mine, "a", "b")
    longer = Vector("a", b"longer vector", code=b"\x01\xff\x03")

    with write():
        assert vectors.write(mine, "hash of text", MODEL, [longer, chunk("b")])

    assert vectors.known(mine, MODEL) == {"a": longer, "b": chunk("b")}


def test_many_chunks_are_written_by_few_statements(project: int) -> None:
    mine = document(project, 1)

    with statements() as counted:
        put(mine, *(f"c{number}" for number in range(450)))

    assert len(counted.seen) < 10
    assert len(rows(mine)) == 450


def test_vectors_are_known_by_the_hash_of_their_chunk_also_of_an_earlier_text(project: int) -> None:
    mine, other = document(project, 1), document(project, 2)
    put(mine, "a", "b")
    put(mine, "o", model=OTHER)
    put(other, "z")
    Document.update(content_hash="hash of new").where(Document.id == mine).execute()

    known = vectors.known(mine, MODEL)

    assert known == {"a": chunk("a"), "b": chunk("b")}


def test_vectors_of_two_models_stand_side_by_side_until_one_is_deleted(project: int) -> None:
    mine = document(project, 1)
    put(mine, "a", "b")
    put(mine, "o", model=OTHER)

    assert vectors.models() == {MODEL: 2, OTHER: 1}
    with write():
        assert vectors.delete_models_but(MODEL) == 1
    assert vectors.models() == {MODEL: 2}
    assert len(rows(mine)) == 2


def test_hundreds_of_chunks_are_one_document_s(project: int) -> None:
    mine = document(project, 1)

    put(mine, *(f"c{number}" for number in range(900)))
    put(mine, "only")

    assert [row[:2] for row in rows(mine)] == [(0, "only")]


def test_the_vectors_go_with_their_document(project: int) -> None:
    mine = document(project, 1)
    put(mine, "a")

    Document.delete().where(Document.id == mine).execute()

    assert Embedding.select(peewee.fn.COUNT(Embedding.id)).scalar() == 0


def test_a_role_that_may_not_make_pgvector_compares_in_its_process(postgresql_url: str, embedder: Any) -> None:
    with psycopg.connect(postgresql_url, autocommit=True) as admin:
        admin.execute("DROP SCHEMA IF EXISTS public CASCADE")
        admin.execute("CREATE SCHEMA public")
        admin.execute("DROP ROLE IF EXISTS plain")
        admin.execute("CREATE ROLE plain LOGIN")
        admin.execute("GRANT ALL ON SCHEMA public TO plain")
    base.open_database(postgresql_url.replace("postgres:@", "plain:@"))
    try:
        schema.bring_up()
        with base.read():
            without = codes.has_pgvector(), doctor._compared()
        with psycopg.connect(postgresql_url, autocommit=True) as admin:
            admin.execute("CREATE EXTENSION vector")
        # Whoever may makes it later; nothing else has to be done.
        with base.read():
            later = codes.has_pgvector(), doctor._compared()
        found = codes.closest(MODEL, b"\x01\xff", filters=Filters(), limit=1)
    finally:
        base.disconnect()
        with psycopg.connect(postgresql_url, autocommit=True) as admin:
            admin.execute("DROP OWNED BY plain CASCADE")
            admin.execute("DROP ROLE plain")

    assert (without[0], "CREATE EXTENSION vector" in without[1]) == (False, True)
    assert later == (True, "by pgvector")
    assert found == []


def test_vectors_that_are_there_are_compared_after_an_upgrade(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(postgresql_url, autocommit=True) as admin:
        admin.execute("DROP SCHEMA public CASCADE")
        admin.execute("CREATE SCHEMA public")
    base.open_database(postgresql_url)
    try:
        with monkeypatch.context() as earlier:
            earlier.setattr(schema, "DIRECTORY", tmp_path)
            for path in sorted(Path(schema.__file__).with_name("migrations").glob("000[123]_*.py")):
                (tmp_path / path.name).write_text(path.read_text())
            schema.bring_up()
        project = Project.insert(gitlab_url="http://gitlab.test", gitlab_id=7, path_with_namespace="g/p").execute()
        mine = document(int(project), 1)
        put(mine, "a")

        applied = schema.bring_up()

        [(number, *_)] = Embedding.select(Embedding.id).tuples()
        assert applied == sorted(schema.migration_names())[3:]
        assert codes.closest(MODEL, b"\x01\xff", filters=Filters(), limit=9) == [number]
        assert codes.closest(MODEL, b"\x01", filters=Filters(), limit=9) == []
        assert codes.closest(OTHER, b"\x01\xff", filters=Filters(), limit=9) == []
    finally:
        base.disconnect()
