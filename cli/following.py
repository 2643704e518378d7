"""How a command stays with a run: does it here or waits for it, shows how it gets on, and reports."""
# ruff: noqa: PLC0415  # what a command needs is imported when it is called

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lore.door import Call, works_long

if TYPE_CHECKING:
    from lore.settings import Settings


def carry_on(
    call: Call,
    settings: Settings,
    runs: ModuleType,
    open_run: Callable[[], Any],
    *,
    will_wait: bool | None,
    timeout_s: float | None = None,
    is_quiet: bool = False,
    follows: bool = False,
) -> None:
    """Open a run, do it here, wait for it or leave it to a worker, and report."""
    from workers import RUN_QUEUES

    with noting_ctrl_c() as ctrl_c:
        submitted = open_run()
        run_id = submitted.run_id
        is_here = settings.is_embedded and will_wait is not False
        was_waited_for = is_here or bool(will_wait) or timeout_s is not None
        if is_here:
            with (
                cancelling(run_id),
                progress(call, runs, run_id, follows=follows, is_quiet=is_quiet) as on_change,
            ):
                on_look = waiting(call, run_id, is_quiet=is_quiet, timeout_s=timeout_s)
                options = {"timeout_s": timeout_s, "on_change": on_change, "on_look": on_look}
                do_here(call, run_id, ctrl_c, is_quiet=is_quiet, **options)
            report(call, runs, run_id, was_waited_for=True, is_quiet=is_quiet)
            return
        with detaching(ctrl_c, run_id):
            if settings.is_embedded:
                call.warn("LEFT_QUEUED", f"run {run_id} is queued; a worker does it: lore worker")
            elif not submitted.is_sent:
                message = f"Redis does not answer: run {run_id} stays queued, and a worker sends it later"
                call.warn("BROKER_UNREACHABLE", message)
            elif not runs.has_live_worker(RUN_QUEUES):
                call.warn("NO_LIVE_WORKER", f"no worker is alive to take run {run_id}; start one: lore worker")
            if was_waited_for:
                with progress(call, runs, run_id, follows=follows, is_quiet=is_quiet) as on_change:
                    on_look = waiting(call, run_id, is_quiet=is_quiet)
                    wait(runs, run_id, timeout_s=timeout_s, on_change=on_change, on_look=on_look)
            report(call, runs, run_id, was_waited_for=was_waited_for, is_quiet=is_quiet)


def do_here(call: Call, run_id: str, ctrl_c: CtrlC, *, is_quiet: bool, **options: Any) -> None:
    """Do a run in this process.

    Args:
        call: The command.
        run_id: An open run.
        ctrl_c: Tells whether to leave it.
        is_quiet: Whether nobody is told what it waits for; a program is not either.
        options: What `embedded.run_to_end` takes besides.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    from lore.terminal import say_held
    from workers import embedded

    works_long()
    on_held = None if is_quiet or call.is_robot else say_held
    embedded.run_to_end(run_id, is_interrupted=lambda: ctrl_c.was_pressed, on_held=on_held, **options)


class CtrlC:
    """What became of Ctrl-C in a block of `noting_ctrl_c`.

    Attributes:
        was_pressed: It came.
        is_raised: The first is raised too.
    """

    def __init__(self) -> None:
        self.was_pressed = False
        self.is_raised = False

    def note(self, *_: object) -> None:
        """Take a signal."""
        if self.was_pressed or self.is_raised:
            raise KeyboardInterrupt
        self.was_pressed = True

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """Raise it anywhere in the block, at its start if it came before: what is done there may be left."""
        self.is_raised = True  # and only then a look: one that comes between the two is seen
        try:
            if self.was_pressed:
                raise KeyboardInterrupt
            yield
        finally:
            self.is_raised = False


@contextlib.contextmanager
def noting_ctrl_c() -> Iterator[CtrlC]:
    """Note the first Ctrl-C. The second is raised wherever the process stands.

    It begins before a run is written: who knows of no run cannot end it. And Python raises between any two of its
    steps, and loses what it raises in a finalizer or a callback.
    """
    import signal

    noted = CtrlC()
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:  # as a shell has it for what it starts in the background
        signal.signal(signal.SIGINT, noted.note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def cancelling(run_id: str) -> Iterator[None]:
    """Cancel the run if Ctrl-C is raised in the block; it is over then."""
    from lore.core.errors import LoreError
    from workers import runs

    try:
        yield
    except KeyboardInterrupt:
        try:
            runs.cancel(run_id, why="cancelled by Ctrl-C")
        except LoreError as error:
            if error.code != "RUN_ENDED":
                raise


@contextlib.contextmanager
def detaching(ctrl_c: CtrlC, run_id: str) -> Iterator[None]:
    """Leave the run to others at Ctrl-C.

    Raises:
        RunError: DETACHED.
    """
    from lore.core.errors import RunError

    try:
        with ctrl_c.raised():
            yield
    except KeyboardInterrupt:
        raise RunError("DETACHED", f"run {run_id} goes on without us", run_id=run_id) from None


def waiting(call: Call, run_id: str, *, is_quiet: bool, timeout_s: float | None = None) -> Callable[[], None]:
    """Return what to call now and then while a run is waited for: people are told what it waits for."""
    from lore.terminal import Waiting
    from workers import runs

    return (
        (lambda: None) if is_quiet or call.is_robot else Waiting(lambda: runs.read_stuck(run_id), timeout_s=timeout_s)
    )


def wait(runs: ModuleType, run_id: str, **options: Any) -> None:
    """Wait for the end of a run that others do.

    Args:
        runs: `workers.runs`.
        run_id: The run.
        options: What its `wait` takes besides.

    Raises:
        RunError: STILL_RUNNING.
    """
    from lore.core.errors import RunError

    if not runs.wait(run_id, **options):
        after_s = options.get("timeout_s") or 0
        raise RunError("STILL_RUNNING", f"run {run_id} had not ended after {after_s:g} s", run_id=run_id)


@contextlib.contextmanager
def progress(
    call: Call, runs: ModuleType, run_id: str, *, follows: bool, is_quiet: bool = False
) -> Iterator[Callable[[], None]]:
    """Show how a run gets on while the block waits; yields what to call after each change."""
    from lore.terminal import Follower, watching

    if follows:
        follower = Follower(lambda after_id: runs.read_events(run_id, after_id), is_robot=call.is_robot)
        follower()
        try:
            yield follower
        finally:
            follower()
    elif is_quiet or call.is_robot:
        yield lambda: None
    else:
        with watching(lambda: {"run": runs.read_run(run_id), "tasks": runs.read_progress(run_id)}) as on_change:
            yield on_change


def report(call: Call, runs: ModuleType, run_id: str, *, was_waited_for: bool, is_quiet: bool) -> None:
    """Answer with the run and its entities; a run that was waited for and failed is the command's error."""
    from lore.terminal import show_run

    run, entities = runs.read_run(run_id), runs.read_entities(run_id)
    error = runs.error_of(run_id) if was_waited_for else None
    show = None if is_quiet else lambda: show_run(run, entities, with_error=error is None)
    call.done({"run": run, "entities": entities}, show=show)
    call.shows_failures = is_quiet
    if error is not None:
        raise error
