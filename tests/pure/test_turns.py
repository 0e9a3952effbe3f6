"""Turns in virtual time: whoever has none in the end leaves its place and its connection behind."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from grok_video import ConfigurationError
from grok_video._lifetime import Lifetime
from grok_video._slots import Slots
from grok_video._transports._loops import current_time
from grok_video._turns import NoTurn, Turns

#: One request in ten seconds, on one connection.
SLOW = 0.1


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def work() -> None:
        with trio.fail_after(10_000):  # of virtual seconds: for ever
            await main()

    trio.run(work, clock=MockClock(autojump_threshold=0))


async def taken(turns: Turns, seconds: float = math.inf, patience: float = math.inf) -> Slots:
    now = current_time()
    slots, _ = await turns.take(now, now + seconds, patience)
    return slots


def test_a_wish_that_is_too_long_is_told_at_once_and_costs_no_place() -> None:
    async def main() -> None:
        turns = Turns(1.0, 5, Lifetime())
        turns.pacer.throttled(current_time(), 100.0)
        began = current_time()
        for seconds in [1000.0, 5.0] * 50:
            with pytest.raises(NoTurn) as no:
                await taken(turns, seconds, patience=10.0)
            assert no.value.delay == pytest.approx(100.0)
        assert current_time() == began
        await trio.sleep(100)
        await taken(turns)
        assert current_time() - began == pytest.approx(100.0)

    run(main)


def test_what_is_told_is_the_wish_and_not_how_many_wait_for_its_end() -> None:
    async def main() -> None:
        turns = Turns(1.0, 5, Lifetime())
        turns.pacer.throttled(current_time(), 100.0)
        async with trio.open_nursery() as tasks:
            for _ in range(3):
                tasks.start_soon(taken, turns)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(NoTurn) as no:
                await taken(turns, 5.0, patience=10.0)
            assert no.value.delay == pytest.approx(100.0)
            tasks.cancel_scope.cancel()

    run(main)


def test_who_got_no_connection_in_time_leaves_its_place_to_the_next() -> None:
    async def main() -> None:
        turns = Turns(SLOW, 1, Lifetime())
        slots = await taken(turns)
        await trio.sleep(20)
        with pytest.raises(NoTurn) as no:
            await taken(turns, 1.0)
        assert no.value.delay is None
        slots.release()
        before = current_time()
        await taken(turns)
        assert current_time() == before

    run(main)


@pytest.mark.parametrize("end", ["cancelled", "too late"])
def test_who_is_held_up_with_a_connection_and_does_not_go_leaves_both_to_the_next(end: str) -> None:
    async def main() -> None:
        turns, began = Turns(SLOW, 1, Lifetime()), current_time()
        slots, scope = await taken(turns), trio.CancelScope()

        async def first() -> None:
            (await taken(turns)).release()
            assert current_time() - began == pytest.approx(100)

        async def second() -> None:
            with scope:
                if end == "cancelled":
                    await taken(turns)
                with pytest.raises(NoTurn) as no:
                    await taken(turns, 105.0)
                assert no.value.delay == pytest.approx(9)
                assert current_time() - began == pytest.approx(100), "told at once"

        async with trio.open_nursery() as tasks:
            tasks.start_soon(first)
            await trio.testing.wait_all_tasks_blocked()
            tasks.start_soon(second)
            await trio.sleep(100)  # both have had their places for long, and no connection
            slots.release()
            await trio.sleep(1)
            scope.cancel()
        (await taken(turns)).release()
        assert current_time() - began == pytest.approx(109)

    run(main)


def test_a_wish_that_came_while_a_request_waited_for_its_connection_holds_for_it() -> None:
    async def main() -> None:
        turns, began = Turns(None, 1, Lifetime()), current_time()
        slots = await taken(turns)

        async def wait() -> None:
            (await taken(turns)).release()
            assert current_time() - began == pytest.approx(60)

        async with trio.open_nursery() as tasks:
            tasks.start_soon(wait)
            await trio.sleep(10)
            turns.pacer.throttled(current_time(), 50.0)
            slots.release()
            await trio.testing.wait_all_tasks_blocked()
            assert slots.take_at_once(), "nobody holds a connection while nothing may be sent"
            slots.release()

    run(main)


def test_who_waits_for_a_place_is_told_at_once_that_its_client_is_closed() -> None:
    async def main() -> None:
        lifetime = Lifetime()
        turns, began = Turns(SLOW, 5, lifetime), current_time()
        (await taken(turns)).release()

        async def wait() -> None:
            with pytest.raises(ConfigurationError, match="closed"):
                await taken(turns)

        async with trio.open_nursery() as tasks:
            tasks.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            lifetime.end()
        assert current_time() == began

    run(main)


def test_who_waits_goes_as_soon_as_the_pace_of_then_allows_and_not_that_of_its_coming() -> None:
    async def main() -> None:
        turns, began = Turns(100.0, 5, Lifetime()), current_time()
        for _ in range(10):
            turns.pacer.throttled(current_time(), 1.0)
            await trio.sleep(1)
        assert turns.pacer.pace < 1
        async with trio.open_nursery() as tasks:
            for _ in range(200):
                tasks.start_soon(go, turns)
        assert current_time() - began < 22

    run(main)


def test_nobody_passes_those_who_stand_in_line() -> None:
    async def main() -> None:
        turns, order = Turns(None, 5, Lifetime()), list[int]()

        async def wait(number: int) -> None:
            (await taken(turns)).release()
            order.append(number)

        turns.pacer.throttled(current_time(), None)
        async with trio.open_nursery() as tasks:
            for number in range(50):
                tasks.start_soon(wait, number)
                await trio.sleep(0.3)
        # Up to eight go in one turn of the loop, which trio resumes in any order.
        assert all(abs(number - place) < 8 for place, number in enumerate(order))
        assert len(order) == 50

    run(main)


def test_who_leaves_the_line_moves_all_behind_it_up() -> None:
    async def main() -> None:
        turns, began = Turns(1.0, 5, Lifetime()), current_time()
        for _ in range(2):
            (await taken(turns)).release()
        async with trio.open_nursery() as tasks:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as leaving:
                    for _ in range(27):
                        leaving.start_soon(go, turns)
                    await trio.testing.wait_all_tasks_blocked()
                    tasks.start_soon(go, turns)
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
        assert current_time() - began == pytest.approx(1)

    run(main)


def test_a_slow_moment_refuses_nobody_whom_the_limits_would_let_go_in_time() -> None:
    async def main() -> None:
        turns, began = Turns(None, 5, Lifetime()), current_time()
        turns.pacer.throttled(began, None)
        async with trio.open_nursery() as tasks:
            for _ in range(100):
                tasks.start_soon(go, turns, 30.0, 60.0)
        assert current_time() - began < 15

    run(main)


def test_who_would_come_too_late_even_if_all_goes_well_is_told_at_once() -> None:
    async def main() -> None:
        turns, began = Turns(1.0, 5, Lifetime()), current_time()
        async with trio.open_nursery() as tasks:
            for _ in range(11):
                tasks.start_soon(go, turns, 10.0, 60.0)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(NoTurn) as no:
                await taken(turns, 10.0, patience=60.0)
            assert current_time() == began
            assert no.value.delay == pytest.approx(10)
            with pytest.raises(NoTurn):
                await turns.take(began, began + 10.0)
            assert current_time() - began == pytest.approx(10), "who has no patience hopes on"

    run(main)


def test_turns_of_the_loop_that_take_their_time_hold_up_nobody_whom_the_pace_lets_go() -> None:
    """Something else in the program computes for a fiftieth of a second, again and again."""

    async def main(clock: MockClock) -> None:
        turns, began, gone = Turns(100.0, 50, Lifetime()), current_time(), list[float]()
        turns.pacer.throttled(current_time(), 1.0)

        async def wait() -> None:
            await go(turns)
            gone.append(current_time() - began)

        async with trio.open_nursery() as tasks:
            for _ in range(1000):
                tasks.start_soon(wait)
            while len(gone) < 1000:
                clock.jump(0.02)
                await trio.lowlevel.checkpoint()
        assert max(gone) < 17

    clock = MockClock()
    trio.run(main, clock, clock=clock)


def test_who_was_let_go_and_is_cancelled_at_that_moment_leaves_its_connection_to_the_next() -> None:
    """In asyncio: trio cancels nobody who was woken already."""

    async def main() -> None:
        turns = Turns(1e6, 3, Lifetime())
        turns.pacer.throttled(current_time(), 0.02)

        async def go_alone() -> None:
            await go(turns)
            for task in tasks:
                task.cancel()

        tasks = [asyncio.create_task(go_alone()) for _ in range(9)]
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(one, asyncio.CancelledError) for one in done) >= 6
        held = [await taken(turns, 5.0) for _ in range(3)]
        assert not held[0].take_at_once()

    asyncio.run(main())


async def go(turns: Turns, seconds: float = math.inf, patience: float | None = None) -> None:
    now = current_time()
    slots, _ = await turns.take(now, now + seconds, patience)
    slots.release()
