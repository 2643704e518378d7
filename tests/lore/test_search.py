"""What a search finds, in which order, and that no query is ever an error, on both databases."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies

from lore import search as searching
from lore.core.documents import Note, Source, Thread, build
from lore.core.errors import PassingError, UsageError
from lore.search import Filters, Found, search
from models import codes
from models.base import database, is_postgresql, write
from models.content import Discussion, Issue
from models.content import Note as NoteRow
from models.documents import Document, Embedding, save
from models.ledger import Project

DIMENSIONS = 64


class WordVectors:
    """An embedder without a model: a fixed direction for each word, added up."""

    model = "test/words"

    def embed(self, texts: Any) -> Any:
        return np.stack([self._one(text) for text in texts])

    def _one(self, text: str) -> Any:
        total = np.zeros(DIMENSIONS, dtype=np.float32)
        for word in text.lower().split() or ["nothing"]:
            seed = int.from_bytes(hashlib.sha256(word.encode("utf-8", "replace")).digest()[:4])
            total += np.random.default_rng(seed).standard_normal(DIMENSIONS, dtype=np.float32)
        return total / np.linalg.norm(total)


EMBEDDER = WordVectors()


class Broken(WordVectors):
    def embed(self, texts: Any) -> Any:
        raise PassingError("GITLAB_UNREACHABLE", "no answer from the embedder")


@pytest.fixture
def project(ledger: Any) -> int:
    searching._known.clear()
    return int(
        Project.insert(gitlab_url="http://gitlab.test", gitlab_id=1, path_with_namespace="tern/harbour").execute()
    )


def add(project: int, number: int, title: str, text: str = "", **more: Any) -> list[int]:
    with write():
        return save(source := a_source(project, number, title, text, **more), build(source)).ids


def a_source(project: int, number: int, title: str, text: str = "", **more: Any) -> Source:
    values = {
        "entity_type": "issue",
        "entity_id": number,
        "iid": number,
        "state": "opened",
        "updated_at": number * 1000,
    }
    return Source(project_id=project, title=title, description=text, **(values | more))


def embed(document_id: int, text: str, *, content_hash: str | None = None, model: str = EMBEDDER.model) -> int:
    vector = EMBEDDER.embed([text])[0]
    known = Document.get_by_id(document_id).content_hash
    return int(
        Embedding.insert(
            document=document_id,
            chunk_index=Embedding.select().where(Embedding.document == document_id, Embedding.model == model).count(),
            model=model,
            chunk_hash="",
            content_hash=content_hash or known,
            code=np.packbits(vector > 0).tobytes(),
            vector=vector.astype("<f4").tobytes(),
        ).execute()
    )


def ids(found: Found) -> list[int]:
    return [hit.document_id for hit in found.hits]


def test_a_word_is_found_however_it_is_written(project: int) -> None:
    [one] = add(project, 1, "fetch_page forgets the Träger", "see lore/core/terms.py and straße 🎉 日本語テキスト")
    add(project, 2, "something else")

    for query in ("fetchPage", "FETCH page", "trager", "STRASSE", "terms.py", "core/terms", "🎉", "本語", "日", "#1"):
        assert ids(search(query, mode="text")) == [one] or query == "#1", query


def test_a_word_in_the_title_weighs_more_than_one_in_the_text(project: int) -> None:
    [body] = add(project, 1, "about boats", "the anchor " + "of a boat " * 10)
    [title] = add(project, 2, "the anchor", "of a boat " * 10)

    assert ids(search("anchor", mode="text")) == [title, body]


def test_all_of_the_words_come_before_some_of_them(project: int) -> None:
    [some] = add(project, 1, "tide tide tide")
    [every] = add(project, 2, "a long text about many things", "where the tide is, and the gauge as well")

    assert ids(search("tide gauge", mode="text")) == [every, some]


def test_a_whole_question_is_answered_by_its_rare_words(project: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from models import fulltext

    monkeypatch.setattr(fulltext, "_COMMON", 1)
    add(project, 1, "when does the boat leave")
    add(project, 2, "when does the boat arrive")
    [gauge] = add(project, 3, "a gauge of the harbour")
    if is_postgresql():
        database.execute_sql("ANALYZE document_terms")

    assert ids(search("when does the boat pass the gauge", mode="text")) == [gauge]


def test_of_very_many_matches_the_newest_are_ranked(project: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from models import fulltext

    monkeypatch.setattr(fulltext, "_MAX_RANKED", 2)
    monkeypatch.setattr(fulltext, "_MAX_RANKED_POSTGRESQL", 2)
    numbers = [add(project, number, "the tide")[0] for number in range(1, 5)]
    add(project, 5, "a gauge", author="ida")
    add(project, 6, "a gauge")

    found, complete = search("tide", mode="text"), search("gauge", mode="text")

    assert ids(found) == numbers[:1:-1]
    [warned] = found.warnings
    assert (warned.code, "newest 2" in warned.message) == ("SEARCHED_IN_PART", True)
    assert (len(complete.hits), complete.warnings) == (2, [])
    # Only what passes the filters is counted.
    assert search("gauge", mode="text", filters=Filters(author="ida")).warnings == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_of_a_common_word_the_newest_documents_are_found_wherever_they_stand(
    project: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models import fulltext

    monkeypatch.setattr(fulltext, "_MAX_RANKED_POSTGRESQL", 2)
    made = []
    for number in range(1, 41):
        database.execute_sql(f"ALTER SEQUENCE documents_id_seq RESTART WITH {number * 1_000}")
        made += add(project, number, "the tide", author="ida" if number < 20 else "olaf")
    database.execute_sql("ANALYZE document_terms")
    asked: list[str] = []
    monkeypatch.setattr(database.obj, "execute_sql", _listening(database.obj.execute_sql, asked))

    found = [search("tide", mode="text", filters=Filters(author=author)) for author in (None, "olaf", "ida")]

    assert [ids(one) for one in found] == [made[:-3:-1], made[:-3:-1], made[18:16:-1]]
    assert {warned.code for one in found for warned in one.warnings} == {"SEARCHED_IN_PART"}
    # Of the last few thousand ids, and of all where those have too few.
    few, more = "('tide') & ('#35' | '#36' | '#37' | '#38' | '#39')", "('tide') & ('##7' | '##8' | '##9')"
    assert asked == [few, more, more, "'tide'"]


def _listening(execute: Any, asked: list[str]) -> Any:
    def listening(sql: str, parameters: Any = None) -> Any:
        if sql.startswith("WITH newest"):
            asked.append(parameters[0])
        return execute(sql, parameters)

    return listening


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_words_and_filters_find_the_same_whichever_is_read_first(project: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from models import fulltext

    for number in range(1, 31):
        state, labels = ("opened", ("bug",)) if number % 3 else ("closed", ("bug", "x"))
        add(project, number, "tide " * (number % 7), "gauge " * (number % 2), state=state, labels=labels)

    def answers(*, passes_few: bool) -> list[list[int]]:
        monkeypatch.setattr(fulltext, "_passes_few", lambda *_: passes_few)
        asked = [Filters(state="closed"), Filters(labels=("x", "bug")), Filters(types=("issue",), since_ms=9_000)]
        return [ids(search("tide gauge", mode="text", filters=filters)) for filters in asked]

    assert answers(passes_few=True) == answers(passes_few=False)
    assert all(answers(passes_few=True))


def test_punctuation_is_looked_for_as_it_stands(project: int) -> None:
    [arrow] = add(project, 1, "a pointer", "node->next")
    [drop] = add(project, 2, "robert", 'students"); DROP TABLE documents; --')

    assert ids(search("->")) == [arrow]
    assert ids(search('");')) == [drop]
    assert ids(search('"); DROP')) == [drop]
    hit = search("->").hits[0].snippet
    assert [hit.text[a:b] for a, b in hit.marks] == ["->"]


def test_only_the_newest_texts_are_looked_through_for_punctuation_and_that_is_said(
    project: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models import fulltext

    monkeypatch.setattr(fulltext, "_MAX_SCANNED", 1)
    add(project, 1, "a pointer", "node->next")
    [newest] = add(project, 2, "a pointer", "node->next")

    found = search("->", mode="text")

    assert ids(found) == [newest]
    assert [warned.code for warned in found.warnings] == ["SEARCHED_IN_PART"]


def test_filters_narrow_both_ways_of_searching(project: int) -> None:
    other = int(Project.insert(gitlab_url="http://gitlab.test", gitlab_id=2, path_with_namespace="tern/x").execute())
    notes = (Note("a tide?", "olaf", updated_at=9000), Note("a tide!", "ida", updated_at=9000))
    issue, thread = add(
        project, 1, "tide", author="ida", labels=("bug", 'a "b"'), threads=(Thread(77, notes),), state="closed"
    )
    [second] = add(other, 2, "tide", entity_type="merge_request", labels=("bugs", "50%_\\"))
    for document_id in (issue, thread, second):
        embed(document_id, "tide")

    def both(**filters: Any) -> set[int]:
        by_words = set(ids(search("tide", mode="text", filters=Filters(**filters))))
        by_meaning = set(ids(search("tide", mode="semantic", filters=Filters(**filters), embedder=EMBEDDER)))
        assert by_words == by_meaning
        return by_words

    assert both() == {issue, thread, second}
    assert both(project_ids=(other,)) == {second}
    assert both(project_ids=(project, other)) == {issue, thread, second}
    assert both(types=("issue",)) == {issue}
    assert both(types=("issue", "merge_request")) == {issue, second}
    assert both(types=("discussion",)) == {thread}
    assert both(labels=("bug",)) == {issue, thread}
    assert both(labels=("bug", 'a "b"')) == {issue, thread}
    assert both(labels=("bu",)) == set()
    assert both(labels=("bu%",)) == set()
    assert both(labels=("b_g",)) == set()
    assert both(labels=("50%_\\",)) == {second}
    assert both(author="olaf") == {thread}
    assert both(state="closed") == {issue, thread}
    assert both(since_ms=2000) == {thread, second}
    assert both(project_ids=(project,), state="opened") == set()


def test_meaning_is_ordered_by_the_whole_vectors_and_fused_with_words(project: int) -> None:
    [near] = add(project, 1, "unrelated words")
    [same] = add(project, 2, "tide gauge")
    [far] = add(project, 3, "lamp")
    embed(near, "tide gauge harbour")
    embed(same, "tide gauge")
    embed(far, "lamp")

    semantic = search("tide gauge", mode="semantic", embedder=EMBEDDER)
    hybrid = search("tide gauge", embedder=EMBEDDER)

    assert ids(semantic) == [same, near, far]
    assert semantic.hits[0].why == {"semantic": 1, "similarity": 1.0}
    assert ids(hybrid) == [same, near, far]
    assert hybrid.hits[0].why == {"text": 1, "semantic": 1, "similarity": 1.0}
    assert hybrid.mode == "hybrid"


def test_a_vector_of_another_text_or_model_is_never_searched(project: int) -> None:
    [stale] = add(project, 1, "tide")
    [other_model] = add(project, 2, "tide")
    [current] = add(project, 3, "lamp")
    embed(stale, "tide", content_hash="of an older text")
    embed(other_model, "tide", model="another/model")
    embed(current, "lamp")

    assert ids(search("tide", mode="semantic", embedder=EMBEDDER)) == [current]


def test_more_candidates_are_read_when_the_closest_are_of_older_texts(
    project: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "_CANDIDATES", 4)
    for number in range(1, 9):
        [document_id] = add(project, number, f"tide {number}")
        embed(document_id, "tide", content_hash="of an older text")
    [current] = add(project, 99, "lamp")
    embed(current, "lamp")

    assert ids(search("tide", mode="semantic", embedder=EMBEDDER)) == [current]


def test_how_many_vectors_of_older_texts_are_passed_over_is_bounded_and_said(
    project: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "_CANDIDATES", 4)
    monkeypatch.setattr(searching, "_MOST_CANDIDATES", 8)
    for number in range(1, 9):
        [document_id] = add(project, number, f"tide {number}")
        embed(document_id, "tide", content_hash="of an older text")
    [farther] = add(project, 99, "lamp")
    embed(farther, "lamp")

    cut = search("tide", mode="semantic", embedder=EMBEDDER)
    monkeypatch.setattr(searching, "_MOST_CANDIDATES", 9)
    whole = search("tide", mode="semantic", embedder=EMBEDDER)

    assert ids(cut) == []
    assert [(warned.code, "lore embed" in warned.message) for warned in cut.warnings] == [("SEARCHED_IN_PART", True)]
    assert ids(whole) == [farther]


def test_who_asks_for_many_hits_gets_them(project: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "_CANDIDATES", 8)
    monkeypatch.setattr(searching, "_DEPTH", 4)
    for number in range(1, 31):
        [document_id] = add(project, number, f"tide {number}")
        embed(document_id, f"tide {number}")

    assert len(search("tide", mode="semantic", limit=30, embedder=EMBEDDER).hits) == 30


@pytest.mark.parametrize("limit", [1, 9, 20, 30])
def test_who_asks_for_many_hits_gets_them_though_each_has_many_chunks(
    project: int, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(searching, "_CANDIDATES", 8)
    monkeypatch.setattr(searching, "_DEPTH", 4)
    for number in range(1, 31):
        [document_id] = add(project, number, f"tide {number}")
        for chunk in range(5):
            embed(document_id, f"tide {number} {chunk}")

    assert len(search("tide", mode="semantic", limit=limit, embedder=EMBEDDER).hits) == limit


def test_a_process_sees_what_was_embedded_and_deleted_since_its_last_search(project: int) -> None:
    [first] = add(project, 1, "tide")
    gone = embed(first, "tide")
    assert ids(search("tide", mode="semantic", embedder=EMBEDDER)) == [first]

    Embedding.delete().where(Embedding.id == gone).execute()
    assert ids(search("tide", mode="semantic", embedder=EMBEDDER)) == []
    [second] = add(project, 2, "lamp")
    embed(second, "lamp")
    embed(first, "harbour")

    assert set(ids(search("tide", mode="semantic", embedder=EMBEDDER))) == {first, second}


ASKED = ["tide", "tide gauge harbour", "lamp quay berth", "pilot crane"]
NARROWED = [Filters(), Filters(state="closed"), Filters(author="ida", labels=("bug",)), Filters(types=("discussion",))]


@pytest.mark.parametrize("candidates", [20, 400])
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_pgvector_and_this_process_find_the_same(
    project: int, candidates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "_CANDIDATES", candidates)
    dice = random.Random(4)
    for number in range(1, 121):
        words = [dice.choice(" ".join(ASKED).split()) for _ in range(4)]
        threads = (Thread(number, (Note("a quay?", "ida"), Note("a quay!", "olaf"))),) if number % 5 == 0 else ()
        more = {"author": dice.choice(["ida", "olaf"]), "labels": tuple(dice.sample(["bug", "x"], number % 3))}
        for document_id in add(project, number, "t", threads=threads, state=dice.choice(["opened", "closed"]), **more):
            content_hash = "of an older text" if number % 7 == 0 else None
            embed(document_id, " ".join(words), content_hash=content_hash)
            if number % 4 == 0:
                embed(document_id, "tide", model="another/model")
                embed(document_id, dice.choice(words))

    def answers() -> list[list[tuple[int, dict[str, float]]]]:
        return [
            [
                (hit.document_id, hit.why)
                for hit in search(asked, mode="semantic", filters=filters, embedder=EMBEDDER).hits
            ]
            for asked in ASKED
            for filters in NARROWED
        ]

    assert codes.has_pgvector()
    by_pgvector = answers()
    database.execute_sql("DROP EXTENSION vector")
    assert not codes.has_pgvector()

    assert answers() == by_pgvector
    assert all(by_pgvector)


def test_what_passes_the_filters_is_found_though_others_are_all_closer(
    project: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "_CANDIDATES", 5)
    for number in range(1, 61):
        [document_id] = add(project, number, f"t {number}", author="ida" if number > 30 else "olaf")
        embed(document_id, "lamp" if number > 30 else "tide")
    database.execute_sql("ANALYZE")  # half of them pass, so PostgreSQL first looks among the closest

    found = search("tide", mode="semantic", filters=Filters(author="ida"), limit=5, embedder=EMBEDDER)

    assert [hit.author for hit in found.hits] == ["ida"] * 5


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_what_pgvector_compares_is_always_of_the_code_that_is_there(project: int) -> None:
    [one] = add(project, 1, "tide")
    number = embed(one, "tide")
    vector = EMBEDDER.embed(["lamp"])[0]

    Embedding.update(code=np.packbits(vector > 0).tobytes()).where(Embedding.id == number).execute()

    [signs] = database.execute_sql("SELECT signs::text FROM embeddings").fetchone()
    assert signs == "".join("1" if one > 0 else "0" for one in vector)


def test_a_document_counts_once_however_many_chunks_are_close(project: int) -> None:
    [first] = add(project, 1, "tide")
    for text in ("tide", "tide gauge", "lamp"):
        embed(first, text)

    [hit] = search("tide", mode="semantic", embedder=EMBEDDER).hits

    assert hit.why["similarity"] == 1.0


def test_without_an_embedder_hybrid_is_text_and_says_so(project: int) -> None:
    [one] = add(project, 1, "tide")

    found = search("tide")
    broken = search("tide", embedder=Broken())
    empty = search("tide", embedder=EMBEDDER)

    assert (ids(found), found.mode, found.warnings[0].code) == ([one], "text", "EMBEDDINGS_OFF")
    assert (ids(broken), broken.mode, broken.warnings[0].code) == ([one], "text", "GITLAB_UNREACHABLE")
    assert (ids(empty), empty.mode, empty.warnings[0].code) == ([one], "hybrid", "NO_VECTORS")
    with pytest.raises(UsageError):
        search("tide", mode="semantic")
    with pytest.raises(PassingError):
        search("tide", mode="semantic", embedder=Broken())


def test_a_hit_has_the_page_of_its_entity_and_of_a_discussion_the_note(project: int) -> None:
    common = {"observed_at": 1, "raw": "{}"}
    issue = Issue.insert(
        project=project,
        iid=7,
        gitlab_id=1,
        state="opened",
        created_at=1,
        updated_at=1,
        web_url="http://g/i/7",
        **common,
    ).execute()
    child = {"entity_type": "issue", "entity_id": issue, **common}
    discussion = Discussion.insert(gitlab_id="d", position=0, **child).execute()
    for position, number in ((1, 501), (0, 500)):
        NoteRow.insert(discussion_gitlab_id="d", gitlab_id=number, position=position, **child).execute()
    add(project, issue, "tide", entity_id=issue, iid=7, threads=(Thread(discussion, (Note("tide"), Note("tide yes"))),))

    hits = {hit.source_type: hit for hit in search("tide", mode="text").hits}

    assert hits["issue"].web_url == "http://g/i/7"
    assert hits["discussion"].web_url == "http://g/i/7#note_500"
    assert (hits["discussion"].iid, hits["discussion"].title) == (7, "tide")
    shown = hits["issue"].snippet
    assert {shown.text[a:b] for a, b in shown.marks} == {"tide"}


def test_a_document_that_is_gone_is_not_found(project: int) -> None:
    add(project, 1, "tide")
    Document.delete().execute()

    assert search("tide", mode="text").hits == []


HOSTILE = [
    "", " ", "\0", '"', "'", '"); DROP TABLE documents; --', "a AND", "NOT", "OR OR", "NEAR(a b)", "title:x", "x*",
    "a & b | !c", "<->", ":*", "\\", "%", "_", "%s %(x)s ?", "{}", "🎉", "👩‍💻", "日本語", "\u202e\u200b", "a" * 5000,
    "word " * 5000, "-" * 5000, "e\u0301", "ﬁ", "İ", "ß", "\ufffd", "𝔘𝔫𝔦", "٣", "½", "AND", "null", "\x1b[31m", "^x",
]  # fmt: skip


@pytest.mark.parametrize("query", HOSTILE)
def test_any_text_is_a_legal_query_and_finds_the_document_that_says_it(project: int, query: str) -> None:
    [one] = add(project, 1, "before", f"before {query} after")
    embed(one, "before")

    for mode in ("text", "hybrid", "semantic"):
        found = search(query, mode=mode, embedder=EMBEDDER)
        visible = query.strip().strip("\0\u202e\u200b")
        if visible and "\x1b" not in visible:
            assert ids(found) == [one], mode
            text = found.hits[0].snippet.text
            assert all(0 <= a < b <= len(text) for a, b in found.hits[0].snippet.marks)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(query=strategies.text(max_size=60), text=strategies.text(max_size=200))
def test_no_query_and_no_text_is_ever_an_error(project: int, query: str, text: str) -> None:
    add(project, 1, text[:20], f"{text} {query}")

    search(query, mode="text", filters=Filters(labels=(query.replace("\0", ""),)))
    search(query, mode="text")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(word=strategies.from_regex(r"\A\w{1,12}\Z"))
def test_every_word_of_a_text_finds_it(project: int, word: str) -> None:
    [one] = add(project, 1, "before", f"before {word} after")

    if word.strip("_"):
        assert ids(search(word, mode="text")) == [one]
