"""What a batch is given: taken only as places come free, and it may break."""

from __future__ import annotations

import io
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import PIL.Image
import pytest
import trio

from grok_video import (
    AsyncClient,
    BatchItem,
    InvalidRequest,
    VideoRequest,
    _manifest,
)
from grok_video.emulator import Emulator

from ...conftest import PHOTO
from .conftest import NewClient, NewEmulator, outcomes, requests, states, until


async def test_items_are_taken_only_as_places_come_free(
    grok_emulator_factory: NewEmulator, new_client: NewClient
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    taken = 0

    def endless() -> Iterator[BatchItem]:
        nonlocal taken
        while True:
            taken += 1
            yield BatchItem(f"k{taken}", VideoRequest(f"drift {taken}"))

    async with (
        new_client(emulator) as client,
        client.batch(endless(), max_in_flight=5) as batch,
    ):
        await until(lambda: emulator.accepted >= 5)
        assert taken == 5
        assert batch.summary.in_flight == 5
        emulator.finish(emulator.creates[0].request_id)
        await anext(batch)
        await until(lambda: emulator.accepted >= 6)
        assert taken == 6


async def test_what_was_read_is_sent_while_a_slow_manifest_gives_more(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    taken = 0

    def slow() -> Iterator[tuple[str, VideoRequest]]:
        nonlocal taken
        for line in requests(60):
            if grok_emulator.accepted >= 3:  # it runs in another thread
                return
            time.sleep(0.05)
            taken += 1
            yield line

    found = await outcomes(client, slow())
    assert len(found) == taken < 60


async def test_a_long_manifest_leaves_the_event_loop_to_others(
    client: AsyncClient,
) -> None:
    turns = 0

    def long() -> Iterator[tuple[str, VideoRequest]]:
        for number in range(3000):
            if turns >= 10:
                return
            yield f"key-{number}", VideoRequest("x", Path("missing.jpg"))

    async with anyio.create_task_group() as tasks:

        async def others() -> None:
            nonlocal turns
            while True:
                await anyio.lowlevel.checkpoint()
                turns += 1

        tasks.start_soon(others)
        async with client.batch(long(), max_in_flight=3000) as batch:
            read = [outcome.key async for outcome in batch]
        assert len(read) < 3000
        tasks.cancel_scope.cancel()


async def test_an_asynchronous_iterable_may_take_its_time(client: AsyncClient) -> None:
    send, receive = anyio.create_memory_object_stream[tuple[str, VideoRequest]](0)

    async def slowly() -> AsyncIterator[tuple[str, VideoRequest]]:
        async with receive:
            async for one in receive:
                yield one

    async with client.batch(slowly()) as batch, send:
        for key, request in requests(3):
            await send.send((key, request))
            # Told before the next one is even there.
            assert (await anext(batch)).key == key
        await send.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(batch)


async def test_a_manifest_that_breaks_ends_the_batch_after_what_it_gave(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    def breaking() -> Iterator[tuple[str, VideoRequest]]:
        yield from requests(3)
        raise OSError("the manifest is gone")

    seen = []
    async with client.batch(breaking()) as batch:
        with pytest.raises(OSError, match="the manifest is gone"):
            async for outcome in batch:
                seen.append(outcome.state)
    assert seen == ["done"] * 3


@pytest.mark.parametrize("kind", [OSError, anyio.BrokenResourceError, anyio.EndOfStream])
async def test_an_asynchronous_manifest_that_breaks_is_told_whatever_it_raises(
    client: AsyncClient, kind: type[Exception]
) -> None:
    async def breaking() -> AsyncIterator[tuple[str, VideoRequest]]:
        for one in requests(3):
            yield one
        raise kind

    seen = []
    async with client.batch(breaking()) as batch:
        with pytest.raises(kind):
            async for outcome in batch:
                seen.append(outcome.state)
    assert seen == ["done"] * 3


async def test_a_manifest_that_cannot_be_begun_leaves_the_ledger_free(
    client: AsyncClient, tmp_path: Path
) -> None:
    class Broken:
        def __iter__(self) -> Iterator[Any]:
            raise OSError("the manifest is gone")

    with pytest.raises(OSError, match="the manifest is gone"):
        await client.run_batch(Broken(), ledger=tmp_path / "a.sqlite")
    assert (await client.run_batch(requests(1), ledger=tmp_path / "a.sqlite")).is_complete


@pytest.mark.parametrize("has_ledger", [True, False], ids=["with a ledger", "without a ledger"])
async def test_a_key_that_comes_again_is_not_paid_for_again_however_much_later(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path, has_ledger: bool
) -> None:
    """Also when the first one has long left the window."""
    again = [requests(1)[0], ("key-000", VideoRequest("another", duration=1))]
    async with client.batch(
        [*requests(4), *again],
        max_in_flight=1,
        ledger=tmp_path / "a.sqlite" if has_ledger else None,
    ) as batch:
        told = [(one.key, one.state.value, one.error) async for one in batch]
    assert [(key, state) for key, state, _ in told] == [
        *((f"key-00{n}", "done") for n in range(4)),
        ("key-000", "failed"),
        ("key-000", "failed"),
    ]
    assert isinstance(told[-1][2], InvalidRequest)
    assert "given once in a manifest" in str(told[-1][2])
    assert grok_emulator.accepted == 4


class Silent(io.BytesIO):
    """A file on a network that does not answer until it is let."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.may_go_on = threading.Event()

    def read(self, size: int | None = -1) -> bytes:
        assert self.may_go_on.wait(20), "it was never let go on"
        return super().read(size)


async def test_items_before_a_picture_that_is_silent_do_not_wait_for_it(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    silent = Silent(PHOTO.read_bytes())
    things = [VideoRequest("one", duration=1), VideoRequest("two", silent, duration=1)]
    found = []
    with anyio.fail_after(15):
        async with client.batch([*things, VideoRequest("three", duration=1)]) as batch:
            async for outcome in batch:
                found.append(outcome.state)
                silent.may_go_on.set()
    assert found == ["done"] * 3
    assert grok_emulator.creates[0].fields["prompt"] == "one"


async def test_a_batch_whose_client_is_closed_does_not_wait_for_a_picture_that_is_silent(
    client: AsyncClient,
) -> None:
    silent = Silent(PHOTO.read_bytes())
    things = [VideoRequest("one", duration=1), VideoRequest("two", silent, duration=1)]
    with anyio.fail_after(15):
        async with client.batch(things) as batch:
            assert (await anext(batch)).state == "done"
            await client.aclose()
            assert [outcome async for outcome in batch] == []
    assert not batch.summary.is_over
    silent.may_go_on.set()


async def test_a_picture_without_a_key_that_does_not_come_in_time_is_told_that_it_needs_one(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_manifest, "LONGEST_READ", 0.1)
    silent = Silent(PHOTO.read_bytes())
    things = [VideoRequest("one", silent), VideoRequest("two", duration=1)]
    with anyio.fail_after(15):
        found = list((await outcomes(client, things)).values())
    assert [outcome.state for outcome in found] == ["failed", "done"]
    error = found[0].error
    assert isinstance(error, InvalidRequest)
    assert error.field == "image"
    assert "give the item a key" in str(error)
    silent.may_go_on.set()


async def test_a_file_without_an_end_is_read_for_its_key_no_longer_than_anybody_waits(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Endless(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return b"x" * 1000

        def seek(self, offset: int, whence: int = 0) -> int:
            put_back.append(offset)
            return offset

    put_back: list[int] = []
    monkeypatch.setattr(_manifest, "LONGEST_READ", 0.1)
    found = await outcomes(client, [VideoRequest("one", Endless())])
    assert states(found) == {"item 1": "failed"}
    await until(lambda: put_back == [0])


async def test_a_pillow_image_without_a_key_is_here_already_however_late_its_turn_comes(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_manifest, "LONGEST_READ", 0.0)
    picture = PIL.Image.new("RGB", (320, 240))
    found = await outcomes(client, [VideoRequest("one", picture, duration=1)])
    assert list(states(found).values()) == ["done"]


@pytest.mark.parametrize("is_plain", [True, False], ids=["plain", "asynchronous"])
@pytest.mark.parametrize("lane", [("trio", "httpx")], indirect=True)
def test_ctrl_c_ends_a_manifest_that_holds_up_everything(
    is_plain: bool, grok_emulator: Emulator, new_client: NewClient
) -> None:
    """Raised in the main task it would wait for what is waited for in here."""
    went_on: list[bool] = []

    def waiting() -> Iterator[tuple[str, VideoRequest]]:
        yield from requests(1)
        signal.raise_signal(signal.SIGINT)
        went_on.append(True)

    async def computing() -> AsyncIterator[tuple[str, VideoRequest]]:
        for one in waiting():
            yield one

    async def main() -> None:
        manifest = waiting() if is_plain else computing()
        async with new_client(grok_emulator) as client, client.batch(manifest) as batch:
            async for _ in batch:
                pass

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert went_on == []
