"""The profile `tiny`: ten issues and ten merge requests that hold every odd thing real servers have been seen to send.

`FEATURES` says where each is. The rows are the same for every seed, but for the hashes of commits and discussions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from lore.demo import tiny_issues, tiny_merge_requests
from lore.demo.clock import DAY
from lore.demo.dice import Dice
from lore.demo.model import ExternalIssue, Issue, IssueLink, Kind, MergeRequest, Project, Shelf
from lore.demo.state import World
from lore.demo.tiny_cast import LABELS, MARA, MILESTONES, MOVED_ISSUE_ID, NOW, START, USERS

PROJECT_ID = 71
PRIVATE_PROJECT_ID = 72


@dataclass(frozen=True, slots=True)
class Where:
    """The row and the part of its truth (see `lore.demo.truth`) that show a feature."""

    kind: Kind
    iid: int
    part: str


def _issue(iid: int, *parts: str) -> tuple[Where, ...]:
    return tuple(Where("issue", iid, part) for part in parts)


def _merge_request(iid: int, *parts: str) -> tuple[Where, ...]:
    return tuple(Where("merge_request", iid, part) for part in parts)


FEATURES: dict[str, tuple[Where, ...]] = {
    "composed and decomposed unicode": _issue(1, "body"),
    "right-to-left text": _issue(1, "body"),
    "emoji and astral characters": _issue(1, "body"),
    "control characters": _issue(1, "discussions"),
    "line separator U+2028": _issue(1, "discussions"),
    "CRLF line ends": _issue(1, "discussions"),
    "HTML in a system note": _issue(1, "discussions"),
    "a note of white space only": _issue(1, "discussions"),
    "a description of 1 MB": _issue(2, "body"),
    "more than 100 notes in one thread": _issue(3, "discussions"),
    "more than 100 threads": _issue(4, "discussions"),
    "label names with comma, colon, scope and emoji": _issue(5, "body"),
    "a label event without its label": _issue(5, "label_events"),
    "an event without its user": _issue(5, "label_events", "state_events", "milestone_events"),
    "several label events at one moment": _issue(5, "label_events"),
    "more than 100 label events": _issue(5, "label_events"),
    "a milestone event without its milestone": _issue(5, "milestone_events"),
    "an issue without author": _issue(7, "body"),
    "a note by the Ghost user": _issue(7, "discussions"),
    "a note without author": _issue(7, "discussions"),
    "a user without avatar": _issue(7, "discussions"),
    "an internal note": _issue(7, "discussions"),
    "an entity id above 2^31": _issue(8, "body"),
    "a note id above 2^53": _issue(8, "discussions"),
    "an event id above 2^53": _issue(8, "label_events", "state_events"),
    "links of every type": _issue(8, "links"),
    "a moved issue": _issue(9, "body"),
    "a confidential issue": _issue(11, "body"),
    "an issue with nothing on it": _issue(12, "body", "discussions", "state_events", "label_events", "links"),
    "no description": _issue(12, "body"),
    "an incident": _issue(12, "body"),
    "a merge request of nulls": _merge_request(1, "body"),
    "the locked state": _merge_request(2, "body", "state_events"),
    "a diff note without position": _merge_request(3, "discussions"),
    "a diff note on an image": _merge_request(3, "discussions"),
    "a diff note on a file": _merge_request(3, "discussions"),
    "a diff note over several lines": _merge_request(3, "discussions"),
    "a diff note on a removed and on an unchanged line": _merge_request(3, "discussions"),
    "a diff note without line range": _merge_request(3, "discussions"),
    "an outdated diff note": _merge_request(3, "discussions"),
    "a diff note on a renamed file": _merge_request(3, "discussions"),
    "a diff note on a commit": _merge_request(3, "discussions"),
    "a legacy diff note": _merge_request(3, "discussions"),
    "a suggestion": _merge_request(3, "discussions"),
    "a resolved thread": _merge_request(3, "discussions"),
    "an external issue with a text as id": _merge_request(4, "closes_issues"),
    "a pure rename": _merge_request(6, "diffs"),
    "a swap of two files": _merge_request(6, "diffs"),
    "a rename of case only": _merge_request(6, "diffs"),
    "a chain of renames": _merge_request(7, "diffs"),
    "a rename with edits": _merge_request(7, "diffs"),
    "a renamed directory": _merge_request(7, "diffs"),
    "a copy": _merge_request(7, "diffs"),
    "a change of mode": _merge_request(8, "diffs"),
    "a binary file": _merge_request(8, "diffs"),
    "a collapsed file": _merge_request(8, "diffs"),
    "a file that is too large": _merge_request(8, "diffs"),
    "a file of which nobody knows whether it is generated": _merge_request(8, "diffs"),
    "weird paths": _merge_request(8, "diffs"),
    "a deleted file": _merge_request(8, "diffs"),
    "a list of changes that overflows": _merge_request(8, "body", "versions"),
    "twenty versions and a forced push": _merge_request(9, "versions"),
    "commit dates in many offsets": _merge_request(9, "commits"),
    "a merge to a branch that closes nothing": _merge_request(10, "body", "closes_issues"),
    "more than 100 files": _merge_request(11, "diffs"),
    "more than 100 commits": _merge_request(11, "commits"),
}
# What no single row shows: pages that are short or empty though more follow (per_page 20 and 100), iids that were
# never used, rows with the same times.
SHORT_PAGES = Where("issue", 4, "discussions")
SHORT_EVENT_PAGES = Where("issue", 5, "label_events")
ISSUE_HOLES, MERGE_REQUEST_HOLES = (6, 10), (5,)
TIED_ISSUES = (11, 12)

ISSUES: dict[int, Callable[[Dice], Issue]] = tiny_issues.ISSUES
MERGE_REQUESTS: dict[int, Callable[[Dice], MergeRequest]] = tiny_merge_requests.MERGE_REQUESTS


def build(seed: int) -> World:
    """Return the world of the profile `tiny`."""
    dice = Dice(seed)
    project = Project(
        PROJECT_ID,
        "tiny/conformance",
        "Every odd thing at least once.",
        START - DAY,
        MARA,
        Shelf(list(ISSUES), lambda iid: ISSUES[iid](dice)),
        Shelf(list(MERGE_REQUESTS), lambda iid: MERGE_REQUESTS[iid](dice)),
        list(LABELS),
        list(MILESTONES),
        list(USERS),
        namespace_id=70,
        former_paths=["tiny/before"],
        links=[
            IssueLink(31, 8, 1, "relates_to", START + DAY),
            IssueLink(32, 8, 3, "blocks", START + DAY + 1),
            IssueLink(33, 5, 8, "is_blocked_by", START + DAY + 2),
        ],
        closes={4: [1, 5], 9: [3], 10: [1]},
        closes_external={4: [ExternalIssue("SHIP-42", "SHIP-42")]},
    )
    return World([project, _private_project(dice)], NOW)


def _private_project(dice: Dice) -> Project:
    return Project(
        PRIVATE_PROJECT_ID,
        "tiny/secret",
        "Only its owner sees it.",
        START,
        MARA,
        Shelf([1], lambda iid: Issue(MOVED_ISSUE_ID, iid, "Moved here", "", MARA, START, START)),
        Shelf([], partial(_no_merge_request, dice)),
        [],
        [],
        list(USERS),
        is_private=True,
        namespace_id=70,
    )


def _no_merge_request(dice: Dice, iid: int) -> MergeRequest:
    raise KeyError(iid)
