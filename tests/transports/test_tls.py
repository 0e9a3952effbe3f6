"""Certificates are checked for the name of the host, also where its address was pinned."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import anyio
import pytest
import trustme
from conftest import KEY, LANES, OWN, Bytes, Lane, lanes, make_client, make_config, make_transport
from rawserver import PATIENCE, Part, Visit, ok, raw_server

from grok_video import APIConnectionError


class Certificate(NamedTuple):
    server: ssl.SSLContext
    #: Trusts the server's certificate, and nothing else.
    client: ssl.SSLContext


@pytest.fixture(scope="session")
def certificate() -> Certificate:
    """Make an authority of our own and a certificate for files.test."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("files.test", "*.files.test").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return Certificate(server, client)


@pytest.fixture
def everything_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every name of the test lead to this machine, and count it as public."""

    def resolve(_host: Any, port: Any, *_: Any, **__: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port or 0)))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for module in ("_base", "_aiohttp", "_aiohttpconnectors", "_httpx"):
        name = f"grok_video._transports.{module}.refuse_private"
        monkeypatch.setattr(name, lambda *_: None)


def over_tls(context: ssl.SSLContext, part: Part, names: list[str | None] | None = None) -> Part:
    def wrapped(visit: Visit) -> None:
        seen: list[str | None] = names if names is not None else []
        context.sni_callback = lambda _socket, name, _context: seen.append(name)
        try:
            visit.sock = context.wrap_socket(visit.sock, server_side=True)
        except (ssl.SSLError, ConnectionError):
            return  # the client did not like the certificate, which is what it is here for
        part(visit)

    return wrapped


@lanes(*OWN)
@pytest.mark.parametrize("public_only", [True, False])
async def test_a_file_is_fetched_under_its_own_name(
    lane: Lane, certificate: Certificate, everything_is_here: None, public_only: bool
):
    names: list[str | None] = []
    with raw_server(over_tls(certificate.server, ok(b"clip"), names)) as server:
        config = make_config("https://api.test/v1", ssl_context=certificate.client)
        transport = make_transport(lane, config)
        url = f"https://files.test:{server.port}/clip.mp4"
        async with transport.stream(url, {}, public_only=public_only) as file:
            assert b"".join([chunk async for chunk in file.chunks()]) == b"clip"
        await transport.aclose()
    assert names == ["files.test"]
    assert f"\r\nhost: files.test:{server.port}\r\n".encode() in server.requests[0].lower()


@lanes(*OWN)
@pytest.mark.parametrize("public_only", [True, False])
async def test_a_file_server_with_another_ones_certificate_is_refused(
    lane: Lane, certificate: Certificate, everything_is_here: None, public_only: bool
):
    with raw_server(over_tls(certificate.server, ok())) as server:
        config = make_config("https://api.test/v1", ssl_context=certificate.client)
        transport = make_transport(lane, config)
        with pytest.raises(APIConnectionError, match=r"no TLS connection to other\.test") as caught:
            async with transport.stream(
                f"https://other.test:{server.port}/clip.mp4", {}, public_only=public_only
            ):
                pass
        await transport.aclose()
    assert "certificate is not valid for 'other.test'" in str(caught.value)
    assert server.requests == []


@lanes(*OWN)
async def test_one_address_is_no_reason_to_share_a_connection(
    lane: Lane, certificate: Certificate, everything_is_here: None
):
    """Two names on one address are two connections, each verified for its own name."""
    names: list[str | None] = []
    part = over_tls(certificate.server, ok(b"clip"), names)
    with raw_server(part, part) as server:
        config = make_config("https://api.test/v1", ssl_context=certificate.client)
        transport = make_transport(lane, config)
        for name in ("a.files.test", "b.files.test"):
            url = f"https://{name}:{server.port}/clip.mp4"
            async with transport.stream(url, {}, public_only=True) as file:
                assert [chunk async for chunk in file.chunks()]
        await transport.aclose()
    assert names == ["a.files.test", "b.files.test"]


@lanes(LANES[0])
async def test_a_poll_has_no_handshake_of_its_own(
    certificate: Certificate, everything_is_here: None
):
    names: list[str | None] = []
    with raw_server(over_tls(certificate.server, ok(times=2), names)) as server:
        base = f"https://files.test:{server.port}/v1"
        transport = make_transport(LANES[0], make_config(base, ssl_context=certificate.client))
        await transport.post(f"{base}/videos/generations", Bytes())
        await transport.get(f"{base}/videos/job-1")
        await transport.aclose()
    assert names == ["files.test"]


@lanes(*OWN)
async def test_a_create_to_a_server_nobody_vouches_for_was_not_sent(
    lane: Lane, certificate: Certificate, everything_is_here: None
):
    with raw_server(over_tls(certificate.server, ok())) as server:
        base = f"https://files.test:{server.port}/v1"
        stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        transport = make_transport(lane, make_config(base, ssl_context=stranger))
        with pytest.raises(APIConnectionError, match="no TLS connection") as caught:
            await transport.post(f"{base}/videos/generations", Bytes())
        await transport.aclose()
    assert not caught.value.may_have_been_sent
    assert server.requests == []


@lanes(*OWN)
async def test_a_create_goes_over_tls(
    lane: Lane, certificate: Certificate, everything_is_here: None
):
    with raw_server(over_tls(certificate.server, ok(times=2))) as server:
        base = f"https://files.test:{server.port}/v1"
        config = make_config(base, ssl_context=certificate.client)
        transport = make_transport(lane, config)
        for _ in range(2):
            answer = await transport.post(f"{base}/videos/generations", Bytes())
            assert answer.status == 200
        await transport.aclose()
    assert all(KEY.encode() in request for request in server.requests)


LARGE = Bytes(b'{"image":"', b"A" * 2**20, b"B" * (2**22 + 1), b'"}')


@pytest.fixture
def encrypted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes of what TLS was given at once, as they come."""
    sizes: list[int] = []
    write = ssl.SSLObject.write

    def watched(tls: ssl.SSLObject, data: Any) -> int:
        sizes.append(len(data))
        return write(tls, data)

    monkeypatch.setattr(ssl.SSLObject, "write", watched)
    return sizes


@lanes(*LANES)
async def test_a_large_piece_goes_through_tls_in_small_ones(
    lane: Lane, certificate: Certificate, everything_is_here: None, encrypted: list[int]
):
    """TLS keeps a buffer of the most that it was ever given, in each connection that lives."""
    with raw_server(over_tls(certificate.server, ok())) as server:
        base = f"https://files.test:{server.port}/v1"
        config = make_config(base, ssl_context=certificate.client)
        client = make_client(lane, verify=certificate.client) if lane.given else None
        transport = make_transport(lane, config, client)
        answer = await transport.post(f"{base}/videos/generations", LARGE)
        assert answer.status == 200
        await transport.aclose()
        if client is not None:
            await client.aclose()
    assert server.requests[0].endswith(b"\r\n\r\n" + LARGE.whole)
    assert max(encrypted) <= 2**16


def asyncio_transports() -> Iterator[asyncio.Transport]:
    return (one for one in gc.get_objects() if issubclass(type(one), asyncio.Transport))


@lanes(LANES[0])
async def test_a_server_that_stops_reading_leaves_little_waiting_behind_tls(
    certificate: Certificate, everything_is_here: None, encrypted: list[int]
):
    seen = threading.Event()

    def stops_reading(visit: Visit) -> None:
        visit.head()
        assert seen.wait(PATIENCE)

    with raw_server(over_tls(certificate.server, stops_reading)) as server:
        base = f"https://files.test:{server.port}/v1"
        transport = make_transport(LANES[0], make_config(base, ssl_context=certificate.client))
        body = Bytes(*[b"A" * 2**22] * 8)
        others = list(asyncio_transports())
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(transport.post, f"{base}/videos/generations", body)
                sent = -1
                while not encrypted or sent != len(encrypted):
                    sent = len(encrypted)
                    await anyio.wait_all_tasks_blocked()
                own = [one for one in asyncio_transports() if one not in others]
                waiting = sum(one.get_write_buffer_size() for one in own)
                tasks.cancel_scope.cancel()
        finally:
            seen.set()
            await transport.aclose()
    assert own
    assert sum(encrypted) < body.length
    assert waiting < 5 * 2**15  # a piece behind TLS, and one behind the socket
