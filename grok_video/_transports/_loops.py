"""One thing for each event loop: made at first use inside it, closed inside it before it ends.

A client may be made at import time and used across several `asyncio.run` calls, so what belongs to
a loop (sessions, semaphores) must follow the loop's life, not the client's. asyncio and trio both
finish the asynchronous generators that are alive when a run ends, while the loop still works; a
generator that holds the thing is therefore told in time. Nothing here knows what the thing is.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

T = TypeVar("T")


def running_library() -> str:
    """Return "asyncio" or "trio": what runs the current coroutine."""
    trio = sys.modules.get("trio")
    return "trio" if trio is not None and trio.lowlevel.in_trio_task() else "asyncio"


def running_loop() -> Any:  # noqa: ANN401 - an asyncio loop or a trio token
    """Return what identifies the running event loop. Raises `RuntimeError` outside one."""
    if running_library() == "trio":
        return sys.modules["trio"].lowlevel.current_trio_token()
    return asyncio.get_running_loop()


class LoopLocal(Generic[T]):
    """Holds one value for each event loop that asks."""

    def __init__(self, make: Callable[[], T], close: Callable[[T], Awaitable[None]]) -> None:
        self._make = make
        self._close = close
        self._values: dict[Any, tuple[T, AsyncGenerator[T, None]]] = {}

    async def get(self) -> T:
        """Return the running loop's value, made now if it has none."""
        loop = running_loop()
        held = self._values.get(loop)
        if held is not None:
            return held[0]
        self._forget_dead_loops()
        value = self._make()
        keeper = self._keep(loop, value)
        self._values[loop] = (value, keeper)
        await keeper.asend(None)
        return value

    async def aclose(self) -> None:
        """Close the running loop's value, if it has one."""
        held = self._values.pop(running_loop(), None)
        if held is not None:
            await held[1].aclose()

    async def _keep(self, loop: Any, value: T) -> AsyncGenerator[T, None]:  # noqa: ANN401
        try:
            yield value
        finally:
            self._values.pop(loop, None)
            with anyio.CancelScope(shield=True):
                await self._close(value)

    def _forget_dead_loops(self) -> None:
        # A loop that was closed by hand, without `shutdown_asyncgens`: its sockets cannot be
        # closed in it any more, and the interpreter's own ResourceWarning says so.
        for loop in list(self._values):
            if getattr(loop, "is_closed", bool)():
                del self._values[loop]
