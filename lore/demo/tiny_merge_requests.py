"""The ten merge requests of the profile `tiny`; `lore.demo.tiny.FEATURES` says what each is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from unicodedata import normalize

from lore.demo.clock import DAY
from lore.demo.dice import Dice
from lore.demo.model import FileDiff, MergeRequest, User
from lore.demo.timeline import Timeline
from lore.demo.tiny_cast import BOT, EARLY, JOSE, LAYLA, MARA, MERGE_REQUEST_ID, PLAIN, SCOPED, START

EDIT = "@@ -1,3 +1,3 @@\n context\n-before\n+after\n context\n"
WEIRD_PATHS = (
    "dir with spaces/file name.txt",
    "quotes/\"double\" and 'single'.txt",
    "back\\slash/file.txt",
    f"unicode/{normalize('NFC', 'é')}.txt",
    f"unicode/{normalize('NFD', 'é')}.txt",
    "unicode/文件 🚢.txt",
    "dots/..almost/...up/..",
    "-leading-dash",
    "per%2Fcent/%20.txt",
    "tab\there/new\nline.txt",
    "deep/" + "d/" * 60 + "file",
    "question?/hash#/star*.txt",
    ".",
)
MANY_FILES, MANY_COMMITS = 130, 130
VERSIONS = 20
BINARY = "Binary files a/{0} and b/{0} differ\n"


def _row(iid: int, title: str, description: str | None = "", *, author: User = MARA) -> MergeRequest:
    created_at = START + (iid + 20) * DAY
    return MergeRequest(
        MERGE_REQUEST_ID + iid,
        iid,
        title,
        description,
        author,
        created_at,
        created_at,
        source_branch=f"topic/{iid}",
    )


def _pushed(dice: Dice, row: MergeRequest, *diffs: FileDiff) -> Timeline:
    line = Timeline(row, dice)
    line.push(row.author or MARA, diffs, row.title)
    line.wait(10)
    return line


def nulls(dice: Dice) -> MergeRequest:
    """Return !1: null wherever a real server has sent null."""
    row = _row(1, "Nothing is known of it", None)
    _pushed(dice, row)
    names = [
        "author",
        "sha",
        "source_project_id",
        "changes_count",
        "diff_refs",
        "head_pipeline",
        "pipeline",
        "prepared_at",
    ]
    row.overrides = dict.fromkeys(names)
    row.overrides["detailed_merge_status"] = "preparing"
    row.overrides["merge_status"] = "unchecked"
    return row


def locked(dice: Dice) -> MergeRequest:
    """Return !2: a draft in the moment of its merge."""
    row = _row(2, "Draft: being merged at this moment")
    line = _pushed(dice, row, FileDiff("a.txt", "a.txt", EDIT))
    line.milestone(JOSE, EARLY)
    line.label(JOSE, add=[PLAIN, SCOPED])
    line.comment(BOT, "Merging.")
    line.close(JOSE)
    line.reopen(JOSE)
    row.state = "locked"
    row.draft = row.squash = True
    return row


def positions(dice: Dice) -> MergeRequest:
    """Return !3: diff notes of every sort."""
    row = _row(3, "Diff notes of all sorts", "See the threads.", author=JOSE)
    text = FileDiff("src/a.py", "src/a.py", EDIT)
    renamed = FileDiff("src/old.py", "src/new.py", EDIT, renamed_file=True)
    image = FileDiff("img/chart.png", "img/chart.png", BINARY.format("img/chart.png"))
    line = _pushed(dice, row, text, renamed, image)
    outdated = line.thread(MARA, "On a line that is gone.", position=line.line(text, new=2))
    line.reply(outdated, JOSE, "Yes.")
    line.resolve(outdated, MARA)
    line.label(MARA, add=[PLAIN])
    line.milestone(MARA, EARLY)
    line.close(JOSE)
    line.reopen(JOSE)
    line.push(JOSE, [text, renamed, image], "Answer the review")
    line.wait(1)
    line.thread(MARA, "On a removed line.", position=line.line(text, old=2))
    line.thread(MARA, "On an unchanged line.", position=line.line(text, old=3, new=3))
    line.thread(MARA, "On a renamed file.\n\n```suggestion:-0+1\nbetter\n```", position=line.line(renamed, new=2))
    several = line.line(text, new=3)
    several["line_range"]["start"] = line.line(text, new=1)["line_range"]["start"]
    line.thread(MARA, "On several lines.", position=several)
    line.thread(LAYLA, "On a file.", position=line.position(text, "file"))
    pixel = {"width": 640, "height": 480, "x": 12, "y": 34}
    line.thread(LAYLA, "On a pixel.", position=line.position(image, "image") | pixel)
    line.thread(LAYLA, "Without a line range.", position=line.line(text, new=2) | {"line_range": None})
    line.thread(LAYLA, "Where was this?", note_type="DiffNote")
    line.thread(BOT, "From before diff notes had positions.", note_type="LegacyDiffNote")
    commit_note = line.thread(BOT, "On a commit.", position=line.line(text, new=2)).notes[0]
    commit_note.commit_id = row.latest.head_sha
    return row


def external(dice: Dice) -> MergeRequest:
    """Return !4: closes an issue of another tracker."""
    row = _row(4, "Close issues here and elsewhere", "Closes #1, #5 and SHIP-42")
    _pushed(dice, row, FileDiff("ship.txt", "ship.txt", EDIT))
    return row


def renames(dice: Dice) -> MergeRequest:
    """Return !6: pure renames, a swap, and case only."""
    row = _row(6, "Rename A to B, and swap two others")
    line = _pushed(
        dice,
        row,
        FileDiff("chain/a.py", "chain/b.py", renamed_file=True),
        FileDiff("swap/x.py", "swap/y.py", renamed_file=True),
        FileDiff("swap/y.py", "swap/x.py", renamed_file=True),
        FileDiff("Readme.md", "README.md", renamed_file=True),
    )
    line.merge(JOSE)
    return row


def renames_again(dice: Dice) -> MergeRequest:
    """Return !7: renames what !6 had renamed, a directory, and a copy."""
    row = _row(7, "Rename B to C, and a whole directory")
    line = _pushed(
        dice,
        row,
        FileDiff("chain/b.py", "chain/c.py", EDIT, renamed_file=True),
        FileDiff("old_dir/one.py", "new_dir/one.py", renamed_file=True),
        FileDiff("old_dir/sub/two.py", "new_dir/sub/two.py", renamed_file=True),
        FileDiff("original.py", "copy.py", new_file=True),
    )
    line.merge(JOSE)
    return row


def odd_files(dice: Dice) -> MergeRequest:
    """Return !8: diffs that are empty for every possible reason, and paths to fear."""
    row = _row(8, "Files of all sorts")
    weird = [FileDiff(path, path, EDIT) for path in WEIRD_PATHS]
    _pushed(
        dice,
        row,
        FileDiff("run.sh", "run.sh", a_mode="100644", b_mode="100755"),
        FileDiff("link", "link", "@@ -1 +1 @@\n-here\n+there\n", a_mode="120000", b_mode="120000"),
        FileDiff(
            "vendor/lib", "vendor/lib", "@@ -1 +1 @@\n-Subproject commit a\n+Subproject commit b\n", "160000", "160000"
        ),
        FileDiff("logo.png", "logo.png", BINARY.format("logo.png")),
        FileDiff("blob.bin", "blob.bin", ""),
        FileDiff("long.sql", "long.sql", collapsed=True),
        FileDiff("huge.json", "huge.json", too_large=True),
        FileDiff("schema.rb", "schema.rb", EDIT, generated_file=None),
        FileDiff("package-lock.json", "package-lock.json", EDIT, generated_file=True),
        FileDiff("gone.py", "gone.py", "@@ -1 +0,0 @@\n-x\n", b_mode="0", deleted_file=True),
        FileDiff("born.py", "born.py", "@@ -0,0 +1 @@\n+x\n\\ No newline at end of file\n", a_mode="0", new_file=True),
        *weird,
    )
    row.versions[-1] = replace(row.latest, is_overflowing=True)
    return row


def versions(dice: Dice) -> MergeRequest:
    """Return !9: twenty pushes, the last one forced."""
    row = _row(9, "Twenty pushes", "Closes #3", author=LAYLA)
    line = _pushed(dice, row, FileDiff("a.py", "a.py", EDIT))
    for number in range(2, VERSIONS + 1):
        line.wait(20)
        line.push((LAYLA, JOSE, MARA)[number % 3], [FileDiff("a.py", "a.py", EDIT * number)], f"Try number {number}")
    _force_push(dice, row)
    line.wait(60)
    line.label(JOSE, add=[PLAIN])
    line.milestone(JOSE, EARLY)
    line.merge(JOSE)
    return row


def other_target(dice: Dice) -> MergeRequest:
    """Return !10: not to the default branch."""
    row = _row(10, "To a branch that is not the default one", "Closes #1")
    row.target_branch = "stable"
    row.discussion_locked = True
    line = _pushed(dice, row, FileDiff("a.py", "a.py", EDIT))
    line.close(MARA)
    return row


def many(dice: Dice) -> MergeRequest:
    """Return !11: more files and commits than a page holds."""
    row = _row(11, "Many files and many commits")
    line = Timeline(row, dice)
    files = [FileDiff(f"many/{number:03d}.txt", f"many/{number:03d}.txt", EDIT) for number in range(MANY_FILES)]
    line.push(MARA, files, *(f"Commit {number}" for number in range(MANY_COMMITS)))
    return row


def _force_push(dice: Dice, row: MergeRequest) -> None:
    """Put the last version on another base and with other commits, as a rebase does."""
    latest = row.latest
    commits = tuple(
        replace(commit, id=dice.sha("rebased", commit.id), parent=dice.sha("rebased", commit.parent))
        for commit in latest.commits
    )
    row.versions[-1] = replace(
        latest, base_sha=dice.sha("rebased", latest.base_sha), head_sha=commits[-1].id, commits=commits
    )


MERGE_REQUESTS: dict[int, Callable[[Dice], MergeRequest]] = {
    1: nulls,
    2: locked,
    3: positions,
    4: external,
    6: renames,
    7: renames_again,
    8: odd_files,
    9: versions,
    10: other_target,
    11: many,
}
