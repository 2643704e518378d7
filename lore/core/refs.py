"""What a person names: REFs, iids, projects, git remotes and the base URL of a GitLab, as text turned into values.

Nothing here asks GitLab or git. Text that is shown again has its credentials taken out.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urlsplit

from lore.core.errors import UsageError
from lore.core.plan import ISSUE, MERGE_REQUEST, ROUTES, Entity, EntityType, entity_name

MAX_IID: Final = 2**31 - 1

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_SIGNS: Final[dict[str, EntityType]] = {"!": MERGE_REQUEST, "#": ISSUE}
_ROUTE_TYPES: Final[dict[str, EntityType]] = {
    "issues": ISSUE,
    "work_items": ISSUE,
    "merge_requests": MERGE_REQUEST,
}
# GitLab's own rule for path segments (lib/gitlab/path_regex.rb): a letter, digit, `_` or `.`, then also `-`.
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,254}", re.ASCII)
_HOST: Final = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|[0-9a-f:.]*:[0-9a-f:.]*", re.ASCII)
_SCP: Final = re.compile(r"(?:[^@/:\s]+@)?(?P<host>[^@/:\s\[\]]{2,}|\[[0-9A-Fa-f:.]+\]):(?!//)(?P<path>\S+)")
_USERINFO: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<user>[^\s/@:]*)(?P<password>:[^\s/]*)?@")
_SECRET_QUERY: Final = re.compile(r"(?i)(?<=[?&])((?:[a-z]+_)?(?:password|token|secret)=)[^&\s#]*")

_NAME_IT: Final = "; name the project with -p group/project"


@dataclass(frozen=True)
class Ref:
    """One entity as it was named; `project` is None where only its iid was (`!12`)."""

    project: str | None
    entity: Entity


@dataclass(frozen=True)
class Selection:
    """What a run is asked for: one project (full path, short name or numeric id) and its entities, each once."""

    project: str
    entities: tuple[Entity, ...]


def normalise_base_url(text: str) -> str:
    """Return a GitLab's base URL in its one spelling: lowercase host, no default port, no trailing slash.

    Raises:
        ValueError: It is none; the message says what is allowed and holds nothing of the text.
    """
    allowed = "an http(s) URL such as https://gitlab.example.com or https://example.com/gitlab"
    try:
        url = _split(text.strip())
    except ValueError:
        raise ValueError(allowed) from None
    if url.scheme not in _DEFAULT_PORTS or url.query or url.fragment:
        raise ValueError(allowed)
    if url.username is not None or url.password is not None:
        raise ValueError(f"{allowed}, without a name or password in it")
    path = re.sub(r"/{2,}", "/", url.path).rstrip("/")
    if path.endswith(("/api/v4", "/api")):
        raise ValueError(f"{allowed}, without /api/v4")
    if any(segment in (".", "..") for segment in path.split("/")):
        raise ValueError(allowed)
    return f"{url.scheme}://{_host_and_port(url)}{path}"


def parse_iid(text: str, *, entity_type: EntityType = ISSUE) -> int:
    """Return the iid that a text spells: ASCII digits, from 1 to 2^31 - 1.

    Raises:
        UsageError: BAD_IID.
    """
    if re.fullmatch(r"[0-9]{1,10}", text, re.ASCII) and 1 <= int(text) <= MAX_IID:
        return int(text)
    noun = "an issue" if entity_type == ISSUE else "a merge request"
    shown = text if len(text) <= 40 else f"{text[:40]}…"
    raise UsageError("BAD_IID", f"{shown!r} is no iid: {noun} is named by a whole number from 1 to {MAX_IID}")


def parse_ref(text: str, *, base_url: str) -> Ref:
    """Return the entity that a REF names: a web URL, `group/project!12`, `group/project#7`, `!12` or `#7`.

    Raises:
        UsageError: BAD_REF, BAD_IID, or HOST_MISMATCH for a URL that is not of `base_url`.
    """
    text = text.strip()
    if "://" in text:
        return _parse_web_url(text, base_url=base_url)
    sign = re.search("[!#]", text)
    if sign is None:
        raise _bad_ref(text)
    project, iid = text[: sign.start()], text[sign.end() :]
    if project and not _is_project(project, least_segments=1):
        raise _bad_ref(text)
    entity_type = _SIGNS[sign.group()]
    return Ref(project or None, Entity(entity_type, parse_iid(iid, entity_type=entity_type)))


def is_ref(text: str) -> bool:
    """Tell whether a text is meant as a REF, be it a wrong one: an address, or a number behind a sign."""
    return "://" in text or re.fullmatch(r"\S*[!#]-?[0-9]+", text.strip()) is not None


def parse_project(text: str, *, base_url: str) -> str:
    """Return the project that `-p` or LORE_PROJECT names: a full path, a short name, a numeric id, or from its URL.

    Raises:
        UsageError: BAD_REF, or HOST_MISMATCH for a URL that is not of `base_url`.
    """
    text = text.strip()
    if "://" in text:
        path = unquote(_path_below(text, base_url=base_url)).split("/-/")[0]
        project = path.strip("/").removesuffix(".git")
        least_segments = 2
    else:
        project, least_segments = text.strip("/").removesuffix(".git"), 1
    if not _is_project(project, least_segments=least_segments):
        raise UsageError(
            "BAD_REF", f"{_shown(text)} names no project: give group/project, its numeric id, or its web URL"
        )
    return project


def project_of_remote(remote: str, *, base_url: str) -> str | None:
    """Return the project's full path from a git remote; None where the remote is no project's (a local folder).

    An https remote must be below `base_url`; of an ssh remote only the host is compared, as its port and user are
    those of another server, and GitLab leaves its relative root out of ssh addresses.

    Raises:
        UsageError: HOST_MISMATCH.
    """
    remote = remote.strip()
    if "://" in remote:
        try:
            url = _split(remote)
        except ValueError:
            return None
        if url.scheme in _DEFAULT_PORTS:
            path = _path_below(remote, base_url=base_url, noun="the git remote origin", hint=_NAME_IT)
        elif url.scheme in ("ssh", "git+ssh", "git"):
            _check_host(url.hostname or "", base_url=base_url)
            path = url.path
        else:
            return None
    else:
        scp = _SCP.fullmatch(remote)
        if scp is None:
            return None
        _check_host(scp["host"].strip("[]").lower(), base_url=base_url)
        path = scp["path"]
    path = unquote(path).strip("/").removesuffix(".git").strip("/")
    return path if _is_project(path, least_segments=2) else None


def select(refs: Iterable[Ref], *, project: str | None, options: Sequence[str] = ()) -> Selection:
    """Return the one project and the entities that the refs name, each entity once, in the order of a run.

    Args:
        refs: At least one.
        project: The project of the refs that name none, and, when given, of all of them.
        options: The command's other options, for the commands of SEVERAL_PROJECTS.

    Raises:
        UsageError: NO_ENTITIES, NO_PROJECT or SEVERAL_PROJECTS.
    """
    by_project: dict[str, tuple[str, set[Entity]]] = {}
    if project is not None:
        by_project[project.lower()] = (project, set())
    for ref in refs:
        name = ref.project or project
        if name is None:
            raise no_project()
        by_project.setdefault(name.lower(), (name, set()))[1].add(ref.entity)
    asked = [(name, sorted(entities)) for name, entities in by_project.values() if entities]
    if not asked:
        raise UsageError(
            "NO_ENTITIES",
            "name at least one issue or merge request: a web URL, group/project!12, --mr 12 or --issue 7"
            " (quote '!12' and '#7': a shell reads ! and # itself)",
        )
    if len(by_project) > 1:
        names = ", ".join(name for name, _ in by_project.values())
        raise UsageError(
            "SEVERAL_PROJECTS",
            f"a run is of one project, these were named: {names}",
            actions=[submit_command(name, entities, options=options) for name, entities in asked],
        )
    name, entities = asked[0]
    return Selection(name, tuple(entities))


def no_project(base_url: str = "your GitLab") -> UsageError:
    """Return the error for an entity whose project nobody named."""
    return UsageError(
        "NO_PROJECT",
        "no project: name it with -p group/project, set LORE_PROJECT, or call from a git checkout"
        f" whose remote origin is on {base_url}",
    )


def ref_of(entity_type: str, iid: int, *, project: str | None = None) -> str:
    """Return the short REF of an entity, as GitLab writes it: `!12`, `#7` or `group/project!12`."""
    return f"{project or ''}{entity_name(entity_type, iid)}"


def web_url_of(gitlab_url: str, project: str, entity: Entity) -> str:
    """Return the address of an entity's page."""
    return f"{gitlab_url}/{quote(project)}/-/{ROUTES[entity.entity_type]}/{entity.iid}"


def submit_command(project: str, entities: Iterable[Entity], *, options: Sequence[str] = ()) -> str:
    """Return a `lore-submit` command for a shell, everything quoted."""
    refs = [ref_of(entity.entity_type, entity.iid, project=project) for entity in entities]
    return shlex.join(["lore-submit", *refs, *options])


def redact_url(text: str) -> str:
    """Return the text with the credentials of every URL in it replaced by `***`."""
    return _SECRET_QUERY.sub(r"\1***", _USERINFO.sub(_redact_userinfo, text))


def _redact_userinfo(match: re.Match[str]) -> str:
    # A token can stand alone before the @ of an http address; the user of other schemes is no secret.
    user = match["user"]
    if match["password"]:
        return f"{match['scheme']}://{user}:***@"
    is_secret = user and match["scheme"].lower() in _DEFAULT_PORTS
    return f"{match['scheme']}://{'***' if is_secret else user}@"


def _parse_web_url(text: str, *, base_url: str) -> Ref:
    segments = unquote(_path_below(text, base_url=base_url)).strip("/").split("/")
    start = segments.index("-") if "-" in segments else None
    project, rest = (segments[:start], segments[start + 1 :]) if start is not None else _split_old_style(segments)
    if len(rest) > 2 and rest[:2] == ["issues", "incident"]:
        rest = ["issues", *rest[2:]]
    # `groups/g/-/work_items/5` is an entity of a group: no project has it.
    if len(rest) < 2 or rest[0] not in _ROUTE_TYPES or project[0] == "groups":
        raise _bad_ref(text)
    name = "/".join(project)
    if not _is_project(name, least_segments=2):
        raise _bad_ref(text)
    entity_type = _ROUTE_TYPES[rest[0]]
    return Ref(name, Entity(entity_type, parse_iid(rest[1], entity_type=entity_type)))


def _split_old_style(segments: list[str]) -> tuple[list[str], list[str]]:
    # Before GitLab 12 there was no `/-/`, and a group or project may itself be called `issues`: a number must follow.
    for position in range(2, len(segments) - 1):
        if segments[position] in _ROUTE_TYPES and segments[position + 1].lstrip("-").isdigit():
            return segments[:position], segments[position:]
    for position in range(2, len(segments) - 1):
        if segments[position] in _ROUTE_TYPES:
            return segments[:position], segments[position:]
    return segments, []


def _path_below(text: str, *, base_url: str, noun: str = "", hint: str = "") -> str:
    """Return the path of a web URL below the base URL.

    The scheme may differ and a default port may be spelt out: nothing is ever sent to the address itself.
    """
    try:
        url = _split(text)
    except ValueError:
        raise _bad_ref(text) from None
    if url.scheme not in _DEFAULT_PORTS:
        raise _bad_ref(text)
    base = urlsplit(base_url)
    root = base.path
    is_same = _host_and_port(url) == base.netloc and (url.path == root or url.path.startswith(f"{root}/"))
    if not is_same:
        here = f"{url.scheme}://{_host_and_port(url)}"
        raise _host_mismatch(noun or "the REF", here, base_url=base_url, hint=hint)
    return url.path[len(root) :]


def _check_host(host: str, *, base_url: str) -> None:
    if host.rstrip(".") != urlsplit(base_url).hostname:
        raise _host_mismatch("the git remote origin", host, base_url=base_url, hint=_NAME_IT)


def _host_mismatch(noun: str, here: str, *, base_url: str, hint: str = "") -> UsageError:
    return UsageError(
        "HOST_MISMATCH", f"{noun} is on {here}, but LORE_GITLAB_URL is {base_url}: nothing was asked{hint}"
    )


def _split(text: str) -> SplitResult:
    # urlsplit drops tabs and line ends without a word, so they are refused before.
    if re.search(r"[\s\x00-\x1f\x7f\\]", text):
        raise ValueError("white space in a URL")
    url = urlsplit(text)
    host = (url.hostname or "").rstrip(".")
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    if not _HOST.fullmatch(host):
        raise ValueError("no host")
    _ = url.port  # raises ValueError when it is none
    return url


def _host_and_port(url: SplitResult) -> str:
    host = (url.hostname or "").rstrip(".")
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    shown = f"[{host}]" if ":" in host else host
    has_port = url.port is not None and url.port != _DEFAULT_PORTS.get(url.scheme)
    return f"{shown}:{url.port}" if has_port else shown


def _is_project(text: str, *, least_segments: int) -> bool:
    segments = text.split("/")
    return len(segments) >= least_segments and all(
        _SEGMENT.fullmatch(segment) and segment not in (".", "..") for segment in segments
    )


def _bad_ref(text: str) -> UsageError:
    is_number = re.fullmatch(r"[0-9]{1,10}", text, re.ASCII) and int(text) > 0
    return UsageError(
        "BAD_REF",
        f"{_shown(text)} is no REF: give the web URL of an issue or merge request, group/project!12, '!12' or '#7'",
        **({"number": text} if is_number else {}),
    )


def _shown(text: str) -> str:
    shown = redact_url(text)
    return repr(shown if len(shown) <= 200 else f"{shown[:200]}…")
