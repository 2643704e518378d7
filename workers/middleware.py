"""What every message passes through: the log's context, and a database connection that is fit for use.

There is no Retries, AgeLimit, Callbacks or group middleware: retries, waits and deadlines live in the ledger alone,
where they survive a lost message, so an actor that raises is simply over, and a sweeper sees to its row.
"""

from __future__ import annotations

from typing import Any

from dramatiq import Broker, MessageProxy
from dramatiq.middleware import Middleware

from lore.logs import bind_context, clear_context
from models import base


class LogContext(Middleware):
    """Binds run_id, actor, message_id and attempt to every log line of a message."""

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        """Bind the message's names; the actor adds its entity."""
        clear_context()
        bind_context(
            run_id=message.options.get("run_id"),
            actor=message.actor_name,
            message_id=message.message_id,
            attempt=message.options.get("attempt", 1),
        )

    def after_process_message(
        self, broker: Broker, message: MessageProxy, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        """Forget them."""
        clear_context()

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        """Forget them."""
        clear_context()


class Connection(Middleware):
    """Keeps one database connection a thread; one that the server ended is dropped before the next message needs it."""

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        """Drop a connection that broke while the thread was idle."""
        base.disconnect_if_broken()

    def before_worker_thread_shutdown(self, broker: Broker, thread: Any) -> None:
        """Close the thread's connection."""
        base.disconnect()


def stack() -> list[Middleware]:
    """Return the middleware of every broker of lore, the log's context outermost."""
    return [LogContext(), Connection()]
