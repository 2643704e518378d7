"""`python -m lore.demo`: serve a demo GitLab and print where, as one JSON line."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lore.demo.client import Demo
from lore.demo.faults import FaultError
from lore.demo.model import Json
from lore.demo.profiles import PROFILES
from lore.demo.server import DemoServer, Knobs, assemble, uvicorn_config

USAGE_ERROR = 2


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m lore.demo",
        description="Serve a small demo GitLab and print its URL, token and project as one JSON line.",
        epilog="example: python -m lore.demo --profile demo --port 8080",
    )
    parser.add_argument("--profile", choices=sorted(PROFILES), default="demo", help="what it holds (default: demo)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same content (default: 1)")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=0, help="the port to listen on; 0 takes a free one (default)")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="how long each answer takes at least")
    parser.add_argument("--faults", type=Path, metavar="FILE.json", help="a JSON list of faults to begin with")
    parser.add_argument("--clock", default="real", help="real (default), frozen, or an ISO 8601 moment to run from")
    parser.add_argument("--external-url", help="the URL that links carry, instead of where it listens")
    parser.add_argument(
        "--until-stdin-closes", action="store_true", help="end when standard input does, so that no orphan stays"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to end; return the exit status."""
    options = parser().parse_args(arguments)
    try:
        faults: list[Json] = json.loads(options.faults.read_text("utf-8")) if options.faults else []
        knobs = Knobs(
            options.profile,
            options.seed,
            options.latency_ms,
            faults,
            options.clock,
            options.host,
            options.port,
            options.external_url,
        )
        app, listener, demo = assemble(knobs)
        demo.state.warm()
    except (OSError, ValueError, FaultError) as error:
        sys.stderr.write(f"python -m lore.demo: {error}\n")
        return USAGE_ERROR
    server = DemoServer(uvicorn_config(app), lambda: _announce(demo))
    if options.until_stdin_closes:
        threading.Thread(target=_stop_at_end_of_stdin, args=(server,), daemon=True).start()
    # uvicorn stops cleanly at a signal and then raises it again, for whoever had asked for it: us, and we are done.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    server.run([listener])
    return 0


def _announce(demo: Demo) -> None:
    known = asdict(Demo(demo.url, demo.token, demo.project, demo.project_id, demo.pid))
    sys.stdout.write(json.dumps(known) + "\n")
    sys.stdout.flush()


def _stop_at_end_of_stdin(server: DemoServer) -> None:
    # Not `sys.stdin.buffer.read`: its lock, held by a thread that waits, would abort the interpreter's end.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    server.should_exit = True


if __name__ == "__main__":
    sys.exit(main())
