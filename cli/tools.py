"""The commands as tools of agents: what a tool takes, the command line that a call stands for, and a bounded answer."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import click

from cli.manifest import doors, value_schema
from lore.core.errors import UsageError
from lore.door import Acting, Door, Tool

# The most characters of an answer: some ten thousand of a model's tokens.
MOST: Final = 40_000
# How long a text and a list may be in an answer that is too long, from the first of these that makes it fit.
_CUTS: Final = ((8_000, 200), (2_000, 50), (500, 20), (120, 5), (30, 1))
_MOST_CUTS_NAMED: Final = 20
# How long one value may be, and the UTF-8 of all words together: Linux takes 128 KiB in one word. `after` names each
# hit that was shown, so it may be as long as all.
_MOST_WORD: Final = 10_000
_MOST_WORDS_BYTES: Final = 100_000
# What the door itself gives to every command that answers with data, or with a list.
_OF_THE_DOOR: Final = ("limit", "after", "fields")

Answer = dict[str, Any]


@dataclass(frozen=True)
class Offer:
    """One command as a tool.

    Attributes:
        words: The command's words, without `lore`.
    """

    tool: Tool
    words: tuple[str, ...]
    door: Door

    @property
    def help(self) -> str:
        """What it does, in one paragraph."""
        return " ".join((self.tool.help or self.door.help or "").split())

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of its arguments, made of the command's own parameters."""
        properties = {}
        for name, param in self._params().items():
            about: dict[str, Any] = {"description": getattr(param, "help", None) or param.metavar or name}
            if (default := _default_of(param)) is not None:
                about["default"] = default
            properties[name] = {**value_schema(param), **about}
        required = [name for name, param in self._params().items() if param.required]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    def command_line(self, arguments: Mapping[str, Any]) -> list[str]:
        """Return the words after `lore` that a call stands for; a value can never be read as an option.

        Raises:
            UsageError: USAGE, for arguments that the schema does not allow; what they say is for the command to judge.
        """
        params = self._params()
        unknown = sorted(set(arguments) - set(params))
        if unknown:
            raise UsageError("USAGE", f"{self.tool.name} takes {', '.join(params)}, not {unknown[0]!r}", actions=[])
        options: list[str] = []
        places: list[str] = []
        for name, param in params.items():
            value = arguments.get(name)
            # What a schema announces agents also give, where the command takes it as asked for and refuses it.
            is_default = value == _default_of(param) and not isinstance(value, bool)
            texts = [] if is_default else self._texts(name, param, value)
            if isinstance(param, click.Argument):
                places += texts
            elif isinstance(param, click.Option) and param.is_flag:
                options += texts
            else:
                options += [f"{param.opts[-1]}={text}" for text in texts]
        line = ["--robot", *self.words, *self.tool.always, *options, "--", *places]
        if sum(len(word.encode()) for word in line) > _MOST_WORDS_BYTES:
            raise UsageError(
                "USAGE", f"{self.tool.name}: all that it is given is at most {_MOST_WORDS_BYTES} bytes", actions=[]
            )
        return line

    def _texts(self, name: str, param: click.Parameter, value: Any) -> list[str]:
        """Return the words that stand for one argument; none for an empty text, which agents give for nothing."""
        if value is None or value == "":
            return []
        if isinstance(param, click.Option) and param.is_flag:
            if not isinstance(value, bool):
                raise self._error(name, "true or false")
            names = param.opts if value else param.secondary_opts
            return list(names[-1:])
        values = value if isinstance(value, list) and (param.multiple or param.nargs != 1) else [value]
        if not all(isinstance(one, str | int | float) for one in values):
            raise self._error(
                name, "a text or a number, or a list of them" if values is value else "a text or a number"
            )
        texts = [str(one) for one in values]
        most = _MOST_WORDS_BYTES if name == "after" else _MOST_WORD
        if not all(len(text) <= most and _can_be_a_word(text) for text in texts):
            raise self._error(name, f"text of at most {most} characters, without NUL and lone surrogates")
        return texts

    def _params(self) -> dict[str, click.Parameter]:
        taken = self.tool.takes
        return {
            str(param.name): param
            for param in self.door.params
            if not (getattr(param, "hidden", False) or isinstance(param, Acting) or param.name == "robot")
            if not taken or param.name in taken or (param.name in _OF_THE_DOOR and not self.tool.writes)
        }

    def _error(self, name: str, wanted: str) -> UsageError:
        return UsageError("USAGE", f"{self.tool.name}: {name} is {wanted}", actions=[])


def offers(root: click.Group, *, may_write: bool) -> dict[str, Offer]:
    """Return the tools of a command tree by their names; those that write only if they may."""
    return {
        tool.name: Offer(tool, tuple(name.split()[1:]), door)
        for name, door in doors(("lore", root))
        for tool in door.tools
        if may_write or not tool.writes
    }


def fewer_rows(answer: Answer, listed: str) -> int | None:
    """Return how many rows of the list to ask for instead, where the answer is too long with as many as it has."""
    rows = answer.get("data", {}).get(listed) or ()
    if len(rows) < 2 or (size := len(to_text(answer))) <= MOST:
        return None
    return max(1, min(len(rows) // 2, len(rows) * MOST * 9 // (size * 10)))


def fitted(answer: Answer, *, listed: str = "") -> str:
    """Return the answer as one line of JSON; where that is too long, texts and lists in it are cut, and `cut` says so.

    Args:
        answer: As the command gave it.
        listed: The list whose rows all stay: the next page goes on behind the last of them.
    """
    said = to_text(answer)
    if len(said) <= MOST:
        return said
    for characters, rows in _CUTS:
        shortening = _Shortening(characters, rows, spared=f"data.{listed}")
        shorter = {name: value if name == "meta" else shortening.of(value, name) for name, value in answer.items()}
        said = to_text(shorter | {"cut": _told(shortening.cuts)})
        if len(said) <= MOST:
            return said
    return to_text({"ok": answer.get("ok"), "meta": answer.get("meta"), "cut": _told([{"at": "data", "kept": 0}])})


def _told(cuts: Sequence[Answer]) -> Answer:
    why = f"longer than {MOST} characters: ask for less at a time, by fields, limit and after"
    return {"why": why, "total": len(cuts), "at": list(cuts[:_MOST_CUTS_NAMED])}


@dataclass
class _Shortening:
    """Cuts texts of more characters and lists of more rows, and notes where."""

    characters: int
    rows: int
    spared: str
    cuts: list[Answer] = field(default_factory=list)

    def of(self, value: Any, place: str) -> Any:
        if isinstance(value, Mapping):
            return {name: self.of(one, f"{place}.{name}") for name, one in value.items()}
        if isinstance(value, str):
            return f"{self._kept(value, self.characters, place)}…" if len(value) > self.characters else value
        if isinstance(value, list):
            rows = self._kept(value, self.rows, place) if len(value) > self.rows and place != self.spared else value
            return [self.of(one, f"{place}.{number}") for number, one in enumerate(rows)]
        return value

    def _kept(self, value: Any, most: int, place: str) -> Any:
        self.cuts.append({"at": place, "kept": most, "of": len(value)})
        return value[:most]


def to_text(answer: Mapping[str, Any]) -> str:
    """Return one line of JSON in which nothing is invisible: no control, no mark that turns or hides text."""
    said = json.dumps(answer, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    if said.isprintable():
        return said
    return "".join(one if one.isprintable() else _escaped(one) for one in said)


def _escaped(character: str) -> str:
    return f"\\u{ord(character):04x}" if ord(character) < 0x80 else json.dumps(character)[1:-1]


def _default_of(param: click.Parameter) -> str | int | None:
    """Return the default that is worth announcing; None where there is none."""
    default = param.to_info_dict()["default"]
    return default if isinstance(default, str | int) and default is not False else None


def _can_be_a_word(text: str) -> bool:
    """Tell whether a process can be given this text."""
    return not any(one == "\0" or unicodedata.category(one) == "Cs" for one in text)
