"""Requests from wherever they come, a few at a time and never more than are wanted.

Any iterable or asynchronous iterable will do; what is in it is turned into items here, and what
cannot be one becomes an error of its own instead of an end to the rest.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast

import anyio
from attrs import frozen

from grok_video._arguments import refuse
from grok_video._errors import InvalidRequest
from grok_video._fingerprints import fingerprint_of
from grok_video._outcomes import BatchItem
from grok_video._requests import VideoRequest
from grok_video._sources import Aside, End, Nothing, source_of
from grok_video._threads import load

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup

    from grok_video._sources import Source

__all__ = ["BatchSource", "Line", "Manifest", "Unusable"]

T = TypeVar("T")

#: One thing a batch can be given.
BatchInput: TypeAlias = VideoRequest | BatchItem | tuple[str, VideoRequest]
BatchSource: TypeAlias = Iterable[BatchInput] | AsyncIterable[BatchInput]

#: Items taken at once: each look into the ledger serves that many, and the event loop is held for
#: less than a millisecond.
_MOST: Final = 64
#: Seconds of reading after which what was read is started.
_SLICE: Final = 0.001
#: Seconds for the content of a picture that is its item's key: the items after it wait for it, and
#: one on a network may never come. 20 MiB come in a tenth of it from the slowest of disks.
LONGEST_READ: Final = 60.0
#: Seconds in which the next item has to come once nothing more is sent: a manifest that waits for a
#: queue would hold up the end for hours, and what comes is only told as left.
_LAST_WAIT: Final = 1.0


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
        given: Any = requests
        self._aside = isinstance(given, Aside)
        if isinstance(given, Aside):
            given = given.requests
        #: None once the source has them.
        self._requests: BatchSource | None = given
        self._source: Source
        self._failure: Exception | None = None
        self._count = 0
        #: True once the source is not waited for any more.
        self.is_hurried: bool = False
        #: What was received and is to be read first, if anything is: what came before it is not to
        #: wait for that.
        self._kept: list[Any] = []
        #: Around whoever waits for the next item, or for its content.
        self._waiting: anyio.CancelScope | None = None

    def start(self, tasks: TaskGroup) -> None:
        """Begin to read; an asynchronous iterable is read by a task of its own in `tasks`."""
        requests, self._requests = self._requests, None
        assert requests is not None  # noqa: S101 - for the type checker: started once
        self._source = source_of(requests, tasks, aside=self._aside)

    async def take(self, most: int) -> list[Line | Unusable]:
        """Return the next items, at least one and at most so many; none at the end.

        Raises what the iterable itself raised.
        """
        most = min(most, _MOST)
        taken: list[Line | Unusable] = []
        try:
            if self._failure is None:
                one = self._kept.pop() if self._kept else await self._next(most)
                taken.append(await self._line(one))
                del one  # may hold a picture
                # What was read is started before more is read, if that takes its time.
                until = time.perf_counter() + _SLICE
                while len(taken) < most and time.perf_counter() < until:
                    self._kept.append(self._source.receive_nowait())
                    if _has_to_be_read(self._kept[0]):
                        break
                    taken.append(await self._line(self._kept.pop()))
        except (Nothing, End):
            pass
        except Exception as error:  # noqa: BLE001 - raised when its turn comes
            self._failure = error
        if not taken and self._failure is not None:
            raise self._failure
        return taken

    def hurry(self) -> None:
        """From now on it ends where an item would have to be waited for."""
        self.is_hurried = True
        if self._waiting is not None:
            self._waiting.deadline = anyio.current_time() + _LAST_WAIT

    def close(self) -> None:
        """Nothing more is read."""
        if self._requests is None:  # else it was not even begun
            self._source.close()

    async def _next(self, most: int) -> Any:  # noqa: ANN401 - whatever is in a manifest
        return await self._wait_for(partial(self._source.receive, most))

    async def _wait_for(self, come: Callable[[], Awaitable[T]]) -> T:
        """Return what comes. Raises `End` where that takes too long for one who is hurried."""
        with anyio.CancelScope() as self._waiting:
            if self.is_hurried:
                self.hurry()
            return await come()
        raise End

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
            if request is one:
                key = fingerprint = await self._wait_for(partial(_key_of, request))
            else:
                fingerprint = await fingerprint_of(request)
            item = BatchItem(key, request)
        except InvalidRequest as error:
            return Unusable(self._shown(key), error)
        return Line(item, fingerprint)

    def _shown(self, key: object) -> str:
        """Return what the last item is called, whose key may be no text: that, or its place."""
        try:
            return str(key)
        except Exception:  # noqa: BLE001 - a long int, or an object of the caller's own class
            return f"item {self._count}"


def _has_to_be_read(one: object) -> bool:
    """Return whether this is a request without a key whose picture has to be read for one."""
    image = one.image if isinstance(one, VideoRequest) else None
    return image is not None and image.kind in ("file", "pil")


async def _key_of(request: VideoRequest) -> str:
    """Return the hash of a request without a key, the same for no two that ask for another video.

    Open files and Pillow images are read for it.
    """
    if not _has_to_be_read(request):
        return await fingerprint_of(request)
    await load("grok_video._images")
    from grok_video._images import hash_content

    image = request.image
    assert image is not None  # noqa: S101 - for the type checker
    # A Pillow image is here already, and its turn may come late behind those that are encoded.
    with anyio.move_on_after(LONGEST_READ if image.kind == "file" else None):
        return request.fingerprint(await hash_content(image))
    raise refuse(
        "image",
        image,
        f"must be here within {LONGEST_READ:g} s where its content is the item's key, and was not; "
        "give the item a key of its own: (key, request), or BatchItem(key, request)",
    )
