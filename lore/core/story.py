"""The story of an entity as one ordered list of events, and what GitLab's system notes say in it.

A system note's text is no contract of GitLab's: what it is not understood to say is told as it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from heapq import merge
from typing import Any, Final, Literal

Kind = Literal[
    "created", "comment", "pushed", "mentioned", "label", "milestone", "state", "merged", "closed", "reopened", "system"
]
Moment = tuple[int, int, str, str, int]

# What happens at one moment: it is there, is talked about, is changed, and then ends.
_RANKS: Final[dict[str, int]] = {
    "created": 0,
    "pushed": 1,
    "comment": 2,
    "mentioned": 2,
    "system": 2,
    "label": 3,
    "milestone": 3,
    "reopened": 4,
    "state": 4,
    "merged": 5,
    "closed": 6,
}
_TAG: Final = re.compile(r"<[^>]{1,200}>")
_MENTIONED: Final = re.compile(
    r"mentioned in (?:(?P<noun>[a-z][a-z ]*) )?(?P<ref>[A-Za-z0-9_./-]*[!#][0-9]+|[A-Za-z0-9_./-]*@?[0-9a-f]{7,64})\b"
)
_CLOSED_BY: Final = re.compile(r"closed via (?P<noun>merge request|commit) (?P<ref>\S+)")
_PUSHED: Final = re.compile(r"added \d+ (new )?commits?\b")
_REF: Final = re.compile(r"(?P<project>[A-Za-z0-9_./-]*)(?P<sign>[!#])(?P<iid>[0-9]{1,10})")


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        at: When, in ms.
        ref: To what.
        kind: Of what sort it is.
        author: Whose doing it was; None where GitLab does not say, or the user is gone.
        text: What was said or done, foreign text as it is.
        cause: By what it came: the REF of a merge request, or a commit.
        path: The file a comment stands on.
        line: The line in it.
        sequence: Its place among those of its kind, which orders one moment.
    """

    at: int
    ref: str
    kind: Kind
    author: str | None = None
    text: str | None = None
    cause: str | None = None
    path: str | None = None
    line: int | None = None
    sequence: int = 0

    @property
    def moment(self) -> Moment:
        """Its place in a story."""
        return (self.at, _RANKS[self.kind], self.ref, self.kind, self.sequence)


def tell(*parts: Iterable[Event]) -> list[Event]:
    """Return the events of several parts in one order, each once."""
    in_order = merge(*(sorted(part, key=_moment) for part in parts), key=_moment)
    return list(dict.fromkeys(in_order))


def placed(told: Sequence[Event]) -> list[tuple[tuple[Any, ...], Event]]:
    """Return each event of a story with its place in it: its moment, and which one of that moment it is."""
    seen: Counter[Moment] = Counter()
    found = []
    for event in told:
        found.append(((*event.moment, seen[event.moment]), event))
        seen[event.moment] += 1
    return found


def of_system_note(event: Event) -> Event:
    """Return the event that a system note tells, with its kind and its cause."""
    said = _TAG.sub("", event.text or "").strip()
    if _PUSHED.match(said):
        return replace(event, kind="pushed", text=said)
    closed = _CLOSED_BY.match(said)
    if closed is not None:
        return replace(event, kind="closed", text=said, cause=_cause(closed))
    mentioned = _MENTIONED.match(said)
    if mentioned is not None:
        return replace(event, kind="mentioned", text=said, cause=_cause(mentioned))
    return replace(event, kind="system", text=said)


def parse_mention(text: str) -> tuple[str, str, int] | None:
    """Return (project, entity type, iid) of the entity that a cause or mention names; the project may be empty."""
    found = _REF.fullmatch(text)
    if found is None:
        return None
    return found["project"], "merge_request" if found["sign"] == "!" else "issue", int(found["iid"])


def without_echoes(events: Iterable[Event]) -> list[Event]:
    """Return the events of one entity without what is told twice; a cause that only one telling knows is kept.

    GitLab tells of an end by its state event, by a field of the entity, and by a system note; the first has the author.
    """
    told: list[Event] = []
    for event in sorted(events, key=_moment):
        twin = next(
            (
                number
                for number, one in enumerate(told)
                if event.kind in ("closed", "merged", "reopened")
                and one.kind == event.kind
                and abs(one.at - event.at) <= _SAME_MS
            ),
            None,
        )
        if twin is None:
            told.append(event)
        else:
            told[twin] = replace(
                told[twin], author=told[twin].author or event.author, cause=told[twin].cause or event.cause
            )
    return told


# Between the entity's own time, its event and its note lie some milliseconds, on a busy server a second or two.
_SAME_MS: Final = 5_000


def _cause(found: re.Match[str]) -> str:
    ref = found["ref"].strip("*_.,;")
    return f"commit {ref}" if found["noun"] == "commit" else ref


def _moment(event: Event) -> Any:
    return event.moment
