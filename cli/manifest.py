"""What the commands are, read from the commands themselves, for `lore robot-docs`."""
# ruff: noqa: PLC0415  # what a command needs is imported when it is called

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from cli.shapes import ANYTHING, TEXT, TRUTH, WHOLE, Schema, either, mapping, maybe, record, rows
from lore.door import Door, version

# A click type's name → the JSON it is given as; every other is text.
_TYPES: Mapping[str, Schema] = {"integer": WHOLE, "integer range": WHOLE, "boolean": TRUTH, "float": {"type": "number"}}

_PARAMETER = {"help": TEXT, "metavar": TEXT, "schema": ANYTHING, "required": TRUTH}

_FAILURE = record(entity_type=TEXT, iid=WHOLE, stage=TEXT, code=TEXT, message=TEXT)

MANIFEST = record(
    version=TEXT,
    answer=ANYTHING,
    commands=rows(
        record(
            name=TEXT,
            summary=TEXT,
            help=TEXT,
            examples=rows(TEXT),
            writes=TRUTH,
            acts_with=rows(TEXT),
            listed=maybe(TEXT),
            arguments=rows(record(name=TEXT, **_PARAMETER)),
            options=rows(record(names=rows(TEXT), **_PARAMETER, takes_value=TRUTH, default=ANYTHING)),
            data=ANYTHING,
        )
    ),
    exit_statuses=rows(record(status=WHOLE, meaning=TEXT)),
    errors=rows(record(code=TEXT, meaning=TEXT, exit=WHOLE, actions=rows(TEXT))),
    warnings=rows(record(code=TEXT, meaning=TEXT)),
)


def manifest(*roots: tuple[str, click.Command]) -> dict[str, Any]:
    """Return everything a program needs to call these commands and to read what they answer."""
    from lore.core.errors import CODES, EXIT_MEANINGS
    from lore.core.outcome import WARNINGS

    return {
        "version": version(),
        "answer": answer_schema(),
        "commands": [_command(name, door) for name, door in doors(*roots)],
        "exit_statuses": [{"status": int(status), "meaning": meaning} for status, meaning in EXIT_MEANINGS.items()],
        "errors": [
            {"code": name, "meaning": code.meaning, "exit": int(code.exit), "actions": list(code.actions)}
            for name, code in CODES.items()
        ],
        "warnings": [{"code": code, "meaning": meaning} for code, meaning in WARNINGS.items()],
    }


def doors(*roots: tuple[str, click.Command]) -> Iterator[tuple[str, Door]]:
    """Find every command that answers, under its whole name; a group only leads to others."""
    for name, command in roots:
        if isinstance(command, click.Group):
            below = [(f"{name} {its}", one) for its, one in command.commands.items() if not one.hidden]
            yield from doors(*below)
        elif isinstance(command, Door):
            yield name, command


def answer_schema() -> Schema:
    """Return the JSON schema of what every command answers with --robot; `data` is each command's own."""
    meta = record(command=TEXT, version=TEXT, elapsed_ms=WHOLE)
    meta["properties"]["next"] = TEXT | {"description": "where there are more rows: for --after"}
    error = record(code=TEXT, message=TEXT, actions=rows(TEXT))
    error["properties"] |= {"run_id": TEXT, "total": WHOLE, "failures": rows(_FAILURE)}
    return either(
        record(ok={"const": True}, data=mapping(ANYTHING), warnings=rows(record(code=TEXT, message=TEXT)), meta=meta),
        record(ok={"const": False}, error=error, meta=meta),
    )


def value_schema(param: click.Parameter) -> Schema:
    """Return the JSON schema of a parameter's value."""
    said = param.type.to_info_dict()
    if isinstance(param.type, click.Choice):
        schema: Schema = {"enum": [str(choice) for choice in param.type.choices]}
    else:
        schema = dict(_TYPES.get(param.type.name, TEXT))
        bounds = {"minimum": said.get("min"), "maximum": said.get("max")}
        schema |= {name: bound for name, bound in bounds.items() if bound is not None}
    return rows(schema) if param.multiple or param.nargs != 1 else schema


def _command(name: str, door: Door) -> dict[str, Any]:
    shown = [param for param in door.params if not getattr(param, "hidden", False)]
    return {
        "name": name,
        "summary": door.get_short_help_str(200),
        "help": (door.help or "").strip(),
        "examples": door.example.splitlines(),
        "writes": door.writes,
        "acts_with": door.acts_with,
        "listed": door.listed or None,
        "arguments": [
            {"name": str(param.name)} | _parameter(param) for param in shown if isinstance(param, click.Argument)
        ],
        "options": [
            {"names": [*param.opts, *param.secondary_opts]}
            | _parameter(param)
            | {"takes_value": not (param.is_flag or param.count), "default": param.to_info_dict()["default"]}
            for param in shown
            if isinstance(param, click.Option)
        ],
        "data": door.data,
    }


def _parameter(param: click.Parameter) -> dict[str, Any]:
    return {
        "help": getattr(param, "help", None) or "",
        "metavar": param.metavar or "",
        "schema": value_schema(param),
        "required": param.required,
    }
