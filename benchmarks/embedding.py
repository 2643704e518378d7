"""How fast texts are split and embedded on one core, and what a fresh process pays for its model.

Compared to wordllama called directly, on the same chunks: `WordLlama.load` with its package folder as `cache_dir`, then
`embed(chunks, norm=True)`. Times are medians; the two take turns, so that what else the machine does meets both.

    .venv/bin/python benchmarks/embedding.py [--chunks 20000] [--repeats 5]
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    core = sorted(os.sched_getaffinity(0))[-1]
    os.sched_setaffinity(0, {core})  # before a library counts the cores; children have it too
    fresh(args.repeats)
    sys.exit(0 if throughput(args.chunks, args.repeats) else 1)


def fresh(repeats: int) -> None:
    print(f"a fresh process that embeds one query (median of {repeats}, one core)")
    print(f"{'':<24}{'ms':>8}{'peak MB':>10}")
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in FRESH}
    for _ in range(repeats):
        for name, script in FRESH.items():
            started = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", script + PEAK], cwd=ROOT, capture_output=True, text=True, check=True
            )
            found[name].append((time.perf_counter() - started, int(done.stdout) / 1024))
    for name, runs in found.items():
        spent_ms = statistics.median(spent for spent, _ in runs) * 1000
        print(f"{name:<24}{spent_ms:>8.0f}{statistics.median(peak for _, peak in runs):>10.0f}")


def throughput(count: int, repeats: int) -> bool:
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
    size = statistics.mean(len(chunk) for chunk in chunks)
    print(
        f"\n{len(chunks)} chunks of {size:.0f} characters, {len(documents)} documents (median of {repeats}, one core)"
    )
    print(f"{'':<24}{'chunks/s':>10}{'of wordllama':>14}")
    rates = {name: count / statistics.median(times) for name, times in spent.items()}
    for name, rate in rates.items():
        print(f"{name:<24}{rate:>10.0f}{rate / rates['wordllama, embed']:>13.2f}x")
    print(f"peak of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    met = rates["lore, embed"] >= TARGET_PER_S
    print(f"target {TARGET_PER_S} chunks/s: {'met' if met else 'MISSED'}")
    return met


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
