"""A mistyped command or option: read as what it can only mean, or named beside what it may mean.

The command tree itself is the list of names. It is walked as click would walk it, so that a value is never touched.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import click

from lore.core.errors import UsageError
from lore.core.nearest import near

# What other programs call the options that every one has.
_HABITS: Final = {"help": "--help", "-h": "--help", "version": "--version", "-V": "--version"}


@dataclass(frozen=True)
class Slip:
    """A word that is no name here; `meant` are the names it may stand for."""

    place: int
    word: str
    kind: str
    path: str
    meant: list[str]


@dataclass
class Reading:
    """What a command line says: the command it calls, its options, and the slips in it."""

    command: click.Command
    path: str
    options: set[str] = field(default_factory=set)
    slips: list[Slip] = field(default_factory=list)


def correct(command: click.Command, prog: str, argv: Sequence[str]) -> tuple[list[str], list[str]] | None:
    """Return the command line as it can only be meant, and what was read otherwise than typed; None: no slip in it.

    Raises:
        UsageError: USAGE, for a word that may mean several names, or a slip in a call that writes or acts.
    """
    reading = _read(command, prog, argv)
    if reading is None or not reading.slips:
        return None
    is_clear = all(len(slip.meant) == 1 for slip in reading.slips)
    if not is_clear or _acts(reading):
        raise _error(reading, prog, argv)
    said = [f"{slip.kind} {slip.word!r} of {slip.path} was read as {slip.meant[0]}" for slip in reading.slips]
    return _mended(argv, reading.slips), said


def _read(command: click.Command, prog: str, argv: Sequence[str]) -> Reading | None:
    """Read a command line; None where a word is near no name, and click's own error says it best.

    Raises:
        UsageError: USAGE, for a word that stands for an option elsewhere.
    """
    reading = Reading(command, prog)
    options = _options(command)
    place = 0
    while place < len(argv) and argv[place] != "--":
        word = argv[place]
        if word.startswith("-") and len(word) > 1:
            name, equals, _ = word.partition("=")
            if name not in options and not word.startswith("--") and word[:2] in options:
                reading.options.update(_names(options[word[:2]]))  # -n5, or several flags in one
                place += 1
                continue
            if name not in options and not _note(reading, place, name, "option", _shown(options)):
                _refuse_habit(reading, name, "option", options)
                return None
            option = options[name if name in options else reading.slips[-1].meant[0]]
            reading.options.update(_names(option))
            takes_value = not (equals or option.is_flag or option.count)
            place += 1 + option.nargs * takes_value
        else:
            if isinstance(reading.command, click.Group):
                commands = reading.command.commands
                shown = [name for name, one in commands.items() if not one.hidden]
                if word not in commands and not _note(reading, place, word, "command", shown):
                    _refuse_habit(reading, word, "command", options)
                    return None
                word = word if word in commands else reading.slips[-1].meant[0]
                reading.command = commands[word]
                reading.path = f"{reading.path} {word}"
                reading.options.clear()
                options = _options(reading.command)
            place += 1
    return reading


def _note(reading: Reading, place: int, word: str, kind: str, known: Sequence[str]) -> bool:
    meant = near(word, known)
    if meant:
        reading.slips.append(Slip(place, word, kind, reading.path, meant))
    return bool(meant)


def _refuse_habit(reading: Reading, word: str, kind: str, options: Mapping[str, click.Option]) -> None:
    meant = _HABITS.get(word)
    if meant in options:
        line = f"{reading.path} {meant}"
        raise UsageError("USAGE", f"{reading.path} has no {kind} {word!r}: did you mean {line}?", actions=[line])


def _options(command: click.Command) -> dict[str, click.Option]:
    context = click.Context(command)
    options = [one for one in command.get_params(context) if isinstance(one, click.Option)]
    return {name: option for option in options for name in _names(option)}


def _shown(options: dict[str, click.Option]) -> list[str]:
    return [name for name, option in options.items() if not option.hidden]


def _names(option: click.Option) -> list[str]:
    return [*option.opts, *option.secondary_opts]


def _acts(reading: Reading) -> bool:
    """Tell whether what would be called may do more than read; of a command that does not say, it may."""
    if getattr(reading.command, "writes", True):
        return True
    return bool(reading.options.intersection(reading.command.acts_with))  # type: ignore[attr-defined]  # a Door


def _error(reading: Reading, prog: str, argv: Sequence[str]) -> UsageError:
    said = "; ".join(
        f"{slip.path} has no {slip.kind} {slip.word!r}: did you mean {' or '.join(slip.meant)}?"
        for slip in reading.slips
    )
    actions = [f"{reading.slips[0].path} --help"]
    if len(reading.slips) == 1:
        (slip,) = reading.slips
        choices = [[Slip(slip.place, slip.word, slip.kind, slip.path, [name])] for name in slip.meant]
    else:
        choices = [reading.slips] if all(len(slip.meant) == 1 for slip in reading.slips) else []
    return UsageError("USAGE", said, actions=[shlex.join([prog, *_mended(argv, one)]) for one in choices] + actions)


def _mended(argv: Sequence[str], slips: Sequence[Slip]) -> list[str]:
    words = list(argv)
    for slip in slips:
        words[slip.place] = slip.meant[0] + words[slip.place].removeprefix(slip.word)
    return words
