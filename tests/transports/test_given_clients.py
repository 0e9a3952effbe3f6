"""A caller's own client: mocked with respx, with its own timeouts, hooks, auth and redirects."""

from __future__ import annotations

import gzip
import json
import traceback
from typing import Any

import anyio
import httpx
import pytest
import respx
from conftest import (
    GIVEN,
    KEY,
    NO_CERTIFICATES,
    Bytes,
    Lane,
    SceneMaker,
    lanes,
    make_client,
    make_config,
    make_transport,
)
from rawserver import Visit, leaves_after, ok

from grok_video import APIConnectionError, APITimeoutError, AsyncClient, CreateOutcomeUnknown
from grok_video._transports._httpx import HttpxTransport

BASE = "https://api.test/v1"
CLASSIC = [lane for lane in GIVEN if lane.library == "httpx"]


@lanes(*CLASSIC)
async def test_respx_sees_exactly_one_create(lane: Lane):
    with respx.mock(assert_all_called=True) as router:
        route = router.post(
            f"{BASE}/videos/generations",
            headers={"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
            json={"prompt": "drift", "image": "AAAA"},
        ).respond(200, json={"request_id": "job-1"})
        body = Bytes(b'{"prompt":', b'"drift",', b'"image":"AAAA"}')
        async with httpx.AsyncClient(verify=NO_CERTIFICATES) as client:
            transport = HttpxTransport(make_config(BASE), client)
            answer = await transport.post(f"{BASE}/videos/generations", body)
        assert json.loads(answer.body) == {"request_id": "job-1"}
        assert route.call_count == 1
        request = route.calls.last.request
    assert request.headers["content-length"] == str(body.length)
    assert request.headers["host"] == "api.test"
    assert "transfer-encoding" not in request.headers


@lanes(*CLASSIC)
@pytest.mark.parametrize("error", [httpx.ConnectTimeout, httpx.ReadTimeout])
async def test_respx_can_let_a_create_fail(lane: Lane, error: type[Exception]):
    """Whatever the error is called: respx has read the body by then, as a server would have."""
    with respx.mock as router:
        route = router.post(f"{BASE}/videos/generations").mock(side_effect=error)
        async with httpx.AsyncClient(verify=NO_CERTIFICATES) as client:
            transport = HttpxTransport(make_config(BASE), client)
            with pytest.raises(APIConnectionError) as caught:
                await transport.post(f"{BASE}/videos/generations", Bytes())
        assert caught.value.may_have_been_sent
        assert route.call_count == 1


def foreign_transport(family: Any, error: str) -> Any:
    """Return a transport without a trace, which gives any break of a connection one name."""

    class Foreign(family.AsyncBaseTransport):
        async def handle_async_request(self, request: Any) -> Any:
            async with await anyio.connect_tcp(request.url.host, request.url.port) as stream:
                head = f"POST {request.url.path} HTTP/1.1\r\n"
                head += "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
                await stream.send(f"{head}\r\n".encode())
                async for chunk in request.stream:
                    await stream.send(chunk)
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await stream.receive()
            raise getattr(family, error)("Server disconnected")

    return Foreign()


@lanes(*GIVEN)
@pytest.mark.parametrize("then", ["close", "reset"])
async def test_a_transport_that_calls_every_break_a_failed_connect_sends_no_create_twice(
    scene: SceneMaker, lane: Lane, then: str
):
    """So does httpx-aiohttp: the server has the whole create, and the error denies it."""
    client = {"transport": foreign_transport(lane.family, "ConnectTimeout")}
    async with scene(leaves_after(None, then), client=client) as play:
        mine = AsyncClient(KEY, base_url=play.base, transport=play.transport)
        with pytest.raises(CreateOutcomeUnknown) as caught:
            await mine.submit("drift")
    assert "the connection to 127.0.0.1" in str(caught.value)
    assert "broke (ConnectTimeout)" in str(caught.value)
    assert len(play.server.requests) == 1


@lanes(*CLASSIC)
async def test_respx_can_serve_polls_and_files(lane: Lane):
    with respx.mock as router:
        router.get(f"{BASE}/videos/job-1").respond(202)
        file = router.get("https://cdn.test/clip.mp4").respond(200, content=b"clip")
        async with httpx.AsyncClient(verify=NO_CERTIFICATES) as client:
            transport = HttpxTransport(make_config(BASE), client)
            assert (await transport.get(f"{BASE}/videos/job-1")).status == 202
            wanted = transport.stream("https://cdn.test/clip.mp4", {}, public_only=False)
            async with wanted as streamed:
                assert [chunk async for chunk in streamed.chunks()] == [b"clip"]
        assert "authorization" not in file.calls.last.request.headers


@lanes(*GIVEN)
async def test_a_mock_with_its_whole_content_is_read(lane: Lane):
    def handler(request: Any) -> Any:
        return lane.family.Response(200, json={"url": str(request.url)})

    client = make_client(lane, transport=lane.family.MockTransport(handler))
    transport = make_transport(lane, make_config(BASE), client)
    async with client:
        assert b"job-1" in (await transport.get(f"{BASE}/videos/job-1")).body


@lanes(*GIVEN)
async def test_a_redirect_is_not_followed_though_the_client_would(scene: SceneMaker):
    def part(visit: Visit) -> None:
        visit.request()
        elsewhere = f"Location: http://127.0.0.1:{visit.server.port}/elsewhere"
        visit.answer(b"", "307 Temporary Redirect", elsewhere)
        visit.until_gone()

    async with scene(part, client={"follow_redirects": True}) as play:
        assert (await play.transport.post(play.create_url, Bytes())).status == 307


@lanes(*GIVEN)
async def test_the_clients_auth_sends_no_create_twice(scene: SceneMaker, lane: Lane):
    def part(visit: Visit) -> None:
        visit.request()
        challenge = 'WWW-Authenticate: Digest realm="r", nonce="n", qop="auth"'
        visit.answer(b"", "401 Unauthorized", challenge)
        visit.until_gone()

    async with scene(part, client={"auth": lane.family.DigestAuth("user", "word")}) as play:
        assert (await play.transport.post(play.create_url, Bytes())).status == 401
    assert len(play.server.requests) == 1


async def refuse(response: Any) -> None:
    response.raise_for_status()


async def read_and_refuse(response: Any) -> None:
    await response.aread()
    response.raise_for_status()


REFUSING = {"event_hooks": {"response": [refuse]}}


@lanes(*GIVEN)
@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 429, 503])
async def test_an_answer_that_a_hook_refuses_is_an_answer(scene: SceneMaker, status: int):
    """Its body is lost with its connection, if the hook did not read it."""

    def part(visit: Visit) -> None:
        visit.request()
        visit.answer(b'{"error":"no"}', f"{status} No", "Retry-After: 7")
        visit.until_gone()

    async with scene(part, part, part, client=REFUSING) as play:
        created = await play.transport.post(play.create_url, Bytes())
        polled = await play.transport.get(play.poll_url)
        async with play.transport.stream(play.poll_url, {}, public_only=False) as streamed:
            assert [chunk async for chunk in streamed.chunks()] == [b""]
    assert (created.status, created.body) == (polled.status, polled.body) == (status, b"")
    assert created.headers["retry-after"] == streamed.headers["retry-after"] == "7"
    assert streamed.status == status


@lanes(*GIVEN)
async def test_an_answer_that_a_hook_refuses_has_the_body_that_it_read(scene: SceneMaker):
    def part(visit: Visit) -> None:
        visit.request()
        visit.answer(b'{"error":"no"}', "400 Bad Request")
        visit.until_gone()

    async with scene(part, client={"event_hooks": {"response": [read_and_refuse]}}) as play:
        assert (await play.transport.get(play.poll_url)).body == b'{"error":"no"}'


@lanes(*GIVEN)
async def test_a_create_whose_503_a_hook_refuses_is_unknown(scene: SceneMaker):
    def part(visit: Visit) -> None:
        visit.request()
        visit.answer(b"{}", "503 Unavailable")
        visit.until_gone()

    async with scene(part, client=REFUSING) as play:
        mine = AsyncClient(KEY, base_url=play.base, transport=play.transport)
        with pytest.raises(CreateOutcomeUnknown) as caught:
            await mine.submit("drift")
    assert caught.value.status == 503


@lanes(*GIVEN)
async def test_an_error_that_a_hook_makes_of_an_answer_leaves_the_create_unknown(
    scene: SceneMaker,
):
    async def refuse_in_other_words(response: Any) -> None:
        try:
            response.raise_for_status()
        except Exception as error:
            raise ZeroDivisionError from error

    def part(visit: Visit) -> None:
        visit.request()
        visit.answer(b"{}", "401 Unauthorized")
        visit.until_gone()

    hooks, signature = {"response": [refuse_in_other_words]}, "0123456789abcdef"
    async with scene(part, client={"event_hooks": hooks}) as play:
        with pytest.raises(APIConnectionError, match="ZeroDivisionError") as caught:
            await play.transport.post(f"{play.create_url}?sig={signature}", Bytes())
    assert caught.value.may_have_been_sent
    assert f"sig={signature}" not in "".join(traceback.format_exception(caught.value))


async def read_whole(response: Any) -> None:
    await response.aread()


@lanes(*GIVEN)
async def test_a_hook_may_read_the_answers(scene: SceneMaker):
    packed = gzip.compress(b"{}")

    def part(visit: Visit) -> None:
        visit.request()
        visit.answer(b'{"request_id":"job-1"}')
        visit.request()
        visit.answer(packed, "200 OK", "Content-Encoding: gzip")
        visit.request()
        visit.answer(b"clip")
        visit.until_gone()

    async with scene(part, client={"event_hooks": {"response": [read_whole]}}) as play:
        with anyio.fail_after(3):
            created = await play.transport.post(play.create_url, Bytes())
            polled = await play.transport.get(play.poll_url)
            wanted = play.transport.stream(play.poll_url, {}, public_only=False)
            async with wanted as streamed:
                file = [chunk async for chunk in streamed.chunks()]
    assert created.body == b'{"request_id":"job-1"}'
    assert polled.body == b"{}"
    assert file == [b"clip"]


@lanes(*GIVEN)
async def test_an_answer_that_a_hook_took_for_itself_is_told_at_once(scene: SceneMaker):
    async def take(response: Any) -> None:
        async for _ in response.aiter_raw():
            pass

    async with scene(ok(times=3), client={"event_hooks": {"response": [take]}}) as play:
        with anyio.fail_after(3):
            with pytest.raises(APIConnectionError, match="a hook of the http_client") as caught:
                await play.transport.post(play.create_url, Bytes())
            with pytest.raises(APIConnectionError, match="a hook of the http_client"):
                await play.transport.get(play.poll_url)
            async with play.transport.stream(play.poll_url, {}, public_only=False) as streamed:
                with pytest.raises(APIConnectionError, match="a hook of the http_client"):
                    await anext(streamed.chunks())
    assert caught.value.may_have_been_sent


@lanes(*GIVEN)
async def test_the_clients_own_timeouts_apply(scene: SceneMaker):
    async with scene(leaves_after(None, "wait"), client={"timeout": 0.1}) as play:
        with pytest.raises(APITimeoutError), anyio.fail_after(3):
            await play.transport.post(play.create_url, Bytes())


@lanes(*GIVEN)
async def test_httpxs_default_of_five_seconds_is_nobodys_wish(lane: Lane):
    seen: list[dict[str, float]] = []

    def handler(request: Any) -> Any:
        seen.append(request.extensions["timeout"])
        return lane.family.Response(200)

    for words in ({}, {"timeout": 5.5}, {"timeout": None}):
        client = make_client(lane, transport=lane.family.MockTransport(handler), **words)
        transport = make_transport(lane, make_config(BASE, timeout=60.0), client)
        async with client:
            await transport.post(f"{BASE}/videos/generations", Bytes())
    assert seen[0] == {"connect": 15.0, "read": None, "write": None, "pool": 60.0}
    assert set(seen[1].values()) == {5.5}
    assert set(seen[2].values()) == {None}


@lanes(*GIVEN)
async def test_waiting_for_the_clients_pool_is_told_apart(scene: SceneMaker, lane: Lane):
    limits = lane.family.Limits(max_connections=1)
    client = {"limits": limits, "timeout": lane.family.Timeout(5.5, pool=0.1)}
    async with scene(leaves_after(None, "wait"), client=client) as play:
        async with anyio.create_task_group() as tasks:

            async def occupy() -> None:
                await play.client.get(play.poll_url)

            tasks.start_soon(occupy)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(APITimeoutError, match="became free in time") as caught:
                await play.transport.post(play.create_url, Bytes())
            tasks.cancel_scope.cancel()
        assert not caught.value.may_have_been_sent


@lanes(*GIVEN)
async def test_the_time_of_an_exchange_begins_with_its_connection(scene: SceneMaker, lane: Lane):
    """What is spent waiting for the caller's own pool is not taken from the server's time."""

    def slow(visit: Visit) -> None:
        for _ in range(2):
            visit.request()
            visit.sock.settimeout(0.15)
            with pytest.raises(TimeoutError):
                visit.sock.recv(1)
            visit.sock.settimeout(5)
            visit.answer(b"{}")
        visit.until_gone()

    client = {"limits": lane.family.Limits(max_connections=1)}
    async with scene(slow, timeout=0.28, client=client) as play, anyio.create_task_group() as tasks:

        async def occupy() -> None:
            await play.client.get(play.poll_url)

        tasks.start_soon(occupy)
        await anyio.wait_all_tasks_blocked()
        assert (await play.transport.get(play.poll_url)).status == 200


@lanes(*GIVEN)
async def test_patience_with_the_clients_pool_is_no_patience_with_the_server(
    scene: SceneMaker, lane: Lane
):
    client = {"timeout": lane.family.Timeout(None, pool=60.0)}
    async with scene(leaves_after(None, "wait"), timeout=0.1, client=client) as play:
        with pytest.raises(APITimeoutError, match="no answer from"), anyio.fail_after(3):
            await play.transport.post(play.create_url, Bytes())


@lanes(*GIVEN)
async def test_a_user_agent_of_the_callers_choice_is_kept(scene: SceneMaker):
    async with scene(ok(), client={"headers": {"User-Agent": "mine/1"}}) as play:
        await play.transport.get(play.poll_url)
    assert b"\r\nuser-agent: mine/1\r\n" in play.server.requests[0].lower()


@lanes(*GIVEN)
async def test_a_header_of_the_clients_own_that_http_cannot_hold_sent_nothing(scene: SceneMaker):
    def part(visit: Visit) -> None:
        visit.until_gone()
        assert visit.seen == b""

    async with scene(part, client={"headers": {"X-Team": "video "}}) as play:
        with pytest.raises(APIConnectionError, match="LocalProtocolError") as caught:
            await play.transport.post(play.create_url, Bytes())
    assert not caught.value.may_have_been_sent
    assert str(caught.value).endswith("; nothing was sent")
