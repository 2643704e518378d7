"""How every command is called and answered: one JSON object or text for people, one exit status, never a traceback.

Only click and the standard library are imported at the top, so that `--help` and completion stay quick.
"""
# ruff: noqa: PLC0415  # what a command needs is imported when it is called

from __future__ import annotations

import contextlib
import gc
import io
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from lore.core.errors import LoreError
    from lore.core.fields import Fields
    from lore.core.outcome import Meta, Outcome, Warned
    from lore.core.pages import Page, Place
    from lore.settings import Settings


# How many new objects make Python look for garbage: of its own accord, and in a short command.
_USUAL: Final = gc.get_threshold()
_SELDOM: Final = (100_000, 20)
# Rows of a list where -n does not say, and the most it may say.
LISTED = 20
MOST_LISTED = 10_000

# JSON schemas of what a command answers (`data`), where `cli.shapes` has words for it.
Schema = Mapping[str, Any]


class Call:
    """One call of a command: how it is answered, and what there is to say.

    Attributes:
        is_robot: Answer with one JSON object.
        command: The command as it was named, for `meta`.
        project: What its -p said.
        outcome: Set by the command that could do its work.
        show: Prints the outcome, or what is known beside an error, for people.
        shows_failures: Whether an error still has to name the failed entities (`show` has not).
        fields: What of the answer's data is asked for; None: all.
        limit: How many rows of a list were asked for.
        after: The cursor that was given.
        is_terse: An error is one line: cron mails what is printed.
    """

    def __init__(self, prog: str, argv: Sequence[str]) -> None:
        self.prog = prog
        self.argv = list(argv)
        self.command = prog
        self.project: str | None = None
        self.outcome: Outcome | None = None
        self.show: Callable[[], None] | None = None
        self.shows_failures = True
        self.is_terse = False
        self.is_logging = False
        self.fields: Fields | None = None
        self.limit: int | None = None
        self.after: str | None = None
        self._next: str | None = None
        self._began = time.monotonic()
        self._warnings: list[Warned] = []
        # Read before click does, so that an error of the command line is answered the right way too.
        options = self.argv[: self.argv.index("--")] if "--" in self.argv else self.argv
        spelt = os.environ.get("LORE_ROBOT", "").strip().lower() in ("1", "true", "yes", "on")
        is_completing = f"_{prog}_COMPLETE".replace("-", "_").upper() in os.environ
        is_asked = any(option in ("--robot", "--fields") or option.startswith("--fields=") for option in options)
        self.is_robot = (is_asked or spelt) and not is_completing

    def settings(self, *, level: str = "error", **options: str | None) -> Settings:
        """Return the settings, with the command's options before all else; logs are set up by them.

        Args:
            level: The least level that is logged where LORE_LOG_LEVEL does not say: a command's answer tells what its
                run met, and the log is for who operates a worker.
            options: Settings that are given as options, by their name.
        """
        from lore.logs import configure
        from lore.settings import read_settings

        self.project = options.get("LORE_PROJECT")
        settings = read_settings(os.environ, options=options)
        self.is_robot = self.is_robot or settings.robot
        for code, message in settings.warnings:
            self.warn(code, message)
        is_asked_for = settings.sources["log_level"] != "default"
        configure(
            format=settings.log_format,
            level=settings.log_level if is_asked_for else level,
            secrets=settings.secrets,
            has_tracebacks=is_asked_for or level != "error",
        )
        self.is_logging = True
        return settings

    def warn(self, code: str, message: str) -> None:
        """Say at once what is worth knowing, and keep it for the answer."""
        from lore.core.outcome import Warned

        self._warnings.append(Warned(code, message))
        if not self.is_robot:
            from lore.terminal import visible

            click.secho(f"warning: {visible(message)}", fg="yellow", err=True)

    def done(self, data: Mapping[str, Any], *, show: Callable[[], None] | None = None, status: int = 0) -> None:
        """Take the answer of a command that could do its work."""
        from lore.core.outcome import Outcome

        self.outcome = Outcome(data, status, self._warnings)
        self.show = show

    @property
    def is_paged(self) -> bool:
        """Whether the command line says which rows of a list it wants."""
        return self.limit is not None or self.after is not None

    def page(self) -> Page:
        """Return which rows of the command's list are asked for."""
        from lore.core.pages import Page

        command = click.get_current_context().command
        assert isinstance(command, Door)
        return Page(self.limit or command.listed_rows, None if self.after is None else _place_of(self.after))

    def done_page(self, data: Mapping[str, Any], *, show: Callable[[], None] | None = None) -> None:
        """Take the answer with a page of the command's list; its `next`, a place, becomes the answer's `meta.next`."""
        place = data["next"]
        self._next = None if place is None else _cursor(place)
        self.done({name: value for name, value in data.items() if name != "next"}, show=show)

    def meta(self) -> Meta:
        """Return what is said about the call itself."""
        from lore.core.outcome import Meta

        return Meta(self.command, version(), round((time.monotonic() - self._began) * 1000), self._next)


def _cursor(place: Place) -> str:
    import base64
    import json

    said = json.dumps([_mark(place), *place], separators=(",", ":"))
    return base64.urlsafe_b64encode(said.encode()).decode().rstrip("=")


def _place_of(cursor: str) -> Place:
    import base64
    import json

    try:
        mark, *place = json.loads(base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)))
        is_ours = mark == _mark(tuple(place))
    except (RecursionError, TypeError, ValueError):
        is_ours = False
    if not is_ours:
        raise click.UsageError("--after takes meta.next of an answer to the same options")
    return tuple(place)


def _mark(place: Place) -> int:
    """Return a number that stands for a place in the list that is asked for, whichever page of it: no other list's."""
    import zlib

    context = click.get_current_context()
    asked = (context.info_name, sorted(context.params.items()), place)
    return zlib.crc32(repr(asked).encode(errors="backslashreplace"))


class Acting(click.Option):
    """An option with which a command that only reads does something all the same; a slip is never read as it."""


class Tool(NamedTuple):
    """How `lore mcp` offers a command.

    Attributes:
        name: The tool's name.
        takes: The command's own parameters that a caller may give; empty: all but those that act.
        always: Words that every call has.
        writes: Whether it is only offered with `--allow-submit`.
        help: What it does; empty: what the command's help says.
    """

    name: str
    takes: tuple[str, ...] = ()
    always: tuple[str, ...] = ()
    writes: bool = False
    help: str = ""


class Door(click.Command):
    """A command with `--robot`, an example, and its exit statuses in the help.

    Args:
        example: A command line, or several.
        data: The JSON schema of what it answers (see `cli.shapes`); every command has one.
        writes: Whether it changes anything; a slip in such a command is never corrected.
        listed: The list in its data of which `-n` and `--after` ask a page (see `Call.page`).
        listed_rows: How many rows a page has where -n does not say.
        tools: How `lore mcp` offers it.
    """

    def __init__(
        self,
        *args: Any,
        example: str = "",
        data: Schema | None = None,
        writes: bool = True,
        listed: str = "",
        listed_rows: int = LISTED,
        tools: Sequence[Tool] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.example = example
        self.data = data
        self.writes = writes
        self.listed = listed
        self.listed_rows = listed_rows
        self.tools = tools
        if listed:
            self.params += _page_options(listed_rows)
        if data is not None:
            self.params.append(_fields_option())
        self.params.append(_robot_option())

    @property
    def acts_with(self) -> list[str]:
        """The options with which it does something, although it only reads."""
        return [name for param in self.params if isinstance(param, Acting) for name in param.opts]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line; an answer says the command's name, also one to a line that cannot be read."""
        if ctx.obj is not None:
            ctx.obj.command = ctx.command_path
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example and the exit statuses."""
        from lore.core.errors import EXIT_MEANINGS

        with formatter.section("Example"):
            for line in self.example.splitlines():
                formatter.write_text(line)
        with formatter.section("Exit status"):
            formatter.write_dl([(str(int(status)), meaning) for status, meaning in EXIT_MEANINGS.items()])


class Doors(Door, click.Group):
    """The commands of `lore`; `--robot` stands before them too."""

    command_class = Door


def _page_options(default: int) -> list[click.Option]:
    def keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if ctx.get_parameter_source(str(param.name)) is not ParameterSource.DEFAULT:
            setattr(ctx.obj, str(param.name), value)

    rows = click.IntRange(1, MOST_LISTED)
    return [
        click.Option(
            ["-n", "--limit"],
            type=rows,
            default=default,
            metavar="N",
            expose_value=False,
            callback=keep,
            help=f"At most so many ({default}).",
        ),
        click.Option(
            ["--after"],
            metavar="CURSOR",
            expose_value=False,
            callback=keep,
            help="The next page: meta.next of a robot's answer.",
        ),
    ]


def _fields_option() -> click.Option:
    def keep(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
        if value is not None:
            from lore.core.fields import parse_fields

            ctx.obj.fields = parse_fields(value, ctx.command.data)  # type: ignore[attr-defined]  # a Door

    return click.Option(
        ["--fields"],
        metavar="A,B.C",
        expose_value=False,
        callback=keep,
        help="Only these fields of a robot's data; implies --robot.",
    )


def _robot_option() -> click.Option:
    return click.Option(
        ["--robot"], is_flag=True, expose_value=False, help="Answer with one JSON object (also LORE_ROBOT=1)."
    )


def works_long() -> None:
    """Look for garbage as often as usual from now on: an error of a request holds the megabytes it was about."""
    gc.set_threshold(*_USUAL)


def run(command: click.Command, prog: str, argv: Sequence[str] | None = None) -> int:
    """Call a command, print its one answer, and return its exit status.

    Args:
        command: What is called.
        prog: The name it was called by.
        argv: Its arguments; None: those of the process.
    """
    # Modules are loaded object by object, and none of it is garbage: looking for some every 700 objects took a tenth of
    # a short command.
    gc.set_threshold(*_SELDOM)
    # What is no text in UTF-8 is no name of GitLab's either: it is asked for with its odd bytes marked.
    call = Call(prog, [os.fsencode(word).decode(errors="replace") for word in (sys.argv[1:] if argv is None else argv)])
    with contextlib.suppress(AttributeError, ValueError):
        # A terminal that cannot show a letter shows its escape; a title is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        try:
            _call(command, call)
        except click.UsageError as error:
            call = _corrected(command, call, error)
            _call(command, call)
        return _answer(call)
    except Exception as error:
        return _answer_error(call, _typed(call, error))
    except KeyboardInterrupt:
        return _answer_error(call, _typed(call, click.Abort()))


def _call(command: click.Command, call: Call) -> None:
    """Call the command; a robot's standard output is kept for the one answer, whoever prints."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said) if call.is_robot else contextlib.nullcontext():
            command.main(args=list(call.argv), prog_name=call.prog, standalone_mode=False, obj=call)
        if call.outcome is None and call.is_robot:  # --help, --version
            call.done({"text": said.getvalue()})
            said = io.StringIO()
    finally:
        sys.stderr.write(said.getvalue())


def _corrected(command: click.Command, call: Call, error: click.UsageError) -> Call:
    """Return the call that can only have been meant; raises the error where there is none."""
    from lore.correcting import correct

    mended = correct(command, call.prog, call.argv)
    if mended is None:
        raise error
    argv, said = mended
    call = Call(call.prog, argv)
    for line in said:
        call.warn("CORRECTED", line)
    return call


def _answer(call: Call) -> int:
    if call.outcome is None:
        return 0
    if call.is_robot:
        from lore.core.outcome import success, to_json

        answer = to_json(success(call.outcome, meta=call.meta(), fields=call.fields))
        _print(lambda: click.echo(answer))
    elif call.show is not None:
        _print(call.show)
    return int(call.outcome.exit)


def _answer_error(call: Call, error: LoreError) -> int:
    from lore.core.outcome import exit_status, failure, to_json

    if call.is_robot:
        answer = to_json(failure(error, meta=call.meta()))
        _print(lambda: click.echo(answer))
        return exit_status(error)
    from lore.terminal import error_lines

    if call.show is not None:
        _print(call.show)
    first, *rest = error_lines(error, with_failures=call.shows_failures)
    if call.is_terse:
        rest = []
    with contextlib.suppress(OSError):
        click.secho(first, fg="red", err=True)
        for line in rest:
            click.echo(line, err=True)
    return exit_status(error)


def _typed(call: Call, error: Exception) -> LoreError:
    """Return the error with a public code that stands for any exception."""
    from lore.core.errors import LoreError, UsageError, actions_for
    from lore.core.outcome import internal_error

    if isinstance(error, LoreError):
        if isinstance(error, UsageError) and not error.actions:
            # What was called is known here alone.
            called = {"command": call.command, "again": call.command}
            if call.project is not None:
                from lore.core.refs import redact_url

                called["again"] += f" -p {shlex.quote(redact_url(call.project))}"
            error.actions = actions_for(error.code, **{**called, **error.context})
        return error
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else call.command
        message = "name a command" if isinstance(error, click.exceptions.NoArgsIsHelpError) else error.format_message()
        if hasattr(error, "possibilities"):
            message = error.message  # click calls near what is not: what is has been named by lore.correcting
        return UsageError("USAGE", message, command=command)
    if isinstance(error, click.Abort):
        return LoreError("INTERRUPTED", "stopped by Ctrl-C")
    _log_bug(call, error)
    return internal_error(
        error, actions=["lore doctor", shlex.join(["env", "LORE_LOG_LEVEL=debug", call.prog, *call.argv])]
    )


def _log_bug(call: Call, error: Exception) -> None:
    """Log where it happened, for who asked for that much: on a screen a traceback helps nobody."""
    # Whatever is broken, the logs included, there is one answer and no traceback.
    with contextlib.suppress(Exception):
        from lore.logs import configure, get_logger

        if not call.is_logging:
            is_debug = os.environ.get("LORE_LOG_LEVEL", "").lower() == "debug"
            tokens = [os.environ.get(name, "") for name in ("LORE_GITLAB_TOKEN", "GITLAB_TOKEN")]
            configure(level="debug" if is_debug else "error", secrets=tokens)
        get_logger("cli").debug("unexpected", exc_info=error)


def _print(show: Callable[[], None]) -> None:
    """Print to standard output; a reader that has gone (`| head`) is no error."""
    try:
        show()
        sys.stdout.flush()
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def version() -> str:
    """Return the version of lore."""
    from lore import __version__

    return __version__
