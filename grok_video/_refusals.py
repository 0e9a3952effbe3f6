"""Answers that refuse: every error body to one error, and the wait that the server asks for.

An error is told by its body before its status, and whether it proves that a create was *refused* is
read here, because only the body tells. What must never happen here: a decision to try again, a
clock, I/O, and a text of the server that is shown before it was redacted.
"""

from __future__ import annotations

import email.utils
import json
import math
import re
from typing import TYPE_CHECKING, Any, Final

from grok_video._errors import (
    APIError,
    AuthenticationError,
    BadRequest,
    InsufficientBalance,
    NotFound,
    PermissionDenied,
    RateLimited,
    ServerError,
    UnexpectedResponse,
)
from grok_video._rawanswer import excerpt, is_object, looks_like_html
from grok_video._redaction import hide_pictures, redact

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["TEXT_LIMIT", "read_error", "read_retry_after"]

# Not compiled here: `re` keeps what it compiled, and most processes never read an error.
_GATEWAY_ID: Final = r"\(request id:\s*([^)\s]+)\s*\)"
#: Characters of an error text that are looked at: the longest recorded one has 230, and patterns
#: must not run over megabytes.
TEXT_LIMIT: Final = 2**14
#: The longest wish in seconds that is believed. No service asks for more than a day, but Unix
#: seconds in place of a span, or a date by a clock that is wrong, would hold a client up for years.
_LONGEST_BELIEVED: Final = 86_400.0
_NO_MONEY: Final = (
    r"(?i)quota is not enough|insufficient[_ ](user[_ ])?(quota|balance|credit|fund)|"
    r"used all available credits|spending limit|purchase more credits|out of credits|"
    r"(balance|credits?) (is |are )?(exhausted|not enough|insufficient|too low)"
)
_BAD_KEY: Final = (
    r"(?i)incorrect api key|invalid (api[ _]key|token|bearer token|key provided)|"
    r"api key (is )?(invalid|missing|not found)|no api key"
)
_BAD_REQUEST_CODES = frozenset(
    {"invalid_request", "convert_request_failed", "invalid_argument", "invalid-argument"}
)
_NO_CHANNEL: Final = r"(?i)no available channel|model_not_found"
# Envoy writes the reset reason; with these the upstream never had the request. A "connection
# termination" or "remote reset" may come after it had. The last are the gateway's own words, which
# it has for a 429 as well.
_NEVER_REACHED_UPSTREAM: Final = (
    r"(?i)upstream connect error.*reset reason:\s*"
    r"(connection timeout|connection failure|overflow|remote connection failure)|"
    r"no healthy upstream|current group is saturated upstream"
)

_ADVICE: Final[dict[type[APIError], str]] = {
    BadRequest: "The same request will fail again.",
    AuthenticationError: "Check the key (COMETAPI_KEY) and that it belongs to this base URL.",
    PermissionDenied: "The key may not do this, or a firewall in front of the API blocked it.",
    InsufficientBalance: "Waiting does not help; top up the account.",
    NotFound: "Check the id (of a poll) or the model's name (of a create).",
    RateLimited: "Slow down; retry_after has the server's wish, where it gave one.",
    ServerError: "The fault is on the server's side.",
    UnexpectedResponse: "The base URL or path is probably wrong.",
}
#: What to check where the code says what was not found.
_ADVICE_BY_CODE: Final = {
    "task_not_exist": "Check the id, and that the key is of the account that made the job.",
    "model_not_found": "Check the model's name.",
}


def read_error(status: int, headers: Mapping[str, str], body: bytes, *, now: float) -> APIError:
    """Return the error that an answer means, told by its body before its status.

    `now` is Unix seconds, for a Retry-After that names a date without the server's own Date.
    """
    # Its beginning is all that is looked at: the patterns must not hold up the event loop.
    body = hide_pictures(body[: 2 * TEXT_LIMIT])
    code, text, is_json = _read_error_body(body)
    html = not is_json and looks_like_html(body)
    kind = _classify(status, code, text, html=html)
    shown = "an HTML page" if html else (redact(text, limit=300) or "an empty body")
    label = f" [{redact(code, limit=100)}]" if code else ""
    request = re.search(_GATEWAY_ID, text)
    facts: dict[str, Any] = {
        "status": status,
        "code": redact(code, limit=200) if code else code,
        "gateway_request_id": request[1] if request else _header_id(headers),
        "body": excerpt(body),
        "retry_after": read_retry_after(headers, now=now),
        "refused": _is_refusal(kind, status, code, text),
    }
    advice = (_ADVICE_BY_CODE.get(_word(code)) if kind is NotFound else None) or _ADVICE[kind]
    sentence = f"the API answered HTTP {status}{label}: {shown.rstrip('.')}. {advice}"
    return kind(sentence, **facts)


def _read_error_body(body: bytes) -> tuple[str | None, str, bool]:
    """Return (code, text, was JSON) of any of the four families."""
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):
        return None, body[:TEXT_LIMIT].decode("utf-8", "replace").strip(), False
    if not is_object(raw):
        return None, redact(json.dumps(raw)), True
    inner: Any = raw.get("error")
    code: Any = raw.get("code")
    text: Any = raw.get("message")
    if is_object(inner):
        code = inner.get("code") or code
        text = inner.get("message") or text
    elif isinstance(inner, str):
        text = inner
    if not isinstance(text, str) or not text:
        text = json.dumps(raw)
    word = None if code is None or code == "" or isinstance(code, bool) else str(code)
    return word and word[:TEXT_LIMIT], text[:TEXT_LIMIT], True


def _word(code: str | None) -> str:
    return (code or "").strip().lower()


def _classify(status: int, code: str | None, text: str, *, html: bool) -> type[APIError]:
    word = _word(code)
    if status == 402 or re.search(_NO_MONEY, text) or re.search(_NO_MONEY, word):
        return InsufficientBalance
    if status == 401 or (status in (400, 403) and re.search(_BAD_KEY, text)):
        return AuthenticationError
    if word in ("task_not_exist", "model_not_found") or (
        status == 503 and re.search(_NO_CHANNEL, text)
    ):
        return NotFound
    if word in _BAD_REQUEST_CODES:
        return BadRequest
    if status == 429:
        return RateLimited
    if status >= 500 or status == 408:
        return ServerError
    if status == 403:
        return PermissionDenied
    if html or status < 200 or 300 <= status < 400:
        return UnexpectedResponse
    if status == 404:
        return NotFound
    return BadRequest


def _is_refusal(
    kind: type[APIError],
    status: int,
    code: str | None,
    text: str,
) -> bool:
    """Return whether this answer to a create proves that no job was made."""
    if status < 200:
        return False
    if status < 300 and kind is BadRequest:
        # "Taken" above and an error below: only an error that is known says which of them holds.
        return _word(code) in _BAD_REQUEST_CODES
    if kind is not ServerError:
        return True
    # That it asks to come back proves nothing: with a Retry-After gateways answer as well where the
    # upstream had the request and did not answer in time (Varnish's "Backend fetch failed").
    return status == 503 and re.search(_NEVER_REACHED_UPSTREAM, text) is not None


def read_retry_after(headers: Mapping[str, str], *, now: float) -> float | None:
    """Return the server's wish in seconds: from milliseconds, seconds or a date; None without one.

    One of more than a day is a mistake, and none. A date is measured against the answer's own Date,
    so that a wrong clock on either side does not matter; `now` (Unix seconds) stands in where there
    is none. Dates are cut to whole seconds, so a second more is taken: a wish is honoured in full.
    """
    value = headers.get("retry-after-ms")
    if value is not None and (seconds := _positive(value)) is not None:
        wish = _believable(seconds / 1000)
        if wish is not None:
            return wish
    value = headers.get("retry-after")
    if value is None:
        return None
    if (seconds := _positive(value)) is not None:
        return _believable(seconds)
    then = _date(value)
    if then is None:
        return None
    left = then - (_date(headers.get("date", "")) or now)
    return _believable(left + 1.0) if left >= 0 else 0.0


def _believable(seconds: float) -> float | None:
    return seconds if seconds <= _LONGEST_BELIEVED else None


def _positive(text: str) -> float | None:
    try:
        number = float(text.strip())
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _date(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _header_id(headers: Mapping[str, str]) -> str | None:
    found = headers.get("x-oneapi-request-id") or headers.get("x-request-id")
    return found[:200] if found else None
