"""Behind the commit: documents and vectors of exactly what a run dirtied (issue 4; I5, I6, I8, I9, I12)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from support import (
    ISSUE_7,
    MR_12,
    PROJECT_ID,
    FakeGitLab,
    LetterEmbedder,
    age,
    content,
    discussion_body,
    drain,
    entity_body,
    note_body,
    rows_of,
    statements,
    status_of,
    submit,
)

from lore.core import documents as texts
from lore.core import plan
from lore.core.errors import EmbedderDownError, UsageError
from lore.core.plan import Entity
from models import base, vectors
from models import documents as tables
from models.content import DirtySource, Issue
from models.documents import Document, Embedding
from models.ledger import Project, Run, RunDocument, RunEntity, RunSource
from models.queue import StagedPayload, Task
from workers import documents, embed, resources, runs, stages, upkeep

ISSUE_8 = Entity("issue", 8)
UNTIL_COMMITTED = {"preflight", "fetch", "commit"}


def titled(gitlab: FakeGitLab, entity: Entity, title: str) -> None:
    gitlab.set(entity, plan.OWN, entity_body(entity, title=title))


def document_of(entity: Entity) -> Document:
    return Document.get(Document.source_type == entity.entity_type, Document.iid == entity.iid)


def valid_vectors() -> list[tuple[str, bytes]]:
    """Return the text and the vector of each embedding that a search may compare."""
    rows = (
        Embedding.select(Document.content, Embedding.chunk_index, Embedding.vector)
        .join(Document)
        .where(Embedding.content_hash == Document.content_hash)
    )
    return [(LetterEmbedder().split(text)[index], bytes(vector)) for text, index, vector in rows.tuples()]


def assert_every_vector_is_of_its_text() -> None:
    for text, vector in valid_vectors():
        assert vector == LetterEmbedder().embed([text])[0].tobytes()


def assert_every_document_is_of_its_content() -> None:
    with base.write():
        for row in list(Issue.select()):
            source = tables.load_source("issue", row.id)
            assert source is not None
            assert document_of(Entity("issue", row.iid)).content == texts.build(source)[0].content


# --- scope


@pytest.mark.invariant("I5")
def test_a_run_builds_and_embeds_what_it_wrote_and_counts_it(gitlab: FakeGitLab, embedder: LetterEmbedder) -> None:
    run_id = submit(MR_12, ISSUE_7)
    drain()

    view = runs.read_run(run_id)
    assert (view["status"], view["stage"]) == ("succeeded", "embedding")
    assert view["counts"]["documents_regenerated"] == view["counts"]["documents_embedded"] == 4
    assert {row.status for row in RunEntity.select()} == {"ok"}
    assert RunDocument.select().where(RunDocument.run == run_id).count() == Document.select().count() == 4
    assert DirtySource.select().count() == 0
    assert_every_vector_is_of_its_text()
    assert_every_document_is_of_its_content()


@pytest.mark.invariant("I5")
def test_what_others_left_dirty_or_unembedded_is_not_touched(gitlab: FakeGitLab, embedder: LetterEmbedder) -> None:
    submit(ISSUE_7, ISSUE_8, docs=False, embed=False)
    drain()
    older = rows_of(DirtySource)
    submit(ISSUE_8, embed=False)
    drain()
    assert rows_of(DirtySource) == older
    foreign = rows_of(Document)

    run_id = submit(ISSUE_7)
    drain()

    mine = {row.document_id for row in RunDocument.select().where(RunDocument.run == run_id)}
    assert rows_of(DirtySource) == older
    assert {row.document_id for row in Embedding.select()} == mine
    assert set(foreign["documents"]) <= set(rows_of(Document)["documents"])


@pytest.mark.invariant("I5")
def test_a_backlog_of_others_is_neither_touched_nor_paid_for(gitlab: FakeGitLab, embedder: LetterEmbedder) -> None:
    with statements() as alone:
        submit(ISSUE_7)
        drain()
    with base.write():
        project = Project.get()
        dirty = [{"source_type": "issue", "source_id": 1_000_000 + n, "queued_at": 1} for n in range(10_000)]
        base.insert_in_chunks(DirtySource, dirty)
        rows = [
            {
                "project": project.project_id,
                "source_type": "issue",
                "source_id": 1_000_000 + n,
                "entity_type": "issue",
                "entity_id": 1_000_000 + n,
                "iid": 1_000_000 + n,
                "updated_at": 1,
                "content_hash": f"{n:064}",
                "title": "foreign",
                "content": "foreign",
            }
            for n in range(1_000)
        ]
        base.insert_in_chunks(Document, rows)

    titled(gitlab, ISSUE_7, "another title")
    embedder.embedded.clear()
    with statements() as beside:
        submit(ISSUE_7)
        drain()

    assert DirtySource.select().count() == 10_000
    assert Document.select().where(Document.title == "foreign").count() == 1_000
    assert not [text for text in embedder.embedded if "foreign" in text]
    assert len(beside.seen) <= len(alone.seen) + 5


@pytest.mark.invariant("I6")
def test_a_run_without_documents_ends_with_its_commit_and_leaves_its_dirty_rows(gitlab: FakeGitLab) -> None:
    run_id = submit(ISSUE_7, docs=False, embed=False)
    drain()

    assert (status_of(run_id), runs.read_run(run_id)["stage"]) == ("succeeded", "ingest")
    assert (DirtySource.select().count(), Document.select().count()) == (1, 0)


@pytest.mark.invariant("I6")
def test_a_run_without_embeddings_ends_with_its_documents(gitlab: FakeGitLab, embedder: LetterEmbedder) -> None:
    run_id = submit(ISSUE_7, embed=False)
    drain()

    assert (status_of(run_id), runs.read_run(run_id)["stage"]) == ("succeeded", "documents")
    assert (embedder.embedded, Embedding.select().count()) == ([], 0)


def test_what_did_not_change_is_neither_written_nor_embedded_again(
    gitlab: FakeGitLab, embedder: LetterEmbedder
) -> None:
    submit(ISSUE_7)
    drain()
    before = content(without=("observed_at", "children_observed_at", "parts_observed_at"))
    embedder.embedded.clear()

    submit(ISSUE_7)
    drain()

    assert embedder.embedded == []
    assert content(without=("observed_at", "children_observed_at", "parts_observed_at")) == before


def test_an_unchanged_chunk_keeps_its_vector(gitlab: FakeGitLab, embedder: LetterEmbedder) -> None:
    gitlab.set(ISSUE_7, plan.OWN, entity_body(ISSUE_7, description="x" * 2000))
    gitlab.set(ISSUE_7, plan.DISCUSSIONS, [])
    submit(ISSUE_7)
    drain()
    kept = {row.chunk_index: row.id for row in Embedding.select()}
    embedder.embedded.clear()

    gitlab.set(ISSUE_7, plan.OWN, entity_body(ISSUE_7, description="x" * 2000 + "the end"))
    submit(ISSUE_7)
    drain()

    assert len(embedder.embedded) == 1
    assert [row.id for row in Embedding.select().order_by(Embedding.chunk_index)][:-1] == list(kept.values())[:-1]
    assert_every_vector_is_of_its_text()


def test_documents_of_a_discussion_that_is_gone_go_with_it(gitlab: FakeGitLab) -> None:
    submit(ISSUE_7)
    drain()
    assert Document.select().where(Document.source_type == "discussion").count() == 1

    gitlab.set(ISSUE_7, plan.DISCUSSIONS, [discussion_body(2)])
    submit(ISSUE_7)
    drain()

    assert [row.source_type for row in Document.select()] == ["issue"]


# --- two runs of one entity


@pytest.mark.invariant("I5")
def test_a_run_that_builds_after_another_committed_builds_of_the_newer_content(gitlab: FakeGitLab) -> None:
    first = submit(ISSUE_7)
    drain(only=UNTIL_COMMITTED)
    titled(gitlab, ISSUE_7, "the second title")
    second = submit(ISSUE_7)
    drain(only=UNTIL_COMMITTED)

    documents.documents.fn(second)
    documents.documents.fn(first)
    drain()

    assert "the second title" in document_of(ISSUE_7).content
    assert [status_of(run_id) for run_id in (first, second)] == ["succeeded"] * 2
    assert_every_vector_is_of_its_text()


@pytest.mark.invariant("I5")
def test_a_document_is_read_and_written_in_one_transaction(gitlab: FakeGitLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reads, B commits and builds, A writes: it cannot come to that, as A's reading holds what B must write."""
    submit(ISSUE_7)
    drain(only=UNTIL_COMMITTED)
    seen = []
    real = tables.save

    def save(source: Any, built: Any) -> Any:
        seen.append(base.database.in_transaction())
        return real(source, built)

    loads = []
    real_load = tables.load_source

    def load(*key: Any) -> Any:
        loads.append(base.database.in_transaction())
        return real_load(*key)

    begun = []
    real_write = documents.write

    def write() -> Any:
        begun.append(len(loads))
        return real_write()

    monkeypatch.setattr(tables, "save", save)
    monkeypatch.setattr(tables, "load_source", load)
    monkeypatch.setattr(documents, "write", write)
    drain()

    assert seen == loads == [True]
    assert begun == [0, 1], "a transaction began between reading and writing"


@pytest.mark.invariant("I5")
def test_a_vector_of_a_text_that_changed_while_it_was_computed_is_never_valid(
    gitlab: FakeGitLab, embedder: LetterEmbedder
) -> None:
    """A reads, B commits, builds and embeds, A writes."""
    change_while_it_is_embedded(gitlab, embedder)


def change_while_it_is_embedded(gitlab: FakeGitLab, embedder: LetterEmbedder) -> None:
    submit(ISSUE_7)
    drain(only=UNTIL_COMMITTED | {"documents"})
    titled(gitlab, ISSUE_7, "changed meanwhile")

    def meanwhile(texts: Sequence[str]) -> None:
        embedder.spoil = lambda texts: None
        submit(ISSUE_7)
        drain()

    embedder.spoil = meanwhile
    drain()

    assert {row.status for row in Run.select()} == {"succeeded"}
    assert "changed meanwhile" in document_of(ISSUE_7).content
    assert vectors.pending(embedder.model) == []
    assert_every_vector_is_of_its_text()


@pytest.mark.invariant("I5")
def test_a_vector_written_without_a_look_at_the_text_would_be_found_here(
    gitlab: FakeGitLab, embedder: LetterEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = vectors.write

    def write(document_id: int, content_hash: str, model: str, chunks: Any) -> bool:
        now = Document.select(Document.content_hash).where(Document.id == document_id).scalar()
        return real(document_id, now, model, chunks)

    monkeypatch.setattr(vectors, "write", write)

    with pytest.raises(AssertionError):
        change_while_it_is_embedded(gitlab, embedder)


# --- one delivery at a time


@pytest.mark.invariant("I12")
def test_the_same_message_twice_builds_once(gitlab: FakeGitLab) -> None:
    run_id = submit(ISSUE_7)
    drain(only=UNTIL_COMMITTED)

    held = stages.take(run_id, "documents")
    documents.documents.fn(run_id)

    assert held is not None
    assert Document.select().count() == 0
    assert status_of(run_id) == "documents"


@pytest.mark.invariant("I12")
def test_a_stage_whose_lease_is_over_is_done_by_another_and_the_first_writes_nothing(gitlab: FakeGitLab) -> None:
    run_id = submit(ISSUE_7)
    drain(only=UNTIL_COMMITTED)
    slow = stages.take(run_id, "documents")
    assert slow is not None
    Run.update(stage_until=1, sent_at=1).execute()

    assert upkeep.sweep()["stage_sent"] == 1
    drain()

    assert status_of(run_id) == "succeeded"
    before = content()
    with pytest.raises(stages.Lost):
        documents._build(slow, ISSUE_7)
    assert content() == before


@pytest.mark.invariant("I12")
@pytest.mark.parametrize(("until", "stage"), [("commit", "documents"), ("documents", "embedding")])
def test_whoever_dies_at_a_stage_thrice_has_poisoned_it_and_the_content_stays(
    gitlab: FakeGitLab, until: str, stage: str
) -> None:
    run_id = submit(ISSUE_7)
    drain(only=UNTIL_COMMITTED | {until})
    for _ in range(3):
        assert stages.take(run_id, stage) is not None
        Run.update(stage_until=1).execute()

    assert stages.take(run_id, stage) is None

    error = runs.error_of(run_id)
    assert error is not None
    assert (error.code, int(error.exit)) == ("POISON", 12)
    assert [(one.iid, one.stage, one.code) for one in error.failures] == [(7, stage, "POISON")]
    assert Issue.select().count() == 1


@pytest.mark.invariant("I12")
def test_a_lost_message_of_a_stage_is_sent_again(gitlab: FakeGitLab) -> None:
    run_id = submit(ISSUE_7)
    drain(only=UNTIL_COMMITTED)
    resources_of_broker().flush_all()
    age(Run, 3_000, Run.sent_at)

    assert upkeep.sweep()["stage_sent"] == 1
    assert "stage_sent" not in upkeep.sweep()
    drain()

    assert status_of(run_id) == "succeeded"


def resources_of_broker() -> Any:
    import dramatiq

    return dramatiq.get_broker()


@pytest.mark.invariant("I12")
def test_a_stage_past_its_deadline_fails_its_entities_and_keeps_the_content(gitlab: FakeGitLab) -> None:
    run_id = submit(ISSUE_7)
    drain(only=UNTIL_COMMITTED)
    assert stages.take(run_id, "documents") is not None
    Run.update(deadline_at=1).execute()

    assert upkeep.sweep()["run_deadline"] == 1

    error = runs.error_of(run_id)
    assert error is not None
    assert (error.code, int(error.exit)) == ("RUN_DEADLINE", 12)
    assert Issue.select().count() == 1


# --- failure, cancel and resume


def fail_documents_of(monkeypatch: pytest.MonkeyPatch, iid: int) -> None:
    real = texts.build

    def build(source: Any) -> Any:
        if source.iid == iid:
            raise ValueError("a bad text")
        return real(source)

    monkeypatch.setattr(texts, "build", build)


@pytest.mark.invariant("I9")
def test_a_text_that_cannot_be_built_fails_its_entity_and_a_retry_resumes_there(
    gitlab: FakeGitLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fail_documents_of(patch, iid=7)
        run_id = submit(ISSUE_7, ISSUE_8)
        drain()

    error = runs.error_of(run_id)
    assert error is not None
    assert (error.code, int(error.exit)) == ("DOCUMENTS_FAILED", 12)
    assert [(one.iid, one.stage, one.code) for one in error.failures] == [(7, "documents", "DOCUMENTS_FAILED")]
    assert "bad text" not in error.message + error.failures[0].message
    assert Issue.select().count() == 2
    asked = len(gitlab.asked)

    again = runs.retry(run_id)
    drain()

    assert len(gitlab.asked) == asked, "something was fetched again"
    view = runs.read_run(again.run_id)
    assert (view["status"], view["counts"]["ok"], view["counts"]["total"]) == ("succeeded", 2, 2)
    assert Task.select().where(Task.scope_run == again.run_id).count() == 0
    assert DirtySource.select().count() == 0
    assert_every_document_is_of_its_content()


def embedder_is_down(texts: Sequence[str]) -> None:
    raise EmbedderDownError("EMBEDDER_UNREACHABLE", "no answer from the embedder")


@pytest.mark.invariant("I9")
def test_an_embedder_that_is_down_keeps_content_and_documents_and_a_retry_embeds_the_rest(
    gitlab: FakeGitLab, embedder: LetterEmbedder
) -> None:
    def second_call_fails(texts: Sequence[str]) -> None:
        embedder.spoil = embedder_is_down

    embedder.batch_size = 1
    embedder.spoil = second_call_fails
    run_id = submit(ISSUE_7, ISSUE_8)
    drain()

    error = runs.error_of(run_id)
    assert error is not None
    assert (error.code, int(error.exit)) == ("EMBEDDER_UNREACHABLE", 12)
    assert [(one.iid, one.stage, one.code) for one in error.failures] == [
        (7, "embedding", "EMBEDDER_UNREACHABLE"),
        (8, "embedding", "EMBEDDER_UNREACHABLE"),
    ]
    built = rows_of(Document)
    asked = len(gitlab.asked)

    embedder.spoil = lambda texts: None
    again = runs.retry(run_id)
    assert runs.retry(run_id).run_id == again.run_id
    drain()

    view = runs.read_run(again.run_id)
    assert (view["status"], view["stage"], view["counts"]["ok"]) == ("succeeded", "embedding", 2)
    assert view["counts"]["documents_embedded"] == 4
    assert len(gitlab.asked) == asked
    assert rows_of(Document) == built
    assert vectors.pending(embedder.model) == []


@pytest.mark.invariant("I9")
def test_a_resumed_run_whose_message_was_lost_begins_where_it_was_to_begin(
    gitlab: FakeGitLab, embedder: LetterEmbedder
) -> None:
    embedder.spoil = embedder_is_down
    run_id = submit(ISSUE_7)
    drain()
    embedder.spoil = lambda texts: None
    again = runs.retry(run_id)
    resources_of_broker().flush_all()
    age(Run, 3_000, Run.sent_at, where=Run.run_id == again.run_id)

    assert upkeep.sweep()["preflight_sent"] == 1
    drain()

    assert status_of(again.run_id) == "succeeded"
    assert vectors.pending(embedder.model) == []


@pytest.mark.invariant("I7")
@pytest.mark.parametrize(("until", "stage"), [("commit", "documents"), ("documents", "embedding")])
def test_a_run_cancelled_behind_its_commit_keeps_its_content_and_can_be_resumed(
    gitlab: FakeGitLab, until: str, stage: str
) -> None:
    run_id = submit(ISSUE_7)
    drain(only=UNTIL_COMMITTED | {until})

    assert runs.cancel(run_id)["status"] == "cancelled"
    drain()

    assert [(row.status, row.stage) for row in RunEntity.select()] == [("aborted", stage)]
    assert StagedPayload.select().count() == 0
    assert Issue.select().count() == 1
    again = runs.retry(run_id)
    drain()
    assert status_of(again.run_id) == "succeeded"
    assert json.loads(Run.get_by_id(again.run_id).options)["starts_at"] == stage


@pytest.mark.invariant("I8")
def test_a_worker_without_an_embedder_fails_a_run_that_asks_for_vectors(
    gitlab: FakeGitLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "embedder", lambda: None)
    run_id = submit(ISSUE_7)
    drain()

    error = runs.error_of(run_id)
    assert error is not None
    assert (error.code, int(error.exit)) == ("EMBEDDINGS_OFF", 12)
    with pytest.raises(UsageError):
        runs.cancel(run_id)


# --- the backlog, on purpose


def test_docs_and_embed_drain_what_everybody_left(gitlab: FakeGitLab, embedder: LetterEmbedder) -> None:
    submit(MR_12, ISSUE_7, docs=False, embed=False)
    submit(ISSUE_7, docs=False, embed=False)
    drain()

    assert documents.backlog_size() == 2
    assert documents.drain() == {"sources": 2, "documents": 4}
    assert documents.drain() == {"sources": 0, "documents": 0}
    assert DirtySource.select().count() == 0
    assert embed.drain() == {"documents": 4, "vectors_deleted": 0}
    assert embed.drain() == {"documents": 0, "vectors_deleted": 0}
    assert_every_document_is_of_its_content()
    assert_every_vector_is_of_its_text()


def test_of_a_batch_in_which_a_text_changed_that_one_alone_is_read_and_embedded_again(
    gitlab: FakeGitLab, embedder: LetterEmbedder
) -> None:
    submit(MR_12, ISSUE_7, embed=False)
    drain()
    changed = {Document.content: "changed meanwhile", Document.content_hash: "of it"}

    def meanwhile(texts: Sequence[str]) -> None:
        embedder.spoil = lambda texts: None
        Document.update(changed).where(Document.id == document_of(ISSUE_7).id).execute()

    embedder.spoil = meanwhile
    with statements() as made:
        done = embed.drain()

    assert done == {"documents": 4, "vectors_deleted": 0}
    assert embedder.embedded.count("changed meanwhile") == 1
    assert len(embedder.embedded) == len(set(embedder.embedded)), "no other text twice"
    # The batch, the one that changed, and that there are no more.
    assert sum(sql.startswith("SELECT") and '"content",' in sql and "EXISTS" in sql for sql in made.seen) == 3


@pytest.mark.invariant("I5")
def test_draining_leaves_an_open_run_its_own(gitlab: FakeGitLab) -> None:
    run_id = submit(ISSUE_7)
    drain(only=UNTIL_COMMITTED)

    assert documents.drain() == {"sources": 0, "documents": 0}

    assert RunSource.select().where(RunSource.run == run_id).count() == DirtySource.select().count() == 1
    drain()
    assert status_of(run_id) == "succeeded"


def test_another_model_is_never_mixed_in_and_a_rebuild_removes_the_earlier(
    gitlab: FakeGitLab, embedder: LetterEmbedder
) -> None:
    submit(ISSUE_7)
    drain()
    assert set(vectors.models()) == {"letters"}

    embedder.model = "letters-2"
    assert vectors.has_other_models(embedder.model)
    done = embed.drain(rebuild=True)

    assert done == {"documents": 2, "vectors_deleted": 2}
    assert set(vectors.models()) == {"letters-2"}
    assert not vectors.has_other_models(embedder.model)


def test_a_rebuild_makes_every_vector_anew_also_of_a_model_that_kept_its_name(
    gitlab: FakeGitLab, embedder: LetterEmbedder
) -> None:
    submit(ISSUE_7)
    drain()
    right = [bytes(row.vector) for row in Embedding.select().order_by(Embedding.document_id)]
    Embedding.update(vector=b"of earlier weights", code=b"...").execute()

    embed.drain(rebuild=True)

    assert [bytes(row.vector) for row in Embedding.select().order_by(Embedding.document_id)] == right


def test_the_documents_of_a_row_that_gitlab_no_longer_has_go(gitlab: FakeGitLab) -> None:
    submit(ISSUE_7)
    drain()
    Issue.update(deleted_at=1).execute()
    DirtySource.insert(source_type="issue", source_id=Issue.get().id, queued_at=1).execute()

    documents.drain()

    assert Document.select().count() == Embedding.select().count() == 0


def test_a_rename_of_the_project_finds_the_same_documents(gitlab: FakeGitLab) -> None:
    submit(ISSUE_7)
    drain()
    gitlab.set(None, plan.PROJECT, {"id": PROJECT_ID, "path_with_namespace": "tern/new", "default_branch": "main"})
    gitlab.set(ISSUE_7, plan.DISCUSSIONS, [discussion_body(1, note_body(1, "first"), note_body(2, "second"))])
    before = {row.id for row in Document.select()}

    submit(ISSUE_7, project="tern/new")
    drain()

    assert {row.id for row in Document.select()} == before
