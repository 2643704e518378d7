"""`lore mcp` as an agent's client meets it: the package's own client, the real process, a mirror of hostile content."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import unicodedata
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import jsonschema
import pytest
from hostile import EVIL, fill
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from support import (
    GITLAB_URL,
    PROJECT,
    FakeGitLab,
    discussion_body,
    drain,
    entity_body,
    note_body,
    submit,
)

import cli
from cli import serving, tools
from cli.tools import offers
from lore.core import plan
from lore.core.errors import LoreError, UsageError
from lore.core.plan import Entity
from lore.extras import install_action
from models import base
from models.ledger import Run

ROOT = Path(__file__).resolve().parents[1]
READING = {"search", "show", "issues", "mrs", "file_history", "timeline", "who", "stats", "runs"}
WRITING = {"submit", "retry"}

# What no database has a part in is told once.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

Talk = Callable[[Client], Awaitable[None]]


@pytest.fixture
def environ(gitlab: FakeGitLab, database_url: str, tmp_path: Path) -> dict[str, str]:
    fill(gitlab)
    base.disconnect()
    return {
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "LORE_GITLAB_URL": GITLAB_URL,
        "LORE_PROJECT": PROJECT,
        "LORE_DATABASE_URL": database_url,
        "LORE_EMBEDDINGS": "off",
        "LORE_ROBOT": "1",  # the answers of commands must not get between those of the protocol
    }


def talk(environ: dict[str, str], say: Talk, *options: str, mode: str = "auto") -> None:
    """Start `lore mcp`, and say something to it."""
    server = StdioServerParameters(command=sys.executable, args=["-P", "-m", "cli", "mcp", *options], env=environ)

    async def whole() -> None:
        async with Client(server, mode=mode) as client:
            await say(client)

    anyio.run(whole)


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool; return the answer that it gives as JSON, after the words that mark it."""
    result = await client.call_tool(tool, arguments)
    mark, said = (block.text for block in result.content)
    assert mark == serving.UNTRUSTED
    assert said.isprintable()
    answer: dict[str, Any] = json.loads(said)
    assert result.is_error is not answer["ok"]
    return answer


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_an_agent_reads_the_mirror_by_its_tools(environ: dict[str, str], mode: str) -> None:
    async def say(client: Client) -> None:
        listed = (await client.list_tools()).tools
        assert {tool.name for tool in listed} == READING
        assert all(tool.annotations is not None and tool.annotations.read_only_hint for tool in listed)
        assert "never instructions" in (client.instructions or "")
        calls: dict[str, dict[str, Any]] = {
            "search": {"words": ["evil"], "types": ["issue"], "mode": "text"},
            "show": {"ref": "!5", "fields": "entity.title,threads.notes.body"},
            "issues": {"state": "all", "labels": [EVIL], "limit": 1},
            "mrs": {"is_draft": False, "author": EVIL, "milestone": ""},
            "file_history": {"path": EVIL, "discussions": True},
            "timeline": {"subject": "#7"},
            "who": {"name": f"~{EVIL}"},
            "stats": {},
            "runs": {"run_id": "last", "limit": 20},
        }
        assert set(calls) == READING
        told = {}
        for tool, arguments in calls.items():
            answer = told[tool] = await call(client, tool, **arguments)
            assert answer["ok"], answer
        assert told["issues"]["data"]["issues"][0]["title"] == EVIL.strip()
        assert set(told["show"]["data"]) == {"entity", "threads"}
        assert told["mrs"]["data"]["total"] == 1

    talk(environ, say, mode=mode)


@pytest.mark.slow
def test_what_cannot_be_done_is_a_typed_error_of_the_tool(environ: dict[str, str]) -> None:
    async def say(client: Client) -> None:
        for tool, arguments, code in (
            ("show", {"ref": "!99"}, "NOT_IN_MIRROR"),
            ("show", {"ref": "--open"}, "BAD_REF"),
            ("show", {"ref": "!5", "is_to_open": True}, "USAGE"),
            ("show", {}, "USAGE"),
            ("issues", {"limit": "many"}, "USAGE"),
            ("issues", {"after": "not ours"}, "USAGE"),
            ("issues", {"author": ["a"]}, "USAGE"),
            ("mrs", {"is_draft": "no"}, "USAGE"),
            ("who", {"name": "a\0b"}, "USAGE"),
            ("who", {"name": "x" * 200_000}, "USAGE"),
            ("search", {"words": ["x" * 9_000] * 400}, "USAGE"),
        ):
            answer = await call(client, tool, **arguments)
            assert (answer["ok"], answer["error"]["code"]) == (False, code), (tool, arguments, answer)

    talk(environ, say)


@pytest.mark.slow
def test_a_long_list_comes_in_pages_that_fit_and_a_long_text_is_cut_and_can_be_asked_for(
    environ: dict[str, str], gitlab: FakeGitLab, ledger: Any
) -> None:
    base.open_database(environ["LORE_DATABASE_URL"])
    talked = [discussion_body(n, note_body(n, f"{n} {'talk ' * 400}")) for n in range(1, 101)]
    gitlab.set(Entity("issue", 7), plan.OWN, entity_body(Entity("issue", 7), description="d" * 60_000))
    gitlab.set(Entity("issue", 7), plan.DISCUSSIONS, talked)
    submit(Entity("issue", 7))
    drain()
    base.disconnect()

    async def say(client: Client) -> None:
        first = await call(client, "show", ref="#7")
        assert "cut" in first
        assert first["data"]["entity"]["description"].endswith("d…")
        notes: list[str] = []
        arguments: dict[str, Any] = {"ref": "#7", "fields": "threads.notes.body"}
        while True:
            answer = await call(client, "show", **arguments)
            assert "cut" not in answer
            notes += [note["body"] for thread in answer["data"]["threads"] for note in thread["notes"]]
            if "next" not in answer["meta"]:
                break
            arguments["after"] = answer["meta"]["next"]
        assert notes == [discussion["notes"][0]["body"] for discussion in talked]

    talk(environ, say)


@pytest.mark.slow
def test_calls_at_once_are_each_answered(environ: dict[str, str]) -> None:
    async def say(client: Client) -> None:
        found: dict[int, str] = {}

        async def ask(number: int) -> None:
            ref = "#7" if number % 2 else "!5"
            found[number] = (await call(client, "show", ref=ref, fields="ref"))["data"]["ref"]

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(ask, number)
        assert found == {number: f"{PROJECT}{'#7' if number % 2 else '!5'}" for number in range(10)}

    talk(environ, say)


@pytest.mark.slow
def test_submit_and_retry_are_tools_only_where_they_are_allowed(environ: dict[str, str], gitlab: FakeGitLab) -> None:
    async def say(client: Client) -> None:
        by_name = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(by_name) == READING | WRITING
        assert {name for name, tool in by_name.items() if not tool.annotations.read_only_hint} == WRITING
        # Nobody answers there, so the run fails; it is in the ledger as the agent's.
        submitted = await call(client, "submit", refs=["#7"], preflight_only=True)
        assert submitted["error"]["code"] == "GITLAB_UNREACHABLE", submitted
        run = (await call(client, "runs", run_id="last"))["data"]["run"]
        assert (run["trigger"], run["mode"], run["status"]) == ("mcp", "preflight_only", "failed")
        again = await call(client, "retry", run_id=run["run_id"])
        assert again["error"]["run_id"] != run["run_id"]
        assert (await call(client, "runs", limit=1))["data"]["runs"][0]["retry_of"] == run["run_id"]

    lost = {"LORE_GITLAB_URL": "http://127.0.0.1:9", "LORE_GITLAB_TOKEN": "glpat-test", "LORE_RUN_DEADLINE": "1s"}
    talk(environ | lost, say, "--allow-submit")


@pytest.mark.slow
def test_a_submit_that_the_client_gives_up_is_a_cancelled_run(environ: dict[str, str]) -> None:
    async def say(client: Client) -> None:
        async def submit_in_vain() -> None:
            with gives_up:
                await client.call_tool("submit", {"refs": ["#7"]})
                pytest.fail("nobody answers there")

        async def status_is(*wanted: str) -> None:
            while True:
                newest = (await call(client, "runs", limit=1))["data"]["runs"][0]
                if newest["trigger"] == "mcp" and newest["status"] in wanted:
                    return

        gives_up = anyio.CancelScope()
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(submit_in_vain)
                await status_is("preflight")
                gives_up.cancel()
                await status_is("cancelled")

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        talk(
            environ | {"LORE_GITLAB_URL": url, "LORE_GITLAB_TOKEN": "glpat-test"}, say, "--allow-submit", mode="legacy"
        )


@contextmanager
def serving_process(environ: dict[str, str], *options: str) -> Iterator[subprocess.Popen[str]]:
    """Start `lore mcp` and greet it: it knows its signals then."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-P", "-m", "cli", "mcp", *options]
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}
    with subprocess.Popen(command, env=environ, text=True, start_new_session=True, **pipes) as server:
        try:
            say(server, id=1, method="initialize", params=about)
            assert json.loads(server.stdout.readline())["id"] == 1
            say(server, method="notifications/initialized")
            yield server
        finally:
            server.kill()


def say(server: subprocess.Popen[str], **message: Any) -> None:
    write(server, {"jsonrpc": "2.0", **message})


def write(server: subprocess.Popen[str], line: Any) -> None:
    server.stdin.write((line if isinstance(line, str) else json.dumps(line)) + "\n")
    server.stdin.flush()


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_it_and_its_group_cancels_the_submit_in_flight_and_then_ends_it(
    environ: dict[str, str], signum: signal.Signals
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        lost = {"LORE_GITLAB_URL": f"http://127.0.0.1:{silent.getsockname()[1]}", "LORE_GITLAB_TOKEN": "glpat-test"}
        with serving_process(environ | lost, "--allow-submit") as server:
            say(server, id=2, method="tools/call", params={"name": "submit", "arguments": {"refs": ["#7"]}})
            asking, _ = silent.accept()
            with asking:
                os.killpg(server.pid, signum)

                assert server.wait(60) == 128 + signum
                # Standard error is at its end when the last process that holds it is: the child is none of its group.
                _, complaint = server.communicate(timeout=60)

    base.open_database(environ["LORE_DATABASE_URL"])
    run = Run.select().order_by(Run.run_id.desc()).first()
    assert (run.trigger, run.status, complaint) == ("mcp", "cancelled", "")


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_while_the_client_keeps_its_input_open(
    environ: dict[str, str], signum: signal.Signals
) -> None:
    with serving_process(environ) as server:
        server.send_signal(signum)

        assert server.wait(60) == 128 + signum
        assert server.communicate() == ("", "")


PING = {"jsonrpc": "2.0", "id": "ping", "method": "ping"}


@pytest.mark.slow
@on_sqlite
def test_a_line_that_is_no_message_is_refused_as_json_rpc_asks(environ: dict[str, str]) -> None:
    lines: dict[str, tuple[int, Any] | None] = {
        "{no JSON": (-32700, None),
        "[" * 9_000: (-32700, None),
        "null": (-32600, None),
        "7": (-32600, None),
        "[]": (-32600, None),
        f"[{json.dumps(PING)}]": (-32600, None),
        '{"jsonrpc": "2.0"}': (-32600, None),
        '{"jsonrpc": "2.0", "id": {}}': (-32600, None),
        '{"jsonrpc": "2.0", "id": true}': (-32600, None),
        '{"jsonrpc": "2.0", "id": 1}': (-32600, 1),
        '{"jsonrpc": "2.0", "id": "a", "method": 3}': (-32600, "a"),
        '{"jsonrpc": "1.0", "id": 2, "method": "ping"}': (-32600, 2),
        # None of them is a request.
        "": None,
        '{"jsonrpc": "2.0", "method": "no/such"}': None,
        '{"jsonrpc": "2.0", "id": 5, "result": 3}': None,
        '{"jsonrpc": "2.0", "id": 5, "error": "no such"}': None,
    }

    with serving_process(environ) as server:
        for line, refusal in lines.items():
            write(server, line)
            write(server, PING)
            answers = [json.loads(server.stdout.readline())]
            while answers[-1]["id"] != "ping":
                answers.append(json.loads(server.stdout.readline()))
            said = [(answer["error"]["code"], answer["id"]) for answer in answers[:-1]]
            assert said == ([] if refusal is None else [refusal]), line


@pytest.mark.slow
@on_sqlite
def test_a_request_for_what_there_is_not_is_an_error_of_the_protocol(environ: dict[str, str]) -> None:
    show = {"method": "tools/call", "params": {"name": "show", "arguments": ["#7"]}}
    submit = {"method": "tools/call", "params": {"name": "submit", "arguments": {"refs": ["#7"]}}}

    with serving_process(environ) as server:
        for request, code in (({"method": "no/such"}, -32601), (show, -32602), (submit, -32602)):
            say(server, id=2, **request)
            answer = json.loads(server.stdout.readline())
            assert (answer["id"], answer["error"]["code"]) == (2, code), answer
    assert "there are runs, search" in answer["error"]["message"], "an agent can choose another"


@pytest.mark.slow
def test_its_standard_output_carries_the_protocol_and_nothing_else(environ: dict[str, str]) -> None:
    ask = {"jsonrpc": "2.0", "id": 1, "method": "initialize"}
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}

    done = subprocess.run(
        [sys.executable, "-P", "-m", "cli", "mcp", "--robot"],
        env=environ,
        input=json.dumps(ask | {"params": about}) + "\nno JSON\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 0, done
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    assert {message["id"] for message in messages} == {1, None}
    assert all(message["jsonrpc"] == "2.0" for message in messages)


def test_without_its_extra_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from lore.door import run

    monkeypatch.delitem(sys.modules, "cli.serving")
    monkeypatch.setitem(sys.modules, "mcp", None)

    status = run(cli.commands, "lore", ["mcp", "--robot"])

    error = json.loads(capsys.readouterr().out)["error"]
    assert (status, error["code"]) == (3, "MISSING_EXTRA")
    assert error["actions"] == [install_action("mcp")]


def test_every_tool_has_a_schema_of_the_commands_own_parameters() -> None:
    offered = offers(cli.commands, may_write=True)

    for offer in offered.values():
        schema = offer.schema()
        jsonschema.Draft202012Validator.check_schema(schema)
        assert offer.help
    schema = offered["mrs"].schema()
    assert schema["properties"]["state"]["enum"] == ["opened", "closed", "merged", "locked", "all"]
    assert schema["properties"]["labels"]["type"] == "array"
    assert schema["properties"]["is_draft"]["type"] == "boolean"
    assert offered["show"].schema()["required"] == ["ref"]
    for name in READING:
        assert {"limit", "after", "fields"} <= set(offered[name].schema()["properties"]), name
    assert set(offered["submit"].schema()["properties"]) == {"refs", "project", "preflight_only"}


def test_no_tool_takes_what_acts_or_names_a_token() -> None:
    for offer in offers(cli.commands, may_write=True).values():
        assert not {"is_to_open", "retry_failed", "allow_submit", "robot"} & set(offer.schema()["properties"])


def test_a_value_is_never_an_option_and_a_flag_is_what_it_says() -> None:
    offered = offers(cli.commands, may_write=True)

    line = offered["mrs"].command_line({"author": "--open", "labels": ["a", "-b"], "is_draft": False, "limit": 3})

    assert line[:2] == ["--robot", "mrs"]
    assert sorted(line[2:]) == sorted(["--author=--open", "--label=a", "--label=-b", "--no-draft", "--limit=3", "--"])
    assert offered["show"].command_line({"ref": "--open"})[-2:] == ["--", "--open"]
    assert offered["retry"].command_line({"run_id": "x"}) == [
        "--robot",
        "sync-runs",
        "--retry-failed",
        "--run-id=x",
        "--",
    ]


@pytest.mark.parametrize("words", [["x" * 9_000] * 12, ["\u6f22" * 9_000] * 4], ids=["many", "wide"])
def test_a_call_of_more_words_than_a_process_takes_is_a_usage_error(words: list[str]) -> None:
    search = offers(cli.commands, may_write=False)["search"]

    with pytest.raises(UsageError, match="at most 100000 bytes"):
        search.command_line({"words": words})

    assert search.command_line({"words": words[1:-1]})[-1] == words[0]


def test_a_default_that_is_given_is_as_if_it_were_not() -> None:
    offered = offers(cli.commands, may_write=False)

    for offer in offered.values():
        needed = dict.fromkeys(offer.schema()["required"], "x")
        announced = {
            name: about["default"] for name, about in offer.schema()["properties"].items() if "default" in about
        }
        assert "limit" in announced
        assert offer.command_line(needed | announced) == offer.command_line(needed)
    assert "--limit=21" in offered["runs"].command_line({"run_id": "last", "limit": 21})


def test_a_cursor_may_be_longer_than_other_values() -> None:
    search = offers(cli.commands, may_write=False)["search"]

    assert f"--after={'x' * 90_000}" in search.command_line({"words": ["x"], "after": "x" * 90_000})
    for name, value in {"after": "x" * 100_001, "author": "x" * 10_001}.items():
        with pytest.raises(UsageError, match=f"{name} is text of at most"):
            search.command_line({"words": ["x"], name: value})


def answer(**data: Any) -> dict[str, Any]:
    return {"ok": True, "data": data, "warnings": [], "meta": {"command": "lore x", "next": "c" * 300}}


def test_a_list_that_is_too_long_is_asked_for_with_fewer_rows() -> None:
    rows = [{"title": "x" * 1_000}] * 100

    limit = tools.fewer_rows(answer(hits=rows), "hits")

    assert limit is not None
    assert 20 < limit < 40
    assert tools.fewer_rows(answer(hits=rows[:limit]), "hits") is None
    assert tools.fewer_rows(answer(hits=rows[:1] * 2), "hits") is None
    assert tools.fewer_rows(answer(entity=rows), "hits") is None


@pytest.mark.parametrize(
    "data",
    [
        {"entity": {"description": "d" * 500_000}, "threads": [{"body": "b"}] * 3},
        {"threads": [{"notes": [{"body": "b" * 900}] * 500}]},
        {"files": [{"path": "p" * 50}] * 9_000},
        {"names": {f"name {number}": "x" for number in range(9_000)}},
        {"description": "\u202e" * 30_000},
    ],
)
def test_an_answer_is_never_longer_than_its_bound_and_says_what_was_cut(data: dict[str, Any]) -> None:
    whole = answer(**data)

    said = tools.fitted(whole)

    assert len(said) <= tools.MOST
    told = json.loads(said)
    assert told["meta"] == whole["meta"], "the next page is asked for as it says"
    assert told["cut"]["at"]
    assert "fields" in told["cut"]["why"]
    assert "cut" not in json.loads(tools.fitted(answer(entity="short")))


def test_an_answers_text_shows_what_is_invisible_and_is_the_same_json() -> None:
    said = tools.fitted(answer(title=f"{EVIL}\x7f\U000e0041 ünï 漢字"))

    assert said.isprintable()
    assert not [one for one in said if unicodedata.category(one) in ("Cc", "Cf", "Zl", "Zp")]
    assert "ünï 漢字" in said
    assert json.loads(said)["data"]["title"] == f"{EVIL}\x7f\U000e0041 ünï 漢字"


HANG = "import signal, time, sys; signal.signal(signal.SIGINT, {}); print({!r}, flush=True); time.sleep(60)"


@pytest.mark.parametrize(
    ("program", "code"),
    [
        (HANG.format("signal.SIG_IGN", ""), "INTERRUPTED"),
        (HANG.format("signal.default_int_handler", "{"), "INTERRUPTED"),
        ("print('no JSON')", "INTERNAL"),
        ("import os; os.kill(os.getpid(), 9)", "INTERNAL"),
    ],
)
def test_a_child_that_hangs_or_dies_is_ended_and_said(program: str, code: str) -> None:
    async def ask() -> Any:
        return await serving.answer_of(["words"], program=[sys.executable, "-c", program], bound_s=1, grace_s=0.2)

    with pytest.raises(LoreError) as caught:
        anyio.run(ask)

    assert caught.value.code == code


@pytest.mark.parametrize(("program", "words"), [(sys.executable, ["x" * 200_000]), ("/nowhere/to/lore", [])])
def test_a_child_that_cannot_be_started_is_said_without_a_path(program: str, words: list[str]) -> None:
    async def ask() -> Any:
        return await serving.answer_of(words, program=[program], bound_s=1)

    with pytest.raises(LoreError) as caught:
        anyio.run(ask)

    assert caught.value.code == "INTERNAL"
    assert "/" not in caught.value.message


def test_a_child_that_is_interrupted_may_still_answer_and_reads_no_input() -> None:
    program = (
        "import sys, time\n"
        "try:\n    sys.stdin.read() or time.sleep(60)\n"
        "except KeyboardInterrupt:\n    print('{\"ok\": false}')"
    )

    async def ask() -> Any:
        # A bare interpreter is there in 20 ms; on a busy machine a second was too short once.
        return await serving.answer_of([], program=[sys.executable, "-I", "-S", "-c", program], bound_s=5)

    assert anyio.run(ask) == {"ok": False}
