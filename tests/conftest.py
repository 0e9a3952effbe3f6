"""What every test may use: the lanes (event loop x transport), a client for each, quick polling."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from grok_video import AsyncClient, Limits, Polling, Retry
from grok_video.emulator import Emulator

# Loaded before any loop runs: an import inside a coroutine would count as blocking it.
for _module in ("aiohttp", "httpx2", "trio", "PIL.Image", "grok_video._transports._httpx"):
    importlib.import_module(_module)

# A shell starts its background jobs with Ctrl-C ignored, `nohup` its command with the end of the
# terminal ignored, and every child of this process would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

#: `--hypothesis-profile whole`: what a session of its own runs (`nox -s faults`), not the suite.
settings.register_profile("whole", max_examples=600)

PHOTO = Path(__file__).parent / "photographs" / "rocket.jpg"

#: Every way the asynchronous core can run: (event loop, transport).
LANES = {
    "asyncio-aiohttp": ("asyncio", "aiohttp"),
    "asyncio-httpx": ("asyncio", "httpx"),
    "trio-httpx": ("trio", "httpx"),
}
#: Polls that come at once: a job of the emulator takes milliseconds in tests.
QUICK = Polling.fixed(0.01)
NO_LIMITS = Limits(polls_per_second=None)
EAGER = Retry(base=0.01, cap=0.05)


@pytest.fixture(params=[pytest.param(LANES[name], id=name) for name in LANES])
def lane(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def anyio_backend(lane: tuple[str, str]) -> str:
    """Run the test in the lane's event loop."""
    return lane[0]


@pytest.fixture
def new_client(lane: tuple[str, str]) -> Callable[..., AsyncClient]:
    """Make a client of the lane for an emulator (or for any base URL)."""

    def make(emulator: Emulator | None = None, **words: Any) -> AsyncClient:
        if emulator is not None:
            words.setdefault("base_url", emulator.base_url)
            words.setdefault("api_key", emulator.api_key)
        defaults = {"polling": QUICK, "limits": NO_LIMITS, "retry": EAGER, "transport": lane[1]}
        return AsyncClient(**(defaults | words))

    return make


@pytest.fixture
async def client(
    grok_emulator: Emulator, new_client: Callable[..., AsyncClient]
) -> AsyncIterator[AsyncClient]:
    async with new_client(grok_emulator) as made:
        yield made


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, base URL or proxy of the machine may reach a test."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in (
            "COMETAPI_KEY",
            "GROK_VIDEO_BASE_URL",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
        ):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _no_library_logging_leaks() -> None:
    logging.getLogger("grok_video").setLevel(logging.DEBUG)


@pytest.fixture
def nowhere() -> Iterator[str]:
    """The address of a server that nobody comes through to: a queue that is full."""
    with contextlib.ExitStack() as open_sockets:
        listener = open_sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        place = listener.getsockname()
        for _ in range(4):  # Linux drops what comes after
            filler = open_sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(place)
        yield f"http://127.0.0.1:{place[1]}/v1"
