"""What the actors of this process borrow: its settings, its GitLab client, its name."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING

from lore import __version__

if TYPE_CHECKING:
    from lore.embeddings import Embedder
    from lore.gitlab import GitLab
    from lore.settings import Settings

_lock = threading.Lock()
_settings: Settings | None = None
_opened = contextlib.ExitStack()
_gitlab: GitLab | None = None
_embedder: Embedder | None = None
_has_embedder = False


def configure(settings: Settings) -> None:
    """Remember the settings that a door read; a client made from earlier ones is closed."""
    global _settings
    close()
    _settings = settings


def settings() -> Settings:
    """Return the settings of this process."""
    if _settings is None:
        raise RuntimeError("workers.open_workers() was not called")
    return _settings


def gitlab() -> GitLab:
    """Return the GitLab client of this process, made at the first call: setting up TLS takes tens of ms."""
    global _gitlab
    with _lock:
        if _gitlab is None:
            from lore.gitlab import GitLab  # noqa: PLC0415  # httpx is not paid for by a process that fetches nothing
            from lore.http import build_client  # noqa: PLC0415  # the same

            now = settings()
            client = build_client(
                ca_file=str(now.ca_file) if now.ca_file else None,
                connect_s=min(10.0, now.gitlab_timeout_s),
                read_s=now.gitlab_timeout_s,
                write_s=now.gitlab_timeout_s,
                max_connections=now.gitlab_concurrency,
                version=__version__,
            )
            _opened.callback(client.close)
            _gitlab = GitLab(
                client,
                base_url=now.gitlab_url,
                token=now.require_token(),
                max_body_bytes=now.gitlab_max_body_bytes,
                request_timeout_s=now.gitlab_timeout_s,
            )
        return _gitlab


def embedder() -> Embedder | None:
    """Return the embedder of this process, made at the first call: loading a model takes time; None where it is off.

    Raises:
        LoreError: The embedder cannot be used.
    """
    global _embedder, _has_embedder
    with _lock:
        if not _has_embedder:
            from lore.embeddings import build_embedder  # noqa: PLC0415  # numpy and a model, for who embeds only

            now = settings()
            _embedder = build_embedder(
                now.embeddings,
                url=now.embeddings_url,
                model=now.embeddings_model,
                token=now.embeddings_token,
                ca_file=str(now.ca_file) if now.ca_file else None,
                timeout_s=now.embeddings_timeout_s,
                version=__version__,
            )
            if _embedder is not None:
                _opened.callback(_embedder.close)
            _has_embedder = True
        return _embedder


def close() -> None:
    """Close what was opened."""
    global _gitlab, _embedder, _has_embedder
    with _lock:
        _opened.close()
        _gitlab = None
        _embedder, _has_embedder = None, False


def whoami() -> str:
    """Name this thread of this process on this host, for leases and claims."""
    return f"{this_process()}{threading.get_ident()}"


def this_process() -> str:
    """Return how the names of all threads of this process begin."""
    return f"{socket.gethostname()}:{os.getpid()}:"
