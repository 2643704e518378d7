"""The profile `demo`: the invented project `tern/harbour`, with 400 issues and 250 merge requests that fit together.

Every row is a pure function of (seed, kind, iid), made when it is first asked for. What rows must agree on, such as
when a merge request was merged and which issue that closed, is a pure function too, and cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lore.demo import stories
from lore.demo.clock import DAY, HOUR, MINUTE, micros
from lore.demo.dice import Dice
from lore.demo.model import FileDiff, Issue, IssueLink, Label, MergeRequest, Milestone, Project, Shelf, User
from lore.demo.state import World
from lore.demo.timeline import Timeline
from lore.demo.vocabulary import (
    ANSWERS,
    COMPONENTS,
    LABELS,
    MILESTONES,
    PEOPLE,
    PORTS,
    QUESTIONS,
    REVIEW_ANSWERS,
    REVIEWS,
    VESSELS,
    WORDS,
    Component,
)

START = micros("2024-01-08T08:00:00")
END = micros("2025-06-30T18:00:00")
ISSUE_HOLES = (23, 118, 119, 302)
MERGE_REQUEST_HOLES = (41, 160)
PROJECT_ID = 4127
PRIVATE_PROJECT_ID = 4128
ISSUE_ID = 151_000_000
MERGE_REQUEST_ID = 330_000_000


def people() -> list[User]:
    """Return the project's people."""
    return [
        User(100 + number, username, name, has_avatar=number % 3 > 0, utc_offset_minutes=offset)
        for number, (username, name, offset) in enumerate(PEOPLE)
    ]


def labels() -> list[Label]:
    """Return the project's labels."""
    return [Label(700 + number, name, color, description) for number, (name, color, description) in enumerate(LABELS)]


def milestones() -> list[Milestone]:
    """Return the project's milestones, oldest first."""
    return [
        Milestone(
            500 + number,
            number + 1,
            title,
            description,
            state,
            START + number * 180 * DAY,
            due_date=f"{2024 + number // 2}-{(number % 2) * 6 + 6:02d}-30",
            expired=state == "closed",
        )
        for number, (title, description, state) in enumerate(MILESTONES)
    ]


@dataclass(frozen=True, slots=True)
class Size:
    """Which numbers a harbour has, and from where on its rows are still open, so that it looks alive at its end."""

    issues: tuple[int, ...]
    merge_requests: tuple[int, ...]
    open_from_issue: int
    open_from_merge_request: int


def size_of(issues: int, merge_requests: int) -> Size:
    """Return the size of a harbour with so many of each, its holes among the first."""
    return Size(
        tuple(iid for iid in range(1, issues + len(ISSUE_HOLES) + 1) if iid not in ISSUE_HOLES),
        tuple(iid for iid in range(1, merge_requests + len(MERGE_REQUEST_HOLES) + 1) if iid not in MERGE_REQUEST_HOLES),
        open_from_issue=issues * 85 // 100,
        open_from_merge_request=merge_requests * 928 // 1000,
    )


DEMO = size_of(400, 250)
MEDIUM = size_of(5_000, 3_000)


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a merge request."""

    state: str
    ended_at: int


class Harbour:
    """Makes the rows of `tern/harbour` for one seed and size."""

    def __init__(self, seed: int, size: Size) -> None:
        self.size = size
        self._issues = frozenset(size.issues)
        self.dice = Dice(seed)
        self.users = people()
        self.labels = {label.name: label for label in labels()}
        self.milestones = milestones()
        self.closes = {iid: self._closed_by(iid) for iid in size.merge_requests}
        # Of several that close one issue, the first that was merged has done it.
        by_merit = sorted(self.closes, key=lambda iid: (self.fate(iid).state != "merged", iid), reverse=True)
        self._closers = {issue: iid for iid in by_merit for issue in self.closes[iid]}

    def issue(self, iid: int) -> Issue:
        """Return the issue of that number."""
        if iid == stories.ISSUE_IID:
            return stories.issue(self.dice, self.users, self.labels, self.milestones, self.issue_time(iid))
        component, which = self.topic(iid)
        author = self._someone("author", iid)
        port, vessel = self.dice.pick(PORTS, "port", iid), self.dice.pick(VESSELS, "vessel", iid)
        row = Issue(
            ISSUE_ID + iid,
            iid,
            f"{component.troubles[which]} in {port}",
            _report(component, port, vessel, has_tasks=self.dice.chance(20, "tasks", iid)),
            author,
            created_at=self.issue_time(iid),
            updated_at=self.issue_time(iid),
            confidential=self.dice.chance(2, "confidential", iid),
            upvotes=self.dice.below(4, "upvotes", iid),
        )
        line = Timeline(row, self.dice)
        line.wait(self.dice.between(2, 300, "triage", iid))
        line.label(self._someone("triage", iid), add=self._topic_labels(component, iid))
        if self.dice.chance(55, "milestone", iid):
            line.milestone(self._someone("triage", iid), self._milestone(row.created_at))
        if self.dice.chance(50, "assigned", iid):
            line.assign(author, self._someone("assignee", iid))
        self._talk(line, component, iid, port, vessel)
        self._end_issue(line, iid)
        return row

    def merge_request(self, iid: int) -> MergeRequest:
        """Return the merge request of that number."""
        if iid == stories.MERGE_REQUEST_IID:
            created_at = self.merge_request_time(iid)
            return stories.merge_request(self.dice, self.users, self.labels, self.milestones, created_at)
        closed = self.closes[iid]
        component, which = self.topic(closed[0]) if closed else self._own_topic(iid)
        author = self._someone("mr author", iid)
        fate = self.fate(iid)
        row = MergeRequest(
            MERGE_REQUEST_ID + iid,
            iid,
            component.remedies[which],
            self._proposal(component, closed),
            author,
            created_at=self.merge_request_time(iid),
            updated_at=self.merge_request_time(iid),
            source_branch=f"{author.username.partition('.')[0]}/{component.name.replace(' ', '-')}-{iid}",
            reviewers=[self._someone("reviewer", iid)],
            assignees=[author],
        )
        line = Timeline(row, self.dice)
        line.push(author, self._files(component, iid), component.remedies[which])
        line.wait(self.dice.between(1, 40, "label", iid))
        line.label(author, add=[self.labels[component.label], self.labels["needs review"]])
        if closed and self.dice.chance(60, "mr milestone", iid):
            line.milestone(author, self._milestone(row.created_at))
        self._review(line, component, row, author)
        line.now = max(line.now, fate.ended_at)
        if fate.state == "merged":
            line.label(row.reviewers[0], remove=[self.labels["needs review"]])
            line.merge(row.reviewers[0])
        elif fate.state == "closed":
            line.comment(author, "The other way is simpler, so I close this one.")
            line.close(author)
        return row

    def fate(self, iid: int) -> Fate:
        """Return how a merge request ends, and when; one that is open has not ended."""
        created_at = self.merge_request_time(iid)
        if iid >= self.size.open_from_merge_request or iid == stories.MERGE_REQUEST_IID:
            return Fate("opened", created_at)
        state = "closed" if self.dice.chance(9, "fate", iid) else "merged"
        return Fate(state, created_at + self.dice.between(26 * 60, 6 * 24 * 60, "merged", iid) * MINUTE)

    def topic(self, issue_iid: int) -> tuple[Component, int]:
        """Return what an issue is about: a component, and the place of its trouble in that one's list."""
        component = self.dice.pick(COMPONENTS, "component", issue_iid)
        return component, self.dice.below(len(component.troubles), "trouble", issue_iid)

    def issue_time(self, iid: int) -> int:
        """Return when an issue was opened; later ones were opened later."""
        return self._time("issue", iid, self.size.issues[-1])

    def merge_request_time(self, iid: int) -> int:
        """Return when a merge request was opened; later ones were opened later."""
        return self._time("merge_request", iid, self.size.merge_requests[-1]) + 12 * HOUR

    def links(self) -> list[IssueLink]:
        """Return pairs of issues about the same component; those of the story come first."""
        found = stories.links(self.issue_time(stories.ISSUE_IID) + 3 * HOUR)
        for iid in self.size.issues[20::9]:
            other = next((far for far in self.size.issues if far > iid and self.topic(far) == self.topic(iid)), None)
            if other is not None:
                found.append(IssueLink(8_000 + iid, iid, other, "relates_to", self.issue_time(other) + HOUR))
        return found

    def _time(self, kind: str, iid: int, last: int) -> int:
        step = (END - START - 10 * DAY) // last
        return START + iid * step + self.dice.below(step - 1, kind, "time", iid)

    def _closed_by(self, iid: int) -> list[int]:
        """Return the issue a merge request closes: one reported in the weeks before, or none."""
        if iid == stories.MERGE_REQUEST_IID:
            return [stories.ISSUE_IID]
        if not self.dice.chance(70, "closes", iid):
            return []
        latest = int(iid * self.size.issues[-1] / self.size.merge_requests[-1]) - 1
        wanted = latest - self.dice.below(12, "which", iid)
        return [wanted] if wanted in self._issues and wanted != stories.ISSUE_IID else []

    def _own_topic(self, iid: int) -> tuple[Component, int]:
        component = self.dice.pick(COMPONENTS, "mr component", iid)
        return component, self.dice.below(len(component.remedies), "remedy", iid)

    def _someone(self, *key: str | int) -> User:
        return self.dice.pick(self.users, "person", *key)

    def _topic_labels(self, component: Component, iid: int) -> list[Label]:
        chosen = [self.labels["bug"], self.labels[component.label]]
        if self.dice.chance(25, "priority", iid):
            chosen.append(self.labels[self.dice.pick(("priority::high", "priority::low"), "which", iid)])
        return chosen

    def _milestone(self, at: int) -> Milestone:
        return [one for one in self.milestones if one.created_at <= at][-1]

    def _talk(self, line: Timeline, component: Component, iid: int, port: str, vessel: str) -> None:
        for turn in range(self.dice.below(5, "turns", iid)):
            words = {"port": self.dice.pick(PORTS, "said", iid, turn), "vessel": vessel, "component": component.name}
            line.wait(self.dice.between(10, 900, "pause", iid, turn))
            thread = line.comment(
                self._someone("asks", iid, turn), self.dice.pick(QUESTIONS, "asked", iid, turn).format_map(words)
            )
            if self.dice.chance(60, "answered", iid, turn):
                line.wait(self.dice.between(5, 300, "answer", iid, turn))
                answer = self.dice.pick(ANSWERS, "answer", iid, turn).format_map(words)
                line.reply(thread, self._someone("author", iid), answer)

    def _end_issue(self, line: Timeline, iid: int) -> None:
        closer = self._closers.get(iid)
        if closer is not None:
            fate = self.fate(closer)
            line.now = max(line.now, self.merge_request_time(closer) + MINUTE)
            line.system(self._someone("mr author", closer), f"mentioned in merge request !{closer}")
            if fate.state == "merged":
                line.now = max(line.now, fate.ended_at)
                line.close(self._someone("reviewer", closer), merge_request_id=MERGE_REQUEST_ID + closer)
        elif iid < self.size.open_from_issue and self.dice.chance(70, "closed", iid):
            line.wait(self.dice.between(600, 20_000, "closed", iid))
            line.close(self._someone("triage", iid))
            if self.dice.chance(8, "reopened", iid):
                line.wait(self.dice.between(60, 4_000, "reopened", iid))
                line.comment(self._someone("author", iid), "It is back since this morning.")
                line.reopen(self._someone("author", iid))

    def _proposal(self, component: Component, closed: Sequence[int]) -> str:
        why = f"\n\nCloses #{closed[0]}" if closed else ""
        return f"Changes the {component.name} only; the other parts keep their behaviour.{why}"

    def _files(self, component: Component, iid: int) -> list[FileDiff]:
        paths = self.dice.some(component.paths, self.dice.between(1, 3, "files", iid), "files", iid)
        word = self.dice.pick(WORDS, "word", iid)
        files = [FileDiff(path, path, _change(word, self.dice.between(3, 90, path, iid))) for path in paths]
        if self.dice.chance(12, "rename", iid):
            old = f"harbour/{word}_helpers.py"
            is_pure = self.dice.chance(50, "pure", iid)
            diff = "" if is_pure else _change(word, 4)
            files.append(FileDiff(old, f"harbour/{word}s/{word}.py", diff, renamed_file=True))
        if self.dice.chance(15, "new file", iid):
            path = f"docs/decisions/{iid:04d}-{word}.md"
            added = f"@@ -0,0 +1,3 @@\n+# {word.title()}\n+\n+Why the {component.name} does it so.\n"
            files.append(FileDiff(path, path, added, a_mode="0", new_file=True))
        return files

    def _review(self, line: Timeline, component: Component, row: MergeRequest, author: User) -> None:
        for turn in range(self.dice.below(4, "reviews", row.iid)):
            word = self.dice.pick(WORDS, "review word", row.iid, turn)
            which = self.dice.below(len(REVIEWS), "review", row.iid, turn)
            words = {"word": word, "port": self.dice.pick(PORTS, "review port", row.iid, turn)}
            diff = self.dice.pick(row.latest.diffs, "review file", row.iid, turn)
            line.wait(self.dice.between(15, 400, "review", row.iid, turn))
            thread = line.thread(
                row.reviewers[0], REVIEWS[which].format_map(words), position=line.line(diff, new=turn + 3)
            )
            line.wait(self.dice.between(5, 200, "reply", row.iid, turn))
            line.reply(thread, author, REVIEW_ANSWERS[which])
            if self.dice.chance(50, "pushed", row.iid, turn):
                line.push(author, row.latest.diffs, f"Follow review of the {component.name}")
            if row.iid < self.size.open_from_merge_request or self.dice.chance(50, "resolved", row.iid, turn):
                line.wait(3)
                line.resolve(thread, row.reviewers[0])


def build(seed: int, size: Size = DEMO) -> World:
    """Return the world of the profile `demo`, or of a larger harbour."""
    harbour = Harbour(seed, size)
    project = Project(
        PROJECT_ID,
        "tern/harbour",
        "Plans berths, tides and pilots for small ports.",
        START - 3 * DAY,
        harbour.users[0],
        Shelf(size.issues, harbour.issue),
        Shelf(size.merge_requests, harbour.merge_request),
        list(harbour.labels.values()),
        harbour.milestones,
        harbour.users,
        former_paths=["tern/quay"],
        links=harbour.links(),
        closes=dict(harbour.closes),
    )
    return World([project, _private_project(harbour)], END)


def _private_project(harbour: Harbour) -> Project:
    def issue(iid: int) -> Issue:
        return Issue(ISSUE_ID + 90_000 + iid, iid, "Pay the pilots on time", "", harbour.users[1], START, START)

    def merge_request(iid: int) -> MergeRequest:
        raise KeyError(iid)

    return Project(
        PRIVATE_PROJECT_ID,
        "tern/ledger",
        "The books, for members only.",
        START,
        harbour.users[0],
        Shelf([1], issue),
        Shelf([], merge_request),
        [],
        [],
        harbour.users,
        is_private=True,
    )


def _report(component: Component, port: str, vessel: str, *, has_tasks: bool) -> str:
    steps = (
        f"Seen in {port} with the {vessel}.\n\n"
        f"1. Open the {component.name}.\n2. Let the {vessel} arrive at high water.\n3. Look at the next hour.\n\n"
        "**Expected:** the plan stays as it was.\n**Instead:** see the title."
    )
    tasks = f"\n\n- [x] Seen a second time\n- [ ] Test for {port}\n- [ ] Fix"
    return steps + tasks * has_tasks


def _change(word: str, line: int) -> str:
    return (
        f"@@ -{line},4 +{line},5 @@ def plan({word}):\n"
        f"     if {word} is None:\n         return None\n"
        f"-    return {word}\n+    checked = check({word})\n+    return checked\n \n"
    )
