"""The only speaker of an embedder: texts in, vectors or typed errors out.

WordLlama runs in this process. Of its package only the two data files are read, the tokenizer's and the weights', and
the few lines that make a vector of them stand here; its own code is not imported. That imports requests and pydantic,
sets up the root logger by itself, copies the weights twice, and looks for its tokenizer in a folder that is not there,
from which it goes on to a download. What is spared is half of the time and of the memory that a process needs for its
first vector (benchmarks/embedding.py); that the vectors are the same is tested.

The other two are servers: Ollama (https://docs.ollama.com/api/embed) and whatever has OpenAI's `/v1/embeddings`
(https://platform.openai.com/docs/api-reference/embeddings/create).
"""

from __future__ import annotations

import importlib.util
import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar
from urllib.parse import quote

import msgspec
import numpy as np
import numpy.typing as npt

from lore.core import chunks
from lore.core.errors import EmbedderDownError, EmbedderError, PassingError, RefusedError, SettingError

if TYPE_CHECKING:
    import httpx
    import tokenizers

Vectors = npt.NDArray[np.float32]

OLLAMA_URL: Final = "http://127.0.0.1:11434"
OLLAMA_MODEL: Final = "nomic-embed-text"

_WORDLLAMA: Final = "l2_supercat"
_WORDLLAMA_TENSOR: Final = "embedding.weight"
# A server's answer: a number of a vector has up to 25 characters, and the widest models have 8192.
_ANSWER_BYTES: Final = 100_000
_VECTOR_BYTES: Final = 25 * 8192
_ERROR_BYTES: Final = 4_096
_PASSING_STATUSES: Final = (408, 425, 429)


class Revealable(Protocol):
    """A secret that shows itself only when asked."""

    def reveal(self) -> str:
        """Return the secret itself."""
        ...


class Embedder(Protocol):
    """Makes vectors of texts; many threads may share it, and whoever opens it closes it."""

    @property
    def model(self) -> str:
        """What made a vector, as it is stored with it: vectors of two models are never compared."""
        ...

    @property
    def dimensions(self) -> int:
        """How long a vector is; a server is asked for one the first time.

        Raises:
            LoreError: See `embed`.
        """
        ...

    @property
    def batch_size(self) -> int:
        """How many texts are best given at a time."""
        ...

    def split(self, text: str) -> list[str]:
        """Return a text in chunks that the model takes, in order and overlapping; none of a text of blanks."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one vector per text, in the same order.

        Shape: len(texts) x self.dimensions; each vector has unit length, so a dot product is the cosine.

        Args:
            texts: Chunks of `split`, or a query; none may be blank.

        Raises:
            EmbedderDownError: EMBEDDER_UNREACHABLE.
            EmbedderError: EMBEDDER_REFUSED or EMBEDDER_BAD_ANSWER.
            SettingError: TLS_UNTRUSTED, or a proxy that cannot be used.
            ValueError: A text is blank.
        """
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


def build_embedder(
    kind: str,
    *,
    url: str | None = None,
    model: str | None = None,
    token: Revealable | None = None,
    ca_file: str | None = None,
    timeout_s: float = 60.0,
    version: str = "dev",
) -> Embedder | None:
    """Return the embedder that the settings name, None for `off`; no request is made.

    Args:
        kind: `wordllama`, `ollama`, `openai` or `off`.
        url: The server, normalised; of openai all before `/embeddings`.
        model: None takes the embedder's own.
        token: Sent to this server only.
        ca_file: See `lore.http.build_client`.
        timeout_s: The longest that one request may take, with its body.
        version: Ours, told to the server.

    Raises:
        SettingError: EMBEDDER_MISSING, WordLlama is not installed; BAD_SETTING, something is missing or makes no sense.
    """
    if kind == "off":
        return None
    if kind == "wordllama":
        if model not in (None, _WORDLLAMA):
            raise SettingError("BAD_SETTING", f"LORE_EMBEDDINGS_MODEL: wordllama has no model but {_WORDLLAMA}")
        return WordLlama()
    if kind == "openai" and (url is None or model is None):
        missing = "LORE_EMBEDDINGS_URL" if url is None else "LORE_EMBEDDINGS_MODEL"
        raise SettingError("BAD_SETTING", f"LORE_EMBEDDINGS is openai, which needs {missing} too (see .env.example)")
    from lore import http  # noqa: PLC0415  # most processes embed by WordLlama alone and need no client

    client = http.build_client(ca_file=ca_file, read_s=timeout_s, write_s=timeout_s, version=version)
    if kind == "ollama":
        return Ollama(client, url or OLLAMA_URL, model or OLLAMA_MODEL, token=token, timeout_s=timeout_s)
    assert url is not None
    assert model is not None
    return OpenAI(client, url, model, token=token, timeout_s=timeout_s)


class WordLlama:
    """WordLlama's token vectors, averaged over a text; its files are read with the first one.

    Most runs change no text, and so need its name alone.

    Source: Miller, L. (2024), https://github.com/dleemiller/WordLlama

    Raises:
        SettingError: EMBEDDER_MISSING; also by what reads its files.
    """

    dimensions: Final = 256
    model: Final = f"wordllama/{_WORDLLAMA}-256"
    batch_size: Final = 256
    # An average over more tokens is about everything, and so about nothing.
    limit: Final = 128
    overlap: Final = 24

    def __init__(self) -> None:
        self._loading = threading.Lock()
        self._loaded: tuple[tokenizers.Tokenizer, npt.NDArray[np.float16]] | None = None
        with _missing_unless_known():
            self._folder = _folder_of("wordllama")
            _folder_of("tokenizers")

    def _load(self) -> tuple[tokenizers.Tokenizer, npt.NDArray[np.float16]]:
        """Return the tokenizer, and a vector of each of its tokens."""
        with self._loading, _missing_unless_known():
            if self._loaded is None:
                tokenizer = _tokenizer(self._folder / "tokenizers" / f"{_WORDLLAMA}_tokenizer_config.json")
                weights = _weights(self._folder / "weights" / f"{_WORDLLAMA}_{self.dimensions}.safetensors")
                if weights.shape != (tokenizer.get_vocab_size(), self.dimensions):
                    raise ValueError("its weights are not of its tokens")
                self._loaded = tokenizer, weights
            return self._loaded

    def split(self, text: str) -> list[str]:
        """See `Embedder.split`."""
        tokenizer, _ = self._load()
        text = _speakable(text)
        encoded = tokenizer.encode(text, add_special_tokens=False)
        starts = [start for start, _ in encoded.offsets]
        return chunks.split(text, starts, limit=self.limit, overlap=self.overlap)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.embed`; equal texts have equal vectors, whatever stands beside them."""
        _check_none_is_blank(texts)
        tokenizer, weights = self._load()
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        for start in range(0, len(texts), self.batch_size):
            batch = [_speakable(text) for text in texts[start : start + self.batch_size]]
            for place, encoded in enumerate(tokenizer.encode_batch_fast(batch, add_special_tokens=False), start):
                np.sum(weights[encoded.ids], axis=0, dtype=np.float32, out=vectors[place])
        # The length of a sum is that of the mean: both come out as the same unit vector.
        return _unit(vectors)

    def close(self) -> None:
        """See `Embedder.close`."""


class _Server:
    """An embedder that is asked by HTTP."""

    batch_size = 32
    limit: Final = 256
    overlap: Final = 32

    def __init__(
        self, client: httpx.Client, url: str, model: str, *, token: Revealable | None, timeout_s: float, kind: str
    ) -> None:
        from lore import http  # noqa: PLC0415  # see build_embedder

        self.model = f"{kind}/{model}"
        self._http = http
        self._client = client
        self._url = url
        self._name = model
        self._token = token
        self._timeout_s = timeout_s
        self._dimensions: int | None = None

    @property
    def dimensions(self) -> int:
        """See `Embedder.dimensions`."""
        if self._dimensions is None:
            self.embed(["dimensions"])
        assert self._dimensions is not None
        return self._dimensions

    def split(self, text: str) -> list[str]:
        """See `Embedder.split`; the tokens are estimated, and a chunk stays well below what models take."""
        text = _speakable(text)
        return chunks.split(text, chunks.estimated_starts(text), limit=self.limit, overlap=self.overlap)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.embed`."""
        _check_none_is_blank(texts)
        batches = [texts[start : start + self.batch_size] for start in range(0, len(texts), self.batch_size)]
        if not batches:
            return np.empty((0, self.dimensions), dtype=np.float32)
        return np.concatenate([self._embed([_speakable(text) for text in batch]) for batch in batches])

    def close(self) -> None:
        """See `Embedder.close`."""
        self._client.close()

    def _embed(self, texts: list[str]) -> Vectors:
        try:
            found = self._vectors(self._ask(self._path(), self._question(texts), len(texts)))
            return self._checked(found, len(texts))
        except EmbedderError as error:
            # A server can say the token to us, in the words that an error quotes.
            error.message = self._without_token(error.message)
            error.args = (error.message,)
            raise

    def _path(self) -> str:
        raise NotImplementedError

    def _question(self, texts: list[str]) -> dict[str, Any]:
        raise NotImplementedError

    def _vectors(self, body: bytes) -> list[list[float]]:
        raise NotImplementedError

    def _ask(self, path: str, question: dict[str, Any], count: int) -> bytes:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        content = msgspec.json.encode(question)
        request = self._client.build_request("POST", f"{self._url}{path}", headers=headers, content=content)
        try:
            with self._http.exchange(self._client, request, total_s=self._timeout_s, auth=self._authorise) as response:
                if response.status_code == 200:
                    return self._http.read_bounded(response, _ANSWER_BYTES + count * _VECTOR_BYTES)
                raise self._refusal(response)
        except PassingError as error:
            raise EmbedderDownError("EMBEDDER_UNREACHABLE", f"no vectors: {error.message}") from error
        except RefusedError as error:
            raise _bad_answer(error.message) from error

    def _authorise(self, request: httpx.Request) -> httpx.Request:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token.reveal()}"
        return request

    def _refusal(self, response: httpx.Response) -> EmbedderError:
        """Return what a status other than 200 means."""
        status = response.status_code
        try:
            said = _said(self._http.read_start(response, _ERROR_BYTES))
        except (PassingError, RefusedError):
            said = ""  # the status has said what matters
        answer = f"{self._http.place(response.url)} answers {status}{f' ({said})' if said else ''}"
        if status in _PASSING_STATUSES or status >= 500:
            wait = response.headers.get("retry-after", "")
            wait_s = float(wait) if re.fullmatch(r"[0-9]{1,6}", wait, re.ASCII) else None
            return EmbedderDownError("EMBEDDER_UNREACHABLE", f"no vectors: {answer}", retry_after_s=wait_s)
        hints = {
            401: "LORE_EMBEDDINGS_TOKEN is missing or wrong",
            403: "LORE_EMBEDDINGS_TOKEN may not do this",
            404: f"is LORE_EMBEDDINGS_URL right, and is the model {self._name} there?",
        }
        hint = f": {hints[status]}" if status in hints else ""
        return EmbedderError("EMBEDDER_REFUSED", f"no vectors: {answer}{hint}")

    def _checked(self, found: list[list[float]], count: int) -> Vectors:
        if len(found) != count:
            raise _bad_answer(f"{len(found)} vectors for {count} texts")
        lengths = {len(vector) for vector in found}
        if len(lengths) > 1 or 0 in lengths:
            raise _bad_answer("its vectors are not of one length")
        (dimensions,) = lengths
        if self._dimensions not in (None, dimensions):
            raise _bad_answer(f"a vector of {dimensions} numbers after one of {self._dimensions}")
        vectors = np.array(found, dtype=np.float64)
        with np.errstate(over="ignore"):
            norms = np.linalg.norm(vectors, axis=1)
        if not np.isfinite(norms).all() or not norms.all():
            raise _bad_answer("a vector that has no direction")
        self._dimensions = dimensions
        return _unit((vectors / norms[:, np.newaxis]).astype(np.float32))

    def _without_token(self, text: str) -> str:
        if self._token is None:
            return text
        token = self._token.reveal()
        spellings = "|".join(
            re.escape(spelling) for spelling in {token, quote(token, safe=""), json.dumps(token)[1:-1]}
        )
        return re.sub(spellings, "***", text, flags=re.IGNORECASE)


class Ollama(_Server):
    """A server of Ollama; see its page at the top."""

    batch_size = 16

    def __init__(
        self, client: httpx.Client, url: str, model: str, *, token: Revealable | None = None, timeout_s: float = 60.0
    ) -> None:
        super().__init__(client, url, model, token=token, timeout_s=timeout_s, kind="ollama")

    def _path(self) -> str:
        return "/api/embed"

    def _question(self, texts: list[str]) -> dict[str, Any]:
        # What it would not take whole it cuts: the end of one chunk of odd text is no reason to fail a run.
        return {"model": self._name, "input": texts, "truncate": True}

    def _vectors(self, body: bytes) -> list[list[float]]:
        return _decoded(_OLLAMA, body).embeddings


class OpenAI(_Server):
    """A server that has OpenAI's `/v1/embeddings`; see its page at the top."""

    batch_size = 64

    def __init__(
        self, client: httpx.Client, url: str, model: str, *, token: Revealable | None = None, timeout_s: float = 60.0
    ) -> None:
        super().__init__(client, url, model, token=token, timeout_s=timeout_s, kind="openai")

    def _path(self) -> str:
        return "/embeddings"

    def _question(self, texts: list[str]) -> dict[str, Any]:
        return {"model": self._name, "input": texts, "encoding_format": "float"}

    def _vectors(self, body: bytes) -> list[list[float]]:
        rows = _decoded(_OPENAI, body).data
        # Nothing says that they come in the order of the texts.
        if sorted(row.index for row in rows) != list(range(len(rows))):
            raise _bad_answer("its vectors are not numbered by their texts")
        return [row.embedding for row in sorted(rows, key=lambda row: row.index)]


class _OllamaAnswer(msgspec.Struct):
    embeddings: list[list[float]]


class _OpenAIRow(msgspec.Struct):
    index: int
    embedding: list[float]


class _OpenAIAnswer(msgspec.Struct):
    data: list[_OpenAIRow]


_OLLAMA: Final = msgspec.json.Decoder(_OllamaAnswer)
_OPENAI: Final = msgspec.json.Decoder(_OpenAIAnswer)


_Answer = TypeVar("_Answer")


def _decoded(decoder: msgspec.json.Decoder[_Answer], body: bytes) -> _Answer:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # Its words quote no value of the body.
        raise _bad_answer(f"it is not of the shape that was asked for ({str(error)[:100]})") from error


def _bad_answer(what: str) -> EmbedderError:
    return EmbedderError("EMBEDDER_BAD_ANSWER", f"the embedder's answer cannot be used: {what}")


def _said(body: bytes) -> str:
    """Return the words of a server's refusal, `{"error": "…"}` or `{"error": {"message": "…"}}`; else nothing."""
    try:
        whole = json.loads(body)
    except ValueError:
        return ""
    error = whole.get("error") if isinstance(whole, dict) else None
    words = error.get("message") if isinstance(error, dict) else error
    if not isinstance(words, str):
        return ""
    return "".join(sign if sign.isprintable() else " " for sign in words).strip()[:200]


@contextmanager
def _missing_unless_known() -> Iterator[None]:
    try:
        yield
    except (ImportError, OSError, ValueError, KeyError) as error:
        raise SettingError(
            "EMBEDDER_MISSING",
            "LORE_EMBEDDINGS is wordllama, but its package is not installed or not the one that lore knows "
            f"({type(error).__name__}); install lore anew, or set LORE_EMBEDDINGS to off, ollama or openai",
        ) from error


def _folder_of(package: str) -> Path:
    """Return where an installed package's files are; its code is not run for it."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(package)
    return Path(found.origin).parent


def _tokenizer(path: Path) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer  # noqa: PLC0415  # not there on every platform

    # Read here, as the library's own error for a file that is missing is a plain Exception.
    text = path.read_bytes()
    try:
        read = Tokenizer.from_buffer(text)
    except Exception as error:  # the library has no narrower one
        raise ValueError("its tokenizer cannot be read") from error
    read.no_padding()
    read.no_truncation()
    return read


def _weights(path: Path) -> npt.NDArray[np.float16]:
    """Return a safetensors file's one tensor, mapped: only what is used is read, and processes share it.

    Source: https://huggingface.co/docs/safetensors/index#format
    """
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > 100_000:
            raise ValueError("its weights cannot be read")
        tensor = json.loads(file.read(header_bytes))[_WORDLLAMA_TENSOR]
        if tensor["dtype"] != "F16":
            raise ValueError("its weights are not of the kind that is known")
        rows, columns = tensor["shape"]
        offset = 8 + header_bytes + tensor["data_offsets"][0]
        return np.asarray(np.memmap(file, dtype="<f2", mode="r", offset=offset, shape=(rows, columns)))


def _speakable(text: str) -> str:
    """Return the text with a question mark for each half of a surrogate pair, which no encoder takes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _check_none_is_blank(texts: Sequence[str]) -> None:
    if not all(text.strip() for text in texts):
        raise ValueError("a blank text has no vector")


def _unit(vectors: Vectors) -> Vectors:
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors
