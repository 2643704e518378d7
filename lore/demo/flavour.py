"""Which GitLab is imitated: the differences between versions and editions that a body shows.

One flavour exists so far. A second is a second constant here and, where a key comes or goes, a flag that
`lore.demo.render` asks; nothing else knows the version.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Flavour:
    """One version and edition of GitLab."""

    version: str
    revision: str
    is_enterprise: bool
    issue_path: str
    # 19.5 says on a discussion whether it is resolvable and resolved, and lists suggestions on a diff note.
    has_thread_state: bool


CE_18_9 = Flavour(
    version="18.9.1", revision="4f2c1d9b7ae", is_enterprise=False, issue_path="issues", has_thread_state=False
)
