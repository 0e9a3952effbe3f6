"""One timer ends all exchanges of an event loop, each after its own time, as `asyncio.timeout`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from conftest import LANES, Bytes, make_config, make_transport
from rawserver import ok, raw_server

from grok_video._transports._aiohttptimeouts import Timeouts

SOON = 0.02


class Loop(asyncio.SelectorEventLoop):
    """Keeps the timers that were set in it."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[asyncio.TimerHandle] = []

    def call_at(self, *args: Any, **words: Any) -> asyncio.TimerHandle:
        self.timers.append(super().call_at(*args, **words))
        return self.timers[-1]

    @property
    def pending(self) -> int:
        return sum(timer.when() > self.time() and not timer.cancelled() for timer in self.timers)


def run(main: Callable[[Loop], Awaitable[None]]) -> None:
    loop = Loop()

    async def bounded() -> None:
        await main(loop)

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(bounded())


# --- as asyncio.timeout --------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def ours() -> AsyncIterator[None]:
    with Timeouts(SOON).exchange():
        yield


def of_the_library() -> asyncio.Timeout:
    return asyncio.timeout(SOON)


async def ends_in_time() -> None:
    await asyncio.sleep(0)


async def takes_too_long() -> None:
    await asyncio.sleep(5)


async def fails_meanwhile() -> None:
    raise KeyError("meanwhile")


async def fails_once_it_is_cancelled() -> None:
    try:
        await asyncio.sleep(5)
    finally:
        raise KeyError("then")


async def hides_that_it_was_cancelled() -> None:
    try:
        await asyncio.sleep(5)
    except asyncio.CancelledError:
        return


async def is_cancelled_by_others() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(5)


async def is_cancelled_by_both() -> None:
    task = asyncio.current_task()
    assert task is not None
    try:
        await asyncio.sleep(5)
    finally:
        task.cancel()


async def has_a_shorter_time_within() -> None:
    async with asyncio.timeout(SOON / 4):
        await asyncio.sleep(5)


async def blocks_past_its_time() -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + 1.5 * SOON
    while loop.time() < end:
        pass


@pytest.mark.parametrize("cancelled_before", [False, True], ids=["", "cancelled before"])
@pytest.mark.parametrize(
    "work",
    [
        ends_in_time,
        takes_too_long,
        fails_meanwhile,
        fails_once_it_is_cancelled,
        hides_that_it_was_cancelled,
        is_cancelled_by_others,
        is_cancelled_by_both,
        has_a_shorter_time_within,
        blocks_past_its_time,
    ],
)
def test_what_comes_out_is_what_comes_out_of_the_librarys_own(
    work: Callable[[], Awaitable[None]], cancelled_before: bool
) -> None:
    async def told(make: Callable[[], Any]) -> tuple[object, ...]:
        """Return what was raised, why, and whether the task still counts as cancelled after it."""
        task = asyncio.current_task()
        assert task is not None
        if cancelled_before:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.sleep(0)
        raised: BaseException | None = None
        try:
            async with make():
                await work()
        except BaseException as error:  # noqa: BLE001 - what it is, is the question
            raised = error
        cause = raised.__cause__ if raised is not None else None
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)  # where a cancellation comes out that was asked for last
        return type(raised), type(cause), task.cancelling()

    async def main(_: Loop) -> None:
        library = await asyncio.create_task(told(of_the_library))
        assert await asyncio.create_task(told(ours)) == library

    run(main)


# --- one timer -----------------------------------------------------------------------------------


def test_each_exchange_ends_after_its_own_time_by_one_timer() -> None:
    async def main(loop: Loop) -> None:
        timeouts, ended = Timeouts(5 * SOON), list[tuple[int, float]]()

        async def one(number: int) -> None:
            began = loop.time()
            with pytest.raises(TimeoutError), timeouts.exchange():
                await loop.create_future()
            ended.append((number, loop.time() - began))

        async with asyncio.TaskGroup() as tasks:
            for number in range(5):
                tasks.create_task(one(number))
                # A thread, as a sleep would be a timer of its own.
                await asyncio.to_thread(time.sleep, SOON)
                assert loop.pending == 1
        assert [number for number, _ in ended] == list(range(5))
        assert all(5 * SOON <= took < 10 * SOON for _, took in ended)
        assert loop.pending == 0
        assert len(loop.timers) == 5

    run(main)


def test_an_exchange_that_is_slow_to_end_is_not_broken_off_twice() -> None:
    async def main(loop: Loop) -> None:
        timeouts = Timeouts(SOON)

        async def slow() -> None:
            with pytest.raises(TimeoutError), timeouts.exchange():
                try:
                    await loop.create_future()
                finally:
                    await asyncio.sleep(4 * SOON)

        first = asyncio.create_task(slow())
        await asyncio.sleep(SOON / 2)
        with pytest.raises(TimeoutError), timeouts.exchange():
            await loop.create_future()
        assert not first.done()
        await first

    run(main)


def test_exchanges_that_end_in_time_share_a_timer_and_leave_nothing_behind() -> None:
    lane = LANES[0]

    async def main(loop: Loop) -> None:
        with raw_server(ok(times=21)) as server:
            transport = make_transport(lane, make_config(server.base))
            try:
                await transport.post(f"{server.base}/videos/generations", Bytes())
                await transport.get(f"{server.base}/videos/job-1")
                before = len(loop.timers)
                for _ in range(19):
                    await transport.get(f"{server.base}/videos/job-1")
                assert len(loop.timers) == before
            finally:
                await transport.aclose()
        assert loop.pending == 0

    run(main)
