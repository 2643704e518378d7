"""What a text can be found by: one reading of words for documents and queries, the same on every database.

A term holds letters and digits only, so that nothing a user types is ever a search engine's syntax, and a database
that takes it as it is neither folds nor splits it again. An identifier is found whole and by its parts; writing without
spaces by its characters and pairs of them; an emoji or another symbol by a word made of its number. Punctuation has
no terms.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

# A line of base64 is one word to a computer; nobody types more of it than this.
MAX_TERM_LENGTH: Final = 64
MAX_QUERY_WORDS: Final = 32
_MAX_PARTS: Final = 8


@dataclass(frozen=True)
class Word:
    """One word of a query: found where `whole` stands, or all of the parts.

    Attributes:
        whole: The word as one term.
        parts: Its terms by themselves; empty where there is nothing to take apart.
    """

    whole: str
    parts: tuple[str, ...] = ()

    @property
    def terms(self) -> tuple[str, ...]:
        """Return every term that a document may have for this word."""
        return (self.whole, *self.parts)


def document_terms(text: str) -> list[str]:
    """Return the terms of a document's text, in order, repeated as often as they stand there."""
    found: list[str] = []
    for run in _RUN.findall(text):
        found += _document_terms(run)
    return found


def query_words(text: str) -> list[Word]:
    """Return the words of a query, each once, the first 32 of them; empty where it has none (`->`, `");`)."""
    words: dict[Word, None] = {}
    for run in _RUN.findall(text):
        words.update(dict.fromkeys(_query_words(run)))
        if len(words) >= MAX_QUERY_WORDS:
            break
    return list(words)[:MAX_QUERY_WORDS]


def runs(text: str) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """Yield where each run of word characters stands in a text, and its terms."""
    for found in _RUN.finditer(text):
        yield found.start(), found.end(), _document_terms(found[0])


@lru_cache(maxsize=100_000)
def _document_terms(run: str) -> tuple[str, ...]:
    found: list[str] = []
    for kind, word in _pieces(run):
        if kind is _UNSPACED:
            found += word
            found += _pairs(word)
        else:
            whole, parts = _take_apart(word)
            found.append(whole)
            found += parts
    return tuple(term for term in found if term)


def _query_words(run: str) -> list[Word]:
    found = []
    for kind, word in _pieces(run):
        if kind is _UNSPACED:
            found += [Word(term) for term in (_pairs(word) if len(word) > 1 else word)]
        else:
            found.append(Word(*_take_apart(word)))
    return [word for word in found if word.whole]


def _pieces(run: str) -> Iterator[tuple[object, str]]:
    """Split a run of word characters where the writing changes; ASCII keeps its case, the rest is folded."""
    if run.isascii():
        yield _SPACED, run
        return
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", run).casefold())
    kept = "".join(c for c in folded if c in _VOICED or unicodedata.category(c) not in ("Mn", "Me", "Cf"))
    folded = unicodedata.normalize("NFC", kept)
    for found in _writing().finditer(folded):
        if found["unspaced"]:
            yield _UNSPACED, found["unspaced"]
        elif found["spaced"]:
            yield _SPACED, found["spaced"]
        elif unicodedata.category(found[0]) in ("So", "Sm", "Sc"):
            yield _SPACED, f"u{ord(found[0]):x}"


def _take_apart(word: str) -> tuple[str, tuple[str, ...]]:
    """Return a word as one term, and the parts it is written of (`fetchPage`, `fetch_page`), if several."""
    whole = word.replace("_", "").lower()[:MAX_TERM_LENGTH]
    if len(word) > MAX_TERM_LENGTH:
        return whole, ()
    parts = _PART.findall(word) if word.isascii() else [part for part in word.split("_") if part]
    if not 1 < len(parts) <= _MAX_PARTS:
        return whole, ()
    return whole, tuple(part.lower() for part in parts)


def _pairs(word: str) -> list[str]:
    return [word[index : index + 2] for index in range(len(word) - 1)]


_SPACED: Final = object()
_UNSPACED: Final = object()
_VOICED: Final = "\u3099\u309a"  # they make another kana, not the same one with an accent
# Beyond ASCII everything but controls, spaces and the usual punctuation; `_pieces` looks closer.
_RUN: Final = re.compile(
    "[0-9A-Za-z_\u00a2-\u00a6\u00a8-\u00aa\u00ac-\u00b5\u00b8-\u00ba\u00bc-\u00be\u00c0-\u1fff"
    "\u200b-\u200f\u202a-\u202e\u2060-\u2fff\u3004-\u3007\u3012-\U0010ffff]+"
)
_PART: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z0-9]+")
_UNSPACED_SCRIPTS: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3041-\u3096\u309d-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana, han
)


@cache  # milliseconds to compile, and most queries are ASCII
def _writing() -> re.Pattern[str]:
    return re.compile(
        rf"(?P<unspaced>[{_UNSPACED_SCRIPTS}]+)|(?P<spaced>(?:(?![{_UNSPACED_SCRIPTS}])\w)+)|.", re.DOTALL
    )
