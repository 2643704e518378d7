"""The whole life of a file, through every name it had: a search over what merge requests did to files.

A name is not a file: it is given up and taken again. What was merged cuts the life of a name into *spans*, at each
moment another file begins under it (is added, or renamed to it); a rename leads from a span of the old name to one of
the new. A name that was given up is not cut there: who changes it after that works on a branch that has no rename yet.
What was not merged cuts nothing: it belongs to the file that had the name.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from posixpath import splitext
from typing import Final

_ENOUGH_ALIKE: Final = 0.7

Moment = tuple[int, int]


@dataclass(frozen=True)
class Change:
    """What one merge request does to one file.

    Attributes:
        at: When it was merged, else when it was closed or last updated, in ms.
        iid: The merge request's, which orders what happened at the same time.
        old_path: The name before; the same as `new_path` unless it was renamed.
        new_path: The name after.
        is_merged: Whether it happened, or was only proposed.
        is_abandoned: It was proposed, and closed without a merge.
        is_added: The file begins here.
        is_deleted: The file ends here.
    """

    at: int
    iid: int
    old_path: str
    new_path: str
    is_merged: bool = True
    is_abandoned: bool = False
    is_added: bool = False
    is_deleted: bool = False

    @property
    def moment(self) -> Moment:
        """Its place in time; everything a merge request does happens at once."""
        return (self.at, self.iid)

    @property
    def is_rename(self) -> bool:
        """Whether the file had another name before."""
        return self.old_path != self.new_path and not (self.is_added or self.is_deleted)


@dataclass(frozen=True)
class Life:
    """What became of the files that ever had a name.

    Attributes:
        paths: Every name, each behind those it came from.
        changes: Everything done to them, newest first.
    """

    paths: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)


def follow(path: str, changes_of: Callable[[Collection[str]], Iterable[Change]]) -> Life:
    """Return the life of every file that was ever called `path`, searched breadth first in both directions of time.

    Args:
        path: Any name it ever had.
        changes_of: Gives every change whose old or new name is one of these. It is asked once for each wave of the
            search, and never twice for one name, so that the search ends however names go round.
    """
    known = _Known()
    known.add([path], changes_of)
    found = set(known.naming[path])
    wave = {(path, index) for index in range(len(known.cuts[path]) + 1)}
    seen: set[_Span] = set()
    while wave:
        seen |= wave
        changes = {change for span in wave for change in known.of_span(span)}
        found |= changes
        renames = [change for change in changes if change.is_rename]
        known.add({name for change in renames for name in (change.old_path, change.new_path)}, changes_of)
        wave = {span for change in renames for span in known.spans_of(change)} - seen
    return Life(_in_order(found, seen), sorted(found, key=_newest_first))


def only(path: str, changes_of: Callable[[Collection[str]], Iterable[Change]]) -> Life:
    """Return what was done under this one name, whatever file had it."""
    changes = sorted(set(changes_of([path])), key=_newest_first)
    return Life([path] if changes else [], changes)


def nearest(path: str, known: Iterable[str], *, limit: int = 5) -> list[str]:
    """Return the known paths that `path` may have been meant as, the likeliest first.

    Likeliest is what differs in case only, then what lies in it as a folder, then what has the same file name, then
    what is spelt alike.
    """
    wanted = path.strip("/").lower()
    base = _base(wanted)
    likely: list[tuple[int, str]] = []
    rest: list[str] = []
    for one in known:
        lower = one.lower()
        if lower == wanted:
            likely.append((0, one))
        elif lower.startswith(f"{wanted}/"):
            likely.append((1, one))
        elif lower.endswith(f"/{wanted}"):
            likely.append((2, one))
        elif _base(lower) == base:
            likely.append((3, one))
        else:
            rest.append(one)
    found = [one for _, one in sorted(likely)[:limit]]
    return found + _spelt_alike(wanted, rest, limit - len(found))


def count_lines(diff: str) -> tuple[int, int]:
    """Return how many lines a file's diff adds and removes; what stands before its first hunk is no line of it."""
    added = removed = 0
    in_hunk = False
    for line in diff.split("\n"):
        if line.startswith("@@"):
            in_hunk = True
        elif in_hunk and line.startswith("+"):
            added += 1
        elif in_hunk and line.startswith("-"):
            removed += 1
    return added, removed


_Span = tuple[str, int]


class _Known:
    """The changes that were read so far, by name, and where each name's life is cut."""

    def __init__(self) -> None:
        self.naming: dict[str, set[Change]] = {}
        self.cuts: dict[str, list[Moment]] = {}
        self._of_span: dict[_Span, list[Change]] = defaultdict(list)

    def add(self, paths: Collection[str], changes_of: Callable[[Collection[str]], Iterable[Change]]) -> None:
        """Read what names these paths, those that are new."""
        new = sorted(set(paths) - set(self.naming))
        if not new:
            return
        for path in new:
            self.naming[path] = set()
        for change in changes_of(new):
            for path in {change.old_path, change.new_path}.intersection(new):
                self.naming[path].add(change)
        for path in new:
            self.cuts[path] = sorted({c.moment for c in self.naming[path] if c.is_merged and _begins(c, path)})
            self._place(path)

    def of_span(self, span: _Span) -> list[Change]:
        """Return what was done to the file that had this name then."""
        return self._of_span[span]

    def spans_of(self, change: Change) -> set[_Span]:
        """Return the spans that a rename joins."""
        return {
            span
            for path in (change.old_path, change.new_path)
            for span in self._touched(change, path)
            if change in self._of_span[span]
        }

    def _place(self, path: str) -> None:
        """Say of each change which of the name's spans it touches: the merged ones first, as they say who was there."""
        for change in sorted(self.naming[path], key=lambda one: not one.is_merged):
            for span in self._touched(change, path):
                self._of_span[span].append(change)

    def _touched(self, change: Change, path: str) -> set[_Span]:
        cuts = self.cuts[path]
        if change.is_merged:
            touched = set()
            if path == change.old_path and not change.is_added:
                touched.add((path, bisect_left(cuts, change.moment)))
            if path == change.new_path and not change.is_deleted:
                touched.add((path, bisect_right(cuts, change.moment)))
            return touched
        lived = [index for index in range(len(cuts) + 1) if self._has_merged((path, index))]
        if not lived:
            return {(path, 0)}
        # The new name of a rename that nobody wants any more, which others have: it says nothing of their file.
        if change.is_rename and change.is_abandoned and path == change.new_path:
            return set()
        now = bisect_right(cuts, change.moment)
        return {(path, max((index for index in lived if index <= now), default=lived[0]))}

    def _has_merged(self, span: _Span) -> bool:
        return any(change.is_merged for change in self._of_span[span])


def _begins(change: Change, path: str) -> bool:
    """Tell whether a file begins under this name."""
    return path == change.new_path and (change.is_rename or change.is_added)


def _in_order(changes: Iterable[Change], spans: Iterable[_Span]) -> list[str]:
    """Return the names, each behind those it came from where names do not go round, else as they were first seen."""
    names = {name for name, _ in spans}
    oldest_first = sorted(changes, key=_newest_first, reverse=True)
    came_from: dict[str, list[str]] = {}
    for change in oldest_first:
        for name in (change.old_path, change.new_path):
            if name in names:
                came_from.setdefault(name, [])
        if change.is_rename and {change.old_path, change.new_path} <= names:
            came_from[change.new_path].append(change.old_path)
    ordered: dict[str, None] = {}
    begun: set[str] = set()
    for first in came_from:
        waiting = [first]
        while waiting:
            name = waiting[-1]
            before = [] if name in begun else [one for one in came_from[name] if one not in begun]
            begun.add(name)
            if before:
                waiting += reversed(before)
            else:
                ordered.setdefault(waiting.pop())
    return list(ordered)


def _newest_first(change: Change) -> tuple[int, int, str, str]:
    return (-change.at, -change.iid, change.new_path, change.old_path)


def _base(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _spelt_alike(wanted: str, paths: Iterable[str], limit: int) -> list[str]:
    if limit < 1:
        return []
    matcher = SequenceMatcher(autojunk=False, b=_stem(wanted))
    found = sorted((-_likeness(matcher, _stem(one.lower())), one) for one in paths)
    return [one for unlikeness, one in found[:limit] if -unlikeness >= _ENOUGH_ALIKE]


def _stem(path: str) -> str:
    """Return a file's name without its ending, which like its folder it shares with many that are not near it."""
    return splitext(_base(path))[0]


def _likeness(matcher: SequenceMatcher[str], text: str) -> float:
    matcher.set_seq1(text)
    # The two quick ones are upper bounds of the third.
    if matcher.real_quick_ratio() < _ENOUGH_ALIKE or matcher.quick_ratio() < _ENOUGH_ALIKE:
        return 0.0
    return matcher.ratio()
