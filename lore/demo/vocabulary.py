"""The invented words of the project `tern/harbour`: a service that plans berths for small ports.

All of it is made up for this server; nothing is copied from a real project.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Component:
    """A part of the harbour software.

    Attributes:
        troubles: What is reported of it, as an issue's title.
        remedies: What a merge request does about the trouble of the same place in the list.
    """

    name: str
    label: str
    paths: tuple[str, ...]
    troubles: tuple[str, ...]
    remedies: tuple[str, ...]


COMPONENTS = (
    Component(
        "berth planner",
        "area::berths",
        ("harbour/berths/planner.py", "harbour/berths/model.py", "tests/berths/test_planner.py"),
        (
            "Berth planner assigns two vessels to the same quay",
            "Berth planner forgets the draught limit after a replan",
            "Planner ignores a berth that is closed for dredging",
            "Berth list is sorted by name instead of by length",
            "Planner takes minutes when all quays are taken",
        ),
        (
            "Refuse a second vessel on an occupied quay",
            "Keep the draught limit when the plan is made again",
            "Leave dredged berths out of the plan",
            "Sort berths by usable length",
            "Stop searching when no quay can be free",
        ),
    ),
    Component(
        "tide table",
        "area::tides",
        ("harbour/tides/table.py", "harbour/tides/almanac.py", "docs/tides.md"),
        (
            "Tide table is one hour off in summer",
            "Low water is missing on the day of a spring tide",
            "Tide curve jumps at midnight",
            "Almanac import stops at a leap day",
            "Tidal window is shown in the wrong unit",
        ),
        (
            "Read tide tables in the port's own time zone",
            "Keep both low waters of a spring tide day",
            "Interpolate the tide curve across midnight",
            "Accept leap days in the almanac",
            "Show tidal windows in metres everywhere",
        ),
    ),
    Component(
        "pilot roster",
        "area::pilots",
        ("harbour/pilots/roster.py", "harbour/pilots/shifts.py", "tests/pilots/test_roster.py"),
        (
            "Pilot roster offers a pilot who is off watch",
            "Two pilots are called for one arrival",
            "Roster export leaves out the night shift",
            "A pilot's licence expires without a warning",
            "Swapping two shifts loses the second one",
        ),
        (
            "Offer only pilots who are on watch",
            "Call one pilot for each arrival",
            "Export the night shift with the roster",
            "Warn a month before a licence expires",
            "Swap shifts in one step",
        ),
    ),
    Component(
        "mooring log",
        "area::moorings",
        ("harbour/moorings/log.py", "harbour/moorings/lines.py", "web/src/mooring.ts"),
        (
            "Mooring log shows the bow line twice",
            "Log entries arrive out of order over a slow link",
            "Mooring time is lost when the tablet goes to sleep",
            "Slack line alarm does not reset",
            "Mooring log cannot be printed on one page",
        ),
        (
            "Record each mooring line once",
            "Order log entries by their own time",
            "Save the mooring time before the tablet sleeps",
            "Reset the slack line alarm with the line",
            "Fit the mooring log on one page",
        ),
    ),
    Component(
        "quay map",
        "area::map",
        ("web/src/quay_map.ts", "web/src/buoys.ts", "web/styles/map.css"),
        (
            "Quay map draws buoys on land",
            "Map does not load without a network",
            "Vessel outline is mirrored on the quay map",
            "Zooming the map hides the crane tracks",
            "Colours of the quay map are hard to tell apart",
        ),
        (
            "Draw buoys in the chart's own projection",
            "Keep the last map for use without a network",
            "Draw vessels with the bow to the north",
            "Keep crane tracks visible at every zoom",
            "Choose map colours that differ in brightness",
        ),
    ),
    Component(
        "manifest reader",
        "area::manifests",
        ("harbour/manifests/reader.py", "harbour/manifests/units.py", "tests/manifests/test_reader.py"),
        (
            "Manifest reader stops at an empty container row",
            "Cargo weights are read in pounds",
            "Dangerous goods class is lost on import",
            "Manifest with two voyages is refused",
            "Reader keeps the whole manifest in memory",
        ),
        (
            "Skip empty container rows in manifests",
            "Convert cargo weights when they are read",
            "Keep the dangerous goods class on import",
            "Accept manifests with several voyages",
            "Read manifests row by row",
        ),
    ),
)

PEOPLE = (
    ("mara.lind", "Mara Lind", 120),
    ("tobias.reef", "Tobias Reef", 60),
    ("ines.calder", "Inés Calder", 0),
    ("oskar.havn", "Oskar Havn", 60),
    ("yuki.minato", "Yuki Minato", 540),
    ("dara.quill", "Dara Quill", -240),
    ("levi.strand", "Levi Strand", 120),
    ("noor.anker", "Noor Anker", 60),
)
LABELS = (
    ("bug", "#d9534f", "Something does not work"),
    ("feature", "#428bca", "Something new"),
    ("documentation", "#5843ad", "Words about it"),
    ("good first issue", "#5cb85c", None),
    ("needs review", "#f0ad4e", "Waits for a second pair of eyes"),
    ("priority::high", "#cc0000", "Before anything else"),
    ("priority::low", "#8e44ad", "When there is time"),
    ("area::berths", "#004e8a", None),
    ("area::tides", "#00838f", None),
    ("area::pilots", "#2e7d32", None),
    ("area::moorings", "#795548", None),
    ("area::map", "#ad1457", None),
    ("area::manifests", "#ef6c00", None),
)
MILESTONES = (
    ("Spring tide", "What the first ports need", "closed"),
    ("Safe haven", "No vessel without a berth", "closed"),
    ("Open water", "More than one port", "active"),
)
PORTS = ("Skerrow", "Vantmouth", "Port Ellery", "Grauholm", "Saint Osk", "Lower Pell")
VESSELS = ("Grey Heron", "Marigold", "Northern Wren", "Tessaly", "Old Anders", "Petrel III")

QUESTIONS = (
    "Does this also happen at {port}? There the quay is shorter.",
    "I could see it with the {vessel} yesterday, always at high water.",
    "Which version was this? {port} still runs the one before.",
    "The log of the {vessel} has the same gap.",
    "Could we show a warning first, and change the plan later?",
    "I think the {component} is right and the import is wrong.",
)
ANSWERS = (
    "Yes, on every second arrival. I added the steps above.",
    "No, only where the tide is more than four metres.",
    "Good point, I will look at the import first.",
    "That would be enough for {port}.",
    "Then let us do that, and keep this open for the rest.",
)
REVIEWS = (
    "Could this return early? The last branch is hard to follow.",
    "What happens here when `{word}` is empty?",
    "A test for {port} would be good, its quay has two depths.",
    "I would name this `{word}_m`, so that the unit is clear.",
    "This reads the table again for every vessel.",
)
REVIEW_ANSWERS = (
    "Done, and simpler.",
    "It is never empty here, but I added a check.",
    "Added one.",
    "Renamed.",
    "Right, it is read once now.",
)
WORDS = ("draught", "length", "tide", "quay", "berth", "window", "shift", "line")
