"""Put what all benchmarks found into one table, and draw how it grows.

    .venv-peers/bin/python benchmarks/report.py [--write]

Reads the JSON in benchmarks/results/, prints every row with the command behind it and whether the wanted figure is met,
and draws each curve as an SVG beside the JSON. Its exit status is 0 whatever the figures are: a benchmark tells, a test
judges.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sqlite3
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rows import number

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
COLUMNS = ("what", "figure", "compared to", "ratio", "wanted", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md")
    options = parser.parse_args()
    found = [json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    found = [one for one in found if isinstance(one, dict) and "rows" in one]
    if not found:
        raise SystemExit(f"nothing was measured yet: {RESULTS} holds no results; make bench-quick")
    show(found)
    for one in found:
        for curve in one["curves"]:
            print(f"drawn: {draw(one['benchmark'], curve).relative_to(HERE.parent)}")
    if options.write:
        (HERE / "RESULTS.md").write_text(as_markdown(found), encoding="utf-8")
        print("written: benchmarks/RESULTS.md")


def show(found: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*COLUMNS, title="lore, measured")
    for one in found:
        table.add_section()
        table.add_row(Text(f"$ {one['command']}", style="bold"))
        for row in one["rows"]:
            style = {True: "green", False: "red"}.get(row["met"], "")
            table.add_row(*(Text(cell) for cell in cells(row)[:-1]), Text(cells(row)[-1], style=style))
    console = Console()
    # Into a file or a pipe goes a whole table, not one of eighty columns.
    Console(width=None if console.is_terminal else 180).print(table)
    judged = [row["met"] for one in found for row in one["rows"] if row["met"] is not None]
    print(f"{sum(judged)} of {len(judged)} wanted figures met")


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    compared = "" if row["against"] is None else row["against"]
    if row["its_figure"] is not None:
        compared = f"{number(row['its_figure'])} {row['unit']} {compared}".strip()
    return (
        row["what"],
        f"{number(row['figure'])} {row['unit']}",
        compared,
        "" if row["ratio"] is None else f"{row['ratio']:.2f}",
        row["wanted"] or "",
        {True: "met", False: "MISSED"}.get(row["met"], ""),
    )


def draw(benchmark: str, curve: dict[str, Any]) -> Path:
    import matplotlib as mpl

    mpl.use("svg")
    # The same figures give the same file.
    mpl.rcParams.update({"svg.hashsalt": "lore", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    for name, points in curve["lines"].items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name)
    axes.set(title=curve["title"], xlabel=curve["x_label"], ylabel=curve["y_label"])
    if curve["is_log_x"]:
        axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    name = re.sub(r"[^a-z0-9]+", "-", f"{benchmark} {curve['title']}".lower()).strip("-")
    path = RESULTS / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path


def as_markdown(found: Sequence[dict[str, Any]]) -> str:
    lines = [
        "# Measured",
        "",
        f"On {datetime.now(UTC):%Y-%m-%d}, at commit {commit()}, by `make bench`: {machine()}.",
        "A figure compares with what was run in the same minutes on the same machine, by turns; curves are drawn in",
        "`benchmarks/results/`, beside the JSON.",
    ]
    for one in found:
        lines += ["", f"## `{one['command']}`", "", as_line(COLUMNS), as_line(["---"] * len(COLUMNS))]
        lines += [as_line(cells(row)) for row in one["rows"]]
        if one["curves"]:
            lines += ["", *(as_sentence(curve) for curve in one["curves"])]
    return "\n".join(lines) + "\n"


def as_line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def as_sentence(curve: dict[str, Any]) -> str:
    """Return a curve in words, as RESULTS.md has no pictures."""
    lines = [
        f"{name} {', '.join(f'{number(y)} at {number(x)}' for x, y in points)}"
        for name, points in curve["lines"].items()
    ]
    return f"{curve['title']} ({curve['y_label']} by {curve['x_label']}): {'; '.join(lines)}."


def commit() -> str:
    asked = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{cores} cores of {processor()}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        f"{platform.system()} {platform.machine()}"
    )


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "an unnamed processor"


if __name__ == "__main__":
    main()
