"""The order of creates: who goes alone, who waits, and what the service's troubles lead to."""

from __future__ import annotations

import random

import anyio
import pytest

from grok_video import APIConnectionError, RateLimited, Retry
from grok_video._gate import PATIENCE, Closed, Gate
from grok_video._transports._loops import current_time

NOT_SENT = APIConnectionError("down", may_have_been_sent=False)
SLOW_DOWN = RateLimited("slow down", status=429, retry_after=600)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


def new_gate(most: int = 10, base: float = 0.001) -> Gate:
    return Gate(Retry(base=base, cap=30), random.Random(0), most, current_time)


async def test_all_who_wait_for_their_turn_are_sent_home_when_the_batch_stops() -> None:
    gate, sent_home = new_gate(most=3), list[int]()
    gate.failed(SLOW_DOWN, current_time(), alone=False)

    async def wait(number: int) -> None:
        with pytest.raises(Closed):
            async with gate.turn():
                pass
        sent_home.append(number)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for number in range(5):  # the one that is alone, those behind it, those without a place
                tasks.start_soon(wait, number)
            await anyio.wait_all_tasks_blocked()
            assert sent_home == []
            gate.stop("out of credits")
    assert sorted(sent_home) == [0, 1, 2, 3, 4]
    assert gate.places.value == 3, "whoever comes later finds a place to be told so"
    assert not gate.alone.locked()


@pytest.mark.parametrize("waits", ["alone", "behind another", "for a place"])
async def test_a_turn_that_is_cancelled_while_it_waits_is_free_for_the_next(waits: str) -> None:
    gate = new_gate(most=1 if waits == "for a place" else 3)
    gate.failed(SLOW_DOWN, current_time(), alone=False)
    scope = anyio.CancelScope()

    async def wait(until: anyio.CancelScope) -> None:
        with until:
            async with gate.turn():
                pass

    async with anyio.create_task_group() as tasks:
        first = anyio.CancelScope()
        if waits != "alone":
            tasks.start_soon(wait, first)
            await anyio.wait_all_tasks_blocked()
        tasks.start_soon(wait, scope)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        first.cancel()
    gate.accepted()
    with anyio.fail_after(5):
        async with gate.turn() as turn:
            turn.check()


async def test_no_more_are_on_their_way_than_there_are_connections() -> None:
    gate, inside, most = new_gate(most=2), 0, 0
    gate.accepted()

    async def send() -> None:
        nonlocal inside, most
        async with gate.turn():
            inside += 1
            most = max(most, inside)
            await anyio.wait_all_tasks_blocked()
            inside -= 1

    async with anyio.create_task_group() as tasks:
        for _ in range(7):
            tasks.start_soon(send)
    assert most == 2


def test_an_accepted_create_ends_the_outage_that_was_before_it() -> None:
    gate = new_gate()
    gate.failed(NOT_SENT, 0.0, alone=True)
    gate.accepted()
    gate.failed(NOT_SENT, 2 * PATIENCE, alone=True)
    assert gate.stopped is None


def test_a_shorter_wait_takes_nothing_from_a_longer_one() -> None:
    gate = new_gate()
    gate.failed(SLOW_DOWN, 0.0, alone=True)
    gate.failed(NOT_SENT, 1.0, alone=False)  # which was on its way
    gate.failed(RateLimited("slow down", status=429, retry_after=2), 2.0, alone=False)
    assert gate.not_before == 600


def test_many_that_fail_at_one_moment_are_one_failure_to_wait_for() -> None:
    gate = new_gate(base=1.0)
    for _ in range(100):
        gate.failed(NOT_SENT, 0.0, alone=False)
    assert gate.not_before <= 1.0
    for _ in range(3):
        gate.failed(NOT_SENT, 0.0, alone=True)
    assert 2.0 <= gate.not_before <= 4.0, "one after another they are three"


def test_time_in_which_nobody_wanted_a_create_is_no_trouble() -> None:
    """A slow manifest: two that failed twenty minutes apart are no outage of twenty minutes."""
    now = 0.0
    gate = Gate(Retry(base=0.001), random.Random(0), 3, lambda: now)
    for _ in range(2):
        gate.enter()
        gate.failed(NOT_SENT, now, alone=False)
        gate.leave()
        now += PATIENCE + 300
    assert gate.stopped is None
    gate.enter()
    now += PATIENCE + 1  # in which it was tried all the time
    gate.failed(NOT_SENT, now, alone=True)
    assert gate.stopped is not None


async def test_who_is_alone_waits_for_what_the_server_wished_meanwhile() -> None:
    gate = new_gate()
    began = current_time()
    gate.not_before = began + 0.4
    async with anyio.create_task_group() as tasks:

        async def send() -> None:
            async with gate.turn():
                assert current_time() >= began + 0.6

        tasks.start_soon(send)
        await anyio.wait_all_tasks_blocked()
        gate.not_before = began + 0.6
