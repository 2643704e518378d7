"""What the benchmarks of whole runs stand on: a demo GitLab, Redis, a database and workers, each a real process.

Everything started here is ended here, by its process, in whatever way the block ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "tests"))

from chaos.stage import Process, Stage, environment
from servers import RedisServer, postgresql_running, redis_running, wait_until

from lore.core import plan
from lore.core.plan import Entity
from lore.demo.client import Demo
from lore.demo.server import spawn

ROOT = Path(__file__).resolve().parents[1]

__all__ = ["Demo", "Process", "RedisServer", "Stage", "postgresql_running", "redis_running", "spawn", "wait_until"]

# As in the Procfile, without what only a sync needs.
PERSON_S_WORKERS = (("preflight,fetch", 16), ("commit", 1), ("documents,embed", 2))


def end_cleanly() -> None:
    """Let a signal unwind the blocks that are open, so that their processes end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


@contextmanager
def stage(demo: Demo, redis: RedisServer | None, database_url: str = "", **settings: str) -> Iterator[Stage]:
    """Open a folder, and an environment in which lore speaks to these servers; without a URL to a SQLite database."""
    with tempfile.TemporaryDirectory(prefix="lore-bench-") as name:
        folder = Path(name)
        known = settings if redis is None else {"LORE_REDIS_URL": redis.url} | settings
        database_url = database_url or f"sqlite://{folder}/lore.db"
        with Stage(environment(folder, demo, database_url, **known), folder) as opened:
            yield opened


def open_door(environ: dict[str, str]) -> None:
    """Open database and broker in this process, as a door does that stays warm: now the actors can be imported."""
    import workers
    from lore import logs
    from lore.settings import read_settings

    logs.configure(format="json", level="error")
    workers.open_workers(read_settings(environ))


def logged_at(process: Process, event: str, run_id: str) -> float:
    """Return when a process logged this event of a run, in Unix seconds: after its transaction."""
    found = [line for line in process.log(event) if line.get("run_id") == run_id]
    return datetime.fromisoformat(found[0]["timestamp"]).timestamp()


def requests_of(project_id: int, entities: Sequence[Entity]) -> list[tuple[str, bool]]:
    """Return the path of every request of a run below the API's root, and whether it answers with a list."""
    return [
        (plan.api_path(str(project_id), entity.entity_type, entity.iid, endpoint), endpoint.is_list)
        for entity in entities
        for endpoint in plan.ENDPOINTS[entity.entity_type]
    ]


# python-gitlab as its documentation has it for many requests: one client, threads, and a pool of connections to match.
PYTHON_GITLAB = """
import sys
from concurrent.futures import ThreadPoolExecutor
import gitlab, requests
url, token, count, *asked = sys.argv[1:]
session = requests.Session()
session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=int(count)))
client = gitlab.Gitlab(url, private_token=token, session=session, keep_base_url=True)
threads = ThreadPoolExecutor(int(count))
def one(path):
    path, is_list = path.rsplit(" ", 1)
    return client.http_list(path, per_page=100, get_all=True) if is_list == "True" else client.http_get(path)
def all_at_once():
    return list(threads.map(one, asked))
"""


class Peer:
    """Somebody else's client in a warm process of its own: each call fetches everything at once, and stores nothing."""

    def __init__(self, demo: Demo, requests: Sequence[tuple[str, bool]]) -> None:
        loop = "\nimport time\nfor line in sys.stdin:\n    began = time.perf_counter()\n    all_at_once()\n"
        loop += "    print((time.perf_counter() - began) * 1000, flush=True)\n"
        self._popen = subprocess.Popen(
            [sys.executable, "-c", PYTHON_GITLAB + loop, *peer_arguments(demo, requests)],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._popen.stdin
        assert self._popen.stdout
        self._popen.kill()
        self._popen.wait()
        self._popen.stdin.close()
        self._popen.stdout.close()

    def fetch(self) -> float:
        """Return how many milliseconds it took."""
        assert self._popen.stdin
        assert self._popen.stdout
        self._popen.stdin.write("go\n")
        self._popen.stdin.flush()
        return float(self._popen.stdout.readline())


def peer_arguments(demo: Demo, requests: Sequence[tuple[str, bool]]) -> list[str]:
    return [demo.url, demo.token, str(len(requests)), *(f"{path} {is_list}" for path, is_list in requests)]


class Wire:
    """One warm connection: what a single request takes at the least."""

    def __init__(self, demo: Demo) -> None:
        import http.client
        from urllib.parse import urlsplit

        parts = urlsplit(demo.url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        self._headers = {"PRIVATE-TOKEN": demo.token}

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def slowest(self, requests: Sequence[tuple[str, bool]]) -> float:
        """Ask one after the other, and return how many milliseconds the slowest took."""
        return max(self.ask(path + ("?per_page=100" if is_list else "")) for path, is_list in requests)

    def ask(self, path: str) -> float:
        began = time.perf_counter()
        self._connection.request("GET", f"/api/v4{path}", headers=self._headers)
        json.loads(self._connection.getresponse().read())
        return (time.perf_counter() - began) * 1000


def cpu_s(pid: int) -> float:
    """Return how many seconds of processor a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
