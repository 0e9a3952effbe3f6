"""How far a request of the httpx transport got, told by httpcore's trace extension.

And by whoever asks for the body, which is all there is to hear where a mock or a transport of the
caller's own has no trace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio

if TYPE_CHECKING:
    from grok_video._transports._httpxlines import GivenLines, OwnLines

__all__ = ["IdleConnection", "Sent"]


class IdleConnection(Exception):
    """A connection that was idle was offered for a create; it is closed, and nothing was sent."""


#: What httpcore does for a request before its first byte goes out, or without sending any. All
#: other events mean that it may have begun: one with a new name must not mean "nothing was sent".
_HARMLESS: Final = frozenset(
    {
        "close",
        "connect_tcp",
        "connect_unix_socket",
        "response_closed",
        "retry",
        "send_connection_init",
        "setup_socks5_connection",
        "start_tls",
    }
)


class Sent:
    """Whether the first byte of a request may have gone out, told by httpcore's trace extension.

    Called by httpcore with each event (`connection.connect_tcp.started`,
    `http11.send_request_headers.started`) before the thing happens.
    """

    def __init__(self, lines: OwnLines | GivenLines, timeout: float) -> None:
        self.scope: anyio.CancelScope | None = None
        self.answered = False
        self._timeout = timeout
        self._patient = lines.patience > 0
        self._heard = False
        #: True once the first part of the body was asked for.
        self.asked = False
        self._began = False
        self._fresh = False
        self._fresh_only = False

    def start(self, *, fresh_only: bool) -> None:
        """Begin an attempt; with `fresh_only` it raises if the connection was used before."""
        self._began = self._fresh = False
        self._fresh_only = fresh_only

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        self._heard = True
        if self._patient and self.scope is not None:
            # The wait for a connection of the caller's pool is over: the exchange begins.
            self._patient = False
            self.scope.deadline = anyio.current_time() + self._timeout
        layer, _, rest = event.partition(".")
        name, _, when = rest.partition(".")
        if when != "started":
            return
        if name in ("connect_tcp", "connect_unix_socket"):
            self._fresh = True
        if name in _HARMLESS or getattr(info.get("request"), "method", b"") == b"CONNECT":
            return  # CONNECT is for a proxy: the create itself comes after
        if self._fresh_only and not self._fresh and not self._began and layer == "http11":
            raise IdleConnection
        self._began = True

    def get_on(self) -> None:
        """Have the whole time again: a part of the body was taken, or the first is asked for."""
        self.asked = True
        if self.scope is not None and not self._patient:
            self.scope.deadline = anyio.current_time() + self._timeout

    def may_have_been_sent(self, *, otherwise: bool) -> bool:
        """Return what the trace knows, or `otherwise` where there was none.

        Without one, whoever asked for the body may have sent it, whatever the failure is called:
        httpx-aiohttp has "ConnectTimeout" for each connection that breaks.
        """
        return self._began if self._heard else otherwise or self.asked
