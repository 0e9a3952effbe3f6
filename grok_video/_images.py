"""Pictures to a request body that streams: opened, sniffed and measured first, then sent in pieces.

Here live the six sources of a picture and the one body that carries any of them. What must never
happen here: an event loop that waits for a disk or an encoder, a picture that is held a second
time, a file that stays open between two pieces (ten thousand waiting creates would need as many
descriptors), and a body that is shorter or longer than the Content-Length it announced.
"""

from __future__ import annotations

import binascii
import contextlib
import functools
import inspect
import io
import json
import logging
import os
import stat
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, TypeVarTuple, Unpack
from urllib.parse import unquote_to_bytes

import anyio
import anyio.lowlevel
import anyio.to_thread

from grok_video._errors import APIConnectionError, CreateOutcomeUnknown, InvalidRequest
from grok_video._requests import SNIFF_LENGTH, refuse, require_picture
from grok_video._wire import write_create

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from grok_video._requests import Image, VideoRequest

__all__ = ["create_body"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Logging, not `warnings`: nothing is wrong with the calling code, a batch would show it only once,
# and a program run with -W error must not lose a job to an opinion about size.
_log = logging.getLogger("grok_video")

#: Bytes of picture from which a create is logged as large: the provider's gRPC client stops at
#: 20 MiB a message, and no page states a limit for this route (contract.md, section 5).
LARGE_PICTURE: Final = 20 * 2**20
#: Bytes of picture that are read and encoded in one visit to a worker thread, at most.
LARGEST_PIECE: Final = 768 * 2**10
#: The same, at least.
SMALLEST_PIECE: Final = 48 * 2**10
#: Bytes of encoded pieces that all uploads of an event loop hold together.
PIECES_MEMORY: Final = 8 * 2**20
#: Bytes that are handled without a worker thread: 64 KiB take the slower encoder 0.2 ms.
SMALL: Final = 64 * 2**10
#: Worker threads for pictures, in each event loop.
THREADS: Final = 4
#: Bytes of a file that cannot seek, which has to be held in memory to be measured.
LARGEST_UNSEEKABLE: Final = 128 * 2**20


@contextlib.asynccontextmanager
async def create_body(request: VideoRequest) -> AsyncGenerator[CreateBody, None]:
    """Open, sniff and measure the picture of a request; what comes out can be sent, repeatedly.

    Raises `InvalidRequest` on entering if the picture is missing, empty, unreadable or no JPEG,
    PNG or WebP: nothing was sent then. A picture that changes while it is sent raises the same
    error out of `chunks()`, and out of this context in place of the transport's complaint about
    the body that ended early: its last byte was never sent, so that no server can have accepted
    it. Nothing stays open afterwards.
    """
    before, after = write_create(request)
    image = request.image
    if image is None:
        body = CreateBody(before)
    elif image.kind == "url":
        body = CreateBody(before + _json_text(image) + after)
    else:
        picture = await _open(image)
        _warn_if_large(picture)
        prefix = f"data:{picture.mime};base64,".encode()
        body = CreateBody(before + prefix, picture, after)
    try:
        yield body
    except (APIConnectionError, CreateOutcomeUnknown):
        if body.failure is not None:
            raise body.failure from None
        raise
    finally:
        body.close()


class CreateBody:
    """The body of one create: a `Body` whose picture is encoded while it is sent.

    `failure` is why the last round of `chunks()` broke off on this side, or None. A transport sees
    such a break as a broken connection; where this is set, the server has not had a whole request.
    """

    __slots__ = ("_after", "_before", "_picture", "_uploads", "failure", "length")

    def __init__(self, before: bytes, picture: Picture | None = None, after: bytes = b"") -> None:
        self._before = before
        self._picture = picture
        self._after = after if picture is not None else b""
        self._uploads: Uploads | None = None
        self.failure: InvalidRequest | None = None
        encoded = 0 if picture is None else encoded_size(picture.size)
        self.length = len(before) + encoded + len(self._after)

    def chunks(self) -> AsyncIterator[bytes]:
        """Return an iterator over the body from its beginning; each call starts over."""
        self.failure = None
        return _Chunks(self, self._before, self._picture, self._after)

    def start(self) -> Uploads:
        """Count this body among those being sent, once, and return what they share."""
        if self._uploads is None:
            self._uploads = Uploads.of_this_loop()
            self._uploads.active += 1
        return self._uploads

    def close(self) -> None:
        """Stop counting this body among those being sent; it can be sent again."""
        if self._uploads is not None:
            self._uploads.active -= 1
            self._uploads = None

    def __repr__(self) -> str:
        return f"<body of {self.length} bytes>"


class _Chunks:
    """One pass over a body.

    An object, not an async generator: a transport that drops it half-way (an early answer) leaves
    nothing that an event loop would have to finalize.
    """

    __slots__ = ("_after", "_before", "_body", "_offset", "_picture")

    def __init__(
        self, body: CreateBody, before: bytes, picture: Picture | None, after: bytes
    ) -> None:
        self._body = body
        self._before = before
        self._picture = picture
        self._after = after
        self._offset = 0

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        if self._before:
            # By itself, before the first visit to a thread: transports send it with the headers.
            before, self._before = self._before, b""
            return before
        picture = self._picture
        if picture is not None and self._offset < picture.size:
            uploads = self._body.start()
            offset = self._offset
            size = min(uploads.piece_size(), picture.size - offset)
            self._offset += size
            try:
                if not picture.needs_thread:
                    return picture.encoded(offset, size)
                return await uploads.in_thread(picture.encoded, offset, size)
            except InvalidRequest as error:
                self._body.failure = error
                raise
        self._body.close()
        if self._after:
            after, self._after = self._after, b""
            return after
        raise StopAsyncIteration


class Uploads:
    """What all uploads of one event loop share: the worker threads and the memory for pieces."""

    __slots__ = ("_limiter", "active")

    def __init__(self) -> None:
        # Not anyio's default limiter: its 40 threads are the application's, and a piece waiting
        # for a thread costs nothing while 40 threads fighting for the GIL would stall the loop.
        self._limiter = anyio.CapacityLimiter(THREADS)
        self.active = 0

    @classmethod
    def of_this_loop(cls) -> Uploads:
        """Return those of the running event loop."""
        found = _uploads.get(None)
        if found is None:
            found = cls()
            _uploads.set(found)
        return found

    def piece_size(self) -> int:
        """Return the bytes of picture for the next piece: a multiple of 3, fewer under load."""
        share = PIECES_MEMORY // max(1, self.active) // 4 * 3
        return min(LARGEST_PIECE, max(SMALLEST_PIECE, share))

    async def in_thread(self, function: Callable[[Unpack[Ts]], T], *args: Unpack[Ts]) -> T:
        """Return what the function returns, called in one of the worker threads."""
        # Not abandoned when cancelled: a thread that goes on would hold a file open.
        return await anyio.to_thread.run_sync(function, *args, limiter=self._limiter)


_uploads: anyio.lowlevel.RunVar[Uploads | None] = anyio.lowlevel.RunVar("grok_video_uploads", None)


# --- sources -------------------------------------------------------------------------------------


class Picture(Protocol):
    """A measured picture; `encoded` may be called again and again, in any order."""

    mime: str
    #: Bytes of picture, before base64.
    size: int
    needs_thread: bool

    def encoded(self, offset: int, size: int) -> bytes:
        """Return the base64 of `size` bytes from `offset`, a multiple of 3; padded at the end only.

        Raises `InvalidRequest` if the source no longer has what was measured.
        """
        ...


async def _open(image: Image) -> Picture:
    uploads = Uploads.of_this_loop()
    if image.kind == "bytes":
        return MemoryPicture(image.source, image)
    if image.kind == "data":
        if len(image.source) <= SMALL:
            return DataPicture(image)
        return await uploads.in_thread(DataPicture, image)
    if image.kind == "path":
        return await uploads.in_thread(PathPicture, image)
    if image.kind == "pil":
        return await uploads.in_thread(_encode_pil, image)
    return await _open_file(image, uploads)


async def _open_file(image: Image, uploads: Uploads) -> Picture:
    if inspect.iscoroutinefunction(getattr(image.source, "read", None)):
        raise refuse(
            "image",
            image,
            "must be a file whose read() returns bytes; pass the plain file under it",
        )
    if await uploads.in_thread(_can_seek, image):
        return await uploads.in_thread(FilePicture, image)
    # Abandoned when cancelled, and not one of the few picture threads: a pipe may be silent for
    # hours, and its bytes are lost to others in any case.
    content = await anyio.to_thread.run_sync(_read_to_end, image, abandon_on_cancel=True)
    return MemoryPicture(content, image)


class MemoryPicture:
    """A picture whose bytes are in memory; they are sliced, never copied."""

    __slots__ = ("_view", "mime", "needs_thread", "size")

    def __init__(self, content: bytes | bytearray | memoryview, image: Image) -> None:
        view = memoryview(content)
        if view.nbytes:
            view = view.cast("B") if view.c_contiguous else memoryview(bytes(view))
        self._view = view
        self.size = view.nbytes
        self.mime = require_picture(bytes(view[:SNIFF_LENGTH]), image, self.size)
        self.needs_thread = self.size > SMALL

    def encoded(self, offset: int, size: int) -> bytes:
        return _encoder()(self._view[offset : offset + size])


class DataPicture:
    """A picture that came as base64: validated whole, then sent as it is."""

    __slots__ = ("_base64", "_start", "mime", "needs_thread", "size")

    def __init__(self, image: Image) -> None:
        self._base64: str | bytes = image.source
        self._start: int = image.source.index(",") + 1
        declared: str = image.source[5 : image.source.index(";")]
        # Wrapped lines (base64.encodebytes, MIME) and percent-encoding (RFC 2397 asks for it) are
        # spelling, not content. They cost one more copy, and only where they occur.
        if any(self._find(mark) >= 0 for mark in "%\n\r\t"):
            plain = unquote_to_bytes(image.source[self._start :])
            self._base64, self._start = plain.translate(None, b"\n\r\t"), 0
        shown = f"{declared} data URI of {len(image.source)} characters"
        characters = len(self._base64) - self._start
        if self._find(" ") >= 0:
            raise refuse(
                "image",
                shown,
                "must be a data URI without spaces in its base64 (was a '+' decoded as a space?)",
            )
        if characters % 4:
            raise refuse(
                "image",
                shown,
                f"must be a data URI whose base64 is whole (a multiple of 4 characters, padded "
                f"with '='; it has {characters})",
            )
        padding = next(
            (count for count in (2, 1) if self._slice(characters - count, count) == b"=" * count), 0
        )
        self.size = characters // 4 * 3 - padding
        try:
            head = self._validated(characters)
        except ValueError:
            raise refuse(
                "image", shown, "must be a data URI with valid base64 (A-Z a-z 0-9 + / and padding)"
            ) from None
        # The bytes decide, as everywhere: a JPEG that is declared a PNG is sent as a JPEG.
        self.mime = require_picture(head, shown, self.size)
        self.needs_thread = self.size > SMALL

    def encoded(self, offset: int, size: int) -> bytes:
        return self._slice(offset // 3 * 4, encoded_size(size))

    def _find(self, mark: str) -> int:
        if isinstance(self._base64, str):
            return self._base64.find(mark, self._start)
        return self._base64.find(mark.encode(), self._start)

    def _slice(self, offset: int, size: int) -> bytes:
        part = self._base64[self._start + offset : self._start + offset + size]
        return part.encode() if isinstance(part, str) else part

    def _validated(self, characters: int) -> bytes:
        """Return the first bytes of the picture, all of it decoded once and thrown away."""
        decode = _decoder()
        head = b""
        for offset in range(0, characters, _DECODED_AT_ONCE):
            part = self._slice(offset, _DECODED_AT_ONCE)
            if offset + len(part) < characters and part.endswith(b"="):
                message = "padding before the end"
                raise ValueError(message)
            decoded = decode(part)
            head = head or decoded[:SNIFF_LENGTH]
        return head


#: Characters of base64 that are decoded in one call: the standard library holds the GIL for it,
#: and 256 KiB take it about 1 ms.
_DECODED_AT_ONCE: Final = 256 * 2**10


class PathPicture:
    """A picture on a disk, opened for each piece anew and never between two."""

    __slots__ = ("_measured", "_path", "mime", "needs_thread", "size")

    def __init__(self, image: Image) -> None:
        self._path: os.PathLike[str] = image.source
        try:
            found = os.stat(self._path)  # noqa: PTH116 - any PathLike
            _require_regular(found.st_mode, image)
            with self._file() as file:
                # Again, of what was really opened.
                found = os.fstat(file.fileno())
                _require_regular(found.st_mode, image)
                head = file.read(SNIFF_LENGTH) or b""
        except FileNotFoundError:
            raise refuse("image", str(image.source), "must be a file that exists") from None
        except (OSError, ValueError) as error:
            raise refuse(
                "image", str(image.source), f"must be a file that can be read ({_reason(error)})"
            ) from None
        self._measured = (found.st_size, found.st_mtime_ns)
        self.size = found.st_size
        self.mime = require_picture(head, str(image.source), self.size)
        self.needs_thread = True

    def encoded(self, offset: int, size: int) -> bytes:
        try:
            with self._file() as file:
                file.seek(offset)
                piece = _read_exactly(file, size)
                # After the read, so that the last piece is not sent if anything changed before.
                found = os.fstat(file.fileno())
        except (OSError, ValueError) as error:
            raise _changed(os.fspath(self._path), _reason(error)) from None
        if len(piece) != size or (found.st_size, found.st_mtime_ns) != self._measured:
            raise _changed(
                os.fspath(self._path), f"{self.size} bytes at first, {found.st_size} bytes now"
            )
        return _encoder()(piece)

    def _file(self) -> io.FileIO:
        return io.FileIO(os.fspath(self._path), "rb", opener=_open_without_waiting)


class FilePicture:
    """A picture in an open file of the caller, which is left at the position it was found at."""

    __slots__ = ("_file", "_lock", "_start", "mime", "needs_thread", "size")

    def __init__(self, image: Image) -> None:
        self._file: Any = image.source
        self._lock = _lock_of(image.source)
        try:
            with self._lock:
                self._start: int = self._file.tell()
                try:
                    self.size = max(0, self._file.seek(0, os.SEEK_END) - self._start)
                    self._file.seek(self._start)
                    head = self._file.read(SNIFF_LENGTH)
                finally:
                    self._file.seek(self._start)
        except Exception as error:  # noqa: BLE001 - any object can stand behind a file's methods
            raise refuse("image", image, f"must be a readable file ({_reason(error)})") from None
        _require_bytes(head, image)
        self.mime = require_picture(bytes(head), image, self.size)
        self.needs_thread = True

    def encoded(self, offset: int, size: int) -> bytes:
        try:
            # Locked and put back each time: two creates may read the same file object, and the
            # second must find its start where the caller left it.
            with self._lock:
                try:
                    self._file.seek(self._start + offset)
                    piece = _read_exactly(self._file, size)
                    if offset + size == self.size and self._file.read(1):
                        raise _changed(type(self._file).__name__, "it grew")
                finally:
                    self._file.seek(self._start)
        except InvalidRequest:
            raise
        except Exception as error:  # noqa: BLE001 - any object can stand behind a file's methods
            raise _changed(type(self._file).__name__, _reason(error)) from None
        if len(piece) != size:
            raise _changed(type(self._file).__name__, f"it ends before its {self.size} bytes")
        return _encoder()(piece)


def _encode_pil(image: Image) -> Picture:
    """Return a Pillow image as PNG if it has transparency or 16 bits, else as JPEG."""
    with _lock_of(image.source):
        try:
            content = _save_pil(image.source)
        except Exception as error:  # noqa: BLE001 - Pillow's plugins raise what they like
            raise refuse(
                "image", image, f"must be a PIL image that can be saved ({_reason(error)})"
            ) from None
    return MemoryPicture(content, image)


def _save_pil(picture: Any) -> memoryview:  # noqa: ANN401 - Pillow is an extra
    from PIL import ImageOps

    # A photograph opened with Pillow still lies on its side where its Exif says so; saving would
    # drop that note and keep the side.
    picture = ImageOps.exif_transpose(picture)
    mode = picture.mode
    options: dict[str, Any] = {"format": "JPEG", "quality": 95}
    if mode.startswith("I"):
        options = {"format": "PNG"}  # 16 bits of grey: a JPEG has eight, and which would be a guess
    elif picture.has_transparency_data:
        picture = picture.convert("RGBA" if mode != "La" else "LA").convert("RGBA")
        if picture.getchannel("A").getextrema()[0] < 255:
            # Level 1: the default of 6 takes several times as long for a few percent.
            options = {"format": "PNG", "compress_level": 1}
        else:
            picture = picture.convert("RGB")
    elif mode not in ("L", "RGB"):
        picture = picture.convert("L" if mode == "1" else "RGB")
    if mode == picture.mode and "icc_profile" in picture.info:
        options["icc_profile"] = picture.info["icc_profile"]
    content = io.BytesIO()
    picture.save(content, **options)
    return content.getbuffer()


# --- helpers -------------------------------------------------------------------------------------


def encoded_size(size: int) -> int:
    """Return the length of the base64 of `size` bytes, padding included."""
    return (size + 2) // 3 * 4


@functools.cache
def _encoder() -> Callable[[Any], bytes]:
    """Return the fastest encoder there is, found at its first use and in a worker thread then."""
    try:
        import pybase64
    except ImportError:
        return functools.partial(binascii.b2a_base64, newline=False)
    return pybase64.b64encode


@functools.cache
def _decoder() -> Callable[[Any], bytes]:
    """Return the fastest decoder that refuses what is not base64."""
    try:
        import pybase64
    except ImportError:
        return functools.partial(binascii.a2b_base64, strict_mode=True)
    return functools.partial(pybase64.b64decode, validate=True)


def forget_codec() -> None:
    """Look again for pybase64 at the next picture: for tests and benchmarks of both codecs."""
    _encoder.cache_clear()
    _decoder.cache_clear()


def _json_text(image: Image) -> bytes:
    try:
        image.source.encode()
    except UnicodeEncodeError:
        raise refuse(
            "image", image, "must be a URL that UTF-8 can hold (no lone surrogates)"
        ) from None
    return json.dumps(image.source)[1:-1].encode()


def _warn_if_large(picture: Picture) -> None:
    if picture.size > LARGE_PICTURE:
        _log.warning(
            "the picture has %.1f MiB; over %d MiB the provider may refuse it",
            picture.size / 2**20,
            LARGE_PICTURE // 2**20,
        )


def _require_regular(mode: int, image: Image) -> None:
    if stat.S_ISDIR(mode):
        raise refuse("image", str(image.source), "must be a file, and this is a folder")
    if not stat.S_ISREG(mode):
        raise refuse("image", str(image.source), "must be a regular file, not a pipe or a device")


def _open_without_waiting(path: str, flags: int) -> int:
    # O_NONBLOCK: a pipe that took the file's place since it was looked at would wait for a writer.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))


def _read_exactly(file: Any, size: int) -> bytes | bytearray:  # noqa: ANN401 - whatever reads
    """Return `size` bytes, or fewer if the file ends before."""
    piece = file.read(size)
    if len(piece) == size:
        return piece
    whole = bytearray(piece)
    while len(whole) < size and (piece := file.read(size - len(whole))):
        whole += piece
    return whole


def _can_seek(image: Image) -> bool:
    try:
        return bool(image.source.seekable())
    except AttributeError:
        return False
    except ValueError as error:
        raise refuse("image", image, f"must be a readable file ({_reason(error)})") from None


def _read_to_end(image: Image) -> bytearray:
    content = bytearray()
    while True:
        try:
            piece = image.source.read(LARGEST_PIECE)
        except Exception as error:  # noqa: BLE001 - any object can stand behind a file's methods
            raise refuse("image", image, f"must be a readable file ({_reason(error)})") from None
        _require_bytes(piece, image)
        if not piece:
            return content
        content += piece
        if len(content) > LARGEST_UNSEEKABLE:
            raise refuse(
                "image",
                image,
                f"given as a file that cannot seek must not be over {LARGEST_UNSEEKABLE} bytes",
            )


def _require_bytes(piece: object, image: Image) -> None:
    if not isinstance(piece, bytes | bytearray | memoryview):
        raise refuse(
            "image",
            image,
            f"must be a file opened in binary mode: its read() gave {type(piece).__name__}",
        )


def _changed(name: str, what: str) -> InvalidRequest:
    limit = "must not change while it is being sent"
    return InvalidRequest(
        f"image {limit}; {name!r} did ({what}). The connection was cut before the end of the "
        f"request, so that no job was made and nothing was billed.",
        field="image",
        value=name,
        limit=limit,
    )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)[:200] or type(error).__name__


# By identity, as files and pictures of strangers need not be hashable; each entry lives as long as
# a body that uses it, and with it the object, so that the number cannot be given away meanwhile.
_locks: weakref.WeakValueDictionary[int, _Lock] = weakref.WeakValueDictionary()


class _Lock:
    """A lock that can be weakly held."""

    __slots__ = ("__weakref__", "_lock", "_of")

    def __init__(self, thing: object) -> None:
        self._lock = threading.Lock()
        self._of = thing

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _lock_of(thing: object) -> _Lock:
    return _locks.setdefault(id(thing), _Lock(thing))


if hasattr(os, "register_at_fork"):
    # A thread that held one of them does not exist in the child.
    os.register_at_fork(after_in_child=_locks.clear)
