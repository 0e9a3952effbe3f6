"""The bodies this service answers with: every poll form and every error of the contract.

Pure: facts in, a status and a body out. The forms are those of the contract's section 3, the
error bodies those of section 4; nothing here knows a socket, a clock or a job's whole story.
"""

from __future__ import annotations

import json
import string
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

if TYPE_CHECKING:
    import random

    from ._life import Moment

Form = Literal["flat", "envelope", "native", "native-empty", "early"]
"""How a poll is answered: CometAPI's current page, its older page, xAI's own answers, the same
with empty bodies while the job runs, and xAI's early answers that carry no status when done."""

FORMS: Final[tuple[Form, ...]] = ("flat", "envelope", "native", "native-empty", "early")

PROVIDERS: Final[tuple[Form, ...]] = ("native", "native-empty", "early")
"""The forms without a gateway in between: errors are the provider's too."""

JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"
HTML: Final = "text/html"

MODERATED_CODE: Final = "imagine:content-moderated"
MODERATED_TEXT: Final = "Generated video rejected by content moderation."

_OUTER: Final = {
    "accepted": "NOT_START",
    "queued": "QUEUED",
    "processing": "IN_PROGRESS",
    "done": "SUCCESS",
    "failed": "FAILURE",
    # The gateway has no word for it: the nested status is the one that tells.
    "expired": "UNKNOWN",
}
_BEIJING: Final = timezone(timedelta(hours=8))
_ALPHABET: Final = string.ascii_letters + string.digits


@attrs.frozen
class Reply:
    """One HTTP answer as a value: nothing of it has been sent."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


@attrs.frozen
class Facts:
    """What a poll may say about one job."""

    request_id: str
    model: str
    duration: int
    ticks: int
    submitted: float
    """Unix seconds of the create."""
    finished: float = 0.0
    """Unix seconds of the end, 0 while it runs."""
    url: str = ""
    moderated: bool = False
    """Done but withheld: the URL is empty and `respect_moderation` is false."""
    code: str = ""
    message: str = ""
    """Why it failed."""


def as_json(status: int, value: object) -> Reply:
    """An answer with this JSON body."""
    return Reply(status, json.dumps(value, separators=(",", ":")).encode())


def poll(form: Form, moment: Moment, facts: Facts, word: str | None = None) -> Reply:
    """The answer to one poll in this form; `word` replaces the status, as a new API might."""
    if form == "envelope":
        return _envelope(moment, facts, word)
    if form == "flat":
        return as_json(200, _flat(moment, facts, word))
    if moment.stage in ("accepted", "queued", "processing"):
        if form == "native-empty":
            return Reply(202)
        return as_json(202, {"status": word or "pending", "progress": moment.percent})
    body = _provider(moment, facts, word)
    if form == "early" and moment.stage == "done" and word is None:
        del body["status"]
    return as_json(200, body)


def _flat(moment: Moment, facts: Facts, word: str | None) -> dict[str, Any]:
    named = {"request_id": facts.request_id}
    if moment.stage == "accepted" and word is None:
        return named
    if moment.stage in ("accepted", "queued", "processing"):
        return named | {"status": word or moment.stage, "progress": moment.percent}
    return named | _provider(moment, facts, word)


def _provider(moment: Moment, facts: Facts, word: str | None) -> dict[str, Any]:
    """The nested object: what the provider itself says about a job that has ended."""
    if moment.stage == "expired":
        return {"status": word or "expired"}
    if moment.stage == "failed":
        # Recorded: the video object is there and empty, the model blank, the progress back at 0.
        return {
            "status": word or "failed",
            "video": {"url": "", "duration": 0, "respect_moderation": True},
            "model": "",
            "error": {"code": facts.code, "message": facts.message},
            "progress": 0,
        }
    return {
        "status": word or "done",
        "video": {
            "url": "" if facts.moderated else facts.url,
            "duration": facts.duration,
            "respect_moderation": not facts.moderated,
        },
        "model": facts.model,
        "usage": {"cost_in_usd_ticks": facts.ticks},
        "progress": 100,
    }


def _envelope(moment: Moment, facts: Facts, word: str | None) -> Reply:
    running = moment.stage in ("accepted", "queued", "processing")
    inner: dict[str, Any] | None
    if moment.stage == "accepted":
        inner = None
    elif running:
        inner = {"status": word or "pending", "progress": moment.percent}
    else:
        inner = _provider(moment, facts, word)
        del inner["status"]
        # The one recorded envelope ends with the status and has no nested progress.
        inner.pop("progress", None)
        inner["status"] = word or moment.stage
    # The documented success carries the result's address in `fail_reason`.
    reason = facts.url if moment.stage == "done" and not facts.moderated else facts.message
    data = {
        "task_id": facts.request_id,
        "action": "VIDEO_GENERATION",
        "status": _OUTER[moment.stage],
        "fail_reason": "" if running else reason,
        "submit_time": int(facts.submitted),
        "start_time": 0,
        "finish_time": 0 if running else int(facts.finished),
        "progress": f"{moment.percent}%" if running else "100%",
        "data": inner,
    }
    return as_json(200, {"code": "success", "message": "", "data": data})


def gateway_request_id(now: float, chance: random.Random) -> str:
    """An id as the gateway writes it: UTC+8 to the second, nanoseconds, eight random characters."""
    stamp = datetime.fromtimestamp(now, UTC).astimezone(_BEIJING).strftime("%Y%m%d%H%M%S")
    nanoseconds = int(now % 1 * 1e9)
    return f"{stamp}{nanoseconds:09d}{''.join(chance.choices(_ALPHABET, k=8))}"


def gateway_error(
    status: int, message: str, request_id: str, *, param: str = "", code: str = ""
) -> Reply:
    """CometAPI's own error body (family G), the request id at the end of its message."""
    error = {
        "message": f"{message} (request id: {request_id})",
        "type": "comet_api_error",
        "param": param,
        "code": code,
    }
    return as_json(status, {"error": error})


def provider_error(status: int, code: str, text: str, ticks: int | None = None) -> Reply:
    """The error body of xAI itself (family P), with usage where the failure was billed."""
    body: dict[str, Any] = {"code": code, "error": text}
    if ticks is not None:
        body["usage"] = {"cost_in_usd_ticks": ticks}
    return as_json(status, body)


def wrong_key() -> Reply:
    """The provider's answer to a key that is not one of its own (family P, a 400)."""
    text = (
        "Incorrect API key provided. You can obtain an API key from the console of the provider; "
        "the emulator's is in the line that it prints and in `emulator.api_key`."
    )
    return provider_error(400, "invalid-argument", text)


def not_found(what: str) -> Reply:
    """The provider's answer for an id or a model that it does not know."""
    return provider_error(404, "Some requested entity was not found", what)


def task_not_exist() -> Reply:
    """The answer for an id the gateway does not know, or not yet (family T)."""
    return as_json(400, {"code": "task_not_exist", "message": "task_not_exist", "data": None})


def unreadable(message: str, end: tuple[int, int]) -> Reply:
    """The provider's text/plain 422 for a body of wrong shape that ends at this line and column."""
    text = "Failed to deserialize the JSON body into the target type: "
    return Reply(422, f"{text}{message} at line {end[0]} column {end[1]}".encode(), TEXT)


def page(status: int, title: str) -> Reply:
    """A gateway's HTML page, as a wrong path or a proxy answers."""
    text = (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n"
        f"<center><h1>{title}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
    return Reply(status, text.encode(), HTML)
