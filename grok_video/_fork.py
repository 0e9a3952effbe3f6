"""An event loop that neither a fork nor the end of the interpreter can trip over.

In a forked child the parent's loop is a trap: its descriptors are shared, so that closing a socket
there takes it out of the parent's epoll, and freeing a suspended coroutine runs its `finally`.
Nothing of it is therefore run, closed or freed in the child. No client and no call is known here.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple, Unpack

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

if sys.platform == "win32":
    _PlatformLoop = asyncio.ProactorEventLoop
else:
    _PlatformLoop = asyncio.SelectorEventLoop


class _DaemonThreads(Executor):
    """Runs each function (asyncio's name look-ups) in a daemon thread of its own.

    The threads of asyncio's own executor are waited for when the interpreter ends: a look-up that
    hangs would hold up a process that has nothing else to do.
    """

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:  # noqa: ANN401
        future: Future[T] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as error:  # noqa: BLE001 - the future's to raise
                    future.set_exception(error)

        threading.Thread(target=run, name="grok-video-lookup", daemon=True).start()
        return future


_threads: Final = _DaemonThreads()


class _Loop(_PlatformLoop):
    """The platform's loop, without an executor of its own: ending it starts no thread.

    Python 3.12 can start none any more when the interpreter ends.
    """

    def run_in_executor(
        self,
        executor: Executor | None,
        func: Callable[[Unpack[Ts]], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        return super().run_in_executor(executor or _threads, func, *args)


def make_loop() -> asyncio.AbstractEventLoop:
    """Return a new loop of the platform's kind, whatever policy the program has set."""
    return _Loop()


def mute(loop: asyncio.AbstractEventLoop) -> None:
    """The loop tells nobody any more what was left open in it."""
    loop.set_exception_handler(lambda _loop, _context: None)


def disown(loop: asyncio.AbstractEventLoop) -> None:
    """Let go of the descriptors that a forked child shares with its parent's loop.

    The numbers stay taken, by /dev/null: whatever object closes its descriptor later, or takes it
    out of an epoll, does so without effect on the parent or on a descriptor that came after.
    """
    mute(loop)
    shared: set[int] = set()
    transports: dict[int, asyncio.BaseTransport] = dict(getattr(loop, "_transports", ()))
    for number, transport in transports.items():
        sock = transport.get_extra_info("socket")
        # Some may be closed: their numbers may be those of the program's own files by now.
        if sock is not None and sock.fileno() == number:
            shared.add(number)
    pipe = getattr(loop, "_csock", None)
    if pipe is not None:
        shared.add(pipe.fileno())
    selector: Any = getattr(loop, "_selector", None)
    if selector is not None:
        shared.update(selector.get_map() or ())
        if hasattr(selector, "fileno"):
            shared.add(selector.fileno())
    null = os.open(os.devnull, os.O_RDWR)
    for number in shared:
        if number >= 0:
            os.dup2(null, number, inheritable=False)
    os.close(null)
