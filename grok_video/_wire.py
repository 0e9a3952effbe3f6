"""The one place that knows the API's spelling: JSON to models, models to JSON, nothing else.

Every form of an answer (contract.md, sections 3 and 4) is read here: flat, envelope, native, bare,
early native, provider errors, gateway errors, text and HTML. Reading is tolerant (unknown keys and
status words are accepted) and never guesses: what cannot be read is an `UnexpectedResponse` with
its JSON path. No clock, no I/O, no retry decisions; whether an answer proves that a create was
*refused* is read here, because only the body tells.
"""

from __future__ import annotations

import email.utils
import json
import math
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NewType, TypeGuard, cast

import cattrs
from attrs import frozen

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
from grok_video._models import JobFailure, JobStatus, Snapshot, Video
from grok_video._redaction import redact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from grok_video._requests import VideoRequest

CREATE_PATH: Final = "/videos/generations"
POLL_PATH: Final = "/videos/"
#: One tick of `usage.cost_in_usd_ticks` in US dollars.
USD_PER_TICK: Final = Decimal("1e-10")

# --- documents -----------------------------------------------------------------------------------
# One class stands for all three levels of an answer (envelope, task, provider), because gateways
# move keys between the levels and a reader that looks on one level only would miss them.

Lenient = NewType("Lenient", str)
Number = NewType("Number", float)
Flag = NewType("Flag", bool)


@frozen
class VideoDocument:
    url: str | None = None
    duration: Number | None = None
    respect_moderation: Flag | None = None


@frozen
class UsageDocument:
    cost_in_usd_ticks: Number | None = None


@frozen
class ErrorDocument:
    code: Lenient | None = None
    message: Lenient | None = None
    type: Lenient | None = None


@frozen
class Document:
    status: str | None = None
    request_id: Lenient | None = None
    id: Lenient | None = None
    task_id: Lenient | None = None
    taskId: Lenient | None = None  # noqa: N815 - the wire's spelling
    progress: Number | None = None
    model: Lenient | None = None
    usage: UsageDocument | None = None
    video: VideoDocument | None = None
    error: ErrorDocument | None = None
    code: Lenient | None = None
    message: Lenient | None = None
    fail_reason: Lenient | None = None
    result_url: str | None = None
    video_url: str | None = None
    data: Document | None = None

    @property
    def identity(self) -> str | None:
        return self.request_id or self.task_id or self.taskId or self.id


def _text(value: Any, _: Any) -> str:  # noqa: ANN401 - raw JSON
    if not isinstance(value, str):
        message = f"expected a string, found {_kind(value)}"
        raise TypeError(message)
    return value


def _lenient(value: Any, _: Any) -> str:  # noqa: ANN401
    """Read a word that decides nothing by its type: codes come as numbers, messages as objects."""
    return value if isinstance(value, str) else json.dumps(value)


def _number(value: Any, _: Any) -> float | None:  # noqa: ANN401
    """Read a number that may come as text ("45%"); None for anything that is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        try:
            value = float(value.strip().rstrip("%"))
        except ValueError:
            return None
    if isinstance(value, int):
        return value if abs(value) < 2**63 else None
    return value if isinstance(value, float) and math.isfinite(value) else None


def _flag(value: Any, _: Any) -> bool | None:  # noqa: ANN401
    return value if isinstance(value, bool) else None


def _is_object(value: Any) -> TypeGuard[dict[str, Any]]:  # noqa: ANN401
    return isinstance(value, dict)


def _kind(value: Any) -> str:  # noqa: ANN401
    names: dict[type, str] = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(cast("type[object]", type(value)), "null" if value is None else "a number")


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=True)
    converter.register_structure_hook(str, _text)
    converter.register_structure_hook(Lenient, _lenient)
    converter.register_structure_hook(Number, _number)
    converter.register_structure_hook(Flag, _flag)
    read_video = converter.get_structure_hook(VideoDocument)
    read_usage = converter.get_structure_hook(UsageDocument)
    read_error = converter.get_structure_hook(ErrorDocument)

    def video(value: Any, kind: Any) -> Any:  # noqa: ANN401
        return read_video(_an_object(value), kind)

    def usage(value: Any, kind: Any) -> Any:  # noqa: ANN401
        # A price that cannot be read must not cost a video.
        return read_usage(value, kind) if isinstance(value, dict) else UsageDocument()

    def error(value: Any, kind: Any) -> Any:  # noqa: ANN401
        if isinstance(value, dict):
            return read_error(value, kind) if value else None
        return ErrorDocument(message=Lenient(_lenient(value, kind))) if value else None

    converter.register_structure_hook(VideoDocument, video)
    converter.register_structure_hook(UsageDocument, usage)
    converter.register_structure_hook(ErrorDocument, error)
    read_document = cattrs.gen.make_dict_structure_fn(
        Document, converter, _cattrs_detailed_validation=True
    )

    def document(value: Any, kind: Any) -> Any:  # noqa: ANN401
        if isinstance(value, str):
            # The gateway family stores the provider's answer as JSON text in some versions.
            try:
                value = json.loads(value) if value.strip() else None
            except ValueError:
                value = None
        return read_document(_an_object(value), kind) if value else None

    converter.register_structure_hook(Document, document)
    return converter


def _an_object(value: Any) -> dict[str, Any]:  # noqa: ANN401
    if not _is_object(value):
        message = f"expected an object, found {_kind(value)}"
        raise TypeError(message)
    return value


_CONVERTER: Final = _make_converter()


# --- writing -------------------------------------------------------------------------------------


def write_create(request: VideoRequest) -> tuple[bytes, bytes]:
    """Return what stands before and after the image's URL in the body of a create.

    Without an image the second part is empty and the first is the whole body. Only what the caller
    set is sent.
    """
    fields = json.dumps(request.settings(), separators=(",", ":")).encode()
    if request.image is None:
        return fields, b""
    return fields[:-1] + b',"image":{"url":"', b'"}}'


# --- reading a create ----------------------------------------------------------------------------


def read_create(status: int, headers: Mapping[str, str], body: bytes, *, now: float) -> str:
    """Return the job's id.

    Raises the `APIError` that the answer means. Its `refused` is False where the answer does not
    prove that no job exists: a 5xx, or a 2xx that cannot be read or has no id.
    """
    if not 200 <= status < 300:
        raise read_error(status, headers, body, now=now)
    document, _ = _read_document(status, body, refused=False)
    found: Document | None = document
    while found is not None:
        if found.identity:
            return found.identity
        found = found.data
    if document.error is not None or (document.code and not _is_success(document.code)):
        raise read_error(status, headers, body, now=now)
    raise UnexpectedResponse(
        f"the create was answered with HTTP {status} and no request_id",
        status=status,
        path="$.request_id",
        body=_excerpt(body),
        refused=False,
    )


# --- reading a poll ------------------------------------------------------------------------------

_WORDS: Final = {
    **dict.fromkeys(
        ("queued", "pending", "submitted", "not_start", "unknown", ""), JobStatus.QUEUED
    ),
    **dict.fromkeys(("processing", "in_progress", "running"), JobStatus.PROCESSING),
    **dict.fromkeys(("done", "completed", "succeeded", "success", "complete"), JobStatus.DONE),
    **dict.fromkeys(
        ("failed", "failure", "error", "rejected", "cancelled", "canceled"), JobStatus.FAILED
    ),
    **dict.fromkeys(("expired", "timeout"), JobStatus.EXPIRED),
}


def read_poll(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    request_id: str,
    now: float,
    delivered_elsewhere: bool = False,
) -> Snapshot:
    """Return what one answer says about the job.

    A 4xx can be the job's own verdict (moderation) and a 2xx can be an error: the body decides.
    `delivered_elsewhere` says that the create asked for `output.upload_url`, so that done without
    a URL is a success. Raises the `APIError` that the answer means where it says nothing about
    the job.
    """
    if 200 <= status < 300:
        if not body.strip():
            return Snapshot(request_id, JobStatus.QUEUED)
        try:
            document, raw = _read_document(status, body, refused=True)
        except UnexpectedResponse:
            if status == 202:  # "accepted, not ready", whatever it carries
                return Snapshot(request_id, JobStatus.QUEUED)
            raise
        if _is_task_error(document):
            raise read_error(status, headers, body, now=now)
        return _read_snapshot(document, raw, request_id, status, delivered_elsewhere)
    error = read_error(status, headers, body, now=now)
    if status == 400 and type(error) is BadRequest:
        verdict = _provider_verdict(body)
        if verdict is not None:
            document, raw = verdict
            return Snapshot(request_id, JobStatus.FAILED, error=_failure([document]), raw=raw)
    raise error


def _is_success(code: str) -> bool:
    return code.strip().lower() in ("success", "ok", "0", "200")


def _is_task_error(document: Document) -> bool:
    """Tell `{code: "task_not_exist", message, data: null}` from everything else that is a 2xx."""
    return (
        document.code is not None
        and document.code != ""
        and not _is_success(document.code)
        and document.error is None
        and document.data is None
        and document.status is None
        and document.video is None
        and document.message is not None
    )


def _provider_verdict(body: bytes) -> tuple[Document, dict[str, Any]] | None:
    """Return the provider's `{code, error: "text"}`, which on a poll is the job's end."""
    try:
        raw = json.loads(body)
        if _is_object(raw) and isinstance(raw.get("error"), str):
            return _read_document(400, body, refused=True)
    except (ValueError, RecursionError, UnexpectedResponse):
        pass
    return None


def _read_document(status: int, body: bytes, *, refused: bool) -> tuple[Document, dict[str, Any]]:
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError) as error:
        html = _looks_like_html(body)
        what = "HTML" if html else "something that is not JSON"
        hint = "; the base URL or path is probably wrong" if html else ""
        why = "it is nested too deeply" if isinstance(error, RecursionError) else "unreadable"
        raise UnexpectedResponse(
            f"the API answered HTTP {status} with {what} ({why}){hint}",
            status=status,
            body=_excerpt(body),
            # A page with a 2xx is most likely a wrong address, and still proves nothing.
            refused=refused,
        ) from None
    if not _is_object(raw):
        raise UnexpectedResponse(
            f"the API answered HTTP {status} with JSON that is {_kind(raw)}, not an object",
            status=status,
            path="$",
            body=_excerpt(body),
            refused=refused,
        )
    try:
        found: Document | None = _CONVERTER.structure(raw, Document)
        return found if found is not None else Document(), raw
    except (cattrs.BaseValidationError, RecursionError) as error:
        path, why = _explain(error)
        raise UnexpectedResponse(
            f"the API's answer (HTTP {status}) cannot be read at {path}: {why}",
            status=status,
            path=path,
            body=_excerpt(body),
            refused=refused,
        ) from None


def _explain(error: Exception) -> tuple[str, str]:
    if isinstance(error, RecursionError):
        return "$.data", "it is nested too deeply"
    found = cattrs.transform_error(error, format_exception=lambda inner, _: str(inner))
    why, _, path = found[0].rpartition(" @ ")
    return path, why


def _read_snapshot(
    document: Document,
    raw: dict[str, Any],
    request_id: str,
    http_status: int,
    delivered_elsewhere: bool,
) -> Snapshot:
    if document.data is None and document.status is not None:
        # Most answers are flat and say that the job goes on: no need to look further.
        state = _word(document.status) or JobStatus.PROCESSING
        if not state.is_terminal and document.status.strip():
            return Snapshot(request_id, state, _progress([document]), None, None, raw)
    # The levels from the outside in; the last one is the provider's own document.
    levels = [document]
    while levels[-1].data is not None:
        levels.append(levels[-1].data)
    provider = levels[-1]
    outer = [level.status for level in levels[:-1] if level.status is not None]
    progress = _progress(levels)
    status = _decide(outer, provider.status, levels)
    if status is None:
        raise UnexpectedResponse(
            f"the API answered HTTP {http_status} with a document that says nothing about a job",
            status=http_status,
            path="$",
            body=redact(json.dumps(raw)),
        )
    if status is JobStatus.DONE:
        url = _url(levels, finished=True)
        flags = [level.video.respect_moderation for level in levels if level.video is not None]
        if False in flags:
            held = _failure(levels, text="the video was held back by moderation", moderated=True)
            return Snapshot(request_id, JobStatus.FAILED, progress, None, held, raw)
        if url is None and not delivered_elsewhere:
            missing = _failure(levels, text="the job is done and the answer has no video URL")
            return Snapshot(request_id, JobStatus.FAILED, progress, None, missing, raw)
        video = _video(levels, request_id, url)
        return Snapshot(request_id, status, progress, video, None, raw)
    if status is JobStatus.FAILED:
        return Snapshot(request_id, status, progress, None, _failure(levels), raw)
    if status is JobStatus.EXPIRED:
        error = _failure(levels) if _reason(levels) else None
        return Snapshot(request_id, status, progress, None, error, raw)
    return Snapshot(request_id, status, progress, None, None, raw)


def _decide(outer: list[str], provider: str | None, levels: list[Document]) -> JobStatus | None:
    """Apply the reading order of contract.md section 3; None if the document says nothing."""
    outer_states = [state for word in outer if (state := _word(word)) is not None]
    if JobStatus.FAILED in outer_states:
        return JobStatus.FAILED
    if provider is not None and provider.strip():
        # An unknown word means "still running": bounded by the caller's deadline.
        return _word(provider) or JobStatus.PROCESSING
    if outer:
        return outer_states[-1] if outer_states else JobStatus.PROCESSING
    if _url(levels, finished=False) is not None:
        return JobStatus.DONE
    if any(level.error is not None for level in levels):
        return JobStatus.FAILED
    if provider is not None or any(level.identity for level in levels):
        return JobStatus.QUEUED
    first = levels[0]
    if first.code is not None or first.progress is not None:
        return JobStatus.QUEUED  # an envelope whose `data` is null or empty
    return None


def _word(word: str) -> JobStatus | None:
    return _WORDS.get(word.strip().lower())


def is_known_word(snapshot: Snapshot) -> bool:
    """Return False if the provider's status is a word that is in no document we know."""
    found: Any = snapshot.raw
    known = True
    while _is_object(found):
        word = found.get("status")
        if isinstance(word, str):
            known = _word(word) is not None
        found = found.get("data")
    return known


def _url(levels: list[Document], *, finished: bool) -> str | None:
    candidates: list[tuple[str, str | None]] = []
    for level in reversed(levels):
        if level.video is not None:
            candidates.append(("video.url", level.video.url))
        candidates.append(("result_url", level.result_url))
        candidates.append(("video_url", level.video_url))
    if finished:
        # The gateway keeps the result's address in `fail_reason` when the task succeeded.
        reasons = [level.fail_reason for level in levels if level.fail_reason]
        candidates += [("fail_reason", reason) for reason in reasons if _is_link(reason)]
    for name, url in candidates:
        if url is not None and url.strip():
            if not _is_link(url):
                raise UnexpectedResponse(
                    f"the API's answer has a {name} that is not an http(s) URL",
                    status=200,
                    path=f"$..{name}",
                    body=redact(url, limit=200),
                )
            return url.strip()
    return None


def _is_link(text: str) -> bool:
    return text.strip()[:8].lower().startswith(("http://", "https://"))


def _video(levels: list[Document], request_id: str, url: str | None) -> Video:
    documents = [level.video for level in levels if level.video is not None]
    found = documents[-1] if documents else VideoDocument()
    model = next((level.model for level in reversed(levels) if level.model), None)
    return Video(
        request_id=request_id,
        url=url,
        duration=found.duration,
        model=model,
        respect_moderation=found.respect_moderation,
        cost_usd=_cost(levels),
    )


def _cost(levels: list[Document]) -> Decimal | None:
    for level in reversed(levels):
        ticks = level.usage.cost_in_usd_ticks if level.usage is not None else None
        if ticks is not None and ticks >= 0:
            return Decimal(int(ticks)) * USD_PER_TICK
    return None


def _progress(levels: list[Document]) -> float | None:
    for level in reversed(levels):
        if level.progress is not None:
            return min(100.0, max(0.0, level.progress))
    return None


def _reason(levels: list[Document]) -> str | None:
    for level in reversed(levels):
        if level.error is not None and level.error.message:
            return level.error.message
    for level in levels:
        if level.fail_reason and not _is_link(level.fail_reason):
            return level.fail_reason
    return next((level.message for level in reversed(levels) if level.message), None)


def _failure(levels: list[Document], *, text: str = "", moderated: bool = False) -> JobFailure:
    codes = [level.error.code for level in levels if level.error is not None and level.error.code]
    codes += [level.code for level in levels if level.code and not _is_success(level.code)]
    code = codes[-1] if len(codes) == 1 else (codes[0] if codes else None)
    reason = _reason(levels) or text or "the provider gave no reason"
    words = [level.status.strip().lower() for level in levels if level.status]
    if reason == "the provider gave no reason" and {"cancelled", "canceled"} & set(words):
        reason = "the job was cancelled"
    return JobFailure(
        code=redact(code, limit=200) if code else None,
        message=redact(reason, limit=500),
        moderated=moderated or bool(_MODERATION.search(f"{code or ''} {reason}"[:_TEXT_LIMIT])),
        cost_usd=_cost(levels),
    )


_MODERATION: Final = re.compile(r"(?i)moderat")

# --- reading an error ----------------------------------------------------------------------------

_GATEWAY_ID = re.compile(r"\(request id:\s*([^)\s]+)\s*\)")
#: Characters of an error text that are looked at: the longest recorded one has 230, and patterns
#: must not run over megabytes.
_TEXT_LIMIT: Final = 2**14
_NO_MONEY = re.compile(
    r"(?i)quota is not enough|insufficient[_ ](user[_ ])?(quota|balance|credit|fund)|"
    r"used all available credits|spending limit|purchase more credits|out of credits|"
    r"(balance|credits?) (is |are )?(exhausted|not enough|insufficient|too low)"
)
_BAD_KEY = re.compile(
    r"(?i)incorrect api key|invalid (api[ _]key|token|bearer token|key provided)|"
    r"api key (is )?(invalid|missing|not found)|no api key"
)
_BAD_REQUEST_CODES = frozenset(
    {"invalid_request", "convert_request_failed", "invalid_argument", "invalid-argument"}
)
_NO_CHANNEL = re.compile(r"(?i)no available channel|model_not_found")
# Envoy writes the reset reason; with these three the upstream never had the request. A
# "connection termination" or "remote reset" may come after it had.
_NEVER_REACHED_UPSTREAM = re.compile(
    r"(?i)upstream connect error.*reset reason:\s*"
    r"(connection timeout|connection failure|overflow|remote connection failure)|"
    r"no healthy upstream"
)

_ADVICE: Final[dict[type[APIError], str]] = {
    BadRequest: "The same request will fail again.",
    AuthenticationError: "Check the key (COMETAPI_KEY) and that it belongs to this base URL.",
    PermissionDenied: "The key may not do this, or a firewall in front of the API blocked it.",
    InsufficientBalance: "Waiting does not help; top up the account.",
    NotFound: "Check the id or the model's name.",
    RateLimited: "Slow down; retry_after has the server's wish, where it gave one.",
    ServerError: "The fault is on the server's side.",
    UnexpectedResponse: "The base URL or path is probably wrong.",
}


def read_error(status: int, headers: Mapping[str, str], body: bytes, *, now: float) -> APIError:
    """Return the error that an answer means, told by its body before its status.

    `now` is Unix seconds, for a Retry-After that names a date without the server's own Date.
    """
    code, text, is_json = _read_error_body(body)
    html = not is_json and _looks_like_html(body)
    kind = _classify(status, code, text, html=html)
    shown = "an HTML page" if html else (redact(text, limit=300) or "an empty body")
    label = f" [{redact(code, limit=100)}]" if code else ""
    request = _GATEWAY_ID.search(text)
    facts: dict[str, Any] = {
        "status": status,
        "code": redact(code, limit=200) if code else code,
        "gateway_request_id": request[1] if request else _header_id(headers),
        "body": _excerpt(body),
        "retry_after": read_retry_after(headers, now=now),
        "refused": _is_refusal(kind, status, text, headers),
    }
    sentence = f"the API answered HTTP {status}{label}: {shown.rstrip('.')}. {_ADVICE[kind]}"
    return kind(sentence, **facts)


def _read_error_body(body: bytes) -> tuple[str | None, str, bool]:
    """Return (code, text, was JSON) of any of the four families."""
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):
        return None, body[:_TEXT_LIMIT].decode("utf-8", "replace").strip(), False
    if not _is_object(raw):
        return None, redact(json.dumps(raw)), True
    inner: Any = raw.get("error")
    code: Any = raw.get("code")
    text: Any = raw.get("message")
    if _is_object(inner):
        code = inner.get("code") or code
        text = inner.get("message") or text
    elif isinstance(inner, str):
        text = inner
    if not isinstance(text, str) or not text:
        text = text if isinstance(text, str) and text else json.dumps(raw)
    word = None if code is None or code == "" or isinstance(code, bool) else str(code)
    return word and word[:_TEXT_LIMIT], text[:_TEXT_LIMIT], True


def _classify(status: int, code: str | None, text: str, *, html: bool) -> type[APIError]:
    word = (code or "").strip().lower()
    if status == 402 or _NO_MONEY.search(text) or _NO_MONEY.search(word):
        return InsufficientBalance
    if status == 401 or (status in (400, 403) and _BAD_KEY.search(text)):
        return AuthenticationError
    if word in ("task_not_exist", "model_not_found") or (
        status == 503 and _NO_CHANNEL.search(text)
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


def _is_refusal(kind: type[APIError], status: int, text: str, headers: Mapping[str, str]) -> bool:
    """Return whether this answer to a create proves that no job was made."""
    if kind is not ServerError:
        return True
    if status != 503:
        return False
    return bool(_NEVER_REACHED_UPSTREAM.search(text)) or "retry-after" in headers


def read_retry_after(headers: Mapping[str, str], *, now: float) -> float | None:
    """Return the server's wish in seconds: from milliseconds, seconds or a date; None without one.

    A date is measured against the answer's own Date, so that a wrong clock on either side does not
    matter; `now` (Unix seconds) stands in where there is none.
    """
    value = headers.get("retry-after-ms")
    if value is not None and (seconds := _positive(value)) is not None:
        return seconds / 1000
    value = headers.get("retry-after")
    if value is None:
        return None
    if (seconds := _positive(value)) is not None:
        return seconds
    then = _date(value)
    if then is None:
        return None
    return max(0.0, then - (_date(headers.get("date", "")) or now))


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


def _looks_like_html(body: bytes) -> bool:
    start = body[:500].lstrip().lower()
    return start.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<center", b"<!--"))


def _excerpt(body: bytes) -> str:
    return redact(body[:8192].decode("utf-8", "replace"))
