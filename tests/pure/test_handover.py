"""What is handed over is with one side or with the other, whoever is cancelled."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from grok_video._handover import Handover, Over


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


async def turns() -> None:
    """Let everybody come to where they wait."""
    for _ in range(5):
        await anyio.lowlevel.checkpoint()


async def test_each_giver_waits_until_its_thing_was_taken_in_its_turn() -> None:
    handover, ended = Handover[int](), list[int]()

    async def give(thing: int) -> None:
        await handover.give(thing)
        ended.append(thing)

    async with anyio.create_task_group() as tasks:
        for thing in range(3):
            tasks.start_soon(give, thing)
            await turns()
        taken = []
        for count in range(3):
            assert ended == taken, f"after {count}"
            taken.append(await handover.take())
            await turns()
        assert taken == ended == [0, 1, 2]


async def test_a_giver_who_is_cancelled_takes_its_thing_back() -> None:
    handover = Handover[str]()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(handover.give, "cancelled")
        await turns()
        tasks.cancel_scope.cancel()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(handover.give, "kept")
        assert await handover.take() == "kept"


async def test_who_is_cancelled_takes_nothing() -> None:
    handover = Handover[str]()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(handover.give, "kept")
        await turns()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await handover.take()
        assert scope.cancelled_caught
        assert await handover.take() == "kept"


async def test_everybody_who_waits_hears_of_the_end_after_all_that_was_given() -> None:
    handover, told = Handover[str](), list[str]()

    async def take() -> None:
        try:
            while True:
                told.append(await handover.take())
        except Over:
            told.append("over")

    async with anyio.create_task_group() as tasks:
        for thing in "ab":
            tasks.start_soon(handover.give, thing)
            await turns()
        handover.close()
        for _ in range(3):
            tasks.start_soon(take)
    assert told == ["a", "b", "over", "over", "over"]


async def test_who_waits_hears_of_an_end_that_brings_nothing() -> None:
    handover, over = Handover[str](), list[bool]()

    async def take() -> None:
        with pytest.raises(Over):
            await handover.take()
        over.append(True)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(take)
        await turns()
        handover.close()
    assert over == [True] * 3
