"""What an answer that refuses means: its class, whether it proves anything, how long to wait."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from grok_video import (
    APIError,
    AuthenticationError,
    BadRequest,
    InsufficientBalance,
    NotFound,
    PermissionDenied,
    RateLimited,
    ServerError,
    UnexpectedResponse,
    _refusals,
    _wire,
)

ERRORS: dict[str, tuple[int, Any, type[APIError], bool]] = {
    # name: (status, body, class, is it proof that no job was created)
    "missing model": (
        400,
        {"error": {"message": "model name is required (request id: ...)", "code": ""}},
        BadRequest,
        True,
    ),
    "500 that is a bad request": (
        500,
        {"error": {"message": "x", "type": "comet_api_error", "code": "invalid_request"}},
        BadRequest,
        True,
    ),
    "500 that could not be converted": (
        500,
        {"error": {"message": "x", "code": "convert_request_failed"}},
        BadRequest,
        True,
    ),
    "500": (500, {"error": {"message": "boom"}}, ServerError, False),
    "502": (502, {"code": "upstream_query_failed", "message": "x"}, ServerError, False),
    "502 page": (502, b"<html>bad gateway</html>", ServerError, False),
    "503 without a channel": (
        503,
        {"error": {"code": "model_not_found", "message": "no available channel for group x"}},
        NotFound,
        True,
    ),
    "503 before any upstream": (
        503,
        b"upstream connect error or disconnect/reset before headers. "
        b"reset reason: connection timeout",
        ServerError,
        True,
    ),
    "503 after an upstream took it": (
        503,
        b"upstream connect error or disconnect/reset before headers. "
        b"reset reason: connection termination",
        ServerError,
        False,
    ),
    "503 and no word": (503, b"", ServerError, False),
    "504": (504, b"<html>", ServerError, False),
    "524 page": (
        524,
        b"<!DOCTYPE html><title>x | 524: A timeout occurred</title>",
        ServerError,
        False,
    ),
    "408": (408, b"", ServerError, False),
    "quota": (
        403,
        {"code": None, "message": "user quota is not enough"},
        InsufficientBalance,
        True,
    ),
    "402": (402, b"", InsufficientBalance, True),
    "credits": (
        429,
        {"code": "Some resource has been exhausted", "error": "used all available credits"},
        InsufficientBalance,
        True,
    ),
    "credits by the code alone": (
        429,
        {"error": {"message": "x", "code": "insufficient_user_quota"}},
        InsufficientBalance,
        True,
    ),
    "429": (429, {"error": {"message": "too many requests"}}, RateLimited, True),
    "429 page": (429, b"<html>", RateLimited, True),
    "401": (
        401,
        {"error": {"message": "Invalid token (request id: 2026)"}},
        AuthenticationError,
        True,
    ),
    "400 that is a wrong key": (
        400,
        {"code": "invalid-argument", "error": "Incorrect API key provided: x"},
        AuthenticationError,
        True,
    ),
    "403 that is a wrong key": (
        403,
        {"error": {"message": "The API key is invalid"}},
        AuthenticationError,
        True,
    ),
    "403": (403, {"error": {"message": "not for your team"}}, PermissionDenied, True),
    "403 page of a firewall": (403, b"<html>blocked</html>", PermissionDenied, True),
    "404": (404, {"code": "Some requested entity was not found", "error": "x"}, NotFound, True),
    "404 page": (404, b"<html><h1>404</h1></html>", UnexpectedResponse, True),
    "301": (301, b"", UnexpectedResponse, True),
    "413": (413, {"error": "length limit exceeded"}, BadRequest, True),
    "422 text": (422, b"Failed to deserialize the JSON body", BadRequest, True),
    "unknown task": (
        400,
        {"code": "task_not_exist", "message": "task_not_exist", "data": None},
        NotFound,
        True,
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_told_by_its_body_before_its_status(name: str) -> None:
    status, body, kind, refused = ERRORS[name]
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    error = _refusals.read_error(status, {}, raw, now=0)
    assert type(error) is kind
    assert error.refused is refused
    assert error.status == status
    with pytest.raises(kind):
        _wire.read_create(status, {}, raw, now=0)


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("task_not_exist", "Check the id, and that the key is of the account that made the job."),
        ("model_not_found", "Check the model's name."),
        ("other", "Check the id (of a poll) or the model's name (of a create)."),
    ],
)
def test_what_was_not_found_is_what_should_be_checked(code: str, advice: str) -> None:
    body = json.dumps({"code": code, "message": "x"}).encode()
    assert str(_refusals.read_error(404, {}, body, now=0)).endswith(f"x. {advice}")


VARNISH = b"""<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE html><html><head><title>503 Backend fetch failed</title></head>
<body><h1>Error 503 Backend fetch failed</h1><p>Backend fetch failed</p></body></html>"""


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"busy",
        VARNISH,
        b"upstream connect error or disconnect/reset before headers",
        b"timed out waiting for upstream",
        b"upstream\nrequest timeout",
        b"first byte timeout",
        b"upstream connect error or disconnect/reset before headers. "
        b"reset reason: connection termination",
        b"upstream request timeout",
        b'{"message":"upstream timed out while the task was running"}',
        b'{"request_id":"r-1","message":"accepted, response delayed"}',
    ],
)
def test_a_503_proves_nothing_by_asking_to_come_back(body: bytes) -> None:
    error = _refusals.read_error(503, {"retry-after": "3"}, body, now=0)
    assert not error.refused
    assert error.retry_after == 3


@pytest.mark.parametrize("status", [408, 500, 502, 504, 520, 522, 523, 524, 599])
def test_no_other_fault_of_a_server_is_a_refusal_whatever_it_says(status: int) -> None:
    for body in (b"", b"upstream connect error. reset reason: overflow", b"no healthy upstream"):
        assert not _refusals.read_error(status, {"retry-after": "0"}, body, now=0).refused


def test_a_503_that_no_upstream_had_is_a_refusal_whatever_else_it_says() -> None:
    body = b"upstream connect error or disconnect/reset before headers. reset reason: overflow"
    assert _refusals.read_error(503, {}, body, now=0).refused


def test_the_gateways_request_id_is_an_attribute() -> None:
    text = "model name is required (request id: 20260205132859798638387SIHCnxzJ)"
    error = _refusals.read_error(400, {}, json.dumps({"error": {"message": text}}).encode(), now=0)
    assert error.gateway_request_id == "20260205132859798638387SIHCnxzJ"
    error = _refusals.read_error(500, {"x-oneapi-request-id": "abc"}, b"", now=0)
    assert error.gateway_request_id == "abc"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        (
            {
                "retry-after": "Tue, 24 Nov 2026 10:00:30 GMT",
                "date": "Tue, 24 Nov 2026 10:00:00 GMT",
            },
            31,
        ),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, 61),
        (
            {
                "retry-after": "Thu, 01 Jan 1970 00:00:00 GMT",
                "date": "Tue, 24 Nov 2026 10:00:00 GMT",
            },
            0,
        ),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "inf"}, None),
        # More than a day is a mistake: Unix seconds, a date by a clock that is wrong.
        ({"retry-after": "86400"}, 86400),
        ({"retry-after": "86401"}, None),
        ({"retry-after": "1700000000"}, None),
        ({"retry-after": "1e308"}, None),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, None),
        ({"retry-after-ms": "99999999999"}, None),
        ({"retry-after-ms": "99999999999", "retry-after": "7"}, 7),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert _refusals.read_retry_after(headers, now=0) == seconds


SIGNED = "https://bucket.s3.test/caf\u00e9.jpg?X-Amz-Date=1&X-Amz-Signature=deadbeef"


@pytest.mark.parametrize(
    "spell",
    [
        lambda text: text.replace("&", r"\u0026"),  # Go
        lambda text: text.replace("/", r"\/"),  # PHP
        lambda text: text.replace("/", r"\/").replace("&", r"\u0026"),
        lambda text: text.replace("?", r"\u003F").replace("=", r"\u003D"),
        lambda text: json.dumps(text)[1:-1].replace("/", r"\\\/").replace("&", r"\\u0026"),
    ],
)
def test_no_error_has_a_signature_however_its_link_is_spelled(spell: Callable[[str], str]) -> None:
    body = b'{"error":{"message":"no picture at %b","type":"x"}}' % spell(SIGNED).encode()
    link = b'{"video":{"link":"%b"}}' % spell(SIGNED).encode()
    for error in (
        _refusals.read_error(400, {}, body, now=0),
        _refusals.read_error(502, {}, body.replace(b'"error"', b'"mistake"'), now=0),
        _refusals.read_error(400, {}, b"[%b]" % body, now=0),
        caught_of(lambda: _wire.read_create(200, {}, link, now=0)),
        caught_of(lambda: _wire.read_poll(200, {}, link, request_id="x", now=0)),
    ):
        assert b"deadbeef" not in pickle.dumps(error)
        assert "bucket.s3.test" in error.body, "the rest of it may be shown"


def caught_of(read: Callable[[], object]) -> APIError:
    with pytest.raises(APIError) as caught:
        read()
    return caught.value
