"""A handle on a running demo server, in this process or another: its address, and its control routes as methods."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

from lore.demo.model import Json, Kind


@dataclass(frozen=True)
class Demo:
    """A demo GitLab that is accepting connections.

    Attributes:
        token: A valid token that may read everything but private projects.
    """

    url: str
    token: str
    project: str
    project_id: int
    pid: int

    def faults(self, faults: Sequence[Json]) -> list[Json]:
        """Put these faults in force instead of those before; see `lore.demo.faults`."""
        found: list[Json] = self._ask("faults", faults)
        return found

    def script(self, steps: Sequence[Json]) -> list[Json]:
        """Do these steps; see `lore.demo.script`. Returns, for each, the truth about what it changed."""
        found: list[Json] = self._ask("script", steps)
        return found

    def log(self) -> list[Json]:
        """Return every request so far; see `lore.demo.record.Entry`."""
        found: list[Json] = self._ask("log")
        return found

    def stats(self) -> Json:
        """Return totals: requests, duplicates, peak concurrency, connections, violations of a 429."""
        found: Json = self._ask("stats")
        return found

    def truth(self, kind: Kind, iid: int) -> Json | None:
        """Return what GitLab holds of one entity of the profile's project; None if it shows none."""
        found: Json | None = self._ask(f"truth/{self.project_id}/{kind}/{iid}")
        return found

    def whole_truth(self) -> Json:
        """Return all that GitLab holds of the profile's project; see `lore.demo.truth.project_truth`."""
        found: Json = self._ask(f"truth/{self.project_id}")
        return found

    def digest(self) -> str:
        """Return one hash of the whole truth."""
        return str(self._ask(f"truth/{self.project_id}/digest")["digest"])

    def tokens(self) -> dict[str, str]:
        """Return every token's value by its name: `full`, `guest`, `owner`, `read_user`, `expired`, and more."""
        found: dict[str, str] = self._ask("tokens")
        return found

    def latency(self, ms: float) -> None:
        """Let every answer take at least so long from now on."""
        self._ask("latency", {"ms": ms})

    def advance_clock(self, seconds: float) -> None:
        """Push the server's clock forward."""
        self._ask("clock", {"advance_s": seconds})

    def reset(self) -> None:
        """Put everything back to the start: state, faults, latency, log."""
        self._ask("reset", {})

    def _ask(self, name: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = Request(f"{self.url}/__fake__/{name}", data, headers)  # noqa: S310  # our own server
        try:
            with _opener().open(request, timeout=60) as response:
                return json.load(response)
        except OSError as error:
            detail = error.read().decode() if hasattr(error, "read") else error
            raise RuntimeError(f"the demo server refused {name}: {detail}") from error


def _opener() -> OpenerDirector:
    """Return an opener that asks no proxy: the server is on this machine."""
    return build_opener(ProxyHandler({}))
