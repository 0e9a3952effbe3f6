"""So many exchanges at once, a few new ones in a turn of the loop, the others in order of arrival.

Ten thousand jobs that are due together would else go in step: as many requests as there are
connections in one turn of the event loop, as many answers in one of the next. Each such turn keeps
everybody else waiting for as long as all of these take, and what an exchange holds gets old enough
for Python's garbage collection to keep, and to visit again and again.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from grok_video._transports._looplocal import LoopLocal
from grok_video._transports._loops import (
    Bell,
    call_in_next_turn,
    current_time,
    new_sleeper,
    running_loop,
    sleep_until,
    soon_in,
    wake,
)

__all__ = ["Slots", "Taken", "slots_of_each_loop"]

#: Slots taken in one turn of the event loop, from the first of them to the same point of the next
#: turn: in a turn itself it may be one less than twice as many. With 10,000 jobs in flight over 200
#: connections on loopback, a job took 1.13 ms of CPU so, 1.2 with 12, 1.4 with 32 and 1.5 without
#: a bound; with 2,000, a turn took 2 ms where it had taken 15. Answers that take their time are
#: waited for by as many as there are connections all the same: such turns are short.
_IN_A_TURN: Final = 8


class Slots:
    """A number of slots in one event loop."""

    __slots__ = ("_all_free", "_count", "_free", "_loop", "_soon", "_taken_now", "_waiting")

    def __init__(self, count: int) -> None:
        self._count = count
        self._all_free: Bell | None = None
        #: Free ones. Someone waits all the same only where this turn has taken its number.
        self._free = count
        #: Taken in this turn of the loop.
        self._taken_now = 0
        #: Known with the first that is taken: the loop, and what calls a function in its next turn.
        self._loop: Any = None
        self._soon: Any = None
        #: What wakes each who waits: whoever came first stands first.
        self._waiting: OrderedDict[Any, None] = OrderedDict()

    def take_at_once(self) -> bool:
        """Return whether one was free; then it is taken, and to be released."""
        if not self._free or self._taken_now >= _IN_A_TURN:
            return False
        self._free -= 1
        if not self._taken_now:
            if self._loop is None:
                self._loop = running_loop()
                self._soon = soon_in(self._loop)
            self._soon(self._begin_turn)
        self._taken_now += 1
        return True

    def _begin_turn(self) -> None:
        self._taken_now = 0
        while self._waiting and self._free and self._taken_now < _IN_A_TURN:
            self._free -= 1
            self._give()

    def _give(self) -> None:
        """Let whoever waits longest have a slot."""
        # Whoever gives one back may do so outside of the loop, as a coroutine is collected: it goes
        # on meanwhile, may have served whom this was for, and begin its turn at once.
        try:
            sleeper, _ = self._waiting.popitem(last=False)
        except KeyError:
            self.release()
            return
        is_first = not self._taken_now
        self._taken_now += 1
        if is_first:
            # Counted before: what is counted after the loop has begun its turn is never forgotten.
            call_in_next_turn(self._loop, self._begin_turn)
        wake(sleeper, self._loop)

    async def take(self, until: float) -> bool:
        """Return True once one is taken, False if none became free until then.

        A caller that is cancelled has none.
        """
        if self.take_at_once():
            return True
        loop = running_loop()
        sleeper = new_sleeper(loop)
        self._waiting[sleeper] = None
        try:
            await sleep_until(until, sleeper, loop)
        except BaseException:
            if self._was_given(sleeper):
                self.release()
            raise
        return self._was_given(sleeper)

    def release(self) -> None:
        """Give a slot back; whoever waits longest has it now."""
        if self._waiting and self._taken_now < _IN_A_TURN:
            self._give()
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
