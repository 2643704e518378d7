"""The main loop of `lore worker`: Dramatiq's Worker in this process, or several such processes under this one.

Dramatiq's own command forks; a master that is killed leaves its children at work, and its children's logs go through
a pipe. A process of ours that is killed is gone, whole, and the sweeper of another takes up what it held.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import dramatiq

from lore.core.errors import BusyError, Exit, StorageError
from lore.logs import get_logger
from lore.settings import Settings
from models import base
from workers import QUEUES, open_workers, resources
from workers.embedded import EmbeddedBroker

log = get_logger(__name__)

# How long a worker that is told to end may go on with what it has in hand; then claims and leases run out.
SHUTDOWN_MS = 30_000
# Dramatiq's default: an idle worker is woken by the broker's bell, and an ending one is waited for twice as long.
WORKER_TIMEOUT_MS = 1000
ANNOUNCE_EVERY_S = 1.0
WATCH_EVERY_S = 0.05
# A thread inside a short transaction gets its turn sooner than after Python's 5 ms, which all others would wait for.
SWITCH_EVERY_S = 0.0005


def serve(
    settings: Settings,
    *,
    queues: Sequence[str] = (),
    threads: int = 8,
    processes: int = 1,
    until_stdin_closes: bool = False,
) -> int:
    """Work until told to end (SIGTERM or SIGINT); return the exit status.

    Args:
        settings: What the user configured.
        queues: Which queues to work on; none means all of them.
        threads: How many messages are worked on side by side.
        processes: How many processes to run.
        until_stdin_closes: Also end when standard input does, for whoever started us and may be killed.
    """
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    if until_stdin_closes:
        threading.Thread(target=_stop_at_end_of_stdin, args=(stop,), daemon=True).start()
    if processes > 1:
        return _supervise(queues, threads, processes, stop)
    sys.setswitchinterval(SWITCH_EVERY_S)
    open_workers(settings)
    return _Loop(queues or QUEUES, threads, stop).run()


def _stop_at_end_of_stdin(stop: threading.Event) -> None:
    # Not `sys.stdin.read`: its lock, held by a thread that waits, would abort the interpreter's end.
    while os.read(0, 4096):
        pass
    stop.set()


class _Loop:
    """One worker process."""

    def __init__(self, queues: Sequence[str], threads: int, stop: threading.Event) -> None:
        self._queues = tuple(queues)
        self._threads = threads
        self._stop = stop
        self._status = int(Exit.DONE)

    def run(self) -> int:
        from workers.upkeep import Sweeper  # noqa: PLC0415  # the actors need the broker to be set first

        broker = dramatiq.get_broker()
        worker = dramatiq.Worker(
            broker, queues=set(self._queues), worker_threads=self._threads, worker_timeout=WORKER_TIMEOUT_MS
        )
        sweeper = Sweeper(on_fatal=self._fatal)
        if isinstance(broker, EmbeddedBroker):
            broker.is_worked = True
        worker.start()
        sweeper.start()
        log.info("worker_ready", queues=",".join(self._queues), threads=self._threads, pid=os.getpid())
        try:
            self._stay()
        finally:
            log.info("worker_ends", pid=os.getpid())
            sweeper.stop()
            # What is in hand cannot be written to a newer database, so nobody waits for it.
            worker.stop(timeout=SHUTDOWN_MS if self._status == Exit.DONE else 0)
            broker.close()
            resources.close()
            base.disconnect()
        return self._status

    def _stay(self) -> None:
        broker: Any = dramatiq.get_broker()
        if isinstance(broker, EmbeddedBroker):
            self._watch()
            return
        import redis  # noqa: PLC0415  # only a worker with Redis comes here

        from workers.broker import announce, withdraw  # noqa: PLC0415  # the same

        name, queues = f"{socket.gethostname()}:{os.getpid()}", ",".join(self._queues)
        is_down = False
        while True:
            try:
                announce(broker.client, name, queues)
                if is_down:
                    log.info("redis_is_back")
                is_down = False
            except redis.RedisError as error:
                if not is_down:
                    log.warning("redis_is_down", cause=type(error).__name__)
                is_down = True
            if self._stop.wait(ANNOUNCE_EVERY_S):
                break
        try:
            withdraw(broker.client, name, queues)
        except redis.RedisError:
            log.warning("redis_is_down", cause="while saying goodbye")

    def _watch(self) -> None:
        """Without Redis a run is noticed by the change of the database, not by a message."""
        from models.watch import Watch  # noqa: PLC0415  # only without Redis
        from workers import upkeep  # noqa: PLC0415  # the actors need the broker to be set first
        from workers.actors import say_busy  # noqa: PLC0415  # the same

        watch = Watch()
        while not self._stop.is_set():
            try:
                if watch.wait(WATCH_EVERY_S, timeout_s=ANNOUNCE_EVERY_S):
                    upkeep.sweep()
            except BusyError as error:
                say_busy("sweep_postponed", error)

    def _fatal(self, error: StorageError) -> None:
        base.refuse_writes(error)
        self._status = int(error.exit)
        self._stop.set()


def _supervise(queues: Sequence[str], threads: int, processes: int, stop: threading.Event) -> int:
    """Run several worker processes; when one ends unasked, end the others, for a supervisor to start all anew."""
    command = [sys.executable, "-P", "-m", "cli", "worker", "--threads", str(threads), "--until-stdin-closes"]
    if queues:
        command += ["--queues", ",".join(queues)]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(processes)]
    try:
        while not stop.wait(0.2):
            if any(child.poll() is not None for child in children):
                log.error("worker_process_ended", statuses=[child.returncode for child in children])
                return int(Exit.BUG)
        return int(Exit.DONE)
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait()
