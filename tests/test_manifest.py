"""What `lore robot-docs` says of the commands is what they do: every schema against real answers, on both databases."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import click
import jsonschema
import pytest

import cli
from cli.manifest import answer_schema, doors, manifest
from lore.core.errors import CODES, EXIT_MEANINGS
from lore.core.outcome import WARNINGS

DOORS = dict(doors(("lore-submit", cli.submit), ("lore", cli.commands)))

# How every command is called on a filled mirror, in this order; the first call of a list answers with the list.
CALLS: dict[str, list[list[str]]] = {
    "lore-submit": [
        ["--mr", "12", "--issue", "7"],
        ["--mr", "12", "--dry-run"],
        ["--issue", "4", "--no-docs", "--no-embed"],
    ],
    "lore submit": [["--issue", "3", "--preflight-only"], ["--issue", "7", "--no-wait"]],
    "lore cancel": [["last"]],
    "lore sync": [["--mr", "12", "--no-embed"], ["--issue", "7", "--dry-run"]],
    "lore sync-runs": [[], ["--run-id", "last"], ["--status", "succeeded", "-n", "1"]],
    "lore docs": [[]],
    "lore embed": [[], ["--rebuild"]],
    "lore search": [
        ["tide", "table"],
        ["summer", "--type", "discussion", "--mode", "text"],
        ["xyzzy", "--author", "x"],
    ],
    "lore show": [["!12"], ["#7"]],
    "lore issues": [["--state", "all"], ["--label", "bug", "--search", "tide", "--sort", "comments:asc"]],
    "lore mrs": [[], ["--state", "merged"]],
    "lore file-history": [["harbour/tides.py", "--discussions"], ["harbour/tides.py", "--no-follow-renames"]],
    "lore timeline": [["!12"], ["#7"], ["tide table"]],
    "lore who": [["harbour/tides.py"], ["bug"]],
    "lore stats": [[], ["-p", "tern/harbour"]],
    "lore sweep": [[]],
    "lore doctor": [[]],
    "lore worker": [["--until-stdin-closes"]],
    "lore demo": [["--no-redis"]],
    "lore robot-docs": [[]],
    "lore mcp": [],  # its output is the protocol's, and it has no answer: tests/test_mcp.py
    "lore completion": [["bash"]],
}


def call(environ: dict[str, str], command: str, *arguments: str) -> dict[str, Any]:
    prog, *words = command.split()
    door = "lore_submit" if prog == "lore-submit" else "lore"
    done = subprocess.run(
        [sys.executable, "-c", f"import cli; cli.{door}()", *words, *arguments, "--robot"],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    answer = json.loads(done.stdout)
    check(answer, answer_schema())
    assert answer["ok"], done
    return answer


def check(value: Any, schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema).validate(value)


@pytest.mark.slow
def test_every_command_answers_with_what_its_schema_says(environ: dict[str, str]) -> None:
    for command, calls in CALLS.items():
        if command == "lore demo" and not environ["LORE_DATABASE_URL"].startswith("sqlite"):
            continue  # it brings a database of its own, and takes its time
        for arguments in calls:
            answer = call(environ, command, *arguments)

            assert answer["meta"]["command"] == command
            check(answer["data"], DOORS[command].data)  # type: ignore[arg-type]

    for command in [name for name, door in DOORS.items() if door.listed]:
        whole, pages = call(environ, command, *CALLS[command][0], "-n", "10000"), pages_of(environ, command)
        listed = whole["data"][DOORS[command].listed]
        assert "next" not in whole["meta"]
        if command == "lore search":  # the farther one looks, the more a hit may be worth
            pages, listed = ([(hit["ref"], hit["type"]) for hit in found] for found in (pages, listed))
            assert sorted(pages) == sorted(listed)
            continue
        assert listed, f"{command} lists nothing"
        assert [json.dumps(row) for row in pages] == [json.dumps(row) for row in listed]


@pytest.mark.slow
def test_a_sync_of_the_project_answers_with_what_its_schema_says(environ: dict[str, str]) -> None:
    """By itself: it is left to a worker, and an open run's times go on while a list is read."""
    answer = call(environ, "lore sync", "--no-wait")

    check(answer["data"], DOORS["lore sync"].data)  # type: ignore[arg-type]
    assert [run["kind"] for run in answer["data"]["runs"]] == ["incremental"]


def pages_of(environ: dict[str, str], command: str) -> list[Any]:
    """Read a list row by row."""
    rows: list[Any] = []
    after: list[str] = []
    while True:
        answer = call(environ, command, *CALLS[command][0], "-n", "3", *after)
        page = answer["data"][DOORS[command].listed]
        assert 1 <= len(page) <= 3
        rows += page
        if "next" not in answer["meta"]:
            return rows
        after = ["--after", answer["meta"]["next"]]


def test_every_command_has_a_schema_an_example_and_is_called_here() -> None:
    assert set(CALLS) == set(DOORS), "add the command to CALLS, with calls that show all of its answers"
    for name, door in DOORS.items():
        assert door.data is not None, f"{name} has no schema: give it data=record(…), see cli/shapes.py"
        assert door.example.startswith((name, 'eval "$(lore')), f"{name} has no example of its own"


@pytest.mark.parametrize("name", DOORS)
def test_a_schema_is_sound_and_lets_nothing_else_in(name: str) -> None:
    schema = DOORS[name].data
    assert schema is not None

    jsonschema.Draft202012Validator.check_schema(schema)
    for one in objects(schema):
        assert "additionalProperties" in one
        assert set(one.get("required", ())) == set(one.get("properties", ()))


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for below in schema.values():
            yield from objects(below)
    elif isinstance(schema, list):
        for below in schema:
            yield from objects(below)


def test_the_manifest_names_every_command_option_status_code_and_warning() -> None:
    told = manifest(("lore-submit", cli.submit), ("lore", cli.commands))

    by_name = {one["name"]: one for one in told["commands"]}
    assert set(by_name) == {"lore-submit", *(f"lore {name}" for name in cli.commands.commands)}
    for name, door in DOORS.items():
        usage = door.get_help(click.Context(door))
        shown = {one for option in by_name[name]["options"] for one in option["names"]}
        assert set(re.findall(r"(?m)^  (?:-\w, )?(--[\w-]+)", usage)) <= shown | {"--help"}
        assert all(one in usage for one in shown)
    assert [one["status"] for one in told["exit_statuses"]] == [int(status) for status in EXIT_MEANINGS]
    assert {one["code"]: one["actions"] for one in told["errors"]} == {c: list(CODES[c].actions) for c in CODES}
    assert {one["code"] for one in told["warnings"]} == set(WARNINGS)


def test_a_program_learns_types_bounds_defaults_and_what_writes() -> None:
    told = manifest(("lore", cli.commands))
    runs = next(one for one in told["commands"] if one["name"] == "lore sync-runs")
    options = {option["names"][-1]: option for option in runs["options"]}
    submit = next(one for one in told["commands"] if one["name"] == "lore submit")

    assert options["--limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 10_000}
    assert options["--limit"]["default"] == 20
    assert options["--follow"]["takes_value"] is False
    assert (runs["writes"], runs["acts_with"], runs["listed"]) == (False, ["--retry-failed"], "runs")
    assert submit["writes"] is True
    assert submit["arguments"][0]["schema"] == {"type": "array", "items": {"type": "string"}}
    assert json.loads(json.dumps(told)) == told
