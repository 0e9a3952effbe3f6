"""Slots are handed on in order and never lost, whatever becomes of those who wait for them."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskStatus

from grok_video._slots import Slots
from grok_video._transports._loops import caller_of, current_time, running_loop

pytestmark = pytest.mark.parametrize("library", ["asyncio", "trio"])

FOREVER = float("inf")


def run(library: str, work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(20):
            await work()

    anyio.run(bounded, backend=library)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


def is_free(slots: Slots, count: int) -> bool:
    """Return whether just so many can be taken at once; they are given back."""
    taken = 0
    while slots.take_at_once():
        taken += 1
    for _ in range(taken):
        slots.release()
    return taken == count


class Prompt:
    """The running event loop, as a thread sees it that is held up: it has done what it was told.

    It stands where the token of a run of trio does, which is told in the same way.
    """

    def __init__(self) -> None:
        self._tell = caller_of(running_loop())
        self._home = threading.get_ident()

    def run_sync_soon(self, function: Callable[..., object], *args: object) -> None:
        done = threading.Event()
        self._tell(function, *args)
        self._tell(done.set)
        assert threading.get_ident() == self._home or done.wait(10)


def test_they_are_given_in_the_order_in_which_they_were_asked_for(library: str) -> None:
    async def work() -> None:
        slots, served = Slots(2), list[int]()

        async def one(number: int, *, task_status: TaskStatus[None]) -> None:
            task_status.started()
            assert await slots.take(FOREVER)
            served.append(number)
            await turns()
            slots.release()

        async with anyio.create_task_group() as tasks:
            for number in range(9):
                await tasks.start(one, number)
        assert served == list(range(9))
        assert is_free(slots, 2)

    run(library, work)


def test_eight_begin_in_a_turn_of_the_loop_and_all_of_them_without_an_end(library: str) -> None:
    """Whoever else lives in the loop has its turn between them, and nobody waits for an answer."""

    async def work() -> None:
        slots, turn, began, over = Slots(50), 0, list[int](), anyio.Event()

        async def one() -> None:
            assert await slots.take(FOREVER)
            began.append(turn)
            await over.wait()
            slots.release()

        async with anyio.create_task_group() as tasks:
            for _ in range(60):
                tasks.start_soon(one)
            while len(began) < 50:
                turn += 1
                assert turn < 40
                await anyio.lowlevel.checkpoint()
            await turns()
            assert len(began) == 50
            # trio runs what is ready in any order, so that two lots may meet between two looks.
            assert max(Counter(began).values()) <= (8 if library == "asyncio" else 16)
            over.set()
        assert len(began) == 60

    run(library, work)


def test_a_wait_ends_at_its_time_and_leaves_the_line(library: str) -> None:
    async def work() -> None:
        slots = Slots(1)
        assert slots.take_at_once()
        assert not await slots.take(current_time() + 0.01)
        assert not await slots.take(current_time() - 1.0)
        slots.release()
        assert is_free(slots, 1)

    run(library, work)


def test_who_is_cancelled_in_the_line_keeps_nobody_from_a_slot(library: str) -> None:
    async def work() -> None:
        slots, served = Slots(1), list[str]()
        assert slots.take_at_once()

        async def one(name: str, scope: anyio.CancelScope) -> None:
            with scope:
                assert await slots.take(FOREVER)
                served.append(name)
                slots.release()

        scopes = {name: anyio.CancelScope() for name in ("first", "second", "third")}
        async with anyio.create_task_group() as tasks:
            for name, scope in scopes.items():
                tasks.start_soon(one, name, scope)
                await turns()
            scopes["second"].cancel()
            await turns()
            slots.release()
        assert served == ["first", "third"]
        assert is_free(slots, 1)

    run(library, work)


def test_a_slot_given_to_one_who_is_cancelled_in_the_same_turn_goes_to_the_next(
    library: str,
) -> None:
    async def work() -> None:
        slots, served = Slots(1), list[str]()
        assert slots.take_at_once()

        scope = anyio.CancelScope()

        async def unlucky() -> None:
            with scope:
                took = False
                try:
                    took = await slots.take(FOREVER)
                    await anyio.lowlevel.checkpoint()  # where the cancellation may come as well
                finally:
                    if took:
                        slots.release()

        async def following() -> None:
            assert await slots.take(FOREVER)
            served.append("the next")
            slots.release()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(unlucky)
            await turns()
            tasks.start_soon(following)
            await turns()
            slots.release()
            scope.cancel()
        assert served == ["the next"]
        assert is_free(slots, 1)

    run(library, work)


def test_a_slot_given_back_in_another_thread_counts_in_the_turn_that_it_begins(
    library: str,
) -> None:
    """A coroutine that nobody holds is collected anywhere; the loop goes on while that happens."""

    async def work() -> None:
        slots, served = Slots(1), list[str]()
        assert slots.take_at_once()
        await turns()
        slots._loop = Prompt()

        async def waiting() -> None:
            assert await slots.take(FOREVER)
            served.append("who waits")
            slots.release()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(waiting)
            await turns()
            await anyio.to_thread.run_sync(slots.release)
        assert served == ["who waits"]
        # One that is counted after the turn in which it was given is counted in all later ones.
        for _ in range(20):
            await turns()
            assert slots.take_at_once()
            slots.release()

    run(library, work)


def test_a_slot_is_free_if_the_loop_has_served_whom_another_thread_gives_it(library: str) -> None:
    async def work() -> None:
        slots = Slots(1)
        assert slots.take_at_once()
        slots._give()  # as `release` does that saw somebody wait a moment ago
        assert is_free(slots, 1)

    run(library, work)


@pytest.mark.parametrize("seed", range(5))
def test_a_storm_of_waits_ends_and_cancellations_loses_none(library: str, seed: int) -> None:
    """Three slots, three hundred who want one; some give up, some are cancelled."""

    async def work() -> None:
        slots, dice, holding, most, served = Slots(3), random.Random(seed), 0, 0, 0

        async def one(number: int, scope: anyio.CancelScope) -> None:
            nonlocal holding, most, served
            until = current_time() + 0.02 * dice.random() if number % 3 == 0 else FOREVER
            with scope:
                if not await slots.take(until):
                    return
                holding += 1
                most, served = max(most, holding), served + 1
                try:
                    await turns(dice.randrange(4))
                finally:
                    holding -= 1
                    slots.release()

        scopes = [anyio.CancelScope() for _ in range(300)]
        async with anyio.create_task_group() as tasks:
            for number, scope in enumerate(scopes):
                tasks.start_soon(one, number, scope)
                if dice.random() < 0.3:
                    await anyio.lowlevel.checkpoint()
                if dice.random() < 0.4:
                    dice.choice(scopes).cancel()
        assert most == 3
        assert served >= 100
        assert is_free(slots, 3)

    run(library, work)
