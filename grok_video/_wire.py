"""The API's spelling of a create and a poll: a request to JSON, any form of an answer to models.

Every form (contract.md, sections 3 and 4) is read here: flat, envelope, native, bare, early native,
provider verdicts. Unknown status words are accepted. No clock, no I/O, no retry decisions; JSON is
read by `_documents`, and what an error means is told by `_refusals`.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from grok_video._errors import BadRequest, UnexpectedResponse
from grok_video._models import JobFailure, JobStatus, Snapshot, Video
from grok_video._rawanswer import excerpt, is_object, read_identity
from grok_video._redaction import redact
from grok_video._refusals import TEXT_LIMIT, read_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from grok_video._documents import Document
    from grok_video._requests import VideoRequest

CREATE_PATH: Final = "/videos/generations"
POLL_PATH: Final = "/videos/"
#: Characters of what an error may show as an id: several times what the longest one has.
_LONGEST_ID: Final = 300
#: One tick of `usage.cost_in_usd_ticks` in US dollars.
USD_PER_TICK: Final = Decimal("1e-10")

# --- writing -------------------------------------------------------------------------------------

#: Made once: `json.dumps` makes one for each call that asks for separators.
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))


def write_create(request: VideoRequest) -> tuple[bytes, bytes]:
    """Return what stands before and after the image's URL in the body of a create.

    Without an image the second part is empty and the first is the whole body. Only what the caller
    set is sent.
    """
    fields = _ENCODER.encode(request.settings()).encode()
    if request.image is None:
        return fields, b""
    return fields[:-1] + b',"image":{"url":"', b'"}}'


# --- reading a create ----------------------------------------------------------------------------


def read_create(status: int, headers: Mapping[str, str], body: bytes, *, now: float) -> str:
    """Return the job's id.

    Raises the `APIError` that the answer means. Its `refused` is False where the answer does not
    prove that no job exists: a 5xx, or a 2xx that has no id; `possible_id` is one that such a 5xx
    names all the same.
    """
    if not 200 <= status < 300:
        error = read_error(status, headers, body, now=now)
        if not error.refused:
            found = read_identity(body)
            error.possible_id = found if found is not None and len(found) <= _LONGEST_ID else None
        raise error
    request_id = read_identity(body)
    if request_id is not None:
        return request_id
    document, _ = _read_document(status, body, refused=False)
    if document.error is not None or (document.code and not _is_success(document.code)):
        raise read_error(status, headers, body, now=now)
    raise UnexpectedResponse(
        f"the create was answered with HTTP {status} and no request_id",
        status=status,
        path="$.request_id",
        body=excerpt(body),
        refused=False,
    )


def read_broken_create(status: int, body: bytes) -> str | None:
    """Return the job's id if the beginning of an answer that broke off has it."""
    return read_identity(body) if 200 <= status < 300 else None


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


def _read_document(status: int, body: bytes, *, refused: bool) -> tuple[Document, dict[str, Any]]:
    from grok_video._documents import read_document  # see there

    return read_document(status, body, refused=refused)


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
        if is_object(raw) and isinstance(raw.get("error"), str):
            return _read_document(400, body, refused=True)
    except (ValueError, RecursionError, UnexpectedResponse):
        pass
    return None


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
            missing = _failure(
                levels,
                text="the job is done and the answer has no video URL (where its create asked for "
                "output.upload_url, the video was delivered there)",
                rendered=True,
            )
            return Snapshot(request_id, JobStatus.FAILED, progress, None, missing, raw)
        video = _video(levels, request_id, url)
        return Snapshot(request_id, status, progress, video, None, raw)
    if status is JobStatus.FAILED:
        # The gateway may say so of what the provider has rendered.
        rendered = _word(provider.status or "") is JobStatus.DONE
        failure = _failure(levels, rendered=rendered)
        return Snapshot(request_id, status, progress, None, failure, raw)
    if status is JobStatus.EXPIRED:
        is_told = _reason(levels) is not None or _cost(levels) is not None
        error = _failure(levels) if is_told else None
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


def unknown_word(snapshot: Snapshot) -> str | None:
    """Return the provider's status, cut, if it is a word that is in no document we know."""
    found: Any = snapshot.raw
    unknown = None
    while is_object(found):
        word = found.get("status")
        if isinstance(word, str):
            unknown = redact(word, limit=60) if _word(word) is None else None
        found = found.get("data")
    return unknown


def shows_a_job(snapshot: Snapshot) -> bool:
    """Return whether the API named a state or a video, as it does of jobs that it knows.

    An empty answer, a bare error and an envelope around nothing may be about an id that nobody
    gave out.
    """
    if snapshot.video is not None:
        return True
    found: Any = snapshot.raw
    while is_object(found):
        word = found.get("status")
        if (isinstance(word, str) and word.strip()) or is_object(found.get("video")):
            return True
        found = found.get("data")
    return False


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
    found = next((level.video for level in reversed(levels) if level.video is not None), None)
    model = next((level.model for level in reversed(levels) if level.model), None)
    return Video(
        request_id=request_id,
        url=url,
        duration=found.duration if found is not None else None,
        model=model,
        respect_moderation=found.respect_moderation if found is not None else None,
        cost_usd=_cost(levels),
    )


def _cost(levels: list[Document]) -> Decimal | None:
    for level in reversed(levels):
        if level.usage is not None and level.usage >= 0:
            return Decimal(int(level.usage)) * USD_PER_TICK
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


def _failure(
    levels: list[Document], *, text: str = "", moderated: bool = False, rendered: bool = False
) -> JobFailure:
    codes = [level.error.code for level in levels if level.error is not None and level.error.code]
    codes += [level.code for level in levels if level.code and not _is_success(level.code)]
    code = codes[0] if codes else None
    reason = _reason(levels) or text or "the provider gave no reason"
    words = [level.status.strip().lower() for level in levels if level.status]
    if reason == "the provider gave no reason" and {"cancelled", "canceled"} & set(words):
        reason = "the job was cancelled"
    return JobFailure(
        code=redact(code, limit=200) if code else None,
        message=redact(reason, limit=500),
        moderated=moderated or "moderat" in f"{code or ''} {reason}"[:TEXT_LIMIT].lower(),
        cost_usd=_cost(levels),
        rendered=rendered,
    )
