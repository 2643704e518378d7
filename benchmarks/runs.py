"""Measure a run of one merge request, with documents and embedding, on an empty mirror and on a large one.

    python benchmarks/runs.py [--documents 100000] [--rounds 25] [--json FILE]

Two processes do the same runs in turn, one request at a time of a demo GitLab, so that a busy machine is unkind to
both alike. Then a fresh `lore search` on the large mirror is compared with a process that only loads the model and
embeds the query.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
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
ONLY_THE_MODEL = "from lore.embeddings import build_embedder; build_embedder('wordllama').embed(['tide table'])"


def worker(environ: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER], env=environ, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def ask(process: subprocess.Popen[str], iid: int) -> float:
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{iid}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def timed(command: list[str], environ: dict[str, str], rounds: int) -> list[float]:
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run(command, env=environ, cwd=ROOT, check=True, capture_output=True)
        taken.append((time.perf_counter() - began) * 1000)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    import search as mirror

    from lore.demo.server import spawn

    with tempfile.TemporaryDirectory(prefix="lore-bench-") as name, spawn("demo") as demo:
        folder = Path(name)
        large = folder / "large.db"
        print(f"filling a mirror of {arguments.documents:,} documents", file=sys.stderr)
        mirror.generate(large, arguments.documents)
        environs = {
            size: os.environ
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
            for nth in range(arguments.rounds + 3):
                for size, process in workers.items():
                    ms = ask(process, 1 + nth)
                    if nth >= 3:  # the first ones load what a process loads once
                        taken[size].append(ms)
        finally:
            for process in workers.values():
                assert process.stdin
                process.stdin.close()
                process.wait()
        search = [sys.executable, "-m", "cli", "--robot", "search", "tide", "table"]
        fresh = {
            "lore search": timed(search, environs["large"], 9),
            "only the model": timed([sys.executable, "-c", ONLY_THE_MODEL], environs["large"], 9),
        }
    figures: dict[str, Any] = {name: statistics.median(values) for name, values in (taken | fresh).items()}
    figures["ratio"] = figures["large"] / figures["empty"]
    figures["fresh ratio"] = figures["lore search"] / figures["only the model"]
    print(
        f"a run of one merge request: {figures['large']:.0f} ms beside {arguments.documents:,} documents, "
        f"{figures['empty']:.0f} ms on an empty mirror: ratio {figures['ratio']:.2f} (target ≤ 1.2)"
    )
    print(
        f"a fresh lore search: {figures['lore search']:.0f} ms, {figures['only the model']:.0f} ms to load the model "
        f"and embed the query: ratio {figures['fresh ratio']:.2f} (target ≤ 1.5)"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
