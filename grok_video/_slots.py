"""So many exchanges at once, the others in the order in which they came."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from grok_video._transports._loops import (
    Bell,
    LoopLocal,
    current_time,
    new_sleeper,
    running_loop,
    sleep_until,
    wake,
)

__all__ = ["Slots", "Taken", "slots_of_each_loop"]


class Slots:
    """A number of slots in one event loop."""

    __slots__ = ("_all_free", "_count", "_free", "_waiting")

    def __init__(self, count: int) -> None:
        self._count = count
        self._all_free: Bell | None = None
        #: Free ones; there are none while someone waits.
        self._free = count
        #: What wakes each who waits, and the event loop: whoever came first stands first.
        self._waiting: OrderedDict[Any, Any] = OrderedDict()

    def take_at_once(self) -> bool:
        """Return whether one was free; then it is taken, and to be released."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def take(self, until: float) -> bool:
        """Return True once one is taken, False if none became free until then.

        A caller that is cancelled has none.
        """
        if self.take_at_once():
            return True
        loop = running_loop()
        sleeper = new_sleeper(loop)
        self._waiting[sleeper] = loop
        try:
            await sleep_until(until, sleeper, loop)
        except BaseException:
            if self._was_given(sleeper):
                self.release()
            raise
        return self._was_given(sleeper)

    def release(self) -> None:
        """Give a slot back; whoever waits longest has it now."""
        if self._waiting:
            wake(*self._waiting.popitem(last=False))
            return
        self._free += 1
        if self._all_free is not None and self._free == self._count:
            self._all_free.ring()

    async def until_all_free(self, until: float) -> None:
        """Return when none is taken, or at `until`."""
        while self._free < self._count and current_time() < until:
            if self._all_free is None:
                self._all_free = Bell()
            await self._all_free.wait_until(until)

    def _was_given(self, sleeper: Any) -> bool:  # noqa: ANN401 - as `new_sleeper` returns it
        return self._waiting.pop(sleeper, self) is self


class Taken:
    """A slot that was taken, to be released once."""

    __slots__ = ("_slots",)

    def __init__(self, slots: Slots) -> None:
        self._slots: Slots | None = slots

    def release(self) -> None:
        """Give it back, if that was not done before."""
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.release()


def slots_of_each_loop(count: int) -> LoopLocal[Slots]:
    """Return so many slots for every event loop that asks."""
    return LoopLocal(lambda: Slots(count), _nothing_to_close)


async def _nothing_to_close(_: object) -> None:
    """Do nothing: slots hold no resource."""
