"""The client's bounds and ways, against real sockets on loopback where the transport matters."""

from __future__ import annotations

import gzip
import os
import socket
import ssl
import struct
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import certificates
import httpx
import pytest

from lore.core.errors import LoreError, PassingError, RefusedError, SettingError
from lore.http import build_client, exchange, is_loopback, read_bounded, read_start

# Answers a request; True leaves the connection open for another.
Talk = Callable[[socket.socket, bytes], bool | None]

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def answering(response: bytes, *, stays_open: bool = False) -> Talk:
    told = response if stays_open else response.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)

    def answer(conn: socket.socket, request: bytes) -> bool:
        conn.sendall(told)
        return stays_open

    return answer


def whole(body: bytes, *headers: bytes) -> bytes:
    return OK + b"".join(header + b"\r\n" for header in headers) + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


class Server:
    """Answers each request on loopback as it is told; it is told one way of answering for each connection in turn."""

    def __init__(self, *talks: Talk, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.closing = threading.Event()
        self._talks = list(talks)
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self.closing.set()
        socket.create_connection(self._listener.getsockname()).close()  # wakes accept(), which a close() need not
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            conn, _ = self._listener.accept()
            if self.closing.is_set():
                conn.close()
                return
            talk = self._talks[min(self.connections, len(self._talks) - 1)]
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(conn, talk), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, conn: socket.socket, talk: Talk) -> None:
        conn.settimeout(10)
        try:
            with self._tls.wrap_socket(conn, server_side=True) if self._tls else conn as wrapped:
                while request := self._read_request(wrapped):
                    self.requests.append(request)
                    if not talk(wrapped, request):
                        return
        except OSError:
            pass

    @staticmethod
    def _read_request(conn: socket.socket) -> bytes:
        request = b""
        while b"\r\n\r\n" not in request:
            piece = conn.recv(65536)
            if not piece:
                return b""
            request += piece
        return request


@contextmanager
def serving(*talks: Talk, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(*talks, tls=tls)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def fetch(
    client: httpx.Client, url: str, *, total_s: float = 10.0, max_bytes: int = 1_000_000
) -> tuple[httpx.Response, bytes]:
    with exchange(client, client.build_request("GET", url), total_s=total_s) as response:
        return response, read_bounded(response, max_bytes)


def error_of(
    client: httpx.Client, url: str, kind: type[LoreError] = PassingError, *, total_s: float = 10.0
) -> LoreError:
    with pytest.raises(kind) as caught:
        fetch(client, url, total_s=total_s)
    return caught.value


def failing(
    server: Server, kind: type[LoreError] = PassingError, *, total_s: float = 10.0, max_bytes: int = 1_000_000
) -> LoreError:
    with build_client() as client, pytest.raises(kind) as caught:
        fetch(client, server.url, total_s=total_s, max_bytes=max_bytes)
    return caught.value


# --- who we are, what we keep


def test_a_request_says_who_asks_and_takes_only_the_encoding_we_can_bound() -> None:
    with serving(answering(whole(b"{}"))) as server, build_client(version="1.2.3") as client:
        fetch(client, server.url)

    head = server.requests[0].lower()
    assert b"user-agent: lore/1.2.3\r\n" in head
    assert b"accept-encoding: gzip\r\n" in head


def test_cookies_are_not_kept() -> None:
    response = whole(b"{}", b"Set-Cookie: _gitlab_session=abc; path=/")
    with serving(answering(response)) as server, build_client() as client:
        fetch(client, server.url)
        fetch(client, server.url)

    assert len(server.requests) == 2
    assert b"cookie:" not in server.requests[1].lower()


def test_redirects_are_not_followed() -> None:
    response = b"HTTP/1.1 301 Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    with serving(answering(response)) as server, build_client() as client:
        found, _ = fetch(client, server.url)

    assert found.status_code == 301
    assert len(server.requests) == 1


def test_a_connection_is_used_again() -> None:
    with serving(answering(whole(b"{}"), stays_open=True)) as server, build_client() as client:
        fetch(client, server.url)
        fetch(client, server.url)

    assert (len(server.requests), server.connections) == (2, 1)


def test_many_threads_share_a_client_within_its_connections() -> None:
    with serving(answering(whole(b"[1]"), stays_open=True)) as server, build_client(max_connections=3) as client:
        bodies: list[bytes] = []
        threads = [
            threading.Thread(target=lambda: bodies.extend(fetch(client, server.url)[1] for _ in range(20)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        connections = server.connections

    assert bodies == [b"[1]"] * 160
    assert connections <= 3


# --- bodies


def test_a_gzipped_body_is_unpacked() -> None:
    packed = gzip.compress(b'{"a":1}' * 100_000)
    with serving(answering(whole(packed, b"Content-Encoding: gzip"))) as server, build_client() as client:
        assert fetch(client, server.url)[1] == b'{"a":1}' * 100_000


def test_a_body_is_read_up_to_its_bound_and_refused_past_it() -> None:
    with serving(answering(whole(b"x" * 1_000))) as server, build_client() as client:
        assert len(fetch(client, server.url, max_bytes=1_000)[1]) == 1_000
        with pytest.raises(RefusedError) as caught:
            fetch(client, server.url, max_bytes=999)

    assert caught.value.code == "GITLAB_TOO_LARGE"


def test_a_body_without_an_end_is_refused_at_the_bound() -> None:
    def flood(conn: socket.socket, request: bytes) -> None:
        conn.sendall(OK + b"\r\n")
        while True:
            conn.sendall(b"x" * 65536)

    with serving(flood) as server:
        assert failing(server, RefusedError, max_bytes=500_000).code == "GITLAB_TOO_LARGE"


def test_a_gzip_bomb_is_stopped_before_it_fills_the_memory() -> None:
    bomb = gzip.compress(b"\0" * 200_000_000, compresslevel=9)
    with serving(answering(whole(bomb, b"Content-Encoding: gzip"))) as server, build_client() as client:
        tracemalloc.start()
        with pytest.raises(RefusedError) as caught:
            fetch(client, server.url, max_bytes=1_000_000)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert caught.value.code == "GITLAB_TOO_LARGE"
    assert peak < 5_000_000


@pytest.mark.parametrize("cut", [1, 5, 15, -9, -1])
def test_a_gzip_body_that_breaks_off_can_pass(cut: int) -> None:
    packed = gzip.compress(b'{"a":1}')[:cut]
    with serving(answering(whole(packed, b"Content-Encoding: gzip"))) as server:
        assert failing(server).code == "GITLAB_BROKEN_ANSWER"


def test_plain_bytes_under_a_gzip_flag_can_pass() -> None:
    with serving(answering(whole(b'{"a":1}', b"Content-Encoding: gzip"))) as server:
        assert failing(server).code == "GITLAB_BROKEN_ANSWER"


def test_an_encoding_we_did_not_ask_for_is_refused() -> None:
    with serving(answering(whole(b"x", b"Content-Encoding: br"))) as server:
        assert failing(server, RefusedError).code == "GITLAB_BAD_PAYLOAD"


def test_the_start_of_a_body_is_read_without_the_rest() -> None:
    with serving(answering(whole(b"0123456789" * 100_000))) as server, build_client() as client:
        request = client.build_request("GET", server.url)
        with exchange(client, request, total_s=10) as response:
            assert read_start(response, 5) == b"01234"


def test_a_response_that_was_read_before_is_bounded_too() -> None:
    with httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(200, json=[1]))) as client:
        assert fetch(client, "http://h/")[1] == b"[1]"
        with pytest.raises(RefusedError):
            fetch(client, "http://h/", max_bytes=2)


# --- what breaks


def test_nobody_there_can_pass() -> None:
    with serving(answering(b"")) as server:
        pass

    error = failing(server)

    assert error.code == "GITLAB_UNREACHABLE"
    assert "127.0.0.1" in error.message


def test_a_name_that_does_not_resolve_can_pass() -> None:
    with build_client() as client, pytest.raises(PassingError) as caught:
        fetch(client, "http://nowhere.invalid/")

    assert caught.value.code == "GITLAB_UNREACHABLE"
    assert "nowhere.invalid" in caught.value.message


@pytest.mark.parametrize(
    "response",
    [
        OK + b"Content-Length: 100\r\n\r\n[1,2",
        OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\n[1,2\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        OK,
        b"HTTP/1.1 200",
        b"SSH-2.0-OpenSSH\r\n",
        b"",
    ],
    ids=["a short body", "no last chunk", "no chunk", "half a head", "half a line", "another protocol", "nothing"],
)
def test_an_answer_that_breaks_off_can_pass(response: bytes) -> None:
    with serving(answering(response)) as server:
        assert failing(server).code == "GITLAB_BROKEN_ANSWER"


@pytest.mark.parametrize("sent", [b"", OK + b"Content-Length: 100\r\n\r\n[1,"], ids=["before it", "within it"])
def test_a_connection_that_is_reset_can_pass(sent: bytes) -> None:
    def reset(conn: socket.socket, request: bytes) -> None:
        conn.sendall(sent)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with serving(reset) as server:
        assert failing(server).code == "GITLAB_BROKEN_ANSWER"


def dripping(server_of: list[Server], head: bytes, drop: bytes) -> Talk:
    def drip(conn: socket.socket, request: bytes) -> None:
        conn.sendall(head)
        while not server_of[0].closing.wait(0.02):
            conn.sendall(drop)

    return drip


@pytest.mark.parametrize(
    ("head", "drop"),
    [
        (OK + b"Content-Length: 100000\r\n\r\n", b"x"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"x")[:10], b"\0"),
        (OK + b"X-Slow: ", b"x"),
    ],
    ids=["the body", "its chunks", "what unpacks to nothing", "the head"],
)
def test_a_server_that_sends_a_byte_now_and_then_is_left_in_time(head: bytes, drop: bytes) -> None:
    server_of: list[Server] = []
    with serving(dripping(server_of, head, drop)) as server:
        server_of.append(server)
        began = time.monotonic()
        error = failing(server, total_s=0.3)
        took = time.monotonic() - began

    assert error.code in ("GITLAB_UNREACHABLE", "GITLAB_BROKEN_ANSWER")
    assert took < 5


@pytest.mark.parametrize("head", [b"", OK + b"Content-Length: 10\r\n\r\n"], ids=["at once", "after the head"])
def test_a_server_that_falls_silent_is_left_in_time(head: bytes) -> None:
    server_of: list[Server] = []

    def stall(conn: socket.socket, request: bytes) -> None:
        conn.sendall(head)
        server_of[0].closing.wait(10)

    with serving(stall) as server:
        server_of.append(server)
        with build_client(read_s=0.1) as client, pytest.raises(PassingError) as caught:
            fetch(client, server.url)

    assert caught.value.code == "GITLAB_UNREACHABLE"


def test_a_time_out_does_not_shorten_the_next_exchange() -> None:
    server_of: list[Server] = []
    with serving(dripping(server_of, OK + b"X-Slow: ", b"x"), answering(whole(b"[]"))) as server:
        server_of.append(server)
        with build_client() as client:
            with pytest.raises(PassingError):
                fetch(client, server.url, total_s=0.05)
            assert fetch(client, server.url)[1] == b"[]"


def test_a_wait_for_a_free_connection_counts_as_time_of_the_exchange() -> None:
    server_of: list[Server] = []
    busy = threading.Event()

    def stall(conn: socket.socket, request: bytes) -> None:
        busy.set()
        server_of[0].closing.wait(10)

    with serving(stall) as server, build_client(max_connections=1) as client:
        server_of.append(server)

        def keep_the_only_connection() -> None:
            with pytest.raises(PassingError):
                fetch(client, server.url, total_s=0.6)

        first = threading.Thread(target=keep_the_only_connection)
        first.start()
        assert busy.wait(5)
        began = time.monotonic()
        with pytest.raises(PassingError) as caught:
            fetch(client, server.url, total_s=0.1)
        took = time.monotonic() - began
        first.join(10)

    assert caught.value.code == "GITLAB_UNREACHABLE"
    assert took < 0.5


def test_another_scheme_is_a_wrong_setting() -> None:
    with build_client() as client, pytest.raises(SettingError) as caught:
        fetch(client, "ftp://127.0.0.1/")

    assert caught.value.code == "BAD_SETTING"


@pytest.mark.invariant("I13")
def test_a_header_that_cannot_be_sent_is_not_shown() -> None:
    with serving(answering(whole(b"{}"))) as server, build_client() as client:
        request = client.build_request("GET", server.url, headers={"PRIVATE-TOKEN": "glpat-hunter2\n"})
        with pytest.raises(SettingError) as caught, exchange(client, request, total_s=5):
            pass

    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


# --- trust


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 with its authority, which is in no trust store, and its key."""
    return certificates.make(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def test_a_certificate_nobody_vouches_for_is_refused_with_the_setting_that_helps(tls: ssl.SSLContext) -> None:
    with serving(answering(whole(b"{}")), tls=tls) as server:
        error = failing(server, SettingError)

    assert error.code == "TLS_UNTRUSTED"
    assert "LORE_CA_FILE" in error.message
    assert server.requests == []


def test_a_handshake_that_hangs_holds_up_no_other(tls: ssl.SSLContext) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, serving(answering(whole(b"{}")), tls=tls) as server:
        # One that accepts and says nothing: its handshake lasts until the bound, by the system's trust store.
        hanging = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        with build_client() as client:
            first = threading.Thread(target=lambda: error_of(client, hanging, PassingError, total_s=30), daemon=True)
            first.start()
            accepted, _ = silent.accept()
            with accepted:
                accepted.recv(1)  # its handshake has begun

                error = error_of(client, server.url.replace("http:", "https:"), SettingError)

                assert error.code == "TLS_UNTRUSTED"
                assert first.is_alive()
            first.join(30)


def test_a_ca_file_is_trusted(tls: ssl.SSLContext, certificate: tuple[Path, Path]) -> None:
    with serving(answering(whole(b"[7]")), tls=tls) as server, build_client(ca_file=str(certificate[0])) as client:
        assert fetch(client, server.url)[1] == b"[7]"


def test_a_certificate_for_another_name_is_refused(tls: ssl.SSLContext, certificate: tuple[Path, Path]) -> None:
    with serving(answering(whole(b"{}")), tls=tls) as server, build_client(ca_file=str(certificate[0])) as client:
        error = error_of(client, f"https://localhost:{server.port}/", SettingError)

    assert error.code == "TLS_UNTRUSTED"


def test_a_slow_drip_over_tls_is_left_in_time(tls: ssl.SSLContext, certificate: tuple[Path, Path]) -> None:
    server_of: list[Server] = []
    with serving(dripping(server_of, OK + b"Content-Length: 9999\r\n\r\n", b"x"), tls=tls) as server:
        server_of.append(server)
        with build_client(ca_file=str(certificate[0])) as client, pytest.raises(PassingError):
            fetch(client, server.url, total_s=0.3)


def test_tls_spoken_to_a_plain_server_can_pass() -> None:
    with serving(answering(whole(b"{}"))) as server, build_client() as client, pytest.raises(PassingError) as caught:
        fetch(client, server.url.replace("http:", "https:"), total_s=0.3)

    assert caught.value.code in ("GITLAB_UNREACHABLE", "GITLAB_BROKEN_ANSWER")


def test_a_ca_file_that_is_missing_or_no_pem_is_a_wrong_setting(tmp_path: Path) -> None:
    no_pem = tmp_path / "ca.pem"
    no_pem.write_text("not a certificate")

    for path in (tmp_path / "absent.pem", no_pem, tmp_path):
        with pytest.raises(SettingError) as caught:
            build_client(ca_file=str(path))
        assert caught.value.code == "BAD_SETTING"
        assert str(path) in caught.value.message
        assert "LORE_CA_FILE" in caught.value.message


# --- proxies


def test_a_host_elsewhere_is_asked_by_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(answering(whole(b"[1]"))) as proxy:
        monkeypatch.setenv("http_proxy", f"http://ann:hunter2@127.0.0.1:{proxy.port}")
        with build_client() as client:
            assert fetch(client, "http://gitlab.example.com/api")[1] == b"[1]"

    assert proxy.requests[0].startswith(b"GET http://gitlab.example.com/api ")
    assert b"proxy-authorization: basic " in proxy.requests[0].lower()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_loopback_address_is_never_asked_by_a_proxy(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:9")
    with serving(answering(whole(b"[1]"))) as server, build_client() as client:
        assert fetch(client, f"http://{host}:{server.port}/")[1] == b"[1]"


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("127.0.0.1", True), ("127.8.9.10", True), ("::1", True), ("[::1]", True), ("localhost", True),
        ("gitlab.localhost", True), ("::ffff:127.0.0.1", True), ("10.0.0.1", False), ("localhost.example.com", False),
        ("127.0.0.1.example.com", False), ("gitlab.com", False),
    ],
)  # fmt: skip
def test_a_loopback_address_is_known_in_every_form(host: str, is_own: bool) -> None:
    assert is_loopback(host) is is_own


def test_a_host_that_no_proxy_names_is_asked_straight(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(answering(whole(b"[1]"))) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", ".invalid")
        with build_client() as client, pytest.raises(PassingError) as caught:
            fetch(client, "http://gitlab.invalid/")

    assert caught.value.code == "GITLAB_UNREACHABLE"
    assert proxy.requests == []


def test_a_proxy_that_refuses_a_tunnel_can_pass() -> None:
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    with serving(answering(refusal)) as proxy:
        proxies = {"https": f"http://ann:hunter2@127.0.0.1:{proxy.port}"}
        with build_client(proxies=proxies) as client:
            error = error_of(client, "https://gitlab.example.com/")

    assert proxy.requests[0].startswith(b"CONNECT gitlab.example.com:443 ")
    assert error.code == "GITLAB_UNREACHABLE"
    assert "proxy" in error.message


@pytest.mark.invariant("I13")
@pytest.mark.parametrize(
    "proxy", ["http://ann:hunter2@h:port", "ftp://ann:hunter2@h", "socks5://ann:hunter2@h:1", "http://ann:hunter2@"]
)
def test_a_proxy_that_cannot_be_used_is_named_without_its_password(proxy: str) -> None:
    with build_client(proxies={"all": proxy}) as client, pytest.raises(SettingError) as caught:
        fetch(client, "https://gitlab.example.com/")

    assert caught.value.code == "BAD_SETTING"
    assert "ALL_PROXY" in caught.value.message
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in f"{error}"
        error = error.__cause__ or error.__context__


@pytest.mark.invariant("I13")
def test_a_proxy_that_is_not_there_is_reported_without_its_password() -> None:
    with serving(answering(b"")) as gone:
        pass
    with build_client(proxies={"http": f"http://ann:hunter2@127.0.0.1:{gone.port}"}) as client:
        error = error_of(client, "http://gitlab.example.com/")

    assert error.code == "GITLAB_UNREACHABLE"
    assert "proxy" in error.message
    assert "hunter2" not in "".join(traceback.format_exception(error))


def test_a_proxy_that_cannot_be_used_does_not_stand_in_the_way_of_loopback() -> None:
    with serving(answering(whole(b"[1]"))) as server, build_client(proxies={"all": "socks5://h:1"}) as client:
        assert fetch(client, server.url)[1] == b"[1]"
