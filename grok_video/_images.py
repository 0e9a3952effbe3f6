"""Pictures to a request body that streams: in pieces, encoded by threads while they are sent.

Here live the one body that carries any picture, and what all uploads of an event loop share: worker
threads and turns at large pieces. What must never happen here: an event loop that waits for a disk
or an encoder, and a body that is shorter or longer than the Content-Length it announced. What a
picture is made of is `_pictures`.
"""

from __future__ import annotations

import io
from functools import cache, partial
from typing import TYPE_CHECKING, Final

import anyio

from grok_video._base64 import codec_is_known, codec_is_quick, encoded_size
from grok_video._errors import APITimeoutError, InvalidRequest
from grok_video._log import logger
from grok_video._openfiles import FilePicture, StreamPicture, hash_file, open_file
from grok_video._pictures import (
    SMALL,
    DataPicture,
    MemoryPicture,
    PathPicture,
    encode_pil,
    hash_pil,
    open_memory,
)
from grok_video._threads import Threads
from grok_video._transports._loops import current_time, ends_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import TypeAlias

    from anyio.lowlevel import RunVar

    from grok_video._pictures import Picture
    from grok_video._policies import Deadline
    from grok_video._requests import Image

    Measured: TypeAlias = Picture | FilePicture

__all__ = ["PictureBody", "hash_content", "open_body"]

# Logging, not `warnings`: nothing is wrong with the calling code, a batch would show it only once,
# and a program run with -W error must not lose a job to an opinion about size.

#: Bytes of picture from which a create is logged as large: the provider's gRPC client stops at
#: 20 MiB a message, and no page states a limit for this route (contract.md, section 5).
LARGE_PICTURE: Final = 20 * 2**20
#: Bytes of picture that are read and encoded in one visit to a worker thread; a multiple of 3. The
#: fewer visits, the less CPU: fifty pictures of 10 MiB at once took 9.3 ms each in pieces of 1536
#: KiB, 8.5 in these and 8.0 in pieces of 3072; the longest stall of the loop was 2.8, 4.2 and 5.2
#: ms, and what they held together 10, 12 and 15 MiB (`benchmarks/upload.py`).
LARGE_PIECE: Final = 2304 * 2**10
#: The same for the standard library's encoder, which holds the GIL all the while: two threads in
#: turn made the loop wait 10 ms with the larger pieces.
SLOW_PIECE: Final = 384 * 2**10
#: Pieces of that size that all uploads of an event loop hold together: a server that stops reading
#: leaves them there, without TLS twice (the second time in the buffer of the socket): fifty uploads
#: that it stalls hold 18 MiB in all, over TLS 20. The standard library's are a sixth as large; with
#: two of them the encoder would wait for its turn.
LARGE_PIECES: Final = 2
SLOW_PIECES: Final = 4
#: Seconds to wait for one of them before going on with a small piece: some visits to a thread.
PATIENCE: Final = 0.02
#: Bytes of a piece that needs no turn: over aiohttp's 64 KiB when encoded, so that it waits for
#: the socket after each.
SMALL_PIECE: Final = 60 * 2**10
#: Worker threads that read and encode pieces, in each event loop: two, so that one reads while the
#: other encodes. With 8 the longest stall of the loop was 10 to 15 ms, with 2 it is 2 to 5 (the
#: standard library's encoder holds the GIL).
_THREADS: Final = Threads(2, "pictures")
#: Apart from them: a large PNG takes seconds, and uploads must not wait for it.
_ENCODERS: Final = Threads(2, "encoders")


async def open_body(before: bytes, image: Image, after: bytes, until: Deadline) -> PictureBody:
    """Return the body that has the picture between two texts; raises as `create_body` says."""
    picture = await _open_in_time(image, until)
    _warn_if_large(picture)
    prefix = f"data:{picture.mime};base64,".encode()
    return PictureBody(before + prefix, picture, after)


class PictureBody:
    """A `Body` whose picture is encoded while it is sent.

    `failure` is why the last round of `chunks()` broke off on this side, or None. A transport sees
    such a break as a broken connection; where this is set, the server has not had a whole request.
    """

    __slots__ = ("_after", "_before", "_held", "_picture", "failure", "length")

    def __init__(self, before: bytes, picture: Measured, after: bytes) -> None:
        self._before = before
        self._picture = picture
        self._after = after
        self._held: anyio.Semaphore | None = None
        self.failure: InvalidRequest | None = None
        self.length = len(before) + encoded_size(picture.size) + len(after)

    def chunks(self) -> AsyncIterator[bytes]:
        """Return an iterator over the body from its beginning; each call starts over."""
        self.failure = None
        self.sent()
        return _Chunks(self, self._before, self._picture, self._after)

    async def piece(self, picture: Measured, offset: int) -> tuple[bytes, bytes, int]:
        """Return the next encoded piece in two parts, and where the piece after it begins."""
        left = picture.size - offset
        size = min(left, SMALL_PIECE)
        if size < left:
            is_quick = codec_is_quick()
            self._held = await Uploads.of_this_loop().turn(is_quick=is_quick)
            if self._held is not None:
                size = min(left, LARGE_PIECE if is_quick else SLOW_PIECE)
        try:
            if isinstance(picture, FilePicture):
                # Not in these threads: it may wait for ever.
                parts = await picture.run(partial(_two_parts, picture, offset, size))
            elif picture.needs_thread or not codec_is_known():
                parts = await _THREADS.run(_two_parts, picture, offset, size)
            else:
                parts = _two_parts(picture, offset, size)
        except InvalidRequest as error:
            self.failure = error
            raise
        return *parts, offset + size

    def sent(self) -> None:
        """Give up what the last piece held: the transport has taken it, or never will."""
        if self._held is not None:
            self._held.release()
            self._held = None

    def accepted(self) -> None:
        """A create of it was accepted: it is not sent once more."""
        if isinstance(self._picture, StreamPicture):
            self._picture.spend()

    def __repr__(self) -> str:
        return f"<body of {self.length} bytes>"


class _Chunks:
    """One pass over a body.

    An object, not an async generator: a transport that drops it half-way (an early answer) leaves
    nothing that an event loop would have to finalize.
    """

    __slots__ = ("_after", "_body", "_next", "_offset", "_picture")

    def __init__(self, body: PictureBody, before: bytes, picture: Measured, after: bytes) -> None:
        self._body = body
        # By itself, before the first visit to a thread: transports send it with the headers.
        self._next = before
        self._picture = picture
        self._after = after
        self._offset = 0

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        self._body.sent()
        part, self._next = self._next, b""
        picture = self._picture
        if not part and self._offset < picture.size:
            part, self._next, self._offset = await self._body.piece(picture, self._offset)
        elif not part:
            part, self._after = self._after, b""
        if not part:
            raise StopAsyncIteration
        return part


class Uploads:
    """What all uploads of one event loop share: the memory for large pieces."""

    __slots__ = ("_large", "_slow")

    def __init__(self) -> None:
        self._large = anyio.Semaphore(LARGE_PIECES)
        self._slow = anyio.Semaphore(SLOW_PIECES)

    @classmethod
    def of_this_loop(cls) -> Uploads:
        """Return those of the running event loop."""
        found = _uploads().get(None)
        if found is None:
            found = cls()
            _uploads().set(found)
        return found

    async def turn(self, *, is_quick: bool) -> anyio.Semaphore | None:
        """Return what is to be released when a large piece is sent, or None: no such piece now.

        The wait is short and ends with None, so that uploads that stall cannot hold up the others:
        those go on in small pieces, which cost more and hold little.
        """
        turns = self._large if is_quick else self._slow
        try:
            turns.acquire_nowait()
        except anyio.WouldBlock:
            with anyio.move_on_after(PATIENCE):
                await turns.acquire()
                return turns
            return None
        return turns


@cache
def _uploads() -> RunVar[Uploads | None]:
    # Parts of anyio are imported with the first picture: `import anyio` itself loads none of them.
    from anyio.lowlevel import RunVar

    return RunVar("grok_video_uploads", None)


async def hash_content(image: Image) -> str:
    """Return the hash of what an open file or a Pillow image holds.

    Raises `InvalidRequest` if it cannot be read, or only once.
    """
    if image.kind == "pil":
        return await _ENCODERS.run(hash_pil, image, abandon=True)
    return await hash_file(image)


async def _open_in_time(image: Image, until: Deadline) -> Measured:
    with ends_at(until.at):
        picture = await _open(image)
        # A thread that looks through a data URI is waited for, however long it takes.
        if current_time() < until.at:
            return picture
    raise APITimeoutError(
        f"the picture could not be read within the {until.timeout:g} s of this call; nothing was "
        "sent",
        may_have_been_sent=False,
    )


async def _open(image: Image) -> Measured:
    if image.kind == "bytes":
        return MemoryPicture(image.source, image)
    if image.kind == "data":
        if len(image.source) <= SMALL and codec_is_known():
            return DataPicture(image)
        return await _THREADS.run(DataPicture, image)
    if image.kind == "path":
        # A disk may hang; what was opened there is closed once it answers.
        return await _THREADS.run(PathPicture, image, abandon=True)
    if image.kind == "pil":
        return await _ENCODERS.run(encode_pil, image, abandon=True)
    if type(image.source) is io.BytesIO:
        picture = await _THREADS.run(open_memory, image)
        if picture is not None:
            return picture
    return await open_file(image, LARGE_PIECE)


def _two_parts(picture: Measured, offset: int, size: int) -> tuple[bytes, bytes]:
    """Return an encoded piece and, apart from it, its last few characters.

    aiohttp and httpx keep what they were last given while they wait for what comes next: fifty
    uploads that wait for their turn would hold fifty large pieces. What they keep is these few.
    """
    rest = size % 3 or 3
    if size <= SMALL_PIECE:
        return picture.encoded(offset, size)[0], b""
    large, last = picture.encoded(offset, size - rest, rest)
    return large, last


def _warn_if_large(picture: Measured) -> None:
    if picture.size > LARGE_PICTURE:
        logger.warning(
            "the picture has %.1f MiB; over %d MiB the provider may refuse it",
            picture.size / 2**20,
            LARGE_PICTURE // 2**20,
        )
