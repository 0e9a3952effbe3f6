"""Which proxy a request goes through; whatever library carries it, all ask here."""

from __future__ import annotations

import contextlib
import urllib.request
from typing import TYPE_CHECKING

from grok_video._errors import ConfigurationError
from grok_video._log import logger
from grok_video._redaction import redact_url
from grok_video._urls import Origin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from grok_video._transports._base import TransportConfig

__all__ = ["Proxies"]


class Proxies:
    """The proxy that was given, or what the environment says.

    The environment is asked once for each set of connections. The libraries' own `trust_env` also
    reads .netrc, whose passwords would take the place of the key or travel to a file server.
    """

    __slots__ = ("found", "given")

    def __init__(self, given: str | None, found: Mapping[str, str]) -> None:
        self.given = given
        self.found = found

    @classmethod
    def found_for(cls, config: TransportConfig) -> Proxies:
        """Return what holds now."""
        if config.proxy is not None:
            return cls(config.proxy, {})
        # With a space or a line break at its end, as files of settings leave it, it works with
        # most programs.
        found = urllib.request.getproxies()
        return cls(None, {scheme: proxy.strip() for scheme, proxy in found.items()})

    @classmethod
    def of(cls, config: TransportConfig) -> Proxies:
        """Return what holds now; the log is told of a proxy that cannot be used for the API."""
        proxies = cls.found_for(config)
        named, origin = proxies.named(config.origin), config.origin
        if named is not None and not proxies.exempts(origin) and proxies.choose(origin) is None:
            logger.warning(
                "the environment names the proxy %s, which is not used, as it is no http(s) proxy: "
                "requests go without one (pass proxy= for another)",
                redact_url(named),
            )
        return proxies

    def named(self, origin: Origin) -> str | None:
        """Return the proxy for an origin, one that cannot be used and one with exceptions too."""
        if self.given is not None or not self.found:
            return self.given
        proxy = self.found.get(origin.scheme) or self.found.get("all")
        return proxy if not proxy or "://" in proxy else f"http://{proxy}"

    def exempts(self, origin: Origin) -> bool:
        """Return whether NO_PROXY, or what the system has for it, makes an exception of this."""
        if self.given is not None or not self.found:
            return False
        return bool(urllib.request.proxy_bypass(f"{origin.host}:{origin.port}"))

    def choose(self, origin: Origin) -> str | None:
        """Return the URL of an http(s) proxy, or None."""
        proxy = self.named(origin)
        if not proxy or not proxy.lower().startswith(("http://", "https://")):
            return None
        return None if self.exempts(origin) else proxy

    def require(self, origin: Origin) -> None:
        """Raise `ConfigurationError` if the environment's proxy is an http(s) URL with a flaw.

        Libraries blame the address that is asked, and quote the proxy, password and all.
        """
        proxy = self.choose(origin)
        if proxy is None or self.given is not None:
            return
        host, _, path = proxy.partition("://")[2].partition("/")
        # A password with a "/" in it would end the host, and its beginning be one.
        is_cut = "@" in path and "@" not in host
        with contextlib.suppress(ValueError):
            if Origin.of(proxy).can_be_resolved and not is_cut:
                return
        variable = origin.scheme if self.found.get(origin.scheme) else "all"
        message = (
            f"{variable.upper()}_PROXY is not an http(s) URL such as http://host:3128 (its value "
            "is not shown; in a password /, ?, # and @ are written %2F, %3F, %23 and %40). Nothing "
            "was sent."
        )
        raise ConfigurationError(message)
