"""When a request may go: its place in the client's budget, then a connection that is free.

One `Turns` stands before all creates of a client and one before all its polls. What a request is,
and what is told to a caller who cannot have a turn, is decided in `_session`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from grok_video._policies import Pacer
from grok_video._slots import Slots, slots_of_each_loop
from grok_video._transports._loops import current_time

if TYPE_CHECKING:
    from grok_video._lifetime import Lifetime

__all__ = ["NoTurn", "Turns"]


class NoTurn(Exception):
    """There is no turn in time; `delay` is when there would be one, None for no free connection."""

    def __init__(self, delay: float | None) -> None:
        super().__init__(delay)
        self.delay = delay


class Turns:
    """At most `rate` requests a second, as the server allows, and `at_once` at the same time."""

    __slots__ = ("_lifetime", "_slots", "pacer")

    def __init__(self, rate: float | None, at_once: int, lifetime: Lifetime) -> None:
        self.pacer = Pacer(rate)
        self._lifetime = lifetime
        self._slots = slots_of_each_loop(at_once)

    async def take(
        self, now: float, until: float, patience: float = math.inf
    ) -> tuple[Slots, float]:
        """Return the slots of which one is taken, to be released after the request, and the time.

        Raises `NoTurn`: at once if its place comes after `until`, or the server asked for more than
        `patience` seconds, and at `until` if no connection became free; and `ConfigurationError`
        if the client is closed while it waits for its place.
        """
        slots = self._slots.held() or await self._slots.get()
        pacer = self.pacer
        if slots.take_at_once():
            if pacer.go_at_once(now):
                return slots, now
            slots.release()
        while True:
            delay = pacer.reserve(now, until)
            asked = pacer.blocked_until - now
            if delay > 0 and now + delay > until:
                raise NoTurn(asked if asked > patience else delay)
            if asked > patience:
                pacer.give_back()
                raise NoTurn(asked)
            if delay > 0 or not slots.take_at_once():
                try:
                    if delay > 0:
                        await self._sleep_until(now + delay)
                    taken = await slots.take(until)
                except BaseException:
                    pacer.give_back()
                    raise
                if not taken:
                    pacer.give_back()
                    raise NoTurn(None)
                now = current_time()
            # Those who stood in line together do not go together, and meanwhile the server may
            # have said "too many" to another.
            delay = pacer.depart(now, until)
            if delay > 0:
                try:
                    await self._hold(delay, now, until)
                except BaseException:
                    slots.release()
                    raise
                now = current_time()
            if pacer.blocked_until <= now:
                return slots, now
            slots.release()
            now = current_time()

    async def _hold(self, delay: float, now: float, until: float) -> None:
        """Sleep until a request that has its connection may go. Raises `NoTurn` if that is late."""
        if now + delay > until:
            raise NoTurn(delay)
        try:
            await self._sleep_until(now + delay)
        except BaseException:
            self.pacer.stay()
            raise

    async def _sleep_until(self, when: float) -> None:
        await self._lifetime.sleep_until(when)
        self._lifetime.require()

    async def until_idle(self, until: float) -> None:
        """Return when no request of the running event loop has a slot, `until` at the latest."""
        slots = self._slots.held()
        if slots is not None:
            await slots.until_all_free(until)

    async def aclose(self) -> None:
        """Forget the slots of the running event loop."""
        await self._slots.aclose()
