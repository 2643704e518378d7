"""Finding documents by their words, by their meaning, or by both.

Words are matched by the database's full-text index. Meaning is compared in two steps: the signs of every vector (a bit
a number, kept in this process, or compared by pgvector where the database has it) tell the closest few hundred, and
their whole vectors put those in order. Both rankings are fused by reciprocal rank.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from peewee import fn

from lore.core.documents import DISCUSSION
from lore.core.errors import LoreError, UsageError
from lore.core.ranking import Snippet, fuse, snippet, snippet_of
from lore.core.terms import Word, query_words
from models import codes, fulltext
from models.base import database, is_postgresql, read
from models.content import ENTITY_TABLES, Discussion, Note
from models.documents import Document
from models.fulltext import Filters

if TYPE_CHECKING:
    import numpy as np

Mode = Literal["hybrid", "text", "semantic"]

# How far down each ranking goes before the two are fused.
_DEPTH: Final = 200
# Vectors that are read whole; more where most of those are of older texts, and so many at most.
_CANDIDATES: Final = 400
_MOST_CANDIDATES: Final = 6_400
_FEW_WORDS: Final = 3
_SNIPPET_CHARACTERS: Final = 60_000


class Embedder(Protocol):
    """What a search needs of an embedder."""

    @property
    def model(self) -> str:
        """The name that vectors are stored under."""

    def embed(self, texts: Sequence[str]) -> Any:
        """Return one vector of unit length per text: numpy, float32, (texts, dimensions)."""


@dataclass(frozen=True)
class Warned:
    """Something that a search did otherwise than asked."""

    code: str
    message: str


@dataclass(frozen=True)
class Hit:
    """A document that was found.

    Attributes:
        why: The rank from 1 in each ranking that has it (`text`, `semantic`), and the cosine as `similarity`.
        web_url: The issue's or merge request's page; of a discussion, at its first note.
    """

    document_id: int
    source_type: str
    source_id: int
    entity_type: str
    entity_id: int
    project_id: int
    iid: int
    title: str
    author: str | None
    state: str | None
    updated_at: int
    web_url: str | None
    snippet: Snippet
    score: float
    why: dict[str, float]


@dataclass(frozen=True)
class Found:
    """The answer of a search; `mode` is the one that was used."""

    hits: list[Hit]
    mode: Mode
    warnings: list[Warned] = field(default_factory=list)


def search(
    query: str,
    *,
    filters: Filters | None = None,
    mode: Mode = "hybrid",
    limit: int = 10,
    embedder: Embedder | None = None,
) -> Found:
    """Return the documents that fit a query best; any text is a legal query.

    Args:
        query: Words, identifiers, symbols. One of punctuation alone is looked for as it stands.
        filters: What is searched at all.
        mode: `hybrid` becomes `text` where there is no embedder, or it does not answer, and a warning says so.
        limit: How many hits at most.
        embedder: Turns the query into a vector; None is off.

    Raises:
        UsageError: `semantic` without an embedder.
        LoreError: The embedder's own errors, for `semantic`.
        StorageError: The database.
    """
    filters = filters or Filters()
    query = query.strip().replace("\0", "")
    if mode == "semantic" and embedder is None:
        raise UsageError("CONFLICTING_OPTIONS", "a semantic search needs an embedder, and LORE_EMBEDDINGS is off")
    if not query:
        return Found([], mode)
    warnings: list[Warned] = []
    words = query_words(query)
    depth = max(_DEPTH, limit)
    vector, mode = _embed(query, mode, embedder, warnings)  # before the transaction: it may ask a server
    with read():
        rankings: dict[str, Sequence[int]] = {}
        similarities: dict[int, float] = {}
        if mode != "semantic":
            rankings["text"] = (
                _by_words(words, filters, depth, warnings, enough=limit)
                if words
                else _by_string(query, filters, depth, warnings)
            )
        # What punctuation means to a model is noise.
        if embedder is not None and vector is not None and (words or mode == "semantic"):
            similarities = _by_meaning(vector, embedder.model, filters, depth, warnings, enough=limit)
            rankings["semantic"] = list(similarities)
        ranked = fuse(rankings)[:limit]
        terms = {term for word in words for term in word.terms}
        return Found(_hits(ranked, similarities, terms, query), mode, warnings)


def _embed(query: str, mode: Mode, embedder: Embedder | None, warnings: list[Warned]) -> tuple[Any, Mode]:
    if mode == "text":
        return None, mode
    if embedder is None:
        warnings.append(Warned("EMBEDDINGS_OFF", "embeddings are off, so only words were searched"))
        return None, "text"
    try:
        return embedder.embed([query])[0], mode
    except LoreError as error:
        if mode == "semantic":
            raise
        warnings.append(Warned(error.code, f"only words were searched: {error.message}"))
        return None, "text"


def _by_words(words: Sequence[Word], filters: Filters, depth: int, warnings: list[Warned], *, enough: int) -> list[int]:
    """Return documents with all of the words, then, if those are few, documents with any of them.

    What stands in very many documents tells them apart least and costs most: a whole question goes without it, and so
    do documents with any of the words.
    """
    rare = [word for word in words if not fulltext.is_common(word)] or words if len(words) > 1 else words
    asked = rare if len(words) > _FEW_WORDS else words
    found, is_complete = fulltext.match(asked, any_of=False, filters=filters, limit=depth)
    if len(words) > 1 and len(found) < enough:
        with_any, is_complete = fulltext.match(rare, any_of=True, filters=filters, limit=depth)
        found = list(dict.fromkeys([*found, *with_any]))[:depth]
    if not is_complete:
        message = f"so many documents have these words that only the newest {fulltext.most_ranked():,} were ranked"
        warnings.append(Warned("SEARCHED_IN_PART", message))
    return found


def _by_string(query: str, filters: Filters, depth: int, warnings: list[Warned]) -> list[int]:
    found, is_complete = fulltext.containing(query, filters=filters, limit=depth)
    if not is_complete:
        warnings.append(Warned("SEARCHED_IN_PART", "a query without a word is looked for in the newest documents only"))
    return found


def _by_meaning(
    vector: np.ndarray[Any, Any], model: str, filters: Filters, depth: int, warnings: list[Warned], *, enough: int
) -> dict[int, float]:
    """Return the cosine of the documents whose present text is closest, closest first."""
    import numpy as np  # noqa: PLC0415  # a search by words does not wait for it

    known = None if codes.has_pgvector() else _codes_of(model, len(vector))
    closest = _by_pgvector(vector, model, filters) if known is None else known.closest_to(vector, filters)
    best: dict[int, float] = {}
    seen: set[int] = set()
    gone: list[int] = []
    wanted, most = _CANDIDATES, _MOST_CANDIDATES
    if depth > _DEPTH:  # more was asked for than is looked at anyhow, and a document may have many chunks
        wanted, most = max(wanted, 2 * depth), max(most, 8 * depth)
    while True:
        ids = closest(wanted)
        # Not simply what is behind them: on PostgreSQL another's commit can come before those that were seen.
        new = [number for number in ids if number not in seen]
        rows = codes.read_vectors(new)
        current = [(row[1], row[3]) for row in rows if row[2] and len(row[3]) == 4 * len(vector)]
        vectors = np.frombuffer(b"".join(raw for _, raw in current), dtype="<f4").reshape(-1, len(vector))
        # Not `@`, which may sum equal rows in different orders: equal texts are equally close, and the newest is first.
        for (document_id, _), cosine in zip(current, np.einsum("ij,j->i", vectors, vector).tolist(), strict=True):
            best[document_id] = max(best.get(document_id, -1.0), cosine)
        seen.update(new)
        gone += set(new).difference(row[0] for row in rows)
        if len(ids) < wanted or len(best) >= max(enough, min(depth, wanted // 4)):
            break
        if wanted >= most:
            message = f"only the closest {wanted:,} vectors were read, many of one text, or of older ones: lore embed"
            warnings.append(Warned("SEARCHED_IN_PART", message))
            break
        wanted = min(wanted * 4, most)
    if known is not None and gone:
        known.forget(gone)
    if not seen and not codes.has_any(model, code_bytes=(len(vector) + 7) // 8):
        warnings.append(Warned("NO_VECTORS", f"no document is embedded with {model} yet"))
    return dict(sorted(best.items(), key=lambda one: (-one[1], -one[0]))[:depth])


def _by_pgvector(vector: Any, model: str, filters: Filters) -> Callable[[int], list[int]]:
    """Return what tells the vectors with the closest codes, of the documents that pass, closest first."""
    import numpy as np  # noqa: PLC0415  # see _by_meaning

    code = np.packbits(vector > 0).tobytes()
    return lambda wanted: codes.closest(model, code, filters=filters, limit=wanted)


def _passing(documents: Any, filters: Filters) -> Any:
    import numpy as np  # noqa: PLC0415

    allowed = _numbers(codes.filtered_ids(filters))
    top = int(max(documents.max(initial=0), allowed.max(initial=0)))
    passes = np.zeros(top + 1, dtype=bool)
    passes[allowed] = True
    return np.flatnonzero(passes[documents])


def _numbers(listed: str) -> Any:
    """Return the numbers of a text with commas between."""
    import numpy as np  # noqa: PLC0415  # see _by_meaning

    return np.fromstring(listed, dtype=np.int64, sep=",") if listed else np.empty(0, dtype=np.int64)


class _Codes:
    """Every code of one model that this process has read, as 64-bit words: one behind the other the first of all.

    A sum over a few numbers side by side is five times the work.
    """

    def __init__(self, model: str, dimensions: int) -> None:
        import numpy as np  # noqa: PLC0415

        self._np = np
        self._model = model
        self._code_bytes = (dimensions + 7) // 8
        self._words = (self._code_bytes + 7) // 8
        self._clear()

    def _clear(self) -> None:
        self._last_id = 0
        self.ids = self._np.empty(0, dtype=self._np.int64)
        self.documents = self._np.empty(0, dtype=self._np.int64)
        self.codes = self._np.empty((self._words, 0), dtype=self._np.uint64)

    def extend(self) -> None:
        """Read what is new; ids only grow, so nothing that was read is read again."""
        self._read()
        # On PostgreSQL a smaller id can be committed after a greater one, so there the numbers are compared.
        if is_postgresql() and codes.count(self._model) != len(self.ids):
            self._clear()
            self._read()

    def forget(self, ids: Sequence[int]) -> None:
        """Drop codes whose rows were deleted."""
        kept = ~self._np.isin(self.ids, ids)
        self.ids, self.documents, self.codes = self.ids[kept], self.documents[kept], self.codes[:, kept]

    def closest_to(self, vector: Any, filters: Filters) -> Callable[[int], list[int]]:
        """Return what tells the same as `_by_pgvector`, in the same order."""
        code = self._widen(self._np.packbits(vector > 0)[None, :])
        distances = self._np.bitwise_count(self.codes ^ code).sum(axis=0, dtype=self._np.uint16)
        places = self._np.arange(len(distances)) if filters == Filters() else _passing(self.documents, filters)
        order = self.ids[places[self._np.argsort(distances[places], kind="stable")]]
        return lambda wanted: [int(number) for number in order[:wanted]]

    def _read(self) -> None:
        found = list(codes.read_codes(self._model, after_id=self._last_id, code_bytes=self._code_bytes))
        ids, documents, signs = (b"".join(parts) for parts in zip(*found, strict=True)) if found else (b"", b"", b"")
        if not ids:
            return
        rows = self._np.frombuffer(signs, dtype=self._np.uint8).reshape(-1, self._code_bytes)
        self.ids = self._joined(self.ids, self._np.frombuffer(ids, dtype="<i8"))
        self.documents = self._joined(self.documents, self._np.frombuffer(documents, dtype="<i8"))
        self.codes = self._joined(self.codes, self._widen(rows))
        self._last_id = int(self.ids.max())

    def _joined(self, known: Any, new: Any) -> Any:
        return self._np.concatenate([known, new], axis=-1) if known.size else new

    def _widen(self, signs: Any) -> Any:
        """Return rows of bytes as columns of words, the last filled up with zeros."""
        if self._code_bytes != self._words * 8:
            padded = self._np.zeros((len(signs), self._words * 8), dtype=self._np.uint8)
            padded[:, : self._code_bytes] = signs
            signs = padded
        return self._np.ascontiguousarray(signs.view(self._np.uint64).T)


_known: dict[tuple[int, str, int], _Codes] = {}
_lock = threading.Lock()


def _codes_of(model: str, dimensions: int) -> _Codes:
    with _lock:
        key = (id(database.obj), model, dimensions)
        if key not in _known:
            _known.clear()  # one database and one model at a time are in use
            _known[key] = _Codes(model, dimensions)
        _known[key].extend()
        return _known[key]


def _hits(
    ranked: Sequence[tuple[int, float, Mapping[str, int]]],
    similarities: Mapping[int, float],
    terms: set[str],
    query: str,
) -> list[Hit]:
    ids = [document_id for document_id, _, _ in ranked]
    columns = [getattr(Document, name) for name in _SHOWN]
    beginning = fn.SUBSTR(Document.content, 1, _SNIPPET_CHARACTERS).alias("beginning")
    rows = {row["id"]: row for row in Document.select(*columns, beginning).where(Document.id.in_(ids)).dicts()}
    urls = _web_urls(list(rows.values()))
    hits = []
    for document_id, score, ranks in ranked:
        row = rows.get(document_id)
        if row is None:
            continue
        text = row.pop("beginning")
        shown = snippet(text, terms) if terms else snippet_of(text, query)
        why: dict[str, float] = dict(ranks)
        if document_id in similarities:
            why["similarity"] = round(similarities[document_id], 4)
        found = {name: row[name] for name in _SHOWN if name not in ("id", "project")}
        hits.append(
            Hit(
                document_id=document_id,
                project_id=row["project"],
                web_url=urls.get(document_id),
                snippet=shown,
                score=score,
                why=why,
                **found,
            )
        )
    return hits


def _web_urls(rows: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    urls: dict[tuple[str, int], str | None] = {}
    for entity_type, table in ENTITY_TABLES.items():
        wanted = {row["entity_id"] for row in rows if row["entity_type"] == entity_type}
        if wanted:
            for number, url in table.select(table.id, table.web_url).where(table.id.in_(wanted)).tuples():
                urls[entity_type, number] = url
    anchors = _first_notes([row["source_id"] for row in rows if row["source_type"] == DISCUSSION])
    found = {}
    for row in rows:
        url = urls.get((row["entity_type"], row["entity_id"]))
        if url:
            note = anchors.get(row["source_id"]) if row["source_type"] == DISCUSSION else None
            found[row["id"]] = url if note is None else f"{url}#note_{note}"
    return found


def _first_notes(discussion_ids: Sequence[int]) -> dict[int, int]:
    """Return GitLab's id of each discussion's first note, which its page has as an anchor."""
    if not discussion_ids:
        return {}
    same_thread = (
        (Note.entity_type == Discussion.entity_type)
        & (Note.entity_id == Discussion.entity_id)
        & (Note.discussion_gitlab_id == Discussion.gitlab_id)
    )
    query = Discussion.select(Discussion.id, Note.gitlab_id).join(Note, on=same_thread)
    query = query.where(Discussion.id.in_(discussion_ids)).order_by(Note.position.desc())
    return dict(query.tuples())


_SHOWN: Final = (
    "id",
    "source_type",
    "source_id",
    "entity_type",
    "entity_id",
    "project",
    "iid",
    "title",
    "author",
    "state",
    "updated_at",
)
