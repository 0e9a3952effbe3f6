"""A blocking client for each test, and the thread it must leave behind: none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from grok_video import Client
from grok_video.emulator import Emulator
from grok_video.emulator.pytest_plugin import EmulatorFactory
from tests.blocking.children import CLIP
from tests.conftest import EAGER, NO_LIMITS, QUICK


@pytest.fixture
def grok_emulator(grok_emulator_factory: EmulatorFactory) -> Emulator:
    """An emulator whose jobs take milliseconds, and that renders nothing."""
    return grok_emulator_factory(clip=CLIP)


@pytest.fixture
def new_blocking() -> Iterator[Callable[..., Client]]:
    """Make a client for an emulator; it is closed when the test ends."""
    made: list[Client] = []

    def make(emulator: Emulator, **words: Any) -> Client:
        defaults = {"polling": QUICK, "limits": NO_LIMITS, "retry": EAGER}
        place = {"base_url": emulator.base_url, "api_key": emulator.api_key}
        made.append(Client(**(place | defaults | words)))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def blocking(grok_emulator: Emulator, new_blocking: Callable[..., Client]) -> Client:
    return new_blocking(grok_emulator)


@pytest.fixture
def slow_emulator(grok_emulator_factory: EmulatorFactory) -> Emulator:
    """An emulator whose jobs take longer than any test, until they are finished by hand."""
    return grok_emulator_factory(time_scale=100.0, clip=CLIP)


@pytest.fixture
def waiting(slow_emulator: Emulator, new_blocking: Callable[..., Client]) -> Client:
    return new_blocking(slow_emulator)


@pytest.fixture(autouse=True)
def no_thread_is_left_behind() -> Iterator[None]:
    yield
    left = [thread for thread in threading.enumerate() if thread.name == "grok-video"]
    for thread in left:
        thread.join(5.0)  # one whose client was dropped ends by itself
    assert not any(thread.is_alive() for thread in left)
