"""What a sync does behind its children's commits: documents and vectors of what they wrote, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import dramatiq
import httpx
import pytest
from support import LetterEmbedder, drain, rows_of, submit
from syncing import URL, World, small_pages, status_of, world_on

from lore.core import documents as texts
from lore.core.errors import EmbedderDownError
from lore.core.plan import Entity
from lore.core.runs import RunOptions
from models import base, fulltext, vectors
from models import documents as tables
from models.content import ENTITY_TABLES, DirtySource, Issue
from models.documents import Document, Embedding
from models.ledger import Run, RunEntity, SyncCursor
from workers import commit, embed, runs, syncing
from workers.planning import limit_of_children

EVERYTHING = RunOptions()
UNTIL_COMMITTED = {"plan", "preflight", "sync_fetch", "sync_commit"}


@pytest.fixture
def world(database_url: str, monkeypatch: pytest.MonkeyPatch, embedder: LetterEmbedder) -> Iterator[World]:
    with world_on(database_url, monkeypatch) as made:
        yield made


def assert_documents_are_of_the_content() -> None:
    held = {(row.source_type, row.source_id): row.content for row in Document.select()}
    expected = {}
    with base.write():
        for entity_type, table in ENTITY_TABLES.items():
            for row in list(table.select(table.id).where(table.deleted_at.is_null())):
                source = tables.load_source(entity_type, row.id)
                assert source is not None
                expected |= {(made.source_type, made.source_id): made.content for made in texts.build(source)}
    assert held == expected
    assert held


def open_sync(world: World) -> str:
    return syncing.open_sync(gitlab_url=URL, project=world.project, options=EVERYTHING).run_id


def children(run_id: str) -> list[Run]:
    return list(Run.select().where(Run.parent_run_id == run_id).order_by(Run.run_id))


def spoil_documents_of(iid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = texts.build

    def build(source: Any) -> Any:
        if (source.entity_type, source.iid) == ("issue", iid):
            raise ValueError("no text can be made of it")
        return real(source)

    monkeypatch.setattr(texts, "build", build)


def is_down(texts: Sequence[str]) -> None:
    raise EmbedderDownError("EMBEDDER_UNREACHABLE", "no answer from the embedder")


def first_issue() -> int:
    return int(Issue.select(Issue.iid).order_by(Issue.iid).scalar())


@pytest.mark.invariant("I5")
def test_a_sync_builds_and_embeds_what_its_children_wrote_and_counts_it(
    world: World, embedder: LetterEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pages(monkeypatch)

    run_id = world.sync(options=EVERYTHING)

    assert status_of(run_id) == ("succeeded", None)
    assert_documents_are_of_the_content()
    assert vectors.pending(embedder.model) == []
    assert DirtySource.select().count() == 0
    assert {(run.status, run.stage) for run in children(run_id)} == {("succeeded", "embedding")}
    counts = runs.read_run(run_id)["counts"]
    assert counts["ok"] == counts["total"] == counts["dirty_sources"] == len(world.entities())
    assert counts["documents_regenerated"] == counts["documents_embedded"] == Document.select().count()


@pytest.mark.invariant("I5")
def test_a_sync_leaves_what_others_left_dirty(world: World, embedder: LetterEmbedder) -> None:
    world.settle()
    world.sync()
    older = rows_of(DirtySource)
    world.settle()
    iid = first_issue()
    world.step({"step": "edit", "kind": "issue", "iid": iid, "title": "A title of its own"})

    run_id = world.sync(options=EVERYTHING)

    assert runs.read_run(run_id)["counts"]["total"] == 1
    assert rows_of(DirtySource) == older
    assert {row.iid for row in Document.select()} == {iid}
    assert {row.title for row in Document.select().where(Document.source_type == "issue")} == {"A title of its own"}


def test_a_child_counts_when_its_content_is_committed_and_the_sync_walks_until_its_documents_are_built(
    world: World,
) -> None:
    run_id = open_sync(world)

    drain(only=UNTIL_COMMITTED)

    assert world.differences() == []
    assert set(world.cursors()) == set(ENTITY_TABLES)
    assert None not in world.cursors().values()
    assert {run.status for run in children(run_id)} == {"documents"}
    assert status_of(run_id) == ("walking", None)
    assert Document.select().count() == 0
    world.go_on(run_id)
    assert status_of(run_id) == ("succeeded", None)
    assert_documents_are_of_the_content()


def write_a_piece(world: World, run_id: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, set[int]]:
    """Let the first child of a sync write its first entity and go away; return it and what it wrote."""
    drain(only={"plan", "preflight", "sync_fetch"})
    dramatiq.get_broker().flush_all()
    child = next(run for run in children(run_id) if run.status == "committing")
    monkeypatch.setattr(commit, "PIECE_S", 0)
    lease = commit._take_lock(child.run_id)
    assert lease is not None
    assert commit._write(commit._Work(child.run_id, lease)) is False
    written = RunEntity.select(RunEntity.iid).where(RunEntity.run == child.run_id, RunEntity.stage == "documents")
    return child, {row.iid for row in written}


@pytest.mark.parametrize("code", [None, "DATABASE_BUSY"])
def test_what_was_written_of_a_child_that_ended_between_two_pieces_gets_its_documents_by_the_next_sync(
    world: World, monkeypatch: pytest.MonkeyPatch, code: str | None
) -> None:
    world.settle()
    run_id = open_sync(world)
    child, written = write_a_piece(world, run_id, monkeypatch)
    if code is None:
        runs.cancel(run_id)
    else:
        with base.write():
            commit.moves.settle(child.run_id, "failed", error_code=code, error_message="it was")
        world.go_on(run_id)

    next_one = world.sync(options=EVERYTHING)
    SyncCursor.update(updated_after=None).execute()  # all of it is listed again
    last = world.sync(options=EVERYTHING)

    assert len(written) == 1
    assert world.debts() == []
    assert_documents_are_of_the_content()
    assert status_of(next_one) == status_of(last) == ("succeeded", None)
    assert runs.read_run(last)["counts"]["total"] == 0


@pytest.mark.invariant("I5")
def test_what_a_cancelled_sync_committed_gets_its_documents_at_the_end_of_the_next_one_and_nothing_else_does(
    world: World, embedder: LetterEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pages(monkeypatch)
    world.settle()
    of_a_person = world.entities()[0]
    asked_for = submit(of_a_person, project=world.project)
    drain(only={"preflight", "fetch", "commit"})
    runs.cancel(asked_for)
    theirs = rows_of(DirtySource)
    cancelled = open_sync(world)
    drain(only=UNTIL_COMMITTED)
    drain(only={"sync_documents"}, limit=1)
    runs.cancel(cancelled)
    left = DirtySource.select().count() - len(theirs["dirty_sources"])
    committed = [
        (row.entity_type, row.iid)
        for row in RunEntity.select().where(RunEntity.run.in_(children(cancelled)), RunEntity.stage != "preflight")
    ]
    world.asked.clear()

    next_one = world.sync(options=EVERYTHING)
    SyncCursor.update(updated_after=None).execute()  # all of it is listed again
    last = world.sync(options=EVERYTHING)

    fetched = {path for path in world.asked if "/discussions?" in path}
    routes = {"issue": "issues", "merge_request": "merge_requests"}
    assert 0 < left < len(committed)
    assert not [one for one in committed if [path for path in fetched if f"/{routes[one[0]]}/{one[1]}/" in path]]
    assert status_of(next_one) == status_of(last) == ("succeeded", None)
    assert runs.read_run(last)["counts"]["total"] == 0
    assert rows_of(DirtySource) == theirs
    built = {Entity(row.entity_type, row.iid) for row in Document.select()}
    assert built == set(world.entities()) - {of_a_person}
    assert vectors.pending(embedder.model) == []


def entities_to_embed(embedder: LetterEmbedder) -> set[Entity]:
    ids = [row.document_id for row in vectors.pending(embedder.model)]
    return {Entity(row.entity_type, row.iid) for row in Document.select().where(Document.id.in_(ids))}


def build_and_cancel(world: World) -> str:
    """Let a sync build its documents and be cancelled before it embedded them."""
    world.settle()
    run_id = open_sync(world)
    drain(only=UNTIL_COMMITTED | {"sync_documents"})
    runs.cancel(run_id)
    return run_id


@pytest.mark.invariant("I5")
def test_what_a_cancelled_sync_built_is_embedded_at_the_end_of_the_next_one_and_nothing_else_is(
    world: World, embedder: LetterEmbedder
) -> None:
    world.settle()
    cancelled_by_a_person, not_to_be_embedded, built_again, *others = world.entities()
    asked_for = submit(cancelled_by_a_person, project=world.project)
    submit(not_to_be_embedded, project=world.project, embed=False)
    drain(only={"preflight", "fetch", "commit", "documents"})
    runs.cancel(asked_for)
    build_and_cancel(world)
    submit(built_again, project=world.project, embed=False)
    drain(only={"preflight", "fetch", "commit", "documents"})
    before = entities_to_embed(embedder)
    world.asked.clear()

    without = world.sync(options=RunOptions(embed=False))
    between = entities_to_embed(embedder)
    next_one = world.sync(options=EVERYTHING)
    after = entities_to_embed(embedder)
    embedder.embedded.clear()
    last = world.sync(options=EVERYTHING)

    assert before == between == set(world.entities())
    assert after == {cancelled_by_a_person, not_to_be_embedded, built_again}
    assert [status_of(run_id)[0] for run_id in (without, next_one, last)] == ["succeeded"] * 3
    assert [path for path in world.asked if "/discussions?" in path] == []
    counts = runs.read_run(next_one)["counts"]
    assert (counts["total"], counts["ok"], counts["dirty_sources"]) == (len(others), len(others), 0)
    assert counts["documents_embedded"] == sum(Entity(row.entity_type, row.iid) in others for row in Document.select())
    assert (runs.read_run(last)["counts"]["total"], embedder.embedded) == (0, [])


def test_what_a_failed_sync_did_not_come_to_embed_is_embedded_by_the_next_one(
    world: World, embedder: LetterEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.settle()
    with monkeypatch.context() as patch:
        spoil_documents_of(world.entities()[0].iid, patch)
        failed = world.sync(options=EVERYTHING)
    before = entities_to_embed(embedder)
    world.asked.clear()

    next_one = world.sync(options=EVERYTHING)

    assert (status_of(failed), status_of(next_one)) == (("failed", "DOCUMENTS_FAILED"), ("succeeded", None))
    assert before
    assert vectors.pending(embedder.model) == []
    assert [path for path in world.asked if "/discussions?" in path] == []


@pytest.mark.parametrize("trouble", [None, "fetch", "documents"])
def test_an_entity_that_a_sync_fetches_and_also_takes_over_from_an_earlier_one_is_counted_once(
    world: World, monkeypatch: pytest.MonkeyPatch, trouble: str | None
) -> None:
    world.settle()
    cancelled = open_sync(world)
    drain(only=UNTIL_COMMITTED)
    runs.cancel(cancelled)
    world.settle()
    iid, everything = first_issue(), len(world.entities())
    world.step({"step": "edit", "kind": "issue", "iid": iid, "title": "A title of its own"})
    if trouble == "fetch":
        world.before_answer = lambda path: httpx.Response(403) if path.endswith(f"/issues/{iid}/discussions") else None

    run_id = open_sync(world)
    drain(only=UNTIL_COMMITTED)
    drain(only={"sync_documents", "sync_embed"})
    if trouble == "documents":
        spoil_documents_of(iid, monkeypatch)
    world.go_on(run_id)

    counts = runs.read_run(run_id)["counts"]
    failed = {None: 0, "fetch": 1, "documents": everything}[trouble]
    assert (
        sum(RunEntity.select().where(RunEntity.run == child.run_id).count() for child in children(run_id)) > everything
    )
    assert (counts["total"], counts["failed"], counts["ok"]) == (everything, failed, everything - failed)


def test_what_a_person_embedded_of_a_cancelled_sync_is_nothing_to_the_next_one(
    world: World, embedder: LetterEmbedder
) -> None:
    build_and_cancel(world)
    embed.drain()

    next_one = world.sync(options=EVERYTHING)

    assert children(next_one) == []
    assert vectors.pending(embedder.model) == []


def test_what_a_sync_could_not_embed_for_an_earlier_one_is_not_tried_by_every_later_one(
    world: World, embedder: LetterEmbedder
) -> None:
    build_and_cancel(world)
    embedder.spoil = is_down

    ended = [status_of(world.sync(options=EVERYTHING)) for _ in range(3)]

    assert ended == [("failed", "EMBEDDER_UNREACHABLE"), ("succeeded", None), ("succeeded", None)]
    assert entities_to_embed(embedder) == set(world.entities())


@pytest.mark.parametrize("again", ["cancelled", "retried"])
def test_what_a_sync_did_not_come_to_embed_for_an_earlier_one_is_embedded_once_by_whoever_takes_it_up_next(
    world: World, embedder: LetterEmbedder, again: str
) -> None:
    build_and_cancel(world)
    second = open_sync(world)
    drain(only=UNTIL_COMMITTED | {"sync_documents"})
    if again == "cancelled":
        runs.cancel(second)
    else:
        embedder.spoil = is_down
        world.go_on(second)
        embedder.spoil = lambda texts: None
        world.go_on(runs.retry(second).run_id)
    world.asked.clear()

    world.sync(options=EVERYTHING)

    assert vectors.pending(embedder.model) == []
    assert len(embedder.embedded) == len(set(embedder.embedded))


def test_what_failed_in_the_documents_of_an_earlier_sync_is_left_to_its_retry(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_documents_of(world.entities()[0].iid, monkeypatch)
    failed = world.sync(options=EVERYTHING)
    before = rows_of(DirtySource)

    next_one = world.sync(options=EVERYTHING)

    assert (status_of(failed)[0], status_of(next_one)[0]) == ("failed", "succeeded")
    assert before["dirty_sources"]
    assert rows_of(DirtySource) == before


def test_what_a_sync_could_not_build_for_an_earlier_one_is_not_tried_by_every_later_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.settle()
    cancelled = open_sync(world)
    drain(only=UNTIL_COMMITTED)
    runs.cancel(cancelled)
    spoil_documents_of(world.entities()[0].iid, monkeypatch)

    ended = [status_of(world.sync(options=EVERYTHING))[0] for _ in range(3)]

    assert ended == ["failed", "succeeded", "succeeded"]
    assert DirtySource.select().count() == 1


def test_what_was_written_of_a_child_that_failed_between_two_pieces_is_no_debt_and_its_retry_builds_the_documents(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = open_sync(world)
    child, written = write_a_piece(world, run_id, monkeypatch)
    with base.write():
        commit.moves.settle(child.run_id, "failed", error_code="POISON", error_message="it died")
    owed = {iid for entity_type, iid, _ in world.debts() if entity_type == "issue"}
    world.go_on(run_id)
    named = {(f.iid, f.stage) for f in runs.error_of(run_id).failures}

    world.go_on(runs.retry(run_id).run_id)

    assert owed == {row.iid for row in RunEntity.select().where(RunEntity.run == child.run_id)} - written
    assert named == {(iid, "preflight") for iid in owed} | {(iid, "documents") for iid in written}
    assert world.debts() == []
    assert_documents_are_of_the_content()


def test_children_whose_documents_are_not_built_keep_the_planner_from_opening_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pages(monkeypatch)
    run_id = open_sync(world)

    drain(only=UNTIL_COMMITTED)

    assert len(children(run_id)) == limit_of_children()
    world.go_on(run_id)
    assert len(children(run_id)) > limit_of_children()
    assert world.differences() == []


def test_what_failed_behind_the_commit_is_no_debt_but_fails_the_sync_and_its_retry_begins_there(
    world: World, embedder: LetterEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.sync()
    iid = first_issue()
    with monkeypatch.context() as patch:
        world.settle()
        world.step(
            {"step": "edit", "kind": "issue", "iid": iid, "title": "Bad"},
            {"step": "edit", "kind": "issue", "iid": iid + 1, "title": "Good"},
        )
        spoil_documents_of(iid, patch)
        failed = world.sync(options=EVERYTHING)
    error = runs.error_of(failed)
    counts = runs.read_run(failed)["counts"]
    next_one = world.sync(options=EVERYTHING)
    world.asked.clear()

    retried = runs.retry(failed).run_id
    world.go_on(retried)

    assert error is not None
    assert (error.code, int(error.exit)) == ("DOCUMENTS_FAILED", 12)
    assert {(f.iid, f.stage) for f in error.failures} == {(iid, "documents"), (iid + 1, "embedding")}
    assert (counts["total"], counts["failed"], counts["ok"]) == (2, 2, 0)
    assert world.debts() == []
    assert world.differences() == []
    assert status_of(next_one) == status_of(retried) == ("succeeded", None)
    assert world.asked == []
    assert {row.iid for row in Document.select()} == {iid, iid + 1}
    assert vectors.pending(embedder.model) == []


def test_an_embedder_that_is_down_keeps_content_and_documents_of_a_sync(
    world: World, embedder: LetterEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pages(monkeypatch)

    embedder.spoil = is_down
    run_id = world.sync(options=EVERYTHING)
    embedder.spoil = lambda texts: None
    world.asked.clear()

    retried = runs.retry(run_id).run_id
    world.go_on(retried)

    assert status_of(run_id)[0] == "failed"
    assert runs.error_of(run_id).code == "EMBEDDER_UNREACHABLE"
    assert world.debts() == []
    assert world.differences() == []
    assert_documents_are_of_the_content()
    assert world.asked == []
    assert status_of(retried) == ("succeeded", None)
    assert runs.read_run(retried)["counts"]["ok"] == len(world.entities())
    assert vectors.pending(embedder.model) == []


def test_an_entity_that_cannot_be_fetched_keeps_no_other_from_its_documents(world: World) -> None:
    iid = next(entity.iid for entity in world.entities() if entity.entity_type == "issue")

    def refuse(path: str) -> httpx.Response | None:
        return httpx.Response(403, json={}) if path.endswith(f"/issues/{iid}/discussions") else None

    world.before_answer = refuse

    run_id = world.sync(options=EVERYTHING)

    assert status_of(run_id) == ("failed", "SYNC_INCOMPLETE")
    assert world.debts() == [("issue", iid, "GITLAB_FORBIDDEN")]
    assert Document.select().where(Document.entity_type == "issue", Document.iid == iid).count() == 0
    assert_documents_are_of_the_content()
    of_it = RunEntity.select(RunEntity.status, RunEntity.error_code).where(RunEntity.iid == iid)
    assert ("failed", "GITLAB_FORBIDDEN") in set(of_it.where(RunEntity.entity_type == "issue").tuples())


@pytest.mark.parametrize("stop", ["sync_documents", "sync_embed"])
def test_a_sync_whose_process_dies_behind_a_commit_goes_on_there(
    world: World, embedder: LetterEmbedder, stop: str
) -> None:
    run_id = open_sync(world)
    drain(only=UNTIL_COMMITTED | ({"sync_documents"} if stop == "sync_embed" else set()))
    dramatiq.get_broker().flush_all()  # its messages died with it
    Run.update(stage_owner="gone/1", stage_until=base.now_ms() + 600_000).where(Run.parent_run_id == run_id).execute()
    world.asked.clear()

    syncing.adopt(run_id)
    world.go_on(run_id, rounds=20)

    assert status_of(run_id) == ("succeeded", None)
    assert [path for path in world.asked if "/discussions" in path] == []
    assert_documents_are_of_the_content()
    assert vectors.pending(embedder.model) == []


def test_a_prune_takes_documents_and_vectors_of_what_is_gone_out_of_search(world: World) -> None:
    world.sync(options=EVERYTHING)
    iid = first_issue()
    world.step({"step": "delete_issue", "iid": iid})
    world.sync(options=EVERYTHING)
    its = Document.select(Document.id).where(Document.entity_type == "issue", Document.iid == iid)
    ids = [row.id for row in its]

    world.sync(is_prune=True, options=EVERYTHING)

    assert ids
    assert its.count() == 0
    assert Embedding.select().where(Embedding.document.in_(ids)).count() == 0
    with base.read():
        assert fulltext.count() == Document.select().count()
    assert_documents_are_of_the_content()
