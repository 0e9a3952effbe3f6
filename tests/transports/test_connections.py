"""Which connection a request goes over, and whose loop it lives in."""

from __future__ import annotations

import _socket
import asyncio
import contextlib
import gc
import socket
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import anyio.lowlevel
import pytest
import trio
from conftest import (
    GIVEN,
    LANES,
    OWN,
    Bytes,
    Lane,
    SceneMaker,
    lanes,
    make_client,
    make_config,
    make_transport,
    open_sockets,
)
from rawserver import Part, Visit, ok, raw_server

from grok_video import APIConnectionError
from grok_video._transports._aiohttpconnectors import READ, CreateConnector
from grok_video._transports._base import CREATE_KEEPALIVE, KEEPALIVE, Transport

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Give a function that moves the clock by which the libraries age idle connections."""
    ahead = 0.0

    def clock() -> float:
        return time.monotonic() + ahead

    monkeypatch.setattr("aiohttp.connector.monotonic", clock)
    monkeypatch.setattr("grok_video._transports._aiohttpconnectors.monotonic", clock)
    fake = SimpleNamespace(monotonic=clock)
    monkeypatch.setattr("httpcore2._async.http11.time", fake)
    monkeypatch.setattr("httpcore._async.http11.time", fake)

    def move(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    return move


@lanes(*OWN)
async def test_a_create_goes_over_a_connection_used_less_than_two_seconds_ago(
    scene: SceneMaker, later: Callable[[float], None]
):
    async with scene(ok(times=2)) as play:
        await play.transport.post(play.create_url, Bytes())
        later(CREATE_KEEPALIVE - 0.5)
        await play.transport.post(play.create_url, Bytes())


@lanes(*OWN)
async def test_a_create_never_goes_over_a_connection_idle_for_two_seconds(
    scene: SceneMaker, later: Callable[[float], None]
):
    async with scene(ok(), ok()) as play:
        await play.transport.post(play.create_url, Bytes())
        later(CREATE_KEEPALIVE + 0.1)
        await play.transport.post(play.create_url, Bytes())


@lanes(*OWN)
async def test_creates_have_connections_of_their_own(scene: SceneMaker):
    async with scene(ok(times=2), ok()) as play:
        await play.transport.get(play.poll_url)
        await play.transport.post(play.create_url, Bytes())
        await play.transport.get(play.poll_url)
    assert [visit.seen[:4] for visit in play.server.visits] == [b"GET ", b"POST"]


@lanes(LANES[0])
async def test_a_poll_goes_on_with_the_connection_that_a_create_has_left(
    scene: SceneMaker, later: Callable[[float], None]
):
    async with scene(ok(times=2)) as play:
        await play.transport.post(play.create_url, Bytes())
        later(KEEPALIVE - 1)
        await play.transport.get(play.poll_url)


@lanes(LANES[0])
async def test_a_create_never_goes_over_a_connection_that_a_poll_has_taken_over(
    scene: SceneMaker,
):
    async with scene(ok(times=3), ok()) as play:
        await play.transport.post(play.create_url, Bytes())
        await play.transport.get(play.poll_url)
        await play.transport.post(play.create_url, Bytes())
        await play.transport.get(play.poll_url)
    [polled, fresh] = play.server.visits
    assert polled.seen.count(b"GET ") == 2
    assert polled.seen.count(b"POST ") == fresh.seen.count(b"POST ") == 1


@lanes(LANES[0])
async def test_a_poll_leaves_a_connection_that_creates_left_long_ago(
    scene: SceneMaker, later: Callable[[float], None]
):
    async with scene(ok(), ok()) as play:
        await play.transport.post(play.create_url, Bytes())
        later(KEEPALIVE + 1)
        await play.transport.get(play.poll_url)


@lanes(LANES[0])
async def test_what_polls_took_over_is_forgotten_where_it_was_closed(scene: SceneMaker):
    def closes(visit: Visit) -> None:
        for _ in range(2):
            visit.request()
            visit.answer(b"{}", "200 OK", *["Connection: close"] * visit.seen.count(b"GET "))

    jobs = 100
    async with scene(*[closes] * jobs) as play:
        for _ in range(jobs):
            await play.transport.post(play.create_url, Bytes())
            await play.transport.get(play.poll_url)
        gc.collect()
        protocols = [one for one in gc.get_objects() if type(one).__name__ == "ResponseHandler"]
        assert len(protocols) < jobs / 4


@lanes(LANES[0])
@pytest.mark.filterwarnings("error")
async def test_a_poll_that_connects_while_the_transport_is_closed_leaves_nothing(
    scene: SceneMaker, monkeypatch: pytest.MonkeyPatch
):
    connect = CreateConnector.connect_poll

    async def close_then_connect(self: CreateConnector, *words: Any) -> Any:
        connection = await connect(self, *words)
        await play.transport.aclose()
        return connection

    monkeypatch.setattr(CreateConnector, "connect_poll", close_then_connect)
    async with scene(Visit.until_gone) as play:
        with pytest.raises(APIConnectionError):
            await play.transport.get(play.poll_url)
        gc.collect()


async def test_polls_share_a_connection_for_seconds(
    scene: SceneMaker, later: Callable[[float], None], lane: Lane
):
    client = {"limits": lane.family.Limits(keepalive_expiry=KEEPALIVE)} if lane.given else None
    async with scene(ok(times=3), client=client) as play:
        for _ in range(3):
            await play.transport.get(play.poll_url)
            later(KEEPALIVE - 1)


@lanes(*GIVEN)
async def test_a_create_never_goes_over_a_connection_that_the_callers_client_had_idle(
    scene: SceneMaker,
):
    async with scene(ok(times=2), ok(), ok(), ok()) as play:
        # Two idle connections of the caller's own, one of which served two requests.
        await play.client.get(play.poll_url)

        async def twice() -> None:
            await play.client.get(play.poll_url)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(twice)
            tasks.start_soon(twice)
        for _ in range(2):
            answer = await play.transport.post(play.create_url, body := Bytes())
            assert answer.status == 200
            assert body.closed >= 1
    creates = [visit.seen for visit in play.server.visits if b"POST" in visit.seen]
    assert len(creates) == 2
    assert all(seen.startswith(b"POST") for seen in creates)


@lanes(*GIVEN)
async def test_polls_of_a_callers_client_use_its_idle_connections(scene: SceneMaker):
    async with scene(ok(times=3)) as play:
        await play.client.get(play.poll_url)
        await play.transport.get(play.poll_url)
        await play.transport.get(play.poll_url)


@pytest.mark.parametrize("method", ["post", "get"])
async def test_a_connection_closed_while_idle_fails_nothing(scene: SceneMaker, method: str):
    closed = threading.Event()

    def closes(visit: Visit) -> None:
        visit.request()
        visit.answer(b"{}")
        visit.sock.close()
        closed.set()

    async with scene(closes, ok()) as play:

        async def send() -> int:
            if method == "post":
                return (await play.transport.post(play.create_url, Bytes())).status
            return (await play.transport.get(play.poll_url)).status

        assert await send() == 200
        await anyio.to_thread.run_sync(closed.wait)
        await anyio.wait_all_tasks_blocked()  # asyncio hears of the end in its next turn
        assert await send() == 200
    assert len(play.server.requests) == 2


@pytest.mark.parametrize("words", ["post post", "get get", "post get"])
async def test_an_answer_that_nobody_asked_for_is_not_taken_for_that_of_the_next_request(
    scene: SceneMaker, words: str
):
    """A proxy tells of an idle connection that it closes, or a server answers twice."""
    is_idle, has_more = threading.Event(), threading.Event()

    def says_more(visit: Visit) -> None:
        visit.request()
        visit.answer(b'{"of": "the first"}')
        is_idle.wait()
        visit.answer(b'{"of": "nobody"}', "429 Too Many Requests")
        has_more.set()
        visit.until_gone()

    def answers(visit: Visit) -> None:
        visit.request()
        visit.answer(b'{"of": "the second"}')

    async with scene(says_more, answers) as play:

        async def send(word: str) -> bytes:
            if word == "post":
                return (await play.transport.post(play.create_url, Bytes())).body
            return (await play.transport.get(play.poll_url)).body

        first, second = words.split()
        assert b"the first" in await send(first)
        is_idle.set()
        await anyio.to_thread.run_sync(has_more.wait)
        await anyio.wait_all_tasks_blocked()  # the loop hears of it in its next turn
        assert b"the second" in await send(second)


@lanes(LANES[0])
@pytest.mark.parametrize("method", ["post", "get"])
async def test_a_server_that_speaks_first_is_heard_and_asked_no_second_time(
    scene: SceneMaker, method: str, monkeypatch: pytest.MonkeyPatch
):
    """TLS 1.2 may bring a refusal along with the handshake: then it is here with the connection."""
    connect = aiohttp.TCPConnector._create_connection

    async def connect_and_hear(self: aiohttp.TCPConnector, *words: Any) -> Any:
        protocol = await connect(self, *words)
        while not protocol.should_close:
            await anyio.lowlevel.checkpoint()
        return protocol

    monkeypatch.setattr(aiohttp.TCPConnector, "_create_connection", connect_and_hear)

    def refuses(visit: Visit) -> None:
        visit.answer(b'{"message": "busy"}', "503 Service Unavailable")
        visit.until_gone()

    async with scene(refuses) as play:
        if method == "get":
            assert (await play.transport.get(play.poll_url)).status == 503
        else:
            with contextlib.suppress(APIConnectionError):  # before Python 3.12: not even sent
                assert (await play.transport.post(play.create_url, Bytes())).status == 503
    assert len(play.server.visits) == 1


@lanes(LANES[0])
@pytest.mark.parametrize("method", ["post", "get"])
async def test_an_answer_that_is_all_here_when_the_transport_is_closed_is_read(
    scene: SceneMaker, method: str
):
    """It may have the id of a job that is paid for."""
    taken = threading.Event()
    rest = threading.Event()

    def answers_in_two_parts(visit: Visit) -> None:
        visit.request()
        visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n")
        taken.set()
        assert rest.wait(5)
        visit.send(b'{"request_id":"job-1"}')
        visit.until_gone()

    async with scene(answers_in_two_parts) as play:
        bodies: list[bytes] = []

        async def send() -> None:
            if method == "post":
                bodies.append((await play.transport.post(play.create_url, Bytes())).body)
            else:
                bodies.append((await play.transport.get(play.poll_url)).body)

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send)
                await anyio.to_thread.run_sync(taken.wait)
                sessions = play.transport._sessions.held()
                while not sessions._open:  # noqa: ASYNC110 - it tells no one
                    await asyncio.sleep(0)
                [response] = sessions._open
                rest.set()
                # Each turn of the loop, so that this one is the next after the last byte.
                while not response.content.is_eof():  # noqa: ASYNC110 - an event comes a turn later
                    await asyncio.sleep(0)
                await play.transport.aclose()
        assert bodies == [b'{"request_id":"job-1"}']


def closes_with_the_next_request(visit: Visit) -> None:
    """Answer one request, and close when the next one begins to arrive."""
    visit.request()
    visit.answer(b"{}")
    visit.read(1)
    visit.reset()


@lanes(*OWN)
async def test_a_create_lost_on_a_warm_connection_may_have_been_sent(scene: SceneMaker):
    async with scene(closes_with_the_next_request) as play:
        await play.transport.post(play.create_url, Bytes())
        with pytest.raises(APIConnectionError) as caught:
            await play.transport.post(play.create_url, Bytes())
        assert caught.value.may_have_been_sent
    assert len(play.server.visits) == 1


RUNS: dict[str, Callable[[Callable[[], Any]], None]] = {
    "asyncio": lambda work: asyncio.run(work()),
    "trio": trio.run,
}


def in_three_runs(lane: Lane, base: str, end: Callable[[Transport], Any] | None) -> None:
    transport = make_transport(lane, make_config(base))

    async def work() -> None:
        await transport.post(f"{base}/videos/generations", Bytes())
        for _ in range(2):
            await transport.get(f"{base}/videos/job-1")
        async with transport.stream(f"{base}/clip.mp4", {}, public_only=False) as file:
            async for _ in file.chunks():
                break
        if end is not None:
            await end(transport)

    for _ in range(3):
        RUNS[lane.backend](work)


# Polls and files of the API's origin share a connection: over aiohttp the one that the create left.
PARTS: dict[str, list[Part]] = {"aiohttp": [ok(times=4)], "httpx2": [ok(), ok(times=3)]}


@lanes(*OWN)
@pytest.mark.parametrize("end", [None, Transport.aclose], ids=["left open", "closed"])
def test_one_transport_works_in_three_runs(lane: Lane, end: Callable[[Transport], Any] | None):
    """A run that ends closes its connections, even if nobody says so; no warning is left."""
    sockets = open_sockets()
    with raw_server(*PARTS[lane.library] * 3) as server:
        if end is not None:
            in_three_runs(lane, server.base, lambda transport: transport.aclose())
        else:
            in_three_runs(lane, server.base, None)
    gc.collect()
    assert open_sockets() <= sockets


@lanes(*OWN)
def test_one_transport_works_in_two_threads_at_once(lane: Lane):
    with raw_server(*[ok()] * 2) as server:
        transport = make_transport(lane, make_config(server.base))
        both = threading.Barrier(2, timeout=5)
        seen: list[int] = []

        async def work() -> None:
            seen.append((await transport.get(f"{server.base}/videos/job-1")).status)
            both.wait()  # both loops are open at the same time
            await transport.aclose()

        threads = [threading.Thread(target=RUNS[lane.backend], args=(work,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
    assert seen == [200, 200]


@lanes(OWN[0])
async def test_an_answer_of_the_api_is_read_into_little_memory_and_a_file_into_much(
    scene: SceneMaker, monkeypatch: pytest.MonkeyPatch
):
    """What asyncio asks for, 256 KiB, costs more than the rest of a poll: see `READ`."""
    read: list[int] = []

    def recv(self: socket.socket, size: int, flags: int = 0) -> bytes:
        if self.family is socket.AF_INET and self.getpeername() == ("127.0.0.1", port):
            read.append(size)
        return _socket.socket.recv(self, size, flags)

    def taken() -> set[int]:
        found = set(read)
        read.clear()
        return found

    async with scene(ok(times=2), ok()) as play:
        port = int(play.base.rpartition(":")[2].partition("/")[0])
        monkeypatch.setattr(socket.socket, "recv", recv, raising=False)
        await play.transport.post(play.create_url, Bytes())
        assert taken() == {READ}
        await play.transport.get(play.poll_url)
        assert taken() == {READ}
        elsewhere = f"http://localhost:{port}/a.mp4"
        async with play.transport.stream(elsewhere, {}, public_only=False) as file:
            assert b"".join([piece async for piece in file.chunks()]) == b'{"request_id":"job-1"}'
        assert min(taken()) > READ


@lanes(*GIVEN)
async def test_the_callers_client_stays_open(lane: Lane, anyio_backend: str):
    with raw_server(ok(times=2)) as server:
        async with make_client(lane) as client:
            transport = make_transport(lane, make_config(server.base), client)
            await transport.get(f"{server.base}/videos/job-1")
            await transport.aclose()
            assert not client.is_closed
            assert (await client.get(f"{server.base}/videos/job-1")).status_code == 200
