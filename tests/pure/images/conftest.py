"""What the tests of pictures share: pictures, ways to encode, and reading a body."""

from __future__ import annotations

import base64
import io
import json
import random
import sys
from importlib.util import find_spec

import pytest

from grok_video import (
    InvalidRequest,
    VideoRequest,
    _base64,
)
from grok_video._body import create_body

JPEG = b"\xff\xd8\xff\xe0"


PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(params=["asyncio", "trio"], scope="module")
def anyio_backend(request):
    return request.param


@pytest.fixture(params=["pybase64", "stdlib"])
def codec(request, monkeypatch):
    """Run the test with either base64 there is."""
    if request.param == "stdlib":
        monkeypatch.setitem(sys.modules, "pybase64", None)
    else:
        assert find_spec("pybase64"), "the extra `speed` is part of the tests"
    _base64.forget_codec()
    yield request.param
    monkeypatch.undo()
    _base64.forget_codec()


def a_picture(size, magic=JPEG):
    return magic + random.Random(size).randbytes(size - len(magic))


def a_data_uri(content, mime="image/jpeg"):
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


async def whole(body):
    return b"".join([chunk async for chunk in body.chunks()])


async def sent(image, prompt="drift", **settings):
    """Return the document that would be sent, checked against the announced length."""
    async with create_body(VideoRequest(prompt, image, **settings)) as body:
        content = await whole(body)
        assert len(content) == body.length
        assert await whole(body) == content, "a second round must give the same body"
    return json.loads(content)


async def sent_picture(image):
    """Return (type, content) of the picture that would be sent."""
    document = await sent(image)
    head, _, payload = document["image"]["url"].partition(",")
    return head.removeprefix("data:").removesuffix(";base64"), base64.b64decode(
        payload, validate=True
    )


async def refusal(image):
    """Return the refusal of an image, which comes before there is a body."""
    with pytest.raises(InvalidRequest) as caught:
        async with create_body(VideoRequest("drift", image)):
            pytest.fail("a body was made")
    assert caught.value.field == "image"
    assert str(caught.value).count("Nothing was sent") == 1
    return str(caught.value)


class Pipe(io.RawIOBase):
    """A binary file that cannot seek and gives little at a time."""

    def __init__(self, content):
        self._rest = io.BytesIO(content)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._rest.readinto(memoryview(buffer)[:50_000])


def grow(path):
    with path.open("ab") as file:
        file.write(b"more")
