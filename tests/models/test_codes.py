"""The codes in blocks: whatever was written and deleted, they are what the rows are, and a block is really read."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peewee import fn
from support import ISSUE_7, FakeGitLab, LetterEmbedder, drain, submit

from models import codes, vectors
from models.base import database, is_postgresql, now_ms, read, write
from models.documents import Document, Embedding
from models.ledger import Project
from workers import embed as embedding

MODEL, OTHER = "wordllama/l2_supercat-256", "ollama/nomic-embed-text"
BLOCK = 512


@pytest.fixture
def project(ledger: Any) -> int:
    return int(Project.insert(gitlab_url="http://gitlab.test", gitlab_id=7, path_with_namespace="g/p").execute())


def documents(project: int, count: int, *, content: str = "") -> list[int]:
    began = int(Document.select(fn.MAX(Document.source_id)).scalar() or 0)
    rows = [
        {
            "project": project,
            "source_type": "issue",
            "source_id": number,
            "entity_type": "issue",
            "entity_id": number,
            "iid": number,
            "updated_at": now_ms(),
            "content_hash": "",
            "title": "t",
            "content": content,
        }
        for number in range(began + 1, began + count + 1)
    ]
    for start in range(0, count, 50):
        Document.insert_many(rows[start : start + 50]).execute()
    return [
        row[0] for row in Document.select(Document.id).where(Document.source_id > began).order_by(Document.id).tuples()
    ]


def embed(documents: Sequence[int], *, model: str = MODEL, code_bytes: int = 2) -> None:
    """Write a vector of each with a code of its own."""
    numbers = itertools.count(int(Embedding.select().count()))
    rows = [
        {
            "document": document,
            "chunk_index": 0,
            "model": model,
            "chunk_hash": "",
            "content_hash": "",
            "code": (next(numbers) * 7919 % 65_536).to_bytes(2, "big").rjust(code_bytes, b"\0"),
            "vector": b"",
        }
        for document in documents
    ]
    for start in range(0, len(rows), 100):
        Embedding.insert_many(rows[start : start + 100]).execute()


def of_rows(model: str = MODEL, *, after_id: int = 0, code_bytes: int = 2) -> list[tuple[int, int, bytes]]:
    query = Embedding.select(Embedding.id, Embedding.document, Embedding.code).order_by(Embedding.id)
    rows = query.where(Embedding.model == model, Embedding.id > after_id).tuples()
    return [(number, document, bytes(code)) for number, document, code in rows if len(code) == code_bytes]


def as_read(model: str = MODEL, *, after_id: int = 0, code_bytes: int = 2) -> list[tuple[int, int, bytes]]:
    found: list[tuple[int, int, bytes]] = []
    with read():
        for some in codes.read_codes(model, after_id=after_id, code_bytes=code_bytes):
            parts = (some.codes[start : start + code_bytes] for start in range(0, len(some.codes), code_bytes))
            ids, its = (np.frombuffer(numbers, dtype="<i8").tolist() for numbers in (some.ids, some.documents))
            found += zip(ids, its, parts, strict=True)
    return found


def blocks(model: str = MODEL) -> list[int]:
    if is_postgresql():
        return []
    return [
        row[0] for row in database.execute_sql("SELECT block FROM code_blocks WHERE model = ? ORDER BY 1", (model,))
    ]


def seal(model: str = MODEL) -> bool:
    with write():
        return codes.seal(model)


def test_what_is_read_is_what_the_rows_are_sealed_or_not(project: int) -> None:
    mine = documents(project, 1_100)
    embed(mine)
    before = as_read()

    seal()

    assert before == as_read() == of_rows()
    assert len(before) == 1_100
    assert blocks() == ([] if is_postgresql() else [0, 1])  # the third one grows


@pytest.mark.parametrize("after_id", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 1_100])
def test_what_was_read_is_not_read_again(project: int, after_id: int) -> None:
    embed(documents(project, 1_100))
    seal()

    assert as_read(after_id=after_id) == of_rows(after_id=after_id)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_block_is_read_and_not_its_rows(project: int) -> None:
    embed(documents(project, BLOCK + 1))
    seal()
    database.execute_sql("UPDATE code_blocks SET codes = zeroblob(length(codes))")

    assert {code for _, _, code in as_read()[:BLOCK]} == {b"\0\0"}
    assert as_read()[BLOCK:] == of_rows()[BLOCK:]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM documents WHERE id = 7",  # takes its vectors with it
        "DELETE FROM embeddings WHERE id = 7",
        "UPDATE embeddings SET code = x'0102' WHERE id = 7",
        "UPDATE embeddings SET model = 'another' WHERE id = 7",
        "UPDATE embeddings SET document_id = 8, chunk_index = 1 WHERE id = 7",
        "DELETE FROM projects",
        "UPDATE embeddings SET id = 10000 WHERE id = 7",
        "INSERT INTO embeddings (id, document_id, chunk_index, model, chunk_hash, content_hash, code, vector)"
        " SELECT id - 1, document_id, 2, model, '', '', code, vector FROM embeddings WHERE id = 7",
    ],
)
def test_no_statement_leaves_a_block_wrong(project: int, change: str) -> None:
    embed(documents(project, 2 * BLOCK + 1))
    Embedding.delete().where(Embedding.id == 6).execute()
    seal()
    before = blocks()

    database.execute_sql(change)

    assert as_read() == of_rows()
    assert before == [0, 1]
    assert blocks() == ([] if change == "DELETE FROM projects" else [1])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_write_that_keeps_every_chunk_keeps_the_block(project: int) -> None:
    mine = documents(project, BLOCK + 1)
    embed(mine)
    seal()

    Embedding.update(content_hash="new").where(Embedding.document == mine[0]).execute()

    assert blocks() == [0]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_few_are_sealed_at_once_and_whether_there_are_more_is_told(project: int) -> None:
    embed(documents(project, 12 * BLOCK))

    is_left = seal()
    few = blocks()

    assert (is_left, few) == (True, [*range(8)])
    assert (seal(), blocks()) == (False, [*range(11)])
    Embedding.delete().where(Embedding.id.in_([3, 3 * BLOCK, 5 * BLOCK])).execute()
    assert blocks() == [1, 3, *range(5, 11)]
    seal()
    assert blocks() == [*range(11)]
    assert as_read() == of_rows()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_where_there_is_nothing_no_block_is_written(project: int) -> None:
    mine = documents(project, 3 * BLOCK)
    embed(mine)
    embed(mine, model=OTHER)
    seal()
    seal(OTHER)

    assert (blocks(), blocks(OTHER)) == ([0, 1], [3, 4])
    Embedding.delete().where(Embedding.model == MODEL, Embedding.id <= 2 * BLOCK).execute()
    seal()
    assert blocks() == []
    assert (as_read(), as_read(OTHER)) == (of_rows(), of_rows(OTHER))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_codes_of_another_length_are_in_blocks_of_their_own(project: int) -> None:
    mine = documents(project, 2 * BLOCK + 1)
    embed(mine[::2])
    seal()
    embed(mine[1::2], code_bytes=3)
    seal()

    for code_bytes in (2, 3, 4):
        assert as_read(code_bytes=code_bytes) == of_rows(code_bytes=code_bytes)
    assert blocks() == [0, 0, 1]


def test_deleting_other_models_leaves_none_of_their_blocks(project: int) -> None:
    mine = documents(project, BLOCK + 1)
    embed(mine)
    embed(mine, model=OTHER)
    seal(OTHER)
    before = blocks(OTHER)

    with write():
        assert vectors.delete_models_but(MODEL) == BLOCK + 1

    assert before == ([] if is_postgresql() else [1])
    assert blocks(OTHER) == []
    assert as_read(OTHER) == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_whoever_embeds_seals_what_is_full(project: int, embedder: Any) -> None:
    mine = documents(project, BLOCK + 1, content="tide table")

    embedding.drain()
    once = blocks(embedder.model)
    Document.update(content="mooring", content_hash="new").where(Document.id == mine[6]).execute()
    embedding.drain()

    code_bytes = (embedder.dimensions + 7) // 8
    assert (once, blocks(embedder.model)) == ([0], [0])
    assert [document for _, document, _ in as_read(embedder.model, code_bytes=code_bytes)][-1] == mine[6]
    assert as_read(embedder.model, code_bytes=code_bytes) == of_rows(embedder.model, code_bytes=code_bytes)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_whatever_was_left_to_be_sealed_is_sealed_by_who_embeds_next(
    project: int, gitlab: FakeGitLab, embedder: LetterEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codes, "_SEALED_AT_ONCE", 1)
    embed(documents(project, 3 * BLOCK), model=embedder.model, code_bytes=4)
    submit(ISSUE_7)

    drain()

    assert blocks(embedder.model) == [0, 1, 2]
    Embedding.delete().where(Embedding.id.in_([7, BLOCK + 7])).execute()
    assert blocks(embedder.model) == [2]
    embedding.drain()  # though nothing is pending but the two
    assert blocks(embedder.model) == [0, 1, 2]
    assert as_read(embedder.model, code_bytes=4) == of_rows(embedder.model, code_bytes=4)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("embed"), st.sampled_from([MODEL, OTHER]), st.integers(1, 700)),
        st.tuples(st.just("delete documents"), st.integers(0, 2_000), st.integers(1, 600)),
        st.tuples(st.just("delete vectors"), st.integers(0, 2_000), st.integers(1, 600)),
        st.tuples(st.just("seal"), st.sampled_from([MODEL, OTHER]), st.integers(1, 3)),
    ),
    max_size=12,
)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, after_id=st.integers(0, 3_000))
def test_whatever_happened_the_blocks_are_what_the_rows_are(project: int, steps: list[Any], after_id: int) -> None:
    Document.delete().execute()
    for what, one, many in steps:
        if what == "embed":
            embed(documents(project, many), model=one)
        elif what == "seal":
            for _ in range(many):
                seal(one)
        else:
            table: Any = Document if what == "delete documents" else Embedding
            least = (table.select(table.id).order_by(table.id).limit(1).scalar() or 0) + one
            table.delete().where(table.id >= least, table.id < least + many).execute()
    top = Embedding.select(Embedding.id).order_by(Embedding.id.desc()).limit(1).scalar() or 0

    for model in (MODEL, OTHER):
        assert as_read(model) == of_rows(model)
        assert as_read(model, after_id=top - after_id) == of_rows(model, after_id=top - after_id)
