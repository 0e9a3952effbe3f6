"""The lanes of the transports: event loop x library x whose client it is."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import pytest
from rawserver import Part, RawServer

from grok_video._redaction import Secret
from grok_video._transports._aiohttp import AiohttpTransport
from grok_video._transports._base import Transport, TransportConfig
from grok_video._transports._httpx import HttpxTransport

for _module in ("httpx", "httpx2", "trio"):
    importlib.import_module(_module)

NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
KEY = "sk-canary-4b2cd27e"


class Lane(NamedTuple):
    backend: str
    library: str
    given: bool

    @property
    def family(self) -> Any:
        return importlib.import_module(self.library)

    @property
    def name(self) -> str:
        return f"{self.backend}-{self.library}{'-given' * self.given}"


LANES = [
    Lane("asyncio", "aiohttp", given=False),
    Lane("asyncio", "httpx2", given=False),
    Lane("trio", "httpx2", given=False),
    Lane("asyncio", "httpx", given=True),
    Lane("trio", "httpx", given=True),
]
OWN = [lane for lane in LANES if not lane.given]
GIVEN = [*[lane for lane in LANES if lane.given], Lane("asyncio", "httpx2", given=True)]


def lanes(*wanted: Lane) -> pytest.MarkDecorator:
    """Run a test in these lanes only."""
    return pytest.mark.parametrize("lane", [pytest.param(lane, id=lane.name) for lane in wanted])


@pytest.fixture(params=[pytest.param(lane, id=lane.name) for lane in LANES])
def lane(request: pytest.FixtureRequest) -> Lane:
    return request.param


@pytest.fixture
def anyio_backend(lane: Lane) -> str:
    return lane.backend


def make_config(base: str, **words: Any) -> TransportConfig:
    facts: dict[str, Any] = {
        "base_url": base,
        "api_key": Secret(KEY),
        "timeout": 5.0,
        "proxy": None,
        "ssl_context": NO_CERTIFICATES,
        "headers": {"X-Gateway": "secret-of-a-gateway"},
    }
    return TransportConfig(**(facts | words))


def make_transport(lane: Lane, config: TransportConfig, client: Any = None) -> Transport:
    if lane.library == "aiohttp":
        return AiohttpTransport(config)
    return HttpxTransport(config, client)


def make_client(lane: Lane, **words: Any) -> Any:
    """Return a client of the caller's own; without reading the certificates, which takes 0.1 s."""
    return lane.family.AsyncClient(**({"verify": NO_CERTIFICATES} | words))


def open_sockets() -> int:
    """Return how many sockets this process holds."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found += str(entry.readlink()).startswith("socket:")
    return found


class Scene(NamedTuple):
    transport: Transport
    server: RawServer
    client: Any

    @property
    def base(self) -> str:
        return self.server.base

    @property
    def create_url(self) -> str:
        return f"{self.base}/videos/generations"

    @property
    def poll_url(self) -> str:
        return f"{self.base}/videos/job-1"


SceneMaker = Callable[..., AbstractAsyncContextManager[Scene]]


@pytest.fixture
def scene(lane: Lane) -> SceneMaker:
    """Give a transport of the lane and a server; at the end nothing may be left of either."""

    @contextlib.asynccontextmanager
    async def play(
        *parts: Part, client: dict[str, Any] | None = None, **words: Any
    ) -> AsyncIterator[Scene]:
        sockets, tasks = open_sockets(), _tasks(lane)
        server = RawServer(*parts)
        theirs = make_client(lane, **(client or {})) if lane.given else None
        transport = make_transport(lane, make_config(server.base, **words), theirs)
        try:
            yield Scene(transport, server, theirs)
        finally:
            await transport.aclose()
            if theirs is not None:
                await theirs.aclose()
            # asyncio closes sockets in its next turns.
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
            await anyio.to_thread.run_sync(server.close)
        server.check()
        assert _tasks(lane) == tasks
        # Two seconds at most: on a busy machine the server's threads need their turn as well.
        with anyio.move_on_after(2):
            while open_sockets() > sockets:  # noqa: ASYNC110 - closed by threads and the kernel
                await anyio.sleep(0.01)
        assert open_sockets() <= sockets

    return play


def _tasks(lane: Lane) -> set[Any]:
    return asyncio.all_tasks() if lane.backend == "asyncio" else set()


class Bytes:
    """A request body that is made of a few chunks."""

    def __init__(self, *chunks: bytes, length: int | None = None) -> None:
        self._chunks = chunks or (b'{"prompt":', b'"drift",', b'"image":"AAAA"}')
        self.length = sum(map(len, self._chunks)) if length is None else length
        self.closed = 0

    @property
    def whole(self) -> bytes:
        return b"".join(self._chunks)

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            for chunk in self._chunks:
                yield chunk
        finally:
            self.closed += 1
