"""Ctrl-C, SIGTERM, a terminal that closes: the first lets a create be answered, the second leaves.

A cancelled create waits for its answer, bounded, because its id may already be paid for; whoever
does not want to wait presses again. Either way the last words name the job.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, TypeVar

import anyio

from grok_video._cli import SIGNALS
from grok_video._cli._endings import Interrupted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from types import FrameType

    from grok_video._cli._endings import Errand

T = TypeVar("T")


def run(errand: Errand, work: Callable[[], Awaitable[T]]) -> T:
    """Return what the coroutine function returns. Raises `Interrupted` if a signal ended it."""
    with errand.console.notes():
        return anyio.run(_guarded, errand, work)


async def _guarded(errand: Errand, work: Callable[[], Awaitable[T]]) -> T:
    received: list[int] = []
    loop = asyncio.get_running_loop()
    with anyio.CancelScope() as scope, _handlers(loop, errand, scope, received):
        return await work()
    raise Interrupted(received[0])


@contextlib.contextmanager
def _handlers(
    loop: asyncio.AbstractEventLoop, errand: Errand, scope: anyio.CancelScope, received: list[int]
) -> Generator[None]:
    def cancel() -> None:
        scope.cancel()
        if errand.creating:
            errand.console.status(
                "interrupted; waiting for the answer of the create (5 s at most), so that its id "
                "is not lost. Once more leaves at once."
            )

    def note(number: int, _frame: FrameType | None) -> None:
        if received:
            error = Interrupted(number)
            facts = errand.facts(error)
            try:
                errand.console.error_at_once(facts)
            except OSError:
                errand.leave_behind(facts)
            # Not sys.exit: that would wait for threads and for the event loop's own farewell.
            os._exit(error.exit_code)
        received.append(number)
        loop.call_soon_threadsafe(cancel)

    if threading.current_thread() is not threading.main_thread():
        yield  # signals arrive in the main thread only, and whoever owns it handles them
        return
    # A shell starts its background jobs with Ctrl-C ignored, as it is meant for somebody else, and
    # `nohup` its command with the end of the terminal ignored.
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in heard}
    try:
        with _woken_by_signals(loop):
            yield
    finally:
        # Once interrupted, it stays so to the end of the process (or of `main`): the handlers of
        # before would let the next one leave without last words and with an exit code of their own.
        if not received:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _woken_by_signals(loop: asyncio.AbstractEventLoop) -> Generator[None]:
    """Let each signal end the wait of the loop, so that its handler runs now.

    Without, one that comes between the last look at signals and the system call that waits would
    be heard only when something else happens: a minute later, at the end of a silent create.
    """
    if sys.platform == "win32":  # that loop sees to it by itself
        yield
        return
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        loop.add_reader(ours, ours.recv, 4096)
        before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            loop.remove_reader(ours)
            signal.set_wakeup_fd(-1)
            with contextlib.suppress(OSError, ValueError):  # closed since by whoever had set it
                signal.set_wakeup_fd(before)
