"""From content rows to documents and back: ids that stay, texts that are spared, and what goes with a thread."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from support import LISTS, MR_12, discussion_body, entity_body, note_body

from lore.core import documents as texts
from lore.core import payloads
from models import documents, ingest
from models.base import database, write
from models.content import Discussion, Issue, MergeRequest
from models.documents import Document, Embedding, Saved, load_source, save
from models.ledger import Project

DIFF_NOTE = {"type": "DiffNote", "position": {"old_path": "a.py", "new_path": "b.py", "new_line": 3}}


@pytest.fixture
def merge_request(ledger: Any) -> int:
    """A merge request with its discussions and files, as an ingest writes them."""
    project = Project.insert(gitlab_url="http://gitlab.test", gitlab_id=1, path_with_namespace="tern/harbour").execute()
    return write_merge_request(project)


def write_merge_request(project: int, **more: Any) -> int:
    value = payloads.decode_entity("merge_request", json.dumps(entity_body(MR_12, **more)).encode())
    columns = ingest.entity_columns(value) | {"observed_at": 1}
    with write():
        number = ingest.insert_entity("merge_request", project, 12, columns)
    replace(number, "diffs", LISTS["diffs"])
    replace(
        number,
        "discussions",
        [
            discussion_body(1, note_body(11, "is the tide in?"), note_body(12, "it is")),
            discussion_body(2, note_body(21, "a plain comment")),
            discussion_body(3, note_body(31, "off by one", **DIFF_NOTE)),
            discussion_body(4, note_body(41, "<p>changed title</p>", system=True)),
        ],
    )
    return number


def replace(number: int, job_type: str, items: list[dict[str, Any]]) -> None:
    with write():
        ingest.replace_children(job_type, "merge_request", number, [json.dumps(items).encode()], observed_at=1)


def rebuild(number: int) -> Saved:
    with write():
        source = load_source("merge_request", number)
        assert source is not None
        return save(source, texts.build(source))


def terms_of(document_id: int) -> str:
    if database.obj.__class__.__name__.startswith("Sqlite"):
        row = database.execute_sql("SELECT title || ' ' || body FROM documents_fts WHERE rowid = ?", (document_id,))
    else:
        row = database.execute_sql("SELECT terms::text FROM document_terms WHERE document_id = %s", (document_id,))
    found = row.fetchone()
    return "" if found is None else str(found[0])


def test_an_entity_has_a_document_and_so_has_each_thread_worth_finding(merge_request: int) -> None:
    saved = rebuild(merge_request)

    rows = list(Document.select().order_by(Document.id).dicts())
    discussions = dict(Discussion.select(Discussion.gitlab_id, Discussion.id).tuples())
    assert [(row["source_type"], row["source_id"]) for row in rows] == [
        ("merge_request", merge_request),
        ("discussion", discussions[f"{1:040x}"]),
        ("discussion", discussions[f"{3:040x}"]),
    ]
    assert saved == Saved([row["id"] for row in rows], [row["id"] for row in rows], [])
    assert {(row["entity_type"], row["entity_id"], row["iid"]) for row in rows} == {
        ("merge_request", merge_request, 12)
    }
    assert rows[0]["labels"] == '["bug", "sea"]'
    assert (rows[0]["author"], rows[1]["author"], rows[0]["state"], rows[1]["state"]) == (
        "ida",
        "olaf",
        "opened",
        "opened",
    )
    assert "b.py (was a.py)" in rows[0]["content"]
    assert "a plain comment" in rows[0]["content"]
    assert "changed title" not in rows[0]["content"]
    assert "b.py:3 (was a.py)" in rows[2]["content"]
    assert "tide" in terms_of(saved.ids[1])


def test_a_second_time_nothing_is_written(merge_request: int) -> None:
    first = rebuild(merge_request)

    assert rebuild(merge_request) == Saved(first.ids, [], [])


def test_what_is_filtered_by_is_written_though_the_text_is_the_same(merge_request: int) -> None:
    first = rebuild(merge_request)
    MergeRequest.update(updated_at=MergeRequest.updated_at + 5000).execute()

    again = rebuild(merge_request)

    assert again == Saved(first.ids, [], [])
    moved = Document.get_by_id(first.ids[0])
    assert moved.updated_at == MergeRequest.get_by_id(merge_request).updated_at


def test_a_name_of_any_length_is_stored_as_far_as_an_index_takes_it(merge_request: int) -> None:
    dice = random.Random(2)
    name = "".join(chr(dice.randrange(0x4E00, 0x9FFF)) for _ in range(4_000))
    MergeRequest.update(author=name, state=name).execute()

    [mine, *_] = rebuild(merge_request).ids

    row = Document.get_by_id(mine)
    assert (row.author, row.state) == (name[:255], name[:255])
    assert rebuild(merge_request).changed == []


def test_another_text_keeps_the_id_and_replaces_the_terms(merge_request: int) -> None:
    first = rebuild(merge_request)
    MergeRequest.update(description="a kittiwake").execute()

    again = rebuild(merge_request)

    assert again == Saved(first.ids, [first.ids[0]], [])
    assert "kittiwake" in terms_of(first.ids[0])


def test_a_thread_that_is_gone_takes_its_document_terms_and_vectors_along(merge_request: int) -> None:
    first = rebuild(merge_request)
    for document_id in first.ids:
        Embedding.insert(
            document=document_id, chunk_index=0, model="m", chunk_hash="", content_hash="", code=b"", vector=b""
        ).execute()

    replace(merge_request, "discussions", [discussion_body(3, note_body(31, "off by one", **DIFF_NOTE))])
    again = rebuild(merge_request)

    assert again == Saved([first.ids[0], first.ids[2]], [first.ids[0]], [first.ids[1]])
    assert terms_of(first.ids[1]) == ""
    assert sorted(row.document_id for row in Embedding.select()) == [first.ids[0], first.ids[2]]


def test_a_document_never_has_the_id_of_an_earlier_one(merge_request: int) -> None:
    first = rebuild(merge_request)

    with write():
        assert documents.delete_of("merge_request", merge_request) == first.ids
    second = rebuild(merge_request)

    assert min(second.ids) > max(first.ids)
    assert terms_of(first.ids[0]) == ""


def test_what_is_gone_has_no_source(merge_request: int) -> None:
    MergeRequest.update(deleted_at=1).execute()

    with write():
        assert load_source("merge_request", merge_request) is None
        assert load_source("issue", 1) is None


def test_the_documents_of_other_entities_are_left_alone(merge_request: int) -> None:
    first = rebuild(merge_request)
    other = write_other(Project.get().project_id)

    with write():
        source = load_source("issue", other)
        assert source is not None
        save(source, texts.build(source))
        documents.delete_of("issue", other)

    assert sorted(row.id for row in Document.select()) == first.ids


def write_other(project: int) -> int:
    value = payloads.decode_entity("issue", json.dumps(entity_body(MR_12)).encode())
    with write():
        return ingest.insert_entity("issue", project, 12, ingest.entity_columns(value) | {"observed_at": 1})


@pytest.mark.parametrize("letter", ["x", "\U00020000"])
def test_a_megabyte_of_description_and_of_notes_is_cut_and_stored(merge_request: int, letter: str) -> None:
    huge = "".join(f" {letter}{chr(0x4E00 + n % 20_000)}{n:x}" for n in range(150_000))
    MergeRequest.update(description=huge).execute()
    notes = [note_body(n, f"{n} {huge}", **DIFF_NOTE) for n in range(1, 31)]
    replace(merge_request, "discussions", [discussion_body(1, *notes)])

    saved = rebuild(merge_request)

    rows = list(Document.select().order_by(Document.id))
    assert [row.id for row in rows] == saved.ids
    assert f"[cut: the description goes on for {len(huge) - texts.MAX_DESCRIPTION} characters]" in rows[0].content
    assert "more notes are not in this document]" in rows[0].content
    assert all(len(row.content) < 400_000 for row in rows)
    assert Issue.select().count() == 0


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_beside_the_terms_is_what_the_document_is_filtered_by_whatever_wrote_it(merge_request: int) -> None:
    saved = rebuild(merge_request)
    facets = "project_id, source_type, author, state, labels, updated_at"

    def both() -> list[list[Any]]:
        return [
            database.execute_sql(f"SELECT {key}, {facets} FROM {table} ORDER BY 1").fetchall()
            for table, key in (("documents", "id"), ("document_terms", "document_id"))
        ]

    first, beside = both()
    assert first == beside
    assert len(first) == len(saved.ids)
    new = {"author": None, "state": "locked", "labels": '["late"]', "updated_at": 9}
    Document.update(new).where(Document.id == saved.ids[0]).execute()
    second, beside = both()
    assert second == beside
    assert second != first


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_terms_stand_outside_of_the_rows_that_a_search_reads(merge_request: int) -> None:
    rebuild(merge_request)

    rows = database.execute_sql(
        "SELECT pg_column_size(terms), pg_column_toast_chunk_id(terms) IS NOT NULL,"
        " pg_column_toast_chunk_id(author) IS NULL AND pg_column_toast_chunk_id(labels) IS NULL,"
        " pg_column_size(padding) FROM document_terms"
    ).fetchall()

    assert rows
    assert all(outside for size, outside, _, _ in rows if size > 256)
    assert all(inside and padding < 100 for _, _, inside, padding in rows)
