"""Things that live as long as an event loop does.

A client may be made at import time and used across several `asyncio.run` calls, so what belongs to
a loop (sessions, semaphores) must follow the loop's life, not the client's. asyncio and trio both
finish the asynchronous generators that are alive when a run ends, while the loop still works; a
generator that holds the thing is therefore told in time. Nothing here knows what the thing is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from grok_video._transports._loops import finish, running_loop

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

__all__ = ["LoopLocal"]

T = TypeVar("T")


class LoopLocal(Generic[T]):
    """Holds one value for each event loop that asks."""

    def __init__(self, make: Callable[[], T], close: Callable[[T], Awaitable[None]]) -> None:
        self._make = make
        self._close = close
        self._values: dict[Any, T] = {}
        self._keepers: dict[Any, AsyncGenerator[T, None]] = {}

    def held(self, loop: Any = None) -> T | None:  # noqa: ANN401 - as `running_loop` returns it
        """Return the running loop's value if it has one: the quick way of `get`."""
        return self._values.get(loop or running_loop())

    async def get(self) -> T:
        """Return the running loop's value, made now if it has none."""
        loop = running_loop()
        held = self._values.get(loop)
        if held is not None:
            return held
        self._forget_dead_loops()
        self._values[loop] = value = self._make()
        self._keepers[loop] = keeper = self._keep(loop, value)
        await keeper.asend(None)
        return value

    async def aclose(self) -> None:
        """Close the running loop's value, if it has one."""
        loop = running_loop()
        self._values.pop(loop, None)
        keeper = self._keepers.pop(loop, None)
        if keeper is not None:
            await keeper.aclose()

    async def _keep(self, loop: Any, value: T) -> AsyncGenerator[T, None]:  # noqa: ANN401 - a loop
        try:
            yield value
        finally:
            self._values.pop(loop, None)
            self._keepers.pop(loop, None)
            await finish(lambda: self._close(value))

    def _forget_dead_loops(self) -> None:
        # A loop that was closed by hand, without `shutdown_asyncgens`: its sockets cannot be
        # closed in it any more, and the interpreter's own ResourceWarning says so.
        for loop in list(self._values):
            if getattr(loop, "is_closed", bool)():
                self._values.pop(loop, None)  # another thread may have done it
                self._keepers.pop(loop, None)
