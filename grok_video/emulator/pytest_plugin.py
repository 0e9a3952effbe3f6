"""Fixtures for pytest: an emulator for each test, and makers of emulators with other settings.

pytest loads this module in every run of every project that has the package installed, so it
imports nothing but pytest until a fixture is used.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from . import Emulator


class EmulatorFactory(Protocol):
    """Makes a started emulator; it is stopped when the test, or the run, ends."""

    def __call__(self, api_key: str | None = None, **settings: Any) -> Emulator:  # noqa: ANN401
        """A started emulator with these settings of `Emulator`."""
        ...


@pytest.fixture
def grok_emulator_factory() -> Iterator[EmulatorFactory]:
    """A maker of started emulators, each stopped when the test ends."""
    yield from _factory()


@pytest.fixture(scope="session")
def grok_emulator_session_factory() -> Iterator[EmulatorFactory]:
    """A maker of started emulators for fixtures of a wider scope, stopped when the run ends."""
    yield from _factory()


def _factory() -> Iterator[EmulatorFactory]:
    from . import Emulator

    with ExitStack() as running:

        def make(api_key: str | None = None, **settings: Any) -> Emulator:  # noqa: ANN401
            return running.enter_context(Emulator(api_key, **settings))

        yield make


@pytest.fixture
def grok_emulator(grok_emulator_factory: EmulatorFactory) -> Emulator:
    """A started emulator whose jobs take a few milliseconds."""
    return grok_emulator_factory()
