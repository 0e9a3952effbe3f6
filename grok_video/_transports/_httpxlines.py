"""Where a request of the httpx transport goes out: pools of our own, or the caller's client.

Both say what headers and timeouts a request has there and who connects; neither knows what a
failure means.
"""

from __future__ import annotations

import contextlib
import importlib
import ssl
import sys
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from grok_video._errors import ConfigurationError
from grok_video._transports._base import (
    CONNECT_TIMEOUT,
    CREATE_KEEPALIVE,
    KEEPALIVE,
    USER_AGENT,
    TransportConfig,
)
from grok_video._transports._proxies import Proxies
from grok_video._urls import Origin

if TYPE_CHECKING:
    from collections.abc import Mapping

# The module httpx2 or httpx, and what comes from it. The families share their names and no class,
# and neither may be imported for the sake of the other.
Family: TypeAlias = Any
Client: TypeAlias = Any
Headers: TypeAlias = Any
Pool: TypeAlias = Any
Request: TypeAlias = Any
Response: TypeAlias = Any
Stream: TypeAlias = Any

_FILE_HEADERS: Final = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}


class OwnLines:
    """The pools of one event loop, made when first used."""

    patience = 0.0
    ages_unknown = False

    def __init__(self, config: TransportConfig, family: Family, tls: object | None) -> None:
        self._config = config
        self._family = family
        self._tls = tls
        self._pools: dict[tuple[str, str | None], Pool] = {}
        self._proxies = Proxies.of(config)
        # Kept as the library's type, whose repr masks the key.
        self._api_headers = family.Headers({"User-Agent": USER_AGENT})
        self._api_headers.update(config.headers)
        _add_own(self._api_headers, config)

    def api_headers(self, url: str, extra: Mapping[str, str]) -> Headers:
        return _headers(self._family, self._api_headers, url, extra)

    def file_headers(self, url: str, extra: Mapping[str, str]) -> Headers:
        return _headers(self._family, _FILE_HEADERS, url, extra)

    def timeouts(self, *, read: float | None) -> dict[str, float | None]:
        connect = min(CONNECT_TIMEOUT, self._config.timeout)
        return {"connect": connect, "read": read, "write": read, "pool": None}

    def connects_itself(self, origin: Origin) -> bool:
        return self._proxies.choose(origin) is None

    def proxied(self, url: str) -> bool:
        return not self.connects_itself(Origin.of(url))

    async def send(self, kind: str, request: Request) -> Response:
        proxy = self._proxies.choose(Origin.of(str(request.url)))
        if kind == "pinned":
            proxy = None
        pool = self._pools.get((kind, proxy)) or self._make(kind, proxy, request.url.scheme)
        return await pool.handle_async_request(request)

    def _make(self, kind: str, proxy: str | None, scheme: str) -> Pool:
        if self._tls is None and scheme == "https":
            self._tls = self._family.create_ssl_context()
        pool = self._family.AsyncHTTPTransport(
            # Without TLS an empty context does, and saves reading the certificates.
            verify=self._tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            proxy=proxy,
            limits=self._family.Limits(
                # Slots stand in front of the pools, so that waiting for a connection does not count
                # as waiting for the server.
                max_connections=None,
                # A pinned connection is kept under its address and was verified for one name:
                # another name on the same address must not get it.
                max_keepalive_connections=0 if kind == "pinned" else None,
                keepalive_expiry=CREATE_KEEPALIVE if kind == "creates" else KEEPALIVE,
            ),
        )
        self._pools[kind, proxy] = pool
        return pool

    async def aclose(self) -> None:
        for pool in self._pools.values():
            await pool.aclose()


class GivenLines:
    """The caller's client."""

    ages_unknown = True

    def __init__(self, config: TransportConfig, family: Family, client: Client) -> None:
        self._config = config
        self._family = family
        self._client = client
        self._own_headers = family.Headers(dict(config.headers))
        _add_own(self._own_headers, config)

    @property
    def patience(self) -> float:
        """Seconds to wait for a connection of the caller's pool, before the exchange begins."""
        wait = self.timeouts(read=None)["pool"]
        return self._config.timeout if wait is None else wait

    def api_headers(self, url: str, extra: Mapping[str, str]) -> Headers:
        headers = self._family.Headers(self._client.headers)
        if headers.get("User-Agent", "").startswith("python-httpx"):
            headers["User-Agent"] = USER_AGENT  # nobody chose the other one
        headers.update(self._own_headers)
        return _headers(self._family, headers, url, extra)

    def file_headers(self, url: str, extra: Mapping[str, str]) -> Headers:
        return _headers(self._family, _FILE_HEADERS, url, extra)

    def timeouts(self, *, read: float | None) -> dict[str, float | None]:
        wanted = self._client.timeout
        if wanted != self._family.Timeout(5.0):
            return dict(wanted.as_dict())
        # httpx's default, which nobody chose: a create may be silent for longer than 5 s.
        limit = self._config.timeout
        return {"connect": min(CONNECT_TIMEOUT, limit), "read": read, "write": read, "pool": limit}

    def connects_itself(self, origin: Origin) -> bool:
        return False

    def proxied(self, url: str) -> bool:
        return False

    async def send(self, kind: str, request: Request) -> Response:
        if self._client.is_closed:
            message = "the http_client is closed; give the client an open one"
            raise ConfigurationError(message)
        try:
            return await self._client.send(request, stream=True, auth=None, follow_redirects=False)
        except self._family.HTTPStatusError as error:
            # A hook has called `raise_for_status`: what it refuses is the answer all the same.
            if error.request is request:
                return error.response
            raise


def _add_own(headers: Headers, config: TransportConfig) -> None:
    headers["Accept-Encoding"] = "identity"
    headers["Authorization"] = f"Bearer {config.api_key.reveal()}"


def _headers(family: Family, base: Headers, url: str, extra: Mapping[str, str]) -> Headers:
    headers = family.Headers(base)
    headers.update(extra)
    # httpx adds it only where it also makes the body.
    headers["Host"] = family.URL(url).netloc.decode("ascii")
    return headers


def own_family() -> Family:
    """Return httpx2. Raises `ConfigurationError` if it is not installed."""
    try:
        import httpx2
    except ImportError:
        message = 'this needs httpx2, which is not installed: pip install "grok-video[trio]"'
        raise ConfigurationError(message) from None
    # Newer versions import it with their first connection, which would hold up the event loop.
    with contextlib.suppress(ImportError):
        importlib.import_module("httpcore2")
    return httpx2


def family_of(client: Client) -> Family:
    """Return the module that a client comes from, without importing the other one."""
    for kind in type(client).__mro__:
        name = kind.__module__.partition(".")[0]
        if name in ("httpx2", "httpx") and kind.__name__ == "AsyncClient":
            return sys.modules[name]
    found = f"{type(client).__module__}.{type(client).__qualname__}"
    message = f"http_client must be an httpx2.AsyncClient or an httpx.AsyncClient, not {found}"
    raise ConfigurationError(message)
