"""Whether a client is open, and sleeps that end when it is closed.

Whoever waits for the next poll or for a place in line may sleep for minutes: a client that is
closed meanwhile has to be heard of at once, in whichever event loop of whichever thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grok_video._errors import ConfigurationError
from grok_video._transports._loops import Bell, current_time

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["Lifetime"]


class Lifetime:
    """The time from the making of a client to its closing."""

    __slots__ = ("_watched", "is_over")

    def __init__(self) -> None:
        self.is_over: bool = False
        #: Bells that the end rings, once for each who waits: several may wait for one bell.
        self._watched: dict[object, Bell] = {}

    def require(self) -> None:
        """Raise `ConfigurationError` if the client is closed."""
        if self.is_over:
            message = "this client is closed; make a new one."
            raise ConfigurationError(message)

    def sleep_until(
        self,
        when: float,
        bell: Bell | None = None,
        unless: Callable[[], bool] | None = None,
    ) -> Coroutine[Any, Any, None]:
        """Return at `when` (of `current_time`), when the bell is rung, or when the client ends.

        At once if it has ended, or `unless` returns true.
        """
        needless = self._has_ended
        if unless is not None:
            needless = lambda: self.is_over or unless()  # noqa: E731 - as short as it is said
        return (bell or Bell()).wait_until(when, needless, self._watched)

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds, or when the client ends."""
        await self.sleep_until(current_time() + seconds)

    def watch(self, bell: Bell) -> object:
        """Have the bell rung at the end; what is returned is to be given to `forget`.

        `is_over` has to be asked in the wait, as its `unless`.
        """
        watch = object()
        self._watched[watch] = bell
        return watch

    def forget(self, watch: object) -> None:
        """Ring that bell no more."""
        self._watched.pop(watch, None)

    def _has_ended(self) -> bool:
        return self.is_over

    def end(self) -> None:
        """Close for good, and wake everyone who sleeps."""
        self.is_over = True
        # A copy in one step: other threads go on meanwhile.
        for bell in self._watched.copy().values():
            bell.ring()
