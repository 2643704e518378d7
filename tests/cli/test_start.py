"""A command as a process: what it imports, and how it ends."""

from __future__ import annotations

import ast
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

# What `lore mcp` alone imports, when it is called.
LATE = {"cli/serving.py", "cli/tools.py"}
DOORS = sorted({str(path.relative_to(ROOT)) for path in (*ROOT.glob("cli/*.py"), ROOT / "lore/door.py")} - LATE)


@pytest.mark.parametrize("path", DOORS)
def test_the_door_imports_only_click_and_the_standard_library_at_its_top(path: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))

    imported = {
        name if name == "lore.door" else name.split(".")[0]
        for node in [inner for outer in tree.body for inner in (outer.body if isinstance(outer, ast.Try) else [outer])]
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }

    assert imported - set(sys.stdlib_module_names) <= {"click", "lore.door", "cli"}


def python(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words], env=environ, text=True, capture_output=True, timeout=30, check=False, **options
    )


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys, cli, lore.door
lore.door.run(cli.submit, "lore-submit", ["--help"])
heavy = {"rich", "structlog", "msgspec", "httpx", "peewee", "dramatiq", "redis", "workers", "models", "lore.settings",
         "lore.core.outcome", "dataclasses_json", "logging", "asyncio"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""

    ran = python("-c", code)

    assert ran.stdout.startswith("Usage: lore-submit")
    assert ran.stderr == "[]\n"


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = f"{shlex.quote(sys.executable)} -c 'import cli; cli.lore()' completion fish | true"

    for _ in range(5):
        ran = subprocess.run(["sh", "-c", line], env=environ, text=True, capture_output=True, timeout=30, check=False)
        assert ran.stderr == ""


def test_the_installed_commands_exit_with_the_status() -> None:
    ran = python("-c", "import cli; cli.lore_submit()", "--mr", "abc", "--robot")

    assert ran.returncode == 2
    assert json.loads(ran.stdout)["error"]["code"] == "BAD_IID"
    assert ran.stderr == ""


PRESSING = """
import signal, sys
class Pressing:
    def find_spec(self, name, path=None, target=None):
        if name in LEFT:
            LEFT.remove(name)
            signal.raise_signal(signal.SIGINT)
LEFT = set(sys.argv.pop(1).split())
sys.meta_path.insert(0, Pressing())
import cli
try:
    cli.lore_submit()
finally:
    assert not LEFT, LEFT
"""


@pytest.mark.parametrize(
    ("imported", "said"),
    [
        ("click", ""),
        ("cli.doors", ""),
        ("lore.door", ""),
        ("cli.submitting", ""),
        ("lore.core.refs", "error: stopped by Ctrl-C\n  code: INTERRUPTED\n"),
        ("lore.settings", "error: stopped by Ctrl-C\n  code: INTERRUPTED\n"),
        ("lore.settings lore.core.outcome", ""),  # again, while the first is answered
    ],
)
def test_ctrl_c_while_modules_are_imported_is_no_traceback(imported: str, said: str) -> None:
    ran = python("-c", PRESSING, imported, "--mr", "12")

    assert (ran.returncode, ran.stdout, ran.stderr.lstrip("\n")) == (130, "", said)  # click ends the line of a ^C


def test_a_terminal_that_cannot_show_a_letter_shows_its_escape() -> None:
    os.environ["PYTHONIOENCODING"] = "ascii"
    try:
        ran = python(
            "-c",
            "import cli, click, lore.door\nclick.echo\n"
            "@click.command()\n@click.pass_obj\ndef c(call): call.done({}, show=lambda: print('na\\u00efve'))\n"
            "lore.door.run(c, 'c', [])",
        )
    finally:
        del os.environ["PYTHONIOENCODING"]

    assert ran.stdout == "na\\xefve\n"
    assert ran.returncode == 0
