"""A client that is closed while its downloads are under way, on every lane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from grok_video import AsyncClient, ConfigurationError, DownloadError, Limits
from grok_video.emulator import Emulator, faults
from tests.pure.provider import Provider

MIB = 2**20
CLIP = b"\0\0\0\x18ftypmp42" + bytes(3 * MIB)
#: Generous: a download that hangs is a failed test.
PATIENCE = 20.0


@pytest.fixture
def emulator(grok_emulator_factory: Callable[..., Emulator]) -> Emulator:
    """One whose first file comes to a standstill in its middle."""
    made = grok_emulator_factory(clip=CLIP)
    made.script("download", [faults.Stall(60, after=2 * MIB)])
    return made


async def has_begun(part: Path) -> None:
    there = anyio.Path(part)
    while not (await there.exists() and (await there.stat()).st_size):  # noqa: ASYNC110 - a file tells no one
        await anyio.sleep(0.01)


async def test_a_download_under_way_ends_and_the_next_client_continues_it(
    new_client: Callable[..., AsyncClient], emulator: Emulator, tmp_path: Path
) -> None:
    place, part = tmp_path / "cat.mp4", tmp_path / "cat.mp4.part"
    told: list[DownloadError] = []
    client = new_client(emulator)
    job = await client.submit("drift")

    async def download() -> None:
        with pytest.raises(DownloadError) as caught:
            await job.download(place)
        told.append(caught.value)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(download)
            await has_begun(part)
            before = len(emulator.requests)
            await client.aclose()
    error = told[0]
    assert len(emulator.requests) == before  # a closed client asks nobody any more
    assert "this client is closed" in str(error)
    assert error.request_id == job.request_id
    assert f"client.job({job.request_id!r})" in str(error)
    assert error.bytes_kept == part.stat().st_size > MIB
    assert f"{error.bytes_kept} bytes are kept in {part}" in str(error)
    async with new_client(emulator) as another:
        video = await another.job(job.request_id).download(place)
    assert place.read_bytes() == CLIP
    assert video.path == place
    assert emulator.requests[-1].headers["range"] == f"bytes={error.bytes_kept}-"


@pytest.mark.parametrize("call", ["download", "generate"])
async def test_a_download_that_waits_for_its_turn_ends_with_the_id(
    call: str, new_client: Callable[..., AsyncClient], emulator: Emulator, tmp_path: Path
) -> None:
    place = tmp_path / "second.mp4"
    told: list[DownloadError] = []
    client = new_client(emulator, limits=Limits(concurrent_downloads=1))
    first, second = [await client.submit("drift") for _ in range(2)]

    async def one() -> None:
        with pytest.raises(DownloadError, match="this client is closed"):
            await first.download(tmp_path / "first.mp4")

    async def two() -> None:
        with pytest.raises(DownloadError, match="this client is closed") as caught:
            if call == "download":
                await second.download(place)
            else:
                await client.generate("drift", save_to=place)
        told.append(caught.value)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one)
            await has_begun(tmp_path / "first.mp4.part")
            await second
            before = len(emulator.requests)
            tasks.start_soon(two)
            # Until the job's own poll was answered: then only the turn is missing.
            while call == "generate" and len(emulator.requests) < before + 2:  # noqa: ASYNC110 - it tells no one
                await anyio.sleep(0.01)
            for _ in range(50):
                await anyio.lowlevel.checkpoint()
            await client.aclose()
    assert told[0].request_id
    assert f"client.job({told[0].request_id!r})" in str(told[0])
    assert told[0].bytes_kept == 0
    assert not place.exists()


async def test_a_stream_under_way_ends(
    new_client: Callable[..., AsyncClient], emulator: Emulator
) -> None:
    received = bytearray()
    client = new_client(emulator)
    job = await client.submit("drift")
    with anyio.fail_after(PATIENCE), pytest.raises(DownloadError, match="client is closed"):
        async for chunk in job.stream():
            received += chunk
            await client.aclose()
    assert received
    assert CLIP.startswith(received)


@pytest.mark.parametrize("after", [None, 40, 200], ids=["no answer", "in the head", "in the body"])
async def test_a_wait_under_way_ends_with_the_id(
    after: int | None,
    new_client: Callable[..., AsyncClient],
    grok_emulator: Emulator,
) -> None:
    """Wherever the answer of its poll has come to a standstill."""
    grok_emulator.script("poll", [faults.Stall(60, after=after)])
    client = new_client(grok_emulator)
    job = await client.submit("drift")
    told: list[ConfigurationError] = []

    async def wait() -> None:
        with pytest.raises(ConfigurationError, match="this client is closed") as caught:
            await job
        told.append(caught.value)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            while len(grok_emulator.requests) < 2:  # noqa: ASYNC110 - it tells no one
                await anyio.sleep(0.01)
            for _ in range(500):  # for what the emulator sends of the answer
                await anyio.lowlevel.checkpoint()
            await client.aclose()
    assert told[0].request_id == job.request_id


class Leisurely(Provider):
    """Closes when it is told to, and says whether it came to the end of that."""

    def __init__(self) -> None:
        super().__init__()
        self.is_closing, self.go_on, self.is_closed = asyncio.Event(), asyncio.Event(), False

    async def aclose(self) -> None:
        self.is_closing.set()
        await self.go_on.wait()
        self.is_closed = True


def test_a_client_closes_to_its_end_however_often_its_caller_is_cancelled() -> None:
    async def main() -> None:
        transport = Leisurely()
        closing = asyncio.create_task(AsyncClient("key", transport=transport).aclose())
        await transport.is_closing.wait()
        for _ in range(2):
            closing.cancel()
            await asyncio.sleep(0)
        assert not closing.done()
        transport.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert transport.is_closed

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
