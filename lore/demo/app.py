"""The ASGI application: log, latency, faults, answer; and the control routes beside it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl, unquote

from lore.demo.answers import Answer, Answers, Question
from lore.demo.clock import http_date
from lore.demo.delivery import DELIVERIES, Wire
from lore.demo.dice import Dice
from lore.demo.distortions import DISTORTIONS, Scene
from lore.demo.faults import Faults
from lore.demo.model import Json
from lore.demo.record import Entry, Record
from lore.demo.routes import find_route
from lore.demo.script import run_steps
from lore.demo.state import State

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

ACTIONS = ("latency", "mutate", *DISTORTIONS, *DELIVERIES)
log = logging.getLogger(__name__)
CONTROL_PREFIX = "/__fake__/"
NO_ROUTE = "unknown"
_TOKEN = re.compile(r"private_token=[^&]*")


class DemoApp:
    """The demo GitLab.

    Attributes:
        latency_ms: How long every answer takes at least; requests wait side by side.
    """

    def __init__(self, state: State, *, seed: int, latency_ms: float = 0.0) -> None:
        self.state = state
        self.latency_ms = latency_ms
        self.faults = Faults(seed, ACTIONS)
        self.record = Record()
        self.control: Asgi | None = None
        self._answers = Answers(state)
        self._dice = Dice(seed)
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["path"].startswith(CONTROL_PREFIX) and self.control is not None:
            await self.control(scope, receive, send)
            return
        question = _question(scope)
        entry = self._entry(question, scope)
        wire = Wire(receive, send, scope["state"]["transport"])
        self.record.begin(entry)
        status, size = 0, 0
        try:
            status, size = await self._respond(question, entry, wire)
        except Exception:
            log.exception("a bug of the demo server at %s", entry.path)
            raise
        finally:
            self.record.end(entry, status, size)

    async def _respond(self, question: Question, entry: Entry, wire: Wire) -> tuple[int, int]:
        actions = self.faults.hitting(entry) if self.faults else []
        delay_ms = self.latency_ms + sum(self._delay(action, entry) for action in actions)
        if delay_ms > 0:
            await asyncio.sleep(delay_ms / 1000)
        self._mutate(actions, at="before")
        answer = self._answers.to(question)
        for action in actions:
            distort = DISTORTIONS.get(action["type"])
            if distort is not None:
                answer = distort(answer, action, Scene(self.state.clock.now(), self.state.external_url))
        self._watch_pause(answer, actions, entry)
        answer = self._stamped(answer, entry)
        deliver = next(((DELIVERIES[a["type"]], a) for a in actions if a["type"] in DELIVERIES), None)
        if deliver is None:
            await wire.whole(answer)
        else:
            await deliver[0](wire, answer, deliver[1])
            await wire.gone()
        self._mutate(actions, at="after")
        return answer.status, len(answer.body)

    def _delay(self, action: Json, entry: Entry) -> float:
        """Return a latency fault's wait in ms: options `ms`, or `min` and `max`."""
        if action["type"] != "latency":
            return 0.0
        if "ms" in action:
            return float(action["ms"])
        low, high = float(action.get("min", 0)), float(action.get("max", 100))
        return low + (high - low) * self._dice.below(1_000_000, "latency", entry.number) / 1_000_000

    def _mutate(self, actions: list[Json], *, at: str) -> None:
        for action in actions:
            if action["type"] == "mutate" and action.get("at", "before") == at:
                run_steps(self.state, action["steps"])

    def _watch_pause(self, answer: Answer, actions: list[Json], entry: Entry) -> None:
        if answer.status != 429:
            return
        asked = next((a.get("retry_after", 1) for a in actions if a["type"] == "rate_limited"), 1)
        if isinstance(asked, int | float) and asked > 0:
            self.record.pause(entry.token, float(asked))

    def _entry(self, question: Question, scope: Scope) -> Entry:
        found = find_route(question.path)
        page = "1"
        if "page=" in question.query:
            page = dict(parse_qsl(question.query)).get("page", "1")
        iid = found[1].get("iid", "") if found else ""
        return Entry(
            number=next(self._numbers),
            method=question.method,
            path=question.path,
            query=_TOKEN.sub("private_token=[hidden]", question.query),
            route=found[0].template if found else NO_ROUTE,
            kind=found[0].kind if found else None,
            iid=int(iid) if iid.isdecimal() else None,
            page=int(page) if page.isdecimal() else 1,
            token=self.state.tokens.name(question.token),
            connection=scope["state"]["connection"],
            started=time.monotonic(),
        )

    def _stamped(self, answer: Answer, entry: Entry) -> Answer:
        """Return the answer with what differs each time: who asked, when, and how long it took."""
        request_id = f"{entry.number:032x}"
        own = (
            ("Date", http_date(self.state.clock.now())),
            ("X-Gitlab-Meta", f'{{"correlation_id":"{request_id}","version":"1"}}'),
            ("X-Request-Id", request_id),
            ("X-Runtime", f"{time.monotonic() - entry.started:.6f}"),
        )
        return Answer(answer.status, answer.headers + own, answer.body)


def _question(scope: Scope) -> Question:
    token: str | None = None
    etag: str | None = None
    query = scope["query_string"].decode("latin-1")
    for name, value in scope["headers"]:
        if name == b"private-token":
            token = value.decode("latin-1")
        elif name == b"authorization" and token is None and value[:7].lower() == b"bearer ":
            token = value[7:].decode("latin-1")
        elif name == b"if-none-match":
            etag = value.decode("latin-1")
    if token is None and "private_token=" in query:
        token = unquote(dict(parse_qsl(query)).get("private_token", ""))
    return Question(scope["method"], scope["raw_path"].decode("latin-1"), query, token or None, etag)
