"""Who may send a create next: all at once while they are accepted, else one at a time.

A wrong key, an empty account or a broken gateway would fail a thousand items in the same way, and
each create whose answer is lost may cost money. So the first create goes alone, the rest follow
when it was accepted, and after any trouble of the service the next one goes alone again. Nothing
here sends, and what is wrong with one item alone (its picture, its prompt) is no trouble.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Self

import anyio

from grok_video._errors import (
    APIError,
    AuthenticationError,
    CreateOutcomeUnknown,
    InsufficientBalance,
    NotFound,
    PermissionDenied,
    UnexpectedResponse,
)
from grok_video._lifecycle import Event, meaning_of_failed_create

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from types import TracebackType

    from grok_video._errors import GrokVideoError
    from grok_video._policies import Retry

__all__ = ["Closed", "Gate", "NotYet", "is_of_the_account", "is_of_the_service", "is_passing"]

#: Seconds without one accepted create, since the first that was not taken, after which no more
#: are tried: an outage of a quarter of an hour is worth waiting for, a longer one a person's look.
PATIENCE: Final = 900.0
#: Seconds of such an outage after which it is worth a word: a person may wait for the batch.
WORTH_A_WORD: Final = 30.0
#: Creates in a row, each sent alone, whose answers were lost or that were refused for a reason
#: that is not theirs: each lost one may cost a video, so ten are enough.
MOST_LOST: Final = 10


class Closed(Exception):
    """No more creates are sent."""


class NotYet(Exception):
    """It is another one's turn; nothing was sent."""


def is_of_the_account(error: Exception) -> bool:
    """Return whether every create would fail like this until a person does something."""
    return isinstance(error, AuthenticationError | InsufficientBalance)


def is_passing(error: GrokVideoError) -> bool:
    """Return whether a create failed like this without being taken, and may be sent again."""
    return meaning_of_failed_create(error) is Event.NOT_TAKEN


def is_of_the_service(error: GrokVideoError) -> bool:
    """Return whether a failed create speaks of the service, and not of its own request."""
    return is_passing(error) or isinstance(
        error, CreateOutcomeUnknown | PermissionDenied | NotFound | UnexpectedResponse
    )


class Gate:
    """The order in which the creates of one batch are sent."""

    def __init__(
        self, retry: Retry, random: random.Random, most: int, clock: Callable[[], float]
    ) -> None:
        """See the class; `most` are sent at once, and all times are those of `clock`."""
        self._retry = retry
        self._random = random
        self.clock: Callable[[], float] = clock
        #: As many as there are connections: a create that waits for one could not be called back.
        self.places = anyio.Semaphore(most)
        #: True while the last create that ended was accepted.
        self.is_open = False
        #: Why no more creates are sent, and the error that says so.
        self.stopped: str | None = None
        self.error: GrokVideoError | None = None
        #: Held by the one that is sent alone.
        self.alone = anyio.Lock(fast_acquire=True)
        #: The creates that have not begun to send and may be called back.
        self.waiting: set[anyio.CancelScope] = set()
        #: The time before which nothing is sent alone.
        self.not_before = -math.inf
        self._trouble_since: float | None = None
        self._troubles = 0
        self._lost = 0
        self._is_told = False
        #: Creates that have their turn, and since when there is none.
        self._inside = 0
        self._idle_since: float | None = None

    def enter(self) -> None:
        """One more create has its turn, or waits for it."""
        if self._trouble_since is not None and self._idle_since is not None:
            # While nobody wanted a create, nothing was tried, and it is no trouble.
            self._trouble_since += self.clock() - self._idle_since
        self._idle_since = None
        self._inside += 1

    def leave(self) -> None:
        """A create has had its turn, or waits for it no more."""
        self._inside -= 1
        if not self._inside:
            self._idle_since = self.clock()

    def stop(self, reason: str, error: GrokVideoError | None = None) -> None:
        """No more creates are sent; those on their way are let finish. The first reason stays."""
        if self.stopped is None:
            self.stopped, self.error = reason, error
            for scope in list(self.waiting):
                scope.cancel()

    def require_running(self) -> None:
        """Return as long as creates are sent. Raises `Closed` afterwards."""
        if self.stopped is not None:
            raise Closed

    def accepted(self) -> None:
        """A create was accepted: the service works."""
        self.is_open = True
        self.not_before = -math.inf
        self._trouble_since = None
        self._troubles = self._lost = 0
        self._is_told = False

    def failed(self, error: GrokVideoError, now: float, *, alone: bool) -> bool:
        """A create failed: the next one goes alone, after a while, or no more are sent at all.

        Returns whether this has gone on for so long, and nobody was told yet.
        """
        if is_of_the_account(error):
            self.stop(error.message, error)
        if not is_of_the_service(error):
            return False
        self.is_open = False
        if self._trouble_since is None:
            self._trouble_since = now
        self._troubles += alone
        self._lost += alone and not is_passing(error)
        delay = self._retry.poll_delay(error, max(1, self._troubles), self._random)
        self.not_before = max(self.not_before, now + delay)
        wish = error.retry_after if isinstance(error, APIError) else None
        if self._lost >= MOST_LOST or self.not_before - self._trouble_since > PATIENCE:
            asked = f" (the server asks to wait {wish:g} s)" if wish and wish > PATIENCE else ""
            self.stop(f"no create was accepted any more{asked}: {error.message}", error)
        if self._is_told or self.stopped is not None or now - self._trouble_since < WORTH_A_WORD:
            return False
        self._is_told = True
        return True

    def turn(self) -> Turn:
        """Return a turn, to be entered with `async with`."""
        return Turn(self)


class Turn:
    """The time in which one create may be sent; raises `Closed` when there is none left."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        #: True if no other create is sent meanwhile.
        self.alone = False
        self.scope = anyio.CancelScope()

    async def __aenter__(self) -> Self:
        gate = self._gate
        await gate.places.acquire()
        gate.enter()
        try:
            if not gate.is_open:
                await self._wait_for_turn()
            gate.require_running()
        except BaseException:
            self._leave()
            raise
        return self

    async def _wait_for_turn(self) -> None:
        gate = self._gate
        await gate.alone.acquire()
        if gate.is_open or gate.stopped is not None:
            gate.alone.release()
            return
        self.alone = True
        with anyio.CancelScope() as scope:
            gate.waiting.add(scope)
            try:
                # Again, as one that was on its way may have heard meanwhile to wait longer.
                while (left := gate.not_before - gate.clock()) > 0:  # noqa: ASYNC110 - until a time
                    await anyio.sleep(max(left, 1e-3))  # less may be nothing to a clock
            finally:
                gate.waiting.discard(scope)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        if self.alone:
            self.alone = False
            self._gate.alone.release()
        self._gate.leave()
        self._gate.places.release()

    def check(self, *, blocked_until: float = -math.inf) -> None:
        """Return if the create may be sent now. Raises `Closed` or `NotYet`; nothing was sent.

        `blocked_until` is the time before which the server wants no create.
        """
        self._gate.require_running()
        if blocked_until > self._gate.clock() or not (self.alone or self._gate.is_open):
            raise NotYet

    def may_be_called_back(self, *, now: bool) -> None:
        """From now on a stop of the batch ends the wait of this create, or no more."""
        waiting = self._gate.waiting
        (waiting.add if now else waiting.discard)(self.scope)
