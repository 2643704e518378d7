"""Who and what the rows of the profile `tiny` refer to: users, labels, milestones, times and numbers."""

from __future__ import annotations

from lore.demo.clock import micros
from lore.demo.model import Label, Milestone, User

# Microseconds that milliseconds cannot hold, so that a value read from a body is just before the row's own.
START = micros("2025-02-03T09:15:00.123456")
NOW = micros("2025-06-30T18:00:00")

ISSUE_ID = 2_200_000_000  # above 2^31
MERGE_REQUEST_ID = 2_300_000_000
MOVED_ISSUE_ID = 2_299_999_999
HUGE_NOTE_ID = 2**53 + 12_345
HUGE_EVENT_ID = 2**53 + 777

MARA = User(1, "mara", "Mara Lind", utc_offset_minutes=120)
JOSE = User(2, "jose", "José Ñandú", utc_offset_minutes=-210)
LAYLA = User(3, "layla", "ليلى حداد", has_avatar=False, utc_offset_minutes=180)
BOT = User(4, "project_71_bot", "release-bot", has_avatar=False)
GHOST = User(5, "ghost", "Ghost User", has_avatar=False)
GONE = User(6, "gone.for.good", "Gone For Good", state="deactivated")
USERS = (MARA, JOSE, LAYLA, BOT, GHOST, GONE)

COMMA = Label(11, "one, two", "#428bca")
COLON = Label(12, "kind: bug", "#d9534f", "A colon, but no scope")
SCOPED = Label(13, "priority::high", "#cc0000")
NESTED_SCOPE = Label(14, "team::a::b", "#cc6600")
EMOJI = Label(15, "🚢 ship it", "#00aa88")
QUOTED = Label(16, '"quoted" & <b>', "#ffffff", text_color="#1F1E24")
PLAIN = Label(17, "plain", "#000000")
LABELS = (COMMA, COLON, SCOPED, NESTED_SCOPE, EMOJI, QUOTED, PLAIN)

EARLY = Milestone(21, 1, "Early", "The first", "closed", START, due_date="2025-03-01", expired=True)
LATE = Milestone(22, 2, 'Late: the "second"', "", "active", START + 1_000, start_date="2025-03-01")
MILESTONES = (EARLY, LATE)
