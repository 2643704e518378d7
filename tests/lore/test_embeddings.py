"""Embedders: WordLlama for real and offline, and servers on a loopback address with every fault they may have."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lore.core.errors import CODES, EmbedderDownError, EmbedderError, Exit, SettingError
from lore.embeddings import Embedder, build_embedder
from lore.settings import Secret

TOKEN = "sk-S3cret/of+an=embedder"
TEXTS = ["The pier light blinks twice.", "", "Fähre verspätet 🎉", "crane() -> None", "日本語の課題", "a" * 3000]
Answer = tuple[int, dict[str, str], bytes]


# WordLlama


@pytest.fixture(scope="module")
def wordllama() -> Iterator[Embedder]:
    built = build_embedder("wordllama")
    assert built is not None
    yield built
    built.close()


def test_vectors_have_unit_length_and_equal_texts_equal_ones_in_any_company(wordllama: Embedder) -> None:
    texts = [text for text in TEXTS if text] * 70

    vectors = wordllama.embed(texts)

    assert vectors.shape == (len(texts), wordllama.dimensions)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    for text, vector in zip(texts, vectors, strict=True):
        assert np.array_equal(wordllama.embed([text])[0], vector)


def test_what_means_the_same_is_nearer_than_what_does_not(wordllama: Embedder) -> None:
    asked, near, far = wordllama.embed(["the ferry is late", "delay of the boat", "unit tests of the tokenizer"])

    assert asked @ near > asked @ far


def test_no_text_at_all_has_no_vectors_and_a_blank_one_is_refused(wordllama: Embedder) -> None:
    assert wordllama.embed([]).shape == (0, 256)
    for blank in ("", " \n"):
        with pytest.raises(ValueError, match="blank"):
            wordllama.embed(["a", blank])


def test_any_text_has_chunks_and_vectors(wordllama: Embedder) -> None:
    for text in ("\x00", "\ud800 half a pair", "\u200d", "<s></s><unk>", "x" * 50_000, "🎉" * 5_000):
        chunks = wordllama.split(text)

        assert chunks
        assert np.isfinite(wordllama.embed(chunks)).all()


def test_a_chunk_of_prose_has_at_most_the_tokens_of_the_limit(wordllama: Any) -> None:
    text = "".join(f"Crew {n} moved the buoy, and wrote it down: berth {n % 7}.\n\n" for n in range(400))

    tokenizer, _ = wordllama._load()
    counts = [len(tokenizer.encode(chunk, add_special_tokens=False).ids) for chunk in wordllama.split(text)]

    # The first word of a chunk can be another token by itself than it was in the text.
    assert max(counts) <= wordllama.limit + 1
    assert min(counts[:-1]) >= wordllama.limit // 2


def python(script: str, *args: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *args],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "TOKENIZERS_PARALLELISM": "false"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )


OFFLINE = """
import sys
def refuse(event, args):
    if event.startswith(("socket.", "urllib.", "http.", "subprocess.")):
        raise RuntimeError(event)
sys.addaudithook(refuse)
from lore.embeddings import build_embedder
embedder = build_embedder("wordllama")
assert embedder.embed(embedder.split("no request is ever made")).shape == (1, 256)
import logging
assert not logging.getLogger().handlers
print(*sorted({"wordllama", "requests", "pydantic", "httpx", "safetensors"} & set(sys.modules)))
"""


def test_wordllama_opens_no_socket_imports_no_client_and_writes_no_file(tmp_path: Path) -> None:
    said = python(OFFLINE, home=tmp_path)

    assert said.stdout.strip() == ""
    assert list(tmp_path.iterdir()) == []


THEIRS = """
import json, pathlib, sys
import wordllama
model = wordllama.WordLlama.load(cache_dir=pathlib.Path(wordllama.__file__).parent, disable_download=True)
print(json.dumps(model.embed(json.loads(sys.argv[1]), norm=True).tolist()))
"""


def test_the_vectors_are_those_of_the_library_s_own_code(wordllama: Embedder, tmp_path: Path) -> None:
    texts = [text for text in TEXTS if text]

    theirs = np.array(json.loads(python(THEIRS, json.dumps(texts), home=tmp_path).stdout))

    assert np.allclose(wordllama.embed(texts), theirs, atol=1e-5)


@pytest.mark.parametrize("missing", ["wordllama", "tokenizers"])
def test_where_wordllama_is_not_installed_the_setting_is_wrong(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)

    with pytest.raises(SettingError) as caught:
        build_embedder("wordllama")

    assert caught.value.code == "EMBEDDER_MISSING"
    assert caught.value.exit == Exit.CONFIGURATION


def test_a_package_whose_files_are_others_is_not_the_one_that_lore_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "wordllama"
    (folder / "tokenizers").mkdir(parents=True)
    (folder / "weights").mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for content in (None, "", "{}", '{"version": "9"}'):
        if content is not None:
            (folder / "tokenizers/l2_supercat_tokenizer_config.json").write_text(content)

        built = build_embedder("wordllama")
        assert built is not None
        with pytest.raises(SettingError) as split:
            built.split("it is late")
        with pytest.raises(SettingError) as embedded:
            built.embed(["it is late"])

        assert split.value.code == embedded.value.code == "EMBEDDER_MISSING"


def test_a_process_that_embeds_nothing_reads_no_model(tmp_path: Path) -> None:
    said = python(
        "import sys\n"
        "from lore.embeddings import build_embedder\n"
        "embedder = build_embedder('wordllama')\n"
        "print(embedder.model, embedder.dimensions, 'tokenizers' in sys.modules)\n"
        "embedder.split('now it is needed')\n"
        "print('tokenizers' in sys.modules)\n",
        home=tmp_path,
    )

    assert said.stdout.split() == ["wordllama/l2_supercat-256", "256", "False", "True"]


# which embedder


def test_off_is_no_embedder() -> None:
    assert build_embedder("off") is None


@pytest.mark.parametrize(
    ("kind", "named", "missing"),
    [
        ("openai", {"model": "m"}, "LORE_EMBEDDINGS_URL"),
        ("openai", {"url": "http://127.0.0.1:9"}, "LORE_EMBEDDINGS_MODEL"),
        ("wordllama", {"model": "bert"}, "LORE_EMBEDDINGS_MODEL"),
    ],
)
def test_what_is_missing_or_makes_no_sense_is_named(kind: str, named: dict[str, str], missing: str) -> None:
    with pytest.raises(SettingError, match=missing) as caught:
        build_embedder(kind, **named)  # type: ignore[arg-type]

    assert caught.value.code == "BAD_SETTING"


# servers


class Server:
    """A server of both shapes; `answer` gets each question, and `asked` is what came."""

    def __init__(self) -> None:
        self.answer: Callable[[Any], Answer] = self.right
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.is_over = threading.Event()
        self.url = ""
        self.drops = 0  # blanks that follow a body, one at a time
        self.kind = "ollama"

    def vector(self, text: str) -> list[float]:
        return [float(len(text)), float(ord(text[0])), -1.5, 2e-3]

    def right(self, question: Any) -> Answer:
        vectors = [self.vector(text) for text in question["input"]]
        if self.kind == "ollama":
            return json_answer({"model": question["model"], "embeddings": vectors, "total_duration": 1})
        rows = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)]
        return json_answer({"object": "list", "data": rows[::-1], "usage": {"total_tokens": 1}})


def json_answer(whole: Any, status: int = 200) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(whole).encode()


@contextmanager
def serving() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.asked.append((self.path, dict(self.headers), question))
            status, headers, body = state.answer(question)
            try:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
                for _ in range(state.drops):
                    self.wfile.write(b" ")
                    state.is_over.wait(0.02)
            except OSError:  # whoever asked has gone
                self.close_connection = True

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        state.is_over.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(params=["ollama", "openai"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serving() as found:
        found.kind = request.param
        yield found


@contextmanager
def asking(server: Server, **named: Any) -> Iterator[Embedder]:
    base = server.url if server.kind == "ollama" else f"{server.url}/v1"
    built = build_embedder(
        server.kind, **{"url": base, "model": "some-model", "token": Secret(TOKEN), "timeout_s": 20.0, **named}
    )
    assert built is not None
    try:
        yield built
    finally:
        built.close()


def test_a_server_is_asked_in_batches_and_its_vectors_come_in_the_order_of_the_texts(server: Server) -> None:
    with asking(server) as embedder:
        texts = [chr(0x4E00 + n) + "x" * n for n in range(embedder.batch_size * 2 + 3)]

        vectors = embedder.embed(texts)

        assert embedder.model == f"{server.kind}/some-model"
        assert embedder.dimensions == 4
    assert [len(question["input"]) for _, _, question in server.asked] == [embedder.batch_size] * 2 + [3]
    expected = np.array([server.vector(text) for text in texts])
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    path, headers, question = server.asked[0]
    assert path == ("/api/embed" if server.kind == "ollama" else "/v1/embeddings")
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert question["model"] == "some-model"


def test_without_a_token_none_is_sent_and_half_a_pair_is_a_question_mark(server: Server) -> None:
    with asking(server, token=None) as embedder:
        embedder.embed(["\ud800 half"])

    (_, headers, question) = server.asked[0]
    assert "Authorization" not in headers
    assert question["input"] == ["? half"]


def test_a_loopback_server_is_never_asked_by_a_proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    with asking(server) as embedder:
        assert embedder.dimensions == 4


def said_by(server: Server, *, code: str, kind: type[EmbedderError], **named: Any) -> str:
    """Ask, and return all that is said of the error, once its code, class and silence on the token are checked."""
    with asking(server, **named) as embedder, pytest.raises(EmbedderError) as caught:
        embedder.embed(["one", "two"])
    error = caught.value
    assert error.code == code, error
    assert type(error) is kind
    assert CODES[code].exit == Exit.DOCUMENTS
    whole = "".join(traceback.format_exception(error)) + repr(error.__dict__)
    assert TOKEN.lower() not in whole.lower()
    return error.message


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (401, "EMBEDDER_REFUSED", "LORE_EMBEDDINGS_TOKEN"),
        (403, "EMBEDDER_REFUSED", "LORE_EMBEDDINGS_TOKEN"),
        (404, "EMBEDDER_REFUSED", "some-model"),
        (400, "EMBEDDER_REFUSED", "400"),
        (302, "EMBEDDER_REFUSED", "302"),
        (204, "EMBEDDER_REFUSED", "204"),
        (429, "EMBEDDER_UNREACHABLE", "429"),
        (500, "EMBEDDER_UNREACHABLE", "500"),
        (503, "EMBEDDER_UNREACHABLE", "503"),
    ],
)
def test_a_status_says_whether_it_can_pass(server: Server, status: int, code: str, hint: str) -> None:
    server.answer = lambda _: (status, {"Location": "http://elsewhere.test/", "Retry-After": "7"}, b"")

    message = said_by(
        server,
        code=code,
        kind=EmbedderDownError if code == "EMBEDDER_UNREACHABLE" else EmbedderError,
        token=Secret(TOKEN),
    )

    assert hint in message
    assert len(server.asked) == 1


def test_what_the_server_asks_to_wait_is_kept(server: Server) -> None:
    server.answer = lambda _: (429, {"Retry-After": "7"}, b"")

    with asking(server) as embedder, pytest.raises(EmbedderDownError) as caught:
        embedder.embed(["one"])

    assert caught.value.retry_after_s == 7


@pytest.mark.invariant("I13")
@pytest.mark.parametrize(
    "shape", [{"error": f"no such key: {TOKEN}\n\x1b[31m"}, {"error": {"message": f"Key {TOKEN.upper()}?"}}]
)
def test_the_words_of_a_refusal_are_passed_on_without_the_token(server: Server, shape: dict[str, Any]) -> None:
    server.answer = lambda _: json_answer(shape, 401)

    message = said_by(server, code="EMBEDDER_REFUSED", kind=EmbedderError)

    assert "key" in message.lower()
    assert "***" in message
    assert message.isprintable()


def html(_: Any) -> Answer:
    return 200, {"Content-Type": "text/html"}, f"<html>Sign in, {TOKEN}</html>".encode()


def of(ollama: Any, openai: Any) -> Callable[[Server], Callable[[Any], Answer]]:
    def chosen(server: Server) -> Callable[[Any], Answer]:
        return lambda _: json_answer({"embeddings": ollama} if server.kind == "ollama" else {"data": openai})

    return chosen


def rows(*vectors: Any) -> list[Any]:
    return [{"index": n, "embedding": vector} for n, vector in enumerate(vectors)]


def same(*vectors: Any) -> Callable[[Server], Callable[[Any], Answer]]:
    return of(list(vectors), rows(*vectors))


RAW: dict[str, bytes] = {
    "no body": b"",
    "no JSON": b"[1, 2",
    "another shape": b'{"object": "list"}',
    "a list": b"[]",
    "not UTF-8": b'{"embeddings": "\xff\xfe"}',
    "NaN": b'{"embeddings": [[NaN, 1], [1, 1]], "data": [{"index": 0, "embedding": [NaN, 1]}]}',
    "infinity": b'{"embeddings": [[1e999, 1], [1, 1]], "data": [{"index": 0, "embedding": [1e999]}]}',
}
WRONG = {
    "one vector too few": same([1.0]),
    "one too many": same([1.0], [1.0], [1.0]),
    "of two lengths": same([1.0], [1.0, 2.0]),
    "empty": same([], []),
    "zeroes": same([0, 0], [1, 1]),
    "null": same([None, 1], [1, 1]),
    "words": same(["1", "2"], [1, 1]),
    "too large for a float": same([1e308, 1e308], [1, 1]),
}


@pytest.mark.parametrize("what", [*RAW, *WRONG, "HTML"])
def test_an_answer_that_is_not_the_vectors_is_a_bad_one(server: Server, what: str) -> None:
    if what in RAW:
        server.answer = lambda _: (200, {"Content-Type": "application/json"}, RAW[what])
    else:
        server.answer = html if what == "HTML" else WRONG[what](server)

    said_by(server, code="EMBEDDER_BAD_ANSWER", kind=EmbedderError)


@pytest.mark.parametrize("numbers", [[0, 0], [1, 2], [0, -1]])
def test_vectors_that_are_not_numbered_by_their_texts_are_a_bad_answer(numbers: list[int]) -> None:
    with serving() as server:
        server.kind = "openai"
        server.answer = lambda _: json_answer({"data": [{"index": n, "embedding": [1.0]} for n in numbers]})

        said_by(server, code="EMBEDDER_BAD_ANSWER", kind=EmbedderError)


def test_a_model_whose_vectors_change_their_length_is_a_bad_answer(server: Server) -> None:
    with asking(server) as embedder:
        assert embedder.dimensions == 4
        server.vector = lambda text: [1.0, 2.0]  # type: ignore[method-assign]

        with pytest.raises(EmbedderError, match="after one of 4") as caught:
            embedder.embed(["one"])

    assert caught.value.code == "EMBEDDER_BAD_ANSWER"


def test_a_huge_answer_is_not_read_to_its_end(server: Server) -> None:
    server.answer = lambda _: (200, {"Content-Type": "application/json"}, b'{"embeddings": [[' + b"1," * 5_000_000)

    message = said_by(server, code="EMBEDDER_BAD_ANSWER", kind=EmbedderError)

    assert "larger than" in message


def test_a_slow_server_is_waited_for_so_long_and_no_longer(server: Server) -> None:
    server.answer = lambda _: (server.is_over.wait(60), (200, {}, b""))[1]
    started = time.monotonic()

    message = said_by(server, code="EMBEDDER_UNREACHABLE", kind=EmbedderDownError, timeout_s=0.2)

    assert "in time" in message
    assert time.monotonic() - started < 30


def test_a_server_that_never_ends_is_not_waited_for_because_something_always_comes(server: Server) -> None:
    server.drops = 100
    server.answer = lambda _: (200, {"Content-Length": "100"}, b"")

    message = said_by(server, code="EMBEDDER_UNREACHABLE", kind=EmbedderDownError, timeout_s=0.2)

    assert "in time" in message


def test_an_answer_that_breaks_off_can_pass(server: Server) -> None:
    server.answer = lambda _: (200, {"Content-Length": "1000", "Connection": "close"}, b'{"embe')

    said_by(server, code="EMBEDDER_UNREACHABLE", kind=EmbedderDownError)


def test_a_server_that_is_not_there_can_pass(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    server.url = f"http://127.0.0.1:{port}"

    message = said_by(server, code="EMBEDDER_UNREACHABLE", kind=EmbedderDownError)

    assert "cannot connect to 127.0.0.1" in message
