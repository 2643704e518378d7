"""Logs: one event, one line; for people on a terminal, as JSON otherwise; never with a secret in it.

structlog loads asyncio and rich with it, which takes longer than many a command does; so it is loaded with the first
event that is written, and most commands write none.
"""
# ruff: noqa: PLC0415  # see above

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextvars import ContextVar
from typing import IO, TYPE_CHECKING, Any, Final, TextIO

from lore.core.refs import redact_url

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

# A known secret shorter than this is a part of ordinary words; in URLs it is found by its place instead.
_LEAST_SECRET: Final = 4
# Loggers that say at INFO what we say ourselves, or that print SQL and request headers at DEBUG.
_QUIET: Final[Mapping[str, int]] = {
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "peewee": logging.INFO,
    "playhouse": logging.INFO,
    "asyncio": logging.WARNING,
}

# Every queue's consumer says these again every few seconds while Redis is down, which `redis_is_down` says once.
_REPEATED: Final = ("Consumer encountered a connection error", "Restarting consumer in ")

_context: ContextVar[Mapping[str, Any] | None] = ContextVar("lore_log_context", default=None)


class Logger:
    """A logger of structlog, made when there is an event to write."""

    def __init__(self, name: str) -> None:
        self._name = name

    def debug(self, event: str, **keys: Any) -> None:
        """Log what only a search for a bug needs."""
        self._log(logging.DEBUG, "debug", event, keys)

    def info(self, event: str, **keys: Any) -> None:
        """Log what was done."""
        self._log(logging.INFO, "info", event, keys)

    def warning(self, event: str, **keys: Any) -> None:
        """Log what went otherwise than asked."""
        self._log(logging.WARNING, "warning", event, keys)

    def error(self, event: str, **keys: Any) -> None:
        """Log what somebody has to look at."""
        self._log(logging.ERROR, "error", event, keys)

    def exception(self, event: str, **keys: Any) -> None:
        """Log an error with the exception that is being handled."""
        self._log(logging.ERROR, "exception", event, keys)

    def _log(self, level: int, method: str, event: str, keys: Mapping[str, Any]) -> None:
        if logging.getLogger(self._name).isEnabledFor(level):
            import structlog

            if not structlog.is_configured():
                _configure_structlog()
            getattr(structlog.get_logger(self._name), method)(event, **keys)


def get_logger(name: str) -> Logger:
    """Return the logger of a module."""
    return Logger(name)


def bind_context(**keys: Any) -> None:
    """Add keys to every later event of this thread."""
    _context.set({**(_context.get() or {}), **keys})


def clear_context() -> None:
    """Leave later events as they are."""
    _context.set(None)


def configure(
    *,
    format: str = "auto",
    level: str = "info",
    stream: TextIO | None = None,
    secrets: Iterable[str] = (),
    has_tracebacks: bool = True,
) -> None:
    """Send every event of structlog and of the standard library's loggers to one stream, each once.

    Args:
        format: `console`, `json`, or `auto`: console on a terminal.
        level: `debug`, `info`, `warning` or `error`.
        stream: Where to; None is whatever `sys.stderr` is when an event comes, so that a live view can stand in for it.
        secrets: Texts that are replaced by `***` wherever they turn up (see `lore.settings.Settings.secrets`).
        has_tracebacks: False names an exception by its kind alone: a command's screen is no place for more.
    """
    threshold = getattr(logging, level.upper())
    target = stream or sys.stderr
    is_console = format == "console" or (format == "auto" and _is_terminal(target))
    clean = cleaner(secrets)

    def make_formatter() -> logging.Formatter:
        from structlog import processors, stdlib

        return stdlib.ProcessorFormatter(
            foreign_pre_chain=[stdlib.add_logger_name, *_shared()],
            processors=[
                stdlib.ProcessorFormatter.remove_processors_meta,
                processors.format_exc_info if has_tracebacks else _name_exception,
                clean,
                *_rendering(is_console=is_console, has_colours=is_console and _is_terminal(target)),
            ],
        )

    handler = _Handler(stream, make_formatter)
    if threshold > logging.DEBUG:
        handler.addFilter(_is_news)
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old, _Handler):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(threshold)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(least, threshold))
    # What cannot be logged (a closed pipe) must not print a traceback.
    logging.raiseExceptions = False


def _is_news(record: logging.LogRecord) -> bool:
    # Not `getMessage`: an event of structlog is a dict until it is formatted.
    is_consumer = record.name.startswith("dramatiq.worker.ConsumerThread")
    return not (is_consumer and str(record.msg).startswith(_REPEATED))


def _configure_structlog() -> None:
    import structlog

    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _shared() -> list[Processor]:
    from structlog import processors, stdlib

    return [_merge_context, stdlib.add_log_level, processors.TimeStamper(fmt="iso", utc=True)]


def _merge_context(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    return {**(_context.get() or {}), **event}


def _name_exception(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    exc_info = event.pop("exc_info", None)
    if exc_info:
        kind = exc_info[0] if isinstance(exc_info, tuple) else sys.exc_info()[0]
        event["exception"] = getattr(kind, "__name__", "unknown")
    return event


def cleaner(secrets: Iterable[str]) -> Processor:
    """Return the processor that takes the secrets out of every text of an event, exceptions included.

    Known secrets go wherever they stand, and the credentials of any URL.
    """
    known = sorted({secret for secret in secrets if len(secret) >= _LEAST_SECRET}, key=len, reverse=True)
    pattern = re.compile("|".join(re.escape(secret) for secret in known)) if known else None

    def clean_text(text: str) -> str:
        return redact_url(pattern.sub("***", text) if pattern else text)

    def clean(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
        return {str(key): _cleaned(value, clean_text) for key, value in event.items()}

    return clean


def _cleaned(value: Any, clean_text: Callable[[str], str]) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return clean_text(str(value))
    if isinstance(value, Mapping):
        return {clean_text(str(key)): _cleaned(one, clean_text) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_cleaned(one, clean_text) for one in value]
    return clean_text(repr(value))


def _rendering(*, is_console: bool, has_colours: bool) -> list[Processor]:
    import structlog

    if not is_console:
        return [structlog.processors.JSONRenderer(ensure_ascii=True)]
    # Plain tracebacks: rich's show local variables, and with them what the cleaner never saw.
    return [
        _make_visible,
        structlog.dev.ConsoleRenderer(
            colors=has_colours, exception_formatter=structlog.dev.plain_traceback, pad_event_to=24
        ),
    ]


def _make_visible(logger: WrappedLogger, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    from lore.terminal import visible

    return {
        key: visible(value, keeps_lines=key == "exception") if isinstance(value, str) else value
        for key, value in event.items()
    }


def _is_terminal(stream: IO[str] | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


class _Handler(logging.StreamHandler[Any]):
    """Writes to the given stream, or to what `sys.stderr` is by then."""

    def __init__(self, stream: TextIO | None, make_formatter: Callable[[], logging.Formatter]) -> None:
        self._fixed = stream
        self._make_formatter = make_formatter
        logging.Handler.__init__(self)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of an event."""
        if self.formatter is None:
            self.formatter = self._make_formatter()
        return self.formatter.format(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one event; a process without standard error logs nowhere."""
        if self.stream is not None:
            super().emit(record)

    @property
    def stream(self) -> Any:
        """The stream of this moment."""
        return self._fixed or sys.stderr

    @stream.setter
    def stream(self, stream: Any) -> None:
        self._fixed = stream
