"""What a client is set up with: whether each part is what it has to be, and goes with the others.

Key, base URL, proxy and headers are texts with rules of their own (`_settings`).
"""

from __future__ import annotations

import ssl

from grok_video._arguments import refuse
from grok_video._errors import ConfigurationError
from grok_video._policies import Limits, Retry
from grok_video._polling import Polling
from grok_video._transports._base import Transport

__all__ = ["check_parts", "check_transport"]


def check_parts(retry: Retry, polling: Polling, limits: Limits, tls: object) -> None:
    """Raise `InvalidRequest` for the first part that is not what it has to be."""
    parts = (
        ("retry", retry, Retry, "a Retry, e.g. Retry(attempts=3)"),
        ("polling", polling, Polling, "a Polling, e.g. Polling.fixed(5)"),
        ("limits", limits, Limits, "a Limits, e.g. Limits(creates_per_minute=60)"),
        ("ssl_context", tls, ssl.SSLContext | None, "an ssl.SSLContext, or None"),
    )
    for name, value, kind, what in parts:
        if not isinstance(value, kind):
            raise refuse(name, value, f"must be {what}")


def check_transport(
    transport: Transport | str | None, http_client: object, **connecting: object
) -> None:
    """Raise `InvalidRequest` if these do not go together.

    `connecting` are settings that only the package's own connections heed.
    """
    if not isinstance(transport, Transport) and transport not in (None, "aiohttp", "httpx"):
        raise refuse("transport", transport, "must be 'aiohttp', 'httpx' or a Transport, or None")
    if http_client is not None and transport not in (None, "httpx"):
        limit = "must be 'httpx' or left out where an http_client is given"
        raise refuse("transport", transport, limit)
    if http_client is not None:
        # Imported here: whoever has such a client has the library.
        from grok_video._transports._httpxlines import family_of

        try:
            family_of(http_client)
        except ConfigurationError:
            limit = "must be an httpx2.AsyncClient or an httpx.AsyncClient"
            raise refuse("http_client", type(http_client), limit) from None
    if http_client is not None or isinstance(transport, Transport):
        for name, value in connecting.items():
            if value is not None:
                limit = "must be left out where an http_client or a Transport brings its own"
                raise refuse(name, "***" if name == "proxy" else value, limit)
