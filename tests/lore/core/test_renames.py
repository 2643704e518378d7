"""The life of a file through all its names; the properties are checked against an invented history that is known."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lore.core.renames import Change, Life, count_lines, follow, nearest, only


class Stored:
    """Changes as a mirror gives them, and every name it was asked for."""

    def __init__(self, changes: Iterable[Change]) -> None:
        self.changes = list(changes)
        self.asked: list[str] = []

    def __call__(self, paths: Collection[str]) -> list[Change]:
        self.asked += paths
        return [one for one in self.changes if {one.old_path, one.new_path} & set(paths)]


def life(path: str, *changes: Change) -> Life:
    return follow(path, Stored(changes))


def edit(at: int, path: str, **more: bool) -> Change:
    return Change(at, at, path, path, **more)


def rename(at: int, old: str, new: str, **more: bool) -> Change:
    return Change(at, at, old, new, **more)


def moments(found: Life) -> list[int]:
    return [change.at for change in found.changes]


@pytest.mark.parametrize("path", ["a", "b", "c"])
def test_any_name_of_a_chain_gives_the_whole_life_newest_first(path: str) -> None:
    found = life(path, edit(1, "a"), rename(2, "a", "b"), edit(3, "b"), rename(4, "b", "c"), edit(5, "c"))

    assert moments(found) == [5, 4, 3, 2, 1]
    assert found.paths == ["a", "b", "c"]


def test_a_name_that_is_used_again_is_another_file() -> None:
    changes = (edit(1, "a"), rename(2, "a", "b"), edit(3, "a", is_added=True), edit(4, "a"), edit(5, "b"))

    assert moments(life("b", *changes)) == [5, 2, 1]
    assert moments(life("a", *changes)) == [5, 4, 3, 2, 1]


def test_a_name_that_another_file_takes_over_is_cut_there() -> None:
    changes = (rename(2, "a", "b"), rename(3, "x", "a"), edit(4, "a"), edit(5, "b"), edit(1, "x"))

    assert moments(life("b", *changes)) == [5, 2]
    assert moments(life("x", *changes)) == [4, 3, 1]


def test_a_swap_in_one_merge_request_changes_who_is_who() -> None:
    swap = (Change(2, 9, "a", "b"), Change(2, 9, "b", "a"))
    changes = (*swap, rename(3, "a", "once b"), rename(4, "b", "once a"), rename(1, "first", "a"))

    assert life("once a", *changes).paths == ["first", "a", "b", "once a"]
    assert life("first", *changes).changes == life("once a", *changes).changes
    assert life("once b", *changes).paths == ["b", "a", "once b"]


def test_a_rename_of_case_only_is_a_rename() -> None:
    assert life("README.md", edit(1, "Readme.md"), rename(2, "Readme.md", "README.md")).paths == [
        "Readme.md",
        "README.md",
    ]


def test_a_renamed_folder_takes_each_of_its_files_along_and_no_other() -> None:
    moved = [Change(2, 7, f"old/{name}", f"new/{name}") for name in ("a", "b")]

    found = life("new/a", edit(1, "old/a"), edit(1, "old/b"), *moved)

    assert found.paths == ["old/a", "new/a"]
    assert moments(found) == [2, 1]


def test_names_that_go_round_end() -> None:
    changes = [rename(1, "a", "b"), rename(2, "b", "c"), rename(3, "c", "a"), edit(4, "a")]
    stored = Stored(changes)

    found = follow("b", stored)

    assert moments(found) == [4, 3, 2, 1]
    assert sorted(found.paths) == ["a", "b", "c"]
    assert sorted(stored.asked) == ["a", "b", "c"]


def test_who_changes_a_name_after_it_was_given_up_works_on_a_branch_without_the_rename() -> None:
    assert moments(life("b", edit(1, "a"), rename(2, "a", "b"), edit(3, "a"))) == [3, 2, 1]


def test_a_rename_that_is_only_proposed_is_followed_and_cuts_nothing() -> None:
    changes = (edit(1, "a"), rename(2, "a", "b", is_merged=False), edit(3, "a"))

    assert moments(life("b", *changes)) == [3, 2, 1]
    assert moments(life("a", *changes)) == [3, 2, 1]


def test_an_abandoned_rename_does_not_lead_onto_a_file_that_others_have() -> None:
    abandoned = rename(2, "a", "b", is_merged=False, is_abandoned=True)
    changes = (edit(1, "a"), abandoned, edit(3, "b", is_added=True), edit(4, "b"))

    assert moments(life("a", *changes)) == [2, 1]
    assert moments(life("b", *changes)) == [4, 3, 2], "it names the path, so it is listed, but it leads nowhere"


def test_a_name_alone_is_that_name_alone() -> None:
    stored = Stored([edit(1, "a"), rename(2, "a", "b"), edit(3, "b")])

    assert moments(only("b", stored)) == [3, 2]
    assert stored.asked == ["b"]


def test_a_path_never_seen_has_no_life() -> None:
    assert life("nowhere", edit(1, "a")) == Life([], [])


def test_a_chain_of_thousands_is_followed() -> None:
    chain = {f"n{number}": rename(number, f"n{number}", f"n{number + 1}") for number in range(3000)}

    def stored(paths: Collection[str]) -> list[Change]:
        near = {name for path in paths for name in (path, f"n{int(path[1:]) - 1}")}
        return [chain[name] for name in near if name in chain]

    found = follow("n1500", stored)

    assert len(found.changes) == 3000
    assert found.paths == [f"n{number}" for number in range(3001)]


@dataclass
class World:
    """A history that is known: which file had which name, and what was done to which file."""

    names: dict[str, int] = field(default_factory=dict)
    done: dict[int, set[Change]] = field(default_factory=dict)
    had: dict[int, set[str]] = field(default_factory=dict)

    def note(self, file: int, name: str, change: Change) -> None:
        self.done.setdefault(file, set()).add(change)
        self.had.setdefault(file, set()).add(name)


NAMES = ["a", "A", "b", "c", "dir/a", "dir/b"]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Let files be added, edited, deleted, renamed and swapped, several in one merge request."""
    world = World()
    files = 0
    for at in range(1, draw(st.integers(1, 25))):
        before, after = dict(world.names), {}
        free = [name for name in NAMES if name not in before]
        for name, file in before.items():
            match draw(st.sampled_from(["keep", "keep", "edit", "delete", "rename", "rename"])):
                case "edit":
                    world.note(file, name, edit(at, name))
                    after[name] = file
                case "delete":
                    world.note(file, name, edit(at, name, is_deleted=True))
                case "rename":
                    left = [one for one in [*free, *before] if one not in after and one != name]
                    after.setdefault(draw(st.sampled_from(left)) if left else name, file)
                case _:
                    after.setdefault(name, file)
        # A file that lost its name to another one is gone; git says that it was deleted.
        here = {file: name for name, file in after.items()}
        for name, file in before.items():
            if file in here and here[file] != name:
                change = rename(at, name, here[file])
                world.note(file, name, change)
                world.note(file, here[file], change)
            elif file not in here and name not in after:
                world.note(file, name, edit(at, name, is_deleted=True))
        added = [name for name in free if name not in after]
        if added and draw(st.booleans()):
            name = draw(st.sampled_from(added))
            files += 1
            after[name] = files
            world.note(files, name, edit(at, name, is_added=True))
        world.names = after
    return world


@given(worlds())
def test_any_name_a_file_ever_had_gives_its_whole_life_and_nothing_of_files_it_never_was(world: World) -> None:
    changes = {change for done in world.done.values() for change in done}
    for name in {name for had in world.had.values() for name in had}:
        stored = Stored(changes)

        found = follow(name, stored)

        mine = {file for file, had in world.had.items() if name in had}
        assert {change for file in mine for change in world.done[file]} <= set(found.changes)
        theirs = set().union(*(world.done[file] for file in mine))
        naming = {change for change in changes if name in (change.old_path, change.new_path)}
        assert set(found.changes) <= theirs | naming
        assert len(stored.asked) == len(set(stored.asked))


@given(worlds(), st.randoms())
def test_the_order_in_which_changes_are_stored_is_of_no_account(world: World, random: object) -> None:
    changes = [change for done in world.done.values() for change in done]
    shuffled = list(changes)
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    for name in NAMES:
        assert follow(name, Stored(changes)) == follow(name, Stored(shuffled))


@pytest.mark.parametrize(
    ("path", "first"),
    [
        ("SRC/tides.py", "src/tides.py"),
        ("src", "src/quay.py"),
        ("tides.py", "src/tides.py"),
        ("lib/quay.py", "src/quay.py"),
        ("src/tide.py", "src/tides.py"),
        ("src/tdies.js", "src/tides.py"),
    ],
)
def test_the_nearest_known_path_comes_first(path: str, first: str) -> None:
    assert nearest(path, ["README.md", "src/quay.py", "src/tides.py"])[0] == first


def test_nothing_near_is_nothing() -> None:
    assert nearest("zzz", ["README.md", "src/quay.py"]) == []


@pytest.mark.parametrize("path", ["nothere.py", "harbour/pilots/nothere.py", "x.py", ".py"])
def test_the_same_folder_or_the_same_ending_is_not_near(path: str) -> None:
    assert nearest(path, ["harbour/pilots/roster.py", "harbour/a.py", ".env"]) == []


def test_what_is_spelt_more_alike_comes_first() -> None:
    assert nearest("harbours.py", ["arbour.py", "harbour.py", "lamps.py"]) == ["harbour.py", "arbour.py"]


def test_lines_are_counted_inside_hunks_only() -> None:
    diff = "--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n-old\n--- old rule\n+new\n same\n\\ No newline at end of file\n"

    assert count_lines(diff) == (1, 2)
    assert count_lines("") == (0, 0)
