"""The ten issues of the profile `tiny`; `lore.demo.tiny.FEATURES` says what each is for."""

from __future__ import annotations

from collections.abc import Callable
from unicodedata import normalize

from lore.demo.clock import DAY, SECOND
from lore.demo.dice import Dice
from lore.demo.model import Issue, LabelEvent, MilestoneEvent, StateEvent, User
from lore.demo.timeline import Timeline
from lore.demo.tiny_cast import (
    BOT,
    COLON,
    COMMA,
    EARLY,
    EMOJI,
    GHOST,
    GONE,
    HUGE_EVENT_ID,
    HUGE_NOTE_ID,
    ISSUE_ID,
    JOSE,
    LATE,
    LAYLA,
    MARA,
    MOVED_ISSUE_ID,
    NESTED_SCOPE,
    PLAIN,
    QUOTED,
    SCOPED,
    START,
)

BIG_DESCRIPTION_BYTES = 1_048_576
THREAD_LENGTH = 120
THREADS = 250
# A run of threads nobody may see that fills the second page of 100, and five pages of 20.
HIDDEN_THREADS = range(100, 200)
HIDDEN_HERE_AND_THERE = (3, 17, 41, 230)
LABEL_EVENTS = 130
HIDDEN_LABEL_EVENTS = range(40, 65)


def _row(iid: int, title: str, description: str | None = "", *, author: User | None = MARA) -> Issue:
    created_at = START + min(iid, 11) * DAY
    return Issue(ISSUE_ID + iid, iid, title, description, author, created_at, created_at)


def words(dice: Dice) -> Issue:
    """Return #1: text of every script, and characters that are none."""
    composed, decomposed = normalize("NFC", "Ångström café"), normalize("NFD", "Ångström café")
    row = _row(
        1,
        f"Ωmega 🚢 {composed} {decomposed} \u202bשלום عليكم\u202c 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 👩‍👩‍👧‍👦",
        f"NFC {composed}\nNFD {decomposed}\nRTL \u202eمرحبا\u202c שלום\nastral 𐍈 𝒳 🏴‍☠️\n"
        "zero\u200bwidth \ufeffBOM \ufffd",
        author=LAYLA,
    )
    line = Timeline(row, dice)
    line.wait(5)
    line.comment(JOSE, "bell \x07, escape \x1b[31mred\x1b[0m, backspace \x08, unit \x1f, delete \x7f, C1 \x85")
    line.comment(JOSE, "line\u2028separator, paragraph\u2029separator, no-break\u00a0space, soft\u00adhyphen")
    line.comment(MARA, "windows\r\nline\r\nends, and an old mac's\rtoo")
    line.system(MARA, '<p>changed title from <code class="idiff">Alpha</code> to <code class="idiff">Ωmega</code></p>')
    line.comment(MARA, " ")
    line.comment(MARA, "\u200b")
    line.comment(JOSE, '```suggestion\n</script><!-- not html -->\n```\n/close\n@mara #1 !1 %"Late" ~"one, two"')
    return row


def big(dice: Dice) -> Issue:
    """Return #2: a description of 1 MB."""
    return _row(2, "A very long description", ("0123456789abcde\n" * (BIG_DESCRIPTION_BYTES // 16)))


def crowd(dice: Dice) -> Issue:
    """Return #3: a thread of 120 notes."""
    row = _row(3, "One thread that does not end")
    line = Timeline(row, dice)
    thread = line.thread(MARA, "Who is first?")
    for number in range(1, THREAD_LENGTH):
        line.wait(1)
        line.reply(thread, (JOSE, LAYLA, MARA)[number % 3], f"Number {number}.")
    return row


def pages(dice: Dice) -> Issue:
    """Return #4: 250 threads, of which a whole page is hidden."""
    row = _row(4, "Many threads, some of which are not for everyone")
    line = Timeline(row, dice)
    for number in range(THREADS):
        line.wait(1)
        thread = line.comment(JOSE, f"Thread {number}.")
        thread.notes[0].hidden = number in HIDDEN_THREADS or number in HIDDEN_HERE_AND_THERE
    return row


def labelled(dice: Dice) -> Issue:
    """Return #5: odd labels, and events that lost what they were about."""
    row = _row(5, "Labels of all sorts")
    line = Timeline(row, dice)
    line.wait(1)
    line.label(MARA, add=[COMMA, COLON, SCOPED])
    line.wait(1)
    line.label(None, add=[NESTED_SCOPE, EMOJI, QUOTED])
    while len(row.label_events) < LABEL_EVENTS - 2:
        line.wait(2)
        line.label(BOT, add=[PLAIN])
        line.label(BOT, remove=[PLAIN])
    for event in row.label_events[HIDDEN_LABEL_EVENTS.start : HIDDEN_LABEL_EVENTS.stop]:
        event.hidden = True
    row.label_events += [LabelEvent(410_000_000_001 + n, JOSE, line.now, None, "add") for n in range(2)]
    line.milestone(JOSE, EARLY)
    line.wait(1)
    line.milestone(None, LATE)
    row.milestone_events.append(MilestoneEvent(410_000_000_010, JOSE, line.now, None, "remove"))
    line.close(None)
    line.reopen(JOSE)
    line.comment(JOSE, "Are these all?")
    return row


def ghosts(dice: Dice) -> Issue:
    """Return #7: authors who are gone, or never were."""
    row = _row(7, "Written by nobody", author=None)
    line = Timeline(row, dice)
    line.wait(1)
    line.comment(GHOST, "I was someone.")
    line.comment(None, "I am no one.")
    line.comment(LAYLA, "I have no picture.")
    line.comment(GONE, "I am deactivated.")
    line.system(BOT, "assigned to @ghost")
    internal = line.comment(MARA, "Only for us.")
    internal.notes[0].internal = True
    row.assignees = [GHOST]
    return row


def numbers(dice: Dice) -> Issue:
    """Return #8: ids that only 64 bits hold."""
    row = _row(8, "Numbers beyond what a double holds")
    line = Timeline(row, dice)
    line.wait(1)
    line.comment(MARA, "A usual number.")
    line.comment(JOSE, "A number above 2^53.").notes[0].id = HUGE_NOTE_ID
    line.comment(JOSE, "The next one, which a double cannot tell apart.").notes[0].id = HUGE_NOTE_ID + 1
    row.label_events = [LabelEvent(HUGE_EVENT_ID, MARA, line.now, PLAIN, "add")]
    row.state_events = [
        StateEvent(HUGE_EVENT_ID + number, MARA, line.now + number, state)
        for number, state in enumerate(("closed", "reopened"))
    ]
    row.labels = [PLAIN]
    return row


def moved(dice: Dice) -> Issue:
    """Return #9: closed, and continued elsewhere."""
    row = _row(9, "Moved to where you cannot see it")
    line = Timeline(row, dice)
    line.wait(30)
    line.system(MARA, "moved to tiny/secret#1")
    line.close(MARA)
    row.moved_to_id = MOVED_ISSUE_ID
    row.discussion_locked = True
    return row


def confidential(dice: Dice) -> Issue:
    """Return #11: not for guests."""
    row = _row(11, "Not for guests")
    row.confidential = True
    row.due_date = "2025-12-31"
    row.discussion_locked = False
    row.updated_at += 500 * SECOND
    return row


def empty(dice: Dice) -> Issue:
    """Return #12: nothing but itself."""
    row = _row(12, ".", None)
    row.issue_type = "incident"
    row.updated_at += 500 * SECOND  # tied with #11, in both times
    return row


ISSUES: dict[int, Callable[[Dice], Issue]] = {
    1: words,
    2: big,
    3: crowd,
    4: pages,
    5: labelled,
    7: ghosts,
    8: numbers,
    9: moved,
    11: confidential,
    12: empty,
}
