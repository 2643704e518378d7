"""A command as a test calls it: at an empty home, on workers/ that answer what the test wants."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from chaos.stage import Answer
from doors import TOKEN, Ledger

import cli
from lore.door import run


@pytest.fixture
def seam(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, Any], None]:
    """Puts another function into a module of workers."""
    return lambda module, name, function: monkeypatch.setattr(sys.modules[f"workers.{module}"], name, function)


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Ledger:
    ledger = Ledger()
    package: Any = ModuleType("workers")
    package.open_workers, package.open_ledger = ledger.open_workers, ledger.open_ledger
    package.open_sender = ledger.open_workers
    package.QUEUES = package.RUN_QUEUES = ("preflight", "fetch", "commit")
    seams = {
        "runs": "submit retry resolve_project find_run read_run read_entities list_runs read_events read_progress wait"
        " error_of cancel has_live_worker",
        "embedded": "run_to_end give_back",
        "upkeep": "sweep",
        "findings": "left_behind",
        "processes": "serve",
        "reads": "show",
        "doctor": "checks",
    }
    monkeypatch.setitem(sys.modules, "workers", package)
    for name, functions in seams.items():
        module = ModuleType(f"workers.{name}")
        for function in functions.split():
            setattr(module, function, getattr(ledger, function))
        setattr(package, name, module)
        monkeypatch.setitem(sys.modules, f"workers.{name}", module)
    return ledger


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logging_as_it_was: None) -> Path:
    """An empty home and an empty current folder, a token, and logging as it was."""
    for name in list(os.environ):
        if name.startswith(("LORE_", "GITLAB_", "XDG_", "GIT_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("LORE_GITLAB_URL", "https://gitlab.example.com")
    monkeypatch.setenv("LORE_GITLAB_TOKEN", TOKEN)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return tmp_path


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[[str], Answer]:
    def call(line: str) -> Answer:
        prog, *argv = shlex.split(line)
        capsys.readouterr()
        status = run(cli.submit if prog == "lore-submit" else cli.commands, prog, argv)
        said = capsys.readouterr()
        return Answer(status, said.out, said.err)

    return call


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORE_REDIS_URL", "redis://localhost:6379/0")
