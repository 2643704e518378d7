"""Faults that change what is answered: another status, another body, or a body that is not quite JSON.

Each is a pure function of the right answer and the fault's options. Faults that change how the bytes arrive are in
`lore.demo.delivery`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from lore.demo.answers import Answer, json_answer, json_bytes, raw_answer
from lore.demo.clock import SECOND, http_date
from lore.demo.model import Json
from lore.demo.replies import Header


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a fault happens: the server's time in microseconds, and its own URL."""

    now: int
    url: str


Distortion = Callable[[Answer, Json, Scene], Answer]


def not_found(answer: Answer, options: Json, scene: Scene) -> Answer:
    """404. Option `message`: as GitLab words it for a record (default), a project, an issue."""
    return json_answer(404, {"message": options.get("message", "404 Not found")})


def forbidden(answer: Answer, options: Json, scene: Scene) -> Answer:
    """403. Option `form`: `plain` (default) or `scope`."""
    if options.get("form") == "scope":
        return json_answer(
            403,
            {
                "error": "insufficient_scope",
                "error_description": "The request requires higher privileges than provided by the access token.",
                "scope": "api read_api",
            },
        )
    return json_answer(403, {"message": options.get("message", "403 Forbidden")})


def unauthorized(answer: Answer, options: Json, scene: Scene) -> Answer:
    """401. Option `form`: `plain` (default), `expired` or `revoked`."""
    why = {
        "expired": "Token is expired. You can either do re-authorization or token refresh.",
        "revoked": "Token was revoked. You have to re-authorize from the user.",
    }.get(options.get("form", "plain"))
    if why is None:
        return json_answer(401, {"message": "401 Unauthorized"})
    return json_answer(401, {"error": "invalid_token", "error_description": why})


def rate_limited(answer: Answer, options: Json, scene: Scene) -> Answer:
    """429.

    Options: `form`: `rack` (default: text, with headers), `application` (JSON, without any) or `haproxy` (HTML);
    `retry_after`: seconds, any text, or null for no header (default 1); `as_date`: send it as an HTTP date.
    """
    form = options.get("form", "rack")
    if form == "application":
        message = "This endpoint has been requested too many times. Try again later."
        return json_answer(429, {"message": {"error": message}})
    if form == "haproxy":
        body = b"<html><body><h1>429 Too Many Requests</h1>\nYou have sent too many requests.\n</body></html>\n"
        return raw_answer(429, body, "text/html")
    retry_after = options.get("retry_after", 1)
    reset = scene.now // SECOND + (int(retry_after) if isinstance(retry_after, int | float) else 60)
    headers: list[Header] = [
        ("RateLimit-Name", "throttle_authenticated_api"),
        ("RateLimit-Limit", "60"),
        ("RateLimit-Observed", "67"),
        ("RateLimit-Remaining", "0"),
        ("RateLimit-Reset", str(reset)),
        ("RateLimit-ResetTime", http_date(min(reset, 4_000_000_000) * SECOND)),
    ]
    if retry_after is not None:
        text = http_date(scene.now + int(retry_after * SECOND)) if options.get("as_date") else str(retry_after)
        headers.append(("Retry-After", text))
    return raw_answer(429, b"Retry later\n", "text/plain", tuple(headers))


def server_error(answer: Answer, options: Json, scene: Scene) -> Answer:
    """5xx.

    Options: `status` (default 500); `html`: as a proxy words it (default for 502, 504, 520, 522); `retry_after`.
    """
    status = int(options.get("status", 500))
    headers: tuple[Header, ...] = ()
    if options.get("retry_after") is not None:
        headers = (("Retry-After", str(options["retry_after"])),)
    titles = {500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Time-out"}
    title = titles.get(status, "Web server is returning an unknown error")
    if options.get("html", status in (502, 504, 520, 522)):
        body = f"<html>\r\n<head><title>{status} {title}</title></head>\r\n<body>nginx</body>\r\n</html>\r\n"
        return raw_answer(status, body.encode(), "text/html", headers)
    return json_answer(status, {"message": f"{status} {title}"}, headers)


def html(answer: Answer, options: Json, scene: Scene) -> Answer:
    """A page where JSON should be.

    Option `form`: `sign_in` (200, default), `captive` (200, and called JSON), `maintenance` (503), `redirect` (302 to
    the sign-in page; `host` sends it elsewhere).
    """
    form = options.get("form", "sign_in")
    if form == "redirect":
        target = f"{options.get('host', scene.url)}/users/sign_in"
        body = f'<html><body>You are being <a href="{target}">redirected</a>.</body></html>'
        return raw_answer(302, body.encode(), "text/html; charset=utf-8", (("Location", target),))
    title = {"maintenance": "Deploy in progress", "captive": "Network login"}.get(form, "Sign in · GitLab")
    page = f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><body><form></form></body></html>\n"
    content_type = "application/json" if form == "captive" else "text/html; charset=utf-8"
    return raw_answer(503 if form == "maintenance" else 200, page.encode(), content_type)


def malformed(answer: Answer, options: Json, scene: Scene) -> Answer:
    """A body that is not the JSON it should be. Option `form`: one of `MALFORMED` (default `cut`)."""
    if answer.status != 200:
        return answer
    return replace(answer, body=MALFORMED[options.get("form", "cut")](answer.body))


MALFORMED: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda body: body[: max(len(body) * 2 // 3, 1)],
    "trailing_comma": lambda body: body[:-1] + b"," + body[-1:],
    "nan": lambda body: b'{"id":NaN,"iid":Infinity}',
    "duplicate_keys": lambda body: b'{"id":1,"id":2,"iid":1,"iid":2}',
    "bom": lambda body: b"\xef\xbb\xbf" + body,
    "two_documents": lambda body: body + body,
    "null": lambda body: b"null",
    "wrong_top": lambda body: b"{}" if body[:1] == b"[" else b"[]",
    "item_not_object": lambda body: b'[1,"two",null]',
    "invalid_utf8": lambda body: body[:-1] + b"\xff" + body[-1:],
    "empty": lambda body: b"",
    "deep": lambda body: b"[" * 1_000_000 + b"]" * 1_000_000,
}


def wrong_type(answer: Answer, options: Json, scene: Scene) -> Answer:
    """The right bytes under a wrong name.

    Option `form`: `text` (default), `empty`, `no_content` (204), `gzip` (rightly packed), `bad_gzip` (said to be packed
    and not), `corrupt_gzip`, `gzip_bomb` (50 MB of blanks), `charset`.
    """
    form = options.get("form", "text")
    if answer.status != 200:
        return answer
    if form == "text":
        return answer.with_headers({"Content-Type": "text/plain"})
    if form == "empty":
        return replace(answer, body=b"")
    if form == "no_content":
        return replace(answer, status=204, body=b"").with_headers({"Content-Type": None})
    if form == "charset":
        return answer.with_headers({"Content-Type": "application/json; charset=utf-16"})
    packed = gzip.compress(answer.body, mtime=0)
    bodies = {
        "gzip": packed,
        "corrupt_gzip": packed[:12] + bytes(byte ^ 0x55 for byte in packed[12:]),
        "bad_gzip": answer.body,
        "gzip_bomb": _gzip_bomb() if form == "gzip_bomb" else b"",
    }
    return replace(answer, body=bodies[form]).with_headers({"Content-Encoding": "gzip"})


@cache
def _gzip_bomb() -> bytes:
    return gzip.compress(b" " * 50_000_000, mtime=0)


def schema(answer: Answer, options: Json, scene: Scene) -> Answer:
    """One field of the body, or of each row of a list, is odd.

    Options: `field` (default `title`); `form`: one of `ODD` (default `null`), `drop`, `extra` (unknown fields beside
    it) or `value` (that `value`).
    """
    if answer.status != 200:
        return answer
    body = json.loads(answer.body)
    for row in body if isinstance(body, list) else [body]:
        _make_odd(row, options.get("field", "title"), options)
    text = json_bytes(body).replace(b'"<odd>"', ODD.get(options.get("form", "null"), b"null"))
    return replace(answer, body=text)


# Written as bytes because Python's encoder would refuse or repair them.
ODD: dict[str, bytes] = {
    "null": b"null",
    "retype": b'{"unexpected":["object"]}',
    "huge_int": b"9" * 400,
    "float_id": b"12.5",
    "nul": b'"a\\u0000b"',
    "surrogate": b'"\\ud800"',
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "bool": b"true",
    "text": b'"not what it was"',
}


def _make_odd(row: Any, field: str, options: Json) -> None:
    form = options.get("form", "null")
    if not isinstance(row, dict):
        return
    if form == "drop":
        row.pop(field, None)
    elif form == "extra":
        row |= {"unheard_of": {"nested": [1, 2.5, None]}, "another": "value"}
    elif form == "value":
        row[field] = options["value"]
    else:
        row[field] = "<odd>"


def page_drift(answer: Answer, options: Json, scene: Scene) -> Answer:
    """A page that does not fit its neighbours.

    Option `form`: `loop` (next page is this one, default), `endless` (there is always a next one), `wrong_total`,
    `no_link`, `no_next`, `foreign_link` (`host`), `duplicate` (its first row twice), `drop` (its first row is missing).
    """
    form = options.get("form", "loop")
    changes = _paging_headers(answer, form, options, scene)
    if changes is not None or answer.status != 200:
        return answer.with_headers(changes or {})
    rows = json.loads(answer.body)
    changed = replace(answer, body=json_bytes(rows[:1] + rows if form == "duplicate" else rows[1:]))
    return changed.with_headers({"ETag": None})


def _paging_headers(answer: Answer, form: str, options: Json, scene: Scene) -> dict[str, str | None] | None:
    """Return the headers that are to change; None where it is the rows."""
    page, link = int(answer.header("X-Page") or 1), answer.header("Link") or ""
    looped = link.replace(f"&page={page + 1}&", f"&page={page}&")
    changes: dict[str, dict[str, str | None]] = {
        "loop": {"X-Next-Page": str(page), "Link": looped},
        "endless": {"X-Next-Page": str(page + 1), "Link": None},
        "wrong_total": {"X-Total": "1", "X-Total-Pages": "1"},
        "no_link": {"Link": None},
        "no_next": {"Link": None, "X-Next-Page": None},
        "foreign_link": {"Link": link.replace(scene.url, options.get("host", "http://192.0.2.1"))},
    }
    return changes.get(form)


def body(answer: Answer, options: Json, scene: Scene) -> Answer:
    """Any JSON at all: options `status` (default 200) and `json`."""
    return json_answer(int(options.get("status", 200)), options.get("json"))


def redirect(answer: Answer, options: Json, scene: Scene) -> Answer:
    """Another place. Options `location` (any text) and `status` (default 301)."""
    location = str(options["location"])
    return json_answer(
        int(options.get("status", 301)),
        {"message": f"This resource has been moved permanently to {location}"},
        (("Location", location),),
    )


def headers(answer: Answer, options: Json, scene: Scene) -> Answer:
    """Other headers. Option `set`: values by name, null for none."""
    return answer.with_headers(options.get("set", {}))


DISTORTIONS: dict[str, Distortion] = {
    "not_found": not_found,
    "forbidden": forbidden,
    "unauthorized": unauthorized,
    "rate_limited": rate_limited,
    "server_error": server_error,
    "html": html,
    "malformed": malformed,
    "wrong_type": wrong_type,
    "schema": schema,
    "page_drift": page_drift,
    "body": body,
    "redirect": redirect,
    "headers": headers,
}
