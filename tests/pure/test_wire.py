"""Reading the API's answers: every form, every error family, and no guess."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from grok_video import (
    InsufficientBalance,
    JobStatus,
    NotFound,
    Snapshot,
    UnexpectedResponse,
    VideoRequest,
    _refusals,
    _wire,
)

LINK = "https://vidgen.x.ai/xai-vidgen-bucket/xai-video-1.mp4"
VIDEO = {"url": LINK, "duration": 6, "respect_moderation": True}


def poll(document: Any, status: int = 200, **words: Any) -> Snapshot:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return _wire.read_poll(status, {}, body, request_id="j1", now=0, **words)


def envelope(status: str, data: Any = None, **more: Any) -> dict[str, Any]:
    task = {"task_id": "t", "action": "VIDEO_GENERATION", "status": status, "fail_reason": ""}
    return {"code": "success", "message": "", "data": {**task, "data": data, **more}}


STATES: dict[str, tuple[Any, int, JobStatus]] = {
    # F1, F4: accepted, not ready
    "bare id": ({"request_id": "x"}, 200, JobStatus.QUEUED),
    "202 with an empty body": (b"", 202, JobStatus.QUEUED),
    "202 with something unreadable": (b"<html>", 202, JobStatus.QUEUED),
    "200 with an empty body": (b" ", 200, JobStatus.QUEUED),
    "native pending": ({"status": "pending", "progress": 0}, 202, JobStatus.QUEUED),
    "native done": ({"status": "done", "video": VIDEO}, 200, JobStatus.DONE),
    "done in a 202": ({"status": "done", "video": VIDEO}, 202, JobStatus.DONE),
    # F2: flat
    "flat queued": ({"status": "queued"}, 200, JobStatus.QUEUED),
    "flat processing": ({"status": "processing", "progress": 35}, 200, JobStatus.PROCESSING),
    "flat expired": ({"status": "expired"}, 200, JobStatus.EXPIRED),
    "flat timeout": ({"status": "timeout"}, 200, JobStatus.EXPIRED),
    "upper case and blanks": ({"status": " IN_PROGRESS "}, 200, JobStatus.PROCESSING),
    "unknown word": ({"status": "transcoding"}, 200, JobStatus.PROCESSING),
    "cancelled": ({"status": "cancelled"}, 200, JobStatus.FAILED),
    "rejected": ({"status": "rejected"}, 200, JobStatus.FAILED),
    "failed with a video object": (
        {"status": "failed", "video": {"url": "", "duration": 0, "respect_moderation": True}},
        200,
        JobStatus.FAILED,
    ),
    "done without a URL": ({"status": "done", "video": {"url": ""}}, 200, JobStatus.FAILED),
    "done and moderated": (
        {"status": "done", "video": VIDEO | {"respect_moderation": False}},
        200,
        JobStatus.FAILED,
    ),
    # F3: envelope
    "envelope not started": (envelope("NOT_START"), 200, JobStatus.QUEUED),
    "envelope without a word": (envelope(""), 200, JobStatus.QUEUED),
    "envelope unknown": (envelope("UNKNOWN"), 200, JobStatus.QUEUED),
    "envelope with null": ({"code": "success", "data": None}, 200, JobStatus.QUEUED),
    "envelope with nothing": ({"code": "success", "data": {}}, 200, JobStatus.QUEUED),
    "envelope running": (envelope("IN_PROGRESS", {}), 200, JobStatus.PROCESSING),
    "the nested status decides": (
        envelope("SUCCESS", {"status": "pending"}),
        200,
        JobStatus.QUEUED,
    ),
    "outer failure wins": (
        envelope("FAILURE", {"status": "done", "video": VIDEO}),
        200,
        JobStatus.FAILED,
    ),
    "success with a URL in fail_reason": (
        envelope("SUCCESS", None, fail_reason=LINK),
        200,
        JobStatus.DONE,
    ),
    "success with result_url": (envelope("SUCCESS", None, result_url=LINK), 200, JobStatus.DONE),
    "success with nothing": (envelope("SUCCESS", None), 200, JobStatus.FAILED),
    "nested document as JSON text": (
        envelope("IN_PROGRESS", json.dumps({"status": "done", "video": VIDEO})),
        200,
        JobStatus.DONE,
    ),
    # F5: the provider's own error, with either status
    "moderation as a 400": (
        {"code": "imagine:content-moderated", "error": "Generated video rejected."},
        400,
        JobStatus.FAILED,
    ),
    "moderation as a 200": (
        {"code": "imagine:content-moderated", "error": "Generated video rejected."},
        200,
        JobStatus.FAILED,
    ),
    # F7: early native
    "a video without a status": ({"video": VIDEO, "model": "m"}, 200, JobStatus.DONE),
    "error as a plain string": ({"error": "no"}, 200, JobStatus.FAILED),
}


@pytest.mark.parametrize("name", STATES)
def test_each_form_is_read_as_the_contract_says(name: str) -> None:
    document, http_status, status = STATES[name]
    snapshot = poll(document, http_status)
    assert snapshot.status is status
    assert (snapshot.video is not None) is (status is JobStatus.DONE)
    if status is JobStatus.FAILED:
        assert snapshot.error is not None
    if status is JobStatus.DONE:
        assert snapshot.video is not None
        assert snapshot.video.url == LINK


MODERATED = {
    "the flag": {"status": "done", "video": VIDEO | {"url": "", "respect_moderation": False}},
    "the code": {"code": "imagine:content-moderated", "error": "Rejected."},
    "the error": {
        "status": "failed",
        "error": {"code": "invalid_argument", "message": "Rejected by content moderation."},
    },
    "the envelope": envelope("FAILURE", None, fail_reason="Rejected by content moderation."),
}


@pytest.mark.parametrize("name", MODERATED)
def test_moderation_is_recognised_in_all_four_shapes(name: str) -> None:
    error = poll(MODERATED[name]).error
    assert error is not None
    assert error.moderated


def test_a_plain_failure_is_not_taken_for_moderation() -> None:
    error = poll({"status": "failed", "error": {"code": "internal_error", "message": "x"}}).error
    assert error is not None
    assert not error.moderated
    assert error.code == "internal_error"


def test_fail_reason_is_never_an_error_text_when_it_is_a_link() -> None:
    error = poll(envelope("FAILURE", None, fail_reason=LINK)).error
    assert error is not None
    assert LINK not in error.message


def test_done_without_a_link_is_a_success_where_the_provider_delivers_it() -> None:
    document = {"status": "done", "video": {"url": "", "duration": 6}}
    snapshot = poll(document, delivered_elsewhere=True)
    assert snapshot.status is JobStatus.DONE
    assert snapshot.video is not None
    assert snapshot.video.url is None


def test_the_price_is_exact() -> None:
    usage = {"cost_in_usd_ticks": 4_220_000_000}
    video = poll({"status": "done", "video": VIDEO, "usage": usage}).video
    assert video is not None
    assert video.cost_usd == Decimal("0.422")


def test_a_moderated_job_says_what_it_cost() -> None:
    usage = {"cost_in_usd_ticks": 11_200_000_000}
    error = poll({**MODERATED["the flag"], "usage": usage}).error
    assert error is not None
    assert error.cost_usd == Decimal("1.12")


@pytest.mark.parametrize(
    "usage", ["free", [], {"cost_in_usd_ticks": "?"}, {"cost_in_usd_ticks": -1}]
)
def test_an_unreadable_price_costs_no_video(usage: Any) -> None:
    video = poll({"status": "done", "video": VIDEO, "usage": usage}).video
    assert video is not None
    assert video.cost_usd is None


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (0, 0),
        (35, 35),
        (12.5, 12.5),
        ("45%", 45),
        (" 7 % ".replace(" %", "%"), 7),
        (250, 100),
        (-3, 0),
    ]
    + [(None, None), (True, None), ("soon", None), ([], None), (10**400, None)],
)
def test_progress_is_read_leniently_and_never_decides(sent: Any, read: float | None) -> None:
    snapshot = poll({"status": "processing", "progress": sent})
    assert snapshot.progress == read
    assert snapshot.status is JobStatus.PROCESSING


UNREADABLE = {
    "$.video.url": {"status": "done", "video": {"url": 5}},
    "$.video": {"status": "done", "video": [1]},
    "$.data.data.video.url": envelope("SUCCESS", {"video": {"url": []}}),
    "$.status": {"status": {}},
    "$.data": {"code": "success", "data": [1]},
    "$..video.url": {"status": "done", "video": {"url": "ftp://host/a.mp4"}},
    "$": {"hello": "world"},
}


@pytest.mark.parametrize("path", UNREADABLE)
def test_an_unreadable_answer_names_its_json_path(path: str) -> None:
    with pytest.raises(UnexpectedResponse) as caught:
        poll(UNREADABLE[path])
    assert caught.value.path == path


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'"done"', b"nan", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 5_000]
)
def test_what_is_no_document_is_an_unexpected_response(body: bytes) -> None:
    with pytest.raises(UnexpectedResponse):
        poll(body)


def test_an_error_in_a_200_is_an_error() -> None:
    body = json.dumps({"code": "quota", "message": "user quota is not enough"}).encode()
    with pytest.raises(InsufficientBalance):
        _wire.read_create(200, {}, body, now=0)
    with pytest.raises(NotFound):
        poll({"code": "task_not_exist", "message": "task_not_exist", "data": None})


def test_an_error_never_holds_a_picture_or_a_key() -> None:
    payload = "A" * 5000
    text = f"cannot read data:image/png;base64,{payload} with Bearer sk-abcdefghijklmnop"
    error = _refusals.read_error(400, {}, json.dumps({"error": {"message": text}}).encode(), now=0)
    assert payload[:300] not in str(error) + error.body
    assert "sk-abcdefghijklmnop" not in str(error) + error.body
    assert "5000 characters" in str(error)


@pytest.mark.parametrize(
    "signature",
    [
        "X-Goog-Signature=" + "0123456789abcdef" * 32,
        "X-Amz-Security-Token=" + "IQoJb3JpZ2luX2Vj%2F%2BAbc" * 40 + "%3D%3D&X-Amz-Signature=ab",
        "sig=" + "Ab/+" * 60 + "==",
    ],
)
def test_a_signed_link_is_read_as_it_was_sent(signature: str) -> None:
    link = f"{LINK}?{signature}"
    for document in ({"status": "done", "video": {"url": link}}, envelope("done", link_of(link))):
        snapshot = poll(document)
        assert snapshot.video is not None
        assert snapshot.video.url == link
        assert snapshot.raw == document
        text = {"code": "success", "data": json.dumps({"status": "done", "video": {"url": link}})}
        nested = poll(text).video
        assert nested is not None
        assert nested.url == link


def link_of(link: str) -> dict[str, Any]:
    return {"status": "done", "video": {**VIDEO, "url": link}}


def test_an_id_is_taken_as_it_was_sent() -> None:
    name = "video_" + "QWxhZGRpbjpvcGVuIHNlc2FtZQ" * 12
    assert _wire.read_create(200, {}, json.dumps({"request_id": name}).encode(), now=0) == name


def test_what_is_shown_of_an_answer_holds_no_picture() -> None:
    picture = "iVBORw0KGgo" * 500
    deep: Any = [f"{picture}=="]
    for _ in range(900):
        deep = [deep]
    snapshot = poll(
        {
            "status": "done",
            "video": {"url": LINK},
            "request": {"image": {"url": f"data:image/png;base64,{picture}"}, "input": [picture]},
            "said": f"see {LINK}?sig={picture} and {picture}",
            "deep": deep,
        }
    )
    assert snapshot.video is not None
    shown = json.dumps(snapshot.raw)
    assert shown.count(picture) == 1  # the signature of a link is no picture
    assert f"{LINK}?sig={picture} and <" in shown
    assert len(shown) < len(picture) + 4000


def test_what_surrounds_a_picture_is_json() -> None:
    before, after = _wire.write_create(
        VideoRequest('say "hi" \N{SNOWMAN}', b"\xff\xd8\xff" + bytes(9), duration=3)
    )
    assert json.loads(before + b"data:x" + after) == {
        "model": "grok-imagine-video-1.5",
        "prompt": 'say "hi" \N{SNOWMAN}',
        "duration": 3,
        "image": {"url": "data:x"},
    }
    assert _wire.write_create(VideoRequest("drift"))[1] == b""


def test_an_unknown_word_is_told_apart_from_a_known_one() -> None:
    assert _wire.unknown_word(poll({"status": "transcoding"})) == "transcoding"
    assert _wire.unknown_word(poll({"status": "processing"})) is None
    assert _wire.unknown_word(poll({"request_id": "x"})) is None
    assert _wire.unknown_word(poll({"status": "done", "data": {"status": "odd"}})) == "odd"
