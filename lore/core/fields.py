"""Which part of an answer is asked for: `run.status,entities.iid`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from lore.core.errors import UsageError

# What of a value is kept: all of it, or these of its fields.
Fields = Mapping[str, "Fields | None"]
Schema = Mapping[str, Any]
# What shows the fields of every answer, each with those below it; no help does.
_ALL_FIELDS: Final = "lore robot-docs --fields commands.name,commands.data"


def parse_fields(text: str, schema: Schema) -> Fields:
    """Return what a comma-separated list of paths names; a list is gone through, row by row.

    Args:
        text: As it was typed.
        schema: The JSON schema of the answer.

    Raises:
        UsageError: USAGE, for a path that no answer of this command has.
    """
    fields: dict[str, Any] = {}
    for path in text.split(","):
        names = path.strip().split(".")
        _check(path.strip(), names, schema)
        _add(fields, names)
    return fields


def select(value: Any, fields: Fields | None) -> Any:
    """Return the value with only these fields; what a row does not have is left out of it."""
    if fields is None:
        return value
    if isinstance(value, Mapping):
        return {name: select(value[name], its) for name, its in fields.items() if name in value}
    if isinstance(value, list):
        return [select(row, fields) for row in value]
    return value


def _add(fields: dict[str, Any], names: list[str]) -> None:
    first, *rest = names
    if not rest:
        fields[first] = None
    elif fields.get(first, {}) is not None:  # else all of it was asked for already
        _add(fields.setdefault(first, {}), rest)


def _check(path: str, names: list[str], schema: Schema) -> None:
    levels = [schema]
    for name in names:
        objects = [found for level in levels for found in _objects(level)]
        if any(found.get("additionalProperties", True) is not False for found in objects):
            return
        known = sorted({known for found in objects for known in found.get("properties", {})})
        if name not in known:
            there = f"there are {', '.join(known)}" if known else "nothing is below it"
            raise UsageError("USAGE", f"--fields: {path!r} is no field of the answer: {there}", actions=[_ALL_FIELDS])
        levels = [found["properties"][name] for found in objects if name in found["properties"]]


def _objects(schema: Schema) -> Iterator[Schema]:
    """Find the objects that a value of this schema may be, or be a list of; the empty schema is any."""
    for one in schema.get("anyOf", ()):
        yield from _objects(one)
    if "items" in schema:
        yield from _objects(schema["items"])
    if not schema or schema.get("type") == "object":
        yield schema
