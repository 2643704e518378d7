"""What people see of the mirror: lists, histories, stories and people, paged on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from lore.terminal import STYLES, Out, paged, print_heading, print_line, print_marked, print_table

Shown = Mapping[str, Any]

# The most that a list gives at once.
_MOST: Final = 10_000


def show_entities(shown: Shown) -> None:
    """Print a list of issues or of merge requests."""
    paged(lambda out: _draw_entities(out, shown))


def show_history(shown: Shown) -> None:
    """Print the names a file had, then the merge requests that touched it."""
    paged(lambda out: _draw_history(out, shown))


def show_timeline(shown: Shown) -> None:
    """Print a story, a line for each event."""
    paged(lambda out: _draw_timeline(out, shown))


def show_people(shown: Shown) -> None:
    """Print who worked on a file or under a label."""
    paged(lambda out: _draw_people(out, shown))


def show_stats(shown: Shown) -> None:
    """Print what the mirror holds."""
    paged(lambda out: _draw_stats(out, shown))


def show_hits(shown: Shown) -> None:
    """Print what a search found, with the words that were found marked."""
    paged(lambda out: _draw_hits(out, shown))


def _draw_hits(out: Out, shown: Shown) -> None:
    if not shown["hits"]:
        print_line(out, "nothing found")
    for number, hit in enumerate(shown["hits"]):
        if number:
            print_line(out, "")
        name = hit["ref"] if hit["type"] != "discussion" else f"{hit['ref']} (discussion)"
        print_line(out, f"{name} {hit['title']}", "bold")
        said = (hit["state"], hit["author"], _day(hit["updated_at"]), f"found by {_found_by(hit['why'])}")
        print_line(out, "  ".join(word for word in said if word), STYLES.get(hit["state"]))
        print_marked(out, f"    {hit['snippet']}", [(start + 4, end + 4) for start, end in hit["marks"]])


def _found_by(why: Mapping[str, float]) -> str:
    by = [f"{words} #{why[name]:g}" for name, words in (("text", "words"), ("semantic", "meaning")) if name in why]
    return ", ".join(by) + (f" ({why['similarity']:.2f})" if "similarity" in why else "")


def _draw_entities(out: Out, shown: Shown) -> None:
    listed: Sequence[Shown] = shown["merge_requests"] if "merge_requests" in shown else shown["issues"]
    noun = "merge request" if "merge_requests" in shown else "issue"
    has_one_project = len({one["project"] for one in listed}) < 2
    rows = [
        (
            one["ref"][len(one["project"]) :] if has_one_project else one["ref"],
            one["state"],
            f"Draft: {one['title']}" if one.get("draft") and not _says_draft(one["title"]) else one["title"] or "",
            one["author"] or "?",
            ", ".join(f"{label}" for label in one["labels"]),
            one["milestone"] or "",
            _day(one["updated_at"]),
        )
        for one in listed
    ]
    print_line(out, _counted(len(listed), shown["total"], noun))
    print_table(
        out, ("ref", "state", "title", "author", "labels", "milestone", "updated"), rows, style_column=1, whole=(0, 1)
    )


def _draw_history(out: Out, shown: Shown) -> None:
    print_line(out, " -> ".join(shown["paths"]), "bold")
    print_line(out, _counted(len(shown["history"]), shown["total"], "merge request"))
    if not any("discussions" in entry for entry in shown["history"]):
        rows = [_history_row(entry) for entry in shown["history"]]
        print_table(out, ("ref", "state", "date", "author", "title", "lines"), rows, style_column=1, whole=(0, 1))
        return
    for entry in shown["history"]:
        ref, state, day, author, title, lines = _history_row(entry)
        print_heading(out, f"{ref} {title}")
        print_line(out, "  ".join(word for word in (state, day, author, lines) if word), STYLES.get(state))
        for note in entry["discussions"]:
            where = f"{note['path']}:{note['line']}" if note["line"] is not None else note["path"]
            resolved = {True: ", resolved", False: ", open"}.get(note["resolved"], "")
            print_line(out, f"  {note['author'] or '?'} {_day(note['created_at'])} {where}{resolved}", "cyan")
            print_line(out, f"    {note['snippet']}")


def _history_row(entry: Shown) -> tuple[str, str, str, str, str, str]:
    return (
        f"!{entry['iid']}",
        entry["state"],
        _day(entry["at"]),
        entry["author"] or "?",
        entry["title"] or "",
        "; ".join(_file_words(file) for file in entry["files"]),
    )


def _file_words(file: Shown) -> str:
    lines = "" if file["lines_added"] is None else f"+{file['lines_added']} −{file['lines_removed']}"
    if file["change"] == "renamed":
        name = f"{file['old_path']} -> {file['new_path']}"
        return name if lines in ("", "+0 −0") else f"{name} {lines}"
    return lines if file["change"] == "changed" else f"{file['change']} {lines}".rstrip()


def _draw_timeline(out: Out, shown: Shown) -> None:
    events = shown["events"]
    has_several = len({event["ref"] for event in events}) > 1
    print_line(out, shown["title"] or "", "bold")
    # An entity has at least one event, so without any it was a query that fits nothing.
    print_line(out, _counted(len(events), shown["total"], "event") if shown["total"] else "nothing found")
    rows = [
        (
            str(event["at"])[:16].replace("T", " "),
            event["ref"] if has_several else "",
            event["kind"],
            event["author"] or "?",
            _event_words(event),
        )
        for event in events
    ]
    print_table(out, ("at", "ref", "event", "by", "what"), rows, style_column=2, whole=(1,))


def _event_words(event: Shown) -> str:
    where = f"{event['path']}:{event['line']}" if event["line"] is not None else event["path"]
    cause = f"by {event['cause']}" if event["cause"] and event["cause"] not in (event["text"] or "") else ""
    said = ": ".join(word for word in (where, event["text"]) if word)
    return f"{said} {cause}".strip()


def _draw_people(out: Out, shown: Shown) -> None:
    name = " -> ".join(shown["paths"]) if shown["kind"] == "path" else f"label {shown['name']}"
    print_line(out, name, "bold")
    print_line(out, _counted(len(shown["people"]), shown["total"], "person", "people"))
    parts = ("authored", "assigned", "reviewed", "merged", "commented")
    rows = [
        (
            person["username"],
            ", ".join(f"{part} {person[part]}" for part in parts if person[part]),
            _day(person["last_at"]),
            " ".join(ref[len(shown["project"]) :] for ref in person["refs"]),
        )
        for person in shown["people"]
    ]
    print_table(out, ("who", "by", "last", "such as"), rows, whole=(0,))


def _draw_stats(out: Out, shown: Shown) -> None:
    database = shown["database"]
    print_line(out, f"{shown['gitlab_url']}: {_counted(len(shown['projects']), shown['total'], 'project')}", "bold")
    megabytes = database["size_bytes"] / 1_000_000
    print_line(
        out,
        f"{database['kind']}, {megabytes:,.1f} MB; {shown['documents']} documents, {shown['embeddings']} embeddings,"
        f" {shown['dirty_sources']} dirty sources",
    )
    for held in shown["projects"]:
        print_heading(out, held["project"])
        run = held["last_run"]
        rows = [
            ("issues", _states(held["issues"])),
            ("merge requests", _states(held["merge_requests"])),
            *((name, held[name]) for name in ("discussions", "notes", "events", "files", "links")),
            ("deleted", held["deleted"] or ""),
            ("observed", f"{_minute(held['oldest_observed_at'])} to {_minute(held['newest_observed_at'])}"),
            ("newest update", _minute(held["newest_updated_at"])),
            ("last run", f"{run['run_id']} {run['status']}" if run else "none"),
        ]
        print_table(out, ("what", "holds"), [row for row in rows if row[1] not in ("", " to ")])


def _states(counts: Mapping[str, int]) -> str:
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()) if state != "total")
    return f"{counts['total']} ({states})" if states else str(counts["total"])


def _counted(shown: int, total: int, one: str, many: str | None = None) -> str:
    noun = one if total == 1 else many or f"{one}s"
    return f"{total} {noun}" if shown == total else f"{shown} of {total} {noun}; more: -n {min(total, _MOST)}"


def _says_draft(title: str | None) -> bool:
    return (title or "").lower().startswith(("draft:", "[draft]", "(draft)"))


def _day(at: object) -> str:
    return str(at or "")[:10]


def _minute(at: object) -> str:
    return str(at or "")[:16].replace("T", " ")
