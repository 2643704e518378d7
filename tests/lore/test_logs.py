"""Logs: one event once, readable or JSON, and never a secret."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from lore.logs import bind_context, clear_context, configure, get_logger

TOKEN = "glpat-s3cr3t"


@pytest.fixture(autouse=True)
def _leave_logging_as_it_was(logging_as_it_was: None) -> Iterator[None]:
    yield
    clear_context()


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_line_when_not_on_a_terminal() -> None:
    stream = io.StringIO()
    configure(stream=stream)

    get_logger("lore.test").info("run_opened", entities=2)

    (event,) = lines(stream)
    assert (event["event"], event["entities"], event["level"]) == ("run_opened", 2, "info")
    assert event["timestamp"].endswith("Z")


@pytest.mark.parametrize(("level", "said"), [("info", ["error."]), ("debug", ["x", "seconds.", "error."])])
def test_what_a_consumer_repeats_while_redis_is_down_is_for_who_looks_for_a_bug(level: str, said: list[str]) -> None:
    stream = io.StringIO()
    configure(stream=stream, level=level)
    log = logging.getLogger("dramatiq.worker.ConsumerThread(fetch)")

    log.critical("Consumer encountered a connection error: %s", "x")
    log.info("Restarting consumer in %0.2f seconds.", 3)
    log.error("Consumer encountered an unexpected error.")

    assert [event["event"].split()[-1] for event in lines(stream)] == said


def test_on_a_terminal_an_event_is_for_people() -> None:
    stream = Terminal()
    configure(stream=stream)

    get_logger("lore.test").info("run_opened", entities=2)

    assert "run_opened" in stream.getvalue()
    assert "\x1b[" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_console_without_a_terminal_has_no_colours() -> None:
    stream = io.StringIO()
    configure(format="console", stream=stream)

    get_logger("lore.test").info("run_opened")

    assert "\x1b[" not in stream.getvalue()


def test_json_can_be_asked_for_on_a_terminal() -> None:
    stream = Terminal()
    configure(format="json", stream=stream)

    get_logger("lore.test").info("run_opened")

    assert lines(stream)[0]["event"] == "run_opened"


def test_the_standard_librarys_loggers_come_out_the_same_way_once() -> None:
    stream = io.StringIO()
    configure(stream=stream)
    configure(stream=stream)

    logging.getLogger("dramatiq.worker").warning("lost %s", "a message")
    get_logger("lore.test").warning("ours")

    assert [event["event"] for event in lines(stream)] == ["lost a message", "ours"]
    assert lines(stream)[0]["logger"] == "dramatiq.worker"


def test_what_is_bound_to_the_context_is_in_every_event() -> None:
    stream = io.StringIO()
    configure(stream=stream)

    bind_context(run_id="r1", actor="fetch")
    bind_context(entity="!12", attempt=1)
    get_logger("lore.test").info("ours")
    logging.getLogger("dramatiq").info("theirs")

    assert [(event["run_id"], event["entity"], event["attempt"]) for event in lines(stream)] == [("r1", "!12", 1)] * 2


def test_events_below_the_level_are_left_out() -> None:
    stream = io.StringIO()
    configure(level="warning", stream=stream)

    get_logger("lore.test").info("quiet")
    logging.getLogger("dramatiq").info("quiet")
    get_logger("lore.test").warning("loud")

    assert [event["event"] for event in lines(stream)] == ["loud"]


def test_httpx_says_nothing_of_each_request() -> None:
    stream = io.StringIO()
    configure(level="debug", stream=stream)

    logging.getLogger("httpx").info("HTTP Request: GET https://gitlab.com")
    logging.getLogger("peewee").debug("SELECT token")

    assert stream.getvalue() == ""


@pytest.mark.invariant("I13")
@pytest.mark.parametrize("format", ["json", "console"])
def test_no_secret_is_in_a_log_line(format: str) -> None:
    stream = io.StringIO()
    configure(format=format, level="debug", stream=stream, secrets=[TOKEN, "", "abc"])
    log = get_logger("lore.test")

    log.info(f"with {TOKEN} in it", header={"PRIVATE-TOKEN": TOKEN}, listed=[("a", TOKEN)], raw=TOKEN.encode(), abc=1)
    log.info("urls", url="redis://:pw@host", exception_object=ValueError(TOKEN))
    logging.getLogger("dramatiq").warning("sent %r", {"token": TOKEN})
    try:
        local_variable = TOKEN
        raise RuntimeError(f"refused {local_variable} postgresql://lore:abc@host")
    except RuntimeError:
        log.exception("unexpected")
        logging.getLogger("dramatiq").exception("unexpected")

    assert TOKEN not in stream.getvalue()
    assert ":pw@" not in stream.getvalue()
    assert ":abc@" not in stream.getvalue()
    assert "RuntimeError" in stream.getvalue()
    assert stream.getvalue().count("***") >= 8


def test_an_exception_is_one_event() -> None:
    stream = io.StringIO()
    configure(stream=stream)

    try:
        raise RuntimeError("boom")
    except RuntimeError:
        get_logger("lore.test").exception("unexpected")

    (event,) = lines(stream)
    assert "RuntimeError: boom" in event["exception"]


def test_foreign_text_cannot_steer_the_terminal_of_whoever_tails_the_log() -> None:
    stream = Terminal()
    configure(stream=stream)

    get_logger("lore.test").warning("gitlab_said", message="\x1b]0;evil\x07\u202e\nerror: faked")

    assert "\x1b]0" not in stream.getvalue()
    assert "\u202e" not in stream.getvalue()
    assert "\\u202e" in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 1


def test_foreign_text_in_an_event_or_an_exception_cannot_steer_it_either() -> None:
    stream = io.StringIO()
    configure(format="console", stream=stream)

    logging.getLogger("dramatiq").warning("GitLab said \x1b[31m\u202e")
    try:
        raise RuntimeError("\x1b[31m\u202e")
    except RuntimeError:
        get_logger("lore.test").exception("unexpected")

    assert "\x1b" not in stream.getvalue()
    assert "\u202e" not in stream.getvalue()
    assert stream.getvalue().count("\\x1b[31m\\u202e") >= 2


def test_a_stand_in_for_standard_error_is_found_at_each_event(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(format="json")
    stand_in = io.StringIO()

    monkeypatch.setattr(sys, "stderr", stand_in)
    get_logger("lore.test").info("ours")

    assert lines(stand_in)[0]["event"] == "ours"


def test_a_process_without_standard_error_logs_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)

    configure()

    get_logger("lore.test").info("ours")


def test_a_closed_stream_is_no_traceback() -> None:
    stream = io.StringIO()
    configure(stream=stream)
    stream.close()

    get_logger("lore.test").info("ours")
    configure(stream=stream)


def test_a_command_names_an_exception_by_its_kind_and_a_worker_says_where_it_was(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def said(*, has_tracebacks: bool) -> str:
        configure(format="json", level="error", has_tracebacks=has_tracebacks)
        try:
            raise IndexError("planted")
        except IndexError:
            get_logger("lore.test").exception("failed")
        return capsys.readouterr().err

    assert '"exception": "IndexError"' in said(has_tracebacks=False)
    assert "Traceback" in said(has_tracebacks=True)
