"""Which request is to go wrong, and how: the rules that tests and demos load.

A fault is `{"match": {...}, "when": {...}, "times": n, "action": {...}}`, every part but `action` optional.

- match: `route` (a template such as `/projects/:id/issues/:iid/notes`, with `*` as wildcard), `method`, `kind`, `iid`,
  `page`, `token` (its name). A list means any of them.
- when: `nth` (list: of the matching requests, counted from 1), `every`, `after_requests`, `prob` (0 to 1, seeded).
- times: how often at most.
- action: `{"type": ...}` with that type's options; see `lore.demo.distortions` and `lore.demo.delivery`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from lore.demo.dice import Dice
from lore.demo.model import Json
from lore.demo.record import Entry

MATCH_KEYS = frozenset({"route", "method", "kind", "iid", "page", "token"})
WHEN_KEYS = frozenset({"nth", "every", "after_requests", "prob"})


class FaultError(ValueError):
    """A fault that makes no sense; the message says which part."""


@dataclass(slots=True)
class Fault:
    """One rule, and how often it matched and fired so far."""

    match: Json
    when: Json
    action: Json
    times: int | None = None
    seen: int = field(default=0)
    fired: int = field(default=0)

    @classmethod
    def parse(cls, spec: Mapping[str, Any], known_actions: Sequence[str]) -> Fault:
        """Return the fault a JSON object describes.

        Raises:
            FaultError: A part is unknown.
        """
        _only(spec, {"match", "when", "times", "action"}, "fault")
        action = spec.get("action")
        action = {"type": action} if isinstance(action, str) else dict(action or {})
        if action.get("type") not in known_actions:
            raise FaultError(f"unknown action {action.get('type')!r}; there are {', '.join(sorted(known_actions))}")
        match, when = dict(spec.get("match") or {}), dict(spec.get("when") or {})
        _only(match, MATCH_KEYS, "match")
        _only(when, WHEN_KEYS, "when")
        return cls(match, when, action, spec.get("times"))

    def fires(self, entry: Entry, dice: Dice, index: int) -> bool:
        """Say whether this request is hit, and count it."""
        if not self._matches(entry):
            return False
        self.seen += 1
        if self.times is not None and self.fired >= self.times:
            return False
        if not self._is_time(dice, index):
            return False
        self.fired += 1
        return True

    def _matches(self, entry: Entry) -> bool:
        return all(_agrees(name, wanted, getattr(entry, name)) for name, wanted in self.match.items())

    def _is_time(self, dice: Dice, index: int) -> bool:
        when = self.when
        if "nth" in when and self.seen not in _listed(when["nth"]):
            return False
        if "every" in when and self.seen % int(when["every"]):
            return False
        if "after_requests" in when and self.seen <= int(when["after_requests"]):
            return False
        return not ("prob" in when and dice.below(1_000_000, "fault", index, self.seen) >= when["prob"] * 1_000_000)


class Faults:
    """The faults in force, in the order they are tried."""

    def __init__(self, seed: int, known_actions: Sequence[str]) -> None:
        self._dice = Dice(seed)
        self._known = known_actions
        self._faults: list[Fault] = []

    def __bool__(self) -> bool:
        return bool(self._faults)

    def load(self, specs: Sequence[Mapping[str, Any]]) -> None:
        """Replace all faults by these; an empty list ends them.

        Raises:
            FaultError: One makes no sense; then none is changed.
        """
        self._faults = [Fault.parse(spec, self._known) for spec in specs]

    def hitting(self, entry: Entry) -> list[Json]:
        """Return the actions for this request, and count it for every fault."""
        return [fault.action for index, fault in enumerate(self._faults) if fault.fires(entry, self._dice, index)]

    def describe(self) -> list[Json]:
        """Return the faults in force, with their counts."""
        return [
            {"match": f.match, "when": f.when, "times": f.times, "action": f.action, "seen": f.seen, "fired": f.fired}
            for f in self._faults
        ]


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "route": lambda wanted, actual: fnmatchcase(str(actual), str(wanted)),
    "method": lambda wanted, actual: str(wanted).upper() == actual,
}


def _agrees(name: str, wanted: Any, actual: Any) -> bool:
    compare = _COMPARE.get(name, lambda one, other: bool(one == other))
    return any(compare(one, actual) for one in _listed(wanted))


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def _only(spec: Mapping[str, Any], known: set[str] | frozenset[str], what: str) -> None:
    unknown = sorted(set(spec) - known)
    if unknown:
        raise FaultError(f"unknown {what} key {', '.join(unknown)}; known: {', '.join(sorted(known))}")
