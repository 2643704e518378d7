"""How fast texts are split and embedded on one core, and what a fresh process pays for its model.

Compared to wordllama called directly, on the same chunks: `WordLlama.load` with its package folder as `cache_dir`, then
`embed(chunks, norm=True)`. Times are medians; the two take turns, so that what else the machine does meets both.

    python benchmarks/embedding.py [--chunks 20000] [--repeats 5] [--quick] [--json FILE]
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import rows
from rows import Row

ROOT = Path(__file__).resolve().parents[1]
TARGET_PER_S = 5_000

FRESH = {
    "lore": """
from lore.embeddings import build_embedder
build_embedder("wordllama").embed(["is the ferry late"])
""",
    "wordllama": """
import pathlib, wordllama
folder = pathlib.Path(wordllama.__file__).parent
wordllama.WordLlama.load(cache_dir=folder, disable_download=True).embed(["is the ferry late"], norm=True)
""",
    "numpy and tokenizers": """
import numpy, pathlib, importlib.util, tokenizers
folder = pathlib.Path(importlib.util.find_spec("wordllama").origin).parent
tokenizers.Tokenizer.from_file(str(folder / "tokenizers/l2_supercat_tokenizer_config.json"))
""",
    "numpy": "import numpy",
    "nothing": "",
}
# ru_maxrss of a child begins with what its parent had; VmHWM is of the program that was started.
PEAK = """
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def main() -> None:
    parser = rows.arguments(__doc__)
    parser.add_argument("--chunks", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    core = sorted(os.sched_getaffinity(0))[-1]
    os.sched_setaffinity(0, {core})  # before a library counts the cores; children have it too
    chunks, repeats = (4_000, 2) if asked.quick else (asked.chunks, asked.repeats)
    found = [*fresh(repeats), *throughput(chunks, repeats)]
    rows.show(found)
    rows.write(asked.json, "embedding", found)


def fresh(repeats: int) -> list[Row]:
    """Return the rows of fresh processes that embed one query, on one core."""
    taken: dict[str, list[float]] = {name: [] for name in FRESH}
    peaks: dict[str, list[float]] = {name: [] for name in FRESH}
    for _ in range(repeats):
        for name, script in FRESH.items():
            started = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", script + PEAK], cwd=ROOT, capture_output=True, text=True, check=True
            )
            taken[name].append((time.perf_counter() - started) * 1000)
            peaks[name].append(int(done.stdout) / 1024)
    ms = {name: rows.median(values) for name, values in taken.items()}
    peak = {name: rows.median(values) for name, values in peaks.items()}
    others = [name for name in FRESH if name != "lore"]
    return [
        *(Row("a fresh process that embeds a query, p50", ms["lore"], "ms", name, ms[name]) for name in others),
        Row(
            "its memory", peak["lore"], "MB", "wordllama", peak["wordllama"], wanted="< 300 MB", met=peak["lore"] < 300
        ),
    ]


def throughput(count: int, repeats: int) -> list[Row]:
    """Return the rows of chunks a second of the processor's time, on one core."""
    import wordllama

    from lore.embeddings import build_embedder

    ours = build_embedder("wordllama")
    assert ours is not None
    theirs = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    documents, chunks = generate(count, ours.split)
    cases: dict[str, Callable[[], object]] = {
        "lore, embed": lambda: [ours.embed(chunks[n : n + ours.batch_size]) for n in range(0, count, ours.batch_size)],
        "lore, split and embed": lambda: [ours.embed(ours.split(text)) for text in documents],
        "wordllama, embed": lambda: theirs.embed(chunks, norm=True),
        "wordllama, by length": lambda: theirs.embed(sorted(chunks, key=len), norm=True),
    }
    spent: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, run in cases.items():
            started = time.process_time()
            run()
            spent[name].append(time.process_time() - started)
    rates = {name: count / rows.median(times) for name, times in spent.items()}
    size = statistics.mean(len(chunk) for chunk in chunks)
    which = f"{count:,} chunks of {size:.0f} characters on one core"
    enough = rates["lore, embed"] >= TARGET_PER_S
    return [
        Row(
            f"{which}, embedded",
            rates["lore, embed"],
            "/s",
            "wordllama",
            rates["wordllama, embed"],
            wanted=f"≥ {TARGET_PER_S:,}/s",
            met=enough,
        ),
        Row(
            f"{which}, embedded",
            rates["lore, embed"],
            "/s",
            "wordllama, sorted by length first",
            rates["wordllama, by length"],
        ),
        Row(
            f"{which}, split and embedded",
            rates["lore, split and embed"],
            "/s",
            "wordllama, which only embeds",
            rates["wordllama, embed"],
        ),
    ]


def generate(count: int, split: Callable[[str], list[str]]) -> tuple[list[str], list[str]]:
    """Return documents as issues are written, and the first `count` of their chunks."""
    dice = random.Random(7)
    syllables = ["ber", "ka", "lo", "th", "mi", "sor", "an", "del", "qui", "re", "st", "ing", "tion", "er", "pre", "x"]
    words = ["".join(dice.choices(syllables, k=dice.randint(1, 4))) for _ in range(5_000)]
    words += ["the", "of", "and", "to", "a", "in", "is", "not", "we", "it"] * 300
    documents: list[str] = []
    chunks: list[str] = []
    while len(chunks) < count:
        paragraphs = [
            " ".join(dice.choices(words, k=dice.randint(5, 60))).capitalize() + "." for _ in range(dice.randint(1, 30))
        ]
        if dice.random() < 0.3:
            paragraphs.append("```\n" + "\n".join(f"def {dice.choice(words)}_{n}(x):" for n in range(8)) + "\n```")
        documents.append("\n\n".join(paragraphs))
        chunks += split(documents[-1])
    return documents, chunks[:count]


if __name__ == "__main__":
    main()
