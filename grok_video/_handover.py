"""What tasks hand to whoever asks for it: one thing after the other, each until somebody has it.

`asyncio.timeout`, `asyncio.wait_for` and a plain `task.cancel()` may end a wait in the very turn of
the loop in which something comes. A stream of anyio's has handed it over by then, and it is lost;
here it is taken by the one who asks, as the last thing before returning, or it stays.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Generic, TypeVar

import anyio
import anyio.lowlevel

from grok_video._transports._loops import Bell

__all__ = ["Handover", "Over"]

T = TypeVar("T")


class Over(Exception):
    """Nothing more comes."""


class Handover(Generic[T]):
    """Things from the tasks of one event loop, in the order in which they were given."""

    def __init__(self) -> None:
        #: What nobody has taken yet, each by what its giver waits for.
        self._given: OrderedDict[anyio.Event, T] = OrderedDict()
        self._news = Bell()
        self._is_closed = False

    async def give(self, thing: T) -> None:
        """Somebody has the thing; a giver who is cancelled before takes it back."""
        taken = anyio.Event()
        self._given[taken] = thing
        self._news.ring()
        try:
            await taken.wait()
        finally:
            self._given.pop(taken, None)

    async def take(self) -> T:
        """Return the next thing; who is cancelled here has taken none. Raises `Over` at the end."""
        # Also where something is there: whoever takes thousands leaves their turns to others.
        await anyio.lowlevel.checkpoint()
        while not self._given:
            if self._is_closed:
                raise Over
            await self._news.wait_until(math.inf)
        # Nothing is awaited from here on.
        taken, thing = self._given.popitem(last=False)
        taken.set()
        return thing

    def close(self) -> None:
        """Nothing more is given: who waits for it hears that once all of it was taken."""
        self._is_closed = True
        self._news.ring()
