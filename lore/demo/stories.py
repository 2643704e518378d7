"""The two rows of `tern/harbour` that were written by hand, to be shown: issue #7, and !12, which closes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lore.demo.clock import DAY
from lore.demo.dice import Dice
from lore.demo.model import FileDiff, Issue, IssueLink, Label, MergeRequest, Milestone, User
from lore.demo.timeline import Timeline

ISSUE_IID = 7
MERGE_REQUEST_IID = 12

TABLE = FileDiff(
    "harbour/tides.py",
    "harbour/tides/table.py",
    "@@ -12,6 +12,8 @@ class TideTable:\n"
    "     def low_waters(self, day):\n"
    '         """Return the low waters of a day, in order."""\n'
    "-        return [tide for tide in self.tides if tide.at.date() == day]\n"
    "+        start = self.port.midnight(day)\n"
    "+        end = self.port.midnight(day + ONE_DAY)\n"
    "+        return [tide for tide in self.tides if start <= tide.at < end]\n"
    " \n"
    "     def window(self, vessel):\n",
    renamed_file=True,
)
ALMANAC = FileDiff("harbour/almanac.py", "harbour/tides/almanac.py", renamed_file=True)
ZONE = FileDiff(
    "harbour/tides/zone.py",
    "harbour/tides/zone.py",
    "@@ -0,0 +1,9 @@\n"
    "+from datetime import datetime, time\n"
    "+from zoneinfo import ZoneInfo\n"
    "+\n"
    "+\n"
    "+class PortClock:\n"
    '+    """The wall clock of a port."""\n'
    "+\n"
    "+    def midnight(self, day):\n"
    "+        return datetime.combine(day, time(0), ZoneInfo(self.zone_name))\n",
    a_mode="0",
    new_file=True,
)
PLANNER = FileDiff(
    "harbour/berths/planner.py",
    "harbour/berths/planner.py",
    "@@ -3,5 +3,5 @@\n from harbour.berths.model import Berth\n"
    "-from harbour.tides import TideTable\n+from harbour.tides.table import TideTable\n \n",
)
OLD_TEST = FileDiff(
    "tests/test_tides.py", "tests/test_tides.py", "@@ -1,2 +0,0 @@\n-import harbour\n-\n", b_mode="0", deleted_file=True
)
CHART = FileDiff("docs/tide_curve.png", "docs/tide_curve.png", "Binary files differ\n", a_mode="0", new_file=True)


def links(at: int) -> list[IssueLink]:
    """Return what issue #7 is linked to: it blocks one, and is related to two."""
    return [
        IssueLink(8_000, ISSUE_IID, 9, "relates_to", at),
        IssueLink(8_001, ISSUE_IID, 15, "blocks", at + 90_000_000),
        IssueLink(8_002, 4, ISSUE_IID, "relates_to", at + 2 * DAY),
    ]


def issue(
    dice: Dice, users: Sequence[User], labels: Mapping[str, Label], milestones: Sequence[Milestone], created_at: int
) -> Issue:
    """Return issue #7: the tide table is an hour off in summer."""
    mara, tobias, ines, oskar, yuki = users[:5]
    row = Issue(
        151_000_007,
        ISSUE_IID,
        "Tide table is one hour off in summer",
        "Since the clocks changed, every low water in Skerrow is shown one hour early.\n\n"
        "| port | shown | real |\n|---|---|---|\n| Skerrow | 05:12 | 06:12 |\n| Vantmouth | 05:40 | 06:40 |\n\n"
        "The *Grey Heron* touched ground because of it.\n\n"
        "- [x] Compare with the printed almanac\n- [x] Find where the zone is lost\n- [ ] Fix\n- [ ] Tell the ports",
        mara,
        created_at=created_at,
        updated_at=created_at,
        due_date="2024-02-15",
        upvotes=5,
    )
    line = Timeline(row, dice)
    line.wait(12)
    line.label(tobias, add=[labels["bug"], labels["area::tides"], labels["needs review"]])
    line.wait(1)
    line.label(tobias, add=[labels["priority::high"]], remove=[labels["needs review"]])
    line.milestone(tobias, milestones[1])
    line.wait(3)
    line.milestone(tobias, milestones[0])
    line.assign(tobias, ines, oskar)
    line.wait(40)
    first = line.comment(ines, "The almanac is read in UTC and compared with local dates. In winter nobody sees it.")
    line.wait(15)
    line.reply(first, mara, "That fits: it began on the Sunday the clocks changed. Could it be the import as well?")
    line.wait(9)
    line.reply(first, ines, "The import is right, I checked it against the printed table. :ocean:")
    line.wait(300)
    line.comment(yuki, "In Saint Osk we never change the clocks and see nothing. So it is the zone, not the tide.")
    line.wait(1_500)
    line.system(mara, "changed title from **Tide table is wrong** to **Tide table is {+one hour off in summer+}**")
    line.wait(60)
    plan = line.thread(
        oskar,
        "I propose to give every port a clock of its own:\n\n```python\nclass PortClock:\n    "
        "def midnight(self, day): ...\n```\n\nThen the table asks the port when a day begins.",
    )
    line.wait(30)
    line.reply(plan, ines, "I like it. Then #15 gets simple as well.")
    line.wait(5)
    line.resolve(plan, ines)
    line.wait(2_000)
    line.close(tobias)
    line.wait(45)
    line.comment(mara, "Closed too early: Vantmouth still has the old table.")
    line.reopen(mara)
    line.wait(10_000)
    line.system(oskar, f"mentioned in merge request !{MERGE_REQUEST_IID}")
    return row


def merge_request(
    dice: Dice, users: Sequence[User], labels: Mapping[str, Label], milestones: Sequence[Milestone], created_at: int
) -> MergeRequest:
    """Return merge request !12: gives every port its own clock, moving files while it changes them."""
    mara, tobias, ines, oskar, yuki = users[:5]
    row = MergeRequest(
        330_000_012,
        MERGE_REQUEST_IID,
        "Read tide tables in the port's own time zone",
        "Every port gets a clock, and the tide table asks it when a day begins.\n\n"
        "* `harbour/tides.py` becomes `harbour/tides/table.py`, with the fix inside\n"
        "* `harbour/almanac.py` moves beside it, unchanged\n\n"
        f"Closes #{ISSUE_IID}",
        oskar,
        created_at=created_at,
        updated_at=created_at,
        source_branch="oskar/port-clock",
        reviewers=[ines, mara],
        assignees=[oskar],
        upvotes=2,
    )
    line = Timeline(row, dice)
    line.push(oskar, [TABLE, PLANNER], "Give every port a clock", "Ask the port when a day begins")
    line.wait(5)
    line.label(oskar, add=[labels["bug"], labels["area::tides"], labels["needs review"]])
    line.milestone(oskar, milestones[0])
    line.system(oskar, "requested review from @ines.calder and @mara.lind")
    line.wait(180)
    zone = line.thread(
        ines,
        "What is `port` for a table that was made before this? It has no clock.",
        position=line.line(TABLE, new=14),
    )
    line.wait(25)
    line.reply(zone, oskar, "It falls back to UTC, as it did until now. I will say so in the docstring.")
    line.wait(12)
    line.reply(zone, ines, "Good.")
    line.resolve(zone, ines)
    line.wait(70)
    removed = line.thread(mara, "So this line was the whole bug. :smile:", position=line.line(TABLE, old=14))
    line.wait(8)
    line.reply(removed, oskar, "One line, one grounded vessel.")
    line.wait(600)
    line.push(oskar, [TABLE, ALMANAC, ZONE, PLANNER, OLD_TEST, CHART], "Move the almanac beside the table")
    line.wait(20)
    import_line = line.thread(
        ines, "Is anything else importing the old module?", position=line.line(PLANNER, old=3, new=3)
    )
    line.wait(10)
    line.reply(import_line, oskar, "Only the planner, and the test that goes away.")
    whole_file = line.thread(
        mara,
        "Please keep the history of this file readable: no change in it, just the move.",
        position=line.position(ALMANAC, "file"),
    )
    line.wait(4)
    line.resolve(whole_file, mara)
    line.thread(
        yuki,
        "The curve should be drawn from midnight to midnight.",
        position=line.position(CHART, "image") | {"width": 800, "height": 400, "x": 120, "y": 64},
    )
    line.wait(90)
    general = line.comment(tobias, "Ready from my side once the last two threads are settled.\n\n/cc @mara.lind")
    line.wait(2)
    line.reply(general, oskar, "Tomorrow.")
    line.wait(1_300)
    line.close(oskar)
    line.wait(6)
    line.comment(oskar, "Wrong button.")
    line.reopen(oskar)
    line.label(ines, remove=[labels["needs review"]])
    line.wait(30)
    line.comment(ines, "Works in Skerrow and Vantmouth. :ship:")
    return row
