"""The id of a create is found whatever surrounds it, and nothing else is taken for one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from grok_video import (
    APIError,
    ServerError,
    UnexpectedResponse,
    _wire,
)

CREATED = [
    ({"request_id": "a"}, "a"),
    ({"id": "b"}, "b"),
    ({"data": {"taskId": "c"}}, "c"),
    ({"code": "success", "data": {"task_id": "d"}}, "d"),
    ({"request_id": 17}, "17"),
]


@pytest.mark.parametrize(("document", "request_id"), CREATED)
def test_the_id_of_a_create_is_found(document: Any, request_id: str) -> None:
    assert _wire.read_create(200, {}, json.dumps(document).encode(), now=0) == request_id


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{}", b"[]", b'{"request_id": ""}', b'{"request_id": "  "}'),
        *(b'{"request_id": "a', b'{"request_id": "\xff\xfe"}', b'{"request_id": {"a": "b"}}'),
    ],
)
def test_a_yes_without_an_id_proves_nothing(body: bytes) -> None:
    with pytest.raises(UnexpectedResponse) as caught:
        _wire.read_create(200, {}, body, now=0)
    assert not caught.value.refused


@pytest.mark.parametrize(
    "body",
    [
        '{"request_id":"paid","status":0}',
        '{"request_id":"paid","video":[]}',
        '{"request_id":"paid","data":["x"],"error":[{"a":1}],"result_url":false}',
        '{"request_id":"paid","code":500,"status":{"x":1}}',
        '{"id":17,"code":"success","data":{"task_id":"paid"}}',
        '{"data":"{\\"task_id\\":\\"paid\\"}"}',
        '{"request_id":"paid"}\n{"trace":1}',
        '\ufeff {"request_id":"paid"}',
        '{"request_id":"paid","n":' + "9" * 5000 + "}",
        '{"request_id":"paid","deep":' + "[" * 5000,
        '{"request_id" : "paid"',
        'data: {"request_id":"paid"}\n\n',
    ],
)
def test_nothing_beside_the_id_of_a_create_can_cost_it(body: str) -> None:
    assert _wire.read_create(200, {}, body.encode(), now=0) == "paid"


def test_an_id_in_an_error_that_proves_nothing_is_told_as_a_possible_one() -> None:
    body = b'{"request_id":"perhaps","error":"internal"}'
    with pytest.raises(ServerError) as caught:
        _wire.read_create(500, {}, body, now=0)
    assert not caught.value.refused
    assert caught.value.possible_id == "perhaps"
    with pytest.raises(APIError) as caught:
        _wire.read_create(401, {}, body, now=0)
    assert caught.value.possible_id is None


def test_a_page_instead_of_an_answer_is_probably_a_wrong_address_and_proves_nothing() -> None:
    with pytest.raises(UnexpectedResponse, match="base URL or path is probably wrong") as caught:
        _wire.read_create(200, {}, b"<!doctype html><html></html>", now=0)
    assert not caught.value.refused


@pytest.mark.parametrize("code", ["upstream_timeout", "internal", "task_accepted_late"])
def test_a_yes_with_an_error_that_nobody_knows_proves_nothing(code: str) -> None:
    body = json.dumps({"code": code, "message": "the task may be running"}).encode()
    with pytest.raises(APIError) as caught:
        _wire.read_create(200, {}, body, now=0)
    assert not caught.value.refused
