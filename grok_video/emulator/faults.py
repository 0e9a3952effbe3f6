"""Everything that can be made to go wrong: the fault classes, and the answers that have a name.

What users of the emulator import. The classes and their docstrings are in `_faults`; the functions
here make `Answer`s that the contract has on record, so that no test has to spell them.
"""

from __future__ import annotations

from typing import Literal

from ._faults import (
    Answer,
    Backwards,
    CloseOnAccept,
    CutAnswer,
    CutFile,
    CutRequest,
    DeepJSON,
    DoneWithoutURL,
    EndlessHeaders,
    Expired,
    Failed,
    Fault,
    FileFault,
    GzipBomb,
    HugeJSON,
    IgnoreRange,
    LifeFault,
    LinkDied,
    Moderated,
    OtherVersion,
    Pass,
    Redirect,
    Refuse,
    Stall,
    StuckProgress,
    TaskNotExist,
    UnknownStatus,
    WrongLength,
)

for _public in (
    Answer,
    Backwards,
    CloseOnAccept,
    CutAnswer,
    CutFile,
    CutRequest,
    DeepJSON,
    DoneWithoutURL,
    EndlessHeaders,
    Expired,
    Failed,
    Fault,
    FileFault,
    GzipBomb,
    HugeJSON,
    IgnoreRange,
    LifeFault,
    LinkDied,
    Moderated,
    OtherVersion,
    Pass,
    Redirect,
    Refuse,
    Stall,
    StuckProgress,
    TaskNotExist,
    UnknownStatus,
    WrongLength,
):
    _public.__module__ = __name__

__all__ = [
    "Answer",
    "Backwards",
    "CloseOnAccept",
    "CutAnswer",
    "CutFile",
    "CutRequest",
    "DeepJSON",
    "DoneWithoutURL",
    "EndlessHeaders",
    "Expired",
    "Failed",
    "Fault",
    "FileFault",
    "GzipBomb",
    "HugeJSON",
    "IgnoreRange",
    "LifeFault",
    "LinkDied",
    "Moderated",
    "OtherVersion",
    "Pass",
    "Redirect",
    "Refuse",
    "Stall",
    "StuckProgress",
    "TaskNotExist",
    "UnknownStatus",
    "WrongLength",
    "bad_upstream",
    "disguised_bad_request",
    "empty_202",
    "html_page",
    "invalid_token",
    "no_channel",
    "out_of_credits",
    "out_of_quota",
    "overloaded",
    "rate_limited",
    "timed_out",
]


def rate_limited(
    seconds: float | None = None,
    style: Literal["seconds", "date", "ms"] = "seconds",
    *,
    status: int = 429,
) -> Answer:
    """A 429 of the gateway that may be retried, with `Retry-After` if `seconds` is given."""
    message = "The current group is saturated upstream, please try again later"
    return Answer(
        status,
        {"error": {"message": message, "type": "comet_api_error", "param": "", "code": ""}},
        retry_after="none" if seconds is None else style,
        retry_after_seconds=seconds or 0.0,
    )


def out_of_credits() -> Answer:
    """The provider's 429 that no retry cures."""
    text = (
        "Your team has either used all available credits or reached its monthly spending limit. "
        "To continue making API requests, please purchase more credits or raise your spending "
        "limit."
    )
    return Answer(429, {"code": "Some resource has been exhausted", "error": text})


def out_of_quota() -> Answer:
    """The gateway's 403 for an exhausted balance."""
    return Answer(403, {"code": None, "message": "user quota is not enough"})


def invalid_token() -> Answer:
    """The gateway's 401."""
    return Answer(401, {"error": {"message": "Invalid token", "type": "comet_api_error"}})


def disguised_bad_request() -> Answer:
    """A 500 that is a bad request, as the gateway was seen to answer a missing field."""
    error = {
        "message": "field prompt is required (request id: 20260205132859798638387SIHCnxzJ)",
        "type": "comet_api_error",
        "param": "",
        "code": "invalid_request",
    }
    return Answer(500, {"error": error})


def no_channel() -> Answer:
    """The gateway's 503 for a model nothing serves."""
    message = (
        "no available channel for group default and model grok-imagine-video-1.5 (distributor) "
        "(request id: 20260205132859798638387SIHCnxzJ)"
    )
    error = {"code": "model_not_found", "message": message, "type": "comet_api_error"}
    return Answer(503, {"error": error})


def bad_upstream(*, accepted: bool = False) -> Answer:
    """The 502 of a gateway whose upstream answered nonsense, perhaps after it accepted."""
    body: dict[str, object] = {
        "code": "upstream_query_failed",
        "message": "invalid upstream query response",
        "data": None,
    }
    return Answer(502, body, accepted=accepted)


def overloaded() -> Answer:
    """The proxy's text/plain 503 before any upstream took the request."""
    text = (
        "upstream connect error or disconnect/reset before headers. "
        "reset reason: connection timeout"
    )
    return Answer(503, text, content_type="text/plain")


def html_page(status: int = 200, title: str = "Welcome", *, accepted: bool = False) -> Answer:
    """A page of HTML where JSON, or a video, was expected."""
    text = f"<!DOCTYPE html><html><head><title>{title}</title></head><body>{title}</body></html>"
    return Answer(status, text, content_type="text/html; charset=utf-8", accepted=accepted)


def timed_out(status: int = 524, *, accepted: bool = False) -> Answer:
    """Cloudflare's own page for an origin that took too long."""
    return html_page(status, f"api.cometapi.com | {status}: A timeout occurred", accepted=accepted)


def empty_202() -> Answer:
    """A 202 without a body: pending for a poll, nothing for a create."""
    return Answer(202)
