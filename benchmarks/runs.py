"""Measure a run of one merge request, with documents and embedding, on an empty mirror and on a large one.

    python benchmarks/runs.py [--documents 100000] [--rounds 25] [--quick] [--json FILE]

Two processes do the same runs in turn, one request at a time of a demo GitLab, so that a busy machine is unkind to
both alike. Then fresh `lore search` processes on the large mirror take turns with one that only loads the model and
embeds the query, and one that only imports Peewee and asks FTS5. Peewee loads PostgreSQL's driver wherever that is
installed, also for SQLite; so each is measured once more as who has not got the extra `postgres` has it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import rows
import search as mirror
from rows import Row

from lore.demo.server import spawn

ROOT = Path(__file__).resolve().parents[1]
# Of this program alone: ru_maxrss of a child begins with what its parent had.
PEAK = """
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
"""
WORKER = """
import os, sys, time
import workers
from lore import logs
from lore.core.plan import Entity
from lore.core.runs import RunOptions
from lore.settings import read_settings
settings = read_settings(os.environ)
logs.configure(level="error")
workers.open_workers(settings)
from workers import embedded, runs
for line in sys.stdin:
    began = time.perf_counter()
    done = runs.submit(gitlab_url=settings.gitlab_url, project=settings.project,
                       entities=[Entity("merge_request", int(line))], options=RunOptions())
    embedded.run_to_end(done.run_id)
    ms = (time.perf_counter() - began) * 1000
    assert runs.error_of(done.run_id) is None
    print(ms, flush=True)
"""
SEARCH = """
import sys, cli
from lore.door import run
assert run(cli.commands, "lore", sys.argv[1:]) == 0
"""
ONLY_THE_MODEL = "from lore.embeddings import build_embedder; build_embedder('wordllama').embed(['tide table'])"
ONLY_FTS5 = """
import sys, peewee
sql = "SELECT rowid FROM documents_fts WHERE documents_fts MATCH ? ORDER BY bm25(documents_fts) LIMIT 10"
assert peewee.SqliteDatabase(sys.argv[1]).execute_sql(sql, (sys.argv[2],)).fetchall()
"""


def worker(environ: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER + PEAK],
        env=environ,
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ask(process: subprocess.Popen[str], iid: int) -> float:
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{iid}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def fresh(database: Path, environ: dict[str, str], rounds: int) -> list[Row]:
    """Return the rows of fresh processes, which take turns."""
    word = next(word for word in mirror.Vocabulary(3).words[400:] if word.isalpha() and word.islower())
    searching = [sys.executable, "-m", "cli", "--robot", "search", word]
    commands = {
        "a fresh lore search": searching,
        "a process that loads the model and embeds the query": [sys.executable, "-c", ONLY_THE_MODEL],
        "a fresh lore search --mode text": [*searching, "--mode", "text"],
        "a process that imports Peewee and asks FTS5": [sys.executable, "-c", ONLY_FTS5, str(database), word],
    }
    absent = database.with_name("absent")
    (absent / "psycopg").mkdir(parents=True)
    (absent / "psycopg" / "__init__.py").write_text("raise ImportError\n")
    found: list[Row] = []
    for which, more in (("", {}), (", without the extra postgres", {"PYTHONPATH": str(absent)})):
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                began = time.perf_counter()
                subprocess.run(command, env=environ | more, cwd=ROOT, check=True, capture_output=True)
                taken[name].append((time.perf_counter() - began) * 1000)
        names = list(commands)
        for ours, theirs in (names[:2], names[2:]):
            found.append(at_most(1.5, f"{ours}{which}", taken[ours], theirs, taken[theirs]))
    peak = subprocess.run(
        [sys.executable, "-c", SEARCH + PEAK, "--robot", "search", word],
        env=environ,
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [*found, memory("a fresh lore search", peak.stderr)]


def at_most(factor: float, what: str, ours: list[float], against: str, theirs: list[float]) -> Row:
    figure, its_figure = rows.median(ours), rows.median(theirs)
    met = figure <= factor * its_figure
    return Row(f"{what}, p50", figure, "ms", against, its_figure, wanted=f"≤ {factor}x", met=met)


def memory(what: str, said: str) -> Row:
    megabytes = int(said.rsplit(maxsplit=1)[-1]) / 1024
    return Row(f"the memory of {what}", megabytes, "MB", wanted="< 300 MB", met=megabytes < 300)


def main() -> None:
    parser = rows.arguments(__doc__)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=18)
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started ends with us
    documents, rounds = (2_000, 4) if asked.quick else (asked.documents, asked.rounds)
    with tempfile.TemporaryDirectory(prefix="lore-bench-") as name, spawn("demo") as demo:
        folder = Path(name)
        print(f"filling a mirror of {documents:,} documents", file=sys.stderr)
        # Of the same GitLab: a search in a mirror of two is narrowed down to the configured one.
        mirror.generate(folder / "large.db", documents, gitlab_url=demo.url)
        # An installed lore is compiled; what keeps a checkout from it is not measured.
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environs = {
            size: inherited
            | {
                "HOME": name,
                "LORE_GITLAB_URL": demo.url,
                "LORE_GITLAB_TOKEN": demo.token,
                "LORE_PROJECT": demo.project,
                "LORE_DATABASE_URL": f"sqlite://{folder / size}.db",
            }
            for size in ("empty", "large")
        }
        workers = {size: worker(environ) for size, environ in environs.items()}
        taken: dict[str, list[float]] = {size: [] for size in workers}
        try:
            for nth in range(rounds + 3):
                for size, process in workers.items():
                    ms = ask(process, 1 + nth)
                    if nth >= 3:  # the first ones load what a process loads once
                        taken[size].append(ms)
        finally:
            peaks = {size: process.communicate()[1] for size, process in workers.items()}
        what = f"a run of one merge request beside {documents:,} documents"
        found = [
            at_most(1.2, what, taken["large"], "on an empty mirror", taken["empty"]),
            memory("a process that runs and embeds", peaks["large"]),
            *fresh(folder / "large.db", environs["large"], max(rounds * 7 // 18, 2)),
        ]
    rows.show(found)
    rows.write(asked.json, "runs", found)


if __name__ == "__main__":
    main()
