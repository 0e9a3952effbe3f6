"""Where the requests of a batch are read: in the event loop, in a task, or in a thread.

A plain iterable may be bound to the thread that made it, so that an asynchronous client reads it in
the loop, a moment at a time; a blocking client, whose loop is in another thread anyway, has one
thread for it, and there it may wait for a queue as long as it likes. What has come is given at
once, and nothing is read for which nobody asked.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import anyio
from attrs import frozen

from grok_video._arguments import refuse
from grok_video._owntask import protected, unprotected
from grok_video._transports._loops import Bell, caller_of, context_without_loop, running_loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from anyio.abc import TaskGroup
    from anyio.streams.memory import MemoryObjectSendStream

__all__ = ["Aside", "End", "Nothing", "Source", "require_source", "source_of"]

#: Whatever a caller has put into a manifest: `_manifest` tells what it is.
Item: TypeAlias = Any
#: What stands for the end of an asynchronous iterable: no item is it.
_OVER: Final = object()

#: Items of an asynchronous iterable that are read before there is a place for them: each may hold
#: a picture, and one look into the ledger should serve several.
_AHEAD: Final = 8
#: Seconds for one item after which an iterable in the loop is slow: the loop then has the next
#: ones, as many as the item took, so that what was started goes on between slow items.
_SLOW: Final = 0.005
#: The most of them: a loop that was held for a minute needs no minute.
_LONGEST_TURN: Final = 0.1


class Nothing(Exception):
    """No item has come yet."""


class End(Exception):
    """There are no more items."""


@frozen(eq=False)
class Aside:
    """A source that, if it is a plain iterable, is to be read in a thread of its own."""

    requests: Item


def require_source(requests: object) -> None:
    """Raise `InvalidRequest` for what gives no items."""
    given = requests.requests if isinstance(requests, Aside) else requests
    if isinstance(given, str | bytes) or not isinstance(given, Iterable | AsyncIterable):
        raise refuse(
            "requests",
            given,
            "must be an iterable of VideoRequest, BatchItem or (key, VideoRequest)",
        )


class Source(ABC):
    """Items, one at a time."""

    @abstractmethod
    async def receive(self, most: int) -> Item:
        """Return the next item once it has come; from now on so many, it included, are wanted.

        Raises `End`, or what the iterable itself raised.
        """

    @abstractmethod
    def receive_nowait(self) -> Item:
        """Return the next item if it has come. Raises `Nothing`, and what `receive` raises."""

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Nothing more is read."""


def source_of(
    requests: Iterable[Item] | AsyncIterable[Item], tasks: TaskGroup, *, aside: bool
) -> Source:
    """Return what reads the iterable; an asynchronous one is read by a task of its own."""
    if isinstance(requests, AsyncIterable):
        return _InTask(requests, tasks)
    if aside and type(requests) not in (list, tuple):  # they never wait, and a thread would cost
        return _InThread(requests)
    return _InLoop(requests)


class _InLoop(Source):
    """A plain iterable, read in the thread of the event loop."""

    def __init__(self, requests: Iterable[Item]) -> None:
        self._requests = requests
        self._iterator: Iterator[Item] | None = None
        #: It may wait, and hold up everything: a Ctrl-C must end that, wherever it is told then.
        self._next = unprotected(_next)
        #: Seconds that the loop is to have before the next item.
        self._owed = 0.0

    async def receive(self, most: int) -> Item:
        del most
        await anyio.sleep(self._owed)
        self._owed = 0.0
        return self.receive_nowait()

    def receive_nowait(self) -> Item:
        began = time.perf_counter()
        if self._iterator is None:
            self._iterator = iter(self._requests)
        try:
            return self._next(self._iterator)
        except StopIteration:
            raise End from None
        finally:
            took = time.perf_counter() - began
            if took > _SLOW:
                self._owed = min(took, _LONGEST_TURN)


def _next(iterator: Iterator[Item]) -> Item:
    return next(iterator)


async def _next_to_come(iterator: AsyncIterator[Item]) -> Item:
    return await anext(iterator, _OVER)


class _InTask(Source):
    """An asynchronous iterable, read by a task of its own.

    It must not be cancelled in the middle of a step, which is what "take what is there" would come
    to.
    """

    def __init__(self, requests: AsyncIterable[Item], tasks: TaskGroup) -> None:
        send, self._receive = anyio.create_memory_object_stream[Item](_AHEAD)
        self._failure: Exception | None = None
        #: It may compute, and hold up everything, as a plain one may.
        self._next = unprotected(_next_to_come)
        tasks.start_soon(protected(self._pump), requests, send)

    async def receive(self, most: int) -> Item:
        del most
        try:
            return await self._receive.receive()
        except anyio.EndOfStream:
            raise (self._failure or End()) from None

    def receive_nowait(self) -> Item:
        try:
            return self._receive.receive_nowait()
        except anyio.WouldBlock:
            raise Nothing from None
        except anyio.EndOfStream:
            raise (self._failure or End()) from None

    def close(self) -> None:
        self._receive.close()

    async def _pump(
        self, requests: AsyncIterable[Item], send: MemoryObjectSendStream[Item]
    ) -> None:
        with send:
            try:
                iterator = aiter(requests)
                while (one := await self._next(iterator)) is not _OVER:
                    try:
                        await send.send(one)
                    except anyio.BrokenResourceError:
                        return  # nobody takes items any more; the iterable may raise it, too
            except Exception as error:  # noqa: BLE001 - raised again where the items are taken
                self._failure = error


class _InThread(Source):
    """A plain iterable, from its first step to its last in one thread of its own.

    A daemon: a queue may be silent for hours, and neither a cancelled batch nor a process that
    ends waits for it.
    """

    def __init__(self, requests: Iterable[Item]) -> None:
        #: Handed to the thread, which is the last that holds them: it also ends a generator.
        self._requests: list[Iterable[Item]] = [requests]
        self._items: deque[Item] = deque()
        self._bell = Bell()
        #: How many items were read, were given, and may be read.
        self._read = self._given = self._wanted = 0
        self._more_wanted = threading.Event()
        self._failure: BaseException | None = None
        self._is_over = False
        self._is_closed = False

    async def receive(self, most: int) -> Item:
        self._wanted = self._given + most
        self._more_wanted.set()
        if self._requests:
            self._start()
        while not (self._items or self._is_over):
            await self._bell.wait_until(math.inf)
        return self.receive_nowait()

    def receive_nowait(self) -> Item:
        is_over = self._is_over  # asked first: the last item comes before it
        if self._items:
            self._given += 1
            return self._items.popleft()
        if not is_over:
            raise Nothing
        failure, self._failure = self._failure, None
        raise failure or End()

    def close(self) -> None:
        self._requests.clear()
        self._is_closed = True
        self._more_wanted.set()

    def _start(self) -> None:
        self._call_soon = caller_of(running_loop())
        # A generator sees the caller's context, as it would in the loop, but no loop.
        context = context_without_loop()
        threading.Thread(
            target=context.run,
            args=(self._run, self._requests.pop()),
            name="grok-video-manifest",
            daemon=True,
        ).start()

    # --- in the thread ---------------------------------------------------------------------------

    def _run(self, requests: Iterable[Item]) -> None:
        try:
            iterator = iter(requests)
            while self._may_read():
                try:
                    one = next(iterator)
                except StopIteration:
                    break
                self._read += 1
                self._items.append(one)
                del one  # may hold a picture
                if len(self._items) == 1:  # otherwise the loop was told and has not come yet
                    self._tell()
        except BaseException as error:  # noqa: BLE001 - raised again where the items are taken
            self._failure = error
        self._is_over = True
        self._tell()

    def _may_read(self) -> bool:
        """Return True once another item is wanted, False when none will be."""
        while self._read >= self._wanted and not self._is_closed:
            self._more_wanted.wait()
            self._more_wanted.clear()
        return not self._is_closed

    def _tell(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may be gone
            self._call_soon(self._bell.ring)
