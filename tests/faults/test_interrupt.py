"""Ctrl-C while a create is on its way: the answer is waited for, its id is told, then it is raised.

The signal is a real one. It comes when the emulator has the whole request, and may find the program
in any line: in the HTTP library, in the loop, or in the task that waits.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from grok_video.emulator import Emulator, faults

from .cases import CLIP
from .doors import DOORS, Door

#: Times that each door is interrupted: each time in another line, as it happens.
TIMES = 4


@pytest.fixture(params=[pytest.param(door, id=door.name) for door in DOORS.values()])
def door(request: pytest.FixtureRequest) -> Door:
    return request.param


@pytest.mark.parametrize("time", range(TIMES))
def test_an_interrupted_create_tells_its_id(door: Door, time: int) -> None:
    told: list[str] = []
    with Emulator(clip=CLIP, seed=time) as emulator:
        emulator.script("create", [faults.Stall(0.1, resume=True)])

        async def submit() -> None:
            words = {"base_url": emulator.base_url, "api_key": emulator.api_key}
            async with door.client(**words) as client:
                await client.generate("drift", on_submitted=lambda job: told.append(job.request_id))

        with _pressed_once_sent(emulator), pytest.raises(KeyboardInterrupt):
            door.run(submit)
    assert told == [create.request_id for create in emulator.creates]
    assert emulator.accepted == 1


@contextmanager
def _pressed_once_sent(emulator: Emulator) -> Iterator[None]:
    over = threading.Event()

    def wait() -> None:
        while not over.wait(0.002):
            if emulator.accepted:
                os.kill(os.getpid(), signal.SIGINT)
                return

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
