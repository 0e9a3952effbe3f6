"""Secrets and how they are kept out of sight.

The API key lives in one type, `Secret`, whose every printed form is a mask; `redact` is the one
function that cleans text (answers, URLs, messages) before it reaches an error, a log or a repr.
Nothing here knows the API's documents: it sees strings and returns strings.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

#: Longest text kept of an answer: enough for every recorded error body (the longest is 420
#: characters), short enough for a log line or a database column.
BODY_LIMIT: Final = 2000
#: Characters that are looked at.
SCAN_LIMIT: Final = 2**16
#: Characters of a URL that are looked at: the host, and the beginning of the path.
_READ_OF_URL: Final = 2**13

# Not compiled here: `re` keeps what it compiled, and most processes redact little.

# A data URI's payload may be megabytes: the type and the length are the only useful facts.
# A "/" may come as JSON's "\/" and as a URL's "%2F".
_SLASH = r"(?:\\?/|%2[Ff])"
_DATA_URI: Final = (
    rf"data:([\w.+-]+{_SLASH}[\w.+-]+)?((?:;[\w.+=-]+)*),((?:[A-Za-z0-9+/=_%-]|\\/)*)"
)
# Long unbroken base64 outside a data URI (a gateway may echo only the tail of a body).
# Tried only where a run begins: from each of its characters, a document would take quadratic time.
_BASE64_RUN: Final = r"(?<![A-Za-z0-9+/])(?:[A-Za-z0-9+/]|\\/|%2[BbFf]){200,}+={0,2}"
# Whether the above is worth asking: a tenth of its price.
_SHORTEST_RUN: Final = 200
_LONG_RUN: Final = rb"(?<![A-Za-z0-9+/\\%%])[A-Za-z0-9+/\\%%]{%d}" % _SHORTEST_RUN
# Eight characters and more: "invalid bearer token" is a sentence, not a credential.
_BEARER: Final = r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"
_KEY_LIKE: Final = r"\b(sk|xai|comet)-[A-Za-z0-9_\-*.]{6,}"
# JSON may spell the slashes "\/", the ampersands "\u0026" (and within its strings "\\u0026").
_URL: Final = (
    r"[A-Za-z][A-Za-z0-9+.-]{0,20}:(?:\\{0,9}/){2}(?:[^\s\"'<>\\]|\\{1,9}(?:/|u[0-9A-Fa-f]{4}))+"
)
_ESCAPED: Final = r"\\{1,9}(?:/|u00([2-7][0-9A-Fa-f]))"
_LINK_OR_BASE64_RUN: Final = rf"({_URL})|{_BASE64_RUN}"


class Secret:
    """A string that never shows: repr, str, format, pickle and copies of it are masked or refused.

    `reveal()` is the only way to the value, so that one search finds every place that uses it.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        message = "an API key is not pickled; make the client in the process that uses it"
        raise TypeError(message)

    def __rich_repr__(self) -> Any:  # noqa: ANN401 - rich's protocol is untyped
        """Give rich's pretty printer the mask as well: it would look into the slots otherwise."""
        yield "***"


class Veiled:
    """A secret or a picture in an argument, in a form that never shows; see `veil`."""

    __slots__ = ("hidden",)

    def __init__(self, value: object) -> None:
        self.hidden = value

    def __repr__(self) -> str:
        return "<veiled>"


def veil(value: T) -> T:
    """Return a `Veiled`, typed as what it holds; None stays None.

    Programs that print tracebacks with local variables print the arguments of every call.
    """
    return value if value is None else cast("T", Veiled(value))


def veil_all(words: dict[str, Any]) -> None:
    """Veil each value of what was given by name; a mistyped name may hold a picture."""
    for name, value in words.items():
        words[name] = veil(value)


def lift(value: T) -> T:
    """Return what was veiled, however often; anything else as it is."""
    while isinstance(value, Veiled):
        value = cast("T", value.hidden)
    return value


def redact(text: str, *, limit: int = BODY_LIMIT, length: int = 0) -> str:
    """Return `text` without data URIs, keys and signed query strings, at most `limit` long.

    `length` is that of the whole, where `text` is its beginning.
    """
    length = length or len(text)
    # The cut comes twice: the patterns must not run over megabytes that nobody will read.
    shown = _hide(text[:SCAN_LIMIT])
    if len(shown) <= limit and length <= SCAN_LIMIT:
        return shown
    return f"{shown[:limit]}... ({length} characters)"


def redact_within(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a JSON document in which every text is redacted, however deep it is."""
    whole: dict[str, Any] = {}
    left: list[tuple[Any, Any]] = [(document, whole)]
    while left:
        found, copy = left.pop()
        for place, value in found.items() if hasattr(found, "items") else enumerate(found):
            copied: Any = value
            if isinstance(value, str):
                copied = redact(value)
            elif type(value) in (dict, list):
                copied = {} if hasattr(value, "items") else [None] * len(value)
                left.append((value, copied))
            copy[place] = copied
    return whole


def redact_url(url: str) -> str:
    """Return `url` without user, password, query values and fragment: what a log may hold.

    Query strings of storage links are signatures, so their values are secrets of their own.
    """
    if url[:5].lower() == "data:":
        return _hide(url)
    try:
        parts = urlsplit(url[:_READ_OF_URL])  # which keeps what it has split
        if len(parts.netloc) > _READ_OF_URL // 2:
            return "<unreadable URL>"  # it may be cut before the end of a password
        host = parts.hostname or ""
        if ":" in host:
            host = f"[{host}]"
        if parts.port is not None:
            host = f"{host}:{parts.port}"
    except ValueError:
        return "<unreadable URL>"
    query = "..." if parts.query else ""
    return urlunsplit((parts.scheme, host, parts.path[:500], query, ""))


def unescape(text: str) -> str:
    """Return a piece of JSON with the printable ASCII as itself that needs no escape in a string.

    A "/" or an "&" that is spelled otherwise hides from whoever looks for links and keys.
    """
    return re.sub(_ESCAPED, _unescaped, text) if "\\" in text else text


def _unescaped(match: re.Match[str]) -> str:
    if match[1] is None:
        return "/"
    plain = chr(int(match[1], 16))
    return match[0] if plain in ' "\\\x7f' else plain


def hide_key(body: bytes, key: str) -> bytes:
    """Return an answer without the key, should a server ever echo it, in JSON's escapes as well."""
    body = body.replace(key.encode(), b"***")
    if b"\\" not in body:
        return body
    longest = max(re.findall(r"[\w.-]*", key), key=len)
    # Letters and digits are never escaped, and most keys have nothing else.
    if longest == key or longest.encode() not in body:
        return body
    spelled = (rf"(?:\\{{0,9}}{re.escape(c)}|(?i:\\{{1,9}}u00{ord(c):02x}))" for c in key)
    return re.sub("".join(spelled).encode(), b"***", body)


def _hide(text: str) -> str:
    if "data:" in text:
        text = re.sub(_DATA_URI, _short_data_uri, text)
    text = re.sub(_BASE64_RUN, _short_base64, text)
    if ":/" in text or ":\\" in text:
        text = re.sub(_URL, lambda match: redact_url(unescape(match[0])), text)
    text = re.sub(_BEARER, r"\1 ***", text)
    return re.sub(_KEY_LIKE, r"\1-***", text)


def may_hold_pictures(body: bytes) -> bool:
    """Return whether a look for pictures in an answer is worth its price: it hardly ever is."""
    if b"data:" in body:
        return True
    return len(body) >= _SHORTEST_RUN and re.search(_LONG_RUN, body) is not None


def hide_pictures(body: bytes) -> bytes:
    """Return an answer without what looks like pictures, be they data URIs or bare base64.

    Only for what is shown: ids and the signatures of links look like pictures as well.
    """
    if not may_hold_pictures(body):
        return body
    text = body.decode("latin-1")  # byte for byte, there and back
    text = re.sub(_DATA_URI, _short_data_uri, text)
    return re.sub(_BASE64_RUN, _short_base64, text).encode("latin-1")


def hide_pictures_within(document: dict[str, Any], *, in_haste: bool = False) -> None:
    """Take the pictures out of every text of a JSON document; links stay as they are.

    `in_haste` takes out every text that is long enough to hold one, unless a link begins it: the
    patterns would run for a second over megabytes, and hold up the event loop.
    """
    left: list[Any] = [document]
    while left:  # however deep it is
        found = left.pop()
        for place in list(found) if hasattr(found, "keys") else range(len(found)):
            value: Any = found[place]
            if isinstance(value, str):
                if not in_haste:
                    found[place] = _hide_pictures_beside_links(value)
                elif "data:" in value or (
                    len(value) >= _SHORTEST_RUN and not value.startswith(("http:", "https:"))
                ):
                    found[place] = f"<{len(value)} characters>"
            elif isinstance(value, dict | list):
                left.append(value)


def _hide_pictures_beside_links(text: str) -> str:
    if len(text) > SCAN_LIMIT:
        return f"{_hide_pictures_beside_links(text[:SCAN_LIMIT])}... ({len(text)} characters)"
    if "data:" in text:
        text = re.sub(_DATA_URI, _short_data_uri, text)
    return re.sub(_LINK_OR_BASE64_RUN, lambda found: found[1] or _short_base64(found), text)


def _short_base64(match: re.Match[str]) -> str:
    return f"<{len(match[0])} characters of base64>"


def _short_data_uri(match: re.Match[str]) -> str:
    return f"data:{match[1] or ''}{match[2] or ''},<{len(match[3])} characters>"
