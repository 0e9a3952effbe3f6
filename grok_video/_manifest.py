"""Requests from wherever they come, a few at a time and never more than are wanted.

Any iterable or asynchronous iterable will do; what is in it is turned into items here, and what
cannot be one becomes an error of its own instead of an end to the rest.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
from attrs import frozen

from grok_video._errors import InvalidRequest
from grok_video._outcomes import BatchItem
from grok_video._requests import VideoRequest, refuse

if TYPE_CHECKING:
    from typing import TypeAlias

    from anyio.abc import TaskGroup

__all__ = ["BatchSource", "Manifest", "Unusable"]

if TYPE_CHECKING:
    #: One thing a batch can be given.
    BatchInput: TypeAlias = VideoRequest | BatchItem | tuple[str, VideoRequest]
    BatchSource: TypeAlias = Iterable[BatchInput] | AsyncIterable[BatchInput]

#: Items taken at once: each look into the ledger serves that many, and the event loop is held for
#: less than a millisecond.
_MOST: Final = 64


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
            send, self._pumped = anyio.create_memory_object_stream[Any](_MOST)
            tasks.start_soon(self._pump, self._requests, send)
        else:
            self._plain = iter(self._requests)

    async def take(self, most: int) -> list[BatchItem | Unusable]:
        """Return the next items, at least one and at most so many; none at the end.

        Raises what the iterable itself raised.
        """
        most = min(most, _MOST)
        taken: list[BatchItem | Unusable] = []
        if self._pumped is None:
            if self._failure is None:
                try:
                    for one in islice(self._plain, most):
                        taken.append(self._item(one))  # noqa: PERF401 - what came before is kept
                except Exception as error:  # noqa: BLE001 - raised when its turn comes
                    self._failure = error
            if not taken and self._failure is not None:
                raise self._failure
            return taken
        try:
            taken.append(self._item(await self._pumped.receive()))
            while len(taken) < most:
                taken.append(self._item(self._pumped.receive_nowait()))
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

    def _item(self, one: Any) -> BatchItem | Unusable:  # noqa: ANN401 - whatever is in a manifest
        self._count += 1
        key = f"item {self._count}"
        try:
            if isinstance(one, BatchItem):
                return one
            if isinstance(one, VideoRequest):
                return BatchItem(one.fingerprint(), one)
            if isinstance(one, tuple | list) and len(pair := cast("list[Any]", one)) == 2:
                key = str(pair[0])
                return BatchItem(pair[0], pair[1])
            raise refuse(
                key,
                cast("object", one),
                "must be a VideoRequest, a BatchItem or (key, VideoRequest)",
            )
        except InvalidRequest as error:
            return Unusable(key, error)
