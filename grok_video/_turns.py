"""When a request may go: as the client's budget lets it, and over a connection that is free.

One `Turns` stands before all creates of a client and one before all its polls. What a request is,
and what is told to a caller who cannot have a turn, is decided in `_session`.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, Final

from grok_video._policies import Pacer
from grok_video._slots import Slots
from grok_video._transports._looplocal import LoopLocal
from grok_video._transports._loops import Bell, current_time

if TYPE_CHECKING:
    from grok_video._lifetime import Lifetime

__all__ = ["NoTurn", "Turns"]

#: Seconds after which whoever is first in line looks at the pace again, which recovers meanwhile.
_LOOK_AGAIN: Final = 1.0
#: Requests that go in one turn of the event loop at most, if that many may.
_IN_A_TURN: Final = 8


class NoTurn(Exception):
    """There is no turn in time; `delay` is when there would be one, None for no free connection."""

    def __init__(self, delay: float | None) -> None:
        super().__init__(delay)
        self.delay = delay


class _Place:
    """Where one request stands in line."""

    __slots__ = ("bell", "has_turn")

    def __init__(self) -> None:
        self.bell = Bell()
        #: True once whoever went before has taken its turn for it, a slot as well.
        self.has_turn = False


class _Lane(Slots):
    """What the requests of one event loop have together: slots for connections, and a line."""

    __slots__ = ("line",)

    def __init__(self, at_once: int) -> None:
        super().__init__(at_once)
        #: Those whom the budget holds up, in the order of their coming. Only the first of them
        #: looks at the pace, so that nobody sleeps for what the pace of an earlier moment was, and
        #: whoever leaves moves all others up.
        self.line: OrderedDict[_Place, None] = OrderedDict()

    def is_up(self, place: _Place) -> bool:
        """Return whether nobody is ahead in the line, or it has its turn."""
        return place.has_turn or next(iter(self.line), place) is place

    def leave(self, place: _Place) -> None:
        """Leave the line; who was behind the first is the first now, and hears of it."""
        was_first = self.is_up(place)
        self.line.pop(place, None)
        following = next(iter(self.line), None)
        if was_first and following is not None:
            following.bell.ring()

    def let_go(self, pacer: Pacer, now: float) -> None:
        """Those behind the first go in the same turn of the loop, as far as nothing holds them up.

        One in a turn would be slower than the pace where turns take their time.
        """
        for place in list(islice(self.line, 1, _IN_A_TURN)):
            if not self.take_at_once():
                return
            if not pacer.go(now):
                self.release()
                return
            del self.line[place]
            place.has_turn = True
            place.bell.ring()


class Turns:
    """At most `rate` requests a second, as the server allows, and `at_once` at the same time."""

    __slots__ = ("_lanes", "_lifetime", "pacer")

    def __init__(self, rate: float | None, at_once: int, lifetime: Lifetime) -> None:
        self.pacer = Pacer(rate)
        self._lifetime = lifetime
        self._lanes = LoopLocal(lambda: _Lane(at_once), _nothing_to_close)

    async def take(
        self, now: float, until: float, patience: float | None = None
    ) -> tuple[Slots, float]:
        """Return the slots of which one is taken, to be released after the request, and the time.

        Raises `NoTurn` at `until`; where there is a `patience` also at once, if the server asked
        for more seconds than that, or the limits let it go only after `until` even if all goes
        well. Raises `ConfigurationError` if the client is closed while it waits in line.
        """
        lane = self._lanes.held() or await self._lanes.get()
        if not lane.line:
            if lane.take_at_once():
                if self.pacer.go(now):
                    return lane, now
                lane.release()
            if self.pacer.earliest(now) <= now:
                # Only a connection is missing. Many may wait for one, and go as they have it.
                if not await lane.take(until):
                    raise NoTurn(None)
                now = current_time()
                if not lane.line and self.pacer.go(now):
                    return lane, now
                lane.release()
        place = _Place()
        lane.line[place] = None
        try:
            ahead = len(lane.line) - 1
            while not lane.is_up(place):
                self._require_hope(now, ahead, until, patience)
                await self._lifetime.sleep_until(until, place.bell, lambda: lane.is_up(place))
                self._lifetime.require()
                now = current_time()
            if not place.has_turn:
                now = await self._go_first(lane, now, until, patience)
                lane.let_go(self.pacer, now)
        except BaseException:
            if place.has_turn:
                lane.release()
            raise
        finally:
            lane.leave(place)
        return lane, now

    async def _go_first(
        self, slots: Slots, now: float, until: float, patience: float | None
    ) -> float:
        """Return when the first in line goes, with a slot."""
        pacer = self.pacer
        while True:
            self._require_hope(now, 0, until, patience)
            start = pacer.earliest(now)
            if start > now:
                look = max(pacer.blocked_until, now + _LOOK_AGAIN)
                await self._lifetime.sleep_until(min(start, look, until))
                self._lifetime.require()
            else:
                # What is held up by the budget holds no connection.
                if not await slots.take(until):
                    raise NoTurn(None)
                now = current_time()
                if pacer.go(now):
                    return now
                slots.release()
            now = current_time()

    def _require_hope(self, now: float, ahead: int, until: float, patience: float | None) -> None:
        """Return if there may be a turn in time, for one with so many ahead. Raises `NoTurn`."""
        pacer = self.pacer
        asked = pacer.blocked_until - now
        if patience is not None and asked > patience:
            raise NoTurn(asked)
        soonest = now if patience is None else pacer.soonest(now, ahead)
        if soonest >= until:
            raise NoTurn(pacer.earliest(now, ahead) - now)

    async def until_idle(self, until: float) -> None:
        """Return when no request of the running event loop has a slot, `until` at the latest."""
        lane = self._lanes.held()
        if lane is not None:
            await lane.until_all_free(until)

    async def aclose(self) -> None:
        """Forget the slots and the line of the running event loop."""
        await self._lanes.aclose()


async def _nothing_to_close(_: object) -> None:
    """Do nothing: a lane holds no resource."""
