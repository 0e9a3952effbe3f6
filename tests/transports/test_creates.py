"""A create that fails says truly whether it may have been sent, and is never sent again."""

from __future__ import annotations

import logging
import socket
import traceback

import pytest
from conftest import (
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
from rawserver import Part, Visit, dead_port, full_queue, leaves_after, ok, raw_server, says

from grok_video import (
    APIConnectionError,
    APITimeoutError,
    AsyncClient,
    ConfigurationError,
    CreateOutcomeUnknown,
)
from grok_video._transports._base import causes

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n"
BODY = b'{"request_id":"job-1"}'


def trickles(visit: Visit) -> None:
    """Send headers, one at a time, for as long as the client listens."""
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


def floods(visit: Visit) -> None:
    """Send headers without end, as fast as the client reads."""
    visit.request()
    try:
        visit.send(b"HTTP/1.1 200 OK\r\n")
        number = 0
        while True:
            visit.send(b"".join(b"X-%d: more\r\n" % (number + n) for n in range(1000)))
            number += 1000
    except ConnectionError:
        pass


#: What the server does, and what the error says.
AFTER_THE_FIRST_BYTE: dict[str, tuple[Part, str]] = {
    "accepts and closes": (leaves_after(0, "close"), "closed|broke"),
    "closes after 1 byte": (leaves_after(1, "close"), "closed|broke"),
    "resets after 1 byte": (leaves_after(1, "reset"), "broke|closed"),
    "closes after the head": (lambda visit: [visit.head(), None][1], "closed|broke"),
    "closes after the whole request": (leaves_after(None, "close"), "closed .* without an answer"),
    "resets after the whole request": (leaves_after(None, "reset"), "broke|closed"),
    "answers 1 byte": (says(HEAD[:1], then="close"), "closed|HTTP|broke"),
    "answers half a head": (says(HEAD[:30], then="close"), "closed|HTTP|broke"),
    "answers a head": (says(HEAD, then="close"), "answer of .* broke off"),
    "answers half a body": (says(HEAD + BODY[:9], then="close"), "answer of .* broke off"),
    "resets in the body": (says(HEAD + BODY[:9], then="reset"), "answer of .* broke off|broke"),
    "breaks off in a chunk": (
        says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n16\r\n{", then="close"),
        "answer of .* broke off",
    ),
    "speaks another protocol": (says(b"SSH-2.0-OpenSSH_9.6\r\n", then="close"), "not HTTP|closed"),
    "floods with headers": (floods, "not HTTP"),
}


@pytest.mark.parametrize("name", AFTER_THE_FIRST_BYTE)
async def test_a_create_that_broke_after_its_first_byte_may_have_been_sent(
    scene: SceneMaker, name: str
):
    part, words = AFTER_THE_FIRST_BYTE[name]
    body = Bytes()
    async with scene(part) as play:
        with pytest.raises(APIConnectionError, match=words) as caught:
            await play.transport.post(play.create_url, body)
        assert caught.value.may_have_been_sent
        assert not isinstance(caught.value, TimeoutError)
        assert "nothing was sent" not in str(caught.value)
    assert len(play.server.visits) == 1
    assert len(play.server.requests) <= 1
    assert body.closed <= 1


@pytest.mark.parametrize("part", [leaves_after(None, "wait"), leaves_after(9, "wait"), trickles])
async def test_a_create_without_an_answer_in_time_may_have_been_sent(scene: SceneMaker, part: Part):
    async with scene(part, timeout=0.1) as play:
        with pytest.raises(APITimeoutError, match=r"no answer from .* in time") as caught:
            await play.transport.post(play.create_url, Bytes())
        assert caught.value.may_have_been_sent
    assert len(play.server.visits) == 1


async def test_a_refused_connection_sent_nothing(lane: Lane):
    base = f"http://127.0.0.1:{dead_port()}/v1"
    with pytest.raises(APIConnectionError, match="could not connect to 127") as caught:
        await post_without_server(lane, base)
    assert not caught.value.may_have_been_sent
    assert "Connection refused" in str(caught.value)
    assert str(caught.value).endswith("; nothing was sent")


async def test_a_name_that_nobody_knows_sent_nothing(lane: Lane, unknown_names: None):
    with pytest.raises(APIConnectionError, match=r"nowhere\.test could not be resolved") as caught:
        await post_without_server(lane, "http://nowhere.test/v1")
    assert not caught.value.may_have_been_sent


async def test_a_connection_that_is_never_made_sent_nothing(lane: Lane):
    with full_queue() as origin, pytest.raises(APITimeoutError) as caught:
        await post_without_server(lane, f"{origin}/v1", timeout=0.1)
    assert not caught.value.may_have_been_sent


async def test_a_server_without_tls_was_sent_nothing(scene: SceneMaker, lane: Lane):
    def part(visit: Visit) -> None:
        visit.read(5)
        visit.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        visit.until_gone()

    async with scene(part) as play:
        with pytest.raises(APIConnectionError) as caught:
            await post_without_server(lane, play.base.replace("http:", "https:"))
        assert "no TLS connection" in str(caught.value)
        assert not caught.value.may_have_been_sent


async def test_a_proxy_that_refuses_was_sent_no_create(scene: SceneMaker, lane: Lane):
    refusal = says(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    async with scene(refusal) as play:
        with pytest.raises(APIConnectionError, match=r"proxy refused .* \(HTTP 403\)") as caught:
            await post_without_server(lane, "https://api.test/v1", proxy=play.base[:-3])
        assert not caught.value.may_have_been_sent
        seen = play.server.visits[0].seen
        assert KEY.encode() not in seen
        assert b"secret-of-a-gateway" not in seen


async def test_a_proxy_that_refuses_leaves_its_password_in_no_error(scene: SceneMaker, lane: Lane):
    refusal = b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n"
    async with scene(says(refusal)) as play:
        proxy = play.base[:-3].replace("http://", "http://user:PASSWORD@")
        with pytest.raises(APIConnectionError) as caught:
            await post_without_server(lane, "https://api.test/v1", proxy=proxy)
    links = "".join(repr(link) + str(link) + repr(link.args) for link in causes(caught.value))
    assert "PASSWORD" not in links


async def test_a_proxy_that_closes_the_tunnel_was_sent_no_create(scene: SceneMaker, lane: Lane):
    async with scene(leaves_after(None, "close")) as play:
        with pytest.raises(APIConnectionError) as caught:
            await post_without_server(lane, "https://api.test/v1", proxy=play.base[:-3])
        assert not caught.value.may_have_been_sent


async def test_a_proxy_that_is_not_there_was_sent_nothing(lane: Lane):
    proxy = f"http://127.0.0.1:{dead_port()}"
    with pytest.raises(APIConnectionError, match=r"proxy could not be reached|connect") as caught:
        await post_without_server(lane, "https://api.test/v1", proxy=proxy)
    assert not caught.value.may_have_been_sent


@lanes(*OWN)
@pytest.mark.parametrize(
    "proxy",
    [
        "http://svc:Pa/ss#PASSWORD@proxy.test:3128",  # nobody percent-encoded it
        "svc:12/PASSWORD@proxy.test:3128",
        "http://svc:PASSWORD@proxy.test:31 28",
        "http://svc:PASSWORD@proxy.test:70000",
        "http://[::1",
        "http://",
    ],
)
async def test_a_proxy_of_the_environment_that_cannot_be_read_is_named_before_anything_is_sent(
    lane: Lane, proxy: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("http_proxy", proxy)
    library = "httpx" if lane.library == "httpx2" else "aiohttp"
    with raw_server() as server:
        async with AsyncClient(KEY, base_url=server.base, transport=library) as client:
            with pytest.raises(ConfigurationError, match=r"^HTTP_PROXY is not an http") as caught:
                await client.submit("drift")
    told = "".join(traceback.format_exception(caught.value))
    assert "PASSWORD" not in told
    assert "svc" not in told


@lanes(LANES[0])
async def test_an_address_that_aiohttp_does_not_take_is_quoted_in_no_cause(lane: Lane):
    with pytest.raises(APIConnectionError) as caught:
        await post_without_server(
            lane, "http://api.test/v1", proxy="http://svc:Pa/ss#PASSWORD@proxy.test:3128"
        )
    links = "".join(repr(link) + str(link) + repr(vars(link)) for link in causes(caught.value))
    assert "PASSWORD" not in links
    assert "'Pa'" not in links, "the port, as whoever split it took it for"


async def test_a_create_is_one_request_with_its_length_and_key(scene: SceneMaker):
    body = Bytes()
    async with scene(ok()) as play:
        answer = await play.transport.post(play.create_url, body)
    assert (answer.status, answer.body) == (200, BODY)
    assert answer.headers["content-length"] == "22"
    (request,) = play.server.requests
    head, _, sent = request.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert head.startswith(b"POST /v1/videos/generations HTTP/1.1\r\n")
    assert sent == body.whole
    assert lines.count(b"content-length: %d" % body.length) == 1
    assert lines.count(b"content-type: application/json") == 1
    assert lines.count(b"accept-encoding: identity") == 1
    assert lines.count(b"authorization: bearer " + KEY.encode()) == 1
    assert lines.count(b"host: 127.0.0.1:%d" % play.server.port) == 1
    assert b"x-gateway: secret-of-a-gateway" in lines
    assert sum(line.startswith(b"user-agent: grok_video/") for line in lines) == 1
    assert b"transfer-encoding" not in head.lower()
    assert body.closed == 1


async def test_the_callers_headers_replace_and_do_not_double(scene: SceneMaker):
    headers = {"accept-encoding": "gzip", "user-agent": "mine/1", "X-gateway": "word"}
    async with scene(ok(), headers=headers) as play:
        await play.transport.post(play.create_url, Bytes())
    lines = play.server.requests[0].lower().split(b"\r\n")
    for name, value in ((b"accept-encoding", b"identity"), (b"user-agent", b"mine/1")):
        found = [line for line in lines if line.startswith(name)]
        assert found == [name + b": " + value]


async def test_an_answer_before_the_body_was_read_is_an_answer(scene: SceneMaker):
    def part(visit: Visit) -> None:
        visit.head()
        visit.answer(b"{}", "413 Content Too Large", "Connection: close")
        visit.until_gone()

    async with scene(part) as play:
        answer = await play.transport.post(play.create_url, Bytes(*[b"x" * 65536] * 40))
    assert answer.status == 413


async def test_a_body_that_is_not_as_long_as_announced_may_have_been_sent(scene: SceneMaker):
    async with scene(lambda visit: visit.until_gone(), timeout=0.5) as play:
        with pytest.raises(APIConnectionError) as caught:
            await play.transport.post(play.create_url, Bytes(b"four", b"more", length=9))
        assert caught.value.may_have_been_sent


@pytest.mark.parametrize("name", ["closes after the whole request", "answers half a body"])
async def test_no_traceback_no_cause_and_no_log_shows_the_key(
    scene: SceneMaker, name: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    async with scene(AFTER_THE_FIRST_BYTE[name][0]) as play:
        with pytest.raises(APIConnectionError) as caught:
            await play.transport.post(play.create_url, Bytes())
        printed = "".join(
            traceback.TracebackException.from_exception(caught.value, capture_locals=True).format()
        )
    for text in (printed, caplog.text):
        assert KEY not in text
        assert "secret-of-a-gateway" not in text


async def test_the_callers_own_pending_exception_keeps_its_traceback(scene: SceneMaker):
    async with scene(leaves_after(None, "close")) as play:
        pending = KeyError("what the caller was handling")
        try:
            raise pending
        except KeyError:
            with pytest.raises(APIConnectionError):
                await play.transport.post(play.create_url, Bytes())
        assert pending.__traceback__ is not None


async def post_without_server(lane: Lane, base: str, **words: object) -> None:
    client = None
    if lane.given:
        client = make_client(lane, proxy=words.pop("proxy", None))
    transport = make_transport(lane, make_config(base, **words), client)
    try:
        await transport.post(f"{base}/videos/generations", Bytes())
    finally:
        await transport.aclose()
        if client is not None:
            await client.aclose()


@pytest.fixture
def unknown_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the resolver know no name at all: no test may ask a real one."""

    def unknown(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
#: Answers whose id is here and whose rest is not.
WITH_THEIR_ID: dict[str, Part] = {
    "closes before the end": says(HEAD.replace(b"22", b"40") + BODY, then="close"),
    "resets before the end": says(HEAD.replace(b"22", b"40") + BODY, then="reset"),
    "closes between chunks": says(CHUNKED + b"%x\r\n%b\r\n" % (len(BODY), BODY), then="close"),
    "closes in the document": says(HEAD.replace(b"22", b"40") + BODY[:-1] + b",", then="close"),
    "announces megabytes": says(
        HEAD.replace(b"22", b"99999999") + BODY[:-1] + b',"echo":"', then="wait"
    ),
    "says that it is packed": says(
        HEAD[:-2].replace(b"22", b"28") + b"Content-Encoding: br\r\n\r\n" + b"data: " + BODY
    ),
    "is megabytes": says(
        HEAD.replace(b"22", b"9000022") + BODY[:-1] + b',"echo":"' + bytes(9_000_000), then="wait"
    ),
    "counts characters, not bytes": says(
        HEAD.replace(b"22", b"38") + BODY[:-1] + ',"m":"créé, merci"}'.encode(), then="wait"
    ),
    "has text behind it": says(HEAD + BODY + b"<!-- gateway 7 -->", then="wait"),
    "has text behind it, after a 100": says(
        b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + BODY + b"<!-- gateway 7 -->", then="wait"
    ),
}


@pytest.mark.parametrize("name", WITH_THEIR_ID)
async def test_a_create_whose_answer_broke_off_behind_its_id_was_accepted(
    scene: SceneMaker, name: str
):
    async with scene(WITH_THEIR_ID[name]) as play:
        client = AsyncClient(KEY, base_url=play.base, transport=play.transport)
        job = await client.submit("drift")
        assert job.request_id == "job-1"


@pytest.mark.parametrize(
    "answer",
    [
        HEAD.replace(b"22", b"40") + BODY[:17],
        HEAD.replace(b"200", b"500") + BODY,
        HEAD.replace(b"200", b"500") + BODY + b"<!-- gateway 7 -->",
    ],
    ids=["half an id", "an error", "an error with text behind it"],
)
async def test_an_id_that_is_not_whole_or_in_an_error_is_not_taken_for_the_jobs(
    scene: SceneMaker, answer: bytes
):
    async with scene(says(answer, then="close")) as play:
        client = AsyncClient(KEY, base_url=play.base, transport=play.transport)
        with pytest.raises(CreateOutcomeUnknown) as caught:
            await client.submit("drift")
        assert caught.value.request_id is None
        links = causes(caught.value)
        assert not [link for link in links if getattr(link, "received", None)]
        assert not [link for link in links if BODY in vars(link).values()]
        assert [link for link in links[1:] if link.__traceback__ is not None] == []
