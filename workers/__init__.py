"""A door: reads settings, opens the database, sets the broker and imports every actor.

Other doors import it lazily, so that a wrong setting is a typed error and `--help` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lore.imports import without

if TYPE_CHECKING:
    from lore.settings import Settings

# What a person's run needs, and what a sync needs besides: its work has queues, and threads, of its own.
RUN_QUEUES = ("preflight", "fetch", "commit", "documents", "embed")
SYNC_QUEUES = ("plan", "sync_fetch", "sync_commit", "sync_documents", "sync_embed")
QUEUES = RUN_QUEUES + SYNC_QUEUES


def open_ledger(settings: Settings) -> None:
    """Open the database, brought up to this version's schema; enough to read the ledger and the mirror.

    Raises:
        LoreError: The database cannot be used.
    """
    # Peewee loads every driver that is installed, and PostgreSQL's takes longer than Peewee itself.
    with without(*(() if settings.database_url.startswith("postgresql:") else ("psycopg",))):
        from models import base, schema  # noqa: PLC0415  # see the module's docstring
    from workers import resources  # noqa: PLC0415  # the same

    resources.configure(settings)
    base.open_database(settings.database_url, idle_in_transaction_s=settings.lock_lease_ms / 1000)
    schema.bring_up()


def require_broker() -> None:
    """Do nothing if Redis answers, or none is needed.

    Raises:
        BrokerError: BROKER_UNREACHABLE.
    """
    import dramatiq  # noqa: PLC0415  # see the module's docstring

    client = getattr(dramatiq.get_broker(), "client", None)
    if client is None:
        return
    import redis  # noqa: PLC0415  # only with Redis

    from lore.core.errors import BrokerError  # noqa: PLC0415  # see the module's docstring

    try:
        client.ping()
    except redis.RedisError as error:
        # Without its text, which may show the address with its password.
        message = f"Redis does not answer at LORE_REDIS_URL ({type(error).__name__}): what needs a message was not sent"
        raise BrokerError("BROKER_UNREACHABLE", message) from None


def open_sender(settings: Settings) -> None:
    """Open the ledger and set the Redis broker, for who sends messages and leaves the work to others.

    The actors, and with them an HTTP client and arithmetic, are 120 ms of imports.

    Raises:
        LoreError: A setting is wrong, or the database cannot be used.
    """
    open_ledger(settings)
    _set_redis_broker(settings)


def open_workers(settings: Settings, *, embedded: bool | None = None) -> None:
    """Open the ledger, set the broker and import every actor.

    Args:
        settings: What the user configured.
        embedded: Run without Redis; None: without it when no LORE_REDIS_URL is set.

    Raises:
        LoreError: A setting is wrong, or the database cannot be used.
    """
    open_ledger(settings)
    if settings.redis_url is None or embedded:
        import dramatiq  # noqa: PLC0415  # see the module's docstring

        from workers.embedded import EmbeddedBroker  # noqa: PLC0415  # without Redis

        dramatiq.set_broker(EmbeddedBroker())
    else:
        _set_redis_broker(settings)
    from workers import commit, documents, embed, planning, preflight  # noqa: F401, PLC0415  # the actors register with the broker that is set


def _set_redis_broker(settings: Settings) -> None:
    import dramatiq  # noqa: PLC0415  # see the module's docstring

    from workers.broker import build_broker  # noqa: PLC0415  # with Redis: 80 ms of imports

    assert settings.redis_url is not None
    dramatiq.set_broker(build_broker(settings.redis_url))
