"""What a client is set up with: key, address, proxy and headers, found and checked.

Nothing here sends or connects, and no error here shows a key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final

from grok_video._errors import ConfigurationError
from grok_video._redaction import Secret, redact, redact_url
from grok_video._urls import Origin

DEFAULT_BASE_URL: Final = "https://api.cometapi.com/grok/v1"
KEY_VARIABLE: Final = "COMETAPI_KEY"
BASE_URL_VARIABLE: Final = "GROK_VIDEO_BASE_URL"
#: Set by this package on each request, or left out for good: a second one, or one that says how a
#: request is carried, would break it, or send another key.
_OWN_HEADERS: Final = frozenset(
    {
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "range",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
#: The characters of a header's name (RFC 9110, section 5.6.2). What has others is sent by one
#: library and refused by another, with each request.
_OF_NAMES: Final = r"0-9A-Za-z!#$%&'*+.^_`|~-"


def find_key(api_key: str | None) -> tuple[Secret, str]:
    """Return the key and where it came from. Raises `ConfigurationError` if it cannot be one."""
    source = "api_key" if api_key is not None else KEY_VARIABLE
    value = api_key if api_key is not None else os.environ.get(KEY_VARIABLE)
    if value is None:
        message = (
            f"no API key: pass api_key= or set {KEY_VARIABLE}. Nothing was sent. To try without a "
            "key, use the emulator (grok-video generate --emulator; grok_video.emulator.Emulator)."
        )
        raise ConfigurationError(message)
    if not isinstance(value, str):
        message = (
            f"{source} must be a key, as a str, and it is of type {type(value).__name__} (its "
            "value is not shown). Nothing was sent."
        )
        raise ConfigurationError(message)
    if not value.strip():
        message = f"{source} must be a key, and it is blank. Nothing was sent."
        raise ConfigurationError(message)
    # A line break would end the header and start another one.
    if not value.isascii() or not value.isprintable() or " " in value:
        flaw = "a line break" if "\n" in value or "\r" in value else "a space or another character"
        message = (
            f"{source} must be printable ASCII without spaces or line breaks, and it contains "
            f"{flaw} that a header cannot hold (its value is not shown). Nothing was sent."
        )
        raise ConfigurationError(message)
    return Secret(value), source


def find_base_url(base_url: str | None) -> tuple[str, str]:
    """Return the base URL, without a slash at its end, and where it came from."""
    source, value = "base_url", base_url
    if value is None:
        source, value = BASE_URL_VARIABLE, os.environ.get(BASE_URL_VARIABLE) or None
    if value is None:
        return DEFAULT_BASE_URL, "default"
    if not isinstance(value, str):
        message = f"{source} must be a str; got {redact(repr(value), limit=120)}. Nothing was sent."
        raise ConfigurationError(message)
    try:
        origin = Origin.of(value)
    except ValueError:
        origin = None
    if origin is None or not origin.can_be_resolved:
        message = (
            f"{source} must start with https:// (or http://) and name a host; got "
            f"{redact_url(value)!r}. Nothing was sent."
        )
        raise ConfigurationError(message)
    if not origin.host.isascii():
        # Libraries disagree on what such a name means, and the key would go to either host.
        message = f"{source} must have its host in ASCII (xn--...). Nothing was sent."
        raise ConfigurationError(message)
    if re.search(r"[?#\s\x00-\x1f]", value) or "@" in value.split("/")[2]:
        message = (
            f"{source} must be a plain URL without user, query or fragment; got "
            f"{redact_url(value)!r}. Nothing was sent."
        )
        raise ConfigurationError(message)
    value = value.rstrip("/")
    wanted = re.sub(r"(?i)(?<!/)/videos(/generations)?$", "", value)
    if wanted != value:
        message = (
            f"{source} must end before /videos, which is appended to it: give {wanted!r}; got "
            f"{value!r}. Nothing was sent."
        )
        raise ConfigurationError(message)
    return value, source


def checked_proxy(proxy: str | None) -> str | None:
    """Return the proxy as it is. Raises `ConfigurationError` if it is no http(s) URL."""
    if proxy is not None:
        try:
            can_be_resolved = Origin.of(proxy).can_be_resolved
        except (ValueError, AttributeError, TypeError):
            can_be_resolved = False
        if not can_be_resolved:
            message = "proxy must be an http(s) URL such as http://host:3128. Nothing was sent."
            raise ConfigurationError(message)
    return proxy


def checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return a copy. Raises `ConfigurationError` if a header is this package's, or would break."""
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        message = (
            "headers must be a mapping of names to values, such as {'X-Team': 'video'}, and it is "
            f"of type {type(headers).__name__} (its value is not shown). Nothing was sent."
        )
        raise ConfigurationError(message)
    checked = dict(headers)
    for name, value in checked.items():
        problem = _flaw_of_header(name, value)
        if problem is not None:
            raise ConfigurationError(f"{problem}. Nothing was sent.")
    return checked


def _flaw_of_header(name: object, value: object) -> str | None:
    """Return what is wrong with a header, without its value, or None."""
    if not isinstance(name, str):
        return f"headers must have names of type str; got {name!r}"
    ends = name.lower() == "connection" and value == "close"  # it is the server that goes by it
    if name.lower() in _OWN_HEADERS and not ends:
        return f"headers must not hold {name}: this client sets it, or leaves it out"
    if not re.fullmatch(f"[{_OF_NAMES}]+", name):
        # Not all of it: whoever writes "X-Key: secret" there has the value in the name.
        begin = re.sub(f"(?s)[^{_OF_NAMES}].*", "", name)
        shown = f"one that begins {begin!r}" if name else "an empty one"
        return f"headers must have names without spaces, colons and the like; got {shown}"
    if not isinstance(value, str) or re.search(r"[^\t -~\x80-\U0010ffff]", value):
        return f"headers[{name!r}] must be a str without line breaks or other control characters"
    if not value.isascii():
        # Libraries disagree on how anything else is sent.
        return f"headers[{name!r}] must be ASCII"
    if value != value.strip():
        return f"headers[{name!r}] must have no space at its beginning or end"
    return None
