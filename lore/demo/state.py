"""The server's whole state: projects, tokens, clock, and a version that grows with every change."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from lore.demo.clock import MINUTE, Clock
from lore.demo.flavour import CE_18_9, Flavour
from lore.demo.model import Entity, Kind, Project
from lore.demo.render import Renderer
from lore.demo.tokens import Token, TokenRing


@dataclass(frozen=True, slots=True)
class World:
    """What a profile makes of a seed. The first project is the one the profile is about."""

    projects: list[Project]
    now: int


class State:
    """Everything a request can read and a script can change. Hold `lock` while doing either.

    Args:
        build: Makes the world anew; called again by `reset`, so it must be a pure function.
        clock_mode: See `lore.demo.clock.Clock`.
    """

    def __init__(self, build: Callable[[], World], *, clock_mode: str = "frozen", flavour: Flavour = CE_18_9) -> None:
        self.lock = threading.RLock()
        self.flavour = flavour
        self.external_url = "http://gitlab.example.invalid"
        self.version = 0
        self._build = build
        self._clock_mode = clock_mode
        self._load()

    def _load(self) -> None:
        world = self._build()
        self.clock = Clock(self._clock_mode, world.now)
        self.tokens = TokenRing()
        self.projects = {project.id: project for project in world.projects}
        self.main = world.projects[0]
        self._next_id = 5_000_000_000

    def reset(self) -> None:
        """Put everything back as it was at the start; the version still grows, so no cached answer survives."""
        with self.lock:
            self._load()
            self.version += 1

    def warm(self) -> None:
        """Make every row now, so that no measured request pays for it."""
        for project in self.projects.values():
            for shelf in (project.issues, project.merge_requests):
                for _ in shelf:
                    pass

    def changed(self) -> None:
        """Say that something did; answers kept until now are no longer served."""
        self.version += 1

    def new_id(self) -> int:
        """Return an id for a new row, higher than those generated (but for a few odd ones of the tiny profile)."""
        self._next_id += 1
        return self._next_id

    def renderer(self, project: Project) -> Renderer:
        """Return what renders the rows of a project."""
        return Renderer(self.external_url, project, self.flavour)

    def project(self, reference: str) -> Project | None:
        """Return the project of a numeric id or a full path; an all-digit text is always an id."""
        if reference.isdecimal():
            return self.projects.get(int(reference))
        wanted = reference.lower()
        return next((project for project in self.projects.values() if project.path.lower() == wanted), None)

    def moved_project(self, reference: str) -> Project | None:
        """Return the project that once had that path."""
        wanted = reference.lower()
        return next(
            (project for project in self.projects.values() if wanted in map(str.lower, project.former_paths)), None
        )

    def closing_merge_requests(self, project: Project, issue_iid: int) -> list[int]:
        """Return the iids of those that close the issue when merged: only a merge to the default branch does."""
        return [
            iid
            for iid in sorted(project.closes)
            if issue_iid in project.closes[iid]
            and iid in project.merge_requests
            and project.merge_requests[iid].target_branch == project.default_branch
        ]

    def touch(self, row: Entity) -> None:
        """Move `updated_at`, unless it moved within the last minute: GitLab's ThrottledTouch."""
        if self.clock.now() - row.updated_at > MINUTE:
            row.updated_at = self.clock.now()

    def write(self, row: Entity) -> None:
        """Move `updated_at` always, as saving an attribute of the row does."""
        row.updated_at = self.clock.now()


def can_see_project(token: Token | None, project: Project) -> bool:
    """Whether a project is shown to the holder of the token, or to anybody."""
    return not project.is_private or (token is not None and token.sees_private)


def can_see(token: Token | None, kind: Kind, row: Entity) -> bool:
    """Whether a row is."""
    is_confidential = kind == "issue" and bool(getattr(row, "confidential", False))
    return not is_confidential or (token is not None and token.sees_confidential)
