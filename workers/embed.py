"""Embeddings: vectors of exactly the documents a run built, or, when asked for it, of everybody's that lack one.

Vectors are computed outside any transaction, and written only for the text they were computed from; a document that
changed meanwhile is read again. An unchanged chunk keeps its vector.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lore.core import plan, runs
from lore.core.errors import BusyError, LoreError, SettingError
from lore.logs import get_logger
from models import codes, vectors
from models.base import read, write
from models.content import ENTITY_TABLES
from models.documents import Document
from models.ledger import RunDocument, RunEntity
from models.vectors import Pending, Vector
from workers import moves, resources, stages
from workers.actors import BEHIND_PEOPLE, actor

if TYPE_CHECKING:
    from lore.embeddings import Embedder

log = get_logger(__name__)

READ_AT_ONCE = 200


@actor("embed")
def embed(run_id: str) -> None:
    """Embed the run's own documents, and nobody else's."""
    held = stages.take(run_id, runs.EMBEDDING)
    if held is None:
        return
    try:
        _embed_all(held)
    except stages.Lost:
        log.info("stage_lost", stage=runs.EMBEDDING)
    except BusyError:
        stages.give_back(held)
        raise
    except LoreError as error:
        log.warning("embedding_failed", code=error.code, cause=error.message)
        _fail(held, error.code, f"{error.message}; content and documents are kept")
    except Exception as error:
        log.exception("embedding_failed")
        _fail(held, "EMBEDDING_FAILED", f"the vectors could not be made: {type(error).__name__}; content is kept")


@actor("sync_embed", priority=BEHIND_PEOPLE)
def sync_embed(run_id: str) -> None:
    """Do the same for a sync's child."""
    embed.fn(run_id)


def _fail(held: stages.Held, code: str, message: str) -> None:
    with write():
        try:
            stages.renew(held)
        except stages.Lost:
            return
        failures = stages.failures_of(held.run_id, code, message, stage=runs.STAGE_EMBEDDING)
        stages.fail(held.run_id, code, message, failures=failures)


def _embed_all(held: stages.Held) -> None:
    began = time.monotonic()
    embedder = require_embedder()
    done: list[int] = []

    def end(entities: Sequence[plan.Entity]) -> None:
        for one in entities:
            RunEntity.update(status=runs.OK).where(
                RunEntity.run == held.run_id, RunEntity.entity_type == one.entity_type, RunEntity.iid == one.iid
            ).execute()

    batch = _Batch(embedder)
    for entity in stages.pending(held.run_id, stage=runs.STAGE_EMBEDDING):
        with read():
            batch.add(vectors.pending(embedder.model, document_ids=_documents_of(held, entity), limit=None), entity)
        if batch.is_full:
            done += batch.write(before=lambda: stages.renew(held), after=end)
    done += batch.write(before=lambda: stages.renew(held), after=end)
    if done:
        _seal(embedder.model, before=lambda: stages.renew(held))
    with write():
        stages.renew(held)
        moves.count(held.run_id, documents_embedded=len(done))
        moves.record(held.run_id, "embedded", stage=runs.STAGE_EMBEDDING, documents=len(done), model=embedder.model)
        moves.advance(held.run_id, runs.SUCCEEDED)
    log.info("embedded", documents=len(done), model=embedder.model, ms=round((time.monotonic() - began) * 1000))


def _documents_of(held: stages.Held, entity: plan.Entity) -> list[int]:
    table = ENTITY_TABLES[entity.entity_type]
    its = table.select(table.id).where(table.project == held.project_id, table.iid == entity.iid)
    rows = (
        RunDocument.select(RunDocument.document_id)
        .join(Document, on=(Document.id == RunDocument.document_id))
        .where(RunDocument.run == held.run_id, Document.entity_type == entity.entity_type, Document.entity_id.in_(its))
        .order_by(RunDocument.document_id)
    )
    return [row[0] for row in rows.tuples()]


def require_embedder() -> Embedder:
    """Return the embedder of this process.

    Raises:
        SettingError: EMBEDDINGS_OFF.
    """
    embedder = resources.embedder()
    if embedder is None:
        raise SettingError("EMBEDDINGS_OFF", "LORE_EMBEDDINGS is off here: set it to wordllama, ollama or openai")
    return embedder


def drain(*, rebuild: bool = False, on_progress: Callable[[int], None] | None = None) -> dict[str, int]:
    """Embed every document that has no vector of today's model for its text; return what was done.

    Args:
        rebuild: Make all vectors anew, and delete those of other models at the end.
        on_progress: Called after each batch with how many documents are done.
    """
    embedder = require_embedder()
    documents_embedded = deleted = 0
    for pending in _everything(embedder.model, rebuild=rebuild):
        batch = _Batch(embedder, reuses=not rebuild)
        batch.add(pending)
        documents_embedded += len(batch.write())
        if on_progress is not None:
            on_progress(documents_embedded)
    if rebuild:
        with write():
            deleted = vectors.delete_models_but(embedder.model)
    _seal(embedder.model)
    return {"documents": documents_embedded, "vectors_deleted": deleted}


def _seal(model: str, *, before: Callable[[], None] = lambda: None) -> None:
    """Have the next search read what was written in blocks; between two of the transactions others can write."""
    is_left = True
    while is_left:
        with write():
            before()
            is_left = codes.seal(model)


def _everything(model: str, *, rebuild: bool) -> Iterator[list[Pending]]:
    after_id = 0
    while True:
        with read():
            found = vectors.pending(model, after_id=after_id, limit=READ_AT_ONCE, is_rebuild=rebuild)
        if not found:
            return
        yield found
        after_id = found[-1].document_id


@dataclass
class _Batch:
    """Documents that are embedded together, and the entities that are done with them."""

    embedder: Embedder
    reuses: bool = True
    waiting: list[Pending] = field(default_factory=list)
    entities: list[plan.Entity] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        return len(self.waiting) >= self.embedder.batch_size

    def add(self, documents: Sequence[Pending], entity: plan.Entity | None = None) -> None:
        self.waiting += documents
        self.entities += [entity] if entity else []

    def write(
        self,
        *,
        before: Callable[[], None] = lambda: None,
        after: Callable[[Sequence[plan.Entity]], None] = lambda entities: None,
    ) -> list[int]:
        """Compute and write what waits; return the documents that got vectors.

        Args:
            before: Called first in the writing transaction.
            after: Called last in it, with the entities whose documents now all have vectors.
        """
        done: list[int] = []
        while self.waiting or self.entities:
            made = self._compute()
            changed: list[int] = []
            with write():
                before()
                for document, chunks in made:
                    about = (document.document_id, document.content_hash, self.embedder.model)
                    is_written = vectors.write(*about, chunks, is_rebuild=not self.reuses)
                    (done if is_written else changed).append(document.document_id)
                if not changed:
                    after(self.entities)
            self.waiting = []
            if changed:
                # Somebody built them anew while we computed; one that is gone needs nothing.
                with read():
                    self.waiting = vectors.pending(self.embedder.model, document_ids=changed, limit=None)
            else:
                self.entities = []
        return done

    def _compute(self) -> list[tuple[Pending, list[Vector]]]:
        """Return the vectors of what waits; of a chunk whose text was embedded before, the one it has."""
        texts_by_hash: dict[str, str] = {}
        chunks: list[tuple[Pending, list[str]]] = []
        vectors_by_hash: dict[str, Vector] = {}
        for document in self.waiting:
            its = [(_hash(text), text) for text in self.embedder.split(document.content)]
            chunks.append((document, [chunk_hash for chunk_hash, _ in its]))
            texts_by_hash.update(its)
            if self.reuses:
                with read():
                    vectors_by_hash |= vectors.known(document.document_id, self.embedder.model)
        new = [one for one in texts_by_hash if one not in vectors_by_hash]
        for start in range(0, len(new), self.embedder.batch_size):
            batch = new[start : start + self.embedder.batch_size]
            made = self.embedder.embed([texts_by_hash[one] for one in batch])
            for chunk_hash, row in zip(batch, made, strict=True):
                vectors_by_hash[chunk_hash] = vectors.Vector(
                    chunk_hash, row.astype("<f4").tobytes(), np.packbits(row > 0).tobytes()
                )
        return [(document, [vectors_by_hash[one] for one in its]) for document, its in chunks]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
