"""What a benchmark found: rows and curves, the same for every script, as JSON that `report.py` reads."""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, beside what it is compared to.

    Attributes:
        against: What was run in the same minutes, by turns; None if the figure stands alone.
        ratio: Of `figure` to `its_figure`; reckoned if left out.
        wanted: The figure wanted, in words.
        met: Whether it is; None where nothing is wanted.
    """

    what: str
    figure: float
    unit: str
    against: str | None = None
    its_figure: float | None = None
    ratio: float | None = None
    wanted: str | None = None
    met: bool | None = None

    def __post_init__(self) -> None:
        if self.ratio is None and self.its_figure:
            object.__setattr__(self, "ratio", self.figure / self.its_figure)


@dataclass(frozen=True, slots=True)
class Curve:
    """How a figure grows: one plot, a line of points for each of `lines`."""

    title: str
    x_label: str
    y_label: str
    lines: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    is_log_x: bool = False


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a rough answer within 15 seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    return parser


def write(path: Path | None, benchmark: str, rows: Sequence[Row], curves: Sequence[Curve] = ()) -> None:
    """Write what was found to a file, if one was asked for."""
    if path is None:
        return
    # The file it goes to says nothing of how it was measured.
    asked = [word for before, word in pairwise(sys.argv) if "--json" not in (before, word)]
    command = shlex.join(["python", f"benchmarks/{benchmark}.py", *asked])
    found = {
        "benchmark": benchmark,
        "command": command,
        "rows": [asdict(row) for row in rows],
        "curves": [asdict(curve) for curve in curves],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def show(rows: Sequence[Row]) -> None:
    """Print the rows, one a line."""
    width = max((len(row.what) for row in rows), default=0)
    for row in rows:
        line = f"{row.what:<{width}}  {number(row.figure):>9} {row.unit:<8}"
        if row.ratio is not None:
            line += f" {row.ratio:6.2f}x of {number(row.its_figure or 0)} ({row.against})"
        if row.wanted is not None:
            line += f"  wanted {row.wanted}{'' if row.met is None else ': met' if row.met else ': MISSED'}"
        print(line, flush=True)


def number(value: float) -> str:
    """Return a figure as it is read: three digits that count, thousands set apart."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def median(values: Sequence[float]) -> float:
    """Return the middle one."""
    return statistics.median(values)


def p95(values: Sequence[float]) -> float:
    """Return the smallest of the values that 95 of 100 do not pass."""
    ordered = sorted(values)
    return ordered[-(-len(ordered) * 95 // 100) - 1]
