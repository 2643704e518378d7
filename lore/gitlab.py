"""The only speaker of GitLab's REST API (v4): requests in, whole validated bodies or typed errors out.

Source: https://docs.gitlab.com/api/rest/
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final, Protocol
from urllib.parse import parse_qs, quote, unquote, urlsplit

import msgspec

from lore import http
from lore.core import payloads
from lore.core.errors import GitLabError, PassingError, RefusedError, SettingError
from lore.core.plan import PER_PAGE, Endpoint
from lore.http import httpx

API: Final = "/api/v4"
MAX_PAGES: Final = 10_000
MAX_WALKS: Final = 3
# An error's body is read for a hint only.
ERROR_BODY_BYTES: Final = 4_096
FOLLOWED: Final = frozenset({301, 302, 307, 308})

_LONGEST_WAIT_S: Final = 1e9
# A 429 that says nothing: long enough for whoever met it to tell all other processes.
_UNSAID_WAIT_S: Final = 0.25


class Revealable(Protocol):
    """A secret that shows itself only when asked."""

    def reveal(self) -> str:
        """Return the secret itself."""
        ...


@dataclass(frozen=True)
class Answer:
    """One answer of GitLab.

    Attributes:
        status: 200, or 304 where an `etag` was sent along.
        next_page: None after the last page.
        has_paging: Whether GitLab said anything of pages; what stands between may leave that out of a 304.
        date_ms: GitLab's clock, in milliseconds UTC.
        ratelimit_remaining: Requests left until `ratelimit_reset` (Unix seconds); None where GitLab does not say.
        path: Where the answer was found, below the API's root; another one than asked for once a project was renamed.
        requests: 1, or 2 where a redirect was followed.
        total: How many rows the whole list has; None where GitLab does not say (past 10,000).
    """

    status: int
    body: bytes
    next_page: int | None
    has_paging: bool
    etag: str | None
    date_ms: int | None
    ratelimit_remaining: int | None
    ratelimit_reset: int | None
    path: str
    path_moved: bool
    requests: int
    elapsed_ms: int
    total: int | None = None


@dataclass(frozen=True)
class Limits:
    """How many requests are left, and for how many seconds from when GitLab said so."""

    remaining: int
    reset_s: float


@dataclass(frozen=True)
class ListRead:
    """What the reading of one list took.

    Attributes:
        pages: How many pages the list has.
        requests: All that were sent, also in walks that were given up.
        size_bytes: Of all bodies.
        not_modified: Answers that said that a page is still the same.
        walks: 1, unless the list changed while it was read.
        path: Where the list was found; see `Answer.path`.
    """

    pages: int
    requests: int
    size_bytes: int
    not_modified: int
    walks: int
    path: str


def project_segment(path_or_id: str | int) -> str:
    """Return how a project is named inside a path: its numeric id, or its full path, URL-encoded."""
    return quote(str(path_or_id), safe="")


def check_project(project: payloads.Project, *, gitlab_project_id: int | None) -> None:
    """Refuse a project that is not the one asked for; None where the id was not known.

    Raises:
        RefusedError: WRONG_ENTITY.
    """
    if gitlab_project_id is not None and project.id != gitlab_project_id:
        raise RefusedError("WRONG_ENTITY", f"asked for project {gitlab_project_id}, got project {project.id}")


def check_entity(value: payloads.Issue | payloads.MergeRequest, *, iid: int, gitlab_project_id: int | None) -> None:
    """Refuse an issue or merge request that is not the one asked for; None where the project's id was not known.

    Raises:
        RefusedError: WRONG_ENTITY.
    """
    if value.iid != iid:
        raise RefusedError("WRONG_ENTITY", f"asked for iid {iid}, got iid {value.iid}")
    if gitlab_project_id is not None and value.project_id != gitlab_project_id:
        raise RefusedError(
            "WRONG_ENTITY", f"asked for iid {iid} of project {gitlab_project_id}, got one of project {value.project_id}"
        )


class GitLab:
    """One GitLab server; many threads may share it.

    Args:
        client: See `lore.http.build_client`.
        base_url: Its address, with a relative root if it has one (`https://host/gitlab`).
        token: Sent in `PRIVATE-TOKEN`, to this address only.
        max_body_bytes: The largest body that is read.
        request_timeout_s: The longest that one request may take, with its body.

    Raises:
        SettingError: BAD_SETTING, the address or the token cannot be used.
    """

    def __init__(
        self,
        client: httpx.Client,
        base_url: str,
        token: Revealable,
        *,
        max_body_bytes: int = 64 * 1024 * 1024,
        request_timeout_s: float = 60.0,
    ) -> None:
        self._client = client
        self._root = _api_root(base_url)
        self._auth = _TokenAuth(token, self._root)
        self._max_body_bytes = max_body_bytes
        self._request_timeout_s = request_timeout_s
        self._paused_until = 0.0
        self._limits: Limits | None = None

    def get(
        self,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        etag: str | None = None,
        before_request: Callable[[], None] | None = None,
    ) -> Answer:
        """Ask for a path below the API's root and return GitLab's answer, its body not looked into.

        A renamed project's redirect is followed once, on the same origin, below the same root.

        Args:
            path: `/projects/…`, URL-encoded.
            params: The query; encoded here.
            etag: Of an earlier answer; the answer is 304 and empty if nothing changed.
            before_request: Called before every request, the redirected one included; it may raise.

        Raises:
            RefusedError: What cannot pass, by status and content type.
            PassingError: What can pass: 408, 429, 5xx, no answer, a body that broke off.
            SettingError: TLS_UNTRUSTED, or a proxy that cannot be used.
        """
        with self._auth.kept_out_of_errors():
            return self._get(path, params, etag, before_request)

    def _get(
        self,
        path: str,
        params: Mapping[str, str | int] | None,
        etag: str | None,
        before_request: Callable[[], None] | None,
    ) -> Answer:
        url = self._url(path, params)
        requests = 0
        elapsed_s = 0.0
        while True:
            if before_request is not None:
                before_request()
            self._keep_still(path)
            requests += 1
            started = time.monotonic()
            response, body = self._exchange(url, etag)
            self._note_limits(response)
            elapsed_s += time.monotonic() - started
            if response.status_code not in FOLLOWED:
                break
            if requests > 1:
                raise RefusedError("GITLAB_REDIRECT", f"GitLab redirects {path} more than once")
            url = self._redirected(response, url, params)
        _raise_for(response, body, path, self._auth)
        if response.status_code == 304:
            if etag is None:
                raise _bad_payload(path, "it says 304 to a request without a condition")
        elif not _is_json(response):
            raise _bad_payload(path, f"it is no JSON but {_shown(_content_type(response)) or 'of no content type'}")
        elif not body.strip():
            raise _bad_payload(path, "it is empty")
        date_s = _http_date(response.headers.get("date"))
        return Answer(
            status=response.status_code,
            body=body,
            next_page=_next_page(response, path),
            has_paging="x-next-page" in response.headers or "link" in response.headers,
            etag=response.headers.get("etag"),
            date_ms=None if date_s is None else int(date_s * 1_000),
            ratelimit_remaining=_whole_number(response.headers.get("ratelimit-remaining")),
            ratelimit_reset=_whole_number(response.headers.get("ratelimit-reset")),
            path=self._path_below_root(url) if requests > 1 else path,
            path_moved=requests > 1,
            requests=requests,
            elapsed_ms=int(elapsed_s * 1_000),
            total=_whole_number(response.headers.get("x-total")),
        )

    def take_limits(self) -> Limits | None:
        """Return what GitLab said since the last call of how many requests are left; None where it said nothing."""
        limits, self._limits = self._limits, None
        return limits

    def _keep_still(self, path: str) -> None:
        """Ask nothing while a 429 still stands: the other threads of this process have heard of it here first."""
        left_s = self._paused_until - time.monotonic()
        if left_s > 0:
            message = f"GitLab asks to wait: {path} was not asked for"
            raise PassingError("GITLAB_RATE_LIMITED", message, retry_after_s=left_s)

    def _note_limits(self, response: httpx.Response) -> None:
        if response.status_code == 429:
            wait_s = _retry_after_s(response)
            wait_s = _reset_s(response) if wait_s is None else wait_s
            self._paused_until = time.monotonic() + (_UNSAID_WAIT_S if wait_s is None else wait_s)
            return
        remaining = _whole_number(response.headers.get("ratelimit-remaining"))
        reset_s = _reset_s(response)
        if remaining is not None and reset_s is not None:
            self._limits = Limits(remaining, reset_s)

    def read_object(self, path: str, *, before_request: Callable[[], None] | None = None) -> Answer:
        """Ask for one object; the caller decodes it (`lore.core.payloads`) and checks that it is the right one.

        Raises:
            GitLabError: See `get`.
        """
        return self.get(path, before_request=before_request)

    def read_list(
        self,
        path: str,
        endpoint: Endpoint,
        *,
        before_request: Callable[[], None],
        keep_page: Callable[[int, bytes], None],
        restart: Callable[[], None],
    ) -> ListRead:
        """Read a list to its last page, and again from the first where it changed meanwhile.

        A list of more than one page is believed only if nothing shifted: after the last page the earlier ones are
        asked again, and must hold the same items. Else a row deleted between two pages would hide a living one.

        Args:
            path: `/projects/…`, URL-encoded, without a query.
            endpoint: Which list it is; says how its items are validated.
            before_request: Called before every request; it may raise to stop.
            keep_page: Gets each page's number and body once it is validated, and again where a newer body of the same
                items was found.
            restart: Called before the list is walked again: what was kept is void.

        Raises:
            PassingError: LIST_UNSTABLE, it changed during three walks; or see `get`.
            RefusedError: GITLAB_BAD_PAYLOAD; or see `get`.
        """
        with self._auth.kept_out_of_errors():
            return self._read_list(_ListReading(self, path, endpoint, before_request, keep_page), restart)

    def _read_list(self, reading: _ListReading, restart: Callable[[], None]) -> ListRead:
        for walk in range(1, MAX_WALKS + 1):
            if walk > 1:
                restart()
            pages = reading.walk()
            if reading.is_unchanged(pages):
                return ListRead(
                    pages=len(pages),
                    requests=reading.requests,
                    size_bytes=reading.size_bytes,
                    not_modified=reading.not_modified,
                    walks=walk,
                    path=reading.path,
                )
        raise PassingError("LIST_UNSTABLE", f"{reading.path} changed each of the {MAX_WALKS} times it was read")

    def version(self) -> payloads.ServerVersion:
        """Return the server's version; needs a token."""
        return payloads.decode_version(self.get("/version").body)

    def token_info(self) -> payloads.TokenInfo | None:
        """Return the token's scopes and expiry; None where GitLab cannot say (an OAuth token, a server before 15.5)."""
        try:
            return payloads.decode_token(self.get("/personal_access_tokens/self").body)
        except RefusedError as error:
            if error.code in ("GITLAB_BAD_REQUEST", "GITLAB_NOT_FOUND"):
                return None
            raise

    def _exchange(self, url: httpx.URL, etag: str | None) -> tuple[httpx.Response, bytes]:
        headers = {"Accept": "application/json"}
        if etag is not None:
            headers["If-None-Match"] = etag
        request = self._client.build_request("GET", url, headers=headers)
        with http.exchange(self._client, request, total_s=self._request_timeout_s, auth=self._auth) as response:
            if response.status_code in (200, 304):
                return response, http.read_bounded(response, self._max_body_bytes)
            try:
                return response, http.read_start(response, ERROR_BODY_BYTES)
            except (GitLabError, httpx.HTTPError):
                # The status has said what matters.
                return response, b""

    def _url(self, path: str, params: Mapping[str, str | int] | None) -> httpx.URL:
        url = httpx.URL(f"{self._root}{path}")
        if params:
            url = url.copy_merge_params(dict(params))
        return url

    def _path_below_root(self, url: httpx.URL) -> str:
        return _raw_path(url)[len(_raw_path(self._root)) :]

    def _redirected(
        self, response: httpx.Response, url: httpx.URL, params: Mapping[str, str | int] | None
    ) -> httpx.URL:
        """Return where a redirect leads; our own parameters go with us, whatever it says."""
        location = response.headers.get("location", "")
        try:
            target = url.join(location)
        except httpx.InvalidURL as error:
            raise RefusedError("GITLAB_REDIRECT", f"GitLab redirects {http.place(url)} to no address") from error
        if _origin(target) != _origin(self._root) or not _raw_path(target).startswith(f"{_raw_path(self._root)}/"):
            message = f"GitLab redirects {http.place(url)} to {_shown(http.place(target))}, which is not its own API"
            raise RefusedError("GITLAB_REDIRECT", f"{message}: is LORE_GITLAB_URL right?")
        return self._url(self._path_below_root(target), params)


@dataclass(frozen=True)
class _Page:
    """A page of a list as it was when walked by."""

    number: int
    etag: str | None
    next_page: int | None
    ids: tuple[str, ...]


class _ListReading:
    """The walks through one list, and what they took."""

    def __init__(
        self,
        gitlab: GitLab,
        path: str,
        endpoint: Endpoint,
        before_request: Callable[[], None],
        keep_page: Callable[[int, bytes], None],
    ) -> None:
        self.path = path
        self.requests = 0
        self.size_bytes = 0
        self.not_modified = 0
        self._gitlab = gitlab
        self._endpoint = endpoint
        self._before_request = before_request
        self._keep_page = keep_page

    def walk(self) -> list[_Page]:
        """Read from the first page to the last, which says that no other follows; an empty page says nothing."""
        pages: list[_Page] = []
        number: int | None = 1
        while number is not None:
            if len(pages) == MAX_PAGES:
                raise _bad_payload(self.path, f"the list has more than {MAX_PAGES} pages")
            answer = self._ask(number, None)
            ids = self._validated_ids(answer)
            if number == 1 and self._endpoint.is_paged and ids and not answer.has_paging:
                # GitLab always says, and a page that is not full need not be the last: what stands between has not
                # passed it on, and to end here would delete the rest of what the mirror holds.
                raise _bad_payload(self.path, "it does not say whether another page follows")
            if answer.next_page is not None and answer.next_page <= number:
                raise _bad_payload(self.path, f"page {number} is followed by page {answer.next_page}")
            self._keep_page(number, answer.body)
            pages.append(_Page(number, answer.etag, answer.next_page, ids))
            number = answer.next_page
        return pages

    def is_unchanged(self, pages: list[_Page]) -> bool:
        """Ask again for all pages but the last, and tell whether each still holds the same items."""
        return all(self._is_same(page) for page in pages[:-1])

    def _is_same(self, page: _Page) -> bool:
        answer = self._ask(page.number, page.etag)
        if answer.status == 304:
            self.not_modified += 1
            return answer.next_page == page.next_page or not answer.has_paging
        if self._validated_ids(answer) != page.ids or answer.next_page != page.next_page:
            return False
        self._keep_page(page.number, answer.body)
        return True

    def _ask(self, number: int, etag: str | None) -> Answer:
        params: dict[str, str | int] = {"per_page": PER_PAGE} if self._endpoint.is_paged else {}
        if self._endpoint.is_paged or number > 1:
            params["page"] = number
        answer = self._gitlab.get(self.path, params=params, etag=etag, before_request=self._before_request)
        self.path = answer.path
        self.requests += answer.requests
        self.size_bytes += len(answer.body)
        return answer

    def _validated_ids(self, answer: Answer) -> tuple[str, ...]:
        job_type = self._endpoint.job_type
        return tuple(payloads.identity(job_type, item) for item in payloads.decode_list(job_type, answer.body))


class _TokenAuth(httpx.Auth):
    """Adds the token to requests for the API's own origin; the token is in no dict that a traceback could show."""

    def __init__(self, token: Revealable, root: httpx.URL) -> None:
        if not re.fullmatch(r"[!-~]+", token.reveal()):
            raise SettingError("BAD_SETTING", "LORE_GITLAB_TOKEN is empty or has characters that no token has")
        self._token = token
        self._origin = _origin(root)

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if _origin(request.url) == self._origin:
            request.headers["PRIVATE-TOKEN"] = self._token.reveal()
        yield request

    def is_in(self, text: str) -> bool:
        """Tell whether a text shows the token."""
        return self._token.reveal() in text

    @contextmanager
    def kept_out_of_errors(self) -> Iterator[None]:
        """Take the token out of an error that quotes GitLab: a redirect or a content type can say it to us.

        In any case of its letters, as some of what is quoted was folded before.
        """
        try:
            yield
        except GitLabError as error:
            token = self._token.reveal()
            spellings = "|".join(re.escape(text) for text in (token, quote(token, safe="")))
            error.message = re.sub(spellings, "***", error.message, flags=re.IGNORECASE)
            error.args = (error.message,)
            raise


def _api_root(base_url: str) -> httpx.URL:
    try:
        urlsplit(base_url)  # refuses a bracket that is not closed, from which httpx makes another host
        url = httpx.URL(base_url.rstrip("/"))
    except (ValueError, httpx.InvalidURL):
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query or url.fragment:
        raise SettingError("BAD_SETTING", "LORE_GITLAB_URL is no address like https://gitlab.com or https://host/root")
    return httpx.URL(f"{url}".rstrip("/") + API)


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)


def _raw_path(url: httpx.URL) -> str:
    return url.raw_path.partition(b"?")[0].decode("ascii")


def _raise_for(response: httpx.Response, body: bytes, path: str, auth: _TokenAuth) -> None:
    """Raise what a status means, if it is no success."""
    status = response.status_code
    if status in (200, 304):
        return
    detail = _detail(response, body, auth)
    at = f"{path}{f' ({detail})' if detail else ''}"
    if status == 429:
        wait = _retry_after_s(response)
        raise PassingError(
            "GITLAB_RATE_LIMITED",
            f"GitLab asks to wait: {at}",
            retry_after_s=_reset_s(response) if wait is None else wait,
            pauses_host=True,
        )
    if status == 408 or status >= 500:
        raise PassingError(
            "GITLAB_UNAVAILABLE", f"GitLab answers {status}: {at}", retry_after_s=_retry_after_s(response)
        )
    if status < 300:
        raise _bad_payload(path, f"it has status {status}")
    if status < 400:
        raise RefusedError("GITLAB_REDIRECT", f"GitLab answers {status}: {at}")
    if status == 401:
        # It says nothing of the path: whichever request is answered first would be named.
        raise RefusedError("GITLAB_UNAUTHORIZED", f"GitLab does not accept the token{f' ({detail})' if detail else ''}")
    if status == 403:
        raise RefusedError("GITLAB_FORBIDDEN", f"the token may not read {at}")
    if status == 404:
        raise _not_found(response, body, path)
    raise RefusedError("GITLAB_BAD_REQUEST", f"GitLab answers {status}: {at}")


def _not_found(response: httpx.Response, body: bytes, path: str) -> RefusedError:
    if not _is_json(response):
        hint = "; the answer is not of GitLab's API: is LORE_GITLAB_URL right?"
    else:
        hint = " (or this token may not see it)"
    project = re.match(r"/projects/([^/]+)", path)
    is_project = project is not None and project.end() == len(path)
    if is_project or "404 Project Not Found" in _messages(response, body):
        name = unquote(project[1]) if project is not None else path
        return RefusedError("PROJECT_NOT_FOUND", f"GitLab has no project {name}{hint}", hint=hint)
    return RefusedError("GITLAB_NOT_FOUND", f"GitLab has no {path}{hint}", hint=hint)


def _bad_payload(path: str, reason: str) -> RefusedError:
    return RefusedError("GITLAB_BAD_PAYLOAD", f"GitLab's answer cannot be used: {path}: {reason}")


def _detail(response: httpx.Response, body: bytes, auth: _TokenAuth) -> str:
    """Return what GitLab says about an error, short and printable; empty where it says nothing, or our token."""
    text = ": ".join(_messages(response, body))
    return "" if auth.is_in(text) else _shown(text)


def _messages(response: httpx.Response, body: bytes) -> list[str]:
    """Return the texts of an error's `message`, `error` and `error_description`, wherever they are nested."""
    if not _is_json(response):
        return []
    try:
        answer: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    found: list[str] = []
    pending = [answer]
    while pending and len(found) < 3:
        value = pending.pop(0)
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, list):
            pending = value[:3] + pending
        elif isinstance(value, dict):
            pending = [value[key] for key in ("message", "error", "error_description") if key in value] + pending
    return found


def _shown(text: str) -> str:
    """Return foreign text as an error may show it: one short line of printable characters."""
    return "".join(char if char.isprintable() else " " for char in text[:120]).strip()


def _content_type(response: httpx.Response) -> str:
    value: str = response.headers.get("content-type", "")
    return value.partition(";")[0].strip().lower()


def _is_json(response: httpx.Response) -> bool:
    kind = _content_type(response)
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _next_page(response: httpx.Response, path: str) -> int | None:
    """Return the number of the next page; only the number is taken, as `Link` names a host of GitLab's choice."""
    header = response.headers.get("x-next-page")
    if header is None:
        return _linked_page(response, path)
    if not header.strip():
        return None
    number = _whole_number(header)
    if number is None:
        raise _bad_payload(path, "its next page is no number")
    return number


def _linked_page(response: httpx.Response, path: str) -> int | None:
    url = response.links.get("next", {}).get("url")
    if url is None:
        return None
    try:
        number = _whole_number(parse_qs(urlsplit(url).query).get("page", [""])[0])
    except ValueError:
        number = None
    if number is None:
        # Ending here would hide the rest of the list.
        raise _bad_payload(path, "its next page has no number")
    return number


def _retry_after_s(response: httpx.Response) -> float | None:
    """Return the seconds of `Retry-After` in either form; None where it is absent or makes no sense."""
    value = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        return min(float(value), _LONGEST_WAIT_S)
    date_s = _http_date(value)
    return None if date_s is None else _from_now(date_s, response)


def _reset_s(response: httpx.Response) -> float | None:
    reset = _whole_number(response.headers.get("ratelimit-reset"))
    return None if reset is None else _from_now(reset, response)


def _from_now(moment_s: float, response: httpx.Response) -> float:
    """Return how far a moment is ahead, by the server's own clock where it tells it."""
    now_s = _http_date(response.headers.get("date"))
    return min(max(moment_s - (time.time() if now_s is None else now_s), 0.0), _LONGEST_WAIT_S)


def _http_date(value: str | None) -> float | None:
    """Return Unix seconds of an HTTP date; None where it is none."""
    if not value:
        return None
    try:
        moment = parsedate_to_datetime(value)
        return moment.timestamp() if moment.tzinfo is not None else None
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _whole_number(value: str | None) -> int | None:
    found = re.fullmatch(r"\s*([0-9]{1,15})\s*", value or "")
    return None if found is None else int(found[1])
