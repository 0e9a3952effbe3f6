"""A file server for each test, and downloads from it in every lane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from grok_video._transports._aiohttp import AiohttpTransport
from grok_video._transports._httpx import HttpxTransport

from .fileserver import FileServer
from .harness import Downloads, Job, config

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as running:
        yield running


@pytest.fixture
async def downloads(lane: tuple[str, str], server: FileServer) -> AsyncIterator[Downloads]:
    kind = AiohttpTransport if lane[1] == "aiohttp" else HttpxTransport
    transport = kind(config())
    yield Downloads(transport, server, Job(server))
    with anyio.CancelScope(shield=True):
        await transport.aclose()
