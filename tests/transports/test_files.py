"""Files stream, break off honestly, and come from wherever they are without the key going there."""

from __future__ import annotations

import logging
import socket
import threading
import traceback
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from conftest import (
    GIVEN,
    KEY,
    LANES,
    OWN,
    Bytes,
    Lane,
    SceneMaker,
    lanes,
    make_client,
    make_config,
    make_transport,
)
from rawserver import Visit, full_queue, leaves_after, ok, raw_server, says

from grok_video import APIConnectionError, APITimeoutError
from grok_video._transports._aiohttp import AiohttpTransport
from grok_video._transports._base import (
    NotRequestable,
    PrivateAddress,
    Transport,
    refuse_private,
)
from grok_video._transports._proxies import Proxies

HEAD = b'HTTP/1.1 206 Partial Content\r\nContent-Length: %d\r\nETag: "v1"\r\n\r\n'


async def read(
    transport: Transport,
    url: str,
    *,
    public_only: bool = False,
    into: list[bytes] | None = None,
) -> tuple[int, bytes]:
    """Return a file's status and content; `into` also holds what came before it broke off."""
    parts: list[bytes] = [] if into is None else into
    async with transport.stream(url, {}, public_only=public_only) as file:
        async for chunk in file.chunks():
            assert type(chunk) is bytes
            parts.append(chunk)
        return file.status, b"".join(parts)


async def test_a_file_streams_with_the_headers_of_the_caller(scene: SceneMaker):
    clip = bytes(range(256)) * 3000
    async with scene(says(HEAD % len(clip) + clip)) as play:
        url = f"{play.base}/clip.mp4?sig=a%2Fb+c"
        wanted = play.transport.stream(url, {"Range": "bytes=5-"}, public_only=False)
        async with wanted as file:
            assert (file.status, file.headers["etag"]) == (206, '"v1"')
            assert b"".join([chunk async for chunk in file.chunks()]) == clip
    (request,) = play.server.requests
    assert request.startswith(b"GET /v1/clip.mp4?sig=a%2Fb+c HTTP/1.1\r\n")
    assert b"\r\nrange: bytes=5-\r\n" in request.lower()
    assert b"\r\naccept-encoding: identity\r\n" in request.lower()


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("/my clip.mp4?name=my clip&sig=a%2Fb+c=", "/my%20clip.mp4?name=my%20clip&sig=a%2Fb+c="),
        ("/b\u00e4r.mp4?sig=a%2fb~!$'()*,;:@", "/b%C3%A4r.mp4?sig=a%2fb~!$'()*,;:@"),
        ("?name=my clip", "/?name=my%20clip"),
    ],
)
async def test_a_link_is_sent_as_it_is_but_for_what_no_request_line_can_have(
    scene: SceneMaker, given: str, sent: str
):
    """A signature is that of these very bytes."""
    async with scene(says(HEAD % 4 + b"clip")) as play:
        assert await read(play.transport, play.base.removesuffix("/v1") + given) == (206, b"clip")
    assert play.server.requests[0].startswith(f"GET {sent} HTTP/1.1\r\n".encode())


@lanes(LANES[0])
@pytest.mark.parametrize("verb", ["get", "post", "stream"])
async def test_a_closed_transport_cancels_nobody_who_waits_for_the_address_of_a_host(
    verb: str, monkeypatch: pytest.MonkeyPatch
):
    asked, go_on = threading.Event(), threading.Event()

    def resolve(*_: Any, **__: Any) -> Any:
        asked.set()
        go_on.wait(5)
        raise socket.gaierror(socket.EAI_NONAME, "")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    transport = AiohttpTransport(make_config("http://api.test/v1"))
    told: list[APIConnectionError] = []

    async def call() -> None:
        with pytest.raises(APIConnectionError) as caught:
            if verb == "get":
                await transport.get("http://api.test/v1/x")
            elif verb == "post":
                await transport.post("http://api.test/v1/x", Bytes())
            else:
                await read(transport, "http://files.test/x")
        told.append(caught.value)

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            tasks.start_soon(call)
            while not asked.is_set():
                await anyio.lowlevel.checkpoint()
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            await transport.aclose()
    finally:
        go_on.set()
    assert len(told) == 2
    assert all(error.may_have_been_sent == (verb != "post") for error in told)


async def test_a_file_keeps_its_content_coding(scene: SceneMaker):
    data = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd"
    async with scene(says(data)) as play:
        assert await read(play.transport, play.poll_url) == (200, b"abcd")


@pytest.mark.parametrize("then", ["close", "reset"])
async def test_a_file_that_breaks_off_says_so_after_what_came(scene: SceneMaker, then: str):
    arrived: list[bytes] = []
    async with scene(says(HEAD % 100 + b"x" * 60, then=then)) as play:
        with pytest.raises(APIConnectionError, match=r"answer of .* broke off|broke"):
            await read(play.transport, play.poll_url, into=arrived)
    # A reset may overtake what was sent before it.
    assert b"".join(arrived) == b"x" * 60 or (then == "reset" and arrived == [])


async def test_a_download_that_falls_silent_fails_and_a_slow_one_does_not(scene: SceneMaker):
    def part(visit: Visit) -> None:
        visit.request()
        visit.send(HEAD % 100)
        visit.sock.settimeout(0.06)
        for _ in range(5):  # together longer than the timeout
            visit.send(b"x")
            with pytest.raises(TimeoutError):
                visit.sock.recv(1)
        visit.sock.settimeout(5)
        visit.until_gone()

    arrived: list[bytes] = []
    client = {"timeout": 0.25}
    async with scene(part, timeout=0.25, client=client) as play:
        with pytest.raises(APITimeoutError, match="no answer from"):
            await read(play.transport, play.poll_url, into=arrived)
    assert arrived == [b"x"] * 5


async def test_the_head_of_a_file_has_the_time_of_an_exchange(scene: SceneMaker):
    def trickles(visit: Visit) -> None:
        visit.request()
        visit.sock.settimeout(0.02)
        try:
            visit.send(b"HTTP/1.1 200 OK\r\n")
            while True:
                visit.send(b"X-More: and more\r\n")
                try:
                    if not visit.sock.recv(1):
                        return
                except TimeoutError:
                    pass
        except ConnectionError:
            pass

    async with scene(trickles, timeout=0.12) as play:
        with pytest.raises(APITimeoutError):
            await read(play.transport, play.poll_url)


async def test_a_file_that_nobody_reads_to_its_end_is_not_read_to_its_end(scene: SceneMaker):
    sent = 0

    def part(visit: Visit) -> None:
        nonlocal sent
        visit.request()
        visit.send(HEAD % 10**9)
        try:
            while True:
                visit.send(b"x" * 65536)
                sent += 65536
        except ConnectionError:
            pass

    async with scene(part, ok()) as play:
        async with play.transport.stream(play.poll_url, {}, public_only=False) as file:
            async for _ in file.chunks():
                break
        assert (await play.transport.get(play.poll_url)).status == 200
    assert sent < 50 * 2**20


async def test_a_file_server_that_hangs_up(lane: Lane, scene: SceneMaker):
    # aiohttp sends a GET a second time over a new connection.
    parts = [leaves_after(None, "close")] * (2 if lane.library == "aiohttp" else 1)
    async with scene(*parts) as play:
        with pytest.raises(APIConnectionError, match="closed the connection"):
            await read(play.transport, play.poll_url)


async def test_the_key_goes_to_the_api_and_nowhere_else(scene: SceneMaker):
    client = {
        "headers": {"Authorization": "Bearer of-the-caller", "X-Mine": "1"},
        "cookies": {"session": "of-the-caller"},
        "params": {"token": "of-the-caller"},
        "follow_redirects": True,
    }
    with raw_server(ok(times=2)) as foreign:
        async with scene(ok(times=2), client=client) as play:
            for _ in range(2):
                await read(play.transport, f"{foreign.base}/clip.mp4")
            await read(play.transport, f"{play.base}/clip.mp4")
            await play.transport.get(play.poll_url)
    for request in foreign.requests:
        for secret in (KEY.encode(), b"secret-of-a-gateway", b"of-the-caller", b"x-mine"):
            assert secret not in request.lower()
        assert b"\r\nuser-agent: grok_video/" in request.lower()
    for request in play.server.requests:
        assert f"authorization: bearer {KEY}".encode() in request.lower()
        assert b"of-the-caller" not in request


async def test_a_foreign_port_is_a_foreign_origin(scene: SceneMaker):
    with raw_server(ok()) as foreign:
        async with scene() as play:
            await read(play.transport, f"http://127.0.0.1:{foreign.port}/v1/videos/job-1")
    assert KEY.encode() not in foreign.requests[0]


@lanes(*OWN)
@pytest.mark.parametrize("fails", [False, True])
async def test_no_log_and_no_error_shows_the_signature_of_a_link(
    lane: Lane, scene: SceneMaker, caplog: pytest.LogCaptureFixture, fails: bool
):
    caplog.set_level(logging.DEBUG)
    hangs_up = [leaves_after(None, "close")] * (2 if lane.library == "aiohttp" else 1)
    async with scene(*(hangs_up if fails else [ok()])) as play:
        url = f"{play.base}/clip.mp4?X-Signature=canary"
        if fails:
            with pytest.raises(APIConnectionError) as caught:
                await read(play.transport, url)
            assert "canary" not in str(caught.value)
        else:
            await read(play.transport, url)
    assert "canary" not in caplog.text


async def test_no_traceback_shows_the_signature_of_a_link_to_a_host_that_cannot_be_reached(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
):
    # It has 15 s in life; an exchange that is over before says it in other words.
    for module in ("_aiohttp", "_httpxlines"):
        monkeypatch.setattr(f"grok_video._transports.{module}.CONNECT_TIMEOUT", 0.1)
    client = make_client(lane, timeout=0.1) if lane.given else None
    with full_queue() as origin:
        transport = make_transport(lane, make_config("http://api.test/v1"), client)
        link = f"{origin}/clip.mp4?X-Signature=canary"
        with pytest.raises(APIConnectionError) as caught:
            await read(transport, link)
        await transport.aclose()
        if client is not None:
            await client.aclose()
    printed = "".join(traceback.format_exception(caught.value))
    assert "Timeout" in printed
    assert "canary" not in printed


# --- private addresses ---------------------------------------------------------------------------

PRIVATE = [
    "http://127.0.0.2:{port}/clip.mp4",
    "http://[::1]:{port}/clip.mp4",
    "http://[::ffff:127.0.0.1]:{port}/clip.mp4",
    "http://10.0.0.1/clip.mp4",
    "http://169.254.169.254/latest/meta-data",
    "http://localhost:{port}/clip.mp4",
    "http://inside.test:{port}/clip.mp4",
    "http://mixed.test:{port}/clip.mp4",
    "http://0.0.0.0:{port}/clip.mp4",
]
NAMES = {
    "inside.test": ["10.0.0.7"],
    "mixed.test": ["93.184.216.34", "127.0.0.1"],
    "outside.test": ["93.184.216.34"],
}


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """A resolver of our own, which never asks a real one; it can be told new answers."""
    known = {name: list(found) for name, found in NAMES.items()}
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name in known:
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, int(port or 0)))
                for address in known[name]
            ]
        if isinstance(name, str) and name.endswith(".test"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return known


#: 127.0.0.1, as no browser shows it.
DISGUISED = ("2130706433", "127.1", "0x7f000001", "0177.0.0.1")


#: The same in digits and dots that IDNA folds: fullwidth, circled, superscript, ideographic.
FOLDED = (
    "\uff11\uff12\uff17.0.0.1",
    "\u2460\u2461\u2466.0.0.1",
    "\u00b2\u00b9\u00b3\u2070\u2077\u2070\u2076\u2074\u00b3\u00b3",
    "127\u30020\uff0e0\uff611",
)


@pytest.mark.parametrize("url", PRIVATE)
async def test_a_private_address_is_refused(
    scene: SceneMaker, url: str, names: dict[str, list[str]]
):
    async with scene() as play:
        with pytest.raises(PrivateAddress, match="a private address"):
            await read(play.transport, url.format(port=play.server.port), public_only=True)


@pytest.mark.parametrize("number", [*DISGUISED, "127.0.0.1.", "127.1.", *FOLDED])
def test_an_address_in_disguise_is_known_before_a_library_sees_it(number: str):
    """Which spellings aiohttp takes for addresses, and asks no resolver about, has changed."""
    with pytest.raises(PrivateAddress, match="a private address"):
        refuse_private(number)


@pytest.mark.parametrize("name", ["example.com", "8.8.8.8", "134744072", "8.8.2056", "7f.example"])
def test_a_name_and_a_public_address_in_whatever_spelling_are_no_private_address(name: str):
    refuse_private(name)


@pytest.mark.parametrize("number", DISGUISED)
async def test_an_address_in_disguise_is_refused(scene: SceneMaker, number: str):
    async with scene() as play:
        with pytest.raises((PrivateAddress, NotRequestable)):
            await read(play.transport, f"http://{number}:{play.server.port}/x", public_only=True)


async def test_a_private_address_is_allowed_where_the_api_is_private(scene: SceneMaker):
    async with scene(ok()) as play:
        assert (await read(play.transport, play.poll_url, public_only=True))[0] == 200


@lanes(*OWN)
async def test_the_address_that_was_checked_is_the_one_that_is_used(
    lane: Lane, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
):
    """A name that changes its address after the check leads nowhere private."""
    connected: list[str] = []
    asked: list[str] = []

    async def connect_asyncio(*_: Any, **words: Any) -> Any:
        given = words.get("addr_infos") or words.get("remote_host") or words.get("host")
        connected.append(str(given))  # as text: aiohttp empties its list afterwards
        raise OSError(111, "Connection refused")

    known = socket.getaddrinfo

    def resolve(host: Any, *rest: Any, **more: Any) -> Any:
        asked.append(host.decode() if isinstance(host, bytes) else str(host))
        answer = known(host, *rest, **more)
        names["outside.test"] = ["127.0.0.1"]  # the second answer is another one
        return answer

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr("aiohappyeyeballs.start_connection", connect_asyncio)
    monkeypatch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", connect_asyncio)
    monkeypatch.setattr("anyio.connect_tcp", connect_asyncio)
    monkeypatch.setattr("trio.open_tcp_stream", connect_asyncio)
    transport = make_transport(lane, make_config("https://api.test/v1"))
    with pytest.raises(APIConnectionError, match="could not connect"):
        await read(transport, "http://outside.test/clip.mp4", public_only=True)
    await transport.aclose()
    assert "93.184.216.34" in str(connected)
    assert "127.0.0.1" not in str(connected)
    assert asked.count("outside.test") == 1


@lanes(*OWN)
async def test_each_checked_address_is_tried_under_its_own_name(
    lane: Lane, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
):
    """The name stays in the Host header, whatever address it is asked at."""
    names["outside.test"] = ["127.0.0.2", "127.0.0.1"]
    for module in ("_base", "_aiohttp", "_aiohttpconnectors", "_httpx"):
        monkeypatch.setattr(
            f"grok_video._transports.{module}.refuse_private", lambda *_: None, raising=False
        )
    with raw_server(ok(b"clip")) as server:
        transport = make_transport(lane, make_config("https://api.test/v1", headers={}))
        url = f"http://outside.test:{server.port}/clip.mp4"
        assert await read(transport, url, public_only=True) == (200, b"clip")
        await transport.aclose()
    assert f"\r\nhost: outside.test:{server.port}\r\n".encode() in server.requests[0].lower()


# --- proxies -------------------------------------------------------------------------------------


@lanes(*OWN)
async def test_a_proxy_on_a_private_network_may_fetch_public_files(
    lane: Lane, names: dict[str, list[str]]
):
    with raw_server(ok(b"through the proxy"), ok(b"through the proxy")) as proxy:
        config = make_config("http://api.test/v1", proxy=proxy.base[:-3])
        transport = make_transport(lane, config)
        got = await read(transport, "http://outside.test/clip.mp4", public_only=True)
        assert got == (200, b"through the proxy")
        for private in ("http://inside.test/clip.mp4", "http://10.0.0.1/clip.mp4"):
            with pytest.raises(PrivateAddress):
                await read(transport, private, public_only=True)
        # A name that only the proxy knows.
        await read(transport, "http://nowhere.test/clip.mp4", public_only=True)
        await transport.aclose()
    assert proxy.requests[0].startswith(b"GET http://outside.test/clip.mp4 HTTP/1.1\r\n")
    assert not any(KEY.encode() in request for request in proxy.requests)


@lanes(*OWN)
@pytest.mark.parametrize("end", ["", " ", "\n", "/a@b"])
async def test_the_environments_proxy_is_used_and_its_exceptions_are_kept(
    lane: Lane, end: str, monkeypatch: pytest.MonkeyPatch
):
    with raw_server(ok(b"through the proxy")) as proxy, raw_server(ok(b"direct")) as direct:
        monkeypatch.setenv("http_proxy", f"user:pass@127.0.0.1:{proxy.port}{end}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        transport = make_transport(lane, make_config(direct.base))
        assert (await transport.get(f"{direct.base}/x")).body == b"direct"
        got = await read(transport, "http://files.test/clip.mp4")
        assert got == (200, b"through the proxy")
        await transport.aclose()
    assert b"proxy-authorization: basic dxnlcjpwyxnz" in proxy.requests[0].lower()


@lanes(*OWN)
async def test_netrc_is_not_read(lane: Lane, monkeypatch: pytest.MonkeyPatch, tmp_path: Any):
    (tmp_path / "netrc").write_text("default login somebody password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with raw_server(ok()) as api, raw_server(ok()) as foreign:
        transport = make_transport(lane, make_config(api.base))
        await transport.get(f"{api.base}/x")
        await read(transport, f"{foreign.base}/clip.mp4")
        await transport.aclose()
    assert f"Bearer {KEY}".encode() in api.requests[0]
    assert b"authorization" not in foreign.requests[0].lower()


def test_a_given_proxy_is_for_everything(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("no_proxy", "*")
    config = make_config("http://api.test/v1", proxy="http://proxy.test:3128")
    proxies = Proxies.of(config)
    assert proxies.choose(config.origin) == "http://proxy.test:3128"
    assert "proxy.test" not in repr(proxies)
    assert "proxy.test" not in repr(config)


def test_a_proxy_of_the_environment_that_is_not_used_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("all_proxy", f"socks5://me:{KEY}@proxy.test:1080")
    config = make_config("https://api.test/v1")
    assert Proxies.of(config).choose(config.origin) is None
    [told] = [record.getMessage() for record in caplog.records]
    assert "proxy.test:1080, which is not used" in told
    assert KEY not in told
    monkeypatch.setenv("no_proxy", "api.test")
    Proxies.of(config)
    assert len(caplog.records) == 1


@lanes(*GIVEN)
async def test_a_callers_client_resolves_names_itself(
    lane: Lane, scene: SceneMaker, names: dict[str, list[str]]
):
    """A mocked host is in no DNS, and a client's own transport may know it all the same."""

    def handler(request: Any) -> Any:
        return lane.family.Response(200, content=b"mocked " + request.url.host.encode())

    async with scene(client={"transport": lane.family.MockTransport(handler)}) as play:
        got = await read(play.transport, "https://cdn.nowhere.test/clip.mp4", public_only=True)
        assert got == (200, b"mocked cdn.nowhere.test")
        with pytest.raises(PrivateAddress):
            await read(play.transport, "https://inside.test/clip.mp4", public_only=True)
