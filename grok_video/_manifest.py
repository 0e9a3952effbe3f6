"""Requests from wherever they come, a few at a time and never more than are wanted.

Any iterable or asynchronous iterable will do; what is in it is turned into items here, and what
cannot be one becomes an error of its own instead of an end to the rest.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import anyio.to_thread
from attrs import frozen

from grok_video._errors import InvalidRequest
from grok_video._outcomes import BatchItem
from grok_video._requests import VideoRequest, refuse

if TYPE_CHECKING:
    from typing import TypeAlias

    from anyio.abc import TaskGroup

__all__ = ["BatchSource", "Line", "Manifest", "Unusable"]

if TYPE_CHECKING:
    #: One thing a batch can be given.
    BatchInput: TypeAlias = VideoRequest | BatchItem | tuple[str, VideoRequest]
    BatchSource: TypeAlias = Iterable[BatchInput] | AsyncIterable[BatchInput]

#: Length of a picture in memory from which it is hashed in a worker thread: 64 KiB take 0.05 ms.
_LARGE: Final = 2**16
#: Items taken at once: each look into the ledger serves that many, and the event loop is held for
#: less than a millisecond.
_MOST: Final = 64
#: Items of an asynchronous iterable that are read before there is a place for them: each may hold
#: a picture, and one look into the ledger should serve several.
_AHEAD: Final = 8


@frozen
class Line:
    """An item, and the hash of what it asks for."""

    item: BatchItem
    fingerprint: str


@frozen
class Unusable:
    """Something in the manifest that is no item."""

    key: str
    error: InvalidRequest


class Manifest:
    """What is left to do, taken in small steps."""

    def __init__(self, requests: BatchSource) -> None:
        if isinstance(requests, str | bytes) or not isinstance(requests, Iterable | AsyncIterable):
            raise refuse(
                "requests",
                requests,
                "must be an iterable of VideoRequest, BatchItem or (key, VideoRequest)",
            )
        self._requests = requests
        self._plain: Any = None
        self._pumped: Any = None
        self._failure: Exception | None = None
        self._count = 0

    def start(self, tasks: TaskGroup) -> None:
        """Begin to read; an asynchronous iterable is read by a task of its own in `tasks`."""
        if isinstance(self._requests, AsyncIterable):
            send, self._pumped = anyio.create_memory_object_stream[Any](_AHEAD)
            tasks.start_soon(self._pump, self._requests, send)
        else:
            self._plain = iter(self._requests)

    async def take(self, most: int) -> list[Line | Unusable]:
        """Return the next items, at least one and at most so many; none at the end.

        Raises what the iterable itself raised.
        """
        most = min(most, _MOST)
        taken: list[Line | Unusable] = []
        if self._pumped is None:
            if self._failure is None:
                try:
                    for one in islice(self._plain, most):
                        taken.append(await self._line(one))  # noqa: PERF401 - kept if it breaks
                except Exception as error:  # noqa: BLE001 - raised when its turn comes
                    self._failure = error
            if not taken and self._failure is not None:
                raise self._failure
            return taken
        try:
            taken.append(await self._line(await self._pumped.receive()))
            while len(taken) < most:
                taken.append(await self._line(self._pumped.receive_nowait()))
        except anyio.WouldBlock:
            pass
        except anyio.EndOfStream:
            if not taken and self._failure is not None:
                raise self._failure from None
        return taken

    def close(self) -> None:
        """Nothing more is read."""
        if self._pumped is not None:
            self._pumped.close()

    async def _pump(self, requests: AsyncIterable[Any], send: Any) -> None:  # noqa: ANN401
        # A task of its own: an asynchronous iterable must not be cancelled in the middle of a
        # step, which is what "take what is there" would come to.
        with send:
            try:
                async for one in requests:
                    await send.send(one)
            except anyio.BrokenResourceError:
                return
            except Exception as error:  # noqa: BLE001 - raised again where the items are taken
                self._failure = error

    async def _line(self, one: Any) -> Line | Unusable:  # noqa: ANN401 - whatever is in a manifest
        self._count += 1
        key: Any = f"item {self._count}"
        request: Any = one
        try:
            if isinstance(one, BatchItem):
                key, request = one.key, one.request
            elif isinstance(one, tuple | list) and len(pair := cast("list[Any]", one)) == 2:
                key, request = pair
            if not isinstance(request, VideoRequest):
                limit = "must be a VideoRequest, a BatchItem or (key, VideoRequest)"
                raise refuse(f"item {self._count}", request, limit)
            fingerprint = await _fingerprint(request)
            item = BatchItem(fingerprint if request is one else key, request)
        except InvalidRequest as error:
            return Unusable(str(key), error)
        return Line(item, fingerprint)


async def _fingerprint(request: VideoRequest) -> str:
    image = request.image
    if image is not None and image.kind in ("bytes", "data") and len(image.source) > _LARGE:
        # A picture of 20 MiB takes 15 ms: not in the event loop.
        return await anyio.to_thread.run_sync(request.fingerprint)
    return request.fingerprint()
