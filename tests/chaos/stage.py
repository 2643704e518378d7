"""What the tests of processes have in common: lore's commands as processes of their own, ended by their own handle."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers import PATIENCE_S, wait_until

from lore.demo.client import Demo

ROOT = Path(__file__).resolve().parents[2]
ENTRY = Path(__file__).with_name("entry.py")


def environment(folder: Path, gitlab: Demo, database_url: str, **settings: str) -> dict[str, str]:
    """Return a clean environment whose home is the folder, with this GitLab, this database and these settings."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return kept | {
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "XDG_DATA_HOME": str(folder / "data"),
        "PYTHONPATH": str(ROOT),
        "LORE_GITLAB_URL": gitlab.url,
        "LORE_GITLAB_TOKEN": gitlab.token,
        "LORE_PROJECT": gitlab.project,
        "LORE_DATABASE_URL": database_url,
        **settings,
    }


def is_stopped(pid: int) -> bool:
    """Tell whether a process stands still because of SIGSTOP."""
    return process_state(pid).startswith("T")


def process_state(pid: int) -> str:
    """Return the state letters of a process; empty when it is gone."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        try:
            return stat.read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return ""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip()


@dataclass
class Answer:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def robot(self) -> dict[str, Any]:
        """Its one JSON object, which has what every answer has."""
        assert self.out.count("\n") == 1, self
        found: dict[str, Any] = json.loads(self.out)
        assert set(found) == ({"ok", "data", "warnings", "meta"} if found["ok"] else {"ok", "error", "meta"})
        assert set(found["meta"]) == {"command", "version", "elapsed_ms"}
        return found


@dataclass
class Process:
    """A command of lore that goes on until it is told to end; its log is a file."""

    popen: subprocess.Popen[bytes]
    log_path: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    def log(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return the lines of its log so far, or those of one event; what is no JSON is `{"event": line}`."""
        lines = [_line(text) for text in self.log_path.read_text("utf-8", errors="replace").splitlines()]
        return [line for line in lines if event is None or line.get("event") == event]

    def wait_for(self, event: str, *, count: int = 1, **values: Any) -> None:
        """Wait until its log says so; it must not end meanwhile."""

        def said() -> bool:
            found = [line for line in self.log(event) if values.items() <= line.items()]
            if len(found) < count:
                assert self.popen.poll() is None, f"it ended with {self.popen.returncode}:\n{self.tail()}"
            return len(found) >= count

        wait_until(said, f"process {self.pid} logs {event} {values or ''}")

    def wait_stopped(self) -> None:
        """Wait until it has stopped itself."""

        def has_stopped() -> bool:
            assert self.popen.poll() is None, f"it ended with {self.popen.returncode}:\n{self.tail()}"
            return is_stopped(self.pid)

        wait_until(has_stopped, f"process {self.pid} stops itself")

    def stop(self) -> None:
        self.popen.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.popen.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill -9."""
        self.popen.kill()
        self.popen.wait()

    def end(self) -> int:
        """Ask it to end by closing its standard input, and wait."""
        assert self.popen.stdin is not None
        self.popen.stdin.close()
        return self.popen.wait(PATIENCE_S)

    def tail(self) -> str:
        return "\n".join(self.log_path.read_text("utf-8", errors="replace").splitlines()[-40:])


def _line(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {"event": text}
    return found if isinstance(found, dict) else {"event": text}


class Stage:
    """Starts lore's commands with one environment; a block that ends them all, whatever they are at.

    With CHAOS_BUG=bug-no-fence (see `entry.py`) every command has that bug, and a test that proves something must fail.

    Args:
        environ: What every command sees, but for the form of its logs.
        folder: Where the logs go.
    """

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        self.environ = dict(environ) | {"LORE_LOG_FORMAT": "json", "LORE_LOG_LEVEL": "info"}
        self._bug = os.environ.get("CHAOS_BUG", "")
        self.folder = folder
        self.processes: list[Process] = []

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.popen.kill()
        for process in self.processes:
            process.popen.wait()
            for pipe in (process.popen.stdin, process.popen.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()

    def start(self, *arguments: str, plant: str = "", **settings: str) -> Process:
        """Start a command of lore that goes on; settings are added to the environment."""
        plant = self._with_bug(plant)
        path = self.folder / f"{len(self.processes):03d}-{arguments[0]}.log"
        environ = self.environ | settings | {"CHAOS_PLANT": plant}
        with path.open("wb") as log:
            popen = subprocess.Popen(
                [sys.executable, *_program(bool(plant) or arguments[0] == "submitter"), *arguments],
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if arguments[0] == "submitter" else log,
                stderr=log,
                start_new_session=True,
            )
        process = Process(popen, path)
        self.processes.append(process)
        return process

    def worker(
        self, *arguments: str, queues: str = "", threads: int = 4, plant: str = "", waits: bool = True, **settings: str
    ) -> Process:
        """Start a worker, and wait until it is ready."""
        asked = ["--threads", str(threads), *(["--queues", queues] if queues else [])]
        worker = self.start("worker", "--until-stdin-closes", *asked, *arguments, plant=plant, **settings)
        if waits:
            worker.wait_for("worker_ready")
        return worker

    def lore(self, *arguments: str, plant: str = "", **settings: str) -> Answer:
        """Run a command of lore to its end."""
        plant = self._with_bug(plant)
        done = subprocess.run(
            [sys.executable, *_program(bool(plant)), *arguments],
            env=self.environ | settings | {"CHAOS_PLANT": plant},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def robot(self, *arguments: str, **more: Any) -> Answer:
        """Run a command of lore to its end, for a robot."""
        return self.lore("--robot", *arguments, **more)

    def submit(self, *refs: str, docs: bool = False, **settings: str) -> str:
        """Submit a run as a command does, without waiting; return its id. It ends with its commit, unless `docs`."""
        asked = () if docs else ("--no-docs", "--no-embed")
        answer = self.robot("submit", *refs, "--no-wait", *asked, **settings)
        assert answer.status == 0, answer
        return str(answer.robot["data"]["run"]["run_id"])

    def _with_bug(self, plant: str) -> str:
        return ",".join(part for part in (plant, self._bug) if part)


def _program(is_planted: bool) -> list[str]:
    return [str(ENTRY)] if is_planted else ["-m", "cli"]
