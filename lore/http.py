"""One HTTP client for all who speak to an outside service: trust, proxies, time and size are bounded here.

Foreign exceptions end in this module: its callers meet errors of `lore.core.errors` only.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import ssl
import sys
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final

import httpcore
import truststore

from lore.core.errors import GitLabError, PassingError, RefusedError, SettingError
from lore.imports import without

with without("httpx._main"):  # its command line, with click, rich and pygments: a third of its import
    import httpx as httpx  # noqa: PLC0414  # lore.gitlab has it from here

# Also the only encoding that we decode, as httpx would decode a chunk whole, however far it expands.
ACCEPT_ENCODING: Final = "gzip"
CHUNK_BYTES: Final = 64 * 1024
KEEP_ALIVE_S: Final = 15.0
# A body that grows past this waits until fewer others are being read: many threads that each hold a body of the
# allowed size would hold more memory than a process should.
LARGE_BYTES: Final = 1_000_000
LARGE_AT_ONCE: Final = 2
_M_MMAP_THRESHOLD: Final = -3

# Where Linux distributions keep their authorities, for a Python whose OpenSSL was built to look elsewhere.
_CA_FILES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)

_large_bodies = threading.BoundedSemaphore(LARGE_AT_ONCE)
_end_of_exchange: ContextVar[float | None] = ContextVar("end_of_exchange", default=None)


def build_client(
    *,
    ca_file: str | None = None,
    connect_s: float = 10.0,
    read_s: float = 30.0,
    write_s: float = 30.0,
    pool_s: float = 60.0,
    max_connections: int = 16,
    version: str = "dev",
    proxies: Mapping[str, str] | None = None,
) -> httpx.Client:
    """Return a client that many threads may share; whoever opens it closes it.

    It follows no redirect, keeps no cookie, and never asks a proxy for a loopback address.

    Args:
        ca_file: PEM file of the authorities to trust instead of the system's.
        connect_s: The longest wait for a connection to be made; `exchange` bounds the whole.
        read_s: The longest wait for a piece of an answer.
        write_s: The longest wait for a piece of a request to be taken.
        pool_s: The longest wait for a free connection.
        max_connections: How many requests are under way at once.
        version: Ours, told to the server.
        proxies: Proxy URLs by scheme (`http`, `https`, `all`); None takes the environment's (and the system's).

    Raises:
        SettingError: BAD_SETTING, the CA file cannot be used. A proxy that cannot is met by the first request that
            needs it, since who speaks to a loopback address only needs none.
    """
    found = _proxies(urllib.request.getproxies() if proxies is None else proxies)
    _give_freed_bodies_back()
    return httpx.Client(
        transport=_Transport(_trust(ca_file), found, max_connections),
        timeout=httpx.Timeout(connect=connect_s, read=read_s, write=write_s, pool=pool_s),
        headers={"User-Agent": f"lore/{version}", "Accept-Encoding": ACCEPT_ENCODING},
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
        follow_redirects=False,
        trust_env=False,
    )


@contextmanager
def exchange(
    client: httpx.Client,
    request: httpx.Request,
    *,
    total_s: float,
    auth: httpx.Auth | Callable[[httpx.Request], httpx.Request] | None = None,
) -> Iterator[httpx.Response]:
    """Send a request, and hand out the response with its body unread.

    Args:
        client: See `build_client`.
        request: Of `client.build_request`.
        total_s: The longest the whole exchange may take, the reading of the body in the block included: a server that
            sends a byte a second never meets `read_s`.
        auth: Adds what only this request may carry.

    Raises:
        PassingError: GITLAB_UNREACHABLE, no answer; GITLAB_BROKEN_ANSWER, it broke off.
        RefusedError: GITLAB_REDIRECT, to something that is no address.
        SettingError: TLS_UNTRUSTED, or BAD_SETTING: a proxy, or an address that is neither http nor https.
    """
    mark = _end_of_exchange.set(time.monotonic() + total_s)
    try:
        response = client.send(request, stream=True, auth=auth)
        try:
            yield response
        finally:
            response.close()
    except httpx.LocalProtocolError as error:
        # Without its cause, whose text can be a header's value.
        raise _renamed(error, request, total_s=total_s) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _renamed(error, request, total_s=total_s) from error
    finally:
        _end_of_exchange.reset(mark)


def read_bounded(response: httpx.Response, max_bytes: int) -> bytes:
    """Return the decoded body, never holding more of it than the bound.

    Raises:
        RefusedError: GITLAB_TOO_LARGE; GITLAB_BAD_PAYLOAD, an encoding we did not ask for.
        PassingError: GITLAB_BROKEN_ANSWER, its compression is broken.
    """
    body, is_whole = _read_start(response, max_bytes)
    if not is_whole:
        raise RefusedError("GITLAB_TOO_LARGE", f"the answer of {place(response.url)} is larger than {max_bytes} bytes")
    return body


def read_start(response: httpx.Response, max_bytes: int) -> bytes:
    """Return the first bytes of the decoded body, at most `max_bytes` of them.

    Raises:
        RefusedError: GITLAB_BAD_PAYLOAD, an encoding we did not ask for.
        PassingError: GITLAB_BROKEN_ANSWER, its compression is broken.
    """
    return _read_start(response, max_bytes)[0]


def place(url: httpx.URL) -> str:
    """Return a URL as errors name it: host and path, no user, password or query."""
    port = f":{url.port}" if url.port is not None else ""
    return f"{url.host}{port}{url.raw_path.partition(b'?')[0].decode('ascii', 'replace')}"[:200]


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address is this machine's own."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _give_freed_bodies_back() -> None:
    """Let glibc return a large freed block at once; elsewhere there is nothing to set.

    By default the first such block that is freed raises the size from which blocks are returned, up to 32 MB, and each
    thread keeps what it had: https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 256 * 1024)


def _trust(ca_file: str | None) -> Callable[[], ssl.SSLContext]:
    """Return what makes a connection's TLS context, from the system's trust store or a file of authorities.

    Elsewhere than on macOS and Windows the store is a file, which is loaded once for all connections. truststore asks
    the system itself there, and keeps one handshake at a time in a context: a connection needs one of its own.
    """
    if ca_file is None:
        if sys.platform in ("darwin", "win32"):
            return lambda: truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_default_certs()
        if not context.cert_store_stats()["x509_ca"] and not ssl.get_default_verify_paths().capath:
            _load_first(context, _CA_FILES)
        return lambda: context
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=ca_file)
    except ssl.SSLError as error:
        raise SettingError("BAD_SETTING", f"LORE_CA_FILE {ca_file} holds no certificate in PEM form") from error
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise SettingError("BAD_SETTING", f"LORE_CA_FILE {ca_file}: {reason}") from error
    return lambda: context


def _load_first(context: ssl.SSLContext, paths: Iterable[str]) -> None:
    for path in paths:
        if os.path.isfile(path):
            context.load_verify_locations(cafile=path)
            return


def _proxies(urls: Mapping[str, str]) -> dict[str, httpx.Proxy | SettingError]:
    """Return by scheme the proxy, or what is wrong with its URL."""
    found: dict[str, httpx.Proxy | SettingError] = {}
    for scheme in ("http", "https"):
        name = scheme if urls.get(scheme) else "all"
        url = urls.get(name)
        if url:
            found[scheme] = _proxy(f"{name.upper()}_PROXY", url)
    return found


def _proxy(name: str, url: str) -> httpx.Proxy | SettingError:
    # What is raised here is dropped with its text, which is the URL with its password.
    try:
        proxy = httpx.Proxy(url if "://" in url else f"http://{url}")
    except (ValueError, httpx.InvalidURL):
        return SettingError("BAD_SETTING", f"{name} is not the URL of a proxy")
    if proxy.url.scheme not in ("http", "https") or not proxy.url.host:
        return SettingError("BAD_SETTING", f"{name} is not the URL of an http or https proxy, the ones lore can use")
    return proxy


def _core_proxy(proxy: httpx.Proxy) -> httpcore.Proxy:
    return httpcore.Proxy(url=_core_url(proxy.url), auth=proxy.raw_auth, headers=proxy.headers.raw)


def _core_url(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


class _Transport(httpx.BaseTransport):
    """Chooses the way of each request, straight or by a proxy, and lends it a connection.

    httpcore's pool can close a connection that it has just given to another thread
    (https://github.com/encode/httpcore/issues/1110), so each pool here has one connection and serves one exchange at a
    time.
    """

    def __init__(
        self,
        trust: Callable[[], ssl.SSLContext],
        proxies: Mapping[str, httpx.Proxy | SettingError],
        max_connections: int,
    ) -> None:
        self._trust = trust
        self._proxies = proxies
        self._free: dict[httpx.Proxy | None, list[httpcore.ConnectionPool]] = {None: []}
        self._free |= {proxy: [] for proxy in proxies.values() if isinstance(proxy, httpx.Proxy)}
        self._places = threading.BoundedSemaphore(max_connections)
        self._is_closed = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        proxy = self._proxy_for(request.url)
        timeouts = request.extensions.get("timeout", {})
        with _httpx_names(request):
            if not self._places.acquire(timeout=_within(timeouts.get("pool"), httpcore.PoolTimeout)):
                raise httpcore.PoolTimeout("every connection is in use")
        pool = self._borrow(proxy)
        try:
            with _httpx_names(request, is_proxied=proxy is not None):
                response = pool.handle_request(
                    httpcore.Request(
                        method=request.method,
                        url=_core_url(request.url),
                        headers=request.headers.raw,
                        content=request.stream,
                        extensions=request.extensions,
                    )
                )
        except BaseException:
            self._give_back(proxy, pool)
            raise
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(response, request, lambda: self._give_back(proxy, pool)),
            extensions=response.extensions,
        )

    def close(self) -> None:
        self._is_closed = True
        for free in self._free.values():
            while free:
                free.pop().close()

    def _proxy_for(self, url: httpx.URL) -> httpx.Proxy | None:
        proxy = self._proxies.get(url.scheme)
        if proxy is None or is_loopback(url.host) or urllib.request.proxy_bypass(_host_and_port(url)):
            return None
        if isinstance(proxy, SettingError):
            raise SettingError(proxy.code, proxy.message)
        return proxy

    def _borrow(self, proxy: httpx.Proxy | None) -> httpcore.ConnectionPool:
        try:
            # The one that was used last is the likeliest to be open still.
            return self._free[proxy].pop()
        except IndexError:
            return httpcore.ConnectionPool(
                ssl_context=self._trust(),
                proxy=None if proxy is None else _core_proxy(proxy),
                max_connections=1,
                keepalive_expiry=KEEP_ALIVE_S,
                network_backend=_BoundedBackend(),
            )

    def _give_back(self, proxy: httpx.Proxy | None, pool: httpcore.ConnectionPool) -> None:
        self._free[proxy].append(pool)
        self._places.release()
        if self._is_closed:
            self.close()


def _host_and_port(url: httpx.URL) -> str:
    return url.host if url.port is None else f"{url.host}:{url.port}"


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response, request: httpx.Request, give_back: Callable[[], None]) -> None:
        self._response = response
        self._request = request
        self._give_back = give_back
        self._is_open = True

    def __iter__(self) -> Iterator[bytes]:
        with _httpx_names(self._request):
            yield from self._response.iter_stream()

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            try:
                self._response.close()
            finally:
                self._give_back()


_HTTPX_NAMES: Final[tuple[tuple[type[Exception], type[httpx.RequestError]], ...]] = (
    (httpcore.ConnectTimeout, httpx.ConnectTimeout),
    (httpcore.ReadTimeout, httpx.ReadTimeout),
    (httpcore.WriteTimeout, httpx.WriteTimeout),
    (httpcore.PoolTimeout, httpx.PoolTimeout),
    (httpcore.ConnectError, httpx.ConnectError),
    (httpcore.ReadError, httpx.ReadError),
    (httpcore.WriteError, httpx.WriteError),
    (httpcore.ProxyError, httpx.ProxyError),
    (httpcore.UnsupportedProtocol, httpx.UnsupportedProtocol),
    (httpcore.LocalProtocolError, httpx.LocalProtocolError),
    (httpcore.RemoteProtocolError, httpx.RemoteProtocolError),
    # A TLS record that is none, while a body is read: httpcore renames socket errors only.
    (ssl.SSLError, httpx.ReadError),
)


@contextmanager
def _httpx_names(request: httpx.Request, *, is_proxied: bool = False) -> Iterator[None]:
    try:
        yield
    except tuple(ours for ours, _ in _HTTPX_NAMES) as error:
        name = next(theirs for ours, theirs in _HTTPX_NAMES if isinstance(error, ours))
        if is_proxied and name is httpx.ConnectError:
            name = httpx.ProxyError
        raise name(str(error), request=request) from error


class _BoundedBackend(httpcore.SyncBackend):
    """Sockets whose every wait ends with the exchange that it is part of."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        bounded = _within(timeout, httpcore.ConnectTimeout)
        return _BoundedStream(super().connect_tcp(host, port, bounded, local_address, socket_options))


class _BoundedStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _within(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _within(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        bounded = _within(timeout, httpcore.ConnectTimeout)
        return _BoundedStream(self._stream.start_tls(ssl_context, server_hostname, bounded))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _within(timeout: float | None, expired: Callable[[str], Exception]) -> float | None:
    """Return the shorter of a wait and what is left of the exchange."""
    end = _end_of_exchange.get()
    if end is None:
        return timeout
    left = end - time.monotonic()
    if left <= 0:
        raise expired("the time for the whole exchange is over")
    return left if timeout is None else min(timeout, left)


def _renamed(error: Exception, request: httpx.Request, *, total_s: float) -> GitLabError | SettingError:
    untrusted = _cause(error, ssl.SSLCertVerificationError)
    if untrusted is not None:
        reason = getattr(untrusted, "verify_message", "") or "unknown authority"
        message = f"{request.url.host}: its certificate is not trusted ({reason}); set LORE_CA_FILE to the authority's"
        return SettingError("TLS_UNTRUSTED", message)
    return _wrong_request(error, place(request.url)) or _wrong_answer(error, request, total_s)


def _wrong_request(error: Exception, where: str) -> SettingError | None:
    if isinstance(error, httpx.UnsupportedProtocol):
        return SettingError("BAD_SETTING", f"{where}: only http and https are spoken")
    if isinstance(error, httpx.LocalProtocolError):
        return SettingError("BAD_SETTING", f"the request to {where} cannot be written down")
    return None


def _wrong_answer(error: Exception, request: httpx.Request, total_s: float) -> GitLabError:
    where = place(request.url)
    if isinstance(error, httpx.TimeoutException):
        return PassingError("GITLAB_UNREACHABLE", f"no whole answer of {where} in time (at most {total_s:g} s)")
    if isinstance(error, httpx.ProxyError):
        return PassingError("GITLAB_UNREACHABLE", f"no way to {request.url.host} by the proxy{_os_reason(error)}")
    if isinstance(error, httpx.ConnectError):
        return PassingError("GITLAB_UNREACHABLE", f"cannot connect to {request.url.host}{_os_reason(error)}")
    # httpx reads the address of a redirect also where it does not follow it.
    if isinstance(error, httpx.InvalidURL) or "location header" in str(error):
        return RefusedError("GITLAB_REDIRECT", f"{where} redirects to something that is no address")
    return PassingError("GITLAB_BROKEN_ANSWER", f"the answer of {where} broke off")


def _cause(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    link: BaseException | None = error
    while link is not None and not isinstance(link, kind):
        link = link.__cause__ or link.__context__
    return link


def _os_reason(error: BaseException) -> str:
    cause = _cause(error, OSError)
    reason = getattr(cause, "strerror", None)
    return f": {reason}" if isinstance(reason, str) else ""


def _read_start(response: httpx.Response, max_bytes: int) -> tuple[bytes, bool]:
    """Return at most the first `max_bytes` of the decoded body, and whether that is all of it."""
    if response.is_stream_consumed:
        return response.content[:max_bytes], len(response.content) <= max_bytes
    body = bytearray()
    with ExitStack() as held:
        is_large = False
        for piece in _decoded(response, max_bytes + 1):
            body += piece
            if len(body) > max_bytes:
                del body[max_bytes:]
                return bytes(body), False
            if len(body) > LARGE_BYTES and not is_large:
                is_large = True
                if not _large_bodies.acquire(timeout=_within(None, httpx.ReadTimeout)):
                    raise httpx.ReadTimeout("other large bodies took all the time")
                held.callback(_large_bodies.release)
        return bytes(body), True


def _decoded(response: httpx.Response, max_piece: int) -> Iterator[bytes]:
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("identity", ""):
        yield from response.iter_raw(CHUNK_BYTES)
        return
    if encoding not in ("gzip", "x-gzip"):
        raise RefusedError("GITLAB_BAD_PAYLOAD", f"the answer of {place(response.url)} is encoded otherwise than asked")
    gzip = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        for chunk in response.iter_raw():
            # A bomb expands a thousandfold, so each step is bounded, not only the sum.
            packed = chunk
            while packed and not gzip.eof:
                yield gzip.decompress(packed, min(max_piece, CHUNK_BYTES))
                packed = gzip.unconsumed_tail
        yield gzip.flush()
    except zlib.error as error:
        raise PassingError("GITLAB_BROKEN_ANSWER", f"the answer of {place(response.url)} is no gzip") from error
    if not gzip.eof:
        raise PassingError("GITLAB_BROKEN_ANSWER", f"the answer of {place(response.url)} broke off")
