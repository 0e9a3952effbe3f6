"""Whether a client is open, and sleeps that end when it is closed.

Whoever waits for the next poll or for a place in line may sleep for minutes: a client that is
closed meanwhile has to be heard of at once, in whichever event loop of whichever thread.
"""

from __future__ import annotations

import contextlib
from typing import Any

from grok_video._errors import ConfigurationError
from grok_video._transports._loops import Bell, caller_of, running_loop

__all__ = ["Lifetime"]


class Lifetime:
    """The time from the making of a client to its closing."""

    __slots__ = ("_sleeping", "is_over")

    def __init__(self, *, is_over: bool = False) -> None:
        self.is_over = is_over
        #: Bells that the end rings, each with the event loop in which it is waited for.
        self._sleeping: dict[Bell, Any] = {}

    def require(self) -> None:
        """Raise `ConfigurationError` if the client is closed."""
        if self.is_over:
            message = "this client is closed; make a new one."
            raise ConfigurationError(message)

    async def sleep_until(self, when: float, bell: Bell | None = None) -> None:
        """Return at `when` on the loop's clock, when the bell is rung, or when the client ends.

        At once if it has ended.
        """
        bell = bell or Bell()
        self.watch(bell)
        try:
            if not self.is_over:  # asked after the bell was handed in: neither can miss the other
                await bell.wait_until(when)
        finally:
            self.forget(bell)

    def watch(self, bell: Bell) -> None:
        """Have the bell rung at the end; it is waited for in the running event loop."""
        self._sleeping[bell] = running_loop()

    def forget(self, bell: Bell) -> None:
        """Ring it no more, unless another one still waits for it."""
        if not bell.is_awaited:
            self._sleeping.pop(bell, None)

    def end(self) -> None:
        """Close for good, and wake everyone who sleeps."""
        self.is_over = True
        here = running_loop()
        for bell, loop in list(self._sleeping.items()):
            if loop is here:
                bell.ring()
            else:
                with contextlib.suppress(RuntimeError):  # that loop is gone, and who slept in it
                    caller_of(loop)(bell.ring)
