"""No secret leaves its place: a failing run of real processes, and every place where one could turn up.

The token is sent to the configured GitLab and to nobody else; the passwords of the database's, Redis' and the proxy's
URL only to these. They stand in no argument of a process, message, log line, answer, table or file.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from servers import redis_running, wait_until

from lore.demo.server import spawn
from models import base

pytestmark = [pytest.mark.slow, pytest.mark.invariant("I13")]

ROOT = Path(__file__).resolve().parents[1]
GITLAB = "gitlab.test"
ELSEWHERE = "elsewhere.test"
# One that has to be quoted in a URL, so that each spelling could leak.
OF_REDIS, OF_DATABASE, OF_PROXY = "pw+of-redis", "pw/of-database", "pw/of-proxy"
PATIENCE_S = 120
# What these say does not depend on the database that works.
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@dataclass
class Proxy:
    """A proxy that everything passes through: it plays the hosts' names, and notes what each was sent."""

    url: str
    heads: list[tuple[str, str]] = field(default_factory=list)

    def sent_to(self, host: str) -> list[str]:
        return [head for name, head in self.heads if name == host]


@contextmanager
def proxy_to(demo: Any) -> Iterator[Proxy]:
    """Forward what is meant for GitLab to the demo server, and answer 200 for every other host."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            there = urlsplit(self.path)
            proxy.heads.append((there.hostname or "", f"{self.requestline}\n{self.headers}"))
            if there.hostname != GITLAB:
                self._answer(200, [("Content-Type", "application/json")], b"{}")
                return
            own = {
                name: value for name, value in self.headers.items() if not name.lower().startswith(("proxy", "host"))
            }
            link = http.client.HTTPConnection(urlsplit(demo.url).netloc, timeout=PATIENCE_S)
            with contextlib.closing(link):
                link.request("GET", there.path + (f"?{there.query}" if there.query else ""), headers=own)
                answer = link.getresponse()
                self._answer(answer.status, answer.getheaders(), answer.read())

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            if status not in (204, 304):
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    proxy = Proxy(f"http://me:{quote(OF_PROXY, safe='')}@127.0.0.1:{server.server_address[1]}")
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join(30)
        server.server_close()


@contextmanager
def monitored(url: str) -> Iterator[bytearray]:
    """Note every command that Redis is sent (MONITOR)."""
    there = urlsplit(url)
    heard = bytearray()
    with socket.create_connection((there.hostname, there.port), timeout=30) as link:
        link.sendall(f"AUTH {OF_REDIS}\r\nMONITOR\r\n".encode())
        while heard.count(b"+OK") < 2:
            heard += link.recv(4096)
        link.settimeout(None)

        def listen() -> None:
            with contextlib.suppress(OSError):
                while piece := link.recv(65536):
                    heard.extend(piece)

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield heard
        finally:
            link.shutdown(socket.SHUT_RDWR)
            thread.join(30)


class Arguments(threading.Thread):
    """Notes the arguments of processes and of their children, again and again while they live."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: set[bytes] = set()
        self.watched: list[int] = []
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.01):
            for pid in list(self.watched):
                self._look(pid)

    def end(self) -> None:
        self._ended.set()
        self.join(30)

    def _look(self, pid: int) -> None:
        with contextlib.suppress(OSError):
            self.seen.add(Path(f"/proc/{pid}/cmdline").read_bytes())
            for task in Path(f"/proc/{pid}/task").iterdir():
                for child in (task / "children").read_text().split():
                    self._look(int(child))


@pytest.fixture
def arguments() -> Iterator[Arguments]:
    watch = Arguments()
    watch.start()
    yield watch
    watch.end()


@pytest.fixture(scope="module")
def demo() -> Iterator[Any]:
    with spawn("tiny") as server:
        yield server


@dataclass
class Scene:
    """Everything a run needs, with a secret in every place where one may be, and all that was said."""

    environ: dict[str, str]
    demo: Any
    proxy: Proxy
    database_url: str
    folder: Path
    arguments: Arguments
    said: dict[str, str] = field(default_factory=dict)

    @property
    def secrets(self) -> list[str]:
        """Every secret, in each spelling it may turn up in."""
        words = [self.demo.token, OF_REDIS, OF_DATABASE, OF_PROXY]
        packed = [base64.b64encode(text.encode()).decode() for text in (*words, f"me:{OF_PROXY}", f":{OF_REDIS}")]
        return [*words, *(quote(word, safe="") for word in words), *(text.rstrip("=") for text in packed)]

    def lore(self, *words: str) -> int:
        """Run a command; what it says is kept."""
        process = self._start(words)
        out, err = process.communicate(timeout=PATIENCE_S)
        self.said[f"{' '.join(words)} #{len(self.said)}"] = out + err
        return process.returncode

    @contextmanager
    def worker(self) -> Iterator[None]:
        log = self.folder / "worker.log"
        with log.open("wb") as file:
            process = self._start(
                ("worker", "--processes", "2", "--until-stdin-closes"), stdin=subprocess.PIPE, err=file
            )
            assert process.stdin is not None
            try:
                wait_until(lambda: log.read_text().count('"worker_ready"') == 2, "the workers are ready")
                yield
            finally:
                process.stdin.close()
                try:
                    process.wait(PATIENCE_S)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                if process.stdout:
                    process.stdout.close()
        self.said["worker"] = log.read_text()

    def _start(self, words: tuple[str, ...], *, stdin: Any = subprocess.DEVNULL, err: Any = subprocess.PIPE) -> Any:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", *words],
            env=self.environ,
            cwd=self.folder,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
        )
        self.arguments.watched.append(process.pid)
        return process

    def around(self, text: str | bytes) -> list[str]:
        """Return what stands around each secret of a place."""
        whole = text if isinstance(text, str) else text.decode("latin-1")
        spans = [found.span() for secret in self.secrets for found in re.finditer(re.escape(secret), whole)]
        return sorted({whole[max(0, start - 90) : end + 20] for start, end in spans})

    def found_in(self, text: str | bytes) -> list[str]:
        whole = text if isinstance(text, bytes) else text.encode()
        return [secret for secret in self.secrets if secret.encode() in whole]


@pytest.fixture
def scene(demo: Any, database_url: str, tmp_path: Path, arguments: Arguments) -> Iterator[Scene]:
    demo.reset()
    if database_url.startswith("postgresql"):
        # The server trusts its own host, so that any password will do.
        database_url = database_url.replace("postgres:@", f"postgres:{quote(OF_DATABASE, safe='')}@")
    with proxy_to(demo) as proxy:
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "HTTP_PROXY": proxy.url,
            "http_proxy": proxy.url,
            "LORE_GITLAB_URL": f"http://{GITLAB}",
            "LORE_GITLAB_TOKEN": demo.token,
            "LORE_PROJECT": demo.project,
            "LORE_DATABASE_URL": database_url,
            "LORE_LOG_LEVEL": "debug",
            "LORE_LOG_FORMAT": "json",
            "LORE_RUN_DEADLINE": "4s",
        }
        yield Scene(environ, demo, proxy, database_url, tmp_path, arguments)


def talkative(token: str) -> list[dict[str, Any]]:
    """Return faults by which GitLab, or who stands before it, says our token to us in each way there is."""

    def of(iid: int, action: dict[str, Any], *, kind: str = "issue", route: str = "*/:iid") -> dict[str, Any]:
        return {"match": {"kind": kind, "iid": iid, "route": route}, "action": action}

    def body(status: int, said: Any) -> dict[str, Any]:
        return {"type": "body", "status": status, "json": said}

    def to(location: str) -> dict[str, Any]:
        return {"type": "redirect", "location": location}

    return [
        of(1, body(404, {"message": f"404 {token} Not found"})),
        of(2, body(400, {"error": {"deeply": token}, "message": [f"what is {token}?"]})),
        of(3, body(403, {"error": "insufficient_scope", "error_description": f"{'x' * 110} {token}"})),
        of(4, body(500, {"message": f"who is {token}"})),
        of(5, {"type": "headers", "set": {"Content-Type": f"text/{token}"}}),
        of(7, to(f"http://{ELSEWHERE}/{token}/api/v4?private_token={token}")),
        of(8, to(f"http://{token}:{token}@{ELSEWHERE}/api/v4/x")),
        of(9, to(f"/{token}/sign_in#{token}")),
        of(11, to(f"/api/v4/projects/{token}/issues/11?private_token={token}")),
        of(12, {"type": "schema", "form": "value", "field": "iid", "value": token}),
        of(1, to(f"http://{ELSEWHERE}:80{token}/"), kind="merge_request"),
        of(2, to(f"/api/v4/projects/71/merge_requests/{token}"), kind="merge_request"),
        of(3, {"type": "headers", "set": {"X-Next-Page": token}}, kind="merge_request", route="*/discussions"),
        of(4, to(f"/api/v4/{token}"), kind="merge_request", route="*/discussions"),
        of(6, {"type": "headers", "set": {"Content-Encoding": token}}, kind="merge_request"),
        of(7, {"type": "schema", "form": "value", "field": "updated_at", "value": token}, kind="merge_request"),
        of(
            8, {"type": "headers", "set": {"Link": f'<{token}>; rel="next"', "X-Next-Page": None}}, kind="merge_request"
        ),
        of(9, body(302, {"message": token}), kind="merge_request"),
        of(10, body(200, {token: token, "iid": 10}), kind="merge_request"),
    ]


ISSUES = (1, 2, 3, 4, 5, 7, 8, 9, 11, 12)
MERGE_REQUESTS = (1, 2, 3, 4, 6, 7, 8, 9, 10)
NAMED = [*(f"--issue={iid}" for iid in ISSUES), *(f"--mr={iid}" for iid in MERGE_REQUESTS)]
FAILED = 10


def everything_in(database_url: str) -> bytes:
    """Return every byte of a SQLite database, its journal included, or every row of each table of PostgreSQL."""
    if not database_url.startswith("postgresql"):
        path = base.sqlite_path(database_url)
        return b"".join(one.read_bytes() for one in path.parent.glob(f"{path.name}*"))
    import psycopg

    found = []
    with psycopg.connect(database_url, autocommit=True) as connection:
        names = connection.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        for (name,) in names.fetchall():
            rows = connection.execute(f'SELECT * FROM "{name}"').fetchall()  # type: ignore[call-overload]
            found += [repr((name, row)) for row in rows]
        asked = connection.execute("SELECT query, application_name FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        found += [repr(row) for row in asked.fetchall()]
    return "\n".join(found).encode()


def everything_of(client: Any) -> bytes:
    """Return every key of Redis with what it holds."""
    found = [key + b" " + (client.dump(key) or b"") for key in client.keys("*")]
    return b"\n".join(found)


def check(scene: Scene, places: dict[str, bytes | str]) -> None:
    """Look for every secret in every place."""
    leaks = {name: scene.around(text) for name, text in (places | scene.said).items()}
    assert {name: found for name, found in leaks.items() if found} == {}
    assert not scene.found_in(b"\n".join(scene.arguments.seen))
    assert not [head for head in scene.proxy.sent_to(ELSEWHERE) if scene.demo.token in head]
    # The looking itself is right: the one place where the token belongs has it.
    assert all(scene.demo.token in head for head in scene.proxy.sent_to(GITLAB))
    assert scene.proxy.sent_to(GITLAB)
    assert scene.arguments.seen


def look_everywhere(scene: Scene) -> None:
    """Ask every command for what it knows of the run."""
    for words in (
        ("sync-runs", "--run-id", "last"),
        ("--robot", "sync-runs", "--run-id", "last"),
        ("--robot", "sync-runs", "--run-id", "last", "--follow"),
        ("sync-runs", "--run-id", "last", "--follow"),
        ("sync-runs",),
        ("doctor",),
        ("--robot", "doctor"),
        ("show", "#1"),
        ("sweep",),
    ):
        scene.lore(*words)


def test_a_failing_run_of_real_processes_says_no_secret_anywhere(scene: Scene) -> None:
    with redis_running(on_port=True, password=OF_REDIS) as server, monitored(server.url) as heard:
        scene.environ["LORE_REDIS_URL"] = server.url.replace(OF_REDIS, quote(OF_REDIS, safe=""))
        scene.demo.faults(talkative(scene.demo.token))
        with scene.worker():
            status = scene.lore("submit", *NAMED, "--wait")
            look_everywhere(scene)
            again = scene.lore("--robot", "sync-runs", "--run-id", "last", "--retry-failed", "--follow")
            with server.client() as client:
                kept = everything_of(client)

        assert (status, again) == (FAILED, FAILED), scene.said
        check(scene, {"database": everything_in(scene.database_url), "redis": kept, "commands of redis": bytes(heard)})
        assert b"preflight" in heard
    answer = json.loads(next(said for name, said in scene.said.items() if "--retry-failed" in name).splitlines()[0])
    assert len(answer["error"]["failures"]) == len(NAMED), answer
    assert '"fetch_failed"' in scene.said["worker"]


def test_a_failing_run_without_redis_says_no_secret_anywhere(scene: Scene) -> None:
    scene.demo.faults(talkative(scene.demo.token))

    human, robot = scene.lore("submit", *NAMED), scene.lore("--robot", "submit", *NAMED)

    look_everywhere(scene)
    assert (human, robot) == (FAILED, FAILED), scene.said
    check(scene, {"database": everything_in(scene.database_url)})


@ON_SQLITE
def test_the_services_that_do_not_answer_or_refuse_are_named_without_their_passwords(scene: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    at = f"127.0.0.1:{port}"
    scene.demo.faults([])
    lines: list[tuple[dict[str, str], tuple[str, ...]]] = []
    for password in (quote(OF_DATABASE, safe=""), OF_DATABASE, f"{OF_DATABASE}%zz"):
        url = f"postgresql://me:{password}@{at}/lore"
        lines += [({"LORE_DATABASE_URL": url}, words) for words in (("sync-runs",), ("doctor",), ("--robot", "sweep"))]
        lines.append(({"LORE_DATABASE_URL": f"postgresql://{at}/lore?password={password}"}, ("sync-runs",)))
    quoted = quote(OF_DATABASE, safe="")
    for odd in (f"me:{OF_DATABASE}@[::1/x", f"me:{OF_DATABASE}@{at}x/x", f"me:{quoted}@{at}/x?sslmode"):
        lines.append(({"LORE_DATABASE_URL": f"postgresql://{odd}"}, ("sync-runs",)))
    for password in (quote(OF_REDIS, safe=""), OF_REDIS):
        for scheme in ("redis", "rediss", "redsi"):
            url = {"LORE_REDIS_URL": f"{scheme}://me:{password}@{at}/0"}
            lines += [(url, words) for words in (("sweep",), ("--robot", "doctor"), ("submit", "--issue=1"))]
    for url_of_proxy in (
        f"http://me:{OF_PROXY}@{at}",
        f"http://me:{quote(OF_PROXY, safe='')}@{at}",
        f"ftp://me:{OF_PROXY}@x",
    ):
        environ = {"HTTP_PROXY": url_of_proxy, "http_proxy": url_of_proxy, "LORE_RUN_DEADLINE": "1s"}
        lines += [(environ, words) for words in (("submit", "--issue=1"), ("doctor",))]
    usual = dict(scene.environ)

    for environ, words in lines:
        scene.environ = usual | environ
        scene.lore(*words)

    scene.environ = usual
    scene.lore("--robot", "submit", "--issue=1")
    assert len(scene.said) == len(lines) + 1
    check(scene, {"database": everything_in(scene.database_url)})


@ON_SQLITE
def test_a_redis_that_refuses_the_password_is_named_without_it(scene: Scene) -> None:
    with redis_running(on_port=True, password="another") as server:
        scene.environ["LORE_REDIS_URL"] = server.url.replace("another", quote(OF_REDIS, safe=""))

        for words in (("submit", "--issue=1", "--no-wait"), ("doctor",), ("--robot", "sweep")):
            scene.lore(*words)

        assert len(scene.said) == 3
        leaks = {name: scene.found_in(text) for name, text in scene.said.items()}
        assert not any(leaks.values()), leaks
        assert not scene.found_in(everything_in(scene.database_url))


@ON_SQLITE
def test_a_bug_that_shows_every_secret_in_its_text_is_logged_without_them(scene: Scene) -> None:
    script = scene.folder / "buggy.py"
    script.write_text(
        "import os, sys, cli\n"
        "from workers import runs\n"
        "def fail(*_):\n"
        "    raise RuntimeError(' '.join(os.environ.values()))\n"
        "runs.list_runs = fail\n"
        "sys.argv = ['lore', 'sync-runs', *sys.argv[1:]]\n"
        "cli.lore()\n"
    )
    scene.environ["LORE_REDIS_URL"] = f"redis://:{quote(OF_REDIS, safe='')}@127.0.0.1:9/0"

    done = [
        subprocess.run(
            [sys.executable, str(script), *more],
            env=scene.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        for more in ((), ("--robot",))
    ]

    for one in done:
        assert one.returncode == 1, one
        assert "Traceback" in one.stderr
        assert not scene.found_in(one.stdout + one.stderr)


def test_the_watch_over_arguments_would_see_a_secret(arguments: Arguments) -> None:
    """The other side: a process that has one among its arguments is found."""
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()", OF_REDIS], stdin=subprocess.PIPE)
    arguments.watched.append(process.pid)
    try:
        found: Callable[[], bool] = lambda: any(OF_REDIS.encode() in one for one in arguments.seen)  # noqa: E731
        wait_until(found, "its arguments were seen")
    finally:
        process.communicate(timeout=30)
