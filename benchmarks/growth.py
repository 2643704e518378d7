"""Measure how a commit grows: with the mirror it writes into, and in memory with the entities of its run.

    python benchmarks/growth.py [--quick] [--json FILE]

Mirrors of 10³ to 10⁶ notes are filled with copies of one merge request of 50 notes and 20 files. A process each
commits, by turns, one merge request that the mirror does not have yet, and one from anywhere in it, all of which has
been there. Memory is the growth of the peak of a fresh process, which has committed one run before, over the commit of
a run of 1 to 500 merge requests. `--quick` stops at 10⁴ notes and 100 merge requests.
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import rows
import staged
from stand import postgresql_running

from models import base
from models.base import database
from models.content import Discussion, MergeRequest, MergeRequestDiff, Note

NOTES = 50
FILES = 20
COPIED: tuple[Any, ...] = (MergeRequest, Discussion, Note, MergeRequestDiff)
KINDS = {"new": "a merge request it does not have", "refreshed": "one that it has"}
WANTED = 1.2
WANTED_MB = 4.0


# ------------------------------------------------------------------------------------- the mirrors


def fill(url: str, notes: int) -> None:
    """Make a mirror of so many notes: one committed merge request, and its copies under other numbers."""
    from workers import commit

    staged.empty(url)
    commit.commit.fn(staged.stage({1: pages(1)}))
    for table in COPIED:
        template = [dict(row) for row in table.select().dicts()]
        names = [one.column_name for one in table._meta.sorted_fields if table is MergeRequest or one.name != "id"]
        copies = (_copy(table, row, nth) for nth in range(1, notes // NOTES) for row in template)
        _insert(table, names, ([row[name] for name in names] for row in copies))
    if base.is_postgresql():
        database.execute_sql(
            "SELECT setval(pg_get_serial_sequence('merge_requests', 'id'), MAX(id)) FROM merge_requests"
        )
        database.execute_sql("ANALYZE")
        database.execute_sql("CHECKPOINT")
    else:
        database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    base.disconnect()


def pages(iid: int) -> dict[str, list[bytes]]:
    """Return the pages of one of the mirrors' merge requests."""
    return staged.MergeRequests(notes=NOTES, files=FILES).pages(iid)


def _copy(table: Any, row: dict[str, Any], nth: int) -> dict[str, Any]:
    """Return the row as that of the merge request so many numbers on, its text as received cut short."""
    copy = row | {"raw": row["raw"][:100]}
    if table is MergeRequest:
        return copy | {
            "id": row["id"] + nth,
            "iid": 1 + nth,
            "gitlab_id": row["gitlab_id"] + nth,
            "project_id": row["project"],
        }
    copy["entity_id"] += nth
    if table is Discussion:
        copy["gitlab_id"] = f"{int(row['gitlab_id'], 16) + nth * staged.NOTES_APART:040x}"
    elif table is Note:
        copy["gitlab_id"] += nth * staged.NOTES_APART
        copy["discussion_gitlab_id"] = f"{int(row['discussion_gitlab_id'], 16) + nth * staged.NOTES_APART:040x}"
    if table is not Discussion and copy["new_path"] is not None:
        copy["old_path"] = copy["new_path"] = copy["new_path"].replace(staged.folder_of(1), staged.folder_of(1 + nth))
    return copy


def _insert(table: Any, names: list[str], values: Iterable[list[Any]]) -> None:
    columns = ", ".join(names)
    if base.is_postgresql():
        with database.cursor() as cursor, cursor.copy(f"COPY {table._meta.table_name} ({columns}) FROM STDIN") as copy:
            for row in values:
                copy.write_row(row)
        return
    marks = ", ".join("?" * len(names))
    with database.atomic("IMMEDIATE"):
        database.cursor().executemany(f"INSERT INTO {table._meta.table_name} ({columns}) VALUES ({marks})", values)


# ----------------------------------------------------------------------------------- time


def serve(url: str, notes: int) -> None:
    """Commit one merge request for each line of stdin, `new` or `refreshed`, and print how many ms it took."""
    from workers import commit

    staged.open_mirror(url)
    dice = random.Random(notes)
    newest = notes // NOTES
    for line in sys.stdin:
        newest += line.strip() == "new"
        iid = newest if line.strip() == "new" else dice.randint(2, notes // NOTES)
        run_id = staged.stage({iid: pages(iid)})
        began = time.perf_counter()
        commit.commit.fn(run_id)
        print((time.perf_counter() - began) * 1000, flush=True)


def measure(urls: dict[int, str], rounds: int) -> dict[str, dict[int, list[float]]]:
    """Return what each commit took on each mirror, in ms, by kind and number of notes."""
    taken: dict[str, dict[int, list[float]]] = {kind: {notes: [] for notes in urls} for kind in KINDS}
    servers = {notes: _start("--serve", url, str(notes)) for notes, url in urls.items()}
    try:
        for nth in range(rounds + 3):
            for kind in KINDS:
                for notes, server in servers.items():
                    ms = _ask(server, kind)
                    if nth >= 3:  # the first ones load what a process loads once
                        taken[kind][notes].append(ms)
    finally:
        for server in servers.values():
            _stop(server)
    return taken


def _start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, *words]
    return subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _ask(server: subprocess.Popen[str], line: str) -> float:
    assert server.stdin
    assert server.stdout
    server.stdin.write(f"{line}\n")
    server.stdin.flush()
    return float(server.stdout.readline())


def _stop(server: subprocess.Popen[str]) -> None:
    assert server.stdin
    server.stdin.close()
    server.wait()


# --------------------------------------------------------------------------------- memory


def remember(url: str, first: str, run_id: str) -> None:
    """Commit a run, and print by how many MB the commit of another one raises the peak of this process."""
    from workers import commit

    staged.open_mirror(url)
    commit.commit.fn(first)
    before = _peak_mb()
    commit.commit.fn(run_id)
    print(_peak_mb() - before)


def _peak_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: its peak is also that of the process we were forked from.
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def measure_memory(url: str, sizes: Iterable[int]) -> dict[int, float]:
    """Return the growth in MB by the number of merge requests of the run."""
    made = staged.MergeRequests(notes=NOTES, files=FILES)
    grown = {}
    for size in sizes:
        where = f"{url}{size}.db" if url.startswith("sqlite") else url
        staged.empty(where)
        run_ids = [staged.stage({1: made.pages(1)}), staged.stage({iid: made.pages(iid) for iid in range(2, size + 2)})]
        base.disconnect()
        process = _start("--remember", where, *run_ids)
        assert process.stdout
        grown[size] = float(process.stdout.readline())
        _stop(process)
    return grown


# ---------------------------------------------------------------------------------------- the report


def time_rows(database_name: str, taken: dict[str, dict[int, list[float]]]) -> Iterator[rows.Row]:
    """Report each kind and size beside the smallest: the ratio is the middle one of those of each round."""
    for kind, by_size in taken.items():
        smallest = by_size[min(by_size)]
        for notes, values in by_size.items():
            if notes == min(by_size):
                continue
            ratio = rows.median([one / other for one, other in zip(values, smallest, strict=True)])
            yield rows.Row(
                f"{database_name}: commit {KINDS[kind]}, {notes:,} notes",
                rows.median(values),
                "ms",
                f"{min(by_size):,} notes",
                rows.median(smallest),
                ratio=ratio,
                wanted=f"<= {WANTED:g}",
                met=ratio <= WANTED,
            )


def memory_rows(database_name: str, grown: dict[int, float]) -> Iterator[rows.Row]:
    """Report how the peak grew; flat means that it does not matter how many entities a run has."""
    least = grown[min(grown)]
    for size, mb in grown.items():
        is_first = size == min(grown)
        yield rows.Row(
            f"{database_name}: peak memory grown by a commit of {size:,}",
            mb,
            "MB",
            wanted=None if is_first else f"at most {WANTED_MB:g} MB over that of {min(grown)}",
            met=None if is_first else mb <= least + WANTED_MB,
        )


def main() -> None:
    parser = rows.arguments(__doc__)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--remember", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments.serve[0], int(arguments.serve[1]))
    if arguments.remember:
        return remember(*arguments.remember)
    sizes = [10**3, 10**4] if arguments.quick else [10**3, 10**4, 10**5, 10**6]
    entities = [1, 100] if arguments.quick else [1, 10, 100, 500]
    found: list[rows.Row] = []
    lines: dict[str, list[tuple[float, float]]] = {}
    memory: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="lore-bench-") as folder, postgresql_running() as server:
        for name, urls, memory_url in (
            ("SQLite", {notes: f"sqlite://{folder}/{notes}.db" for notes in sizes}, f"sqlite://{folder}/memory"),
            ("PostgreSQL", {notes: staged.another_database(server, f"notes_{notes}") for notes in sizes}, server),
        ):
            for notes, url in urls.items():
                began = time.perf_counter()
                fill(url, notes)
                print(f"{name}: filled {notes:,} notes in {time.perf_counter() - began:.1f} s", file=sys.stderr)
            taken = measure(urls, 6 if arguments.quick else 40)
            found += time_rows(name, taken)
            for kind, by_size in taken.items():
                lines[f"{name}, {kind}"] = [(notes, rows.median(values)) for notes, values in by_size.items()]
            grown = measure_memory(memory_url, entities)
            found += memory_rows(name, grown)
            memory[name] = list(grown.items())
    rows.show(found)
    curves = [
        rows.Curve("The commit of one merge request", "notes in the mirror", "ms", lines, is_log_x=True),
        rows.Curve("Memory of a commit", "merge requests in the run", "MB over one run before", memory, is_log_x=True),
    ]
    rows.write(arguments.json, Path(__file__).stem, found, curves)
    return None


if __name__ == "__main__":
    main()
