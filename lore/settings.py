"""Every setting of lore, read once at a door into one frozen value.

In order: the option of the command, the environment, `$XDG_CONFIG_HOME/lore/env`. Never a file of the current folder:
a cloned repository could send the token elsewhere. An empty value counts as not set.
"""

from __future__ import annotations

import importlib.util
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, quote, unquote, urlsplit

from lore.core.errors import SettingError
from lore.core.nearest import near
from lore.core.refs import normalise_base_url, redact_url

__all__ = [
    "NAMES",
    "Secret",
    "Settings",
    "change_action",
    "config_file",
    "default_embedder",
    "duration_words",
    "parse_duration_ms",
    "read_settings",
    "redact_url",
]

DEFAULT_GITLAB_URL: Final = "https://gitlab.com"
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("auto", "console", "json")
EMBEDDERS: Final = ("wordllama", "ollama", "openai", "off")
# A token or password file larger than this is some other file.
_MOST_TOKEN_BYTES: Final = 16_384
_MOST_FILE_BYTES: Final = 262_144
_MOST_DURATION_MS: Final = 3650 * 86_400_000

_UNITS_MS: Final = {"": 1000, "ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
# As the README makes them: for nobody else to read.
_EDIT: Final = (
    '(umask 077; mkdir -p "${XDG_CONFIG_HOME:-$HOME/.config}/lore"'
    ' && ${EDITOR:-vi} "${XDG_CONFIG_HOME:-$HOME/.config}/lore/env")'
)
_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy")


class Secret:
    """A text that shows itself as `***`; only `reveal()` gives it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text; for the one place that sends it."""
        return self._text

    def __repr__(self) -> str:
        """Return no part of the text."""
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        """Tell whether the other is the same secret."""
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        """Return the text's hash."""
        return hash(self._text)


def default_embedder() -> str:
    """Return `wordllama` where it is installed, else `off`: there are platforms that it has no wheel for.

    It is looked for and not imported, as most commands need no embedder.
    """
    return "wordllama" if importlib.util.find_spec("wordllama") is not None else "off"


@dataclass(frozen=True)
class Settings:
    """What lore was told; the unit is in the name.

    Attributes:
        gitlab_url: Normalised, see `lore.core.refs.normalise_base_url`.
        gitlab_token: None where there is none; `require_token` says why.
        project: As it was written; `lore.core.refs.parse_project` reads it.
        database_url: `sqlite://` and an absolute, percent-encoded path, or `postgresql://…`; may hold a password.
        redis_url: None means embedded: no Redis at all; may hold a password.
        embeddings: One of `EMBEDDERS`; see `default_embedder`.
        embeddings_url: None takes the embedder's own, where it has one (see `lore.embeddings.build_embedder`).
        embeddings_model: None takes the embedder's own, where it has one.
        sources: Where each attribute's value comes from: `default`, `option`, `environment`, or a file's path.
        warnings: (code, message) of what is odd but does no harm.
        secrets: Every text that must never be shown, in each spelling it may turn up in.
    """

    gitlab_url: str = DEFAULT_GITLAB_URL
    gitlab_token: Secret | None = None
    project: str | None = None
    database_url: str = field(default="", repr=False)
    redis_url: str | None = field(default=None, repr=False)
    embeddings: str = field(default_factory=default_embedder)
    embeddings_url: str | None = None
    embeddings_model: str | None = None
    embeddings_token: Secret | None = None
    embeddings_timeout_s: float = 60.0
    ca_file: Path | None = None
    gitlab_concurrency: int = 16
    gitlab_timeout_s: float = 30.0
    gitlab_max_body_mb: int = 20
    log_format: str = "auto"
    log_level: str = "info"
    run_deadline_ms: int = 900_000
    queue_deadline_ms: int = 86_400_000
    ledger_keep_ms: int = 7_776_000_000
    lock_lease_ms: int = 60_000
    claim_lease_ms: int = 60_000
    robot: bool = False
    sources: Mapping[str, str] = field(default_factory=dict, repr=False)
    warnings: Sequence[tuple[str, str]] = field(default=(), repr=False)
    secrets: Sequence[str] = field(default=(), repr=False)
    token_problem: SettingError | None = field(default=None, repr=False, compare=False)

    @property
    def gitlab_max_body_bytes(self) -> int:
        """The largest body of an answer that is read."""
        return self.gitlab_max_body_mb * 1_000_000

    @property
    def is_embedded(self) -> bool:
        """Whether runs are done without Redis."""
        return self.redis_url is None

    @property
    def sqlite_path(self) -> Path | None:
        """The database's file; None on PostgreSQL."""
        if not self.database_url.startswith("sqlite:"):
            return None
        return Path(unquote(self.database_url.removeprefix("sqlite://")))

    def require_token(self) -> Secret:
        """Return the token.

        Raises:
            SettingError: NO_TOKEN or TOKEN_FILE.
        """
        if self.gitlab_token is not None:
            return self.gitlab_token
        raise self.token_problem or _no_token(self, Path("~/.config/lore/env"))


@dataclass(frozen=True)
class _Name:
    """One setting: its name outside, its attribute, and how its text is read (ValueError says what is allowed)."""

    name: str
    attribute: str
    parse: Callable[[str], Any]


def read_settings(environ: Mapping[str, str], *, options: Mapping[str, str | None] | None = None) -> Settings:
    """Return the settings of this call.

    Args:
        environ: The environment, all of it: HOME and the XDG folders are looked up in it too.
        options: Values given on the command line by setting name; None and empty ones count as not given.

    Raises:
        SettingError: BAD_SETTING, naming the setting and what is allowed. What is wrong with the token is kept for
            `Settings.require_token`, as most commands need none.
    """
    path = config_file(environ)
    written = _read_config(path)
    layers: list[tuple[str, Mapping[str, str | None]]] = [
        ("option", options or {}),
        ("environment", environ),
        (str(path), written.values),
    ]
    values: dict[str, Any] = {"database_url": _default_database_url(environ)}
    sources: dict[str, str] = {}
    for known in _KNOWN:
        text, source = _first(known.name, layers)
        sources[known.attribute] = source
        if text and known.attribute == "embeddings_token":
            values[known.attribute] = _token_from(known.name, text, source, written)
        elif text:
            values[known.attribute] = _parsed(known, text, source, environ=environ)
    token, problem, sources["gitlab_token"] = _read_token(layers, written)
    warnings = [*_unknown_names(environ, "environment"), *_unknown_names(written.values, str(path))]
    if written.is_open and any("***" in redact_url(text or "") for text in written.values.values()):
        warnings.append(("OPEN_SETTINGS_FILE", f"{path} holds a password and others may read it: chmod 600 {path}"))
    settings = Settings(
        **values,
        gitlab_token=token,
        sources=sources,
        warnings=tuple(warnings),
        secrets=_secrets(
            [token, values.get("embeddings_token")],
            [values["database_url"], values.get("redis_url"), *_proxies(environ)],
        ),
        token_problem=problem,
    )
    if token is None and problem is None:
        object.__setattr__(settings, "token_problem", _no_token(settings, path))
    return settings


def config_file(environ: Mapping[str, str]) -> Path:
    """Return the path of the settings file; it need not be there."""
    return _xdg(environ, "XDG_CONFIG_HOME", ".config") / "lore" / "env"


def parse_duration_ms(text: str) -> int:
    """Return the milliseconds of `900` (seconds), `500ms`, `30s`, `15m`, `24h` or `90d`.

    Raises:
        ValueError: It is none; the message says what is allowed.
    """
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)?", text, re.ASCII)
    duration_ms = round(float(match[1]) * _UNITS_MS[match[2] or ""]) if match else 0
    if not 1 <= duration_ms <= _MOST_DURATION_MS:
        raise ValueError("a time above 0 and up to 3650d, such as 900 (seconds), 30s, 15m, 24h or 90d")
    return duration_ms


def duration_words(duration_ms: float) -> str:
    """Return a time as it is written in a setting: `90d`, `24h`, `15m`, `60s`, `500ms`."""
    for unit in ("d", "h", "m", "s"):
        count, rest = divmod(duration_ms, _UNITS_MS[unit])
        if not rest and count >= (1 if unit == "s" else 2):
            return f"{count:.0f}{unit}"
    return f"{duration_ms:.0f}ms"


def change_action(name: str = "", source: str = "default") -> str:
    """Return the command that changes a setting: without it where the environment has it, else the settings file.

    Args:
        name: The setting; empty: not known, or several.
        source: As in `Settings.sources`.
    """
    return f"env -u {name} lore doctor" if name and source.split(",", maxsplit=1)[0] == "environment" else _EDIT


@dataclass(frozen=True)
class _Written:
    """What the settings file says; `is_open`: others than us may read or write it."""

    values: Mapping[str, str | None]
    is_open: bool
    path: Path


def _read_config(path: Path) -> _Written:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(_MOST_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return _Written({}, is_open=False, path=path)
    except OSError as error:
        raise SettingError("BAD_SETTING", f"{path} cannot be read: {error.strerror}") from error
    is_open = bool(status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)) or status.st_uid != os.getuid()
    if len(content) > _MOST_FILE_BYTES:
        raise SettingError("BAD_SETTING", f"{path} is too large for a settings file")
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise SettingError("BAD_SETTING", f"{path} is not UTF-8") from error
    values: dict[str, str | None] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.strip().startswith("#"):
            name, value = _parse_line(line.strip(), where=f"{path}, line {number}")
            values[name] = value
    return _Written(values, is_open=is_open, path=path)


def _parse_line(line: str, *, where: str) -> tuple[str, str]:
    # The line itself is never shown: it may hold a token.
    match = re.fullmatch(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)", line)
    if match is None:
        raise SettingError("BAD_SETTING", f"{where}: write KEY=value, one on a line")
    name, text = match.groups()
    if text[:1] in ("'", '"'):
        quoted = re.fullmatch(r"""(['"])(.*?)\1\s*(?:#.*)?""", text)
        if quoted is None:
            raise SettingError("BAD_SETTING", f"{where}: the quote of {name} is not closed")
        return name, quoted[2]
    return name, re.sub(r"(^|\s+)#.*$", "", text).strip()


def _first(name: str, layers: Iterable[tuple[str, Mapping[str, str | None]]]) -> tuple[str | None, str]:
    for source, values in layers:
        text = (values.get(name) or "").strip()
        if text:
            return text, source
    return None, "default"


def _parsed(known: _Name, text: str, source: str, *, environ: Mapping[str, str]) -> Any:
    try:
        if known.attribute == "database_url":
            return _parse_database_url(text, environ)
        if known.attribute == "ca_file":
            return _parse_ca_file(text, environ)
        return known.parse(text)
    except ValueError as error:
        shown = redact_url(text)
        shown = shown if len(shown) <= 120 else f"{shown[:120]}…"
        # A URL that cannot be read may hold a password where redact_url does not find it.
        said = "" if known.attribute.endswith("_url") else f", not {shown!r}"
        raise SettingError(
            "BAD_SETTING", f"{known.name} ({source}) must be {error}{said}", setting=known.name, source=source
        ) from None


def _read_token(
    layers: Sequence[tuple[str, Mapping[str, str | None]]], written: _Written
) -> tuple[Secret | None, SettingError | None, str]:
    """Return the token, or what is wrong with the place it was to come from, and that place."""
    own = [(source, name) for source, _ in layers for name in ("LORE_GITLAB_TOKEN", "LORE_GITLAB_TOKEN_FILE")]
    for source, name in [*own, *((source, "GITLAB_TOKEN") for source, _ in layers)]:
        text = (dict(layers)[source].get(name) or "").strip()
        if not text:
            continue
        try:
            return _token_from(name, text, source, written), None, f"{source}, {name}"
        except SettingError as error:
            return None, error, f"{source}, {name}"
    return None, None, "default"


def _token_from(name: str, text: str, source: str, written: _Written) -> Secret:
    if name == "LORE_GITLAB_TOKEN_FILE":
        return _read_token_file(Path(text).expanduser())
    if source == str(written.path) and written.is_open:
        raise SettingError(
            "TOKEN_FILE",
            f"{written.path} holds a token, so only you may own and read it",
            actions=[f"chmod 600 {written.path}", "lore doctor"],
        )
    if not _is_token(text):
        raise SettingError(
            "BAD_SETTING", f"{name} ({source}) must be one word of printable ASCII", setting=name, source=source
        )
    return Secret(text)


def _read_token_file(path: Path) -> Secret:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_TOKEN_BYTES + 1)
    except OSError as error:
        raise SettingError("TOKEN_FILE", f"LORE_GITLAB_TOKEN_FILE {path} cannot be read: {error.strerror}") from error
    text = content.decode("utf-8", errors="replace").strip()
    if not text:
        raise SettingError("TOKEN_FILE", f"LORE_GITLAB_TOKEN_FILE {path} is empty: write the token into it")
    if len(content) > _MOST_TOKEN_BYTES or not _is_token(text):
        raise SettingError("TOKEN_FILE", f"LORE_GITLAB_TOKEN_FILE {path} must hold the token, one word, and no more")
    return Secret(text)


def _is_token(text: str) -> bool:
    return re.fullmatch(r"[\x21-\x7e]+", text, re.ASCII) is not None


def _no_token(settings: Settings, path: Path) -> SettingError:
    has_url = settings.sources.get("gitlab_url", "default") != "default"
    url_line = "" if has_url else f"  LORE_GITLAB_URL={settings.gitlab_url}\n"
    page = f"{settings.gitlab_url}/-/user_settings/personal_access_tokens?name=lore&scopes=read_api"
    return SettingError(
        "NO_TOKEN",
        f"no GitLab token is set; write these lines to {path} (and chmod 600 it), or set them in the environment:\n"
        f"{url_line}  LORE_GITLAB_TOKEN=…\n"
        f"a token with the scope read_api is made at {page}",
    )


def _unknown_names(values: Mapping[str, Any], source: str) -> list[tuple[str, str]]:
    warnings = []
    for name in sorted(values):
        if name.startswith("LORE_") and name not in NAMES:
            # Without what all of them begin with, or everything is near everything.
            meant = near(name.removeprefix("LORE_"), [known.removeprefix("LORE_") for known in NAMES])
            hint = f": did you mean {' or '.join(f'LORE_{one}' for one in meant)}?" if meant else ""
            warnings.append(("UNKNOWN_SETTING", f"{name!r} ({source}) is no setting of lore{hint}"))
    return warnings


def _secrets(tokens: Iterable[Secret | None], urls: Iterable[str | None]) -> tuple[str, ...]:
    found = [token.reveal() for token in tokens if token is not None]
    for url in urls:
        found += _passwords(url or "")
    spellings = {spelling for text in found for spelling in (text, unquote(text), quote(unquote(text), safe=""))}
    return tuple(sorted((text for text in spellings if text), key=len, reverse=True))


def _passwords(url: str) -> list[str]:
    found = re.findall(r"(?i)[?&](?:[a-z]+_)?(?:password|token|secret)=([^&\s#]+)", url)
    try:
        password = urlsplit(url).password
    except ValueError:
        password = None
    return [*found, *([password] if password else [])]


def _proxies(environ: Mapping[str, str]) -> list[str]:
    urls = [value for name, value in environ.items() if name.lower() in _PROXIES]
    return [url if "://" in url else f"http://{url}" for url in urls]


def _xdg(environ: Mapping[str, str], name: str, below_home: str) -> Path:
    # The XDG specification: a relative path is to be ignored.
    folder = environ.get(name, "")
    if folder.startswith("/"):
        return Path(folder)
    return Path(environ.get("HOME") or os.path.expanduser("~")) / below_home


def _default_database_url(environ: Mapping[str, str]) -> str:
    return _sqlite_url(_xdg(environ, "XDG_DATA_HOME", ".local/share") / "lore" / "lore.db")


def _parse_database_url(text: str, environ: Mapping[str, str]) -> str:
    allowed = "a path, sqlite:///absolute/path or postgresql://user@host/database"
    scheme = text.split("://", 1)[0].lower() if "://" in text else "path"
    if scheme in ("postgresql", "postgres"):
        url = _split(text, allowed)
        if re.search(r"%(?![0-9A-Fa-f]{2})", text):
            # The driver would say so by quoting what stands around it, which may be the password.
            raise ValueError(f"{allowed}; a % in it is written %25")
        # The driver would name the part of a password that it stumbles over.
        said = url.netloc.rpartition("@")[0]
        if "@" in said or re.search(r"\s|%(?![0-9A-Fa-f]{2})", said):
            raise ValueError(f"{allowed}; percent-encode what is no letter or digit of the user's name and password")
        if not url.path.strip("/") and "dbname=" not in url.query:
            raise ValueError(f"{allowed}; the database's name is missing")
        return f"postgresql://{text.split('://', 1)[1]}"
    if ":memory:" in text:
        raise ValueError(f"{allowed}; a database in memory would be forgotten with the command")
    if scheme == "path" and not text.startswith("sqlite:"):
        return _sqlite_url(_absolute(text, environ))
    # sqlite:///x is absolute, as a URL's path is everywhere; SQLAlchemy's four slashes come out the same.
    path = unquote(text.split("://", 1)[-1])
    if scheme != "sqlite" or not path.strip("/") or not path.startswith("/"):
        raise ValueError(allowed)
    return _sqlite_url(Path("/" + path.lstrip("/")))


def _sqlite_url(path: Path) -> str:
    return f"sqlite://{quote(str(path))}"


def _parse_ca_file(text: str, environ: Mapping[str, str]) -> Path:
    path = _absolute(text, environ)
    if not os.access(path, os.R_OK) or path.is_dir():
        raise ValueError("a file of PEM certificates that can be read")
    return path


def _absolute(text: str, environ: Mapping[str, str]) -> Path:
    if text == "~" or text.startswith("~/"):
        text = (environ.get("HOME") or os.path.expanduser("~")) + text[1:]
    return Path(os.path.abspath(text))


def _parse_redis_url(text: str) -> str | None:
    if text.lower() == "off":
        return None
    allowed = "redis://host:6379/0, rediss://…, unix://… or off"
    url = _split(text, allowed)
    is_socket = url.scheme == "unix" and bool(url.path)
    if not is_socket and (url.scheme not in ("redis", "rediss") or not url.hostname):
        raise ValueError(allowed)
    return text


def _split(text: str, allowed: str) -> SplitResult:
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:
        # Its own words quote what it could not read, which may be a piece of the password.
        raise ValueError(allowed) from None
    return url


def _parse_embeddings_url(text: str) -> str:
    # An embedder may well be at /api, which a GitLab's URL is refused for.
    end = "/embeddings"
    try:
        return normalise_base_url(text.rstrip("/") + end).removesuffix(end)
    except ValueError:
        allowed = "an http(s) URL such as http://127.0.0.1:11434 or https://host/v1, without a name or password in it"
        raise ValueError(allowed) from None


def _parse_model(text: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]{1,200}", text, re.ASCII):
        raise ValueError("the name of a model: one word of printable ASCII, of at most 200 characters")
    return text


def _parse_text(text: str) -> str:
    return text


def _choice(allowed: Sequence[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return text.lower()

    return parse


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not least <= int(text) <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return int(text)

    return parse


def _parse_seconds(text: str) -> float:
    return parse_duration_ms(text) / 1000


def _parse_bool(text: str) -> bool:
    spelt = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in spelt:
        raise ValueError("1 or 0")
    return spelt[text.lower()]


_KNOWN: Final = (
    _Name("LORE_GITLAB_URL", "gitlab_url", normalise_base_url),
    _Name("LORE_PROJECT", "project", _parse_text),
    _Name("LORE_DATABASE_URL", "database_url", _parse_text),
    _Name("LORE_REDIS_URL", "redis_url", _parse_redis_url),
    _Name("LORE_EMBEDDINGS", "embeddings", _choice(EMBEDDERS)),
    _Name("LORE_EMBEDDINGS_URL", "embeddings_url", _parse_embeddings_url),
    _Name("LORE_EMBEDDINGS_MODEL", "embeddings_model", _parse_model),
    _Name("LORE_EMBEDDINGS_TOKEN", "embeddings_token", Secret),
    _Name("LORE_EMBEDDINGS_TIMEOUT", "embeddings_timeout_s", _parse_seconds),
    _Name("LORE_CA_FILE", "ca_file", _parse_text),
    _Name("LORE_GITLAB_CONCURRENCY", "gitlab_concurrency", _whole(1, 64)),
    _Name("LORE_GITLAB_TIMEOUT", "gitlab_timeout_s", _parse_seconds),
    _Name("LORE_GITLAB_MAX_BODY_MB", "gitlab_max_body_mb", _whole(1, 1024)),
    _Name("LORE_LOG_FORMAT", "log_format", _choice(LOG_FORMATS)),
    _Name("LORE_LOG_LEVEL", "log_level", _choice(LOG_LEVELS)),
    _Name("LORE_RUN_DEADLINE", "run_deadline_ms", parse_duration_ms),
    _Name("LORE_QUEUE_DEADLINE", "queue_deadline_ms", parse_duration_ms),
    _Name("LORE_LEDGER_KEEP", "ledger_keep_ms", parse_duration_ms),
    _Name("LORE_LOCK_LEASE", "lock_lease_ms", parse_duration_ms),
    _Name("LORE_CLAIM_LEASE", "claim_lease_ms", parse_duration_ms),
    _Name("LORE_ROBOT", "robot", _parse_bool),
)

# Every name that means something to lore, in the order of `.env.example`.
NAMES: Final[tuple[str, ...]] = (
    "LORE_GITLAB_TOKEN",
    "LORE_GITLAB_TOKEN_FILE",
    *(known.name for known in _KNOWN),
)
# Which attribute a setting fills.
ATTRIBUTES: Final[Mapping[str, str]] = {
    "LORE_GITLAB_TOKEN": "gitlab_token",
    "LORE_GITLAB_TOKEN_FILE": "gitlab_token",
    **{known.name: known.attribute for known in _KNOWN},
}
