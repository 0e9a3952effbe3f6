"""What the items of one batch share, and how they hear of each other.

Which create may go is the gate's and the budget's to say; here they stand together, with the first
reason why no more are sent. Nothing here sends, waits or writes.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

import anyio
from attrs import define, field

from grok_video._batchsettings import Settings
from grok_video._budget import Budget
from grok_video._errors import GrokVideoError
from grok_video._filenames import file_name
from grok_video._gate import Gate
from grok_video._ledger import Journal
from grok_video._session import Session

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Course", "MoneyLine"]

#: Seconds of a job's wait in which the server must let it be polled, for a create to be sent; of a
#: short wait half. All that waited for that moment are polled then, at a slower pace.
_LEAST_WAIT: Final = 60.0


class MoneyLine:
    """Who takes money next: in the order of the manifest, as the one before them has done so.

    Else it would be chance which items are left out by a ceiling, and nobody could foretell it.
    """

    def __init__(self) -> None:
        self._places: deque[Place] = deque()

    def place(self) -> Place:
        """Return a place at the end of the line."""
        place = Place(self)
        self._places.append(place)
        return place

    def is_first(self, place: Place) -> bool:
        """Return whether all who stood before this one have left."""
        return not self._places or self._places[0] is place

    def move(self) -> None:
        """Let those go who have left, and call the first of the others."""
        while self._places and self._places[0].has_left:
            self._places.popleft()
        if self._places:
            self._places[0].call()


class Place:
    """One item's place in the line."""

    __slots__ = ("_called", "_line", "has_left")

    def __init__(self, line: MoneyLine) -> None:
        self._line = line
        self._called: anyio.Event | None = None
        self.has_left = False

    async def first(self) -> None:
        """Return when everybody before has left."""
        while not self._line.is_first(self):
            self._called = anyio.Event()
            await self._called.wait()

    def call(self) -> None:
        """It is this one's turn."""
        if self._called is not None:
            self._called.set()

    def leave(self) -> None:
        """It stands in the line no more; the next one may."""
        if not self.has_left:
            self.has_left = True
            self._line.move()


@define(eq=False)
class Course:
    """What the items of one batch share."""

    session: Session
    journal: Journal
    budget: Budget
    gate: Gate
    settings: Settings
    #: Raised when every outcome was told: what ended the batch before its manifest.
    failure: Exception | None = None
    #: Who may ask for money next.
    line: MoneyLine = field(factory=MoneyLine)
    #: Why an item was not sent that could lead beyond the ceiling; the first one's reason.
    left_for_money: str | None = None
    _news: anyio.Event = field(factory=anyio.Event)

    def place(self, key: str) -> Path:
        """Return where an item's file belongs; asked only where there is a folder."""
        folder = self.settings.out
        assert folder is not None  # noqa: S101 - for the type checker
        return folder / file_name(self.settings.name, key)

    @property
    def stopped(self) -> str | None:
        """Why creates were not sent, or no more of them are."""
        return self.gate.stopped or self.left_for_money

    def stop(self, reason: str, error: GrokVideoError | None = None) -> None:
        """No more creates are sent; the first reason stays."""
        self.gate.stop(reason, error)
        self.announce()

    def fail(self, error: Exception) -> None:
        """Stop sending, and raise this when everything else was told; the first one stays."""
        self.failure = self.failure or error
        self.stop(str(error), error if isinstance(error, GrokVideoError) else None)

    def announce(self) -> None:
        """Wake those who wait for news: an item ended, or the batch stopped sending."""
        self._news.set()
        self._news = anyio.Event()

    def unfollowed_until(self) -> float:
        """Return the time before which the wait of a new job would see no poll in time."""
        if self.settings.timeout is None:
            return -math.inf
        blocked_until = self.session.polls_blocked_until()
        return blocked_until - self.settings.timeout + min(_LEAST_WAIT, self.settings.timeout / 2)

    async def news(self) -> None:
        """Return at the next announcement."""
        await self._news.wait()
