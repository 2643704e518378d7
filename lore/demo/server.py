"""The demo GitLab as a server: on a thread of this process, or as a process of its own."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lore.demo.app import DemoApp
from lore.demo.client import Demo
from lore.demo.control import control_app
from lore.demo.model import Json
from lore.demo.profiles import PROFILES
from lore.demo.state import State
from lore.demo.tokens import DEFAULT_TOKEN

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 10.0
BACKLOG = 1024

_connections = itertools.count(1)


class DemoProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which also hands the transport to the application and numbers the connections."""

    def connection_made(self, transport: object) -> None:
        """Number the connection and let no answer wait for a full packet."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self.number = next(_connections)
        raw = self.transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def on_message_begin(self) -> None:
        """Put what the application needs into the scope."""
        super().on_message_begin()
        self.scope["state"] = {"transport": self.transport, "connection": self.number}


class DemoServer(uvicorn.Server):
    """A uvicorn server that says when it is accepting connections."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets=sockets)
        self._on_started()


@dataclass(frozen=True)
class LocalDemo(Demo):
    """A demo server on a thread of this process; hold `state.lock` to look into `state`."""

    state: State


@dataclass(frozen=True, slots=True)
class Knobs:
    """What a server is started with.

    Attributes:
        clock: `frozen`, `real`, or an ISO 8601 moment to run from.
        external_url: What GitLab believes to be its URL and writes into links; None means where it listens.
    """

    profile: str = "tiny"
    seed: int = 1
    latency_ms: float = 0.0
    faults: Sequence[Json] = ()
    clock: str = "frozen"
    host: str = "127.0.0.1"
    port: int = 0
    external_url: str | None = None


def assemble(knobs: Knobs) -> tuple[DemoApp, socket.socket, LocalDemo]:
    """Return the application, a bound socket to serve it on, and the handle on it.

    Raises:
        KeyError: There is no such profile.
        OSError: The port is taken.
    """
    state = State(partial(PROFILES[knobs.profile], knobs.seed), clock_mode=knobs.clock)
    app = DemoApp(state, seed=knobs.seed, latency_ms=knobs.latency_ms)
    app.control = control_app(app)
    app.faults.load(knobs.faults)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((knobs.host, knobs.port))
    url = f"http://{knobs.host}:{listener.getsockname()[1]}"
    state.external_url = knobs.external_url or url
    demo = LocalDemo(url, DEFAULT_TOKEN, state.main.path, state.main.id, os.getpid(), state)
    return app, listener, demo


def uvicorn_config(app: DemoApp) -> uvicorn.Config:
    """Return how uvicorn runs the application: quiet, and with none of its own headers."""
    return uvicorn.Config(
        app,
        http=DemoProtocol,
        loop="asyncio",
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
        backlog=BACKLOG,
    )


@contextmanager
def running(
    profile: str = "tiny",
    seed: int = 1,
    *,
    latency_ms: float = 0.0,
    faults: Sequence[Json] = (),
    clock: str = "frozen",
    external_url: str | None = None,
) -> Iterator[LocalDemo]:
    """Serve a demo GitLab on a thread, on a free port of 127.0.0.1, and stop it surely at the end.

    Raises:
        RuntimeError: It did not start, or did not end, in time.
    """
    knobs = Knobs(profile, seed, latency_ms, faults, clock, external_url=external_url)
    app, listener, demo = assemble(knobs)
    started = threading.Event()
    server = DemoServer(uvicorn_config(app), started.set)
    thread = threading.Thread(target=server.run, args=([listener],), name="demo-gitlab", daemon=True)
    thread.start()
    try:
        if not started.wait(START_TIMEOUT_S):
            raise RuntimeError(f"the demo server did not start within {START_TIMEOUT_S:.0f} s")
        yield demo
    finally:
        server.should_exit = True
        thread.join(STOP_TIMEOUT_S)
        listener.close()
        if thread.is_alive():
            raise RuntimeError(f"the demo server did not end within {STOP_TIMEOUT_S:.0f} s")


@contextmanager
def spawn(profile: str = "tiny", seed: int = 1, *arguments: str) -> Iterator[Demo]:
    """Serve a demo GitLab as a process of its own, which ends with the block, or with this process if that dies first.

    Args:
        profile: One of `lore.demo.profiles.PROFILES`.
        seed: The same seed gives the same content.
        arguments: More options of `python -m lore.demo`, such as `--latency-ms`, `50`.

    Raises:
        RuntimeError: It ended instead of starting.
    """
    command = [sys.executable, "-m", "lore.demo", "--profile", profile, "--seed", str(seed), "--until-stdin-closes"]
    process = subprocess.Popen([*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise RuntimeError(f"the demo server ended with status {process.wait(STOP_TIMEOUT_S)}")
        yield Demo(**json.loads(line))
    finally:
        if process.stdin:
            process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()
