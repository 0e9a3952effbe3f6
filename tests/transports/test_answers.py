"""Answers are read whole, plain and bounded; nothing is followed, kept or asked for again."""

from __future__ import annotations

import gzip
import zlib

import anyio
import pytest
from conftest import OWN, Bytes, Lane, SceneMaker, lanes, make_config, make_transport
from rawserver import Visit, ok, raw_server, says

from grok_video import APIConnectionError, ConfigurationError, UnexpectedResponse
from grok_video._transports._base import ANSWER_LIMIT

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def head(length: int, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {length}", *headers, "", ""]
    return "\r\n".join(lines).encode()


READABLE = {
    "plain": (head(2) + b"{}", b"{}"),
    "empty": (head(0), b""),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "chunked": (CHUNKED + b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", b"{}"),
    "until the end": (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}", b"{}"),
    "after 100 and 103": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + head(2) + b"{}",
        b"{}",
    ),
    "a header of 10 KiB": (head(2, "Content-Security-Policy: " + "a " * 5000) + b"{}", b"{}"),
    "a header of 60 KiB": (head(2, "X-Trace: " + "a" * 60_000) + b"{}", b"{}"),
    "200 headers": (head(2, *(f"X-{number}: 1" for number in range(200))) + b"{}", b"{}"),
    "gzip": (
        head(len(gzip.compress(b"{}" * 99)), "Content-Encoding: gzip") + gzip.compress(b"{}" * 99),
        b"{}" * 99,
    ),
    "deflate": (
        head(len(zlib.compress(b"{}")), "Content-Encoding: deflate") + zlib.compress(b"{}"),
        b"{}",
    ),
    **{
        f"{coding} that it is not": (head(2, f"Content-Encoding: {coding}") + b"{}", b"{}")
        for coding in ("utf-8", "none", "gzip", "deflate", "br", "identity, utf-8")
    },
}


@pytest.mark.parametrize("name", READABLE)
async def test_an_answer_is_its_plain_bytes(scene: SceneMaker, name: str):
    data, body = READABLE[name]
    async with scene(says(data, then="close"), says(data, then="close")) as play:
        answer = await play.transport.get(play.poll_url)
        created = await play.transport.post(play.create_url, Bytes())
    assert answer.body == created.body == body


BOMB = gzip.compress(b"\0" * (ANSWER_LIMIT + 1))
UNREADABLE = {
    "announced too long": (head(2**30), "longer than 4 MiB"),
    "endless chunks": (CHUNKED + (b"100000\r\n" + b"x" * 2**20 + b"\r\n") * 5, "longer than 4 MiB"),
    "gzip bomb": (head(len(BOMB), "Content-Encoding: gzip") + BOMB, "longer than 4 MiB"),
    "not gzip": (head(2, "Content-Encoding: gzip") + b"\x8b\x1f", "says it is gzip and is not"),
    "unknown coding": (head(2, "Content-Encoding: br") + b"\x0b\0", "content coding 'br'"),
    "two codings": (head(2, "Content-Encoding: gzip, br") + b"\x0b\0", "coding 'gzip, br'"),
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_an_unreadable_answer_proves_no_refusal(scene: SceneMaker, name: str):
    data, words = UNREADABLE[name]
    async with scene(says(data)) as play:
        with pytest.raises(UnexpectedResponse, match=words) as caught:
            await play.transport.post(play.create_url, Bytes())
    # A 200 that could not be read may have made a job: its create must end as "unknown".
    assert not caught.value.refused
    assert caught.value.status == 200


@pytest.mark.parametrize(
    ("status", "refused"), [("400 Bad Request", True), ("408 Request Timeout", False)]
)
@pytest.mark.parametrize("name", UNREADABLE)
async def test_an_unreadable_refusal_is_still_a_refusal(
    scene: SceneMaker, name: str, status: str, refused: bool
):
    """A 408 is none: the server may have had all that it needs."""
    data, words = UNREADABLE[name]
    async with scene(says(data.replace(b"200 OK", status.encode()))) as play:
        with pytest.raises(UnexpectedResponse, match=words) as caught:
            await play.transport.post(play.create_url, Bytes())
    assert caught.value.refused is refused


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 Other", "307 Temp", "308 Perm"])
async def test_a_redirect_is_an_answer_and_is_not_followed(scene: SceneMaker, status: str):
    def part(visit: Visit) -> None:
        visit.request()
        elsewhere = f"Location: http://127.0.0.1:{visit.server.port}/elsewhere"
        visit.answer(b"", status, elsewhere, "Connection: close")

    async with scene(part, part, part) as play:
        created = await play.transport.post(play.create_url, Bytes())
        polled = await play.transport.get(play.poll_url)
        async with play.transport.stream(play.poll_url, {}, public_only=False) as file:
            assert file.status == polled.status == created.status == int(status[:3])
            assert file.headers["location"].endswith("/elsewhere")
    assert len(play.server.requests) == 3


async def test_cookies_are_not_kept(scene: SceneMaker):
    def part(visit: Visit) -> None:
        for _ in range(2):
            visit.request()
            visit.answer(b"{}", "200 OK", "Set-Cookie: session=1; Path=/")
        visit.until_gone()

    async with scene(part) as play:
        for _ in range(2):
            # By name: aiohttp's jar would not take a cookie from an address.
            await play.transport.get(play.poll_url.replace("127.0.0.1", "localhost"))
    assert not any(b"cookie" in request.lower() for request in play.server.requests)


async def test_header_names_are_found_in_lower_case(scene: SceneMaker):
    data = head(0, "Retry-After: 7", "X-Request-ID: abc", status="429 Slow Down")
    async with scene(says(data)) as play:
        answer = await play.transport.get(play.poll_url)
    assert answer.headers["retry-after"] == "7"
    assert answer.headers.get("x-request-id") == "abc"
    assert "retry-after-ms" not in answer.headers


async def test_a_cancelled_request_leaves_nothing_behind(scene: SceneMaker):
    async with scene(*[says(head(9))] * 2, says(head(9)), ok()) as play:
        for method in (play.transport.get, play.transport.get):
            with anyio.move_on_after(0.03) as scope:
                await method(play.poll_url)
            assert scope.cancelled_caught
        with anyio.move_on_after(0.03) as scope:
            await play.transport.post(play.create_url, body := Bytes())
        assert scope.cancelled_caught
        assert body.closed == 1
        assert (await play.transport.get(play.poll_url)).status == 200


async def test_a_closed_transport_makes_new_connections(scene: SceneMaker, lane: Lane):
    async with scene(ok(), *[ok()] * (not lane.given)) as play:
        await play.transport.get(play.poll_url)
        if play.client is None:
            await play.transport.aclose()
            await play.transport.get(play.poll_url)
        else:
            await play.client.aclose()
            with pytest.raises(ConfigurationError, match="http_client is closed"):
                await play.transport.get(play.poll_url)


async def test_an_address_that_is_none_is_refused(scene: SceneMaker):
    async with scene() as play:
        for url in ("http://[bad/x.mp4", "ftp://host/x.mp4", "http://host:99999/x.mp4", "nothing"):
            with pytest.raises(APIConnectionError) as caught:
                async with play.transport.stream(url, {}, public_only=False):
                    pass
            assert "is not an absolute http(s) URL" in str(caught.value)


@lanes(*OWN)
async def test_a_file_server_may_not_have_megabytes_of_headers_held(lane: Lane):
    """Whoever serves a file is a stranger, and a library holds all headers that it takes."""
    data = head(2, *(f"X-{number}: " + "a" * 60_000 for number in range(100))) + b"{}"
    with raw_server(says(data, then="close")) as foreign:
        transport = make_transport(lane, make_config("http://api.test/v1"))
        with pytest.raises(APIConnectionError):
            async with transport.stream(f"{foreign.base}/a.mp4", {}, public_only=False):
                pass
        await transport.aclose()
