"""From a request to the bytes of its answer: authentication, route, handler, headers, and a cache of whole answers.

An answer depends on path, query, token and the state's version only, so it is kept until the state changes: a warm
request costs a dictionary lookup.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl

from lore.demo import replies
from lore.demo.api import ApiRoute
from lore.demo.replies import ApiError, Call, Header, Reply
from lore.demo.routes import find_route
from lore.demo.state import State, can_see_project
from lore.demo.tokens import Token

CACHED_ANSWERS = 50_000
COMMON_HEADERS: tuple[Header, ...] = (
    ("Vary", "Origin"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "SAMEORIGIN"),
    ("Content-Security-Policy", "default-src 'none'"),
    ("Referrer-Policy", "strict-origin-when-cross-origin"),
    ("Strict-Transport-Security", "max-age=31536000"),
)


@dataclass(frozen=True, slots=True)
class Question:
    """What an answer depends on, besides the state.

    Attributes:
        token: The value sent, or None.
        etag: What `If-None-Match` holds.
    """

    method: str
    path: str
    query: str
    token: str | None
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back: status, headers and body, whatever the fault."""

    status: int
    headers: tuple[Header, ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the value of a header, or None; the case of its name does not matter."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def with_headers(self, changes: Mapping[str, str | None]) -> Answer:
        """Return the same answer with some headers set, or left out where the value is None."""
        lowered = {name.lower() for name in changes}
        kept = [header for header in self.headers if header[0].lower() not in lowered]
        added = [(name, value) for name, value in changes.items() if value is not None]
        return replace(self, headers=(*kept, *added))


def json_bytes(value: Any) -> bytes:
    """Return compact UTF-8, as GitLab sends it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def json_answer(status: int, value: Any, headers: tuple[Header, ...] = ()) -> Answer:
    """Return a JSON value as an answer."""
    return raw_answer(status, json_bytes(value), "application/json", headers)


def raw_answer(status: int, body: bytes, content_type: str, headers: tuple[Header, ...] = ()) -> Answer:
    """Return an answer with GitLab's standing headers; errors are not cacheable."""
    is_cacheable = status in (200, 304)
    cache = "max-age=0, private, must-revalidate" if is_cacheable else "no-cache"
    content: tuple[Header, ...] = (("Content-Type", content_type), ("Cache-Control", cache))
    return Answer(status, content + COMMON_HEADERS + headers, body)


class Answers:
    """Answers requests from the state."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._cache: dict[tuple[str, str, str | None], Answer] = {}
        self._cached_version = -1

    def to(self, question: Question) -> Answer:
        """Return the answer to a question, from the cache if nothing changed since."""
        if question.method not in ("GET", "HEAD"):
            return self._refuse_method(question)
        key = (question.path, question.query, question.token)
        with self._state.lock:
            if self._cached_version != self._state.version or len(self._cache) > CACHED_ANSWERS:
                self._cache.clear()
                self._cached_version = self._state.version
            answer = self._cache.get(key)
            if answer is None:
                answer = self._cache[key] = self._compute(question)
        if question.etag is not None and answer.status == 200 and _matches(question.etag, answer.header("ETag")):
            return replace(answer, status=304, body=b"").with_headers({"Content-Type": None})
        return answer

    def _compute(self, question: Question) -> Answer:
        try:
            reply = self._reply(question)
        except ApiError as error:
            if isinstance(error.body, str):
                return raw_answer(error.status, error.body.encode(), "text/plain", tuple(error.headers))
            return json_answer(error.status, error.body, tuple(error.headers))
        body = json_bytes(reply.body)
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        return raw_answer(200, body, "application/json", (("ETag", f'W/"{etag}"'), *reply.headers))

    def _reply(self, question: Question) -> Reply:
        found = find_route(question.path)
        if found is None:
            raise replies.no_route()
        route, params = found
        token = self._authenticate(question.token, route)
        query = parse_qsl(question.query, keep_blank_values=True)
        return route.handler(Call(self._state, question.path, query, params, token))

    def _authenticate(self, value: str | None, route: ApiRoute) -> Token | None:
        if value is None:
            if route.needs_token:
                raise replies.unauthorized()
            return None
        token = self._state.tokens.find(value)
        if token is None:
            raise replies.unauthorized()
        if token.is_revoked:
            raise replies.revoked()
        if token.is_expired:
            raise replies.expired()
        if token.user.state == "blocked":
            raise replies.blocked()
        if route.scope not in token.scopes and not token.may_read_api:
            raise replies.insufficient_scope()
        return token

    def _refuse_method(self, question: Question) -> Answer:
        """Answer a write, of which there are none: a renamed project says 405, everything else 404."""
        found = find_route(question.path)
        error = replies.no_route()
        if found is not None and "id" in found[1]:
            project = self._state.moved_project(found[1]["id"])
            if project is not None and can_see_project(None, project):
                error = replies.not_allowed("405 Method Not Allowed")
        return json_answer(error.status, error.body, tuple(error.headers))


def _matches(sent: str, etag: str | None) -> bool:
    if etag is None:
        return False
    offered = [part.strip().removeprefix("W/") for part in sent.split(",")]
    return "*" in offered or etag.removeprefix("W/") in offered
