"""A picture becomes a body that says exactly what was asked, in pieces."""

from __future__ import annotations

import base64
import io
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grok_video import (
    VideoRequest,
)
from grok_video._body import create_body
from grok_video._images import LARGE_PIECE, SLOW_PIECE, SMALL_PIECE
from grok_video._pictures import SMALL

from .conftest import JPEG, PNG, Pipe, a_data_uri, a_picture, sent, sent_picture

WEBP = b"RIFF\x00\x00\x00\x00WEBP"


TYPES = {JPEG: "image/jpeg", PNG: "image/png", WEBP: "image/webp"}


#: Around every border there is: a triple, the inline limit, a small piece, a large one, several.
SIZES = sorted(
    {
        border + step
        for border in (21, SMALL, SMALL_PIECE, LARGE_PIECE, 2 * LARGE_PIECE + SMALL_PIECE)
        for step in (-1, 0, 1)
    }
)


def sources(content, folder):
    path = folder / "picture"
    path.write_bytes(content)
    return {
        "path": path,
        "bytes": content,
        "data": a_data_uri(content),
        "file": io.BytesIO(content),
        "pipe": Pipe(content),
    }


@given(
    magic=st.sampled_from(sorted(TYPES)),
    rest=st.binary(min_size=8, max_size=300),
    prompt=st.text(min_size=1).filter(
        lambda text: text.strip() and text.encode("utf-8", "replace").decode() == text
    ),
    kind=st.sampled_from(["bytes", "data", "file"]),
)
async def test_a_body_says_what_was_asked_and_nothing_else(magic, rest, prompt, kind):
    content = magic + rest
    image = {
        "bytes": content,
        "data": a_data_uri(content, TYPES[magic]),
        "file": io.BytesIO(content),
    }[kind]
    document = await sent(image, prompt=prompt, duration=6)
    assert document == {
        "model": "grok-imagine-video-1.5",
        "prompt": prompt,
        "duration": 6,
        "image": {"url": a_data_uri(content, TYPES[magic])},
    }


@pytest.mark.parametrize("size", SIZES)
async def test_a_picture_of_any_size_arrives_byte_for_byte(size, codec, tmp_path):
    content = a_picture(size)
    for kind, image in sources(content, tmp_path).items():
        assert await sent_picture(image) == ("image/jpeg", content), kind


async def test_the_first_piece_of_a_body_waits_for_nothing(tmp_path):
    """A connection is taken for it by then, which must not grow old before its first byte."""
    content = a_picture(LARGE_PIECE * 2)
    for image in [*sources(content, tmp_path).values(), "https://example.com/a.jpg", None]:
        async with create_body(VideoRequest("drift", image)) as body:
            with pytest.raises(StopIteration) as first:
                body.chunks().__anext__().send(None)
            assert first.value.value.startswith(b"{")


async def test_a_request_without_a_picture_is_one_small_chunk():
    async with create_body(VideoRequest('say "hi" 🐈')) as body:
        chunks = [chunk async for chunk in body.chunks()]
    assert len(chunks) == 1
    assert body.length == len(chunks[0])
    assert json.loads(chunks[0])["prompt"] == 'say "hi" 🐈'


@pytest.mark.parametrize(
    "url",
    ["https://host/cat.jpg?a=1&b=2#c", 'https://host/"quoted"\\back.jpg', "https://host/é🐈.png"],
)
async def test_a_url_is_sent_as_it_is(url):
    assert (await sent(url))["image"] == {"url": url}


async def test_the_type_is_told_by_the_bytes_not_by_the_name(tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(a_picture(100, WEBP))
    assert (await sent_picture(path))[0] == "image/webp"


async def test_a_data_uri_with_the_type_of_another_picture_is_sent_with_its_own():
    content = a_picture(100)
    uri = a_data_uri(content, "image/png")
    assert await sent_picture(uri) == ("image/jpeg", content)


async def test_wrapped_or_percent_encoded_base64_is_the_same_picture(codec):
    content = a_picture(SMALL + 5)
    head = "data:image/jpeg;base64,"
    wrapped = head + base64.encodebytes(content).decode().replace("\n", "\r\n")
    escaped = head + quote(base64.b64encode(content).decode(), safe="")
    assert "%2B" in escaped
    assert await sent_picture(wrapped) == ("image/jpeg", content)
    assert await sent_picture(escaped) == ("image/jpeg", content)


async def test_no_chunk_is_large_and_smaller_where_the_encoder_holds_up_the_loop(tmp_path, codec):
    most = LARGE_PIECE if codec == "pybase64" else SLOW_PIECE
    path = tmp_path / "cat.jpg"
    path.write_bytes(a_picture(5 * LARGE_PIECE))
    async with create_body(VideoRequest("drift", path)) as body:
        longest = max([len(chunk) async for chunk in body.chunks()])
    assert most // 2 < longest <= most * 4 // 3


async def test_after_each_large_chunk_comes_a_tiny_one_for_transports_to_keep():
    """A transport holds its last chunk while it waits; fifty that wait must not hold fifty MiB."""
    async with create_body(VideoRequest("drift", a_picture(3 * LARGE_PIECE + 1))) as body:
        sizes = [len(chunk) async for chunk in body.chunks()]
    large = [place for place, size in enumerate(sizes) if size > SMALL_PIECE * 4 // 3]
    assert len(large) >= 3
    assert all(sizes[place + 1] <= 8 for place in large)


async def test_nothing_prints_the_picture():
    uri = a_data_uri(a_picture(1000))
    async with create_body(VideoRequest("drift", uri)) as body:
        assert len(repr(body)) < 100
        assert len(repr(body.chunks())) < 200
