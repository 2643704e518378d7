"""The optional parts of lore: what of one is not installed, and the command that installs it here.

The packages of an extra are read from the installed distribution's own metadata, where pip reads them too; in a source
tree that is not installed, from what makes that.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shlex
import sys
import tomllib
from pathlib import Path

from lore.core.errors import SettingError

DISTRIBUTION = "gitlab-lore"
_SOURCE = Path(__file__).parents[1]


def missing_extra(extra: str, needed_by: str) -> SettingError:
    """Return the error that a part of lore needs an extra that is not installed, or not all of it.

    Args:
        extra: Its name in `pyproject.toml`.
        needed_by: What needs it, as the sentence begins.
    """
    missing = missing_packages(extra)
    said = f", of which this Python lacks {', '.join(missing)}" if missing else ""
    action = install_action(extra)
    return SettingError("MISSING_EXTRA", f"{needed_by} needs lore's extra `{extra}`{said}", actions=[action])


def missing_packages(extra: str) -> list[str]:
    """Return the packages of an extra that are not installed."""
    return [name for name in map(_name, _requirements(extra)) if not _is_installed(name)]


def is_bare() -> bool:
    """Tell whether lore runs from a source tree and is not installed: there is no command `lore` then."""
    return not _is_installed(DISTRIBUTION)


def install_action(extra: str) -> str:
    """Return the command that installs an extra's packages beside the lore that is running.

    It names the packages and not lore: whoever has lore from a clone would get another project from the registry. A
    bare source tree is installed itself.
    """
    pip = [sys.executable, "-m", "pip", "install"]
    if importlib.util.find_spec("pip") is None:  # an environment that uv made
        pip = ["uv", "pip", "install", "--python", sys.executable]
    return shlex.join([*pip, *([f"{_SOURCE}[{extra}]"] if is_bare() else _requirements(extra))])


def _requirements(extra: str) -> list[str]:
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        source = _SOURCE / "pyproject.toml"
        project = tomllib.loads(source.read_text("utf-8"))["project"] if source.exists() else {}
        return list(project.get("optional-dependencies", {}).get(extra, []))
    parts = (line.partition(";") for line in lines)
    return [what.strip() for what, _, marker in parts if re.search(rf"extra == ['\"]{extra}['\"]", marker)]


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
